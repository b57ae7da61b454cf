//! The machine around btd fails it: too little memory, too few threads or descriptors, a clock that jumps, a process that is
//! stopped for a while, a disk that takes a second for each read or is gone as a whole, no io_uring.
//!
//! What goes wrong with payload alone is in `faults`; with what is being downloaded, in `download_disks` and its neighbours.

mod support;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use btd::harness::Target;
use btd::harness::load::{Load, Until, raise_open_files};
use btd::harness::procfs::Tree;
use btd::harness::report::Report;
use btd::proto::handshake::Reserved;
use btd::proto::wire::Message;
use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::cgroup::Cgroup;
use support::fault_fs::{self, FaultFs, Op, Rule};
use support::leech::{Leech, SECONDS, Source, files, metainfo, wait_for_metric};
use support::mount::Image;
use support::payload::Payload;
use support::peer::{Peer, hello};
use support::process::Process;
use support::scratch::Scratch;
use support::shims;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{age, cannot, http, skip, wait_for, within};

const PIECE_LEN: u32 = 256 << 10;
const BLOCK_LEN: u32 = 16 << 10;
const LEN: u64 = 32 << 20;
const MIB: u64 = 1 << 20;

/// A torrent of 32 MiB, and a watch folder and a data folder that have it.
struct Home {
    scratch: Scratch,
    torrent: Torrent,
    config: Config,
}

impl Home {
    fn new(name: &str, more: &str) -> Home {
        raise_open_files();
        let scratch = Scratch::new(name);
        let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
        let payload = Payload::make(&data, "payload.bin", 7, &[("payload.bin".to_owned(), LEN)]);
        age(&payload.path());
        let torrent = Torrent::create(&payload.path(), PIECE_LEN, watch.join("payload.torrent"));
        let config = Config {
            watch: vec![(watch, data)],
            more: more.to_owned(),
            ..Config::default()
        };
        Home {
            scratch,
            torrent,
            config,
        }
    }

    fn start(&self, command: Command) -> Btd {
        let btd = Btd::start_within(command, self.scratch.path(), &self.config);
        btd.wait_seeding(1);
        btd
    }

    fn target(&self) -> Target {
        Target::from(&metainfo(&self.torrent))
    }

    fn join(&self, btd: &Btd, from: Ipv4Addr) -> std::io::Result<Peer> {
        let info_hash = metainfo(&self.torrent).info_hash;
        let mut peer = Peer::join(btd.peers, from, info_hash, Reserved([0; 8]))?;
        peer.hear_id(1)?;
        Ok(peer)
    }
}

fn btd_itself() -> Command {
    Command::new(env!("CARGO_BIN_EXE_btd"))
}

/// Leechers that get right bytes, all of them.
fn serves(btd: &Btd, target: &Target, connections: u32, until: Until) -> Report {
    let load = Load {
        connections,
        queue: 16,
        until,
        verify: 1.0,
        busy: false,
        ..Load::new(btd.peers)
    };
    let report = load.run(target).expect("drive the leechers");
    assert_eq!(report.connections.lost.len(), 0, "{:?}", report.connections.lost);
    assert_eq!((report.verified.bad, report.trouble.unasked), (0, 0), "{report}");
    assert!(report.verified.good > 0, "{report}");
    report
}

