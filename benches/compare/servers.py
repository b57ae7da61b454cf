"""The servers under test: how each is set up, started, waited for and stopped. Each runs on CPU 0."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare.measure import place

# Checking the payload takes a server a while, longer on a slow disk.
START_SECONDS = 300
# More connections and upload slots than any case has.
PEERS = 20000

# btd with another gather-wait.
BTD_GATHERS = re.compile(r"btd-\d+[um]s")
# The floors: a bare loop by sendfile or out of memory, at once or after requests have gathered for so long.
FLOORS = re.compile(r"(memory-)?floor(-(?P<gather>\d+)us)?")

LIBTORRENT = """
import sys, time
import libtorrent as lt
torrent, data, port_file, peers = sys.argv[1:]
settings = lt.high_performance_seed()
settings.update({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False,
    "choking_algorithm": int(lt.choking_algorithm_t.fixed_slots_choker), "unchoke_slots_limit": -1,
    "connections_limit": int(peers), "max_peerlist_size": 0, "inactivity_timeout": 600, "peer_timeout": 600,
})
session = lt.session(settings)
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = data
params.flags = (params.flags | lt.torrent_flags.seed_mode) & ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
params.max_connections = int(peers)
params.max_uploads = int(peers)
session.add_torrent(params)
while not session.listen_port():
    time.sleep(0.05)
open(port_file, "w").write(str(session.listen_port()))
while True:
    time.sleep(3600)
"""

# It draws on a terminal unless it is a daemon; it stays in the foreground all the same. Chunks are mapped, and what is above
# the limit on that is not served until others are let go.
RTORRENT = """
system.daemon.set = true
session.path.set = "{folder}"
directory.default.set = "{data}"
network.bind_address.set = 127.0.0.1
network.port_range.set = {port}-{port}
network.port_random.set = no
network.max_open_sockets.set = {peers}
network.http.max_open.set = 1
throttle.max_peers.normal.set = {peers}
throttle.max_peers.seed.set = {peers}
throttle.max_uploads.set = {peers}
throttle.max_uploads.global.set = 0
throttle.global_up.max_rate.set_kb = 0
pieces.hash.on_completion.set = no
pieces.memory.max.set = {mapped}M
dht.mode.set = disable
protocol.pex.set = no
trackers.use_udp.set = no
load.start_verbose = "{torrent}"
"""

TRANSMISSION = {
    "peer-limit-global": PEERS,
    "peer-limit-per-torrent": PEERS,
    "upload-slots-per-torrent": PEERS,
    "speed-limit-up-enabled": False,
    "alt-speed-enabled": False,
    "ratio-limit-enabled": False,
    "idle-seeding-limit-enabled": False,
    "seed-queue-enabled": False,
    "dht-enabled": False,
    "lpd-enabled": False,
    "pex-enabled": False,
    "utp-enabled": False,
    "port-forwarding-enabled": False,
    "peer-port-random-on-start": False,
    "encryption": 0,
    "bind-address-ipv4": "127.0.0.1",
    "rpc-enabled": False,
    "watch-dir-enabled": True,
}

# The program of each server made by others that is one, and where to get it.
PROGRAMS = {
    "rtorrent": ("rtorrent", "apt install rtorrent"),
    "transmission": ("transmission-daemon", "apt install transmission-daemon"),
    "rqbit": ("rqbit", "cargo install rqbit"),
}


class Server:
    """A server process on CPU 0."""

    def __init__(self, name, folder, running, nice, port=None):
        self.name = name
        self.folder = folder
        self.running = running
        self.nice = nice
        self.port = port

    def run(self, *command):
        """Starts it. From here on it is among those to be stopped."""
        self.log = open(self.folder / "log", "wb")
        settle = lambda: place(0, self.nice)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.folder, preexec_fn=settle
        )
        self.running.append(self)

    def wait(self, what, find):
        """Waits until `find` returns something, and returns that."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = Path(self.log.name).read_text(errors="replace")[-2000:]
                sys.exit(f"{self.name}: {what}: not within {START_SECONDS} s, or it ended; its log:\n{tail}")
            try:
                found = find()
            except (OSError, ValueError, KeyError):
                found = None
            if found:
                return found
            time.sleep(0.05)

    def stop(self):
        if self not in self.running:
            return
        self.running.remove(self)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def refuse_missing(names, options):
    """Ends the run before it begins if a server is not known or not installed."""
    for name in names:
        if name in PROGRAMS:
            program, remedy = PROGRAMS[name]
            if not shutil.which(program):
                sys.exit(f"{name}: no {program} on this machine ({remedy})")
        elif name == "libtorrent":
            if subprocess.run([options.python, "-c", "import libtorrent"], stderr=subprocess.DEVNULL).returncode:
                sys.exit(f"{options.python} cannot import libtorrent (apt install python3-libtorrent, or pip install libtorrent)")
        elif name not in ("btd", "btd-buffered", "btd-direct") and not FLOORS.fullmatch(name) and not BTD_GATHERS.fullmatch(name):
            sys.exit(f"{name}: no such server (floor, memory-floor, memory-floor-500us, btd, btd-buffered, btd-direct, btd-500us, libtorrent, {', '.join(PROGRAMS)})")


def free_port():
    """For servers that cannot tell which port they took: one that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(name, options, home, torrent, data, running):
    """Starts a server and waits until it seeds all of the payload."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
    server = Server(name, folder, running, options.nice)
    begin = start_floor if FLOORS.fullmatch(name) else START.get(name, start_btd)
    begin(server, options, torrent, data)
    # Ready to listen is not ready to seed: the payload is checked first.
    server.wait("seeding", lambda: has_everything(server.port, torrent.read_bytes()))
    return server


