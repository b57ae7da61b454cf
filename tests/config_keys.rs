//! Keys of the configuration whose effect no other test of the whole program looks at: each is given another value than its
//! default, and what comes of it would not come of that. TESTING.md says by which test each key is held.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use btd::proto::InfoHash;
use btd::proto::handshake::Reserved;
use socket2::{Domain, Socket, Type};
use support::announce::{ALLOW, Home, wait_asked};
use support::btd::{Btd, Config};
use support::leech::{Leech, SECONDS, Source, info_hash, wait_for_metric};
use support::payload::Payload;
use support::peer::{Peer, hello};
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, parameter};
use support::torrent::Torrent;
use support::{cannot, http, wait_for, within};

const BLOCK_LEN: u32 = 16 << 10;
const PLAIN: Reserved = Reserved([0; 8]);

/// Starts btd with these variables, each in the place of a key.
fn start(home: &Path, config: &Config, variables: &[(&str, &str)]) -> Btd {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.envs(variables.iter().copied());
    Btd::start_within(command, home, config)
}

/// Payload of four pieces of 64 KiB in a folder of this name, and its torrent.
fn small(scratch: &Scratch, name: &str, seed: u64) -> (Config, InfoHash) {
    let (watch, data) = (
        scratch.dir(&format!("{name}-watch")),
        scratch.dir(&format!("{name}-data")),
    );
    let payload = Payload::make(&data, name, seed, &[(name.to_owned(), 256 << 10)]);
    let torrent = Torrent::create(&payload.path(), 64 << 10, watch.join("t.torrent"));
    let config = Config {
        watch: vec![(watch, data)],
        ..Config::default()
    };
    (config, info_hash(&torrent))
}

/// An address of this machine.
fn near(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, last)
}

#[test]
fn peers_beyond_a_cap_of_the_configuration_are_turned_away_and_the_others_served() {
    for (variable, cap, sources) in [
        ("BTD_PEERS__MAX_CONNECTIONS", "2", [1, 2, 3].as_slice()),
        ("BTD_PEERS__MAX_CONNECTIONS_PER_TORRENT", "2", &[1, 2, 3]),
        ("BTD_PEERS__MAX_CONNECTIONS_PER_IP", "1", &[1, 1]),
    ] {
        let scratch = Scratch::new("key-caps");
        let (config, info_hash) = small(&scratch, "seed", 1);
        let btd = start(scratch.path(), &config, &[(variable, cap)]);
        btd.wait_seeding(1);
        let (last, first) = sources.split_last().expect("some");
        let join = |source: &u8| {
            let mut peer = Peer::join(btd.peers, near(*source), info_hash, PLAIN).expect("join");
            peer.hear_id(1).expect("be unchoked");
            peer
        };
        let mut served: Vec<Peer> = first.iter().map(join).collect();
        let mut late = Peer::connect(btd.peers, near(*last)).expect("connect");
        // It may be gone already.
        let _ = late.send(&hello(info_hash, PLAIN));
        late.wait_closed(variable, within(20));
        for peer in &mut served {
            peer.fetch(0, 0, BLOCK_LEN).expect("be served all the same");
        }
        // There is a place again for who comes when one has left.
        drop(served);
        wait_for("a place is free", within(20), || {
            let mut peer = Peer::join(btd.peers, near(*last), info_hash, PLAIN).ok()?;
            peer.hear_id(1).ok()?;
            peer.fetch(0, 0, BLOCK_LEN).ok()
        });
        btd.stop();
    }
}

#[test]
fn as_many_may_download_as_there_are_upload_slots() {
    let scratch = Scratch::new("key-slots");
    let (mut config, info_hash) = small(&scratch, "seed", 2);
    config.shards = 1;
    let btd = start(scratch.path(), &config, &[("BTD_LIMITS__UPLOAD_SLOTS", "2")]);
    btd.wait_seeding(1);
    let join = |last| Peer::join(btd.peers, near(last), info_hash, PLAIN).expect("join");
    let _peers: Vec<Peer> = (1..=5).map(join).collect();
    wait_for_metric(&btd, "btd_peers{state=\"interested\"}", |peers| peers == 5.0);
    assert_eq!(btd.metric("btd_peers{state=\"unchoked\"}"), 2.0);
    btd.stop();
}

#[test]
fn each_torrent_keeps_to_the_rate_for_each() {
    const RATE: f64 = 500_000.0;
    let files = [("folder/a".to_owned(), 4_000_000)];
    let more = "[limits]\nupload-rate-per-torrent = \"500 kB/s\"\n";
    let source = Source::start_with("key-rate", &files, 64 << 10, more);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    let downloaded = || leech.btd.metric("btd_downloaded_bytes_total");
    wait_for("it has begun", within(SECONDS), || (downloaded() > 0.0).then_some(()));
    let (begun, from) = (Instant::now(), downloaded());
    wait_for("two seconds' worth", within(SECONDS), || {
        (downloaded() - from > 2.0 * RATE).then_some(())
    });
    let rate = (downloaded() - from) / begun.elapsed().as_secs_f64();
    // Figures are a second old at most.
    assert!(rate < 2.0 * RATE, "{rate} bytes a second");
    leech.btd.stop();
    source.btd.stop();
}