/// Stopped past every deadline of its handshakes (`BTD_TEST_STOPPED` seconds, 12 by itself). Timers come due once, those who
/// had been there stay, and the tracker is not asked for what was missed.
#[test]
fn process_that_was_stopped_for_a_while_catches_up_once() {
    let stopped = std::env::var("BTD_TEST_STOPPED")
        .ok()
        .and_then(|text| text.parse().ok());
    let stopped = Duration::from_secs(stopped.unwrap_or(12));
    let stub = StubTracker::saying("d8:intervali60e5:peers0:e");
    let mut home = Home::new("stopped", "[announce]\nallow-private = true\n");
    let path = home.torrent.path.clone();
    home.torrent = home.torrent.with_tracker(&stub.url(), path);
    let btd = home.start(btd_itself());
    wait_for("the tracker hears of the start", within(30), || {
        (stub.with_event("started").len() == 1).then_some(())
    });
    let mut healthy = home.join(&btd, Ipv4Addr::new(127, 50, 0, 1)).expect("join");
    healthy.fetch(1, 0, BLOCK_LEN).expect("be served");
    let mut half = Peer::connect(btd.peers, Ipv4Addr::new(127, 50, 0, 2)).expect("connect");
    half.send(&hello(metainfo(&home.torrent).info_hash, Reserved([0; 8]))[..40])
        .expect("begin a handshake");
    // Let it be heard before the clocks stand still.
    wait_for_metric(&btd, "btd_connections", |count| count == 2.0);

    btd.process.signal(Signal::STOP);
    // Nothing but time is to pass.
    std::thread::sleep(stopped);
    btd.process.signal(Signal::CONT);

    half.wait_closed("half a handshake", within(10));
    healthy.fetch(2, 0, BLOCK_LEN).expect("be served as before");
    wait_for_metric(&btd, "btd_peer_drops_total{reason=\"handshake_timeout\"}", |count| {
        count == 1.0
    });
    // In 60 s it may announce once more, and not for each that it missed.
    let due = 1 + stopped.as_secs() as usize / 60 + 1;
    assert!(stub.requests().len() <= due, "{:?}", stub.requests());
    btd.stop();
}

/// The clock on the wall goes ten years on, and twenty back. Nobody is late by it, nothing is announced by it, and what was
/// recorded meanwhile is believed afterwards.
#[test]
fn clock_that_jumps_by_years_is_not_what_btd_goes_by() {
    let tracker = "[announce]\nallow-private = true\n[tracker]\nhttp = [\"127.0.0.1:0\"]\n";
    let mut home = Home::new("clock", tracker);
    let clock = match shims::compile("clock", true, home.scratch.path()) {
        Ok(clock) => clock,
        Err(why) => return skip(&why),
    };
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let path = home.torrent.path.clone();
    home.torrent = home.torrent.with_tracker(&stub.url(), path);
    let moved = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(home.scratch.path().join("clock"))
        .expect("make the clock's file");
    moved.set_len(4096).expect("a page");
    let jump = |years: i64| {
        let seconds = years * 365 * 86_400;
        moved.write_all_at(&seconds.to_le_bytes(), 0).expect("move the clock");
    };
    let command = || {
        let mut command = btd_itself();
        command.env("LD_PRELOAD", &clock);
        command.env("BTD_CLOCK_FILE", home.scratch.path().join("clock"));
        command
    };
    let btd = home.start(command());
    wait_for("the tracker hears of the start", within(30), || {
        (stub.requests().len() == 1).then_some(())
    });
    let own = btd.tracker_http.expect("a tracker");
    let announce = "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=7777&left=0&uploaded=0&downloaded=0";
    http::get(own, announce).expect("announce to btd");
    let mut peer = home.join(&btd, Ipv4Addr::new(127, 50, 0, 1)).expect("join");
    for (years, piece) in [(10, 1), (-10, 2), (0, 3)] {
        jump(years);
        // The log is told by that clock: the jump has come.
        let seen = btd.process.log().lines().count();
        btd.process.signal(Signal::HUP);
        wait_for("the log goes on", within(30), || {
            (btd.process.log().lines().count() > seen).then_some(())
        });
        peer.fetch(piece, 0, BLOCK_LEN)
            .expect("a peer is served across the jump");
        // Ticks go on as before.
        let turns = btd.metric("btd_loop_turns_total");
        wait_for_metric(&btd, "btd_loop_turns_total", |now| now > turns + 1.0);
        let other = announce.replace("peer_id=bbbb", "peer_id=cccc").replace("7777", "7778");
        let answer = http::get(own, &other).expect("announce to btd").text();
        assert!(answer.contains("8:completei2e"), "a peer was forgotten: {answer:?}");
    }
    let years: Vec<String> = btd
        .process
        .log()
        .lines()
        .filter_map(|line| Some(line.split_once('-')?.0.to_owned()))
        .filter(|year| year.starts_with("20") && year.len() == 4)
        .collect();
    assert!(
        years.iter().max() > years.iter().min(),
        "the clock that btd is told did not move: {years:?}"
    );
    assert_eq!(stub.requests().len(), 1, "{:?}", stub.requests());
    assert_eq!(btd.metric("btd_peer_drops_total{reason=\"idle_timeout\"}"), 0.0);
    jump(10);
    btd.stop();
    let btd = home.start(command());
    assert_eq!(
        btd.metric("btd_check_read_bytes_total"),
        0.0,
        "what was recorded is believed"
    );
    btd.stop();
}

