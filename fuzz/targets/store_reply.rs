//! What a store says comes through unchanged as far as it does, cut into whatever pieces, and never a frame that is too long.
//!
//! The first bytes of the input say where the stream is torn.

#![no_main]

use btd_fuzz::control::guarded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((sizes, stream)) = input.split_first_chunk::<4>() else {
        return;
    };
    let (torn, torn_ended) = guarded(stream, sizes);
    let (whole, whole_ended) = guarded(stream, &[255]);
    assert!(stream.starts_with(&torn) && stream.starts_with(&whole));
    assert_eq!(torn_ended, whole_ended);
    assert!(torn_ended || torn == stream);
    // A length that nobody can bear is refused as soon as it has been said.
    let line = stream.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let [b'$', digits @ .., b'\r'] = line
        && stream.len() > line.len()
        && let Ok(len) = std::str::from_utf8(digits).unwrap_or("x").parse::<u64>()
        && len > btd_fuzz::control::FRAME_LEN_MAX as u64
    {
        assert!(whole_ended);
    }
});
