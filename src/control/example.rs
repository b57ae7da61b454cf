//! The example of the first run: something small to seed, so that a fresh machine shows at once whether btd works.
//!
//! Made only where the configuration says `example = true` and there is no torrent yet; nothing is ever overwritten.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::config::Watch;
use crate::hashing;
use crate::proto::metainfo::{NewContent, NewFile, NewTorrent, encode};
use crate::proto::path::RelPath;

const NAME: &str = "btd-example";
const PIECE_LEN: u32 = 64 << 10;
/// On this machine: btd's own, if it is told to have one there.
const TRACKER: &str = "http://127.0.0.1:6969/announce";
const TRACKER_PORT: u16 = 6969;
const TEXT: &str = "\
This folder is the example payload of btd, a BitTorrent daemon for Linux seedboxes.\n\
\n\
If you have downloaded it with a BitTorrent client, btd works on this machine. numbers.bin holds four mebibytes of\n\
numbers that are the same everywhere, so that this torrent has the same info-hash on every machine.\n\
\n\
To seed something real, put a .torrent file into a watch folder and its payload into the data folder beside it.\n";
const NUMBERS_LEN: usize = 4 << 20;

/// Why the example could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the example: {}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Makes the payload and the torrent if the watch folder holds no torrent.
///
/// # Errors
/// The filesystem refuses.
pub(super) fn make_if_empty(watch: &Watch) -> Result<(), Error> {
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| Error { path, source }
    };
    let has_torrents = |entries: std::fs::ReadDir| {
        let mut names = entries.flatten().map(|entry| entry.path());
        names.any(|name| name.extension().is_some_and(|extension| extension == "torrent"))
    };
    match std::fs::read_dir(&watch.dir).map(has_torrents) {
        Ok(true) => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(&watch.dir)(error)),
        _ => {}
    }
    let folder = watch.data_dir.join(NAME);
    let numbers = numbers();
    for dir in [&watch.dir, &folder] {
        DirBuilder::new().recursive(true).create(dir).map_err(refused(dir))?;
    }
    for (name, content) in [("README.txt", TEXT.as_bytes()), ("numbers.bin", &numbers)] {
        let path = folder.join(name);
        write_new(&path, content).map_err(refused(&path))?;
    }
    // Last, and by a name that appears whole: with it the example is complete.
    let path = watch.dir.join(format!("{NAME}.torrent"));
    let beside = watch.dir.join(format!(".{NAME}.torrent"));
    write_new(&beside, &torrent(&numbers))
        .and_then(|()| std::fs::rename(&beside, &path))
        .map_err(refused(&path))?;
    tracing::info!("made an example to seed: {path:?}, payload in {folder:?}");
    Ok(())
}

/// Writes a file unless there is one.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Ok(mut file) => file.write_all(content),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The same bytes everywhere: xorshift64 from a fixed seed.
fn numbers() -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(NUMBERS_LEN);
    while bytes.len() < NUMBERS_LEN {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn torrent(numbers: &[u8]) -> Vec<u8> {
    let payload = [TEXT.as_bytes(), numbers].concat();
    let hashes: Vec<[u8; 20]> = payload.chunks(PIECE_LEN as usize).map(hashing::sha1).collect();
    let file = |name: &str, len: usize| NewFile {
        path: RelPath::parse(name).unwrap_or_else(|_| unreachable!("the example's names are valid")),
        len: len as u64,
        pad: false,
    };
    let files = [file("README.txt", TEXT.len()), file("numbers.bin", numbers.len())];
    encode(&NewTorrent {
        announce: &[vec![TRACKER.to_owned()]],
        comment: Some("The example payload of btd"),
        created_by: Some(concat!("btd ", env!("CARGO_PKG_VERSION"))),
        ..NewTorrent::new(NAME, NewContent::Folder(&files), PIECE_LEN, &hashes)
    })
}

/// Prints how to download the example from this machine, when it is what this folder holds. `tracker` is the port that this
/// btd's own tracker answers HTTP on.
pub(super) fn tell_how_to_fetch(watch: &Watch, ports: &[u16], tracker: Option<u16>) {
    let file = watch.dir.join(format!("{NAME}.torrent"));
    let Some(port) = ports.first().filter(|_| file.exists()) else {
        return;
    };
    let file = std::path::absolute(&file).unwrap_or(file);
    let file = file.display();
    let first = match tracker {
        Some(TRACKER_PORT) => "",
        _ => {
            "start btd with BTD_TRACKER__HTTP=127.0.0.1:6969 BTD_ANNOUNCE__ALLOW_PRIVATE=true before the command, so that it is \
             the tracker of the example, then\n  "
        }
    };
    tracing::info!(
        "to fetch the example from this machine while btd runs, with libtorrent (apt install python3-libtorrent, or \
         pip install libtorrent for another python3):\n  \
         python3 -c 'import libtorrent as lt, time; s = lt.session(); p = lt.add_torrent_params(); \
         p.ti = lt.torrent_info(\"{file}\"); p.save_path = \"/tmp/btd-fetched/libtorrent\"; h = s.add_torrent(p); \
         h.connect_peer((\"127.0.0.1\", {port})); \
         [time.sleep(0.1) for _ in iter(lambda: h.status().is_seeding, True)]; print(\"fetched to\", p.save_path)'\n\
         or with aria2, to which a tracker hands out the address (apt install aria2):\n  \
         {first}aria2c --enable-dht=false --seed-time=0 --allow-overwrite=true --dir=/tmp/btd-fetched/aria2 '{file}'\n\
         Both leave what they fetched in /tmp/btd-fetched."
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::Metainfo;

    #[test]
    fn the_example_is_made_once_and_its_torrent_fits_its_payload() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let watch = Watch {
            verify: crate::control::config::Verify::default(),
            label: None,
            upload_rate: None,
            download_rate: None,
            seed_ratio: None,
            seed_time: None,
            peers: Vec::new(),
            dir: dir.path().join("torrents"),
            data_dir: dir.path().join("data"),
            example: true,
        };
        make_if_empty(&watch).expect("made");
        let bytes = std::fs::read(watch.dir.join("btd-example.torrent")).expect("written");
        let meta = Metainfo::parse(&bytes).expect("a torrent");
        assert_eq!(meta.files.len(), 2);
        for file in &meta.files {
            let metadata = std::fs::metadata(watch.data_dir.join(file.path.as_path())).expect("written");
            assert_eq!(metadata.len(), file.len);
        }
        std::fs::remove_file(watch.data_dir.join("btd-example/README.txt")).expect("removed");
        make_if_empty(&watch).expect("left alone");
        assert!(!watch.data_dir.join("btd-example/README.txt").exists());
    }
}
