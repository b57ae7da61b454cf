//! The daemon as an operator meets it: start, stop, exit codes, watch folders, metrics. No peer connects here.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use btd::hashing::sha1;
use btd::proto::metainfo::{NewContent, NewTorrent, encode};
use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::process::Process;
use support::scratch::Scratch;
use support::{age, cannot, http, touch, wait_for, within};

const PIECE_LEN: u32 = 16 << 10;
/// Long enough for a machine that runs all tests at once.
const SECONDS: u64 = 60;

/// A folder with a configuration, a watch folder and a data folder.
struct Home {
    scratch: Scratch,
    torrents: PathBuf,
    data: PathBuf,
}

impl Home {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let (torrents, data) = (scratch.dir("torrents"), scratch.dir("data"));
        Self {
            scratch,
            torrents,
            data,
        }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn config(&self) -> Config {
        Config {
            watch: vec![(self.torrents.clone(), self.data.clone())],
            ..Config::default()
        }
    }

    fn start(&self) -> Btd {
        Btd::start(self.path(), &self.config())
    }

    /// A payload of three pieces in the data folder; gives its torrent.
    fn payload(&self, name: &str) -> Vec<u8> {
        let content = content(name);
        let file = self.data.join(name);
        fs::write(&file, &content).expect("write a payload");
        age(&file);
        torrent(name, &content)
    }

    /// Puts a torrent into the watch folder as most tools do: written elsewhere, renamed in.
    fn drop_in(&self, file: &str, torrent: &[u8]) {
        let beside = self.path().join(file);
        fs::write(&beside, torrent).expect("write a torrent");
        fs::rename(beside, self.torrents.join(file)).expect("move a torrent into the watch folder");
    }
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(2 * PIECE_LEN as usize + 1).collect()
}

fn torrent(name: &str, content: &[u8]) -> Vec<u8> {
    let hashes: Vec<[u8; 20]> = content.chunks(PIECE_LEN as usize).map(sha1).collect();
    torrent_of(name, content.len() as u64, PIECE_LEN, &hashes)
}

fn torrent_of(name: &str, len: u64, piece_len: u32, piece_hashes: &[[u8; 20]]) -> Vec<u8> {
    encode(&NewTorrent::new(name, NewContent::File(len), piece_len, piece_hashes))
}

fn wait_for_torrents(btd: &mut Btd, state: &str, count: usize) {
    let name = format!("btd_torrents{{state=\"{state}\"}}");
    wait_for(&format!("{count} torrents are {state}"), within(SECONDS), || {
        btd.process.assert_running();
        (btd.metric(&name) == count as f64).then_some(())
    });
}

fn wait_for_log(btd: &mut Btd, text: &str) -> String {
    wait_for(&format!("the log says {text:?}"), within(SECONDS), || {
        btd.process.assert_running();
        btd.process
            .log()
            .lines()
            .find(|line| line.contains(text))
            .map(str::to_owned)
    })
}

/// Runs btd to its end in `home`, where the configuration is `btd.toml`; gives the exit code and what it said.
fn run_to_end(home: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args(["--config", "btd.toml"]).current_dir(home);
    let mut process = Process::spawn("btd", &mut command, &home.join("ended.log"));
    let status = process.wait(within(SECONDS));
    (status.code(), process.log())
}

#[test]
fn it_says_when_it_is_ready_reports_and_stops_cleanly() {
    let home = Home::new("ready");
    home.drop_in("a.torrent", &home.payload("a"));
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 1);

    let health = http::get(btd.metrics, "/health").expect("btd answers");
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    let metrics = http::get(btd.metrics, "/metrics").expect("btd answers").text();
    for name in [
        "btd_build_info",
        "btd_uploaded_bytes_total",
        "btd_peers",
        "btd_torrents",
        "btd_disk_read_bytes_total",
        "btd_cache_hits_total",
        "btd_cache_misses_total",
        "btd_hash_bytes_total",
        "btd_hash_failures_total",
        "btd_hash_lane_blocks_total",
        "btd_hash_queue_delay_seconds",
        "btd_check_read_bytes_total",
        "btd_checks_paused",
        "btd_loop_stall_seconds",
        "btd_request_latency_seconds",
        "btd_uring_enters_total",
    ] {
        assert!(
            metrics.contains(&format!("# HELP {name} ")),
            "no help for {name} in:\n{metrics}"
        );
        assert!(
            metrics.contains(&format!("# TYPE {name} ")),
            "no type for {name} in:\n{metrics}"
        );
    }
    assert_eq!(http::get(btd.metrics, "/").expect("btd answers").status, 404);

    let ports = home.path().join("state/ports.json");
    assert!(ports.exists());
    btd.stop();
    assert!(!ports.exists(), "ports.json says ready after the stop");
}

