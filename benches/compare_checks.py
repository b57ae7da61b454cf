#!/usr/bin/env python3
"""Checking payload, compared: `btd verify`, openssl over the same file, and clients made by others that are given the torrent.

    benches/compare_checks.py [--btd target/release/btd] [--rounds 5] [--clients btd,btd-one,openssl,libtorrent]

One file of --size GiB in the page cache, read once before each run. In each round every client checks it once, in a random
order; the table gives medians, and ratios to the first column's. Run it on a machine with nothing else to do.

Clients:
  btd           `btd verify` on all CPUs
  btd-one       `btd verify` on CPU 1 alone: one worker, which shares it with the reader
  openssl       `openssl sha1 FILE` on CPU 1
  libtorrent    from the Python that runs this script, or from --python: from its start until it seeds
  transmission  from PATH: from its start until it seeds
  rtorrent      from PATH: from its start until it seeds
By default all that are installed. What a client takes to start, and to be asked twice a second whether it has everything, is in
its CPU time; `--size 0.001` measures that alone.

--cold checks what is not in the page cache, by turns with fio on the same file: `btd verify` and the disk's rate only.
"""

import argparse
import json
import os
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

from compare import servers
from compare.measure import leave_cache, tree, wait_quiet
from compare.tables import GIB, middle

# As the server of the other comparisons, but that it looks at what is there first.
servers.LIBTORRENT = servers.LIBTORRENT.replace("params.flags | lt.torrent_flags.seed_mode", "params.flags")
STARTED = ("libtorrent", "transmission", "rtorrent")
RUN = ("btd", "btd-one", "openssl")
PROGRAMS = {**servers.PROGRAMS, "openssl": ("openssl", "apt install openssl"), "fio": ("fio", "apt install fio")}
TICKS = os.sysconf("SC_CLK_TCK")


def run(options, name, torrent, data, payload):
    """Runs a command to its end. Gives its wall and CPU seconds."""
    command = [options.btd, "verify", torrent, "--data", data]
    if name == "openssl":
        command = ["openssl", "sha1", payload]
    one = lambda: os.sched_setaffinity(0, {1})
    begun = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=None if name == "btd" else one
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name}: ended with {process.returncode}:\n{output.decode(errors='replace')}")
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime


def cpu_seconds(pid):
    """User and system time of a process tree so far."""
    stat = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in tree(pid)]
    return sum(int(fields[11]) + int(fields[12]) for fields in stat) / TICKS


def start(options, name, torrent, data, home, running):
    """Starts a client and waits until it has everything. Gives its wall and CPU seconds."""
    begun = time.monotonic()
    server = servers.start(name, options, home, torrent, data, running)
    wall = time.monotonic() - begun
    spent = cpu_seconds(server.process.pid)
    server.stop()
    shutil.rmtree(server.folder)
    return wall, spent


def measure(options, name, torrent, data, payload, home, running):
    # A kernel that gives idle pages away takes some of them meanwhile.
    with open(payload, "rb") as file:
        while file.read(1 << 22):
            pass
    wait_quiet(options.patience)
    if name in RUN:
        return run(options, name, torrent, data, payload)
    return start(options, name, torrent, data, home, running)


