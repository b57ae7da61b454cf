//! A shard that downloads, and the peers it downloads from as a test plays them.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::fixture::{FAST, Far, Fixture, PIECE_LEN, bytes};
use super::*;
use crate::proto::bitfield::Bitfield;
use crate::proto::wire::Decoder;
use crate::storage::PART_SUFFIX;

/// A shard that downloads one file, and what it told.
pub(super) struct Leeching {
    pub(super) fixture: Fixture,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    /// Whether files are made as soon as they are wanted.
    pub(super) prepares: bool,
}

/// A peer as the test plays it, that has pieces and answers.
pub(super) struct Giver {
    pub(super) id: u64,
    pub(super) fast: bool,
    pub(super) decoder: Decoder,
    pub(super) greeted: usize,
    /// What it was asked for and has not answered.
    pub(super) asked: VecDeque<(u32, u32, u32)>,
    /// Everything it heard, in words.
    pub(super) said: Vec<String>,
    /// Pieces that it was told of.
    pub(super) told: Vec<u32>,
    /// How often it was asked in all.
    pub(super) asks: usize,
    /// It sends other bytes than those of the payload.
    pub(super) lies: bool,
}

impl Leeching {
    pub(super) fn new(len: usize) -> Leeching {
        Leeching::with(len, 1 << 20)
    }

    pub(super) fn with(len: usize, write_buffer: u64) -> Leeching {
        Leeching::of_pieces(len, PIECE_LEN, write_buffer)
    }

    pub(super) fn of_pieces(len: usize, piece_len: u32, write_buffer: u64) -> Leeching {
        let payload = vec![("payload".to_owned(), bytes(len, 1), false)];
        Leeching::of_files(payload, piece_len, write_buffer)
    }

    /// Files by path, contents, and whether they are pad files.
    pub(super) fn of_files(files: Vec<(String, Vec<u8>, bool)>, piece_len: u32, write_buffer: u64) -> Leeching {
        Leeching::with_buffers(files, piece_len, write_buffer, 16)
    }

    /// The same with so many buffers to read with.
    pub(super) fn with_buffers(
        files: Vec<(String, Vec<u8>, bool)>,
        piece_len: u32,
        write_buffer: u64,
        buffers: u32,
    ) -> Leeching {
        let mut fixture = Fixture::new(files, piece_len, buffers);
        let meta = fixture.torrent.meta().clone();
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        fixture.shard.settings.events = Events::new(move |event| told.lock().unwrap().push(event));
        fixture.shard.assembly = Assembly::new(write_buffer, Arc::default(), 1);
        let none = Bitfield::new(meta.geometry.piece_count());
        let root = fixture.torrent.root().clone();
        for file in meta.files.iter().filter(|file| !file.pad) {
            fixture.world.remove_file(file.path.as_str());
            let part = format!("{}{PART_SUFFIX}", file.path);
            fixture.world.file(&part, &vec![0; file.len as usize]);
        }
        let parts: Vec<bool> = meta.files.iter().map(|file| !file.pad).collect();
        fixture.torrent = Torrent::to_download(meta, root, &none, &parts, 0);
        fixture.shard.add(fixture.torrent.clone());
        Leeching {
            fixture,
            events,
            prepares: true,
        }
    }

    /// The shard downloads another torrent too, and it is that which peers ask for from now on. Gives the one before.
    pub(super) fn add_other(&mut self, name: &str, len: usize) -> Arc<Torrent> {
        let other = Fixture::new(vec![(name.to_owned(), vec![0; len], false)], PIECE_LEN, 1);
        let meta = other.torrent.meta().clone();
        let none = Bitfield::new(meta.geometry.piece_count());
        let root = self.fixture.torrent.root().clone();
        let other = Torrent::to_download(meta, root, &none, &[true], 0);
        self.fixture.world.file(&format!("{name}{PART_SUFFIX}"), &vec![0; len]);
        self.fixture.shard.add(other.clone());
        std::mem::replace(&mut self.fixture.torrent, other)
    }

    /// The file as it is.
    pub(super) fn file(&self) -> Vec<u8> {
        self.fixture.world.contents(&format!("payload{PART_SUFFIX}")).unwrap()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.fixture.torrent.is_complete()
    }