#[test]
fn a_second_instance_is_refused_with_73_and_the_pid_of_the_first() {
    let home = Home::new("second");
    let first = home.start();
    let (code, log) = run_to_end(home.path());
    assert_eq!(code, Some(73), "{log}");
    assert!(log.contains(&format!("process {}", first.process.pid())), "{log}");
    assert!(
        home.path().join("state/ports.json").exists(),
        "the second took the first one's ports.json away"
    );
    first.stop();
}

/// It ended with 73: what is killed has its locks until it has ended.
#[test]
fn a_start_right_behind_a_kill_waits_for_the_end_of_the_one_before() {
    let home = Home::new("killed");
    for _ in 0..5 {
        let killed = home.start();
        fs::remove_file(home.path().join("state/ports.json")).expect("it was ready");
        killed.process.signal(Signal::KILL);
        home.start().stop();
    }
}

#[test]
fn a_bad_configuration_is_refused_with_78_file_line_and_key() {
    let home = Home::new("bad");
    fs::write(home.path().join("btd.toml"), "[peers]\nlisten = 6881\n").expect("write the configuration");
    let (code, log) = run_to_end(home.path());
    assert_eq!(code, Some(78), "{log}");
    assert!(log.starts_with("btd.toml:2: peers.listen: "), "{log}");
}

#[test]
fn an_address_that_is_taken_is_refused_with_74_and_named() {
    let home = Home::new("taken");
    let first = home.start();
    for (key, address) in [("[peers]\nlisten", first.peers), ("[metrics]\nlisten", first.metrics)] {
        let text = format!("state-dir = \"other\"\n{key} = \"{address}\"\n");
        let text = if key.starts_with("[peers]") {
            text
        } else {
            text + "[peers]\nlisten = \"127.0.0.1:0\"\n"
        };
        fs::write(home.path().join("btd.toml"), text).expect("write the configuration");
        let (code, log) = run_to_end(home.path());
        assert_eq!(code, Some(74), "{log}");
        let named = key.replace('\n', " ");
        assert!(log.contains(&format!("cannot listen on {address} ({named})")), "{log}");
        assert!(log.contains("(hint: another program has this port"), "{log}");
    }
    first.stop();
}

#[test]
fn state_folder_that_is_not_this_users_is_told_with_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        return cannot("another user's part of it needs root");
    }
    // Where others may enter.
    let public = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let binary = public.path().join("btd");
    fs::copy(env!("CARGO_BIN_EXE_btd"), &binary).expect("copied");
    let run = |state: &Path| {
        let config = public.path().join("btd.toml");
        let text = format!("state-dir = {state:?}\n[peers]\nlisten = \"127.0.0.1:0\"\n");
        fs::write(&config, text).expect("write the configuration");
        let mut command = Command::new(&binary);
        command.arg("--config").arg(&config).uid(65_534).gid(65_534);
        let log = public.path().join("btd.log");
        let mut process = Process::spawn("btd", &mut command, &log);
        (process.wait(within(SECONDS)).code(), process.log())
    };
    let state = public.path().join("a/state");
    let (code, log) = run(&state);
    let hint = format!(
        "(hint: make it for this user: sudo install -d -m 700 -o \"$USER\" {}",
        state.display()
    );
    assert!(
        code == Some(74) && log.contains(&hint) && log.contains("BTD_STATE_DIR="),
        "{log}"
    );
    fs::create_dir_all(&state).expect("made by root");
    let (code, log) = run(&state);
    let hint = format!("sudo chown -R \"$USER\" {}", state.display());
    assert!(code == Some(74) && log.contains(&hint), "{log}");
}

