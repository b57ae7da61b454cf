//! The datagrams of BEP 15, with the path of the tracker's address as BEP 41 has it.
//!
//! Who sends them, how often, and that an answer came from where it was asked for, is the caller's.

use std::net::{IpAddr, SocketAddr};

use super::answer::{Answer, Failure, Retry, read_compact_v4, read_compact_v6};
use super::request::{Event, Request, escape, query_joint};
use super::text::clean;
use crate::proto::InfoHash;

/// What the first datagram begins with.
const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// BEP 41.
const OPTION_URL: u8 = 2;
/// No answer is longer; one with 200 peers of IPv6 has 3,620 bytes.
pub const DATAGRAM_LEN_MAX: usize = 8192;

/// Asks for a connection id.
#[must_use]
pub fn connect(transaction: u32) -> [u8; 16] {
    let mut datagram = [0; 16];
    datagram[..8].copy_from_slice(&MAGIC.to_be_bytes());
    datagram[8..12].copy_from_slice(&CONNECT.to_be_bytes());
    datagram[12..].copy_from_slice(&transaction.to_be_bytes());
    datagram
}

/// An announce. `target` is path and query of the tracker's address; our name goes behind it, as there is no field for it.
#[must_use]
pub fn announce(connection: u64, transaction: u32, request: &Request, target: &str) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(100 + target.len() + target.len() / 128);
    datagram.extend(connection.to_be_bytes());
    datagram.extend(ANNOUNCE.to_be_bytes());
    datagram.extend(transaction.to_be_bytes());
    datagram.extend(request.info_hash.0);
    datagram.extend(request.peer_id.0);
    for amount in [request.downloaded, request.left, request.uploaded] {
        datagram.extend(amount.to_be_bytes());
    }
    let event: u32 = match request.event {
        Event::Regular => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    datagram.extend(event.to_be_bytes());
    // Room for an IPv4 address only; 0 is the one it comes from.
    let ip = match request.ip {
        Some(IpAddr::V4(ip)) => ip.octets(),
        Some(IpAddr::V6(_)) | None => [0; 4],
    };
    datagram.extend(ip);
    datagram.extend(request.key.to_be_bytes());
    datagram.extend(i32::try_from(request.numwant).unwrap_or(i32::MAX).to_be_bytes());
    datagram.extend(request.port.to_be_bytes());
    let mut url = target.to_owned();
    if let Some(name) = &request.hostname {
        url.push_str(query_joint(target));
        url.push_str("hostname=");
        escape(&mut url, name.as_bytes());
    }
    if url != "/" {
        for part in url.as_bytes().chunks(255) {
            datagram.extend([OPTION_URL, u8::try_from(part.len()).expect("at most 255")]);
            datagram.extend(part);
        }
    }
    datagram
}

/// A scrape of these torrents, of which there are [`super::scrape::UDP_MAX`] at most. There is no room for the path of the
/// tracker's address.
#[must_use]
pub fn scrape(connection: u64, transaction: u32, hashes: &[InfoHash]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(16 + 20 * hashes.len());
    datagram.extend(connection.to_be_bytes());
    datagram.extend(SCRAPE.to_be_bytes());
    datagram.extend(transaction.to_be_bytes());
    hashes.iter().for_each(|info_hash| datagram.extend(info_hash.0));
    datagram
}

