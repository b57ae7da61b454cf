//! `btd-sim`: runs seeds of the simulated swarm (see `btd::sim`).
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // It is what it is for.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use btd::sim::{Options, faults, run, shrink};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Runs whole swarms of btd in one thread, on a network and disks that fail as a seed says")]
struct Args {
    /// One seed, told step by step on standard error.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from the first to below the last: `0..300`.
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Which faults of the seed happen, a bit for each.
    #[arg(long, value_parser = mask, default_value = "all")]
    mask: u64,
    /// Tell nothing but the end.
    #[arg(long)]
    quiet: bool,
    /// Run each seed of a range twice, and tell those that are not the same twice.
    #[arg(long)]
    twice: bool,
    /// Threads for a range; 0 is one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("two numbers with `..` between them")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    Ok(number(from)?..number(to)?)
}

fn mask(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        _ if text == "all" => Ok(u64::MAX),
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|error| error.to_string()),
        None => text.parse().map_err(|error: std::num::ParseIntError| error.to_string()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match (args.seed, args.seeds.clone()) {
        (Some(seed), _) => one(seed, &args),
        (None, Some(seeds)) => many(seeds, args.threads, args.twice),
        (None, None) => many(0..300, args.threads, args.twice),
    }
}

fn one(seed: u64, args: &Args) -> ExitCode {
    for (bit, fault) in faults(seed).into_iter().enumerate() {
        let happens = args.mask >> bit & 1 == 1;
        println!("{} {fault:?}", if happens { "with   " } else { "without" });
    }
    let options = Options {
        mask: args.mask,
        told: !args.quiet,
    };
    let report = run(seed, options);
    let seconds = report.time as f64 / 1e9;
    println!(
        "seed {seed}: {} steps, {seconds:.3} s, trace {:016x}",
        report.steps, report.trace
    );
    match report.violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(seeds: Range<u64>, threads: usize, twice: bool) -> ExitCode {
    let began = Instant::now();
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let (next, steps) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let (time, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::panic::set_hook(Box::new(|_| {})); // What panicked is told with its seed.
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let mut report = run(seed, Options::default());
                    if twice {
                        let again = run(seed, Options::default());
                        if again != report {
                            let (steps, other) = (report.steps, again.steps);
                            let differs = format!("is not the same twice: {steps} steps, {other} the second time");
                            report.violation.get_or_insert(differs);
                        }
                    }
                    steps.fetch_add(report.steps, Relaxed);
                    time.fetch_add(report.time / 1_000_000, Relaxed);
                    if let Some(violation) = report.violation {
                        println!("seed {seed}: {violation}");
                        found.lock().expect("nobody panics here").push(seed);
                    }
                    let done = seed + 1 - seeds.start;
                    if done.is_multiple_of(5000) {
                        println!("{done} seeds, {:.0} s", began.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let found = found.into_inner().expect("nobody panics here");
    println!(
        "{} seeds, {} failed, {} steps, {:.1} h simulated, {:.1} s",
        seeds.end.saturating_sub(seeds.start),
        found.len(),
        steps.into_inner(),
        time.into_inner() as f64 / 3.6e6,
        began.elapsed().as_secs_f64()
    );
    for seed in found.iter().take(20) {
        if let Some((mask, report)) = shrink(*seed) {
            println!(
                "--seed {seed} --mask {mask:#x}: {}",
                report.violation.unwrap_or_default()
            );
        }
    }
    match found.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
