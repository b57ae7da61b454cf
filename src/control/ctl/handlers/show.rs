//! One torrent, at length.

use std::time::SystemTime;

use tokio::time::timeout;

use super::{LOOK_AGAIN, LOOKS_MAX, SCHEDULE_DEADLINE, contents, find, gone, wait_for};
use crate::announcer::TrackerUrl;
use crate::announcer::schedule::{Standing, Status};
use crate::control::checks::Wait;
use crate::control::ctl::api::{Detail, Refusal, TrackerRow};
use crate::control::ctl::counted;
use crate::control::ctl::door::Door;
use crate::control::supervisor::{CheckStanding, Known};
use crate::proto::InfoHash;
use crate::proto::metainfo::Metainfo;
use crate::session::{self, History};
use crate::storage::Device;

/// So many trackers are told of: more are hardly ever asked.
const TRACKERS_MAX: usize = 128;

/// What there is to tell of a torrent.
pub(super) async fn show(door: &Door, hash: String, secrets: bool) -> Result<Detail, Refusal> {
    let info_hash = find(door, hash).await?;
    let (known, history) = known(info_hash, door).await?;
    // Its file may have become unreadable, which is no reason to tell nothing.
    let meta = contents(door, info_hash).await.ok();
    let status = door.ask(move |supervisor| supervisor.trackers(info_hash)).await?;
    // Nobody answers when announcing is turned off.
    let status = timeout(SCHEDULE_DEADLINE, status).await.ok().and_then(Result::ok);
    let private = meta.as_ref().is_none_or(|meta| meta.private);
    let configured = door
        .ask(move |supervisor| supervisor.configured_trackers(private))
        .await?;
    let trackers = meta.as_ref().map_or(Vec::new(), |meta| {
        trackers(meta, configured, &status.unwrap_or_default(), secrets)
    });
    let why_not_checked = match known.check {
        Some(check) => wait_for(move || why_not_checked(check, |device| device.name())).await?,
        None => None,
    };
    let mut row = known.row;
    row.add_recorded(history.as_ref());
    // Not a part of it in the place of the whole.
    let history = history.ok().flatten();
    row.why = match (why_not_checked, row.why.take()) {
        (Some(check), Some(why)) => Some(format!("{check}; {why}")),
        (check, why) => check.or(why),
    };
    Ok(Detail {
        torrent_files: known.files.iter().map(|file| super::shown(file)).collect(),
        data_dir: super::shown(&known.data_dir),
        piece_count: meta.as_ref().map(|meta| meta.geometry.piece_count()),
        have_count: match &known.torrent {
            Some(torrent) => Some(torrent.have_count()),
            // It rests, and is whole.
            None if row.done == Some(row.size) => meta.as_ref().map(|meta| meta.geometry.piece_count()),
            None => None,
        },
        piece_len: meta.as_ref().map(|meta| meta.geometry.piece_len_max()),
        file_count: meta.as_ref().map(|meta| meta.files.len()),
        private: meta.as_ref().map(|meta| meta.private),
        completed: history
            .and_then(|history| history.completed)
            .map(|completed| completed.at),
        trackers,
        row,
    })
}

/// What a torrent has been through, if it can be read.
type Recorded = Result<Option<History>, session::Error>;

