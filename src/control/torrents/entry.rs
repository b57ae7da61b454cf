//! One torrent in the table: where it stands, where it comes from, and what is kept of it.

use std::path::Path;
use std::sync::Arc;

use crate::control::checks::Progress;
use crate::control::meter::Meter;
use crate::control::origins::Origins;
use crate::shard::Torrent;

/// Where a torrent stands.
#[derive(Clone, Debug)]
pub(in crate::control) enum State {
    /// Its payload is being looked at, or waits for that.
    Checking(Arc<Progress>),
    /// All of it is there and served.
    Seeding,
    /// A part of it is there and served, or was until the disk failed.
    Partial,
    /// None of it is there, or nothing that is right.
    Missing,
    /// It cannot be served; the log says why.
    Error,
    /// What is missing of it comes from peers, and what is there is served.
    Downloading,
    /// Somebody wants it to be neither served nor downloaded, until it is resumed.
    Paused,
    /// Its data folder is not there, or on another disk than it was. It is checked when that is back.
    Unavailable,
}

/// The states as metrics name them, in the order of [`Torrents::counts`].
pub(in crate::control) const STATE_NAMES: [&str; 8] = [
    "checking",
    "seeding",
    "partial",
    "missing",
    "error",
    "downloading",
    "paused",
    UNAVAILABLE,
];

/// As [`STATE_NAMES`] names [`State::Unavailable`].
pub(in crate::control) const UNAVAILABLE: &str = "unavailable";

impl State {
    pub(super) fn index(&self) -> usize {
        match self {
            Self::Checking(_) => 0,
            Self::Seeding => 1,
            Self::Partial => 2,
            Self::Missing => 3,
            Self::Error => 4,
            Self::Downloading => 5,
            Self::Paused => 6,
            Self::Unavailable => 7,
        }
    }

    /// As metrics name it.
    pub(in crate::control) fn name(&self) -> &'static str {
        STATE_NAMES[self.index()]
    }
}

/// Who may hear of a torrent, and whom it may be had from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Reach {
    /// Nobody but its own trackers may hear of it (BEP 27).
    pub(in crate::control) private: bool,
    /// It has trackers of its own that btd can speak to.
    pub(in crate::control) has_trackers: bool,
}

/// One torrent. There may be 100,000: what only few have is behind a pointer.
#[derive(Debug)]
pub(in crate::control) struct Entry {
    /// For messages.
    pub(in crate::control) name: Arc<str>,
    /// Where it stands.
    pub(in crate::control) state: State,
    /// What the shards have.
    pub(in crate::control) served: Option<Arc<Torrent>>,
    /// Tells the check that counts from earlier ones of the same info-hash that may still end.
    pub(in crate::control) generation: u64,
    /// What the last check said; `None` when what the next one says is to be told in any case.
    pub(super) settled_as: Option<u8>,
    /// The watch folder whose data folder the last check looked into.
    pub(super) folder: u32,
    /// Where it comes from, each with its watch folder.
    pub(super) files: Origins,
    /// Its length in bytes.
    pub(super) len: u64,
    pub(super) paused: bool,
    /// Whether the last check could say what there is of it.
    pub(super) is_known: bool,
    /// It is whole, and nobody has wanted it lately: the shards have its info-hash alone.
    pub(super) rests: bool,
    pub(super) reach: Reach,
    pub(super) rare: Option<Box<Rare>>,
}

/// What a torrent has that was served in this run, or is not as it should be.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Why it stands as it does, where that wants saying.
    pub(super) why: Option<Box<str>>,
    pub(super) meter: Meter,
    /// What it has moved before it rested, up and down.
    pub(super) moved: (u64, u64),
}

impl Entry {
    /// Its length in bytes.
    pub(in crate::control) fn len(&self) -> u64 {
        self.len
    }

    /// The watch folder whose data folder its payload is looked for in.
    pub(in crate::control) fn folder(&self) -> usize {
        self.folder as usize
    }

    /// Whether the shards have its info-hash alone.
    pub(in crate::control) fn rests(&self) -> bool {
        self.rests
    }

    /// Who may hear of it.
    pub(in crate::control) fn reach(&self) -> Reach {
        self.reach
    }

    /// One of the files that it comes from.
    pub(in crate::control) fn file(&self) -> &Arc<Path> {
        self.files.first().0
    }

    /// Payload bytes that peers have taken and sent since it was last checked.
    pub(in crate::control) fn moved(&self) -> (u64, u64) {
        let (up, down) = self.rare.as_ref().map_or((0, 0), |rare| rare.moved);
        let served = self.served.as_ref();
        let now = served.map_or((0, 0), |torrent| (torrent.uploaded(), torrent.downloaded()));
        (up + now.0, down + now.1)
    }

    /// The files that it comes from.
    pub(in crate::control) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(file, _)| &**file)
    }

    /// Whether it is paused, though it may be checked meanwhile.
    pub(in crate::control) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the last check, or what was recorded of one, said that it is whole.
    pub(in crate::control) fn was_whole(&self) -> bool {
        self.settled_as == Some(State::Seeding.index() as u8)
    }

    /// Whether the last check could say what there is of it.
    pub(in crate::control) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Why it stands as it does, where that wants saying.
    pub(in crate::control) fn why(&self) -> Option<&str> {
        self.rare.as_ref()?.why.as_deref()
    }

    pub(super) fn forget_why(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.why = None;
        }
    }

    /// Bytes a second, up and down.
    pub(in crate::control) fn rates(&self) -> (u64, u64) {
        self.rare.as_ref().map_or((0, 0), |rare| rare.meter.rates())
    }
}
