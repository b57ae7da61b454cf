//! The floor server: the least that can answer the protocol. One thread, one epoll, a header by `send` with `MSG_MORE`
//! and the block by `sendfile`, for one torrent whose payload is taken to be whole.
//!
//! Or, with the payload read into memory at the start, up to 64 blocks that a peer waits for in one vectored send, which the kernel
//! copies: a yardstick for who sends what he has in memory. Or asleep for a while after each turn, so that requests gather: a yardstick
//! for who saves wake-ups that way.
//!
//! It is the yardstick of the harness and no daemon: no checking of payload, no choking (interest is answered by an
//! unchoke), no time limits, no fairness, no defence against a peer that means harm beyond not being confused by it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use slab::Slab;

use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::{BlockRequest, Geometry};
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use crate::proto::metainfo::Metainfo;
use crate::proto::wire::{self, Decoder, Message};
use crate::proto::{InfoHash, PeerId};

use super::load::raise_open_files;

/// Requests that one peer may have waiting; one more and it is dropped.
const REQUESTS_MAX: usize = 8192;
const READ_LEN: usize = 64 * 1024;
const EVENTS_MAX: usize = 512;
/// What the listening socket's events carry; no slab grows this far.
const LISTENER: u64 = u64::MAX;
/// Blocks of one vectored send, at most.
const BLOCKS_MAX: usize = 64;
/// How late a request to stop may be noticed.
const STOP_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// What a pad file holds (BEP 47), as long as the longest block.
const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// Why the floor server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A payload file cannot be opened, or has not the torrent's length.
    #[error("payload {path}: {error}")]
    Payload {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// It cannot listen there.
    #[error("cannot listen at {listen}: {error}")]
    Listen {
        /// Where it was to.
        listen: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The listening socket, or the event loop around it.
    #[error("cannot serve: {0}")]
    Serve(#[from] io::Error),
}

/// A bound server that has not begun to serve.
#[derive(Debug)]
pub struct Floor {
    listener: TcpListener,
    epoll: OwnedFd,
    torrent: Torrent,
    gather: Duration,
}

impl Floor {
    /// Opens the payload of `metainfo` under `data` and listens.
    ///
    /// With `in_memory` the payload is read now, and sent out of memory.
    pub fn bind(metainfo: &Metainfo, data: &Path, listen: SocketAddr, in_memory: bool) -> Result<Floor, Error> {
        raise_open_files();
        let torrent = Torrent::open(metainfo, data, in_memory)?;
        let listener = TcpListener::bind(listen).map_err(|error| Error::Listen { listen, error })?;
        // The standard library asks for a backlog of 128, too short for thousands of leechers at once.
        rustix::net::listen(&listener, 4096).map_err(io::Error::from)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN).map_err(io::Error::from)?;
        Ok(Floor {
            listener,
            epoll,
            torrent,
            gather: Duration::ZERO,
        })
    }

    /// Sleeps so long after each turn.
    pub fn gathering(self, gather: Duration) -> Floor {
        Floor { gather, ..self }
    }

    /// Where it listens: the port that was chosen, if 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is set.
    pub fn run(self, stop: &AtomicBool) -> Result<(), Error> {
        let mut peers: Slab<Peer> = Slab::new();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_LEN];
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&STOP_WAIT),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::Serve(error.into())),
            }
            for event in &events {
                let epoll::Event { flags, data } = *event;
                let (flags, data) = (flags, data.u64());
                if data == LISTENER {
                    self.accept(&mut peers)?;
                    continue;
                }
                let index = usize::try_from(data).expect("an index of ours");
                let Some(peer) = peers.get_mut(index) else { continue };
                let readable = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                let served = if flags.intersects(readable) {
                    peer.receive(&mut buffer, &self.torrent)
                } else {
                    Ok(())
                }
                .and_then(|()| match self.torrent.in_memory {
                    true => peer.pump_memory(&self.torrent),
                    false => peer.pump(&self.torrent),
                })
                .and_then(|blocked| peer.watch(&self.epoll, index, blocked));
                if served.is_err() {
                    // A peer that went or made no sense. Closing its socket takes it out of the epoll set.
                    peers.remove(index);
                }
            }
            if !self.gather.is_zero() && !events.is_empty() {
                thread::sleep(self.gather);
            }
        }
        Ok(())
    }

    fn accept(&self, peers: &mut Slab<Peer>) -> Result<(), Error> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let entry = peers.vacant_entry();
            let data = epoll::EventData::new_u64(entry.key() as u64);
            epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).map_err(io::Error::from)?;
            entry.insert(Peer::new(stream, &self.torrent));
        }
    }
}

#[derive(Debug)]
struct Torrent {
    info_hash: InfoHash,
    geometry: Geometry,
    have: Bitfield,
    files: Vec<Payload>,
    in_memory: bool,
}

#[derive(Debug)]
struct Payload {
    /// Where in the torrent it begins and ends.
    offset: u64,
    end: u64,
    /// `None` is a pad file.
    file: Option<File>,
    /// What it holds, if that is in memory.
    bytes: Vec<u8>,
}

