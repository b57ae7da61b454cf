//! Where pieces and blocks lie in a torrent, and the block type that carries the proof of its bounds.
//!
//! A [`BlockRequest`] can only be made by [`Geometry::check`] (from a peer's numbers) or [`Geometry::blocks`] (from our
//! own), so whoever holds one need not look at bounds again. It is a proof for the geometry that made it: keep a
//! torrent's blocks with the torrent.
//!
//! Files are not known here; which file a block lies in is `storage`'s business.

/// The length of every block we ask for, and the one that all clients use.
pub const BLOCK_LEN: u32 = 16 * 1024;

/// The longest block a peer may ask of us. BEP 3 leaves it open; every client in use closes on more than 16 KiB or did
/// so for years, and nobody asks for more.
pub const BLOCK_LEN_MAX: u32 = BLOCK_LEN;

/// The shortest piece length accepted. New torrents start at 16 KiB; the earliest ones of the wild go below that, and
/// nothing breaks: blocks are then shorter than 16 KiB. The bound keeps the work per byte sane.
pub const PIECE_LEN_MIN: u32 = 1024;

/// The longest piece length accepted: a piece is assembled and hashed in memory.
pub const PIECE_LEN_MAX: u32 = 64 * 1024 * 1024;

/// The most pieces a torrent may have: 40 MiB of hashes, a bitfield of 256 KiB.
pub const PIECE_COUNT_MAX: u32 = 2 * 1024 * 1024;

/// The longest torrent: 128 TiB. Offsets and sums of lengths below this cannot overflow 64 bits.
pub const TOTAL_LEN_MAX: u64 = PIECE_COUNT_MAX as u64 * PIECE_LEN_MAX as u64;

/// A piece that exists in the torrent it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// Only for numbers that have been checked.
    pub(super) const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The index, counted from 0.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The index as a place in a slice.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// A block whose bounds have been checked: it lies in one piece and has 1 to [`BLOCK_LEN_MAX`] bytes.
///
/// In one word, | piece: 24 | begin: 26 | length - 1: 14 |, so that a request queue of 2,048 takes 16 KiB and looking
/// for one block in it is a comparison of words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRequest(u64);

const LENGTH_BITS: u32 = BLOCK_LEN_MAX.ilog2();
const BEGIN_BITS: u32 = PIECE_LEN_MAX.ilog2();
const _: () = assert!(BLOCK_LEN_MAX == 1 << LENGTH_BITS && PIECE_LEN_MAX == 1 << BEGIN_BITS);
const _: () = assert!(LENGTH_BITS + BEGIN_BITS + PIECE_COUNT_MAX.ilog2() < u64::BITS);

impl BlockRequest {
    /// Only for numbers that have been checked.
    const fn new(piece: PieceIndex, begin: u32, length: u32) -> Self {
        Self((piece.0 as u64) << (BEGIN_BITS + LENGTH_BITS) | (begin as u64) << LENGTH_BITS | (length - 1) as u64)
    }

    /// The piece the block lies in.
    pub const fn piece(&self) -> PieceIndex {
        PieceIndex((self.0 >> (BEGIN_BITS + LENGTH_BITS)) as u32)
    }

    /// Where in the piece the block begins.
    pub const fn begin(&self) -> u32 {
        (self.0 >> LENGTH_BITS) as u32 & (PIECE_LEN_MAX - 1)
    }

    /// How many bytes it has, at least one.
    pub const fn length(&self) -> u32 {
        (self.0 as u32 & (BLOCK_LEN_MAX - 1)) + 1
    }

    /// The first byte of the piece behind the block.
    pub const fn end(&self) -> u32 {
        self.begin() + self.length()
    }
}

impl std::fmt::Debug for BlockRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BlockRequest({} bytes at {} of piece {})",
            self.length(),
            self.begin(),
            self.piece().0
        )
    }
}

