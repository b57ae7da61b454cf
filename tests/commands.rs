//! The commands, as whole programs: `create`, `show`, `verify`, `completions`; what they print, and their exit codes.
//!
//! That `create` agrees with other makers of torrents is tested against mktorrent and libtorrent where they are
//! installed (`tests/run` installs them), and skipped loudly where not.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::scratch::Scratch;
use support::{installed, skip, tests_dir};

const NOT_WHOLE: i32 = 1;
const USAGE: i32 = 64;
const DATA: i32 = 65;
const IO: i32 = 74;

/// What a run of btd left behind.
struct Run {
    code: i32,
    out: String,
    err: String,
}

fn btd<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(args)
        .output()
        .expect("run btd");
    let Output { status, stdout, stderr } = output;
    Run {
        code: status.code().expect("btd was not killed"),
        out: String::from_utf8(stdout).expect("UTF-8 on standard output"),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

impl Run {
    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }

    /// Failed with this code, and a message on standard error that contains all of `words`.
    #[track_caller]
    fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// A folder `t` with files of these names and lengths, each with bytes of its own.
fn payload(scratch: &Scratch, files: &[(&str, usize)]) -> PathBuf {
    let dir = scratch.dir("data").join("t");
    for (index, &(name, len)) in files.iter().enumerate() {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..len).map(|at| (at * 131 + at / 257 + index * 17) as u8).collect();
        fs::write(path, bytes).unwrap();
    }
    dir
}

/// `btd create PAYLOAD --output NAME.torrent --piece-length LEN MORE...`
fn create(payload: &Path, output: &Path, piece_len: &str, more: &[&str]) -> Run {
    let (payload, output) = (payload.to_str().unwrap(), output.to_str().unwrap());
    let args = ["create", payload, "--output", output, "--piece-length", piece_len];
    btd(&[&args, more].concat())
}

fn show(torrent: &Path) -> Value {
    btd(&["show", torrent.to_str().unwrap(), "--json"]).succeeded().json()
}

