//! `btd completions`: what a shell needs to complete btd's command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Error, print};
use crate::control::cli::Cli;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(args: &Args) -> Result<(), Error> {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "btd", &mut script);
    print(|out| out.write_all(&script))
}
