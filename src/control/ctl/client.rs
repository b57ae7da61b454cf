//! The asking end: finds the socket, sends requests, and prints what is answered as it comes.
//!
//! Nothing is kept of a list, however long it is, unless it is to be sorted. What comes from the socket is btd's own, and bounded all the same.

mod list;

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::api::{self, Kind, Line, Refusal, Request};
use super::args::{Command, Ctl};
use super::socket::reachable;
use super::table::{self, Shown};
use crate::control::config::{self, Config};
use crate::control::torrent_file::FILE_LEN_MAX;
use crate::proto::path::escaped;

/// The longest line of an answer: a torrent with many trackers.
const LINE_LEN_MAX: u64 = 8 << 20;
/// How long the next line may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same where payload is deleted, or something is done to all torrents.
const PATIENCE_FOR_WORK: Duration = Duration::from_secs(900);
/// The same of health, which containers wait five seconds for: by then it is to have been said what is wrong.
const PATIENCE_FOR_HEALTH: Duration = Duration::from_secs(4);
/// So much is read of the file of users.
const PASSWD_LEN_MAX: u64 = 1 << 20;

/// Why something that was asked for is not so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where the socket is.
    #[error("which btd? (hint: --state-dir DIR, --config FILE, or BTD_STATE_DIR in the environment)")]
    Nowhere,
    /// A shell would have put the home folder in its place, and did not.
    #[error(
        "the state folder {:?} begins with \"~\", which stands for a home folder in a shell alone (hint: the home folder by its own name)",
        .0.display()
    )]
    Home(PathBuf),
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Nobody listens.
    #[error("btd is not running with this state-dir ({}): {source}", path.display())]
    NotRunning {
        /// The state folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The socket is another user's.
    #[error(
        "{} may be used by root and by btd's own user only, which is {owner} (hint: sudo, before the command)",
        path.display()
    )]
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// That user, as far as it is known.
        owner: String,
    },
    /// The socket cannot be used.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What was to be added cannot be a torrent file.
    #[error("{}: {reason}", escaped(&path.to_string_lossy()))]
    NotATorrent {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What was to be added cannot be read.
    #[error("cannot read {}: {source}", escaped(&path.to_string_lossy()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// btd has hung up before it said anything: it ends, or was killed.
    #[error("btd does not answer: it has ended, or hung up (hint: its log may say why)")]
    Gone,
    /// btd has hung up in the middle, or what it says is no answer.
    #[error("btd's answer breaks off: {0}")]
    Broken(String),
    /// btd runs, and says nothing.
    #[error("btd does not answer: nothing came for {} s (hint: it is stopped, hangs, or has too much to do; its log may say)", .0.as_secs())]
    Silent(Duration),
    /// btd says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something was not done to a torrent; the output says why.
    #[error("{name} ({info_hash}): not done")]
    NotDone {
        /// The torrent's name, which cannot break the line.
        name: String,
        /// The torrent.
        info_hash: String,
    },
    /// It was done to none of those that it was asked of.
    #[error("it could not be done to any torrent")]
    NoneDone,
    /// A torrent was removed and not all of its files; the output says which are left.
    #[error("{name}: removed, but not all of its files could be deleted: what is left has to be deleted by hand")]
    NotDeleted {
        /// The torrent's name, which cannot break the line.
        name: String,
    },
    /// btd is not healthy; the output says why.
    #[error("btd is not healthy")]
    NotHealthy,
    /// Standard output could not be written to.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Whose fault an [`Error`] is; each has an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// btd's answer is no.
    No,
    /// The command line's.
    Usage,
    /// The torrent file's.
    Data,
    /// No btd runs, or it has no time.
    Unavailable,
    /// The system's.
    Io,
    /// The configuration's.
    Config,
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Nowhere | Self::Home(_) => Fault::Usage,
            Self::Config(_) => Fault::Config,
            Self::NotRunning { .. } | Self::Silent(_) | Self::Gone => Fault::Unavailable,
            Self::NotATorrent { .. } => Fault::Data,
            Self::Io { .. }
            | Self::Unreadable { .. }
            | Self::NotAllowed { .. }
            | Self::Broken(_)
            | Self::NotDeleted { .. }
            | Self::Output(_) => Fault::Io,
            Self::NotHealthy | Self::NotDone { .. } | Self::NoneDone => Fault::No,
            Self::Refused(refusal) => match refusal.kind {
                Kind::BadRequest => Fault::Usage,
                Kind::NotFound | Kind::Refused | Kind::Denied => Fault::No,
                Kind::BadTorrent => Fault::Data,
                Kind::Io => Fault::Io,
                Kind::Unavailable => Fault::Unavailable,
            },
        }
    }
}

