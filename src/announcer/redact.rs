//! Keys of private trackers, taken out of what is told of their answers.
//!
//! A tracker may repeat the address that it was asked at in the reason of a refusal, and so may a library in an error. What
//! [`TrackerUrl`] does not show of itself is not shown in their words either. Not here: what a tracker tells of somebody
//! else's keys, or of ours in a form that is neither that of the address nor the one behind its escapes.

use std::collections::BTreeSet;

use super::answer::{Answer, Failure};
use super::text::clean;
use super::url::TrackerUrl;

/// What stands in the place of a key, and at the end of a text that was cut.
const HIDDEN: char = '…';

/// So many characters that begin a key, where a text was cut, may be the rest of it.
const BEGINNING_MIN: usize = 3;

/// A key this short is taken out where it is a word of its own: it may be a part of any other.
const WORD_LEN_MAX: usize = 3;

/// A torrent file may be large, and somebody's who wants to keep this machine busy: so many keys are looked for in so many bytes.
const KEYS_MAX: usize = 256;
const REMARK_LEN_MAX: usize = 16 << 10;

/// No key of a tracker's user is shorter: it could be guessed.
const KEY_LEN_MIN: usize = 8;

/// What came of an announce, without the keys of its address in any text.
pub fn redacted(url: &TrackerUrl, result: Result<Answer, Failure>) -> Result<Answer, Failure> {
    match result {
        Ok(mut answer) => {
            let keys = url.keys();
            answer.warning = answer.warning.map(|text| redact_text(&keys, &text).into());
            Ok(answer)
        }
        Err(failure) => Err(redacted_failure(url, failure)),
    }
}

/// Why there is no answer, likewise.
pub fn redacted_failure(url: &TrackerUrl, failure: Failure) -> Failure {
    let keys = url.keys();
    let redact = |text: &str| -> Box<str> { redact_text(&keys, text).into() };
    match failure {
        Failure::Refused { reason, retry } => Failure::Refused {
            reason: redact(&reason),
            retry,
        },
        Failure::Malformed(text) => Failure::Malformed(redact(&text)),
        Failure::Forbidden(text) => Failure::Forbidden(redact(&text)),
        Failure::Name(text) => Failure::Name(redact(&text)),
        Failure::Unreachable(text) => Failure::Unreachable(redact(&text)),
        // Numbers.
        Failure::Status { .. } | Failure::TooLong(_) | Failure::Redirects(_) | Failure::Busy => failure,
    }
}

/// An address of a torrent file without what may be a key. Of what is none of a tracker's only that is said, since it is not known
/// where in it a key may be.
pub fn redacted_address(text: &str) -> String {
    match TrackerUrl::parse(text) {
        Ok(url) if url.keys().is_empty() && !text.contains(['?', '#']) => text.to_owned(),
        Ok(url) => url.to_string(),
        Err(error) => format!("{HIDDEN} ({error})"),
    }
}

/// A remark in a torrent file without the keys in these addresses of its trackers and web seeds. What is too short to be one is a
/// word of their paths, which may be meant in the remark. A remark that is very long is cut.
pub fn redacted_text<'a>(addresses: impl Iterator<Item = &'a str>, text: &str) -> String {
    let keys = addresses.flat_map(|address| match TrackerUrl::parse(address) {
        Ok(url) => url.keys(),
        // Nobody knows where in it a key may be.
        Err(_) => words(address),
    });
    let long = keys.filter(|key| key.len() >= KEY_LEN_MIN);
    let keys: BTreeSet<String> = long.take(KEYS_MAX).collect();
    let mut ends = (0..=REMARK_LEN_MAX.min(text.len())).rev();
    let end = ends.find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let cut = if end < text.len() {
        HIDDEN.to_string()
    } else {
        String::new()
    };
    hide(&keys.into_iter().collect::<Vec<_>>(), &format!("{}{cut}", &text[..end]))
}

/// What stands in an address between its signs.
fn words(address: &str) -> Vec<String> {
    let words = address.split(|c: char| !c.is_ascii_alphanumeric());
    words.map(str::to_owned).collect()
}

