//! Torrents to be announced: as many as are wanted, all of one small payload, told apart by a word in their info dictionary.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use crate::proto::InfoHash;

/// The payload that all of them have.
const NAME: &str = "announced.bin";
const LEN: usize = 16 << 10;
const BYTE: u8 = 0x5a;

fn info(number: u32) -> Vec<u8> {
    let digest: [u8; 20] = Sha1::digest([BYTE; LEN]).into();
    let mut info = format!(
        "d6:lengthi{LEN}e4:name{}:{NAME}12:piece lengthi{LEN}e6:pieces20:",
        NAME.len()
    )
    .into_bytes();
    info.extend_from_slice(&digest);
    let source = format!("bench {number}");
    info.extend_from_slice(format!("6:source{}:{source}e", source.len()).as_bytes());
    info
}

/// The first `count` of them.
pub(super) fn info_hashes(count: u32) -> Vec<InfoHash> {
    (0..count)
        .map(|number| InfoHash(Sha1::digest(info(number)).into()))
        .collect()
}

/// Writes the torrents' files into one folder and their payload into another, each torrent with one of the trackers, in
/// turn. What has gone wrong where, if anything has.
pub(super) fn write(torrents: &Path, data: &Path, urls: &[String], count: u32) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        |error| (path, error)
    };
    for folder in [torrents, data] {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let payload = data.join(NAME);
    fs::write(&payload, [BYTE; LEN]).map_err(at(&payload))?;
    for (number, url) in (0..count).zip(urls.iter().cycle()) {
        let path = torrents.join(format!("{number:07}.torrent"));
        let head = format!("d8:announce{}:{url}4:info", url.len());
        let file = [head.as_bytes(), &info(number), b"e"].concat();
        fs::write(&path, file).map_err(at(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::Metainfo;

    #[test]
    fn each_torrent_is_another_and_has_the_hash_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (torrents, data) = (dir.path().join("t"), dir.path().join("d"));
        let urls = ["http://a/announce".to_owned(), "udp://b:1/announce".to_owned()];
        write(&torrents, &data, &urls, 3).unwrap();
        let hashes = info_hashes(3);
        for (number, hash) in hashes.iter().enumerate() {
            let meta = Metainfo::parse(&fs::read(torrents.join(format!("{number:07}.torrent"))).unwrap()).unwrap();
            assert_eq!((meta.info_hash, &meta.announce[0][0]), (*hash, &urls[number % 2]));
        }
        assert!(hashes[0] != hashes[1]);
        assert_eq!(fs::metadata(data.join(NAME)).unwrap().len(), LEN as u64);
    }
}