/// So few that nothing is left for connections: it says so, one peer at a time is served, and nobody spins.
#[test]
fn sixty_four_descriptors_are_enough_to_serve_somebody() {
    let home = Home::new("fd-64", "");
    let btd = home.start(limited(64));
    assert!(btd.process.log().contains("LimitNOFILE="), "{}", btd.process.log());
    let mut peer = home.join(&btd, Ipv4Addr::new(127, 50, 0, 1)).expect("join");
    for piece in 0..100 {
        peer.fetch(piece, 0, BLOCK_LEN).expect("be served");
    }
    btd.stop();
}

/// More come than there are descriptors for: those that were let in are served, the others turned away, and none of it costs
/// CPU time once they have come.
#[test]
fn those_beyond_the_descriptors_are_turned_away_and_nobody_spins() {
    let home = Home::new("fd-600", "");
    let btd = home.start(limited(600));
    let log = btd.process.log();
    let (_, rest) = log
        .split_once("at most ")
        .expect("it is said how many connections there may be");
    let allowed: usize = rest
        .split(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .expect("a number");
    assert!((20..600).contains(&allowed), "{allowed}");
    let mut peers = Vec::new();
    let mut refused = 0;
    for number in 0..u32::try_from(allowed).expect("few") + 100 {
        let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 61, 0, 1).to_bits() + number);
        match home.join(&btd, from) {
            Ok(peer) => peers.push(peer),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((peers.len(), refused), (allowed, 100));
    for (peer, piece) in peers.iter_mut().zip((0..100).cycle()) {
        peer.fetch(piece, 0, BLOCK_LEN)
            .expect("those who were let in are served");
    }
    // They stay, and so do those who knock: the process sleeps. Two seconds, of which it may work a tenth.
    let tree = Tree::new(btd.process.pid());
    let before = tree.usage().expect("its CPU time");
    let measured = Instant::now();
    wait_for("two seconds", within(30), || {
        (measured.elapsed() >= Duration::from_secs(2)).then_some(())
    });
    let used = tree.usage().expect("its CPU time").since(&before);
    let share = (used.user + used.system) / measured.elapsed().as_secs_f64();
    assert!(share < 0.1, "{share} of a core with {allowed} idle peers");
    wait_for_metric(&btd, "btd_connections_turned_away_total", |count| count >= 100.0);
    btd.stop();
}

/// btd with so many descriptors.
fn limited(descriptors: u32) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={descriptors}:{descriptors}"));
    command.args(["--", env!("CARGO_BIN_EXE_btd")]);
    command
}

/// What it says it needs, and a tenth: cache, write buffer, and 64 MiB for the program and what it owes the kernel.
#[test]
fn memory_limit_of_its_budget_and_a_tenth_is_kept_to_under_load() {
    let more = "[storage]\ncache-size = \"32 MiB\"\nwrite-buffer = \"16 MiB\"\n";
    let group = match Cgroup::make("memory", "memory") {
        Ok(group) => group,
        Err(why) => return cannot(&why),
    };
    let home = Home::new("memory", more);
    let budget = (32 + 16 + 64) * MIB;
    group.limit_memory(budget + budget / 10);
    let mut btd = home.start(group.command());
    // A hundred that ask for everything and take nothing.
    let _deaf: Vec<Peer> = (0..100)
        .map(|number| {
            let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 62, 0, 1).to_bits() + number);
            let mut peer = home.join(&btd, from).expect("join");
            for piece in 0..100 {
                let (begin, length) = (0, BLOCK_LEN);
                peer.say(&Message::Request { piece, begin, length }).expect("ask");
            }
            peer
        })
        .collect();
    serves(&btd, &home.target(), 500, Until::Bytes(256 * MIB));
    btd.process.assert_running();
    assert_eq!(group.kills(), 0, "{} bytes at most", group.memory_peak());
    println!(
        "memory: {} of {} KiB at most",
        group.memory_peak() >> 10,
        (budget + budget / 10) >> 10
    );
    btd.stop();
}

