//! The command line of `btd ctl`. Only describes what may be written; [`super::client`] does it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::api::{self, Request};
use crate::control::config::units;

/// `btd ctl`
#[derive(Args, Debug)]
#[command(
    long_about = "Control a btd that runs, by the socket ctl.sock in its state folder: --state-dir, else the environment's \
        BTD_STATE_DIR, else what --config says.\n\n\
        HASH is the info-hash of a torrent, or the beginning of it (4 digits or more) that no other torrent has.",
    after_help = "Exit codes: 0 done, or so already, or to come by itself; 1 refused, not found or not healthy; 64 usage, 65 not a \
        torrent file, 69 btd is not running or does not answer, 74 I/O, 78 bad configuration. A HASH that cannot be one is a mistake of usage, \
        and nothing is done. With several torrents it is done to each that it can be done to, those that it cannot be done to are named, and the code is that of the last of these. With --all it is 1 only where it could be \
        done to none."
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
    /// List all torrents, in the order of their info-hashes
    List,
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

/// Some torrents, or all.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Which
    #[arg(value_name = "HASH", required_unless_present = "all", conflicts_with = "all", value_parser = prefix)]
    pub(super) hashes: Vec<String>,
    /// All torrents
    #[arg(long)]
    pub(super) all: bool,
}

impl Which {
    /// A request for each.
    pub(super) fn requests(&self, of: impl Fn(Option<String>, bool) -> Request) -> Vec<Request> {
        match self.all {
            true => vec![of(None, true)],
            false => self.hashes.iter().map(|hash| of(Some(hash.clone()), false)).collect(),
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
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
