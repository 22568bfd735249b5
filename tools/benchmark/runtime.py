# SPDX-License-Identifier: Apache-2.0
"""tools/bench runtime: cotun beside Asio, over epoll and over io_uring, and in the echo rows beside loops by hand.

Every program is built alike and has one thread; each row is run by all of them in turn, in an order that rotates each
round. A row is judged by the ratios of the trials of one round, which touch another load of the machine alike; the
ratio is that of Asio's figure over cotun's, so that more than 1 is to cotun's credit, whatever the figure.

In the echo rows the server has the last CPU and the load the others. The server's processor time is read by the load,
at the beginning and the end of what it counts (/proc/PID/task/*/schedstat); loopback being what it is, it includes the
kernel's work for an answer on its way into the load's socket.
"""

import collections
import json
import os
import statistics

from benchmark.common import BenchError, Processes, finish, report_progress

PROGRAMS = {"cotun": "runtime_cotun", "asio": "runtime_asio", "asio_uring": "runtime_asio_uring",
            "epoll": "runtime_epoll", "liburing": "runtime_liburing"}
OPPONENTS = ("asio", "asio_uring")  # whom the targets are against; the others show what is to be had by hand

Row = collections.namedtuple("Row", "program_row title in_flight", defaults=[0])
ROWS = {
    "task": Row("task", "a task that returns a number: made, awaited"),
    "spawn": Row("spawn", "100 tasks spawned and joined; for each"),
    "channel_1": Row("channel_1", "a number through a channel with room for one, from task to task"),
    "channel_64": Row("channel_64", "the same with room for 64"),
    "timer": Row("timer", "a deadline set, a turn of the loop, the deadline cancelled; 1000 others stand"),
    "post_1": Row("post_1", "a function from another thread, which waits until it was called"),
    "post_1_one": Row("post_1", "the same, both threads on one CPU: without one processor's way to wake another"),
    "post_256": Row("post_256", "the same in bursts of 256; for each function"),
    "tcp_1": Row("tcp", "TCP echo of 64 bytes, 1 connection", 1),
    "tcp_100": Row("tcp", "TCP echo of 64 bytes, 100 connections, one request in flight on each", 100),
    "udp_1": Row("udp", "UDP echo of 64 bytes, 1 datagram in flight", 1),
    "udp_64": Row("udp", "UDP echo of 64 bytes, 64 datagrams in flight", 64),
}

# The key of a trial's figure, its title, the factor to its unit, digits, whether more is better, and the least ratio.
Figure = collections.namedtuple("Figure", "key title scale digits more target")
WORK = [Figure("cpu_each", "CPU ns each", 1e9, 1, False, 1.0), Figure("rate", "k/s", 1e-3, 0, True, 1.0)]
WAKES = [Figure("rate", "k/s", 1e-3, 1, True, 1.0), Figure("cpu_each", "CPU ns each", 1e9, 0, False, 1.0)]
ECHO = [Figure("cpu_each", "CPU us/request", 1e6, 2, False, 1.3), Figure("rate", "requests/s", 1, 0, True, 1.0),
        Figure("p50_us", "p50 us", 1, 1, False, 1.0), Figure("p99_us", "p99 us", 1, 1, False, 1.0)]
NO_SUCH_ROW = 2  # a program's exit code


def figures_of(row):
    return ECHO if ROWS[row].in_flight else WAKES if ROWS[row].program_row == "post_1" else WORK


def work(processes, program, row, seconds):
    cpus = processes.all_cpus if row in ("post_1", "post_256") else processes.tested_cpus
    process = processes.start(program, ROWS[row].program_row, seconds, cpus=cpus)
    out, err = process.communicate(timeout=30 * seconds + 30)
    if process.returncode == NO_SUCH_ROW:
        return None
    if process.returncode != 0:
        raise BenchError(f"{program.name} {row} failed (exit {process.returncode}): {(err or out).strip()[-400:]}")
    return json.loads(out)


def echo(processes, programs, name, row, seconds):
    kind = ROWS[row]
    server = processes.start(programs[name], kind.program_row, seconds, cpus=processes.tested_cpus)
    line = server.stdout.readline()
    if not line:
        if server.wait() == NO_SUCH_ROW:
            return None
        raise BenchError(f"{programs[name].name} {row} failed: {server.stderr.read().strip()[-400:]}")
    load = processes.start(programs["echo_load"], "--protocol", kind.program_row, "--port", json.loads(line)["port"],
                           "--server", server.pid, "--in-flight", kind.in_flight,
                           "--milliseconds", int(1000 * seconds))
    return json.loads(finish(load, seconds + 30, f"echo_load against {name}"))


