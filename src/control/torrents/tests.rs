//! What the table says after each thing that happens to a torrent.

use super::*;
use crate::control::contents::Contents;
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::Metainfo;
use crate::storage::Root;

const ONE: InfoHash = InfoHash([1; 20]);
const TWO: InfoHash = InfoHash([2; 20]);

fn add(torrents: &mut Torrents, file: &str, info_hash: InfoHash) -> (Addition, Option<InfoHash>) {
    let (addition, replaced) = torrents.add(
        0,
        Path::new(file),
        info_hash,
        ("name", Reach::default()),
        &Arc::default(),
    );
    (addition, gone(&replaced))
}

/// One that is whole, whatever its info-hash.
fn torrent() -> (tempfile::TempDir, Arc<Torrent>) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).expect("a torrent");
    let root = Arc::new(Root::open(temp.path()).expect("opened"));
    (temp, Torrent::new(meta, root, &Bitfield::full(1), &[None]))
}

fn remove(torrents: &mut Torrents, file: &str) -> Option<InfoHash> {
    gone(&torrents.remove(Path::new(file)))
}

/// Loses the first folder, one torrent at a time.
fn lose_all(torrents: &mut Torrents) -> Vec<Lost> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (lost, last) = torrents.lose((&[0], "it is gone"), (after, 1));
        all.extend(lost);
        match last {
            Some(last) => after = Some(last),
            None => return all,
        }
    }
}

fn waits_in(torrents: &Torrents, info_hash: InfoHash, folders: &[usize]) -> bool {
    let waits = |paused| torrents.unavailable_in((folders, paused), (None, 100)).0;
    waits(false).contains(&info_hash) || waits(true).contains(&info_hash)
}

fn gone(removal: &Removal) -> Option<InfoHash> {
    match removal {
        Removal::Gone(info_hash, _) => Some(*info_hash),
        Removal::Nothing => None,
        Removal::Moved { .. } => panic!("{removal:?}"),
    }
}

#[test]
fn a_torrent_whose_file_moves_to_another_folder_is_checked_there() {
    let mut torrents = Torrents::default();
    let add = |torrents: &mut Torrents, folder, file| {
        torrents
            .add(
                folder,
                Path::new(file),
                ONE,
                ("name", Reach::default()),
                &Arc::default(),
            )
            .0
    };
    assert_eq!(add(&mut torrents, 0, "0/a"), Addition::New { generation: 1 });
    torrents.settle(ONE, 1, State::Seeding, None);
    assert_eq!(add(&mut torrents, 1, "1/a"), Addition::SameAs("0/a".into()));
    let Removal::Moved { file, folder, .. } = torrents.remove(Path::new("0/a")) else {
        panic!("it comes from the other folder now");
    };
    assert_eq!((file, folder), ("1/a".into(), 1));
    assert_eq!(torrents.check_in(1, ONE, &Arc::default()), Some(2));
    assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(torrents.remove(Path::new("1/a")), Removal::Gone(ONE, _)));
}

#[test]
fn a_torrent_in_two_files_is_one_and_goes_with_the_last() {
    let mut torrents = Torrents::default();
    assert_eq!(add(&mut torrents, "a", ONE), (Addition::New { generation: 1 }, None));
    assert_eq!(add(&mut torrents, "b", ONE), (Addition::SameAs("a".into()), None));
    assert_eq!(add(&mut torrents, "b", ONE), (Addition::Known, None));
    assert_eq!(torrents.len(), 1);
    assert_eq!(remove(&mut torrents, "a"), None);
    assert_eq!(remove(&mut torrents, "b"), Some(ONE));
    assert_eq!((torrents.len(), torrents.counts()), (0, [0; 8]));
}

#[test]
fn a_file_replaced_by_another_torrent_removes_the_one_it_held() {
    let mut torrents = Torrents::default();
    add(&mut torrents, "a", ONE);
    assert_eq!(
        add(&mut torrents, "a", TWO),
        (Addition::New { generation: 2 }, Some(ONE))
    );
    assert_eq!(torrents.len(), 1);
    assert_eq!(remove(&mut torrents, "a"), Some(TWO));
}

