#!/usr/bin/env python3
"""One btd for a long time, with everything around it coming and going; whether it is at the end what it was at the beginning.

    benches/soak.py [--btd target/release/btd] [--minutes 60] [--out soak.jsonl]

It seeds a torrent of 128 MiB and fifty small ones, and is a tracker. Meanwhile, all at once:
  - swarms of 1 to 200 leechers at chance paces, of whose pieces a fifth are hashed;
  - another btd downloads the torrent from it, is compared, stopped, emptied and started again; so does aria2c if there is one;
  - strangers send garbage, parts of handshakes, handshakes of torrents that are not there, or nothing;
  - peers announce torrents of chance, ask for what they do not get, and are forgotten after two intervals of two minutes;
  - small torrents are taken out and put back, and the configuration is read again.
Every five seconds its memory, descriptors and threads are looked at, and kept in the file of --out, a JSON object a line. At the
end all of that stops, and it must have as many descriptors and threads as at the beginning. Of memory, the first half minute is
not looked at, in which tables and caches get their size; the rest is in thirds, and the median of the last must be no more than
that of the one before but for a fiftieth and 2 MiB. How fast it grew is told (a line through all samples after the first half
minute). Exits with 0 if so, if nobody got a wrong byte, and if everything around it went on to the end.

--rest says for how long all those rest between two things they do, on average; with 5 s it all takes about a fifth of a processor.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from pathlib import Path

PAYLOAD = 128 << 20
SMALL = 50
EVERY = 5.0
# Seconds at the beginning in which memory may grow.
WARM_UP = 30.0


def make_file(path, length, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    with open(path, "wb") as file:
        for at in range(0, length, 1 << 20):
            file.write(chance.randbytes(min(1 << 20, length - at)))


def sha1(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


class Soak:
    def __init__(self, options, home):
        self.btd, self.home = options.btd, home
        self.end = time.monotonic() + options.minutes * 60
        self.counts = {}
        self.wrong = []
        self.lock = threading.Lock()
        self.pause = options.rest
        self.chance = random.Random(99)
        self.over = threading.Event()

    def rest(self, share=1.0):
        """Between two things that somebody does; 0.5 to 1.5 times what was asked for."""
        self.over.wait(min(self.pause * share * self.chance.uniform(0.5, 1.5), max(0, self.end - time.monotonic())))

    def work(self, work, number):
        """One of the things that go on meanwhile. If it dies, the run has failed: what it was to do was not done any more."""
        try:
            work(random.Random(number))
        except BaseException:
            self.fail(f"{work.__name__} died: {traceback.format_exc()}")

    def goes_on(self):
        return time.monotonic() < self.end and not self.wrong

    def count(self, what, by=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + by

    def fail(self, what):
        with self.lock:
            self.wrong.append(what)
        self.over.set()
        print(f"soak: {what}", file=sys.stderr, flush=True)

    def config(self, name, text):
        path = self.home / f"{name}.toml"
        path.write_text(f'state-dir = "{self.home / name / "state"}"\n[peers]\nlisten = ["127.0.0.1:0"]\n' + text)
        return path

    def start(self, name, config):
        (self.home / name).mkdir(exist_ok=True)
        ports = self.home / name / "state" / "ports.json"
        ports.unlink(missing_ok=True)
        with open(self.home / f"{name}.log", "ab") as log:
            process = subprocess.Popen([self.btd, "--config", config], stdout=log, stderr=log)
        while not ports.exists():
            if process.poll() is not None:
                sys.exit((self.home / f"{name}.log").read_text()[-4000:])
            time.sleep(0.05)
        return process, json.loads(ports.read_text())

    def prepare(self):
        data, self.watch, self.aside = self.home / "data", self.home / "torrents", self.home / "aside"
        for folder in (data, self.watch, self.aside):
            folder.mkdir()
        self.payload = data / "payload.bin"
        make_file(self.payload, PAYLOAD, 1)
        self.sha1 = sha1(self.payload)
        self.torrent = self.watch / "payload.torrent"
        create = [self.btd, "create", "--output"]
        subprocess.run([*create, self.torrent, "--piece-length", "262144", self.payload], check=True, capture_output=True)
        for number in range(SMALL):
            file = data / f"small-{number}.bin"
            make_file(file, 100_000 + number * 1000, 100 + number)
            torrent = self.watch / f"small-{number}.torrent"
            subprocess.run([*create, torrent, "--piece-length", "65536", file], check=True, capture_output=True)
        text = (
            f'[shards]\ncount = 2\npin = false\n[storage]\ncache-size = "64 MiB"\n[metrics]\nlisten = "127.0.0.1:0"\n'
            f'[tracker]\nhttp = "127.0.0.1:0"\ninterval = "2m"\nmin-interval = "1m"\n[[watch]]\ndir = "{self.watch}"\ndata-dir = "{data}"\n'
        )
        self.process, ports = self.start("seed", self.config("seed", text))
        self.peers = ("127.0.0.1", ports["peers"][0])
        self.metrics = f"http://127.0.0.1:{ports['metrics']}/metrics"
        self.tracker = f"http://127.0.0.1:{ports['tracker_http']}"

    def metric(self, name):
        with urllib.request.urlopen(self.metrics, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)

    def look(self):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        kib = lambda key: int(status[key].split()[0])
        return {
            "anonymous_kib": kib("RssAnon"),
            "resident_kib": kib("VmRSS"),
            "descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd")),
            "threads": int(status["Threads"]),
        }

    # What goes on meanwhile, each in a thread of its own.

    def swarms(self, chance):
        address = f"{self.peers[0]}:{self.peers[1]}"
        while self.goes_on():
            command = [self.btd, "bench", "seed", "--torrent", self.torrent, "--connect", address, "--json", "--sleep"]
            command += ["--connections", str(chance.randint(1, 200)), "--seconds", str(chance.randint(2, 8))]
            command += ["--pace", f"{chance.randint(20, 100)}kB", "--verify", "0.2", "--source", f"127.{chance.randint(20, 90)}.0.1"]
            if chance.random() < 0.5:
                command.append("--fast")
            done = subprocess.run(command, capture_output=True, text=True)
            try:
                report = json.loads(done.stdout)
            except ValueError:
                self.fail(f"a swarm ended with {done.returncode}: {done.stderr[-500:]}")
                return
            if report["verified"]["bad"] or report["trouble"]["unasked"]:
                self.fail(f"a swarm got wrong bytes: {report['verified']}")
            self.count("swarms")
            self.count("swarm connections", report["settings"]["connections"])
            self.count("connections lost", sum(report["connections"]["lost"].values()))
            self.count("MiB served to swarms", report["bytes"] >> 20)
            self.rest()

    def downloads(self, _):
        name = "leech"
        (self.home / name).mkdir()
        while self.goes_on():
            data, watch = self.home / name / "data", self.home / name / "watch"
            for folder in (data, watch, self.home / name / "state"):
                shutil.rmtree(folder, ignore_errors=True)
            data.mkdir()
            watch.mkdir()
            shutil.copy(self.torrent, watch)
            text = f'[shards]\ncount = 1\npin = false\n[[watch]]\ndir = "{watch}"\ndata-dir = "{data}"\n'
            text += f'peers = ["{self.peers[0]}:{self.peers[1]}"]\n'
            process, _ = self.start(name, self.config(name, text))
            whole = data / "payload.bin"
            until = time.monotonic() + 120
            while not whole.exists() and time.monotonic() < until:
                time.sleep(0.2)
            if not whole.exists() or sha1(whole) != self.sha1:
                self.fail("a download is not whole")
            process.send_signal(signal.SIGTERM)
            if process.wait(30):
                self.fail(f"a leech ended with {process.returncode}")
            self.count("downloads by btd")
            self.rest(2)

    def aria2(self, _):
        if not shutil.which("aria2c"):
            return
        tracked = self.home / "tracked.torrent"
        url = f"{self.tracker}/announce".encode()
        tracked.write_bytes(b"d8:announce%d:%s" % (len(url), url) + self.torrent.read_bytes()[1:])
        folder = self.home / "aria2"
        while self.goes_on():
            # It learns of btd by the tracker that btd is.
            query = f"?info_hash={self.info_hash()}&peer_id=-XX0000-soakseeder00&port={self.peers[1]}&left=0&uploaded=0&downloaded=0"
            urllib.request.urlopen(f"{self.tracker}/announce{query}", timeout=30).read()
            shutil.rmtree(folder, ignore_errors=True)
            command = ["aria2c", "--dir", folder, "--seed-time=0", "--enable-dht=false", "--bt-enable-lpd=false"]
            command += ["--enable-peer-exchange=false", "--listen-port=20000-40000", "--file-allocation=none", "--quiet", tracked]
            try:
                subprocess.run(command, timeout=180, check=True, capture_output=True)
            except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
                self.count(f"aria2c: {type(error).__name__}")
                self.rest(3)
                continue
            if sha1(folder / "payload.bin") != self.sha1:
                self.fail("aria2c got wrong bytes")
            self.count("downloads by aria2c")
            self.rest(3)

    def info_hash(self):
        shown = subprocess.run([self.btd, "show", self.torrent, "--json"], capture_output=True, text=True, check=True)
        text = json.loads(shown.stdout)["info_hash"]
        return "".join(f"%{text[at:at + 2]}" for at in range(0, 40, 2))

    def strangers(self, chance):
        kept = []
        hello = b"\x13BitTorrent protocol" + bytes(8)
        while self.goes_on():
            try:
                stranger = socket.socket()
                stranger.bind((f"127.9.{chance.randint(0, 255)}.{chance.randint(1, 254)}", 0))
                stranger.settimeout(5)
                stranger.connect(self.peers)
                what = chance.randint(0, 3)
                if what == 0:
                    stranger.sendall(chance.randbytes(chance.randint(1, 5000)))
                elif what == 1:
                    stranger.sendall(hello[: chance.randint(1, 28)])
                elif what == 2:
                    stranger.sendall(hello + chance.randbytes(40))
                kept.append(stranger)
                self.count("strangers")
            except OSError:
                stranger.close()
            if len(kept) > 200:
                kept.pop(chance.randrange(len(kept))).close()
            self.rest(0.01)
        for stranger in kept:
            stranger.close()

    def announces(self, chance):
        while self.goes_on():
            escape = lambda data: "".join(f"%{byte:02x}" for byte in data)
            query = f"?info_hash={escape(chance.randbytes(20))}&peer_id={escape(chance.randbytes(20))}&port={chance.randint(0, 70000)}"
            query += f"&left={chance.choice([0, 1, -1])}&numwant={chance.choice([0, 50, 10**9])}"
            try:
                urllib.request.urlopen(f"{self.tracker}/announce{query}", timeout=30).read()
            except OSError:
                pass  # Refused, which is an answer too.
            self.count("announces")
            self.rest(0.01)

    def changes(self, chance):
        out = []
        while self.goes_on():
            if out and chance.random() < 0.5:
                name = out.pop(chance.randrange(len(out)))
                os.rename(self.aside / name, self.watch / name)
            else:
                there = [path.name for path in self.watch.iterdir() if path.name.startswith("small-")]
                if there:
                    name = chance.choice(there)
                    os.rename(self.watch / name, self.aside / name)
                    out.append(name)
            self.count("torrents moved")
            if chance.random() < 0.05:
                self.process.send_signal(signal.SIGHUP)
                self.count("reloads")
            self.rest(0.1)
        for name in out:
            os.rename(self.aside / name, self.watch / name)

    def run(self, out):
        self.prepare()
        while self.metric("btd_torrents") < SMALL + 1:
            time.sleep(0.2)
        time.sleep(2)
        first = self.look()
        works = [self.swarms, self.downloads, self.aria2, self.strangers, self.announces, self.changes]
        threads = [threading.Thread(target=self.work, args=(work, number)) for number, work in enumerate(works)]
        began = self.began = time.monotonic()
        for thread in threads:
            thread.start()
        samples = []
        with open(out, "w") as file:
            while self.goes_on():
                self.over.wait(EVERY)
                if self.process.poll() is not None:
                    self.fail(f"btd ended with {self.process.returncode}")
                    break
                sample = {"seconds": round(time.monotonic() - began, 1)} | self.look()
                sample["connections"] = self.metric("btd_connections")
                samples.append(sample)
                file.write(json.dumps(sample) + "\n")
                file.flush()
        for thread in threads:
            thread.join()
        self.judge(first, samples)

    def judge(self, first, samples):
        if self.process.poll() is None:
            # The longest that anything is waited for: half a minute for open files, ten seconds for half a handshake.
            until = time.monotonic() + 90
            last = self.look()
            while time.monotonic() < until:
                last = self.look()
                if self.metric("btd_connections") == 0 and last["descriptors"] <= first["descriptors"]:
                    break
                time.sleep(1)
            if last["descriptors"] > first["descriptors"]:
                self.fail(f"{last['descriptors']} descriptors at the end, {first['descriptors']} at the beginning")
            if last["threads"] > first["threads"] + 2:
                self.fail(f"{last['threads']} threads at the end, {first['threads']} at the beginning")
            settled = [sample for sample in samples if sample["seconds"] > WARM_UP]
            third = len(settled) // 3
            of = lambda part: statistics.median(sample["anonymous_kib"] for sample in part)
            if third:
                second, last_third = of(settled[third : 2 * third]), of(settled[2 * third :])
                if last_third > second * 1.02 + 2048:
                    self.fail(f"memory grew: {second} KiB in the second third, {last_third} in the last")
                times, sizes = ([sample[key] for sample in settled] for key in ("seconds", "anonymous_kib"))
                slope = statistics.linear_regression(times, sizes).slope * 3600
                print(f"memory (anonymous): {first['anonymous_kib']} KiB at first; after {WARM_UP:.0f} s in thirds "
                      f"{of(settled[:third]):.0f}, {second:.0f}, {last_third:.0f}; {slope:+.0f} KiB an hour by a line through all")
            else:
                print("memory: too short a run to tell")
            print(f"descriptors: {first['descriptors']} at first, {last['descriptors']} at the end; threads {first['threads']}, {last['threads']}")
            print(f"tracker: {self.metric('btd_tracker_bytes') / 1024:.0f} KiB of {self.metric('btd_tracker_swarms'):.0f} torrents at the end, "
                  f"{self.metric('btd_tracker_swept_total'):.0f} peers forgotten")
            self.process.send_signal(signal.SIGTERM)
            if self.process.wait(30):
                self.fail(f"btd ended with {self.process.returncode}")
        spent = sum(os.times()[:4]) / (time.monotonic() - self.began)
        print(f"processor: {spent:.2f} of one, all of it together")
        for what, count in sorted(self.counts.items()):
            print(f"{count:10} {what}")
        log = (self.home / "seed.log").read_text()
        print(f"log: {log.count(' WARN ')} warnings, {log.count(' ERROR ')} errors, {log.count('panicked')} panics")
        if "panicked" in log:
            self.fail("btd panicked")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", default="target/release/btd")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", default="soak.jsonl")
    parser.add_argument("--rest", type=float, default=5)
    options = parser.parse_args()
    options.btd = str(Path(options.btd).resolve())
    with tempfile.TemporaryDirectory(prefix="btd-soak-") as folder:
        soak = Soak(options, Path(folder))
        try:
            soak.run(options.out)
        finally:
            process = getattr(soak, "process", None)
            if process and process.poll() is None:
                process.kill()
    sys.exit(bool(soak.wrong))


main()
