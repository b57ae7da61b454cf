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

/// What a run of its own process comes to.
fn in_a_process(seed: u64) -> String {
    let ran = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "sim::tests::trace_of_a_seed", "--ignored", "--nocapture"])
        .env("BTD_SIM_SEED", seed.to_string())
        .output()
        .expect("this program runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let report = said.lines().find(|line| line.contains("Report")).map(str::to_owned);
    report.unwrap_or_else(|| panic!("seed {seed}: {said}{}", String::from_utf8_lossy(&ran.stderr)))
}

/// Runs the seed of the environment: for [`in_a_process`].
#[test]
#[ignore = "run by another test"]
fn trace_of_a_seed() {
    let seed = std::env::var("BTD_SIM_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    println!("{:?}", run(seed, Options::default()));
}

#[test]
fn simulated_swarm_of_one_seed_is_the_same_in_each_process_step_for_step() {
    let reports: Vec<String> = (0..12)
        .map(|seed| {
            let (one, other) = (in_a_process(seed), in_a_process(seed));
            assert_eq!(one, other, "seed {seed}");
            one
        })
        .collect();
    for (index, report) in reports.iter().enumerate() {
        assert!(
            !reports[..index].contains(report),
            "seed {index} is no other than one before: {report}"
        );
    }
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

/// A file had its final name, and its folder was not synced when the process was killed. See `storage/tests/known`.
#[test]
fn simulated_swarms_202379_and_207627_lose_no_name_of_what_is_complete() {
    must_hold(202_379..202_380);
    must_hold(207_627..207_628);
}

/// A file was asked for by the name that it had a moment ago. See `shard/tests/downloading`.
#[test]
fn simulated_swarms_12875_and_302387_serve_what_is_complete() {
    must_hold(12_875..12_876);
    must_hold(302_387..302_388);
}
