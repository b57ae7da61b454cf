#!/usr/bin/env python3
"""What many idle torrents cost: makes N of them, runs a btd over them, and tells what it needed.

    benches/many_torrents.py --btd target/release/btd --count 10000 [--dir DIR] [--keep] [--settle S] [--nofile N] [--serve N]
                             [--files N] [--own-tracker INTERVAL] [--once]

Each torrent is one file of 64 KiB in 64 pieces, with a name and a tracker of its own kind; the files are hard links to a few,
so that 100,000 of them take no room. Told are, for the first start and for a restart from the session: the time from exec
until peers are accepted (`ports.json`) and until all are seeded, resident memory beyond that of a btd without torrents, CPU
and bytes written while idle, the bound of the longest turn of a shard's loop, `btd ctl list`, a scrape, and SIGTERM.
After a start btd looks at the files of some 32 torrents a second: `--settle` waits so long, so that idle is idle. `--nofile` starts
btd with that limit of descriptors, and `--serve` has a block of so many torrents asked for, one after the other.
With `--files` each torrent is a folder of so many files of 1 KiB, one in each piece and no two alike, and `--serve` has all of
them asked for and compared. With `--own-tracker` btd is the tracker of all torrents as well, at this interval ("30m"), and what was
announced while it was watched is told. `--once` leaves out the restart.
Figures are one line of JSON each. Only the standard library is needed.
"""
import argparse, hashlib, json, os, pathlib, resource, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, urllib.request

PIECE, PIECES = 1024, 64
LINKS_MAX = 60000  # ext4 takes 65,000


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def name_of(number):
    return f"A.Name.As.Long.As.They.Are.S01E{number:06}.1080p.WEB-DL.mkv"


def content(number, file):
    """Of a file of a torrent of several: no two are alike."""
    return hashlib.shake_128(b"%d %d" % (number, file)).digest(PIECE)


def make_single(base, count):
    """Torrents of one file each, all of which are one, by many names."""
    payload = hashlib.shake_128(b"btd").digest(PIECE * PIECES)
    hashes = b"".join(hashlib.sha1(payload[at : at + PIECE]).digest() for at in range(0, len(payload), PIECE))
    origin = None
    for number in range(count):
        if number % LINKS_MAX == 0:
            origin = base / f"payload{number}"
            origin.write_bytes(payload)
            os.utime(origin, (1_600_000_000, 1_600_000_000))
        os.link(origin, base / "data" / name_of(number))
        yield {"length": len(payload), "name": name_of(number), "piece length": PIECE, "pieces": hashes}


def make_folders(base, count, files):
    """Torrents of so many files each, one in each piece."""
    for number in range(count):
        folder = base / "data" / name_of(number)
        folder.mkdir()
        hashes = b""
        for file in range(files):
            payload = content(number, file)
            path = folder / f"{file:06}"
            path.write_bytes(payload)
            os.utime(path, (1_600_000_000, 1_600_000_000))
            hashes += hashlib.sha1(payload).digest()
        listed = [{"length": PIECE, "path": [f"{file:06}"]} for file in range(files)]
        yield {"files": listed, "name": name_of(number), "piece length": PIECE, "pieces": hashes}


def make(base, count, files, tracker):
    """The torrents and their payload."""
    torrents = base / "torrents"
    torrents.mkdir(parents=True)
    (base / "data").mkdir()
    for info in make_folders(base, count, files) if files else make_single(base, count):
        metainfo = {"announce": tracker, "info": info, "comment": "made for a measurement"} if tracker else {"info": info}
        (torrents / f"{info['name']}.torrent").write_bytes(bencode(metainfo))


def config(base, extra=""):
    path = base / "btd.toml"
    path.write_text(
        f"""state-dir = "state"
[peers]
listen = ["127.0.0.1:0"]
[storage]
cache-size = "64 MiB"
[metrics]
listen = "127.0.0.1:0"
[[watch]]
dir = "torrents"
data-dir = "data"
{extra}
"""
    )
    return path


