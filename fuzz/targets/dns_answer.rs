//! Answers of name servers: few addresses, of the kind that was asked for, and only in answers to the question. The input's first
//! byte says which kind, and how much of the question the answer is given for nothing; the last line is a name to ask for.

#![no_main]

use btd_fuzz::control::{dns_answer, dns_question};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&how, rest)) = input.split_first() else {
        return;
    };
    let v6 = how & 1 != 0;
    let name = rest.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let named = std::str::from_utf8(name).ok().and_then(|name| dns_question(7, name, v6));
    let question = named.unwrap_or_else(|| dns_question(7, "tracker.example", v6).expect("a name"));
    // 12 of a header, a name of at most 255, type and class.
    assert!(question.len() <= 12 + 255 + 4, "{}", question.len());
    let message = match how & 2 != 0 {
        true => rest.to_vec(),
        false => {
            let mut message = question.clone();
            let counts = rest.first_chunk::<4>().copied().unwrap_or_default();
            message[2..4].copy_from_slice(&counts[..2]);
            message[6..8].copy_from_slice(&counts[2..]);
            message.extend_from_slice(rest.get(4..).unwrap_or_default());
            message
        }
    };
    if let Some(addresses) = dns_answer(&message, &question, v6) {
        assert_eq!(message[..2], question[..2]);
        assert!(addresses.len() <= 32 && addresses.iter().all(|address| address.is_ipv6() == v6));
    }
});