impl Torrent {
    fn open(metainfo: &Metainfo, data: &Path, in_memory: bool) -> Result<Torrent, Error> {
        let mut files = Vec::new();
        for entry in metainfo.files.iter().filter(|entry| entry.len > 0) {
            let path = data.join(entry.path.as_path());
            let open = || {
                let file = File::open(&path)?;
                let len = file.metadata()?.len();
                if len < entry.len {
                    let short = format!("{len} bytes, the torrent says {}", entry.len);
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
                }
                Ok(file)
            };
            let failed = |error| Error::Payload {
                path: path.clone(),
                error,
            };
            let file = match entry.pad {
                true => None,
                false => Some(open().map_err(failed)?),
            };
            let mut bytes = Vec::new();
            if let Some(file) = file.as_ref().filter(|_| in_memory) {
                bytes.reserve_exact(usize::try_from(entry.len).unwrap_or(usize::MAX));
                file.take(entry.len).read_to_end(&mut bytes).map_err(failed)?;
            }
            files.push(Payload {
                offset: entry.offset,
                end: entry.offset + entry.len,
                file,
                bytes,
            });
        }
        let geometry = metainfo.geometry;
        Ok(Torrent {
            info_hash: metainfo.info_hash,
            geometry,
            have: Bitfield::full(geometry.piece_count()),
            files,
            in_memory,
        })
    }

    /// The file that holds this byte.
    fn file_at(&self, offset: u64) -> &Payload {
        &self.files[self.files.partition_point(|file| file.end <= offset)]
    }

    /// Adds what lies in memory of these bytes.
    fn slices<'a>(&'a self, mut range: Range<u64>, out: &mut Vec<IoSlice<'a>>) -> Result<(), Gone> {
        while !range.is_empty() {
            let file = self.file_at(range.start);
            let at = usize::try_from(range.start - file.offset).map_err(|_| Gone)?;
            let len = usize::try_from(range.end.min(file.end) - range.start).map_err(|_| Gone)?;
            let bytes = match &file.file {
                // The file may have become shorter while it was read.
                Some(_) => file.bytes.get(at..at + len).ok_or(Gone)?,
                None => &ZEROS[..len],
            };
            out.push(IoSlice::new(bytes));
            range.start += len as u64;
        }
        Ok(())
    }
}

/// The peer is to be dropped.
#[derive(Debug)]
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Gone {
        Gone
    }
}

impl From<Errno> for Gone {
    fn from(_: Errno) -> Gone {
        Gone
    }
}

impl From<wire::Error> for Gone {
    fn from(_: wire::Error) -> Gone {
        Gone
    }
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    /// Its handshake as far as it has come; gone when it was whole.
    handshake: Option<Vec<u8>>,
    decoder: Decoder,
    requests: VecDeque<BlockRequest>,
    /// Messages and block headers that are to leave before `body`.
    out: Vec<u8>,
    /// What is left of the block under way, as a range of the torrent.
    body: Range<u64>,
    blocked: bool,
}

impl Peer {
    fn new(stream: TcpStream, torrent: &Torrent) -> Peer {
        Peer {
            stream,
            handshake: Some(Vec::new()),
            decoder: Decoder::new(wire::len_max(torrent.geometry.piece_count())),
            requests: VecDeque::new(),
            out: Vec::new(),
            body: 0..0,
            blocked: false,
        }
    }

