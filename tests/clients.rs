//! Five other people's clients download whole torrents from btd, and every byte is compared by hash.
//!
//! Each test gets its own private network, tracker and btd. The payload (1.3 GiB) is made once, into `target/tmp`; a
//! client's downloads are deleted as soon as they are compared.

mod support;

use std::path::{Path, PathBuf};
use support::btd::{Btd, Config};
use support::client::Client;
use support::payload::Payload;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{private_net, skip, within};

/// For one client to get everything, with a debug build, on a slow disk.
const DOWNLOAD_SECONDS: u64 = 240;

#[test]
fn libtorrent_downloads_everything() {
    private_net::run("libtorrent_downloads_everything", || {
        downloads_everything(Client::Libtorrent)
    });
}

#[test]
fn qbittorrent_downloads_everything() {
    private_net::run("qbittorrent_downloads_everything", || {
        downloads_everything(Client::Qbittorrent)
    });
}

#[test]
fn transmission_downloads_everything() {
    private_net::run("transmission_downloads_everything", || {
        downloads_everything(Client::Transmission)
    });
}

#[test]
fn rtorrent_downloads_everything() {
    private_net::run("rtorrent_downloads_everything", || {
        downloads_everything(Client::Rtorrent)
    });
}

#[test]
fn aria2_downloads_everything() {
    private_net::run("aria2_downloads_everything", || downloads_everything(Client::Aria2));
}

#[test]
fn libtorrent_downloads_however_payload_is_read() {
    private_net::run("libtorrent_downloads_however_payload_is_read", || {
        if let Some(why) = Client::Libtorrent.missing() {
            return skip(&why);
        }
        let many = Payload::many_files();
        for (read_mode, cache_size, shards) in [
            ("direct", "16 MiB", 1),
            ("direct", "off", 4),
            ("buffered", "16 MiB", 4),
            ("buffered", "off", 1),
        ] {
            let scratch = Scratch::new("modes");
            let config = Config {
                shards,
                zero_copy: true,
                more: format!("[storage]\nread-mode = \"{read_mode}\"\ncache-size = \"{cache_size}\"\n"),
                ..Config::default()
            };
            let seed = Seed::start_with(config, &scratch, &[(&many, &[256 << 10])]);
            download_and_compare(Client::Libtorrent, scratch.path(), &seed);
            // The addresses are not of the loopback network, though the route is.
            let tried = seed.btd.metric("btd_uring_zero_copy_copied_total");
            assert!(tried >= 1.0, "no connection was tried with zero copy");
            seed.stop_after_uploading(many.len());
        }
    });
}

#[test]
fn five_clients_download_the_same_torrent_at_once() {
    private_net::run("five_clients_download_the_same_torrent_at_once", || {
        for client in Client::ALL {
            if let Some(why) = client.missing() {
                return skip(&why);
            }
        }
        let scratch = Scratch::new("five");
        let payload = Payload::big_file();
        let seed = Seed::start(&scratch, &[(&payload, &[1 << 20])]);
        std::thread::scope(|scope| {
            let (scratch, seed) = (scratch.path(), &seed);
            for client in Client::ALL {
                scope.spawn(move || download_and_compare(client, scratch, seed));
            }
        });
        seed.stop_after_uploading(5 * payload.len());
    });
}

/// The 1 GiB torrent and the 2,000 files at three piece lengths, all at the same time from one btd.
fn downloads_everything(client: Client) {
    if let Some(why) = client.missing() {
        return skip(&why);
    }
    let scratch = Scratch::new(&format!("{client:?}"));
    let (big, many) = (Payload::big_file(), Payload::many_files());
    let seed = Seed::start(
        &scratch,
        &[(&big, &[1 << 20]), (&many, &[16 << 10, 256 << 10, 16 << 20])],
    );
    download_and_compare(client, scratch.path(), &seed);
    seed.stop_after_uploading(big.len() + 3 * many.len());
}

fn download_and_compare(client: Client, scratch: &Path, seed: &Seed) {
    let torrents: Vec<Torrent> = seed.torrents.iter().map(|(torrent, _)| torrent.clone()).collect();
    let saved = client.download(scratch, &torrents, seed.btd.peers, within(DOWNLOAD_SECONDS));
    for (save, (_, payload)) in saved.iter().zip(&seed.torrents) {
        payload.assert_same(save, client.makes_empty_files());
        std::fs::remove_dir_all(save).expect("delete a download");
    }
}

/// btd with torrents of some payloads, and what each torrent holds.
struct Seed<'a> {
    btd: Btd,
    torrents: Vec<(Torrent, &'a Payload)>,
}

impl<'a> Seed<'a> {
    /// One torrent for each piece length of each payload. Torrents of one payload share their data folder.
    fn start(scratch: &Scratch, payloads: &[(&'a Payload, &[u32])]) -> Self {
        Self::start_with(Config::default(), scratch, payloads)
    }

    /// The same, with shards and storage as the configuration has them.
    fn start_with(config: Config, scratch: &Scratch, payloads: &[(&'a Payload, &[u32])]) -> Self {
        let mut torrents = Vec::new();
        let mut watch: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (number, (payload, piece_lens)) in payloads.iter().enumerate() {
            let dir = scratch.dir(&format!("watch-{number}"));
            for piece_len in *piece_lens {
                let path = dir.join(format!("{piece_len}.torrent"));
                torrents.push((Torrent::create(&payload.path(), *piece_len, path), *payload));
            }
            watch.push((dir, payload.data_dir.clone()));
        }
        let config = Config {
            listen: private_net::SEED,
            watch,
            ..config
        };
        let btd = Btd::start(&scratch.dir("btd"), &config);
        btd.wait_seeding(torrents.len());
        Self { btd, torrents }
    }

    /// Stops btd cleanly, after a look at its own count of what it sent.
    fn stop_after_uploading(self, bytes: u64) {
        // Shards publish their counts a few times a second.
        support::wait_for(
            "btd counts what was downloaded as uploaded",
            support::within(10),
            || (self.btd.metric("btd_uploaded_bytes_total") >= bytes as f64).then_some(()),
        );
        self.btd.stop();
    }
}
