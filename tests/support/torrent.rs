//! Torrent files: made by `btd create`, looked at by other means than btd's own.

use super::payload::hex;
use serde_bencode::value::Value;
use sha1::{Digest, Sha1};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A .torrent file and its info-hash.
#[derive(Clone, Debug)]
pub struct Torrent {
    pub path: PathBuf,
    /// 20 bytes.
    pub info_hash: Vec<u8>,
}

impl Torrent {
    /// `btd create`: a torrent of the file or folder `payload`, written to `path`.
    pub fn create(payload: &Path, piece_len: u32, path: PathBuf) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command
            .arg("create")
            .arg(payload)
            .arg("--piece-length")
            .arg(piece_len.to_string());
        let output = command.arg("--output").arg(&path).output().expect("run btd create");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "btd create {}: {}: {message}",
            payload.display(),
            output.status
        );
        Self::open(path)
    }

    /// Reads the info-hash with serde_bencode and a SHA-1 of the info dictionary written out again.
    pub fn open(path: PathBuf) -> Self {
        let bytes = fs::read(&path).expect("read a .torrent");
        let Ok(Value::Dict(dict)) = serde_bencode::from_bytes(&bytes) else {
            panic!("{}: no dictionary", path.display())
        };
        let info = serde_bencode::to_bytes(&dict[&b"info"[..]]).expect("encode an info dictionary");
        Self {
            path,
            info_hash: Sha1::digest(info).to_vec(),
        }
    }

    /// The same torrent with a tracker, as another file.
    pub fn with_tracker(&self, announce_url: &str, path: PathBuf) -> Self {
        let bytes = fs::read(&self.path).expect("read a .torrent");
        assert!(
            !bytes.starts_with(b"d8:announce"),
            "{} has a tracker already",
            self.path.display()
        );
        // `announce` is the first of all keys in use, so it can stand in front of what is there.
        let announce = format!("d8:announce{}:{announce_url}", announce_url.len());
        fs::write(&path, [announce.as_bytes(), &bytes[1..]].concat()).expect("write a .torrent");
        Self {
            path,
            info_hash: self.info_hash.clone(),
        }
    }

    pub fn info_hash_hex(&self) -> String {
        hex(&self.info_hash)
    }
}
