#!/usr/bin/env python3
"""Seeding, compared: btd, the floor server and libtorrent, one after the other, over and over, on one machine.

    benches/compare_seeds.py [--btd target/release/btd] [--rounds 5] [--cases S1,S2,S3] [--servers floor,btd,libtorrent]

The server under test runs on CPU 0, the load generator (`btd bench seed`) on CPU 1. In each round every server gets the
same load once, in a random order, so that a drift of the machine meets them all alike; the table gives medians, and
ratios to the floor server of the same round. Run it on a machine with nothing else to do: rounds in which others used
more than 5 % of the CPUs are marked and left out, unless that leaves none.

S4 reads from the disk: take a payload much larger than the cache (`--cases S4 --size 4`). Before each run the payload leaves
the page cache; the disk's own count of bytes read, what lies in the page cache afterwards, and the rate at which fio reads
the same file at random (128 KiB, 32 at a time, O_DIRECT; `apt install fio`) are told with each run.

libtorrent comes from the Python that runs this script (`pip install libtorrent`), or from --python.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GIB = 1 << 30
# Connections, outstanding requests, what ends it, more.
CASES = {
    "S1": ("8 connections x 64", ["--connections", "8", "--queue", "64", "--bytes", "8GiB"]),
    "S2": ("200 connections x 16", ["--connections", "200", "--queue", "16", "--bytes", "8GiB"]),
    "S3": ("500 connections at 0.25 MB/s", ["--connections", "500", "--queue", "16", "--pace", "250kB/s", "--bytes", "1GiB"]),
    "S4": ("32 connections x 16, from the disk", ["--connections", "32", "--queue", "16", "--bytes", "4GiB"]),
    "S3-asleep": (
        "as S3, the load asleep between events",
        ["--connections", "500", "--queue", "16", "--pace", "250kB/s", "--bytes", "1GiB", "--sleep"],
    ),
}

LIBTORRENT = """
import sys, time
import libtorrent as lt
torrent, data, port_file = sys.argv[1:]
settings = lt.high_performance_seed()
settings.update({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False,
    "choking_algorithm": int(lt.choking_algorithm_t.fixed_slots_choker), "unchoke_slots_limit": -1,
    "connections_limit": 20000, "max_peerlist_size": 0, "inactivity_timeout": 600, "peer_timeout": 600,
})
session = lt.session(settings)
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = data
params.flags = (params.flags | lt.torrent_flags.seed_mode) & ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
params.max_connections = 20000
params.max_uploads = 20000
session.add_torrent(params)
while not session.listen_port():
    time.sleep(0.05)
open(port_file, "w").write(str(session.listen_port()))
while True:
    time.sleep(3600)
"""


NICE = 0


def place(cpu):
    """Puts the calling process on this CPU, before others if so asked."""
    os.sched_setaffinity(0, {cpu})
    if NICE:
        # Where the kernel groups processes by session, a nice value counts only within the group: give it to both.
        os.setsid()
        os.nice(NICE)
        group = Path("/proc/self/autogroup")
        if group.exists():
            group.write_text(str(NICE))


def busy_ticks():
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return user + nice + system + irq + softirq


def wait_quiet(patience):
    """Waits until the machine did little for a second."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = busy_ticks()
        time.sleep(1)
        if busy_ticks() - before <= 10:
            return


class Server:
    """A server process on CPU 0."""

    def __init__(self, name, command, home):
        self.name = name
        self.log = open(home / f"{name}.log", "wb")
        settle = lambda: place(0)
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=home, preexec_fn=settle)
        self.port = None

    def wait(self, find):
        deadline = time.monotonic() + 120
        while self.port is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{self.name} did not start; see {self.log.name}")
            try:
                self.port = find()
            except (OSError, ValueError, KeyError):
                time.sleep(0.05)
        return self

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def read_port(path):
    return int(path.read_text())


