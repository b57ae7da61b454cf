//! Seeders of the tests' own that do not do as they are asked.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use btd::proto::PeerId;
use btd::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use btd::proto::metainfo::Metainfo;
use btd::proto::wire::{self, Decoder, Message};

use super::leech::{SECONDS, metainfo};
use super::torrent::Torrent;

/// What a [`Rogue`] does when it is asked for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Sends it.
    Honest,
    /// Sends other bytes.
    Lies,
    /// Sends nothing.
    Silent,
    /// Sends one byte at a time.
    Trickles,
    /// Chokes after each block.
    Flaps,
    /// Sends blocks that nobody asked for, the same twice, and then the one.
    Babbles,
    /// Ends the connection after a few blocks.
    Leaves,
}

/// A seeder: a thread for each connection.
pub struct Rogue {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Counts {
    asked: AtomicUsize,
    connections: AtomicUsize,
}

impl Rogue {
    /// Listens on a free port of `ip`. Tells its connections from those of others by `number`, a digit.
    pub fn start(manner: Manner, ip: Ipv4Addr, torrent: &Torrent, payload: Arc<Vec<u8>>, number: u8) -> Rogue {
        let meta = Arc::new(metainfo(torrent));
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let rogue = Rogue {
            addr,
            counts: counts.clone(),
            stop: stop.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (meta, payload, counts) = (meta.clone(), payload.clone(), counts.clone());
                let Ok(stream) = stream else { continue };
                counts.connections.fetch_add(1, Ordering::Relaxed);
                // Ends with the connection.
                std::thread::spawn(move || drop(serve(stream, manner, &meta, &payload, &counts.asked, number)));
            }
        });
        rogue
    }

    /// Blocks that it was asked for.
    pub fn asked(&self) -> usize {
        self.counts.asked.load(Ordering::Relaxed)
    }

    /// How often it was connected to.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(
    mut stream: TcpStream,
    manner: Manner,
    meta: &Metainfo,
    payload: &[u8],
    asked: &AtomicUsize,
    number: u8,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
    let mut theirs = [0; HANDSHAKE_LEN];
    stream.read_exact(&mut theirs)?;
    let mut peer_id = *b"-RG0001-rogue-------";
    peer_id[19] = b'0' + number;
    let ours = Handshake {
        reserved: Reserved([0, 0, 0, 0, 0, 0, 0, 4]),
        info_hash: meta.info_hash,
        peer_id: PeerId(peer_id),
    };
    let mut out = ours.encode().to_vec();
    wire::encode(&Message::HaveAll, &mut out);
    wire::encode(&Message::Unchoke, &mut out);
    stream.write_all(&out)?;
    let mut decoder = Decoder::new(1 << 20);
    let mut buffer = [0; 1 << 16];
    let mut sent = 0;
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut heard = &buffer[..len];
        while let Ok(Some(message)) = decoder.next(&mut heard) {
            let Message::Request { piece, begin, length } = message else {
                continue;
            };
            asked.fetch_add(1, Ordering::Relaxed);
            let at = piece as usize * meta.geometry.piece_len_max() as usize + begin as usize;
            let mut data = payload[at..at + length as usize].to_vec();
            let mut out = Vec::new();
            match manner {
                Manner::Silent => continue,
                Manner::Lies => data[length as usize / 2] ^= 1,
                Manner::Babbles => {
                    let other = (piece + 1) % meta.geometry.piece_count();
                    let data = vec![7; 1000];
                    for _ in 0..2 {
                        wire::encode(
                            &Message::Piece {
                                piece: other,
                                begin: 0,
                                data: &data,
                            },
                            &mut out,
                        );
                    }
                }
                Manner::Honest | Manner::Trickles | Manner::Flaps | Manner::Leaves => {}
            }
            wire::encode(
                &Message::Piece {
                    piece,
                    begin,
                    data: &data,
                },
                &mut out,
            );
            match manner {
                Manner::Babbles => out.extend_from_within(..),
                Manner::Flaps => {
                    wire::encode(&Message::Choke, &mut out);
                    wire::encode(&Message::Unchoke, &mut out);
                }
                _ => {}
            }
            match manner {
                Manner::Trickles => {
                    for byte in out {
                        stream.write_all(&[byte])?;
                        std::thread::yield_now();
                    }
                }
                _ => stream.write_all(&out)?,
            }
            sent += 1;
            if manner == Manner::Leaves && sent == 7 {
                return Ok(());
            }
        }
    }
}

/// The bytes of a torrent in order.
pub fn contents(torrent: &Torrent, data: &Path) -> Arc<Vec<u8>> {
    let meta = metainfo(torrent);
    let mut all = Vec::new();
    for file in &meta.files {
        match file.pad {
            true => all.resize(all.len() + file.len as usize, 0),
            false => all.extend(fs::read(data.join(file.path.as_str())).expect("read payload")),
        }
    }
    Arc::new(all)
}