#[test]
fn its_port_is_free_when_it_is_gone() {
    let home = Home::new("restart");
    for _ in 0..3 {
        let btd = home.start();
        let address = btd.peers;
        btd.stop();
        std::net::TcpListener::bind(address).expect("the port is free at once");
    }
}

#[test]
fn it_serves_on_when_its_log_cannot_be_written() {
    let home = Home::new("log");
    fs::write(home.path().join("btd.toml"), home.config().to_toml()).expect("write the configuration");
    // Process::spawn sends both outputs to a log; here the errors go to a disk that is full.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "exec \"$0\" --config btd.toml 2>/dev/full",
            env!("CARGO_BIN_EXE_btd"),
        ])
        .current_dir(home.path());
    let mut btd = Btd::start_by(&mut command, home.path(), &home.config());
    home.drop_in("a.torrent", &home.payload("a"));
    wait_for_torrents(&mut btd, "seeding", 1);
    btd.stop();
    let show = Command::new("sh")
        .args([
            "-c",
            "\"$0\" show nothing.torrent 2>/dev/full",
            env!("CARGO_BIN_EXE_btd"),
        ])
        .status();
    assert_eq!(show.expect("run btd show").code(), Some(74));
}

#[test]
fn torrents_come_go_and_change_their_names_while_it_runs() {
    let home = Home::new("watch");
    let mut btd = home.start();
    home.drop_in("a.torrent", &home.payload("a"));
    wait_for_torrents(&mut btd, "seeding", 1);
    fs::write(home.torrents.join("b.torrent"), home.payload("b")).expect("write a torrent in place");
    wait_for_torrents(&mut btd, "seeding", 2);

    fs::rename(home.torrents.join("a.torrent"), home.torrents.join("c.torrent")).expect("rename");
    wait_for_log(&mut btd, "c.torrent\" is the same torrent as");
    fs::remove_file(home.torrents.join("b.torrent")).expect("remove");
    wait_for_log(&mut btd, "removed \"b\"");
    wait_for_torrents(&mut btd, "seeding", 1);
    assert!(
        !btd.process.log().contains("removed \"a\""),
        "a rename must not interrupt a torrent"
    );

    home.drop_in("c.torrent", &home.payload("d"));
    wait_for_log(&mut btd, "removed \"a\"");
    wait_for_log(&mut btd, "seeding \"d\"");
    wait_for_torrents(&mut btd, "seeding", 1);
    btd.stop();
}

#[test]
fn a_torrent_in_two_files_is_one_until_both_are_gone() {
    let home = Home::new("twice");
    let torrent = home.payload("a");
    let mut btd = home.start();
    home.drop_in("one.torrent", &torrent);
    wait_for_torrents(&mut btd, "seeding", 1);
    home.drop_in("two.torrent", &torrent);
    wait_for_log(&mut btd, "it is served once");
    fs::remove_file(home.torrents.join("one.torrent")).expect("remove");
    // Handled after the removal, so the removal has been handled when this shows.
    home.drop_in("other.torrent", &home.payload("b"));
    wait_for_torrents(&mut btd, "seeding", 2);
    fs::remove_file(home.torrents.join("two.torrent")).expect("remove");
    wait_for_torrents(&mut btd, "seeding", 1);
    btd.stop();
}

#[test]
fn a_thousand_torrents_at_once_are_loaded_each_once() {
    let home = Home::new("thousand");
    let torrents: Vec<_> = (0..1000)
        .map(|index| (index, home.payload(&format!("t{index}"))))
        .collect();
    // Only so is each one named.
    let config = Config {
        log_level: "debug",
        ..home.config()
    };
    let mut btd = Btd::start(home.path(), &config);
    for (index, torrent) in &torrents {
        fs::write(home.torrents.join(format!("{index}.torrent")), torrent).expect("write a torrent");
    }
    wait_for_torrents(&mut btd, "seeding", 1000);
    let log = btd.process.log();
    for (index, _) in &torrents {
        let line = format!("seeding \"t{index}\" ");
        // One that rests already may be looked at by the walk that follows a start, which says "unchanged".
        let is_load = |said: &&str| said.contains(&line) && said.contains(", checked in ");
        let lines: Vec<&str> = log.lines().filter(is_load).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    btd.stop();

    // And at start, when all are there already.
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 1000);
    btd.stop();
}