def start(name, options, home, torrent, data):
    if name == "floor":
        port = home / "floor.port"
        command = [options.btd, "bench", "floor-server", "--torrent", torrent, "--data", data, "--port-file", port]
        return Server(name, command, home).wait(lambda: read_port(port))
    if name == "libtorrent":
        port = home / "libtorrent.port"
        command = [options.python, "-c", LIBTORRENT, torrent, data, port]
        return Server(name, command, home).wait(lambda: read_port(port))
    # btd, or btd with other settings: "btd", "btd-buffered", "btd-direct".
    folder = home / name
    watch = folder / "watch"
    watch.mkdir(parents=True)
    (watch / "payload.torrent").write_bytes(torrent.read_bytes())
    mode = name.partition("-")[2] or "auto"
    (folder / "btd.toml").write_text(
        f'state-dir = "state"\n[peers]\nlisten = ["127.0.0.1:0"]\n[shards]\ncount = 1\npin = false\n'
        f'[storage]\nread-mode = "{mode}"\ncache-size = "{options.cache_size}"\n'
        f'[metrics]\nlisten = "127.0.0.1:0"\n[[watch]]\ndir = "watch"\ndata-dir = {json.dumps(str(data))}\n'
    )
    ports = folder / "state" / "ports.json"
    command = [options.btd, "--config", folder / "btd.toml"]
    server = Server(name, command, folder).wait(lambda: json.loads(ports.read_text())["peers"][0])
    # Ready to listen is not ready to seed: the payload is checked first.
    wait_seeding(options, server, torrent)
    return server


def wait_seeding(options, server, torrent):
    for _ in range(120):
        probe = load(options, server, torrent, ["--connections", "1", "--queue", "4", "--bytes", "1MiB"], check=False)
        if probe and probe["connections"]["served"] == 1:
            return
        time.sleep(0.5)
    sys.exit(f"{server.name} does not serve; see {server.log.name}")


def load(options, server, torrent, arguments, check=True):
    command = [options.btd, "bench", "seed", "--torrent", torrent, "--connect", f"127.0.0.1:{server.port}"]
    command += ["--pid", str(server.process.pid), "--json", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lambda: place(1))
    if run.returncode not in (0, 1) or not run.stdout:
        sys.exit(f"{server.name}: {run.stderr.decode()}") if check else None
        return None
    return json.loads(run.stdout)


