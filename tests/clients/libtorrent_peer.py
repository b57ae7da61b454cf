"""One peer of a swarm with libtorrent 2.1, which tells one tracker of all it does and is driven by signals.

    libtorrent_peer.py --listen IP:PORT --tracker URL [--hold] TORRENT FOLDER

With --hold it announces itself and asks for nothing until SIGUSR1. SIGTERM has it leave: it ends when the tracker has
answered that.
"""

import argparse
import signal
import sys

import libtorrent as lt

signals = set()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--tracker", required=True)
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("torrent")
    parser.add_argument("folder")
    args = parser.parse_args()
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.add(number))

    session = lt.session({
        "listen_interfaces": args.listen,
        "outgoing_interfaces": args.listen.rsplit(":", 1)[0],
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": lt.alert.category_t.error_notification
        | lt.alert.category_t.status_notification
        | lt.alert.category_t.tracker_notification
        | lt.alert.category_t.connect_notification,
    })
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(args.torrent)
    params.save_path = args.folder
    params.trackers = [args.tracker]
    params.flags |= lt.torrent_flags.disable_pex
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if args.hold:
        params.flags |= lt.torrent_flags.upload_mode
    handle = session.add_torrent(params)

    is_leaving, last = False, None
    while True:
        if signal.SIGUSR1 in signals:
            signals.discard(signal.SIGUSR1)
            handle.unset_flags(lt.torrent_flags.upload_mode)
            handle.force_reannounce(0, -1, lt.reannounce_flags_t.ignore_min_interval)
        if signal.SIGTERM in signals and not is_leaving:
            is_leaving = True
            handle.pause()
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            print(alert.message(), flush=True)
            if isinstance(alert, lt.tracker_announce_alert):
                last = alert.event
            if is_leaving and isinstance(alert, lt.tracker_reply_alert) and last == lt.event_t.stopped:
                return 0


if __name__ == "__main__":
    sys.exit(main())
