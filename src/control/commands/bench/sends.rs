//! `btd bench sends`: the machine's own bound for whoever sends.

use clap::Args;

use super::{Error, size, tell};
use crate::harness::sends::Sends;

#[derive(Debug, Args)]
pub(super) struct SendsArgs {
    /// Connections.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// What a connection asks for at a time: a multiple of 16 KiB, at most 1 MiB.
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = size)]
    batch: u64,
    /// How much is sent each way.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = size)]
    bytes: u64,
    /// Send nothing: only tell how far apart the CPUs are.
    #[arg(long)]
    cpus_only: bool,
    /// The CPU that sends.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    sender: usize,
    /// The CPU that receives.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    receiver: usize,
    /// Write the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SendsArgs) -> Result<(), Error> {
    let sends = Sends {
        connections: args.connections.into(),
        batch: usize::try_from(args.batch).unwrap_or(usize::MAX),
        bytes: if args.cpus_only { 0 } else { args.bytes },
        cpus: (args.sender, args.receiver),
    };
    tell(&sends.run()?, args.json)
}
