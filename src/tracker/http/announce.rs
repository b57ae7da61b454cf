//! `/announce` (BEP 3, 7, 23, 24, 31).
//!
//! Three forms of reply. Compact is the default: addresses as bytes, `peers` for IPv4 and `peers6` for IPv6. With
//! `compact=0` peers are dictionaries, each with its peer id where it is known and wanted. A query that says neither
//! `compact` nor `left` is from a client that wants to be plain, and gets dictionaries of address and port and nothing else.
//! A host name can only be in dictionaries; in a compact reply there is the address that the peer has announced from.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::Scratch;
use super::query::{AnnounceQuery, Event, decode_hostname};
use super::write::{put_bytes, put_int};
use crate::tracker::address::Address;
use crate::tracker::counts::Outcome;
use crate::tracker::store::{Extra, Families, Joining, Sink, SwarmCounts, Wish};
use crate::tracker::{RETRY_IN_MIN, STARTING_RETRY_IN_MIN, Tracker, Worker};

/// Why an announce is not served.
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
    /// When to come again, in minutes, if that may help (BEP 31).
    pub(super) retry_in_min: Option<u64>,
}

impl Refusal {
    const fn bad(reason: &'static str) -> Self {
        Self {
            outcome: Outcome::Bad,
            reason,
            retry_in_min: None,
        }
    }
}

/// Peers as bytes, each family by itself.
struct Compact<'a> {
    peers4: &'a mut Vec<u8>,
    peers6: &'a mut Vec<u8>,
}

impl Sink for Compact<'_> {
    const EXTRAS: bool = false;

    #[inline]
    fn peer4(&mut self, address: &[u8; 6], _: Option<&Extra>) {
        self.peers4.extend_from_slice(address);
    }

    #[inline]
    fn peer6(&mut self, address: &[u8; 18], _: Option<&Extra>) {
        self.peers6.extend_from_slice(address);
    }
}

/// Peers as dictionaries.
struct Dictionaries<'a> {
    out: &'a mut Vec<u8>,
    peer_ids: bool,
}

impl Dictionaries<'_> {
    fn put(&mut self, ip: &[u8], port: [u8; 2], extra: Option<&Extra>) {
        let name = extra.and_then(|extra| extra.name.as_deref());
        self.out.extend_from_slice(b"d2:ip");
        put_bytes(self.out, name.unwrap_or(ip));
        let peer_id = extra.and_then(|extra| extra.peer_id).filter(|_| self.peer_ids);
        if let Some(peer_id) = peer_id {
            self.out.extend_from_slice(b"7:peer id");
            put_bytes(self.out, &peer_id);
        }
        self.out.extend_from_slice(b"4:port");
        put_int(self.out, u16::from_be_bytes(port).into());
        self.out.push(b'e');
    }
}

impl Sink for Dictionaries<'_> {
    const EXTRAS: bool = true;

    fn peer4(&mut self, address: &[u8; 6], extra: Option<&Extra>) {
        let [ip @ .., high, low] = *address;
        let mut text = [0; 15];
        let mut left = &mut text[..];
        let [a, b, c, d] = ip;
        write!(left, "{a}.{b}.{c}.{d}").expect("an IPv4 address has at most 15 bytes");
        let len = 15 - left.len();
        self.put(&text[..len], [high, low], extra);
    }

    fn peer6(&mut self, address: &[u8; 18], extra: Option<&Extra>) {
        let (ip, port) = address.split_first_chunk::<16>().expect("18 bytes");
        let mut text = [0; 45];
        let mut left = &mut text[..];
        write!(left, "{}", Ipv6Addr::from(*ip)).expect("an IPv6 address has at most 45 bytes");
        let len = 45 - left.len();
        self.put(&text[..len], [port[0], port[1]], extra);
    }
}

