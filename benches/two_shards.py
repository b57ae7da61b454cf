#!/usr/bin/env python3
"""What a second shard is worth: the CPU time of a GiB with one shard and one load, and with two of each, by turns.

    benches/two_shards.py [--btd target/release/btd] [--rounds 5]

Each load is a process of its own: 500 leechers, paced to 0.25 MB/s each, asleep between events, so that neither it nor the
disk is the limit; the payload (256 MiB) is in btd's cache. If two shards took as much CPU time for a GiB as one, they would
serve twice as much with two cores: what is told is 2 x cost of one / cost of two. Shards are pinned, one to a core; loads
run where there is time.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GIB = 1 << 30
PAYLOAD = 256 << 20


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(options, home, torrents, shards):
    """CPU-seconds per GiB of a btd with so many shards under as many loads."""
    state = home / f"state-{shards}"
    config = home / f"{shards}.toml"
    config.write_text(
        f'state-dir = "{state}"\n[peers]\nlisten = ["127.0.0.1:0"]\n[storage]\ncache-size = "1 GiB"\n'
        f"[shards]\ncount = {shards}\npin = true\n"
        f'[[watch]]\ndir = "{torrents}"\ndata-dir = "{home / "data"}"\n'
    )
    with open(home / "btd.log", "ab") as log:
        btd = subprocess.Popen([options.btd, "--config", config], stdout=log, stderr=log)
    try:
        ports = state / "ports.json"
        while not ports.exists():
            if btd.poll() is not None:
                sys.exit((home / "btd.log").read_text())
            time.sleep(0.05)
        to = f"127.0.0.1:{json.loads(ports.read_text())['peers'][0]}"
        load = [options.btd, "bench", "seed", "--torrent", torrents / "payload.torrent", "--connect", to, "--json"]
        # Until it is seeded, and everything is in the cache.
        warm = [*load, "--connections", "8", "--queue", "16", "--bytes", "1GiB"]
        while subprocess.run(warm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.2)
        paced = [*load, "--connections", "500", "--queue", "16", "--pace", "250kB/s", "--seconds", "10", "--sleep"]
        before = cpu_seconds(btd.pid)
        # Addresses of their own: one address may have 64 connections.
        sources = [f"127.{100 + index}.0.1" for index in range(shards)]
        loads = [subprocess.Popen([*paced, "--source", source], stdout=subprocess.PIPE) for source in sources]
        sent = sum(json.loads(load.communicate()[0])["bytes"] for load in loads)
        return (cpu_seconds(btd.pid) - before) / (sent / GIB)
    finally:
        btd.terminate()
        btd.wait()
        ports.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    worth = []
    with tempfile.TemporaryDirectory(prefix="two-shards-") as scratch:
        home = Path(scratch)
        (home / "data").mkdir()
        torrents = home / "torrents"
        torrents.mkdir()
        payload = home / "data/payload"
        payload.write_bytes(os.urandom(PAYLOAD))
        create = [options.btd, "create", payload, "--output", torrents / "payload.torrent"]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
        for number in range(options.rounds):
            # In turn first, so that a drift of the machine meets both alike.
            order = (1, 2) if number % 2 == 0 else (2, 1)
            cost = {shards: serve(options, home, torrents, shards) for shards in order}
            worth.append(2 * cost[1] / cost[2])
            print(f"round {number + 1}: one shard {cost[1]:.3f}, two {cost[2]:.3f} CPU-s/GiB: {worth[-1]:.2f} times one")
    print(f"median {statistics.median(worth):.2f} ({min(worth):.2f}-{max(worth):.2f})")


if __name__ == "__main__":
    main()
