//! What the commands do that are not the daemon: one file for each.
//!
//! A command prints its result on standard output and whatever else there is to say on standard error. Exit codes are
//! for `main` to choose; an [`Error`] says what happened.

pub mod bench;
pub mod completions;
pub mod create;
pub mod doctor;
pub mod man;
mod progress;
pub mod show;
pub mod verify;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::torrent_file;
use crate::proto::path::escaped;
use crate::storage;

/// Says something beside the result. Nobody may be listening, which is no reason to stop.
fn tell(message: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Why a command did not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments contradict each other or what is there.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read, written or found.
    #[error("{}: {step}: {error}", shown(path))]
    File {
        /// Which.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// A torrent file is not one that btd reads.
    #[error("{}: {error}", shown(path))]
    Torrent {
        /// Which.
        path: PathBuf,
        /// Why.
        error: torrent_file::Error,
    },
    /// What is there cannot become a torrent.
    #[error("{}: {reason}", shown(path))]
    Payload {
        /// The culprit.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// `verify` found what it should not; its output says what.
    #[error("{}: the payload is not whole", shown(path))]
    NotWhole {
        /// The torrent file.
        path: PathBuf,
    },
    /// `doctor` found what it should not; its output says what.
    #[error("{}", match runs { true => "btd runs here, at a higher price than it could", false => "btd does not run here" })]
    Doctor {
        /// Whether btd runs all the same.
        runs: bool,
    },
    /// The work ended before its end.
    #[error("{0}")]
    Ended(#[from] storage::Error),
    /// The hashing threads could not be started.
    #[error("cannot start the hashing threads: {0}")]
    Threads(io::Error),
    /// Standard output could not be written to.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Whose fault an [`Error`] is; each has an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The payload's, or the machine's a little, and telling so was the command's purpose.
    NotWhole,
    /// The machine's, on which btd does not run; telling so was the command's purpose.
    Unfit,
    /// The command line's.
    Usage,
    /// The content of a file's.
    Data,
    /// The system's.
    Io,
}

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotWhole { .. } | Self::Doctor { runs: true } => Fault::NotWhole,
            Self::Doctor { runs: false } => Fault::Unfit,
            Self::Usage(_) => Fault::Usage,
            Self::Torrent {
                error: torrent_file::Error::Io(_),
                ..
            } => Fault::Io,
            Self::Torrent { .. } | Self::Payload { .. } => Fault::Data,
            Self::File { .. } | Self::Ended(_) | Self::Threads(_) | Self::Output(_) => Fault::Io,
        }
    }
}

/// A path on one line of a terminal: names of payload may hold anything.
fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy()).to_string()
}

/// Writes to standard output. A reader that has gone (`btd show x | head`) has what it wanted.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}
