//! btd and trackers: it is found through them and finds peers through them, says what it should when it should, and comes
//! to no harm by those that lie.

mod support;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::client::Client;
use support::payload::Payload;
use support::private_net::{self, CLIENTS, SEED};
use support::process::Process;
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, parameter, reply};
use support::torrent::Torrent;
use support::tracker::Tracker;
use support::{installed, skip, wait_for, within};

const ALLOW: &str = "[announce]\nallow-private = true\n";
const PORT: u16 = 6_969;
/// For one download, with a debug build, on a busy machine.
const SECONDS: u64 = 120;

/// A watch folder and a data folder with a payload.
struct Home {
    watch: PathBuf,
    data: PathBuf,
    payload: Payload,
    /// Without a tracker, and not in the watch folder.
    torrent: Torrent,
}

impl Home {
    fn new(scratch: &Scratch, name: &str, len: u64) -> Self {
        let (watch, data) = (
            scratch.dir(&format!("{name}/watch")),
            scratch.dir(&format!("{name}/data")),
        );
        let payload = Payload::make(&data, "payload.bin", len, &[("payload.bin".to_owned(), len)]);
        let torrent = Torrent::create(
            &payload.path(),
            64 << 10,
            scratch.path().join(format!("{name}.torrent")),
        );
        Self {
            watch,
            data,
            payload,
            torrent,
        }
    }

    /// Puts its torrent with this tracker into the watch folder.
    fn with_tracker(&self, url: &str) -> Torrent {
        self.torrent.with_tracker(url, self.watch.join("t.torrent"))
    }
}

fn config(homes: &[&Home], more: &str) -> Config {
    Config {
        shards: 1,
        watch: homes
            .iter()
            .map(|home| (home.watch.clone(), home.data.clone()))
            .collect(),
        more: more.to_owned(),
        ..Config::default()
    }
}

/// A btd with an empty data folder and this torrent.
fn leech(scratch: &Scratch, name: &str, torrent: &Torrent, config: Config) -> (Btd, PathBuf) {
    let (watch, data) = (
        scratch.dir(&format!("{name}/watch")),
        scratch.dir(&format!("{name}/data")),
    );
    fs::copy(&torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    let config = Config {
        shards: 1,
        watch: vec![(watch, data.clone())],
        ..config
    };
    (Btd::start(&scratch.dir(name), &config), data)
}

fn wait_complete(btd: &Btd) {
    wait_for("btd has everything", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
    });
}

fn wait_announced(btd: &Btd) {
    wait_for("btd has announced", within(30), || {
        (btd.metric("btd_announces_total{result=\"ok\"}") >= 1.0).then_some(())
    });
}

fn wait_asked(stub: &StubTracker, event: &str) -> String {
    wait_for(&format!("a tracker hears {event}"), within(60), || {
        stub.with_event(event).pop()
    })
}

/// opentracker in the private network, btd seeding on another address, and what a client downloads by it alone.
fn with_opentracker(name: &str, run: impl FnOnce(&Scratch, &Home, &Tracker)) {
    private_net::run(name, || {
        if !installed("opentracker") {
            return skip("`opentracker` is not installed (hint: tests/run installs it)");
        }
        let scratch = Scratch::new(name);
        let home = Home::new(&scratch, "seed", 3_000_001);
        let tracker = Tracker::start(
            &scratch.dir("tracker"),
            SocketAddr::new(CLIENTS[0], PORT),
            std::slice::from_ref(&home.torrent),
        );
        run(&scratch, &home, &tracker);
    });
}

#[test]
fn aria2_finds_btd_through_opentracker() {
    with_opentracker("aria2_finds_btd_through_opentracker", |scratch, home, tracker| {
        if !installed("aria2c") {
            return skip("`aria2c` is not installed (hint: tests/run installs it)");
        }
        let torrent = home.with_tracker(&tracker.announce_url());
        let seed = Btd::start(
            &scratch.dir("btd"),
            &Config {
                listen: SEED,
                ..config(&[home], ALLOW)
            },
        );
        wait_announced(&seed);
        let save = scratch.dir("save");
        let mut command = Command::new("aria2c");
        command
            .arg(format!("--dir={}", save.display()))
            .arg(&torrent.path)
            .env("HOME", scratch.path());
        command.arg(format!("--interface={}", CLIENTS[1]));
        command.args([
            "--no-conf",
            "--listen-port=51413",
            "--seed-time=0",
            "--enable-dht=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=false",
            "--file-allocation=none",
        ]);
        let mut aria2 = Process::spawn("aria2", &mut command, &scratch.path().join("aria2.log"));
        aria2.wait_success(within(SECONDS));
        home.payload.assert_same(&save, true);
        seed.stop();
    });
}

