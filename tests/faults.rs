//! Payload that goes bad while it is served: its own pieces are rejected and no longer offered, everything else goes on.

mod support;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fs, io};

use btd::harness::Target;
use btd::harness::load::{Load, Until, raise_open_files};
use btd::proto::handshake::Reserved;
use btd::proto::metainfo::Metainfo;
use btd::proto::wire::{self, Message};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::btd::{Btd, Config};
use support::fault_fs::{self, EIO, ENOENT, FaultFs, Op, Rule};
use support::payload::Payload;
use support::peer::Peer;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, skip, touch, wait_for, within};

const PIECE_LEN: u32 = 256 << 10;
const BLOCK_LEN: u32 = 16 << 10;
const BLOCKS_PER_PIECE: u32 = PIECE_LEN / BLOCK_LEN;
const PIECES: u32 = 64;
const LEN: usize = (PIECES * PIECE_LEN) as usize;

/// Numbers of messages.
const BITFIELD: u8 = 5;
const PIECE: u8 = 7;
const REJECT: u8 = 16;

/// Fast extension, BEP 6.
const FAST: Reserved = Reserved([0, 0, 0, 0, 0, 0, 0, 4]);

/// The payload that goes bad: no two blocks of it are alike.
fn contents() -> Vec<u8> {
    let words = (0..LEN as u64 / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.flatten().collect()
}

fn write_aged(file: &Path, contents: &[u8]) {
    fs::write(file, contents).expect("write payload");
    age(file);
}

fn metainfo(torrent: &Torrent) -> Metainfo {
    Metainfo::parse(&fs::read(&torrent.path).expect("read a torrent")).expect("a torrent of our own")
}

/// A flag that is raised when this is dropped, in a panic too.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a peer was answered that had asked for every block.
struct Answers {
    /// Pieces of which some block was rejected.
    rejected: BTreeSet<u32>,
    /// Pieces of which all blocks came, right.
    whole: BTreeSet<u32>,
}

/// btd with a torrent that goes bad and one that does not.
struct Ward {
    btd: Btd,
    contents: Vec<u8>,
    sick: Torrent,
    well: Torrent,
}

impl Ward {
    /// `file` is the payload that will go bad.
    fn open(scratch: &Scratch, file: &Path, contents: Vec<u8>) -> Ward {
        raise_open_files();
        let (data, watch, sick_watch) = (scratch.dir("data"), scratch.dir("watch"), scratch.dir("sick-watch"));
        let payload = Payload::make(&data, "well", 3, &[("well".to_owned(), 32 << 20)]);
        let well = Torrent::create(&payload.path(), PIECE_LEN, watch.join("well.torrent"));
        let sick = Torrent::create(file, PIECE_LEN, sick_watch.join("sick.torrent"));
        let folder = file.parent().expect("a file in a folder").to_owned();
        let config = Config {
            watch: vec![(watch, data), (sick_watch, folder)],
            more: "[storage]\ncache-size = \"16 MiB\"\n".to_owned(),
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        btd.wait_seeding(2);
        Ward {
            btd,
            contents,
            sick,
            well,
        }
    }

    /// A peer of the sick torrent that has been told what there is and been unchoked. While its payload is checked again
    /// peers are turned away, and come back.
    fn peer(&self) -> (Peer, BTreeSet<u32>) {
        wait_for("a peer is let in", within(30), || self.try_peer().ok())
    }

    fn try_peer(&self) -> io::Result<(Peer, BTreeSet<u32>)> {
        let info_hash = metainfo(&self.sick).info_hash;
        let mut peer = Peer::join(self.btd.peers, Ipv4Addr::LOCALHOST, info_hash, FAST)?;
        peer.say(&Message::HaveNone)?;
        let have_all = 14;
        let offered = loop {
            let message = peer.hear()?;
            match message.first() {
                Some(&BITFIELD) => {
                    let has = |piece: &u32| message[1 + *piece as usize / 8] & (0x80 >> (piece % 8)) != 0;
                    break (0..PIECES).filter(has).collect();
                }
                Some(&id) if id == have_all => break (0..PIECES).collect(),
                _ => {}
            }
        };
        peer.hear_id(1)?;
        Ok((peer, offered))
    }

    /// A peer asks for everything, `harm` is done when the first block has come, and all answers are looked at. Who has asked
    /// for much that is gone is sent away; it comes back, and what it is not offered then counts as rejected.
    fn ask_all(&self, harm: impl FnOnce()) -> Answers {
        let (mut peer, _) = self.peer();
        let ask = |peer: &mut Peer, blocks: &BTreeSet<(u32, u32)>| {
            let mut requests = Vec::new();
            for &(piece, begin) in blocks {
                let length = BLOCK_LEN;
                wire::encode(&Message::Request { piece, begin, length }, &mut requests);
            }
            peer.send(&requests).expect("ask");
        };
        let mut harm = Some(harm);
        let mut missing: BTreeSet<(u32, u32)> = (0..PIECES)
            .flat_map(|piece| (0..BLOCKS_PER_PIECE).map(move |block| (piece, block * BLOCK_LEN)))
            .collect();
        let mut rejected = BTreeSet::new();
        ask(&mut peer, &missing);
        let mut times_sent_away = 0.0;
        while !missing.is_empty() {
            let message = match peer.hear() {
                Ok(message) => message,
                Err(error) => {
                    // What it had been told last may not have reached it.
                    times_sent_away += 1.0;
                    wait_for(&format!("it was sent away: {error}"), within(30), || {
                        let drops = "btd_peer_drops_total{reason=\"piece_withdrawn\"}";
                        (self.btd.metric(drops) >= times_sent_away).then_some(())
                    });
                    let (again, offered) = self.peer();
                    peer = again;
                    rejected.extend(
                        missing
                            .iter()
                            .map(|&(piece, _)| piece)
                            .filter(|piece| !offered.contains(piece)),
                    );
                    missing.retain(|(piece, _)| offered.contains(piece));
                    ask(&mut peer, &missing);
                    continue;
                }
            };
            let number = |at: usize| u32::from_be_bytes(*message[at..].first_chunk().expect("a whole message"));
            match message.first() {
                Some(&PIECE) => {
                    let (piece, begin) = (number(1), number(5));
                    let at = (piece * PIECE_LEN + begin) as usize;
                    assert!(missing.remove(&(piece, begin)), "piece {piece} at {begin} came twice");
                    assert!(
                        message[9..] == self.contents[at..at + BLOCK_LEN as usize],
                        "piece {piece} at {begin} is wrong"
                    );
                    if let Some(harm) = harm.take() {
                        harm();
                    }
                }
                Some(&REJECT) => {
                    let (piece, begin) = (number(1), number(5));
                    assert!(
                        missing.remove(&(piece, begin)),
                        "piece {piece} at {begin} was answered twice"
                    );
                    rejected.insert(piece);
                }
                _ => {}
            }
        }
        let whole = (0..PIECES).filter(|piece| !rejected.contains(piece)).collect();
        Answers { rejected, whole }
    }

    /// The same while others download the healthy torrent, every piece of which has to be right.
    fn ask_all_under_load(&self, harm: impl FnOnce()) -> Answers {
        let target = Target::from(&metainfo(&self.well));
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let load = Load {
                        connections: 8,
                        queue: 16,
                        until: Until::Bytes(32 << 20),
                        verify: 1.0,
                        busy: false,
                        ..Load::new(self.btd.peers)
                    };
                    let report = load.run(&target).expect("drive the leechers");
                    assert_eq!(report.connections.lost.len(), 0, "{:?}", report.connections.lost);
                    assert_eq!((report.verified.bad, report.trouble.unasked), (0, 0), "{report}");
                    assert!(report.verified.good > 0, "{report}");
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            let stop = Raised(&stop);
            let answers = self.ask_all(harm);
            // One more round that has begun after it.
            let seen = rounds.load(Ordering::Relaxed);
            wait_for("the others go on", within(60), || {
                (others.is_finished() || rounds.load(Ordering::Relaxed) >= seen + 2).then_some(())
            });
            drop(stop);
            others.join().expect("the others were served right");
            answers
        })
    }

    /// What was rejected is not offered to the next peer; the torrent's state and the log say why.
    fn assert_damage(&mut self, answers: &Answers, why: &str) {
        assert!(!answers.rejected.is_empty(), "nothing was rejected");
        let (_, offered) = self.peer();
        assert!(
            offered.is_disjoint(&answers.rejected),
            "{offered:?} {:?}",
            answers.rejected
        );
        wait_for("the torrent's state says so", within(30), || {
            (self.btd.metric("btd_torrents{state=\"partial\"}") == 1.0).then_some(())
        });
        wait_for("the log says why", within(30), || {
            let log = self.btd.process.log();
            (log.contains(why) && log.contains("`btd ctl verify ")).then_some(())
        });
    }

    fn close(mut self) {
        self.btd.process.assert_running();
        self.btd.stop();
    }
}

