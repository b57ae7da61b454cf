//! Trackers that lie, that repeat what is secret, that are not who they say they are, or lead where nobody may look: they do
//! no harm.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::announce::{ALLOW, Home, config, wait_announced, wait_asked};
use support::btd::{Btd, Config};
use support::process::Process;
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, parameter, reply};
use support::{installed, skip, wait_for, within};

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
