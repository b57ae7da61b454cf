//! Names of peers: looked up when a tracker tells them, and again while nothing comes of where they lead to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Found;
use super::task::Task;
use crate::proto::InfoHash;

/// The age from which an answer is asked for anew when nothing has come since the last time.
const IDLE_AGE: Duration = Duration::from_secs(5);

/// Names of one torrent that are looked up at a time: a quarter of what the resolver does at once, so that others have a part.
const TOGETHER_MAX: usize = 4;

/// For how long nothing has come of a torrent, counted in the times that its names were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Idle {
    downloaded: u64,
    times: u32,
}

impl Idle {
    /// Whether addresses may be wrong and it is time to ask anew: the first, second, fourth, eighth.. time that nothing has
    /// come. What has no peers for hours should not ask for them every few seconds.
    fn asks_anew(&mut self, downloaded: u64) -> bool {
        self.times = match downloaded == self.downloaded {
            true => self.times.saturating_add(1),
            false => 0,
        };
        self.downloaded = downloaded;
        self.times.is_power_of_two()
    }
}

/// What only a torrent has whose trackers have told of peers by name.
#[derive(Debug, Default)]
pub(super) struct ByName {
    /// Names and ports, as a tracker gave them last.
    pub(super) names: Vec<(Box<str>, u16)>,
    /// Where they have led, last.
    led_to: HashMap<SocketAddr, Box<str>>,
    is_looking: bool,
    idle: Idle,
}

/// Addresses that a name has led to, and the name; none if it could not be looked up.
pub(super) type Named = (Box<str>, Vec<SocketAddr>);

impl Task {
    pub(super) fn look_up_names(&mut self) {
        let due = self.torrents.iter_mut().filter_map(|(info_hash, entry)| {
            let torrent = entry.torrent.as_ref().filter(|torrent| torrent.home().is_some());
            let by_name = entry.by_name.as_mut().filter(|by_name| !by_name.names.is_empty());
            Some((*info_hash, by_name?.idle.asks_anew(torrent?.downloaded())))
        });
        let due: Vec<(InfoHash, bool)> = due.collect();
        due.into_iter()
            .for_each(|(info_hash, anew)| self.look_up(info_hash, None, anew));
    }

    /// Nobody is at an address: its name is looked up anew, if one has led there.
    pub(super) fn on_unreachable(&mut self, info_hash: InfoHash, addr: SocketAddr) {
        let by_name = self.torrents.get(&info_hash).and_then(|entry| entry.by_name.as_ref());
        if let Some(name) = by_name.and_then(|by_name| by_name.led_to.get(&addr).cloned()) {
            self.look_up(info_hash, Some(&name), true);
        }
    }

    /// Looks the names of a torrent's peers up, or one of them, `anew` where what is remembered has led to nobody.
    pub(super) fn look_up(&mut self, info_hash: InfoHash, only: Option<&str>, anew: bool) {
        let by_name = self
            .torrents
            .get_mut(&info_hash)
            .and_then(|entry| entry.by_name.as_mut());
        let Some(entry) = by_name.filter(|by_name| !by_name.is_looking) else {
            return;
        };
        let is_meant = |(name, _): &&(Box<str>, u16)| only.is_none_or(|only| **name == *only);
        let names: Vec<(Box<str>, u16)> = entry.names.iter().filter(is_meant).cloned().collect();
        if names.is_empty() {
            return;
        }
        entry.is_looking = true;
        let (resolver, rule) = (Arc::clone(&self.resolver), self.rule);
        let found = self.found.clone();
        let lookers = names.len().min(TOGETHER_MAX);
        let names = Arc::new(Mutex::new(names.into_iter()));
        // Several at a time: a name that nobody answers for takes ten seconds, and a tracker may tell fifty.
        let look = move || {
            let (names, resolver, found) = (Arc::clone(&names), Arc::clone(&resolver), found.clone());
            async move {
                let mut led: Vec<Named> = Vec::new();
                loop {
                    let next = names.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((name, port)) = next else { return led };
                    let looked_up = match anew {
                        true => resolver.addresses_since(&name, IDLE_AGE).await,
                        false => resolver.addresses(&name).await,
                    };
                    let ips = match looked_up {
                        Ok(ips) => ips,
                        Err(error) => {
                            tracing::debug!("cannot look up the peer {name:?}: {error}");
                            continue;
                        }
                    };
                    let permitted = ips.iter().filter(|ip| rule.permits(**ip));
                    let addrs: Vec<SocketAddr> = permitted.map(|ip| SocketAddr::new(*ip, port)).collect();
                    led.push((name, addrs.clone()));
                    // At once: the next name may take its time.
                    if !addrs.is_empty() {
                        let named = true;
                        // Nobody listens when btd is stopping.
                        let _ = found.send(Found {
                            info_hash,
                            addrs,
                            named,
                        });
                    }
                }
            }
        };
        self.lookups.spawn(async move {
            let mut looking: JoinSet<Vec<Named>> = (0..lookers).map(|_| look()).collect();
            let mut led = Vec::new();
            while let Some(looked_up) = looking.join_next().await {
                led.extend(looked_up.unwrap_or_default());
            }
            (info_hash, led)
        });
    }

    /// Names have been looked up. What they led to before is forgotten, so that no more is kept than there are names.
    pub(super) fn on_looked_up(&mut self, info_hash: InfoHash, led: Vec<Named>) {
        let by_name = self
            .torrents
            .get_mut(&info_hash)
            .and_then(|entry| entry.by_name.as_mut());
        let Some(entry) = by_name else {
            return;
        };
        entry.is_looking = false;
        let names = &entry.names;
        entry.led_to.retain(|_, name| {
            let is_told = names.iter().any(|(told, _)| told == name);
            is_told && !led.iter().any(|(looked_up, _)| looked_up == name)
        });
        for (name, addrs) in led {
            entry.led_to.extend(addrs.into_iter().map(|addr| (addr, name.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_anew_when_nothing_comes_and_ever_less_often() {
        let mut idle = Idle::default();
        assert!(!idle.asks_anew(5) && !idle.asks_anew(6), "something comes");
        let anew: Vec<u32> = (1..=20).filter(|_| idle.asks_anew(6)).collect();
        assert_eq!(anew, [1, 2, 4, 8, 16]);
        assert!(!idle.asks_anew(7) && idle.asks_anew(7), "from the beginning");
    }
}
