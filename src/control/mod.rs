//! The control plane: starts, stops, configures and reports.
//!
//! One thread under `tokio_uring` runs all of it, beside the shards, which it feeds with torrents and whose counters it
//! publishes. Nothing here is on the path of a block. What may take long (reading folders, checking payload) happens on
//! threads of its own, so that a hung disk can neither stall the metrics nor delay a stop.
//!
//! Start at `supervisor`, which owns everything; `config` is what it is told, `ctl` is who asks it while it runs.
#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod ctl;
pub mod example;
pub mod logging;
pub mod metrics;
pub mod shards;
pub mod state_dir;
pub mod supervisor;
pub mod torrent_file;
pub mod watch;

mod announce;
mod blocking;
mod catalog;
pub(crate) mod checks;
pub(crate) mod contents;
mod device;
mod dns;
pub(crate) mod downloads;
mod few_lines;
mod history;
mod local_time;
mod locked_memory;
mod memory;
mod meter;
mod open_files;
mod origins;
mod outlet;
mod places;
mod pulse;
mod resolver;
mod rivals;
mod scrub;
mod service_manager;
mod signals;
mod torrents;
mod tracker;
mod unread;
mod wakes;
mod watchdog;

use std::io::Write;

use cli::{Cli, Command};
use config::Config;

/// Why a command failed. `main` turns it into an exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be followed.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A measurement did not come about, or found what it should not.
    #[error(transparent)]
    Bench(#[from] commands::bench::Error),
    /// Another command did not do what was asked for.
    #[error(transparent)]
    Command(#[from] commands::Error),
    /// A running btd could not be asked, or did not do what it was asked for.
    #[error(transparent)]
    Ctl(#[from] ctl::Error),
    /// The daemon could not start, or not stop cleanly.
    #[error(transparent)]
    Daemon(#[from] supervisor::Error),
    /// Standard output could not be written to.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

/// Does what the command line asks for.
///
/// # Errors
/// Whatever stopped it, with a message for the person who typed the command.
pub fn run(cli: Cli) -> Result<(), Error> {
    match (cli.command, cli.daemon.config) {
        (Some(Command::CheckConfig { config: file }), _) => {
            let config = Config::check(&file)?;
            let warnings = [memory::too_much(&config), outlet::listens_elsewhere(&config.peers)];
            for warning in warnings.into_iter().flatten() {
                // Whoever cannot be told has asked for the exit code alone.
                let _ = writeln!(std::io::stderr(), "{}: warning: {warning}", file.display());
            }
            writeln!(std::io::stdout(), "{}: good", file.display()).map_err(Error::Output)
        }
        (Some(Command::Completions(args)), _) => Ok(commands::completions::run(&args)?),
        (Some(Command::Ctl(ctl)), _) => Ok(ctl::run(&ctl)?),
        (Some(Command::Create(args)), _) => Ok(commands::create::run(&args)?),
        (Some(Command::Doctor(args)), _) => Ok(commands::doctor::run(&args)?),
        (Some(Command::Man(args)), _) => Ok(commands::man::run(&args)?),
        (Some(Command::Show(args)), _) => Ok(commands::show::run(&args)?),
        (Some(Command::Verify(args)), _) => Ok(commands::verify::run(&args)?),
        (Some(Command::Bench(bench)), _) => Ok(commands::bench::run(&bench)?),
        (None, Some(file)) => {
            let config = Config::load(&file)?;
            logging::start(cli.daemon.log_level, config.log_level);
            Ok(supervisor::run(&config, &file)?)
        }
        (None, None) => unreachable!("clap insists on --config where there is no command"),
    }
}
