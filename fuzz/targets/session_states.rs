//! What the session keeps of places, scrubs and pauses: whatever is read of them has one form, and reads as the same again.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use btd_fuzz::{pause_again, place_again, scrub_again};
use libfuzzer_sys::fuzz_target;

/// Longer texts are cut off.
const TEXT_LEN_MAX: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let (pause, bytes) = pause_again(input);
    assert_eq!(pause_again(&bytes), (pause, bytes));

    if let Some((scrub, bytes)) = scrub_again(input) {
        assert_eq!(bytes.len(), input.len());
        assert_eq!(scrub_again(&bytes), Some((scrub, bytes)));
    }

    // Behind the version and the kind comes the folder.
    let folder = input.get(9..).and_then(|rest| {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        rest.get(..u16::from_le_bytes(*len).into())
    });
    let folder = Path::new(OsStr::from_bytes(folder.unwrap_or_default()));
    if let Some((place, bytes)) = place_again(input, folder) {
        assert!(!place.to_string().is_empty() && place.is_same(&place));
        if input.len() < TEXT_LEN_MAX {
            assert_eq!(bytes, input);
        }
    }
});
