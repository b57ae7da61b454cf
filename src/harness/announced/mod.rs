//! Trackers that a client of any make announces its torrents to: what it asks, how often, over how many connections, and
//! what that costs it.
//!
//! - [`Setting`]: how many trackers and torrents; [`Bound`]: they listen, and their torrents are written; [`Report`].
//! - `ledger` (what was asked, of which torrent and when), `http` and `udp` (the trackers), `torrents` (their files).
//!
//! The trackers keep no swarm: every announce is answered with nobody, every scrape with nobody. IPv4 and IPv6, no TLS.
//! They are threads that sleep, one for each connection: a client asks some tens of times in a second, and the clock that
//! counts is its own.

mod http;
mod ledger;
mod report;
mod torrents;
mod udp;

use std::fs;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::load::raise_open_files;
use super::procfs::{Host, Tree};
use ledger::Ledger;
pub use report::Report;
use report::{Cost, Measured};

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(20);
/// The process is waited for so long.
const PROCESS_WAIT: Duration = Duration::from_secs(120);
/// And its end, once it was told to.
const END_WAIT: Duration = Duration::from_secs(60);
/// Trackers of each kind at most: each has a thread, and each connection to it another.
pub const TRACKERS_MAX: u32 = 64;
/// Torrents at most.
pub const TORRENTS_MAX: u32 = 1_000_000;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Where the trackers listen, each on a port of its own.
    pub listen: IpAddr,
    /// What they are called in the torrents' files; `None` is by their address.
    pub host: Option<String>,
    /// Trackers that speak HTTP.
    pub http: u32,
    /// Trackers that speak UDP.
    pub udp: u32,
    /// Torrents, each announced to one of them, in turn.
    pub torrents: u32,
    /// When the client is to announce again. Whole seconds.
    pub interval: Duration,
    /// How long an answer takes.
    pub delay: Duration,
    /// Where the torrents are written once the trackers listen, and where their payload; nowhere if `None`.
    pub write: Option<(PathBuf, PathBuf)>,
    /// The client's process, or a file that will name it.
    pub process: Process,
    /// How long all torrents may take to be announced once.
    pub start: Duration,
    /// How long nothing is counted after that.
    pub settle: Duration,
    /// How long it is counted then.
    pub time: Duration,
    /// The client is sent SIGTERM at the end, and it is counted of how many torrents the trackers hear that they stop.
    pub stop: bool,
}

/// Which process is the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// Nobody's CPU time is measured.
    Unknown,
    /// This one.
    Pid(u32),
    /// The one that is written into this file.
    File(PathBuf),
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that no run could have.
    #[error("{0}")]
    Setting(String),
    /// A tracker cannot listen.
    #[error("cannot listen on {0}: {1}")]
    Listen(IpAddr, io::Error),
    /// The torrents cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, io::Error),
    /// There is no such process, or it cannot be looked at.
    #[error("cannot watch the client's process: {0}")]
    Client(io::Error),
    /// Not all torrents were announced in time.
    #[error("{announced} of {torrents} torrents were announced within {} s", time.as_secs())]
    Unannounced {
        /// Announced.
        announced: u32,
        /// Of so many.
        torrents: u32,
        /// In this time.
        time: Duration,
    },
}

/// Trackers that listen, of torrents that are written.
#[derive(Debug)]
pub struct Bound {
    setting: Setting,
    ledger: Arc<Ledger>,
    urls: Vec<String>,
}

impl Setting {
    /// Has the trackers listen and the torrents written.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Listen`] or [`Error::Write`].
    pub fn bind(self) -> Result<Bound, Error> {
        let wrong = |what: &str| Err(Error::Setting(what.to_owned()));
        match &self {
            setting if setting.http + setting.udp == 0 => return wrong("trackers: at least 1"),
            setting if setting.http.max(setting.udp) > TRACKERS_MAX => {
                return wrong("trackers: at most 64 of each kind");
            }
            setting if !(1..=TORRENTS_MAX).contains(&setting.torrents) => {
                return wrong("torrents: from 1 to 1,000,000");
            }
            setting if setting.interval < Duration::from_secs(1) => return wrong("interval: at least a second"),
            setting if setting.stop && setting.process == Process::Unknown => {
                return wrong("to stop the client its process has to be known");
            }
            _ => {}
        }
        raise_open_files();
        let (listens, host) = (|error| Error::Listen(self.listen, error), self.host());
        let mut urls = Vec::new();
        let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
        for _ in 0..self.http {
            let listener = TcpListener::bind((self.listen, 0)).map_err(listens)?;
            let port = listener.local_addr().map_err(listens)?.port();
            urls.push(format!("http://{host}:{port}/announce"));
            listeners.push(listener);
        }
        for _ in 0..self.udp {
            let socket = UdpSocket::bind((self.listen, 0)).map_err(listens)?;
            let port = socket.local_addr().map_err(listens)?.port();
            urls.push(format!("udp://{host}:{port}/announce"));
            sockets.push(socket);
        }
        let hashes = torrents::info_hashes(self.torrents);
        let ledger = Arc::new(Ledger::new(&hashes, urls.len()));
        // They end with the process.
        for (number, listener) in listeners.into_iter().enumerate() {
            http::serve(listener, number, Arc::clone(&ledger), (self.interval, self.delay));
        }
        for (number, socket) in (urls.len() - sockets.len()..).zip(sockets) {
            udp::serve(socket, number, Arc::clone(&ledger), (self.interval, self.delay));
        }
        if let Some((torrents, data)) = &self.write {
            torrents::write(torrents, data, &urls, self.torrents).map_err(|(path, error)| Error::Write(path, error))?;
        }
        Ok(Bound {
            setting: self,
            ledger,
            urls,
        })
    }

