//! Payload made from nothing but a seed: a 1 GiB file and a folder of 2,000, made once per machine and kept in
//! `target/tmp`, with the SHA-1 of every file written down beside them.

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Part of the folder's name: to be raised when what is made here changes.
const VERSION: u32 = 1;

/// What of a payload a test looks at: a data folder, and what is in it.
pub struct Payload {
    /// The data folder: holds `name`.
    pub data_dir: PathBuf,
    /// The file or folder that the torrent is named after.
    pub name: String,
    pub files: BTreeMap<String, Fingerprint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub len: u64,
    pub sha1: String,
}

impl Payload {
    /// One file of 1 GiB, with a name in the usual manner.
    pub fn big_file() -> Self {
        Self::kept("big", "One big file (1 GiB).bin", || {
            vec![("One big file (1 GiB).bin".to_owned(), 1 << 30)]
        })
    }

    /// 2,000 files, about 300 MB: see [`many_files`].
    pub fn many_files() -> Self {
        Self::kept("many", "Two thousand files", many_files)
    }

    /// A payload of a test's own making: these files (`name/..`, or just `name`) with content made from `seed`.
    pub fn make(data_dir: &Path, name: &str, seed: u64, files: &[(String, u64)]) -> Self {
        let files = files.iter().enumerate();
        let files = files.map(|(index, (path, len))| {
            let sha1 = write_file(&data_dir.join(path), seed.wrapping_mul(1 << 20) + index as u64, *len);
            (path.clone(), Fingerprint { len: *len, sha1 })
        });
        Self {
            data_dir: data_dir.to_owned(),
            name: name.to_owned(),
            files: files.collect(),
        }
    }

    /// The bytes of all files.
    pub fn len(&self) -> u64 {
        self.files.values().map(|file| file.len).sum()
    }

    /// Where the payload lies: the file, or the top folder.
    pub fn path(&self) -> PathBuf {
        self.data_dir.join(&self.name)
    }

    /// Panics unless `dir` holds the same files with the same bytes, and nothing else.
    /// `empty_files_too` is false for clients that do not make files of length 0.
    pub fn assert_same(&self, dir: &Path, empty_files_too: bool) {
        let mut found = BTreeMap::new();
        collect(dir, &dir.join(&self.name), &mut found);
        for (path, expected) in &self.files {
            match found.remove(path) {
                Some(file) => assert_eq!(&file, expected, "{path:?} in {}", dir.display()),
                None => assert!(
                    expected.len == 0 && !empty_files_too,
                    "{path:?} is missing in {}",
                    dir.display()
                ),
            }
        }
        assert!(
            found.is_empty(),
            "files that are not of the torrent: {:?}",
            found.keys()
        );
    }

    fn kept(folder: &str, name: &str, files: impl FnOnce() -> Vec<(String, u64)>) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("payload-{VERSION}"));
        fs::create_dir_all(&home).expect("make the payload folder");
        // Tests run in several processes: one makes the payload, the others wait here.
        let lock = File::create(home.join(format!("{folder}.lock"))).expect("make a lock file");
        lock.lock().expect("lock the payload folder");

        let data_dir = home.join(folder);
        let manifest = home.join(format!("{folder}.json"));
        if let Ok(json) = fs::read(&manifest) {
            let files = serde_json::from_slice(&json).expect("read the list of the payload's files");
            return Self {
                data_dir,
                name: name.to_owned(),
                files,
            };
        }
        // Without the list, written last, what is there was left by a run that was interrupted.
        let _ = fs::remove_dir_all(&data_dir);
        let payload = Self::make(&data_dir, name, 1, &files());
        let json = serde_json::to_vec_pretty(&payload.files).expect("write JSON");
        fs::write(manifest, json).expect("write the list of the payload's files");
        payload
    }
}

/// 2,000 files in nested folders: lengths of 0 B to 50 MB, most of them small; every hundredth empty; lengths just
/// around a block and around a piece; names with spaces, in several scripts, and of 200 bytes.
fn many_files() -> Vec<(String, u64)> {
    let mut random = SplitMix(7);
    let folders = [
        "",
        "Season 1/",
        "Season 1/Extras & more/",
        "Größe/日本語 フォルダ/",
        "a/b/c/d/e/f/",
    ];
    let file = |index: usize| {
        let name = match index % 8 {
            0 => format!("{index:04} with a few spaces.txt"),
            1 => format!("{index:04} Übermäßig naïve café.flac"),
            2 => format!("{index:04} Война и мир 戦争と平和.epub"),
            3 => long_name(index),
            4 => format!("{index:04} 🎵 song.mp3"),
            _ => format!("{index:04}.bin"),
        };
        let len = match index {
            0 => 50_000_000,
            1..10 => 8_000_000 + random.next() % 4_000_000,
            10..20 => [
                1, 16_383, 16_384, 16_385, 262_143, 262_144, 262_145, 1_048_576, 3, 4_096,
            ][index - 10],
            _ if index % 100 == 50 => 0,
            // Small ones are the most frequent: the exponent is even, not the length.
            _ => random.next() % (1 << (4 + random.next() % 15)),
        };
        (
            format!("Two thousand files/{}{name}", folders[index % folders.len()]),
            len,
        )
    };
    (0..2_000).map(file).collect()
}

/// A name of exactly 200 bytes, with characters of two bytes in it.
fn long_name(index: usize) -> String {
    let stem = format!("{index:04} a very long name é ");
    stem.clone() + &"n".repeat(200 - stem.len() - ".dat".len()) + ".dat"
}

/// Writes a file of made-up bytes and returns their SHA-1.
fn write_file(path: &Path, seed: u64, len: u64) -> String {
    fs::create_dir_all(path.parent().expect("a path below the data folder")).expect("make a payload folder");
    let mut file = File::create(path).expect("make a payload file");
    let mut random = SplitMix(seed);
    let mut hasher = Sha1::new();
    let mut buf = vec![0; 256 << 10];
    let mut left = len;
    while left > 0 {
        for word in buf.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        hasher.update(&buf[..now]);
        file.write_all(&buf[..now]).expect("write payload");
        left -= now as u64;
    }
    hex(&hasher.finalize())
}

fn collect(root: &Path, path: &Path, found: &mut BTreeMap<String, Fingerprint>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("list a downloaded folder") {
            collect(root, &entry.expect("list a downloaded folder").path(), found);
        }
    } else if path.exists() {
        let name = path
            .strip_prefix(root)
            .expect("below the root")
            .to_str()
            .expect("a name in UTF-8");
        found.insert(name.to_owned(), fingerprint(path));
    }
}

fn fingerprint(path: &Path) -> Fingerprint {
    let mut file = File::open(path).expect("open a downloaded file");
    let mut hasher = Sha1::new();
    let mut buf = vec![0; 256 << 10];
    let mut len = 0;
    loop {
        let now = file.read(&mut buf).expect("read a downloaded file");
        if now == 0 {
            return Fingerprint {
                len,
                sha1: hex(&hasher.finalize()),
            };
        }
        len += now as u64;
        hasher.update(&buf[..now]);
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The generator of Steele, Lea and Flood (2014): three lines, and enough for bytes that do not compress.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
