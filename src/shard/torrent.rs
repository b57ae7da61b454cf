//! A torrent as all shards share it: what never changes, and the bits of the pieces we have.

use std::ffi::CString;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use super::pace::Pace;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::metainfo::Metainfo;
use crate::proto::{InfoHash, bitfield};
use crate::storage::PartNames;
use crate::storage::layout::Layout;
use crate::storage::root::Root;

/// No file is of the year 1677.
const UNKNOWN: i64 = i64::MIN;

/// No shard has this number.
const NOBODY: u32 = u32::MAX;

/// A torrent that is served. Shared by the shards without locks: a piece that was downloaded is granted by setting its bit,
/// one that can no longer be read is withdrawn by clearing it.
#[derive(Debug)]
pub struct Torrent {
    meta: Arc<Metainfo>,
    layout: Layout,
    root: Arc<Root>,
    /// Bits of the pieces we have, in the order of the bitfield message within each word's bytes.
    have: Box<[AtomicU64]>,
    have_count: AtomicU32,
    /// When each file was modified, as it was judged: ns since 1970, [`UNKNOWN`] where that is not to be relied on.
    modified: Box<[AtomicI64]>,
    /// A file was found to be another than the one that was judged.
    changed: AtomicBool,
    /// Connections past the handshake, on all shards.
    pub(super) connections: AtomicU32,
    /// Payload bytes that peers have taken and sent since this torrent was made, on all shards.
    uploaded: AtomicU64,
    downloaded: AtomicU64,
    /// Its own upload rate, if it has one.
    pace: OnceLock<Box<Pace>>,
    /// Why the first piece was withdrawn. Written when a disk fails, read by those who ask.
    fault: Mutex<Option<String>>,
    /// Of one that is being downloaded, or was.
    incoming: Option<Box<Incoming>>,
}

/// What only a torrent has that is being downloaded, or was.
#[derive(Debug)]
struct Incoming {
    /// The shard that downloads it; [`NOBODY`] once it is complete.
    home: AtomicU32,
    names: PartNames,
    /// Which of its files lie under the name of what is not complete.
    parts: Box<[AtomicBool]>,
}

impl Torrent {
    /// A torrent whose payload lies beneath `root`, with the pieces that were found right, and when each file was modified
    /// (ns since 1970) if that is known: a file of another time is not served.
    ///
    /// # Panics
    /// When `have` is of another torrent: its piece count differs.
    #[must_use]
    pub fn new(
        meta: impl Into<Arc<Metainfo>>,
        root: Arc<Root>,
        have: &Bitfield,
        modified: &[Option<i64>],
    ) -> Arc<Torrent> {
        Arc::new(Torrent::with(meta.into(), root, have, modified))
    }

    /// A torrent that shard `home` is to download what is missing of. `parts` tells which of its files lie under the name
    /// of what is not complete.
    ///
    /// # Panics
    /// As [`Torrent::new`], or when `parts` is of another torrent.
    #[must_use]
    pub fn to_download(
        meta: impl Into<Arc<Metainfo>>,
        root: Arc<Root>,
        have: &Bitfield,
        parts: &[bool],
        home: u32,
    ) -> Arc<Torrent> {
        let meta = meta.into();
        assert_eq!(parts.len(), meta.files.len(), "the parts of another torrent");
        let incoming = Incoming {
            home: AtomicU32::new(home),
            names: PartNames::new(&meta.files),
            parts: parts.iter().map(|part| AtomicBool::new(*part)).collect(),
        };
        // What btd itself writes to has no time that could be relied on.
        let modified = vec![None; meta.files.len()];
        let mut torrent = Torrent::with(meta, root, have, &modified);
        torrent.incoming = Some(Box::new(incoming));
        Arc::new(torrent)
    }

