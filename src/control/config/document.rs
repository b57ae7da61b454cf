//! The configuration file and the environment as one tree, in which every value knows where it was written.
//!
//! Knows TOML, but no key: `sections` gives the tree its meaning.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problem::{At, Problem};
use super::quotes;

/// Syntax errors beyond this many are consequences of the first ones.
const SYNTAX_ERRORS_MAX: usize = 5;
/// How often what lacks its quotes is looked for: one line may hide another.
const MENDED_MAX: usize = 8;

/// A value and where it was written.
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// The kinds of value that a key may have.
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A kind that no key has (a date, a fraction), as text for the message.
    Other(String),
}

impl Value {
    /// What was found instead, for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Array(_) => "a list".to_owned(),
            Self::Table(_) => "a section".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// Keys in alphabetical order, each with the place of its name and its value.
#[derive(Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<String, (At, Node)>,
}

/// A file's text as a tree.
pub(super) struct Document {
    /// As much of it as can be read.
    pub(super) root: Table,
    /// Texts by their lines that are no TOML for want of quotes. In `root` they are as if they had them, so that whoever knows their
    /// keys can tell what those want.
    pub(super) unquoted: BTreeMap<usize, Vec<String>>,
    /// What else is no TOML.
    pub(super) problems: Vec<Problem>,
}

/// Parses the file's text.
pub(super) fn parse(text: &str) -> Document {
    let (mut root, mut problems) = read(text);
    let mut lines: Vec<Cow<'_, str>> = text.lines().map(Cow::Borrowed).collect();
    let mut unquoted: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for _ in 0..MENDED_MAX {
        let mut is_mended = false;
        for problem in &problems {
            let At::Line(line) = problem.at else { continue };
            if !unquoted.contains_key(&line)
                && let Some(mended) = lines.get(line - 1).and_then(|text| quotes::mended(text))
            {
                lines[line - 1] = Cow::Owned(mended.line);
                unquoted.insert(line, mended.texts);
                is_mended = true;
            }
        }
        if !is_mended {
            break;
        }
        let mended: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        (root, problems) = read(&mended);
    }
    // Something else is wrong with it, too.
    unquoted.retain(|line, _| problems.iter().all(|problem| problem.at != At::Line(*line)));
    problems.truncate(SYNTAX_ERRORS_MAX);
    for problem in &mut problems {
        if let At::Line(line) = problem.at
            && let Some(list) = lines.get(line - 1).and_then(|line| as_list(line))
        {
            problem.message = format!("several values need brackets around them: {list}");
        }
    }
    Document {
        root,
        unquoted,
        problems,
    }
}

fn read(text: &str) -> (Table, Vec<Problem>) {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let describe = |error: &toml::de::Error| Problem {
        at: error.span().map_or(At::File, |span| lines.at(span.start)),
        message: format!("not valid TOML: {}", error.message()),
    };
    let problems = errors.iter().map(describe).collect();
    (lines.table(table.into_inner()), problems)
}

/// A line whose value is a list without brackets, with them. What is in it may be a secret, and is not told again.
fn as_list(line: &str) -> Option<String> {
    let (key, values) = line.split_once('=')?;
    let list = format!("[{values}\n]"); // Behind a comment, if there is one.
    let is_list = matches!(DeValue::parse(&list).ok()?.get_ref(), DeValue::Array(items) if items.len() > 1);
    is_list.then(|| format!("{} = [..., ...]", key.trim()))
}

/// As much of the file's text as can be read, and whether that is all of it.
pub(super) fn parse_what_can_be(text: &str) -> (Table, bool) {
    let (table, errors) = DeTable::parse_recoverable(text);
    (Lines::new(text).table(table.into_inner()), errors.is_empty())
}

/// A variable holds a TOML value; what is not one is a string, so that paths and addresses need no second quotes.
pub(super) fn variable_value(text: String, at: &At) -> Value {
    let parsed = DeValue::parse(&text).map(|value| Place::Variable(at).value(value.into_inner()));
    match parsed {
        Ok(Value::Other(_)) | Err(_) => Value::Text(text),
        Ok(value) => value,
    }
}

/// Turns byte offsets into lines.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { starts }
    }

    fn at(&self, offset: usize) -> At {
        At::Line(self.starts.partition_point(|start| *start <= offset))
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        Place::Lines(self).table(table)
    }
}

/// Where the values being converted were written.
#[derive(Clone, Copy)]
enum Place<'a> {
    Lines(&'a Lines),
    Variable(&'a At),
}

impl Place<'_> {
    fn at(self, offset: usize) -> At {
        match self {
            Self::Lines(lines) => lines.at(offset),
            Self::Variable(at) => at.clone(),
        }
    }

    fn table(self, table: DeTable<'_>) -> Table {
        let entry = |(key, value): (Spanned<DeString<'_>>, Spanned<DeValue<'_>>)| {
            let at = self.at(key.span().start);
            (key.into_inner().into_owned(), (at, self.node(value)))
        };
        Table {
            entries: table.into_iter().map(entry).collect(),
        }
    }

    fn node(self, value: Spanned<DeValue<'_>>) -> Node {
        Node {
            at: self.at(value.span().start),
            value: self.value(value.into_inner()),
        }
    }

    /// The parser limits how deep values nest, so the recursion is bounded.
    fn value(self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(integer) => Value::Integer(integer),
                Err(_) => Value::Other(number.to_string()),
            },
            DeValue::Float(number) => Value::Other(number.to_string()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(time) => Value::Other(time.to_string()),
            DeValue::Array(items) => Value::Array(items.into_iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
}
