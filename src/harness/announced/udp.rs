//! A tracker over UDP (BEP 15): one thread, which keeps answers for as long as they are to take.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ledger::{Event, Ledger};
use crate::proto::InfoHash;

const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
/// Everybody has the same.
const CONNECTION: [u8; 8] = *b"measured";
/// Bytes of an announce, its options left out.
const ANNOUNCE_LEN: usize = 98;
/// How long the socket is waited for when no answer is due.
const IDLE: Duration = Duration::from_secs(1);

/// Answers until the process ends. `times` are the interval that clients are told, and how long an answer takes.
pub(super) fn serve(socket: UdpSocket, tracker: usize, ledger: Arc<Ledger>, (interval, delay): (Duration, Duration)) {
    thread::spawn(move || {
        let mut due: VecDeque<(Instant, SocketAddr, Vec<u8>)> = VecDeque::new();
        let mut buf = [0; 2048];
        loop {
            let now = Instant::now();
            while due.front().is_some_and(|(at, ..)| *at <= now) {
                if let Some((_, to, reply)) = due.pop_front() {
                    let _ = socket.send_to(&reply, to); // Whoever asked asks again.
                }
            }
            let wait = due.front().map_or(IDLE, |(at, ..)| at.saturating_duration_since(now));
            // Nought would be for ever.
            if socket
                .set_read_timeout(Some(wait.max(Duration::from_millis(1))))
                .is_err()
            {
                return;
            }
            let (len, from) = match socket.recv_from(&mut buf) {
                Ok(received) => received,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(_) => return,
            };
            let now = Instant::now();
            match answer(&buf[..len], (tracker, interval), &ledger, now) {
                Some(reply) => due.push_back((now + delay, from, reply)),
                None => ledger.other(),
            }
        }
    });
}

/// The reply to a datagram, if it is a request.
fn answer(datagram: &[u8], (tracker, interval): (usize, Duration), ledger: &Ledger, now: Instant) -> Option<Vec<u8>> {
    let (connection, rest) = datagram.split_first_chunk::<8>()?;
    let (action, rest) = rest.split_first_chunk::<4>()?;
    let (transaction, rest) = rest.split_first_chunk::<4>()?;
    let is_known = *connection == CONNECTION;
    let body = match u32::from_be_bytes(*action) {
        CONNECT if u64::from_be_bytes(*connection) == MAGIC => {
            ledger.gave_connection_id();
            CONNECTION.to_vec()
        }
        ANNOUNCE if is_known && datagram.len() >= ANNOUNCE_LEN => {
            let info_hash = InfoHash(*rest.first_chunk()?);
            let event = match datagram[83] {
                3 => Event::Stops,
                _ => Event::Comes,
            };
            ledger.announced_to(tracker, info_hash, event, false, now);
            let interval = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX);
            [interval, 0, 1].map(u32::to_be_bytes).concat()
        }
        SCRAPE if is_known => {
            ledger.scraped(tracker, false, now);
            [1, 0, 0].map(u32::to_be_bytes).concat().repeat(rest.len() / 20)
        }
        _ => return None,
    };
    Some([&action[..], transaction, &body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_answered_as_bep_15_has_it_and_nothing_else_is() {
        let hash = InfoHash([7; 20]);
        let ledger = Ledger::new(&[hash], 1);
        let now = Instant::now();
        let reply = |datagram: &[u8]| answer(datagram, (0, Duration::from_secs(1800)), &ledger, now);
        let connect = [&MAGIC.to_be_bytes()[..], &[0, 0, 0, 0, 1, 2, 3, 4]].concat();
        assert_eq!(
            reply(&connect),
            Some([&[0, 0, 0, 0, 1, 2, 3, 4], &CONNECTION[..]].concat())
        );
        let mut announce = [&CONNECTION[..], &[0, 0, 0, 1, 1, 2, 3, 4], &hash.0, &[0; 62]].concat();
        assert_eq!(announce.len(), ANNOUNCE_LEN);
        let answered = reply(&announce).unwrap();
        assert_eq!(answered, [0, 0, 0, 1, 1, 2, 3, 4, 0, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        announce[83] = 3;
        assert!(reply(&announce).is_some());
        assert_eq!((ledger.announced(), ledger.stopped()), (1, 1));
        let scrape = [&CONNECTION[..], &[0, 0, 0, 2, 1, 2, 3, 4], &hash.0, &hash.0].concat();
        assert_eq!(reply(&scrape).map(|reply| reply.len()), Some(8 + 24));
        announce[0] = 0;
        for nothing in [&announce[..], &scrape[..15], &connect[1..], &[]] {
            assert_eq!(reply(nothing), None);
        }
    }
}