/// A text, cleaned, with each of these keys hidden, in whichever case it stands there.
fn redact_text(keys: &[String], text: &str) -> String {
    // What is not seen could stand between two halves of a key.
    hide(keys, &clean(text.as_bytes()))
}

/// A text with each of these keys hidden.
fn hide(keys: &[String], text: &str) -> String {
    let mut hidden = vec![false; text.len()];
    for key in keys {
        for at in 0..text.len() {
            if stands_at(text, at, key) {
                hidden[at..at + key.len()].fill(true);
            }
        }
    }
    if let Some(cut) = text.strip_suffix(HIDDEN) {
        for begin in keys.iter().filter_map(|key| beginning_at_end(cut, key)) {
            hidden[begin..cut.len()].fill(true);
        }
    }
    let mut redacted = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let c = if hidden[at] { HIDDEN } else { c };
        if c != HIDDEN || !redacted.ends_with(HIDDEN) {
            redacted.push(c);
        }
    }
    redacted
}

/// Whether a key stands at this byte of a text.
fn stands_at(text: &str, at: usize, key: &str) -> bool {
    let (before, rest) = text.as_bytes().split_at(at);
    let is_key = rest
        .get(..key.len())
        .is_some_and(|part| part.eq_ignore_ascii_case(key.as_bytes()));
    let is_in_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii());
    is_key && (key.len() > WORD_LEN_MAX || !is_in_word(before.last()) && !is_in_word(rest.get(key.len())))
}

