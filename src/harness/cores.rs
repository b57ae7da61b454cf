//! How far apart two CPUs are: what a cache line takes from one to the other and back.
//!
//! On a virtual machine that is not a constant. Where the host runs two virtual CPUs on cores that share a cache, it is some tens of
//! nanoseconds; where it has moved one of them to another part of the machine, or runs others' work beside them, it is several times
//! that, and everything that one CPU writes and the other reads (a socket's bytes on loopback, above all) costs accordingly.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Round trips of one trial.
const TRIPS: u32 = 20_000;
/// Trials, of which the median counts: one in which a thread was interrupted says nothing.
const TRIALS: usize = 5;

/// Keeps the calling thread on one CPU.
pub(super) fn stay_on(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// What a cache line takes from `here` to `there` and back, the median of five trials of some milliseconds.
///
/// Fails if the calling process may not use one of the two CPUs, or if they are the same.
pub fn round_trip(here: usize, there: usize) -> io::Result<Duration> {
    if here == there {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {here} and CPU {there} are the same"),
        ));
    }
    let mut trials = (0..TRIALS)
        .map(|_| trial(here, there))
        .collect::<io::Result<Vec<_>>>()?;
    trials.sort_unstable();
    Ok(trials[TRIALS / 2])
}

/// One line between two threads, each of which waits for the other's number.
fn trial(here: usize, there: usize) -> io::Result<Duration> {
    /// A line of its own, with its neighbour, which is fetched along with it.
    #[repr(align(128))]
    struct Line(AtomicU32);
    /// Said by a thread that cannot be where it should, so that the other does not wait for it.
    const GIVEN_UP: u32 = u32::MAX;

    /// Answers each number with the next. Nothing if the other one has given up.
    fn play(line: &AtomicU32, first: u32) -> Option<()> {
        for trip in 0..TRIPS {
            let expected = 2 * trip + first;
            loop {
                match line.load(Ordering::Acquire) {
                    GIVEN_UP => return None,
                    number if number == expected => break,
                    _ => std::hint::spin_loop(),
                }
            }
            line.store(expected + 1, Ordering::Release);
        }
        Some(())
    }

    let line = Line(AtomicU32::new(1));
    thread::scope(|scope| {
        let answers = |cpu: usize, first: u32| {
            let line = &line.0;
            scope.spawn(move || {
                stay_on(cpu).inspect_err(|_| line.store(GIVEN_UP, Ordering::Release))?;
                let started = Instant::now();
                play(line, first);
                Ok::<_, io::Error>(started.elapsed())
            })
        };
        // The one that is asked second measures: its first number comes from a thread that is there already.
        let (asked, asks) = (answers(there, 1), answers(here, 2));
        let (asked, asks) = (asked.join(), asks.join());
        asked.expect("the thread does not panic")?;
        let took = asks.expect("the thread does not panic")?;
        Ok(took / TRIPS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_and_nobody_waits_for_it() {
        assert!(round_trip(0, CpuSet::MAX_CPU - 1).is_err());
        assert!(round_trip(0, usize::MAX).is_err());
        assert!(round_trip(0, 0).is_err());
    }

    #[test]
    fn two_cpus_are_some_time_apart() {
        if thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
            let took = round_trip(0, 1).expect("two CPUs");
            assert!(took > Duration::ZERO && took < Duration::from_millis(1), "{took:?}");
        }
    }
}
