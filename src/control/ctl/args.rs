//! The command line of `btd ctl`. Only describes what may be written; [`super::client`] does it.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};

use super::api::{self, Only, Request};
use crate::control::config::units;
use crate::control::torrents::STATE_NAMES;

/// `btd ctl`
#[derive(Args, Debug)]
#[command(
    long_about = "Control a btd that runs, by the socket ctl.sock in its state folder: --state-dir, else the environment's \
        BTD_STATE_DIR, else what --config says.\n\n\
        HASH is the info-hash of a torrent, or the beginning of it (4 digits or more) that no other torrent has.",
    after_help = "Exit codes: 0 done, or so already, or to come by itself; 1 refused, not found or not healthy; 64 usage, 65 not a \
        torrent file, 69 btd is not running or does not answer, 74 I/O, 78 bad configuration. A HASH that cannot be one is a mistake of usage, \
        and nothing is done. With several torrents it is done to each that it can be done to, those that it cannot be done to are named, and the code is that of the last of these. With --all, --label and --state it is 1 only where \
        there were some and each was refused, and 0 where there was none."
)]
pub struct Ctl {
    /// btd's state folder
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) state_dir: Option<PathBuf>,
    /// btd's configuration, which names its state folder
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "state_dir")]
    pub(super) config: Option<PathBuf>,
    /// Print JSON: one object on a line for each row
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// What to do
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What `btd ctl` can do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List torrents, in the order of their info-hashes
    ///
    /// Below a torrent whose state is error, missing, unavailable or partial stands why, where that is known.
    List {
        #[command(flatten)]
        those: Those,
        /// Only those that have this in their name, be it in capitals or not
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Sort by this: names from A on, the others from the most or the latest. Nothing is shown before all have come
        #[arg(long, value_name = "KEY", value_enum)]
        sort: Option<Sort>,
    },
    /// Show one torrent at length
    Show {
        /// Which
        #[arg(value_parser = prefix)]
        hash: String,
        /// Show the addresses of trackers with the keys in them
        #[arg(long)]
        secrets: bool,
    },
    /// Add torrent files: each is copied into a watch folder
    Add {
        /// The torrent files
        #[arg(value_name = "FILE.torrent", required = true)]
        files: Vec<PathBuf>,
        /// The watch folder; the first of the configuration if this is not given
        #[arg(long, value_name = "DIR")]
        watch: Option<PathBuf>,
    },
    /// Remove torrents: their .torrent files are deleted from the watch folders
    Remove {
        /// Which
        #[arg(value_name = "HASH", required = true, value_parser = prefix)]
        hashes: Vec<String>,
        /// Delete their payload, too: the files that the torrent names, unless another torrent has one of them
        #[arg(long)]
        with_data: bool,
    },
    /// Neither serve nor download torrents until they are resumed, also after a restart
    Pause(Which),
    /// Serve and download torrents again
    Resume(Which),
    /// Read and check the payload of torrents, whatever is known of it
    Verify(Which),
    /// Announce torrents as soon as their trackers allow
    Reannounce(Which),
    /// List the peers of a torrent
    ///
    /// The table's flags: I it is interested in something of ours, U it may ask us (unchoked), i we are interested in
    /// something it has, u we may ask it, S it has all of the torrent, O we have made the connection.
    Peers {
        /// Which torrent
        #[arg(value_parser = prefix)]
        hash: String,
    },
    /// Show what btd does as a whole
    Stats,
    /// Show the rates that all torrents together keep to, or change them until btd ends or reads its configuration again
    ///
    /// What is changed here is not written to the configuration, and is over with the next start.
    Limits {
        /// For example "100 MB/s", or "unlimited"
        #[arg(long, value_name = "RATE", value_parser = rate)]
        upload_rate: Option<Rate>,
        /// Likewise
        #[arg(long, value_name = "RATE", value_parser = rate)]
        download_rate: Option<Rate>,
    },
    /// Tell that the payload of a data folder has moved to another disk, which is mounted there now
    ///
    /// btd neither reads nor writes a data folder that is on another filesystem than it was: its disk may just not be mounted.
    Moved {
        /// The data folder, as the configuration has it
        #[arg(value_name = "DATA-DIR")]
        data_dir: PathBuf,
    },
    /// Tell whether btd works (exit code 0 it does, 1 not, 69 it is not running or does not answer), for containers
    Health,
}

