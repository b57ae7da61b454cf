//! Whatever is accepted as a history is one, and has no other form than the one that was read.

#![no_main]

use btd_fuzz::history::History;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match History::decode(input) {
    Ok(history) => {
        assert_eq!(history.encode(), input);
        assert!(History::decode(&input[..input.len() - 1]).is_err());
    }
    Err(error) => assert!(!error.to_string().is_empty()),
});
