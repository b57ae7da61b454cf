//! Makes a failing run smaller: faults are switched off one by one, as long as it still fails.

use super::run::{self, Options, Report, faults};

/// The smallest mask that was found with which a seed fails, and what it fails with; `None` if it does not fail at all.
#[must_use]
pub fn shrink(seed: u64) -> Option<(u64, Report)> {
    let count = faults(seed).len();
    let mut mask = u64::MAX >> (64 - count.clamp(1, 64));
    if count == 0 {
        mask = 0;
    }
    let fails = |mask| {
        let report = run::run(seed, Options { mask, told: false });
        report.violation.is_some().then_some(report)
    };
    let mut smallest = fails(mask)?;
    let mut again = true;
    while again {
        again = false;
        for bit in (0..count).filter(|bit| *bit < 64) {
            let less = mask & !(1 << bit);
            if less != mask
                && let Some(report) = fails(less)
            {
                (mask, smallest, again) = (less, report, true);
            }
        }
    }
    Some((mask, smallest))
}