#[test]
fn bad_torrents_are_refused_by_name_and_reason_while_the_others_load() {
    let home = Home::new("hostile");
    let good = home.payload("good");
    home.drop_in("good.torrent", &good);
    home.drop_in("rubbish.torrent", b"<html>404</html>");
    home.drop_in("cut.torrent", &good[..good.len() - 30]);
    home.drop_in(".hidden.torrent", b"rubbish");
    let evil = encode(&NewTorrent::new("evil", NewContent::File(1), PIECE_LEN, &[[0; 20]]));
    let evil = String::from_utf8_lossy(&evil).replace("4:evil", "4:../x");
    home.drop_in("evil.torrent", evil.as_bytes());
    fs::create_dir(home.torrents.join("folder.torrent")).expect("make a folder");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, home.torrents.join("pipe.torrent"), mode).expect("make a pipe");
    let giant = fs::File::create(home.torrents.join("giant.torrent")).expect("make a file");
    giant.set_len(1 << 30).expect("a hole costs nothing");

    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 1);
    for (file, reason) in [
        ("rubbish.torrent", "byte 0"),
        ("cut.torrent", "byte"),
        ("evil.torrent", "name"),
        ("folder.torrent", "not a regular file"),
        ("pipe.torrent", "not a regular file"),
        ("giant.torrent", "1073741824 bytes long"),
    ] {
        let line = wait_for_log(&mut btd, file);
        assert!(line.contains("refused") && line.contains(reason), "{line}");
    }
    let log = btd.process.log();
    assert_eq!(log.matches("refused").count(), 6, "{log}");
    // What was cut off is tried again when it is whole.
    fs::write(home.torrents.join("cut.torrent"), home.payload("cut")).expect("write");
    wait_for_torrents(&mut btd, "seeding", 2);
    btd.stop();
}

#[test]
fn payload_that_is_missing_or_wrong_is_told_and_checked_again_on_request() {
    let home = Home::new("payload");
    let (absent, torn) = (home.payload("absent"), home.payload("torn"));
    fs::remove_file(home.data.join("absent")).expect("remove");
    let mut damaged = content("torn");
    damaged[0] ^= 1;
    fs::write(home.data.join("torn"), &damaged).expect("write");
    home.drop_in("absent.torrent", &absent);
    home.drop_in("torn.torrent", &torn);
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "missing", 1);
    wait_for_torrents(&mut btd, "partial", 1);
    let line = wait_for_log(&mut btd, "seeding a part of \"torn\"");
    assert!(line.contains("2 of 3 pieces are right, 1 wrong"), "{line}");
    let line = wait_for_log(&mut btd, "nothing to seed of \"absent\"");
    // Neither is downloaded, and nobody has to guess why.
    for line in [line, wait_for_log(&mut btd, "seeding a part of \"torn\"")] {
        assert!(line.contains("nobody to download it from"), "{line}");
    }

    home.payload("absent");
    home.payload("torn");
    for file in ["absent.torrent", "torn.torrent"] {
        touch(&home.torrents.join(file));
    }
    wait_for_torrents(&mut btd, "seeding", 2);
    // A torrent that is believed to be whole, too.
    fs::write(home.data.join("torn"), &damaged).expect("write");
    touch(&home.torrents.join("torn.torrent"));
    wait_for_torrents(&mut btd, "partial", 1);
    btd.stop();
}

