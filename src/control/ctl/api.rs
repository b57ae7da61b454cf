//! What can be asked of a running btd, and what it answers, as values with a JSON form.
//!
//! A request is one object, `{"command":"show","hash":"3f2a"}`. The answer is any number of rows and one end, each an
//! object of one key: `{"row":{..}}`, `{"end":{"rows":1}}` or, in the place of the end, `{"error":{"kind":"not-found",
//! "message":".."}}`. Sizes are in bytes, rates in bytes a second, times in seconds since 1970 unless a name says otherwise.
//! Keys are only ever added; whoever reads passes over those it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The fewest digits that name a torrent.
const PREFIX_LEN_MIN: usize = 4;

/// Looks whether this can be the beginning of an info-hash.
///
/// # Errors
/// It cannot: what it would have to be.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    let is_one = (PREFIX_LEN_MIN..=40).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one
        .then_some(())
        .ok_or_else(|| format!("no info-hash: 40 hexadecimal digits, or the first {PREFIX_LEN_MIN} or more of them"))
}

/// Something to be done or told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Torrents, in the order of their info-hashes: a [`TorrentRow`] each.
    List {
        /// Which; all if it is absent.
        #[serde(default, skip_serializing_if = "Only::is_all")]
        only: Only,
    },
    /// One torrent: a [`Detail`].
    Show {
        /// Its info-hash, or the beginning of it that no other has.
        hash: String,
        /// Whether addresses of trackers are told with their keys.
        #[serde(default)]
        secrets: bool,
    },
    /// A torrent file, whose bytes follow the request's line: an [`Added`].
    Add {
        /// What it was called.
        name: String,
        /// How many bytes follow.
        len: u64,
        /// The watch folder to put it into; the first if it is absent.
        #[serde(default)]
        watch: Option<String>,
    },
    /// Takes a torrent out: a [`Removed`].
    Remove {
        /// See [`Request::Show`].
        hash: String,
        /// Whether its files are deleted, too.
        #[serde(default)]
        with_data: bool,
    },
    /// Neither serve nor download it, over restarts, until it is resumed: a [`Done`], or an [`AllDone`] for all or several.
    Pause {
        /// See [`Request::Show`].
        #[serde(default)]
        hash: Option<String>,
        /// All torrents, in the place of one.
        #[serde(default)]
        all: bool,
        /// All of these, in the place of one.
        #[serde(default, skip_serializing_if = "Only::is_all")]
        only: Only,
    },
    /// The end of a pause. Likewise.
    Resume {
        /// See [`Request::Show`].
        #[serde(default)]
        hash: Option<String>,
        /// All torrents, in the place of one.
        #[serde(default)]
        all: bool,
        /// All of these, in the place of one.
        #[serde(default, skip_serializing_if = "Only::is_all")]
        only: Only,
    },
    /// Read and judge all of its payload, whatever is known of it. Likewise.
    Verify {
        /// See [`Request::Show`].
        #[serde(default)]
        hash: Option<String>,
        /// All torrents, in the place of one.
        #[serde(default)]
        all: bool,
        /// All of these, in the place of one.
        #[serde(default, skip_serializing_if = "Only::is_all")]
        only: Only,
    },
    /// Announce it as soon as its trackers allow. Likewise.
    Reannounce {
        /// See [`Request::Show`].
        #[serde(default)]
        hash: Option<String>,
        /// All torrents, in the place of one.
        #[serde(default)]
        all: bool,
        /// All of these, in the place of one.
        #[serde(default, skip_serializing_if = "Only::is_all")]
        only: Only,
    },
    /// The peers of a torrent: a [`PeerRow`] each.
    Peers {
        /// See [`Request::Show`].
        hash: String,
    },
    /// What btd does as a whole: a [`Stats`].
    Stats {},
    /// The rates that all torrents together keep to, after what is given here was set until btd ends or reads its configuration
    /// again: a [`Limits`].
    Limits {
        /// Bytes a second, 0 for no limit; as it is if absent.
        #[serde(default)]
        upload_rate: Option<u64>,
        /// Likewise.
        #[serde(default)]
        download_rate: Option<u64>,
    },
    /// The payload of a data folder is on another filesystem now than it was, and is looked for there: a [`Moved`].
    Moved {
        /// The folder, as the configuration has it.
        data_dir: String,
    },
    /// Whether btd works: a [`Health`].
    Health {},
}

/// Which torrents are meant: those that all of this is true of. A btd that does not know it refuses a request that has it; without
/// it, requests are as they always were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    /// They are in one of these states (see [`TorrentRow::state`]); if there are none, in any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// Their watch folder has this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// This is a part of their name, be it in capitals or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Only {
    /// Whether all torrents are meant. Every name has nothing in it.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.states.is_empty() && self.label.is_none() && self.name.as_deref().is_none_or(str::is_empty)
    }
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line<R> {
    /// One of what was asked for.
    Row(R),
    /// That was all of it.
    End {
        /// How many rows there were.
        rows: u64,
        /// How many more there are that are not told of.
        #[serde(default, skip_serializing_if = "is_zero")]
        left_out: u64,
    },
    /// It ends here, and not because that was all.
    Error(Refusal),
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: Kind,
    /// For people.
    pub message: String,
}

