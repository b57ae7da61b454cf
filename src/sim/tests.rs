//! Runs of the simulated swarm: some hundreds of seeds, and those that once failed.

use super::*;

fn must_hold(seeds: std::ops::Range<u64>) {
    let failed: Vec<String> = seeds
        .filter_map(|seed| {
            let violation = run(seed, Options::default()).violation?;
            Some(format!("seed {seed}: {violation}"))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn simulated_swarm_of_one_seed_is_the_same_each_time_step_for_step() {
    for seed in 0..12 {
        let (one, other) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(one, other, "seed {seed}");
        assert!(one.steps > 30, "seed {seed}: {one:?}");
    }
    assert_ne!(run(1, Options::default()).trace, run(2, Options::default()).trace);
}

#[test]
fn simulated_swarms_hold_what_is_promised_and_come_to_an_end_1() {
    must_hold(0..150);
}

#[test]
fn simulated_swarms_hold_what_is_promised_and_come_to_an_end_2() {
    must_hold(150..300);
}

/// A disk that could not be read made the files of a download be made once more, and pieces were recorded that were not synced.
/// The rule itself has a test in `control/downloads`.
#[test]
fn simulated_swarm_159_records_nothing_that_a_loss_of_power_would_undo() {
    must_hold(159..160);
}