#[test]
fn payload_of_which_nothing_is_right_is_checked_again_only_on_request() {
    let home = Home::new("wrong");
    home.drop_in("a.torrent", &home.payload("a"));
    fs::write(home.data.join("a"), vec![0; content("a").len()]).expect("write");
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "missing", 1);
    // It would be hashed to its end each time.
    let line = wait_for_log(&mut btd, "nothing to seed of \"a\"");
    assert!(line.contains("none is right (`btd ctl verify "), "{line}");
    home.payload("a");
    touch(&home.torrents.join("a.torrent"));
    wait_for_torrents(&mut btd, "seeding", 1);
    btd.stop();
}

#[test]
fn a_torrent_that_moves_to_another_watch_folder_is_looked_for_in_its_data_folder() {
    let home = Home::new("move");
    let (other_torrents, other_data) = (home.scratch.dir("other-torrents"), home.scratch.dir("other-data"));
    home.drop_in("a.torrent", &home.payload("a"));
    fs::copy(home.data.join("a"), other_data.join("a")).expect("copy the payload");
    let mut config = home.config();
    config.watch.push((other_torrents.clone(), other_data));
    let mut btd = Btd::start(home.path(), &config);
    wait_for_torrents(&mut btd, "seeding", 1);
    let (from, to) = (home.torrents.join("a.torrent"), other_torrents.join("a.torrent"));
    // The other folder has it before this one has lost it; then all that is left is there.
    fs::hard_link(&from, &to).expect("link");
    wait_for_log(&mut btd, "is the same torrent as");
    fs::remove_dir_all(&home.data).expect("remove the payload");
    fs::remove_file(&from).expect("remove");
    wait_for_log(&mut btd, "its payload is looked for there");
    wait_for("it is seeded from there", within(SECONDS), || {
        (btd.process.log().matches("seeding \"a\"").count() == 2).then_some(())
    });
    btd.stop();
}

/// Folders are read side by side: whichever came first had it, and a seed was missing after every other restart.
#[test]
fn torrent_of_two_watch_folders_has_its_payload_in_that_of_the_first_at_every_start() {
    let home = Home::new("two-folders");
    let torrent = home.payload("a");
    let (empty_torrents, empty_data) = (home.scratch.dir("empty-torrents"), home.scratch.dir("empty-data"));
    home.drop_in("a.torrent", &torrent);
    fs::write(empty_torrents.join("z.torrent"), &torrent).expect("write a torrent");
    // The first folder of the configuration has more to read before it comes to this torrent.
    for number in 0..300 {
        fs::write(empty_torrents.join(format!("{number:03}.torrent")), b"nothing").expect("write a file");
    }
    let whole = home.config();
    let mut both = home.config();
    both.watch.insert(0, (empty_torrents, empty_data));
    let last_first = Config {
        watch: both.watch.iter().rev().cloned().collect(),
        ..home.config()
    };
    let state_at_start = |config: &Config, state| {
        let mut btd = Btd::start(home.path(), config);
        wait_for_torrents(&mut btd, state, 1);
        btd.stop();
    };
    state_at_start(&whole, "seeding");
    for _ in 0..4 {
        state_at_start(&last_first, "seeding");
    }
    for _ in 0..4 {
        state_at_start(&both, "missing");
    }
    for _ in 0..2 {
        state_at_start(&last_first, "seeding");
    }
}

#[test]
fn a_watch_folder_that_vanishes_is_told_and_picked_up_again() {
    let home = Home::new("vanish");
    home.drop_in("a.torrent", &home.payload("a"));
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 1);
    let away = home.path().join("away");
    fs::rename(&home.torrents, &away).expect("move the folder away");
    wait_for_log(&mut btd, "cannot look into watch folder");
    fs::rename(&away, &home.torrents).expect("move the folder back");
    wait_for_log(&mut btd, "is there");
    home.drop_in("b.torrent", &home.payload("b"));
    wait_for_torrents(&mut btd, "seeding", 2);
    assert!(!btd.process.log().contains("removed"), "its torrents stay meanwhile");
    btd.stop();
}

