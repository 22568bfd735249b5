# SPDX-License-Identifier: Apache-2.0
"""A trial: a forwarder (or a veth pair in its place), a load, and what the kernel counted meanwhile."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

from benchmark.common import ADDRESSES, BenchError, Lab, MTU, PORT, QUEUE_PACKETS, finish, run, wait_until


def device_state(netns, device):
    """The device as `ip` shows it, with its counters; None while it is not there."""
    done = subprocess.run(["ip", "-n", netns, "-j", "-s", "link", "show", "dev", device], capture_output=True,
                          text=True, start_new_session=True)
    try:
        return next(entry for entry in json.loads(done.stdout or "[]") if entry)
    except (StopIteration, ValueError):
        return None


def is_up(netns, device):
    state = device_state(netns, device)
    return state is not None and "UP" in state["flags"]


def is_listening(process, port):
    """Whether something listens on the TCP port in the namespace of the process."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{process.pid}/net/{table}").read_text()
            if re.search(rf":{port:04X} [0-9A-F]+:0000 0A ", text):
                return True
    return False


class Sample:
    """The counters of both devices and the processor time of the forwarder, at one moment of rest."""

    def __init__(self, lab, pid):
        self.forwarded = self.offered = self.octets = 0
        for netns, device in zip(lab.namespaces, ("tun_a", "tun_b")):
            state = device_state(netns, device)
            if state is None:
                raise BenchError(f"device {device} has gone during the load")
            counters = state["stats64"]
            self.forwarded += counters["rx"]["packets"]  # written by the forwarder, received by the namespace
            self.octets += counters["rx"]["bytes"]
            self.offered += counters["tx"]["packets"] + counters["tx"]["dropped"]
        self.tasks, self.cpu_seconds, self.waited_seconds = cpu_time(pid) if pid else (set(), 0, 0)

    def since(self, before):
        if not before.tasks <= self.tasks:
            raise BenchError("a thread of the forwarder ended during the load: its processor time is lost")
        forwarded = self.forwarded - before.forwarded
        offered = max(self.offered - before.offered, 1)
        return {"packets": forwarded, "octets": self.octets - before.octets,
                "cpu_seconds": self.cpu_seconds - before.cpu_seconds,
                "waited_seconds": self.waited_seconds - before.waited_seconds,
                "loss": max(0.0, 1 - forwarded / offered)}


def cpu_time(pid):
    """The process's threads, the seconds they ran, and the seconds they were ready to run but had no CPU."""
    tasks, ran, waited = set(), 0, 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        numbers = (task / "schedstat").read_text().split()
        ran += int(numbers[0])
        waited += int(numbers[1])
        tasks.add(task.name)
    return tasks, ran / 1e9, waited / 1e9


def tcp_load(lab, _programs, seconds):
    a, b = lab.namespaces
    server = lab.start("ip", "netns", "exec", b, "iperf3", "-s", "-1", "-p", PORT)
    wait_until(lambda: is_listening(server, PORT), 5, server, "iperf3 server")
    client = lab.start("ip", "netns", "exec", a, "iperf3", "-c", ADDRESSES[1], "-p", PORT, "-t", seconds, "-J")
    report = json.loads(finish(client, seconds + 15, "iperf3 client"))
    finish(server, 10, "iperf3 server")
    return {"seconds": report["end"]["sum_sent"]["seconds"],
            "gbps": report["end"]["sum_received"]["bits_per_second"] / 1e9,
            "retransmits": report["end"]["sum_sent"]["retransmits"]}


def udp_load(lab, programs, seconds, payload=64, rate=0, segments=1):
    a, b = lab.namespaces
    load = lab.start(programs["udp_load"], "--from", a, "--to", b, "--address", ADDRESSES[1], "--port", PORT,
                     "--bytes", payload, "--milliseconds", int(seconds * 1000), "--rate", rate,
                     "--segments", segments)
    report = json.loads(finish(load, seconds + 10, "udp_load"))
    return {"seconds": report["seconds"], "delivered": report["received"],
            "gbps": report["received"] * payload * 8e-9 / report["seconds"],
            "undelivered": max(0.0, 1 - report["received"] / max(report["sent"], 1))}


def steady_load(lab, programs, seconds):
    return udp_load(lab, programs, seconds, payload=1250 - 28, rate=100_000)


def segments_load(lab, programs, seconds):
    return udp_load(lab, programs, seconds, payload=MTU - 28, segments=44)


LOADS = {"steady": steady_load, "tcp": tcp_load, "udp": udp_load}
OFFLOAD_LOADS = {"tcp": tcp_load, "udp": segments_load}


def loads(options):
    return OFFLOAD_LOADS if options.offload else LOADS


def join_by_veth(lab):
    """The kernel alone, for the load to have all CPUs: what a forwarder needs of them, a pair does not."""
    ends = list(zip(lab.namespaces, ("tun_a", "tun_b"), ADDRESSES))
    run("ip", "-n", ends[0][0], "link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1],
        "netns", ends[1][0])
    for netns, device, address in ends:
        run("ip", "-n", netns, "address", "add", address + "/24", "dev", device)
        run("ip", "-n", netns, "link", "set", "dev", device, "mtu", MTU, "up")
    lab.load_cpus = lab.all_cpus