/// What is known of a torrent, and what it has been through: looked at anew if some of that was recorded in the middle of it.
async fn known(info_hash: InfoHash, door: &Door) -> Result<(Known, Recorded), Refusal> {
    let mut looks = 1;
    loop {
        let known = door.ask(move |supervisor| supervisor.known(info_hash)).await?;
        let known = known.ok_or_else(|| gone(info_hash))?;
        let store = door.ask(|supervisor| supervisor.store()).await?;
        let history = wait_for(move || store.find_history(&info_hash)).await?;
        if looks == LOOKS_MAX || known.moment.lasts() {
            return Ok((known, history));
        }
        looks += 1;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What keeps a torrent's check from going on, if anything does.
pub(super) fn why_not_checked(check: CheckStanding, name_of: impl Fn(Device) -> String) -> Option<String> {
    let paused = "checks are paused (SIGUSR2 lets them go on)";
    let line = match check.wait {
        // What is begun waits for nobody but who paused it.
        None if check.has_begun => None,
        None | Some(Wait::ToBePlaced) => return Some("it waits for a look at which of its files are there".to_owned()),
        Some(Wait::InLine(_, 0)) => Some("it waits to be checked, until fewer are checked on other disks".to_owned()),
        Some(Wait::InLine(device, before)) => {
            let others = counted(before as u64, "other");
            Some(format!(
                "it waits to be checked, behind {others} on {}",
                name_of(device)
            ))
        }
    };
    match (line, check.is_paused) {
        (Some(line), true) => Some(format!("{line}; {paused}")),
        (None, true) => Some(paused.to_owned()),
        (line, false) => line,
    }
}

/// A torrent's trackers, its own before those of the configuration, and how they do.
fn trackers(meta: &Metainfo, configured: Vec<TrackerUrl>, status: &[Status], secrets: bool) -> Vec<TrackerRow> {
    let own = meta
        .announce
        .iter()
        .flatten()
        .map(|text| TrackerUrl::parse(text).map_err(|error| error.to_string()));
    let all = own.chain(configured.into_iter().map(Ok));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let row = |url: Result<TrackerUrl, String>| match url {
        Ok(url) => {
            let told = status.iter().find(|status| *status.url == url);
            let state = match told.map(|status| status.standing) {
                Some(Standing::New) => "new",
                Some(Standing::Working) => "working",
                Some(Standing::Failing) => "failing",
                Some(Standing::Dead) => "dead",
                Some(Standing::Waiting) => "waiting",
                None if status.is_empty() => "off",
                // Of those that are too many.
                None => "waiting",
            };
            let swarm = told.and_then(|status| status.swarm);
            TrackerRow {
                url: shown(&url, secrets),
                state: state.to_owned(),
                asking: told.is_some_and(|status| status.asking),
                text: told.and_then(|status| status.text.as_deref()).map(str::to_owned),
                seeders: swarm.map(|swarm| swarm.seeders),
                leechers: swarm.map(|swarm| swarm.leechers),
                next_announce: told.and_then(|status| status.next).map(|wait| (now + wait).as_secs()),
            }
        }
        // The text may hold a key, too.
        Err(error) => TrackerRow {
            url: "…".to_owned(),
            state: "off".to_owned(),
            asking: false,
            text: Some(format!("not announced to: {error}")),
            seeders: None,
            leechers: None,
            next_announce: None,
        },
    };
    all.take(TRACKERS_MAX).map(row).collect()
}

/// A tracker's address; its key only for those who want it.
fn shown(url: &TrackerUrl, secrets: bool) -> String {
    match secrets {
        true => format!("{}://{}{}", url.scheme().name(), url.authority(), url.target()),
        false => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_that_waits_says_behind_how_many_on_which_disk_and_that_all_are_paused() {
        let device = Device::of(std::fs::File::open("/").expect("the root folder"));
        let why = |wait, has_begun, is_paused| {
            let check = CheckStanding {
                wait,
                has_begun,
                is_paused,
            };
            why_not_checked(check, |_| "sda".to_owned()).unwrap_or_default()
        };
        let behind = |count| Some(Wait::InLine(device, count));
        assert_eq!(
            why(behind(1), false, false),
            "it waits to be checked, behind 1 other on sda"
        );
        assert_eq!(
            why(behind(3), false, true),
            "it waits to be checked, behind 3 others on sda; checks are paused (SIGUSR2 lets them go on)"
        );
        assert!(why(behind(0), false, false).contains("on other disks"));
        assert_eq!(why(None, true, true), "checks are paused (SIGUSR2 lets them go on)");
        assert_eq!(why(None, true, false), "");
        let looks = why(Some(Wait::ToBePlaced), false, true);
        assert!(
            looks.contains("which of its files are there") && !looks.contains("paused"),
            "{looks}"
        );
    }

    #[test]
    fn a_key_is_shown_to_those_only_who_ask_for_it() {
        let url = TrackerUrl::parse("https://t.example/0123456789abcdef/announce?user=7").expect("an address");
        assert_eq!(shown(&url, false), "https://t.example/…/announce?…");
        assert_eq!(
            shown(&url, true),
            "https://t.example:443/0123456789abcdef/announce?user=7"
        );
    }
}
