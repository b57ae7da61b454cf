//! The control socket of a btd that runs, and those that say nonsense to it, say nothing, do not listen, leave, or may not ask.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::ctl::{Home, IO, NOT_RUNNING, REFUSED, SECONDS, run, torrent};
use support::{wait_for, within};

/// A connection that says what a test wants.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(home: &Home) -> Self {
        let stream = UnixStream::connect(home.socket()).expect("btd listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(SECONDS)))
            .expect("set");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, text: &[u8]) {
        // btd may have hung up.
        let _ = self.0.get_mut().write_all(text);
    }

    /// The next line, empty at the end.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line); // A reset is an end, too.
        line
    }

    fn error_kind(&mut self) -> String {
        let line = self.hear();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        value["error"]["kind"]
            .as_str()
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned()
    }
}

#[test]
fn nonsense_is_answered_by_an_error_and_harms_nobody() {
    let home = Home::new("ctl-nonsense");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    let mut btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let mut raw = Raw::connect(&home);
    for line in [
        "",
        "list",
        "{}",
        "[]",
        "null",
        "{\"command\":\"explode\"}",
        "{\"command\":\"list\",\"more\":1}",
        "{\"command\":\"show\"}",
        "{\"command\":\"show\",\"hash\":7}",
        "{\"command\":\"show\",\"hash\":\"\"}",
        "{\"command\":\"pause\"}",
        "{\"command\":\"pause\",\"hash\":\"abcd\",\"all\":true}",
        "{\"command\":\"limits\",\"upload_rate\":-1}",
        "{\"command\":\"limits\",\"upload_rate\":1}",
        "\u{0}\u{1}\u{2}",
    ] {
        raw.say(format!("{line}\n").as_bytes());
        assert_eq!(raw.error_kind(), "bad-request", "{line:?}");
    }
    // The connection is still good, and may be used for several requests at once.
    raw.say(b"{\"command\":\"health\"}\n{\"command\":\"list\"}\n");
    assert_eq!(raw.hear(), "{\"row\":{\"healthy\":true,\"why\":[]}}\n");
    assert_eq!(raw.hear(), "{\"end\":{\"rows\":1}}\n");
    assert!(raw.hear().starts_with("{\"row\":{\"info_hash\":"));
    assert_eq!(raw.hear(), "{\"end\":{\"rows\":1}}\n");

    let mut long = Raw::connect(&home);
    long.say(&vec![b'x'; 1 << 20]);
    assert_eq!(long.error_kind(), "bad-request");
    assert_eq!(long.hear(), "", "it is hung up on");
    let mut deep = Raw::connect(&home);
    deep.say(&[vec![b'['; 8000], vec![b'\n']].concat());
    assert_eq!(deep.error_kind(), "bad-request");
    let mut torn = Raw::connect(&home);
    torn.say(b"{\"command\":");
    torn.0.get_mut().shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(torn.error_kind(), "bad-request");
    // More than any torrent, less than was announced, and no torrent.
    for (len, sent, kind) in [
        (u64::MAX, 10, "bad-torrent"),
        (1 << 26, 10, "bad-torrent"),
        (10, 10, "bad-torrent"),
    ] {
        let mut add = Raw::connect(&home);
        add.say(format!("{{\"command\":\"add\",\"name\":\"../../x\",\"len\":{len}}}\n").as_bytes());
        add.say(&vec![b'd'; sent]);
        assert_eq!(add.error_kind(), kind, "{len}");
    }
    let mut gone = Raw::connect(&home);
    gone.say(b"{\"command\":\"add\",\"name\":\"x\",\"len\":1000}\nd4:info");
    drop(gone);
    btd.process.assert_running();
    assert_eq!(home.json(&["list"]).rows().len(), 1);
    assert_eq!(fs::read_dir(&home.watch).expect("listed").count(), 1);
    btd.stop();
}