#[test]
fn files_have_their_final_names_and_all_of_their_room_from_the_start_where_that_is_wanted() {
    const LEN: u64 = 8_000_000;
    let files = [("folder/a".to_owned(), LEN)];
    let more = "[limits]\nupload-rate = \"500 kB/s\"\n";
    let source = Source::start_with("key-files", &files, 64 << 10, more);
    let config = Config {
        peers: vec![source.btd.peers],
        more: "[storage]\npart-names = false\npreallocate = \"full\"\n".to_owned(),
        ..Config::default()
    };
    let leech = Leech::start(&source.scratch, "leech", &source.torrent, config);
    wait_for_metric(&leech.btd, "btd_pieces_written_total", |pieces| pieces >= 1.0);
    let file = fs::metadata(leech.data.join("folder/a")).expect("it has its final name");
    let allocated = file.blocks() * 512;
    assert_eq!(
        leech.btd.metric("btd_torrents{state=\"seeding\"}"),
        0.0,
        "too late to tell"
    );
    assert!(!leech.data.join("folder/a.part").exists());
    if leech.btd.process.log().contains("cannot set space aside") {
        return cannot("this filesystem cannot set space aside");
    }
    assert!(allocated >= LEN, "{allocated} of {LEN} bytes are set aside");
}

#[test]
fn metrics_are_told_under_the_names_that_are_named_and_of_as_many_torrents_as_are_wanted() {
    let scratch = Scratch::new("key-metrics");
    let (mut config, one) = small(&scratch, "one", 3);
    let (second, two) = small(&scratch, "two", 4);
    config.watch.extend(second.watch);
    let variables = [
        ("BTD_METRICS__HOSTS", "[\"btd.test\"]"),
        ("BTD_METRICS__TOP_TORRENTS", "1"),
    ];
    let btd = start(scratch.path(), &config, &variables);
    btd.wait_seeding(2);
    let status = |host: &str| {
        let mut stream = TcpStream::connect(btd.metrics).expect("connect");
        let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(status("btd.test").as_deref(), Some("200"));
    assert_eq!(status("other.test").as_deref(), Some("421"));
    // The second moves more.
    for (info_hash, blocks) in [(one, 1), (two, 3)] {
        let mut peer = Peer::join(btd.peers, near(1), info_hash, PLAIN).expect("join");
        peer.hear_id(1).expect("be unchoked");
        for piece in 0..blocks {
            peer.fetch(piece, 0, BLOCK_LEN).expect("be served");
        }
    }
    let series = |of: InfoHash| format!("btd_torrent_uploaded_bytes_total{{info_hash=\"{of}\"");
    let text = wait_for("that torrent has series", within(30), || {
        let text = http::get(btd.metrics, "/metrics").expect("metrics").text();
        text.contains(&series(two)).then_some(text)
    });
    assert!(!text.contains(&series(one)), "{text}");
    btd.stop();
}

/// The cores that each thread of a process with such a name may use.
fn cores(btd: &Btd, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", btd.process.pid())).expect("list the threads");
    let of = |task: &Path| {
        let status = fs::read_to_string(task.join("status")).ok()?;
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let is_called = value("Name:")?.starts_with(name);
        is_called.then_some(value("Cpus_allowed_list:")?.to_owned())
    };
    let tasks = tasks.map(|task| task.expect("list the threads").path());
    tasks.filter_map(|task| of(&task)).collect()
}

#[test]
fn there_are_as_many_shards_as_are_wanted_each_on_a_core_of_its_own_or_on_any() {
    let scratch = Scratch::new("key-shards");
    let count = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    for pin in ["true", "false"] {
        let variables = [("BTD_SHARDS__COUNT", &*count.to_string()), ("BTD_SHARDS__PIN", pin)];
        let btd = start(scratch.path(), &Config::default(), &variables);
        let found = cores(&btd, "btd-shard");
        assert_eq!(found.len(), count, "{found:?}");
        let is_one = |cores: &String| cores.chars().all(|c| c.is_ascii_digit());
        if count > 2 {
            assert!(found.iter().all(|cores| is_one(cores) == (pin == "true")), "{found:?}");
        }
        btd.stop();
    }
}

#[test]
fn trackers_are_told_the_address_and_port_of_the_configuration() {
    let scratch = Scratch::new("key-announce");
    let home = Home::new(&scratch, "seed", 100_000);
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    home.with_tracker(&stub.url());
    let more = format!("{ALLOW}ip = \"10.1.2.3\"\nport = 7001\n");
    let btd = Btd::start(&scratch.dir("btd"), &support::announce::config(&[&home], &more));
    let started = wait_asked(&stub, "started");
    assert_eq!(
        (parameter(&started, "ip"), parameter(&started, "port")),
        (Some("10.1.2.3"), Some("7001"))
    );
    btd.stop();
}

#[test]
fn no_tracker_is_told_of_a_btd_that_announces_nothing() {
    let scratch = Scratch::new("key-enabled");
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let homes = [("silent", 100_000), ("other", 100_001)].map(|(name, len)| Home::new(&scratch, name, len));
    homes.iter().for_each(|home| drop(home.with_tracker(&stub.url())));
    let start = |at: usize, more: &str| {
        let config = support::announce::config(&[&homes[at]], &format!("{ALLOW}{more}"));
        let btd = Btd::start(&scratch.dir(["silent-btd", "other-btd"][at]), &config);
        btd.wait_seeding(1);
        btd
    };
    let silent = start(0, "enabled = false\n");
    // One that began later is told of by now.
    let other = start(1, "");
    wait_asked(&stub, "started");
    silent.stop();
    other.stop();
    let asked = stub.requests();
    assert_eq!(asked.len(), 2, "started and stopped of the other alone: {asked:?}");
}

fn tracker(scratch: &Scratch, more: &str) -> (Btd, SocketAddr) {
    let config = Config {
        more: format!("[tracker]\nhttp = \"127.0.0.1:0\"\n{more}"),
        ..Config::default()
    };
    // What there is of descriptors is shared out: so few are there whatever the limit of the machine.
    let btd = start(scratch.path(), &config, &[("BTD_PEERS__MAX_CONNECTIONS", "50")]);
    let to = btd.tracker_http.expect("HTTP");
    (btd, to)
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_tracker_says_what_its_section_has_it_say() {
    let scratch = Scratch::new("key-tracker");
    let more = "min-interval = \"7m\"\nnumwant-max = 3\ntrust-ip = true\nmemory = \"8 MiB\"\n";
    let (btd, to) = tracker(&scratch, more);
    let ask = |last: u8, hash: char, port: u16, more: &str| {
        let hash = String::from(hash).repeat(20);
        let path = format!("/announce?info_hash={hash}&peer_id=-XX0000-{port:0>12}&port={port}&left=1&compact=1{more}");
        http::get_from(IpAddr::V4(near(last)), to, &path)
            .expect("announce")
            .body
    };
    for last in 1..=6 {
        ask(last, 'a', 1000 + u16::from(last), "");
    }
    let body = ask(7, 'a', 1007, "&numwant=50");
    let said = String::from_utf8_lossy(&body);
    assert!(contains(&body, b"12:min intervali420e"), "{said}");
    assert!(contains(&body, b"5:peers18:"), "three peers, {said}");
    ask(1, 'b', 7777, "&ip=10.1.2.3");
    let body = ask(2, 'b', 7778, "");
    assert!(contains(&body, &[10, 1, 2, 3, 0x1e, 0x61]), "{body:?}");
    let stats = http::get(to, "/stats").expect("the statistics").text();
    assert!(stats.contains(" of 8192 KiB\n"), "{stats}");
    btd.stop();
}

/// A connection from an address of this machine to the tracker, which stays open, and whether it was answered by that.
fn keeps_and_is_answered(last: u8, to: SocketAddr) -> (TcpStream, bool) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((near(last), 0));
    socket.bind(&from.into()).expect("an address of this machine");
    socket.connect(&to.into()).expect("connect to the tracker");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let asked = stream.write_all(b"GET /stats HTTP/1.1\r\nHost: tracker\r\n\r\n");
    let read = asked.and_then(|()| stream.read(&mut [0; 4096]));
    let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!read.as_ref().is_err_and(is_late), "the tracker says nothing");
    let is_answered = read.is_ok_and(|len| len > 0);
    (stream, is_answered)
}

#[test]
fn connections_beyond_a_cap_of_the_tracker_are_turned_away() {
    for (more, sources) in [
        ("max-connections = 2\n", [1, 2, 3].as_slice()),
        ("max-connections-per-ip = 1\n", &[1, 1]),
    ] {
        let scratch = Scratch::new("key-tracker-caps");
        let (btd, to) = tracker(&scratch, more);
        let answered = sources.iter().map(|last| keeps_and_is_answered(*last, to));
        let (_kept, answered): (Vec<TcpStream>, Vec<bool>) = answered.unzip();
        let (last, first) = answered.split_last().expect("some");
        assert!(first.iter().all(|answered| *answered), "{more}{answered:?}");
        assert!(!last, "{more}{answered:?}");
        btd.stop();
    }
}
