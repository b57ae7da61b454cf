//! Whether a reply is one: what BEP 3, 15 and 23 say it must be, and no more than was asked for.
//!
//! Nothing here knows who is in which swarm; that is compared by `work`.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use super::request;
use crate::proto::bencode::{self, Limits};

const ERROR: u32 = 3;
/// A peer that is told to come back later than in a day, or at once, is told nonsense.
const INTERVAL_MAX: i64 = 86_400;
const HEADERS_MAX: usize = 32;
/// The longest response that is waited for.
pub(super) const RESPONSE_LEN_MAX: usize = 64 * 1024;

/// What is wrong with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The tracker says that it will not.
    Refused,
    /// It is no reply to what was asked.
    Implausible,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// The transaction id of any datagram of a tracker.
pub(super) fn transaction(reply: &[u8]) -> Option<u32> {
    word(reply, 4)
}

/// The connection id in a reply to a connect.
pub(super) fn connection_id(reply: &[u8]) -> Option<u64> {
    let id = reply.get(8..)?.first_chunk()?;
    (word(reply, 0) == Some(request::CONNECT)).then(|| u64::from_be_bytes(*id))
}

fn action(reply: &[u8], wanted: u32) -> Result<(), Flaw> {
    match word(reply, 0) {
        Some(action) if action == wanted => Ok(()),
        Some(ERROR) => Err(Flaw::Refused),
        Some(_) | None => Err(Flaw::Implausible),
    }
}

fn compact(peers: &[u8], numwant: u32) -> Result<&[u8], Flaw> {
    let (whole, rest) = peers.as_chunks::<6>();
    let plausible = rest.is_empty()
        && whole.len() <= numwant as usize
        // Nobody listens on port 0, or at no address.
        && whole.iter().all(|peer| peer[4..] != [0, 0] && peer[..4] != [0; 4]);
    plausible.then_some(peers).ok_or(Flaw::Implausible)
}

/// The peers in a reply to an announce.
pub(super) fn udp_announce(reply: &[u8], numwant: u32) -> Result<&[u8], Flaw> {
    action(reply, request::ANNOUNCE)?;
    let interval = word(reply, 8).map(i64::from).ok_or(Flaw::Implausible)?;
    let peers = reply.get(20..).ok_or(Flaw::Implausible)?;
    if !(1..=INTERVAL_MAX).contains(&interval) {
        return Err(Flaw::Implausible);
    }
    compact(peers, numwant)
}

/// The numbers in a reply to a scrape: seeders and leechers of each torrent.
pub(super) fn udp_scrape(reply: &[u8], torrents: usize) -> Result<impl Iterator<Item = (u32, u32)>, Flaw> {
    action(reply, request::SCRAPE)?;
    let (entries, rest) = reply.get(8..).ok_or(Flaw::Implausible)?.as_chunks::<12>();
    if !rest.is_empty() || entries.len() != torrents {
        return Err(Flaw::Implausible);
    }
    let at = |entry: &[u8; 12], at| word(entry, at).expect("twelve bytes");
    Ok(entries.iter().map(move |entry| (at(entry, 0), at(entry, 8))))
}

/// The peers in the body of a response to an announce. One that has left may be told of nobody.
pub(super) fn http_announce(body: &[u8], numwant: u32) -> Result<&[u8], Flaw> {
    let scanned = bencode::scan(body, Limits::MESSAGE).map_err(|_| Flaw::Implausible)?;
    let (mut interval, mut peers) = (None, &b""[..]);
    for (key, value) in scanned.value.as_dict().ok_or(Flaw::Implausible)? {
        match key {
            b"failure reason" => return Err(Flaw::Refused),
            b"interval" => interval = value.as_int(),
            b"peers" => peers = value.as_bytes().ok_or(Flaw::Implausible)?,
            _ => {}
        }
    }
    if !interval.is_some_and(|interval| (1..=INTERVAL_MAX).contains(&interval)) {
        return Err(Flaw::Implausible);
    }
    compact(peers, numwant)
}

/// An HTTP response, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// More is to come: so far it makes sense.
    Incomplete,
    /// Whole.
    Whole {
        /// 200 is well.
        status: u16,
        /// Where the body is.
        body: Range<usize>,
    },
    /// No response that is understood.
    Broken,
}

/// Looks for a response at the front of what has come. `ended`: no more will come.
pub(super) fn response(received: &[u8], ended: bool) -> Response {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_len = match response.parse(received) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if !ended && received.len() < RESPONSE_LEN_MAX => return Response::Incomplete,
        Ok(httparse::Status::Partial) | Err(_) => return Response::Broken,
    };
    let Some(status) = response.code else {
        return Response::Broken;
    };
    let len = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    // Without a length it goes on to the end of the connection.
    let end = match len {
        Some(len) => {
            let len: Option<usize> = std::str::from_utf8(len.value)
                .ok()
                .and_then(|len| len.trim().parse().ok());
            match len {
                Some(len) if len <= RESPONSE_LEN_MAX => head_len + len,
                Some(_) | None => return Response::Broken,
            }
        }
        None if ended => received.len(),
        None => usize::MAX,
    };
    match received.len() {
        len if len >= end => Response::Whole {
            status,
            body: head_len..end,
        },
        len if ended || len > 2 * RESPONSE_LEN_MAX => Response::Broken,
        _ => Response::Incomplete,
    }
}