#[test]
fn socket_is_for_btds_own_user_and_root_only() {
    let home = Home::new("ctl-permission");
    let btd = home.start();
    let mode = fs::metadata(home.socket()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if !rustix::process::geteuid().is_root() {
        btd.stop();
        return support::cannot("another user's part of it needs root");
    }
    // Outside of the scratch folder, which others may not enter.
    let public = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let binary = public.path().join("btd");
    fs::copy(env!("CARGO_BIN_EXE_btd"), &binary).expect("copied");
    btd.stop();
    let state = public.path().join("state");
    let config = format!(
        "state-dir = {state:?}\n\n{}",
        home.config("").to_toml().split_once("\n\n").expect("its head").1
    );
    fs::write(home.path().join("btd.toml"), config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.arg("--config").arg(home.path().join("btd.toml"));
    let mut process = support::process::Process::spawn("btd", &mut command, &home.path().join("btd.log"));
    wait_for("btd is ready", within(SECONDS), || {
        state.join("ports.json").exists().then_some(())
    });
    let as_nobody = || {
        let mut command = Command::new(&binary);
        command.args(["ctl", "list", "--state-dir"]).arg(&state);
        run(command.uid(65_534).gid(65_534))
    };
    let shut_out = as_nobody();
    assert!(
        shut_out.code == IO
            && shut_out
                .err
                .contains("by btd's own user only, which is root (hint: sudo"),
        "{}",
        shut_out.err
    );
    // Somebody has opened it: whoever connects is still asked who he is.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(state.join("ctl.sock"), fs::Permissions::from_mode(0o777)).expect("set");
    as_nobody().assert_fails(REFUSED, "only btd's own user and root");
    process.signal(Signal::TERM);
    process.wait_success(within(SECONDS));
}

#[test]
fn a_long_list_comes_whole_to_two_at_once_while_another_does_not_read_its_own() {
    const COUNT: usize = 3_000;
    let home = Home::new("ctl-many");
    for number in 0..COUNT {
        let name = format!("torrent number {number}");
        let torrent = torrent(&name, &[(&name, 10)], &number.to_be_bytes(), "");
        fs::write(home.watch.join(format!("{number}.torrent")), torrent).expect("written");
    }
    let btd = home.start();
    let mut stalls = Raw::connect(&home);
    // Far more than a socket holds: it is written to until it takes no more, and nobody waits for it.
    for _ in 0..20 {
        stalls.say(b"{\"command\":\"list\"}\n");
    }
    std::thread::scope(|scope| {
        let lists: Vec<_> = (0..2).map(|_| scope.spawn(|| home.json(&["list"]).rows())).collect();
        for list in lists {
            let rows = list.join().expect("listed");
            let hashes: Vec<&str> = rows.iter().filter_map(|row| row["info_hash"].as_str()).collect();
            assert!(hashes.len() == COUNT && hashes.is_sorted_by(|one, two| one < two));
        }
    });
    assert_eq!(home.ctl(&["health"]).code, 0);
    // What it did not read is all there when it does.
    let mut rows = 0;
    for _ in 0..20 {
        loop {
            let line = stalls.hear();
            match line.starts_with("{\"row\"") {
                true => rows += 1,
                false => break assert_eq!(line, format!("{{\"end\":{{\"rows\":{COUNT}}}}}\n")),
            }
        }
    }
    assert_eq!(rows, 20 * COUNT);
    // One who has seen enough ends it.
    let mut head = Command::new(env!("CARGO_BIN_EXE_btd"));
    head.args(["ctl", "list", "--state-dir", "state"])
        .current_dir(home.path());
    let mut child = head
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run btd ctl");
    let mut first = [0; 4];
    let mut out = child.stdout.take().expect("piped");
    out.read_exact(&mut first).expect("a head");
    drop(out);
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    btd.stop();
}

#[test]
fn those_that_say_nothing_are_bounded_and_let_go_after_a_while() {
    let home = Home::new("ctl-stall");
    let btd = home.start();
    let started = Instant::now();
    let mut silent: Vec<Raw> = (0..32).map(|_| Raw::connect(&home)).collect();
    silent.iter_mut().for_each(|raw| raw.say(b"{\"comm"));
    // All places are taken, and it is said so.
    let mut more = Raw::connect(&home);
    assert_eq!(more.error_kind(), "unavailable");
    home.ctl(&["health"])
        .assert_fails(NOT_RUNNING, "others are being answered");
    for raw in &mut silent {
        assert_eq!(raw.error_kind(), "unavailable");
        assert_eq!(raw.hear(), "");
    }
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    assert_eq!(home.ctl(&["health"]).code, 0, "there is room again");
    btd.stop();
}

#[test]
fn who_sends_a_torrent_file_slowly_holds_up_nobody_else() {
    let home = Home::new("ctl-slow-add");
    let btd = home.start();
    let mut slow = Raw::connect(&home);
    slow.say(b"{\"command\":\"add\",\"name\":\"slow\",\"len\":1000}\nd4:info");
    let mut slow_and_long = Raw::connect(&home);
    slow_and_long.say(b"{\"command\":\"add\",\"name\":\"long\",\"len\":5000000}\nd4:info");
    // Both are being waited for by now: requests on one socket are taken up in order.
    home.ctl(&["health"]);
    let torrent = home.payload_without_torrent("seed", &[("seed", 100_000)]);
    let file = home.path().join("seed.torrent");
    fs::write(&file, torrent).expect("write a torrent");
    let begun = Instant::now();
    let added = home.json(&["add", file.to_str().expect("UTF-8")]).row();
    assert_eq!(added["loaded"], true);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop((slow, slow_and_long));
    btd.stop();
}

#[test]
fn what_is_done_to_all_ends_when_nobody_is_there_any_more() {
    const COUNT: usize = 3000;
    let home = Home::new("ctl-gone");
    for number in 0..COUNT {
        let name = format!("t{number}");
        let torrent = torrent(&name, &[(&name, 1)], name.as_bytes().get(..1).expect("a byte"), "");
        fs::write(home.watch.join(format!("{name}.torrent")), torrent).expect("write a torrent");
    }
    let btd = home.start();
    let count = |state: &str| {
        home.json(&["stats"]).row()["torrents"][state]
            .as_u64()
            .expect("a number") as usize
    };
    wait_for("all were looked at", within(SECONDS), || {
        (count("missing") == COUNT).then_some(())
    });
    let mut gone = Raw::connect(&home);
    gone.say(b"{\"command\":\"pause\",\"all\":true}\n");
    drop(gone);
    // As long as another takes that stays to the end.
    let run = home.json(&["reannounce", "--all"]);
    run.assert_fails(REFUSED, "it could not be done to any torrent");
    let refused: Value = serde_json::from_str(&run.out).expect("a row");
    assert_eq!(refused["unchanged"], COUNT);
    let paused = count("paused");
    assert!(paused < COUNT, "{paused} of {COUNT} were paused for nobody");
    let all = home.json(&["pause", "--all"]).row();
    assert_eq!(all["changed"], COUNT - paused);
    btd.stop();
}
