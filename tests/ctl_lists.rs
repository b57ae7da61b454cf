//! `btd ctl` for many torrents: lists of some of them, what is done to some of them, and what a list says of each.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::Command;

use btd::proto::handshake::Reserved;
use serde_json::Value;
use support::btd::Btd;
use support::ctl::{Home, REFUSED, SECONDS, USAGE, hash_of, torrent};
use support::peer::Peer;
use support::{wait_for, within};

/// More than are looked at at a time, and than are listed at a time.
const MANY: usize = 1100;

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["name"].as_str()).collect()
}

/// What comes for a line, to the end of it.
fn say(home: &Home, line: &str) -> Vec<Value> {
    let mut stream = UnixStream::connect(home.socket()).expect("it listens");
    stream.write_all(format!("{line}\n").as_bytes()).expect("written");
    let mut told = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let is_last = line.get("row").is_none();
        told.push(line);
        if is_last {
            break;
        }
    }
    told
}

#[test]
fn some_torrents_are_listed_paused_and_resumed_by_state_label_and_name() {
    let home = Home::new("ctl-some");
    let alpha = home.payload("Alpha", &[("Alpha", 40_000)]);
    let beta = home.drop_in("beta", &torrent("beta", &[("beta", 20_000)], &[7; 20_000], ""));
    let others = home.scratch.dir("others");
    let gamma = home.drop_in("gamma", &torrent("gamma", &[("gamma", 90_000)], &[8; 90_000], ""));
    std::fs::rename(home.watch.join("gamma.torrent"), others.join("gamma.torrent")).expect("moved");
    let more = format!(
        "label = \"films\"\n[[watch]]\ndir = {others:?}\ndata-dir = {:?}\n",
        home.scratch.dir("elsewhere")
    );
    // Nothing is right of what is there of them: what is not there at all is looked for again and again, and is being checked then.
    std::fs::write(home.data.join("beta"), vec![1; 20_000]).expect("write");
    std::fs::write(home.scratch.dir("elsewhere").join("gamma"), vec![1; 90_000]).expect("write");
    let btd = Btd::start(home.path(), &home.config(&more));
    home.wait_state(alpha.info_hash, "seeding");
    home.wait_state(beta.info_hash, "missing");
    home.wait_state(gamma.info_hash, "missing");

    let listed = |args: &[&str]| {
        let rows = home.json(&[&["list", "--sort", "name"], args].concat()).rows();
        names(&rows).join(" ")
    };
    assert_eq!(listed(&[]), "Alpha beta gamma");
    assert_eq!(listed(&["--state", "missing"]), "beta gamma");
    assert_eq!(
        listed(&["--state", "missing", "--state", "seeding"]),
        "Alpha beta gamma"
    );
    assert_eq!(listed(&["--label", "films"]), "Alpha beta");
    assert_eq!(listed(&["--label", "films", "--state", "missing"]), "beta");
    assert_eq!(listed(&["--name", "aLPH"]), "Alpha");
    assert_eq!(listed(&["--name", "nobody"]), "");
    let by_size = home.json(&["list", "--sort", "size"]).rows();
    assert_eq!(names(&by_size), ["gamma", "Alpha", "beta"]);
    home.ctl(&["list", "--label", "film"])
        .assert_fails(REFUSED, "no watch folder has the label \"film\", only \"films\"");
    home.ctl(&["list", "--state", "mising"])
        .assert_fails(USAGE, "'missing'");

    let rows = home.json(&["list", "--label", "films", "--sort", "name"]).rows();
    assert_eq!((&rows[0]["label"], &rows[0]["ratio"]), (&"films".into(), &0.0.into()));
    assert!(
        rows[0]["added"].is_u64() && rows[0]["why"].is_null() && rows[1]["why"].is_string(),
        "{rows:?}"
    );
    let shown = home.json(&["show", &hash_of(&beta)]).row();
    assert_eq!((&shown["why"], &shown["label"]), (&rows[1]["why"], &rows[1]["label"]));
    let table = home.ctl(&["list", "--sort", "name"]).out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 6, "a head, three torrents and two reasons: {table}");
    assert!(lines[0].contains("RATIO") && lines[0].contains("LABEL"), "{table}");
    assert!(lines[1].contains("films") && lines[1].ends_with("  Alpha"), "{table}");
    let why = rows[1]["why"].as_str().expect("told");
    assert!(
        lines[2].ends_with("  beta") && lines[3].ends_with(&format!("  why: {why}")),
        "{table}"
    );
    assert!(!lines[4].contains("films"), "{table}");
    let none = home.ctl(&["list", "--name", "nobody"]).out;
    assert_eq!(none.lines().count(), 1, "{none}");

    let changed = |args: &[&str]| home.json(args).row()["changed"].as_u64().expect("a count");
    assert_eq!(changed(&["pause", "--label", "films", "--state", "seeding"]), 1);
    assert_eq!(changed(&["pause", "--label", "films"]), 1, "one was");
    assert_eq!(listed(&["--state", "paused"]), "Alpha beta");
    let verified = home.ctl(&["verify", "--state", "missing"]);
    assert_eq!(verified.out, "1 torrent; with 0 others there was nothing to do\n");
    home.wait_state(gamma.info_hash, "missing");
    home.ctl(&["reannounce", "--state", "missing"])
        .assert_fails(REFUSED, "could not be done to any");
    assert_eq!(changed(&["resume", "--state", "paused"]), 2);
    home.wait_state(alpha.info_hash, "seeding");
    home.ctl(&["pause", "--label", "nothing"])
        .assert_fails(REFUSED, "no watch folder has the label");

    // As a `btd ctl` from before asks.
    assert_eq!(say(&home, r#"{"command":"list"}"#).len(), 4);
    for wrong in [
        r#"{"command":"pause","all":true,"only":{"label":"films"}}"#,
        r#"{"command":"pause","hash":"abcd","only":{"label":"films"}}"#,
        r#"{"command":"pause","only":{}}"#,
        r#"{"command":"pause","only":{"name":""}}"#,
        r#"{"command":"list","only":{"states":["waiting"]}}"#,
    ] {
        assert_eq!(say(&home, wrong)[0]["error"]["kind"], "bad-request", "{wrong}");
    }
    assert_eq!(listed(&["--state", "paused"]), "", "none of these did anything");
    btd.stop();
}

#[test]
fn one_of_many_torrents_is_found_wherever_it_is() {
    let home = Home::new("ctl-one-of-many");
    for number in 0..MANY {
        let name = format!("t{number:04}.");
        home.drop_in(&name, &torrent(&name, &[(&name, 10)], &[1; 10], ""));
    }
    let btd = home.start();
    let all = home.json(&["list"]).rows();
    let hashes: Vec<&str> = all.iter().filter_map(|row| row["info_hash"].as_str()).collect();
    assert!(hashes.len() == MANY && hashes.is_sorted());
    let named = home.json(&["list", "--name", "t"]).rows();
    assert_eq!(names(&named), names(&all));
    for place in [0, 127, 128, 1023, 1024, MANY - 1] {
        let name = all[place]["name"].as_str().expect("a name");
        let rows = home.json(&["list", "--name", name]).rows();
        assert_eq!(names(&rows), [name], "the one at {place}");
    }
    let table = home.ctl(&["list", "--name", "t"]).out;
    assert!(!table.contains("LABEL"), "nothing has one");
    btd.stop();
}

#[test]
fn stats_tell_of_places_and_of_those_who_were_turned_away() {
    let home = Home::new("ctl-places");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command
        .env("BTD_PEERS__MAX_CONNECTIONS", "7")
        .env("BTD_PEERS__MAX_CONNECTIONS_PER_IP", "1");
    let btd = Btd::start_within(command, home.path(), &home.config(""));
    home.wait_state(meta.info_hash, "seeding");
    let join = || Peer::join(btd.peers, Ipv4Addr::LOCALHOST, meta.info_hash, Reserved::OURS);
    let _first = join().expect("there is a place");
    assert!(join().is_err(), "and no second for this address");
    let stats = wait_for("the shards have told of both", within(SECONDS), || {
        let stats = home.json(&["stats"]).row();
        let told = &stats["connections"];
        (told["now"] == 1 && told["turned_away"] == 1).then_some(stats)
    });
    assert_eq!(stats["connections"]["max"], 7);
    assert_eq!(stats["tracker_connections"], Value::Null);
    let text = home.ctl(&["stats"]).out;
    assert!(
        text.contains("connections   1 of at most 7, 1 turned away since the start\n"),
        "{text}"
    );
    btd.stop();
}
