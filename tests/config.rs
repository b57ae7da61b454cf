//! What an operator reads when a configuration is wrong, word for word, and the exit codes of `check-config`.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `btd check-config` on `text`, in a folder where the file is called `btd.toml`.
fn check(text: &str, variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("btd.toml"), text).expect("the file is written");
    btd(dir.path(), variables, &["check-config", "--config", "btd.toml"])
}

fn btd(dir: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(dir)
        .output()
        .expect("btd runs")
}

#[track_caller]
fn refused(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let output = check(text, variables);
    let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected, "for:\n{text}");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn the_shipped_configuration_is_good() {
    let output = btd(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        &[],
        &["check-config", "--config", "config/seed.toml"],
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "config/seed.toml: good\n");
    assert_eq!(output.status.code(), Some(0));
}

/// It is read on the machine that it is for, for the most part, and may be read on another.
#[test]
fn caches_that_are_larger_than_the_memory_are_warned_of() {
    let output = check("[storage]\ncache-size = \"1 TiB\"\n", &[]);
    let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
    assert!(
        stderr.starts_with("btd.toml: warning: storage.cache-size and write-buffer are "),
        "{stderr}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "btd.toml: good\n");
    assert_eq!(output.status.code(), Some(0));
    let output = check("[storage]\ncache-size = \"64 MiB\"\n", &[]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn an_unknown_key_is_refused_with_line_section_and_the_nearest_key() {
    refused(
        "[limits]\n\nupload-slot = 4\n",
        &[],
        &["btd.toml:3: unknown key \"upload-slot\" in [limits] (did you mean \"upload-slots\"?)"],
    );
    refused(
        "state_dir = \"x\"\n[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\ndatadir = \"c\"\n",
        &[],
        &[
            "btd.toml:1: unknown key \"state_dir\" (did you mean \"state-dir\"?)",
            "btd.toml:5: unknown key \"datadir\" in [[watch]] (did you mean \"data-dir\"?)",
        ],
    );
}

#[test]
fn an_unknown_key_that_resembles_nothing_is_refused_without_a_guess() {
    refused(
        "[limits]\nfoo = 1\n",
        &[],
        &["btd.toml:2: unknown key \"foo\" in [limits]"],
    );
}

#[test]
fn an_unknown_section_is_refused_with_the_nearest_one() {
    refused(
        "[peer]\nlisten = []\n",
        &[],
        &["btd.toml:1: unknown section [peer] (did you mean [peers]?)"],
    );
    refused(
        "[trackers]\nhttp = \"127.0.0.1:6969\"\n",
        &[],
        &["btd.toml:1: unknown section [trackers] (did you mean [tracker]?)"],
    );
    refused(
        "[[watches]]\ndir = \"a\"\n",
        &[],
        &["btd.toml:1: unknown section [[watches]] (did you mean [[watch]]?)"],
    );
}

#[test]
fn wrong_types_and_values_are_refused_with_line_key_and_what_was_expected() {
    refused(
        "[peers]\nlisten = [\"0.0.0.0\"]\nmax-connections = \"many\"\n\n[storage]\ncache-size = \"12 parsecs\"\nread-mode = \"bufferd\"\n\n[shards]\npin = 1\ncount = -2\n",
        &[],
        &[
            "btd.toml:2: peers.listen: expected an IP address and a port such as \"0.0.0.0:6881\" or \"[::]:6881\", found \"0.0.0.0\"",
            "btd.toml:3: peers.max-connections: expected a whole number from 1 to 1000000, found \"many\"",
            "btd.toml:6: storage.cache-size: expected a size such as \"512 MiB\", or \"off\", found \"12 parsecs\"",
            "btd.toml:7: storage.read-mode: expected one of \"auto\", \"direct\", \"buffered\", found \"bufferd\" (did you mean \"buffered\"?)",
            "btd.toml:10: shards.pin: expected true or false, found 1",
            "btd.toml:11: shards.count: expected a whole number from 0 to 1024, found -2",
        ],
    );
    refused(
        "[storage]\ncache-size = \"1 MiB\"\n",
        &[],
        &["btd.toml:2: storage.cache-size: expected a size from 16 MiB to 1 TiB, or \"off\", found \"1 MiB\""],
    );
    refused(
        "[storage]\ncache-size = \"16 MiB\"\n[shards]\ncount = 9\n",
        &[],
        &[
            "btd.toml: storage.cache-size: 16 MiB for 9 shards, at least 2 MiB needed for each (hint: a larger cache-size, \"off\", or a smaller shards.count)",
        ],
    );
    refused(
        "[limits]\nupload-rate = \"1 B/s\"\nupload-rate-per-torrent = \"fast\"\n",
        &[],
        &[
            "btd.toml:2: limits.upload-rate: expected at least \"16 KiB/s\", found \"1 B/s\"",
            "btd.toml:3: limits.upload-rate-per-torrent: expected a rate such as \"200 MB/s\", or \"unlimited\", found \"fast\"",
        ],
    );
    refused(
        "peers = 3\n",
        &[],
        &["btd.toml:1: peers: expected a section [peers], found 3"],
    );
    refused(
        "watch = \"torrents\"\n",
        &[],
        &["btd.toml:1: watch: expected sections [[watch]], found \"torrents\""],
    );
    refused(
        "[peers]\nlisten = [\"0.0.0.0:6881\", \"0.0.0.0:6881\"]\n",
        &[],
        &["btd.toml:2: peers.listen: 0.0.0.0:6881 is there twice"],
    );
}

#[test]
fn one_tcp_address_has_one_purpose() {
    refused(
        "[peers]\nlisten = \"0.0.0.0:6881\"\n[tracker]\nhttp = [\"127.0.0.1:6881\", \"[::]:6881\"]\n",
        &[],
        &[
            "btd.toml: tracker.http: 127.0.0.1:6881 would take connections of peers.listen, 0.0.0.0:6881 (hint: another port)",
        ],
    );
    refused(
        "[tracker]\nhttp = \"127.0.0.1:9000\"\nudp = \"127.0.0.1:9000\"\n[metrics]\nlisten = \"127.0.0.1:9000\"\n",
        &[],
        &[
            "btd.toml: metrics.listen: 127.0.0.1:9000 would take connections of tracker.http, 127.0.0.1:9000 (hint: another port)",
        ],
    );
}

#[test]
fn a_tracker_needs_an_address_and_sound_values() {
    refused(
        "[tracker]\nprivate = true\n",
        &[],
        &["btd.toml:1: [tracker] needs the key \"http\" or \"udp\", or both"],
    );
    refused(
        "[tracker]\nhttp = \"localhost\"\ninterval = \"30\"\nmin-interval = \"2d\"\nnumwant-max = 0\n\
         hostname-allow = [\".internal\", \"a_b\"]\nmemory = \"1 B\"\nallow = \"\"\nhtttp = 1\n",
        &[],
        &[
            "btd.toml:2: tracker.http: expected an IP address and a port such as \"0.0.0.0:6881\" or \"[::]:6881\", found \"localhost\"",
            "btd.toml:3: tracker.interval: expected a time such as \"30m\" or \"90s\", found \"30\"",
            "btd.toml:4: tracker.min-interval: expected a time from \"1s\" to \"1d\", found \"2d\"",
            "btd.toml:5: tracker.numwant-max: expected a whole number from 1 to 1000, found 0",
            "btd.toml:6: tracker.hostname-allow: \"a_b\" is no host name: at most 253 bytes, labels of letters, digits and hyphens, with a dot before it for all names below it",
            "btd.toml:7: tracker.memory: expected a size from 4 MiB to 1 TiB, found \"1 B\"",
            "btd.toml:8: tracker.allow: expected a path, found \"\"",
            "btd.toml:9: unknown key \"htttp\" in [tracker] (did you mean \"http\"?)",
        ],
    );
}

#[test]
fn values_of_a_tracker_that_cannot_go_together_are_refused() {
    let head = "[tracker]\nhttp = \"127.0.0.1:0\"\n";
    refused(
        &format!("{head}interval = \"10m\"\nmin-interval = \"11m\"\nmemory = \"1 MiB\"\n"),
        &[],
        &[
            "btd.toml:4: tracker.min-interval: 11m, longer than tracker.interval, 10m: nobody could keep both",
            "btd.toml:5: tracker.memory: expected a size from 4 MiB to 1 TiB, found \"1 MiB\"",
        ],
    );
    refused(
        &format!("{head}min-interval = \"31m\"\n"),
        &[],
        &["btd.toml:3: tracker.min-interval: 31m, longer than tracker.interval, 30m: nobody could keep both"],
    );
    for good in [
        "interval = \"1m\"",
        "interval = \"1m\"\nmin-interval = \"1m\"",
        "memory = \"4 MiB\"",
    ] {
        assert_eq!(check(&format!("{head}{good}\n"), &[]).status.code(), Some(0), "{good}");
    }
    let output = check(&format!("{head}memory = \"1 TiB\"\n"), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.starts_with("btd.toml:3: tracker.memory: 1 TiB, more than the ")
            && stderr.ends_with(" that this machine has\n"),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn lists_of_a_tracker_that_cannot_be_read_are_told_by_their_keys() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("the file is written");
    write(
        "btd.toml",
        "[tracker]\nhttp = \"127.0.0.1:0\"\nallow = \"absent\"\ndeny = \"torn\"\n",
    );
    write("torn", "# ours\n0123\n");
    let check = || btd(dir.path(), &[], &["check-config", "--config", "btd.toml"]);
    let output = check();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).lines().collect::<Vec<_>>(),
        [
            "btd.toml:3: tracker.allow: cannot read absent: No such file or directory (os error 2)",
            "btd.toml:4: tracker.deny: cannot read torn: line 2: an info-hash is 40 hexadecimal digits, this has 4 bytes",
        ]
    );
    assert_eq!(output.status.code(), Some(78));
    write("absent", "");
    write("torn", &"ab".repeat(20));
    assert_eq!(check().status.code(), Some(0));
}

#[test]
fn a_watch_folder_needs_both_paths_and_is_watched_once() {
    refused(
        "\n[[watch]]\ndir = \"a\"\n",
        &[],
        &["btd.toml:2: [[watch]] needs the key \"data-dir\""],
    );
    refused(
        "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\n[[watch]]\ndir = \"a\"\ndata-dir = \"c\"\n",
        &[],
        &["btd.toml:4: watch.dir: a is watched twice"],
    );
}

#[test]
fn a_configuration_that_is_no_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pipe = rustix::fs::CWD;
    rustix::fs::mknodat(
        pipe,
        dir.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    std::fs::File::create(dir.path().join("long"))
        .and_then(|file| file.set_len(1 << 40))
        .expect("a long file");
    for (name, why) in [
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (".", "is a directory"),
        ("long", "more than 1 MiB long"),
    ] {
        let output = btd(dir.path(), &[], &["check-config", "--config", name]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(why), "{name}: {stderr}");
        assert_eq!(output.status.code(), Some(78));
    }
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let output = check("[limits]\nupload-slots = \n", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("btd.toml:2: not valid TOML: "), "{stderr}");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_wrong_variable_is_refused_by_its_name() {
    refused(
        "",
        &[
            ("BTD_LIMITS__UPLOAD_SLOT", "4"),
            ("BTD_METRICS__LISTEN", "localhost"),
            ("BTD_PEER__LISTEN", "x"),
        ],
        &[
            "BTD_LIMITS__UPLOAD_SLOT: unknown key \"upload-slot\" in [limits] (did you mean \"upload-slots\"?)",
            "BTD_METRICS__LISTEN: metrics.listen: expected an IP address and a port such as \"0.0.0.0:6881\" or \"[::]:6881\", found \"localhost\"",
            "BTD_PEER__LISTEN: unknown section [peer] (did you mean [peers]?)",
        ],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_bad_configuration() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = btd(dir.path(), &[], &["check-config", "--config", "absent.toml"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "absent.toml: cannot read the configuration: No such file or directory (os error 2)\n"
    );
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_wrong_command_line_exits_64_and_help_and_version_exit_0() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(btd(dir.path(), &[], &[]).status.code(), Some(64));
    assert_eq!(btd(dir.path(), &[], &["--no-such-option"]).status.code(), Some(64));
    assert_eq!(
        btd(dir.path(), &[], &["--config", "x", "--log-level", "loud"])
            .status
            .code(),
        Some(64)
    );
    assert_eq!(btd(dir.path(), &[], &["--help"]).status.code(), Some(0));
    let version = btd(dir.path(), &[], &["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("btd ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_store_is_memory_or_an_address_and_a_wrong_one_is_told_without_its_password() {
    let tracker = "[tracker]\nudp = \"127.0.0.1:0\"\n";
    let head = "btd.toml:3: tracker.store: expected \"memory\", or an address such as \"redis://127.0.0.1:6379/0\"";
    for (store, reason) in [
        ("\"disk\"", "not a redis:// or rediss:// address"),
        ("7", "not a redis:// or rediss:// address"),
        ("\"http://u:secret@store\"", "not a redis:// or rediss:// address"),
        ("\"redis://u:secret@store:0\"", "the port is no number from 1 to 65535"),
        ("\"redis://:secret@\"", "the host is neither a name nor an address"),
        (
            "\"redis://:secret@store/x\"",
            "the database is no number from 0 to 1048576",
        ),
        (
            "\"redis://:secret@store/0?protocol=resp2\"",
            "nothing may follow the database, such as ? or #",
        ),
    ] {
        refused(
            &format!("{tracker}store = {store}\n"),
            &[],
            &[&format!("{head}: {reason}")],
        );
    }
    refused(
        &format!("{tracker}stor = \"memory\"\n"),
        &[],
        &["btd.toml:3: unknown key \"stor\" in [tracker] (did you mean \"store\"?)"],
    );
    for store in ["memory", "redis://store", "rediss://btd:secret@[::1]:7000/3"] {
        let output = check(&format!("{tracker}store = \"{store}\"\n"), &[]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "btd.toml: good\n");
    }
}
