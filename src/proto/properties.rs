//! Properties of this room: what holds for any bytes, any numbers and any split. Each module's own tests are beside it.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::bencode::{self, Limits, Value};
use super::bitfield::Bitfield;
use super::choker::{Candidate, Kind, SeedChoker};
use super::extension::{ExtensionHandshake, Extensions};
use super::geometry::{BLOCK_LEN_MAX, Geometry, PIECE_LEN_MAX, PIECE_LEN_MIN};
use super::handshake::Reserved;
use super::metainfo::{self, Metainfo, NewContent, NewFile, NewTorrent};
use super::path::RelPath;
use super::peer::{Peer, REQUEST_QUEUE_MAX};
use super::wire::{self, Decoder, Message};

const LEN_MAX: u32 = 9 + BLOCK_LEN_MAX;

/// A message with its payload, since [`Message`] borrows its own.
#[derive(Debug, Clone)]
struct Owned {
    kind: u8,
    numbers: [u32; 3],
    payload: Vec<u8>,
}

impl Owned {
    const KINDS: u8 = 18;

    fn message(&self) -> Message<'_> {
        let [piece, begin, length] = self.numbers;
        let payload = &self.payload[..];
        match self.kind {
            0 => Message::KeepAlive,
            1 => Message::Choke,
            2 => Message::Unchoke,
            3 => Message::Interested,
            4 => Message::NotInterested,
            5 => Message::Have(piece),
            6 => Message::Bitfield(payload),
            7 => Message::Request { piece, begin, length },
            8 => Message::Piece {
                piece,
                begin,
                data: payload,
            },
            9 => Message::Cancel { piece, begin, length },
            10 => Message::Port(piece as u16),
            11 => Message::Suggest(piece),
            12 => Message::HaveAll,
            13 => Message::HaveNone,
            14 => Message::Reject { piece, begin, length },
            15 => Message::AllowedFast(piece),
            16 => Message::Extended {
                id: piece as u8,
                payload,
            },
            _ => Message::Unknown {
                id: 100 + (piece % 100) as u8,
            },
        }
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    let len = prop_oneof![8 => 0..40_usize, 1 => 16_000..16_384_usize];
    let payload = len.prop_flat_map(|len| vec(any::<u8>(), len));
    // Numbers near the bounds of a small torrent, and any others.
    let number = || prop_oneof![0..12_u32, 16_380..16_390_u32, any::<u32>()];
    (0..Owned::KINDS, [number(), number(), number()], payload).prop_map(|(kind, numbers, payload)| Owned {
        kind,
        numbers,
        payload,
    })
}

/// Decodes bytes that arrive in pieces of these sizes, in turn, as the text of each message and of the error.
fn decode(bytes: &[u8], sizes: &[usize]) -> (Vec<String>, Option<wire::Error>) {
    let mut decoder = Decoder::new(LEN_MAX);
    let mut messages = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = (*sizes.next().expect("a size")).min(rest.len());
        let (mut input, behind) = rest.split_at(size);
        rest = behind;
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => messages.push(format!("{message:?}")),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(input.is_empty(), "None means that the input is used up");
        assert!(
            decoder.torn_len() < 4 + LEN_MAX as usize,
            "only the beginning of one message is held back"
        );
    }
    (messages, None)
}

/// Rebuilds a value from its parts, which proves that they cover it exactly.
fn rebuild(value: Value<'_>, out: &mut Vec<u8>) {
    if let Some(number) = value.as_int() {
        out.extend_from_slice(format!("i{number}e").as_bytes());
    } else if let Some(bytes) = value.as_bytes() {
        out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
    } else if let Some(list) = value.as_list() {
        out.push(b'l');
        list.for_each(|item| rebuild(item, out));
        out.push(b'e');
    } else {
        out.push(b'd');
        for (key, item) in value.as_dict().expect("a value of a fifth kind") {
            out.extend_from_slice(format!("{}:", key.len()).as_bytes());
            out.extend_from_slice(key);
            rebuild(item, out);
        }
        out.push(b'e');
    }
}

/// Bytes that look like bencode, and mostly are not.
fn bencodish() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"d".to_vec()),
        Just(b"l".to_vec()),
        Just(b"e".to_vec()),
        Just(b"e".to_vec()),
        any::<i64>().prop_map(|number| format!("i{number}e").into_bytes()),
        "[a-c]{0,2}".prop_map(|text| format!("{}:{text}", text.len()).into_bytes()),
        vec(any::<u8>(), 0..3),
    ];
    vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