/// Why a torrent cannot have such a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The piece length is out of bounds.
    #[error("a piece length of {0} bytes, {min} to {max} accepted", min = PIECE_LEN_MIN, max = PIECE_LEN_MAX)]
    PieceLen(u64),
    /// The torrent has no bytes.
    #[error("the torrent has no payload")]
    Empty,
    /// The torrent has too many pieces.
    #[error("{0} pieces, at most {max} accepted", max = PIECE_COUNT_MAX)]
    PieceCount(u64),
}

/// The shape of a torrent: how long it is, and how it is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    total_len: u64,
    piece_len: u32,
    piece_count: u32,
}

impl Geometry {
    /// The shape of `total_len` bytes cut into pieces of `piece_len`, which need not be a power of two.
    pub fn new(piece_len: u32, total_len: u64) -> Result<Self, Error> {
        if !(PIECE_LEN_MIN..=PIECE_LEN_MAX).contains(&piece_len) {
            return Err(Error::PieceLen(u64::from(piece_len)));
        }
        if total_len == 0 {
            return Err(Error::Empty);
        }
        let pieces = total_len.div_ceil(u64::from(piece_len));
        match u32::try_from(pieces) {
            Ok(piece_count) if piece_count <= PIECE_COUNT_MAX => Ok(Self {
                total_len,
                piece_len,
                piece_count,
            }),
            _ => Err(Error::PieceCount(pieces)),
        }
    }

    /// How many pieces there are, at least one.
    pub const fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// How many bytes the torrent has, at least one.
    pub const fn total_len(&self) -> u64 {
        self.total_len
    }

    /// The length of every piece but the last, which may be shorter.
    pub const fn piece_len_max(&self) -> u32 {
        self.piece_len
    }

    /// The piece with this number, if there is one.
    pub fn piece_index(&self, index: u32) -> Option<PieceIndex> {
        (index < self.piece_count).then_some(PieceIndex(index))
    }

