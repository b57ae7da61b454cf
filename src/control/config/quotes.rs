//! Values that lack their quotes, or one of the two: a line as it would be with them, so that whoever knows its key can tell what that wants.
//!
//! Lists and inline tables are gone through, and may begin or end on other lines. What is a value as it stands stays so, and where it
//! cannot be told what was meant nothing is mended.

use toml::de::DeValue;

/// Lists and tables in each other. No key has more than two.
const DEPTH_MAX: u32 = 8;

/// Quotes that word processors and web pages put in the place of those that TOML knows.
const CURLY: [char; 6] = ['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{201a}'];

/// A line that is TOML with the quotes that it lacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mended {
    /// The whole line.
    pub(super) line: String,
    /// What was put into quotes.
    pub(super) texts: Vec<String>,
}

/// A line with the quotes that it lacks; `None` if that is not what is wrong with it.
pub(super) fn mended(line: &str) -> Option<Mended> {
    let mut mender = Mender {
        rest: line,
        line: String::new(),
        texts: Vec::new(),
        depth: 0,
    };
    match mender.takes_key() {
        true => mender.value("")?,
        // A part of a list that was begun on another line.
        false => mender.items()?,
    }
    mender.space();
    let is_over = mender.rest.is_empty() || mender.rest.starts_with('#');
    mender.take(mender.rest.len());
    let Mender { line, texts, .. } = mender;
    (is_over && !texts.is_empty()).then_some(Mended { line, texts })
}

struct Mender<'a> {
    /// What was not looked at yet.
    rest: &'a str,
    /// The line so far.
    line: String,
    texts: Vec<String>,
    /// Values that are being looked at, each in the one before it.
    depth: u32,
}

impl<'a> Mender<'a> {
    /// Takes so many bytes as they are.
    fn take(&mut self, len: usize) {
        let (taken, rest) = self.rest.split_at(len);
        self.line.push_str(taken);
        self.rest = rest;
    }

    fn space(&mut self) {
        self.take(self.rest.len() - self.rest.trim_start().len());
    }

    /// Whether a key was there with its `=`, plain, dotted or quoted.
    fn takes_key(&mut self) -> bool {
        let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '"' | '\'' | ' ' | '\t');
        let Some((key, _)) = self.rest.split_once('=') else {
            return false;
        };
        let is_key = !key.trim().is_empty() && key.chars().all(is_of_key);
        if is_key {
            self.take(key.len() + 1);
        }
        is_key
    }

    /// Takes a value, which one of `ends` may follow, or a comment.
    fn value(&mut self, ends: &str) -> Option<()> {
        self.depth += 1;
        let taken = match self.depth <= DEPTH_MAX {
            true => self.value_here(ends),
            false => None,
        };
        self.depth -= 1;
        taken
    }

    fn value_here(&mut self, ends: &str) -> Option<()> {
        self.space();
        match self.rest.chars().next()? {
            '#' => None,
            '[' if !begins_with_address(self.rest) => {
                self.take(1);
                self.items()
            }
            '{' => {
                self.take(1);
                self.entries()
            }
            quote @ ('"' | '\'') => match len_in_quotes(self.rest, quote) {
                _ if self.rest.starts_with(&[quote; 3].iter().collect::<String>()) => None,
                Some(len) => {
                    self.take(len);
                    Some(())
                }
                None => self.text(ends),
            },
            _ => self.text(ends),
        }
    }

    /// Takes what is in a list, and its end if that is there.
    fn items(&mut self) -> Option<()> {
        loop {
            self.space();
            match self.rest.chars().next() {
                None | Some('#') => return Some(()), // It goes on in the next line.
                Some(']') => {
                    self.take(1);
                    return Some(());
                }
                Some(',') => self.take(1),
                Some(_) => self.value(",]")?,
            }
        }
    }

    /// Takes what is in an inline table, and its end.
    fn entries(&mut self) -> Option<()> {
        loop {
            self.space();
            match self.rest.chars().next()? {
                '}' => {
                    self.take(1);
                    return Some(());
                }
                ',' => self.take(1),
                _ if self.takes_key() => self.value(",}")?,
                _ => return None,
            }
        }
    }

    /// Takes text up to one of `ends`, the end of the line or a comment, with quotes in the place of those that it has.
    fn text(&mut self, ends: &str) -> Option<()> {
        // In the brackets of an address there is no end.
        let address = if begins_with_address(self.rest) {
            self.rest.find(']')? + 1
        } else {
            0
        };
        let end = self.rest[address..].find(|c| ends.contains(c));
        let text = &self.rest[..end.map_or(self.rest.len(), |end| address + end)];
        // A value may have one in it, as a path may.
        let text = [" #", "\t#"]
            .iter()
            .fold(text, |text, comment| text.split(comment).next().unwrap_or(text));
        let text = text.trim_end();
        let bare = text.strip_prefix(['"', '\'']).unwrap_or(text);
        let bare = match bare.len() == text.len() {
            true => bare.strip_suffix(['"', '\'']).unwrap_or(bare),
            false => bare,
        };
        let bare = match bare.starts_with(CURLY) {
            true => bare.trim_matches(CURLY),
            false => bare,
        };
        if bare.is_empty() || bare.contains(['"', '\'', '\\']) || bare.contains(char::is_control) {
            return None;
        }
        if bare.len() == text.len() && DeValue::parse(bare).is_ok() {
            self.take(text.len());
            return Some(());
        }
        self.line.push('"');
        self.line.push_str(bare);
        self.line.push('"');
        self.texts.push(bare.to_owned());
        self.rest = &self.rest[text.len()..];
        Some(())
    }
}