def start_floor(server, options, torrent, data):
    port = server.folder / "port"
    more = ["--in-memory"] if server.name.startswith("memory-") else []
    if gather := FLOORS.fullmatch(server.name)["gather"]:
        more += ["--gather-ms", str(int(gather) / 1000)]
    server.run(options.btd, "bench", "floor-server", "--torrent", torrent, "--data", data, "--port-file", port, *more)
    server.port = server.wait("its port", lambda: int(port.read_text()))


def start_libtorrent(server, options, torrent, data):
    port = server.folder / "port"
    server.run(options.python, "-c", LIBTORRENT, torrent, data, port, str(PEERS))
    server.port = server.wait("its port", lambda: int(port.read_text()))


def start_btd(server, options, torrent, data):
    """btd, or btd with other settings: "btd-buffered" or "btd-direct" (read-mode), "btd-200us" (gather-wait)."""
    watch = server.folder / "watch"
    watch.mkdir()
    shutil.copy(torrent, watch)
    setting = server.name.partition("-")[2]
    mode, gather = ("auto", setting) if BTD_GATHERS.fullmatch(server.name) else (setting or "auto", "500us")
    (server.folder / "btd.toml").write_text(
        f'state-dir = "state"\n[peers]\nlisten = ["127.0.0.1:0"]\n'
        f"max-connections = {PEERS}\nmax-connections-per-torrent = {PEERS}\n"
        f'[shards]\ncount = 1\npin = false\ngather-wait = "{gather}"\n[storage]\nread-mode = "{mode}"\ncache-size = "{options.cache_size}"\n'
        f'[metrics]\nlisten = "127.0.0.1:0"\n[[watch]]\ndir = "watch"\ndata-dir = {json.dumps(str(data))}\n'
    )
    ports = server.folder / "state" / "ports.json"
    server.run(options.btd, "--config", server.folder / "btd.toml")
    server.port = server.wait("its port", lambda: json.loads(ports.read_text())["peers"][0])


def start_rtorrent(server, options, torrent, data):
    server.port = free_port()
    # It refuses a torrent without a tracker when there is no DHT either: it gets one where nobody listens.
    tracker = b"http://127.0.0.1:9/"
    tracked = server.folder / "tracked.torrent"
    tracked.write_bytes(b"d8:announce%d:%s" % (len(tracker), tracker) + torrent.read_bytes()[1:])
    session = server.folder / "session"
    session.mkdir()
    settings = server.folder / "rtorrent.rc"
    mapped = 1024 + int(options.size * 1024)
    settings.write_text(
        RTORRENT.format(folder=session, data=data, port=server.port, peers=PEERS, mapped=mapped, torrent=tracked)
    )
    server.run("rtorrent", "-n", "-o", f"import={settings}")


def start_transmission(server, options, torrent, data):
    server.port = free_port()
    watch = server.folder / "watch"
    watch.mkdir()
    shutil.copy(torrent, watch)
    settings = {**TRANSMISSION, "peer-port": server.port, "download-dir": str(data), "watch-dir": str(watch)}
    (server.folder / "settings.json").write_text(json.dumps(settings))
    server.run("transmission-daemon", "--foreground", "--config-dir", server.folder)


def start_rqbit(server, options, torrent, data):
    server.port = free_port()
    # One thread, as it has one core; it takes threads for the disk beside that.
    server.run(
        "rqbit", "--single-thread-runtime", "--disable-dht", "--disable-upnp-port-forward", "--disable-lsd",
        "--listen-ip", "127.0.0.1", "--listen-port", str(server.port), "--peer-limit", str(PEERS),
        "download", "--disable-http-api", "--overwrite", "--output-folder", data, torrent,
    )


START = {
    "rqbit": start_rqbit,
    "libtorrent": start_libtorrent,
    "rtorrent": start_rtorrent,
    "transmission": start_transmission,
}


def end_of(data, at):
    """Where the bencoded value at this place ends."""
    if data[at : at + 1] == b"i":
        return data.index(b"e", at) + 1
    if data[at : at + 1] in (b"l", b"d"):
        at += 1
        while data[at : at + 1] != b"e":
            at = end_of(data, at)
        return at + 1
    colon = data.index(b":", at)
    return colon + 1 + int(data[at:colon])


def fields(dictionary):
    """The entries of a bencoded dictionary, as they are written."""
    at, found = 1, {}
    while dictionary[at : at + 1] != b"e":
        value = end_of(dictionary, at)
        end = end_of(dictionary, value)
        found[dictionary[at:value]] = dictionary[value:end]
        at = end
    return found


def info_of(torrent):
    """The info-hash of a torrent, and how many pieces it has."""
    info = fields(torrent)[b"4:info"]
    hashes = fields(info)[b"6:pieces"]
    return hashlib.sha1(info).digest(), int(hashes[: hashes.index(b":")]) // 20


def receive(stream, length):
    """Exactly so many bytes."""
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def has_everything(port, torrent):
    """Whether the server says to a peer that it has every piece. It may say so in more than one message."""
    info_hash, count = info_of(torrent)
    have = set()
    with socket.create_connection(("127.0.0.1", port), timeout=2) as stream:
        stream.sendall(b"\x13BitTorrent protocol" + bytes(8) + info_hash + b"-BC0000-" + os.urandom(12))
        if receive(stream, 68)[28:48] != info_hash:
            raise ValueError("another torrent")
        while len(have) < count:
            # A server that has told all it has and is silent runs into the time limit: OSError.
            message = receive(stream, int.from_bytes(receive(stream, 4), "big"))
            if message[:1] == b"\x04":
                have.add(int.from_bytes(message[1:5], "big"))
            elif message[:1] == b"\x05":
                have.update(piece for piece in range(count) if message[1 + piece // 8] & 0x80 >> piece % 8)
    return True
