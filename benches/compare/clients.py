"""The clients under test: how each is set up to download one torrent into an empty folder. Each runs on CPU 0.

Two kinds. Some can be told where the seeders are; the others have only trackers for that, and are called by the seeders.
Each has its defaults, but for what finds peers elsewhere, encrypts, or takes uTP: the harness speaks plain TCP.
"""

import json
import shutil
import subprocess

from compare.servers import PROGRAMS as SERVERS
from compare.servers import TRANSMISSION, free_port

LIBTORRENT = """
import sys, time
import libtorrent as lt
torrent, data, *peers = sys.argv[1:]
session = lt.session({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False,
    "in_enc_policy": int(lt.enc_policy.disabled), "out_enc_policy": int(lt.enc_policy.disabled),
})
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = data
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
handle = session.add_torrent(params)
while handle.status().state != lt.torrent_status.states.downloading:
    time.sleep(0.01)
for peer in peers:
    host, port = peer.rsplit(":", 1)
    handle.connect_peer((host, int(port)))
while True:
    time.sleep(3600)
"""

RTORRENT = """
system.daemon.set = true
session.path.set = "{folder}"
directory.default.set = "{data}"
network.bind_address.set = 127.0.0.1
network.port_range.set = {port}-{port}
network.port_random.set = no
dht.mode.set = disable
protocol.pex.set = no
trackers.use_udp.set = no
load.start_verbose = "{torrent}"
"""

QBITTORRENT = r"""
[LegalNotice]
Accepted=true

[BitTorrent]
Session\InterfaceAddress=127.0.0.1
Session\Interface=lo
Session\InterfaceName=lo
Session\Port={port}
Session\BTProtocol=TCP
Session\DHTEnabled=false
Session\LSDEnabled=false
Session\PeXEnabled=false
Session\QueueingSystemEnabled=false
Session\DefaultSavePath={data}

[Network]
PortForwardingEnabled=false

[Preferences]
WebUI\Enabled=true
WebUI\Address=127.0.0.1
WebUI\Port={control}
WebUI\LocalHostAuth=false
WebUI\UseUPnP=false
"""

# The program of each client that is not needed for seeding, and where to get it.
PROGRAMS = {
    **SERVERS,
    "aria2": ("aria2c", "apt install aria2"),
    "qbittorrent": ("qbittorrent-nox", "apt install qbittorrent-nox"),
}

# Those that are told where the seeders are.
TOLD = ("btd", "libtorrent")


def lacking(name, options):
    """What a client lacks to be measured here, or nothing."""
    if name in PROGRAMS and not shutil.which(PROGRAMS[name][0]):
        return "no {} on this machine ({})".format(*PROGRAMS[name])
    if name == "libtorrent" and subprocess.run([options.python, "-c", "import libtorrent"], stderr=subprocess.DEVNULL).returncode:
        return f"{options.python} cannot import it (pip install libtorrent)"
    return None


def start_btd(client, options, torrent, data, seeders):
    watch = client.folder / "watch"
    watch.mkdir()
    shutil.copy(torrent, watch)
    (client.folder / "btd.toml").write_text(
        f'state-dir = "state"\n[peers]\nlisten = ["127.0.0.1:0"]\n[shards]\ncount = 1\npin = false\n'
        f'[metrics]\nlisten = "127.0.0.1:0"\n[[watch]]\ndir = "watch"\ndata-dir = {json.dumps(str(data))}\n'
        f"peers = {json.dumps(seeders)}\n"
    )
    client.run(*client.named(options.btd, "--config", client.folder / "btd.toml"))


def start_libtorrent(client, options, torrent, data, seeders):
    client.run(*client.named(options.python, "-c", LIBTORRENT, torrent, data, *seeders))


def start_transmission(client, options, torrent, data, seeders):
    watch = client.folder / "watch"
    watch.mkdir()
    shutil.copy(torrent, watch)
    settings = {**TRANSMISSION, "peer-port": client.port, "download-dir": str(data), "watch-dir": str(watch)}
    for key in [key for key in settings if "limit" in key or "slots" in key]:
        del settings[key]
    (client.folder / "settings.json").write_text(json.dumps(settings))
    client.run("transmission-daemon", "--foreground", "--config-dir", client.folder)


def start_aria2(client, options, torrent, data, seeders):
    # It writes all of a file beforehand unless it is told not to, and ends when it has seeded as much.
    client.run(
        "aria2c", "--no-conf", "--console-log-level=warn", "--summary-interval=0", f"--dir={data}",
        f"--listen-port={client.port}", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
        "--enable-peer-exchange=false", "--file-allocation=none", "--seed-ratio=0.0", torrent,
    )


def start_qbittorrent(client, options, torrent, data, seeders):
    config = client.folder / "qBittorrent" / "config"
    config.mkdir(parents=True)
    settings = QBITTORRENT.format(port=client.port, data=data, control=free_port())
    (config / "qBittorrent.conf").write_text(settings)
    client.run("qbittorrent-nox", f"--profile={client.folder}", "--skip-dialog=true", f"--save-path={data}", torrent)


def start_rtorrent(client, options, torrent, data, seeders):
    # It refuses a torrent without a tracker when there is no DHT either: it gets one where nobody listens.
    tracker = b"http://127.0.0.1:9/"
    tracked = client.folder / "tracked.torrent"
    tracked.write_bytes(b"d8:announce%d:%s" % (len(tracker), tracker) + torrent.read_bytes()[1:])
    session = client.folder / "session"
    session.mkdir()
    settings = client.folder / "rtorrent.rc"
    settings.write_text(RTORRENT.format(folder=session, data=data, port=client.port, torrent=tracked))
    client.run("rtorrent", "-n", "-o", f"import={settings}")


def start_rqbit(client, options, torrent, data, seeders):
    # One thread, as it has one core; it takes threads for the disk beside that.
    client.run(
        "rqbit", "--single-thread-runtime", "--disable-dht", "--disable-upnp-port-forward", "--disable-lsd",
        "--listen-ip", "127.0.0.1", "--listen-port", str(client.port),
        "download", "--disable-http-api", "--overwrite", "--output-folder", data, torrent,
    )


START = {
    "btd": start_btd,
    "libtorrent": start_libtorrent,
    "transmission": start_transmission,
    "aria2": start_aria2,
    "qbittorrent": start_qbittorrent,
    "rtorrent": start_rtorrent,
    "rqbit": start_rqbit,
}