    fn receive(&mut self, buffer: &mut [u8], torrent: &Torrent) -> Result<(), Gone> {
        let len = match (&self.stream).read(buffer) {
            Ok(0) => return Err(Gone),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(_) => return Err(Gone),
        };
        let mut input = &buffer[..len];
        if let Some(mut partial) = self.handshake.take() {
            let (part, rest) = input.split_at(input.len().min(HANDSHAKE_LEN - partial.len()));
            partial.extend_from_slice(part);
            input = rest;
            let Ok(whole) = <[u8; HANDSHAKE_LEN]>::try_from(&partial[..]) else {
                self.handshake = Some(partial);
                return Ok(());
            };
            self.on_handshake(&whole, torrent)?;
        }
        while let Some(message) = self.decoder.next(&mut input)? {
            match message {
                Message::Interested => wire::encode(&Message::Unchoke, &mut self.out),
                Message::Request { piece, begin, length } => {
                    let block = torrent.geometry.check(piece, begin, length).ok_or(Gone)?;
                    if self.requests.len() == REQUESTS_MAX {
                        return Err(Gone);
                    }
                    self.requests.push_back(block);
                }
                Message::Cancel { piece, begin, length } => {
                    let block = torrent.geometry.check(piece, begin, length).ok_or(Gone)?;
                    self.requests.retain(|request| *request != block);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn on_handshake(&mut self, theirs: &[u8; HANDSHAKE_LEN], torrent: &Torrent) -> Result<(), Gone> {
        let theirs = Handshake::decode(theirs).map_err(|_| Gone)?;
        if theirs.info_hash != torrent.info_hash {
            return Err(Gone);
        }
        let ours = Handshake {
            reserved: Reserved::default(),
            info_hash: torrent.info_hash,
            peer_id: PeerId(*b"-BF0001-floor-server"),
        };
        self.out.extend_from_slice(&ours.encode());
        wire::encode(&Message::Bitfield(torrent.have.as_bytes()), &mut self.out);
        Ok(())
    }

    /// Sends until nothing is left to send, or the socket takes no more: that is what `true` says.
    fn pump(&mut self, torrent: &Torrent) -> Result<bool, Gone> {
        loop {
            if !self.out.is_empty() {
                // More follows if a block does: header and payload are to leave in one segment.
                let more = !self.body.is_empty() || !self.requests.is_empty();
                let flags = if more { SendFlags::MORE } else { SendFlags::empty() };
                match rustix::net::send(&self.stream, &self.out, flags | SendFlags::NOSIGNAL) {
                    Ok(len) => drop(self.out.drain(..len)),
                    Err(Errno::AGAIN) => return Ok(true),
                    Err(_) => return Err(Gone),
                }
            } else if !self.body.is_empty() {
                let file = torrent.file_at(self.body.start);
                let len = self.body.end.min(file.end) - self.body.start;
                let len = usize::try_from(len).expect("at most a block");
                let sent = match &file.file {
                    Some(payload) => {
                        let mut at = self.body.start - file.offset;
                        rustix::fs::sendfile(&self.stream, payload, Some(&mut at), len)
                    }
                    None => rustix::net::send(&self.stream, &ZEROS[..len], SendFlags::NOSIGNAL),
                };
                match sent {
                    // The file has become shorter.
                    Ok(0) => return Err(Gone),
                    Ok(len) => self.body.start += len as u64,
                    Err(Errno::AGAIN) => return Ok(true),
                    Err(_) => return Err(Gone),
                }
            } else if let Some(block) = self.requests.pop_front() {
                self.out.extend_from_slice(&wire::piece_header(&block));
                self.body = range_of(torrent, &block);
            } else {
                return Ok(false);
            }
        }
    }

    /// The same out of memory: everything that waits, as far as one send goes.
    fn pump_memory(&mut self, torrent: &Torrent) -> Result<bool, Gone> {
        loop {
            let batch = self.requests.iter().take(BLOCKS_MAX);
            let headers: Vec<_> = batch.clone().map(wire::piece_header).collect();
            let mut slices = Vec::with_capacity(2 * BLOCKS_MAX + 2);
            slices.push(IoSlice::new(&self.out));
            torrent.slices(self.body.clone(), &mut slices)?;
            for (block, header) in batch.zip(&headers) {
                slices.push(IoSlice::new(header));
                torrent.slices(range_of(torrent, block), &mut slices)?;
            }
            let len: usize = slices.iter().map(|slice| slice.len()).sum();
            if len == 0 {
                return Ok(false);
            }
            match (&self.stream).write_vectored(&slices) {
                Ok(sent) => {
                    drop(slices);
                    self.consume(sent, torrent);
                    if sent < len {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(_) => return Err(Gone),
            }
        }
    }

    /// So many bytes have left.
    fn consume(&mut self, mut sent: usize, torrent: &Torrent) {
        loop {
            let taken = sent.min(self.out.len());
            self.out.drain(..taken);
            sent -= taken;
            let taken = (sent as u64).min(self.body.end - self.body.start);
            self.body.start += taken;
            sent -= taken as usize;
            if sent == 0 {
                return;
            }
            let block = self.requests.pop_front().expect("a block that was sent");
            self.out.extend_from_slice(&wire::piece_header(&block));
            self.body = range_of(torrent, &block);
        }
    }

    /// Asks to be told when the socket takes more, or no longer.
    fn watch(&mut self, epoll: &OwnedFd, index: usize, blocked: bool) -> Result<(), Gone> {
        if blocked != self.blocked {
            self.blocked = blocked;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, blocked);
            epoll::modify(
                epoll.as_fd(),
                &self.stream,
                epoll::EventData::new_u64(index as u64),
                flags,
            )?;
        }
        Ok(())
    }
}

/// Where a block lies in the torrent.
fn range_of(torrent: &Torrent, block: &BlockRequest) -> Range<u64> {
    let begin = torrent.geometry.offset(block);
    begin..begin + u64::from(block.length())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::{NewContent, NewTorrent, encode};

    /// It said that it cannot serve, and not where.
    #[test]
    fn address_that_is_taken_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("x"), "x").expect("written");
        let bytes = encode(&NewTorrent::new("x", NewContent::File(1), 16384, &[[0; 20]]));
        let metainfo = Metainfo::parse(&bytes).expect("a torrent");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listen = taken.local_addr().expect("bound");
        let error = Floor::bind(&metainfo, dir.path(), listen, false).expect_err("it is taken");
        assert!(
            error.to_string().starts_with(&format!("cannot listen at {listen}: ")),
            "{error}"
        );
    }
}