    fn host(&self) -> String {
        match (&self.host, self.listen) {
            (Some(name), _) => name.clone(),
            (None, IpAddr::V4(ip)) => ip.to_string(),
            (None, IpAddr::V6(ip)) => format!("[{ip}]"),
        }
    }
}

impl Bound {
    /// The trackers' addresses, those of HTTP first.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Waits for the client, and watches it to the end of the run.
    ///
    /// # Errors
    /// [`Error::Client`] and [`Error::Unannounced`].
    pub fn run(self) -> Result<Report, Error> {
        let (setting, ledger) = (&self.setting, &*self.ledger);
        let host = Host::look();
        let pid = find(&setting.process).map_err(Error::Client)?;
        let begun = Instant::now();
        while ledger.announced() < setting.torrents {
            if begun.elapsed() >= setting.start {
                return Err(Error::Unannounced {
                    announced: ledger.announced(),
                    torrents: setting.torrents,
                    time: setting.start,
                });
            }
            std::thread::sleep(LOOK);
        }
        let start = (begun.elapsed(), ledger.sums(), ledger.most_per_second());
        std::thread::sleep(setting.settle);

        let tree = pid.map(Tree::new);
        let usage = || {
            let usage = tree.as_ref().map(Tree::usage).transpose();
            usage.map(Option::unwrap_or_default).map_err(Error::Client)
        };
        ledger.forget_peaks();
        let (before, usage_before, from) = (ledger.sums(), usage()?, Instant::now());
        std::thread::sleep(setting.time);
        let (time, used) = (from.elapsed(), usage()?.since(&usage_before));
        let steady = (time, ledger.sums().since(&before), ledger.most_per_second());
        let gaps = ledger.gaps(setting.interval, Instant::now());
        let memory = tree.as_ref().map(|tree| tree.memory(true)).transpose();
        let memory = memory.map_err(Error::Client)?;
        let stopped = match pid.filter(|_| setting.stop) {
            Some(pid) => Some(stop(ledger, pid)?),
            None => None,
        };
        Ok(Report::new(Measured {
            start,
            steady,
            gaps,
            client: memory.map(|memory| Cost::new(used, memory, time.as_secs_f64())),
            stopped,
            host,
            urls: self.urls,
            setting: self.setting,
        }))
    }
}

/// The process that is the client, when it is known.
fn find(process: &Process) -> io::Result<Option<u32>> {
    let path = match process {
        Process::Unknown => return Ok(None),
        Process::Pid(pid) => return Ok(Some(*pid)),
        Process::File(path) => path,
    };
    let begun = Instant::now();
    loop {
        match read_pid(path) {
            Ok(pid) => return Ok(Some(pid)),
            Err(error) if begun.elapsed() >= PROCESS_WAIT => return Err(error),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn read_pid(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    let no_pid = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} has no pid", path.display()));
    text.trim().parse().map_err(no_pid)
}

/// Ends the client, and counts who is told.
fn stop(ledger: &Ledger, pid: u32) -> Result<report::Stopped, Error> {
    let gone = io::Error::from(io::ErrorKind::NotFound);
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or(Error::Client(gone))?;
    let before = ledger.sums();
    ledger.forget_peaks();
    let begun = Instant::now();
    kill_process(process, Signal::TERM).map_err(|errno| Error::Client(errno.into()))?;
    // One that has ended and that nobody has waited for is still there, and does nothing.
    let runs = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while runs() && begun.elapsed() < END_WAIT {
        std::thread::sleep(LOOK);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(report::Stopped {
        torrents: ledger.stopped(),
        requests: ledger.sums().since(&before).requests,
        most_per_second: ledger.most_per_second(),
        seconds,
    })
}
