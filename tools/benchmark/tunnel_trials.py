# SPDX-License-Identifier: Apache-2.0
"""tools/bench tunnel: examples/udp_tunnel beside other tunnels that do not encrypt either, and the kernel's VXLAN.

Each trial gets two network namespaces, joined by a veth pair with an MTU of 1500, and an end of the tunnel in each; the
inner MTU is 1420 for all, so that nothing is fragmented. Where the ends and the load run is left to the scheduler. The
other tunnels come from the distribution; what is not installed is named and left out. One after another, in each trial:

rtt: 500 pings through the idle tunnel, one every 2 ms.
tcp: one flow (iperf3) in each direction; its first second is not counted. Pings meanwhile, one every 10 ms.
udp: a flood of datagrams with 64 bytes of payload; what counts is how many arrive.

The processor time is that of both ends' processes (/proc/PID/task/*/schedstat) while the TCP flows ran, over what
they carried: with the kernel's work that is done in their context. VXLAN has no process.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile

from benchmark.common import ADDRESSES, BenchError, Lab, PORT, finish, report_progress, run, wait_until
from benchmark.device_trials import percentile, print_rows
from benchmark.report import print_ratio, spread
from benchmark.trials import cpu_time, device_state, is_listening, udp_load

TUNNELS = {"cotun": "udp_tunnel", "cotun_plain": "udp_tunnel --no-offload",
           "socat": "socat, TUN over UDP", "openvpn": "OpenVPN, without cipher and authentication",
           "fastd": "fastd, method null", "vxlan": "the kernel's VXLAN"}
PROGRAMS = {"cotun": "udp_tunnel", "cotun_plain": "udp_tunnel"}
INSTALLED = ("socat", "openvpn", "fastd")  # programs, and Debian packages, of these names
ROWS = ("rtt", "tcp", "udp")
OUTER = ("10.78.1.1", "10.78.1.2")
UNDER, INNER = "under", "inner"  # the devices in each namespace
TUNNEL_PORT = 5000
INNER_MTU = 1420
SOCKET_BUFFER = 4 << 20  # as udp_tunnel has it; for those that can be told

TARGET_TCP = 10.0        # over the best of the user-space tunnels, each way
TARGET_TCP_VXLAN = 0.6
TARGET_RTT = 1 / 1.1     # socat's median over cotun's
TARGET_UDP = 2.0         # datagrams a second, over socat's

# Key of a trial, title, factor to its unit, digits; by row.
COLUMNS = {
    "rtt": [("p50", "RTT p50 us", 1, 0), ("p99", "p99 us", 1, 0)],
    "tcp": [("out", "Gb/s a to b", 1, 2), ("back", "b to a", 1, 2), ("retransmits", "retransmits", 1, 0),
            ("cpu_per_gigabit", "CPU ms/Gb", 1e3, 0), ("loaded_p50", "RTT p50 us", 1, 0),
            ("loaded_p99", "p99 us", 1, 0)],
    "udp": [("datagrams", "64-byte datagrams, k/s", 1e-3, 0), ("undelivered", "loss %", 100, 1)]}


def available(tunnels):
    """Those that can be measured here; the others are named."""
    found = []
    for name in tunnels:
        if name in INSTALLED and not shutil.which(name):
            print(f"{name}: not installed (Debian: package {name}); left out")
        elif name == "vxlan" and not kernel_has_vxlan():
            print("vxlan: this kernel has no such devices; left out")
        else:
            found.append(name)
    missing = [program for program in ("iperf3", "ping") if not shutil.which(program)]
    if missing:
        raise BenchError(f"not installed: {', '.join(missing)} (Debian: packages iperf3 and iputils-ping)")
    return found


def kernel_has_vxlan():
    """Tried in a namespace that ends with the command."""
    command = ["unshare", "--net", "ip", "link", "add", "type", "vxlan", "id", "1", "dstport", "4789", "dev", "lo"]
    return subprocess.run(command, capture_output=True, start_new_session=True).returncode == 0


def join(lab):
    a, b = lab.namespaces
    run("ip", "-n", a, "link", "add", UNDER, "type", "veth", "peer", "name", UNDER, "netns", b)
    for netns, address in zip(lab.namespaces, OUTER):
        run("ip", "-n", netns, "address", "add", address + "/24", "dev", UNDER)
        run("ip", "-n", netns, "link", "set", "dev", UNDER, "mtu", 1500, "up")


class Ends:
    """Both ends of a tunnel by one of the programs; `processes` are theirs."""

    def __init__(self, lab, name, programs, directory):
        self.lab, self.name, self.programs, self.directory = lab, name, programs, directory
        self.processes = []
        {"cotun": self.cotun, "cotun_plain": self.cotun, "socat": self.socat, "openvpn": self.openvpn,
         "fastd": self.fastd, "vxlan": self.vxlan}[name]()
        for netns in lab.namespaces:
            self.wait(lambda: device_state(netns, INNER) is not None, "its device")
        self.set_up()
        self.wait(self.answers, "an answer to a ping")

    def each(self):
        """Index, namespace, and both ends' outer and inner addresses, one's own first."""
        for i, netns in enumerate(self.lab.namespaces):
            yield i, netns, (OUTER[i], OUTER[1 - i]), (ADDRESSES[i], ADDRESSES[1 - i])

    def start(self, netns, *command):
        self.processes.append(self.lab.start("ip", "netns", "exec", netns, *command, cpus=self.lab.all_cpus))

    def cotun(self):
        switch = ["--no-offload"] if self.name == "cotun_plain" else []
        for _, netns, outer, inner in self.each():
            self.start(netns, self.programs[self.name], "--dev", INNER, "--address", inner[0] + "/24",
                       "--mtu", INNER_MTU, "--local", f"{outer[0]}:{TUNNEL_PORT}",
                       "--peer", f"{outer[1]}:{TUNNEL_PORT}", *switch)

    def socat(self):
        for _, netns, outer, inner in self.each():
            self.start(netns, "socat", f"TUN:{inner[0]}/24,tun-name={INNER},iff-no-pi,iff-up",
                       f"UDP-DATAGRAM:{outer[1]}:{TUNNEL_PORT},bind={outer[0]}:{TUNNEL_PORT},"
                       f"so-sndbuf={SOCKET_BUFFER},so-rcvbuf={SOCKET_BUFFER}")

    def openvpn(self):
        """Peer to peer, without TLS: the data channel is all there is."""
        for _, netns, outer, inner in self.each():
            self.start(netns, "openvpn", "--dev", INNER, "--dev-type", "tun", "--proto", "udp", "--local", outer[0],
                       "--lport", TUNNEL_PORT, "--remote", outer[1], TUNNEL_PORT, "--ifconfig", *inner,
                       "--tun-mtu", INNER_MTU, "--cipher", "none", "--auth", "none", "--disable-dco", "--fast-io",
                       "--sndbuf", SOCKET_BUFFER, "--rcvbuf", SOCKET_BUFFER, "--verb", 1)

    def fastd(self):
        files = [pathlib.Path(self.directory, f"fastd-{i}.conf") for i in range(2)]
        for file, outer in zip(files, OUTER):
            secret = run("fastd", "--generate-key", "--machine-readable").strip()
            file.write_text(f'log level error;\nmode tun;\nmethod "null";\ninterface "{INNER}";\nmtu {INNER_MTU};\n'
                            f'bind {outer}:{TUNNEL_PORT};\nsecret "{secret}";\n')
        keys = [run("fastd", "--config", file, "--show-key", "--machine-readable").strip() for file in files]
        for i, netns, outer, _ in self.each():
            with files[i].open("a") as file:
                file.write(f'peer "other" {{ key "{keys[1 - i]}"; remote {outer[1]}:{TUNNEL_PORT}; }}\n')
            self.start(netns, "fastd", "--config", files[i])

    def vxlan(self):
        for _, netns, outer, _ in self.each():
            run("ip", "-n", netns, "link", "add", INNER, "type", "vxlan", "id", 79, "local", outer[0],
                "remote", outer[1], "dstport", 4789, "dev", UNDER)

    def set_up(self):
        """What the programs did not do themselves."""
        for netns, address in zip(self.lab.namespaces, ADDRESSES):
            run("ip", "-n", netns, "link", "set", "dev", INNER, "mtu", INNER_MTU, "up")
            if self.name in ("fastd", "vxlan"):
                run("ip", "-n", netns, "address", "add", address + "/24", "dev", INNER)

    def answers(self):
        command = ["ip", "netns", "exec", self.lab.namespaces[0], "ping", "-c", "1", "-W", "0.2", "-q", ADDRESSES[1]]
        return subprocess.run(command, capture_output=True, start_new_session=True).returncode == 0

    def wait(self, ready, what):
        for process in self.processes or [None]:
            wait_until(ready, 15, process or Unending, f"tunnel '{self.name}', {what}")

    def cpu_seconds(self):
        return sum(cpu_time(process.pid)[1] for process in self.processes)


class Unending:
    """In the place of a process, for a tunnel that has none."""

    @staticmethod
    def poll():
        return None


def start_ping(lab, count, interval):
    return lab.start("ip", "netns", "exec", lab.namespaces[0], "ping", "-c", count, "-i", interval, "-W", 1,
                     ADDRESSES[1], cpus=lab.all_cpus)


def round_trips(ping, seconds):
    """Microseconds. A few pings may be lost under load, and ping says so by its exit code."""
    try:
        out, err = ping.communicate(timeout=seconds + 15)
    except subprocess.TimeoutExpired:
        raise BenchError(f"ping did not end within {seconds + 15:.0f} s") from None
    times = [float(found) * 1000 for found in re.findall(r"time=([\d.]+) ms", out)]
    if len(times) < 20:
        raise BenchError(f"only {len(times)} pings were answered: {(err or out).strip()[-300:]}")
    return times


def rtt(lab, _ends, _programs, _seconds):
    times = round_trips(start_ping(lab, 500, 0.002), 3)
    return {"p50": statistics.median(times), "p99": percentile(times, 0.99)}


def one_flow(lab, sender, seconds):
    """Gb/s, retransmits, and Gb in all, from one end to the other; not counting the first second."""
    source, sink = lab.namespaces[sender], lab.namespaces[1 - sender]
    server = lab.start("ip", "netns", "exec", sink, "iperf3", "-s", "-1", "-p", PORT, cpus=lab.all_cpus)
    wait_until(lambda: is_listening(server, PORT), 5, server, "iperf3 server")
    client = lab.start("ip", "netns", "exec", source, "iperf3", "-c", ADDRESSES[1 - sender], "-p", PORT, "-t", seconds,
                       "-O", 1, "-J", cpus=lab.all_cpus)
    report = json.loads(finish(client, seconds + 20, "iperf3 client"))
    finish(server, 10, "iperf3 server")
    counted = [one["sum"] for one in report["intervals"] if not one["sum"]["omitted"]]
    return (report["end"]["sum_received"]["bits_per_second"] / 1e9, sum(one["retransmits"] for one in counted),
            sum(one["sum"]["bytes"] for one in report["intervals"]) * 8e-9)


def tcp(lab, ends, _programs, seconds):
    ping = start_ping(lab, int(100 * 2 * (seconds + 1)), 0.01)
    before = ends.cpu_seconds()
    out, back = one_flow(lab, 0, seconds), one_flow(lab, 1, seconds)
    result = {"out": out[0], "back": back[0], "retransmits": out[1] + back[1]}
    if ends.processes:
        result["cpu_per_gigabit"] = (ends.cpu_seconds() - before) / (out[2] + back[2])
    times = round_trips(ping, 2 * seconds + 2)
    return {**result, "loaded_p50": statistics.median(times), "loaded_p99": percentile(times, 0.99)}


def udp(lab, _ends, programs, seconds):
    result = udp_load(lab, programs, seconds)
    return {"datagrams": result["delivered"] / result["seconds"], "undelivered": result["undelivered"]}


def trial(signals, name, programs, options):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="cotun-bench-"))
        lab = stack.enter_context(Lab(signals, pinned=False))
        join(lab)
        ends = Ends(lab, name, programs, directory)
        return {row: {"rtt": rtt, "tcp": tcp, "udp": udp}[row](lab, ends, programs, options.seconds)
                for row in options.row}


def measure(signals, tunnels, programs, options):
    results = {name: {row: [] for row in options.row} for name in tunnels}
    for number in range(options.rounds):
        turn = number % len(tunnels)
        for name in tunnels[turn:] + tunnels[:turn]:
            report_progress(f"round {number + 1} of {options.rounds}: {name}")
            for row, figures in trial(signals, name, programs, options).items():
                results[name][row].append(figures)
    report_progress("")
    return results


def compared(results, row, key, title, name, target, more=True):
    """cotun's figure against another's, round by round, and the ratio of the medians; above 1 is to cotun's credit."""
    if "cotun" not in results or name not in results:
        return []
    own = [one[key] for one in results["cotun"][row]]
    other = [one[key] for one in results[name][row]]
    over = [(mine / max(theirs, 1e-9)) if more else theirs / mine for mine, theirs in zip(own, other)]
    medians = statistics.median(own), statistics.median(other)
    ratio = medians[0] / max(medians[1], 1e-9) if more else medians[1] / medians[0]
    return [{"against": name, "figure": title, "ratio": ratio, "by_round": sorted(over), "target": target,
             "met": None if target is None else ratio >= target}]


