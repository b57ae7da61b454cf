#!/usr/bin/env python3
"""What a check of payload costs the peers: the load S3 against one btd, by turns alone and during a check.

    benches/seed_while_checking.py --check FILE [--btd target/release/btd] [--rounds 5] [--read-mode direct]

btd runs on CPU 0 with one shard, the load generator (`btd bench seed`, 500 connections at 0.25 MB/s, 1 GiB) on CPU 1.
FILE is what is checked, over and over, out of the page cache or, with --cold, from the disk; it should be a few GiB. The
table gives medians; each round has one run alone and one beside the check, in random order. Run it on a machine with
nothing else to do.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

LOAD = ["--connections", "500", "--queue", "16", "--pace", "250kB/s", "--bytes", "1GiB"]


def on_cpu(cpu):
    return lambda: os.sched_setaffinity(0, {cpu})


def drop_from_cache(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def metric(port, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def wait_for(what, condition, seconds=120, pause=0.05):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(pause)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", default="target/release/btd")
    parser.add_argument("--check", required=True, type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read-mode", default="auto")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rate", default="unlimited", help="check-rate of the configuration")
    parser.add_argument("--cache-size", default="256 MiB", help="of the configuration: 2 GiB holds all that peers ask for")
    args = parser.parse_args()
    btd = os.path.abspath(args.btd)
    with tempfile.TemporaryDirectory(dir=args.check.resolve().parent) as temp:
        home = Path(temp)
        for folder in ("torrents", "checked", "data", "state"):
            (home / folder).mkdir()
        payload = home / "data" / "payload"
        with open(payload, "wb") as file:
            for _ in range(1024):
                file.write(os.urandom(1 << 20))
        subprocess.run([btd, "create", payload, "--output", home / "torrents/payload.torrent"], check=True, stdout=subprocess.DEVNULL)
        beside = home / "beside.torrent"
        subprocess.run([btd, "create", args.check, "--output", beside], check=True, stdout=subprocess.DEVNULL)
        (home / "seed.toml").write_text(f"""
state-dir = "state"
peers.listen = ["127.0.0.1:0"]
peers.max-connections-per-ip = 10000
storage.read-mode = "{args.read_mode}"
storage.check-rate = "{args.rate}"
storage.cache-size = "{args.cache_size}"
metrics.listen = "127.0.0.1:0"
shards.count = 1
shards.pin = false
[[watch]]
dir = "torrents"
data-dir = "data"
[[watch]]
dir = "checked"
data-dir = "{args.check.resolve().parent}"
""")
        server = subprocess.Popen([btd, "--config", home / "seed.toml"], preexec_fn=on_cpu(0), stderr=subprocess.DEVNULL)
        try:
            ports = home / "state/ports.json"
            wait_for("btd is ready", ports.exists)
            ports = json.loads(ports.read_text())
            seeding = lambda: metric(ports["metrics"], 'btd_torrents{state="seeding"}')
            wait_for("the payload is seeded", lambda: seeding() == 1)
            results = {"alone": [], "beside a check": []}
            for _ in range(args.rounds):
                cases = list(results)
                random.shuffle(cases)
                for case in cases:
                    stop = threading.Event()
                    checked = home / "checked/beside.torrent"

                    def check_on():
                        while not stop.is_set():
                            if args.cold:
                                drop_from_cache(args.check)
                            checked.write_bytes(beside.read_bytes())
                            checking = lambda: metric(ports["metrics"], 'btd_torrents{state="checking"}')
                            wait_for("a check begins", lambda: checking() > 0 or stop.is_set())
                            # Seldom: a scrape takes the processor that is measured.
                            wait_for("a check ends", lambda: checking() == 0 or stop.is_set(), 600, pause=1)

                    checker = threading.Thread(target=check_on)
                    before = metric(ports["metrics"], "btd_check_read_bytes_total")
                    if case != "alone":
                        checker.start()
                        wait_for("reading begins", lambda: metric(ports["metrics"], "btd_check_read_bytes_total") > before)
                    began = time.monotonic()
                    before = metric(ports["metrics"], "btd_check_read_bytes_total")
                    load = [btd, "bench", "seed", "--torrent", home / "torrents/payload.torrent", "--connect"]
                    load += [f"127.0.0.1:{ports['peers'][0]}", "--pid", str(server.pid), "--json", *LOAD]
                    done = subprocess.run(load, preexec_fn=on_cpu(1), capture_output=True, text=True, check=True)
                    report = json.loads(done.stdout)
                    seconds = time.monotonic() - began
                    report["checked"] = (metric(ports["metrics"], "btd_check_read_bytes_total") - before) / seconds / 1e6
                    stop.set()
                    if case != "alone":
                        checker.join()
                        checked.unlink()
                        wait_for("the check is gone", lambda: metric(ports["metrics"], 'btd_torrents{state="checking"}') == 0)
                        wait_for("its torrent is gone", lambda: seeding() == 1)
                    results[case].append(report)
                    print(json.dumps({"case": case, **report}), file=sys.stderr)
        finally:
            server.terminate()
            server.wait()
    print("| | MB/s | p50 ms | p99 ms (min-max) | checked MB/s |\n|---|---|---|---|---|")
    for case, reports in results.items():
        column = lambda read: [read(report) for report in reports]
        rate = column(lambda r: r["mb_per_second"])
        p50, p99 = (column(lambda r: r["latency"][key]) for key in ("p50_ms", "p99_ms"))
        median = statistics.median
        print(
            f"| {case} | {median(rate):.0f} | {median(p50):.2f} | {median(p99):.2f} ({min(p99):.2f}-{max(p99):.2f}) "
            f"| {median(column(lambda r: r['checked'])):.0f} |"
        )


if __name__ == "__main__":
    main()
