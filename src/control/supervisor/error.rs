//! Why the daemon could not start or go on, and what kind of remedy that has.

use std::net::SocketAddr;

use super::stopping::STOP_DEADLINE;
use crate::control::{example, shards, state_dir, tracker};
use crate::session;
use crate::shard::StartError;

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder is in use or cannot be written.
    #[error(transparent)]
    StateDir(#[from] state_dir::Error),
    /// The session database cannot be had.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The tracker could not be made.
    #[error(transparent)]
    Tracker(#[from] tracker::Error),
    /// The shards could not be started.
    #[error(transparent)]
    Shards(#[from] shards::Error),
    /// The metrics server cannot have its address.
    #[error("cannot listen on {address} ([metrics] listen): {source}{}", shards::hint(source))]
    Metrics {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The example of the first run could not be made.
    #[error(transparent)]
    Example(#[from] example::Error),
    /// The kernel refused something every process needs.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A shard's ring broke. The others are stopped too: half of the peers would wait in vain.
    #[error("a shard ended by itself; btd has stopped and should be started again")]
    ShardEnded,
    /// The shards hung.
    #[error("the shards did not stop within {} s", STOP_DEADLINE.as_secs())]
    Stop,
}

/// What kind of remedy an [`Error`] has; each has an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another btd has the state folder.
    InUse,
    /// The configuration, the kernel, its settings or its limits: starting again would not help.
    Setting,
    /// Anything that may be gone at the next start.
    Io,
}

impl Error {
    /// What kind of remedy it has.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::StateDir(state_dir::Error::InUse { .. }) | Self::Session(session::Error::InUse { .. }) => {
                Fault::InUse
            }
            Self::Shards(
                shards::Error::Features(_)
                | shards::Error::Start(StartError::Ring(_) | StartError::CacheTooSmall { .. }),
            ) => Fault::Setting,
            // `BTD_SHA1` names what this machine has not.
            Self::System { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput => Fault::Setting,
            Self::StateDir(state_dir::Error::Io { .. })
            | Self::Session(_)
            | Self::Tracker(_)
            | Self::Shards(_)
            | Self::ShardEnded
            | Self::Metrics { .. }
            | Self::Example(_)
            | Self::System { .. }
            | Self::Stop => Fault::Io,
        }
    }
}
