//! The command line. Names here are fixed: scripts and unit files rely on them.
//!
//! Only describes what may be written; what a command does is in `commands` and in `supervisor`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::commands::bench::Bench;
use super::commands::{completions, create, doctor, man, show, verify};
use super::ctl::Ctl;

/// What was asked for.
#[derive(Debug, Parser)]
#[command(
    name = "btd",
    version,
    about = "A BitTorrent daemon for Linux seedboxes, on io_uring, one shard per core",
    long_about = "A BitTorrent daemon for Linux seedboxes, on io_uring, one shard per core.\n\n\
        `btd --config FILE` runs the daemon in the foreground and logs to standard error; \
        it is ready when ports.json appears in its state folder.",
    after_help = "Exit codes: 0 done, 1 `verify` found the payload not whole or `bench` lost connections, got wrong answers or did not get done \
         or `ctl` was refused or `doctor` found a higher price, 2 `doctor` found that btd does not run, 64 usage, \
         65 a torrent file or payload that cannot be used, 69 `ctl` found no btd, 73 state folder in use, 74 I/O, 78 bad configuration or missing kernel feature.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// The daemon's own arguments.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Something other than running the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// `btd --config FILE`
#[derive(Args, Debug)]
pub struct DaemonArgs {
    /// The configuration file (btd.toml(5) explains every key, as seed.toml does: config/ of the source, /usr/share/doc/btd/ of a package)
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// How much to log, whatever the configuration says; RUST_LOG sets it by module
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true)]
    pub log_level: Option<LogLevel>,
}

/// Everything that is not the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a BitTorrent client of any make (seeding, downloading or announcing), or a tracker
    Bench(Bench),
    /// Check a configuration file, print every problem found, and exit (0 good, 78 bad)
    CheckConfig {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Control a btd that runs: list, add, remove, pause, resume, verify, peers and more
    Ctl(Ctl),
    /// Make a torrent file of a file or folder
    Create(create::Args),
    /// Look for what keeps btd from running well on this machine (exit code 0 nothing, 1 a little, 2 it does not run)
    Doctor(doctor::Args),
    /// Write the manual pages into a folder, which is made if it is not there
    Man(man::Args),
    /// Show what a torrent file says
    Show(show::Args),
    /// Verify the payload of a torrent (exit code 0 whole, 1 not)
    Verify(verify::Args),
}

/// Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What stopped btd, or a torrent
    Error,
    /// What an operator should look at
    Warn,
    /// Torrents coming and going, start and stop
    Info,
    /// Why a peer was dropped
    Debug,
    /// Everything
    Trace,
}

impl LogLevel {
    /// As it is written, in the configuration and for `RUST_LOG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_daemon_needs_its_configuration_and_a_command_does_not() {
        assert!(Cli::try_parse_from(["btd"]).is_err());
        assert!(Cli::try_parse_from(["btd", "--config", "a.toml"]).is_ok());
        assert!(Cli::try_parse_from(["btd", "--config", "a.toml", "--log-level", "DEBUG"]).is_ok());
        assert!(Cli::try_parse_from(["btd", "check-config", "--config", "a.toml"]).is_ok());
        assert!(Cli::try_parse_from(["btd", "check-config"]).is_err());
    }
}
