//! The dashboard and the alerts that are shipped name only what btd says, are what Prometheus understands, and the alerts are told by
//! what they are for.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::btd::{Btd, Config};
use support::payload::Payload;
use support::scratch::Scratch;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{age, http, installed, skip, wait_for, within};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

/// The PromQL of the dashboard: of its panels, its annotations and its variables.
fn dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) if key == "expr" || key == "query" => found.push(text.clone()),
                        value => collect(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let text = fs::read(shipped("grafana/btd.json")).expect("read the dashboard");
    let mut found = Vec::new();
    collect(&serde_json::from_slice(&text).expect("JSON"), &mut found);
    assert!(found.len() > 40, "{found:?}");
    found
}

fn rules() -> String {
    fs::read_to_string(shipped("prometheus/btd.rules.yml")).expect("read the rules")
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("btd_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// What a btd says that has everything: torrents, a tracker with a store, trackers to announce to, a scrub, and a
/// peer that has left.
fn said(scratch: &Scratch) -> BTreeSet<String> {
    let (watch, data) = (scratch.dir("watch"), scratch.dir("data"));
    let payload = Payload::make(&data, "payload.bin", 3, &[("payload.bin".to_owned(), 1 << 20)]);
    age(&payload.path());
    let torrent = Torrent::create(&payload.path(), 64 << 10, watch.join("payload.torrent"));
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    // Nobody listens at port 1: the store is away.
    let more = format!(
        "[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\nstore = \"redis://127.0.0.1:1/0\"\n\
         [announce]\nallow-private = true\ntrackers = [{:?}]\n",
        stub.url()
    );
    let config = Config {
        watch: vec![(watch, data)],
        more,
        ..Config::default()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.env("BTD_PEERS__BIND_DEVICE", "lo");
    command.env("BTD_PEERS__BIND_ADDRESS", "127.0.0.1");
    command.env("BTD_METRICS__TOP_TORRENTS", "1");
    command.env("BTD_STORAGE__SCRUB", "2s");
    let btd = Btd::start_within(command, scratch.path(), &config);
    // Something moves.
    let (to, into) = (scratch.dir("leech/watch"), scratch.dir("leech/data"));
    fs::copy(&torrent.path, to.join("payload.torrent")).expect("copy a torrent");
    let config = Config {
        watch: vec![(to, into)],
        peers: vec![btd.peers],
        ..Config::default()
    };
    let leech = Btd::start(&scratch.dir("leech"), &config);
    drop(TcpStream::connect(btd.peers).expect("connect as a peer"));
    let text = wait_for("everything was counted once", within(60), || {
        let text = http::get(btd.metrics, "/metrics").expect("btd answers").text();
        let all = [
            "btd_peer_drops_total{",
            "btd_announces_total{",
            "btd_announces_overdue ",
            "btd_torrent_peers{",
            "btd_tracker_store_up ",
            "btd_scrub_completed_seconds{",
            "btd_bind_address_up ",
        ];
        all.iter().all(|name| text.contains(name)).then_some(text)
    });
    leech.stop();
    btd.stop();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| Some(line.split([' ', '{']).next()?.to_owned()))
        .collect()
}

#[test]
fn every_metric_of_the_dashboard_and_the_alerts_is_one_that_btd_has() {
    let scratch = Scratch::new("dashboards");
    let said = said(&scratch);
    let mut named = names(&rules());
    dashboard()
        .iter()
        .for_each(|expression| named.extend(names(expression)));
    assert!(
        named.contains("btd_uploaded_bytes_total") && named.len() > 40,
        "{named:?}"
    );
    let unknown: Vec<&String> = named.iter().filter(|name| !said.contains(*name)).collect();
    assert!(unknown.is_empty(), "btd has no {unknown:?}; it has {said:?}");
}

#[test]
fn prometheus_understands_the_alerts_and_the_dashboard() {
    if !installed("promtool") {
        return skip("`promtool` is not installed (hint: tests/run installs it)");
    }
    let scratch = Scratch::new("promtool");
    // What Grafana puts in their place.
    let record = |(number, expression): (usize, String)| {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
        format!(
            "  - record: dashboard:{number}\n    expr: {}\n",
            serde_json::json!(expression)
        )
    };
    let is_promql = |text: &String| text.contains("btd_") && !text.starts_with("label_values");
    let records: String = dashboard()
        .into_iter()
        .filter(is_promql)
        .enumerate()
        .map(record)
        .collect();
    let as_rules = scratch.path().join("dashboard.yml");
    fs::write(&as_rules, format!("groups:\n- name: dashboard\n  rules:\n{records}")).expect("write rules");
    for file in [shipped("prometheus/btd.rules.yml"), as_rules] {
        let output = Command::new("promtool")
            .args(["check", "rules"])
            .arg(&file)
            .output()
            .expect("run promtool");
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}:\n{}",
            file.display(),
            String::from_utf8_lossy(&said)
        );
    }
}

/// Each with what it is told by, and with what is like it and must not be: both are in `tests/alerts.yml`.
#[test]
fn alerts_are_told_by_what_they_are_for_and_by_nothing_else() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/alerts.yml");
    let text = fs::read_to_string(&cases).expect("read the cases");
    let rules = rules();
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in alerts {
        for how in ["is told", "stays quiet"] {
            let name = format!("- name: {alert} {how}");
            assert!(text.lines().any(|line| line.trim() == name), "no case {name:?}");
        }
    }
    if !installed("promtool") {
        return skip("`promtool` is not installed (hint: tests/run installs it)");
    }
    let output = Command::new("promtool").args(["test", "rules"]).arg(&cases).output();
    let output = output.expect("run promtool");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
