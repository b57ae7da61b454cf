//! Thousands of torrents that nobody wants, and peers that then want one: what a start does not read, what is looked at before
//! the first byte, and files that outnumber descriptors.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use btd::hashing::sha1;
use btd::proto::InfoHash;
use btd::proto::handshake::Reserved;
use btd::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use btd::proto::path::RelPath;
use support::btd::{Btd, Config};
use support::peer::{Peer, hello};
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, parameter};
use support::{age, wait_for, within};

const PIECE_LEN: u32 = 16 << 10;
/// Long enough for a machine that runs all tests at once.
const SECONDS: u64 = 120;
/// Enough that most of them rest from their first check on.
const COUNT: usize = 1500;

struct Library {
    scratch: Scratch,
    torrents: PathBuf,
    data: PathBuf,
    hashes: Vec<InfoHash>,
}

fn content() -> Vec<u8> {
    (0..PIECE_LEN + 5).map(|at| (at * 31 + at / 251) as u8).collect()
}

impl Library {
    /// So many torrents of one file each. All files are one, by many names.
    fn new(name: &str, count: usize) -> Self {
        Self::with_tracker(name, count, "http://127.0.0.1:9/announce")
    }

    /// The same with this tracker in each.
    fn with_tracker(name: &str, count: usize, tracker: &str) -> Self {
        let scratch = Scratch::new(name);
        let (torrents, data) = (scratch.dir("torrents"), scratch.dir("data"));
        let content = content();
        let origin = scratch.path().join("origin");
        fs::write(&origin, &content).expect("write the payload");
        age(&origin);
        let piece_hashes: Vec<[u8; 20]> = content.chunks(PIECE_LEN as usize).map(sha1).collect();
        let hashes = (0..count).map(|number| {
            let name = format!("number {number:05}");
            fs::hard_link(&origin, data.join(&name)).expect("link the payload");
            let torrent = encode(&NewTorrent {
                announce: &[vec![tracker.to_owned()]],
                ..NewTorrent::new(&name, NewContent::File(content.len() as u64), PIECE_LEN, &piece_hashes)
            });
            fs::write(torrents.join(format!("{name}.torrent")), &torrent).expect("write a torrent");
            Metainfo::parse(&torrent).expect("a torrent").info_hash
        });
        let hashes = hashes.collect();
        Self {
            scratch,
            torrents,
            data,
            hashes,
        }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn start(&self) -> Btd {
        self.start_at("warn")
    }

    /// With all lines of this level and above.
    fn start_at(&self, log_level: &'static str) -> Btd {
        let config = Config {
            watch: vec![(self.torrents.clone(), self.data.clone())],
            log_level,
            // Trackers of tests are on this machine.
            more: "[announce]\nallow-private = true\n".to_owned(),
            ..Config::default()
        };
        Btd::start(self.path(), &config)
    }

    fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command
            .args(["ctl", "--config"])
            .arg(self.path().join("btd.toml"))
            .args(args);
        let output = command.output().expect("run btd ctl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Reads a torrent's payload as a peer does.
    fn check_served(&self, btd: &Btd, number: usize) {
        let reserved = Reserved::OURS;
        let peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, self.hashes[number], reserved);
        let mut peer = peer.expect("its handshake is answered");
        peer.hear_id(1).expect("unchoked");
        let block = peer.fetch(0, 0, PIECE_LEN).expect("a block");
        assert!(block == content()[..PIECE_LEN as usize], "torrent {number}");
        assert_eq!(peer.fetch(1, 0, 5).expect("the last"), content()[PIECE_LEN as usize..]);
    }
}

#[test]
fn thousands_of_torrents_start_as_they_were_and_each_is_served_to_who_wants_it() {
    let library = Library::new("many", COUNT);
    let btd = library.start();
    btd.wait_seeding(COUNT);
    for number in [0, COUNT / 2, COUNT - 1] {
        library.check_served(&btd, number);
    }
    btd.stop();

    let btd = library.start();
    // They are seeded as soon as btd is ready: nothing is waited for.
    assert_eq!(btd.metric("btd_torrents{state=\"seeding\"}"), COUNT as f64);
    let list = library.ctl(&["list", "--json"]);
    assert_eq!(list.lines().count(), COUNT);
    let shown = library.ctl(&["show", &library.hashes[3].to_string(), "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(
        (shown["state"].as_str(), shown["have_count"].as_u64()),
        (Some("seeding"), Some(2))
    );
    for number in (0..COUNT).step_by(COUNT / 40) {
        library.check_served(&btd, number);
    }
    // More at once than are kept for nobody, some of them for the second time.
    let held: Vec<Peer> = (0..300)
        .map(|number| {
            // No address has more than it may.
            let source = Ipv4Addr::new(127, 0, 2, (number / 50) as u8 + 1);
            let peer = Peer::join(btd.peers, source, library.hashes[number], Reserved::OURS);
            peer.expect("its handshake is answered")
        })
        .collect();
    drop(held);
    assert_eq!(
        btd.metric("btd_check_read_bytes_total"),
        0.0,
        "nothing was read to see that it is right"
    );
    assert_eq!(btd.metric("btd_torrents{state=\"seeding\"}"), COUNT as f64);
    // The shards keep no more of them than they may, and none for long once there are too many.
    wait_for("those that nobody wants rest again", within(SECONDS), || {
        (btd.metric("btd_torrents_loaded") <= 256.0).then_some(())
    });
    for number in [5, COUNT - 5] {
        library.check_served(&btd, number);
    }
    btd.stop();
}

#[test]
fn file_that_was_changed_while_btd_was_down_is_not_served_before_it_is_checked() {
    let library = Library::new("changed", 3);
    let btd = library.start();
    btd.wait_seeding(3);
    btd.stop();
    let mut damaged = content();
    damaged[7] ^= 1;
    let file = library.data.join("number 00001");
    fs::remove_file(&file).expect("remove a name");
    fs::write(&file, &damaged).expect("write another file");
    fs::remove_file(library.data.join("number 00002")).expect("remove a name");

    let btd = library.start();
    // Wanted at once, before anything was looked at: its files are, and then it is turned away.
    let mut early = Peer::connect(btd.peers, Ipv4Addr::LOCALHOST).expect("connected");
    early.send(&hello(library.hashes[1], Reserved::OURS)).expect("sent");
    wait_for("what is there of the others is known", within(SECONDS), || {
        let count = |state: &str| btd.metric(&format!("btd_torrents{{state=\"{state}\"}}")) as u64;
        // It was whole once, and is not downloaded again by itself.
        ([count("seeding"), count("partial"), count("missing")] == [1, 1, 1]).then_some(())
    });
    library.check_served(&btd, 0);
    let log = btd.process.log();
    assert!(log.contains("may not be what it was when it was checked"), "{log}");
    assert!(log.contains("was changed") && log.contains("missing"), "{log}");
    btd.stop();
}

/// How many lines there are that begin so, and how many of this kind the log has only counted.
fn told(log: &str, line: &str, kind: &str) -> (usize, usize) {
    let written = log.lines().filter(|text| text.contains(line)).count();
    let counted = log.lines().filter_map(|text| {
        let (before, after) = text.split_once(" more in ")?;
        let (_, what) = after.split_once(" s: ")?;
        let what = what
            .strip_suffix(" (hint: --log-level debug names each)")
            .unwrap_or(what);
        let count = before.rsplit_once("... and ")?.1.parse::<usize>();
        (what == kind).then(|| count.expect("a number"))
    });
    (written, counted.sum())
}

/// The journal drops lines of who writes too many, whichever they are.
#[test]
fn few_of_hundreds_of_torrents_have_lines_of_their_own_and_the_rest_is_counted() {
    const COUNT: usize = 200;
    let library = Library::new("quiet", COUNT);
    let start = Instant::now();
    let most = || 20 * (start.elapsed().as_secs() as usize / 10 + 1);
    let btd = library.start_at("info");
    btd.wait_seeding(COUNT);
    let log = || fs::read_to_string(library.path().join("btd.log")).expect("the log");
    let wait_told = |line: &str, kind: &str| {
        let (written, counted) = wait_for("all are told of", within(SECONDS), || {
            let (written, counted) = told(&log(), line, kind);
            (written + counted >= COUNT).then_some((written, counted))
        });
        assert!((1..=most()).contains(&written), "{written}");
        assert_eq!(written + counted, COUNT);
    };
    library.ctl(&["pause", "--all"]);
    // All come at once, and nothing after them that could end their window: it is time that does.
    wait_told("INFO paused \"number ", "torrents paused");
    wait_told("INFO seeding \"number ", "torrents seeding");
    // The end tells the rest of what has just begun.
    library.ctl(&["resume", "--all"]);
    btd.stop();
    let (written, counted) = told(&log(), "INFO resumed \"number ", "torrents resumed");
    assert!((1..=most()).contains(&written), "{written}");
    assert_eq!(written + counted, COUNT);
    let line = log()
        .lines()
        .find(|line| line.ends_with("names each)"))
        .map(str::to_owned);
    assert!(line.is_some_and(|line| line.contains("INFO ... and ")));

    let btd = library.start_at("debug");
    library.ctl(&["pause", "--all"]);
    btd.stop();
    let named = |level: &str| told(&log(), &format!("{level} paused \"number "), "torrents paused");
    let ((written, counted), (at_debug, _)) = (named("INFO"), named("DEBUG"));
    assert_eq!((at_debug, written + counted), (counted, COUNT), "each is named");
    assert!(written <= most());
}

#[test]
fn torrents_that_rest_are_announced_as_seeds_and_taken_back() {
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let library = Library::with_tracker("announced", 300, &stub.url());
    let btd = library.start();
    btd.wait_seeding(300);
    btd.stop();
    let before = stub.requests().len();
    let btd = library.start();
    // The first start may have announced some of them, and those are not asked for again before their time: most are new.
    let of_this = |event: &str| {
        let requests = stub.requests();
        let event = format!("event={event}");
        let has = |request: &&String| request.contains(&event) && parameter(request, "left") == Some("0");
        requests[before..].iter().filter(has).count()
    };
    wait_for("they are announced", within(SECONDS), || {
        (of_this("started") >= 100).then_some(())
    });
    library.check_served(&btd, 7);
    btd.stop();
    assert!(of_this("stopped") >= 100, "{} were taken back", of_this("stopped"));
}

/// A few hundred are told in each turn of the supervisor.
#[test]
fn thousands_of_torrents_wait_for_their_folder_and_come_back_with_it() {
    let library = Library::new("many-lost", COUNT);
    let btd = library.start();
    btd.wait_seeding(COUNT);
    let count = |state: &str, count: usize| {
        wait_for(&format!("{count} are {state}"), within(SECONDS), || {
            (btd.metric(&format!("btd_torrents{{state=\"{state}\"}}")) == count as f64).then_some(())
        });
    };
    let read = btd.metric("btd_check_read_bytes_total");
    let away = library.path().join("away");
    fs::rename(&library.data, &away).expect("move the folder");
    count("unavailable", COUNT);
    assert!(
        Peer::join(
            btd.peers,
            Ipv4Addr::LOCALHOST,
            library.hashes[COUNT - 1],
            Reserved::OURS
        )
        .is_err()
    );
    fs::rename(&away, &library.data).expect("move it back");
    count("seeding", COUNT);
    for number in [0, COUNT - 1] {
        library.check_served(&btd, number);
    }
    assert_eq!(btd.metric("btd_check_read_bytes_total"), read, "nothing was read again");
    btd.stop();
}

#[test]
fn torrent_whose_file_goes_while_it_rests_is_gone() {
    let library = Library::new("gone", 2);
    let btd = library.start();
    btd.wait_seeding(2);
    btd.stop();
    let btd = library.start();
    fs::remove_file(library.torrents.join("number 00001.torrent")).expect("removed");
    wait_for("it is gone", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
    });
    let mut peer = Peer::connect(btd.peers, Ipv4Addr::LOCALHOST).expect("connected");
    peer.send(&hello(library.hashes[1], Reserved::OURS)).expect("sent");
    peer.wait_closed("a peer of what is gone", within(SECONDS));
    library.check_served(&btd, 0);
    btd.stop();
}

/// 100,000 files under a limit of 4,096 are the same with larger numbers: a shard holds a bounded number open, and closes the
/// one used longest ago.
#[test]
fn more_files_are_served_than_may_be_open() {
    const FILES: u32 = 1200;
    const LIMIT: usize = 560;
    let scratch = Scratch::new("descriptors");
    let (torrents, data) = (scratch.dir("torrents"), scratch.dir("data"));
    let folder = data.join("folder");
    fs::create_dir(&folder).expect("make a folder");
    let contents: Vec<Vec<u8>> = (0..FILES)
        .map(|file| (0..PIECE_LEN).map(|at| (at * 7 + file * 13 + at / 256) as u8).collect())
        .collect();
    let mut files = Vec::new();
    for (file, content) in (0..).zip(&contents) {
        let name = format!("{file:05}");
        fs::write(folder.join(&name), content).expect("write a file");
        age(&folder.join(&name));
        files.push(NewFile {
            path: RelPath::parse(&name).expect("a name"),
            len: content.len() as u64,
            pad: false,
        });
        assert_eq!(file, files.len() - 1);
    }
    let piece_hashes: Vec<[u8; 20]> = contents.iter().map(|content| sha1(content)).collect();
    let torrent = encode(&NewTorrent::new(
        "folder",
        NewContent::Folder(&files),
        PIECE_LEN,
        &piece_hashes,
    ));
    fs::write(torrents.join("folder.torrent"), &torrent).expect("write a torrent");
    let info_hash = Metainfo::parse(&torrent).expect("a torrent").info_hash;

    let config = Config {
        watch: vec![(torrents, data)],
        // A cache that holds a part of them only.
        more: "[storage]\ncache-size = \"32 MiB\"\n".to_owned(),
        ..Config::default()
    };
    let mut command = Command::new("prlimit");
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    command.args([limit.as_str(), "--", env!("CARGO_BIN_EXE_btd")]);
    let btd = Btd::start_within(command, scratch.path(), &config);
    btd.wait_seeding(1);
    let mut most = 0;
    // Two shards: some peers meet the one, some the other.
    for round in 0..4_u8 {
        let source = Ipv4Addr::new(127, 0, 1, round + 1);
        let mut peer = Peer::join(btd.peers, source, info_hash, Reserved::OURS).expect("its handshake is answered");
        peer.hear_id(1).expect("unchoked");
        for file in 0..FILES {
            let piece = (file * 7 + u32::from(round)) % FILES;
            let block = peer.fetch(piece, 0, PIECE_LEN).expect("a block");
            assert!(block == contents[piece as usize], "file {piece}");
            if file % 100 == 0 {
                let open = fs::read_dir(format!("/proc/{}/fd", btd.process.pid())).expect("listed");
                most = most.max(open.count());
            }
        }
    }
    assert!(most <= LIMIT, "{most} descriptors");
    assert_eq!(btd.metric("btd_disk_errors_total"), 0.0);
    btd.stop();
}
