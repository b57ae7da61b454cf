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

/// Runs of several long pieces grew at once, and others were asked for in the place of their blocks. See `shard/tests/early`.
#[test]
fn simulated_swarms_451783_and_others_have_no_more_of_long_pieces_in_memory_than_there_is_room_for() {
    for seed in [451_783, 464_415, 542_189, 553_865, 557_875] {
        must_hold(seed..seed + 1);
    }
}

/// A sync failed, and peers were told of pieces that were gone with it. See `control/downloads` and `shard/tests/downloading`.
#[test]
fn simulated_swarms_465754_566234_and_737409_tell_of_nothing_that_their_disk_has_lost() {
    for seed in [465_754, 566_234, 737_409] {
        must_hold(seed..seed + 1);
    }
}

/// A sync failed while a piece was read. See `shard/tests/downloading`.
#[test]
fn simulated_swarm_961067_sends_nothing_that_was_lost_while_it_was_read() {
    must_hold(961_067..961_068);
}

/// Who was left to give the last piece was suspected, and others had begun it. See `proto/picker`.
#[test]
fn simulated_swarm_543018_comes_to_its_end_with_a_suspect() {
    must_hold(543_018..543_019);
}

/// A disk did not take a seed's files, and what a liar sent was written over them. See `control/checks`.
#[test]
fn simulated_swarms_433269_473181_and_498315_write_over_nothing_that_may_be_right() {
    for seed in [433_269, 473_181, 498_315] {
        must_hold(seed..seed + 1);
    }
}

/// The power went within seconds of a download's beginning, and what that had left of its files was taken for somebody else's. See
/// `control/downloads`.
#[test]
fn simulated_swarms_882_895_and_1145_go_on_with_files_of_which_a_loss_of_power_has_left_nothing_right() {
    for seed in [882, 895, 1145] {
        must_hold(seed..seed + 1);
    }
}

/// The session could not be written when a download began, and the process was killed within seconds. See `control/downloads`.
#[test]
fn simulated_swarms_20145_and_22490_write_nothing_before_it_is_recorded_that_they_have_begun() {
    for seed in [20_145, 22_490] {
        must_hold(seed..seed + 1);
    }
}
