//! A torrent that is being downloaded, as its home shard knows it: what is under way from whom, what is written, and who
//! lied. What a connection knows is in [`super::leech`]; bytes are in [`super::assembly`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::assembly::Assembly;
use super::conn::Served;
use super::dial::Dial;
use super::early::RUN_LEN;
use super::events::Event;
use crate::io::Owner;
use crate::proto::PeerId;
use crate::proto::blame::{Blame, Given};
use crate::proto::depth::DEPTH_MIN;
use crate::proto::geometry::{BLOCK_LEN, BlockRequest, PieceIndex};
use crate::proto::picker::{PeerKey, Picker};

/// Peers that are remembered after they have left: each takes some 60 bytes.
const REMEMBERED_MAX: usize = 20_000;

/// Pieces that a peer of which nothing is known may begin.
const BEGUN_MIN: u32 = 2;

/// So many of one address are convicted before the address is: several may be behind it.
const CONVICTS_PER_IP: u32 = 3;

/// Who a peer is, over its connections. Of the address alone, all behind one router would be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Who {
    pub(super) ip: IpAddr,
    pub(super) id: PeerId,
}

/// Whether there are files to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// Nobody has asked for them yet.
    Unmade,
    /// They are being made.
    Asked,
    /// They could not be made: to be asked for again at this tick.
    Failed(u64),
    /// There they are.
    Made,
}

/// The disk takes nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    /// The tick at which it is tried again.
    pub(super) retry_at: u64,
    /// No write waits for it: what could not be had is asked for anew then.
    pub(super) asks_anew: bool,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) served: Rc<Served>,
    pub(super) picker: Picker,
    blame: Blame<PeerKey>,
    /// Numbers of the peers, by who they are.
    keys: HashMap<Who, PeerKey>,
    next_key: PeerKey,
    convicts: HashMap<IpAddr, u32>,
    /// How many right pieces each has given blocks of.
    proven: HashMap<PeerKey, u32>,
    /// Those that are connected.
    pub(super) peers: BTreeMap<PeerKey, Owner>,
    pub(super) dial: Dial,
    pub(super) files: Files,
    pub(super) stall: Option<Stall>,
    /// Writes that wait for the disk to take something again.
    pub(super) stuck: Vec<Owner>,
    /// Pieces that are not written yet, of each file.
    left: Vec<u32>,
    dirty: BTreeSet<u32>,
    complete: BTreeSet<u32>,
    /// Payload bytes that came since the last tick.
    pub(super) downloaded: u64,
    /// Peers that send nothing of what they were asked for.
    pub(super) silent: Vec<PeerKey>,
    /// Since when every missing block has been asked for.
    pub(super) endgame_since: Option<Instant>,
    /// When a block came last that was missing.
    pub(super) new_block_at: Option<Instant>,
    /// When was last told what is written.
    pub(super) told_at: u64,
    /// Pieces that are verified and not written.
    pub(super) writing: usize,
    /// Bytes of memory that are reserved.
    held: u64,
    /// Pieces are so long that they are written before they are whole.
    pub(super) early: bool,
    /// For hashes of blocks that nobody can foresee.
    secret: std::hash::RandomState,
}

impl Download {
    pub(super) fn new(served: Rc<Served>, seed: u64, tick: u64) -> Download {
        let torrent = &served.torrent;
        let (geometry, have) = (*torrent.geometry(), torrent.have());
        let mut left = vec![0; torrent.meta().files.len()];
        for piece in geometry.pieces().filter(|piece| !have.get(*piece)) {
            for span in torrent
                .layout()
                .spans(geometry.piece_offset(piece), geometry.piece_len(piece).into())
            {
                left[span.file as usize] += 1;
            }
        }
        // Those that were complete when btd was stopped, and had not got their names.
        let complete = (0..)
            .zip(&left)
            .filter(|(file, left)| **left == 0 && torrent.is_part(*file));
        Download {
            complete: complete.map(|(file, _)| file).collect(),
            picker: Picker::new(geometry, have, 0, seed),
            blame: Blame::default(),
            keys: HashMap::new(),
            next_key: 0,
            convicts: HashMap::new(),
            proven: HashMap::new(),
            peers: BTreeMap::new(),
            dial: Dial::default(),
            files: Files::Unmade,
            stall: None,
            stuck: Vec::new(),
            left,
            dirty: BTreeSet::new(),
            downloaded: 0,
            silent: Vec::new(),
            endgame_since: None,
            new_block_at: None,
            told_at: tick,
            writing: 0,
            held: 0,
            early: false,
            secret: std::hash::RandomState::new(),
            served,
        }
    }

