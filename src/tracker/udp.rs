//! The UDP protocol (BEP 15), with the options behind an announce (BEP 41).
//!
//! Nothing is said to who has not proven that it receives what is sent to its address, but for a connection id, which is as
//! long as what it was asked by: the tracker is no use for making traffic. Who has proven it is told what is wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::address::Address;
use super::counts::{Kind, Outcome};
use super::http::{Scratch, query};
use super::store::{Extra, Families, Joining, Sink, Wish};
use super::{DATAGRAM_LEN_MAX, Tracker, Worker};
use crate::proto::InfoHash;

/// What a connect request has for a connection id.
const PROTOCOL_ID: u64 = 0x417_2710_1980;

const ACTION_CONNECT: u32 = 0;
const ACTION_ANNOUNCE: u32 = 1;
const ACTION_SCRAPE: u32 = 2;
const ACTION_ERROR: u32 = 3;

/// Connection id, action, transaction id.
const HEADER_LEN: usize = 16;
/// An announce without options.
const ANNOUNCE_LEN: usize = 98;
/// What a reply to an announce has before its peers: action, transaction id, interval, leechers, seeders.
const REPLY_HEADER_LEN: usize = 20;
/// The longest reply, so that none is cut into fragments on the way: IPv6's least MTU without the headers of IPv6 and UDP.
const REPLY_LEN_MAX: usize = 1280 - 40 - 8;
/// How many torrents a scrape may ask for: as BEP 15 says, "about 74". The reply fits as well.
const SCRAPE_MAX: usize = 74;
const _: () = assert!(8 + 12 * SCRAPE_MAX <= REPLY_LEN_MAX && HEADER_LEN + 20 * SCRAPE_MAX <= DATAGRAM_LEN_MAX);

/// The options of BEP 41.
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_URL_DATA: u8 = 2;

/// A reply's peers, as they come.
struct Compact<'a>(&'a mut Vec<u8>);

impl Sink for Compact<'_> {
    const EXTRAS: bool = false;

    #[inline]
    fn peer4(&mut self, address: &[u8; 6], _: Option<&Extra>) {
        self.0.extend_from_slice(address);
    }

    #[inline]
    fn peer6(&mut self, address: &[u8; 18], _: Option<&Extra>) {
        self.0.extend_from_slice(address);
    }
}

/// Reads big-endian numbers from the front of bytes that are known to be long enough.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const LEN: usize>(&mut self) -> &'a [u8; LEN] {
        let (field, rest) = self.0.split_first_chunk().expect("the length was checked");
        self.0 = rest;
        field
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(*self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(*self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(*self.take())
    }
}

impl Tracker {
    /// Serves a datagram; `reply` is empty.
    pub(super) fn serve_datagram(
        &self,
        worker: &mut Worker,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        reply: &mut Vec<u8>,
    ) -> (Kind, Outcome) {
        if !(HEADER_LEN..=DATAGRAM_LEN_MAX).contains(&datagram.len()) {
            return (Kind::UdpOther, Outcome::Dropped);
        }
        let mut fields = Fields(datagram);
        let (connection_id, action, transaction_id) = (fields.u64(), fields.u32(), fields.u32());
        let ip = from.ip().to_canonical();
        if action == ACTION_CONNECT {
            if connection_id != PROTOCOL_ID {
                return (Kind::UdpConnect, Outcome::Dropped);
            }
            put_u32(reply, ACTION_CONNECT);
            put_u32(reply, transaction_id);
            reply.extend_from_slice(&self.connection_ids.make(ip, now).to_be_bytes());
            return (Kind::UdpConnect, Outcome::Answered);
        }
        let kind = match action {
            ACTION_ANNOUNCE => Kind::UdpAnnounce,
            ACTION_SCRAPE => Kind::UdpScrape,
            _ => Kind::UdpOther,
        };
        if !self.connection_ids.check(connection_id, ip, now) {
            return (kind, Outcome::Dropped);
        }
        let result = match action {
            ACTION_ANNOUNCE => self.udp_announce(worker, ip, datagram, now, reply),
            ACTION_SCRAPE => self.udp_scrape(worker, datagram, reply),
            _ => Err((Outcome::Bad, "unknown action")),
        };
        let outcome = match result {
            Ok(()) => Outcome::Answered,
            Err((outcome, text)) => {
                reply.clear();
                put_u32(reply, ACTION_ERROR);
                put_u32(reply, transaction_id);
                reply.extend_from_slice(text.as_bytes());
                outcome
            }
        };
        (kind, outcome)
    }

