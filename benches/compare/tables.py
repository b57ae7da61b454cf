"""What the runs came to, as tables of Markdown: medians, and ratios to another server in the same round."""

import statistics

from compare.measure import others

GIB = 1 << 30
MIB = 1 << 20
# The share of the CPUs above which others' work makes a round worthless. With both pinned threads busy all the time the two ways in which
# the kernel counts, by ticks and by switches, differ by up to 8 % of a run.
OTHERS_MAX = 0.1
# Whom the others' CPU time is compared with.
YARDSTICKS = ("floor", "rtorrent", "libtorrent")


def quiet_of(rounds):
    """The rounds in which others did little and the CPUs were near each other, or all if there is none; of those, the ones in which
    anything was served."""
    quiet = [r for r in rounds if others(r) <= OTHERS_MAX and not r.get("far")] or rounds
    return [r for r in quiet if r["bytes"]]


def middle(values):
    return statistics.median(values)


def ratio(rounds, quiet, reference, value):
    """The median ratio of a value to that of another server in the same round, or "-"."""
    fair = quiet_of(reference)
    pairs = [(value(mine), value(other)) for mine, other in zip(rounds, reference) if mine in quiet and other in fair]
    ratios = [mine / other for mine, other in pairs if other]
    return f"{middle(ratios):.2f}" if ratios else "-"


def cost(report):
    return report["server"]["cpu_seconds_per_gib"]


def late(report):
    return report["latency"]["p99_ms"]


def rate(report):
    return report["mb_per_second"]


def head(title, columns):
    print(f"\n### {title}\n")
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")


def load_table(title, reports):
    """CPU time for what was sent."""
    columns = ["server", "MB/s", "CPU-s/GiB (min-max)"] + [f"of {name}" for name in YARDSTICKS if name in reports]
    head(title, columns + ["latency p50 / p99 ms", "p99, of floor", "switches/GiB", "own memory MiB", "served", "n"])
    for name, rounds in reports.items():
        quiet = quiet_of(rounds)
        if not quiet:
            print(f"| {name} | served nobody |")
            continue
        costs = [cost(r) for r in quiet]
        memory = max(r["server"]["memory_peak"]["anonymous"] + r["server"]["memory_peak"]["huge"] for r in quiet)
        ratios = [ratio(rounds, quiet, reports[name], cost) for name in YARDSTICKS if name in reports]
        usage = [r["server"]["usage"] for r in quiet]
        switches = middle([(u["switches_voluntary"] + u["switches_forced"]) / (r["bytes"] / GIB) for u, r in zip(usage, quiet)])
        print(
            f"| {name} | {middle([rate(r) for r in quiet]):,.0f} | **{middle(costs):.3f}** "
            f"({min(costs):.3f}-{max(costs):.3f}) | {' | '.join(ratios)} "
            f"| {middle([r['latency']['p50_ms'] for r in quiet]):.2f} / {middle([late(r) for r in quiet]):.2f} "
            f"| {ratio(rounds, quiet, reports.get('floor', []), late)} | {switches:,.0f} | {memory / MIB:.0f} "
            f"| {min(r['connections']['served'] for r in quiet)} | {len(quiet)} of {len(rounds)} |"
        )


def disk_table(title, reports):
    """Rates against the disk's own and those of others, and what lay in the page cache."""
    columns = ["server", "MB/s (min-max)", "of fio's rate after it (min-max)", "of libtorrent's rate", "of the floor's rate"]
    head(f"{title}, beside the disk and others", columns + ["bytes read for each sent", "page cache before / after MiB", "n"])
    for name, rounds in reports.items():
        quiet = quiet_of(rounds)
        if not quiet:
            print(f"| {name} | served nobody |")
            continue
        rates = [rate(r) for r in quiet]
        of_fio = [rate(r) / r["disk"]["fio_mb_per_second"] for r in quiet]
        read = middle([r["disk"]["read"] / r["bytes"] for r in quiet])
        before, after = (middle([r["disk"][key] for r in quiet]) / MIB for key in ("cached_before", "cached"))
        print(
            f"| {name} | {middle(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) "
            f"| **{middle(of_fio):.2f}** ({min(of_fio):.2f}-{max(of_fio):.2f}) "
            f"| {ratio(rounds, quiet, reports.get('libtorrent', []), rate)} "
            f"| {ratio(rounds, quiet, reports.get('floor', []), rate)} "
            f"| {read:.2f} | {before:,.0f} / {after:,.0f} | {len(quiet)} of {len(rounds)} |"
        )


def idle_table(title, reports):
    """What a connection costs in memory. Rounds need not be quiet for that."""
    columns = ["server", "bytes per idle connection (min-max)", "private dirty", "proportional", "own memory before MiB"]
    head(title, columns + ["stayed connected", "lost", "CPU %", "n"])
    for name, rounds in reports.items():
        stayed = [r["connections"]["open"] for r in rounds]
        lost = [sum(r["connections"]["lost"].values()) for r in rounds]
        counted = [r for r in rounds if r["connections"]["open"]]
        if not counted:
            print(f"| {name} | kept nobody |")
            continue
        each = {kind: [r["idle"]["bytes_per_connection"][kind] for r in counted] for kind in counted[0]["idle"]["before"]}
        own = each["anonymous"]
        before = middle([r["idle"]["before"]["anonymous"] for r in counted]) / MIB
        busy = middle([r["server"]["cpu_percent"] for r in counted])
        print(
            f"| {name} | **{middle(own):,.0f}** ({min(own):,.0f}-{max(own):,.0f}) | {middle(each['private']):,.0f} "
            f"| {middle(each['proportional']):,.0f} | {before:.1f} | {min(stayed):,} | {max(lost):,} | {busy:.1f} "
            f"| {len(counted)} of {len(rounds)} |"
        )
