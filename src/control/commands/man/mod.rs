//! `btd man`: the manual pages, as packages install them.
//!
//! None of them is written by hand: btd(1) and a page for each command are what `--help` says, btd.toml(5) is what
//! `config/seed.toml` says. So neither can say something else than btd does.

mod config_page;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use super::Error;
use crate::control::cli::Cli;

/// What stands in the middle of each page's head.
const MANUAL: &str = "btd manual";

/// Signals of a running btd; `signals` knows them.
const SIGNALS: [(&str, &str); 4] = [
    (
        "SIGTERM, SIGINT",
        "End: peers are let go, trackers are told, what was written is recorded. It takes five seconds at most; a second \
         signal ends it at once.",
    ),
    (
        "SIGHUP",
        "Read the configuration again, and take over what can be without a restart, with no connection ended for it but those \
         of a watch folder that is gone or has its payload elsewhere; \
         btd.toml(5) says what that is. One with a mistake changes nothing: the log names it, and btd_config_reload_ok \
         is 0.",
    ),
    ("SIGUSR1", "Pause checks of payload."),
    ("SIGUSR2", "Let them go on."),
];

/// Write the manual pages into a folder, which is made if it is not there: btd.1, one for each command, and btd.toml.5
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the pages, over those that are there.
///
/// # Errors
/// The folder cannot be made, or a page not be written.
pub fn run(args: &Args) -> Result<(), Error> {
    std::fs::create_dir_all(&args.dir).map_err(|error| Error::File {
        path: args.dir.clone(),
        step: "make the folder",
        error,
    })?;
    for (name, page) in pages() {
        let path = args.dir.join(name);
        std::fs::write(&path, page).map_err(|error| Error::File {
            path,
            step: "write a manual page",
            error,
        })?;
    }
    Ok(())
}

/// All pages with their file names.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages);
    let config = config_page::page(env!("CARGO_PKG_VERSION"), MANUAL);
    pages.push(("btd.toml.5".to_owned(), config.into_bytes()));
    pages
}

fn add(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    commands.for_each(|command| add(command, pages));
    let page = Man::new(command.clone()).manual(MANUAL);
    let name = page.get_filename();
    let mut text = Vec::new();
    // Memory takes everything.
    let _ = page.render(&mut text);
    if name == "btd.1" {
        text.extend(signals_and_files().into_bytes());
    }
    pages.push((name, text));
}

fn signals_and_files() -> String {
    let mut text = String::from(".SH SIGNALS\n");
    for (name, meaning) in SIGNALS {
        let _ = writeln!(text, ".TP\n\\fB{name}\\fR\n{}", escaped(meaning));
    }
    text.push_str(
        ".SH FILES\n.TP\n/etc/btd/btd.toml\nThe configuration of btd.service.\n.TP\n/var/lib/btd\nIts state folder.\n\
         .SH SEE ALSO\nbtd.toml(5), systemd.service(5)\n",
    );
    text
}

/// Text as roff shows it unchanged: no escapes, no minus that becomes a hyphen, no line that is a request.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// Where the pages of a build lie, for tests of what they say.
#[cfg(test)]
fn page(name: &str) -> String {
    let found = pages().into_iter().find(|(found, _)| found == name);
    String::from_utf8(found.unwrap_or_else(|| panic!("no {name}")).1).expect("UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command_and_it_says_what_help_says() {
        let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        for name in [
            "btd.1",
            "btd-create.1",
            "btd-doctor.1",
            "btd-bench-seed.1",
            "btd.toml.5",
        ] {
            assert!(names.iter().any(|found| found == name), "{name} of {names:?}");
        }
        let main = page("btd.1");
        for text in ["SIGHUP", "\\-\\-config", "Exit codes", "btd\\-verify(1)"] {
            assert!(main.contains(text), "{text} is not in:\n{main}");
        }
        assert!(page("btd-doctor.1").contains("\\-\\-json"));
    }

    #[test]
    fn pages_are_written_into_a_folder_that_is_made_and_one_that_cannot_be_is_told() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let dir = temp.path().join("share/man");
        for _ in 0..2 {
            run(&Args { dir: dir.clone() }).expect("written");
            assert_eq!(std::fs::read_dir(&dir).expect("listed").count(), pages().len());
        }
        let refused = run(&Args {
            dir: dir.join("btd.1/in-a-file"),
        });
        assert!(matches!(refused, Err(Error::File { .. })));
    }
}
