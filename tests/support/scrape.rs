//! What a tracker says of a swarm, asked over HTTP and read by other means than btd's own.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_bencode::value::Value;

use super::torrent::Torrent;
use super::{http, wait_for, within};

/// Peers that have everything, peers that do not, and how often one has come to have everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub complete: i64,
    pub incomplete: i64,
    pub downloaded: i64,
}

/// Asks the tracker at `to`. A torrent of which it knows nothing has no peers.
pub fn counts(to: SocketAddr, torrent: &Torrent) -> Counts {
    let info_hash: String = torrent.info_hash.iter().map(|byte| format!("%{byte:02x}")).collect();
    let response = http::get(to, &format!("/scrape?info_hash={info_hash}")).expect("scrape");
    let Ok(Value::Dict(mut answer)) = serde_bencode::from_bytes(&response.body) else {
        panic!("no answer to a scrape: {}", response.text())
    };
    let Some(Value::Dict(mut files)) = answer.remove(&b"files"[..]) else {
        panic!("a scrape without files: {}", response.text())
    };
    let file = match files.remove(&torrent.info_hash) {
        Some(Value::Dict(file)) => file,
        _ => HashMap::new(),
    };
    let count = |key: &str| match file.get(key.as_bytes()) {
        Some(Value::Int(count)) => *count,
        _ => 0,
    };
    Counts {
        complete: count("complete"),
        incomplete: count("incomplete"),
        downloaded: count("downloaded"),
    }
}

/// Waits until the tracker at `to` has counted exactly so many: complete, incomplete, downloaded.
#[track_caller]
pub fn wait_counts(to: SocketAddr, torrent: &Torrent, step: &str, [complete, incomplete, downloaded]: [i64; 3]) {
    let expected = Counts {
        complete,
        incomplete,
        downloaded,
    };
    let mut last = None;
    let deadline = within(40);
    wait_for(&format!("{step}: {expected:?}"), deadline, || {
        let counted = counts(to, torrent);
        // Each change on the way is told, which is what one wants to know of a wait in vain.
        if last != Some(counted) {
            eprintln!("{step}: {counted:?}");
            last = Some(counted);
        }
        (counted == expected).then_some(())
    });
}
