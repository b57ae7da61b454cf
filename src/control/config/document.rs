//! The configuration file and the environment as one tree, in which every value knows where it was written.
//!
//! Knows TOML and the form of the variables, but no key: `reader` gives the tree its meaning.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problem::{At, Problem};

/// Syntax errors beyond this many are consequences of the first ones.
const SYNTAX_ERRORS_MAX: usize = 5;

/// So many letters of a variable may be wrong.
const SLIPS_MAX: usize = 2;

/// Variables with our prefix that are not configuration: they choose code paths in tests and measurements.
const OTHER_VARIABLES: [&str; 2] = ["BTD_SHA1", "BTD_URING_MASK"];
const TEST_VARIABLES: &str = "BTD_TEST_";

/// How a section that may be repeated is given by a variable.
pub(super) const REPEATED_AS_VARIABLE: &str = "BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'";

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

/// Parses the file's text.
pub(super) fn parse(text: &str) -> Result<Table, Vec<Problem>> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(lines.table(table.into_inner()));
    }
    let describe = |error: &toml::de::Error| Problem {
        at: error.span().map_or(At::File, |span| lines.at(span.start)),
        message: format!("not valid TOML: {}", error.message()),
    };
    Err(errors.iter().take(SYNTAX_ERRORS_MAX).map(describe).collect())
}

/// As much of the file's text as can be read, and whether that is all of it.
pub(super) fn parse_what_can_be(text: &str) -> (Table, bool) {
    let (table, errors) = DeTable::parse_recoverable(text);
    (Lines::new(text).table(table.into_inner()), errors.is_empty())
}

/// Puts the variables `BTD_KEY` (for the keys in `top_keys`) and `BTD_SECTION__KEY` in place of what the file says. Gives the
/// names of those that have our prefix and neither form.
pub(super) fn override_from(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    top_keys: &[&str],
    root: &mut Table,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut others = Vec::new();
    let mut ours: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with("BTD_") && !name.starts_with(TEST_VARIABLES))
        .filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()))
        .collect();
    ours.sort(); // The environment has no order of its own; the messages should have one.
    for (name, value) in ours {
        let key = name["BTD_".len()..].to_lowercase();
        let parts: Vec<String> = key.split("__").map(|part| part.replace('_', "-")).collect();
        if parts.len() == 1 && !top_keys.contains(&parts[0].as_str()) {
            others.push(name);
            continue;
        }
        let at = At::Variable(name);
        let mut refuse = |message: &str| {
            problems.push(Problem {
                at: at.clone(),
                message: message.to_owned(),
            })
        };
        let Ok(value) = value.into_string() else {
            refuse("not valid UTF-8");
            continue;
        };
        let node = Node {
            at: at.clone(),
            value: variable_value(value, &at),
        };
        match parts.as_slice() {
            [key] => {
                root.entries.insert(key.clone(), (at, node));
            }
            [section, key] => {
                let empty = || {
                    (
                        at.clone(),
                        Node {
                            at: at.clone(),
                            value: Value::Table(Table::default()),
                        },
                    )
                };
                let (_, section) = root.entries.entry(section.clone()).or_insert_with(empty);
                match &mut section.value {
                    Value::Table(table) => {
                        table.entries.insert(key.clone(), (at, node));
                    }
                    Value::Array(_) => {
                        refuse(&format!("a repeated section is set whole: {REPEATED_AS_VARIABLE}"));
                    }
                    _ => {} // The file has a plain value where a section belongs: the reader says so.
                }
            }
            _ => refuse("not of the form BTD_SECTION__KEY"),
        }
    }
    others
}

/// The variable that a key of these would be, if `name`, which is none of them, may be meant for it. It may just as well be
/// anybody's: a container runtime sets BTD_PORT, BTD_SERVICE_HOST and more for a service of the name. So it has to be spelt
/// nearly like one, or be a key of two words without its section.
pub(super) fn meant_by(name: &str, keys: &[String]) -> Option<String> {
    let letters = |text: &str| text.replace(['_', '-', '.'], "").to_lowercase();
    let wanted = letters(name.strip_prefix("BTD_")?);
    let distance = |key: &&String| {
        let (whole, last) = (letters(key), key.rsplit('.').next().unwrap_or_default());
        match last.contains('-') && letters(last) == wanted {
            true => 0,
            false => strsim::damerau_levenshtein(&wanted, &whole),
        }
    };
    let key = keys.iter().min_by_key(distance)?;
    (distance(&key) <= SLIPS_MAX.min(wanted.len() / 4)).then(|| match key.starts_with("watch.") {
        true => REPEATED_AS_VARIABLE.to_owned(),
        false => variable_of(key),
    })
}

/// The variable of a key.
fn variable_of(key: &str) -> String {
    format!("BTD_{}", key.replace('.', "__").replace('-', "_").to_uppercase())
}

/// A variable holds a TOML value; what is not one is a string, so that paths and addresses need no second quotes.
fn variable_value(text: String, at: &At) -> Value {
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
