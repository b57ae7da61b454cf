//! What is kept over a restart, so that it neither asks all trackers at once nor one too early.

use super::super::url::TrackerUrl;

/// What of a list is kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Stands for the tracker that this is about.
    pub tracker: u64,
    /// When it is to be asked next, in seconds since 1970.
    pub due: u64,
    /// How many times in a row it has failed.
    pub failures: u8,
    /// Whether it has us in its list.
    pub told: bool,
}

/// What a tracker is known by over a restart: FNV-1a, which needs to tell the few trackers of one torrent from each
/// other, and does not write their keys down.
pub(super) fn fingerprint(url: &TrackerUrl) -> u64 {
    let text = [url.scheme().name(), &url.authority(), url.target()];
    let bytes = text.iter().flat_map(|part| part.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