#[test]
fn one_btd_finds_another_through_opentracker_by_datagrams() {
    let name = "one_btd_finds_another_through_opentracker_by_datagrams";
    with_opentracker(name, |scratch, home, tracker| {
        let torrent = home.with_tracker(&tracker.udp_url());
        let at = |listen| Config {
            listen,
            ..config(&[home], ALLOW)
        };
        let seed = Btd::start(&scratch.dir("btd"), &at(SEED));
        // The white list is read some time after the tracker answers: it refuses until then.
        wait_announced(&seed);
        let (leech, data) = leech(scratch, "leech", &torrent, at(CLIENTS[1]));
        wait_complete(&leech);
        home.payload.assert_same(&data, true);
        leech.stop();
        seed.stop();
    });
}

#[test]
fn btd_downloads_from_libtorrent_that_a_tracker_has_told_of() {
    let name = "btd_downloads_from_libtorrent_that_a_tracker_has_told_of";
    with_opentracker(name, |scratch, home, tracker| {
        if let Some(why) = Client::Libtorrent.missing() {
            return skip(&why);
        }
        let (_seed, addr) = Client::Libtorrent.seed(scratch.path(), &home.torrent, &home.data);
        tracker.announce_seed(&home.torrent, addr);
        let torrent = home.with_tracker(&tracker.announce_url());
        let more = Config {
            listen: SEED,
            more: ALLOW.to_owned(),
            ..Config::default()
        };
        let (btd, data) = leech(scratch, "leech", &torrent, more);
        wait_complete(&btd);
        home.payload.assert_same(&data, true);
        btd.stop();
    });
}

