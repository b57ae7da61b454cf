//! Questions to name servers and their answers as bytes (RFC 1035, RFC 3596): what it takes to ask for the addresses of a
//! name, and nothing else. Pure: no socket, no clock.
//!
//! Answers are hostile. Names are walked over and not put together, every length is checked, and of what is in an answer only
//! addresses are taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Header of a message: an id, flags, and four counts.
const HEADER_LEN: usize = 12;
/// The longest name as it is written with dots, and the longest part of one.
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;
/// Addresses that are taken from one answer.
const ADDRESSES_MAX: usize = 32;
/// Records that are looked at in one.
const RECORDS_MAX: usize = 256;
const CLASS_IN: u16 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// IPv6 addresses.
    Aaaa = 28,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The name has these addresses; none if it has other things.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// It did not fit: to be asked again over a connection.
    Truncated,
    /// The server does not know, and another may.
    Failed {
        /// The response code: 2 for a failure, 5 for a refusal.
        code: u8,
    },
}

/// Why a name cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name of letters, digits, hyphens and dots, of at most {NAME_LEN_MAX} bytes")]
pub(super) struct NotAName;

/// A question as a message.
///
/// # Errors
/// It is no name.
pub(super) fn question(id: u16, name: &str, kind: Kind) -> Result<Vec<u8>, NotAName> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(NotAName);
    }
    let mut message = Vec::with_capacity(HEADER_LEN + name.len() + 6);
    message.extend_from_slice(&id.to_be_bytes());
    // Recursion is desired; one question.
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let is_right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if label.is_empty() || label.len() > LABEL_LEN_MAX || !label.bytes().all(is_right) {
            return Err(NotAName);
        }
        message.push(label.len() as u8); // At most 63.
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&(kind as u16).to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    Ok(message)
}

/// What a message says, if it is the answer to this question; `None` if it is anything else.
pub(super) fn answer(message: &[u8], question: &[u8], kind: Kind) -> Option<Reply> {
    let asked = question.get(HEADER_LEN..)?;
    let (flags, code) = (number(message, 2)?, message.get(3)? & 0x0f);
    let is_answer = flags & 0x8000 != 0 && flags & 0x7800 == 0;
    let is_ours = message.get(..2)? == question.get(..2)? && number(message, 4)? == 1;
    let same = message.get(HEADER_LEN..HEADER_LEN + asked.len())?;
    if !is_answer || !is_ours || !same.eq_ignore_ascii_case(asked) {
        return None;
    }
    match code {
        0 if flags & 0x0200 != 0 => return Some(Reply::Truncated),
        0 => {}
        3 => return Some(Reply::NoSuchName),
        code => return Some(Reply::Failed { code }),
    }
    let mut found = Vec::new();
    let mut at = HEADER_LEN + asked.len();
    for _ in 0..usize::from(number(message, 6)?).min(RECORDS_MAX) {
        at = behind_name(message, at)?;
        let (of, class, len) = (number(message, at)?, number(message, at + 2)?, number(message, at + 8)?);
        let data = message.get(at + 10..at + 10 + usize::from(len))?;
        at += 10 + data.len();
        if class != CLASS_IN || of != kind as u16 || found.len() >= ADDRESSES_MAX {
            continue;
        }
        // Whichever name it is of: the server has followed the aliases.
        found.push(match kind {
            Kind::A => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)),
            Kind::Aaaa => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)),
        });
    }
    Some(Reply::Addresses(found))
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

