//! What connections say: the handshake, then messages.

use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::conn::{Conn, PeerConn, Phase};
use super::deadlines::ticks;
use super::download::Who;
use super::ended::Reason;
use super::gone::Gone;
use super::held::searched_for;
use super::leech::Took;
use super::upload::Upload;
use crate::io::{Driver, Errno, Owner, Received};
use crate::proto::InfoHash;
use crate::proto::extension::{self, ExtensionHandshake, Extensions};
use crate::proto::geometry::{BlockRequest, PieceIndex};
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved, prefix_ok};
use crate::proto::peer::{Event, Peer, REQUEST_QUEUE_MAX, Refusal};
use crate::proto::rate::Rate;
use crate::proto::wire::{self, Decoder, Message};

/// How long the bitfield is held back at most, for a peer that owes us a message first (BEP 6: each side sends its
/// pieces right after the handshake).
const GREET_TICKS: u64 = ticks(2);

/// Small messages that may wait for a peer who does not take them, beside the bitfield.
const OUT_LEN_MAX: usize = 128 * 1024;

/// A reject on the wire: length, id, index, begin, length.
const REJECT_LEN: usize = 4 + 1 + 4 + 4 + 4;

// Rejects for a whole queue, three times over, are no flood.
const _: () = assert!(3 * REQUEST_QUEUE_MAX * REJECT_LEN < OUT_LEN_MAX);

/// How much of them that is for a torrent of so many pieces.
pub(super) const fn out_len_max(piece_count: u32) -> usize {
    OUT_LEN_MAX + piece_count as usize / 8
}

/// What is to be done about a message beyond its own connection.
enum After {
    Nothing,
    Interested,
    NotInterested,
    /// It said which pieces it has.
    Pieces,
    /// It has one more.
    Has(PieceIndex),
    Choked,
    Unchoked,
    Rejected(BlockRequest),
    Took(Took),
    End(Reason),
}

impl<D: Driver> Shard<D> {
    /// Bytes have come, or the stream has ended.
    pub(super) fn on_received(&mut self, owner: Owner, result: Result<Received, Errno>, more: bool) {
        let Some(conn) = self.conns.get_mut(owner) else {
            // The connection was ended, and a buffer returns to its ring; or it is none of a peer's.
            return self.on_tracker_received(owner, result, more);
        };
        if !more {
            conn.receive = None;
        }
        if matches!(conn.phase, Phase::Leaving { .. }) {
            if let Ok(Received::Data(bytes)) = &result {
                self.on_leaving_bytes(owner, bytes);
            }
            if !more {
                // Whatever ended it: the home finds out what.
                self.leave(owner);
            }
            return;
        }
        match result {
            Ok(Received::Data(bytes)) => {
                conn.received_at = self.tick;
                self.counters.received_bytes += bytes.len() as u64;
                if conn.has_been_heard_enough(self.counters.turns, &mut self.crowd) {
                    self.hold(owner, &bytes);
                } else {
                    self.on_bytes(owner, &bytes);
                }
            }
            Ok(Received::Eof) => return self.end(owner, Reason::Eof, None),
            // No buffer was free, or the receive was cancelled unasked or interrupted: armed again at the turn's end, when
            // the buffers of this turn have returned.
            Err(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return self.end(owner, Reason::of_socket(errno), Some(errno)),
        }
        if !more {
            self.unarmed.push(owner);
        }
    }

    pub(super) fn on_bytes(&mut self, owner: Owner, mut bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.ends.is_some() {
            return;
        }
        if let Phase::Handshake { bytes: got, len } = &mut conn.phase {
            let start = usize::from(*len);
            let taken = bytes.len().min(HANDSHAKE_LEN - start);
            got[start..start + taken].copy_from_slice(&bytes[..taken]);
            *len += taken as u8;
            bytes = &bytes[taken..];
            let got = &got[..usize::from(*len)];
            if !prefix_ok(got) {
                return self.end(owner, Reason::NotAHandshake, None);
            }
            let Ok(whole) = <&[u8; HANDSHAKE_LEN]>::try_from(got) else {
                return;
            };
            match Handshake::decode(whole) {
                Ok(handshake) => self.on_handshake(owner, handshake),
                Err(_) => return self.end(owner, Reason::NotAHandshake, None),
            }
        }
        if bytes.is_empty() {
            return;
        }
        match self.conns.get(owner).map(|conn| &conn.phase) {
            Some(Phase::Leaving { .. }) => self.on_leaving_bytes(owner, bytes),
            Some(Phase::Waiting { .. }) => self.on_waiting_bytes(owner, bytes),
            _ => self.on_messages(owner, bytes),
        }
    }

    fn on_handshake(&mut self, owner: Owner, theirs: Handshake) {
        let Some(served) = self.torrents.get(&theirs.info_hash).cloned() else {
            return self.await_torrent(owner, theirs.info_hash);
        };
        if theirs.peer_id == self.settings.peer_id {
            return self.on_ourselves(owner, theirs.info_hash);
        }
        let Some(conn) = self.conns.get(owner) else {
            return;
        };
        let who = Who {
            ip: conn.addr.ip(),
            id: theirs.peer_id,
        };
        let we_dialed = conn.dialed.is_some();
        if let Some(dialed) = &conn.dialed
            && dialed.served.number != served.number
        {
            return self.end(owner, Reason::UnknownInfoHash, None);
        }
        let torrent = &served.torrent;
        if let Some(home) = torrent.home().filter(|home| *home != self.settings.index) {
            return self.hand_over(owner, home);
        }
        let max = self.settings.limits.caps().per_torrent;
        if torrent.connections.fetch_add(1, Relaxed) as usize >= max {
            torrent.connections.fetch_sub(1, Relaxed);
            return self.end(owner, Reason::TorrentFull, None);
        }
        let ours = Handshake {
            reserved: Reserved::OURS,
            info_hash: theirs.info_hash,
            peer_id: self.settings.peer_id,
        };
        let peer = Peer::new(ours.reserved, theirs.reserved, self.now);
        let hold = peer.fast();
        let decoder = Decoder::new(wire::len_max(torrent.geometry().piece_count()));
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if !we_dialed {
            conn.out.extend_from_slice(&ours.encode());
        }
        conn.phase = Phase::Peer(PeerConn {
            served,
            id: theirs.peer_id,
            peer,
            decoder,
            held: Vec::new(),
            greet_at: Some(self.tick + GREET_TICKS),
            upload: Upload::default(),
            gone: Gone::default(),
            rate: Rate::new(self.now),
            uploaded_since_unchoke: 0,
            leech: None,
        });
        self.peers += 1;
        if let Err(reason) = self.begin_leeching(owner, who) {
            return self.end(owner, reason, None);
        }
        match hold && !we_dialed {
            true => self.wake_at(owner, self.tick + GREET_TICKS),
            false => self.greet(owner),
        }
        self.touch(owner);
    }

    /// The other end is ours too. The end that has made the connection must hear it, or it would make it again and again.
    fn on_ourselves(&mut self, owner: Owner, info_hash: InfoHash) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.dialed.is_some() {
            return self.end(owner, Reason::OwnPeerId, None);
        }
        let ours = Handshake {
            reserved: Reserved::OURS,
            info_hash,
            peer_id: self.settings.peer_id,
        };
        conn.out.extend_from_slice(&ours.encode());
        conn.ends = Some(Reason::OwnPeerId);
        self.touch(owner);
    }