/// Asks a running btd, and prints what it answers.
///
/// # Errors
/// It does not run, or does not do what it was asked for. What is done to several torrents goes on behind one where it cannot
/// be done; the last of these errors is given.
pub fn run(args: &Ctl) -> Result<(), Error> {
    let state_dir = state_dir(args)?;
    if state_dir.as_os_str().as_encoded_bytes().starts_with(b"~") && !state_dir.exists() {
        return Err(Error::Home(state_dir));
    }
    let patience = match args.command {
        Command::Health => PATIENCE_FOR_HEALTH,
        _ => PATIENCE,
    };
    let mut client = Client::connect(&state_dir, args.json, patience)?;
    match client.command(&args.command) {
        // A reader that has gone (`btd ctl list | head`) has what it wanted.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// The state folder of the btd that is meant.
fn state_dir(args: &Ctl) -> Result<PathBuf, Error> {
    if let Some(dir) = &args.state_dir {
        return Ok(dir.clone());
    }
    if let Some(file) = &args.config {
        // Which the environment may have a say in. The rest is not asked for, and may be what is being mended.
        let (dir, mistake) = Config::state_dir_in(file)?;
        if let Some(mistake) = mistake {
            let _ = writeln!(io::stderr(), "{mistake}\n(a btd that runs is asked all the same)");
        }
        return Ok(dir);
    }
    let named = std::env::var_os("BTD_STATE_DIR").filter(|dir| !dir.is_empty());
    named.map(PathBuf::from).ok_or(Error::Nowhere)
}

/// A request that is being answered.
struct Asked {
    /// How long each line may take.
    patience: Duration,
    /// Why not all of it could be sent.
    unsent: Option<io::Error>,
    /// Whether any line has come.
    has_come: bool,
}

struct Client {
    path: PathBuf,
    from: BufReader<UnixStream>,
    json: bool,
    /// The head of a table is to be shown before whatever comes next.
    owes_head: bool,
    out: BufWriter<io::Stdout>,
}

impl Client {
    fn connect(state_dir: &Path, json: bool, patience: Duration) -> Result<Self, Error> {
        let path = state_dir.join(super::socket::FILE_NAME);
        let connected = reachable(state_dir).and_then(|(path, _dir)| connect_within(&path, patience));
        let stream = connected.map_err(|source| match source.kind() {
            // No folder, no socket, or one that nobody listens on.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                Error::NotRunning {
                    path: state_dir.to_owned(),
                    source,
                }
            }
            io::ErrorKind::PermissionDenied => Error::NotAllowed {
                path: path.clone(),
                owner: owner(state_dir),
            },
            // Nobody takes those that wait already.
            io::ErrorKind::WouldBlock => Error::Silent(patience),
            _ => Error::Io {
                step: "connect to",
                path: path.clone(),
                source,
            },
        })?;
        Ok(Self {
            path,
            from: BufReader::new(stream),
            json,
            owes_head: false,
            out: BufWriter::new(io::stdout()),
        })
    }

    fn command(&mut self, command: &Command) -> Result<(), Error> {
        match command {
            Command::List { those, name, sort } => self.list(those.only(name.as_deref()), *sort),
            Command::Show { hash, secrets } => self.rows::<api::Detail>(&Request::Show {
                hash: hash.clone(),
                secrets: *secrets,
            }),
            Command::Add { files, watch } => {
                let watch = watch.as_deref().map(absolute);
                self.each(files, |client, file| client.add(file, watch.clone()))
            }
            Command::Remove { hashes, with_data } => {
                let with_data = *with_data;
                self.each(hashes, |client, hash| {
                    let hash = hash.clone();
                    client.remove(&Request::Remove { hash, with_data })
                })
            }
            Command::Pause(which) => self.act(&which.requests(|hash, all, only| Request::Pause { hash, all, only })),
            Command::Resume(which) => self.act(&which.requests(|hash, all, only| Request::Resume { hash, all, only })),
            Command::Verify(which) => self.act(&which.requests(|hash, all, only| Request::Verify { hash, all, only })),
            Command::Reannounce(which) => {
                self.act(&which.requests(|hash, all, only| Request::Reannounce { hash, all, only }))
            }
            Command::Peers { hash } => self.table::<api::PeerRow>(&Request::Peers { hash: hash.clone() }),
            Command::Stats => self.rows::<api::Stats>(&Request::Stats {}),
            Command::Limits {
                upload_rate,
                download_rate,
            } => self.rows::<api::Limits>(&Request::Limits {
                upload_rate: upload_rate.map(|rate| rate.0),
                download_rate: download_rate.map(|rate| rate.0),
            }),
            Command::Moved { data_dir } => self.rows::<api::Moved>(&Request::Moved {
                data_dir: absolute(data_dir),
            }),
            Command::Health => {
                let mut healthy = false;
                self.ask(&Request::Health {}, &[], |health: &api::Health| {
                    healthy = health.healthy
                })?;
                healthy.then_some(()).ok_or(Error::NotHealthy)
            }
        }
    }

    /// Does something for each, whatever becomes of the others.
    fn each<T>(&mut self, all: &[T], mut one: impl FnMut(&mut Self, &T) -> Result<(), Error>) -> Result<(), Error> {
        let mut last = Ok(());
        for item in all {
            match one(self, item) {
                // The connection is still good.
                Err(
                    error @ (Error::Refused(_)
                    | Error::NotATorrent { .. }
                    | Error::Unreadable { .. }
                    | Error::NotDeleted { .. }
                    | Error::NotDone { .. }),
                ) => {
                    if let Err(before) = std::mem::replace(&mut last, Err(error)) {
                        let _ = writeln!(io::stderr(), "{before}");
                    }
                }
                Err(error) => {
                    if let Err(before) = last {
                        let _ = writeln!(io::stderr(), "{before}");
                    }
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        last
    }

    fn act(&mut self, requests: &[Request]) -> Result<(), Error> {
        self.each(requests, |client, request| match request {
            Request::Pause { hash: None, .. }
            | Request::Resume { hash: None, .. }
            | Request::Verify { hash: None, .. }
            | Request::Reannounce { hash: None, .. } => client.act_on_several(request),
            _ => client.act_on_one(request),
        })
    }

    fn act_on_one(&mut self, request: &Request) -> Result<(), Error> {
        let mut refused = None;
        self.ask(request, &[], |done: &api::Done| {
            if done.refused {
                refused = Some((escaped(&done.name).to_string(), done.info_hash.clone()));
            }
        })?;
        match refused {
            Some((name, info_hash)) => Err(Error::NotDone { name, info_hash }),
            None => Ok(()),
        }
    }

    /// What is asked of all or several is done where it can be, and is an error if that was nowhere.
    fn act_on_several(&mut self, request: &Request) -> Result<(), Error> {
        let mut is_refused = false;
        self.ask(request, &[], |done: &api::AllDone| {
            is_refused = done.changed == 0 && done.refused > 0 && done.refused == done.unchanged;
        })?;
        match is_refused {
            true => Err(Error::NoneDone),
            false => Ok(()),
        }
    }

    fn remove(&mut self, request: &Request) -> Result<(), Error> {
        let mut not_deleted = None;
        self.ask(request, &[], |removed: &api::Removed| {
            if !removed.failed.is_empty() {
                not_deleted = Some(escaped(&removed.name).to_string());
            }
        })?;
        not_deleted.map_or(Ok(()), |name| Err(Error::NotDeleted { name }))
    }

    fn add(&mut self, file: &Path, watch: Option<String>) -> Result<(), Error> {
        let content = read(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let len = content.len() as u64;
        let request = Request::Add { name, len, watch };
        let added = self.ask(&request, &content, |_: &api::Added| ());
        // One that is refused may be hung up on, since it is not known how much of the file was read.
        if added.is_err() {
            let state_dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
            if let Ok(fresh) = Self::connect(&state_dir, self.json, PATIENCE) {
                self.from = fresh.from;
            }
        }
        added.map_err(|error| match error {
            Error::Refused(Refusal {
                kind: Kind::BadTorrent,
                message: reason,
            }) => Error::NotATorrent {
                path: file.to_owned(),
                reason,
            },
            error => error,
        })
    }

    /// Rows under a head, which there is also where there are no rows, but not where there is an error in their place.
    fn table<R: DeserializeOwned + Shown>(&mut self, request: &Request) -> Result<(), Error> {
        self.owes_head = !self.json;
        self.rows::<R>(request)
    }

    fn rows<R: DeserializeOwned + Shown>(&mut self, request: &Request) -> Result<(), Error> {
        self.ask(request, &[], |_: &R| ())
    }

    /// Sends a request and what follows it, and prints what comes.
    fn ask<R: DeserializeOwned + Shown>(
        &mut self,
        request: &Request,
        body: &[u8],
        mut look: impl FnMut(&R),
    ) -> Result<(), Error> {
        let mut asked = self.send(request, body)?;
        while let Some(row) = self.next(&mut asked, |out| table::head::<R>(out))? {
            let value: R = Self::read(&row)?;
            look(&value);
            let written = match self.json {
                true => writeln!(self.out, "{}", row.get()),
                false => value.show(&mut self.out),
            };
            written.map_err(Error::Output)?;
        }
        self.out.flush().map_err(Error::Output)
    }

    /// Sends a request and what follows it.
    fn send(&mut self, request: &Request, body: &[u8]) -> Result<Asked, Error> {
        let patience = match request {
            Request::Remove { .. }
            | Request::Pause { .. }
            | Request::Resume { .. }
            | Request::Verify { .. }
            | Request::Reannounce { .. } => PATIENCE_FOR_WORK,
            Request::Health {} => PATIENCE_FOR_HEALTH,
            _ => PATIENCE,
        };
        let stream = self.from.get_mut();
        let set_up = stream
            .set_read_timeout(Some(patience))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set_up.map_err(|source| failed("set up", &self.path, source))?;
        let mut line = serde_json::to_vec(request).map_err(|error| Error::Broken(error.to_string()))?;
        line.push(b'\n');
        let stream = self.from.get_mut();
        let sent = stream.write_all(&line).and_then(|()| stream.write_all(body));
        Ok(Asked {
            patience,
            unsent: sent.err(),
            has_come: false,
        })
    }

    /// The next row of an answer, as it is: what a later btd says more is for who reads JSON. `None` behind the last.
    fn next(
        &mut self,
        asked: &mut Asked,
        head: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let line = match self.line(asked.patience) {
            Ok(line) => line,
            Err(Error::Gone) if asked.has_come => return Err(Error::Broken("it has hung up".to_owned())),
            Err(Error::Gone) => return Err(Error::Gone),
            // Whoever has hung up has mostly said why.
            Err(error) => {
                let unsent = asked.unsent.take();
                return Err(unsent.map_or(error, |source| failed("write to", &self.path, source)));
            }
        };
        asked.has_come = true;
        let read = serde_json::from_slice::<Line<Box<RawValue>>>(&line);
        let read = read.map_err(|error| Error::Broken(error.to_string()))?;
        if !matches!(read, Line::Error(_)) && std::mem::take(&mut self.owes_head) {
            head(&mut self.out).map_err(Error::Output)?;
        }
        match read {
            Line::Row(row) => Ok(Some(row)),
            Line::End { left_out, .. } => {
                if left_out > 0 {
                    let _ = writeln!(io::stderr(), "{left_out} more are not told of");
                }
                Ok(None)
            }
            Line::Error(refusal) => {
                self.out.flush().map_err(Error::Output)?;
                Err(hinted(refusal).into())
            }
        }
    }

    fn read<R: DeserializeOwned>(row: &RawValue) -> Result<R, Error> {
        serde_json::from_str(row.get()).map_err(|error| Error::Broken(error.to_string()))
    }

    /// The next line, which may take so long.
    fn line(&mut self, patience: Duration) -> Result<Vec<u8>, Error> {
        let mut line = Vec::new();
        let read = (&mut self.from).take(LINE_LEN_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(_) if line.ends_with(b"\n") => Ok(line),
            Ok(0) => Err(Error::Gone),
            Err(error) if line.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => Err(Error::Gone),
            Ok(len) => Err(Error::Broken(format!("a line of {len} bytes without an end"))),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Error::Silent(patience))
            }
            Err(error) => Err(Error::Broken(error.to_string())),
        }
    }
}

fn failed(step: &'static str, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::WouldBlock => Error::Silent(PATIENCE),
        _ => Error::Io {
            step,
            path: path.to_owned(),
            source,
        },
    }
}

/// What a btd says that was started before it was replaced by a later one is a riddle, and an answer.
fn hinted(mut refusal: Refusal) -> Refusal {
    if refusal.kind == Kind::BadRequest && refusal.message.contains("unknown field `only`") {
        refusal.message =
            "the btd that runs is older than this `btd ctl`, and knows neither --state nor --label nor --name \
            (hint: restart it)"
                .to_owned();
    }
    refusal
}

/// A connection to a socket, which takes no longer than this though more wait there than it has room for (unix(7): `SO_SNDTIMEO`).
fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(patience))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