def trial(signals, programs, name, row, options):
    with Processes(signals, not options.unpinned) as processes:
        if ROWS[row].in_flight:
            result = echo(processes, programs, name, row, options.seconds)
        else:
            result = work(processes, programs[name], row, options.seconds)
    if result is not None:
        result["rate"] = result["operations"] / result["seconds"]
        result["cpu_each"] = result["cpu_seconds"] / result["operations"]
    return result


def measure(signals, programs, rows, options):
    """The trials by row and program; programs that do not have a row are not in it."""
    compared = [name for name in options.only if name in programs]
    results = {row: {name: [] for name in compared} for row in rows}
    for number in range(options.rounds):
        turn = number % len(compared)
        for row in rows:
            for name in compared[turn:] + compared[:turn]:
                if name not in results[row]:
                    continue
                report_progress(f"round {number + 1} of {options.rounds}: {row} {name}")
                result = trial(signals, programs, name, row, options)
                if result is None:
                    del results[row][name]
                else:
                    results[row][name].append(result)
    report_progress("")
    return results


def spread(values, digits, unit=""):
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f}{unit} [{values[0]:.{digits}f} .. {values[-1]:.{digits}f}]"


def ratios(trials, figures):
    """cotun against each other program, round by round, for each figure."""
    found = []
    for name in trials:
        if name == "cotun" or "cotun" not in trials:
            continue
        for figure in figures if name in OPPONENTS else figures[:1]:
            pairs = [(own[figure.key], other[figure.key]) for own, other in zip(trials["cotun"], trials[name])]
            each = sorted(own / other if figure.more else other / own for own, other in pairs)
            target = figure.target if name in OPPONENTS else None
            ratio = statistics.median(each)
            found.append({"against": name, "figure": figure.title, "ratio": ratio, "by_round": each, "target": target,
                          "met": None if target is None else ratio >= target})
    return found


def print_table(trials, figures):
    rows = [["", *(figure.title for figure in figures)]]
    for name, each in trials.items():
        rows.append([name, *(spread([one[f.key] * f.scale for one in each], f.digits) for f in figures)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:])))


def print_ratios(found):
    for one in found:
        verdict = "" if one["target"] is None else \
            f"   target {one['target']:.2f}x  {'met' if one['met'] else 'MISSED'}"
        print(f"    over {one['against']:<10} {one['figure']:<15} {spread(one['by_round'], 2, 'x')}{verdict}")


def print_summary(report):
    print("\nthe first figure of each row, cotun over Asio on epoll and on io_uring; targets met of those there are")
    for row, of in report["rows"].items():
        first = {one["against"]: one["ratio"] for one in of["ratios"]
                 if one["figure"] == figures_of(row)[0].title}
        judged = [one["met"] for one in of["ratios"] if one["target"] is not None]
        shown = "  ".join(f"{first[name]:5.2f}x" if name in first else "     -" for name in OPPONENTS)
        print(f"  {row:<11} {shown}   {sum(judged)} of {len(judged)}{'' if all(judged) else '   MISSED'}")


def compare(signals, options, programs):
    rows = [row for row in options.row if "echo_load" in programs or not ROWS[row].in_flight]
    if not rows or not any(name in programs for name in options.only):
        raise BenchError("there is nothing to measure")
    results = measure(signals, programs, rows, options)

    print(f"Linux {os.uname().release}, {os.cpu_count()} CPUs; {options.rounds} rounds of {options.seconds} s, medians "
          "[lowest .. highest];\nratios by round, more than 1 being to cotun's credit")
    report = {"kernel": os.uname().release, "cpus": os.cpu_count(), "rounds": options.rounds,
              "seconds": options.seconds, "rows": {}}
    met = []
    for row, trials in results.items():
        print(f"\n{row}: {ROWS[row].title}")
        print_table(trials, figures_of(row))
        found = ratios(trials, figures_of(row))
        print_ratios(found)
        met += [one["met"] for one in found if one["target"] is not None]
        report["rows"][row] = {"title": ROWS[row].title, "trials": trials, "ratios": found}
    print_summary(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if not options.check or (met and all(met)) else 1