/// Not one thread more than there are once it is ready. The kernel's own workers for files count among them, and operations
/// that find none are cancelled; so do threads of btd's for what waits for a disk.
#[test]
fn download_and_seed_go_on_when_no_thread_can_be_had() {
    let group = match Cgroup::make("pids", "threads") {
        Ok(group) => group,
        Err(why) => return cannot(&why),
    };
    let source = Source::start("threads", &files(), 64 << 10);
    let scratch = &source.scratch;
    let (home, data, watch) = (
        scratch.dir("leech"),
        scratch.dir("leech-data"),
        scratch.dir("leech-watch"),
    );
    let config = Config {
        watch: vec![(watch.clone(), data.clone())],
        peers: vec![source.btd.peers],
        ..Config::default()
    };
    let mut btd = Btd::start_within(group.command(), &home, &config);
    group.limit_threads(group.threads());
    fs::copy(&source.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    // A while without any; what cannot be begun is tried again, and said.
    let log = wait_for("it says what it lacks, or manages without", within(SECONDS), || {
        let log = btd.process.log();
        let done = btd.metric("btd_torrents{state=\"seeding\"}") == 1.0;
        (done || log.contains("TasksMax=")).then_some(log)
    });
    println!("{log}");
    btd.process.assert_running();
    group.limit_threads(1_000);
    wait_for("it is whole once there are threads", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
    });
    source.payload.assert_same(&data, true);
    // And as a seed, with none again: every block is served, since that needs none.
    group.limit_threads(group.threads());
    let target = Target::from(&metainfo(&source.torrent));
    serves(&btd, &target, 8, Until::Bytes(32 * MIB));
    btd.process.assert_running();
    btd.stop();
}

/// What it says when there is no io_uring to be had, and its exit code.
#[test]
fn without_io_uring_it_says_why_and_what_to_do() {
    let home = Home::new("no-uring", "");
    let launcher = match shims::compile("no_uring", false, home.scratch.path()) {
        Ok(launcher) => launcher,
        Err(why) => return skip(&why),
    };
    let config = home.scratch.path().join("btd.toml");
    fs::write(&config, home.config.to_toml()).expect("write the configuration");
    let (eperm, enosys) = ("1", "38");
    let refusals = [
        (eperm, "io_uring is blocked by a seccomp filter"),
        (enosys, "io_uring_setup is missing"),
    ];
    for (errno, says) in refusals {
        let mut command = Command::new(&launcher);
        command.arg(errno).arg(env!("CARGO_BIN_EXE_btd"));
        command.arg("--config").arg(&config);
        let log = home.scratch.path().join("btd.log");
        let mut process = Process::spawn("btd", &mut command, &log);
        let status = process.wait(within(20));
        let log = process.log();
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(says) && log.contains("(hint: "), "{log}");
    }
}

