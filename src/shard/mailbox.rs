//! What the control plane tells a shard: a bounded queue and an eventfd that wakes the shard from its ring.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::Torrent;
use super::handover::Handed;
use super::report::PeersReply;
use crate::io::{Bell, Errno};
use crate::proto::{InfoHash, choker};

/// Commands that may wait for a shard. It empties the queue once a turn, so this is room for a burst.
const MAILBOX_LEN: usize = 1024;

/// Something for a shard to do.
#[derive(Debug)]
pub enum Command {
    /// Serve a torrent, in place of one with the same info-hash.
    Add(Arc<Torrent>),
    /// Serve it no longer, and end its connections.
    Remove(InfoHash),
    /// Let go of a torrent that nobody is connected for.
    Rest(InfoHash),
    /// The answer to [`super::Event::Asked`] where the torrent is not served; [`Command::Add`] is the other.
    Refuse(InfoHash),
    /// Peers of a torrent that is being downloaded may be at these addresses.
    Peers {
        /// The torrent.
        info_hash: InfoHash,
        /// Where.
        addrs: Vec<SocketAddr>,
        /// Whether a name has led there, which may lead elsewhere another time: [`super::Event::Unreachable`] tells when
        /// nobody is there.
        named: bool,
    },
    /// Peers of a torrent are no longer looked for at these addresses. Who is connected stays.
    Forget {
        /// The torrent.
        info_hash: InfoHash,
        /// Where.
        addrs: Vec<SocketAddr>,
    },
    /// The answer to [`super::Event::Wanted`].
    Prepared {
        /// The torrent.
        info_hash: InfoHash,
        /// Whether its files can be written to. If not, it is asked again.
        made: bool,
    },
    /// Somebody wants to know of a torrent's peers.
    TellPeers {
        /// The torrent.
        info_hash: InfoHash,
        /// Who.
        reply: PeersReply,
    },
    /// A connection that another shard has accepted.
    Take(Box<Handed>),
    /// Give upload slots out like this from now on.
    Choke {
        /// Who goes first.
        kind: choker::Kind,
        /// Slots of this shard; zero is no limit.
        slots: u32,
    },
    /// Accept at these sockets from now on, in the place of those before. Whoever is connected stays.
    Listen(Vec<OwnedFd>),
    /// End.
    Stop,
}

/// The shard's queue is full (or the shard has ended): the command comes back.
#[derive(Debug, thiserror::Error)]
#[error("the shard takes no command: its queue of {MAILBOX_LEN} is full or it has ended")]
pub struct Full(pub Command);

/// The sending end.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: SyncSender<Command>,
    bell: Bell,
}

impl Mailbox {
    /// What wakes the shard.
    pub(super) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Queues a command and wakes the shard.
    ///
    /// # Errors
    /// When the queue is full or the shard has ended.
    pub fn send(&self, command: Command) -> Result<(), Full> {
        self.sender.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => Full(command),
        })?;
        self.bell.ring();
        Ok(())
    }
}

/// The shard's end.
#[derive(Debug)]
pub struct Inbox {
    pub(super) receiver: Receiver<Command>,
    pub(super) bell: OwnedFd,
}

/// Makes both ends.
///
/// # Errors
/// When the process has no descriptor left.
pub fn mailbox() -> Result<(Mailbox, Inbox), Errno> {
    let (bell, heard) = Bell::new()?;
    let (sender, receiver) = sync_channel(MAILBOX_LEN);
    Ok((Mailbox { sender, bell }, Inbox { receiver, bell: heard }))
}
