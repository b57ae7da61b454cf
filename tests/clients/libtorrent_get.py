"""Downloads torrents with libtorrent 2.1 from one given peer, or from those that a tracker names, and ends when every byte is
in its file.

    libtorrent_get.py --listen IP:PORT (--peer IP:PORT | --tracker URL) TORRENT FOLDER [TORRENT FOLDER]...
"""

import argparse
import sys
import time

import libtorrent as lt


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--tracker")
    parser.add_argument("pairs", nargs="+")
    args = parser.parse_args()

    session = lt.session({
        "listen_interfaces": args.listen,
        "outgoing_interfaces": args.listen.rsplit(":", 1)[0],
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # A peer that hangs up is come back to at once, and not after a minute.
        "min_reconnect_time": 1,
        "alert_mask": lt.alert.category_t.error_notification
        | lt.alert.category_t.status_notification
        | lt.alert.category_t.connect_notification
        | lt.alert.category_t.storage_notification,
    })
    handles = []
    for torrent, folder in zip(args.pairs[::2], args.pairs[1::2]):
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(torrent)
        params.save_path = folder
        # The peer is given, or one tracker: no other and no peer exchange is asked.
        params.trackers = [args.tracker] if args.tracker else []
        params.flags |= lt.torrent_flags.disable_pex
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        handle = session.add_torrent(params)
        if args.peer:
            host, port = args.peer.rsplit(":", 1)
            handle.connect_peer((host, int(port)))
        handles.append(handle)

    said = 0.0
    while not all(handle.status().is_seeding for handle in handles):
        session.wait_for_alert(200)
        for alert in session.pop_alerts():
            print(alert.message(), flush=True)
        if time.monotonic() > said + 5:
            said = time.monotonic()
            print(["%.1f %% of %d peers" % (s.progress * 100, s.num_peers) for s in (h.status() for h in handles)], flush=True)

    # "Seeding" does not mean written: up to some tens of MiB are still in its own queue.
    unflushed = set()
    for handle in handles:
        handle.flush_cache()
        unflushed.add(handle.info_hashes().v1)
    while unflushed:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            print(alert.message(), flush=True)
            if isinstance(alert, lt.cache_flushed_alert):
                unflushed.discard(alert.handle.info_hashes().v1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
