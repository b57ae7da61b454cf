#!/usr/bin/env python3
"""Seeding, compared: btd, the floor server and seeders made by others, one after the other, over and over, on one machine.

    benches/compare_seeds.py [--btd target/release/btd] [--rounds 5] [--cases S1,S2,S3] [--servers floor,btd,libtorrent]

The server under test runs on CPU 0, the load generator (`btd bench seed`) on CPU 1. In each round every server gets the
same load once, in a random order, so that a drift of the machine meets them all alike; the tables give medians, and
ratios to another server of the same round. Run it on a machine with nothing else to do: rounds in which others used
more than 10 % of the CPUs are marked and left out, unless that leaves none. So are those before or after which a cache line took
more than APART_MAX nanoseconds from one CPU to the other and back: then the host of a virtual machine has its CPUs far from each
other, or others' work beside them, and whatever one CPU writes and the other reads is several times as dear (`--far` keeps them;
`--tries 5` makes such a run again, up to five times, so that there are as many near rounds as were asked for).

Servers, each with one core, as many connections and upload slots as a case may want, and no DHT:
  floor         the least work there is (`btd bench floor-server`)
  memory-floor  a bare loop that sends out of memory (the same with --in-memory); memory-floor-500us: asleep so long after each
                turn, so that requests gather (--gather-ms 0.5)
  btd           with its defaults; btd-buffered and btd-direct: with another read-mode; btd-200us: with this gather-wait
  libtorrent    from the Python that runs this script (`pip install libtorrent`), or from --python
  rtorrent      from PATH (`apt install rtorrent`)
  transmission  from PATH (`apt install transmission-daemon`)
A server counts as started when it tells a peer that it has every piece, which may be after it has checked the payload. For S1
to S3 all of them are started once, and those that are not asked are idle. In S4 and S5 a server is started for its run
and stopped after it: what another one has mapped would stay in the page cache, and what a run before has freed would hide
what connections take.

S4 reads from the disk: take a payload much larger than the cache (`--cases S4 --size 4`). Before each run the payload leaves
the page cache. Told with each run: the disk's own count of bytes read, what lies in the page cache before and after it, and
the rate at which fio then reads the same file at random (128 KiB, 32 at a time, O_DIRECT; `apt install fio`).

S5 opens 10,000 connections that only stay: what the server's pages that belong to no file (Pss_Anon in
/proc/PID/smaps_rollup, and huge pages) have grown by, divided by the connections that stayed. The table has the same of the
pages that it alone has written to (Private_Dirty), and of its share of all pages (Pss). The last counts mapped payload, and
is too small for btd and the floor, which come to share the pages of their program with the load. What the kernel keeps for a
socket is in none of them. Memory that a server has free in its heap before is used first, and not seen: what its check
of the payload left, and what transparent huge pages brought, 2 MiB at a time (madvise is enough for an allocator that asks
for them; btd and the floor have some megabytes of it). Look at several rounds. Transmission keeps itself to 1,024 open files, so
at most so many of the connections stay.

Transmission answers each peer twice a second, with what was asked for by then: at S1's 64 requests of 16 KiB that is 2 MB/s
for each of the 8, and 8 GiB take it nine minutes (--bytes ends runs earlier, those of all servers).
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The modules beside this file are small: no compiled copies of them in the source tree.
sys.dont_write_bytecode = True

from compare.measure import APART_MAX, apart, from_disk, idle, load, others, wait_quiet
from compare.servers import refuse_missing, start
from compare.tables import GIB, disk_table, idle_table, load_table

# Connections, outstanding requests, what ends it, more.
CASES = {
    "S1": ("8 connections x 64", ["--connections", "8", "--queue", "64", "--bytes", "8GiB"]),
    "S2": ("200 connections x 16", ["--connections", "200", "--queue", "16", "--bytes", "8GiB"]),
    "S3": ("500 connections at 0.25 MB/s", ["--connections", "500", "--queue", "16", "--pace", "250kB/s", "--bytes", "1GiB"]),
    "S4": ("32 connections x 16, from the disk", ["--connections", "32", "--queue", "16", "--bytes", "4GiB"]),
    "S5": ("10,000 idle connections", ["--connections", "10000", "--idle", "--seconds", "20"]),
    "S3-asleep": (
        "as S3, the load asleep between events",
        ["--connections", "500", "--queue", "16", "--pace", "250kB/s", "--bytes", "1GiB", "--sleep"],
    ),
}
# Cases in which a server must not have done anything before.
FRESH = ("S4", "S5")
TABLES = {"S4": [load_table, disk_table], "S5": [idle_table]}


def arguments_of(case, options):
    """The load's arguments, with less (or more) payload than the case has by itself if so asked."""
    arguments = list(CASES[case][1])
    if options.bytes and "--bytes" in arguments:
        arguments[arguments.index("--bytes") + 1] = options.bytes
    return arguments


def make_payload(options, data):
    payload = data / "payload.bin"
    size = int(options.size * GIB)
    if not payload.exists() or payload.stat().st_size != size:
        with open("/dev/urandom", "rb") as source, open(payload, "wb") as file:
            for left in range(size, 0, -(1 << 22)):
                file.write(source.read(min(left, 1 << 22)))
    return payload