/// Whose a state folder is, and the socket in it, which may not even be looked at.
fn owner(state_dir: &Path) -> String {
    match std::fs::metadata(state_dir) {
        Ok(metadata) => user(metadata.uid(), Path::new("/etc/passwd")),
        Err(_) => "not known, since its state folder cannot be looked at".to_owned(),
    }
}

/// A user by name, if `passwd` has one (passwd(5)); users from elsewhere have their number.
fn user(uid: u32, passwd: &Path) -> String {
    let mut text = String::new();
    let read = std::fs::File::open(passwd).and_then(|file| file.take(PASSWD_LEN_MAX).read_to_string(&mut text));
    let line = read.ok().and_then(|_| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, number) = (fields.next()?, fields.nth(1)?);
            (number.parse() == Ok(uid)).then(|| escaped(name).to_string())
        })
    });
    line.unwrap_or_else(|| format!("number {uid}"))
}

/// A path that means the same to btd.
fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned()
}

/// A file that may be a torrent's.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let not = |reason: &str| Error::NotATorrent {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(not("not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(io)?;
    let mut content = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut content).map_err(io)?;
    match content.len() as u64 > FILE_LEN_MAX {
        true => Err(not(&format!("longer than {FILE_LEN_MAX} bytes"))),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As serde says it, of a request that btd did not know yet.
    #[test]
    fn older_btd_is_told_from_a_mistake() {
        let said = |message: &str| hinted(Refusal::new(Kind::BadRequest, message)).message;
        let older = said("this is no request: unknown field `only`, expected `hash` or `all` at line 1 column 60");
        assert!(older.contains("older") && older.contains("(hint: "), "{older}");
        assert_eq!(said("this is no request"), "this is no request");
    }
}
