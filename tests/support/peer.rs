//! A peer of the tests' own: one blocking socket that says whatever a test wants, also what no client would say.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use btd::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use btd::proto::wire::{self, Message};
use btd::proto::{InfoHash, PeerId};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

/// How long an answer may take. Generous: other tests may keep every core busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Peer {
    stream: TcpStream,
    /// What was read and not looked at yet.
    unread: Vec<u8>,
}

impl Peer {
    /// Connects from `source`, which must be an address of the loopback network.
    pub fn connect(server: SocketAddr, source: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&server.into())?;
        socket.set_tcp_nodelay(true)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    /// Connects, exchanges handshakes with these reserved bits, and says that it is interested.
    pub fn join(server: SocketAddr, source: Ipv4Addr, info_hash: InfoHash, reserved: Reserved) -> io::Result<Self> {
        let mut peer = Self::connect(server, source)?;
        peer.send(&hello(info_hash, reserved))?;
        let mut answer = [0; HANDSHAKE_LEN];
        peer.stream.read_exact(&mut answer)?;
        assert_eq!(Handshake::decode(&answer).map(|theirs| theirs.info_hash), Ok(info_hash));
        peer.say(&Message::Interested)?;
        Ok(peer)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends all of this, and reads and drops whole messages meanwhile: a server that answers everything is not kept
    /// from it by a peer that does not read.
    pub fn send_and_read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        while !bytes.is_empty() {
            let mut ready = [PollFd::new(&self.stream, PollFlags::IN | PollFlags::OUT)];
            poll(&mut ready, None)?;
            let ready = ready[0].revents();
            if ready.contains(PollFlags::OUT) {
                match self.stream.write(bytes) {
                    Ok(len) => bytes = &bytes[len..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if ready.contains(PollFlags::IN) {
                self.read_some()?;
                while let Some(len) = self.whole() {
                    self.unread.drain(..len);
                }
            }
        }
        self.stream.set_nonblocking(false)
    }

    pub fn say(&mut self, message: &Message<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.send(&bytes)
    }

    /// The next message, without its length: empty for a keep-alive.
    pub fn hear(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(len) = self.whole() {
                return Ok(self.unread.drain(..len).skip(4).collect());
            }
            self.read_some()?;
        }
    }

    /// The length of the message that `unread` begins with, if all of it is there.
    fn whole(&self) -> Option<usize> {
        let len = 4 + u32::from_be_bytes(*self.unread.first_chunk()?) as usize;
        assert!(len < 1 << 20, "the server sent a message of {len} bytes");
        (self.unread.len() >= len).then_some(len)
    }

    fn read_some(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.unread.extend_from_slice(&buffer[..len]);
                Ok(())
            }
        }
    }

    /// Reads on until a message with this number comes.
    pub fn hear_id(&mut self, id: u8) -> io::Result<Vec<u8>> {
        loop {
            let message = self.hear()?;
            if message.first() == Some(&id) {
                return Ok(message);
            }
        }
    }

    /// Asks for a block and gives its bytes. The server must have unchoked it; if it has choked it since and says so by a
    /// reject, it is asked again at the next unchoke.
    pub fn fetch(&mut self, piece: u32, begin: u32, length: u32) -> io::Result<Vec<u8>> {
        let request = Message::Request { piece, begin, length };
        self.say(&request)?;
        let wanted = [piece.to_be_bytes(), begin.to_be_bytes()].concat();
        loop {
            let mut message = self.hear()?;
            match message.first() {
                Some(7) if message[1..9] == wanted => return Ok(message.split_off(9)),
                Some(16) if message[1..9] == wanted => {
                    self.hear_id(1)?;
                    self.say(&request)?;
                }
                _ => {}
            }
        }
    }

    /// Reads and drops whatever comes until the server closes; panics if it has not by the deadline.
    pub fn wait_closed(&mut self, what: &str, deadline: Instant) {
        let mut buffer = [0; 1 << 16];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: still connected at the deadline");
            let timeout = self.stream.set_read_timeout(Some(left));
            timeout.expect("a timeout that is not zero");
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    // Reset: it closed with something of ours unread.
                    _ => return,
                },
            }
        }
    }

    pub fn set_nonblocking(&self) {
        let done = self.stream.set_nonblocking(true);
        done.expect("a socket can be made non-blocking");
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// A handshake as it is sent.
pub fn hello(info_hash: InfoHash, reserved: Reserved) -> [u8; HANDSHAKE_LEN] {
    Handshake {
        reserved,
        info_hash,
        peer_id: PeerId(*b"-TE0001-tester-peers"),
    }
    .encode()
}
