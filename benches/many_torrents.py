#!/usr/bin/env python3
"""What many idle torrents cost: makes N of them, runs a btd over them, and tells what it needed.

    benches/many_torrents.py --btd target/release/btd --count 10000 [--dir DIR] [--keep] [--settle S] [--nofile N] [--serve N]

Each torrent is one file of 64 KiB in 64 pieces, with a name and a tracker of its own kind; the files are hard links to a few,
so that 100,000 of them take no room. Told are, for the first start and for a restart from the session: the time from exec
until peers are accepted (`ports.json`) and until all are seeded, resident memory beyond that of a btd without torrents, CPU
and bytes written while idle, the bound of the longest turn of a shard's loop, `btd ctl list`, a scrape, and SIGTERM.
After a start btd looks at the files of some 32 torrents a second: `--settle` waits so long, so that idle is idle. `--nofile` starts
btd with that limit of descriptors, and `--serve` has a block of so many torrents asked for, one after the other.
Figures are one line of JSON each. Only the standard library is needed.
"""
import argparse, hashlib, json, os, pathlib, resource, shutil, signal, socket, struct, subprocess, sys, tempfile, time, urllib.request

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


def make(base, count, tracker):
    """The torrents and their payload. Gives the info-hash of each."""
    torrents, data = base / "torrents", base / "data"
    torrents.mkdir(parents=True)
    data.mkdir()
    payload = hashlib.shake_128(b"btd").digest(PIECE * PIECES)
    hashes = b"".join(hashlib.sha1(payload[at : at + PIECE]).digest() for at in range(0, len(payload), PIECE))
    origin = None
    for number in range(count):
        name = f"A.Name.As.Long.As.They.Are.S01E{number:06}.1080p.WEB-DL.mkv"
        if number % LINKS_MAX == 0:
            origin = base / f"payload{number}"
            origin.write_bytes(payload)
            os.utime(origin, (1_600_000_000, 1_600_000_000))
        os.link(origin, data / name)
        info = {"length": len(payload), "name": name, "piece length": PIECE, "pieces": hashes}
        metainfo = {"announce": tracker, "info": info, "comment": "made for a measurement"} if tracker else {"info": info}
        (torrents / f"{name}.torrent").write_bytes(bencode(metainfo))


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


def ask(port, info_hash):
    """Whether the first bytes of a torrent are sent to who asks for them."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
            peer.sendall(b"\x13BitTorrent protocol" + bytes(8) + info_hash + b"-XX0000-" + os.urandom(12) + b"\x00\x00\x00\x01\x02")
            exactly(peer, 68)
            while True:
                message = exactly(peer, int.from_bytes(exactly(peer, 4), "big"))
                if message[:1] == b"\x01":
                    peer.sendall(struct.pack(">IBIII", 13, 6, 0, 0, PIECE))
                if message[:1] == b"\x07":
                    return len(message) == 9 + PIECE
    except OSError:
        return False


def serve(daemon, base, count):
    """A block of each of so many torrents, by sixteen peers at a time."""
    from concurrent.futures import ThreadPoolExecutor

    listed = subprocess.run([daemon.btd, "ctl", "--config", base / "btd.toml", "list", "--json"], stdout=subprocess.PIPE, check=True)
    hashes = [bytes.fromhex(json.loads(line)["info_hash"]) for line in listed.stdout.splitlines()][:count]
    began, most, served = time.monotonic(), 0, 0
    with ThreadPoolExecutor(16) as peers:
        for answered in peers.map(lambda info_hash: ask(daemon.ports["peers"][0], info_hash), hashes):
            served += answered
            most = max(most, daemon.descriptors()) if served % 64 == 0 else most
    return {"asked": len(hashes), "served": served, "took_s": round(time.monotonic() - began, 2), "descriptors_max": most}


def longest(text):
    """The highest bucket of the stalls that anything fell into, in seconds: the longest turn is at most that."""
    last, top = 0, 0.0
    for line in text.splitlines():
        if line.startswith("btd_loop_stall_seconds_bucket"):
            bound, count = line.split('le="')[1].split('"')[0], int(float(line.split()[1]))
            if count > last:
                last, top = count, float(bound)
    return top


def look(daemon, base, count, empty, idle, settle):
    result = {}
    time.sleep(settle)
    result["resident_bytes_per_torrent"] = round((daemon.resident() - empty) / count)
    result["resident_mib"] = round(daemon.resident() / 2**20, 1)
    cpu, written = daemon.cpu(), daemon.written()
    time.sleep(idle)
    result["idle_cpu_percent"] = round((daemon.cpu() - cpu) / idle * 100, 2)
    result["idle_bytes_written"] = daemon.written() - written
    scrapes = [daemon.scrape() for _ in range(5)]
    result["scrape_ms"] = round(min(took for _, took in scrapes) * 1000, 2)
    result["scrape_bytes"] = len(scrapes[0][0])
    result["stall_max_s"] = longest(scrapes[0][0])
    began = time.monotonic()
    listed = subprocess.run([daemon.btd, "ctl", "--config", base / "btd.toml", "list", "--json"], stdout=subprocess.PIPE, check=True)
    result["list_s"] = round(time.monotonic() - began, 3)
    result["listed"] = listed.stdout.count(b'"info_hash"')
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--btd", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--dir", help="where; a temporary folder by default")
    parser.add_argument("--idle", type=float, default=30, help="seconds that it is watched doing nothing")
    parser.add_argument("--settle", type=float, default=5, help="seconds from the start until it is watched")
    parser.add_argument("--nofile", type=int, help="RLIMIT_NOFILE, soft and hard")
    parser.add_argument("--serve", type=int, default=0, help="torrents of which a block is asked for after the restart")
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
    make(base, options.count, options.tracker)
    config(base)
    for start in ["first", "restart"]:
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
        settle = options.settle if start == "restart" else min(options.settle, 5)
        result |= look(daemon, base, options.count, empty, options.idle, settle)
        if start == "restart" and options.serve:
            result["peers"] = serve(daemon, base, options.serve)
        listed = subprocess.run([btd, "ctl", "--config", base / "btd.toml", "list", "--json"], stdout=subprocess.PIPE, check=True)
        (base / "infohash").write_text(json.loads(listed.stdout.splitlines()[-1])["info_hash"])
        result["sigterm_s"] = round(daemon.stop(), 2)
        print(json.dumps(result), flush=True)
    if not options.keep:
        shutil.rmtree(base)


main()