    /// The number of a peer. `None` for one that is shut out.
    pub(super) fn key_of(&mut self, who: Who) -> Option<PeerKey> {
        if self
            .convicts
            .get(&who.ip)
            .is_some_and(|count| *count >= CONVICTS_PER_IP)
        {
            return None;
        }
        if let Some(&key) = self.keys.get(&who) {
            return (!self.blame.is_convicted(&key)).then_some(key);
        }
        if self.keys.len() >= REMEMBERED_MAX {
            let (blame, peers) = (&self.blame, &self.peers);
            let is_needed =
                |key: &PeerKey| peers.contains_key(key) || blame.is_convicted(key) || blame.is_on_parole(key);
            self.keys.retain(|_, key| is_needed(key));
            self.proven.retain(|key, _| is_needed(key));
        }
        let key = self.next_key;
        self.next_key += 1;
        self.keys.insert(who, key);
        Some(key)
    }

    /// How many pieces of its own a peer may have that are not verified: of one that nothing is known of two, so that a
    /// liar spoils no more before it is found out, and twice as many with each that was right. Never less than the requests
    /// that a peer is to have under way.
    pub(super) fn begun_max(&self, key: PeerKey) -> usize {
        let least = self.pieces_asked_min().max(BEGUN_MIN);
        let proven = self.proven.get(&key).copied().unwrap_or(0);
        (least as usize) << proven.min(16)
    }

    /// How many pieces that are not verified a peer may have part in, where `pieces_max` may be begun. One that nothing is known of,
    /// or that is suspected, has part in one where not each has room for its own: if it lies, that one turns out wrong, and then
    /// the first that it is to prove itself with, and no third.
    pub(super) fn stakes_max(&self, key: PeerKey, pieces_max: usize) -> usize {
        let is_room_for_all = !self.early && pieces_max >= BEGUN_MIN as usize * self.peers.len();
        let shares = self.peers.len() > 1 && !is_room_for_all && !self.is_proven(key);
        match shares || self.is_on_parole(key) {
            true => self.pieces_asked_min() as usize,
            false => usize::MAX,
        }
    }

    /// Pieces that are as long as the requests that any peer is to have under way.
    fn pieces_asked_min(&self) -> u32 {
        let piece_len = self.served.torrent.geometry().piece_len_max();
        (DEPTH_MIN * BLOCK_LEN).div_ceil(piece_len)
    }

    /// Whether a peer has given blocks of a piece that was right.
    pub(super) fn is_proven(&self, key: PeerKey) -> bool {
        self.proven.contains_key(&key) && !self.blame.is_on_parole(&key)
    }

    /// Whether a peer is to prove itself.
    pub(super) fn is_on_parole(&self, key: PeerKey) -> bool {
        self.blame.is_on_parole(&key)
    }

    /// A peer will not send a block that it was asked for. Whether it had been.
    pub(super) fn give_back(&mut self, assembly: &mut Assembly, key: PeerKey, block: &BlockRequest) -> bool {
        let was_asked = self.picker.give_back(key, block);
        // All that came of the piece was a liar's: no memory is reserved for it any more.
        if self.early && !self.picker.is_begun(block.piece()) {
            assembly.early.forget(self.served.number, block.piece());
        }
        was_asked
    }

    /// Sees to it that the memory of what was begun is reserved, and no other. True when some came free.
    pub(super) fn account(&mut self, assembly: &mut Assembly) -> bool {
        let held = match self.early {
            false => {
                let pieces = (self.picker.partial_count() + self.writing) as u64;
                pieces * u64::from(self.served.torrent.geometry().piece_len_max())
            }
            true => {
                let runs = self.picker.partial_count() as u64 * u64::from(RUN_LEN);
                let asked = u64::from(self.picker.asked_blocks()) * u64::from(BLOCK_LEN);
                runs + asked + assembly.early.bytes(self.served.number)
            }
        };
        self.reserve(assembly, held)
    }

    fn reserve(&mut self, assembly: &mut Assembly, held: u64) -> bool {
        let before = std::mem::replace(&mut self.held, held);
        let more = held as i64 - before as i64;
        match self.early {
            true => assembly.reserve_early(more),
            false => assembly.reserve(more),
        }
        before > held
    }

    /// Gives back all memory that is reserved, and tells how much has come: the torrent leaves, or is complete.
    pub(super) fn release(&mut self, assembly: &mut Assembly) {
        self.reserve(assembly, 0);
        assembly.forget_all(self.served.number);
        self.publish();
    }

    /// Tells all who look at the torrent how much of it has come. Once a tick, and at the end.
    pub(super) fn publish(&mut self) {
        match std::mem::take(&mut self.downloaded) {
            0 => {}
            bytes => self.served.torrent.count_downloaded(bytes),
        }
    }

    /// Whether it matters what the blocks of a piece are that is right.
    pub(super) fn is_suspicious(&self, piece: PieceIndex) -> bool {
        self.blame.is_about(piece.get(), &self.givers(piece))
    }

    fn givers(&self, piece: PieceIndex) -> Vec<PeerKey> {
        let mut givers = self.picker.givers(piece);
        givers.sort_unstable();
        givers.dedup();
        givers
    }

