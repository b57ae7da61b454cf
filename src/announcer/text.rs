//! What strangers write, made fit for a log line and a status page.
//!
//! HTML is left as it is: whoever shows a text on a page escapes it there, as with any other.

/// Characters that are kept of a tracker's text.
pub const TEXT_LEN_MAX: usize = 200;

/// A text without control characters, terminal sequences and marks that turn the direction of writing, with single
/// spaces, and no longer than [`TEXT_LEN_MAX`] characters.
#[must_use]
pub fn clean(bytes: &[u8]) -> String {
    // Four bytes are the longest character; beyond that nothing could be kept, but for what is left out.
    let bytes = &bytes[..bytes.len().min(TEXT_LEN_MAX * 16)];
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::new();
    let (mut len, mut space) = (0, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        // A sequence of a terminal (ECMA-48): from its introducer to the first byte of 0x40 to 0x7e.
        if c == '\u{9b}' || c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
            chars.next_if(|c| ('@'..='~').contains(c));
            continue;
        }
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if c.is_control() || is_invisible(c) {
            continue;
        }
        space &= !clean.is_empty();
        if len + usize::from(space) >= TEXT_LEN_MAX {
            clean.push('…');
            break;
        }
        if space {
            clean.push(' ');
            len += 1;
        }
        space = false;
        clean.push(c);
        len += 1;
    }
    clean
}

/// Characters that are not seen and change how others are.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_keeps_no_colour_no_line_and_no_bell() {
        assert_eq!(
            clean(b"\x1b[31;1mred\x1b[0m alert\x07\r\n  now \xff"),
            "red alert now \u{fffd}"
        );
        assert_eq!(clean("a\u{202e}b\u{9b}2Jc".as_bytes()), "abc");
        assert_eq!(clean(b"<b>torrent not registered</b>"), "<b>torrent not registered</b>");
        assert_eq!(clean(b"\x1b]0;title\x07x"), "]0;titlex");
        assert_eq!(clean(b""), "");
    }

    #[test]
    fn a_text_is_cut_and_says_so() {
        let text = clean(&[b'x'; 10_000]);
        assert_eq!(text.chars().count(), TEXT_LEN_MAX + 1);
        assert!(text.ends_with('…'));
        let words = clean("a ".repeat(10_000).as_bytes());
        assert!(words.chars().count() <= TEXT_LEN_MAX + 1, "{words}");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_short_and_printable(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let text = clean(&bytes);
            prop_assert!(text.chars().count() <= TEXT_LEN_MAX + 2);
            prop_assert!(!text.chars().any(|c| c.is_control() || is_invisible(c)));
        }
    }
}
