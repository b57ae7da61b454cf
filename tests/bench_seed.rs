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
