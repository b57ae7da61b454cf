//! Peers that are no btd, and do as they please: a liar, one that is slow, one that goes in the middle, one that sends what
//! is no protocol. They are part of what goes wrong, and leave when nothing does any more.

use std::collections::BTreeMap;

use super::plan::Bad;
use super::random::Random;
use super::world::{Event, World};
use super::{MILLISECOND, SECOND};
use crate::io::Ending;
use crate::proto::PeerId;
use crate::proto::bitfield::Bitfield;
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use crate::proto::wire::{self, Decoder, Message};

/// Connections that one makes of itself, at most.
const DIALS_MAX: u32 = 6;

/// What was asked for: piece, where in it, how many bytes.
type Asked = (u32, u32, u32);

#[derive(Debug)]
struct Talk {
    handshake: Vec<u8>,
    greeted: bool,
    decoder: Decoder,
    /// What is to be sent then.
    owed: Vec<(u64, Asked)>,
    sent: u32,
    over: bool,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) host: usize,
    bad: Bad,
    random: Random,
    talks: BTreeMap<u64, Talk>,
    dials: u32,
    /// When it looks whom to connect to.
    looks_at: u64,
    /// When it sends next.
    wakes_at: u64,
    pub(super) gone: bool,
}

impl Script {
    pub(super) fn new(host: usize, bad: Bad, random: Random) -> Self {
        Self {
            host,
            bad,
            random,
            talks: BTreeMap::new(),
            dials: 0,
            looks_at: 0,
            wakes_at: 0,
            gone: false,
        }
    }

    /// Does what there is to be done now.
    pub(super) fn act(&mut self, world: &mut World) {
        if self.gone {
            return;
        }
        while let Some((id, _)) = world.hosts[self.host].backlog.pop_front() {
            self.begin(id);
        }
        if self.bad != Bad::Slow && self.dials < DIALS_MAX && self.looks_at <= world.now {
            self.looks_at = world.now + 2 * SECOND;
            world.at(self.looks_at, Event::Script { host: self.host });
            self.dials += 1;
            let id = world.new_end(self.host);
            let to = self.random.below(world.plan.nodes);
            world.knock(id, world.hosts[to].addr);
            self.begin(id);
        }
        let ids: Vec<u64> = self.talks.keys().copied().collect();
        for id in ids {
            self.talk(world, id);
        }
        self.talks.retain(|_, talk| !talk.over);
    }

    fn begin(&mut self, id: u64) {
        let talk = Talk {
            handshake: Vec::new(),
            greeted: false,
            decoder: Decoder::new(1 << 20),
            owed: Vec::new(),
            sent: 0,
            over: false,
        };
        self.talks.insert(id, talk);
    }

    /// Leaves for good.
    pub(super) fn leave(&mut self, world: &mut World) {
        self.gone = true;
        for id in std::mem::take(&mut self.talks).into_keys() {
            world.shut(id, Ending::Reset);
        }
        let host = &mut world.hosts[self.host];
        host.up = false;
        let waiting: Vec<u64> = host.backlog.drain(..).map(|(id, _)| id).collect();
        waiting.into_iter().for_each(|id| world.shut(id, Ending::Reset));
    }

    fn talk(&mut self, world: &mut World, id: u64) {
        let end = &world.ends[&id];
        if end.reset || end.closed || end.ended {
            world.shut(id, Ending::Orderly);
            if let Some(talk) = self.talks.get_mut(&id) {
                talk.over = true;
            }
            return;
        }
        if end.peer.is_none() {
            return; // It is being made.
        }
        let len = end.incoming.len();
        let bytes = world.take(id, len);
        let now = world.now;
        let Some(talk) = self.talks.get_mut(&id) else { return };
        let mut out = Vec::new();
        if !std::mem::replace(&mut talk.greeted, true) {
            let mut peer_id = *b"-XX0001-script-.....";
            peer_id[15] = self.host as u8;
            let handshake = Handshake {
                reserved: Reserved([0; 8]),
                info_hash: world.subject.meta.info_hash,
                peer_id: PeerId(peer_id),
            };
            out.extend(handshake.encode());
            let all = Bitfield::full(world.subject.meta.geometry.piece_count());
            wire::encode(&Message::Bitfield(all.as_bytes()), &mut out);
            wire::encode(&Message::Unchoke, &mut out);
        }
        let mut rest = &bytes[..];
        let missing = HANDSHAKE_LEN - talk.handshake.len();
        let (front, tail) = rest.split_at(missing.min(rest.len()));
        talk.handshake.extend_from_slice(front);
        rest = tail;
        while let Ok(Some(message)) = talk.decoder.next(&mut rest) {
            if let Message::Request { piece, begin, length } = message {
                let after = match self.bad {
                    Bad::Slow => self.random.within(2 * SECOND, 9 * SECOND),
                    _ => self.random.within(0, 20 * MILLISECOND),
                };
                talk.owed.push((now + after, (piece, begin, length)));
            }
        }
        let due: Vec<Asked> = talk
            .owed
            .iter()
            .filter(|(at, _)| *at <= now)
            .map(|(_, asked)| *asked)
            .collect();
        talk.owed.retain(|(at, _)| *at > now);
        for (piece, begin, length) in due {
            let index = world.subject.meta.geometry.check(piece, begin, length);
            let Some(block) = index else { continue };
            let start = world.subject.meta.geometry.piece_offset(block.piece()) as usize + begin as usize;
            let mut data = world.subject.payload[start..start + length as usize].to_vec();
            if self.bad == Bad::Liar && self.random.percent(70) {
                let at = self.random.below(data.len());
                data[at] ^= 0x55;
            }
            let before = out.len();
            wire::encode(
                &Message::Piece {
                    piece,
                    begin,
                    data: &data,
                },
                &mut out,
            );
            talk.sent += 1;
            if self.bad == Bad::Quitter && talk.sent > 2 {
                out.truncate(before + self.random.below(out.len() - before));
                talk.over = true;
                break;
            }
        }
        if self.bad == Bad::Garbage && self.random.percent(60) {
            let garbage = match self.random.below(3) {
                0 => self.random.bytes(40),
                1 => vec![0xff; 9],
                _ => vec![0, 0, 0, 5, 4, 0xff, 0xff, 0xff, 0xff],
            };
            out.extend(garbage);
        }
        let next = talk.owed.iter().map(|(at, _)| *at).min();
        let over = talk.over;
        if !out.is_empty() {
            world.send(id, out);
        }
        if over {
            let ending = if self.random.percent(50) {
                Ending::Reset
            } else {
                Ending::Orderly
            };
            world.shut(id, ending);
        }
        if let Some(at) = next
            && (self.wakes_at <= now || at < self.wakes_at)
        {
            self.wakes_at = at;
            let host = self.host;
            world.at(at, Event::Script { host });
        }
    }
}
