//! Torrents that are seeded until they have uploaded so many times their size, or for so long: paused when that is reached.
//!
//! Nothing is counted for it. What a torrent has uploaded is looked at where totals are gathered anyway, once a minute and of those
//! only that have moved; when the time of one is over is known from when it was complete. A torrent that somebody resumes after that
//! is left alone for ever.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use super::{State, Supervisor};
use crate::control::config::Watch;
use crate::control::history::Standing;
use crate::proto::InfoHash;
use crate::session::Pause;

/// What is known of goals.
#[derive(Debug, Default)]
pub(super) struct Goals {
    /// Those that have reached one, and which.
    finished: HashMap<InfoHash, Pause>,
    /// Those that somebody has resumed.
    resumed: HashSet<InfoHash>,
    /// When the time of each is over of those that have one, and when it was complete, in seconds since 1970.
    due: BTreeMap<(u64, InfoHash), u64>,
}

impl Goals {
    /// As it was at the last run's end. Gives those that are paused, for whichever reason.
    pub(super) fn load(pauses: &[(InfoHash, Pause)]) -> (Self, HashSet<InfoHash>) {
        let mut goals = Self::default();
        let paused = pauses
            .iter()
            .filter(|(info_hash, pause)| goals.keep(*info_hash, *pause));
        let paused = paused.map(|(info_hash, _)| *info_hash).collect();
        (goals, paused)
    }

    /// It is so with a torrent from now on. Whether it is paused.
    pub(super) fn keep(&mut self, info_hash: InfoHash, pause: Pause) -> bool {
        match pause {
            Pause::Never => _ = self.resumed.insert(info_hash),
            Pause::Asked => {}
            Pause::Ratio | Pause::Time => _ = self.finished.insert(info_hash, pause),
        }
        pause != Pause::Never
    }

    /// What is known of a torrent: which goal it has reached, or that it is to be left alone.
    pub(super) fn known(&self, info_hash: InfoHash) -> Option<Pause> {
        let resumed = self.resumed.contains(&info_hash).then_some(Pause::Never);
        self.finished.get(&info_hash).copied().or(resumed)
    }

    /// Nothing is known of a torrent any more. Whether anything was.
    pub(super) fn forget(&mut self, info_hash: InfoHash) -> bool {
        self.finished.remove(&info_hash).is_some() | self.resumed.remove(&info_hash)
    }

    /// Why a torrent is paused, if not because somebody wants it.
    pub(super) fn why(&self, info_hash: InfoHash) -> Option<String> {
        let why = match self.finished.get(&info_hash)? {
            Pause::Ratio => "it has uploaded as many times its size as it was to (seed-ratio)",
            Pause::Time => "it was seeded for as long as it was to be (seed-time)",
            Pause::Asked | Pause::Never => return None,
        };
        Some(format!("finished: {why}; `btd ctl resume` has it seeded on for ever"))
    }
}

/// Whether torrents of a folder have goals.
fn has_any(plan: &Watch) -> bool {
    plan.seed_ratio.is_some() || plan.seed_time.is_some()
}

/// Whether so many bytes are as many times the size as is wanted, in hundredths.
fn is_reached(uploaded: u64, size: u64, hundredths: u32) -> bool {
    u128::from(uploaded) * 100 >= u128::from(size) * u128::from(hundredths)
}

