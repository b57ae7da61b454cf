//! A shard with one torrent on a made-up machine, and the peers a test plays.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::*;
use crate::hashing::PoolConfig;
use crate::io::memory::{Memory, World};
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use crate::proto::wire::Decoder;
use crate::storage::root::Root;

pub(super) const FAST: Reserved = Reserved([0, 0, 0, 0, 0, 0, 0, 4]);
pub(super) const PLAIN: Reserved = Reserved([0; 8]);
pub(super) const PIECE_LEN: u32 = 64 * 1024;
/// Not the default, so that it is seen where it comes from.
pub(super) const GATHER_WAIT: Duration = Duration::from_micros(700);

/// A shard with one torrent, the far end of its connections, and its payload.
pub(super) struct Fixture {
    pub(super) shard: Shard<Memory>,
    pub(super) world: World,
    pub(super) commands: SyncSender<Command>,
    pub(super) now: Cell<Instant>,
    pub(super) torrent: Arc<Torrent>,
    pub(super) payload: Vec<u8>,
    pub(super) next_port: Cell<u16>,
    pub(super) _folder: tempfile::TempDir,
}

/// A peer as the test plays it.
pub(super) struct Far {
    pub(super) id: u64,
    pub(super) fast: bool,
    pub(super) decoder: Decoder,
    pub(super) handshake: Vec<u8>,
    /// What the shard said, the blocks apart.
    pub(super) said: Vec<String>,
    pub(super) blocks: Vec<(u32, u32, Vec<u8>)>,
}

pub(super) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

/// One thread that hashes.
pub(super) fn pool() -> Arc<Pool> {
    let config = PoolConfig {
        workers: 1,
        queue_max: 64,
        nice: 0,
        idle: false,
        gather: None,
    };
    Arc::new(Pool::start(config).expect("a thread"))
}

impl Fixture {
    /// One file of so many bytes.
    pub(super) fn single(len: usize, pool_bufs: u32) -> Fixture {
        Fixture::new(vec![("payload".to_owned(), bytes(len, 1), false)], PIECE_LEN, pool_bufs)
    }

