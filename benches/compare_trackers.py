#!/usr/bin/env python3
"""Trackers, compared: btd, the floors of the harness and trackers made by others, one after the other, on one machine.

    benches/compare_trackers.py [--btd target/release/btd] [--rounds 3] [--cases udp,udp-scrape,http,http-close]

The tracker runs on CPU 0, the load (`btd bench tracker`) on CPU 1. In each round every tracker is started anew, told of the
whole population, and gets the same load once, in random order. The tables give medians, and ratios to the floor of the same round.
Run it on a machine with nothing else to do.

  floor        the least work there is (`btd bench tracker-floor`): a reply that is ready
  btd          one shard, its defaults
  opentracker  from PATH (`apt install opentracker`), with a white list of the population's torrents
  aquatic      aquatic_udp from PATH (`cargo install aquatic_udp`), one socket worker and one swarm worker on the same CPU; UDP only

Cases: 500,000 peers in 10,000 torrents; 128 datagrams or 64 connections in flight; 50 peers wanted, scrapes of 50 torrents.
`--memory` measures instead what the population takes: `--peers` IPv4 peers, no load.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The modules beside this file are small: no compiled copies of them in the source tree.
sys.dont_write_bytecode = True

from compare.measure import place, wait_quiet

CASES = {
    "udp": [],
    "udp-scrape": [],
    "http": ["--in-flight", "64"],
    "http-close": ["--in-flight", "64", "--sources", "64"],
}
AQUATIC = """
[network]
address = "127.0.0.1:{port}"
[protocol]
max_response_peers = 50
[cleaning]
max_peer_age = 3600
"""


def start(name, case, options, home, port):
    """Starts a tracker on this port; its process, once it is there to be asked."""
    over_udp = case.startswith("udp")
    if name == "floor":
        command = [options.btd, "bench", "tracker-floor", "--protocol", "udp" if over_udp else "http", "--listen", f"127.0.0.1:{port}"]
    elif name == "btd":
        (home / "btd.toml").write_text(
            f'state-dir = "state"\n[peers]\nlisten = ["127.0.0.1:0"]\n[metrics]\nlisten = "127.0.0.1:0"\n'
            f'[shards]\ncount = 1\npin = false\n[tracker]\nhttp = "127.0.0.1:{port}"\nudp = "127.0.0.1:{port}"\n'
        )
        command = [options.btd, "--config", home / "btd.toml"]
    elif name == "opentracker":
        # As root it changes its root to this folder and becomes somebody else before it reads the list.
        home.chmod(0o755)
        command = ["opentracker", "-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-w", "hashes", "-d", home]
    elif name == "aquatic":
        (home / "aquatic.toml").write_text(AQUATIC.format(port=port))
        command = ["aquatic_udp", "-c", home / "aquatic.toml"]
    log = open(home / f"{name}.log", "ab")
    process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, preexec_fn=lambda: place(0, 0))
    time.sleep(1.5)  # None of the others tells when it is ready, and btd's own start is to be over.
    if process.poll() is not None:
        sys.exit(f"{name} ended with {process.returncode}: {(home / f'{name}.log').read_text()[-500:]}")
    return process


def run(name, case, options, port, process, arguments):
    command = [options.btd, "bench", "tracker", "--connect", f"127.0.0.1:{port}", "--kind", case, "--pid", str(process.pid)]
    command += ["--json", *CASES[case], *arguments]
    if not case.startswith("udp") and name != "floor":
        command += ["--fill", f"127.0.0.1:{port}"]
    if name == "floor" and not case.startswith("udp"):
        command += ["--peers", "64" if case == "http-close" else "16", "--torrents", "10"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: place(1, 0))
    if not done.stdout:
        sys.exit(f"{name}, {case}: {done.stderr}")
    return json.loads(done.stdout)


def middle(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", default="target/release/btd", type=lambda text: Path(text).resolve())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--trackers", default="floor,btd,opentracker")
    parser.add_argument("--port", type=int, default=16969)
    parser.add_argument("--patience", type=float, default=30, help="seconds to wait for a quiet machine before each run")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peers", type=int, default=1_000_000, help="of --memory")
    parser.add_argument("--torrents", type=int, default=10_000, help="of --memory")
    options = parser.parse_args()
    names, cases = options.trackers.split(","), options.cases.split(",")
    if options.memory:
        cases, names = ["udp"], [name for name in names if name != "floor"]
    for case in cases:
        if case not in CASES:
            sys.exit(f"{case}: there are {', '.join(CASES)}")
    for name, program in [("opentracker", "opentracker"), ("aquatic", "aquatic_udp")]:
        if name in names and not shutil.which(program):
            sys.exit(f"{name}: no {program} in PATH")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        more = ["--torrents", str(options.torrents)] if options.memory else []
        hashes = [options.btd, "bench", "tracker", "--connect", "127.0.0.1:1", "--write-hashes", home / "hashes", *more]
        subprocess.run(hashes, check=True, stdout=subprocess.DEVNULL)
        for case in cases:
            reports = {name: [] for name in names if not (name == "aquatic" and case.startswith("http"))}
            for number in range(options.rounds):
                for name in random.sample(list(reports), len(reports)):
                    shutil.rmtree(home / "state", ignore_errors=True)
                    wait_quiet(options.patience)
                    process = start(name, case, options, home, options.port)
                    try:
                        arguments = ["--seconds", str(options.seconds)]
                        if options.memory:
                            arguments = ["--requests", "0", "--peers", str(options.peers), "--sources", "128", *more]
                        report = run(name, case, options, options.port, process, arguments)
                    finally:
                        process.terminate()
                        process.wait()
                    replies = report["replies"]
                    if replies["refused"] > replies["good"] // 100:
                        sys.exit(f"{name}, {case}: {replies['refused']} requests were refused, {replies['good']} answered: what is dear was not asked")
                    reports[name].append(report)
                    print(f"{case} round {number + 1} {name}: {json.dumps(report['server'])} {json.dumps(report['replies'])}", file=sys.stderr)
            table(case, reports, options)


def table(case, reports, options):
    if options.memory:
        print(f"| {options.peers:,} peers, {options.torrents:,} torrents | bytes of resident memory a peer |\n|---|---|")
        for name, runs in reports.items():
            print(f"| {name} | {middle([run['server']['bytes_per_peer'] for run in runs])} |")
        return
    print(f"\n| {case} | CPU-s per million (min-max) | ratio to floor | requests/s | of one CPU | p50 / p99 ms | lost |\n|---|---|---|---|---|---|---|")
    cost = lambda run: run["server"]["cpu_seconds_per_million"]
    for name, runs in reports.items():
        ratios = [cost(run) / cost(floor) for run, floor in zip(runs, reports.get("floor", []))]
        of = lambda key: statistics.median(key(run) for run in runs)
        print(
            f"| {name} | {middle([cost(run) for run in runs])} | {middle(ratios) if ratios else ''} "
            f"| {of(lambda run: run['requests_per_second']):,.0f} | {of(lambda run: run['server']['cpu_percent']):.0f} % "
            f"| {of(lambda run: run['latency']['p50_ms']):.2f} / {of(lambda run: run['latency']['p99_ms']):.2f} "
            f"| {sum(run['replies']['lost'] for run in runs)} |"
        )


if __name__ == "__main__":
    main()