/// Whether this is an IPv6 address with a port, and not a list.
fn begins_with_address(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    inner.is_some_and(|(address, port)| {
        let is_of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
        address.contains(':') && address.chars().all(is_of_address) && port.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// How long the text in quotes is that this begins with, quotes included; `None` without the second.
fn len_in_quotes(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    let mut inner = text.char_indices().skip(1);
    let end = inner.find(|(_, c)| {
        let is_end = *c == quote && !is_escaped;
        is_escaped = *c == '\\' && quote == '"' && !is_escaped;
        is_end
    });
    end.map(|(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<String> {
        mended(text).map(|mended| mended.line)
    }

    #[test]
    fn quotes_are_put_where_they_are_missing() {
        for (text, expected) in [
            ("a = 5 MB/s", "a = \"5 MB/s\""),
            ("a.b = /srv # here", "a.b = \"/srv\" # here"),
            ("\"a\" . b=/srv/#1", "\"a\" . b=\"/srv/#1\""),
            ("a = \"5 MB/s", "a = \"5 MB/s\""),
            ("a = 5 MB/s\"", "a = \"5 MB/s\""),
            ("a = \u{201c}/srv\u{201d} # here", "a = \"/srv\" # here"),
            (
                "a = [\u{201e}b\u{201c}, \u{2018}it\u{2019}s\u{2019}]",
                "a = [\"b\", \"it\u{2019}s\"]",
            ),
            ("a = '5 MB/s # so", "a = \"5 MB/s\" # so"),
            (
                "a = [0.0.0.0:1, [::1]:2, \"c\", 7]",
                "a = [\"0.0.0.0:1\", \"[::1]:2\", \"c\", 7]",
            ),
            ("a = [b:1, # the first", "a = [\"b:1\", # the first"),
            ("  b:1, c:2]", "  \"b:1\", \"c:2\"]"),
            ("  [::1]:2,", "  \"[::1]:2\","),
            ("a = { b = /c, d = true }", "a = { b = \"/c\", d = true }"),
            ("a = [{ b = /c, d = [e] }]", "a = [{ b = \"/c\", d = [\"e\"] }]"),
        ] {
            assert_eq!(line(text).as_deref(), Some(expected), "{text}");
        }
        let texts = mended("a = [b:1, \"c\", d").map(|mended| mended.texts);
        assert_eq!(texts, Some(vec!["b:1".to_owned(), "d".to_owned()]));
    }

    #[test]
    fn what_lacks_no_quotes_is_left_alone() {
        for text in [
            "",
            "# a",
            "a =",
            "a = # b",
            "a = 7",
            "a = \"b\"",
            "a = \"b\" c",
            "a = \"\"\"b",
            "a = [1, 2",
            "a = b\\c",
            "a = { b }",
            "a = { b = /c",
            "a = \"",
        ] {
            assert_eq!(line(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_too_strange_to_be_looked_at(text in "[a-z0-9\"'\\[\\]{}=.,:# \\\\é-]{0,40}") {
            let _ = mended(&text);
        }
    }
}