def check_warm(options, names, torrent, data, payload, home, running):
    rounds = []
    for number in range(options.rounds):
        rounds.append({})
        for name in random.sample(names, len(names)):
            wall, spent = rounds[-1][name] = measure(options, name, torrent, data, payload, home, running)
            print(f"round {number + 1} {name}: {wall:.2f} s, {spent:.2f} CPU-s", file=sys.stderr)
    reference = names[0]
    print(f"| | wall s | CPU-s/GiB, median (min-max) | MB/s | of {reference}'s CPU time |\n|---|---|---|---|---|")
    for name in names:
        walls = [taken[name][0] for taken in rounds]
        costs = [taken[name][1] / options.size for taken in rounds]
        ratios = [taken[name][1] / taken[reference][1] for taken in rounds]
        rate = options.size * GIB / 1e6 / middle(walls)
        print(
            f"| {name} | {middle(walls):.2f} | {middle(costs):.3f} ({min(costs):.3f}-{max(costs):.3f}) | {rate:,.0f} "
            f"| {middle(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return rounds


def disk_rate(payload):
    """MB/s of reading a file past the page cache from its beginning to its end."""
    command = ["fio", "--name=disk", f"--filename={payload}", "--readonly", "--rw=read", "--bs=1M", "--iodepth=8"]
    command += ["--ioengine=io_uring", "--direct=1", "--output-format=json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(ended.stdout)["jobs"][0]["read"]["bw_bytes"] / 1e6


def check_cold(options, torrent, data, payload):
    rounds = []
    for number in range(options.rounds):
        leave_cache(payload)
        wait_quiet(options.patience)
        wall, spent = run(options, "btd", torrent, data, payload)
        rate = options.size * GIB / 1e6 / wall
        leave_cache(payload)
        wait_quiet(options.patience)
        disk = disk_rate(payload)
        rounds.append({"btd": rate, "fio": disk, "cpu_seconds": spent})
        print(f"round {number + 1}: btd {rate:,.0f} MB/s, {spent / options.size:.3f} CPU-s/GiB, fio {disk:,.0f} MB/s", file=sys.stderr)
    ratios = [each["btd"] / each["fio"] for each in rounds]
    print(f"btd verify of the disk's rate by fio: {middle(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return rounds


def lacking(name, options):
    """What a client needs that is not here; nothing if it can run."""
    if name == "libtorrent":
        found = subprocess.run([options.python, "-c", "import libtorrent"], stderr=subprocess.DEVNULL).returncode == 0
        return None if found else f"{options.python} cannot import it"
    if name not in PROGRAMS or shutil.which(PROGRAMS[name][0]):
        return None
    return "no {} on this machine ({})".format(*PROGRAMS[name])


def parse():
    path = lambda text: Path(text).resolve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=path, default=Path("target/release/btd").resolve())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", help=", ".join(RUN + STARTED))
    parser.add_argument("--python", default=sys.executable, help="a Python that can import libtorrent")
    parser.add_argument("--size", type=float, default=4, help="GiB of payload")
    parser.add_argument("--piece-length", default="1 MiB", help="of the torrent")
    parser.add_argument("--folder", type=path, default=Path("/var/tmp"), help="where the payload is made: on a disk for --cold")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine before each run")
    parser.add_argument("--cold", action="store_true", help="payload that is not in the page cache, beside fio")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser.parse_args()


def main():
    options = parse()
    options.nice = 0
    known = [*RUN, *STARTED]
    names = options.clients.split(",") if options.clients else [name for name in known if not lacking(name, options)]
    for name in names if not options.cold else ["btd", "fio"]:
        if name not in [*known, "fio"]:
            sys.exit(f"{name}: there are {', '.join(known)}")
        if lacking(name, options):
            sys.exit(f"{name}: {lacking(name, options)}")
    # Asked to end, it stops the client first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="compare-checks-", dir=options.folder) as scratch:
        home = Path(scratch)
        data = home / "data"
        data.mkdir()
        payload = data / "payload.bin"
        with open("/dev/urandom", "rb") as source, open(payload, "wb") as file:
            for left in range(int(options.size * GIB), 0, -(1 << 22)):
                file.write(source.read(min(left, 1 << 22)))
        os.sync()
        torrent = home / "payload.torrent"
        create = [options.btd, "create", payload, "--output", torrent, "--piece-length", options.piece_length]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
        print(f"{os.uname().machine}, Linux {os.uname().release}, {options.size:g} GiB in pieces of {options.piece_length}")
        running = []
        try:
            if options.cold:
                rounds = check_cold(options, torrent, data, payload)
            else:
                rounds = check_warm(options, names, torrent, data, payload, home, running)
        finally:
            for server in list(running):
                server.stop()
    if options.json:
        options.json.write_text(json.dumps(rounds))


if __name__ == "__main__":
    main()