/// What a list can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    Name,
    Size,
    Ratio,
    Up,
    Down,
    Added,
}

/// Torrents by what they have in common.
#[derive(Args, Clone, Debug)]
pub(super) struct Those {
    /// Only those in this state, or in one of these: may be given several times. What is shown as waiting is checking, and
    /// what is paused counts as that also while it is checked
    #[arg(long = "state", value_name = "STATE", value_parser = PossibleValuesParser::new(STATE_NAMES))]
    pub(super) states: Vec<String>,
    /// Only those of watch folders with this label
    #[arg(long, value_name = "LABEL")]
    pub(super) label: Option<String>,
}

impl Those {
    /// As it is asked for, with a part of their name.
    pub(super) fn only(&self, name: Option<&str>) -> Only {
        Only {
            states: self.states.clone(),
            label: self.label.clone(),
            name: name.map(str::to_owned),
        }
    }
}

/// Some torrents, or all.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Which
    #[arg(
        value_name = "HASH",
        required_unless_present_any = ["all", "states", "label"],
        conflicts_with_all = ["all", "states", "label"],
        value_parser = prefix
    )]
    pub(super) hashes: Vec<String>,
    /// All torrents
    #[arg(long, conflicts_with_all = ["states", "label"])]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) those: Those,
}

impl Which {
    /// A request for each.
    pub(super) fn requests(&self, of: impl Fn(Option<String>, bool, Only) -> Request) -> Vec<Request> {
        match self.hashes.is_empty() {
            true => vec![of(None, self.all, self.those.only(None))],
            false => {
                let one = |hash: &String| of(Some(hash.clone()), false, Only::default());
                self.hashes.iter().map(one).collect()
            }
        }
    }
}

/// A rate in bytes a second; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub(super) u64);

/// The beginning of an info-hash: with a wrong one nothing is done to the others either.
fn prefix(text: &str) -> Result<String, String> {
    api::check_prefix(text).map(|()| text.to_owned())
}

fn rate(text: &str) -> Result<Rate, String> {
    let rate = units::rate(text).ok_or("a rate is written like \"100 MB/s\", or \"unlimited\"")?;
    Ok(Rate(rate.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::control::cli::Cli;

    #[test]
    fn options_may_stand_before_and_behind_the_command() {
        for line in [
            "btd ctl --state-dir s list --json",
            "btd ctl list --state-dir s",
            "btd ctl --config f --json show abcd --secrets",
            "btd ctl pause --all",
            "btd ctl pause abcd ef01",
            "btd ctl remove abcd --with-data",
            "btd ctl add a.torrent b.torrent --watch w",
            "btd ctl health",
            "btd ctl moved /srv/data",
            "btd ctl list --state error --state missing --label films --name boot --sort ratio",
            "btd ctl pause --label films",
            "btd ctl verify --state error --state partial --label films",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Cli::try_parse_from(["btd", "ctl", "limits", "--upload-rate", "10 MB/s"]).is_ok());
        for line in [
            "btd ctl",
            "btd ctl pause",
            "btd ctl pause --all abcd",
            "btd ctl show",
            "btd ctl add",
            "btd ctl list --state-dir s --config f",
            "btd ctl limits --upload-rate 10",
            "btd ctl pause abcd abc",
            "btd ctl remove abcd efgh",
            "btd ctl peers 0123456789012345678901234567890123456789a",
            "btd ctl explode",
            "btd ctl list --state waiting",
            "btd ctl list --sort colour",
            "btd ctl pause abcd --label films",
            "btd ctl resume abcd --state error",
            "btd ctl verify --all --state error",
            "btd ctl reannounce --all --label films",
            "btd ctl remove --state missing",
            "btd ctl remove --label films",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn state_that_there_is_not_is_refused_with_the_nearest() {
        for command in ["list", "pause"] {
            let parsed = Cli::try_parse_from(["btd", "ctl", command, "--state", "mising"]);
            let error = parsed.expect_err("no state").to_string();
            assert!(error.contains("'missing'") && error.contains("unavailable"), "{error}");
        }
    }
}
