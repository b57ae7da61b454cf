//! `ctl.sock` in the state folder: lines of JSON in, lines of JSON out.
//!
//! A request is one line of at most [`LINE_LEN_MAX`] bytes (see [`super::api`] for what it says), and only `add` is followed
//! by more: as many bytes as it names, of a torrent file. The answer is a line for each row, and a last one that says that
//! it ends. Then the next request may follow on the same connection. Whatever is no request is answered by an error, and
//! after one that leaves open where the next begins (a line that is too long, say) the connection ends.
//!
//! The socket is for btd's own user and for root: by its mode (0600), and by the credentials of whoever connects, should
//! the mode be changed. A socket that another btd has left behind is replaced, which is safe because the folder is locked.
//!
//! Nobody holds anything up: connections are bounded ([`CONNECTIONS_MAX`]), one that says nothing or takes nothing is ended
//! after a while, and rows are gathered as fast as they are taken, so that a list of 100,000 torrents needs no more memory
//! than a page of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api::{Kind, Line, Refusal, Request};
use super::handlers::{self, Means, Rows, Stop};
use crate::proto::path::is_misleading;

/// The name of the socket in the state folder.
pub(in crate::control) const FILE_NAME: &str = "ctl.sock";
/// The longest request, in bytes, with its line end.
const LINE_LEN_MAX: usize = 8 << 10;
/// Those who ask at once. More are told to come later.
const CONNECTIONS_MAX: usize = 32;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;
/// How long a request may take to come.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long what follows a request may.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// How long the other end may take over what it is sent at a time.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Rows are sent when there are so many bytes of them.
const CHUNK_LEN: usize = 16 << 10;
/// After accept failed (no file descriptor left, most likely): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// No waiting.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The longest path of a socket, in bytes: what `sun_path` holds, less its end.
const PATH_LEN_MAX: usize = 107;