def ratios(results, row):
    found = []
    others = [name for name in results if name != "cotun"]
    if row == "rtt":
        for name in others:
            found += compared(results, row, "p50", "RTT p50", name, TARGET_RTT if name == "socat" else None, more=False)
    if row == "udp":
        for name in others:
            found += compared(results, row, "datagrams", "datagrams/s", name, TARGET_UDP if name == "socat" else None)
    for key, title in (("out", "Gb/s a to b"), ("back", "Gb/s b to a")) if row == "tcp" else ():
        user_space = {name: statistics.median(one[key] for one in results[name][row])
                      for name in others if name in INSTALLED}
        best = max(user_space, key=user_space.get, default=None)
        for name in others:
            target = TARGET_TCP if name == best else TARGET_TCP_VXLAN if name == "vxlan" else None
            found += compared(results, row, key, title, name, target)
    return found


def print_ratios(found):
    if found:
        print("  cotun over each (of RTT the inverse): ratio of medians, and the ratios round by round:")
    for one in found:
        print_ratio(f"{one['against']:<11} {one['figure']:<12}", one)


def retransmits(results):
    """The median of the rounds is to be 0: a retransmit may also come of the machine's other load."""
    if "cotun" not in results:
        return []
    each = sorted(one["retransmits"] for one in results["cotun"]["tcp"])
    met = statistics.median(each) == 0
    print(f"    retransmits of cotun, by round: {', '.join(map(str, each))}   target: none in the median round  "
          f"{'met' if met else 'MISSED'}")
    return [{"against": None, "figure": "retransmits", "by_round": each, "target": 0, "met": met}]


