//! A handshake survives its bytes, and nothing that can become one is turned away early.

#![no_main]

use btd_fuzz::proto::handshake::{self, HANDSHAKE_LEN, Handshake};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let so_far = &input[..input.len().min(HANDSHAKE_LEN)];
    let hopeful = handshake::prefix_ok(so_far);
    if hopeful {
        assert!((0..so_far.len()).all(|len| handshake::prefix_ok(&so_far[..len])));
    }
    let Some(bytes) = input.first_chunk::<HANDSHAKE_LEN>() else {
        return;
    };
    match Handshake::decode(bytes) {
        Ok(read) => {
            assert!(hopeful);
            assert_eq!(read.encode(), *bytes);
            assert!(!read.peer_id.to_string().contains(|c: char| c.is_control()));
            assert_eq!(read.info_hash.to_string().parse(), Ok(read.info_hash));
        }
        Err(_) => assert!(!hopeful),
    }
});
