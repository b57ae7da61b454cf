//! Five other people's clients as leechers, each driven the way its users drive it.
//!
//! Common to all: a home of its own in the scratch folder, addresses of the [private network](super::private_net)
//! only, DHT, local discovery, peer exchange and port mapping off (there is one peer to find, and the swarm should
//! take everything from it), and otherwise the client's own defaults, encryption included: all of them try or allow
//! encrypted connections and fall back to plain ones, which is all that btd speaks.

mod aria2;
pub mod libtorrent;
mod qbittorrent;
mod rtorrent;
mod transmission;

use super::installed;
use super::private_net::CLIENTS;
use super::process::Process;
use super::torrent::Torrent;
use super::tracker::Tracker;
use rustix::process::Signal;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Libtorrent,
    Qbittorrent,
    Transmission,
    Rtorrent,
    Aria2,
}

/// One torrent to get.
pub struct Download {
    pub torrent: Torrent,
    /// The folder to put it in.
    pub save: PathBuf,
}

/// What a driver needs to know.
struct Job {
    /// For the client's own files: profile, session, log.
    home: PathBuf,
    downloads: Vec<Download>,
    /// Where the seed listens.
    seed: SocketAddr,
    /// The tracker that is to name the seed, where the client would otherwise be told who it is.
    by_tracker: Option<String>,
    /// For everything that the client does on the network.
    addr: IpAddr,
    /// For peers.
    port: u16,
    /// For its remote control.
    control: SocketAddr,
    deadline: Instant,
}

impl Client {
    pub const ALL: [Self; 5] = [
        Self::Libtorrent,
        Self::Qbittorrent,
        Self::Transmission,
        Self::Rtorrent,
        Self::Aria2,
    ];

    /// What has to be installed for it and is not.
    pub fn missing(self) -> Option<String> {
        let programs: &[&str] = match self {
            Self::Libtorrent => return libtorrent::missing(),
            Self::Qbittorrent => &["qbittorrent-nox"],
            Self::Transmission => &["transmission-daemon"],
            Self::Rtorrent => &["rtorrent"],
            Self::Aria2 => &["aria2c"],
        };
        let missing = programs
            .iter()
            .chain(&["opentracker"])
            .find(|program| !installed(program))?;
        Some(format!("`{missing}` is not installed (hint: tests/run installs it)"))
    }

    /// Transmission 3.00 makes no file for a file of no bytes.
    pub fn makes_empty_files(self) -> bool {
        self != Self::Transmission
    }

    /// Seeds a payload: gives the process, which ends when it is dropped, and where its peers connect. It may check what is
    /// there first.
    pub fn seed(self, scratch: &Path, torrent: &Torrent, data_dir: &Path) -> (Process, SocketAddr) {
        // rTorrent refuses torrents without a tracker; nobody is at this one.
        let announce = format!("http://{}:1/announce", CLIENTS[self as usize]);
        self.seed_announced_to(&announce, scratch, torrent, data_dir)
    }

    /// The same, and tells a tracker. What is missing of the payload is downloaded first.
    pub fn seed_announced_to(
        self,
        announce: &str,
        scratch: &Path,
        torrent: &Torrent,
        data_dir: &Path,
    ) -> (Process, SocketAddr) {
        let home = scratch.join(format!("{self:?}"));
        fs::create_dir_all(&home).expect("make a client's home");
        let addr = CLIENTS[self as usize];
        let job = Job {
            downloads: vec![Download {
                torrent: torrent.with_tracker(announce, home.join("seed.torrent")),
                save: data_dir.to_owned(),
            }],
            home,
            seed: SocketAddr::new(addr, 1),
            by_tracker: None,
            addr,
            port: 51_413,
            control: self.control(),
            deadline: Instant::now(),
        };
        let process = match self {
            Self::Libtorrent => libtorrent::seed(&job),
            Self::Qbittorrent => qbittorrent::seed(&job),
            Self::Transmission => transmission::seed(&job),
            Self::Rtorrent => rtorrent::seed(&job),
            Self::Aria2 => aria2::seed(&job),
        };
        (process, SocketAddr::new(addr, job.port))
    }

    /// Downloads `torrents` from `seed`, each into a folder of its own, and returns those folders. Has ended when it
    /// returns. Panics at `deadline`.
    pub fn download(self, scratch: &Path, torrents: &[Torrent], seed: SocketAddr, deadline: Instant) -> Vec<PathBuf> {
        let home = scratch.join(format!("{self:?}"));
        fs::create_dir_all(home.join("tracker")).expect("make a client's home");
        // A tracker for this client alone, or the clients would find each other and not all load btd.
        let addr = CLIENTS[self as usize];
        let tracker = Tracker::start(&home.join("tracker"), SocketAddr::new(addr, 6_969), torrents);
        let download = |(number, torrent): (usize, &Torrent)| {
            tracker.announce_seed(torrent, seed);
            let save = home.join(format!("save-{number}"));
            fs::create_dir_all(&save).expect("make a download folder");
            let path = home.join(format!("{number}.torrent"));
            Download {
                torrent: torrent.with_tracker(&tracker.announce_url(), path),
                save,
            }
        };
        let job = Job {
            downloads: torrents.iter().enumerate().map(download).collect(),
            home,
            seed,
            by_tracker: None,
            addr,
            port: 51_413,
            control: self.control(),
            deadline,
        };
        self.run_download(&job);
        job.downloads.into_iter().map(|download| download.save).collect()
    }

    /// Downloads a torrent from whom a tracker names, and returns its folder. Has ended when it returns.
    pub fn download_by_tracker(self, scratch: &Path, torrent: &Torrent, announce: &str, deadline: Instant) -> PathBuf {
        let home = scratch.join(format!("{self:?}"));
        let save = home.join("save");
        fs::create_dir_all(&save).expect("make a download folder");
        let addr = CLIENTS[self as usize];
        let torrent = torrent.with_tracker(announce, home.join("tracked.torrent"));
        let job = Job {
            downloads: vec![Download {
                torrent,
                save: save.clone(),
            }],
            home,
            seed: SocketAddr::new(addr, 1),
            by_tracker: Some(announce.to_owned()),
            addr,
            port: 51_413,
            control: self.control(),
            deadline,
        };
        self.run_download(&job);
        save
    }

    /// Has the process of [`Client::seed_announced_to`] leave its swarms, as its users would. It may run on.
    pub fn leave(self, process: &Process) {
        match self {
            Self::Transmission => transmission::leave(self.control()),
            Self::Rtorrent | Self::Aria2 => process.signal(Signal::INT),
            Self::Libtorrent | Self::Qbittorrent => process.signal(Signal::TERM),
        }
    }

    /// For its remote control. qBittorrent trusts callers from 127.0.0.1 alone.
    fn control(self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9_090 + self as u16))
    }

    fn run_download(self, job: &Job) {
        match self {
            Self::Libtorrent => libtorrent::download(job),
            Self::Qbittorrent => qbittorrent::download(job),
            Self::Transmission => transmission::download(job),
            Self::Rtorrent => rtorrent::download(job),
            Self::Aria2 => aria2::download(job),
        }
    }
}