class Daemon:
    def __init__(self, btd, base, level="warn", nofile=None):
        self.base, self.btd = base, btd
        self.ports_path = base / "state" / "ports.json"
        self.ports_path.unlink(missing_ok=True)
        self.log = open(base / "log", "ab")
        self.began = time.monotonic()
        self.process = subprocess.Popen([btd, "--config", base / "btd.toml", "--log-level", level], stdout=self.log, stderr=self.log,
                                        preexec_fn=nofile and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))))

    def wait_ready(self, deadline=900):
        while not self.ports_path.exists():
            assert self.process.poll() is None, (self.base / "log").read_text()[-2000:]
            assert time.monotonic() - self.began < deadline, "not ready"
            time.sleep(0.005)
        self.ports = json.loads(self.ports_path.read_text())
        return time.monotonic() - self.began

    def scrape(self):
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics") as answer:
            text = answer.read().decode()
        return text, time.monotonic() - began

    def wait_seeding(self, count, deadline=1800):
        while True:
            text, _ = self.scrape()
            seeding = [line for line in text.splitlines() if line.startswith('btd_torrents{state="seeding"')]
            if seeding and int(float(seeding[0].split()[1])) == count:
                return time.monotonic() - self.began
            assert time.monotonic() - self.began < deadline, seeding
            time.sleep(0.1)

    def resident(self):
        """Anonymous bytes in memory: neither the program nor files."""
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024

    def cpu(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def written(self):
        return next(int(line.split()[1]) for line in open(f"/proc/{self.process.pid}/io") if line.startswith("write_bytes"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert self.process.returncode == 0, self.process.returncode
        return time.monotonic() - began


def handshake(port, info_hash):
    """Whether a handshake is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
        peer.sendall(b"\x13BitTorrent protocol" + bytes(8) + info_hash + b"-XX0000-" + os.urandom(12))
        got = b""
        while len(got) < 68:
            more = peer.recv(68 - len(got))
            if not more:
                return False
            got += more
    return True


def exactly(peer, count):
    got = b""
    while len(got) < count:
        more = peer.recv(count - len(got))
        if not more:
            raise ConnectionError("closed")
        got += more
    return got


def ask(port, info_hash, expected):
    """How many pieces of a torrent are sent to who asks for them one after the other, and are as they should be. What `expected`
    has none of is only to have the right length."""
    right = 0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.sendall(b"\x13BitTorrent protocol" + bytes(8) + info_hash + b"-XX0000-" + os.urandom(12) + b"\x00\x00\x00\x01\x02")
            exactly(peer, 68)
            asked = 0
            while right < len(expected):
                message = exactly(peer, int.from_bytes(exactly(peer, 4), "big"))
                if message[:1] == b"\x07":
                    piece = int.from_bytes(message[1:5], "big")
                    if len(message) != 9 + PIECE or expected[piece] not in (None, message[9:]):
                        return right
                    right += 1
                if message[:1] in (b"\x01", b"\x07") and asked < len(expected):
                    peer.sendall(struct.pack(">IBIII", 13, 6, asked, 0, PIECE))
                    asked += 1
    except OSError:
        pass
    return right


def serve(daemon, base, count, files):
    """A block of each of so many torrents, or of each of their files, by sixteen peers at a time."""
    from concurrent.futures import ThreadPoolExecutor

    listed = subprocess.run([daemon.btd, "ctl", "--config", base / "btd.toml", "list", "--json"], stdout=subprocess.PIPE, check=True)
    rows = [json.loads(line) for line in listed.stdout.splitlines()][:count]

    def one(row):
        number = int(row["name"].split("S01E")[1][:6])
        expected = [content(number, file) for file in range(files)] if files else [None]
        return ask(daemon.ports["peers"][0], bytes.fromhex(row["info_hash"]), expected)

    began, most, served = time.monotonic(), 0, 0
    with ThreadPoolExecutor(16) as peers:
        for at, right in enumerate(peers.map(one, rows)):
            served += right
            most = max(most, daemon.descriptors()) if at % 16 == 0 else most
    return {
        "asked": len(rows) * max(files, 1),
        "served": served,
        "took_s": round(time.monotonic() - began, 2),
        "descriptors_max": most,
    }


class Watcher:
    """Looks at btd's memory while something is done."""

    def __init__(self, daemon):
        self.daemon, self.most, self.before = daemon, 0, daemon.resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.done.is_set():
            self.most = max(self.most, self.daemon.resident())
            self.done.wait(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def more_mib(self):
        return round((max(self.most, self.before) - self.before) / 2**20, 1)


def time_list(daemon, base):
    """`btd ctl list`: how long it takes, what btd needs for it, and the longest turn of a shard meanwhile."""
    ctl = [daemon.btd, "ctl", "--config", base / "btd.toml", "list", "--json"]
    time.sleep(1.5)  # Shards tell of themselves once a second.
    before, cpu, began = stalls(daemon.scrape()[0]), daemon.cpu(), time.monotonic()
    with Watcher(daemon) as watcher:
        listed = subprocess.run(ctl, stdout=subprocess.PIPE, check=True)
        took = time.monotonic() - began
    cpu = daemon.cpu() - cpu
    time.sleep(1.5)
    after = stalls(daemon.scrape()[0])
    grown = [bound for bound in after if after[bound] > before.get(bound, 0)]
    # One that is asked for and not read: rows are not gathered for it.
    with Watcher(daemon) as unread:
        slow = subprocess.Popen(ctl, stdout=subprocess.PIPE)
        time.sleep(3)
        slow.kill()
        slow.stdout.close()
        slow.wait()
    return {
        "listed": listed.stdout.count(b'"info_hash"'),
        "took_s": round(took, 3),
        "cpu_s": round(cpu, 2),
        "more_mib": watcher.more_mib(),
        "stall_max_s": max(grown, default=0),
        "unread_more_mib": unread.more_mib(),
    }


def stalls(text):
    """How many turns of shards fell into each bucket, by its bound in seconds."""
    counts, last = {}, 0
    for line in text.splitlines():
        if line.startswith("btd_loop_stall_seconds_bucket"):
            bound, count = line.split('le="')[1].split('"')[0], int(float(line.split()[1]))
            counts[float(bound)] = count - last
            last = count
    return counts


def total(text, name):
    """The sum of all samples of this metric."""
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)


def longest(text):
    """The highest bucket of the stalls that anything fell into, in seconds: the longest turn is at most that."""
    return max((bound for bound, count in stalls(text).items() if count), default=0.0)


def look(daemon, base, count, empty, idle, settle):
    result = {}
    time.sleep(settle)
    result["resident_bytes_per_torrent"] = round((daemon.resident() - empty) / count)
    result["resident_mib"] = round(daemon.resident() / 2**20, 1)
    cpu, written, told = daemon.cpu(), daemon.written(), daemon.scrape()[0]
    time.sleep(idle)
    result["idle_cpu_percent"] = round((daemon.cpu() - cpu) / idle * 100, 2)
    result["idle_bytes_written"] = daemon.written() - written
    now = daemon.scrape()[0]
    result["idle_announces"] = round(total(now, "btd_announces_total") - total(told, "btd_announces_total"))
    result["announces_overdue"] = round(total(now, "btd_announces_overdue"))
    scrapes = [daemon.scrape() for _ in range(5)]
    result["scrape_ms"] = round(min(took for _, took in scrapes) * 1000, 2)
    result["scrape_bytes"] = len(scrapes[0][0])
    result["stall_max_s"] = longest(scrapes[0][0])
    result["list"] = time_list(daemon, base)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--btd", default="target/release/btd")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--dir", help="where; a temporary folder by default")
    parser.add_argument("--idle", type=float, default=30, help="seconds that it is watched doing nothing")
    parser.add_argument("--settle", type=float, default=5, help="seconds from the start until it is watched")
    parser.add_argument("--nofile", type=int, help="RLIMIT_NOFILE, soft and hard")
    parser.add_argument("--serve", type=int, default=0, help="torrents of which a block is asked for after the restart")
    parser.add_argument("--files", type=int, default=0, help="so many files in each torrent, no two alike")
    parser.add_argument("--own-tracker", metavar="INTERVAL", help="btd is the tracker of all, and asks for this interval")
    parser.add_argument("--once", action="store_true", help="no restart")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--tracker", default="http://127.0.0.1:9/announce")
    options = parser.parse_args()
    btd = os.path.abspath(options.btd)
    base = pathlib.Path(options.dir or tempfile.mkdtemp(prefix="many_torrents."))
    empty_base = base / "empty"
    (empty_base / "torrents").mkdir(parents=True)
    (empty_base / "data").mkdir()
    config(empty_base)
    daemon = Daemon(btd, empty_base)
    daemon.wait_ready()
    time.sleep(2)
    empty = daemon.resident()
    daemon.stop()
    print(json.dumps({"without_torrents_mib": round(empty / 2**20, 1)}), flush=True)
    tracker, extra = options.tracker, ""
    if options.own_tracker:
        with socket.create_server(("127.0.0.1", 0)) as free:
            tracker = f"http://127.0.0.1:{free.getsockname()[1]}/announce"
        extra = f"""[tracker]
http = "{tracker.split('/')[2]}"
interval = "{options.own_tracker}"
min-interval = "1s"
[announce]
allow-private = true
"""
    make(base, options.count, options.files, tracker)
    config(base, extra)
    for start in ["first"] if options.once else ["first", "restart"]:
        daemon = Daemon(btd, base, nofile=options.nofile)
        result = {"start": start, "count": options.count, "ready_s": round(daemon.wait_ready(), 2)}
        result["intake_per_s"] = round(options.count / result["ready_s"])
        if start == "restart":
            # Of any torrent: the last in the order of info-hashes.
            info_hash = bytes.fromhex((base / "infohash").read_text())
            tried = time.monotonic()
            while not handshake(daemon.ports["peers"][0], info_hash):
                assert time.monotonic() - tried < 600, "no handshake"
                time.sleep(0.01)
            result["answers_peers_s"] = round(time.monotonic() - daemon.began, 2)
        result["seeding_s"] = round(daemon.wait_seeding(options.count), 2)
        # What is idle after the first start is of no interest if that is to take long.
        settle = options.settle if start == "restart" or options.once else min(options.settle, 5)
        result |= look(daemon, base, options.count, empty, options.idle, settle)
        if (start == "restart" or options.once) and options.serve:
            result["peers"] = serve(daemon, base, options.serve, options.files)
        listed = subprocess.run([btd, "ctl", "--config", base / "btd.toml", "list", "--json"], stdout=subprocess.PIPE, check=True)
        (base / "infohash").write_text(json.loads(listed.stdout.splitlines()[-1])["info_hash"])
        result["sigterm_s"] = round(daemon.stop(), 2)
        print(json.dumps(result), flush=True)
    if not options.keep:
        shutil.rmtree(base)


main()
