//! Messages go through the lanes to the digests of the `sha1` crate, however they are cut, on every backend.
//!
//! The first bytes of the input say how long messages and their spans are, in turn, and where the messages are
//! interrupted to go on in another run; the rest is their bytes.

#![no_main]

use btd_fuzz::lanes::{self, Backend, Message, Plan, State};
use libfuzzer_sys::fuzz_target;
use sha1::Digest as _;

/// How many bytes of the input are sizes.
const SIZES: usize = 8;

/// Cuts `data` into parts of these lengths, in turn. A length of 0 is met, but not for ever.
fn cut<'a>(mut data: &'a [u8], mut lens: impl Iterator<Item = usize>) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while !data.is_empty() {
        let len = lens.next().expect("lengths in a circle").min(data.len());
        let (part, rest) = data.split_at(len);
        parts.push(part);
        if len == 0 {
            let (byte, rest) = data.split_at(1);
            parts.push(byte);
            data = rest;
        } else {
            data = rest;
        }
    }
    parts
}

fuzz_target!(|input: &[u8]| {
    let Some((sizes, data)) = input.split_first_chunk::<SIZES>() else {
        return;
    };
    let circle = |from: usize, scale: usize| {
        let lens = sizes[from..from + 3].iter().map(move |size| usize::from(*size) * scale);
        lens.collect::<Vec<_>>().into_iter().cycle()
    };
    let messages: Vec<Vec<&[u8]>> = cut(data, circle(0, 5))
        .into_iter()
        .map(|message| cut(message, circle(3, 1)))
        .collect();
    let expected: Vec<[u8; 20]> = messages
        .iter()
        .map(|spans| sha1::Sha1::digest(spans.concat()).into())
        .collect();

    for backend in Backend::available() {
        let plan = Plan::of(backend);
        // Some spans in a first run, the others in a second.
        let first = usize::from(sizes[6] % 8);
        let mut states = vec![State::new(); messages.len()];
        let mut source = messages.iter().enumerate().map(|(tag, spans)| Message {
            state: State::new(),
            spans: spans[..first.min(spans.len())].to_vec(),
            finish: false,
            tag,
        });
        lanes::run(plan, || source.next(), |message| states[message.tag] = message.state);

        let mut digests = vec![None; messages.len()];
        let mut source = messages.iter().zip(states).enumerate().map(|(tag, (spans, state))| Message {
            state,
            spans: spans[first.min(spans.len())..].to_vec(),
            finish: true,
            tag,
        });
        lanes::run(plan, || source.next(), |message| digests[message.tag] = message.digest());
        for (digest, expected) in digests.iter().zip(&expected) {
            assert_eq!(*digest, Some(*expected), "{}", backend.name());
        }
    }
});
