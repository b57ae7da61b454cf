//! What requests mean: each is answered by asking the supervisor a few short questions, and by rows.
//!
//! Knows no transport: a [`Rows`] takes the rows and gives what follows a request. Nothing is held up: lists are asked for
//! page by page, as fast as the rows are taken, and what waits for a disk does so on a thread of its own.

mod remove;
mod show;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::add;
use super::api::{Added, AllDone, Done, Kind, Moved, Only, PeerRow, Refusal, Request, TorrentRow};
use super::door::Door;
use super::filter::Filter;
use crate::announcer::schedule::Reannounced;
use crate::control::supervisor::{Page, Source, Unannounced};
use crate::control::torrents::UNAVAILABLE;
use crate::control::{blocking, torrent_file};
use crate::proto::InfoHash;
use crate::proto::metainfo::Metainfo;
use crate::session::{self, History, Store};
use crate::shard::{PeerStatus, Torrent};

/// Rows of a list that are made at a time: well below a millisecond.
const PAGE_LEN: usize = 128;
/// Torrents that something is done to at a time, and the rest between: a shard that has thousands of connections looks at
/// all of them for each torrent it lets go.
const BATCH_LEN: usize = 64;
const BATCH_REST: Duration = Duration::from_millis(1);
/// Torrent files that are no longer are read beside each other: of as many as there may be connections, these are 32 MiB.
const SHORT_LEN_MAX: u64 = 1 << 20;
/// How long shards may take to tell of their peers.
const PEERS_DEADLINE: Duration = Duration::from_secs(2);
/// How long trackers' schedule may take to answer, which only waits for its turn.
const SCHEDULE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a torrent that was added may take to be taken in. Longer, and it is said that it will be.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(5);

/// How often totals are looked at, at most, that are recorded in the middle of it, and when again.
const LOOKS_MAX: u32 = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How long a torrent that is to be checked may take to come to its place in line. Longer, and it is said that it will.
const PLACING_DEADLINE: Duration = Duration::from_secs(10);

/// Takes what is answered.
pub(in crate::control) trait Rows {
    /// Takes a row.
    ///
    /// # Errors
    /// Nobody wants any more.
    async fn row(&mut self, row: &impl Serialize) -> Result<(), Stop>;

    /// There are so many more rows that are not told of.
    fn left_out(&mut self, count: u64);

    /// Whether nobody is there any more to take what is answered.
    fn is_gone(&self) -> bool;

    /// Gives what follows the request.
    ///
    /// # Errors
    /// It does not come.
    async fn body(&mut self, len: usize) -> Result<Vec<u8>, Stop>;
}

/// Why an answer is not given to its end.
#[derive(Debug)]
pub(in crate::control) enum Stop {
    /// What was asked for cannot be done.
    Refused(Refusal),
    /// Whoever asked is gone.
    Gone,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What it takes to answer.
#[derive(Clone)]
pub(in crate::control) struct Means {
    door: Door,
    /// Long torrent files are taken one by one: each is held in memory, for as long as it takes to come.
    reading: Arc<Semaphore>,
    /// No two are written at a time: they are beside the same name until they are whole.
    placing: Arc<Semaphore>,
}

impl Means {
    /// By this way to the supervisor.
    pub(in crate::control) fn new(door: Door) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self {
            door,
            reading: one(),
            placing: one(),
        }
    }
}

/// Answers a request.
///
/// # Errors
/// It cannot be done, or nobody wants to hear of it any more.
pub(in crate::control) async fn answer(request: Request, means: &Means, rows: &mut impl Rows) -> Result<(), Stop> {
    let door = &means.door;
    match request {
        Request::List { only } => list(only, door, rows).await,
        Request::Show { hash, secrets } => rows.row(&show::show(door, hash, secrets).await?).await,
        Request::Add { name, len, watch } => add((name, len, watch), means, rows).await,
        Request::Remove { hash, with_data } => rows.row(&remove::remove(door, hash, with_data).await?).await,
        Request::Pause { hash, all, only } => act(Action::Pause, (hash, all, only), door, rows).await,
        Request::Resume { hash, all, only } => act(Action::Resume, (hash, all, only), door, rows).await,
        Request::Verify { hash, all, only } => act(Action::Verify, (hash, all, only), door, rows).await,
        Request::Reannounce { hash, all, only } => act(Action::Reannounce, (hash, all, only), door, rows).await,
        Request::Peers { hash } => peers(hash, door, rows).await,
        Request::Stats {} => rows.row(&door.ask(|supervisor| supervisor.stats()).await?).await,
        Request::Limits {
            upload_rate,
            download_rate,
        } => {
            let limits = door.ask(move |supervisor| supervisor.limit(upload_rate, download_rate));
            rows.row(&limits.await??).await
        }
        Request::Moved { data_dir } => rows.row(&moved(data_dir, door).await?).await,
        Request::Health {} => rows.row(&door.ask(|supervisor| supervisor.health()).await?).await,
    }
}