#[test]
fn it_stops_within_its_time_while_it_checks_and_a_hangup_does_not_stop_it() {
    let home = Home::new("stop");
    // A hole of 256 GiB takes minutes to hash.
    let (len, piece_len) = (256_u64 << 30, 16 << 20);
    let hashes = vec![[0; 20]; usize::try_from(len / u64::from(piece_len)).expect("a small number")];
    let file = fs::File::create(home.data.join("hole")).expect("make a file");
    file.set_len(len).expect("a hole costs nothing");
    home.drop_in("hole.torrent", &torrent_of("hole", len, piece_len, &hashes));
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "checking", 1);
    btd.process.signal(Signal::HUP);
    wait_for_log(&mut btd, "SIGHUP");
    // Before it has read anything it cannot say when it will be done.
    let line = wait_for_log(&mut btd, "% of 256 GiB, ");
    assert!(
        line.contains("checking \"hole\": ") && line.contains(" s left"),
        "{line}"
    );
    btd.stop();
}

/// A payload of `pieces` pieces of 1 MiB in the data folder, and its torrent in the watch folder.
fn long_payload(home: &Home, name: &str, pieces: usize) {
    let piece_len = 1_u32 << 20;
    let content: Vec<u8> = (0..pieces << 20).map(|at| (at * 31 + at / 251) as u8).collect();
    let hashes: Vec<[u8; 20]> = content.chunks(piece_len as usize).map(sha1).collect();
    fs::write(home.data.join(name), &content).expect("write a payload");
    age(&home.data.join(name));
    home.drop_in(
        &format!("{name}.torrent"),
        &torrent_of(name, content.len() as u64, piece_len, &hashes),
    );
}

#[test]
fn what_was_checked_is_not_read_again_after_a_restart_unless_it_has_changed() {
    let home = Home::new("known");
    for name in ["same", "changed"] {
        home.drop_in(&format!("{name}.torrent"), &home.payload(name));
    }
    home.drop_in("gone.torrent", &torrent("gone", &content("gone")));
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 2);
    wait_for_log(&mut btd, "nothing to seed of \"gone\"");
    btd.stop();

    let mut damaged = content("changed");
    damaged[0] ^= 1;
    fs::write(home.data.join("changed"), &damaged).expect("write");
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 1);
    wait_for_torrents(&mut btd, "partial", 1);
    let line = wait_for_log(&mut btd, "seeding \"same\"");
    assert!(line.contains("unchanged since it was checked"), "{line}");
    let read = btd.metric("btd_check_read_bytes_total");
    assert_eq!(read, content("changed").len() as f64, "only the changed one was read");

    // Nobody but the operator knows better than the time of modification.
    touch(&home.torrents.join("same.torrent"));
    wait_for("the other is read too", within(SECONDS), || {
        let all = content("changed").len() + content("same").len();
        (btd.metric("btd_check_read_bytes_total") == all as f64).then_some(())
    });
    wait_for_torrents(&mut btd, "seeding", 1);

    // Who takes a torrent out and puts it back wants to know.
    fs::rename(home.torrents.join("same.torrent"), home.path().join("aside")).expect("take out");
    wait_for_log(&mut btd, "removed \"same\"");
    fs::rename(home.path().join("aside"), home.torrents.join("same.torrent")).expect("put back");
    wait_for("it is read again", within(SECONDS), || {
        let all = content("changed").len() + 2 * content("same").len();
        (btd.metric("btd_check_read_bytes_total") == all as f64).then_some(())
    });
    btd.stop();
}

#[test]
fn a_check_goes_on_after_a_restart_from_where_it_stood() {
    let home = Home::new("resume");
    long_payload(&home, "long", 16);
    let slowly = |rate: &str| Config {
        more: format!("[storage]\ncheck-rate = \"{rate}\"\n"),
        ..home.config()
    };
    // The first piece at once, and each further one after a quarter of an hour.
    let mut btd = Btd::start(home.path(), &slowly("1 KiB/s"));
    wait_for("a piece is hashed", within(SECONDS), || {
        btd.process.assert_running();
        (btd.metric("btd_hash_bytes_total") > 0.0).then_some(())
    });
    btd.stop();

    let mut btd = Btd::start(home.path(), &slowly("unlimited"));
    wait_for_torrents(&mut btd, "seeding", 1);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), f64::from(15 << 20));
    btd.stop();
}