/// 64 KiB of locked memory for who may not lock more.
#[test]
fn too_little_locked_memory_is_told_with_the_limit_to_raise() {
    let home = Home::new("memlock", "");
    let config = home.scratch.path().join("btd.toml");
    fs::write(&config, home.config.to_toml()).expect("write the configuration");
    if !rustix::process::geteuid().is_root() {
        return cannot("giving a capability away needs root");
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-ipc_lock", "prlimit", "--memlock=65536:65536", "--"]);
    command.arg(env!("CARGO_BIN_EXE_btd")).arg("--config").arg(&config);
    let log = home.scratch.path().join("btd.log");
    let mut process = Process::spawn("btd", &mut command, &log);
    let status = process.wait(within(20));
    let log = process.log();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(
        log.contains("cannot create a ring: the locked-memory limit is 64 KiB") && log.contains("LimitMEMLOCK="),
        "{log}"
    );
    // The cache of 256 MiB, and what two shards have beside it.
    assert!(
        log.contains(": 268 MiB would do") && log.contains("`ulimit -l 274432`"),
        "{log}"
    );
}

/// The bytes of locked memory that this log says would be enough.
fn would_do(log: &str) -> u64 {
    let (before, _) = log.split_once(" MiB would do").unwrap_or_else(|| panic!("{log}"));
    let mib = before.rsplit(' ').next().expect("a number");
    mib.parse::<u64>().unwrap_or_else(|error| panic!("{error}: {log}")) << 20
}

#[test]
fn as_much_locked_memory_as_is_said_to_do_does() {
    // A cache of no whole number of huge pages.
    let home = Home::new("enough-memlock", "[storage]\ncache-size = \"17 MiB\"\n");
    if !rustix::process::geteuid().is_root() {
        return cannot("giving a capability away needs root");
    }
    let start = |limit: u64| {
        let mut command = Command::new("setpriv");
        let limit = format!("--memlock={limit}:{limit}");
        command.args(["--bounding-set=-ipc_lock", "prlimit", &limit, "--"]);
        command.arg(env!("CARGO_BIN_EXE_btd"));
        let btd = Btd::start_within(command, home.scratch.path(), &home.config);
        btd.wait_seeding(1);
        let log = btd.process.log();
        btd.stop();
        log
    };
    let wanted = would_do(&start(512 << 10));
    let limit = format!("--memlock={wanted}:{wanted}");
    let raised = Command::new("prlimit")
        .args([&limit, "true"])
        .output()
        .expect("run prlimit");
    if !raised.status.success() {
        return cannot("raising the limit of locked memory needs CAP_SYS_RESOURCE");
    }
    let enough = start(wanted);
    assert!(!enough.contains("cannot register"), "{enough}");
}

/// Of half a MiB one btd of a user has the larger part, as one has that was killed a moment before.
#[test]
fn btd_whose_locked_memory_another_still_has_waits_until_that_has_gone() {
    const USER: u32 = 63_217; // Whose locked memory is nobody else's.
    if !rustix::process::geteuid().is_root() {
        return cannot("processes of another user need root");
    }
    // Outside of the scratch folder, which others may not enter.
    let public = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let binary = public.path().join("btd");
    fs::copy(env!("CARGO_BIN_EXE_btd"), &binary).expect("copied");
    let own = |name: &str| {
        let home = public.path().join(name);
        fs::create_dir(&home).expect("a folder");
        std::os::unix::fs::chown(&home, Some(USER), Some(USER)).expect("given away");
        home
    };
    let config = Config {
        shards: 1,
        ..Config::default()
    };
    let as_user = || {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.args(["--bounding-set=-all", "prlimit", "--memlock=524288:524288", "--"]);
        command.arg(&binary);
        command
    };
    let first = Btd::start_within(as_user(), &own("first"), &config);
    let second = own("second");
    let file = second.join("btd.toml");
    fs::write(&file, config.to_toml()).expect("write the configuration");
    let mut command = as_user();
    command.arg("--config").arg(&file).current_dir(&second);
    let mut second = Process::spawn("btd", &mut command, &second.join("btd.log"));
    let waits = wait_for("it waits", within(SECONDS), || {
        second.assert_running();
        let log = second.log();
        (log.contains("shard 0 waits for locked memory") || log.contains("ready after"))
            .then(|| !log.contains("ready after"))
    });
    if !waits {
        return cannot("this kernel does not count rings as locked memory (Linux 5.12 to 6.13)");
    }
    first.process.signal(Signal::KILL);
    wait_for("it has what it waited for", within(SECONDS), || {
        second.assert_running();
        second.log().contains("ready after").then_some(())
    });
    second.signal(Signal::TERM);
    second.wait_success(within(SECONDS));
}

/// Half a MiB is too little for buffers to be registered, and for two rings as long as they would be.
#[test]
fn little_locked_memory_makes_for_shorter_rings_and_payload_is_served_all_the_same() {
    let home = Home::new("little-memlock", "");
    if !rustix::process::geteuid().is_root() {
        return cannot("giving a capability away needs root");
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-ipc_lock", "prlimit", "--memlock=524288:524288", "--"]);
    command.arg(env!("CARGO_BIN_EXE_btd"));
    let btd = Btd::start_within(command, home.scratch.path(), &home.config);
    btd.wait_seeding(1);
    let log = btd.process.log();
    assert!(
        log.contains("MiB of cache: the locked-memory limit is 512 KiB, and 268 MiB would do")
            && log.contains("LimitMEMLOCK=268M"),
        "{log}"
    );
    let leech = Leech::from(&home.scratch, "leech", &home.torrent, vec![btd.peers]);
    leech.btd.wait_seeding(1);
    leech.btd.stop();
    btd.stop();
}

/// Each read takes a second. Whoever wants that torrent waits; whoever wants another, or the tracker, does not.
#[test]
fn disk_that_takes_a_second_for_each_read_holds_up_nobody_who_does_not_want_it() {
    slow_disk("slow-reads", Rule::delay(Op::Read, Duration::from_secs(1)));
}

/// The same of the one open that there is, which takes longer than all that is looked at meanwhile.
#[test]
fn disk_that_takes_long_to_open_a_file_holds_up_nobody_who_does_not_want_it() {
    slow_disk("slow-open", Rule::delay(Op::Open, Duration::from_secs(10)));
}

fn slow_disk(name: &str, rule: Rule) {
    let scratch = Scratch::new(name);
    let folder = scratch.dir("mount");
    let contents: Vec<u8> = (0..LEN / 8)
        .flat_map(|word| (word * 0x9e37_79b9).to_le_bytes())
        .collect();
    let mounted = match FaultFs::mount_seed(&folder, contents) {
        Ok(mounted) => mounted,
        Err(why) => return skip(&why),
    };
    raise_open_files();
    let (data, watch, slow_watch) = (scratch.dir("data"), scratch.dir("watch"), scratch.dir("slow-watch"));
    let payload = Payload::make(&data, "well", 3, &[("well".to_owned(), LEN)]);
    let well = Torrent::create(&payload.path(), PIECE_LEN, watch.join("well.torrent"));
    let slow = Torrent::create(&folder.join(fault_fs::NAME), PIECE_LEN, slow_watch.join("slow.torrent"));
    let config = Config {
        watch: vec![(watch, data), (slow_watch, folder)],
        more: "[storage]\ncache-size = \"16 MiB\"\n[tracker]\nhttp = [\"127.0.0.1:0\"]\n".to_owned(),
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(2);
    let target = Target::from(&metainfo(&well));
    let paced = |what: &str| {
        let load = Load {
            connections: 8,
            pace: Some(2e6),
            until: Until::Elapsed(Duration::from_secs(4)),
            verify: 1.0,
            busy: false,
            ..Load::new(btd.peers)
        };
        let report = load.run(&target).expect("drive the leechers");
        assert!(report.is_clean(), "{what}: {report}");
        report.bytes as f64
    };
    let alone = paced("alone");
    let slowed = mounted.rules.add(rule);
    // Fifty that want everything of it.
    let info_hash = metainfo(&slow).info_hash;
    let from = Instant::now();
    let mut waiting: Vec<Peer> = (0..50)
        .map(|number| {
            let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 63, 0, 1).to_bits() + number);
            let mut peer = Peer::join(btd.peers, from, info_hash, Reserved([0; 8])).expect("join");
            peer.hear_id(1).expect("be unchoked");
            for piece in 0..100 {
                let (begin, length) = (0, BLOCK_LEN);
                peer.say(&Message::Request { piece, begin, length }).expect("ask");
            }
            peer
        })
        .collect();
    wait_for("that disk is slow", within(30), || {
        let is_wanted = btd.metric("btd_peers{state=\"connected\"}") >= 50.0;
        (is_wanted && mounted.rules.applied(slowed) > 0).then_some(())
    });
    // A second or two, most of it until figures are told: less than the open takes.
    let joined = from.elapsed();
    assert!(joined < Duration::from_secs(8), "those who join waited {joined:?}");
    let beside = paced("beside a slow disk");
    assert!(beside >= 0.9 * alone, "{beside} of {alone} bytes");
    let tracker = btd.tracker_http.expect("a tracker");
    let mut times: Vec<Duration> = (0..200)
        .map(|number| {
            let path = format!(
                "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbb{number:04}&port=7777&left=0"
            );
            let asked = Instant::now();
            assert_eq!(http::get(tracker, &path).expect("announce").status, 200);
            asked.elapsed()
        })
        .collect();
    times.sort();
    assert!(
        times[100] < Duration::from_millis(20),
        "half took longer than {:?}",
        times[100]
    );
    assert!(
        times[197] < Duration::from_millis(200),
        "one in a hundred took {:?}",
        times[197]
    );
    mounted.rules.clear();
    // What the kernel waits for cannot be taken back: btd would end without it, and say so.
    waiting[0].hear_id(7).expect("be served in the end");
    drop(waiting);
    btd.stop();
}

/// All of a filesystem is gone at once, as when its disk is pulled: every call on it ends with `EIO`. Others are served on, and
/// once it is back and btd starts anew its torrents are too.
fn filesystem_dies(filesystem: &str) {
    if !rustix::process::geteuid().is_root() {
        return cannot("mounting needs root");
    }
    let scratch = Scratch::new(&format!("dead-{filesystem}"));
    let Some(image) = Image::make(&scratch, filesystem) else {
        return cannot(&format!("no {filesystem} can be made or mounted"));
    };
    raise_open_files();
    let (data, watch, sick_watch) = (scratch.dir("data"), scratch.dir("watch"), scratch.dir("sick-watch"));
    let payload = Payload::make(&data, "well", 3, &[("well".to_owned(), LEN)]);
    let well = Torrent::create(&payload.path(), PIECE_LEN, watch.join("well.torrent"));
    let sick_data = image.mounted_at.join("data");
    fs::create_dir(&sick_data).expect("make a folder");
    let sick_payload = Payload::make(&sick_data, "sick", 4, &[("sick".to_owned(), LEN)]);
    age(&sick_payload.path());
    let sick = Torrent::create(&sick_payload.path(), PIECE_LEN, sick_watch.join("sick.torrent"));
    rustix::fs::sync();
    let config = Config {
        watch: vec![(watch, data), (sick_watch, sick_data)],
        more: "[storage]\ncache-size = \"16 MiB\"\n".to_owned(),
        ..Config::default()
    };
    let mut btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(2);
    let sick_hash = metainfo(&sick).info_hash;
    let fast = Reserved([0, 0, 0, 0, 0, 0, 0, 4]);
    let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, sick_hash, fast).expect("join");
    peer.say(&Message::HaveNone).expect("say");
    peer.hear_id(1).expect("be unchoked");
    peer.fetch(0, 0, BLOCK_LEN).expect("it is served while it is well");

    let status = Command::new("xfs_io")
        .args(["-x", "-c", "shutdown"])
        .arg(&image.mounted_at)
        .status();
    assert!(status.expect("run xfs_io").success(), "shut {filesystem} down");
    // Of pieces that nobody has asked for yet: not from the cache.
    for piece in 64..80 {
        let (begin, length) = (0, BLOCK_LEN);
        peer.say(&Message::Request { piece, begin, length }).expect("ask");
    }
    peer.hear_id(16).expect("a reject, not an end");
    serves(&btd, &Target::from(&metainfo(&well)), 8, Until::Bytes(64 * MIB));
    wait_for("the log says why", within(30), || {
        let log = btd.process.log();
        (log.contains("\"sick\"") && log.contains("Input/output error")).then_some(())
    });
    btd.process.assert_running();
    drop(peer);

    // Back, as after `umount` and `mount`. By itself btd does not find that out: its folder is that of the dead one still.
    let status = Command::new("umount").arg("-l").arg(&image.mounted_at).status();
    assert!(status.expect("run umount").success());
    btd.stop();
    let (file, at) = (image.file.clone(), image.mounted_at.clone());
    // What was mounted there is gone already.
    std::mem::forget(image);
    let again = wait_for("it can be mounted again", within(90), || {
        Image::mount(file.clone(), at.clone(), filesystem)
    });
    let btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(2);
    serves(&btd, &Target::from(&metainfo(&sick)), 4, Until::Bytes(64 * MIB));
    btd.stop();
    drop(again);
}