    /// Says which pieces we have and what we speak, once.
    pub(super) fn greet(&mut self, owner: Owner) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let ip = conn.addr.ip();
        let Phase::Peer(peer) = &mut conn.phase else {
            return;
        };
        if peer.greet_at.take().is_none() {
            return;
        }
        let torrent = &peer.served.torrent;
        let out = &mut conn.out;
        match (torrent.have_count(), peer.peer.fast()) {
            (0, true) => wire::encode(&Message::HaveNone, out),
            (0, false) => {} // BEP 3: may be left out.
            (_, true) if torrent.is_complete() => wire::encode(&Message::HaveAll, out),
            _ => wire::encode(&Message::Bitfield(&torrent.bitfield()), out),
        }
        if peer.peer.speaks_extension() {
            let mut payload = Vec::new();
            ExtensionHandshake {
                m: Extensions::OURS,
                v: Some(concat!("btd ", env!("CARGO_PKG_VERSION")).to_owned()),
                reqq: Some(REQUEST_QUEUE_MAX as u32),
                // BEP 21: a torrent that is not being downloaded stays as it is.
                upload_only: torrent.is_complete() || torrent.home().is_none(),
                yourip: Some(ip),
                p: None,
                metadata_size: None,
            }
            .encode(&mut payload);
            let id = extension::HANDSHAKE_ID;
            wire::encode(&Message::Extended { id, payload: &payload }, out);
        }
        self.touch(owner);
    }

    pub(super) fn on_messages(&mut self, owner: Owner, mut bytes: &[u8]) {
        self.greet(owner);
        if self.conns.get(owner).is_some_and(Conn::is_held) {
            return self.hold(owner, bytes);
        }
        let now = self.now;
        let searched_max = self.crowd.searched_max(self.counters.turns);
        loop {
            let Some(conn) = self.conns.get_mut(owner) else {
                return;
            };
            if conn.searched >= searched_max && !bytes.is_empty() {
                return self.stop_hearing(owner, bytes);
            }
            let Conn {
                phase, out, searched, ..
            } = conn;
            let Phase::Peer(peer) = phase else {
                return;
            };
            let PeerConn {
                served,
                peer,
                decoder,
                upload,
                gone,
                leech,
                ..
            } = peer;
            if !peer.fast() && peer.request_count() >= REQUEST_QUEUE_MAX && !bytes.is_empty() {
                return self.hold(owner, bytes);
            }
            let message = match decoder.next(&mut bytes) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => return self.end(owner, Reason::MessageTooLong, None),
            };
            self.counters.received_messages += 1;
            let count = searched_for(&message, peer.request_count());
            *searched += count;
            self.crowd.on_searched(count);
            let torrent = &served.torrent;
            let mut download = match leech {
                Some(_) => self.downloads.get_mut(&served.number),
                None => None,
            };
            // What it says that it has takes the place of what it had.
            let is_told_anew = matches!(message, Message::Bitfield(_) | Message::HaveAll | Message::HaveNone);
            let had = (is_told_anew && download.is_some()).then(|| peer.pieces().clone());
            let event = peer.on_message(&message, torrent.geometry(), |piece| torrent.has(piece), now);
            if let (Some(download), Some(had)) = (download.as_mut(), had) {
                download.picker.on_pieces_told(&had, peer.pieces());
            }
            let after = match event {
                Err(violation) => After::End(Reason::Violation(violation)),
                Ok(Event::Request(request)) => {
                    // Asked for again while it waits for a buffer: it is sent once.
                    upload.forget_unstaged(&request);
                    upload.on_request(now);
                    After::Nothing
                }
                Ok(Event::Refused { request, why }) => {
                    self.counters.requests_refused += 1;
                    match why {
                        Refusal::PieceNotHad => match gone.answer(peer, &request, out) {
                            true => After::Nothing,
                            false => After::End(Reason::PieceWithdrawn),
                        },
                        Refusal::Choked | Refusal::QueueFull => {
                            if peer.fast() {
                                wire::encode(&Message::reject(&request), out);
                            }
                            After::Nothing
                        }
                    }
                }
                Ok(Event::Cancelled(request)) => {
                    upload.on_cancel();
                    if peer.fast() {
                        wire::encode(&Message::reject(&request), out);
                    }
                    After::Nothing
                }
                Ok(Event::CancelUnknown(request)) => {
                    if upload.forget_unstaged(&request) && peer.fast() {
                        wire::encode(&Message::reject(&request), out);
                    }
                    After::Nothing
                }
                Ok(Event::Interested) => After::Interested,
                Ok(Event::NotInterested) => After::NotInterested,
                Ok(Event::Pieces | Event::Have(_)) if peer.is_seed() && torrent.is_complete() => {
                    After::End(Reason::BothSeeds)
                }
                Ok(Event::Pieces) => After::Pieces,
                Ok(Event::Have(piece)) => After::Has(piece),
                Ok(Event::Choked) => After::Choked,
                Ok(Event::Unchoked) => After::Unchoked,
                Ok(Event::Rejected(block)) => After::Rejected(block),
                Ok(Event::Block { block, data }) => match (leech, download) {
                    (Some(leech), Some(download)) => {
                        let block = (block, data);
                        match leech.on_block(download, &mut self.assembly, &mut self.counters, block, now) {
                            Some(took) => After::Took(took),
                            None => After::End(Reason::BlockFlood),
                        }
                    }
                    // Asked for before the last piece was here.
                    _ => {
                        self.counters.downloaded_bytes += data.len() as u64;
                        self.counters.wasted_bytes += data.len() as u64;
                        After::Nothing
                    }
                },
                Ok(Event::Suggested(piece)) => {
                    if let Some(leech) = leech {
                        leech.on_suggested(piece);
                    }
                    After::Nothing
                }
                Ok(Event::AllowedFast(piece)) => {
                    if let Some(leech) = leech {
                        leech.on_allowed_fast(piece);
                    }
                    After::Nothing
                }
                Ok(Event::ExtensionHandshake) => {
                    let reqq = peer.extension().and_then(|theirs| theirs.reqq);
                    if let (Some(leech), Some(reqq)) = (leech, reqq) {
                        leech.depth.set_reqq(reqq);
                    }
                    After::Nothing
                }
                Ok(
                    Event::None
                    | Event::Duplicate(_)
                    | Event::UploadOnly(_)
                    | Event::Extended { .. }
                    | Event::DhtPort(_),
                ) => After::Nothing,
            };
            // The peer has changed already: its interest is counted before anything may end the connection, which
            // counts it out again.
            let flood = out.len() > out_len_max(torrent.geometry().piece_count());
            match after {
                After::Nothing => {}
                After::Interested => self.on_interested(owner),
                After::NotInterested => self.on_not_interested(),
                After::Pieces => self.look_for_interest(owner),
                After::Has(piece) => self.on_peer_has(owner, piece),
                After::Choked => self.on_choked(owner),
                After::Unchoked => self.on_unchoked(owner),
                After::Rejected(block) => self.on_rejected(owner, &block),
                After::Took(took) => self.on_took(owner, took),
                After::End(reason) => return self.end(owner, reason, None),
            }
            if flood {
                return self.end(owner, Reason::ReplyFlood, None);
            }
        }
        self.touch(owner);
    }
}
