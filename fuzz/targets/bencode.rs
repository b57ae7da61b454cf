//! Whatever the scan accepts is covered exactly by the parts that the views show.

#![no_main]

use btd_fuzz::proto::bencode::{self, Limits, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for limits in [Limits::METAINFO, Limits::MESSAGE] {
        match bencode::scan_prefix(input, limits) {
            Ok(scanned) => {
                let span = scanned.value.span_in(input);
                assert_eq!((span.start, span.end), (0, scanned.value.raw().len()));
                assert!(scanned.unsorted_at.is_none_or(|at| at < span.end));
                let mut rebuilt = Vec::new();
                rebuild(scanned.value, &mut rebuilt);
                assert_eq!(rebuilt, scanned.value.raw());
                // What was accepted as a prefix is accepted alone, and with something behind it only as a prefix.
                assert!(bencode::scan(scanned.value.raw(), limits).is_ok());
                assert_eq!(bencode::scan(input, limits).is_ok(), span.end == input.len());
            }
            Err(error) => {
                assert!(error.offset <= input.len());
                assert!(bencode::scan(input, limits).is_err());
            }
        }
    }
});

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
        let dict = value.as_dict().expect("a value of a fifth kind");
        let mut keys: Vec<_> = dict.clone().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert!(keys.is_sorted_by(|a, b| a < b), "a key twice");
        out.push(b'd');
        for (key, item) in dict {
            out.extend_from_slice(format!("{}:", key.len()).as_bytes());
            out.extend_from_slice(key);
            rebuild(item, out);
        }
        out.push(b'e');
    }
}
