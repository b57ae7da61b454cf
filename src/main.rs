//! The `btd` binary: arguments in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use btd::control::commands::Fault;
use btd::control::{self, cli::Cli, ctl, supervisor};
use clap::Parser;

/// Control and hashing allocate in bursts and from many threads; the shards allocate at start.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was looked at is not whole or not clean, or what was asked for was refused; the output says in what.
const NOT_WHOLE: u8 = 1;
/// btd does not run on this machine, says `btd doctor`.
const UNFIT: u8 = 2;
/// The command line is wrong (EX_USAGE of sysexits.h, as the others).
const USAGE: u8 = 64;
/// The content of a file is not what it has to be.
const DATA: u8 = 65;
/// No btd runs that could be asked.
const UNAVAILABLE: u8 = 69;
/// Another btd has the state folder.
const IN_USE: u8 = 73;
/// Reading or writing failed.
const IO: u8 = 74;
/// The configuration, or the kernel, does not allow what was asked.
const CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no errors. Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match control::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code says it too, should nobody read this.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &control::Error) -> u8 {
    match error {
        control::Error::Config(_) => CONFIG,
        control::Error::Command(error) => of_command(error.fault()),
        control::Error::Bench(error) => of_command(error.fault()),
        control::Error::Ctl(error) => match error.fault() {
            ctl::Fault::No => NOT_WHOLE,
            ctl::Fault::Usage => USAGE,
            ctl::Fault::Data => DATA,
            ctl::Fault::Unavailable => UNAVAILABLE,
            ctl::Fault::Io => IO,
            ctl::Fault::Config => CONFIG,
        },
        control::Error::Daemon(error) => match error.fault() {
            supervisor::Fault::InUse => IN_USE,
            supervisor::Fault::Setting => CONFIG,
            supervisor::Fault::Io => IO,
        },
        control::Error::Output(_) => IO,
    }
}

fn of_command(fault: Fault) -> u8 {
    match fault {
        Fault::NotWhole => NOT_WHOLE,
        Fault::Unfit => UNFIT,
        Fault::Usage => USAGE,
        Fault::Data => DATA,
        Fault::Io => IO,
    }
}
