#!/usr/bin/env python3
"""Downloading, compared: btd and clients made by others, each fed by the same seeders, over and over, on one machine.

    benches/compare_leeches.py [--btd target/release/btd] [--rounds 5] [--cases L1,L8,D1,D2] [--clients btd,libtorrent]

The client under test runs on CPU 0, the seeders (`btd bench leech`) on CPU 1, with the payload in memory. In each round every
client downloads the same torrent once, in a random order, into an empty folder that is removed afterwards; the tables give
medians, and ratios to the best client made by others in the same round. Run it on a machine with nothing else to do: rounds
in which others used more than 15 % of the CPUs are left out, unless that leaves none (writing to the disk is work of the
kernel's own threads, and counts as others').

Before each run everything is synced, and some GiB of memory are used and given back (--touch): on a virtual machine the
first use of a page costs up to 2 CPU-s/GiB, at random. --folder has to be on a disk.

Cases:
  L1  one seeder on this machine, from the first byte to the last
  L8  eight of them; each takes 2,000 requests, as libtorrent's and btd's seeders do (Transmission asks twice in a second at most,
      and is slow with any)
  D1  one seeder 100 ms away (both ways together), on a path of 200 Mbit/s, for 15 seconds
  D1q5, D1q1  the same with a seeder that takes 5 requests at a time, or one: what depth is for (not among the default cases)
  D2  one seeder 100 ms away, no limit to the path, a queue of 2,000 requests, for 15 seconds (take --size 4)

Clients, with their defaults, but no DHT, no uTP and no encryption:
  btd           with one shard
  libtorrent    from the Python that runs this script (`pip install libtorrent`), or from --python
  transmission  from PATH (`apt install transmission-daemon`)
  aria2         from PATH (`apt install aria2`), without allocating files beforehand
  qbittorrent   from PATH (`apt install qbittorrent-nox`)
  rtorrent      from PATH (`apt install rtorrent`)
  rqbit         from PATH (`cargo install rqbit`)
By default all that are installed. btd and libtorrent are told where the seeders are; the others are called by them. CPU time
counts from the first handshake until the client has everything, its files have their names, and --linger seconds have passed,
so that what it writes at the end is in it. What a client calls finished need not be written; btd's is, and synced.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# The modules beside this file are small: no compiled copies of them in the source tree.
sys.dont_write_bytecode = True

from compare.clients import START, lacking
from compare.feeding import download
from compare.leech_tables import is_quiet, path_table, whole_table
from compare.measure import others
from compare.tables import GIB

# What the seeders are like, and the table of it.
DISTANT = ["--delay-ms", "50", "--seconds", "15"]
CASES = {
    "L1": ("one local seeder", ["--seeders", "1", "--reqq", "2000"], whole_table),
    "L8": ("eight local seeders", ["--seeders", "8", "--reqq", "2000"], whole_table),
    "D1": ("one seeder 100 ms away, 200 Mbit/s", [*DISTANT, "--path-rate", "25MB"], path_table),
    "D1q5": ("the same path, a seeder that takes 5 requests at a time", [*DISTANT, "--path-rate", "25MB", "--reqq", "5"], path_table),
    "D1q1": ("the same path, one request at a time", [*DISTANT, "--path-rate", "25MB", "--reqq", "1"], path_table),
    "D2": ("one seeder 100 ms away, reqq 2,000", [*DISTANT, "--reqq", "2000"], path_table),
}


def make_payload(options, data):
    payload = data / "payload.bin"
    size = int(options.size * GIB)
    if not payload.exists() or payload.stat().st_size != size:
        with open("/dev/urandom", "rb") as source, open(payload, "wb") as file:
            for left in range(size, 0, -(1 << 22)):
                file.write(source.read(min(left, 1 << 22)))
    return payload


def tell(case, number, name, report):
    requests, client = report["requests"], report["client"]
    cost = client["cpu_seconds_per_gib"] if client else None
    spent = f"{cost:.3f} CPU-s/GiB, " if cost else ""
    lost = "".join(f", lost {count} {reason}" for reason, count in report["connections"]["lost"].items())
    wrong = ", WRONG PAYLOAD" if report["right"] is False else ""
    busy = "" if is_quiet(report) else " (not quiet)"
    print(
        f"{case} round {number + 1} {name}: {spent}{report['mb_per_second']:.1f} MB/s, {report['ended']}, "
        f"waste {100 * requests['waste']:.2f} %, others {100 * others(report):.0f} %{busy}{lost}{wrong}",
        file=sys.stderr,
    )


def run_all(options, names, cases, torrent, data, running):
    """The reports of every case, by client, in the order of the rounds."""
    everything = {}
    for case in cases:
        reports = everything[case] = {name: [] for name in names}
        for number in range(options.rounds):
            for name in random.sample(names, len(names)):
                arguments = ["--seconds", str(options.seconds), *CASES[case][1]]
                if "--seconds" in CASES[case][1]:
                    arguments = CASES[case][1]
                report = download(options, name, torrent, data, arguments, running)
                reports[name].append(report)
                tell(case, number, name, report)
    return everything


def parse():
    path = lambda text: Path(text).resolve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=path, default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="L1,L8,D1,D2", help=", ".join(CASES))
    parser.add_argument("--clients", help=", ".join(START))
    parser.add_argument("--python", default=sys.executable, help="a Python that can import libtorrent")
    parser.add_argument("--size", type=float, default=1, help="GiB of payload")
    parser.add_argument("--piece-length", default="1 MiB", help="of the torrent")
    parser.add_argument("--payload", type=path, help="a folder to keep the payload in")
    parser.add_argument("--folder", type=path, default=Path("/var/tmp"), help="where to download to: on a disk")
    parser.add_argument("--touch", type=int, default=4, help="GiB of memory to use and give back before each run")
    parser.add_argument("--linger", type=float, default=1, help="seconds to measure a client after it has everything")
    parser.add_argument("--seconds", type=float, default=300, help="the longest that a client may take for all of it")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine before each run")
    parser.add_argument("--nice", type=int, default=0, help="negative: client and seeders run before others' work (root)")
    parser.add_argument("--json", type=Path, help="write every report to this file")
    return parser.parse_args()


def refuse(options, names, cases):
    """Ends the run before it begins if it could not come to anything."""
    for known, wanted in [(CASES, cases), (START, names)]:
        for name in wanted:
            if name not in known:
                sys.exit(f"{name}: there are {', '.join(known)}")
    for name in names:
        if lacking(name, options):
            sys.exit(f"{name}: {lacking(name, options)}")
    kind = subprocess.run(["stat", "-f", "-c", "%T", options.folder], stdout=subprocess.PIPE, text=True, check=True)
    if kind.stdout.strip() in ("tmpfs", "ramfs"):
        sys.exit(f"{options.folder} is memory: name a folder on a disk with --folder")


def main():
    options = parse()
    installed = [name for name in START if not lacking(name, options)]
    names, cases = options.clients.split(",") if options.clients else installed, options.cases.split(",")
    refuse(options, names, cases)
    # Asked to end, it stops the client first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="compare-leeches-", dir=options.folder) as scratch:
        home = Path(scratch)
        options.folder = home
        data = options.payload or home / "data"
        data.mkdir(parents=True, exist_ok=True)
        payload = make_payload(options, data)
        torrent = home / "payload.torrent"
        create = [options.btd, "create", payload, "--output", torrent, "--piece-length", options.piece_length]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
        running = []
        try:
            everything = run_all(options, names, cases, torrent, data, running)
        finally:
            for client in list(running):
                client.stop()
    host = next(iter(everything.values()))[names[0]][0]["host"]
    machine = f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']}, {host['congestion_control']}"
    print(f"{machine}, {options.size:g} GiB in pieces of {options.piece_length}")
    for case, reports in everything.items():
        title, _, table = CASES[case]
        table(f"{case}: {title}", reports)
    if options.json:
        options.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