#[test]
fn a_renamed_file_keeps_its_torrent() {
    let mut torrents = Torrents::default();
    add(&mut torrents, "a", ONE);
    add(&mut torrents, "b", ONE);
    assert_eq!(remove(&mut torrents, "a"), None);
    assert_eq!(torrents.len(), 1);
}

#[test]
fn a_check_that_ends_after_its_torrent_went_changes_nothing() {
    let mut torrents = Torrents::default();
    add(&mut torrents, "a", ONE);
    remove(&mut torrents, "a");
    assert!(torrents.settle(ONE, 1, State::Seeding, None).is_none());
    add(&mut torrents, "a", ONE);
    assert!(torrents.settle(ONE, 1, State::Seeding, None).is_none());
    assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        torrents.settle(ONE, 2, State::Partial, None),
        Some(Settled {
            was_served: false,
            is_news: true
        })
    );
    assert_eq!(torrents.counts(), [0, 0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_check_that_is_asked_for_is_made_unless_there_is_one() {
    let mut torrents = Torrents::default();
    add(&mut torrents, "a", ONE);
    assert_eq!(torrents.check_anew(ONE, &Arc::default()), None, "it is being checked");
    torrents.settle(ONE, 1, State::Partial, None);
    assert_eq!(torrents.check_again(ONE, &Arc::default()), None, "it is not missing");
    assert_eq!(torrents.check_anew(ONE, &Arc::default()), Some(2));
    assert_eq!(
        torrents.settle(ONE, 1, State::Missing, None),
        None,
        "that check is out of date"
    );
    assert_eq!(
        torrents.settle(ONE, 2, State::Seeding, None),
        Some(Settled {
            was_served: false,
            is_news: true
        })
    );
    assert_eq!(torrents.check_again(ONE, &Arc::default()), None, "it is whole");
    assert_eq!(
        torrents.check_anew(ONE, &Arc::default()),
        Some(3),
        "but it was asked for"
    );
}

#[test]
fn a_missing_torrent_that_is_still_missing_is_no_news_but_for_who_asked() {
    let mut torrents = Torrents::default();
    add(&mut torrents, "a", ONE);
    let mut is_news = |generation| {
        torrents
            .settle(ONE, generation, State::Missing, None)
            .map(|s| s.is_news)
    };
    assert_eq!(is_news(1), Some(true));
    assert_eq!(torrents.check_again(ONE, &Arc::default()), Some(2));
    assert!(torrents.settle(ONE, 1, State::Missing, None).is_none());
    assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 0], "it is being looked at");
    let mut is_news = |generation| {
        torrents
            .settle(ONE, generation, State::Missing, None)
            .map(|s| s.is_news)
    };
    assert_eq!(is_news(2), Some(false));
    assert_eq!(torrents.check_anew(ONE, &Arc::default()), Some(3));
    let mut is_news = |generation| {
        torrents
            .settle(ONE, generation, State::Missing, None)
            .map(|s| s.is_news)
    };
    assert_eq!(is_news(3), Some(true));
    assert!(torrents.is_missing(ONE, 3) && !torrents.is_missing(ONE, 2));
}

#[test]
fn torrents_of_a_folder_that_is_lost_wait_for_it_unless_they_are_paused_and_the_others_go_on() {
    let mut torrents = Torrents::default();
    for (folder, byte) in [(0, 1), (0, 2), (1, 3), (0, 4)] {
        let (file, hash) = (byte.to_string(), InfoHash([byte; 20]));
        torrents.add(
            folder,
            Path::new(&file),
            hash,
            ("name", Reach::default()),
            &Arc::default(),
        );
    }
    let hash = |byte| InfoHash([byte; 20]);
    for (byte, generation) in [(1, 1), (2, 2), (3, 3)] {
        torrents.settle(hash(byte), generation, State::Seeding, Some(torrent().1));
    }
    torrents.set_paused(hash(2), true);
    let lost = lose_all(&mut torrents);
    assert_eq!(lost.len(), 2);
    assert_eq!(torrents.counts(), [1, 1, 0, 0, 0, 0, 1, 1]);
    let state = |byte| {
        torrents
            .entry(hash(byte))
            .map(|entry| (entry.state.name(), entry.served.is_some()))
    };
    assert_eq!(state(1), Some(("unavailable", false)));
    assert_eq!(state(2), Some(("paused", false)), "it holds on to nothing either");
    assert_eq!(state(3), Some(("seeding", true)), "another folder's");
    let State::Checking(progress) = &torrents.entry(hash(4)).expect("it is there").state else {
        panic!("it is still being checked");
    };
    assert!(progress.is_cancelled());
    assert!(waits_in(&torrents, hash(1), &[0]) && !waits_in(&torrents, hash(1), &[1]));
    assert_eq!(torrents.check_anew(hash(1), &Arc::default()), Some(5));
    assert!(!waits_in(&torrents, hash(1), &[0]));
}