    /// All pieces, in order.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.piece_count).map(PieceIndex)
    }

    /// How many bytes this piece has.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        assert!(
            piece.0 < self.piece_count,
            "piece {} of a torrent with {}",
            piece.0,
            self.piece_count
        );
        let left = self.total_len - self.piece_offset(piece);
        // What is left is shorter than a piece only for the last one.
        u32::try_from(left).map_or(self.piece_len, |left| left.min(self.piece_len))
    }

    /// Where in the torrent this piece begins.
    pub const fn piece_offset(&self, piece: PieceIndex) -> u64 {
        piece.0 as u64 * self.piece_len as u64
    }

    /// Where in the torrent this block begins.
    pub const fn offset(&self, block: &BlockRequest) -> u64 {
        self.piece_offset(block.piece()) + block.begin() as u64
    }

    /// A peer's three numbers as a block, if it lies in one piece and is neither empty nor too long.
    pub fn check(&self, piece: u32, begin: u32, length: u32) -> Option<BlockRequest> {
        let piece = self.piece_index(piece)?;
        let end = begin.checked_add(length)?; // A peer may send u32::MAX.
        let valid = (1..=BLOCK_LEN_MAX).contains(&length) && end <= self.piece_len(piece);
        valid.then(|| BlockRequest::new(piece, begin, length)) // Not `then_some`: a length of 0 has no form.
    }

    /// The blocks of a piece as we ask for them, in order: all [`BLOCK_LEN`] long but the last.
    pub fn blocks(
        &self,
        piece: PieceIndex,
    ) -> impl DoubleEndedIterator<Item = BlockRequest> + ExactSizeIterator + use<> {
        let piece_len = self.piece_len(piece);
        (0..piece_len.div_ceil(BLOCK_LEN)).map(move |block| {
            let begin = block * BLOCK_LEN;
            BlockRequest::new(piece, begin, BLOCK_LEN.min(piece_len - begin))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Geometry {
        Geometry::new(32 * 1024, 80 * 1024 + 1).unwrap()
    }

    #[test]
    fn the_last_piece_is_shorter() {
        let geometry = small();
        assert_eq!(geometry.piece_count(), 3);
        let lens: Vec<_> = geometry.pieces().map(|p| geometry.piece_len(p)).collect();
        assert_eq!(lens, [32 * 1024, 32 * 1024, 16 * 1024 + 1]);
        assert_eq!(geometry.piece_index(3), None);
    }

    #[test]
    fn a_torrent_longer_than_32_bits_has_whole_pieces_up_to_its_last() {
        let geometry = Geometry::new(PIECE_LEN_MAX, (1 << 40) + 5).unwrap();
        assert_eq!(geometry.piece_len(geometry.piece_index(0).unwrap()), PIECE_LEN_MAX);
        assert_eq!(geometry.piece_len(geometry.pieces().last().unwrap()), 5);
    }

    #[test]
    fn a_block_within_a_piece_is_accepted() {
        let geometry = small();
        let block = geometry.check(1, 16 * 1024, 16 * 1024).unwrap();
        assert_eq!(
            (block.piece().get(), block.begin(), block.length()),
            (1, 16 * 1024, 16 * 1024)
        );
        assert_eq!(geometry.offset(&block), 48 * 1024);
        assert!(geometry.check(2, 16 * 1024, 1).is_some());
    }

    #[test]
    fn the_largest_numbers_of_a_block_fit_into_its_word() {
        let geometry = Geometry::new(PIECE_LEN_MAX, TOTAL_LEN_MAX).unwrap();
        let (piece, begin) = (PIECE_COUNT_MAX - 1, PIECE_LEN_MAX - BLOCK_LEN_MAX);
        let block = geometry.check(piece, begin, BLOCK_LEN_MAX).unwrap();
        assert_eq!(
            (block.piece().get(), block.begin(), block.length()),
            (piece, begin, BLOCK_LEN_MAX)
        );
        assert_eq!(geometry.offset(&block) + u64::from(BLOCK_LEN_MAX), TOTAL_LEN_MAX);
        let block = geometry.check(piece, PIECE_LEN_MAX - 1, 1).unwrap();
        assert_eq!(
            (block.begin(), block.length(), block.end()),
            (PIECE_LEN_MAX - 1, 1, PIECE_LEN_MAX)
        );
    }

    #[test]
    fn a_block_out_of_bounds_is_refused() {
        let geometry = small();
        assert_eq!(geometry.check(3, 0, 1), None, "no such piece");
        assert_eq!(geometry.check(u32::MAX, 0, 1), None, "no such piece");
        assert_eq!(geometry.check(0, 0, 0), None, "empty");
        assert_eq!(geometry.check(0, 0, BLOCK_LEN_MAX + 1), None, "too long");
        assert_eq!(geometry.check(0, 16 * 1024 + 1, 16 * 1024), None, "past the piece");
        assert_eq!(geometry.check(0, u32::MAX, 1), None, "overflow");
        assert_eq!(geometry.check(2, 16 * 1024, 2), None, "past the last, shorter piece");
    }

    #[test]
    fn a_shape_out_of_bounds_is_refused() {
        assert_eq!(Geometry::new(0, 1), Err(Error::PieceLen(0)));
        assert_eq!(
            Geometry::new(PIECE_LEN_MAX + 1, 1),
            Err(Error::PieceLen(u64::from(PIECE_LEN_MAX) + 1))
        );
        assert_eq!(Geometry::new(BLOCK_LEN, 0), Err(Error::Empty));
        let most = u64::from(PIECE_COUNT_MAX) * u64::from(BLOCK_LEN);
        assert!(Geometry::new(BLOCK_LEN, most).is_ok());
        assert_eq!(
            Geometry::new(BLOCK_LEN, most + 1),
            Err(Error::PieceCount(u64::from(PIECE_COUNT_MAX) + 1))
        );
        assert!(Geometry::new(PIECE_LEN_MAX, u64::MAX).is_err());
    }

    #[test]
    fn a_piece_shorter_than_a_block_is_one_block() {
        let geometry = Geometry::new(1024, 1500).unwrap();
        let blocks: Vec<_> = geometry
            .pieces()
            .flat_map(|p| geometry.blocks(p))
            .map(|b| b.length())
            .collect();
        assert_eq!(blocks, [1024, 476]);
    }
}
