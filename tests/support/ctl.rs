//! A btd with a watch folder and a data folder, and `btd ctl` as an operator types it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use btd::hashing::sha1;
use btd::proto::InfoHash;
use btd::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use btd::proto::path::RelPath;
use rustix::process::Signal;
use serde_json::Value;

use super::btd::{Btd, Config};
use super::scratch::Scratch;
use super::{age, wait_for, within};

pub const PIECE_LEN: u32 = 16 << 10;
pub const SECONDS: u64 = 60;
pub const REFUSED: i32 = 1;
pub const USAGE: i32 = 64;
pub const DATA: i32 = 65;
pub const NOT_RUNNING: i32 = 69;
pub const IO: i32 = 74;
pub const CONFIG: i32 = 78;

/// A folder with a watch folder and a data folder, and a btd there.
pub struct Home {
    pub scratch: Scratch,
    pub watch: PathBuf,
    pub data: PathBuf,
}

/// What `btd ctl` left behind.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn assert_done(&self) {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
    }

    /// Its rows, of `--json`.
    pub fn rows(&self) -> Vec<Value> {
        self.assert_done();
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.out.lines().map(read).collect()
    }

    /// Its only row.
    pub fn row(&self) -> Value {
        let rows = self.rows();
        assert_eq!(rows.len(), 1, "{}", self.out);
        rows.into_iter().next().expect("counted")
    }

    pub fn assert_fails(&self, code: i32, why: &str) {
        assert!(
            self.code == code && self.err.contains(why),
            "{} and not {code} with {why:?}: {}{}",
            self.code,
            self.out,
            self.err
        );
    }
}

pub fn run(command: &mut Command) -> Run {
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("BTD_")) {
            command.env_remove(key);
        }
    }
    let output = command.stdin(Stdio::null()).output().expect("run btd ctl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Run {
        code: output.status.code().expect("an exit code"),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// `btd ctl` with these arguments, for the btd whose state is below `home`.
pub fn ask(home: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args(["ctl", "--state-dir", "state"]).args(args);
    run(command.current_dir(home))
}

/// The only row that it answers.
pub fn row(home: &Path, args: &[&str]) -> Value {
    ask(home, &[args, &["--json"]].concat()).row()
}

impl Home {
    pub fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let (watch, data) = (scratch.dir("watch"), scratch.dir("data"));
        Self { scratch, watch, data }
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub fn config(&self, more: &str) -> Config {
        Config {
            watch: vec![(self.watch.clone(), self.data.clone())],
            more: more.to_owned(),
            ..Config::default()
        }
    }

    pub fn start(&self) -> Btd {
        Btd::start(self.path(), &self.config(""))
    }

    /// Ends btd as a power cut would, without its having a say.
    pub fn kill(&self, mut btd: Btd) {
        btd.process.signal(Signal::KILL);
        btd.process.wait(within(SECONDS));
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("state/ctl.sock")
    }

    pub fn ctl(&self, args: &[&str]) -> Run {
        ask(self.path(), args)
    }

    pub fn json(&self, args: &[&str]) -> Run {
        self.ctl(&[args, &["--json"]].concat())
    }

    /// A payload of these files in the data folder, and its torrent in the watch folder.
    pub fn payload(&self, name: &str, files: &[(&str, usize)]) -> Metainfo {
        let torrent = self.payload_without_torrent(name, files);
        self.drop_in(name, &torrent)
    }

    pub fn payload_without_torrent(&self, name: &str, files: &[(&str, usize)]) -> Vec<u8> {
        let mut content = Vec::new();
        for (file, len) in files {
            let path = self.data.join(file);
            let bytes: Vec<u8> = file.bytes().cycle().take(*len).collect();
            fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
            fs::write(&path, &bytes).expect("write a payload");
            age(&path);
            content.extend(bytes);
        }
        torrent(name, files, &content, "")
    }

    pub fn drop_in(&self, name: &str, torrent: &[u8]) -> Metainfo {
        let beside = self.path().join(format!("{name}.tmp"));
        fs::write(&beside, torrent).expect("write a torrent");
        fs::rename(beside, self.watch.join(format!("{name}.torrent"))).expect("move it into the watch folder");
        Metainfo::parse(torrent).expect("a torrent")
    }

    /// Waits until `list` shows this torrent so.
    pub fn wait_state(&self, info_hash: InfoHash, state: &str) -> Value {
        wait_for(&format!("{info_hash} is {state}"), within(SECONDS), || {
            let rows = self.json(&["list"]).rows();
            let ours = rows.into_iter().find(|row| row["info_hash"] == info_hash.to_string())?;
            (ours["state"] == state).then_some(ours)
        })
    }
}

/// A torrent of these files, which lie in its folder but for one that has its name.
pub fn torrent(name: &str, files: &[(&str, usize)], content: &[u8], tracker: &str) -> Vec<u8> {
    let hashes: Vec<[u8; 20]> = content.chunks(PIECE_LEN as usize).map(sha1).collect();
    let in_folder: Vec<NewFile> = files
        .iter()
        .map(|(file, len)| NewFile {
            path: RelPath::parse(file.strip_prefix(&format!("{name}/")).unwrap_or(file)).expect("a path"),
            len: *len as u64,
            pad: false,
        })
        .collect();
    let announce: Vec<Vec<String>> = match tracker {
        "" => Vec::new(),
        url => vec![vec![url.to_owned()]],
    };
    let content = match files {
        [(file, len)] if *file == name => NewContent::File(*len as u64),
        _ => NewContent::Folder(&in_folder),
    };
    encode(&NewTorrent {
        announce: &announce,
        ..NewTorrent::new(name, content, PIECE_LEN, &hashes)
    })
}

pub fn hash_of(meta: &Metainfo) -> String {
    meta.info_hash.to_string()
}
