//! `btd bench tracker` against btd itself: every kind of load, each reply compared with who is in which swarm.

mod support;

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use support::btd::{Btd, Config};
use support::scratch::Scratch;

fn start(scratch: &Scratch) -> Btd {
    let more = "[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\n".to_owned();
    Btd::start(
        scratch.path(),
        &Config {
            more,
            ..Config::default()
        },
    )
}

/// A clean run of 400 requests.
#[track_caller]
fn bench(btd: &Btd, to: SocketAddr, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args([
        "bench",
        "tracker",
        "--json",
        "--peers",
        "2000",
        "--torrents",
        "50",
        "--sources",
        "4",
    ]);
    command.args([
        "--in-flight",
        "8",
        "--requests",
        "400",
        "--verify",
        "1",
        "--connect",
        &to.to_string(),
    ]);
    command.args(["--pid", &btd.process.pid().to_string()]).args(more);
    let output = command.output().expect("run btd bench tracker");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{more:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&text).expect("one JSON object")
}

#[test]
fn every_kind_of_load_is_answered_with_the_peers_of_its_torrents() {
    let scratch = Scratch::new("bench-tracker");
    let btd = start(&scratch);
    let (udp, http) = (btd.tracker_udp.expect("UDP"), btd.tracker_http.expect("HTTP"));
    let udp_text = udp.to_string();
    for (to, more) in [
        (udp, &["--kind", "udp"][..]),
        (udp, &["--kind", "udp-scrape"]),
        (http, &["--kind", "http"]),
        (http, &["--kind", "http-close"]),
        (http, &["--kind", "http", "--fill", &udp_text]),
        (udp, &["--kind", "udp", "--junk", "5"]),
        (http, &["--kind", "http", "--junk", "2"]),
    ] {
        let report = bench(&btd, to, more);
        assert_eq!(report["requests"], 400, "{more:?}: {report}");
        assert_eq!(report["replies"]["good"], 400, "{more:?}: {report}");
        assert_eq!(report["replies"]["compared"], 400, "{more:?}: {report}");
        assert!(report["latency"]["p99_ms"].as_f64() > Some(0.0), "{more:?}: {report}");
        if more[1] != "udp-scrape" {
            assert!(report["peers_per_reply"].as_f64() > Some(5.0), "{more:?}: {report}");
        }
        let memory = &report["server"]["memory_filled"]["resident"];
        assert!(memory.as_u64() > Some(0), "{more:?}: {report}");
    }
    assert!(btd.metric("btd_tracker_requests_total{kind=\"udp_announce\",result=\"answered\"}") >= 2_800.0);
    btd.stop();
}

#[test]
fn a_run_whose_requests_had_no_good_reply_ends_with_1() {
    let scratch = Scratch::new("bench-tracker-refused");
    let more = "[tracker]\nudp = \"127.0.0.1:0\"\nprivate = true\n".to_owned();
    let config = Config {
        more,
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    let to = btd.tracker_udp.expect("UDP").to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args([
            "bench",
            "tracker",
            "--peers",
            "10",
            "--torrents",
            "2",
            "--requests",
            "10",
            "--connect",
            &to,
        ])
        .output()
        .expect("run btd bench tracker");
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    btd.stop();
}

#[test]
fn a_tracker_that_is_not_there_is_an_error() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    let output = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["bench", "tracker", "--connect", &to])
        .output()
        .expect("run btd bench tracker");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains(&format!("the tracker at {to} gives no connection ids")),
        "{error}"
    );
}
