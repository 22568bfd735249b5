# SPDX-License-Identifier: Apache-2.0
"""What the parts of tools/bench share: names, numbers, and running programs in namespaces of its own."""

import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "bench"
FORWARDERS = {"cotun": "forwarder", "epoll": "baseline_epoll", "liburing": "baseline_liburing",
              "asio": "baseline_asio"}
TARGETS = {"epoll": 1.15, "asio": 1.5, "liburing": 0.95}  # cotun's packets per CPU second over the baseline's
WORKLOADS = {"steady": "1 Gb/s of UDP, 100,000 packets a second of 1250 bytes: fewer than can be forwarded",
             "tcp": "one TCP flow (iperf3), as fast as it goes",
             "udp": "UDP flood of 64-byte payloads, faster than can be forwarded"}
# With offload: what moves superpackets, and cotun's Gb/s over each. `veth` is no program: a pair of the kernel's own.
OFFLOAD_FORWARDERS = {**FORWARDERS, "split_merge": "baseline_split_merge", "veth": None}
OFFLOAD_TARGETS = {"liburing": 0.97, "epoll": 1.1, "asio": 1.3, "split_merge": 1.6, "veth": 0.9}
OFFLOAD_WORKLOADS = {"tcp": "one TCP flow (iperf3), as fast as it goes",
                     "udp": "UDP flood of 1472-byte payloads, 44 of them a send (UDP_SEGMENT)"}
ADDRESSES = ("10.79.1.1", "10.79.1.2")
PORT = 5201
MTU = 1500
QUEUE_PACKETS = 500  # the kernel's default queue of a TUN device, set for every forwarder alike


class BenchError(Exception):
    """What went wrong, in words for the user."""


class Stopped(BaseException):
    """A signal asked for the end; everything is taken down on the way out."""


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into Stopped, but never between making a thing and noting that it is there,
    nor while things are being taken down."""

    def __init__(self):
        self.pending = None
        self.depth = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.arrived)

    def arrived(self, number, _frame):
        self.pending = number
        if self.depth == 0:
            raise Stopped(number)

    @contextlib.contextmanager
    def held(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
        if self.depth == 0 and self.pending is not None:
            raise Stopped(self.pending)


class Processes:
    """The processes of one trial; leaving it ends them all, whatever happened."""

    def __init__(self, signals, pinned):
        cpus = sorted(os.sched_getaffinity(0))
        pinned = pinned and len(cpus) > 1
        self.all_cpus = cpus
        self.tested_cpus = cpus[-1:] if pinned else cpus
        self.load_cpus = cpus[:-1] if pinned else cpus
        self.signals = signals
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self.signals.held():
            for process in reversed(self.processes):
                if process.poll() is None:
                    process.kill()
                process.wait()

    def start(self, *command, cpus=None):
        """Starts a process that dies with this one, in a session of its own: Ctrl-C reaches only us, and we end it."""
        with self.signals.held():
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       start_new_session=True,
                                       preexec_fn=lambda: prepare_child(cpus or self.load_cpus))
            self.processes.append(process)
        return process


class Lab(Processes):
    """Processes, and two namespaces, which go with them."""

    def __init__(self, signals, pinned):
        super().__init__(signals, pinned)
        self.namespaces = [f"cotun-bench-{os.getpid()}-{end}" for end in "ab"]

    def __enter__(self):
        try:
            for name in self.namespaces:
                run("ip", "netns", "add", name)
                run("ip", "-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with self.signals.held():
            super().__exit__()
            for name in self.namespaces:
                subprocess.run(["ip", "netns", "del", name], capture_output=True, start_new_session=True)


def prepare_child(cpus):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives this program
    os.sched_setaffinity(0, cpus)


def run(*command, cwd=None):
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, start_new_session=True)
    if done.returncode != 0:
        raise BenchError(f"'{' '.join(map(str, command))}' failed:\n{(done.stdout + done.stderr).strip()}")
    return done.stdout


def finish(process, seconds, what):
    """Waits for a process that should end by itself, and returns its output."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not end within {seconds:.0f} s") from None
    if process.returncode != 0:
        raise BenchError(f"{what} failed (exit {process.returncode}): {(err or out).strip()[-400:]}")
    return out


def wait_until(ready, seconds, process, what):
    """Asks every 20 ms, as long as the process lives."""
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            out, err = process.communicate()
            raise BenchError(f"{what}: ended early (exit {process.returncode}): {(err + out).strip()}")
        if time.monotonic() > end:
            raise BenchError(f"{what}: not ready within {seconds:.0f} s")
        time.sleep(0.02)


def report_progress(text):
    """One line that is written over; nothing where nobody watches. An empty text ends it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