    fn udp_announce(
        &self,
        worker: &mut Worker,
        from: IpAddr,
        datagram: &[u8],
        now: Instant,
        reply: &mut Vec<u8>,
    ) -> Result<(), (Outcome, &'static str)> {
        if datagram.len() < ANNOUNCE_LEN {
            return Err((Outcome::Bad, "an announce has 98 bytes"));
        }
        let mut fields = Fields(&datagram[12..]);
        let transaction_id = fields.u32();
        let info_hash = InfoHash(*fields.take());
        let _peer_id: &[u8; 20] = fields.take();
        let (_downloaded, left, _uploaded) = (fields.u64(), fields.u64(), fields.u64());
        let event = fields.u32();
        let said = Ipv4Addr::from(*fields.take());
        let _key = fields.u32();
        // Negative means as many as the tracker likes; 0 is none.
        let wanted = u64::try_from(fields.u32().cast_signed()).ok();
        let port = fields.u16();
        let said = (!said.is_unspecified()).then_some(IpAddr::V4(said));
        let Some(address) = Address::new(self.peer_ip(from, said), port) else {
            return Err((Outcome::Bad, "port 0 is no port"));
        };
        if !worker.access.allows(&info_hash) {
            let reason = match worker.access.may_allow_soon(&info_hash) {
                true => "the tracker has just started, try again in a minute", // There is no BEP 31 for datagrams.
                false => "this torrent is not tracked here",
            };
            return Err((Outcome::Refused, reason));
        }
        // The reply's family is that of the socket (BEP 15), whatever address is kept.
        let (families, peer_len) = if from.is_ipv4() {
            (Families::V4, 6)
        } else {
            (Families::V6, 18)
        };
        let stamp = self.store.stamp(now);
        reply.resize(REPLY_HEADER_LEN, 0);
        // 1 completed, 2 started, 3 stopped; anything else is a regular announce (4 is `paused`, BEP 21).
        let counts = if event == 3 {
            let left = self.store.leave(&info_hash, &address, stamp);
            self.tell_left(&info_hash, &address, left.name, now);
            left.counts
        } else {
            let completed = event == 1;
            let Scratch { url, name, .. } = &mut worker.scratch;
            let name = self.udp_hostname(&datagram[ANNOUNCE_LEN..], url, name);
            let peer = Joining {
                address,
                seeder: Some(left == 0 || completed),
                name,
                peer_id: None,
            };
            let wish = Wish {
                want: self.numwant(wanted).min((REPLY_LEN_MAX - REPLY_HEADER_LEN) / peer_len),
                families,
                completed,
                learnt: None,
            };
            let sink = &mut Compact(reply);
            let announced = self
                .store
                .announce(&info_hash, &peer, &wish, stamp, &mut worker.random, sink);
            let announced = announced.map_err(|_full| (Outcome::Refused, "the tracker is full, try again later"))?;
            self.tell_joined(&info_hash, &peer, &announced, now);
            announced.counts
        };
        let mut header = &mut reply[..REPLY_HEADER_LEN];
        for field in [
            ACTION_ANNOUNCE,
            transaction_id,
            u32_of(self.settings.interval.as_secs() as usize),
            u32_of(counts.incomplete),
            u32_of(counts.complete),
        ] {
            let (here, rest) = header.split_first_chunk_mut().expect("five fields");
            *here = field.to_be_bytes();
            header = rest;
        }
        Ok(())
    }

    fn udp_scrape(&self, worker: &Worker, datagram: &[u8], reply: &mut Vec<u8>) -> Result<(), (Outcome, &'static str)> {
        let (info_hashes, _) = datagram[HEADER_LEN..].as_chunks::<20>();
        if info_hashes.is_empty() {
            return Err((Outcome::Bad, "a scrape names a torrent"));
        }
        put_u32(reply, ACTION_SCRAPE);
        reply.extend_from_slice(&datagram[12..16]);
        for info_hash in info_hashes.iter().take(SCRAPE_MAX).map(|hash| InfoHash(*hash)) {
            // The reply has a place for each: one that is not served has nobody.
            let counts = if worker.access.allows(&info_hash) {
                self.store.scrape(&info_hash)
            } else {
                Default::default()
            };
            put_u32(reply, u32_of(counts.complete));
            put_u32(reply, counts.downloaded);
            put_u32(reply, u32_of(counts.incomplete));
        }
        Ok(())
    }

    /// The host name in the URL that an announce's options carry (BEP 41), if there is one and it is allowed. The URL's
    /// parts are put together in `url`, the name in `name`.
    fn udp_hostname<'a>(&self, options: &[u8], url: &mut Vec<u8>, name: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if options.is_empty() || self.settings.hostname_allow.is_empty() {
            return None;
        }
        url.clear();
        let mut rest = options;
        loop {
            rest = match *rest {
                [] | [OPTION_END, ..] => break,
                [OPTION_NOP, ref rest @ ..] => rest,
                [option, len, ref rest @ ..] if rest.len() >= usize::from(len) => {
                    let (data, rest) = rest.split_at(usize::from(len));
                    if option == OPTION_URL_DATA {
                        url.extend_from_slice(data);
                    }
                    rest
                }
                _ => return None, // Cut off.
            };
        }
        let name = query::decode_hostname(query::hostname_in_url(url)?, name)?;
        self.settings.hostname_allow.allows(name).then_some(name)
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Numbers beyond what a field can hold are told as the greatest it can.
fn u32_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
