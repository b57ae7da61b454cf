//! All payload is read once more over a period, from where it was before a restart; what has gone bad on the disk meanwhile is
//! withdrawn and told, and files that are others are checked.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::fault_fs::{self, EIO, FaultFs, Op, Rule};
use support::leech::SECONDS;
use support::payload::Payload;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, http, rot, skip, wait_for, within};

const PIECE_LEN: u32 = 64 << 10;
const PIECES: u32 = 30;
const LEN: u64 = PIECE_LEN as u64 * PIECES as u64;

struct Home {
    scratch: Scratch,
    file: PathBuf,
    config: Config,
}

impl Home {
    fn new(name: &str, period: &str) -> Home {
        let scratch = Scratch::new(name);
        let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
        let payload = Payload::make(&data, "payload", 7, &[("payload".to_owned(), LEN)]);
        age(&payload.path());
        Torrent::create(&payload.path(), PIECE_LEN, watch.join("payload.torrent"));
        let config = Config {
            watch: vec![(watch, data)],
            more: format!("[storage]\nscrub = \"{period}\"\n"),
            ..Config::default()
        };
        Home {
            scratch,
            file: payload.path(),
            config,
        }
    }

    fn start(&self) -> Btd {
        Btd::start(self.scratch.path(), &self.config)
    }

    /// Changes a byte of a piece, and leaves the times of the file as they are.
    fn rot(&self, piece: u32) {
        rot(&self.file, (piece * PIECE_LEN + 5) as usize);
    }
}

fn reaches(btd: &Btd, metric: &str, value: f64) -> f64 {
    wait_for(&format!("{metric} reaches {value}"), within(SECONDS), || {
        let found = btd.metric(metric);
        (found >= value).then_some(found)
    })
}

#[test]
fn piece_that_has_gone_bad_on_the_disk_is_found_withdrawn_and_told_and_known_after_a_restart() {
    let home = Home::new("scrub-bad", "3s");
    let btd = home.start();
    btd.wait_seeding(1);
    reaches(&btd, "btd_scrub_completed_seconds", 1.0);
    assert_eq!(btd.metric("btd_scrub_errors_total"), 0.0);
    home.rot(7);
    reaches(&btd, "btd_scrub_errors_total", 1.0);
    reaches(&btd, "btd_torrents{state=\"partial\"}", 1.0);
    let lasting = btd.process.log();
    assert!(
        lasting.contains("piece 7 is wrong, twice, as the scrub has found"),
        "{lasting}"
    );
    assert!(lasting.contains("29 of 30 pieces are right, 1 wrong"), "{lasting}");
    // The rest is read on, and what is known to be wrong is not found once more.
    let read = btd.metric("btd_scrub_bytes_total");
    reaches(&btd, "btd_scrub_bytes_total", read + LEN as f64);
    assert_eq!(btd.metric("btd_scrub_errors_total"), 1.0);
    btd.stop();
    let btd = home.start();
    reaches(&btd, "btd_torrents{state=\"partial\"}", 1.0);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    btd.stop();
}

#[test]
fn scrub_takes_its_period_and_goes_on_after_a_restart_from_where_it_was() {
    let home = Home::new("scrub-restart", "12s");
    let btd = home.start();
    btd.wait_seeding(1);
    reaches(&btd, "btd_scrub_bytes_total", f64::from(8 * PIECE_LEN));
    assert_eq!(btd.metric("btd_scrub_completed_seconds"), 0.0);
    let before = btd.metric("btd_scrub_bytes_total");
    btd.stop();
    let btd = home.start();
    let at = reaches(&btd, "btd_scrub_completed_seconds", 1.0);
    let after = btd.metric("btd_scrub_bytes_total");
    let slack = f64::from(2 * PIECE_LEN);
    assert!(
        (before + after - LEN as f64).abs() <= slack,
        "{before} bytes before the restart and {after} after it, of {LEN}"
    );
    btd.stop();
    // When that was is known, too.
    let btd = home.start();
    assert_eq!(reaches(&btd, "btd_scrub_completed_seconds", 1.0), at);
    btd.stop();
}

#[test]
fn file_that_was_changed_meanwhile_is_found_by_its_time_and_checked() {
    let home = Home::new("scrub-changed", "3s");
    let btd = home.start();
    btd.wait_seeding(1);
    let mut bytes = fs::read(&home.file).expect("read a payload");
    bytes[5] ^= 1;
    fs::write(&home.file, bytes).expect("write a payload");
    reaches(&btd, "btd_torrents{state=\"partial\"}", 1.0);
    let log = btd.process.log();
    assert!(
        log.contains("was changed after it was checked: it is checked again"),
        "{log}"
    );
    assert_eq!(btd.metric("btd_scrub_errors_total"), 0.0, "its time told");
    fs::remove_file(&home.file).expect("remove a payload");
    reaches(&btd, "btd_torrents{state=\"missing\"}", 1.0);
    btd.stop();
}

