//! A torrent as all shards share it: what never changes, and the bits of the pieces we have.

use std::ffi::CString;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::pace::{FolderPace, Pace};
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
    /// Those of its folder.
    folder_pace: OnceLock<Arc<FolderPace>>,
    /// Why the first piece was withdrawn. Written when a disk fails, read by those who ask.
    fault: Mutex<Option<String>>,
    /// Of one that was not read when it was added.
    unread: Option<Box<UnreadPieces>>,
    /// A piece was read and is wrong.
    has_wrong: AtomicBool,
    /// Which.
    wrong: Mutex<Vec<PieceIndex>>,
    /// Of one that is being downloaded, or was.
    incoming: Option<Box<Incoming>>,
}

/// Pieces that are taken for right and were never read: each has to be verified before its first byte leaves.
#[derive(Debug)]
struct UnreadPieces {
    /// Bits, as of the pieces we have.
    bits: Box<[AtomicU64]>,
    /// How many.
    left: AtomicU32,
}

/// What only a torrent has that is being downloaded, or was.
#[derive(Debug)]
struct Incoming {
    /// The shard that downloads it; [`NOBODY`] once it is complete.
    home: AtomicU32,
    names: PartNames,
    /// Which of its files lie under the name of what is not complete.
    parts: Box<[AtomicBool]>,
    /// Some of what was written may be gone, and nobody knows what.
    lost: AtomicBool,
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
            lost: AtomicBool::new(false),
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
        Torrent {
            have: words(have),
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
            folder_pace: OnceLock::new(),
            fault: Mutex::new(None),
            unread: None,
            has_wrong: AtomicBool::new(false),
            wrong: Mutex::default(),
            incoming: None,
        }
    }

    /// The same torrent, of which these pieces were not read yet: each is verified before its first byte leaves.
    ///
    /// # Panics
    /// When the pieces are of another torrent, or somebody else has it already.
    #[must_use]
    pub fn with_unread(mut self: Arc<Self>, unread: &Bitfield) -> Arc<Torrent> {
        assert_eq!(
            unread.piece_count(),
            self.geometry().piece_count(),
            "pieces of another torrent"
        );
        let torrent = Arc::get_mut(&mut self).expect("a torrent that was just made");
        torrent.unread = (!unread.is_empty()).then(|| {
            Box::new(UnreadPieces {
                bits: words(unread),
                left: AtomicU32::new(unread.count()),
            })
        });
        self
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

    /// A file's path below the data folder, as the kernel takes it: the one that it has while it is not complete, or its final one.
    pub(super) fn path(&self, file: u32, part: bool) -> Option<CString> {
        let entry = &self.meta.files[file as usize];
        let part = self.incoming.as_ref().filter(|_| part);
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
        // With `set_complete`: who sees that any shard may serve it sees all of its pieces.
        let home = self.incoming.as_ref()?.home.load(Acquire);
        (home != NOBODY).then_some(home)
    }

    /// Nothing is missing, and all files have their final names: every shard may serve it.
    pub fn set_complete(&self) {
        if let Some(incoming) = &self.incoming {
            incoming.home.store(NOBODY, Release);
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

    /// Pieces that are served. While they come and go it may be one or two too many for a moment, never too few.
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

    /// The pieces that were verified, and are served.
    #[must_use]
    pub fn verified(&self) -> Bitfield {
        let mut have = self.have();
        if self.unread_count() > 0 {
            let unread = self.geometry().pieces().filter(|piece| self.is_unread(*piece));
            unread.for_each(|piece| _ = have.clear(piece));
        }
        have
    }

    /// Pieces that nobody has read yet.
    #[must_use]
    pub fn unread_count(&self) -> u32 {
        self.unread.as_ref().map_or(0, |unread| unread.left.load(Acquire))
    }

    /// Whether the piece has to be verified before any of it is sent.
    pub(super) fn is_unread(&self, piece: PieceIndex) -> bool {
        self.unread.as_ref().is_some_and(|unread| {
            let (word, mask) = place(piece);
            // With `judged`: who sees the bit cleared sees what was withdrawn before that.
            unread.bits[word].load(Acquire) & mask != 0
        })
    }

    /// The piece was read and judged. Whether it had not been before: two shards may do so at once.
    pub(crate) fn judged(&self, piece: PieceIndex) -> bool {
        let Some(unread) = &self.unread else { return false };
        let (word, mask) = place(piece);
        let is_news = unread.bits[word].fetch_and(!mask, Release) & mask != 0;
        if is_news {
            // With [`Torrent::unread_count`]: who sees that none is left sees what was withdrawn before that.
            unread.left.fetch_sub(1, Release);
        }
        is_news
    }

    /// Stops serving a piece that was read and is wrong: it has to be read again by a check, so that it is recorded. Returns
    /// whether it was served before.
    pub fn withdraw_wrong(&self, piece: PieceIndex, why: &str) -> bool {
        let is_news = self.withdraw(piece, why);
        if is_news {
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
            self.has_wrong.store(true, Relaxed);
        }
        is_news
    }

    /// The pieces that were withdrawn since they are wrong; none for nearly all torrents.
    #[must_use]
    pub fn wrong(&self) -> Option<Bitfield> {
        if !self.has_wrong.load(Relaxed) {
            return None;
        }
        let mut pieces = Bitfield::new(self.geometry().piece_count());
        for piece in &*self.wrong.lock().unwrap_or_else(PoisonError::into_inner) {
            pieces.set(*piece);
        }
        Some(pieces)
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

    /// Serves a piece that was downloaded, from now on; after [`Torrent::lose`] none.
    pub(crate) fn grant(&self, piece: PieceIndex) {
        self.judged(piece);
        let (word, mask) = place(piece);
        // Before the bit: whoever withdraws the piece at once would count below nothing otherwise, which is more than there is.
        self.have_count.fetch_add(1, Relaxed);
        if self.have[word].fetch_or(mask, SeqCst) & mask != 0 {
            self.have_count.fetch_sub(1, Relaxed);
        }
        // Looked at behind the bit, which is cleared behind the mark: one of the two sees what the other has done.
        if self.has_lost() {
            self.withdraw(piece, "what was written of it may be gone");
        }
    }

    /// What was written to these files of a download may be gone: no piece that lies in one of them is served any more, nor any
    /// whose last byte is written after this, as what was written of it before may be gone as well.
    pub fn lose(&self, files: impl IntoIterator<Item = u32>, why: &str) {
        if let Some(incoming) = &self.incoming {
            incoming.lost.store(true, SeqCst);
        }
        files.into_iter().for_each(|file| self.withdraw_file(file, why));
    }

    /// Whether [`Torrent::lose`] was called: it leaves its shard in a moment, and what its peers were to be told may not be so any
    /// more.
    pub(super) fn has_lost(&self) -> bool {
        let incoming = self.incoming.as_ref();
        incoming.is_some_and(|incoming| incoming.lost.load(SeqCst))
    }

    /// Stops serving a piece that cannot be read. Returns whether it was served before.
    pub(super) fn withdraw(&self, piece: PieceIndex, why: &str) -> bool {
        let (word, mask) = place(piece);
        let before = self.have[word].fetch_and(!mask, SeqCst); // See `grant`.
        if before & mask == 0 {
            return false;
        }
        self.have_count.fetch_sub(1, Relaxed);
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert_with(|| why.to_owned());
        true
    }

    /// Stops serving a file that is not the one that was judged: every piece that lies in it in part. It has to be judged
    /// anew.
    pub(super) fn withdraw_changed(&self, file: u32, why: &str) {
        self.changed.store(true, Relaxed);
        self.withdraw_file(file, why);
    }

    fn withdraw_file(&self, file: u32, why: &str) {
        let file = &self.meta.files[file as usize];
        let piece_len = u64::from(self.geometry().piece_len_max());
        let first = file.offset / piece_len;
        let end = (file.offset + file.len).div_ceil(piece_len);
        let pieces = (first..end).filter_map(|piece| self.geometry().piece_index(u32::try_from(piece).ok()?));
        for piece in pieces {
            self.withdraw(piece, why);
        }
    }

    /// A file was looked at: its length, and when it was modified (ns since 1970); nothing if it is not there. If it is not
    /// the one that was judged, what lies in it is not served any more, and it has to be judged anew.
    pub fn on_seen(&self, file: u32, found: Option<(u64, i64)>) {
        let entry = &self.meta.files[file as usize];
        let why = match found {
            None => "is not there any more",
            Some((len, _)) if len < entry.len => "has become shorter",
            Some((_, modified)) if !self.is_as_judged(file, modified.into()) => "was changed after it was checked",
            Some(_) => return,
        };
        let served = |piece: u64| self.geometry().piece_index(u32::try_from(piece).ok()?);
        let piece_len = u64::from(self.geometry().piece_len_max());
        let mut pieces = (entry.offset / piece_len..(entry.offset + entry.len).div_ceil(piece_len)).filter_map(served);
        // What is known to be missing is no news.
        if pieces.any(|piece| self.has(piece)) {
            self.withdraw_changed(file, &format!("{}: {why}", entry.path));
        }
    }

    /// A piece was read by somebody else, and is right.
    pub fn on_reread(&self, piece: PieceIndex) {
        self.judged(piece);
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

    /// From now on it also keeps to these rates, together with all others that do. Once only: a torrent whose folder is
    /// another one is made anew.
    pub fn keep_to_folder(&self, pace: &Arc<FolderPace>) {
        let _ = self.folder_pace.set(Arc::clone(pace));
    }

    /// The upload rates it keeps to: its own, and its folder's.
    pub(super) fn upload_paces(&self) -> impl Iterator<Item = &Pace> {
        let own = self.pace.get().and_then(|pace| pace.limited());
        let folder = self.folder_pace.get().and_then(|folder| folder.upload.limited());
        own.into_iter().chain(folder)
    }

    /// The download rate it keeps to, its folder's.
    pub(super) fn download_pace(&self) -> Option<&Pace> {
        self.folder_pace.get().and_then(|folder| folder.download.limited())
    }

    /// Whether a file that was modified at this time (ns since 1970) is the one that was judged, as far as that is known.
    pub(super) fn is_as_judged(&self, file: u32, modified: i128) -> bool {
        self.modified
            .get(file as usize)
            .map(|judged| judged.load(Relaxed))
            .is_none_or(|judged| judged == UNKNOWN || i128::from(judged) == modified)
    }

    /// Whether a file was found to be another than the one that was judged, or a piece to be wrong: it has to be judged anew.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed.load(Relaxed) || self.has_wrong.load(Relaxed)
    }

    /// Why pieces were withdrawn while serving, if any were.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

/// Bits in the order that [`place`] finds them in.
fn words(pieces: &Bitfield) -> Box<[AtomicU64]> {
    let words = pieces.as_bytes().chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        AtomicU64::new(u64::from_be_bytes(word))
    });
    words.collect()
}

/// Word and bit of a piece: the high bit of the first byte is piece 0, as in the bitfield message.
fn place(piece: PieceIndex) -> (usize, u64) {
    let piece = piece.get();
    ((piece / 64) as usize, 1 << (63 - piece % 64))
}
