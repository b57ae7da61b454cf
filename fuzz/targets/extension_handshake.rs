//! What an extension handshake was understood as is what we would say to be understood so.

#![no_main]

use btd_fuzz::proto::extension::{CLIENT_LEN_MAX, ExtensionHandshake};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(handshake) = ExtensionHandshake::decode(input) else {
        return;
    };
    if let Some(client) = &handshake.v {
        assert!((1..=CLIENT_LEN_MAX).contains(&client.len()));
        assert!(!client.contains(|c: char| c.is_control()));
    }
    let mut bytes = Vec::new();
    handshake.encode(&mut bytes);
    assert_eq!(ExtensionHandshake::decode(&bytes).as_ref(), Ok(&handshake));
});
