//! Whole runs against a floor server in the same process.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::super::floor::Floor;
use super::*;
use crate::hashing;
use crate::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use crate::proto::path::RelPath;

const PIECE_LEN: u32 = 32 * 1024;

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n + seed) * 31 + n / 253) as u8).collect()
}

fn torrent(name: &str, content: NewContent<'_>, payload: &[u8]) -> Metainfo {
    let hashes: Vec<[u8; 20]> = payload.chunks(PIECE_LEN as usize).map(hashing::sha1).collect();
    let new = NewTorrent::new(name, content, PIECE_LEN, &hashes);
    Metainfo::parse(&encode(&new)).unwrap()
}

/// A torrent of one file, written to `dir`.
fn single(dir: &Path, len: usize) -> Metainfo {
    let payload = bytes(len, 1);
    fs::write(dir.join("single"), &payload).unwrap();
    torrent("single", NewContent::File(len as u64), &payload)
}

/// Runs `load` against a floor server for the torrent, in this process.
fn against_floor(metainfo: &Metainfo, dir: &Path, load: impl FnOnce(SocketAddr) -> Load) -> Result<Report, Error> {
    against(metainfo, dir, false, load)
}

/// The same, with the payload in its memory or in files.
fn against(
    metainfo: &Metainfo,
    dir: &Path,
    in_memory: bool,
    load: impl FnOnce(SocketAddr) -> Load,
) -> Result<Report, Error> {
    let floor = Floor::bind(metainfo, dir, "127.0.0.1:0".parse().unwrap(), in_memory).unwrap();
    let load = load(floor.local_addr().unwrap());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| floor.run(&stop));
        let report = load.run(&Target::from(metainfo));
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
        report
    })
}

#[test]
fn a_swarm_gets_every_byte_right_from_the_floor_server() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 3_000_001);
    for in_memory in [false, true] {
        let report = against(&metainfo, dir.path(), in_memory, |server| Load {
            pid: Some(std::process::id()),
            connections: 20,
            queue: 8,
            verify: 1.0,
            until: Until::Bytes(40_000_000),
            busy: false,
            ..Load::new(server)
        })
        .unwrap();
        assert!(report.is_clean(), "{report}");
        assert!(report.bytes >= 40_000_000 && report.verified.good > 500, "{report}");
        assert_eq!(report.connections.ready_at_start, 20);
        assert!(report.latency.unwrap().max_ms > 0.0);
        assert!(report.server.unwrap().memory_peak.resident > 0);
    }
}

#[test]
fn files_and_pads_are_served_as_one_stretch_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (one, pad, two) = (bytes(50_000, 1), vec![0; 15_536], bytes(70_000, 2));
    fs::create_dir_all(dir.path().join("folder/sub")).unwrap();
    fs::write(dir.path().join("folder/one"), &one).unwrap();
    fs::write(dir.path().join("folder/empty"), []).unwrap();
    fs::write(dir.path().join("folder/sub/two"), &two).unwrap();
    let file = |path: &str, len: usize, pad| NewFile {
        path: RelPath::parse(path).unwrap(),
        len: len as u64,
        pad,
    };
    let files = [
        file("one", one.len(), false),
        file(".pad/15536", pad.len(), true),
        file("empty", 0, false),
        file("sub/two", two.len(), false),
    ];
    let metainfo = torrent("folder", NewContent::Folder(&files), &[one, pad, two].concat());
    for in_memory in [false, true] {
        let report = against(&metainfo, dir.path(), in_memory, |server| Load {
            connections: 4,
            threads: 2,
            verify: 1.0,
            order: Order::Sequential,
            block: 10_000,
            until: Until::Bytes(4_000_000),
            ..Load::new(server)
        })
        .unwrap();
        // Two of the four may be over before the other thread's two were served a block.
        let found = report.verified;
        assert!(
            found.good > 20 && found.bad == 0 && report.trouble.unasked == 0,
            "{report}"
        );
    }
}

#[test]
fn wrong_bytes_are_found_and_the_report_is_not_clean() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 300_000);
    fs::write(dir.path().join("single"), bytes(300_000, 2)).unwrap();
    let report = against_floor(&metainfo, dir.path(), |server| Load {
        verify: 1.0,
        until: Until::Bytes(3_000_000),
        ..Load::new(server)
    })
    .unwrap();
    assert!(
        report.verified.bad > 0 && report.verified.good == 0 && !report.is_clean(),
        "{report}"
    );
}

#[test]
fn run_of_which_nothing_was_verified_says_so_and_is_told_apart_where_it_was_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 300_000);
    for (verify, is_unverified, says) in [
        (1.0, false, " good, 0 BAD"),
        (0.0, false, "none were to be"),
        (1e-12, true, "NONE came whole"),
    ] {
        let report = against_floor(&metainfo, dir.path(), |server| Load {
            verify,
            until: Until::Bytes(3_000_000),
            ..Load::new(server)
        })
        .unwrap();
        assert_eq!(report.is_unverified(), is_unverified, "{report}");
        assert!(report.is_clean() && report.to_string().contains(says), "{report}");
    }
}

#[test]
fn paced_leechers_keep_their_rate() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 1_000_000);
    let report = against_floor(&metainfo, dir.path(), |server| Load {
        connections: 10,
        pace: Some(1_000_000.0),
        until: Until::Elapsed(Duration::from_millis(500)),
        busy: false,
        ..Load::new(server)
    })
    .unwrap();
    // A machine at its limit is late, but nobody asks for more than was said.
    assert!(
        report.is_clean() && report.bytes <= 5_200_000 && report.bytes > 500_000,
        "{report}"
    );
}

#[test]
fn an_idle_swarm_only_holds_its_connections() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 100_000);
    let report = against_floor(&metainfo, dir.path(), |server| Load {
        connections: 50,
        order: Order::Idle,
        until: Until::Elapsed(Duration::from_millis(50)),
        ..Load::new(server)
    })
    .unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.connections.open, report.bytes), (50, 0));
}

#[test]
fn a_server_that_is_not_there_ends_the_run_with_every_connection_lost() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 100_000);
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let load = Load {
        connections: 3,
        until: Until::Bytes(1),
        ..Load::new(gone)
    };
    let report = load.run(&Target::from(&metainfo)).unwrap();
    assert_eq!(report.connections.lost.get("connect failed"), Some(&3));
    assert!(!report.is_clean());
}

#[test]
fn a_server_process_that_is_gone_and_impossible_settings_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 100_000);
    let nobody = |change: fn(&mut Load)| {
        let mut load = Load::new("127.0.0.1:1".parse().unwrap());
        change(&mut load);
        load.run(&Target::from(&metainfo))
    };
    assert!(matches!(
        nobody(|load| load.pid = Some(u32::MAX)),
        Err(Error::Server(_))
    ));
    assert!(matches!(nobody(|load| load.block = 16_385), Err(Error::Setting(_))));
    assert!(matches!(nobody(|load| load.queue = 0), Err(Error::Setting(_))));
    assert!(matches!(nobody(|load| load.verify = f64::NAN), Err(Error::Setting(_))));
    assert!(matches!(nobody(|load| load.pace = Some(0.0)), Err(Error::Setting(_))));
    assert!(matches!(nobody(|load| load.threads = 2), Err(Error::Setting(_))));
    let idle_verifies = |load: &mut Load| (load.order, load.verify) = (Order::Idle, 1.0);
    assert!(matches!(nobody(idle_verifies), Err(Error::Setting(_))));
}