/// A value as text, of any shape.
fn bencoded() -> impl Strategy<Value = Vec<u8>> {
    let string = |bytes: &[u8]| [format!("{}:", bytes.len()).as_bytes(), bytes].concat();
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| format!("i{number}e").into_bytes()),
        vec(any::<u8>(), 0..20).prop_map(move |bytes| string(&bytes)),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        let list = vec(inner.clone(), 0..8).prop_map(|items| [b"l", &items.concat()[..], b"e"].concat());
        let entries = proptest::collection::btree_map(vec(any::<u8>(), 0..5), inner, 0..8);
        let dict = entries.prop_map(move |entries| {
            let entries: Vec<u8> = entries
                .iter()
                .flat_map(|(key, value)| [string(key), value.clone()].concat())
                .collect();
            [b"d", &entries[..], b"e"].concat()
        });
        prop_oneof![list, dict]
    })
}

/// The parts of a new torrent of several files.
#[derive(Debug, Clone)]
struct Folder {
    files: Vec<NewFile>,
    piece_len: u32,
    hashes: Vec<[u8; 20]>,
    private: bool,
    announce: Vec<Vec<String>>,
    comment: Option<String>,
}

fn folder() -> impl Strategy<Value = Folder> {
    // A number in each name keeps paths from clashing.
    let file = ("[a-zA-Zäß€ .-]{1,20}", 0..200_000_u64, any::<bool>());
    let files = vec(file, 1..20).prop_filter("a torrent has bytes", |files| {
        files.iter().any(|file| file.1 > 0 && !file.2)
    });
    let announce = vec(vec("(udp|http)://[a-z]{1,9}", 1..3), 0..3);
    let comment = proptest::option::of("\\PC{1,20}");
    (files, PIECE_LEN_MIN..100_000, any::<bool>(), announce, comment).prop_map(
        |(files, piece_len, private, announce, comment)| {
            // All padding together is shorter than a piece, as each run of it has to be.
            let pad_count = files.iter().filter(|(_, _, pad)| *pad).count() as u64;
            let file = |(at, (name, len, pad)): (usize, (String, u64, bool))| NewFile {
                path: RelPath::new([format!("{name}{at}").as_str(), "f"]).expect("a harmless path"),
                len: if pad {
                    len % (u64::from(piece_len) / pad_count)
                } else {
                    len
                },
                pad,
            };
            let files: Vec<NewFile> = files.into_iter().enumerate().map(file).collect();
            let total_len: u64 = files.iter().map(|file| file.len).sum();
            let hashes = (0..total_len.div_ceil(piece_len.into()))
                .map(|at| [at as u8; 20])
                .collect();
            Folder {
                files,
                piece_len,
                hashes,
                private,
                announce,
                comment,
            }
        },
    )
}