/// A ward whose sick payload is a plain file.
fn with_file(name: &str) -> (Scratch, PathBuf, Ward) {
    let scratch = Scratch::new(name);
    let file = scratch.dir("sick-data").join("payload");
    let contents = contents();
    write_aged(&file, &contents);
    let ward = Ward::open(&scratch, &file, contents);
    (scratch, file, ward)
}

/// A ward whose sick payload is on a filesystem that fails on command. `None` where there is no FUSE.
fn with_sick_fs(name: &str) -> Option<(Scratch, FaultFs, Ward)> {
    let scratch = Scratch::new(name);
    let folder = scratch.dir("mount");
    let contents = contents();
    match FaultFs::mount_seed(&folder, contents.clone()) {
        Err(why) => {
            skip(&why);
            None
        }
        Ok(mounted) => {
            let ward = Ward::open(&scratch, &folder.join(fault_fs::NAME), contents);
            Some((scratch, mounted, ward))
        }
    }
}

#[test]
fn file_truncated_under_load_loses_what_was_cut_off() {
    let (_scratch, file, mut ward) = with_file("truncated");
    let mut answers = ward.ask_all_under_load(|| {
        let file = fs::File::options().write(true).open(&file).expect("open payload");
        file.set_len(LEN as u64 / 2).expect("truncate payload");
    });
    // Who is sent away for what is gone may come back to the other shard, which opens the file anew and sees that it has changed: the
    // last pieces before the cut, if they had not been sent by then, are refused with the rest until it has been checked.
    assert!(
        answers.whole.is_superset(&(0..PIECES / 2 - PIECES / 8).collect()),
        "{:?}",
        answers.whole
    );
    answers.rejected.retain(|piece| *piece >= PIECES / 2);
    ward.assert_damage(&answers, "\"payload\"");
    ward.close();
}

