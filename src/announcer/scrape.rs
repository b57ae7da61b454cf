//! Scrapes: how large the swarms of many torrents are, asked in one request, by HTTP (BEP 48) and by datagrams (BEP 15).
//!
//! When and of which torrents is decided by [`super::schedule`].

use std::collections::HashMap;

use super::answer::{Failure, Retry};
use super::request::{escape, query_joint};
use super::text::clean;
use super::url::{Scheme, TrackerUrl};
use crate::proto::InfoHash;
use crate::proto::bencode::{self, Limits};

/// Torrents of one datagram: with 16 bytes before them they fit the least that every network carries in one piece.
pub const UDP_MAX: usize = 74;
/// Torrents of one HTTP request: at most 60 bytes and a name each, while servers take headers of 4 KiB.
pub const HTTP_MAX: usize = 50;

/// A scrape has three numbers of a torrent, and trackers may add some more.
const LIMITS: Limits = Limits {
    len: 1 << 20,
    depth: 8,
    tokens: 50_000,
};

/// How large a swarm is, as its tracker counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swarm {
    /// Peers that have everything.
    pub seeders: u32,
    /// Those that do not.
    pub leechers: u32,
}

impl Swarm {
    /// All peers.
    #[must_use]
    pub fn peers(self) -> u32 {
        self.seeders.saturating_add(self.leechers)
    }
}

/// How many torrents a tracker may be asked for at once, or 0 if it has no address for that: by BEP 48 there is one where
/// the last word of the path begins with `announce`.
#[must_use]
pub fn batch_max(url: &TrackerUrl) -> usize {
    match url.scheme() {
        Scheme::Udp => UDP_MAX,
        Scheme::Http | Scheme::Https if target_of(url.target()).is_some() => HTTP_MAX,
        Scheme::Http | Scheme::Https => 0,
    }
}

/// Path and query of the request to a tracker whose announces have this one.
fn target_of(target: &str) -> Option<String> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let (folder, word) = path.split_at(path.rfind('/')? + 1);
    let rest = word.strip_prefix("announce")?;
    Some(format!("{folder}scrape{rest}{query}"))
}

/// Path and query of the HTTP request for these torrents. `None` if the tracker has no address for that.
#[must_use]
pub fn target(target: &str, hashes: &[InfoHash]) -> Option<String> {
    let mut query = target_of(target)?;
    for info_hash in hashes {
        query.push_str(query_joint(&query));
        query.push_str("info_hash=");
        escape(&mut query, &info_hash.0);
    }
    Some(query)
}

/// Reads the body of an HTTP answer: what it says of each of these torrents, in their order.
///
/// # Errors
/// It is a refusal, or no answer at all.
pub fn parse(body: &[u8], hashes: &[InfoHash]) -> Result<Vec<Option<Swarm>>, Failure> {
    let malformed = |why: &str| Failure::Malformed(why.into());
    // As in the answers to announces.
    let scanned = bencode::scan(body.trim_ascii_end(), LIMITS).map_err(|error| malformed(&error.to_string()))?;
    let dict = scanned
        .value
        .as_dict()
        .ok_or_else(|| malformed("it is no dictionary"))?;
    if let Some(reason) = dict.get(b"failure reason") {
        return Err(Failure::Refused {
            reason: clean(reason.as_bytes().unwrap_or_default()).into(),
            retry: Retry::Unsaid,
        });
    }
    let files = dict.get(b"files").and_then(|files| files.as_dict());
    let mut found: HashMap<&[u8], Swarm> = HashMap::new();
    for (info_hash, file) in files.ok_or_else(|| malformed("no `files`"))? {
        let Some(file) = file.as_dict() else { continue };
        let count = |key: &[u8]| u32::try_from(file.get(key)?.as_int()?).ok();
        if let (Some(seeders), Some(leechers)) = (count(b"complete"), count(b"incomplete")) {
            found.insert(info_hash, Swarm { seeders, leechers });
        }
    }
    Ok(hashes
        .iter()
        .map(|info_hash| found.get(&info_hash.0[..]).copied())
        .collect())
}