/// The kinds of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request makes no sense, or names several torrents by one beginning.
    BadRequest,
    /// There is no such torrent or watch folder.
    NotFound,
    /// It is there and cannot be done.
    Refused,
    /// What was to be added is no torrent.
    BadTorrent,
    /// The disk does not let it.
    Io,
    /// Too many ask, or it took too long, or btd is stopping.
    Unavailable,
    /// Who asks may not.
    Denied,
}

impl Refusal {
    /// One of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }

    /// btd ends, and answers nothing more.
    pub fn stopping() -> Self {
        Self::new(Kind::Unavailable, "btd is stopping")
    }
}

/// A torrent, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TorrentRow {
    /// 40 digits.
    pub info_hash: String,
    /// Chosen by whoever made the torrent: it may hold anything.
    pub name: String,
    /// `checking`, `seeding`, `partial`, `missing`, `error`, `downloading`, `paused` or `unavailable`.
    pub state: String,
    /// Whether it is paused. One that is paused may be `checking`.
    pub paused: bool,
    /// Its length.
    pub size: u64,
    /// How much of it is here; `None` when nobody knows yet.
    pub done: Option<u64>,
    /// How much of it a check that goes on has looked at.
    pub checked: Option<u64>,
    /// Whether it is `checking` and that has not begun.
    #[serde(default)]
    pub waits: bool,
    /// Its connections.
    pub peers: u32,
    /// What it uploads and downloads, over the last seconds.
    pub upload_rate: u64,
    /// See `upload_rate`.
    pub download_rate: u64,
    /// What it has uploaded and downloaded since it was last checked.
    pub uploaded: u64,
    /// See `uploaded`.
    pub downloaded: u64,
    /// What it has uploaded and downloaded in all of its life; `None` while that cannot be read.
    pub uploaded_ever: Option<u64>,
    /// See `uploaded_ever`.
    pub downloaded_ever: Option<u64>,
    /// What it has uploaded in all of its life, in sizes of the torrent; `None` while that is not known, and for one without payload.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// When it was added, as far as that was noted.
    #[serde(default)]
    pub added: Option<u64>,
    /// What people call its watch folder.
    #[serde(default)]
    pub label: Option<String>,
    /// Why it stands as it does, where that wants saying. What a check waits for is in a [`Detail`] alone.
    #[serde(default)]
    pub why: Option<String>,
}

impl TorrentRow {
    /// [`TorrentRow::ratio`], of what else is in it.
    #[must_use]
    pub fn ratio_of_totals(&self) -> Option<f64> {
        let uploaded = self.uploaded_ever.filter(|_| self.size > 0)?;
        Some(uploaded as f64 / self.size as f64)
    }
}

/// A torrent, at length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// In short.
    #[serde(flatten)]
    pub row: TorrentRow,
    /// The .torrent files that it comes from.
    pub torrent_files: Vec<String>,
    /// The folder of its payload.
    pub data_dir: String,
    /// Its pieces, how many of them are here, and their length.
    pub piece_count: Option<u32>,
    /// See `piece_count`.
    pub have_count: Option<u32>,
    /// See `piece_count`.
    pub piece_len: Option<u32>,
    /// How many files it has.
    pub file_count: Option<usize>,
    /// Whether peers may come from its own trackers only.
    pub private: Option<bool>,
    /// When it was complete, as far as that was noted.
    pub completed: Option<u64>,
    /// Its trackers, those of the configuration behind its own. Without their keys, unless these were asked for.
    pub trackers: Vec<TrackerRow>,
}

/// A tracker of a torrent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackerRow {
    /// Its address.
    pub url: String,
    /// `new` if it was not asked yet, `working`, `failing`, `dead` if it has refused for good, `waiting` if it is not asked as long as
    /// another of its list answers, `off` if btd does not announce this torrent.
    pub state: String,
    /// Whether it is being asked now; `state` is how that ended the last time.
    #[serde(default)]
    pub asking: bool,
    /// What it said last that somebody should know.
    pub text: Option<String>,
    /// Seeders and leechers, as it counts them.
    pub seeders: Option<u32>,
    /// See `seeders`.
    pub leechers: Option<u32>,
    /// When it is announced to next: of the one that is asked next, and of others that were asked, should those before them not answer.
    pub next_announce: Option<u64>,
}

