#!/usr/bin/env python3
"""What an idle connection costs btd in memory: the anonymous memory with many connections less that with few, each divided
by the connections between.

    benches/idle_connections.py [--btd target/release/btd] [--rounds 5] [--few 1000] [--many 17000]

The torrent is small (64 MiB), so that what its check left in the heap is little beside the connections; the few are there to
use that up, and what a process needs once. btd is started anew for each round, and the few and the many come one after the
other to the same process: what the few gave back is used again by the many. `compare_seeds.py --cases S5` asks other makes of
client the same, over 10,000 connections and a payload of GiBs, where the check's leftovers hide a part of it.
The connections need open files: `ulimit -n` at least 2,500 above the many.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAYLOAD = 64 << 20


def memory_of(options, home, torrent, number):
    """Bytes for each connection of one btd."""
    state = home / f"state-{number}"
    config = home / "btd.toml"
    config.write_text(
        f'state-dir = "{state}"\n[peers]\nlisten = ["127.0.0.1:0"]\n'
        f"max-connections = {options.many + 500}\nmax-connections-per-torrent = {options.many + 500}\n"
        f'[shards]\ncount = 1\n[[watch]]\ndir = "{torrent.parent}"\ndata-dir = "{home / "data"}"\n'
    )
    log_path = home / "btd.log"
    with open(log_path, "wb") as log:
        btd = subprocess.Popen([options.btd, "--config", config], stdout=log, stderr=log)
    try:
        ports = state / "ports.json"
        while not ports.exists():
            if btd.poll() is not None:
                sys.exit(log_path.read_text())
            time.sleep(0.05)
        to = f"127.0.0.1:{json.loads(ports.read_text())['peers'][0]}"
        load = [options.btd, "bench", "seed", "--torrent", torrent, "--connect", to, "--json"]
        # Until it is seeded: a block comes.
        while subprocess.run(
            [*load, "--connections", "1", "--bytes", "1MiB"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode:
            time.sleep(0.2)
        anonymous = {}
        for count in (options.few, options.many):
            idle = [*load, "--pid", str(btd.pid), "--idle", "--seconds", "5", "--connections", str(count)]
            told = json.loads(subprocess.run(idle, stdout=subprocess.PIPE, check=False).stdout)
            if told["connections"]["open"] != count:
                sys.exit(f"only {told['connections']['open']} of {count} connections stayed: {log_path.read_text()}")
            anonymous[count] = told["server"]["memory_after"]["anonymous"] + told["server"]["memory_after"]["huge"]
        grown = anonymous[options.many] - anonymous[options.few]
        each = grown / (options.many - options.few)
        print(
            f"round {number}: {anonymous[options.few] / 2**20:.1f} MiB with {options.few}, "
            f"{anonymous[options.many] / 2**20:.1f} MiB with {options.many}: {each:,.0f} bytes each",
            flush=True,
        )
        return each
    finally:
        btd.terminate()
        btd.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=17_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idle-connections-") as scratch:
        home = Path(scratch)
        (home / "data").mkdir()
        torrent = home / "torrents/payload.torrent"
        torrent.parent.mkdir()
        payload = home / "data/payload"
        payload.write_bytes(os.urandom(PAYLOAD))
        create = [options.btd, "create", payload, "--output", torrent]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
        each = [memory_of(options, home, torrent, number + 1) for number in range(options.rounds)]
    print(f"median {statistics.median(each):,.0f} bytes ({min(each):,.0f}-{max(each):,.0f})")


if __name__ == "__main__":
    main()
