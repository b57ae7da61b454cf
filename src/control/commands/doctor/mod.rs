//! `btd doctor`: whether this machine lets btd be what it can be, and which line to change where it does not.
//!
//! Looks and changes nothing. Each thing that was looked at is a `finding`; `kernel`, `limits`, `network` and `disks` know what is
//! good, `machine` where it is written. A running btd notices most of this itself and runs in a fallback; here it is told
//! before, and all at once.

mod disks;
mod finding;
mod kernel;
mod limits;
mod machine;
mod network;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use finding::{Finding, Level, worst, write_json, write_table};
use machine::Machine;

use super::{Error, print};
use crate::control::config::Config;
use crate::control::shards::wanted_features;
use crate::hashing::lanes::Backend;
use crate::io::uring::{Features, Uring, UringConfig};

/// Look for what keeps btd from running well here (exit code 0 nothing, 1 it runs at a higher price, 2 it does not run)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration whose folders and limits are looked at; without it, the defaults and no folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at the limits of this process (a running btd) instead of those of this shell, and whether its user may enter data folders
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Print JSON: {verdict, findings: [{topic, level, says, remedy}]}, levels ok, info, warn, bad
    #[arg(long)]
    json: bool,
}

/// Looks, and prints what was found.
///
/// # Errors
/// What was found is not good ([`Error::Doctor`]), or standard output cannot be written to.
pub fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here(args.pid);
    if let Some(pid) = args.pid.filter(|_| !machine.has_process()) {
        return Err(Error::Usage(format!(
            "--pid {pid}: there is no such process (hint: pidof btd)"
        )));
    }
    let features = wanted_features().map_err(|error| Error::Usage(error.to_string()))?;
    let mut findings = kernel::look(&machine, &try_ring(features), SystemTime::now());
    findings.push(Finding::ok(
        "sha-1",
        format!("{}, in vector lanes", Backend::detect().name()),
    ));
    match config(args.config.as_deref()) {
        Ok(config) => {
            findings.extend(limits::look(&machine, &config));
            findings.extend(network::look(&config));
            findings.extend(disks::look(&machine, &config));
        }
        Err(why) => findings.push(Finding::bad("configuration", why, None)),
    }
    print(|out| match args.json {
        true => write_json(&findings, out),
        false => write_table(&findings, out),
    })?;
    match worst(&findings) {
        Level::Ok | Level::Info => Ok(()),
        Level::Warn => Err(Error::Doctor { runs: true }),
        Level::Bad => Err(Error::Doctor { runs: false }),
    }
}

fn config(file: Option<&Path>) -> Result<Config, String> {
    let config = match file {
        Some(file) => Config::check(file),
        None => Config::parse("", Path::new(""), []),
    };
    config.map_err(|error| error.to_string())
}

/// A ring as a shard would have it, but for its size.
fn try_ring(features: Features) -> kernel::Tried {
    let driver = Uring::new(UringConfig {
        pools: 1,
        entries: 64,
        pool_bufs: 16,
        recv_bufs: 16,
        files: 16,
        features,
    })?;
    Ok((driver.features(), driver.notices().to_vec()))
}
