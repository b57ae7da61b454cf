//! Payload that is not as it should be, and what may be done about it: files of somebody else's are not written over, a check
//! that somebody asks for is made whatever goes on, and what it finds missing is had again, however often btd is restarted.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::ctl::{IO, ask, row};
use support::fault_fs::{EIO, FaultFs, Op, Rule};
use support::leech::{Leech, SECONDS, Source, wait_for_metric};
use support::mount::InPlace;
use support::payload::Payload;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, cannot, rot, wait_for, within};

/// Nobody listens here.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn files() -> Vec<(String, u64)> {
    vec![("folder/a".to_owned(), 300_000), ("folder/b".to_owned(), 200_000)]
}

/// Has btd read this configuration.
fn reload(btd: &Btd, home: &Path, config: &Config) {
    let before = btd.metric("btd_config_reloads_total{result=\"ok\"}");
    fs::write(home.join("btd.toml"), config.to_toml()).expect("write a configuration");
    btd.process.signal(Signal::HUP);
    wait_for("the configuration is read", within(SECONDS), || {
        (btd.metric("btd_config_reloads_total{result=\"ok\"}") > before).then_some(())
    });
}

/// Issue 7: it was written over without a word.
#[test]
fn file_of_somebody_elses_is_not_written_over_and_the_torrent_comes_when_it_is_gone() {
    let source = Source::start("stranger", &files(), 16 << 10);
    let mine = vec![7; 300_000];
    let folder = source.scratch.dir("leech/data/folder");
    fs::write(folder.join("a"), &mine).expect("write a file");
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.btd.wait_torrents("missing", 1);
    leech
        .btd
        .wait_log("\"folder/a\" is there already and has nothing of this torrent in it");
    let shown = row(&leech.home, &["show", &source.torrent.info_hash_hex()]);
    let why = shown["why"].as_str().expect("it is told why");
    assert!(why.contains("\"folder/a\" is there already"), "{why}");
    // Nor by a check that somebody asks for, nor is anything made beside it.
    row(&leech.home, &["verify", &source.torrent.info_hash_hex()]);
    leech.btd.wait_torrents("missing", 1);
    assert_eq!(fs::read(folder.join("a")).expect("there"), mine);
    assert!(!folder.join("b.part").exists() && !folder.join("a.part").exists());
    fs::rename(folder.join("a"), source.scratch.path().join("mine")).expect("move it away");
    leech.check(&source.payload);
    assert_eq!(fs::read(source.scratch.path().join("mine")).expect("there"), mine);
    leech.btd.stop();
    source.btd.stop();
}

/// It went on only when somebody asked for a check.
#[test]
fn torrent_that_is_served_in_part_and_not_downloaded_over_a_file_goes_on_when_that_is_gone() {
    let source = Source::start("stranger-part", &files(), 16 << 10);
    let mine = vec![7; 300_000];
    let folder = source.scratch.dir("leech/data/folder");
    fs::write(folder.join("a"), &mine).expect("write a file");
    fs::copy(source.payload.path().join("b"), folder.join("b")).expect("copy a file");
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.btd.wait_torrents("partial", 1);
    let shown = row(&leech.home, &["show", &source.torrent.info_hash_hex()]);
    let why = shown["why"].as_str().expect("it is told why");
    assert!(why.contains("\"folder/a\" is there already"), "{why}");
    fs::rename(folder.join("a"), source.scratch.path().join("mine")).expect("move it away");
    leech.check(&source.payload);
    assert_eq!(fs::read(source.scratch.path().join("mine")).expect("there"), mine);
    leech.btd.stop();
    source.btd.stop();
}

/// A browser, or another client, has begun something else of this name.
#[test]
fn part_of_somebody_elses_is_not_written_over_and_the_torrent_comes_when_it_is_gone() {
    let source = Source::start("strange-part", &files(), 16 << 10);
    let mine = vec![7; 300_000];
    let folder = source.scratch.dir("leech/data/folder");
    fs::write(folder.join("a.part"), &mine).expect("write a file");
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.btd.wait_torrents("missing", 1);
    leech
        .btd
        .wait_log("\"folder/a.part\" is there already and has nothing of this torrent in it");
    assert_eq!(fs::read(folder.join("a.part")).expect("there"), mine);
    fs::remove_file(folder.join("a.part")).expect("remove it");
    leech.check(&source.payload);
    leech.btd.stop();
    source.btd.stop();
}