#[test]
fn xfs_that_is_gone_at_once_stops_its_torrents_alone() {
    filesystem_dies("xfs");
}

#[test]
fn ext4_that_is_gone_at_once_stops_its_torrents_alone() {
    filesystem_dies("ext4");
}

/// The first SIGTERM waits for a tracker that takes its time; the second ends it at once, under load, as if all was said. What was
/// recorded is there: the next start reads nothing again.
#[test]
fn second_sigterm_under_load_ends_it_at_once_and_loses_nothing_that_was_recorded() {
    let stub = StubTracker::start(|request, stream| {
        // Longer than btd may take to stop.
        if request.contains("event=stopped") {
            std::thread::sleep(Duration::from_secs(8));
        }
        support::stub_tracker::reply(stream, b"d8:intervali1800e5:peers0:e")
    });
    let mut home = Home::new("twice", "[announce]\nallow-private = true\n");
    let path = home.torrent.path.clone();
    home.torrent = home.torrent.with_tracker(&stub.url(), path);
    let mut btd = home.start(btd_itself());
    wait_for("the tracker hears of the start", within(30), || {
        (stub.with_event("started").len() == 1).then_some(())
    });
    let target = home.target();
    std::thread::scope(|scope| {
        let peers = btd.peers;
        scope.spawn(move || {
            let load = Load {
                connections: 16,
                until: Until::Elapsed(Duration::from_secs(4)),
                busy: false,
                ..Load::new(peers)
            };
            // btd ends in the middle of it.
            let _ = load.run(&target);
        });
        wait_for_metric(&btd, "btd_uploaded_bytes_total", |bytes| bytes > 0.0);
        btd.process.signal(Signal::TERM);
        wait_for("the tracker is being told", within(5), || {
            (stub.with_event("stopped").len() == 1).then_some(())
        });
        let asked = Instant::now();
        btd.process.signal(Signal::TERM);
        btd.process.wait_success(within(5));
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    });
    assert!(btd.process.log().contains("a second signal"), "{}", btd.process.log());
    let btd = home.start(btd_itself());
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0, "nothing is read again");
    drop(btd);
}

/// A download from one who was stopped in the middle: it goes on by itself when that one does.
#[test]
fn download_from_a_peer_that_is_stopped_for_a_while_is_whole_in_the_end() {
    let more = "[limits]\nupload-rate = \"4 MB/s\"\n";
    let source = Source::start_with("stopped-peer", &files(), 64 << 10, more);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    wait_for_metric(&leech.btd, "btd_pieces_written_total", |pieces| pieces >= 3.0);
    source.btd.process.signal(Signal::STOP);
    // What was on its way comes; then nothing, for two seconds on end.
    let mut last = (leech.btd.metric("btd_downloaded_bytes_total"), Instant::now());
    wait_for("nothing comes any more", within(30), || {
        let now = leech.btd.metric("btd_downloaded_bytes_total");
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(2)).then_some(())
    });
    source.btd.process.signal(Signal::CONT);
    leech.check(&source.payload);
    leech.btd.stop();
}
