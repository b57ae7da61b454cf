"""One load against one server: what it took, what the disk did for it, what memory it came to."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# Open files of a server and of the load: more than the largest case has connections.
FILES = 32768
# Nanoseconds from CPU to CPU and back above which a run says more of the host than of the server. Cores that share a cache take 50
# to 110 on the machines this was written on.
APART_MAX = 150


def place(cpu, nice):
    """Puts the calling process on this CPU, before others if so asked, with enough open files."""
    os.sched_setaffinity(0, {cpu})
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    except (OSError, ValueError):
        # Only root may raise the hard limit; the load says so if it is too low for it.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if nice:
        # Where the kernel groups processes by session, a nice value counts only within the group: give it to both.
        os.setsid()
        os.nice(nice)
        group = Path("/proc/self/autogroup")
        if group.exists():
            group.write_text(str(nice))


def busy_ticks():
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return user + nice + system + irq + softirq


def wait_quiet(patience):
    """Waits until the machine did little for a second, for one second at least."""
    deadline = time.monotonic() + patience
    while True:
        before = busy_ticks()
        # A server may need as long to see that the peers of the run before are gone, and refuses those addresses until then.
        time.sleep(1)
        if busy_ticks() - before <= 10 or time.monotonic() >= deadline:
            return


def apart(options):
    """Nanoseconds of a cache line from the server's CPU to the load's and back: on a virtual machine, what its host does with them."""
    line = [options.btd, "bench", "sends", "--cpus-only", "--json"]
    found = subprocess.run(line, check=True, capture_output=True, text=True)
    return max(json.loads(found.stdout)["round_trip_ns"])


def load(options, server, torrent, arguments, meanwhile=lambda: None):
    """Runs the load and returns its report; calls `meanwhile` twice a second while it runs."""
    command = [options.btd, "bench", "seed", "--torrent", torrent, "--connect", f"127.0.0.1:{server.port}"]
    command += ["--pid", str(server.process.pid), "--json", *arguments]
    settle = lambda: place(1, options.nice)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=settle) as run:
        try:
            while True:
                try:
                    out, errors = run.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    meanwhile()
        except BaseException:
            run.kill()
            raise
    # 1 is a run that was not clean: its report says what was lost.
    if run.returncode not in (0, 1) or not out:
        sys.exit(f"{server.name}: {errors.decode()}")
    return json.loads(out)


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
    """A load that finds nothing in the page cache. Stops the server, so that fio has the disk for itself."""
    leave_cache(payload)
    # Not always 0: what a server has mapped, the kernel keeps.
    cached_before = cached_bytes(payload)
    before = disk_read_bytes(payload)
    report = load(options, server, torrent, arguments)
    read, cached = disk_read_bytes(payload) - before, cached_bytes(payload)
    server.stop()
    leave_cache(payload)
    rate = fio_rate(payload)
    report["disk"] = {"read": read, "cached_before": cached_before, "cached": cached, "fio_mb_per_second": rate}
    print(
        f"{server.name}: {report['mb_per_second'] / rate:.2f} of fio's {rate:.0f} MB/s, "
        f"{read / max(report['bytes'], 1):.2f} bytes read for each sent, "
        f"in the page cache {cached_before >> 20} MiB before and {cached >> 20} MiB after",
        file=sys.stderr,
    )
    return report


def tree(pid):
    """A process and its descendants."""
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid] + [below for child in children.split() for below in tree(int(child))]


def memory(pid):
    """Bytes that a process tree holds: its share of all pages, of those that belong to no file, what it alone has written to."""
    total = {"proportional": 0, "anonymous": 0, "private": 0}
    for each in tree(pid):
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]
        of = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
        # Pages of the huge page pool are in none of the other figures.
        huge = of["Private_Hugetlb"] + of["Shared_Hugetlb"]
        total["proportional"] += of["Pss"] + huge
        total["anonymous"] += of["Pss_Anon"] + huge
        # Clean ones are a program's or the payload's, and private only until another process maps them.
        total["private"] += of["Private_Dirty"] + of["Private_Hugetlb"]
    return total


def idle(options, server, torrent, arguments):
    """A load of connections that only stay, and what each of them came to in the server's memory."""
    before = memory(server.process.pid)
    samples = []
    report = load(options, server, torrent, arguments, lambda: samples.append(memory(server.process.pid)))
    stayed = report["connections"]["open"]
    # The last sample may have met the load on its way out. There are none when every connection was lost at once.
    during = ([before] * 2 + samples)[-2]
    each = {kind: (during[kind] - before[kind]) / stayed if stayed else None for kind in before}
    report["idle"] = {"before": before, "during": during, "bytes_per_connection": each}
    wanted = report["settings"]["connections"]
    told = f"{each['anonymous']:,.0f} bytes for each" if stayed else "none to divide by"
    print(f"{server.name}: {stayed} of {wanted} stayed connected; {told}", file=sys.stderr)
    return report


def others(report):
    """The share of the machine's CPUs that neither who is measured nor the load generator used."""
    # Of a client that downloads, more is measured than the time in which it is sent something.
    seconds = report.get("measured_seconds", report["seconds"])
    measured = report.get("server") or report.get("client")
    if not seconds or not measured:
        # Every connection was lost before the clock started.
        return 0
    used = measured["usage"]
    spent = used["user"] + used["system"] + report["load_cpu_seconds"]
    # Interrupts are in nobody's account, so a little is always left over.
    return (report["machine_busy_seconds"] - spent) / (seconds * report["host"]["cpus"])
