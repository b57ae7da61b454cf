//! What is to be asked next, and what became of what was asked: the part of a run that knows no sockets.

use crate::harness::histogram::Histogram;
use crate::harness::random::Random;

use super::population::Population;
use super::reply::{self, Flaw};
use super::request::Announce;

/// What an announce says has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing: a regular announce.
    None,
    /// The peer has come.
    Started,
    /// It has everything now.
    Completed,
    /// It leaves.
    Stopped,
}

/// One honest request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// A peer announces.
    Announce { peer: u32, event: Event },
    /// Some torrents are scraped: which, follows from the seed.
    Scrape { seed: u64 },
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Each peer once, in order; those from here on are missing.
    Fill(u32),
    /// Whatever the load is made of, so often at most.
    Run(Option<u64>),
    /// Nothing more.
    Drain,
}

/// What a run counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// From a request's send to its reply, in nanoseconds.
    pub(super) latency: Histogram,
    /// Peers in the replies.
    pub(super) peers: u64,
    /// Replies that are what they should be.
    pub(super) good: u64,
    /// Requests that the tracker would not serve.
    pub(super) refused: u64,
    /// Replies that make no sense.
    pub(super) implausible: u64,
    /// Requests without a reply.
    pub(super) lost: u64,
    /// Datagrams nobody waits for: replies that were given up, or that nobody asked for.
    pub(super) stray: u64,
    /// Replies compared with the population, and those that named somebody else's peers.
    pub(super) compared: u64,
    pub(super) mismatched: u64,
    /// Malformed requests; those that were answered in any way; replies longer than a request that proved nothing.
    pub(super) junk: u64,
    pub(super) junk_answered: u64,
    pub(super) junk_amplified: u64,
    /// Connections that could not be made.
    pub(super) unconnected: u64,
}

impl Tally {
    /// Requests that got an answer, whatever it was.
    pub(super) fn answered(&self) -> u64 {
        self.good + self.refused + self.implausible
    }
}

/// The requests of a run.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) population: &'a Population,
    pub(super) random: Random,
    pub(super) numwant: u32,
    /// Torrents of a scrape; 0 is a load of announces.
    pub(super) scrape: u32,
    /// Malformed requests before each honest one.
    pub(super) junk: u32,
    /// The share of replies that are compared with the population.
    pub(super) verify: f64,
    phase: Phase,
    /// Asked in vain while filling.
    again: Vec<Ask>,
    pub(super) tally: Tally,
}

