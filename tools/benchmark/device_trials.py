# SPDX-License-Identifier: Apache-2.0
"""tools/bench devices: opening, configuring and closing devices, and reading a thousand of them by one reactor.

life: a device with an IPv4 and an IPv6 address, an MTU, set up, and closed again, one after another: by cotun, by plain
system calls (which is next to nothing but the kernel's own work), by `ip` commands as in a shell script, and by one
`ip -batch`. close(2) waits for the kernel's RCU, whoever calls it; cotun's close() ends when the interface is gone.

many: devices on one reactor: the time to open each, to close all of them together, and memory a device. The kernel's
is the growth of slabs, per-CPU memory, stacks and page tables of the whole machine: what else runs is in it.

read: datagrams, sent at one rate to all devices in turn; the processor time of the reactor's thread for each. It has
the last CPU, the load the first. An epoll loop does the same beside it, with as many packets a round: what many devices
cost the kernel alone.
"""

import json
import os
import statistics

from benchmark.common import BenchError, Lab, finish, report_progress

PROGRAMS = {"cotun": "devices_cotun", "plain": "devices_plain"}
LIVES = {"cotun": ("cotun", "life"), "calls": ("plain", "calls"), "ip": ("plain", "ip"), "batch": ("plain", "batch")}
READERS = {"cotun": "cotun", "plain": "epoll"}
TITLES = {"cotun": "cotun", "calls": "system calls", "ip": "ip, a command a step", "batch": "ip -batch"}
ROWS = ("life", "many", "read")
COUNTS = (1, 10, 100, 1000)
RATE = 50_000  # datagrams a second, of 64 bytes
EACH = {"cotun": 20, "calls": 20, "ip": 5, "batch": 5}  # devices of one trial of `life`
TARGET_LIFE = 20.0  # times faster than `ip`
TARGET_READ = 1.2   # a packet of the most devices over one of one device


def start(signals, options, program, *arguments, tested=True):
    with Lab(signals, not options.unpinned) as lab:
        inside = ("ip", "netns", "exec", lab.namespaces[0], program, *arguments)
        process = lab.start(*inside, cpus=lab.tested_cpus if tested else lab.all_cpus)
        return json.loads(finish(process, 120, f"{program.name} {' '.join(map(str, arguments))}"))


def in_turn(options, number, names):
    turn = number % len(names)
    return names[turn:] + names[:turn]


def percentile(values, share):
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def spread(values, digits, unit=""):
    return f"{statistics.median(values):.{digits}f}{unit} [{min(values):.{digits}f} .. {max(values):.{digits}f}]"


def print_rows(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:])))


def life(signals, options, programs):
    names = [name for name, (program, _) in LIVES.items() if program in programs]
    results = {name: [] for name in names}
    for number in range(options.rounds):
        for name in in_turn(options, number, names):
            report_progress(f"round {number + 1} of {options.rounds}: life {name}")
            program, way = LIVES[name]
            one = start(signals, options, programs[program], way, EACH[name], tested=False)
            one["both"] = [a + b for a, b in zip(one["open"], one["close"])]
            results[name].append(one)
    report_progress("")
    print(f"\nlife: a device opened with two addresses and an MTU, set up, and closed; ms, median (p90); "
          f"{EACH['cotun']} devices a round, of `ip` {EACH['ip']}")
    rows = [["", "open and configure", "close", "both"]]
    for name in names:
        pooled = {key: [value / 1e6 for one in results[name] for value in one[key]] for key in ("open", "close", "both")}
        rows.append([TITLES[name], *(f"{statistics.median(each):.2f} ({percentile(each, 0.9):.2f})"
                                     for each in pooled.values())])
    print_rows(rows)
    found = []
    for name in names:
        if name == "cotun" or "cotun" not in names:
            continue
        for key in ("open", "close", "both"):
            each = [statistics.median(other[key]) / statistics.median(own[key])
                    for own, other in zip(results["cotun"], results[name])]
            target = TARGET_LIFE if name == "ip" and key in ("open", "both") else None
            ratio = statistics.median(each)
            found.append({"against": name, "figure": key, "ratio": ratio, "by_round": sorted(each), "target": target,
                          "met": None if target is None else ratio >= target})
    for one in found:
        verdict = "" if one["target"] is None else \
            f"   target {one['target']:.0f}x  {'met' if one['met'] else 'MISSED'}"
        print(f"    {TITLES[one['against']]} over cotun, {one['figure']:<6} {spread(one['by_round'], 1, 'x')}{verdict}")
    return {"trials": results, "ratios": found}


