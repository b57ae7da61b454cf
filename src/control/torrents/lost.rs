//! Torrents whose data folder is gone, a few at a time: there may be 100,000 of one folder.

use std::sync::Arc;

use super::{Entry, State, Torrents};
use crate::control::contents::Contents;
use crate::proto::InfoHash;

/// A torrent whose data folder is gone.
#[derive(Debug)]
pub(in crate::control) struct Lost {
    /// Which.
    pub(in crate::control) info_hash: InfoHash,
    /// What is in its file. The torrent itself holds on to the folder.
    pub(in crate::control) contents: Contents,
    /// Whether it rested, and the shards had its info-hash alone.
    pub(in crate::control) rested: bool,
}

impl Torrents {
    /// The data folders of these watch folders are gone. Looks at so many torrents behind one, or from the first, and gives those
    /// of the folders that shards have, or had, and those that rest: they have them no more, and wait for the folder. What is
    /// being checked is told to stop, what is paused stays so. Also gives where the next begin, unless these were the last.
    pub(in crate::control) fn lose(
        &mut self,
        (folders, why): (&[usize], &str),
        (after, max): (Option<InfoHash>, usize),
    ) -> (Vec<Lost>, Option<InfoHash>) {
        let page: Vec<(InfoHash, bool)> = self
            .after(after)
            .take(max)
            .map(|(info_hash, entry)| (info_hash, folders.contains(&entry.folder())))
            .collect();
        let last = page.last().filter(|_| page.len() == max).map(|(last, _)| *last);
        let of_these = page.into_iter().filter(|(_, is_there)| *is_there);
        let lost = of_these.filter_map(|(info_hash, _)| self.lose_one(info_hash, why));
        (lost.collect(), last)
    }

    fn lose_one(&mut self, info_hash: InfoHash, why: &str) -> Option<Lost> {
        let entry = self.by_hash.get_mut(&info_hash)?;
        let (served, rested) = (entry.served.take(), std::mem::take(&mut entry.rests));
        self.loaded.remove(&info_hash);
        self.resting.remove(info_hash);
        let is_lost = served.is_some() || rested;
        if let State::Checking(progress) = &entry.state {
            progress.cancel();
        } else if is_lost {
            entry.is_known = false;
            entry.rare.get_or_insert_default().why = Some(why.into());
            if !entry.paused {
                entry.settled_as = None;
                self.counts[entry.state.index()] -= 1;
                entry.state = State::Unavailable;
                self.counts[entry.state.index()] += 1;
            }
        }
        is_lost.then(|| Lost {
            info_hash,
            contents: match &served {
                Some(torrent) => Contents::Here(torrent.shared_meta()),
                None => Contents::InFile(Arc::clone(entry.files.first().0)),
            },
            rested,
        })
    }

    /// Those among so many torrents behind one, or from the first, that wait for their data folder, which is that of one of these
    /// watch folders, and are paused or not. Also where the next begin, unless these were the last.
    pub(in crate::control) fn unavailable_in(
        &self,
        (folders, paused): (&[usize], bool),
        (after, max): (Option<InfoHash>, usize),
    ) -> (Vec<InfoHash>, Option<InfoHash>) {
        let (mut waiting, mut last, mut count) = (Vec::new(), None, 0);
        for (info_hash, entry) in self.after(after).take(max) {
            (last, count) = (Some(info_hash), count + 1);
            if entry.is_paused() == paused && is_unavailable_in(entry, folders) {
                waiting.push(info_hash);
            }
        }
        (waiting, last.filter(|_| count == max))
    }
}

fn is_unavailable_in(entry: &Entry, folders: &[usize]) -> bool {
    let waits = matches!(entry.state, State::Unavailable | State::Paused) && entry.served.is_none();
    waits && folders.contains(&entry.folder())
}