/// Reads the body of a datagram that answers a scrape: 12 bytes for each torrent that was asked for, in that order.
///
/// # Errors
/// It is not of so many.
pub fn read(body: &[u8], count: usize) -> Result<Vec<Option<Swarm>>, Failure> {
    let (entries, rest) = body.as_chunks::<12>();
    if entries.len() != count || !rest.is_empty() {
        let why = format!(
            "{} bytes of a scrape of {count} torrents, 12 for each expected",
            body.len()
        );
        return Err(Failure::Malformed(why.into()));
    }
    let read = |entry: &[u8; 12]| {
        let (numbers, _) = entry.as_chunks::<4>();
        let [seeders, _, leechers] = [0, 1, 2].map(|at| i32::from_be_bytes(numbers[at]));
        Some(Swarm {
            seeders: u32::try_from(seeders).ok()?,
            leechers: u32::try_from(leechers).ok()?,
        })
    };
    Ok(entries.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: InfoHash = InfoHash(*b"\x00aaaaaaaaaaaaaaaaaaa");
    const TWO: InfoHash = InfoHash([b'b'; 20]);

    #[test]
    fn the_address_is_that_of_bep_48() {
        for (announce, scrape) in [
            ("/announce", Some("/scrape")),
            ("/x/announce", Some("/x/scrape")),
            ("/announce.php", Some("/scrape.php")),
            ("/announce?x2%0644", Some("/scrape?x2%0644")),
            ("/a", None),
            ("/announce?x=2/4", Some("/scrape?x=2/4")),
            ("/x%064announce", None),
            ("/announce/key", None),
            ("/", None),
        ] {
            assert_eq!(target_of(announce).as_deref(), scrape, "{announce}");
            let url = TrackerUrl::parse(&format!("https://t.example{announce}")).unwrap();
            assert_eq!(batch_max(&url), if scrape.is_some() { HTTP_MAX } else { 0 });
        }
        let udp = TrackerUrl::parse("udp://t.example:1/x").unwrap();
        assert_eq!(batch_max(&udp), UDP_MAX);
        let target = target("/announce?key=1", &[ONE, TWO]).unwrap();
        assert_eq!(
            target,
            "/scrape?key=1&info_hash=%00aaaaaaaaaaaaaaaaaaa&info_hash=bbbbbbbbbbbbbbbbbbbb"
        );
    }

    #[test]
    fn a_request_for_as_many_as_are_asked_for_at_once_fits_the_headers_that_servers_take() {
        let longest = target("/announce", &[InfoHash([0xff; 20]); HTTP_MAX]).unwrap();
        assert!(longest.len() < 3700, "{}", longest.len());
    }

    #[test]
    fn an_answer_is_read_in_the_order_that_was_asked_in() {
        let one = "d8:completei3e10:downloadedi9e10:incompletei4ee";
        let body = format!("d5:filesd20:\0{}{one}20:{}i1eee", "a".repeat(19), "b".repeat(20));
        let swarm = Swarm {
            seeders: 3,
            leechers: 4,
        };
        assert_eq!(
            parse(body.as_bytes(), &[TWO, ONE, InfoHash([1; 20])]),
            Ok(vec![None, Some(swarm), None])
        );
        assert!(parse(b"d5:filesdee\r\n", &[ONE]).is_ok());
        let refused = parse(b"d14:failure reason2:noe", &[ONE]);
        assert!(matches!(refused, Err(Failure::Refused { .. })), "{refused:?}");
        for body in [&b""[..], b"de", b"d5:filesi1ee", b"<html>", b"le"] {
            assert!(matches!(parse(body, &[ONE]), Err(Failure::Malformed(_))));
        }
        let negative = format!("d5:filesd20:\0{}d8:completei-1e10:incompletei4eeee", "a".repeat(19));
        assert_eq!(parse(negative.as_bytes(), &[ONE]), Ok(vec![None]));
    }

    #[test]
    fn a_datagram_is_read_if_it_is_of_as_many_as_were_asked_for() {
        let body = [[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 2], [0xff; 12]].concat();
        let swarm = Swarm {
            seeders: 1,
            leechers: 2,
        };
        assert_eq!(read(&body, 2), Ok(vec![Some(swarm), None]));
        assert!(read(&body, 1).is_err() && read(&body[..23], 2).is_err() && read(&[], 1).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300), count in 0..30_usize) {
            if let Ok(swarms) = parse(&body, &[ONE, TWO]) {
                prop_assert_eq!(swarms.len(), 2);
            }
            prop_assert!(read(&body, count).is_err() || body.len() == count * 12);
        }
    }
}
