//! A torrent as all shards share it: what never changes, and the bits of the pieces we have.

use std::ffi::CString;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use super::pace::Pace;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::metainfo::Metainfo;
use crate::proto::{InfoHash, bitfield};
use crate::storage::layout::Layout;
use crate::storage::root::Root;

/// No file is of the year 1677.
const UNKNOWN: i64 = i64::MIN;

/// A torrent that is served. Shared by the shards without locks: a piece that can no longer be read is withdrawn by
/// clearing its bit, and nothing else changes.
#[derive(Debug)]
pub struct Torrent {
    meta: Metainfo,
    layout: Layout,
    root: Arc<Root>,
    /// Bits of the pieces we have, in the order of the bitfield message within each word's bytes.
    have: Box<[AtomicU64]>,
    have_count: AtomicU32,
    /// When each file was modified, as it was judged: ns since 1970, [`UNKNOWN`] where that is not to be relied on.
    modified: Box<[i64]>,
    /// A file was found to be another than the one that was judged.
    changed: AtomicBool,
    /// Connections past the handshake, on all shards.
    pub(super) connections: AtomicU32,
    /// Its own upload rate, if it has one.
    pace: OnceLock<Box<Pace>>,
    /// Why the first piece was withdrawn. Written when a disk fails, read by those who ask.
    fault: Mutex<Option<String>>,
}

impl Torrent {
    /// A torrent whose payload lies beneath `root`, with the pieces that were found right, and when each file was modified
    /// (ns since 1970) if that is known: a file of another time is not served.
    ///
    /// # Panics
    /// When `have` is of another torrent: its piece count differs.
    #[must_use]
    pub fn new(meta: Metainfo, root: Arc<Root>, have: &Bitfield, modified: &[Option<i64>]) -> Arc<Torrent> {
        assert_eq!(
            have.piece_count(),
            meta.geometry.piece_count(),
            "bitfield of another torrent"
        );
        let layout = Layout::new(&meta);
        let words = have
            .as_bytes()
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                AtomicU64::new(u64::from_be_bytes(word))
            })
            .collect();
        Arc::new(Torrent {
            have: words,
            have_count: AtomicU32::new(have.count()),
            modified: modified.iter().map(|time| time.unwrap_or(UNKNOWN)).collect(),
            changed: AtomicBool::new(false),
            layout,
            meta,
            root,
            connections: AtomicU32::new(0),
            pace: OnceLock::new(),
            fault: Mutex::new(None),
        })
    }

    /// The info-hash.
    #[must_use]
    pub fn info_hash(&self) -> InfoHash {
        self.meta.info_hash
    }

    /// The torrent file's contents.
    #[must_use]
    pub fn meta(&self) -> &Metainfo {
        &self.meta
    }

    /// Where pieces and blocks lie.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.meta.geometry
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// A file's path below the data folder, as the kernel takes it.
    pub(super) fn path(&self, file: u32) -> Option<CString> {
        CString::new(self.meta.files[file as usize].path.as_str()).ok()
    }

    /// Whether the piece is served.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        let (word, mask) = place(piece);
        self.have[word].load(Relaxed) & mask != 0
    }

    /// Pieces that are served.
    #[must_use]
    pub fn have_count(&self) -> u32 {
        self.have_count.load(Relaxed)
    }

    /// Whether all pieces are served.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.have_count() == self.geometry().piece_count()
    }

    /// The bitfield message's bytes.
    pub(super) fn bitfield(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .have
            .iter()
            .flat_map(|word| word.load(Relaxed).to_be_bytes())
            .collect();
        bytes.truncate(bitfield::byte_len(self.geometry().piece_count()));
        bytes
    }

    /// Stops serving a piece that cannot be read. Returns whether it was served before.
    pub(super) fn withdraw(&self, piece: PieceIndex, why: &str) -> bool {
        let (word, mask) = place(piece);
        let before = self.have[word].fetch_and(!mask, Relaxed);
        if before & mask == 0 {
            return false;
        }
        self.have_count.fetch_sub(1, Relaxed);
        let mut fault = self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fault.get_or_insert_with(|| why.to_owned());
        true
    }

    /// Stops serving a file that is not the one that was judged: every piece that lies in it in part. It has to be judged
    /// anew.
    pub(super) fn withdraw_changed(&self, file: u32, why: &str) {
        self.changed.store(true, Relaxed);
        let file = &self.meta.files[file as usize];
        let piece_len = u64::from(self.geometry().piece_len_max());
        let first = file.offset / piece_len;
        let end = (file.offset + file.len).div_ceil(piece_len);
        let pieces = (first..end).filter_map(|piece| self.geometry().piece_index(u32::try_from(piece).ok()?));
        for piece in pieces {
            self.withdraw(piece, why);
        }
    }

    /// From now on it is uploaded at so many bytes a second at most, on all shards together. The first call counts.
    pub fn keep_to(&self, bytes_per_second: NonZeroU64, now: Instant) {
        self.pace.get_or_init(|| Box::new(Pace::new(bytes_per_second, now)));
    }

    /// The rate it keeps to.
    pub(super) fn pace(&self) -> Option<&Pace> {
        self.pace.get().map(AsRef::as_ref)
    }

    /// Whether a file that was modified at this time (ns since 1970) is the one that was judged, as far as that is known.
    pub(super) fn is_as_judged(&self, file: u32, modified: i128) -> bool {
        self.modified
            .get(file as usize)
            .is_none_or(|&judged| judged == UNKNOWN || i128::from(judged) == modified)
    }

    /// Whether a file was found to be another than the one that was judged: it has to be judged anew.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// Why pieces were withdrawn while serving, if any were.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Connections past the handshake, on all shards.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }
}

/// Word and bit of a piece: the high bit of the first byte is piece 0, as in the bitfield message.
fn place(piece: PieceIndex) -> (usize, u64) {
    let piece = piece.get();
    ((piece / 64) as usize, 1 << (63 - piece % 64))
}