/// A name, and what is done to the file.
type Replacement = (&'static str, fn(&Path));

#[test]
fn file_removed_or_replaced_under_load_sends_no_wrong_byte() {
    let replacements: [Replacement; 4] = [
        ("removed", |file| fs::remove_file(file).expect("remove payload")),
        ("replaced", |file| {
            let other = file.with_extension("other");
            fs::write(&other, vec![7; LEN]).expect("write payload");
            fs::rename(&other, file).expect("replace payload");
        }),
        ("folder", |file| {
            fs::remove_file(file).expect("remove payload");
            fs::create_dir(file).expect("make a folder");
        }),
        ("fifo", |file| {
            fs::remove_file(file).expect("remove payload");
            let mode = Mode::from_raw_mode(0o644);
            mknodat(CWD, file, FileType::Fifo, mode, 0).expect("make a FIFO");
        }),
    ];
    for (name, replace) in replacements {
        let (_scratch, file, mut ward) = with_file(name);
        // What btd has open it may go on serving; every block that comes is compared.
        ward.ask_all_under_load(|| replace(&file));
        touch(&ward.sick.path);
        wait_for(&format!("{name}: the next check finds out"), within(60), || {
            (ward.btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
        });
        ward.btd.process.assert_running();
        ward.close();
    }
}

#[test]
fn folder_of_the_payload_removed_under_load_ends_nothing_else() {
    let (_scratch, file, ward) = with_file("no-folder");
    let folder = file.parent().expect("a file in a folder");
    ward.ask_all_under_load(|| fs::remove_dir_all(folder).expect("remove the folder"));
    touch(&ward.sick.path);
    wait_for("the next check finds out", within(60), || {
        (ward.btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
    });
    ward.close();
}

#[test]
fn unreadable_bytes_cost_their_own_pieces_and_no_others() {
    let Some((_scratch, mounted, mut ward)) = with_sick_fs("unreadable") else {
        return;
    };
    // Late in the file: not read before the first block has arrived. In the middle of an extent, over a piece's end.
    let (first, last) = (PIECES - 9, PIECES - 8);
    let start = u64::from(last * PIECE_LEN) - 10_000;
    let answers = ward.ask_all_under_load(|| {
        mounted
            .rules
            .add(Rule::fail(Op::Read, EIO).within(start..start + 20_000));
        // The blocks beside it are read one by one, and in parts even so.
        mounted.rules.add(Rule::short(Op::Read));
    });
    assert_eq!(answers.rejected, BTreeSet::from([first, last]));
    ward.assert_damage(&answers, "Input/output error");
    let (_, offered) = ward.peer();
    assert_eq!(offered, answers.whole);
    ward.close();
}

#[test]
fn reads_that_come_back_short_are_gone_on_with() {
    let Some((_scratch, mounted, ward)) = with_sick_fs("short") else {
        return;
    };
    let answers = ward.ask_all_under_load(|| _ = mounted.rules.add(Rule::short(Op::Read)));
    assert!(answers.rejected.is_empty(), "{:?}", answers.rejected);
    touch(&ward.sick.path);
    wait_for("it is checked again", within(60), || {
        (ward.btd.process.log().matches("seeding \"sick\"").count() == 2).then_some(())
    });
    assert_eq!(ward.btd.metric("btd_torrents{state=\"seeding\"}"), 2.0);
    ward.close();
}

/// Between its check and its first open it is gone, and a moment later it is there again.
#[test]
fn file_that_is_not_there_when_it_is_opened_is_checked_again_and_served() {
    let Some((_scratch, mounted, ward)) = with_sick_fs("gone-when-opened") else {
        return;
    };
    let gone = Rule::fail(Op::Open, ENOENT).of(fault_fs::NAME).times(1);
    let gone = mounted.rules.add(gone);
    let answers = ward.ask_all_under_load(|| {});
    assert_eq!(mounted.rules.applied(gone), 1, "it was to be opened");
    println!(
        "{} pieces came, {} did not",
        answers.whole.len(),
        answers.rejected.len()
    );
    wait_for("it is served again", within(60), || {
        let (_, offered) = ward.try_peer().ok()?;
        (offered.len() == PIECES as usize).then_some(())
    });
    let answers = ward.ask_all(|| {});
    assert!(answers.rejected.is_empty(), "{:?}", answers.rejected);
    ward.close();
}