/// What a datagram from a tracker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The id that the next datagrams must carry.
    Connection(u64),
    /// The answer to an announce; see [`read_announce`].
    Announce(&'a [u8]),
    /// The answer to a scrape; see [`super::scrape::read`].
    Scrape(&'a [u8]),
    /// Why there is none.
    Error(&'a [u8]),
}

/// Reads a datagram: the transaction that it answers, and what it is. `None` if it is nothing.
#[must_use]
pub fn read(datagram: &[u8]) -> Option<(u32, Reply<'_>)> {
    let (action, rest) = datagram.split_first_chunk::<4>()?;
    let (transaction, body) = rest.split_first_chunk::<4>()?;
    let reply = match u32::from_be_bytes(*action) {
        CONNECT => Reply::Connection(u64::from_be_bytes(*body.first_chunk()?)),
        ANNOUNCE => Reply::Announce(body),
        SCRAPE => Reply::Scrape(body),
        ERROR => Reply::Error(body),
        _ => return None,
    };
    Some((u32::from_be_bytes(*transaction), reply))
}

/// Reads the answer to an announce. Peers are of the family of the tracker's address.
///
/// # Errors
/// It is too short, or its peers are not whole.
pub fn read_announce(body: &[u8], from: SocketAddr) -> Result<Answer, Failure> {
    let Some(([interval, leechers, seeders], peers)) = split_numbers(body) else {
        let why = format!("{} bytes, at least 12 expected", body.len());
        return Err(Failure::Malformed(why.into()));
    };
    let mut answer = Answer {
        interval: Some(interval.into()),
        complete: u32::try_from(seeders).ok(),
        incomplete: u32::try_from(leechers).ok(),
        ..Answer::default()
    };
    match from.ip().to_canonical() {
        IpAddr::V4(_) => read_compact_v4(peers, &mut answer.peers)?,
        IpAddr::V6(_) => read_compact_v6(peers, &mut answer.peers)?,
    }
    Ok(answer)
}

fn split_numbers(body: &[u8]) -> Option<([i32; 3], &[u8])> {
    let (numbers, rest) = body.split_first_chunk::<12>()?;
    let (numbers, _) = numbers.as_chunks::<4>();
    Some(([0, 1, 2].map(|at| i32::from_be_bytes(numbers[at])), rest))
}

/// What an error means.
#[must_use]
pub fn read_error(body: &[u8]) -> Failure {
    Failure::Refused {
        reason: clean(body).into(),
        retry: Retry::Unsaid,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::example;
    use super::*;

    #[test]
    fn datagrams_are_as_bep_15_has_them() {
        assert_eq!(
            connect(0x0102_0304),
            [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]
        );
        let datagram = announce(7, 9, &example(), "/");
        assert_eq!(datagram.len(), 98);
        assert_eq!(datagram[..16], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(datagram[16..36], example().info_hash.0);
        assert_eq!(datagram[36..56], example().peer_id.0);
        let amounts = [
            [0, 0, 0, 0, 0, 0, 0, 2],
            [0, 0, 0, 0, 0, 0, 0, 3],
            [0, 0, 0, 0, 0, 0, 0, 1],
        ];
        assert_eq!(datagram[56..80], amounts.concat());
        assert_eq!(
            datagram[80..],
            [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xab, 0, 0, 0, 50, 0x1a, 0xe1]
        );
    }

    #[test]
    fn a_scrape_is_as_bep_15_has_it() {
        let datagram = scrape(7, 9, &[InfoHash([1; 20]), InfoHash([2; 20])]);
        let head = [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 9];
        assert_eq!(datagram, [&head[..], &[1; 20], &[2; 20]].concat());
        assert_eq!(
            scrape(7, 9, &[InfoHash([1; 20]); super::super::scrape::UDP_MAX]).len(),
            1496
        );
        assert_eq!(read(&[0, 0, 0, 2, 0, 0, 0, 9, 5]), Some((9, Reply::Scrape(&[5]))));
    }

    #[test]
    fn a_path_is_sent_in_parts() {
        let datagram = announce(7, 9, &example(), "/announce?key=1");
        assert_eq!(datagram[98..], [&[2, 15], b"/announce?key=1".as_slice()].concat());
        let long = format!("/{}", "x".repeat(299));
        let datagram = announce(7, 9, &example(), &long);
        assert_eq!(
            (datagram[98..100].to_vec(), datagram[355..357].to_vec()),
            (vec![2, 255], vec![2, 45])
        );
        assert_eq!(datagram.len(), 98 + 300 + 4);
    }

    #[test]
    fn a_name_goes_behind_the_path() {
        let request = Request {
            hostname: Some("client2".into()),
            ..example()
        };
        for (target, expected) in [
            ("/", "/?hostname=client2"),
            ("/announce", "/announce?hostname=client2"),
            ("/announce?key=1", "/announce?key=1&hostname=client2"),
        ] {
            let datagram = announce(7, 9, &request, target);
            assert_eq!(
                datagram[98..],
                [&[2, expected.len() as u8], expected.as_bytes()].concat()
            );
        }
    }

    #[test]
    fn answers_are_read() {
        let from = "1.2.3.4:5".parse().unwrap();
        assert_eq!(
            read(&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7]),
            Some((9, Reply::Connection(7)))
        );
        assert_eq!(read(&[0, 0, 0, 0, 0, 0, 0, 9, 0]), None);
        assert_eq!(read(&[0, 0, 0, 4, 0, 0, 0, 9]), None);
        let body = [0, 0, 7, 8, 0, 0, 0, 2, 0, 0, 0, 3, 127, 0, 0, 1, 0, 7];
        let datagram = [[0, 0, 0, 1, 0, 0, 0, 9].as_slice(), &body].concat();
        assert_eq!(read(&datagram), Some((9, Reply::Announce(&body))));
        let answer = read_announce(&body, from).unwrap();
        assert_eq!(
            (answer.interval, answer.incomplete, answer.complete),
            (Some(1800), Some(2), Some(3))
        );
        assert_eq!(answer.peers, ["127.0.0.1:7".parse().unwrap()]);
        assert!(read_announce(&body[..17], from).is_err() && read_announce(&body[..11], from).is_err());
        let v6 = [&body[..12], &[0; 15], &[1, 0, 9]].concat();
        let answer = read_announce(&v6, "[::1]:5".parse().unwrap()).unwrap();
        assert_eq!(answer.peers, ["[::1]:9".parse().unwrap()]);
        // A socket for both families sees IPv4 as mapped addresses.
        assert!(read_announce(&body, "[::ffff:1.2.3.4]:5".parse().unwrap()).is_ok());
        let datagram = [0, 0, 0, 3, 0, 0, 0, 9, b'n', 0x1b, b'o'];
        let Some((9, Reply::Error(text))) = read(&datagram) else {
            panic!()
        };
        assert_eq!(read_error(text).to_string(), "refused: no");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(datagram in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            let from = if v6 { "[::1]:1" } else { "1.1.1.1:1" };
            if let Some((_, Reply::Announce(body))) = read(&datagram) {
                let _ = read_announce(body, from.parse().unwrap());
            }
        }
    }
}
