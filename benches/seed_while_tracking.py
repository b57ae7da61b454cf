#!/usr/bin/env python3
"""What a tracker under full load costs the peers: the load S3 against one btd, by turns alone and beside UDP announces.

    benches/seed_while_tracking.py [--btd target/release/btd] [--rounds 5] [--shards 2]

btd runs on CPU 0 with all its shards, seeds 1 GiB out of its cache (`btd bench seed`, 500 connections at 0.25 MB/s, 1 GiB) and is the tracker of
500,000 peers in 10,000 torrents (`btd bench tracker`, 128 announces in flight, as fast as they are answered). Both loads run on CPU 1,
the peers' before the tracker's (nice 0 and 19), so that what the table shows is btd's doing; that takes root or a low RLIMIT_NICE. The kernel shares datagrams and
connections out to the shards, so each of them has both. The table gives medians of rounds in random order. Run it on a machine with nothing else to do.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# The modules beside this file are small: no compiled copies of them in the source tree.
sys.dont_write_bytecode = True

from compare.measure import place, wait_quiet

SEED = ["--connections", "500", "--queue", "16", "--pace", "250kB/s", "--bytes", "1GiB"]
# Longer than any run: it is ended when the peers' is.
TRACK = ["--kind", "udp", "--peers", "500000", "--torrents", "10000", "--seconds", "600"]
# Its population is told first, which takes a few seconds.
FILLED = 10


def wait_for(what, condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def set_up(home, btd, shards):
    """Payload, torrent and configuration."""
    for folder in ("torrents", "data", "state"):
        (home / folder).mkdir()
    payload = home / "data" / "payload"
    with open(payload, "wb") as file:
        for _ in range(1024):
            file.write(os.urandom(1 << 20))
    torrent = home / "torrents" / "payload.torrent"
    subprocess.run([btd, "create", payload, "--output", torrent], check=True, stdout=subprocess.DEVNULL)
    (home / "seed.toml").write_text(f"""
state-dir = "state"
storage.cache-size = "2 GiB"
metrics.listen = "127.0.0.1:0"
shards.count = {shards}
shards.pin = false
[peers]
listen = ["127.0.0.1:0"]
max-connections-per-ip = 10000
[tracker]
udp = "127.0.0.1:0"
[[watch]]
dir = "torrents"
data-dir = "data"
""")
    return torrent


def run_load(btd, torrent, ports, pid):
    command = [btd, "bench", "seed", "--torrent", torrent, "--connect", f"127.0.0.1:{ports['peers'][0]}", "--pid", str(pid), "--json", *SEED]
    done = subprocess.run(command, preexec_fn=lambda: place(1, 0), capture_output=True, text=True)
    if not done.stdout.strip():
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def announced(ports):
    """How many announces btd has answered."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics").read().decode()
    return sum(float(value) for value in re.findall(r"^btd_tracker_requests_total\{[^}]*announce[^}]*\} (\S+)$", text, re.M))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where the payload goes: on a disk")
    options = parser.parse_args()
    results = {"alone": [], "beside announces": []}
    with tempfile.TemporaryDirectory(prefix="seed-while-tracking-", dir=options.folder) as scratch:
        home = Path(scratch)
        torrent = set_up(home, options.btd, options.shards)
        command = [options.btd, "--config", home / "seed.toml"]
        server = subprocess.Popen(command, preexec_fn=lambda: place(0, 0), stderr=subprocess.DEVNULL)
        try:
            ports = home / "state" / "ports.json"
            wait_for("btd is ready", ports.exists)
            ports = json.loads(ports.read_text())
            # Until it has everything in its cache.
            run_load(options.btd, torrent, ports, server.pid)
            for _ in range(options.rounds):
                for case in random.sample(list(results), len(results)):
                    wait_quiet(60)
                    tracking = None
                    if case != "alone":
                        track = [options.btd, "bench", "tracker", "--connect", f"127.0.0.1:{ports['tracker_udp']}", *TRACK]
                        tracking = subprocess.Popen(track, preexec_fn=lambda: place(1, 19), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                        time.sleep(FILLED)
                    before, began = announced(ports), time.monotonic()
                    report = run_load(options.btd, torrent, ports, server.pid)
                    report["announces"] = (announced(ports) - before) / (time.monotonic() - began)
                    if tracking:
                        tracking.send_signal(signal.SIGKILL)
                        tracking.wait()
                    results[case].append(report)
                    latency = report["latency"]
                    print(f"{case}: p99 {latency['p99_ms']:.2f} ms, {report['announces']:.0f} announces/s", file=sys.stderr)
        finally:
            server.terminate()
            server.wait()
    print("| | MB/s | p50 ms | p99 ms (min-max) | announces/s |\n|---|---|---|---|---|")
    for case, reports in results.items():
        column = lambda read: [read(report) for report in reports]
        p50, p99 = (column(lambda report: report["latency"][key]) for key in ("p50_ms", "p99_ms"))
        rate, announces = column(lambda report: report["mb_per_second"]), column(lambda report: report["announces"])
        median = statistics.median
        print(
            f"| {case} | {median(rate):.0f} | {median(p50):.2f} | {median(p99):.2f} ({min(p99):.2f}-{max(p99):.2f}) "
            f"| {median(announces):,.0f} |"
        )


if __name__ == "__main__":
    main()