    /// Files by path, contents, and whether they are pad files.
    pub(super) fn new(files: Vec<(String, Vec<u8>, bool)>, piece_len: u32, pool_bufs: u32) -> Fixture {
        let payload: Vec<u8> = files.iter().flat_map(|(_, contents, _)| contents.clone()).collect();
        let hashes: Vec<[u8; 20]> = payload.chunks(piece_len as usize).map(crate::hashing::sha1).collect();
        let single = files.len() == 1;
        let entries: Vec<NewFile> = files
            .iter()
            .map(|(path, contents, pad)| NewFile {
                path: crate::proto::path::RelPath::parse(path).unwrap(),
                len: contents.len() as u64,
                pad: *pad,
            })
            .collect();
        let (name, content) = match single {
            true => (files[0].0.as_str(), NewContent::File(files[0].1.len() as u64)),
            false => ("folder", NewContent::Folder(&entries)),
        };
        let encoded = encode(&NewTorrent::new(name, content, piece_len, &hashes));
        let meta = Metainfo::parse(&encoded).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(folder.path()).unwrap());
        let have = Bitfield::full(meta.geometry.piece_count());
        let torrent = Torrent::new(meta, root, &have, &vec![Some(0); files.len()]);
        let driver = Memory::new(pool_bufs);
        let world = driver.world();
        for (path, contents, pad) in &files {
            if !pad {
                let prefix = if single { "" } else { "folder/" };
                world.file(&format!("{prefix}{path}"), contents);
            }
        }
        let (commands, inbox) = sync_channel(8);
        let settings = Settings {
            index: 0,
            mailboxes: Arc::from(Vec::new()),
            pool: pool(),
            write_buffer: 1 << 20,
            loan: Arc::default(),
            gather_wait: GATHER_WAIT,
            events: Events::new(|_| {}),
            peer_id: PeerId(*b"-BD0001-tests-tests-"),
            limits: Arc::new(Limits::new(Caps {
                connections: 100,
                per_torrent: 90,
                per_ip: 80,
            })),
            upload_slots: 0,
            choker: choker::Kind::default(),
            read_mode: ReadMode::Auto,
            files_max: 8,
            upload_pace: Arc::new(Pace::new(None, Instant::now())),
            download_pace: Arc::new(Pace::new(None, Instant::now())),
            tracker: None,
            resting: Arc::default(),
            stats: Arc::new(Shared::default()),
        };
        let (listener, bell) = (driver.handle(), driver.handle());
        let now = Instant::now();
        let mut shard = Shard::new(driver, settings, vec![listener], inbox, bell, 7, now);
        shard.add(torrent.clone());
        Fixture {
            shard,
            world,
            commands,
            now: Cell::new(now),
            torrent,
            payload,
            next_port: Cell::new(1000),
            _folder: folder,
        }
    }

    pub(super) fn turn(&mut self) -> Flow {
        let now = self.now.get();
        self.shard.turn(|| now).unwrap()
    }

    /// Turns until nothing more happens.
    pub(super) fn settle(&mut self) {
        for _ in 0..50 {
            self.turn();
        }
    }

    pub(super) fn pass(&mut self, seconds: f64) {
        self.now.set(self.now.get() + Duration::from_secs_f64(seconds));
        self.settle();
    }

    pub(super) fn connect_from(&mut self, ip: Ipv4Addr) -> u64 {
        self.next_port.set(self.next_port.get() + 1);
        self.world.connect(SocketAddr::from((ip, self.next_port.get())))
    }

    pub(super) fn connect(&mut self) -> u64 {
        self.connect_from(Ipv4Addr::LOCALHOST)
    }

    pub(super) fn handshake(&self, reserved: Reserved) -> [u8; HANDSHAKE_LEN] {
        Handshake {
            reserved,
            info_hash: self.torrent.info_hash(),
            peer_id: PeerId(*b"-XX0001-far-far-far-"),
        }
        .encode()
    }

    /// A peer on this machine whose handshake has been sent.
    pub(super) fn far(&mut self, reserved: Reserved) -> Far {
        self.far_from(Ipv4Addr::LOCALHOST, reserved)
    }

    /// A peer whose handshake has been sent.
    pub(super) fn far_from(&mut self, ip: Ipv4Addr, reserved: Reserved) -> Far {
        let id = self.connect_from(ip);
        self.world.write(id, &self.handshake(reserved));
        Far {
            id,
            fast: reserved.fast(),
            decoder: Decoder::new(1 << 20),
            handshake: Vec::new(),
            said: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// A peer on this machine that is interested and unchoked.
    pub(super) fn unchoked(&mut self, reserved: Reserved) -> Far {
        let far = self.far(reserved);
        self.unchoke(far)
    }

    /// Lets a peer be interested, until it is unchoked.
    pub(super) fn unchoke(&mut self, mut far: Far) -> Far {
        if far.fast {
            self.say(&far, &Message::HaveNone);
        }
        self.say(&far, &Message::Interested);
        self.settle();
        self.hear(&mut far);
        assert!(far.said.contains(&"Unchoke".to_owned()), "{:?}", far.said);
        far.said.clear();
        far
    }

    pub(super) fn say(&self, far: &Far, message: &Message<'_>) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.world.write(far.id, &bytes);
    }

    pub(super) fn request(&self, far: &Far, piece: u32, begin: u32, length: u32) {
        self.say(far, &Message::Request { piece, begin, length });
    }

    pub(super) fn hear(&self, far: &mut Far) {
        let heard = self.world.read(far.id);
        let mut heard = &heard[..];
        let missing = HANDSHAKE_LEN - far.handshake.len();
        let (front, rest) = heard.split_at(missing.min(heard.len()));
        far.handshake.extend_from_slice(front);
        heard = rest;
        while let Some(message) = far.decoder.next(&mut heard).unwrap() {
            match message {
                Message::Piece { piece, begin, data } => far.blocks.push((piece, begin, data.to_vec())),
                Message::Extended { .. } => far.said.push("Extended".to_owned()),
                other => far.said.push(format!("{other:?}")),
            }
        }
    }

    /// All blocks heard are the payload's.
    pub(super) fn check(&self, far: &Far) {
        for (piece, begin, data) in &far.blocks {
            let at = *piece as usize * self.torrent.geometry().piece_len_max() as usize + *begin as usize;
            assert_eq!(*data, self.payload[at..at + data.len()], "piece {piece} at {begin}");
        }
    }

    /// Asks for everything, and hears it.
    pub(super) fn download(&mut self, far: &mut Far) {
        let count = far.blocks.len() + self.request_all(far);
        for _ in 0..10 {
            self.settle();
            self.hear(far);
            if far.blocks.len() == count {
                break;
            }
        }
        assert_eq!(far.blocks.len(), count);
        self.check(far);
    }

    /// Asks for everything in blocks of 16 KiB.
    pub(super) fn request_all(&self, far: &Far) -> usize {
        let geometry = self.torrent.geometry();
        let mut count = 0;
        for piece in 0..geometry.piece_count() {
            let len = geometry.piece_len(geometry.piece_index(piece).unwrap());
            for begin in (0..len).step_by(BLOCK_LEN as usize) {
                self.request(far, piece, begin, BLOCK_LEN.min(len - begin));
                count += 1;
            }
        }
        count
    }

    pub(super) fn drops(&self) -> Vec<&'static str> {
        self.shard.settings.stats.drops().into_keys().collect()
    }
}