def start_forwarder(lab, name, program, offload, machine=()):
    """None for what needs no program. `machine` is the command that runs it, if it does not run by itself."""
    if program is None:
        return join_by_veth(lab)
    a, b = lab.namespaces
    # cotun's own takes offload unless told otherwise, the baselines if they are told.
    switches = {("cotun", False): ["--no-offload"], ("cotun", True): []}
    switch = switches.get((name, offload), ["--offload"] if offload else [])
    forwarder = lab.start(*machine, program, "--a", f"tun_a@{a}", "--address-a", ADDRESSES[0] + "/24",
                          "--b", f"tun_b@{b}", "--address-b", ADDRESSES[1] + "/24", "--mtu", MTU, *switch,
                          cpus=lab.tested_cpus)
    for netns, device in ((a, "tun_a"), (b, "tun_b")):
        seconds = 30 if machine else 5
        wait_until(lambda: is_up(netns, device), seconds, forwarder, f"forwarder '{name}', device {device}")
        run("ip", "-n", netns, "link", "set", "dev", device, "txqueuelen", QUEUE_PACKETS)
    return forwarder


def stop_forwarder(forwarder, name):
    if forwarder is None:
        return
    if forwarder.poll() is None:
        forwarder.send_signal(signal.SIGTERM)
    finish(forwarder, 5, f"forwarder '{name}', asked to stop by SIGTERM,")


def trial(signals, name, programs, workload, options):
    with Lab(signals, not options.unpinned) as lab:
        forwarder = start_forwarder(lab, name, programs[name], options.offload)
        pid = forwarder.pid if forwarder else None
        time.sleep(0.2)  # the devices' own first packets (router solicitations and the like) are over
        before = Sample(lab, pid)
        result = loads(options)[workload](lab, programs, options.seconds)
        result.update(Sample(lab, pid).since(before))
        stop_forwarder(forwarder, name)
    if result["packets"] < 100 or (forwarder and result["cpu_seconds"] <= 0):
        raise BenchError(f"forwarder '{name}' moved only {result['packets']} packets under {workload}")
    result["packets_per_second"] = result["packets"] / result["seconds"]
    result["octets_per_packet"] = result["octets"] / result["packets"]
    if not forwarder:
        return result
    result["gigabits_per_cpu_second"] = 8e-9 * result["octets"] / result["cpu_seconds"]
    result["cpu_seconds_per_gigabit"] = 1 / result["gigabits_per_cpu_second"]
    result["packets_per_cpu_second"] = result["packets"] / result["cpu_seconds"]
    result["cpu_seconds_per_million"] = result["cpu_seconds"] / result["packets"] * 1e6
    return result


class CallCounter:
    """Counts a process's system calls from outside: perf, or else strace, which slows the process down by much."""

    def __init__(self):
        self.tool = None
        perf = self.perf("true")
        if shutil.which("perf") and subprocess.run(perf, capture_output=True, start_new_session=True).returncode == 0:
            self.tool = "perf"
        elif shutil.which("strace"):
            self.tool = "strace"

    @staticmethod
    def perf(*target):
        """perf mounts tracefs where it is missing; in a mount namespace of its own that ends with it."""
        return ["unshare", "--mount", "perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", *target]

    def describe(self):
        return {"perf": "perf stat -e raw_syscalls:sys_enter, in a pass of its own",
                "strace": "strace -c -f, in a pass of its own; it slows the forwarder down, which makes batches larger",
                None: "not counted: neither perf nor strace works here"}[self.tool]

    def attach(self, lab, pid):
        command = (self.perf("-p", str(pid)) if self.tool == "perf" else ["strace", "-c", "-f", "-p", str(pid)])
        counter = lab.start(*command)
        time.sleep(0.5)  # neither says when it is attached; until the load begins the forwarder makes no calls
        if counter.poll() is not None:
            raise BenchError(f"{self.tool} did not attach: {counter.communicate()[1].strip()}")
        return counter

    def read(self, counter):
        counter.send_signal(signal.SIGINT)
        try:
            text = counter.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.tool} did not stop") from None
        pattern = r"^(\d+),.*raw_syscalls:sys_enter" if self.tool == "perf" else \
            r"^100\.00 +[\d.]+ +\d+ +(\d+)(?: +\d+)? +total$"
        found = re.search(pattern, text, re.MULTILINE)
        if not found:
            raise BenchError(f"{self.tool} printed no count: {text.strip()}")
        return int(found.group(1))


def calls_per_packet(signals, counter, name, programs, workload, options):
    with Lab(signals, not options.unpinned) as lab:
        forwarder = start_forwarder(lab, name, programs[name], options.offload)
        attached = counter.attach(lab, forwarder.pid)
        before = Sample(lab, forwarder.pid)
        loads(options)[workload](lab, programs, 1)
        packets = Sample(lab, forwarder.pid).since(before)["packets"]
        calls = counter.read(attached)
        stop_forwarder(forwarder, name)
    return calls / max(packets, 1)
