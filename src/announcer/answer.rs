//! What a tracker says: the answer to an announce, or why there is none.
//!
//! Trackers are strangers, and some are asked by torrent files that strangers made. Every text is cleaned, every list is
//! bounded, every number is taken for what it is. How often to ask is decided by [`super::schedule`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::text::clean;
use super::url::is_name;
use crate::proto::bencode::{self, Limits, Value};

/// Peers that are taken of one answer. We ask for 200 at most.
pub const PEERS_MAX: usize = 1000;
/// Peers given by name that are taken of one answer: each name costs a look-up.
pub const NAMES_MAX: usize = 50;
/// The longest `tracker id` that is sent back.
const TRACKER_ID_LEN_MAX: usize = 256;
/// A peer in a list is eight tokens.
const LIMITS: Limits = Limits {
    len: 4 << 20,
    depth: 8,
    tokens: 200_000,
};

/// The answer to an announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Seconds until the next announce, if it said so.
    pub interval: Option<i64>,
    /// Seconds before which there may be none.
    pub min_interval: Option<i64>,
    /// Peers that have everything.
    pub complete: Option<u32>,
    /// Those that do not.
    pub incomplete: Option<u32>,
    /// Where peers are.
    pub peers: Vec<SocketAddr>,
    /// Peers by name and port: the names are such as can be in the DNS.
    pub names: Vec<(Box<str>, u16)>,
    /// What its users should know.
    pub warning: Option<Box<str>>,
    /// What is to be said with the next announce.
    pub tracker_id: Option<Box<[u8]>>,
    /// Our address, as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
}

/// When to come back after a refusal (BEP 31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It did not say.
    Unsaid,
    /// Not before so long.
    After(Duration),
    /// Never.
    Never,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The tracker says why. The text is clean.
    #[error("refused: {reason}")]
    Refused {
        /// In its words.
        reason: Box<str>,
        /// When to come back.
        retry: Retry,
    },
    /// What came is no answer.
    #[error("the answer cannot be read: {0}")]
    Malformed(Box<str>),
    /// Another status than 200.
    #[error("HTTP status {code}")]
    Status {
        /// The status.
        code: u16,
        /// When to come back.
        retry: Retry,
    },
    /// Too much came.
    #[error("an answer of more than {0} bytes")]
    TooLong(usize),
    /// It leads where nothing is sent to.
    #[error("{0}")]
    Forbidden(Box<str>),
    /// Redirected over and over.
    #[error("redirected more than {0} times")]
    Redirects(u32),
    /// Its name is unknown.
    #[error("cannot look up its name: {0}")]
    Name(Box<str>),
    /// Nobody is there, or it does not answer in time.
    #[error("{0}")]
    Unreachable(Box<str>),
    /// It was not asked: btd had no connection to spare.
    #[error("btd has no connection to spare")]
    Busy,
}

impl Failure {
    /// One of a few words, for a metric.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Malformed(_) | Self::TooLong(_) => "malformed",
            Self::Status { .. } => "status",
            Self::Forbidden(_) => "forbidden",
            Self::Redirects(_) => "redirects",
            Self::Name(_) => "name",
            Self::Unreachable(_) => "unreachable",
            Self::Busy => "busy",
        }
    }

    /// Whether it is the host's, and would be met with any other torrent too.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        match self {
            Self::Name(_) | Self::Unreachable(_) | Self::Redirects(_) | Self::TooLong(_) => true,
            Self::Status { code, .. } => *code >= 500 || *code == 429,
            Self::Refused { .. } | Self::Malformed(_) | Self::Forbidden(_) | Self::Busy => false,
        }
    }
}

fn malformed(why: impl Into<Box<str>>) -> Failure {
    Failure::Malformed(why.into())
}

/// Reads the body of an HTTP answer.
///
/// # Errors
/// It is a refusal, or no answer at all.
pub fn parse(body: &[u8]) -> Result<Answer, Failure> {
    // aquatic_http ends its answers with a line break.
    let body = body.trim_ascii_end();
    if body.is_empty() {
        return Err(malformed("it is empty"));
    }
    let scanned = bencode::scan(body, LIMITS).map_err(|error| malformed(error.to_string()))?;
    let dict = scanned
        .value
        .as_dict()
        .ok_or_else(|| malformed("it is no dictionary"))?;
    let mut answer = Answer::default();
    let mut refusal = None;
    let mut retry = Retry::Unsaid;
    for (key, value) in dict {
        match key {
            b"failure reason" => refusal = Some(clean(value.as_bytes().unwrap_or_default()).into_boxed_str()),
            b"retry in" => retry = read_retry(value),
            b"warning message" => {
                let text = value.as_bytes().map(clean).filter(|text| !text.is_empty());
                answer.warning = text.map(String::into_boxed_str);
            }
            b"interval" => answer.interval = value.as_int(),
            b"min interval" => answer.min_interval = value.as_int(),
            b"complete" => answer.complete = count(value),
            b"incomplete" => answer.incomplete = count(value),
            b"tracker id" => {
                let id = value
                    .as_bytes()
                    .filter(|id| (1..=TRACKER_ID_LEN_MAX).contains(&id.len()));
                answer.tracker_id = id.map(Into::into);
            }
            b"external ip" => answer.external_ip = value.as_bytes().and_then(read_ip),
            b"peers" => read_peers(value, &mut answer)?,
            b"peers6" => {
                let bytes = value.as_bytes().ok_or_else(|| malformed("`peers6` is no string"))?;
                read_compact_v6(bytes, &mut answer.peers)?;
            }
            _ => {}
        }
    }
    match refusal {
        Some(reason) => Err(Failure::Refused { reason, retry }),
        None => Ok(answer),
    }
}