#[test]
fn checks_are_paused_and_resumed_by_signals() {
    let home = Home::new("pause");
    let mut btd = home.start();
    btd.process.signal(Signal::USR1);
    wait_for_log(&mut btd, "SIGUSR1: checks of payload are paused");
    long_payload(&home, "long", 4);
    wait_for_torrents(&mut btd, "checking", 1);
    assert_eq!(btd.metric("btd_checks_paused"), 1.0);
    // The log tells of a check that goes on every few seconds.
    let line = wait_for_log(&mut btd, "checking \"long\": ");
    assert!(line.contains(": paused at 0 % of 4 MiB"), "{line}");
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    btd.process.signal(Signal::USR2);
    wait_for_torrents(&mut btd, "seeding", 1);
    assert_eq!(btd.metric("btd_checks_paused"), 0.0);
    btd.stop();
}

#[test]
fn a_damaged_session_database_is_set_aside_and_payload_checked_anew() {
    let home = Home::new("damaged");
    home.drop_in("a.torrent", &home.payload("a"));
    let mut btd = home.start();
    wait_for_torrents(&mut btd, "seeding", 1);
    btd.stop();
    let database = home.path().join("state/session.redb");
    fs::write(&database, "not a database").expect("write");
    let mut btd = home.start();
    wait_for_log(&mut btd, "session.redb.bad");
    wait_for_torrents(&mut btd, "seeding", 1);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), content("a").len() as f64);
    btd.stop();
    assert_eq!(
        fs::read(home.path().join("state/session.redb.bad")).expect("kept"),
        b"not a database"
    );
}

#[test]
fn the_example_is_made_at_the_first_run_and_seeded() {
    let scratch = Scratch::new("example");
    let more = "[[watch]]\ndir = \"example/torrents\"\ndata-dir = \"example/data\"\nexample = true\n";
    let config = Config {
        more: more.to_owned(),
        ..Config::default()
    };
    let mut btd = Btd::start(scratch.path(), &config);
    wait_for_torrents(&mut btd, "seeding", 1);
    wait_for_log(&mut btd, "to fetch the example from this machine");
    btd.stop();
    let mut btd = Btd::start(scratch.path(), &config);
    wait_for_torrents(&mut btd, "seeding", 1);
    assert!(!btd.process.log().contains("made an example"), "it is made once");
    btd.stop();
}

/// A mapping that may be on huge pages takes 2 MiB where 4 KiB of it are touched. What the allocator has reserved is 1 GiB, of
/// which little is in use at a time and more and more has been: on huge pages it all stays with btd.
#[test]
fn only_what_is_full_is_asked_for_on_huge_pages() {
    let home = Home::new("huge-pages");
    let config = Config {
        more: "[storage]\ncache-size = \"32 MiB\"\n".to_owned(),
        ..home.config()
    };
    let btd = Btd::start(home.path(), &config);
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", btd.process.pid())).expect("the mappings of a child");
    let mut advised_kib = 0;
    let mut len_kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Size:") => len_kib = words.next().and_then(|kib| kib.parse().ok()).expect("a length"),
            Some("VmFlags:") if words.any(|flag| flag == "hg") => advised_kib += len_kib,
            _ => {}
        }
    }
    // The cache, and 4 MiB of receive buffers for each shard. A kernel without huge pages takes no such advice.
    let full_kib = (32 << 10) + u64::from(config.shards) * (4 << 10);
    assert!(
        advised_kib <= full_kib,
        "{advised_kib} KiB may be on huge pages, of which {full_kib} KiB are full:\n{smaps}"
    );
    // Pages that the machine has reserved need no advice.
    let reserved = fs::read_to_string("/proc/sys/vm/nr_hugepages").is_ok_and(|count| count.trim() != "0");
    let has_any = Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() && !reserved;
    assert!(advised_kib >= 32 << 10 || !has_any, "the cache is: {advised_kib} KiB");
    btd.stop();
}