impl<'a> Work<'a> {
    pub(super) fn new(population: &'a Population, seed: u64) -> Work<'a> {
        Work {
            population,
            random: Random::new(seed ^ 0x7472_6163_6b65_7200),
            numwant: 50,
            scrape: 0,
            junk: 0,
            verify: 0.0,
            phase: Phase::Drain,
            again: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// From now on every peer announces once.
    pub(super) fn fill(&mut self) {
        self.phase = Phase::Fill(0);
    }

    /// From now on the load itself is asked, so often. What was counted is forgotten.
    pub(super) fn run(&mut self, requests: Option<u64>) {
        self.phase = Phase::Run(requests);
        self.tally = Tally::default();
    }

    /// Nothing more is asked.
    pub(super) fn drain(&mut self) {
        self.phase = Phase::Drain;
    }

    /// Whether there is nothing more to ask.
    pub(super) fn is_exhausted(&self) -> bool {
        let ended = match self.phase {
            Phase::Fill(next) => next == self.population.peers(),
            Phase::Run(left) => left == Some(0),
            Phase::Drain => true,
        };
        ended && self.again.is_empty()
    }

    /// How many malformed requests go before the next honest one.
    pub(super) fn junk_due(&self) -> u32 {
        match self.phase {
            Phase::Run(_) => self.junk,
            Phase::Fill(_) | Phase::Drain => 0,
        }
    }

    /// The next request, if there is one.
    pub(super) fn next(&mut self) -> Option<Ask> {
        if let Some(ask) = self.again.pop() {
            return Some(ask);
        }
        match &mut self.phase {
            Phase::Fill(next) if *next < self.population.peers() => {
                let peer = *next;
                *next += 1;
                let event = Event::Started;
                Some(Ask::Announce { peer, event })
            }
            Phase::Run(left) if *left != Some(0) => {
                if let Some(left) = left {
                    *left -= 1;
                }
                if self.scrape > 0 {
                    let seed = self.random.next_u64();
                    return Some(Ask::Scrape { seed });
                }
                let peer = self.random.below(self.population.peers());
                let event = match self.random.below(100) {
                    0 | 1 => Event::Started,
                    2 | 3 => Event::Completed,
                    4 | 5 => Event::Stopped,
                    _ => Event::None,
                };
                Some(Ask::Announce { peer, event })
            }
            Phase::Fill(_) | Phase::Run(_) | Phase::Drain => None,
        }
    }

    /// It could not be sent now.
    pub(super) fn put_back(&mut self, ask: Ask) {
        self.again.push(ask);
    }

    /// What an announce of this peer says.
    pub(super) fn announce(&self, peer: u32, event: Event) -> Announce<'a> {
        Announce {
            info_hash: self.population.info_hash(self.population.torrent_of(peer)),
            peer,
            port: self.population.port_of(peer),
            seeder: Population::is_seeder(peer),
            event,
            numwant: self.numwant,
        }
    }

    /// The torrents of a scrape, by number.
    pub(super) fn scraped(&self, seed: u64) -> impl Iterator<Item = u32> + use<'a> {
        let (population, mut random) = (self.population, Random::new(seed));
        (0..self.scrape).map(move |_| population.any_torrent(&mut random))
    }

    /// A datagram has come in reply to this.
    pub(super) fn on_datagram(&mut self, ask: Ask, reply: &[u8], nanos: u64) {
        match ask {
            Ask::Announce { peer, .. } => self.on_peers(peer, reply::udp_announce(reply, self.numwant), nanos),
            Ask::Scrape { seed } => {
                let counts = reply::udp_scrape(reply, self.scrape as usize);
                match counts {
                    Ok(counts) => {
                        self.good(nanos);
                        if self.random.chance(self.verify) {
                            let population = self.population;
                            let fits = self.scraped(seed).zip(counts).all(|(torrent, (complete, incomplete))| {
                                u64::from(complete) + u64::from(incomplete) <= u64::from(population.members(torrent))
                            });
                            self.compare(fits);
                        }
                    }
                    Err(flaw) => self.bad(flaw),
                }
            }
        }
    }

    /// The response to a peer's announce has come.
    pub(super) fn on_response(&mut self, peer: u32, status: u16, body: &[u8], nanos: u64) {
        let peers = match status {
            200 => reply::http_announce(body, self.numwant),
            _ => Err(Flaw::Refused),
        };
        self.on_peers(peer, peers, nanos);
    }

    fn on_peers(&mut self, peer: u32, peers: Result<&[u8], Flaw>, nanos: u64) {
        match peers {
            Ok(peers) => {
                self.good(nanos);
                self.tally.peers += peers.len() as u64 / 6;
                if self.random.chance(self.verify) {
                    let torrent = Some(self.population.torrent_of(peer));
                    let fits = reply::addresses(peers).all(|addr| self.population.torrent_at(addr) == torrent);
                    self.compare(fits);
                }
            }
            Err(flaw) => self.bad(flaw),
        }
    }

    fn good(&mut self, nanos: u64) {
        self.tally.good += 1;
        self.tally.latency.record(nanos);
    }

    fn compare(&mut self, fits: bool) {
        self.tally.compared += 1;
        self.tally.mismatched += u64::from(!fits);
    }

    fn bad(&mut self, flaw: Flaw) {
        match flaw {
            Flaw::Refused => self.tally.refused += 1,
            Flaw::Implausible => self.tally.implausible += 1,
        }
    }

    /// No reply has come to this, and none is waited for. The population is filled nevertheless.
    pub(super) fn lose(&mut self, ask: Ask) {
        self.tally.lost += 1;
        if matches!(self.phase, Phase::Fill(_)) {
            self.again.push(ask);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn population() -> Population {
        Population::new(300, 10, Ipv4Addr::new(127, 16, 0, 1), 4, 1)
    }

    #[test]
    fn a_fill_announces_each_peer_once_and_those_that_were_lost_again() {
        let population = population();
        let mut work = Work::new(&population, 1);
        work.fill();
        let first = work.next().unwrap();
        work.lose(first);
        assert_eq!(work.next(), Some(first));
        let rest = std::iter::from_fn(|| work.next()).count();
        assert_eq!(rest, 299);
        assert!(work.is_exhausted());
    }

    #[test]
    fn a_run_asks_so_often_and_has_two_in_a_hundred_of_each_event() {
        let population = population();
        let mut work = Work::new(&population, 1);
        work.run(Some(100_000));
        let mut events = [0; 4];
        while let Some(ask) = work.next() {
            let Ask::Announce { event, .. } = ask else {
                panic!("not a load of scrapes")
            };
            events[event as usize] += 1;
        }
        assert_eq!(events.iter().sum::<u32>(), 100_000);
        assert!(
            events[1..].iter().all(|count| (1_800..2_200).contains(count)),
            "{events:?}"
        );
        work.scrape = 5;
        work.run(None);
        let Some(Ask::Scrape { seed }) = work.next() else {
            panic!("not an announce")
        };
        assert_eq!(work.scraped(seed).count(), 5);
        assert!(work.scraped(seed).eq(work.scraped(seed)));
        work.drain();
        assert_eq!(work.next(), None);
    }

    #[test]
    fn peers_of_another_torrent_are_a_mismatch() {
        let population = population();
        let mut work = Work::new(&population, 1);
        work.verify = 1.0;
        work.run(None);
        let other = (0..300)
            .find(|peer| population.torrent_of(*peer) != population.torrent_of(0))
            .unwrap();
        let same = (1..300)
            .find(|peer| population.torrent_of(*peer) == population.torrent_of(0))
            .unwrap();
        for (named, mismatched) in [(same, 0), (other, 1)] {
            let mut reply = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            reply.extend(population.source_ip(population.source_of(named)).octets());
            reply.extend(population.port_of(named).to_be_bytes());
            let ask = Ask::Announce {
                peer: 0,
                event: Event::None,
            };
            work.on_datagram(ask, &reply, 1);
            assert_eq!(work.tally.mismatched, mismatched);
        }
        assert_eq!((work.tally.good, work.tally.compared, work.tally.peers), (2, 2, 2));
    }

    #[test]
    fn a_scrape_with_more_peers_than_there_are_is_a_mismatch() {
        let population = population();
        let mut work = Work::new(&population, 1);
        (work.verify, work.scrape) = (1.0, 1);
        work.run(None);
        for (count, mismatched) in [(0_u32, 0), (301, 1)] {
            let mut reply = vec![0, 0, 0, 2, 0, 0, 0, 0];
            [count, 0, 0].iter().for_each(|n| reply.extend(n.to_be_bytes()));
            work.on_datagram(Ask::Scrape { seed: 5 }, &reply, 1);
            assert_eq!(work.tally.mismatched, mismatched);
        }
    }
}