fn count(value: Value<'_>) -> Option<u32> {
    value.as_int().and_then(|count| u32::try_from(count).ok())
}

/// Minutes, or `never` (BEP 31).
fn read_retry(value: Value<'_>) -> Retry {
    let text = value.as_str();
    let minutes = value
        .as_int()
        .or_else(|| text.and_then(|text| text.parse().ok()))
        .and_then(|minutes| u64::try_from(minutes).ok());
    match (minutes, text) {
        (Some(minutes), _) => Retry::After(Duration::from_secs(minutes.saturating_mul(60))),
        (None, Some("never")) => Retry::Never,
        (None, _) => Retry::Unsaid,
    }
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        // As text an address is at most 15 bytes long, or has a colon that makes these 16 bytes ambiguous: BEP 24 is binary.
        return Some(Ipv6Addr::from(octets).into());
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn read_peers(value: Value<'_>, answer: &mut Answer) -> Result<(), Failure> {
    if let Some(bytes) = value.as_bytes() {
        return read_compact_v4(bytes, &mut answer.peers);
    }
    // One entry that makes no sense is passed over, the others may.
    let list = value.as_list().ok_or_else(|| malformed("`peers` is no list"))?;
    for entry in list.filter_map(Value::as_dict) {
        let (mut host, mut port) = (None, None);
        for (key, value) in entry {
            match key {
                b"ip" => host = value.as_str(),
                b"port" => port = value.as_int(),
                _ => {}
            }
        }
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let (Some(host), Some(port)) = (host, port) else {
            continue;
        };
        match host.parse::<IpAddr>() {
            Ok(ip) if answer.peers.len() < PEERS_MAX => answer.peers.push(SocketAddr::new(ip, port)),
            Err(_) if answer.names.len() < NAMES_MAX && is_name(host) => {
                answer.names.push((host.to_ascii_lowercase().into(), port));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

pub(super) fn read_compact_v4(bytes: &[u8], peers: &mut Vec<SocketAddr>) -> Result<(), Failure> {
    let (entries, rest) = bytes.as_chunks::<6>();
    if !rest.is_empty() {
        return Err(malformed(format!(
            "{} bytes of peers, 6 for each expected",
            bytes.len()
        )));
    }
    for [a, b, c, d, e, f] in entries {
        let port = u16::from_be_bytes([*e, *f]);
        if port != 0 && peers.len() < PEERS_MAX {
            peers.push(SocketAddr::from((Ipv4Addr::new(*a, *b, *c, *d), port)));
        }
    }
    Ok(())
}

pub(super) fn read_compact_v6(bytes: &[u8], peers: &mut Vec<SocketAddr>) -> Result<(), Failure> {
    let (entries, rest) = bytes.as_chunks::<18>();
    if !rest.is_empty() {
        return Err(malformed(format!(
            "{} bytes of IPv6 peers, 18 for each expected",
            bytes.len()
        )));
    }
    for entry in entries {
        let (ip, port) = entry.split_at(16);
        let ip: [u8; 16] = ip.try_into().expect("split at 16");
        let port = u16::from_be_bytes([port[0], port[1]]);
        if port != 0 && peers.len() < PEERS_MAX {
            peers.push(SocketAddr::from((Ipv6Addr::from(ip), port)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(reason: &str, retry: Retry) -> Result<Answer, Failure> {
        let reason = reason.into();
        Err(Failure::Refused { reason, retry })
    }

    #[test]
    fn compact_peers_of_both_families_are_read() {
        let body = b"d8:completei3e11:external ip4:\x01\x02\x03\x0410:incompletei4e8:intervali900e12:min intervali300e\
                     5:peers12:\x7f\x00\x00\x01\x1a\xe1\x7f\x00\x00\x01\x00\x006:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x07\
                     10:tracker id3:abc15:warning message7:\x1b[1mbade";
        let answer = parse(body).unwrap();
        assert_eq!((answer.complete, answer.incomplete), (Some(3), Some(4)));
        assert_eq!((answer.interval, answer.min_interval), (Some(900), Some(300)));
        // Port 0 is nobody's.
        assert_eq!(
            answer.peers,
            ["127.0.0.1:6881".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()]
        );
        assert_eq!(answer.warning.as_deref(), Some("bad"));
        assert_eq!(answer.tracker_id.as_deref(), Some(b"abc".as_slice()));
        assert_eq!(answer.external_ip, Some("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_line_break_behind_the_answer_is_no_part_of_it() {
        assert_eq!(parse(b"d8:intervali9e5:peers0:e\r\n").unwrap().interval, Some(9));
        assert!(parse(b"d8:intervali9e5:peers0:e\r\nx").is_err() && parse(b"\r\n").is_err());
    }

    #[test]
    fn peers_in_a_list_may_have_names() {
        let body = b"d8:intervali-1e5:peersld2:ip9:127.0.0.14:porti1eed2:ip7:Client24:porti2eed2:ip3:::14:porti3eed2:ip5:a b/c4:porti4ee\
                     d2:ip1:a4:porti65536eed4:porti1eei7eee";
        let answer = parse(body).unwrap();
        assert_eq!(
            answer.peers,
            ["127.0.0.1:1".parse().unwrap(), "[::1]:3".parse().unwrap()]
        );
        assert_eq!(answer.names, [("client2".into(), 2)]);
        assert_eq!(answer.interval, Some(-1));
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        assert_eq!(parse(b"d14:failure reason3:bade"), refusal("bad", Retry::Unsaid));
        assert_eq!(
            parse(b"d14:failure reason3:bad8:retry ini5ee"),
            refusal("bad", Retry::After(Duration::from_secs(300)))
        );
        assert_eq!(
            parse(b"d14:failure reason3:bad8:retry in5:nevere"),
            refusal("bad", Retry::Never)
        );
        assert_eq!(
            parse(b"d14:failure reasoni1e8:retry ini-5ee"),
            refusal("", Retry::Unsaid)
        );
        let huge = parse(b"d14:failure reason0:8:retry ini9223372036854775807ee");
        assert_eq!(
            huge,
            refusal(
                "",
                Retry::After(Duration::from_secs((i64::MAX as u64).saturating_mul(60)))
            )
        );
    }

    #[test]
    fn what_is_no_answer_is_refused_with_its_reason() {
        for (body, why) in [
            (b"".as_slice(), "it is empty"),
            (b"<html>", "no value begins with byte 0x3c (byte 0)"),
            (b"le", "it is no dictionary"),
            (b"d5:peers7:abcdefge", "7 bytes of peers, 6 for each expected"),
            (b"d6:peers67:abcdefge", "7 bytes of IPv6 peers, 18 for each expected"),
            (b"d5:peersi1ee", "`peers` is no list"),
            (
                b"d8:intervali9223372036854775808ee",
                "an integer beyond 64 bits (byte 11)",
            ),
        ] {
            assert_eq!(
                parse(body),
                Err(Failure::Malformed(why.into())),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn lists_are_bounded() {
        let peers = "d2:ip9:127.0.0.14:porti1ee".repeat(5000) + &"d2:ip1:a4:porti1ee".repeat(5000);
        let answer = parse(format!("d5:peersl{peers}ee").as_bytes()).unwrap();
        assert_eq!((answer.peers.len(), answer.names.len()), (PEERS_MAX, NAMES_MAX));
        let compact = [b"d5:peers60000:".as_slice(), &[1; 60_000], b"e"].concat();
        assert_eq!(parse(&compact).unwrap().peers.len(), PEERS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&body);
        }

        #[test]
        fn whatever_peers_come_are_read_as_they_were_written(
            v4 in proptest::collection::vec((any::<u32>(), 1..u16::MAX), 0..20),
            v6 in proptest::collection::vec((any::<u128>(), 1..u16::MAX), 0..20),
        ) {
            let mut body = format!("d5:peers{}:", v4.len() * 6).into_bytes();
            let mut expected = Vec::new();
            for (ip, port) in v4 {
                body.extend(ip.to_be_bytes());
                body.extend(port.to_be_bytes());
                expected.push(SocketAddr::from((Ipv4Addr::from(ip), port)));
            }
            body.extend(format!("6:peers6{}:", v6.len() * 18).bytes());
            for (ip, port) in v6 {
                body.extend(ip.to_be_bytes());
                body.extend(port.to_be_bytes());
                expected.push(SocketAddr::from((Ipv6Addr::from(ip), port)));
            }
            body.push(b'e');
            prop_assert_eq!(parse(&body).unwrap().peers, expected);
        }
    }
}