    fn with(meta: Arc<Metainfo>, root: Arc<Root>, have: &Bitfield, modified: &[Option<i64>]) -> Torrent {
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
        Torrent {
            have: words,
            have_count: AtomicU32::new(have.count()),
            modified: modified
                .iter()
                .map(|time| AtomicI64::new(time.unwrap_or(UNKNOWN)))
                .collect(),
            changed: AtomicBool::new(false),
            layout,
            meta,
            root,
            connections: AtomicU32::new(0),
            uploaded: AtomicU64::new(0),
            downloaded: AtomicU64::new(0),
            pace: OnceLock::new(),
            fault: Mutex::new(None),
            incoming: None,
        }
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

    /// The same, to be kept.
    #[must_use]
    pub fn shared_meta(&self) -> Arc<Metainfo> {
        Arc::clone(&self.meta)
    }

    /// Where pieces and blocks lie.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.meta.geometry
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder of its payload.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// A file's path below the data folder, as the kernel takes it.
    pub(super) fn path(&self, file: u32) -> Option<CString> {
        let entry = &self.meta.files[file as usize];
        let part = self.incoming.as_ref().filter(|_| self.is_part(file));
        let part = part.and_then(|incoming| incoming.names.get(file, entry));
        CString::new(part.as_ref().unwrap_or(&entry.path).as_str()).ok()
    }

    /// Whether a file lies under the name of what is not complete.
    #[must_use]
    pub fn is_part(&self, file: u32) -> bool {
        let incoming = self.incoming.as_ref();
        incoming.is_some_and(|incoming| incoming.parts[file as usize].load(Relaxed))
    }

    /// Says under which names the files lie from now on.
    pub fn set_parts(&self, parts: &[bool]) {
        if let Some(incoming) = &self.incoming {
            for (is_part, part) in std::iter::zip(&incoming.parts, parts) {
                is_part.store(*part, Relaxed);
            }
        }
    }

    /// A file is complete, has its final name, and was modified then (ns since 1970), if that is known.
    pub fn finished(&self, file: u32, modified: Option<i64>) {
        if let Some(incoming) = &self.incoming {
            self.modified[file as usize].store(modified.unwrap_or(UNKNOWN), Relaxed);
            incoming.parts[file as usize].store(false, Relaxed);
        }
    }

    /// The shard that downloads it, which all its connections belong to.
    #[must_use]
    pub fn home(&self) -> Option<u32> {
        let home = self.incoming.as_ref()?.home.load(Relaxed);
        (home != NOBODY).then_some(home)
    }

    /// Nothing is missing, and all files have their final names: every shard may serve it.
    pub fn set_complete(&self) {
        if let Some(incoming) = &self.incoming {
            incoming.home.store(NOBODY, Relaxed);
        }
    }

    /// The names that its files have while they are not complete, of one that is or was downloaded.
    #[must_use]
    pub fn part_names(&self) -> Option<&PartNames> {
        self.incoming.as_ref().map(|incoming| &incoming.names)
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

    /// The pieces that are served.
    ///
    /// # Panics
    /// Never: a torrent has as many bits as pieces.
    #[must_use]
    pub fn have(&self) -> Bitfield {
        Bitfield::from_wire(&self.bitfield(), self.geometry().piece_count()).expect("bits of this torrent's pieces")
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

    /// Serves a piece that was downloaded, from now on.
    pub(crate) fn grant(&self, piece: PieceIndex) {
        let (word, mask) = place(piece);
        if self.have[word].fetch_or(mask, Relaxed) & mask == 0 {
            self.have_count.fetch_add(1, Relaxed);
        }
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

    /// From now on it is uploaded at so many bytes a second at most, on all shards together; `None` is no limit.
    pub fn keep_to(&self, bytes_per_second: Option<NonZeroU64>, now: Instant) {
        match self.pace.get() {
            Some(pace) => pace.set(bytes_per_second, now),
            None if bytes_per_second.is_none() => {} // Most torrents never have one.
            None => self
                .pace
                .get_or_init(|| Box::new(Pace::new(None, now)))
                .set(bytes_per_second, now),
        }
    }

    /// The rate it keeps to.
    pub(super) fn pace(&self) -> Option<&Pace> {
        self.pace.get().and_then(|pace| pace.limited())
    }

    /// Whether a file that was modified at this time (ns since 1970) is the one that was judged, as far as that is known.
    pub(super) fn is_as_judged(&self, file: u32, modified: i128) -> bool {
        self.modified
            .get(file as usize)
            .map(|judged| judged.load(Relaxed))
            .is_none_or(|judged| judged == UNKNOWN || i128::from(judged) == modified)
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

    /// Bytes of its payload that are not here.
    #[must_use]
    pub fn left(&self) -> u64 {
        let geometry = self.geometry();
        let lens = |piece_count: u32| u64::from(piece_count) * u64::from(geometry.piece_len_max());
        let last = geometry.piece_index(geometry.piece_count() - 1);
        let spare = lens(geometry.piece_count()) - geometry.total_len();
        // The last piece is shorter. While pieces come, the bits may be of one moment and the count of another.
        let short = if last.is_some_and(|last| self.has(last)) {
            spare
        } else {
            0
        };
        geometry
            .total_len()
            .saturating_sub(lens(self.have_count()).saturating_sub(short))
    }

    /// Payload bytes that peers have taken since this was made, on all shards; up to a second old. It only grows. A torrent
    /// that is checked anew is made anew, and begins at zero.
    #[must_use]
    pub fn uploaded(&self) -> u64 {
        self.uploaded.load(Relaxed)
    }

    /// Payload bytes that peers have sent since this was made, what came twice and what was wrong among them; exact once
    /// it is complete. Otherwise as [`Torrent::uploaded`].
    #[must_use]
    pub fn downloaded(&self) -> u64 {
        self.downloaded.load(Relaxed)
    }

    pub(crate) fn count_uploaded(&self, bytes: u64) {
        self.uploaded.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn count_downloaded(&self, bytes: u64) {
        self.downloaded.fetch_add(bytes, Relaxed);
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