/// The addresses in compact peers.
pub(super) fn addresses(peers: &[u8]) -> impl Iterator<Item = SocketAddrV4> {
    let (peers, _) = peers.as_chunks::<6>();
    peers
        .iter()
        .map(|&[a, b, c, d, high, low]| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(action: u32, words: &[u32], peers: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        for word in [&[action, 77], words].concat() {
            reply.extend_from_slice(&word.to_be_bytes());
        }
        [&reply[..], peers].concat()
    }

    #[test]
    fn an_announce_is_answered_with_no_more_peers_than_were_wanted_and_none_that_cannot_be() {
        let peers = [127, 0, 0, 1, 0x1a, 0xe1, 10, 0, 0, 1, 0, 1];
        let good = udp(1, &[1800, 1, 2], &peers);
        assert_eq!(udp_announce(&good, 2), Ok(&peers[..]));
        assert_eq!(transaction(&good), Some(77));
        assert_eq!(addresses(&peers).next(), Some("127.0.0.1:6881".parse().unwrap()));
        let implausible = Err(Flaw::Implausible);
        assert_eq!(udp_announce(&good, 1), implausible, "too many");
        assert_eq!(udp_announce(&good[..25], 50), implausible, "cut off");
        assert_eq!(udp_announce(&good[..19], 50), implausible);
        assert_eq!(udp_announce(&udp(1, &[0, 1, 2], &peers), 50), implausible, "at once");
        assert_eq!(
            udp_announce(&udp(1, &[1800, 1, 2], &[1, 2, 3, 4, 0, 0]), 50),
            implausible,
            "port 0"
        );
        assert_eq!(
            udp_announce(&udp(2, &[1800, 1, 2], &peers), 50),
            implausible,
            "a scrape"
        );
        assert_eq!(udp_announce(&udp(3, &[], b"no"), 50), Err(Flaw::Refused));
        assert_eq!(udp_announce(b"", 50), implausible);
    }

    #[test]
    fn a_scrape_has_three_numbers_for_each_torrent() {
        let good = udp(2, &[1, 2, 3, 4, 5, 6], &[]);
        let counts: Vec<_> = udp_scrape(&good, 2).unwrap().collect();
        assert_eq!(counts, [(1, 3), (4, 6)]);
        assert!(udp_scrape(&good, 3).is_err());
        assert!(udp_scrape(&good[..31], 2).is_err());
        assert!(matches!(
            udp_scrape(&udp(3, &[], b"no"), 2).map(drop),
            Err(Flaw::Refused)
        ));
    }

    #[test]
    fn a_connection_id_is_taken_of_a_reply_to_a_connect_alone() {
        assert_eq!(connection_id(&udp(0, &[1, 2], &[])), Some(1 << 32 | 2));
        assert_eq!(connection_id(&udp(3, &[1, 2], &[])), None);
        assert_eq!(connection_id(&udp(0, &[1], &[])), None);
    }

    #[test]
    fn a_body_is_a_dictionary_with_an_interval_and_compact_peers() {
        let good = b"d8:intervali1800e5:peers6:\x7f\0\0\x01\x1a\xe1e";
        assert_eq!(http_announce(good, 50), Ok(&b"\x7f\0\0\x01\x1a\xe1"[..]));
        assert_eq!(http_announce(b"d8:intervali1800ee", 50), Ok(&b""[..]));
        assert_eq!(http_announce(b"d14:failure reason2:noe", 50), Err(Flaw::Refused));
        for body in [
            &b"d8:intervali1800e5:peers5:12345e"[..],
            b"d8:intervali-1e5:peers0:e",
            b"d5:peers0:e",
            b"d8:intervali1800e5:peersle",
            b"<html>",
            b"",
        ] {
            assert_eq!(
                http_announce(body, 50),
                Err(Flaw::Implausible),
                "{}",
                body.escape_ascii()
            );
        }
    }

    #[test]
    fn a_response_is_whole_at_its_length_or_at_the_end_of_the_connection() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde";
        for end in 0..text.len() {
            assert_eq!(response(&text[..end], false), Response::Incomplete, "{end}");
            assert_eq!(response(&text[..end], true), Response::Broken, "{end}");
        }
        let body = text.len() - 2..text.len();
        assert_eq!(response(text, false), Response::Whole { status: 200, body });
        let text = b"HTTP/1.0 400 Invalid\r\n\r\nde";
        assert_eq!(response(text, false), Response::Incomplete);
        let body = text.len() - 2..text.len();
        assert_eq!(response(text, true), Response::Whole { status: 400, body });
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
        assert_eq!(response(text, false), Response::Broken);
        assert_eq!(response(b"SSH-2.0\r\n", false), Response::Broken);
    }
}