#[test]
fn a_seed_says_started_and_stopped_with_what_it_has_moved() {
    let scratch = Scratch::new("announce-seed");
    let home = Home::new(&scratch, "seed", 200_000);
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:15:warning message21:key 0123456789 is olde");
    home.with_tracker(&format!("{}?passkey=0123456789", stub.url()));
    let btd = Btd::start(
        &scratch.dir("btd"),
        &config(&[&home], &format!("{ALLOW}hostname = \"client1\"\n")),
    );
    let started = wait_asked(&stub, "started");
    for (name, value) in [
        ("passkey", "0123456789"),
        ("left", "0"),
        ("uploaded", "0"),
        ("downloaded", "0"),
        ("numwant", "0"),
        ("hostname", "client1"),
        ("port", &btd.peers.port().to_string()),
    ] {
        assert_eq!(parameter(&started, name), Some(value), "{started}");
    }
    assert!(parameter(&started, "peer_id").expect("a peer id").starts_with("-BT"));
    let hash: String = home
        .torrent
        .info_hash
        .iter()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => char::from(*byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    assert_eq!(parameter(&started, "info_hash"), Some(&*hash));
    // Somebody downloads it all.
    let mut with_peer = config(&[], "[announce]\nenabled = false\n");
    with_peer.peers = vec![btd.peers];
    let (leech, data) = leech(&scratch, "leech", &home.torrent, with_peer);
    wait_complete(&leech);
    home.payload.assert_same(&data, true);
    leech.stop();
    // What the socket has taken is counted with the next turn.
    wait_for("the upload is counted", within(10), || {
        (btd.metric("btd_uploaded_bytes_total") >= 200_000.0).then_some(())
    });
    let log = scratch.path().join("btd/btd.log");
    btd.stop();
    assert_eq!(stub.requests().len(), 2, "{:?}", stub.requests());
    let stopped = wait_asked(&stub, "stopped");
    assert_eq!(parameter(&stopped, "uploaded"), Some("200000"));
    assert_eq!(parameter(&stopped, "key"), parameter(&started, "key"));
    assert_eq!(stub.connections(), 1, "the connection is kept");
    let log = fs::read_to_string(log).expect("read a log");
    assert!(
        log.contains("http://127.0.0.1") && log.contains("\"key … is old\"") && !log.contains("0123456789"),
        "{log}"
    );
}

#[test]
fn a_key_that_a_tracker_repeats_is_not_in_the_log_wherever_it_came_from() {
    let scratch = Scratch::new("announce-keys");
    let home = Home::new(&scratch, "seed", 100_000);
    // The key of the address, and that of where it leads to.
    let stub = StubTracker::start(|target, stream| match target.starts_with("/fedcba9876543210/") {
        true => reply(
            stream,
            b"d14:failure reason53:0123456789ABCDEF or fedcba9876543210 must be somebodye",
        ),
        false => {
            let answer = b"HTTP/1.1 302 Found\r\nLocation: /fedcba9876543210/announce\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).is_ok()
        }
    });
    home.with_tracker(&stub.url().replace("/announce", "/0123456789abcdef/announce"));
    let btd = Btd::start(
        &scratch.dir("btd"),
        &Config {
            log_level: "debug",
            ..config(&[&home], ALLOW)
        },
    );
    let log = wait_for("the refusal is told", within(30), || {
        Some(btd.process.log()).filter(|log| log.contains("must be somebody"))
    });
    assert!(log.contains("refused: … or … must be somebody"), "{log}");
    let metrics = support::http::get(btd.metrics, "/metrics")
        .expect("read the metrics")
        .text();
    for text in [log.to_lowercase(), metrics] {
        assert!(
            !text.contains("0123456789abcdef") && !text.contains("fedcba9876543210"),
            "{text}"
        );
    }
    btd.stop();
}

#[test]
fn a_download_finds_a_peer_by_name_and_says_completed_once_ever() {
    let scratch = Scratch::new("announce-leech");
    let home = Home::new(&scratch, "seed", 1_000_000);
    fs::copy(&home.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
    let seed = Btd::start(&scratch.dir("btd"), &config(&[&home], ""));
    seed.wait_seeding(1);
    // An interval of 0, a negative one, and a warning in colours do no harm either.
    let stub = StubTracker::saying(format!(
        "d8:intervali0e12:min intervali-5e5:peersld2:ip9:localhost4:porti{}eee15:warning message14:\x1b[31mwatch oute",
        seed.peers.port()
    ));
    let torrent = home
        .torrent
        .with_tracker(&stub.url(), scratch.path().join("with-tracker.torrent"));
    let (btd, data) = leech(&scratch, "leech", &torrent, config(&[], ALLOW));
    wait_complete(&btd);
    home.payload.assert_same(&data, true);
    let completed = wait_asked(&stub, "completed");
    assert_eq!(
        (parameter(&completed, "left"), parameter(&completed, "numwant")),
        (Some("0"), Some("0"))
    );
    let started = stub.with_event("started");
    assert_eq!((started.len(), parameter(&started[0], "left")), (1, Some("1000000")));
    assert_ne!(parameter(&started[0], "numwant"), Some("0"));
    let log = wait_for("the warning is told", within(10), || {
        Some(btd.process.log()).filter(|log| log.contains("watch out"))
    });
    assert!(!log.contains("\x1b[31mwatch"), "{log}");
    btd.stop();
    assert_eq!(parameter(&wait_asked(&stub, "stopped"), "downloaded"), Some("1000000"));

    let config = Config {
        watch: vec![(scratch.path().join("leech/watch"), data)],
        ..config(&[], ALLOW)
    };
    let btd = Btd::start(&scratch.dir("leech"), &config);
    wait_for("it starts again", within(60), || {
        (stub.with_event("started").len() == 2).then_some(())
    });
    btd.stop();
    assert_eq!(stub.with_event("stopped").len(), 2);
    assert_eq!(stub.with_event("completed").len(), 1);
    seed.stop();
}

#[test]
fn private_addresses_are_not_asked_unless_allowed_and_private_torrents_have_their_own_trackers_only() {
    let scratch = Scratch::new("announce-private");
    let (open, private) = (
        Home::new(&scratch, "open", 100_000),
        Home::new(&scratch, "private", 100_001),
    );
    let extra = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let own = StubTracker::saying("d8:intervali1800e5:peers0:e");
    open.with_tracker(&own.url());
    let status = Command::new(env!("CARGO_BIN_EXE_btd"))
        .arg("create")
        .arg(private.payload.path())
        .args(["--private", "--tracker", &own.url(), "--output"])
        .arg(private.watch.join("t.torrent"))
        .output();
    assert!(status.expect("run btd create").status.success());
    let more = format!("trackers = [{:?}]\n", extra.url());
    let homes = [&open, &private];

    let btd = Btd::start(&scratch.dir("btd"), &config(&homes, &format!("[announce]\n{more}")));
    wait_for("btd refuses to announce", within(30), || {
        (btd.metric("btd_announces_total{result=\"forbidden\"}") >= 3.0).then_some(())
    });
    assert!(btd.process.log().contains("allow-private"));
    btd.stop();
    assert_eq!((own.connections(), extra.connections()), (0, 0));

    let btd = Btd::start(&scratch.dir("btd2"), &config(&homes, &format!("{ALLOW}{more}")));
    wait_for("all are announced", within(30), || {
        (own.with_event("started").len() == 2 && !extra.requests().is_empty()).then_some(())
    });
    btd.stop();
    let of_extra: Vec<String> = extra.requests();
    assert_eq!(
        (
            extra.with_event("started").len(),
            extra.with_event("stopped").len(),
            of_extra.len()
        ),
        (1, 1, 2)
    );
    let hash = |requests: &[String]| parameter(&requests[0], "info_hash").map(str::to_owned);
    let open_hash = hash(&of_extra);
    assert!(
        own.requests()
            .iter()
            .any(|request| parameter(request, "info_hash").map(str::to_owned) == open_hash)
    );
}

#[test]
fn a_tracker_that_knows_no_names_is_asked_for_them_once_and_then_for_what_it_has() {
    let scratch = Scratch::new("announce-nameless");
    let home = Home::new(&scratch, "seed", 100_000);
    // As opentracker does.
    let stub = StubTracker::start(|target, stream| match parameter(target, "compact") {
        Some("0") => {
            let refusal = b"HTTP/1.1 400 Invalid Request\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(refusal).is_ok()
        }
        _ => reply(stream, b"d8:intervali1800e5:peers0:e"),
    });
    home.with_tracker(&stub.url());
    let btd = Btd::start(
        &scratch.dir("btd"),
        &config(&[&home], &format!("{ALLOW}hostname = \"client1\"\n")),
    );
    wait_announced(&btd);
    btd.stop();
    let requests = stub.requests();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| (parameter(request, "event"), parameter(request, "compact")))
        .collect();
    let expected = [
        (Some("started"), Some("0")),
        (Some("started"), None),
        (Some("stopped"), None),
    ];
    assert_eq!(asked, expected, "{requests:?}");
}

#[test]
fn due_times_are_kept_over_a_restart() {
    let scratch = Scratch::new("announce-restart");
    let homes: Vec<Home> = ["refused", "hangs", "plain"]
        .iter()
        .enumerate()
        .map(|(index, name)| Home::new(&scratch, name, 50_000 + index as u64))
        .collect();
    // One asks to be left alone for an hour, one never answers that btd has stopped, and one is as it should be.
    let refuses = StubTracker::saying("d14:failure reason3:bad8:retry ini60ee");
    let hangs = StubTracker::start(|target, stream| match parameter(target, "event") {
        Some("stopped") => {
            std::thread::sleep(Duration::from_secs(60));
            false
        }
        _ => reply(stream, b"d8:intervali1800e5:peers0:e"),
    });
    let plain = StubTracker::saying("d8:intervali1800e5:peers0:e");
    for (home, stub) in homes.iter().zip([&refuses, &hangs, &plain]) {
        home.with_tracker(&stub.url());
    }
    let homes: Vec<&Home> = homes.iter().collect();
    for run in 1..=2 {
        let btd = Btd::start(&scratch.dir("btd"), &config(&homes, ALLOW));
        wait_for("the plain tracker is told", within(30), || {
            (plain.with_event("started").len() == run).then_some(())
        });
        wait_for(
            "who refused is left alone, and who was not heard of is told again",
            within(30),
            || (refuses.requests().len() == 1 && hangs.with_event("started").len() == run).then_some(()),
        );
        wait_for("the answers have come", within(30), || {
            (btd.metric("btd_announces_in_flight") == 0.0).then_some(())
        });
        let from = Instant::now();
        btd.stop();
        assert!(from.elapsed() < Duration::from_secs(5));
        assert_eq!(plain.with_event("stopped").len(), run);
    }
    assert_eq!(refuses.requests().len(), 1, "{:?}", refuses.requests());
    assert_eq!(
        (hangs.with_event("started").len(), hangs.with_event("stopped").len()),
        (2, 2)
    );
}

/// Bytes that unpack to a thousand times as many.
fn bomb() -> Vec<u8> {
    let mut gzip = Command::new("sh")
        .args(["-c", "head -c 100000000 /dev/zero | gzip -9"])
        .output()
        .expect("run gzip")
        .stdout;
    gzip.shrink_to_fit();
    assert!(gzip.len() < 1 << 20 && gzip.starts_with(&[0x1f, 0x8b]));
    gzip
}

fn head(stream: &mut TcpStream, headers: &str) -> bool {
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").as_bytes())
        .is_ok()
}

#[test]
fn trackers_that_lie_cost_a_bounded_wait_and_the_others_nothing() {
    let scratch = Scratch::new("announce-liars");
    let packed = bomb();
    let liars: Vec<(StubTracker, &str)> = vec![
        (
            StubTracker::start(move |_, stream| {
                head(
                    stream,
                    &format!("Content-Encoding: gzip\r\nContent-Length: {}", packed.len()),
                ) && stream.write_all(&packed).is_ok()
            }),
            "an answer of more than 4194304 bytes",
        ),
        (
            StubTracker::start(|_, stream| {
                let answer = b"HTTP/1.1 302 Found\r\nLocation: /announce?again\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).is_ok()
            }),
            "redirected more than 5 times",
        ),
        (
            StubTracker::saying("d8:intervali9223372036854775808e5:peers0:e"),
            "an integer beyond 64 bits",
        ),
        (
            StubTracker::saying("d8:intervali60e5:peers7:abcdefge"),
            "7 bytes of peers, 6 for each expected",
        ),
        (
            StubTracker::saying("d14:failure reason34:\x1b[2J\x1b[31m<b>not registered</b>\r\n\x07\x07e"),
            "refused: <b>not registered</b>",
        ),
        (
            StubTracker::start(|_, stream| {
                // Without a length, until somebody has had enough.
                let mut goes_on = head(stream, "Connection: close");
                for _ in (0..10 << 20).step_by(1 << 16) {
                    goes_on = goes_on && stream.write_all(&[b'x'; 1 << 16]).is_ok();
                }
                false
            }),
            "an answer of more than 1048576 bytes",
        ),
        (
            StubTracker::start(|_, stream| {
                head(stream, "Content-Length: 1000");
                while stream.write_all(b"d").is_ok() {
                    std::thread::sleep(Duration::from_secs(1));
                }
                false
            }),
            "no answer within 30 s",
        ),
        (StubTracker::start(|_, _| false), "no HTTP answer"),
        (
            StubTracker::saying("<html>404</html>"),
            "no value begins with byte 0x3c",
        ),
        (
            StubTracker::start(|_, stream| {
                stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    .is_ok()
            }),
            "HTTP status 404",
        ),
    ];
    let homes: Vec<Home> = (0..=liars.len())
        .map(|index| Home::new(&scratch, &format!("home{index}"), 30_000 + index as u64))
        .collect();
    let honest = StubTracker::saying("d8:intervali1800e5:peers0:e");
    for (home, (stub, _)) in homes.iter().zip(&liars) {
        home.with_tracker(&stub.url());
    }
    homes[liars.len()].with_tracker(&honest.url());
    let homes: Vec<&Home> = homes.iter().collect();
    let btd = Btd::start(&scratch.dir("btd"), &config(&homes, ALLOW));
    let from = Instant::now();
    wait_asked(&honest, "started");
    assert!(
        from.elapsed() < Duration::from_secs(20),
        "the honest one is not held up"
    );
    for (_, why) in &liars {
        wait_for(why, within(60), || btd.process.log().contains(why).then_some(()));
    }
    let log = btd.process.log();
    assert!(!log.contains("\x1b[2J") && !log.contains('\x07'));
    let status = fs::read_to_string(format!("/proc/{}/status", btd.process.pid())).expect("read btd's status");
    println!(
        "{}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or_default()
    );
    btd.process.signal(Signal::TERM);
    let mut process = btd.process;
    process.wait_success(within(5));
    assert_eq!(honest.with_event("stopped").len(), 1);
}

#[test]
fn trackers_are_asked_in_the_order_of_their_tiers() {
    let scratch = Scratch::new("announce-tiers");
    let home = Home::new(&scratch, "seed", 40_000);
    let gone = StubTracker::start(|_, _| false);
    let there = StubTracker::saying("d8:intervali1800e5:peers0:e");
    create(
        &home.payload.path(),
        &[&gone.url(), &there.url()],
        &home.watch.join("t.torrent"),
    );
    let btd = Btd::start(&scratch.dir("btd"), &config(&[&home], ALLOW));
    wait_asked(&there, "started");
    assert!(!gone.requests().is_empty());
    btd.stop();
    assert_eq!((there.requests().len(), gone.with_event("stopped").len()), (2, 0));
}

/// `btd create` with a tier for each tracker.
fn create(payload: &Path, trackers: &[&str], output: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.arg("create").arg(payload).arg("--output").arg(output);
    for tracker in trackers {
        command.args(["--tracker", tracker]);
    }
    let output = command.output().expect("run btd create");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Answers announces over TLS: certificate, key, and the file that its port is written to.
const TLS_TRACKER: &str = r#"
import http.server, os, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"d8:intervali1800e5:peers0:e"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
with open(sys.argv[3] + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(sys.argv[3] + ".new", sys.argv[3])
server.serve_forever()
"#;

#[test]
fn a_tracker_over_tls_is_asked_only_if_its_certificate_is_right() {
    for program in ["openssl", "python3"] {
        if !installed(program) {
            return skip(&format!("`{program}` is not installed"));
        }
    }
    let scratch = Scratch::new("announce-tls");
    let file = |name: &str| scratch.path().join(name);
    let status = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=CA:FALSE",
            "-keyout",
        ])
        .arg(file("key.pem"))
        .arg("-out")
        .arg(file("cert.pem"))
        .output();
    assert!(status.expect("run openssl").status.success());
    let mut command = Command::new("python3");
    command
        .args(["-c", TLS_TRACKER])
        .args([file("cert.pem"), file("key.pem"), file("port")]);
    let _tracker = Process::spawn("tracker", &mut command, &file("tracker.log"));
    let port: u16 = wait_for("the tracker listens", within(20), || {
        fs::read_to_string(file("port")).ok()?.parse().ok()
    });
    let home = Home::new(&scratch, "seed", 40_000);
    home.with_tracker(&format!("https://localhost:{port}/announce"));
    let config = config(&[&home], ALLOW);
    let start = |name: &str, trusted: Option<PathBuf>| {
        let dir = scratch.dir(name);
        fs::write(dir.join("btd.toml"), config.to_toml()).expect("write the configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command
            .args(["--config", "btd.toml", "--log-level", "info"])
            .current_dir(&dir);
        if let Some(trusted) = trusted {
            command.env("SSL_CERT_FILE", trusted);
        }
        Btd::start_by(&mut command, &dir, &config)
    };
    let trusting = start("trusting", Some(file("cert.pem")));
    wait_announced(&trusting);
    trusting.stop();
    let wary = start("wary", None);
    wait_for("the certificate is refused", within(30), || {
        (wary.metric("btd_announces_total{result=\"unreachable\"}") >= 1.0).then_some(())
    });
    assert!(
        wary.process.log().contains("TLS: invalid peer certificate"),
        "{}",
        wary.process.log()
    );
    assert_eq!(wary.metric("btd_announces_total{result=\"ok\"}"), 0.0);
    wary.stop();
}

#[test]
fn a_peer_that_comes_back_under_another_address_is_found_by_its_name() {
    let name = "a_peer_that_comes_back_under_another_address_is_found_by_its_name";
    private_net::run(name, || {
        let scratch = Scratch::new("announce-names");
        // The namespace has mounts of its own, and with them a file of names.
        let hosts = scratch.path().join("hosts");
        let name_is_at =
            |addr| fs::write(&hosts, format!("127.0.0.1 localhost\n{addr} client1\n")).expect("write names");
        name_is_at(CLIENTS[3]); // Nobody is there.
        let status = Command::new("mount")
            .arg("--bind")
            .arg(&hosts)
            .arg("/etc/hosts")
            .status();
        assert!(status.expect("run mount").success());

        let home = Home::new(&scratch, "seed", 1_000_000);
        fs::copy(&home.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
        let seed = Btd::start(
            &scratch.dir("btd"),
            &Config {
                listen: SEED,
                ..config(&[&home], "")
            },
        );
        seed.wait_seeding(1);
        let peers = format!(
            "d8:intervali1800e5:peersld2:ip7:client14:porti{}eeee",
            seed.peers.port()
        );
        let stub = StubTracker::saying(peers);
        let torrent = home
            .torrent
            .with_tracker(&stub.url(), scratch.path().join("with-tracker.torrent"));
        let (btd, data) = leech(&scratch, "leech", &torrent, config(&[], ALLOW));
        wait_for("the name is looked up and tried", within(30), || {
            (btd.metric("btd_connections_dialed_total") >= 1.0).then_some(())
        });
        name_is_at(SEED);
        wait_for("the name is looked up again", within(100), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        home.payload.assert_same(&data, true);
        wait_asked(&stub, "completed");
        // Nothing was asked for between.
        assert_eq!(stub.requests().len(), 2, "{:?}", stub.requests());
        btd.stop();
        seed.stop();
    });
}

#[test]
fn a_name_is_looked_up_again_when_nobody_is_where_it_led_though_others_give() {
    let name = "a_name_is_looked_up_again_when_nobody_is_where_it_led_though_others_give";
    private_net::run(name, || {
        let scratch = Scratch::new("announce-unreachable");
        let hosts = scratch.path().join("hosts");
        let name_is_at =
            |addr| fs::write(&hosts, format!("127.0.0.1 localhost\n{addr} client1\n")).expect("write names");
        name_is_at(CLIENTS[3]); // Nobody is there.
        let status = Command::new("mount")
            .arg("--bind")
            .arg(&hosts)
            .arg("/etc/hosts")
            .status();
        assert!(status.expect("run mount").success());

        let home = Home::new(&scratch, "seed", 8_000_000);
        fs::copy(&home.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
        let seed = |name: &str, listen, port, more: &str| {
            let config = Config {
                listen,
                port,
                ..config(&[&home], more)
            };
            let seed = Btd::start(&scratch.dir(name), &config);
            seed.wait_seeding(1);
            seed
        };
        // It would take more than a minute.
        let slow = seed("slow", SEED, PORT, "[limits]\nupload-rate = \"100 kB/s\"\n");
        let fast = seed("fast", CLIENTS[2], PORT, "");
        let peers = format!(
            "d8:intervali1800e5:peersld2:ip{}:{SEED}4:porti{PORT}eed2:ip7:client14:porti{PORT}eeee",
            SEED.to_string().len()
        );
        let stub = StubTracker::saying(peers);
        let torrent = home
            .torrent
            .with_tracker(&stub.url(), scratch.path().join("with-tracker.torrent"));
        let started = Instant::now();
        let (btd, data) = leech(&scratch, "leech", &torrent, config(&[], ALLOW));
        wait_for(
            "the name is looked up and tried, and the other gives",
            within(30),
            || {
                let (dialed, had) = ("btd_connections_dialed_total", "btd_downloaded_bytes_total");
                (btd.metric(dialed) >= 2.0 && btd.metric(had) > 0.0).then_some(())
            },
        );
        name_is_at(CLIENTS[2]);
        wait_complete(&btd);
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(40), "{taken:?}");
        home.payload.assert_same(&data, true);
        assert!(fast.metric("btd_uploaded_bytes_total") > 4_000_000.0);
        assert_eq!(stub.with_event("started").len(), 1);
        for btd in [btd, fast, slow] {
            btd.stop();
        }
    });
}

#[test]
fn what_a_tracker_does_not_say_of_a_swarm_is_scraped_from_it() {
    let scratch = Scratch::new("announce-scrape");
    let (one, two) = (Home::new(&scratch, "one", 100_000), Home::new(&scratch, "two", 100_001));
    let hashes = [&one, &two].map(|home| home.torrent.info_hash.clone());
    let stub = StubTracker::start(move |target, stream| {
        if !target.starts_with("/x/scrape?k=1&info_hash=") {
            return reply(stream, b"d8:intervali1800e5:peers0:e");
        }
        let mut hashes = hashes.to_vec();
        hashes.sort();
        let mut body = b"d5:filesd".to_vec();
        for hash in hashes {
            body.extend_from_slice(b"20:");
            body.extend_from_slice(&hash);
            body.extend_from_slice(b"d8:completei7e10:downloadedi9e10:incompletei2ee");
        }
        body.extend_from_slice(b"ee");
        reply(stream, &body)
    });
    let url = format!("http://{}/x/announce?k=1", stub.addr);
    for home in [&one, &two] {
        home.with_tracker(&url);
    }
    let btd = Btd::start(&scratch.dir("btd"), &config(&[&one, &two], ALLOW));
    // A minute after the announces, when others would have been announced as well.
    wait_for("both are scraped", within(100), || {
        (btd.metric("btd_swarms_known") == 2.0).then_some(())
    });
    assert_eq!(btd.metric("btd_swarm_peers{kind=\"seeder\"}"), 14.0);
    assert_eq!(btd.metric("btd_swarm_peers{kind=\"leecher\"}"), 4.0);
    assert_eq!(btd.metric("btd_scrapes_total{result=\"ok\"}"), 1.0);
    let scrapes: Vec<String> = stub
        .requests()
        .into_iter()
        .filter(|target| target.contains("scrape"))
        .collect();
    assert!(
        scrapes.len() == 1 && scrapes[0].matches("info_hash=").count() == 2,
        "{scrapes:?}"
    );
    btd.stop();
}

#[test]
fn more_torrents_than_a_tracker_is_told_of_in_five_seconds_are_all_stopped_at_the_end() {
    let scratch = Scratch::new("announce-parting");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    let [torrents, data] = ["watch", "data"].map(|folder| scratch.dir(folder));
    let pid = scratch.path().join("pid");
    command.args([
        "bench",
        "announcer",
        "--json",
        "--stop",
        "--torrents",
        "700",
        "--http",
        "1",
        "--udp",
        "1",
    ]);
    command.args([
        "--settle",
        "1s",
        "--time",
        "1s",
        "--interval",
        "30m",
        "--start",
        "60s",
        "--torrents-dir",
    ]);
    command
        .arg(&torrents)
        .arg("--data-dir")
        .arg(&data)
        .arg("--pid-file")
        .arg(&pid);
    let mut trackers = Process::spawn("btd bench announcer", &mut command, &scratch.path().join("report"));
    wait_for("the trackers listen", within(20), || {
        trackers.assert_running();
        trackers.log().contains("trackers").then_some(())
    });
    let config = Config {
        shards: 1,
        watch: vec![(torrents, data)],
        more: ALLOW.to_owned(),
        ..Config::default()
    };
    let mut btd = Btd::start(&scratch.dir("btd"), &config);
    let part = scratch.path().join("pid.part");
    fs::write(&part, btd.process.pid().to_string()).expect("write a pid");
    fs::rename(&part, &pid).expect("give the pid");
    trackers.wait_success(within(SECONDS));
    btd.process.wait_success(within(10));
    let log = trackers.log();
    let report: serde_json::Value = serde_json::from_str(log.lines().last().expect("a report")).expect("JSON");
    assert_eq!(report["stopped"]["torrents"], 700, "{report}");
    assert!(report["stopped"]["seconds"].as_f64() < Some(5.0), "{report}");
    assert_eq!(report["start"]["requests"], 700, "{report}");
    for most in ["start_most_per_second", "most_per_second"] {
        assert!(report[most].as_u64() <= Some(50), "{report}");
    }
    // Connections are few, and used again.
    assert!(report["start"]["connections"].as_u64() <= Some(20), "{report}");
}
