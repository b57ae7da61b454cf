//! One announce: what a tracker is told and asked, and its form as the query of an HTTP request.
//!
//! Its form as a datagram is in [`super::udp`].

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::proto::{InfoHash, PeerId};

/// Why a tracker is told, beside that some time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is time to.
    Regular,
    /// The first time.
    Started,
    /// Nothing is missing any more, and something was before.
    Completed,
    /// The last time.
    Stopped,
}

impl Event {
    /// Its name in a query, where it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Regular => None,
            Self::Started => Some("started"),
            Self::Completed => Some("completed"),
            Self::Stopped => Some("stopped"),
        }
    }
}

/// One announce. Sizes are in bytes of payload.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of which torrent.
    pub info_hash: InfoHash,
    /// Who we are.
    pub peer_id: PeerId,
    /// Where peers connect.
    pub port: u16,
    /// Sent to peers since the first announce.
    pub uploaded: u64,
    /// Had from peers since the first announce.
    pub downloaded: u64,
    /// Missing.
    pub left: u64,
    /// Why.
    pub event: Event,
    /// How many peers are wanted.
    pub numwant: u32,
    /// Tells us from others of the same address, should it change.
    pub key: u32,
    /// The address that peers reach us at, where that is not the one this comes from.
    pub ip: Option<IpAddr>,
    /// The name that peers reach us by, where names are used.
    pub hostname: Option<Box<str>>,
    /// What the tracker asked to be told.
    pub tracker_id: Option<Box<[u8]>>,
}

impl Request {
    /// Path and query of the HTTP request to a tracker whose address has this path and query.
    #[must_use]
    pub fn target(&self, target: &str) -> String {
        let mut query = String::with_capacity(target.len() + 320);
        query.push_str(target);
        query.push_str(query_joint(target));
        query.push_str("info_hash=");
        escape(&mut query, &self.info_hash.0);
        query.push_str("&peer_id=");
        escape(&mut query, &self.peer_id.0);
        // Writing to a string does not fail.
        let _ = write!(
            query,
            "&port={}&uploaded={}&downloaded={}&left={}&numwant={}&key={:08x}&no_peer_id=1",
            self.port, self.uploaded, self.downloaded, self.left, self.numwant, self.key
        );
        // Where names are used, peers are wanted in the form that has room for them: see `target_for_names`. There are
        // trackers that refuse to be asked for it, and to those nothing is said.
        match &self.hostname {
            None => query.push_str("&compact=1"),
            Some(name) => {
                query.push_str("&hostname=");
                escape(&mut query, name.as_bytes());
            }
        }
        if let Some(name) = self.event.name() {
            let _ = write!(query, "&event={name}");
        }
        if let Some(ip) = self.ip {
            query.push_str("&ip=");
            escape(&mut query, ip.to_string().as_bytes());
        }
        if let Some(id) = &self.tracker_id {
            query.push_str("&trackerid=");
            escape(&mut query, id);
        }
        query
    }

    /// The same, and asks for peers in the only form that has room for names. Who asks for nothing is mostly given the
    /// compact form, in which a peer with a name is but an address.
    #[must_use]
    pub fn target_for_names(&self, target: &str) -> String {
        self.target(target) + "&compact=0"
    }
}

/// What stands between path and query of a tracker's address and what is added to it.
pub(super) fn query_joint(target: &str) -> &'static str {
    match target {
        _ if target.ends_with(['?', '&']) => "",
        _ if target.contains('?') => "&",
        _ => "?",
    }
}

pub(super) fn escape(text: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        // Unreserved (RFC 3986).
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            push_escaped(text, byte);
        }
    }
}

pub(super) fn push_escaped(text: &mut String, byte: u8) {
    let _ = write!(text, "%{byte:02x}"); // Writing to a string does not fail.
}

#[cfg(test)]
pub(super) fn example() -> Request {
    let mut info_hash = [b'a'; 20];
    info_hash[0] = 0;
    info_hash[1] = 0xff;
    Request {
        info_hash: InfoHash(info_hash),
        peer_id: PeerId(*b"-BT0100-abcdefghijk/"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: Event::Started,
        numwant: 50,
        key: 0xab,
        ip: None,
        hostname: None,
        tracker_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_the_specification_asks_for() {
        let expected = "info_hash=%00%ffaaaaaaaaaaaaaaaaaa&peer_id=-BT0100-abcdefghijk%2f&port=6881&uploaded=1&downloaded=2&left=3\
                        &numwant=50&key=000000ab&no_peer_id=1&compact=1&event=started";
        assert_eq!(example().target("/announce"), format!("/announce?{expected}"));
        assert_eq!(example().target("/a?passkey=1"), format!("/a?passkey=1&{expected}"));
        assert_eq!(example().target("/a?"), format!("/a?{expected}"));
    }

    #[test]
    fn names_ids_and_addresses_are_sent_where_there_are_any() {
        let request = Request {
            event: Event::Regular,
            ip: Some("::1".parse().unwrap()),
            hostname: Some("client2".into()),
            tracker_id: Some(b"a&b".as_slice().into()),
            ..example()
        };
        let target = request.target("/announce");
        assert!(
            target.ends_with("&no_peer_id=1&hostname=client2&ip=%3a%3a1&trackerid=a%26b"),
            "{target}"
        );
        assert!(!target.contains("event=") && !target.contains("compact="));
        assert_eq!(request.target_for_names("/announce"), format!("{target}&compact=0"));
    }
}
