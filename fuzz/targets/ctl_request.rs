//! A line that somebody says on the control socket is a request that says the same when it is written again, or none.

#![no_main]

use btd_fuzz::control::ctl_api::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let text = serde_json::to_vec(&request).expect("a request can be written");
        assert_eq!(serde_json::from_slice::<Request>(&text).ok(), Some(request));
    }
});