/// Where, at the end of a text that was cut, something begins that a key begins with.
fn beginning_at_end(text: &str, key: &str) -> Option<usize> {
    let lens = (BEGINNING_MIN..key.len()).rev();
    lens.filter_map(|len| text.len().checked_sub(len).map(|begin| (begin, len)))
        .find(|(begin, len)| text.as_bytes()[*begin..].eq_ignore_ascii_case(&key.as_bytes()[..*len]))
        .map(|(begin, _)| begin)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::announcer::Retry;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn url(target: &str) -> TrackerUrl {
        TrackerUrl::parse(&format!("https://t.example{target}")).unwrap()
    }

    /// What is told of a refusal that is worded so.
    fn told(target: &str, reason: &str) -> String {
        let reason = clean(reason.as_bytes()).into();
        let retry = Retry::Unsaid;
        match redacted(&url(target), Err(Failure::Refused { reason, retry })) {
            Err(Failure::Refused { reason, .. }) => reason.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_that_a_tracker_repeats_is_hidden() {
        let query = format!("/announce.php?passkey={KEY}&user=7");
        assert_eq!(told(&query, &format!("unknown passkey {KEY}!")), "unknown passkey …!");
        assert_eq!(
            told(&query, &format!("user 7 of 17: {}", KEY.to_uppercase())),
            "user … of 17: …"
        );
        let path = format!("/{KEY}/announce");
        assert_eq!(
            told(&path, &format!("no such page: /{KEY}/announce")),
            "no such page: /…/announce"
        );
        assert_eq!(told(&format!("/announce?{KEY}"), &format!("{KEY}{KEY}")), "…");
        // Where it does not stand nothing changes, words of usual paths included.
        let reason = "torrent not registered with this tracker, announce again";
        assert_eq!(told(&path, reason), reason);
    }

    #[test]
    fn a_key_is_known_behind_its_escapes() {
        let target = "/announce?auth=a%2Fb%20c%c3%bc&x=1";
        assert_eq!(told(target, "bad auth a/b cü"), "bad auth …");
        assert_eq!(told(target, "bad auth a%2fb%20c%C3%BC"), "bad auth …");
    }

    #[test]
    fn a_key_that_was_cut_or_taken_apart_is_hidden() {
        let target = format!("/{KEY}/announce");
        for kept in [3, 16, 31] {
            let reason = format!("{}{KEY}", "x".repeat(crate::announcer::text::TEXT_LEN_MAX - kept));
            let text = told(&target, &reason);
            assert!(text.ends_with("x…") && !text.contains(&KEY[..3]), "{text}");
        }
        let apart = format!("{}\u{200b}\x07{}", &KEY[..9], &KEY[9..]);
        assert_eq!(told(&target, &apart), "…");
    }

    #[test]
    fn warnings_and_errors_of_the_way_are_rid_of_it_as_well() {
        let target = url(&format!("/{KEY}/announce"));
        let text: Box<str> = format!("what is {KEY}").into();
        let answer = Answer {
            warning: Some(text.clone()),
            ..Answer::default()
        };
        let warning = redacted(&target, Ok(answer)).unwrap().warning;
        assert_eq!(warning.as_deref(), Some("what is …"));
        for failure in [
            Failure::Malformed(text.clone()),
            Failure::Forbidden(text.clone()),
            Failure::Name(text.clone()),
            Failure::Unreachable(text),
        ] {
            let told = redacted(&target, Err(failure)).unwrap_err().to_string();
            assert!(told.ends_with("what is …"), "{told}");
        }
    }

    #[test]
    fn addresses_and_remarks_of_a_torrent_file_are_shown_without_keys() {
        let address = format!("https://t.example/{KEY}/announce?passkey={KEY}");
        assert_eq!(redacted_address(&address), "https://t.example/…/announce?…");
        // What has nothing to hide is as it stands there.
        for plain in ["udp://t.example:80", "HTTP://T.example/announce"] {
            assert_eq!(redacted_address(plain), plain);
        }
        for before in ["/", "?", "#", "/announce#", "/announce?k="] {
            let address = format!("http://t.example{before}{KEY}");
            assert!(!redacted_address(&address).contains(KEY), "{address}");
        }
        assert!(!redacted_address(&format!("http://t.example/announce?{KEY}=")).contains(KEY));
        for odd in ["wss://t.example/", "http://me:secret@t.example/", "secret"] {
            let shown = redacted_address(&format!("{odd}{KEY}"));
            assert!(
                shown.starts_with("… (") && !shown.contains(KEY) && !shown.contains("secret"),
                "{shown}"
            );
        }
        let remark = format!("from https://t.example/1/{KEY}\n\nof 1 May, {}", "x".repeat(2_000));
        for address in [
            "https://t.example/1/May/KEY/announce",
            "https://me:KEY@t.example/",
            "wss://t.example/KEY",
            "ftp://t.example/KEY",
        ] {
            let addresses = [address.replace("KEY", KEY), "http://other.example/".to_owned()];
            let shown = redacted_text(addresses.iter().map(String::as_str), &remark);
            assert!(
                !shown.contains(KEY) && shown.contains("of 1 May, x"),
                "{address}: {shown}"
            );
        }
        let tracker = format!("https://t.example/1/May/{KEY}/announce");
        assert_eq!(
            redacted_text([tracker.as_str()].into_iter(), &remark),
            remark.replace(KEY, "…")
        );
        // Somebody's who wants it to take for ever.
        let many: Vec<String> = (0..100_000)
            .map(|number| format!("http://t.example/{number:040}/announce"))
            .collect();
        let shown = redacted_text(many.iter().map(String::as_str), &"0".repeat(32 << 20));
        assert!(shown.len() <= REMARK_LEN_MAX + HIDDEN.len_utf8() && shown.ends_with(HIDDEN));
    }

    proptest! {
        #[test]
        fn no_text_tells_a_key(key in "[a-zA-Z0-9%/?&=ü]{4,40}", before in "(?s).{0,250}", after in "(?s).{0,40}") {
            if let Ok(url) = TrackerUrl::parse(&format!("http://t.example/announce?passkey={key}")) {
                let text = redact_text(&url.keys(), &format!("{before}{key}{after}"));
                for key in url.keys().iter().filter(|key| key.len() > WORD_LEN_MAX) {
                    prop_assert!(!text.to_ascii_lowercase().contains(&key.to_ascii_lowercase()), "{text}");
                }
            }
        }
    }
}