    /// A piece is right. Gives who is convicted by it of having sent something else before, if it is known what each of its
    /// blocks is ([`Download::hash_of`]).
    pub(super) fn on_good(&mut self, piece: PieceIndex, blocks: Option<Vec<u64>>) -> Vec<PeerKey> {
        let convicted = match blocks {
            None => Vec::new(),
            Some(blocks) => self.blame.on_right(piece.get(), &self.given(piece, blocks)),
        };
        for giver in self.givers(piece) {
            *self.proven.entry(giver).or_default() += 1;
        }
        self.picker.on_verified(piece);
        self.writing += 1;
        convicted
    }

    /// A piece is wrong. Gives who is convicted by it.
    pub(super) fn on_bad(&mut self, piece: PieceIndex, blocks: Vec<u64>) -> Option<PeerKey> {
        let given = self.given(piece, blocks);
        self.picker.on_failed(piece);
        self.blame.on_wrong(piece.get(), given)
    }

    /// Whose blocks a piece is made of.
    fn given(&self, piece: PieceIndex, blocks: Vec<u64>) -> Vec<Given<PeerKey>> {
        let givers = self.picker.givers(piece);
        std::iter::zip(givers, blocks)
            .map(|(giver, hash)| Given { giver, hash })
            .collect()
    }

    /// By what a block is told from another.
    pub(super) fn hash_of(&self, block: &[u8]) -> u64 {
        use std::hash::BuildHasher;
        self.secret.hash_one(block)
    }

    /// The same for all blocks of a piece.
    pub(super) fn hashes_of(&self, bytes: &Bytes) -> Vec<u64> {
        let blocks = bytes.chunks(BLOCK_LEN as usize);
        blocks.map(|block| self.hash_of(block)).collect()
    }

    /// A peer is convicted: it comes back no more. Gives its connection.
    pub(super) fn shut_out(&mut self, key: PeerKey) -> Option<Owner> {
        let who = self.keys.iter().find(|(_, of)| **of == key).map(|(who, _)| *who);
        if let Some(who) = who {
            *self.convicts.entry(who.ip).or_default() += 1;
        }
        self.picker.on_convicted(key);
        self.peers.get(&key).copied()
    }

    /// A piece is written.
    pub(super) fn on_written(&mut self, piece: PieceIndex) {
        self.writing -= 1;
        let torrent = &self.served.torrent;
        torrent.grant(piece);
        let geometry = torrent.geometry();
        for span in torrent
            .layout()
            .spans(geometry.piece_offset(piece), geometry.piece_len(piece).into())
        {
            let left = &mut self.left[span.file as usize];
            *left -= 1;
            if !span.pad {
                self.dirty.insert(span.file);
                if *left == 0 {
                    self.complete.insert(span.file);
                }
            }
        }
    }

    /// How much of the torrent is not on the disk, in words.
    pub(super) fn still_missing(&self) -> String {
        let torrent = &self.served.torrent;
        let (geometry, have) = (torrent.geometry(), torrent.have());
        let missing = geometry.pieces().filter(|piece| !have.get(*piece));
        let bytes: u64 = missing.map(|piece| u64::from(geometry.piece_len(piece))).sum();
        format!("{} MiB of the torrent are missing", bytes.div_ceil(1 << 20))
    }

    /// A piece that was right could not be written, and its memory is wanted: it is to be had again.
    pub(super) fn on_unwritten(&mut self, piece: PieceIndex) {
        self.writing -= 1;
        self.picker.on_lost(piece);
    }

    /// A piece that was written cannot be read any more: it is to be had again.
    pub(super) fn on_lost(&mut self, piece: PieceIndex) {
        self.picker.on_lost(piece);
        // What is recorded says that it is there. Nothing is written in its place before that has changed on the disk.
        self.files = Files::Unmade;
        let torrent = &self.served.torrent;
        let geometry = torrent.geometry();
        for span in torrent
            .layout()
            .spans(geometry.piece_offset(piece), geometry.piece_len(piece).into())
        {
            self.left[span.file as usize] += 1;
            self.complete.remove(&span.file);
        }
    }

    /// Files that nothing is missing of, which nobody was told of yet.
    pub(super) fn has_complete_files(&self) -> bool {
        !self.complete.is_empty()
    }

    /// Whether something was written that nobody was told of.
    pub(super) fn has_news(&self) -> bool {
        !self.dirty.is_empty() || self.has_complete_files()
    }

    /// What has become of it since the last time.
    pub(super) fn news(&mut self) -> Event {
        let take = |files: &mut BTreeSet<u32>| std::mem::take(files).into_iter().collect();
        Event::Written {
            info_hash: self.served.torrent.info_hash(),
            have: self.served.torrent.have(),
            files: take(&mut self.dirty),
            complete: take(&mut self.complete),
        }
    }

    /// Addresses to connect to, and whether a name has led to them.
    pub(super) fn add_peers(&mut self, addrs: &[SocketAddr], named: bool, tick: u64) {
        addrs.iter().for_each(|addr| self.dial.add(*addr, named, tick));
    }
}