/// A torrent was added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// 40 digits.
    pub info_hash: String,
    /// Its name.
    pub name: String,
    /// Where its file is now.
    pub torrent_file: String,
    /// Whether btd has taken it in; if not, it is about to.
    pub loaded: bool,
}

/// A torrent was removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// 40 digits.
    pub info_hash: String,
    /// Its name.
    pub name: String,
    /// The .torrent files that were deleted.
    pub torrent_files: Vec<String>,
    /// How many files of payload, and how many folders, were deleted.
    pub files: u64,
    /// See `files`.
    pub folders: u64,
    /// What was left alone, below the data folder, and why: it is not the torrent's.
    pub kept: Vec<String>,
    /// What was to be deleted and could not be, and why.
    #[serde(default)]
    pub failed: Vec<String>,
}

/// Something was done to a torrent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// 40 digits.
    pub info_hash: String,
    /// Its name.
    pub name: String,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Whether what was asked for is not so and will not be by itself: then nothing was changed, and the note says why.
    #[serde(default)]
    pub refused: bool,
    /// What came of it.
    pub note: String,
}

/// A data folder may be on another filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The folder, as the configuration has it.
    pub data_dir: String,
}

/// Something was done to all torrents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllDone {
    /// Those that it was done to.
    pub changed: u64,
    /// Those where there was nothing to do, or nothing that could be done.
    pub unchanged: u64,
    /// Of these, those where it could not be done: see [`Done::refused`].
    #[serde(default)]
    pub refused: u64,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Address and port.
    pub address: String,
    /// What it calls itself: by its extension handshake, else by its peer id.
    pub client: String,
    /// Its peer id, with what cannot be shown as `%xx`.
    pub peer_id: String,
    /// Whether btd made the connection.
    pub outgoing: bool,
    /// Whether it wants something of us, and may ask.
    pub interested: bool,
    /// See `interested`.
    pub unchoked: bool,
    /// Whether we want something of it, and may ask.
    pub we_are_interested: bool,
    /// See `we_are_interested`.
    pub we_are_unchoked: bool,
    /// What it gets and gives, over the last seconds.
    pub upload_rate: u64,
    /// See `upload_rate`.
    pub download_rate: u64,
    /// How many of the pieces it has, and of how many.
    pub have_count: u32,
    /// See `have_count`.
    pub piece_count: u32,
    /// The shard that it is connected to.
    pub shard: u32,
}

/// What btd does as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Of btd.
    pub version: String,
    /// Of its process.
    pub pid: u32,
    /// How long it has been running, in seconds.
    pub uptime: f64,
    /// Whether it has read its watch folders.
    pub ready: bool,
    /// How many torrents there are in each state.
    pub torrents: BTreeMap<String, usize>,
    /// Payload, over the last seconds, and since the start.
    pub upload_rate: u64,
    /// See `upload_rate`.
    pub download_rate: u64,
    /// See `upload_rate`.
    pub uploaded: u64,
    /// See `upload_rate`.
    pub downloaded: u64,
    /// Payload read from the disk and written to it since the start.
    pub disk_read: u64,
    /// See `disk_read`.
    pub disk_written: u64,
    /// Connections past the handshake.
    pub peers: u64,
    /// Connections of peers, those in the handshake too. Their places are those of all shards together. `None` of a btd that does
    /// not tell.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// The same of the tracker's, by HTTP; `None` without one.
    #[serde(default)]
    pub tracker_connections: Option<Connections>,
    /// Of what peers asked for, what was in the cache; `None` if nobody has asked for anything.
    pub cache_hit_ratio: Option<f64>,
    /// Whether checks of payload are paused.
    pub checks_paused: bool,
    /// Each shard.
    pub shards: Vec<ShardRow>,
}

/// Connections, and places for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Those there are.
    pub now: u64,
    /// How many there may be, as the configuration, open files and memory have it.
    pub max: u64,
    /// Those that were turned away since the start, because all places were taken or all of their address.
    pub turned_away: u64,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRow {
    /// From 0.
    pub index: usize,
    /// Connections past the handshake.
    pub peers: u64,
    /// Torrents that it downloads.
    pub downloads: u64,
    /// Since the start.
    pub uploaded: u64,
    /// Since the start.
    pub downloaded: u64,
    /// Of what peers asked for, what was in the cache.
    pub cache_hit_ratio: Option<f64>,
    /// For how long it has given no sign of life, in seconds. It gives one each second.
    pub silent: f64,
}

/// The rates that are in force, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of all torrents together: bytes a second; `None` is no limit.
    pub upload_rate: Option<u64>,
    /// Where that comes from, for people.
    pub upload_why: String,
    /// Likewise.
    pub download_rate: Option<u64>,
    /// See `upload_why`.
    pub download_why: String,
    /// Of each torrent by itself.
    pub upload_rate_per_torrent: Option<u64>,
    /// Of the torrents of each watch folder together, beside those.
    pub folders: Vec<FolderLimits>,
}

