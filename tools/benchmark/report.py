# SPDX-License-Identifier: Apache-2.0
"""What tools/bench forward prints."""

import statistics


def spread(trials, key, scale, digits):
    values = sorted(one[key] * scale for one in trials if key in one)
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} [{values[0]:.{digits}f} .. {values[-1]:.{digits}f}]"


def columns_of(workload, offload):
    """Title, key of a trial, factor to its unit, digits."""
    rate = ("Gb/s", "gbps", 1, 2)
    if not offload:
        return [*([rate] if workload == "tcp" else []), ("kpackets/s", "packets_per_second", 1e-3, 0),
                ("kpackets/CPU s", "packets_per_cpu_second", 1e-3, 0),
                ("CPU s/Mpacket", "cpu_seconds_per_million", 1, 2), ("loss %", "loss", 100, 1)]
    lost = ("retransmits", "retransmits", 1, 0) if workload == "tcp" else ("loss %", "undelivered", 100, 1)
    return [rate, ("CPU ms/Gb", "cpu_seconds_per_gigabit", 1e3, 1), ("KB/packet", "octets_per_packet", 1e-3, 1), lost]


def table(results, workload, calls, offload):
    columns = columns_of(workload, offload)
    rows = [["", *(title for title, *_ in columns), "calls/packet"]]
    for name, by_workload in results.items():
        counted = calls.get((name, workload))
        rows.append([name, *(spread(by_workload[workload], *column[1:]) for column in columns),
                     "-" if counted is None else f"{counted:.3f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:])))


def ratios(results, workload, figure, targets):
    """A figure of the first forwarder (cotun, or else the best baseline) over each other one's that has it."""
    reference = "cotun" if "cotun" in results else "liburing" if "liburing" in results else None
    found = []
    if reference is None:
        return reference, found
    own = [one[figure] for one in results[reference][workload]]
    for name in results:
        other = [one[figure] for one in results[name][workload] if figure in one]
        if name == reference or not other:
            continue
        each = [mine / theirs for mine, theirs in zip(own, other)]
        target = targets.get(name) if reference == "cotun" else None
        ratio = statistics.median(own) / statistics.median(other)
        found.append({"against": name, "figure": figure, "ratio": ratio, "by_round": sorted(each), "target": target,
                      "met": None if target is None else ratio >= target})
    return reference, found


def print_disturbance(results, workload):
    """Time without a CPU is not in the CPU seconds, but what took the CPU also took the caches, and made batches."""
    waited = [one["waited_seconds"] / one["seconds"] for each in results.values() for one in each[workload]]
    if max(waited) > 0.1:
        print(f"  note: other programs kept the forwarder off its CPU for {100 * statistics.median(waited):.0f} % of "
              f"the time (worst trial {100 * max(waited):.0f} %); the less, the better these numbers")


def print_ratio(label, one, limit="target"):
    """The ratio of medians, the ratios round by round, and whether the target is met, if there is one."""
    verdict = "" if one["target"] is None else f"   {limit} {one['target']:.2f}x  {'met' if one['met'] else 'MISSED'}"
    each = one["by_round"]
    print(f"    {label} {one['ratio']:.2f}x   {statistics.median(each):.2f} [{each[0]:.2f} .. {each[-1]:.2f}]{verdict}")


def print_ratios(title, reference, found):
    if found:
        print(f"  {title}, {reference} over each: ratio of medians, and the ratios round by round:")
    for one in found:
        print_ratio(f"{one['against']:<11}", one)