/// The check that follows at once would record it. It may not come to that.
#[test]
fn piece_that_was_withdrawn_is_not_believed_again_when_btd_is_killed_before_its_check() {
    for verify in ["full", "lazy", "trust"] {
        let mut home = Home::new(&format!("scrub-killed-{verify}"), "2s");
        let (watch, data) = home.config.watch.remove(0);
        home.config.more += &format!("[[watch]]\ndir = {watch:?}\ndata-dir = {data:?}\nverify = \"{verify}\"\n");
        let mut btd = home.start();
        btd.wait_seeding(1);
        if verify == "lazy" {
            // Of what was never read nothing is recorded that could be believed. It is, once the scrub has read it.
            reaches(&btd, "btd_scrub_completed_seconds", 1.0);
            btd.stop();
            btd = home.start();
            btd.wait_seeding(1);
        }
        home.rot(7);
        wait_for("the scrub finds it", within(SECONDS), || {
            let log = btd.process.log();
            log.contains("piece 7 is wrong, twice, as the scrub has found")
                .then_some(())
        });
        btd.process.signal(Signal::KILL);
        btd.process.wait(within(SECONDS));
        // A scrub would find it once more.
        home.config.more = home.config.more.replace("scrub = \"2s\"\n", "");
        let btd = home.start();
        let state = wait_for("it is known what is believed of it", within(SECONDS), || {
            let is_in = |state: &&str| btd.metric(&format!("btd_torrents{{state=\"{state}\"}}")) == 1.0;
            ["seeding", "partial", "missing"].into_iter().find(is_in)
        });
        let log = btd.process.log();
        assert_eq!(state, "partial", "{verify}: {log}");
        assert!(log.contains("29 of 30 pieces are right, 1 wrong"), "{verify}: {log}");
        btd.stop();
    }
}

#[test]
fn piece_that_cannot_be_read_is_withdrawn_and_counted_apart_from_those_that_are_wrong() {
    let scratch = Scratch::new("scrub-unreadable");
    let (mount, watch) = (scratch.dir("mount"), scratch.dir("watch"));
    let contents: Vec<u8> = (0..LEN).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let mounted = match FaultFs::mount_seed(&mount, contents) {
        Ok(mounted) => mounted,
        Err(why) => return skip(&why),
    };
    Torrent::create(&mount.join(fault_fs::NAME), PIECE_LEN, watch.join("t.torrent"));
    let (beside, beside_data) = (scratch.dir("beside"), scratch.dir("beside-data"));
    let other = Payload::make(&beside_data, "other", 8, &[("other".to_owned(), LEN)]);
    age(&other.path());
    Torrent::create(&other.path(), PIECE_LEN, beside.join("other.torrent"));
    let config = Config {
        watch: vec![(watch, mount), (beside, beside_data)],
        more: "[storage]\nscrub = \"2s\"\n".to_owned(),
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(2);
    let begin = u64::from(7 * PIECE_LEN);
    let unreadable = begin + 100..begin + 200;
    mounted.rules.add(Rule::fail(Op::Read, EIO).within(unreadable));
    // By device: what is said of each, with these words in it.
    let told = |metric: &str, word: &str| -> BTreeMap<String, f64> {
        let text = http::get(btd.metrics, "/metrics").expect("read btd's metrics").text();
        let lines = text
            .lines()
            .filter(|line| line.starts_with(&format!("{metric}{{")) && line.contains(word));
        let parts = lines.filter_map(|line| Some((line.split("device=\"").nth(1)?, line.rsplit(' ').next()?)));
        let values = parts.filter_map(|(device, value)| Some((device.split('"').next()?, value.parse::<f64>().ok()?)));
        values.map(|(device, value)| (device.to_owned(), value)).collect()
    };
    let of = |kind: &str| told("btd_scrub_errors_total", &format!("kind=\"{kind}\""));
    let devices = wait_for(
        "the scrub finds it, and reads the other disk too",
        within(SECONDS),
        || {
            let (errors, read) = (of("unreadable"), told("btd_scrub_bytes_total", ""));
            (errors.values().sum::<f64>() == 1.0 && errors.len() == 2 && read.len() == 2).then_some(errors)
        },
    );
    assert_eq!(
        devices.values().filter(|count| **count == 1.0).count(),
        1,
        "{devices:?}"
    );
    reaches(&btd, "btd_torrents{state=\"partial\"}", 1.0);
    let log = btd.process.log();
    assert!(log.contains("piece 7 cannot be read"), "{log}");
    assert!(log.contains("29 of 30 pieces are right, 0 wrong"), "{log}");
    for kind in ["lasting", "transient"] {
        assert!(of(kind).values().all(|count| *count == 0.0), "{:?}", of(kind));
    }
    btd.stop();
}
