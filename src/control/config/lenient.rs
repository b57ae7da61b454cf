//! Which state folder a configuration names, whatever else is wrong with it: whoever asks a btd that runs has no use for the
//! rest, and may be about to find out what the mistake costs.

use std::path::{Path, PathBuf};

use super::document::{self, Table};
use super::problem::{At, Error};
use super::reader::{Context, Section};
use super::variables::{self, TOP_KEYS};
use super::{Config, credentials, read_text};

const KEY: &str = "state-dir";
const VARIABLE: &str = "BTD_STATE_DIR";

impl Config {
    /// The state folder that a file and the environment name, and what else is wrong with them.
    ///
    /// # Errors
    /// The file cannot be read, or it cannot be told which folder is meant.
    pub fn state_dir_in(file: &Path) -> Result<(PathBuf, Option<Error>), Error> {
        let error = match Self::load(file) {
            Ok(config) => return Ok((config.state_dir, None)),
            Err(error) => error,
        };
        let found = read_text(file).ok().and_then(|text| named_in(&text, file, &error));
        match found {
            Some(state_dir) => Ok((state_dir, Some(error))),
            None => Err(error),
        }
    }
}

/// The folder, if there is no doubt about it.
fn named_in(text: &str, file: &Path, error: &Error) -> Option<PathBuf> {
    let (mut root, is_whole) = document::parse_what_can_be(text);
    let mut problems = Vec::new();
    let variables = credentials::added_to(std::env::vars_os(), &mut problems);
    variables::override_from(variables, &TOP_KEYS, &mut root, &mut problems);
    let entry = root.entries.remove(KEY);
    let is_in_doubt = match &entry {
        // A mistake in this very line.
        Some((at, _)) => error
            .problems()
            .iter()
            .any(|problem| matches!(at, At::Line(_)) && problem.at == *at),
        // It may be what was mistyped, or stand where nothing can be read.
        None => {
            let names_it = |message: &str| message.contains(KEY) || message.contains(VARIABLE);
            !is_whole || error.problems().iter().any(|problem| names_it(&problem.message))
        }
    };
    if is_in_doubt {
        return None;
    }
    let mut alone = Table::default();
    alone.entries.extend(entry.map(|entry| (KEY.to_owned(), entry)));
    let context = Context::new(file.parent().unwrap_or(Path::new("")), Vec::new());
    let state_dir = Section::new(&context, "", At::File, alone).path(KEY, "state");
    context.problems.into_inner().is_empty().then_some(state_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Option<PathBuf> {
        let file = Path::new("/etc/btd/btd.toml");
        let error = Config::parse(text, file, []).expect_err("there is a mistake in it");
        named_in(text, file, &error)
    }

    #[test]
    fn mistake_elsewhere_leaves_no_doubt_about_the_state_folder_and_one_in_its_line_does() {
        let here = Some(PathBuf::from("/var/lib/btd"));
        for text in [
            "state-dir = \"/var/lib/btd\"\n[limits]\nupload-rat = \"1 MB/s\"\n",
            "state-dir = \"/var/lib/btd\"\n[limits]\nupload-rate = \"fast\"\n",
            "state-dir = \"/var/lib/btd\"\n[limits\nupload-rate = 1\n",
            "state-dir = \"/var/lib/btd\"\n[limits]\nupload-rate = \"1 MB/s\n",
        ] {
            assert_eq!(named(text), here, "{text}");
        }
        // The default, beside the file.
        let beside = Some(PathBuf::from("/etc/btd/state"));
        assert_eq!(named("[limits]\nupload-rat = \"1 MB/s\"\n"), beside);
        for text in [
            "state-dr = \"/var/lib/btd\"\n",
            "state-dir = 7\n",
            "state-dir = \"/var/lib/btd\n[limits]\n",
            "[limits\nupload-rate = 1\n",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }
}