async fn list(only: Only, door: &Door, rows: &mut impl Rows) -> Result<(), Stop> {
    let filter = filter(only, door).await?;
    let mut after = None;
    loop {
        let page = page(after, &filter, door).await?;
        for (_, row) in &page.found {
            rows.row(row).await?;
        }
        if rows.is_gone() {
            return Err(Stop::Gone); // Where nothing is let through, nothing is written that would tell.
        }
        match page.last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}

/// What somebody means by this.
async fn filter(only: Only, door: &Door) -> Result<Arc<Filter>, Refusal> {
    let labels = door.ask(|supervisor| supervisor.labels()).await?;
    Filter::new(only, &labels).map(Arc::new)
}

/// Torrents behind one, with their totals: looked at anew if some of these were recorded in the middle of it.
async fn page(
    after: Option<InfoHash>,
    filter: &Arc<Filter>,
    door: &Door,
) -> Result<Page<(InfoHash, TorrentRow)>, Refusal> {
    let mut looks = 1;
    loop {
        let filter = Arc::clone(filter);
        let (page, moment) = door
            .ask(move |supervisor| supervisor.page(after, PAGE_LEN, &filter))
            .await?;
        let Some(moment) = moment else {
            return Ok(page); // Of none, and nothing to be read for it.
        };
        let store = door.ask(|supervisor| supervisor.store()).await?;
        let Page { found, last } = page;
        // What was recorded waits for the disk.
        let found = wait_for(move || with_recorded(found, &store)).await?;
        if looks == LOOKS_MAX || moment.lasts() {
            return Ok(Page { found, last });
        }
        looks += 1;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn with_recorded(mut page: Vec<(InfoHash, TorrentRow)>, store: &Store) -> Vec<(InfoHash, TorrentRow)> {
    for (info_hash, row) in &mut page {
        row.add_recorded(store.find_history(info_hash).as_ref());
    }
    page
}

/// The torrent that is meant.
async fn find(door: &Door, hash: String) -> Result<InfoHash, Refusal> {
    door.ask(move |supervisor| supervisor.find(&hash)).await?
}

impl TorrentRow {
    /// Adds what is recorded to what is not, which it has from the supervisor. If that cannot be read, the sum is not known.
    fn add_recorded(&mut self, history: Result<&Option<History>, &session::Error>) {
        let sum = |unrecorded: Option<u64>, of: fn(&History) -> u64| {
            let recorded = history.ok()?.as_ref().map_or(0, of);
            Some(unrecorded?.saturating_add(recorded))
        };
        self.uploaded_ever = sum(self.uploaded_ever, |history| history.uploaded);
        self.downloaded_ever = sum(self.downloaded_ever, |history| history.downloaded);
        self.ratio = self.ratio_of_totals();
        self.added = history.ok().and_then(|history| Some(history.as_ref()?.added));
    }
}

fn gone(info_hash: InfoHash) -> Refusal {
    Refusal::new(Kind::NotFound, format!("the torrent {info_hash} is gone"))
}

/// A path as whoever asks can use it: the configuration's may be relative to where btd is.
fn shown(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.display().to_string()
}

/// Does something that waits for a disk.
async fn wait_for<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    match blocking::run("btd-ctl", work).await {
        Ok(Some(done)) => Ok(done),
        Ok(None) => Err(Refusal::new(Kind::Io, "the thread that did it has ended")),
        Err(error) => Err(Refusal::new(Kind::Io, format!("no thread to do it: {error}"))),
    }
}

/// What is in a torrent's file. It may be long, and is copied on a thread only.
#[derive(Clone)]
enum Contents {
    Served(Arc<Torrent>),
    Read(Arc<Metainfo>),
}

impl std::ops::Deref for Contents {
    type Target = Metainfo;

    fn deref(&self) -> &Metainfo {
        match self {
            Self::Served(torrent) => torrent.meta(),
            Self::Read(meta) => meta,
        }
    }
}

async fn contents(door: &Door, info_hash: InfoHash) -> Result<Contents, Refusal> {
    match door.ask(move |supervisor| supervisor.source(info_hash)).await? {
        None => Err(gone(info_hash)),
        Some(Source::Served(torrent)) => Ok(Contents::Served(torrent)),
        Some(Source::File(file)) => {
            let shown = shown(&file);
            match wait_for(move || torrent_file::read(&file)).await? {
                Ok(meta) if meta.info_hash == info_hash => Ok(Contents::Read(Arc::new(meta))),
                Ok(_) => Err(gone(info_hash)),
                Err(error) => Err(Refusal::new(Kind::Io, format!("{shown}: {error}"))),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Action {
    Pause,
    Resume,
    Verify,
    Reannounce,
}

/// Does something to one torrent, to all, or to several.
async fn act(
    action: Action,
    (hash, all, only): (Option<String>, bool, Only),
    door: &Door,
    rows: &mut impl Rows,
) -> Result<(), Stop> {
    match (hash, all, only.is_all()) {
        (Some(hash), false, true) => {
            let info_hash = find(door, hash).await?;
            let Deed { changed, refused, note } = act_on(action, info_hash, door).await?;
            settle(action, door).await?;
            let note = match action {
                Action::Verify => note_of_check(changed, info_hash, door).await?,
                Action::Pause | Action::Resume | Action::Reannounce => note,
            };
            let known = door.ask(move |supervisor| supervisor.known(info_hash)).await?;
            let name = known.map(|known| known.row.name).unwrap_or_default();
            let info_hash = info_hash.to_string();
            rows.row(&Done {
                info_hash,
                name,
                changed,
                refused,
                note,
            })
            .await
        }
        (None, true, true) | (None, false, false) => {
            let filter = filter(only, door).await?;
            let mut done = AllDone {
                changed: 0,
                unchanged: 0,
                refused: 0,
            };
            let mut after = None;
            loop {
                let filter = Arc::clone(&filter);
                let page = door
                    .ask(move |supervisor| supervisor.hashes(after, BATCH_LEN, &filter))
                    .await?;
                // Done is done, and the rest was not asked for by anybody who is there.
                if rows.is_gone() {
                    settle(action, door).await?;
                    return Err(Stop::Gone);
                }
                for info_hash in page.found {
                    match act_on(action, info_hash, door).await {
                        Ok(deed) => {
                            done.changed += u64::from(deed.changed);
                            done.unchanged += u64::from(!deed.changed);
                            done.refused += u64::from(deed.refused);
                        }
                        // It may have gone, and its file may not be readable: that is said to who asks for it alone.
                        Err(refusal) if refusal.kind == Kind::Unavailable => return Err(refusal.into()),
                        Err(refusal) => {
                            done.unchanged += 1;
                            done.refused += u64::from(refusal.kind != Kind::NotFound);
                        }
                    }
                }
                match page.last {
                    Some(last) => after = Some(last),
                    None => break,
                }
                tokio::time::sleep(BATCH_REST).await;
            }
            settle(action, door).await?;
            rows.row(&done).await
        }
        _ => Err(Refusal::new(
            Kind::BadRequest,
            "one of `hash`, `all` and `only` is needed, and no two of them",
        )
        .into()),
    }
}

/// What came of something that was to be done to a torrent.
struct Deed {
    /// Whether there was anything to do.
    changed: bool,
    /// It is not so, and will not be by itself.
    refused: bool,
    /// For people.
    note: String,
}

impl Deed {
    fn new(changed: bool, note: impl Into<String>) -> Self {
        Self {
            changed,
            refused: false,
            note: note.into(),
        }
    }

    fn refused(note: impl Into<String>) -> Self {
        Self {
            changed: false,
            refused: true,
            note: note.into(),
        }
    }
}

/// Does something to a torrent.
async fn act_on(action: Action, info_hash: InfoHash, door: &Door) -> Result<Deed, Refusal> {
    match action {
        Action::Pause => {
            let paused = door.ask(move |supervisor| supervisor.pause(info_hash)).await?;
            Ok(match paused.ok_or_else(|| gone(info_hash))? {
                true => Deed::new(true, "paused"),
                false => Deed::new(false, "it was paused already"),
            })
        }
        Action::Resume => {
            let resumed = door.ask(move |supervisor| supervisor.resume(info_hash)).await?;
            match resumed.ok_or_else(|| gone(info_hash))? {
                true => {
                    go_on(info_hash, door).await?;
                    Ok(Deed::new(true, "resumed"))
                }
                false => Ok(Deed::new(false, "it was not paused")),
            }
        }
        Action::Verify => {
            let checked = door
                .ask(move |supervisor| supervisor.check_known(info_hash, false))
                .await?;
            // What there is to say of that is found out for who asks for it alone.
            Ok(Deed::new(checked.ok_or_else(|| gone(info_hash))?, ""))
        }
        Action::Reannounce => {
            let asked = door.ask(move |supervisor| supervisor.reannounce(info_hash)).await?;
            match timeout(SCHEDULE_DEADLINE, asked).await {
                Ok(Ok(Some(reannounced))) => Ok(note_of(&reannounced)),
                // The schedule is not there when announcing is turned off.
                Ok(Ok(None) | Err(_)) => {
                    let why = door
                        .ask(move |supervisor| supervisor.why_unannounced(info_hash))
                        .await?;
                    Ok(match why.ok_or_else(|| gone(info_hash))? {
                        Unannounced::Yet(why) => Deed::new(false, why),
                        Unannounced::Ever(why) => Deed::refused(why),
                    })
                }
                Err(_) => Err(Refusal::new(Kind::Unavailable, "trackers' schedule does not answer")),
            }
        }
    }
}

/// Whether a torrent is being announced by now, and what there is to say of that.
fn note_of(Reannounced { wait, failure }: &Reannounced) -> Deed {
    let last = failure
        .as_deref()
        .map(|failure| format!(" (the last time: {failure})"))
        .unwrap_or_default();
    match wait {
        Some(wait) if wait.is_zero() => Deed::new(true, "it is being announced"),
        Some(wait) => {
            let seconds = wait.as_secs_f64().ceil();
            let note = format!("its trackers may be asked again in {seconds} s, and will be{last}");
            Deed::new(false, note)
        }
        // As BEP 31 lets them say.
        None => Deed::refused(format!(
            "none of its trackers wants to be asked again{last} (hint: `btd ctl pause` and `resume` have them asked anew)"
        )),
    }
}

/// How the check of a torrent stands that somebody has asked for a moment ago, or before.
async fn note_of_check(is_news: bool, info_hash: InfoHash, door: &Door) -> Result<String, Refusal> {
    let deadline = Instant::now() + PLACING_DEADLINE;
    let known = loop {
        let known = door.ask(move |supervisor| supervisor.known(info_hash)).await?;
        let known = known.ok_or_else(|| gone(info_hash))?;
        let is_placed = known.check.is_none_or(|check| check.is_placed());
        let Some(progress) = known
            .progress
            .as_ref()
            .filter(|_| !is_placed && Instant::now() < deadline)
        else {
            break known;
        };
        // Where it is in line is known once somebody has looked what is there of it. One that is over may be followed by another.
        if timeout_at(deadline, progress.placed()).await.is_err() {
            break known;
        }
    };
    let already = if is_news { "" } else { " already" };
    let Some(check) = known.check else {
        return Ok(match known.row.state == UNAVAILABLE {
            true => "its payload is checked once its data folder is there".to_owned(),
            false => format!("its payload is being checked{already}"),
        });
    };
    let why_not = wait_for(move || show::why_not_checked(check, |device| device.name())).await?;
    Ok(match (check.has_begun, why_not) {
        (false, Some(why_not)) => why_not,
        (_, why_not) => {
            let but = why_not.map(|why_not| format!("; {why_not}")).unwrap_or_default();
            format!("its payload is being checked{already}{but}")
        }
    })
}

/// A torrent that was paused goes on.
async fn go_on(info_hash: InfoHash, door: &Door) -> Result<(), Refusal> {
    // What keeps its file from being read is told by a check.
    let whole = match contents(door, info_hash).await {
        Ok(meta) => {
            let store = door.ask(|supervisor| supervisor.store()).await?;
            // It is paused no longer, whatever comes of that.
            wait_for(move || own_trackers_if_whole(&store, &meta))
                .await
                .unwrap_or(None)
        }
        Err(_) => None,
    };
    let went_on = door.ask(move |supervisor| supervisor.go_on(info_hash, whole)).await?;
    went_on.ok_or_else(|| gone(info_hash))
}

/// The trackers of a torrent's own that is recorded as whole.
fn own_trackers_if_whole(store: &Store, meta: &Metainfo) -> Option<Vec<Vec<String>>> {
    let file_count = u32::try_from(meta.files.len()).ok()?;
    let is_whole = store.is_whole(&meta.info_hash, meta.geometry.piece_count(), file_count);
    is_whole.then(|| meta.announce.clone())
}

/// Waits until what is to outlive btd is on the disk.
async fn settle(action: Action, door: &Door) -> Result<(), Refusal> {
    match action {
        Action::Reannounce => return Ok(()),
        Action::Pause | Action::Resume | Action::Verify => {}
    }
    let store = door.ask(|supervisor| supervisor.store()).await?;
    match wait_for(move || store.flush()).await? {
        true => Ok(()),
        false => Err(Refusal::new(
            Kind::Io,
            "it is done, but could not be recorded: a restart may undo it (the log says why)",
        )),
    }
}

async fn peers(hash: String, door: &Door, rows: &mut impl Rows) -> Result<(), Stop> {
    let info_hash = find(door, hash).await?;
    let known = door.ask(move |supervisor| supervisor.known(info_hash)).await?;
    let known = known.ok_or_else(|| gone(info_hash))?;
    let piece_count = known.torrent.map_or(0, |torrent| torrent.geometry().piece_count());
    let answers = door.ask(move |supervisor| supervisor.peers(info_hash)).await?;
    let deadline = tokio::time::Instant::now() + PEERS_DEADLINE;
    for (shard, answer) in (0..).zip(answers) {
        let told = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) | Err(_) => {
                let message = format!("shard {shard} does not answer");
                return Err(Refusal::new(Kind::Unavailable, message).into());
            }
        };
        rows.left_out(told.left_out);
        for peer in told.peers {
            rows.row(&peer_row(peer, shard, piece_count)).await?;
        }
    }
    Ok(())
}

fn peer_row(peer: PeerStatus, shard: u32, piece_count: u32) -> PeerRow {
    let peer_id = peer.peer_id.to_string();
    PeerRow {
        address: peer.addr.to_string(),
        // What its peer id begins with says the same in short (BEP 20).
        client: peer.client.unwrap_or_else(|| peer_id.chars().take(8).collect()),
        peer_id,
        outgoing: peer.dialed,
        interested: peer.peer_interested,
        unchoked: peer.unchoked,
        we_are_interested: peer.am_interested,
        we_are_unchoked: peer.peer_unchokes,
        upload_rate: peer.upload_rate,
        download_rate: peer.download_rate,
        have_count: peer.have_count,
        piece_count,
        shard,
    }
}

async fn add(
    (name, len, watch): (String, u64, Option<String>),
    means: &Means,
    rows: &mut impl Rows,
) -> Result<(), Stop> {
    if len > torrent_file::FILE_LEN_MAX {
        let max = torrent_file::FILE_LEN_MAX;
        return Err(Refusal::new(Kind::BadTorrent, format!("{len} bytes long, at most {max} accepted")).into());
    }
    let door = &means.door;
    let dirs = door.ask(|supervisor| supervisor.watch_dirs()).await?;
    let dir = wait_for(move || choose(&dirs, watch.as_deref())).await??;
    // One that comes slowly holds up others that are as long, and nobody else.
    let _turn = match len > SHORT_LEN_MAX {
        true => Some(means.reading.acquire().await.map_err(|_| Refusal::stopping())?),
        false => None,
    };
    let content = rows.body(usize::try_from(len).unwrap_or(usize::MAX)).await?;
    let (parsed, content) = wait_for(move || (Metainfo::parse(&content), content)).await?;
    let meta = parsed.map_err(|error| Refusal::new(Kind::BadTorrent, error.to_string()))?;
    let info_hash = meta.info_hash;
    let place = means.placing.acquire().await.map_err(|_| Refusal::stopping())?;
    let known = door.ask(move |supervisor| supervisor.known(info_hash)).await?;
    if let Some(known) = known {
        let file = known.files.first().map(|file| shown(file));
        let message = format!(
            "{:?} ({info_hash}) is there already: it comes from {}",
            meta.name,
            file.unwrap_or_default()
        );
        return Err(Refusal::new(Kind::Refused, message).into());
    }
    let arrival = door.ask(move |supervisor| supervisor.expect(info_hash)).await?;
    let into = shown(&dir);
    let put = wait_for(move || add::put(&dir, &name, info_hash, &content)).await?;
    let path = put.map_err(|error| Refusal::new(Kind::Io, format!("cannot put it into {into}: {error}")))?;
    drop(place);
    // The channel ends when it is there.
    let loaded = timeout(ARRIVAL_DEADLINE, arrival).await.is_ok();
    rows.row(&Added {
        info_hash: info_hash.to_string(),
        name: meta.name,
        torrent_file: shown(&path),
        loaded,
    })
    .await
}

/// A data folder may be on another filesystem from now on.
async fn moved(data_dir: String, door: &Door) -> Result<Moved, Refusal> {
    let dirs = door.ask(|supervisor| supervisor.data_dirs()).await?;
    let wanted = PathBuf::from(&data_dir);
    let dir = wait_for(move || same_folder(&dirs, &wanted).cloned().ok_or(dirs)).await?;
    let dir = dir.map_err(|dirs| {
        let dirs: Vec<String> = dirs.iter().map(|dir| shown(dir)).collect();
        let message = format!("{data_dir} is no data folder, only {}", dirs.join(", "));
        Refusal::new(Kind::NotFound, message)
    })?;
    let told = dir.clone();
    if !door.ask(move |supervisor| supervisor.moved(&told)).await? {
        return Err(Refusal::new(Kind::NotFound, "it is no data folder any more"));
    }
    // So that a restart knows of it too.
    let store = door.ask(|supervisor| supervisor.store()).await?;
    match wait_for(move || store.flush()).await? {
        true => Ok(Moved { data_dir: shown(&dir) }),
        false => Err(Refusal::new(
            Kind::Io,
            "it is done, but could not be recorded: a restart may undo it (the log says why)",
        )),
    }
}

/// Which of these folders another is, by whatever path.
fn same_folder<'a>(dirs: &'a [PathBuf], wanted: &Path) -> Option<&'a PathBuf> {
    let is_same = |dir: &&PathBuf| {
        let same_folder = || Some(dir.canonicalize().ok()? == wanted.canonicalize().ok()?);
        dir.as_path() == wanted || same_folder() == Some(true)
    };
    dirs.iter().find(is_same)
}

/// The watch folder that is meant.
fn choose(dirs: &[PathBuf], wanted: Option<&str>) -> Result<PathBuf, Refusal> {
    let Some(first) = dirs.first() else {
        let message = "there is no watch folder to put it into (hint: [[watch]] in the configuration)";
        return Err(Refusal::new(Kind::Refused, message));
    };
    let Some(wanted) = wanted.map(Path::new) else {
        return Ok(first.clone());
    };
    same_folder(dirs, wanted).cloned().ok_or_else(|| {
        let dirs: Vec<String> = dirs.iter().map(|dir| shown(dir)).collect();
        let message = format!("{} is no watch folder, only {}", wanted.display(), dirs.join(", "));
        Refusal::new(Kind::NotFound, message)
    })
}