/// Where a name ends that begins here. A pointer ends it, wherever that leads.
fn behind_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len if len & 0xc0 == 0 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    /// An answer to `question` with these records, each of a type and its data, of the name that was asked for.
    pub(crate) fn reply(question: &[u8], code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2] = 0x81;
        message[3] = 0x80 | code;
        message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        for (of, data) in records {
            message.extend_from_slice(&[0xc0, 12]);
            message.extend_from_slice(&of.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::reply;
    use super::*;

    #[test]
    fn a_question_is_the_one_of_the_standard() {
        let bytes = question(0x1234, "a.bc", Kind::Aaaa).unwrap();
        let expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x1c\x00\x01";
        assert_eq!(bytes, expected);
        assert_eq!(question(0x1234, "a.bc.", Kind::Aaaa).unwrap(), bytes);
        let long = ["a"; 127].join(".");
        assert!(question(1, &long, Kind::A).is_ok());
        for name in [
            "",
            ".",
            "a..b",
            "é.example",
            "a b",
            &"a".repeat(64),
            &format!("{long}.a"),
        ] {
            assert_eq!(question(1, name, Kind::A), Err(NotAName), "{name}");
        }
    }

    #[test]
    fn addresses_are_taken_behind_aliases_and_nothing_else_is() {
        let asked = question(7, "tracker.example", Kind::A).unwrap();
        let message = reply(
            &asked,
            0,
            &[
                (5, b"\x01x\xc0\x0c"),
                (1, &[10, 0, 0, 1]),
                (16, b"\x01t"),
                (1, &[10, 0, 0, 2]),
            ],
        );
        let expected = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from).to_vec();
        assert_eq!(answer(&message, &asked, Kind::A), Some(Reply::Addresses(expected)));
        let asked = question(7, "tracker.example", Kind::Aaaa).unwrap();
        let message = reply(&asked, 0, &[(28, &[1; 16]), (1, &[10, 0, 0, 1])]);
        let expected = vec![IpAddr::from([1_u8; 16])];
        assert_eq!(answer(&message, &asked, Kind::Aaaa), Some(Reply::Addresses(expected)));
    }

    #[test]
    fn what_is_not_the_answer_to_the_question_is_none() {
        let asked = question(7, "tracker.example", Kind::A).unwrap();
        let good = reply(&asked, 0, &[(1, &[10, 0, 0, 1])]);
        assert!(answer(&good, &asked, Kind::A).is_some());
        // Another id, a question, another operation, another name.
        for (at, byte) in [(1, 8), (2, 0x01), (2, 0x91), (14, b'x'), (5, 2)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(answer(&bad, &asked, Kind::A), None, "byte {at}");
        }
        assert_eq!(answer(&reply(&asked, 0, &[(1, &[10, 0, 0])]), &asked, Kind::A), None);
        assert_eq!(answer(&good[..good.len() - 1], &asked, Kind::A), None);
    }

    #[test]
    fn codes_and_the_bit_of_what_did_not_fit_are_told_apart() {
        let asked = question(7, "x", Kind::A).unwrap();
        assert_eq!(answer(&reply(&asked, 3, &[]), &asked, Kind::A), Some(Reply::NoSuchName));
        assert_eq!(
            answer(&reply(&asked, 2, &[]), &asked, Kind::A),
            Some(Reply::Failed { code: 2 })
        );
        assert_eq!(
            answer(&reply(&asked, 0, &[]), &asked, Kind::A),
            Some(Reply::Addresses(Vec::new()))
        );
        let mut cut = reply(&asked, 0, &[]);
        cut[2] |= 2;
        assert_eq!(answer(&cut, &asked, Kind::A), Some(Reply::Truncated));
    }

    #[test]
    fn addresses_are_bounded() {
        let asked = question(7, "x", Kind::A).unwrap();
        let many = reply(&asked, 0, &[(1, &[10, 0, 0, 1][..]); 300]);
        let Some(Reply::Addresses(found)) = answer(&many, &asked, Kind::A) else {
            panic!("an answer");
        };
        assert_eq!(found.len(), ADDRESSES_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_behind_a_question_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), counts: [u8; 8], flags: [u8; 2]) {
            let asked = question(7, "tracker.example", Kind::A).unwrap();
            let mut message = asked.clone();
            message[2..4].copy_from_slice(&flags);
            message[4..12].copy_from_slice(&counts);
            message.extend_from_slice(&tail);
            let _ = answer(&message, &asked, Kind::A);
            let _ = answer(&message, &asked, Kind::Aaaa);
            let _ = answer(&tail, &asked, Kind::A);
        }
    }
}
