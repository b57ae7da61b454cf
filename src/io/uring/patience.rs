//! Waiting for locked memory at a start: the kernel gives back what a process has locked some time after it has ended, and it may
//! have been killed a moment ago to be started anew.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a start waits, in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between the first two tries, and at most: what a try has taken is given back late, too.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// Until when a start waits for locked memory that is not to be had.
#[derive(Clone, Copy, Debug)]
pub struct Patience(Instant);

impl Patience {
    /// From now on.
    #[must_use]
    pub fn begin() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    /// Makes `what`, as soon as there is memory for it. Blocks the thread meanwhile.
    ///
    /// # Errors
    /// That of the last try, which may be that there is still none.
    pub fn make<T, E>(
        self,
        what: &str,
        is_short: impl Fn(&E) -> bool,
        mut make: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut pause = PAUSE_MIN;
        loop {
            match make() {
                Err(error) if is_short(&error) && Instant::now() < self.0 => {
                    if pause == PAUSE_MIN {
                        tracing::info!("{what} waits for locked memory, which other processes of this user may have");
                    }
                    sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                made => return made,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of so many tries that find none.
    fn tries(patience: Patience, short: u32, error: &'static str) -> (u32, Result<(), &'static str>) {
        let mut count = 0;
        let made = patience.make(
            "a ring",
            |error| *error == "short",
            || {
                count += 1;
                if count > short { Ok(()) } else { Err(error) }
            },
        );
        (count, made)
    }

    #[test]
    fn memory_that_is_given_back_is_waited_for_and_nothing_else_is() {
        assert_eq!(tries(Patience::begin(), 3, "short"), (4, Ok(())));
        assert_eq!(tries(Patience::begin(), 3, "forbidden"), (1, Err("forbidden")));
        assert_eq!(tries(Patience(Instant::now()), 3, "short"), (1, Err("short")));
    }
}