def leave_cache(payload):
    """Takes a file out of the page cache."""
    with open(payload, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_bytes(payload):
    """How much of a file is in the page cache."""
    run = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", payload], stdout=subprocess.PIPE, check=True)
    return int(run.stdout or 0)


def disk_read_bytes(payload):
    """Bytes that the disk of a file has read since the machine started; 0 where it is not known."""
    device = os.stat(payload).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return 512 * int(stat.read_text().split()[2]) if stat.exists() else 0


def fio_rate(payload):
    """MB/s of random direct reads of a file."""
    command = ["fio", "--name=floor", f"--filename={payload}", "--readonly", "--rw=randread", "--bs=128k", "--iodepth=32"]
    command += ["--ioengine=io_uring", "--direct=1", "--runtime=4", "--time_based", "--output-format=json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)["jobs"][0]["read"]["bw_bytes"] / 1e6


def from_disk(options, server, torrent, payload, arguments):
    """A load that finds nothing in the page cache, and a line on what the disk did for it."""
    leave_cache(payload)
    before = disk_read_bytes(payload)
    report = load(options, server, torrent, arguments)
    read, cached = disk_read_bytes(payload) - before, cached_bytes(payload)
    leave_cache(payload)
    rate = fio_rate(payload)
    report["disk"] = {"read": read, "cached": cached, "fio_mb_per_second": rate}
    print(
        f"{server.name}: {report['mb_per_second'] / rate:.2f} of fio's {rate:.0f} MB/s, {read / report['bytes']:.2f} bytes read "
        f"for each sent, {cached >> 20} MiB left in the page cache",
        file=sys.stderr,
    )
    return report


def others(report):
    """The share of the machine's CPUs that neither the server nor the load generator used."""
    used = report["server"]["usage"]
    spent = used["user"] + used["system"] + report["load_cpu_seconds"]
    # Interrupts are in nobody's account, so a little is always left over.
    return (report["machine_busy_seconds"] - spent) / (report["seconds"] * report["host"]["cpus"])


def table(case, reports, reference):
    print(f"\n### {case}: {CASES[case][0]}\n")
    print("| server | MB/s | CPU-s/GiB (min-max) | ratio to floor | latency p50 / p99 ms | switches/GiB | own memory MiB | served | n |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rounds in reports.items():
        quiet = [r for r in rounds if others(r) <= 0.05] or rounds
        costs = [r["server"]["cpu_seconds_per_gib"] for r in quiet]
        ratios = [
            mine["server"]["cpu_seconds_per_gib"] / floor["server"]["cpu_seconds_per_gib"]
            for mine, floor in zip(rounds, reference)
            if mine in quiet
        ]
        middle = lambda values: statistics.median(values)
        memory = max(r["server"]["memory_peak"]["anonymous"] + r["server"]["memory_peak"]["huge"] for r in quiet)
        usage = [r["server"]["usage"] for r in quiet]
        switches = middle([(u["switches_voluntary"] + u["switches_forced"]) / (r["bytes"] / GIB) for u, r in zip(usage, quiet)])
        ratio = f"{middle(ratios):.2f}" if ratios else "-"
        print(
            f"| {name} | {middle([r['mb_per_second'] for r in quiet]):,.0f} | **{middle(costs):.3f}** "
            f"({min(costs):.3f}-{max(costs):.3f}) | {ratio} "
            f"| {middle([r['latency']['p50_ms'] for r in quiet]):.2f} / {middle([r['latency']['p99_ms'] for r in quiet]):.2f} "
            f"| {switches:,.0f} | {memory / (1 << 20):.0f} "
            f"| {min(r['connections']['served'] for r in quiet)} | {len(quiet)} of {len(rounds)} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="S1,S2,S3")
    parser.add_argument("--servers", default="floor,btd,libtorrent")
    parser.add_argument("--python", default=sys.executable, help="a Python that can import libtorrent")
    parser.add_argument("--cache-size", default="256 MiB")
    parser.add_argument("--size", type=float, default=2, help="GiB of payload")
    parser.add_argument("--payload", type=Path, help="a folder to keep the payload in")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine before each run")
    parser.add_argument("--nice", type=int, default=0, help="negative: server and load run before others' work (root)")
    parser.add_argument("--json", type=Path, help="write every report to this file")
    options = parser.parse_args()
    global NICE
    NICE = options.nice

    scratch = tempfile.TemporaryDirectory(prefix="compare-seeds-")
    home = Path(scratch.name)
    data = options.payload or home / "data"
    data.mkdir(parents=True, exist_ok=True)
    payload = data / "payload.bin"
    size = int(options.size * GIB)
    if not payload.exists() or payload.stat().st_size != size:
        with open("/dev/urandom", "rb") as source, open(payload, "wb") as file:
            for left in range(size, 0, -(1 << 22)):
                file.write(source.read(min(left, 1 << 22)))
    torrent = home / "payload.torrent"
    subprocess.run([options.btd, "create", payload, "--output", torrent, "--piece-length", str(1 << 20)], check=True, stdout=subprocess.DEVNULL)

    names = options.servers.split(",")
    servers = {name: start(name, options, home, torrent, data) for name in names}
    everything = {}
    try:
        for server in servers.values():
            check = load(options, server, torrent, ["--connections", "8", "--queue", "16", "--bytes", "512MiB", "--verify", "0.5"])
            verified = check["verified"]
            print(f"{server.name}: {verified['good']} pieces verified, {verified['bad']} bad", file=sys.stderr)
        for case in options.cases.split(","):
            reports = {name: [] for name in names}
            for number in range(options.rounds):
                for name in random.sample(names, len(names)):
                    wait_quiet(options.patience)
                    if case == "S4":
                        report = from_disk(options, servers[name], torrent, payload, CASES[case][1])
                    else:
                        report = load(options, servers[name], torrent, CASES[case][1])
                    reports[name].append(report)
                    cost = report["server"]["cpu_seconds_per_gib"] or 0
                    print(
                        f"{case} round {number + 1} {name}: {cost:.3f} CPU-s/GiB, {report['mb_per_second']:.0f} MB/s, "
                        f"others {100 * others(report):.0f} %",
                        file=sys.stderr,
                    )
            everything[case] = reports
    finally:
        for server in servers.values():
            server.stop()
    host = next(iter(everything.values()))[names[0]][0]["host"]
    print(f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']}, {host['congestion_control']}")
    for case, reports in everything.items():
        table(case, reports, reports.get("floor", []))
    if options.json:
        options.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
