//! Trackers and their hosts: each has a number for as long as a list names it.

use std::sync::Arc;

use super::super::url::{Scheme, TrackerUrl};
use super::Schedule;
use super::host::Host;
use super::swarms::Scrapes;
use crate::proto::InfoHash;

/// A tracker's address.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) url: Arc<TrackerUrl>,
    pub(super) host: u32,
    /// Places in lists that are this one.
    places: u32,
    pub(super) scrapes: Scrapes,
    /// What it said last that a user should know, or what was wrong with it. A tracker that is down is so for all torrents.
    said: Option<Arc<str>>,
}

/// What a host is known by: its protocol, name and port.
pub(super) type HostName = (Scheme, Box<str>, u16);

impl Schedule {
    /// The numbers of a tracker and its host, for one more place that is it.
    pub(super) fn number(&mut self, url: &Arc<TrackerUrl>) -> (u32, u32) {
        if let Some(number) = self.tracker_of.get(url) {
            let tracker = &mut self.trackers[*number as usize];
            tracker.places += 1;
            return (*number, tracker.host);
        }
        let name = (url.scheme(), Box::from(url.host()), url.port());
        let host = match self.host_of.get(&name) {
            Some(host) => *host,
            None => {
                let host = u32::try_from(self.hosts.insert(Host::new(name.clone()))).expect("fewer hosts than 2^32");
                self.host_of.insert(name, host);
                host
            }
        };
        self.hosts[host as usize].urls += 1;
        let tracker = Tracker {
            url: Arc::clone(url),
            host,
            places: 1,
            scrapes: Scrapes::new(url),
            said: None,
        };
        let number = u32::try_from(self.trackers.insert(tracker)).expect("fewer trackers than 2^32");
        self.tracker_of.insert(Arc::clone(url), number);
        (number, host)
    }

    /// The trackers of one list of a torrent, in the order in which they are tried; none if it is not announced.
    #[must_use]
    pub fn trackers_of(&self, info_hash: InfoHash, list: u8) -> Vec<Arc<TrackerUrl>> {
        let job = self.job_of.get(&(info_hash, list));
        let places = job.map_or(&[][..], |key| &self.jobs[*key as usize].places);
        places
            .iter()
            .map(|place| Arc::clone(&self.trackers[place.url as usize].url))
            .collect()
    }

    /// Torrents of which the same tracker says the same share the text.
    pub(super) fn share_text(&mut self, key: u32) {
        let job = &mut self.jobs[key as usize];
        let url = job.places[job.at].url;
        let said = &mut self.trackers[url as usize].said;
        let Some((_, text)) = job.texts.iter_mut().find(|(of, _)| *of == url) else {
            return;
        };
        match said {
            Some(said) if text == said => *text = Arc::clone(said),
            said => *said = Some(Arc::clone(text)),
        }
    }

    /// One place less is this tracker.
    pub(super) fn release(&mut self, number: u32) {
        let tracker = &mut self.trackers[number as usize];
        tracker.places -= 1;
        if tracker.places > 0 {
            return;
        }
        let tracker = self.trackers.remove(number as usize);
        self.tracker_of.remove(&tracker.url);
        if let Some(at) = tracker.scrapes.wakes_at {
            self.scrape_wakes.remove(&(at, number));
        }
        let host = &mut self.hosts[tracker.host as usize];
        host.urls -= 1;
        if host.urls == 0 {
            let host = self.hosts.remove(tracker.host as usize);
            if let Some(wake) = host.wakes_at {
                self.wakes_of(wake).remove(&(wake.at, tracker.host));
            }
            self.host_of.remove(&host.name);
        }
    }
}
