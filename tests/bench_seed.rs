//! `btd bench seed` as an operator types it: what it says of the bytes, and its exit code.

mod support;

use std::process::Command;

use support::btd::Btd;
use support::leech::Source;

#[test]
fn bench_seed_says_plainly_that_nothing_was_verified_and_fails_if_it_was_to_be() {
    let source = Source::start("bench-seed", &[("folder/a".to_owned(), 300_000)], 16 << 10);
    let run = |btd: &Btd, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command.args([
            "bench",
            "seed",
            "--bytes",
            "2MB",
            "--connect",
            &btd.peers.to_string(),
            "--torrent",
        ]);
        let output = command.arg(&source.torrent.path).args(more).output();
        let output = output.expect("run btd bench seed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, report, said) = run(&source.btd, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(report.contains("pieces verified        none were to be"), "{report}");
    let (code, report, said) = run(&source.btd, &["--verify", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(report.contains(" good, 0 BAD"), "{report}");
    let (code, report, said) = run(&source.btd, &["--verify", "0.000000000001"]);
    assert_eq!(code, Some(1), "{report}");
    assert!(
        report.contains("NONE came whole") && said.contains("nothing was verified"),
        "{report}{said}"
    );
    source.btd.stop();
}

#[test]
fn bench_tells_a_mistake_on_the_command_line_from_a_torrent_that_is_no_good() {
    let temp = tempfile::tempdir().expect("make a folder");
    let torrent = temp.path().join("bad.torrent");
    std::fs::write(&torrent, "no torrent").expect("write a file");
    let bench = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        let output = command.arg("bench").args(args).output().expect("run btd bench");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let torrent = torrent.to_str().expect("a path in UTF-8");
    let (code, said) = bench(&["seed", "--connect", "127.0.0.1:1", "--torrent", torrent]);
    assert!(code == Some(65) && said.contains("bad.torrent"), "{code:?} {said}");
    let (code, said) = bench(&["floor-server", "--data", "/", "--torrent", torrent]);
    assert!(code == Some(65) && said.contains("bad.torrent"), "{code:?} {said}");
    let (code, said) = bench(&["sends", "--batch", "1kB"]);
    assert!(code == Some(64) && said.contains("multiple of"), "{code:?} {said}");
    let gone = temp.path().join("gone.torrent");
    let (code, _) = bench(&[
        "floor-server",
        "--data",
        "/",
        "--torrent",
        gone.to_str().expect("UTF-8"),
    ]);
    assert_eq!(code, Some(74));
}