/// Issue 7: likewise.
#[test]
fn file_that_is_put_there_after_the_check_is_looked_at_before_anything_is_written() {
    let source = Source::start("late-stranger", &files(), 16 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![NOBODY]);
    leech.btd.wait_torrents("downloading", 1);
    let mine = vec![7; 300_000];
    let folder = source.scratch.dir("leech/data/folder");
    fs::write(folder.join("a"), &mine).expect("write a file");
    let config = Config {
        peers: vec![source.btd.peers],
        watch: leech.config.watch.clone(),
        ..Config::default()
    };
    reload(&leech.btd, &leech.home, &config);
    leech
        .btd
        .wait_log("it was put there or changed after the torrent was checked");
    leech.btd.wait_torrents("missing", 1);
    assert_eq!(fs::read(folder.join("a")).expect("there"), mine);
    fs::remove_file(folder.join("a")).expect("remove it");
    leech.check(&source.payload);
    leech.btd.stop();
    source.btd.stop();
}

/// Issue 7: it was answered that it is being checked already, and nothing of it was read.
#[test]
fn check_of_all_that_is_asked_for_while_what_has_changed_is_checked_reads_all() {
    let scratch = Scratch::new("verify-meanwhile");
    let (home, data, watch) = (scratch.path(), scratch.dir("data"), scratch.dir("watch"));
    let of = [("folder/a".to_owned(), 4 << 20), ("folder/b".to_owned(), 1 << 20)];
    let payload = Payload::make(&data, "folder", 3, &of);
    let torrent = Torrent::create(&payload.path(), 16 << 10, watch.join("t.torrent"));
    let (a, b) = (data.join("folder/a"), data.join("folder/b"));
    age(&a);
    age(&b);
    let mut config = Config {
        watch: vec![(watch, data)],
        ..Config::default()
    };
    let btd = Btd::start(home, &config);
    btd.wait_seeding(1);
    btd.stop();
    // One was touched, and the other looks as it did.
    support::touch(&a);
    rot(&b, 500_000);
    // So slow that it goes on for half a minute.
    config.more = "[storage]\ncheck-rate = \"100 kB/s\"\n".to_owned();
    let btd = Btd::start(home, &config);
    btd.wait_torrents("checking", 1);
    wait_for("it is being read", within(SECONDS), || {
        (btd.metric("btd_check_read_bytes_total") > 0.0).then_some(())
    });
    let asked = row(home, &["verify", &torrent.info_hash_hex()]);
    assert_eq!(asked["changed"], true, "{asked}");
    let asked = row(home, &["verify", &torrent.info_hash_hex()]);
    assert_eq!(asked["changed"], false, "{asked}");
    config.more = String::new();
    reload(&btd, home, &config);
    btd.wait_torrents("partial", 1);
    let shown = row(home, &["show", &torrent.info_hash_hex()]);
    assert_eq!(shown["have_count"], shown["piece_count"].as_u64().expect("a count") - 1);
    btd.stop();
}