proptest! {
    #[test]
    fn messages_are_the_same_under_any_split(
        messages in vec(owned(), 0..20),
        sizes in vec(prop_oneof![1..6_usize, 1..20_000_usize], 1..10),
    ) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|owned| wire::encode(&owned.message(), &mut bytes));
        let expected: Vec<_> = messages.iter().map(|owned| format!("{:?}", owned.message())).collect();
        prop_assert_eq!(decode(&bytes, &sizes), (expected, None));
    }

    #[test]
    fn any_bytes_decode_the_same_under_any_split(
        bytes in vec(prop_oneof![3 => Just(0_u8), 1 => 0..24_u8, 1 => any::<u8>()], 0..300),
        sizes in vec(1..40_usize, 1..10),
    ) {
        prop_assert_eq!(decode(&bytes, &sizes), decode(&bytes, &[usize::MAX]));
    }

    #[test]
    fn a_checked_block_lies_in_one_piece(
        piece_len in PIECE_LEN_MIN..=PIECE_LEN_MAX,
        total_len in 1..10_u64 << 30,
        piece in prop_oneof![0..100_u32, any::<u32>()],
        begin in prop_oneof![0..PIECE_LEN_MAX, any::<u32>()],
        length in prop_oneof![0..=BLOCK_LEN_MAX + 1, any::<u32>()],
    ) {
        let Ok(geometry) = Geometry::new(piece_len, total_len) else { return Ok(()) };
        let fits = u64::from(piece) * u64::from(piece_len) + u64::from(begin) + u64::from(length) <= total_len
            && u64::from(begin) + u64::from(length) <= u64::from(piece_len)
            && piece < geometry.piece_count()
            && (1..=BLOCK_LEN_MAX).contains(&length);
        let block = geometry.check(piece, begin, length);
        prop_assert_eq!(block.is_some(), fits);
        if let Some(block) = block {
            prop_assert_eq!(geometry.offset(&block), u64::from(piece) * u64::from(piece_len) + u64::from(begin));
            prop_assert_eq!((block.piece().get(), block.begin(), block.length()), (piece, begin, length));
        }
    }

    #[test]
    fn blocks_cover_a_torrent_once_and_in_order(piece_len in PIECE_LEN_MIN..100_000, total_len in 1..3_000_000_u64) {
        let geometry = Geometry::new(piece_len, total_len).unwrap();
        let mut at = 0;
        for block in geometry.pieces().flat_map(|piece| geometry.blocks(piece)) {
            prop_assert_eq!(geometry.offset(&block), at);
            prop_assert_eq!(geometry.check(block.piece().get(), block.begin(), block.length()), Some(block));
            at += u64::from(block.length());
        }
        prop_assert_eq!(at, total_len);
    }

    #[test]
    fn a_bitfield_survives_the_wire(
        (count, bytes) in (1..200_u32).prop_flat_map(|count| (Just(count), vec(any::<u8>(), count.div_ceil(8) as usize))),
    ) {
        let geometry = Geometry::new(PIECE_LEN_MIN, u64::from(count) * u64::from(PIECE_LEN_MIN)).unwrap();
        match Bitfield::from_wire(&bytes, count) {
            Ok(bits) => {
                prop_assert_eq!(bits.as_bytes(), &bytes[..]);
                prop_assert_eq!(geometry.pieces().filter(|piece| bits.get(*piece)).count() as u32, bits.count());
            }
            Err(_) => prop_assert!(bytes[bytes.len() - 1].trailing_zeros() < 8 - count % 8),
        }
    }

    #[test]
    fn a_bencoded_value_is_found_again_exactly(bytes in bencoded()) {
        let scanned = bencode::scan(&bytes, Limits::METAINFO).unwrap();
        prop_assert_eq!(scanned.unsorted_at, None);
        let mut rebuilt = Vec::new();
        rebuild(scanned.value, &mut rebuilt);
        prop_assert_eq!(rebuilt, bytes);
    }

    #[test]
    fn what_the_scan_accepts_is_covered_by_its_parts(bytes in bencodish()) {
        if let Ok(scanned) = bencode::scan_prefix(&bytes, Limits::MESSAGE) {
            prop_assert_eq!(scanned.value.span_in(&bytes), 0..scanned.value.raw().len());
            let mut rebuilt = Vec::new();
            rebuild(scanned.value, &mut rebuilt);
            prop_assert_eq!(rebuilt, scanned.value.raw());
        }
    }

    #[test]
    fn a_truncated_value_is_refused_at_its_end_or_before(bytes in bencoded(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len());
        let error = bencode::scan(&bytes[..cut], Limits::METAINFO).unwrap_err();
        prop_assert!(error.offset <= cut);
    }

    #[test]
    fn a_torrent_file_survives_its_bytes(folder in folder(), damage in any::<(prop::sample::Index, u8)>()) {
        let new = NewTorrent { private: folder.private, announce: &folder.announce, comment: folder.comment.as_deref(), ..NewTorrent::new("näme", NewContent::Folder(&folder.files), folder.piece_len, &folder.hashes) };
        let mut bytes = metainfo::encode(&new);
        let torrent = Metainfo::parse(&bytes).unwrap();
        prop_assert_eq!(torrent.files.len(), folder.files.len());
        let mut at = 0;
        for (file, new) in torrent.files.iter().zip(&folder.files) {
            prop_assert_eq!(file.path.as_str(), format!("näme/{}", new.path.as_str()));
            prop_assert_eq!((file.offset, file.len, file.pad), (at, new.len, new.pad));
            at += file.len;
        }
        prop_assert_eq!(torrent.geometry.total_len(), at);
        prop_assert_eq!(torrent.piece_hashes.as_slice(), &folder.hashes);
        prop_assert_eq!((&torrent.announce, &torrent.comment), (&folder.announce, &folder.comment));
        prop_assert_eq!((torrent.private, torrent.hybrid), (folder.private, false));

        // One wrong byte may be harmless or not, but is never worse than an error.
        let (place, byte) = damage;
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let _ = Metainfo::parse(&bytes);
    }

    #[test]
    fn an_extension_handshake_survives_its_bytes(
        ids in any::<[u8; 4]>(),
        v in proptest::option::of("[ -~]{1,64}"),
        numbers in any::<(Option<u32>, Option<u16>, Option<u32>)>(),
        upload_only in any::<bool>(),
        yourip in any::<Option<std::net::IpAddr>>(),
    ) {
        let m = Extensions { ut_metadata: ids[0], ut_pex: ids[1], upload_only: ids[2], lt_donthave: ids[3] };
        let (reqq, p, metadata_size) = numbers;
        let (reqq, p) = (reqq.filter(|n| *n > 0), p.filter(|n| *n > 0));
        let metadata_size = metadata_size.filter(|n| *n > 0);
        let handshake = ExtensionHandshake { m, v, reqq, upload_only, yourip, p, metadata_size };
        let mut bytes = Vec::new();
        handshake.encode(&mut bytes);
        prop_assert_eq!(ExtensionHandshake::decode(&bytes), Ok(handshake));
    }

    #[test]
    fn any_bytes_are_a_handshake_or_an_error(bytes in bencodish()) {
        let _ = ExtensionHandshake::decode(&bytes);
    }

    #[test]
    fn whatever_a_peer_says_its_request_queue_holds_what_may_be_served(
        messages in vec((owned(), 0..20_u8), 0..200),
    ) {
        let geometry = Geometry::new(32 * 1024, 300_000).unwrap();
        let now = Instant::now();
        let mut peer = Peer::new(Reserved::OURS, Reserved::OURS, now);
        for (owned, verb) in &messages {
            match verb {
                0 => prop_assert!(peer.choke(now).iter().all(|request| request.piece().get().is_multiple_of(2))),
                1..4 => { peer.unchoke(now); }
                4 => { peer.next_request(); }
                5 => { peer.set_interested(true); }
                _ => {}
            }
            let have = |piece: super::geometry::PieceIndex| piece.get().is_multiple_of(2);
            // A violation ends a connection; going on all the same must do no harm.
            let _ = peer.on_message(&owned.message(), &geometry, have, now);
            let mut queued: Vec<_> = peer.requests().copied().collect();
            prop_assert!(queued.len() <= REQUEST_QUEUE_MAX);
            prop_assert!(!peer.am_choking() || queued.is_empty());
            prop_assert!(queued.iter().all(|request| have(request.piece())));
            queued.sort_unstable();
            queued.dedup();
            prop_assert_eq!(queued.len(), peer.request_count());
        }
    }

    #[test]
    fn a_rechoke_fills_the_slots_with_interested_peers(
        slots in 0..8_u32,
        round_robin in any::<bool>(),
        rounds in vec((any::<u64>(), vec(any::<(bool, bool, u16)>(), 0..20)), 1..10),
    ) {
        let kind = if round_robin { Kind::RoundRobin } else { Kind::FastestUpload };
        let mut choker = SeedChoker::new(kind, slots);
        let mut now = Instant::now();
        let mut decisions = Vec::new();
        for (random, peers) in rounds {
            let candidates: Vec<_> = peers.iter().zip(0_u32..).map(|((interested, unchoked, rate), key)| Candidate {
                gives: false,
                key,
                interested: *interested,
                unchoked: *unchoked,
                rate: u64::from(*rate),
                uploaded_since_unchoke: u64::from(*rate) << 10,
                unchoked_at: now - Duration::from_secs(u64::from(*rate % 200)),
                waiting_since: now - Duration::from_secs(u64::from(*rate % 100)),
            }).collect();
            choker.rechoke(now, &candidates, random, &mut decisions);
            let mut unchoked: Vec<_> = candidates.iter().map(|candidate| candidate.unchoked).collect();
            for (key, unchoke) in &decisions {
                prop_assert_ne!(std::mem::replace(&mut unchoked[*key as usize], *unchoke), *unchoke);
            }
            let interested = candidates.iter().filter(|candidate| candidate.interested).count();
            let expected = if slots == 0 { interested } else { interested.min(slots as usize) };
            prop_assert_eq!(unchoked.iter().filter(|unchoked| **unchoked).count(), expected);
            prop_assert!(candidates.iter().all(|c| c.interested || !unchoked[c.key as usize]));
            now += Duration::from_secs(10);
        }
    }
}