/// The rates of a watch folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderLimits {
    /// The folder.
    pub watch: String,
    /// What people call it.
    pub label: Option<String>,
    /// Bytes a second; `None` is no limit.
    pub upload_rate: Option<u64>,
    /// Likewise.
    pub download_rate: Option<u64>,
}

/// Whether btd works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether btd does its work. What a new start does not mend is no reason against it.
    pub healthy: bool,
    /// What keeps it from it, and what it works without: a data folder that is away.
    pub why: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn list(only: Only) -> Request {
        Request::List { only }
    }

    #[test]
    fn a_request_is_read_as_it_is_written_down() {
        assert_eq!(read(r#"{"command":"list"}"#), Ok(list(Only::default())));
        let show = Request::Show {
            hash: "3f2a".to_owned(),
            secrets: false,
        };
        assert_eq!(read(r#"{"command":"show","hash":"3f2a"}"#), Ok(show.clone()));
        assert_eq!(read(&serde_json::to_string(&show).unwrap()), Ok(show));
        let pause = Request::Pause {
            hash: None,
            all: true,
            only: Only::default(),
        };
        assert_eq!(read(r#"{"command":"pause","all":true}"#), Ok(pause));
        let errors = list(Only {
            states: vec!["error".to_owned()],
            ..Only::default()
        });
        let text = r#"{"command":"list","only":{"states":["error"]}}"#;
        assert_eq!(read(text), Ok(errors.clone()));
        assert_eq!(serde_json::to_string(&errors).unwrap(), text);
    }

    /// An older btd refuses what it does not know.
    #[test]
    fn what_is_asked_of_all_or_one_is_said_as_it_always_was() {
        let written = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(written(&list(Only::default())), r#"{"command":"list"}"#);
        let pause = Request::Pause {
            hash: None,
            all: true,
            only: Only::default(),
        };
        assert_eq!(written(&pause), r#"{"command":"pause","hash":null,"all":true}"#);
    }

    /// What an older btd tells has none of what was added since.
    #[test]
    fn rows_of_an_older_btd_are_read() {
        let text = r#"{"info_hash":"ab","name":"a","state":"seeding","paused":false,"size":10,"done":10,"checked":null,"peers":0,
            "upload_rate":0,"download_rate":0,"uploaded":0,"downloaded":0,"uploaded_ever":25,"downloaded_ever":0}"#;
        let row: TorrentRow = serde_json::from_str(text).expect("a row");
        assert_eq!((row.ratio, row.ratio_of_totals()), (None, Some(2.5)));
        assert_eq!((row.added, row.label, row.why), (None, None, None));
        let text = r#"{"version":"0","pid":1,"uptime":1.0,"ready":true,"torrents":{},"upload_rate":0,"download_rate":0,"uploaded":0,
            "downloaded":0,"disk_read":0,"disk_written":0,"peers":0,"cache_hit_ratio":null,"checks_paused":false,"shards":[]}"#;
        let stats: Stats = serde_json::from_str(text).expect("a row");
        assert_eq!((stats.connections, stats.tracker_connections), (None, None));
    }

    #[test]
    fn what_is_no_request_is_refused_by_what_is_wrong_with_it() {
        let wrong = |text: &str, what: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        };
        wrong(
            r#"{"command":"lisst"}"#,
            "unknown variant `lisst`, expected one of `list`",
        );
        wrong(r#"{"command":"show"}"#, "missing field `hash`");
        wrong(r#"{"command":"list","colour":1}"#, "unknown field `colour`");
        wrong(r#"{"command":"list","only":{"colour":1}}"#, "unknown field `colour`");
        wrong(r#"{"command":"show","hash":7}"#, "invalid type: integer `7`");
        wrong("{}", "missing field `command`");
        wrong("[]", "");
    }

    #[test]
    fn lines_of_an_answer_have_one_key_each() {
        let text = |line: &Line<u32>| serde_json::to_string(line).unwrap();
        assert_eq!(text(&Line::Row(7)), r#"{"row":7}"#);
        let end = |left_out| Line::End { rows: 1, left_out };
        assert_eq!(text(&end(0)), r#"{"end":{"rows":1}}"#);
        assert_eq!(text(&end(7)), r#"{"end":{"rows":1,"left_out":7}}"#);
        let read = |text| serde_json::from_str::<Line<u32>>(text).unwrap();
        assert_eq!(
            (
                read(r#"{"end":{"rows":1}}"#),
                read(r#"{"end":{"rows":1,"left_out":7}}"#)
            ),
            (end(0), end(7))
        );
        assert_eq!(
            text(&Line::Error(Refusal::new(Kind::NotFound, "no"))),
            r#"{"error":{"kind":"not-found","message":"no"}}"#
        );
    }
}
