//! btd.toml(5), made of `config/seed.toml`: a section for each of its sections, an entry for each key with its default and
//! the comment above it.
//!
//! The file's form is that which `control/config` tests: `# ` begins a comment, `#` without a blank a line that is off as
//! it is shipped. Comments in front of a section are that section's, those in front of the first key are the file's.

use std::fmt::Write as _;

use super::escaped;

const SEED: &str = include_str!("../../../../config/seed.toml");

/// One of the file's lines.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Blank,
    Comment(&'a str),
    /// `[limits]`, and whether it is off.
    Section(&'a str, bool),
    /// `key`, `default`.
    Key(&'a str, &'a str),
}

fn read(line: &str) -> Line<'_> {
    if let Some(comment) = line.strip_prefix("# ") {
        return Line::Comment(comment);
    }
    let (line, is_off) = match line.strip_prefix('#') {
        Some(line) => (line, true),
        None => (line, false),
    };
    match line.split_once(" = ") {
        _ if line.is_empty() => Line::Blank,
        _ if line.starts_with('[') => Line::Section(line, is_off),
        Some((key, default)) => Line::Key(key, default),
        None => Line::Blank,
    }
}

/// The page.
pub(super) fn page(version: &str, manual: &str) -> String {
    let mut text = format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH btd.toml 5 \"\" \"btd {version}\" \"{manual}\"\n\
         .SH NAME\nbtd.toml \\- configuration of btd, a BitTorrent daemon\n.SH DESCRIPTION\n"
    );
    let mut comment: Vec<&str> = Vec::new();
    let mut is_first = true;
    for line in SEED.lines().map(read) {
        match line {
            Line::Comment(words) => comment.push(words),
            // What comes before the first blank line is about the file.
            Line::Blank if is_first => {
                paragraph(&mut text, &std::mem::take(&mut comment));
                text.push_str(".SH KEYS OUTSIDE OF SECTIONS\n");
                is_first = false;
            }
            Line::Blank => {}
            Line::Section(name, is_off) => {
                let _ = writeln!(text, ".SH \"{}\"", escaped(name));
                paragraph(&mut text, &std::mem::take(&mut comment));
                if is_off {
                    text.push_str(".PP\nAs it is shipped, this section is commented out.\n");
                }
            }
            Line::Key(key, default) => {
                let _ = writeln!(text, ".TP\n\\fB{}\\fR = {}", escaped(key), escaped(default));
                paragraph(&mut text, &std::mem::take(&mut comment));
            }
        }
    }
    text.push_str(".SH FILES\n/etc/btd/btd.toml\n.SH SEE ALSO\nbtd(1)\n");
    text
}

fn paragraph(text: &mut String, comment: &[&str]) {
    for line in comment {
        let _ = writeln!(text, "{}", escaped(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(read("# a b"), Line::Comment("a b"));
        assert_eq!(read("[limits]"), Line::Section("[limits]", false));
        assert_eq!(read("#[tracker]"), Line::Section("[tracker]", true));
        assert_eq!(read("#interval = \"30m\""), Line::Key("interval", "\"30m\""));
        assert_eq!(read("pin = true"), Line::Key("pin", "true"));
        assert_eq!(read(""), Line::Blank);
    }

    #[test]
    fn every_key_of_the_shipped_file_is_an_entry_with_its_default_and_an_explanation() {
        let page = page("0", "x");
        let lines: Vec<&str> = page.lines().collect();
        let mut keys = 0;
        for line in SEED.lines() {
            match read(line) {
                Line::Key(key, default) => {
                    let entry = format!("\\fB{}\\fR = {}", escaped(key), escaped(default));
                    let at = lines.iter().position(|line| *line == entry);
                    let at = at.unwrap_or_else(|| panic!("{entry} is not in:\n{page}"));
                    assert_eq!(lines[at - 1], ".TP");
                    assert!(!lines[at + 1].starts_with('.'), "{key} is not explained");
                    keys += 1;
                }
                Line::Section(name, _) => assert!(page.contains(&format!(".SH \"{}\"", escaped(name))), "{name}"),
                _ => {}
            }
        }
        assert!(keys > 40, "{keys}");
        assert!(!page.contains("\n# "), "a comment is left over:\n{page}");
    }
}
