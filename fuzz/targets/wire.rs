//! A stream decodes to the same messages whole and torn, and no peer can bring its own state out of order.
//!
//! The first bytes of the input say where the stream is torn; the rest is the stream.

#![no_main]

use std::time::Instant;

use btd_fuzz::proto::geometry::Geometry;
use btd_fuzz::proto::handshake::Reserved;
use btd_fuzz::proto::peer::{Peer, REQUEST_QUEUE_MAX};
use btd_fuzz::proto::wire::{self, Decoder, Message};
use libfuzzer_sys::fuzz_target;

/// How many bytes of the input are sizes.
const SIZES: usize = 4;

fuzz_target!(|input: &[u8]| {
    let Some((sizes, stream)) = input.split_first_chunk::<SIZES>() else {
        return;
    };
    let geometry = Geometry::new(32 * 1024, 1_000_000).expect("a torrent's shape");
    let len_max = wire::len_max(geometry.piece_count());

    let mut whole = Vec::new();
    let mut decoder = Decoder::new(len_max);
    let mut rest = stream;
    let end = loop {
        match decoder.next(&mut rest) {
            Ok(Some(message)) => wire::encode(&message, &mut whole),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };

    let mut torn = Vec::new();
    assert_eq!(
        decode_torn(stream, sizes, len_max, |message| wire::encode(message, &mut torn)),
        end
    );
    assert_eq!(torn, whole);

    // Encoded again, the same messages come out (unknown ones lose their payload, so compare from here on).
    let mut again = Vec::new();
    assert_eq!(
        decode_torn(&whole, sizes, len_max, |message| wire::encode(message, &mut again)),
        None
    );
    assert_eq!(again, whole);

    let now = Instant::now();
    let mut peer = Peer::new(Reserved::OURS, Reserved::OURS, now);
    peer.unchoke(now);
    peer.set_interested(sizes[0] % 2 == 0);
    let mut good = true;
    decode_torn(&whole, sizes, len_max, |message| {
        good = good
            && peer
                .on_message(message, &geometry, |piece| piece.get() != 3, now)
                .is_ok();
        assert!(peer.request_count() <= REQUEST_QUEUE_MAX);
    });
    while let Some(request) = peer.next_request() {
        assert!(request.piece().get() != 3 && request.end() <= geometry.piece_len(request.piece()));
    }
});

fn decode_torn(
    stream: &[u8],
    sizes: &[u8; SIZES],
    len_max: u32,
    mut on_message: impl FnMut(&Message<'_>),
) -> Option<wire::Error> {
    let mut decoder = Decoder::new(len_max);
    let mut sizes = sizes.iter().map(|size| usize::from(*size) + 1).cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (mut input, behind) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        rest = behind;
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => on_message(&message),
                Ok(None) => break,
                Err(error) => return Some(error),
            }
        }
        assert!(input.is_empty());
    }
    None
}