/// Issue 7: it was forgotten, and the torrent called one that is not downloaded again by itself.
#[test]
fn repair_that_a_check_has_begun_goes_on_after_a_restart() {
    let source = Source::start("repair", &files(), 16 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    leech.btd.stop();
    let (home, mut config) = (leech.home, leech.config);
    config.peers = vec![NOBODY];
    let btd = Btd::start(&home, &config);
    btd.wait_seeding(1);
    let file = leech.data.join("folder/a");
    let mut bytes = fs::read(&file).expect("there");
    bytes[100_000] ^= 1;
    fs::write(&file, bytes).expect("write a file");
    row(&home, &["verify", &source.torrent.info_hash_hex()]);
    btd.wait_torrents("downloading", 1);
    btd.wait_log("a piece of what is there is wrong, and will be written over, in \"folder/a\"");
    btd.stop();
    config.peers = vec![source.btd.peers];
    let btd = Btd::start(&home, &config);
    btd.wait_seeding(1);
    source.payload.assert_same(&leech.data, true);
    wait_for_metric(&btd, "btd_pieces_written_total", |pieces| pieces == 1.0);
    btd.stop();
    source.btd.stop();
}

/// A btd that has downloaded what `source` seeds, and is stopped: its home, its configuration without anybody to download from, and a file
/// of the payload.
fn whole_without_peers(source: &Source) -> (PathBuf, Config, PathBuf) {
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    leech.btd.stop();
    let config = Config {
        peers: Vec::new(),
        ..leech.config
    };
    (leech.home, config, leech.data.join("folder/a"))
}

/// It was called one that is not downloaded again by itself, though somebody had asked for that.
#[test]
fn repair_that_nobody_was_there_for_begins_when_the_configuration_names_somebody() {
    let source = Source::start("repair-later", &files(), 16 << 10);
    let (home, mut config, file) = whole_without_peers(&source);
    let btd = Btd::start(&home, &config);
    btd.wait_seeding(1);
    rot(&file, 100_000);
    row(&home, &["verify", &source.torrent.info_hash_hex()]);
    btd.wait_torrents("partial", 1);
    config.peers = vec![source.btd.peers];
    reload(&btd, &home, &config);
    btd.wait_seeding(1);
    source.payload.assert_same(&config.watch[0].1, true);
    wait_for_metric(&btd, "btd_pieces_written_total", |pieces| pieces == 1.0);
    btd.stop();
    source.btd.stop();
}

/// While the session cannot be read a check that was asked for waits for that. A reload had what is known believed, and the check was
/// never made.
#[test]
fn check_that_waits_for_the_session_is_made_after_a_reload() {
    if !rustix::process::geteuid().is_root() {
        return cannot("mounting needs root");
    }
    let source = Source::start("verify-unread", &files(), 16 << 10);
    let (home, mut config, file) = whole_without_peers(&source);
    let sick = source.scratch.dir("sick");
    let mounted = match FaultFs::mount(&sick) {
        Ok(mounted) => mounted,
        Err(why) => return cannot(&why),
    };
    let session = home.join("state/session.redb");
    fs::copy(&session, sick.join("session.redb")).expect("copy the session");
    let _in_place = match InPlace::put(&sick.join("session.redb"), &session) {
        Ok(in_place) => in_place,
        Err(why) => return cannot(&why),
    };
    let btd = Btd::start(&home, &config);
    btd.wait_seeding(1);
    let hash = source.torrent.info_hash_hex();
    // The next transaction fails, and nothing is read after it.
    for op in [Op::Read, Op::Write] {
        mounted.rules.add(Rule::fail(op, EIO));
    }
    // Both are done, and it is told that they are not recorded.
    ask(&home, &["pause", &hash]).assert_fails(IO, "could not be recorded");
    btd.wait_log("is kept in memory and written later");
    ask(&home, &["resume", &hash]).assert_fails(IO, "could not be recorded");
    btd.wait_seeding(1);
    rot(&file, 100_000);
    ask(&home, &["verify", &hash]).assert_fails(IO, "could not be recorded");
    wait_for("it waits for the session", within(SECONDS), || {
        let shown = row(&home, &["show", &hash]);
        let why = shown["why"].as_str()?;
        why.contains("it waits until it is known whose its files are")
            .then_some(())
    });
    config.peers = vec![source.btd.peers];
    reload(&btd, &home, &config);
    // Looked at once more, and no wiser.
    btd.wait_torrents("partial", 1);
    mounted.rules.clear();
    btd.wait_log("the session database can be written again");
    // It is looked at again after a minute, or now.
    config.peers.push(NOBODY);
    reload(&btd, &home, &config);
    btd.wait_seeding(1);
    source.payload.assert_same(&config.watch[0].1, true);
    btd.stop();
    source.btd.stop();
}