TITLES = {"rtt": "RTT through the idle tunnel", "tcp": "TCP, one flow each way, one after the other; RTT meanwhile",
          "udp": "UDP flood of 64-byte payloads from a to b; what arrives"}


def compare(signals, options, tunnels, programs):
    results = measure(signals, tunnels, programs, options)
    print(f"tunnels over a veth pair, MTU 1500, inner MTU {INNER_MTU}, Linux {os.uname().release}, "
          f"{os.cpu_count()} CPUs; {options.rounds} rounds of {options.seconds} s, medians [lowest .. highest]")
    for name in tunnels:
        print(f"  {name}: {TUNNELS[name]}")
    report = {"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": options.rounds,
              "seconds": options.seconds, "rows": {}}
    met = []
    for row in options.row:
        print(f"\n{row}: {TITLES[row]}")
        rows = [["", *(column[1] for column in COLUMNS[row])]]
        for name in tunnels:
            rows.append([name, *(spread(results[name][row], key, scale, digits)
                                 for key, _, scale, digits in COLUMNS[row])])
        print_rows(rows)
        found = ratios(results, row)
        print_ratios(found)
        found += retransmits(results) if row == "tcp" else []
        met += [one["met"] for one in found if one["met"] is not None]
        report["rows"][row] = {"trials": {name: results[name][row] for name in tunnels}, "ratios": found}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if not options.check or (met and all(met)) else 1
