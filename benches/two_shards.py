#!/usr/bin/env python3
"""What a second shard is worth: the CPU time of a GiB with one shard, and with two that have twice the load, by turns.

    benches/two_shards.py [--btd target/release/btd] [--rounds 5]

A shard has 500 leechers, paced to 0.25 MB/s each, in two processes that sleep between events, so that neither they nor the
disk are the limit; the payload (256 MiB) is in each shard's cache. If two shards took as much CPU time for a GiB as one, they would
serve twice as much with two cores: what is told is 2 x cost of one / cost of two. Shards are pinned, one to a core; loads
run where there is time. Beside them two processes of one shard each, on a core each, which share nothing at all: what a second
core is worth here, whoever serves with it. With two CPUs the loads are on those of the shards, and not beside one.
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


class Btd:
    """A btd with so many shards, on these CPUs."""

    def __init__(self, options, home, torrents, name, shards, cpus):
        self.options, self.torrents = options, torrents
        self.state = home / f"state-{name}"
        self.log = home / f"{name}.log"
        config = home / f"{name}.toml"
        config.write_text(
            f'state-dir = "{self.state}"\n[peers]\nlisten = ["127.0.0.1:0"]\n[storage]\ncache-size = "1 GiB"\n'
            f"[shards]\ncount = {shards}\npin = true\n"
            f'[[watch]]\ndir = "{torrents}"\ndata-dir = "{home / "data"}"\n'
        )
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [options.btd, "--config", config],
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )

    def load(self, *args):
        ports = self.state / "ports.json"
        while not ports.exists():
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.05)
        to = f"127.0.0.1:{json.loads(ports.read_text())['peers'][0]}"
        torrent = self.torrents / "payload.torrent"
        return [self.options.btd, "bench", "seed", "--torrent", torrent, "--connect", to, "--json", *args]

    def warm(self):
        """Until it is seeded, and everything is in the cache."""
        warm = self.load("--connections", "64", "--queue", "16", "--bytes", "4GiB")
        while subprocess.run(warm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        (self.state / "ports.json").unlink(missing_ok=True)


def serve(options, home, torrents, kind):
    """CPU-seconds per GiB of one shard, or of two under twice the load, in one process or in two."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    btds = []
    try:
        if kind == "pair":
            btds = [Btd(options, home, torrents, f"pair-{cpu}", 1, {cpu}) for cpu in cpus]
        else:
            btds = [Btd(options, home, torrents, kind, 1 if kind == "one" else 2, cpus)]
        for btd in btds:
            btd.warm()
        # Each shard has 500 peers in two processes that it has to wake. Addresses of their own: one may have 64 connections.
        paced = ["--queue", "16", "--pace", "250kB/s", "--seconds", "10", "--sleep"]
        peers = ["--connections", "500" if kind == "two" else "250"]
        loads = [
            btd.load(*paced, *peers, "--source", f"127.{100 + index}.0.1") for index, btd in enumerate(btds * 2)
        ]
        before = sum(cpu_seconds(btd.process.pid) for btd in btds)
        loads = [subprocess.Popen(load, stdout=subprocess.PIPE) for load in loads]
        sent = sum(json.loads(load.communicate()[0])["bytes"] for load in loads)
        return (sum(cpu_seconds(btd.process.pid) for btd in btds) - before) / (sent / GIB)
    finally:
        for btd in btds:
            btd.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    worth, machine = [], []
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
            # In turn first, so that a drift of the machine meets all alike.
            kinds = ["one", "two", "pair"]
            order = kinds[number % 3 :] + kinds[: number % 3]
            cost = {kind: serve(options, home, torrents, kind) for kind in order}
            worth.append(2 * cost["one"] / cost["two"])
            machine.append(2 * cost["one"] / cost["pair"])
            print(
                f"round {number + 1}: one shard {cost['one']:.3f}, two {cost['two']:.3f}, two processes of one "
                f"{cost['pair']:.3f} CPU-s/GiB: {worth[-1]:.2f} and {machine[-1]:.2f} times one",
                flush=True,
            )
    for name, times in [("two shards", worth), ("two processes of one", machine)]:
        print(f"{name}: median {statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})")


if __name__ == "__main__":
    main()