/// A path to the socket in a folder that is short enough to be one, and what has to stay open meanwhile.
pub(super) fn reachable(state_dir: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let path = state_dir.join(FILE_NAME);
    if path.as_os_str().len() <= PATH_LEN_MAX {
        return Ok((path, None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(state_dir, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{FILE_NAME}", dir.as_fd().as_raw_fd());
    Ok((path.into(), Some(dir)))
}

/// Listens in a state folder that is locked.
///
/// # Errors
/// Something that is no socket has its name, or the filesystem refuses.
pub(in crate::control) fn listen(state_dir: &Path) -> io::Result<UnixListener> {
    let (path, _dir) = reachable(state_dir)?;
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(&path)?,
        Ok(_) => return Err(io::Error::other("something that is no socket has its name")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&path)?)?;
    // Nobody can connect before it listens.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(OwnedFd::from(socket)))
}

/// Takes the socket away. Whoever connects later is told at once that nobody is there.
pub(in crate::control) fn remove(state_dir: &Path) {
    let _ = std::fs::remove_file(state_dir.join(FILE_NAME)); // The next btd replaces it.
}

/// Answers until dropped.
pub(in crate::control) async fn serve(listener: UnixListener, means: Means) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the control socket cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let refusal = match Arc::clone(&free).try_acquire_owned() {
            Ok(_) if !is_allowed(&stream) => Refusal::new(Kind::Denied, "only btd's own user and root may control it"),
            Ok(place) => {
                let mut means = means.clone();
                tokio::task::spawn_local(async move {
                    Talk::new(stream).run(&mut means).await;
                    drop(place);
                });
                continue;
            }
            Err(_) => Refusal::new(
                Kind::Unavailable,
                format!("{CONNECTIONS_MAX} others are being answered; try again later"),
            ),
        };
        let mut line = Vec::new();
        write_line(&mut line, &Line::<()>::Error(refusal));
        // A new socket has room for a line.
        let _ = stream.try_write(&line);
    }
}

/// Whether the other end is btd's own user, or root.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

fn write_line(out: &mut Vec<u8>, line: &impl Serialize) {
    let before = out.len();
    if let Err(error) = line.serialize(&mut Serializer::with_formatter(&mut *out, Harmless)) {
        // What is sent are plain values: this would be a mistake of ours, and no reason to stop.
        out.truncate(before);
        tracing::error!("a row cannot be written as JSON: {error}");
        return;
    }
    out.push(b'\n');
}

/// JSON that does nothing to a terminal, whatever names torrents and peers have: characters that would, or that turn the
/// direction of a line, are written by their numbers. To whoever reads JSON they are the same.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, character) in fragment.char_indices().filter(|(_, c)| is_misleading(*c)) {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

/// One connection.
struct Talk {
    stream: UnixStream,
    /// Received and not looked at.
    input: Vec<u8>,
    /// To be sent.
    output: Vec<u8>,
    rows: u64,
    left_out: u64,
}

/// Why no request comes.
enum NoRequest {
    /// The other end has said all that it wanted, or is gone.
    Gone,
    /// It says what is none.
    Bad(Refusal),
}

impl Talk {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            rows: 0,
            left_out: 0,
        }
    }

    async fn run(mut self, means: &mut Means) {
        loop {
            let line = match self.line().await {
                Ok(line) => line,
                Err(NoRequest::Gone) => return,
                Err(NoRequest::Bad(refusal)) => return self.last(refusal).await,
            };
            (self.rows, self.left_out) = (0, 0);
            let request = serde_json::from_slice::<Request>(&line);
            let ended = match request {
                Ok(request) => {
                    let is_followed = matches!(request, Request::Add { .. });
                    match handlers::answer(request, means, &mut self).await {
                        // How much of what follows was read is not known here.
                        Err(Stop::Refused(refusal)) if is_followed => return self.last(refusal).await,
                        ended => ended,
                    }
                }
                Err(error) => Err(Refusal::new(Kind::BadRequest, format!("this is no request: {error}")).into()),
            };
            match ended {
                Ok(()) => write_line(
                    &mut self.output,
                    &Line::<()>::End {
                        rows: self.rows,
                        left_out: self.left_out,
                    },
                ),
                Err(Stop::Refused(refusal)) => write_line(&mut self.output, &Line::<()>::Error(refusal)),
                Err(Stop::Gone) => return,
            }
            if self.flush().await.is_err() {
                return;
            }
        }
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>, NoRequest> {
        let read = async {
            loop {
                if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                    let mut line: Vec<u8> = self.input.drain(..=end).collect();
                    line.pop();
                    return Ok(line);
                }
                if self.input.len() >= LINE_LEN_MAX {
                    let message = format!("a request of more than {LINE_LEN_MAX} bytes");
                    return Err(NoRequest::Bad(Refusal::new(Kind::BadRequest, message)));
                }
                let room = LINE_LEN_MAX - self.input.len();
                let mut part = (&mut self.stream).take(room as u64);
                match part.read_buf(&mut self.input).await {
                    Ok(0) if self.input.is_empty() => return Err(NoRequest::Gone),
                    Ok(0) => {
                        let message = "a request without its line end";
                        return Err(NoRequest::Bad(Refusal::new(Kind::BadRequest, message)));
                    }
                    Ok(_) => {}
                    Err(_) => return Err(NoRequest::Gone),
                }
            }
        };
        timeout(REQUEST_DEADLINE, read).await.unwrap_or_else(|_| {
            let message = format!("no request within {} s", REQUEST_DEADLINE.as_secs());
            Err(NoRequest::Bad(Refusal::new(Kind::Unavailable, message)))
        })
    }

    /// Says why it ends here.
    async fn last(&mut self, refusal: Refusal) {
        write_line(&mut self.output, &Line::<()>::Error(refusal));
        let _ = self.flush().await;
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        let written = timeout(WRITE_DEADLINE, self.stream.write_all(&self.output)).await;
        self.output.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::Gone),
        }
    }
}

