//! Secrets that the service manager hands over: files in `$CREDENTIALS_DIRECTORY`, named like the variables for their
//! keys (`LoadCredential=BTD_TRACKER__STORE:/etc/btd/tracker-store`, systemd.exec(5)).
//!
//! They say what the variables of these names would say, and outweigh them; but nobody sees them who may look at the
//! process. Files of other names are somebody else's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::problem::{At, Problem};
use super::read_bounded;

/// The folder's variable.
const FOLDER: &str = "CREDENTIALS_DIRECTORY";
/// What the names begin with.
const PREFIX: &str = "BTD_";

/// Variables with the credentials among them in place of those of the same name.
pub(super) fn added_to(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
    let folder = variables.iter().find(|(name, _)| name == FOLDER);
    let Some(folder) = folder.map(|(_, folder)| folder.clone()) else {
        return variables;
    };
    let mut refuse = |name: &str, error: std::io::Error| {
        problems.push(Problem {
            at: At::Variable(name.to_owned()),
            message: format!("cannot read the credential: {error}"),
        });
    };
    let entries = match std::fs::read_dir(Path::new(&folder)) {
        Ok(entries) => entries,
        Err(error) => {
            refuse(FOLDER, error);
            return variables;
        }
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with(PREFIX) {
            continue;
        }
        match read_bounded(&entry.path()) {
            Ok(mut text) => {
                // Whoever writes a secret with an editor ends it with a new line.
                while text.last().is_some_and(u8::is_ascii_whitespace) {
                    text.pop();
                }
                variables.retain(|(variable, _)| *variable != *name);
                variables.push((name.into(), OsString::from_vec(text)));
            }
            Err(error) => refuse(&name, error),
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(folder: &Path, more: &[(&str, &str)]) -> (Vec<(String, String)>, usize) {
        let folder = folder.to_str().expect("a path in UTF-8");
        let variables = [("CREDENTIALS_DIRECTORY", folder)]
            .into_iter()
            .chain(more.iter().copied());
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let mut problems = Vec::new();
        let added = added_to(variables, &mut problems);
        let text = |text: OsString| text.into_string().expect("UTF-8");
        let added = added.into_iter().map(|(name, value)| (text(name), text(value)));
        let added = added.filter(|(name, _)| name != "CREDENTIALS_DIRECTORY");
        (added.collect(), problems.len())
    }

    #[test]
    fn credential_takes_the_place_of_the_variable_and_others_are_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("BTD_TRACKER__STORE"), "redis://u:p@h\n").expect("written");
        std::fs::write(dir.path().join("db-password"), "x").expect("written");
        let (variables, problems) = added(dir.path(), &[("BTD_TRACKER__STORE", "memory"), ("HOME", "/")]);
        let expected = [("HOME", "/"), ("BTD_TRACKER__STORE", "redis://u:p@h")];
        assert_eq!(
            variables,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(problems, 0);
    }

    #[test]
    fn credential_that_cannot_be_read_is_a_problem_and_no_empty_value() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("BTD_TRACKER__STORE")).expect("made");
        assert_eq!(added(dir.path(), &[]), (Vec::new(), 1));
        assert_eq!(added(&dir.path().join("nowhere"), &[]), (Vec::new(), 1));
    }
}