def run_once(case, options, server, torrent, payload):
    wait_quiet(options.patience)
    arguments = arguments_of(case, options)
    if case == "S4":
        return from_disk(options, server, torrent, payload, arguments)
    if case == "S5":
        return idle(options, server, torrent, arguments)
    return load(options, server, torrent, arguments)


def apart_when_near(options):
    """How far the CPUs are apart when they are near, or when patience has ended. Waits only where far runs are made again."""
    deadline = time.monotonic() + options.patience
    while True:
        found = apart(options)
        if found <= APART_MAX or options.far or options.tries == 1 or time.monotonic() >= deadline:
            return found
        time.sleep(1)


def tell(case, number, name, report):
    cost = report["server"]["cpu_seconds_per_gib"]
    done = f"{cost:.3f} CPU-s/GiB, {report['mb_per_second']:.0f} MB/s, " if cost else ""
    lost = "".join(f", lost {count} {reason}" for reason, count in report["connections"]["lost"].items())
    print(f"{case} round {number + 1} {name}: {done}others {100 * others(report):.0f} %, CPUs {report['apart_ns']} ns apart{lost}", file=sys.stderr)


def run_all(options, names, cases, home, torrent, payload, running):
    """The reports of every case, by server, in the order of the rounds."""
    begin = lambda name: start(name, options, home, torrent, payload.parent, running)
    servers = {name: begin(name) for name in names}
    for server in servers.values():
        sample = ["--connections", "8", "--queue", "16", "--bytes", options.bytes or "512MiB", "--verify", "0.5"]
        verified = load(options, server, torrent, sample)["verified"]
        print(f"{server.name}: {verified['good']} pieces verified, {verified['bad']} bad", file=sys.stderr)
        # All of it once: what a server keeps of it is memory by then, which a virtual machine finds at up to 2 CPU-s/GiB.
        whole = ["--connections", "1", "--queue", "64", "--sequential", "--bytes", options.bytes or f"{int(options.size * 1024)}MiB"]
        load(options, server, torrent, whole)
    everything = {}
    # Those that begin afresh come last, when the servers that stay are no longer needed.
    for case in sorted(cases, key=lambda case: case in FRESH):
        if case in FRESH:
            for server in list(running):
                server.stop()
        reports = everything[case] = {name: [] for name in names}
        for number in range(options.rounds):
            for name in random.sample(names, len(names)):
                for _ in range(options.tries):
                    server = begin(name) if case in FRESH else servers[name]
                    before = apart_when_near(options)
                    report = run_once(case, options, server, torrent, payload)
                    report["apart_ns"] = max(before, apart(options))
                    if case in FRESH:
                        server.stop()
                    tell(case, number, name, report)
                    if options.far or report["apart_ns"] <= APART_MAX:
                        break
                reports[name].append(report)
    return everything


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="S1,S2,S3", help=", ".join(CASES))
    parser.add_argument("--servers", default="floor,btd,libtorrent")
    parser.add_argument("--python", default=sys.executable, help="a Python that can import libtorrent")
    parser.add_argument("--cache-size", default="256 MiB")
    parser.add_argument("--size", type=float, default=2, help="GiB of payload")
    parser.add_argument("--piece-length", default="1 MiB", help="of the torrent, which is what the load asks for at a time")
    parser.add_argument("--bytes", help='end each run after so much ("64MiB"), not after what the case says: to try things out')
    parser.add_argument("--payload", type=lambda path: Path(path).resolve(), help="a folder to keep the payload in")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine before each run")
    parser.add_argument("--nice", type=int, default=0, help="negative: server and load run before others' work (root)")
    parser.add_argument("--tries", type=int, default=1, help="how often a run is made at most, while its CPUs are far apart")
    parser.add_argument("--far", action="store_true", help="keep rounds in which the CPUs were far apart")
    parser.add_argument("--json", type=Path, help="write every report to this file")
    return parser.parse_args()


def main():
    options = parse()
    names, cases = options.servers.split(","), options.cases.split(",")
    for case in cases:
        if case not in CASES:
            sys.exit(f"{case}: no such case ({', '.join(CASES)})")
    if "S4" in cases and not shutil.which("fio"):
        sys.exit("S4: no fio on this machine (apt install fio)")
    refuse_missing(names, options)
    # Asked to end, it stops the servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))

    with tempfile.TemporaryDirectory(prefix="compare-seeds-") as scratch:
        home = Path(scratch)
        data = options.payload or home / "data"
        data.mkdir(parents=True, exist_ok=True)
        payload = make_payload(options, data)
        torrent = home / "payload.torrent"
        create = [options.btd, "create", payload, "--output", torrent, "--piece-length", options.piece_length]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
        running = []
        try:
            everything = run_all(options, names, cases, home, torrent, payload, running)
        finally:
            for server in list(running):
                server.stop()
    host = next(iter(everything.values()))[names[0]][0]["host"]
    machine = f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']}, {host['congestion_control']}"
    print(f"{machine}, pieces of {options.piece_length}")
    for reports in everything.values():
        for report in (report for rounds in reports.values() for report in rounds if not options.far):
            report["far"] = report["apart_ns"] > APART_MAX
    for case, reports in everything.items():
        for table in TABLES.get(case, [load_table]):
            table(f"{case}: {CASES[case][0]}", reports)
    if options.json:
        options.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