def many(signals, options, programs):
    results = {count: [] for count in COUNTS}
    for number in range(options.rounds):
        for count in in_turn(options, number, COUNTS):
            report_progress(f"round {number + 1} of {options.rounds}: many {count}")
            results[count].append(start(signals, options, programs["cotun"], "together", count, tested=False))
    report_progress("")
    print("\nmany: devices on one reactor, opened one after another and closed together; medians of rounds")
    rows = [["devices", "open, ms each", "close, ms each", "memory, KiB each", "kernel's, KiB each"]]
    for count, trials in results.items():
        rows.append([str(count), spread([statistics.median(one["open"]) / 1e6 for one in trials], 2),
                     spread([one["close_all"][0] / 1e6 / count for one in trials], 2),
                     spread([one["memory"] / 1024 / count for one in trials], 0),
                     spread([one["kernel_memory"] / 1024 / count for one in trials], 0)])
    print_rows(rows)
    return {"trials": results, "ratios": []}


def read(signals, options, programs):
    names = [name for name in READERS if name in programs]
    results = {name: {count: [] for count in COUNTS} for name in names}
    load_cpu = min(os.sched_getaffinity(0))
    for number in range(options.rounds):
        for count in in_turn(options, number, COUNTS):
            for name in in_turn(options, number, names):
                report_progress(f"round {number + 1} of {options.rounds}: read {count} {READERS[name]}")
                one = start(signals, options, programs[name], "read", count, RATE, int(options.seconds * 1000), load_cpu)
                if one["read"] < one["sent"] / 2:
                    raise BenchError(f"of {one['sent']} datagrams only {one['read']} were read")
                one["cpu_each"] = one["cpu_seconds"] / one["read"]
                results[name][count].append(one)
    report_progress("")
    print(f"\nread: {RATE} datagrams a second to all devices in turn, of one reactor, and of one epoll loop")
    rows = [["devices", "CPU us a packet", "waits a packet", "loss %", "over one device"]]
    found = []
    for name in names:
        for count, trials in results[name].items():
            each = [one["cpu_each"] / alone["cpu_each"] for one, alone in zip(trials, results[name][COUNTS[0]])]
            target = TARGET_READ if name == "cotun" and count == COUNTS[-1] else None
            found.append({"by": READERS[name], "devices": count, "ratio": statistics.median(each),
                          "by_round": sorted(each), "target": target,
                          "met": None if target is None else statistics.median(each) <= target})
            rows.append([f"{READERS[name]}, {count}", spread([one["cpu_each"] * 1e6 for one in trials], 2),
                         spread([one["enters"] / one["read"] for one in trials], 3),
                         spread([max(0, 100 * (1 - one["read"] / one["sent"])) for one in trials], 1),
                         spread(each, 2, "x")])
    print_rows(rows)
    for last in [one for one in found if one["target"] is not None]:
        print(f"    {COUNTS[-1]} devices: {last['ratio']:.2f}x the cost of a packet of one; at most {TARGET_READ}x  "
              f"{'met' if last['met'] else 'MISSED'}")
    return {"trials": results, "ratios": found}


def compare(signals, options, programs):
    if "cotun" not in programs:
        raise BenchError("there is nothing to measure")
    print(f"Linux {os.uname().release}, {os.cpu_count()} CPUs; {options.rounds} rounds; medians [lowest .. highest]")
    report = {"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": options.rounds, "rows": {}}
    for row in options.row:
        report["rows"][row] = {"life": life, "many": many, "read": read}[row](signals, options, programs)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    met = [one["met"] for row in report["rows"].values() for one in row["ratios"] if one["met"] is not None]
    return 0 if not options.check or (met and all(met)) else 1