    /// Turns until nothing more happens.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            self.fixture.turn();
            let wanted = self
                .events
                .lock()
                .unwrap()
                .iter()
                .any(|event| matches!(event, Event::Wanted(_)));
            if wanted && self.prepares {
                self.events
                    .lock()
                    .unwrap()
                    .retain(|event| !matches!(event, Event::Wanted(_)));
                let info_hash = self.fixture.torrent.info_hash();
                self.fixture
                    .commands
                    .send(Command::Prepared { info_hash, made: true })
                    .unwrap();
            }
            self.wait_for_verdicts();
            self.fixture.world.ring();
        }
    }

    /// Hashing is another thread's.
    pub(super) fn wait_for_verdicts(&mut self) {
        while self.fixture.shard.hashing() > 0 {
            self.fixture.world.ring();
            self.fixture.turn();
            std::thread::yield_now();
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.fixture.now.set(self.fixture.now.get() + Duration::from_secs(1));
            self.settle();
        }
    }

    /// A peer that connects and has every piece.
    pub(super) fn giver(&mut self, port: u16, reserved: Reserved) -> Giver {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let id = self.fixture.world.connect(addr);
        self.greet(id, port, reserved)
    }

    pub(super) fn greet(&mut self, id: u64, port: u16, reserved: Reserved) -> Giver {
        let full = Bitfield::full(self.fixture.torrent.geometry().piece_count());
        self.greet_with(id, port, reserved, &full)
    }

    /// The same of a peer that has only these pieces.
    pub(super) fn greet_with(&mut self, id: u64, port: u16, reserved: Reserved, has: &Bitfield) -> Giver {
        self.fixture.world.write(id, &self.handshake(port, reserved));
        let giver = Giver {
            id,
            fast: reserved.fast(),
            decoder: Decoder::new(1 << 20),
            greeted: 0,
            asked: VecDeque::new(),
            said: Vec::new(),
            told: Vec::new(),
            asks: 0,
            lies: false,
        };
        self.say(&giver, &Message::Bitfield(has.as_bytes()));
        self.settle();
        giver
    }

    /// A peer that has nothing and wants everything.
    pub(super) fn taker(&mut self) -> Far {
        let far = self.fixture.far(FAST);
        self.fixture.say(&far, &Message::HaveNone);
        self.fixture.say(&far, &Message::Interested);
        far
    }

    /// The shard is told where peers of the torrent are.
    pub(super) fn tell_of(&self, addrs: Vec<SocketAddr>, named: bool) {
        let info_hash = self.fixture.torrent.info_hash();
        let peers = Command::Peers {
            info_hash,
            addrs,
            named,
        };
        self.fixture.commands.send(peers).unwrap();
        self.fixture.world.ring();
    }

    /// Of a peer whose id is its port.
    pub(super) fn handshake(&self, port: u16, reserved: Reserved) -> [u8; HANDSHAKE_LEN] {
        let mut peer_id = *b"-XX0001-giver-------";
        peer_id[15..].copy_from_slice(format!("{port:05}").as_bytes());
        Handshake {
            reserved,
            info_hash: self.fixture.torrent.info_hash(),
            peer_id: PeerId(peer_id),
        }
        .encode()
    }

    pub(super) fn say(&self, giver: &Giver, message: &Message<'_>) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.fixture.world.write(giver.id, &bytes);
    }

    pub(super) fn hear(&mut self, giver: &mut Giver) {
        let heard = self.fixture.world.read(giver.id);
        let mut heard = &heard[..];
        let missing = (HANDSHAKE_LEN - giver.greeted).min(heard.len());
        giver.greeted += missing;
        heard = &heard[missing..];
        while let Some(message) = giver.decoder.next(&mut heard).unwrap() {
            match message {
                Message::Request { piece, begin, length } => {
                    giver.asks += 1;
                    giver.asked.push_back((piece, begin, length));
                }
                Message::Cancel { piece, begin, length } => {
                    giver.asked.retain(|asked| *asked != (piece, begin, length));
                    giver.said.push("Cancel".to_owned());
                }
                Message::Have(piece) => giver.told.push(piece),
                Message::Extended { .. } => giver.said.push("Extended".to_owned()),
                other => giver.said.push(format!("{other:?}")),
            }
        }
    }

    /// Sends up to `count` of the blocks that it was asked for.
    pub(super) fn give(&mut self, giver: &mut Giver, count: usize) -> usize {
        self.hear(giver);
        let count = count.min(giver.asked.len());
        for block in giver.asked.drain(..count).collect::<Vec<_>>() {
            self.send(giver, block);
        }
        self.settle();
        count
    }

    /// Sends one block of the payload, or what a liar makes of it.
    pub(super) fn send(&self, giver: &Giver, (piece, begin, length): (u32, u32, u32)) {
        let at = (piece * self.fixture.torrent.geometry().piece_len_max() + begin) as usize;
        let mut data = self.fixture.payload[at..at + length as usize].to_vec();
        if giver.lies {
            data[0] ^= 1;
        }
        let data = &data;
        self.say(giver, &Message::Piece { piece, begin, data });
    }

    /// Lets us ask these peers.
    pub(super) fn unchoke<'a>(&mut self, givers: impl IntoIterator<Item = &'a Giver>) {
        for giver in givers {
            self.say(giver, &Message::Unchoke);
        }
        self.settle();
    }

    /// Lets a peer answer until there is one piece, and gives that.
    pub(super) fn first_piece(&mut self, giver: &mut Giver) -> u32 {
        self.unchoke([&*giver]);
        while self.fixture.torrent.have_count() == 0 {
            assert!(self.give(giver, 1) > 0);
        }
        self.fixture.torrent.have().pieces().next().unwrap().get()
    }

    /// Lets a peer answer until it is asked no more.
    pub(super) fn give_all(&mut self, giver: &mut Giver) {
        self.unchoke([&*giver]);
        while self.give(giver, usize::MAX) > 0 {}
    }

    pub(super) fn told(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        events.iter().map(|event| format!("{event:?}")).collect()
    }
}
