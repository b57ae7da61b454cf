//! Variables of the environment in the place of what the file says, and those that were meant to be.

use std::ffi::OsString;
use std::path::Path;

use super::document::{self, Node, Table, Value, variable_value};
use super::problem::{At, Problem};
use super::reader::{Context, head};
use super::sections;

/// Keys outside of any section, which the environment names without `__`.
pub(super) const TOP_KEYS: [&str; 3] = ["log-level", "state-dir", "watch"];

/// Variables with our prefix that are not configuration: they choose code paths in tests and measurements.
const OTHER_VARIABLES: [&str; 2] = ["BTD_SHA1", "BTD_URING_MASK"];
const TEST_VARIABLES: &str = "BTD_TEST_";

/// Sections that may be repeated.
const REPEATED: [&str; 2] = ["watch", "limits.schedule"];

/// How a section that may be repeated is given by a variable.
pub(super) const REPEATED_AS_VARIABLE: &str = "BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'";

/// So many letters of a variable may be wrong.
const SLIPS_MAX: usize = 2;

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

/// Problems with those of these variables that may be meant for keys.
pub(super) fn misspelt(variables: Vec<String>) -> Vec<Problem> {
    if variables.is_empty() {
        return Vec::new();
    }
    let keys = all_keys();
    let problem = |name: String| {
        let meant = meant_by(&name, &keys)?;
        Some(Problem {
            at: At::Variable(name),
            message: format!("no key has this variable (did you mean {meant}?)"),
        })
    };
    variables.into_iter().filter_map(problem).collect()
}

/// Every key that can be given by a variable, as `section.key`.
fn all_keys() -> Vec<String> {
    // Sections that may be absent. What they lack is told to nobody.
    let root = document::parse("[tracker]\n[metrics]\n[[watch]]\n").root;
    let context = Context::new(Path::new(""), Vec::new());
    sections::read(&context, root);
    let top = TOP_KEYS.map(str::to_owned);
    context.keys.into_inner().into_iter().chain(top).collect()
}

/// Where a key of this name belongs, in words that follow "it belongs": those sections first that there is one of.
pub(super) fn places_of(name: &str) -> Vec<String> {
    let root = document::parse("[tracker]\n[metrics]\n[[watch]]\n[[limits.schedule]]\n").root;
    let context = Context::new(Path::new(""), Vec::new());
    sections::read(&context, root);
    let mut places: Vec<(bool, String)> = Vec::new();
    for key in context.keys.into_inner() {
        let place = match key.rsplit_once('.') {
            None if key == name => (false, "above all sections".to_owned()),
            Some((section, last)) if last == name => {
                let is_one_of_many = REPEATED.contains(&section);
                (is_one_of_many, format!("under {}", head(section, is_one_of_many)))
            }
            _ => continue,
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.sort_by_key(|(is_one_of_many, _)| *is_one_of_many);
    places.into_iter().map(|(_, place)| place).collect()
}

/// The variable that a key of these would be, if `name`, which is none of them, may be meant for it. It may just as well be
/// anybody's: a container runtime sets BTD_PORT, BTD_SERVICE_HOST and more for a service of the name. So it has to be spelt
/// nearly like one, or be a key of two words without its section.
fn meant_by(name: &str, keys: &[String]) -> Option<String> {
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