fn unix() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Supervisor<'_> {
    /// A torrent is seeded from now on: it may have reached its goals before.
    pub(super) fn look_at_goals(&mut self, info_hash: InfoHash) {
        let Some((folder, _)) = self.torrents.get(info_hash) else {
            return;
        };
        if has_any(self.folders.plan(folder)) && !self.goals.resumed.contains(&info_hash) {
            self.totals.ask(info_hash);
        }
    }

    /// The goals of a folder are others now.
    pub(super) fn look_at_goals_in(&mut self, folder: usize) {
        let all: Vec<InfoHash> = self
            .torrents
            .after(None)
            .filter(|(_, entry)| entry.folder() == folder && matches!(entry.state, State::Seeding))
            .map(|(info_hash, _)| info_hash)
            .collect();
        all.into_iter().for_each(|info_hash| self.look_at_goals(info_hash));
    }

    /// Whether anybody wants to know what torrents have uploaded.
    pub(super) fn wants_standings(&self) -> bool {
        self.folders.open_ones().any(|(_, plan)| has_any(plan))
    }

    /// A torrent stands so.
    pub(super) fn on_standing(&mut self, standing: &Standing) {
        let info_hash = standing.info_hash;
        let Some((folder, size)) = self.seeded(info_hash) else {
            return;
        };
        let plan = self.folders.plan(folder);
        if plan
            .seed_ratio
            .is_some_and(|ratio| is_reached(standing.uploaded, size, ratio))
        {
            return self.finish(info_hash, Pause::Ratio);
        }
        if let (Some(time), Some(completed)) = (plan.seed_time, standing.completed) {
            self.goals
                .due
                .insert((completed.saturating_add(time.as_secs()), info_hash), completed);
            self.look_at_due();
        }
    }

    /// Time has passed.
    pub(super) fn look_at_due(&mut self) {
        let now = unix();
        while let Some(first) = self.goals.due.first_entry().filter(|first| first.key().0 <= now) {
            let ((_, info_hash), completed) = first.remove_entry();
            let Some((folder, _)) = self.seeded(info_hash) else {
                continue;
            };
            // A reload may have given it more time.
            match self
                .folders
                .plan(folder)
                .seed_time
                .map(|time| completed.saturating_add(time.as_secs()))
            {
                Some(at) if at <= now => self.finish(info_hash, Pause::Time),
                Some(at) => _ = self.goals.due.insert((at, info_hash), completed),
                None => {}
            }
        }
    }

    /// The folder and the size of a torrent that is seeded, unless somebody has resumed it.
    fn seeded(&self, info_hash: InfoHash) -> Option<(usize, u64)> {
        let entry = self.torrents.entry(info_hash)?;
        let is_seeded = matches!(entry.state, State::Seeding) && !entry.is_paused();
        (is_seeded && !self.goals.resumed.contains(&info_hash)).then(|| (entry.folder(), entry.len()))
    }

    fn finish(&mut self, info_hash: InfoHash, goal: Pause) {
        if self.pause(info_hash) != Some(true) {
            return;
        }
        self.session.put_pause(info_hash, Some(goal));
        self.goals.finished.insert(info_hash, goal);
        let why = self.goals.why(info_hash);
        if let (Some(entry), Some(why)) = (self.torrents.entry(info_hash), &why) {
            let line = format_args!("{:?} ({info_hash}) is {why}", entry.name);
            self.lines.info("torrents that were seeded enough", line);
        }
        self.torrents.give_reason(info_hash, why);
    }

    /// Somebody has resumed a torrent: its goals count no more.
    pub(super) fn on_resumed(&mut self, info_hash: InfoHash) {
        let Some((folder, _)) = self.torrents.get(info_hash) else {
            return;
        };
        let is_finished = self.goals.finished.remove(&info_hash).is_some();
        if is_finished || has_any(self.folders.plan(folder)) {
            self.goals.resumed.insert(info_hash);
            self.session.put_pause(info_hash, Some(Pause::Never));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: InfoHash = InfoHash([1; 20]);
    const TWO: InfoHash = InfoHash([2; 20]);
    const THREE: InfoHash = InfoHash([3; 20]);

    #[test]
    fn a_ratio_is_reached_at_its_last_byte_and_counts_without_overflow() {
        assert!(!is_reached(1499, 1000, 150) && is_reached(1500, 1000, 150));
        assert!(is_reached(u64::MAX, u64::MAX, 100) && !is_reached(u64::MAX, u64::MAX, 101));
        assert!(is_reached(0, 0, 1), "what is empty has given all that it has");
    }

    #[test]
    fn after_a_restart_what_is_finished_is_paused_and_what_was_resumed_is_not() {
        let (mut goals, paused) = Goals::load(&[(ONE, Pause::Ratio), (TWO, Pause::Never), (THREE, Pause::Asked)]);
        assert_eq!(paused, HashSet::from([ONE, THREE]));
        assert!(goals.why(ONE).is_some_and(|why| why.contains("seed-ratio")));
        assert_eq!((goals.why(TWO), goals.why(THREE)), (None, None));
        assert!(goals.resumed.contains(&TWO));
        assert!(goals.forget(ONE) && goals.forget(TWO) && !goals.forget(THREE));
        assert_eq!(goals.why(ONE), None);
    }
}
