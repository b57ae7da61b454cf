"""Seeds torrents with libtorrent 2.1 until it is killed.

    libtorrent_seed.py --listen IP:PORT [--rate BYTES] TORRENT FOLDER [TORRENT FOLDER]...
"""

import argparse

import libtorrent as lt


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--rate", type=int, default=0, help="bytes a second that are uploaded at most")
    parser.add_argument("pairs", nargs="+")
    args = parser.parse_args()

    session = lt.session({
        "listen_interfaces": args.listen,
        "outgoing_interfaces": args.listen.rsplit(":", 1)[0],
        "upload_rate_limit": args.rate,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
    })
    for torrent, folder in zip(args.pairs[::2], args.pairs[1::2]):
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(torrent)
        params.save_path = folder
        params.trackers = []
        params.flags |= lt.torrent_flags.disable_pex | lt.torrent_flags.seed_mode
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        session.add_torrent(params)
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            print(alert.message(), flush=True)


if __name__ == "__main__":
    main()
