# SPDX-License-Identifier: Apache-2.0
"""tools/bench instructions: what a forwarder executes in user space for a packet, counted by callgrind.

The forwarders are those of tools/bench forward, between the same devices and under the same kernel, but in valgrind's
machine, which is some fifty times slower: what is counted is exact, but batches are larger than they would be at the
same rate. So there is a row with few packets in a batch, beside the flood. Counted is what runs from before the load
until after it (callgrind_control --dump), over the packets that the devices received; the kernel's instructions are
not in it.
"""

import json
import os
import pathlib
import re
import shutil
import statistics
import tempfile
import time

from benchmark.common import BenchError, FORWARDERS, Lab, report_progress, run
from benchmark.device_trials import print_rows
from benchmark.report import print_ratio, spread
from benchmark.trials import Sample, start_forwarder, tcp_load, udp_load

PROGRAMS = FORWARDERS
ROWS = {"steady": "20,000 UDP packets a second",
        "udp": "UDP flood of 64-byte payloads",
        "tcp": "one TCP flow (iperf3) with offload; for each superpacket or acknowledgement"}
TARGET = 2.0  # cotun's instructions a packet over the liburing loop's, at most


def load(lab, programs, row, seconds):
    if row == "tcp":
        return tcp_load(lab, programs, int(seconds + 0.5) or 1)
    return udp_load(lab, programs, seconds, rate=20_000 if row == "steady" else 0)


def executed(directory, pid, number):
    """Instructions since the last dump. Valgrind stops the program where it is, also in a system call."""
    run("callgrind_control", f"--vgdb-prefix={directory}/vgdb", "--dump", pid)
    text = pathlib.Path(directory, f"out.{number}").read_text()
    found = re.search(r"^summary: (\d+)", text, re.MULTILINE)
    if not found:
        raise BenchError("callgrind wrote no summary")
    return int(found.group(1))


def trial(signals, name, programs, row, options):
    with tempfile.TemporaryDirectory(prefix="cotun-bench-") as directory, Lab(signals, not options.unpinned) as lab:
        machine = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out",
                   f"--vgdb-prefix={directory}/vgdb"]
        forwarder = start_forwarder(lab, name, programs[name], row == "tcp", machine)
        time.sleep(1)  # it has come to rest
        executed(directory, forwarder.pid, 1)
        before = Sample(lab, forwarder.pid)
        load(lab, programs, row, options.seconds)
        time.sleep(0.3)
        packets = Sample(lab, forwarder.pid).since(before)["packets"]
        instructions = executed(directory, forwarder.pid, 2)
    if packets < 100:
        raise BenchError(f"forwarder '{name}' moved only {packets} packets under {row}")
    return {"packets": packets, "instructions": instructions, "each": instructions / packets}


def measure(signals, forwarders, programs, options):
    results = {row: {name: [] for name in forwarders} for row in options.row}
    for number in range(options.rounds):
        turn = number % len(forwarders)
        for row in options.row:
            for name in forwarders[turn:] + forwarders[:turn]:
                report_progress(f"round {number + 1} of {options.rounds}: {row} {name}")
                results[row][name].append(trial(signals, name, programs, row, options))
    report_progress("")
    return results


def ratios(results):
    found = []
    for name in results:
        if name == "cotun" or "cotun" not in results:
            continue
        each = [own["each"] / other["each"] for own, other in zip(results["cotun"], results[name])]
        ratio = statistics.median(one["each"] for one in results["cotun"]) / \
            statistics.median(one["each"] for one in results[name])
        target = TARGET if name == "liburing" else None
        found.append({"against": name, "ratio": ratio, "by_round": sorted(each), "target": target,
                      "met": None if target is None else ratio <= target})
    return found


def compare(signals, options, programs):
    missing = [program for program in ("valgrind", "callgrind_control", "iperf3") if not shutil.which(program)]
    if missing:
        raise BenchError(f"not installed: {', '.join(missing)} (Debian: packages valgrind and iperf3)")
    forwarders = [name for name in options.only if name in programs]
    if not forwarders or "udp_load" not in programs:
        raise BenchError("there is nothing to measure")
    results = measure(signals, forwarders, programs, options)
    print(f"user-space instructions a packet, by callgrind, Linux {os.uname().release}; {options.rounds} rounds of "
          f"{options.seconds} s, medians [lowest .. highest]")
    report = {"kernel": os.uname().release, "rounds": options.rounds, "seconds": options.seconds, "rows": {}}
    met = []
    for row in options.row:
        print(f"\n{row}: {ROWS[row]}")
        print_rows([["", "instructions/packet", "packets"],
                    *([name, spread(each, "each", 1, 0), spread(each, "packets", 1, 0)]
                      for name, each in results[row].items())])
        found = ratios(results[row])
        for one in found:
            print_ratio(f"cotun over {one['against']:<9}", one, "at most")
        met += [one["met"] for one in found if one["met"] is not None]
        report["rows"][row] = {"title": ROWS[row], "trials": results[row], "ratios": found}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if not options.check or (met and all(met)) else 1