#[test]
fn a_pause_outlives_a_check_and_ends_with_the_torrent() {
    let mut torrents = Torrents::new(HashSet::from([ONE]), Arc::default());
    add(&mut torrents, "a", ONE);
    assert!(torrents.is_paused(ONE), "it was paused before it came");
    assert_eq!(
        torrents.counts(),
        [1, 0, 0, 0, 0, 0, 0, 0],
        "it is checked all the same"
    );
    torrents.settle(ONE, 1, State::Paused, None);
    assert_eq!(torrents.counts(), [0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(torrents.set_paused(ONE, true), Some(false));
    assert_eq!(torrents.set_paused(ONE, false), Some(true));
    assert_eq!(torrents.set_paused(TWO, false), None);
    torrents.set_paused(ONE, true);
    remove(&mut torrents, "a");
    add(&mut torrents, "a", ONE);
    assert!(!torrents.is_paused(ONE));
}

#[test]
fn torrent_that_rests_is_seeded_and_counted_and_known_to_the_shards_by_name_alone() {
    let resting = Arc::<Resting>::default();
    let mut torrents = Torrents::new(HashSet::new(), Arc::clone(&resting));
    add(&mut torrents, "a", ONE);
    torrents.rest(ONE);
    assert_eq!(torrents.counts(), [0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(resting.contains(ONE) && torrents.entry(ONE).is_some_and(Entry::rests));
    let (_temp, torrent) = torrent();
    assert!(torrents.wake(ONE, &torrent));
    assert!(!torrents.wake(ONE, &torrent), "it is awake");
    assert_eq!(torrents.loaded_count(), 1);
    assert_eq!(torrents.idle().count(), 1, "nobody is connected");
    torrent.count_uploaded(5);
    torrents.rest(ONE);
    assert_eq!(torrents.loaded_count(), 0);
    assert!(torrents.wake(ONE, &torrent));
    assert_eq!(
        torrents.entry(ONE).map(Entry::moved),
        Some((10, 0)),
        "what it moved before counts"
    );
    torrents.rest(ONE);
    // Whatever it does else ends its rest.
    torrents.set_paused(ONE, true);
    assert!(!resting.contains(ONE) && !torrents.wake(ONE, &torrent));
    torrents.set_paused(ONE, false);
    assert_eq!(torrents.check_anew(ONE, &Arc::default()), Some(2));
    torrents.settle(ONE, 2, State::Seeding, None);
    torrents.rest(ONE);
    assert!(resting.contains(ONE));
    remove(&mut torrents, "a");
    assert!(!resting.contains(ONE));
    assert_eq!(torrents.counts(), [0; 8]);
}

#[test]
fn torrent_that_rests_waits_for_its_folder_like_the_others_and_is_not_woken_meanwhile() {
    let resting = Arc::<Resting>::default();
    let mut torrents = Torrents::new(HashSet::new(), Arc::clone(&resting));
    add(&mut torrents, "a", ONE);
    add(&mut torrents, "b", TWO);
    torrents.rest(ONE);
    torrents.rest(TWO);
    let check = Arc::new(Progress::default());
    assert_eq!(torrents.check_anew(TWO, &check), Some(3), "somebody wants to be sure");
    let lost = lose_all(&mut torrents);
    assert!(lost.iter().all(|lost| lost.rested) && lost.len() == 2, "{lost:?}");
    assert!(matches!(&lost[0].contents, Contents::InFile(file) if **file == *Path::new("a")));
    assert!(!resting.contains(ONE) && !resting.contains(TWO));
    assert!(waits_in(&torrents, ONE, &[0]) && check.is_cancelled());
    let entry = torrents.entry(ONE).expect("it is there");
    assert_eq!((entry.why(), entry.is_known()), (Some("it is gone"), false));
    let (_temp, torrent) = torrent();
    assert!(!torrents.wake(ONE, &torrent) && !torrents.wake(TWO, &torrent));
    assert!(lose_all(&mut torrents).is_empty(), "they are lost once");
    assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn torrent_that_nobody_has_read_all_of_does_not_rest() {
    let mut torrents = Torrents::default();
    add(&mut torrents, "a", ONE);
    let torrent = torrent().1.with_unread(&Bitfield::full(1));
    torrents.settle(ONE, 1, State::Seeding, Some(Arc::clone(&torrent)));
    assert_eq!(torrents.idle().count(), 0, "what is unread is known of this one alone");
    torrent.grant(torrent.geometry().piece_index(0).expect("a piece"));
    assert_eq!(torrents.idle().count(), 1);
}

#[test]
fn torrent_that_rests_can_be_woken_while_it_is_checked_and_what_the_check_says_holds() {
    let resting = Arc::<Resting>::default();
    let mut torrents = Torrents::new(HashSet::new(), Arc::clone(&resting));
    add(&mut torrents, "a", ONE);
    torrents.rest(ONE);
    let generation = torrents.check_anew(ONE, &Arc::default()).expect("it begins");
    assert!(resting.contains(ONE), "somebody only wants to be sure");
    let (_temp, torrent) = torrent();
    assert!(torrents.wake(ONE, &torrent));
    let settled = torrents.settle(ONE, generation, State::Missing, None).expect("settled");
    assert!(settled.was_served && !resting.contains(ONE));
    assert_eq!((torrents.loaded_count(), torrents.counts()[3]), (0, 1));
}

/// What is in here for each torrent is there 100,000 times. Whatever makes it longer should be behind `rare`.
#[test]
fn entry_is_no_longer_than_it_was() {
    assert!(size_of::<Entry>() <= 112, "{}", size_of::<Entry>());
}

#[test]
fn pages_go_on_where_the_last_ended_whatever_has_gone_meanwhile() {
    let mut torrents = Torrents::default();
    let hash = |byte| InfoHash([byte; 20]);
    for byte in [5, 1, 9, 3] {
        add(&mut torrents, &byte.to_string(), hash(byte));
    }
    let page = |torrents: &Torrents, after| -> Vec<InfoHash> {
        torrents.after(after).take(2).map(|(info_hash, _)| info_hash).collect()
    };
    assert_eq!(page(&torrents, None), [hash(1), hash(3)]);
    remove(&mut torrents, "3");
    assert_eq!(page(&torrents, Some(hash(3))), [hash(5), hash(9)]);
    assert_eq!(page(&torrents, Some(hash(9))), []);
    let between: Vec<_> = torrents.between(hash(1), hash(5)).map(|(hash, _)| hash).collect();
    assert_eq!(between, [hash(1), hash(5)]);
}

#[test]
fn one_that_rests_in_the_place_of_a_check_has_that_cancelled_and_hears_of_it_no_more() {
    let mut torrents = Torrents::default();
    let progress = Arc::new(Progress::default());
    let (addition, _) = torrents.add(0, Path::new("a"), ONE, ("name", Reach::default()), &progress);
    let Addition::New { generation } = addition else {
        panic!("it is new: {addition:?}");
    };
    torrents.set_paused(ONE, true);
    torrents.rest_unchecked(ONE);
    assert!(!progress.is_cancelled(), "it is paused");
    torrents.set_paused(ONE, false);
    torrents.rest_unchecked(ONE);
    let entry = torrents.entry(ONE).expect("there");
    assert!(progress.is_cancelled() && entry.rests() && matches!(entry.state, State::Seeding));
    assert_eq!(torrents.settle(ONE, generation, State::Missing, None), None);
    assert_eq!(torrents.counts()[State::Seeding.index()], 1);
}
