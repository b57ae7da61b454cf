//! What stands behind the question mark.
//!
//! What is needed must be there and right. What is not is taken as it is meant where that is clear, and as if it were not
//! there otherwise: clients differ in what they write, and none of it costs anything.

use std::net::IpAddr;

use crate::proto::InfoHash;

/// The parameters of a query, undecoded. One without a value has an empty one.
pub(super) fn params(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').map(|param| {
        let equals = param.iter().position(|byte| *byte == b'=');
        equals.map_or((param, &[][..]), |at| (&param[..at], &param[at + 1..]))
    })
}

/// What an announce says. Values that are looked at later are still undecoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnnounceQuery<'a> {
    pub(super) info_hash: InfoHash,
    pub(super) peer_id: [u8; 20],
    pub(super) port: u16,
    /// How many bytes are missing, if it is said. What is no number is taken for a lot.
    pub(super) left: Option<u64>,
    pub(super) event: Event,
    pub(super) compact: Option<bool>,
    pub(super) no_peer_id: bool,
    /// How many peers are wanted, if it is said.
    pub(super) numwant: Option<u64>,
    pub(super) ip: Option<&'a [u8]>,
    pub(super) hostname: Option<&'a [u8]>,
}

/// Why a peer announces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Event {
    /// Because it is time to, or for a reason that changes nothing.
    #[default]
    Regular,
    Completed,
    Stopped,
}

/// What is wrong with a query, in words for the peer.
pub(super) type Wrong = &'static str;

impl<'a> AnnounceQuery<'a> {
    pub(super) fn parse(query: &'a [u8]) -> Result<Self, Wrong> {
        let (mut info_hash, mut peer_id, mut port) = (None, None, None);
        let mut parsed = Self {
            info_hash: InfoHash([0; 20]),
            peer_id: [0; 20],
            port: 0,
            left: None,
            event: Event::Regular,
            compact: None,
            no_peer_id: false,
            numwant: None,
            ip: None,
            hostname: None,
        };
        for (key, value) in params(query) {
            match key {
                b"info_hash" => {
                    let hash = decode_20(value).ok_or("info_hash is not 20 bytes")?;
                    if info_hash.replace(hash).is_some() {
                        return Err("info_hash is there twice");
                    }
                }
                b"peer_id" => peer_id = Some(decode_20(value).ok_or("peer_id is not 20 bytes")?),
                b"port" => port = Some(value),
                b"left" => parsed.left = Some(number(value).unwrap_or(u64::MAX)),
                b"event" => {
                    parsed.event = match value {
                        b"completed" => Event::Completed,
                        b"stopped" => Event::Stopped,
                        _ => Event::Regular, // `started`, `paused` (BEP 21), nothing.
                    }
                }
                b"compact" => parsed.compact = Some(value != b"0"),
                b"no_peer_id" => parsed.no_peer_id = value != b"0",
                b"numwant" => parsed.numwant = number(value), // Negative: as many as the tracker likes.
                b"ip" => parsed.ip = Some(value),
                b"hostname" => parsed.hostname = Some(value),
                _ => {} // `uploaded`, `downloaded`, `key`, `corrupt`...: for trackers that keep accounts.
            }
        }
        parsed.info_hash = InfoHash(info_hash.ok_or("info_hash is missing")?);
        parsed.peer_id = peer_id.ok_or("peer_id is missing")?;
        let port = number(port.ok_or("port is missing")?).and_then(|port| u16::try_from(port).ok());
        parsed.port = port
            .filter(|port| *port != 0)
            .ok_or("port is not a number from 1 to 65535")?;
        Ok(parsed)
    }

    /// A query with neither `compact` nor `left` is written by something that is no client of old, and reads dictionaries.
    pub(super) const fn is_plain(&self) -> bool {
        self.compact.is_none() && self.left.is_none()
    }

    /// Whether the peer has everything, if that can be told. `completed` says so unless `left` says otherwise later.
    pub(super) fn seeder(&self) -> Option<bool> {
        match self.event {
            Event::Completed => Some(true),
            Event::Regular | Event::Stopped => self.left.map(|left| left == 0),
        }
    }

    /// The address in `ip`, if there is one.
    pub(super) fn said_ip(&self) -> Option<IpAddr> {
        let mut text = [0; 45]; // The longest that an IPv6 address can be.
        let len = decode_into(self.ip?, &mut text)?;
        std::str::from_utf8(&text[..len]).ok()?.parse().ok()
    }
}

/// A decimal number, as large as fits: more is the greatest there is. `None` if it is something else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

/// The bytes that a percent-encoded text is, put into `out`. `None` if an escape is broken or there are too many. A plus
/// stays one: clients do not write spaces so, and in an info-hash it is a byte like others.
fn decode_into(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut rest = text;
    let mut len = 0;
    while let [byte, tail @ ..] = rest {
        let (byte, tail) = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => (digit(*high)? << 4 | digit(*low)?, tail),
            (b'%', _) => return None,
            (byte, tail) => (*byte, tail),
        };
        *out.get_mut(len)? = byte;
        len += 1;
        rest = tail;
    }
    Some(len)
}

#[inline]
const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Exactly 20 bytes, percent-encoded.
pub(super) fn decode_20(text: &[u8]) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    (decode_into(text, &mut bytes)? == 20).then_some(bytes)
}