/// `btd verify` of the torrent with the payload in `data`, as text and as JSON.
fn verify(torrent: &Path, data: &Path) -> (Run, Value) {
    let args = ["verify", torrent.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let json = btd(&[&args[..], &["--json"]].concat());
    let text = btd(&args);
    assert_eq!(text.code, json.code, "the code does not depend on --json");
    (text, json.json())
}

/// Names with spaces, in UTF-8, of 200 bytes; files without bytes; files that share pieces and ones that fill many.
fn varied() -> Vec<(&'static str, usize)> {
    vec![
        ("a file with spaces", 100_000),
        ("empty", 0),
        ("sub/Ünïcödé ✓ 日本語", 16_384),
        ("sub.z", 1),
        ("sub/y", 70_001),
        ("sub/deeper/still/empty too", 0),
        (".hidden", 5),
        (
            concat!(
                "long-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
            ),
            40_000,
        ),
    ]
}

#[test]
fn show_tells_keys_to_those_only_who_ask_for_them_and_create_repeats_none() {
    let scratch = Scratch::new("show-keys");
    let (dir, torrent) = (payload(&scratch, &[("a", 5)]), scratch.path().join("t.torrent"));
    let key = "0123456789abcdef0123456789abcdef";
    let urls = [
        format!("https://t.example/{key}/announce"),
        format!("https://me:{key}@u.example/announce"),
        format!("udp://v.example:80/announce?passkey={key}"),
    ];
    let mut more: Vec<&str> = urls.iter().flat_map(|url| ["--tracker", url.as_str()]).collect();
    let comment = format!("mine: {key}, made by t");
    more.extend(["--comment", comment.as_str()]);
    let made = create(&dir, &torrent, "16K", &more).succeeded();
    assert!(!made.out.contains(key) && !made.err.contains(key));
    let path = torrent.to_str().unwrap();
    let text = btd(&["show", path]).succeeded();
    for shown in [
        "https://t.example/…/announce\n",
        "… (a user name in front of the host)",
        "udp://v.example:80/announce?…\n",
        "mine: …, made by t\n",
    ] {
        assert!(text.out.contains(shown), "{shown}: {}", text.out);
    }
    let json = btd(&["show", path, "--json"]).succeeded();
    assert_eq!(json.json()["announce"][0][0], "https://t.example/…/announce");
    assert!(
        !text.out.contains(key) && !json.out.contains(key),
        "{}{}",
        text.out,
        json.out
    );
    let text = btd(&["show", path, "--secrets"]).succeeded().out;
    let json = btd(&["show", path, "--secrets", "--json"]).succeeded().json();
    assert!(
        urls.iter().all(|url| text.contains(url)) && text.contains(&comment),
        "{text}"
    );
    assert_eq!(
        (&json["announce"][2][0], &json["comment"]),
        (&urls[2].as_str().into(), &comment.as_str().into())
    );

    let bad = format!("ftp://t.example/{key}");
    let run = create(
        &dir,
        &scratch.path().join("u"),
        "16K",
        &["--tracker", &urls[0], "--tracker", &bad],
    );
    let run = run.failed(USAGE, &["--tracker (2 of 2)", "expected a URL"]);
    assert!(!run.err.contains(key), "{}", run.err);
}

#[test]
fn what_create_makes_show_tells_and_verify_finds_whole() {
    let scratch = Scratch::new("round-trip");
    let files = varied();
    let dir = payload(&scratch, &files);
    let torrent = scratch.path().join("x.torrent");
    let more = [
        "--tracker",
        "http://127.0.0.1:6969/announce",
        "--tracker",
        "udp://t.example:80",
        "--private",
        "--comment",
        "a remark",
        "--source",
        "here",
    ];
    let created = create(&dir, &torrent, "16 KiB", &more).succeeded();

    let shown = show(&torrent);
    assert_eq!(shown["name"], "t");
    assert!(created.out.contains(shown["info_hash"].as_str().unwrap()));
    assert_eq!(shown["piece_len"], 16_384);
    assert_eq!(shown["private"], true);
    assert_eq!(shown["comment"], "a remark");
    assert_eq!(shown["announce"][0][0], "http://127.0.0.1:6969/announce");
    assert_eq!(shown["announce"][1][0], "udp://t.example:80");
    assert_eq!(shown["total_len"], files.iter().map(|file| file.1).sum::<usize>());
    let mut expected: Vec<(String, u64)> = files
        .iter()
        .map(|&(name, len)| (format!("t/{name}"), len as u64))
        .collect();
    expected.sort();
    let listed = shown["files"].as_array().unwrap().iter();
    let listed: Vec<(String, u64)> = listed
        .map(|file| (file["path"].as_str().unwrap().to_owned(), file["len"].as_u64().unwrap()))
        .collect();
    assert_eq!(listed, expected, "all files, in the order of the bytes of their paths");

    let text = btd(&["show", torrent.to_str().unwrap(), "--files"]).succeeded().out;
    for (name, _) in files {
        assert!(text.contains(name), "{name} is not in {text}");
    }

    let (text, json) = verify(&torrent, &scratch.path().join("data"));
    assert!(text.succeeded().out.starts_with("t: whole"));
    assert_eq!(json["whole"], true);
}

#[test]
fn a_single_file_is_a_torrent_of_one_file_under_its_own_name() {
    let scratch = Scratch::new("single");
    let dir = payload(&scratch, &[("one file", 100_000)]);
    let torrent = scratch.path().join("x.torrent");
    create(&dir.join("one file"), &torrent, "32768", &[]).succeeded();
    let shown = show(&torrent);
    assert_eq!(
        (&shown["name"], &shown["files"][0]["path"]),
        (&"one file".into(), &"one file".into())
    );
    let (text, _) = verify(&torrent, &dir);
    text.succeeded();
}

#[test]
fn a_flipped_bit_is_found_and_only_its_piece_reported() {
    let scratch = Scratch::new("flipped");
    let dir = payload(&scratch, &[("a", 100_000), ("b", 100_000)]);
    let torrent = scratch.path().join("x.torrent");
    create(&dir, &torrent, "16K", &[]).succeeded();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(dir.join("b"))
        .unwrap();
    let mut byte = [0];
    // Byte 150,000 of the torrent, in piece 9.
    file.read_exact_at(&mut byte, 50_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 50_000).unwrap();

    let (text, json) = verify(&torrent, &scratch.path().join("data"));
    let text = text.failed(NOT_WHOLE, &["x.torrent", "not whole"]);
    assert!(
        text.out.contains("t: not whole (12 of 13 pieces are good)"),
        "{}",
        text.out
    );
    assert!(text.out.contains("t/b: wrong bytes in piece 9"), "{}", text.out);
    assert_eq!(json["wrong_pieces"], serde_json::json!([[9, 9]]));
    assert_eq!((&json["good_count"], &json["absent_count"]), (&12.into(), &0.into()));
    assert_eq!(json["suspect_files"].as_array().unwrap().len(), 1);
}

#[test]
fn a_download_that_is_not_complete_is_verified_under_its_other_name() {
    let scratch = Scratch::new("part");
    let dir = payload(&scratch, &[("a", 100_000), ("b", 100_000)]);
    let torrent = scratch.path().join("x.torrent");
    create(&dir, &torrent, "16K", &[]).succeeded();
    fs::rename(dir.join("b"), dir.join("b.part")).unwrap();

    let (text, json) = verify(&torrent, &scratch.path().join("data"));
    let text = text.failed(NOT_WHOLE, &["x.torrent", "not whole"]);
    let told = "t/b: not complete, it lies under `t/b.part`";
    assert!(text.out.contains(told), "{}", text.out);
    assert!(text.out.contains("13 of 13 pieces are good"), "{}", text.out);
    assert_eq!(json["part_files"], serde_json::json!(["t/b"]));
    assert_eq!((&json["whole"], &json["good_count"]), (&false.into(), &13.into()));
}

#[test]
fn each_bad_file_is_named_with_what_is_wrong_with_it() {
    let scratch = Scratch::new("bad-files");
    let files = [
        ("gone", 20_000),
        ("short", 20_000),
        ("long", 20_000),
        ("folder", 20_000),
        ("link", 20_000),
        ("empty", 0),
    ];
    let dir = payload(&scratch, &files);
    let torrent = scratch.path().join("x.torrent");
    create(&dir, &torrent, "16K", &[]).succeeded();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::remove_file(dir.join("empty")).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(dir.join("short"))
        .unwrap()
        .set_len(12_345)
        .unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(dir.join("long"))
        .unwrap()
        .set_len(23_456)
        .unwrap();
    fs::remove_file(dir.join("folder")).unwrap();
    fs::create_dir(dir.join("folder")).unwrap();
    fs::rename(dir.join("link"), scratch.path().join("elsewhere")).unwrap();
    symlink(scratch.path().join("elsewhere"), dir.join("link")).unwrap();

    let (text, json) = verify(&torrent, &scratch.path().join("data"));
    let text = text.failed(NOT_WHOLE, &[]).out;
    for line in [
        "t/gone: missing",
        "t/empty: missing",
        "t/short: too short: 12345 of 20000 bytes",
        "t/long: too long: 23456 bytes instead of 20000",
        "t/folder: a folder, not a regular file",
        "t/link: a symbolic link",
    ] {
        assert!(text.contains(line), "`{line}` is not in: {text}");
    }
    let states: Vec<(&str, &str)> = json["bad_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["path"].as_str().unwrap(), file["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        states,
        [
            ("t/empty", "missing"),
            ("t/folder", "not-regular"),
            ("t/gone", "missing"),
            ("t/link", "not-regular"),
            ("t/long", "longer"),
            ("t/short", "shorter"),
        ]
    );
}

#[test]
fn the_payloads_own_folder_as_data_gets_a_hint() {
    let scratch = Scratch::new("hint");
    let dir = payload(&scratch, &[("a", 20_000)]);
    let torrent = scratch.path().join("x.torrent");
    create(&dir, &torrent, "16K", &[]).succeeded();
    verify(&torrent, &dir)
        .0
        .failed(NOT_WHOLE, &["hint: --data is the folder that holds `t`"]);
}

#[test]
fn hostile_torrents_are_refused_with_file_and_reason() {
    let scratch = Scratch::new("hostile");
    // One byte of payload and the hash of nothing in particular: the shape is right, the rest is for each case.
    let info = |rest: &str| format!("d4:infod{rest}12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee");
    let deep = format!("d4:info{}{}e", "l".repeat(100_000), "e".repeat(100_000));
    let cases: &[(&str, String, &str)] = &[
        ("empty", String::new(), ""),
        ("garbage", "\u{7f}ELF".to_owned(), "byte 0"),
        ("truncated", "d4:infod6:lengthi1e4:na".to_owned(), "byte"),
        (
            "string-too-long",
            "d4:infod6:lengthi1e4:name9999999999:x".to_owned(),
            "byte",
        ),
        ("deep", deep, "deep"),
        ("no-info", "d7:comment1:xe".to_owned(), "info"),
        ("up", info("6:lengthi1e4:name2:.."), "name"),
        ("slash", info("6:lengthi1e4:name3:a/b"), "name"),
        ("absolute", info("5:filesld6:lengthi1e4:pathl1:/eee4:name1:n"), "path"),
        (
            "up-path",
            info("5:filesld6:lengthi1e4:pathl2:..6:passwdeee4:name1:n"),
            "path",
        ),
        ("negative", info("6:lengthi-1e4:name1:n"), "length"),
        ("huge", info("6:lengthi9223372036854775807e4:name1:n"), "length"),
        ("hashes", info("6:lengthi99999e4:name1:n"), "pieces"),
    ];
    for (name, bytes, word) in cases {
        let path = scratch.path().join(format!("{name}.torrent"));
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        btd(&["show", path]).failed(DATA, &[&format!("{name}.torrent: "), word]);
        btd(&["verify", path, "--data", scratch.path().to_str().unwrap()]).failed(DATA, &[name, word]);
    }
    let giant = scratch.path().join("giant.torrent");
    fs::File::create(&giant).unwrap().set_len(1 << 40).unwrap();
    btd(&["show", giant.to_str().unwrap()]).failed(DATA, &["giant.torrent", "1099511627776 bytes"]);
}

#[test]
fn control_characters_of_a_torrent_do_not_reach_the_terminal() {
    let scratch = Scratch::new("escapes");
    let path = scratch.path().join("x.torrent");
    let torrent = "d7:comment6:\u{1b}[31mX4:infod6:lengthi1e4:name4:\u{1b}[2J12:piece lengthi16384e\
                   6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
    fs::write(&path, torrent).unwrap();
    let path = path.to_str().unwrap();
    let shown = btd(&["show", path, "--files"]);
    let verified = btd(&["verify", path, "--data", scratch.path().to_str().unwrap()]);
    for text in [shown.out, shown.err, verified.out, verified.err] {
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn exit_codes_tell_whose_fault_it_was() {
    let scratch = Scratch::new("codes");
    let dir = payload(&scratch, &[("a", 20_000)]);
    let torrent = scratch.path().join("x.torrent");
    let (dir_arg, none) = (dir.to_str().unwrap(), scratch.path().join("none"));
    let none = none.to_str().unwrap();
    create(&dir, &torrent, "16K", &[]).succeeded();
    let before = fs::read(&torrent).unwrap();

    create(&dir, &torrent, "16K", &[]).failed(USAGE, &["x.torrent: exists", "--force"]);
    assert_eq!(fs::read(&torrent).unwrap(), before);
    create(&dir, &torrent, "32K", &["--force"]).succeeded();
    assert_ne!(fs::read(&torrent).unwrap(), before);
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        2,
        "only `data` and the torrent are there"
    );

    btd(&["create", dir_arg, "--output", &format!("{none}/x.torrent")]).failed(IO, &["none", "cannot write here"]);
    btd(&["create", none, "--output", &format!("{none}.torrent")]).failed(IO, &["none: cannot be read"]);
    create(&dir, &scratch.path().join("y"), "17K", &[]).failed(USAGE, &["--piece-length", "power of two"]);
    create(&dir, &scratch.path().join("y"), "16K", &["--tracker", "nonsense"]).failed(USAGE, &["--tracker", "http://"]);
    fs::create_dir(scratch.path().join("nothing")).unwrap();
    create(&scratch.path().join("nothing"), &scratch.path().join("y"), "16K", &[]).failed(DATA, &["nothing"]);
    assert!(!scratch.path().join("y").exists());

    btd(&["show", none]).failed(IO, &["none"]);
    let torrent = torrent.to_str().unwrap();
    btd(&["verify", torrent, "--data", none]).failed(IO, &["none", "data folder"]);
    btd(&["verify", torrent]).failed(USAGE, &["--data"]);
    btd(&["show", torrent, "--nonsense"]).failed(USAGE, &["--nonsense"]);
    btd(&["completions", "nonsense"]).failed(USAGE, &["bash"]);
}

#[test]
fn links_and_pipes_are_left_out_of_a_torrent_and_told() {
    let scratch = Scratch::new("left-out");
    let dir = payload(&scratch, &[("a", 20_000)]);
    symlink("a", dir.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let torrent = scratch.path().join("x.torrent");
    let run = create(&dir, &torrent, "16K", &[]).succeeded();
    assert!(run.err.contains("left out: link (a symbolic link)"), "{}", run.err);
    assert!(run.err.contains("left out: pipe (not a regular file)"), "{}", run.err);
    assert_eq!(show(&torrent)["files"].as_array().unwrap().len(), 1);
}

#[test]
fn a_payload_that_btd_would_not_load_makes_no_torrent() {
    let scratch = Scratch::new("unloadable");
    let dir = payload(&scratch, &[("Name", 20_000), ("name", 20_000)]);
    let torrent = scratch.path().join("x.torrent");
    create(&dir, &torrent, "16K", &[]).failed(DATA, &["name"]);
    fs::remove_file(dir.join("Name")).unwrap();
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
    create(&dir, &torrent, "16K", &[]).failed(DATA, &["UTF-8"]);
    assert!(!torrent.exists());
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = btd(&["completions", shell]).succeeded().out;
        for command in ["create", "show", "verify", "check-config"] {
            assert!(
                script.contains(command),
                "{command} is not in the completions for {shell}"
            );
        }
    }
}

#[test]
fn output_into_a_pipe_that_closes_early_is_no_error() {
    let scratch = Scratch::new("pipe");
    let names: Vec<String> = (0..5_000).map(|index| format!("file number {index}")).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let dir = payload(&scratch, &files);
    let torrent = scratch.path().join("x.torrent");
    create(&dir, &torrent, "16K", &[]).succeeded();
    let mut child = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["show", "--files"])
        .arg(&torrent)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_info_hash_is_mktorrents() {
    if !installed("mktorrent") {
        return skip("mktorrent is not installed");
    }
    let scratch = Scratch::new("mktorrent");
    let dir = payload(&scratch, &varied());
    for path in [dir.clone(), dir.join("sub/y")] {
        for exponent in [15, 18, 20] {
            for private in [false, true] {
                let (ours, theirs) = (
                    scratch.path().join("ours.torrent"),
                    scratch.path().join("theirs.torrent"),
                );
                let more: &[&str] = if private {
                    &["--private", "--force"]
                } else {
                    &["--force"]
                };
                create(&path, &ours, &(1u32 << exponent).to_string(), more).succeeded();
                let _ = fs::remove_file(&theirs);
                let mut mktorrent = Command::new("mktorrent");
                mktorrent.arg(format!("-l{exponent}")).arg("-o").arg(&theirs).arg(&path);
                if private {
                    mktorrent.arg("-p");
                }
                let output = mktorrent.output().expect("run mktorrent");
                assert!(
                    output.status.success(),
                    "mktorrent: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                let (ours, theirs) = (show(&ours), show(&theirs));
                assert_eq!(ours["files"], theirs["files"]);
                assert_eq!(
                    ours["info_hash"],
                    theirs["info_hash"],
                    "{} in 2^{exponent}",
                    path.display()
                );
            }
        }
    }
}

/// Makes a torrent of the files of another one, in its order, and prints its info-hash; beside that the info-hash that
/// libtorrent reads from the other one. The `v1_only` flag is needed: version 2 is what libtorrent makes unasked.
const LIBTORRENT: &str = "
import os, sys, warnings
warnings.simplefilter('ignore')
import libtorrent as lt
torrent, parent = sys.argv[1:3]
read = lt.torrent_info(torrent)
files, new = read.files(), lt.file_storage()
for index in range(files.num_files()):
    path = files.file_path(index)
    new.add_file(path, os.stat(os.path.join(parent, path)).st_size)
create = lt.create_torrent(new, read.piece_length(), lt.create_torrent.v1_only)
create.set_priv(read.priv())
lt.set_piece_hashes(create, parent)
made = lt.torrent_info(lt.bdecode(lt.bencode(create.generate())))
print(read.info_hashes().v1, made.info_hashes().v1)
";

#[test]
fn the_info_hash_is_libtorrents() {
    let venv = std::env::var_os("BTD_TEST_VENV").map(PathBuf::from);
    let python = venv
        .unwrap_or_else(|| tests_dir().join("../target/venv"))
        .join("bin/python");
    let has_libtorrent = Command::new(&python).args(["-c", "import libtorrent"]).output();
    if !has_libtorrent.is_ok_and(|output| output.status.success()) {
        return skip("libtorrent's Python binding is not installed");
    }
    let scratch = Scratch::new("libtorrent");
    let dir = payload(&scratch, &varied());
    for path in [dir.clone(), dir.join("sub/y")] {
        for piece_len in ["16 KiB", "256 KiB", "16 MiB"] {
            for more in [&["--force"][..], &["--force", "--private"]] {
                let torrent = scratch.path().join("x.torrent");
                create(&path, &torrent, piece_len, more).succeeded();
                let output = Command::new(&python)
                    .args(["-c", LIBTORRENT])
                    .arg(&torrent)
                    .arg(path.parent().unwrap())
                    .output()
                    .expect("run Python");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let printed = String::from_utf8(output.stdout).unwrap();
                let ours = show(&torrent)["info_hash"].as_str().unwrap().to_owned();
                let theirs: Vec<&str> = printed.split_whitespace().collect();
                assert_eq!(theirs, [&ours, &ours], "{} in {piece_len}", path.display());
            }
        }
    }
}