impl Tracker {
    /// Serves an announce: the body of the reply is what `worker.scratch.body` holds afterwards.
    pub(super) fn http_announce(
        &self,
        worker: &mut Worker,
        from: IpAddr,
        query: &[u8],
        now: Instant,
    ) -> Result<(), Refusal> {
        let query = AnnounceQuery::parse(query).map_err(Refusal::bad)?;
        let said = query
            .ip
            .filter(|_| self.settings.trust_ip)
            .and_then(|_| query.said_ip());
        let address = Address::new(self.peer_ip(from, said), query.port).expect("a port that is not 0");
        if !worker.access.allows(&query.info_hash) {
            let (reason, retry_in_min) = match worker.access.may_allow_soon(&query.info_hash) {
                true => (
                    "the tracker has just started and may know this torrent soon",
                    Some(STARTING_RETRY_IN_MIN),
                ),
                false => ("this torrent is not tracked here", None),
            };
            return Err(Refusal {
                outcome: Outcome::Refused,
                reason,
                retry_in_min,
            });
        }
        let Worker { random, scratch, .. } = worker;
        let Scratch {
            body,
            peers4,
            peers6,
            name,
            ..
        } = scratch;
        peers4.clear();
        peers6.clear();
        let plain = query.is_plain();
        let as_dictionaries = plain || query.compact == Some(false);
        let tell_peer_ids = as_dictionaries && !plain && !query.no_peer_id;
        let stamp = self.store.stamp(now);
        let counts = if query.event == Event::Stopped {
            let left = self.store.leave(&query.info_hash, &address, stamp);
            self.tell_left(&query.info_hash, &address, left.name, now);
            left.counts
        } else {
            let rule = &self.settings.hostname_allow;
            let said = query.hostname.filter(|_| !rule.is_empty());
            let said = said.and_then(|text| decode_hostname(text, name));
            let peer = Joining {
                address,
                seeder: query.seeder(),
                name: said.filter(|name| rule.allows(name)),
                peer_id: tell_peer_ids.then_some(&query.peer_id),
            };
            let wish = Wish {
                want: self.numwant(query.numwant),
                families: Families::Both,
                completed: query.event == Event::Completed,
                learnt: None,
            };
            let announced = if as_dictionaries {
                let sink = &mut Dictionaries {
                    out: peers4,
                    peer_ids: tell_peer_ids,
                };
                self.store.announce(&query.info_hash, &peer, &wish, stamp, random, sink)
            } else {
                let sink = &mut Compact { peers4, peers6 };
                self.store.announce(&query.info_hash, &peer, &wish, stamp, random, sink)
            };
            let announced = announced.map_err(|_full| Refusal {
                outcome: Outcome::Refused,
                reason: "the tracker is full",
                retry_in_min: Some(RETRY_IN_MIN),
            })?;
            self.tell_joined(&query.info_hash, &peer, &announced, now);
            announced.counts
        };
        body.clear();
        let SwarmCounts {
            complete, incomplete, ..
        } = counts;
        body.extend_from_slice(b"d8:complete");
        put_int(body, complete as u64);
        if !plain {
            body.extend_from_slice(b"11:external ip");
            match from.to_canonical() {
                IpAddr::V4(ip) => put_bytes(body, &ip.octets()),
                IpAddr::V6(ip) => put_bytes(body, &ip.octets()),
            }
        }
        body.extend_from_slice(b"10:incomplete");
        put_int(body, incomplete as u64);
        body.extend_from_slice(b"8:interval");
        put_int(body, self.settings.interval.as_secs());
        if !plain {
            body.extend_from_slice(b"12:min interval");
            put_int(body, self.settings.min_interval.min(self.settings.interval).as_secs());
        }
        body.extend_from_slice(b"5:peers");
        if as_dictionaries {
            body.push(b'l');
            body.extend_from_slice(peers4);
            body.push(b'e');
        } else {
            put_bytes(body, peers4);
            if !peers6.is_empty() || from.to_canonical().is_ipv6() {
                body.extend_from_slice(b"6:peers6");
                put_bytes(body, peers6);
            }
        }
        body.push(b'e');
        Ok(())
    }
}

/// Puts the body of a refusal into `body`.
pub(super) fn put_refusal(body: &mut Vec<u8>, reason: &str, retry_in_min: Option<u64>) {
    body.clear();
    body.extend_from_slice(b"d14:failure reason");
    put_bytes(body, reason.as_bytes());
    if let Some(minutes) = retry_in_min {
        body.extend_from_slice(b"8:retry in");
        put_int(body, minutes);
    }
    body.push(b'e');
}