/// A percent-encoded host name, put into `buffer`, which is cleared first. Whether it is one is for the rule to say.
pub(in crate::tracker) fn decode_hostname<'b>(text: &[u8], buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    buffer.clear();
    buffer.resize(crate::tracker::hostname::HOSTNAME_LEN_MAX, 0);
    let len = decode_into(text, buffer)?;
    Some(&buffer[..len])
}

/// The undecoded `hostname` in a URL's path and query, as datagrams have it (BEP 41).
pub(in crate::tracker) fn hostname_in_url(url: &[u8]) -> Option<&[u8]> {
    let query = &url[url.iter().position(|byte| *byte == b'?')? + 1..];
    params(query)
        .find(|(key, _)| *key == b"hostname")
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "info_hash=%00%01%02%03%04%05%06%07%08%09%0a%0B%0c%0d%0e%0f%10%11%12%13";
    const PEER: &str = "peer_id=-XX0001-abcdefghijkl";

    fn parse(query: &str) -> Result<AnnounceQuery<'_>, Wrong> {
        AnnounceQuery::parse(query.as_bytes())
    }

    #[test]
    fn an_announce_is_read_whatever_the_order() {
        let query =
            format!("compact=1&left=5&port=6881&{PEER}&uploaded=0&{HASH}&event=completed&numwant=80&no_peer_id=1");
        let query = parse(&query).expect("an announce");
        assert_eq!(query.info_hash, InfoHash(std::array::from_fn(|at| at as u8)));
        assert_eq!(&query.peer_id, b"-XX0001-abcdefghijkl");
        assert_eq!((query.port, query.left, query.numwant), (6881, Some(5), Some(80)));
        assert_eq!(
            (query.compact, query.no_peer_id, query.event),
            (Some(true), true, Event::Completed)
        );
    }

    #[test]
    fn what_is_needed_must_be_there_and_right() {
        let hash_19 = &HASH[..HASH.len() - 3];
        for (query, wrong) in [
            (format!("{PEER}&port=1"), "info_hash is missing"),
            (format!("{HASH}&port=1"), "peer_id is missing"),
            (format!("{HASH}&{PEER}"), "port is missing"),
            (format!("{HASH}&{PEER}&port=0"), "port is not a number from 1 to 65535"),
            (
                format!("{HASH}&{PEER}&port=65536"),
                "port is not a number from 1 to 65535",
            ),
            (format!("{HASH}&{PEER}&port="), "port is not a number from 1 to 65535"),
            (format!("{HASH}&{PEER}&port=-1"), "port is not a number from 1 to 65535"),
            (format!("{hash_19}&{PEER}&port=1"), "info_hash is not 20 bytes"),
            (format!("{HASH}%14&{PEER}&port=1"), "info_hash is not 20 bytes"),
            (format!("{hash_19}%1&{PEER}&port=1"), "info_hash is not 20 bytes"),
            (format!("{hash_19}%zz&{PEER}&port=1"), "info_hash is not 20 bytes"),
            (format!("{HASH}&{HASH}&{PEER}&port=1"), "info_hash is there twice"),
            (format!("{HASH}&{PEER}x&port=1"), "peer_id is not 20 bytes"),
            (String::new(), "info_hash is missing"),
        ] {
            assert_eq!(parse(&query), Err(wrong), "{query}");
        }
    }

    #[test]
    fn what_is_not_needed_is_never_an_error() {
        let query = format!("&&=&a&{HASH}&{PEER}&port=1&left=-1&numwant=-1&event=dance&ip=nowhere&compact=&x=%");
        let query = parse(&query).expect("an announce");
        assert_eq!(
            (query.left, query.numwant, query.event),
            (Some(u64::MAX), None, Event::Regular)
        );
        assert_eq!((query.said_ip(), query.compact), (None, Some(true)));
        let query = format!("{HASH}&{PEER}&port=1&numwant=99999999999999999999999");
        assert_eq!(parse(&query).expect("an announce").numwant, Some(u64::MAX));
    }

    #[test]
    fn who_has_nothing_left_or_has_just_completed_is_a_seeder() {
        let seeder = |rest: &str| {
            parse(&format!("{HASH}&{PEER}&port=1{rest}"))
                .expect("an announce")
                .seeder()
        };
        assert_eq!(seeder("&left=0"), Some(true));
        assert_eq!(seeder("&left=1"), Some(false));
        assert_eq!(seeder("&event=completed"), Some(true));
        assert_eq!(seeder(""), None);
    }

    #[test]
    fn an_address_may_be_said_in_either_family() {
        let ip = |ip: &str| {
            parse(&format!("{HASH}&{PEER}&port=1&ip={ip}"))
                .expect("an announce")
                .said_ip()
        };
        assert_eq!(ip("10.1.2.3"), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(ip("fd00%3A%3a1"), Some("fd00::1".parse().unwrap()));
        assert_eq!(ip("client2"), None);
        assert_eq!(ip(&"1".repeat(100)), None);
    }

    #[test]
    fn the_url_of_a_datagram_may_have_a_hostname() {
        assert_eq!(
            hostname_in_url(b"/announce?a=b&hostname=client2&c"),
            Some(&b"client2"[..])
        );
        assert_eq!(hostname_in_url(b"/announce"), None);
        assert_eq!(hostname_in_url(b"hostname=client2"), None);
        let mut buffer = Vec::new();
        assert_eq!(decode_hostname(b"client%32", &mut buffer), Some(&b"client2"[..]));
        assert_eq!(decode_hostname(&[b'a'; 254], &mut buffer), None);
    }
}