impl Rows for Talk {
    async fn row(&mut self, row: &impl Serialize) -> Result<(), Stop> {
        write_line(&mut self.output, &Line::Row(row));
        self.rows += 1;
        match self.output.len() < CHUNK_LEN {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    fn left_out(&mut self, count: u64) {
        self.left_out += count;
    }

    fn is_gone(&self) -> bool {
        // One that has said all that it wants and still listens (`shutdown` of its half) is there.
        let mut look = [PollFd::new(&self.stream, PollFlags::empty())];
        let looked = poll(&mut look, Some(&NOW));
        looked.is_ok() && look[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    async fn body(&mut self, len: usize) -> Result<Vec<u8>, Stop> {
        let mut body: Vec<u8> = self.input.drain(..self.input.len().min(len)).collect();
        let read = async {
            while body.len() < len {
                let mut part = (&mut self.stream).take((len - body.len()) as u64);
                match part.read_buf(&mut body).await {
                    Ok(0) | Err(_) => return Err(Stop::Gone),
                    Ok(_) => {}
                }
            }
            Ok(())
        };
        match timeout(BODY_DEADLINE, read).await {
            Ok(Ok(())) => Ok(body),
            Ok(Err(stop)) => Err(stop),
            Err(_) => {
                let message = format!(
                    "{len} bytes were announced and have not come within {} s",
                    BODY_DEADLINE.as_secs()
                );
                Err(Refusal::new(Kind::Unavailable, message).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_file_of_its_name_is_not() {
        tokio_uring::start(async {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let path = dir.path().join(FILE_NAME);
            drop(listen(dir.path()).expect("the first"));
            assert!(path.exists(), "left behind, as by a btd that was killed");
            let second = listen(dir.path()).expect("the second");
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            drop(second);
            remove(dir.path());
            assert!(!path.exists());
            std::fs::write(&path, "mine").expect("written");
            assert!(listen(dir.path()).is_err());
            assert_eq!(std::fs::read(&path).expect("still there"), b"mine");
        });
    }

    #[test]
    fn what_a_name_holds_does_nothing_to_a_terminal_and_is_the_same_to_who_reads_it() {
        let name = "a\u{9b}31m\u{7f}\u{202e}gnp.exe\u{2066}\u{1b}[0m\u{85}é\u{1f600}\u{feff}z";
        let mut line = Vec::new();
        write_line(&mut line, &Line::Row(name));
        let text = String::from_utf8(line.clone()).expect("text");
        assert!(!text.trim_end().chars().any(is_misleading), "{text:?}");
        assert!(text.contains("é\u{1f600}") && text.contains("\\u202egnp"), "{text}");
        let read: Line<String> = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(read, Line::Row(name.to_owned()));
    }

    #[test]
    fn who_has_closed_is_gone_and_who_has_said_all_is_not() {
        tokio_uring::start(async {
            let (near, far) = UnixStream::pair().expect("a pair");
            let talk = Talk::new(near);
            assert!(!talk.is_gone());
            let far = far.into_std().expect("a socket");
            far.shutdown(std::net::Shutdown::Write).expect("half of it");
            assert!(!talk.is_gone(), "it still listens");
            drop(far);
            assert!(talk.is_gone());
        });
    }

    #[test]
    fn a_folder_of_a_long_path_has_a_socket_like_any_other() {
        tokio_uring::start(async {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let deep = dir.path().join("d".repeat(120));
            std::fs::create_dir(&deep).expect("made");
            let listener = listen(&deep).expect("it listens");
            let (path, _dir) = reachable(&deep).expect("opened");
            let near = UnixStream::connect(path).await.expect("it is reached");
            let (far, _) = listener.accept().await.expect("accepted");
            assert!(is_allowed(&far) && is_allowed(&near));
        });
    }
}
