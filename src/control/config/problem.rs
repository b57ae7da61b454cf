//! What is wrong with a configuration, and where: the text an operator reads before exit code 78.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written: a line of the file, or an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// A line of the configuration file, counted from 1.
    Line(usize),
    /// The environment variable of this name.
    Variable(String),
    /// The file as a whole, for something that is not in it.
    File,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the operator finds it.
    pub at: At,
    /// What it is, naming the key and what was expected.
    pub message: String,
}

/// Why a configuration was refused: every problem found, in the order of the file.
#[derive(Debug)]
pub struct Error {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Error {
    pub(super) fn new(file: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match problem.at {
            At::File => 0,
            At::Line(line) => line,
            At::Variable(_) => usize::MAX,
        });
        Self {
            file: file.to_owned(),
            problems,
        }
    }

    /// The problems, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match &problem.at {
                At::Line(line) => write!(f, "{}:{line}: ", self.file.display())?,
                At::Variable(name) => write!(f, "{name}: ")?,
                At::File => write!(f, "{}: ", self.file.display())?,
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// `(did you mean "upload-rate"?)`, or nothing when no known name is near enough to be what was meant.
pub(super) fn did_you_mean<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
    show: impl Fn(&str) -> String,
) -> String {
    nearest(unknown, known)
        .map(|name| format!(" (did you mean {}?)", show(name)))
        .unwrap_or_default()
}

/// The known name that is near enough to be what was meant.
pub(super) fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let nearest = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .min()
        // Half of the letters wrong is another word, not a slip.
        .filter(|(distance, name)| *distance * 2 <= name.len().max(unknown.chars().count()));
    nearest.map(|(_, name)| name)
}
