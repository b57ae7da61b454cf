"""What the downloads came to, as tables of Markdown: medians, and ratios to the best client made by others in each round."""

from compare.measure import others
from compare.tables import MIB, head, middle

# Writing to the disk is work of the kernel's own threads, which is in nobody's account: more than this was somebody else.
OTHERS_MAX = 0.15


def is_quiet(report):
    return others(report) <= OTHERS_MAX


def counted(rounds):
    """The rounds that count: quiet ones, or all if there is none; of those, the ones in which something was sent."""
    quiet = [r for r in rounds if is_quiet(r)] or rounds
    return [r for r in quiet if r["requests"]["sent_bytes"] and r["client"]]


def cost(report):
    return report["client"]["cpu_seconds_per_gib"]


def rate(report):
    return report["mb_per_second"]


def steady(report):
    """MB/s from the third second on, without the last one, which the end of the run has cut."""
    return middle(report["rates"][2:-1] or report["rates"])


def of_best(name, reports, value, best):
    """The median ratio of a value to the best of others in the same round."""
    ratios = []
    for number, mine in enumerate(reports[name]):
        peers = [reports[other][number] for other in reports if other not in (name, "btd")]
        values = [value(peer) for peer in peers if counted([peer]) and value(peer)]
        if values and counted([mine]) and value(mine):
            ratios.append(value(mine) / best(values))
    return f"{middle(ratios):.2f}" if ratios else "-"


def span(values, digits):
    return f"{middle(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def after(rounds, key):
    """Milliseconds after the last byte, if every round knows."""
    values = [r[key] for r in rounds]
    return "-" if None in values else f"{middle(values):,.0f}"


def whole_table(title, reports):
    """Downloads from the first byte to the last."""
    columns = ["client", "CPU-s/GiB (min-max)", "of the best other", "MB/s (min-max)", "of the best other"]
    columns += ["all CPUs less the load, s/GiB", "waste %", "own memory MiB", "ms to whole", "ms to final name", "right", "n"]
    head(title, columns)
    for name, rounds in reports.items():
        use = counted(rounds)
        if not use:
            print(f"| {name} | got nothing |")
            continue
        gib = [r["bytes"] / (1 << 30) for r in use]
        machine = [(r["machine_busy_seconds"] - r["load_cpu_seconds"]) / size for r, size in zip(use, gib)]
        memory = max(r["client"]["memory_peak"]["anonymous"] + r["client"]["memory_peak"]["huge"] for r in use)
        print(
            f"| {name} | **{span([cost(r) for r in use], 3)}** | {of_best(name, reports, cost, min)} "
            f"| {span([rate(r) for r in use], 0)} | {of_best(name, reports, rate, max)} "
            f"| {middle(machine):.2f} | {100 * middle([r['requests']['waste'] for r in use]):.2f} | {memory / MIB:.0f} "
            f"| {after(use, 'whole_after_ms')} | {after(use, 'named_after_ms')} "
            f"| {sum(r['right'] is True for r in rounds)} of {len(rounds)} | {len(use)} of {len(rounds)} |"
        )


def path_table(title, reports):
    """Downloads over a long path, second by second."""
    columns = ["client", "MB/s from the third second on (min-max)", "of the path", "of the best other", "best second"]
    head(title, columns + ["first seconds MB/s", "requests outstanding at most", "refused", "waste %", "n"])
    for name, rounds in reports.items():
        use = counted(rounds)
        if not use:
            print(f"| {name} | got nothing |")
            continue
        path = use[0]["settings"]["path_rate"]
        share = f"{middle([steady(r) for r in use]) * 1e6 / path:.2f}" if path else "-"
        first = [middle(at) for at in zip(*(r["rates"][:6] for r in use))]
        print(
            f"| {name} | **{span([steady(r) for r in use], 1)}** | {share} | {of_best(name, reports, steady, max)} "
            f"| {middle([max(r['rates']) for r in use]):,.1f} | {' '.join(f'{value:.1f}' for value in first)} "
            f"| {max(max(r['depth_maxima'], default=0) for r in use):,} "
            f"| {middle([r['requests']['refused'] for r in use]):,.0f} "
            f"| {100 * middle([r['requests']['waste'] for r in use]):.2f} | {len(use)} of {len(rounds)} |"
        )
