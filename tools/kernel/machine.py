# SPDX-License-Identifier: Apache-2.0
"""The machine: QEMU, with KVM where that works."""

import fcntl
import os
import select
import subprocess
import time

from .common import WORK, note

# Exists once this machine's KVM has failed to boot the kernel, as where it is offered but not passed on to guests.
NO_KVM = WORK / "no-kvm"
BOOT_SECONDS = {"tcg": 120, "kvm": 20}


def kvm_is_there():
    if NO_KVM.exists():
        return False
    try:
        with open("/dev/kvm", "r+b", buffering=0) as device:
            os.close(fcntl.ioctl(device, 0xAE01, 0))  # KVM_CREATE_VM
        return True
    except OSError:
        return False


class Machine:
    """One boot. Prints the programs' output as it comes and keeps what the marked lines say."""

    def __init__(self, programs, limit):
        self.programs, self.limit = programs, limit
        self.console, self.reports = WORK / "console.log", WORK / "reports.log"
        self.is_up = False
        self.done = False
        self.trouble = ""
        self.deadline = self.seconds = 0.0

    def run(self, kernel, initrd, accelerator):
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-machine", "pc", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", "1G", "-nic", "none",
                   "-serial", f"file:{self.console}", "-serial", "stdio", "-serial", f"file:{self.reports}",
                   "-kernel", str(kernel.image), "-initrd", str(initrd),
                   "-append", "console=ttyS0 panic=-1 oops=panic mitigations=off"]
        for log in (self.console, self.reports):
            log.write_bytes(b"")
        begin = time.monotonic()
        self.deadline = begin + BOOT_SECONDS[accelerator]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as qemu:
            try:
                self.follow(qemu.stdout.fileno())
                if self.trouble:
                    qemu.kill()
                complaint = qemu.communicate(timeout=20)[1].decode(errors="replace").strip()
            except subprocess.TimeoutExpired:
                qemu.kill()
                complaint = "the machine did not switch itself off"
            except BaseException:
                qemu.kill()
                raise
        if complaint and not self.done:
            self.trouble = f"{self.trouble} {complaint}".strip()
        self.seconds = time.monotonic() - begin
        self.take_reports()

    def follow(self, descriptor):
        """Reads until the machine closes its end or its time is over."""
        rest = b""
        while True:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, self.deadline - time.monotonic()))
            if not ready:
                self.trouble = "the machine hung and was killed"
                return
            data = os.read(descriptor, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                text, mark, event = line.decode(errors="replace").rstrip("\r").partition("\x1e")
                if text or not mark:
                    print(text, flush=True)
                if mark:
                    self.happened(*event.split(" ", 2))

    def happened(self, event, subject="", detail=""):
        # The machine ends what is late; that, and the clearing away, take it a while under emulation.
        self.deadline = time.monotonic() + self.limit + 60
        if event == "kernel":
            self.is_up = True
            note(f"Linux {subject} is up")
        elif event == "done":
            self.done = True
            self.deadline = time.monotonic() + 30
        elif event in ("begin", "late", "left", "end"):
            program = self.programs[int(subject)]
            if event == "begin":
                program.begun = True
                print(f"--- {program.name}", flush=True)
            elif event == "late":
                program.late = True
            elif event == "left":
                program.left = detail
            else:
                program.status = int(detail)

    def take_reports(self):
        text = self.reports.read_text(errors="replace").replace("\r\n", "\n")
        for part in text.split("\x1ereport ")[1:]:
            number, _, body = part.partition("\n")
            self.programs[int(number)].report = body


def boot(kernel, initrd, programs, accelerator, limit):
    """Runs the machine, with KVM if that boots it; returns the machine, which is off. `accelerator`: auto, kvm or tcg;
    `limit`: the seconds that a program may take."""
    choice = accelerator
    for accelerator in ["kvm", "tcg"] if choice == "auto" else [choice]:
        trial = choice == "auto" and accelerator == "kvm"
        if trial and not kvm_is_there():
            continue
        note(f"booting {kernel.release} ({'KVM' if accelerator == 'kvm' else 'software emulation'})")
        machine = Machine(programs, limit)
        machine.run(kernel, initrd, accelerator)
        if machine.is_up or not trial:
            return machine
        NO_KVM.touch()
        note(f"KVM is offered here but does not boot the kernel; not tried again while {NO_KVM} exists")
    raise AssertionError("software emulation is never left out")


def kernel_log(machine):
    """The last lines of the kernel's log, from where our own script begins if it got so far."""
    lines = machine.console.read_text(errors="replace").splitlines()
    begin = next((at for at, line in enumerate(lines) if "Run /init as init process" in line), 0)
    return lines[begin:][-60:]
