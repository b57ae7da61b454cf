//! Files that were there before a download, and whose they are.

use std::time::{Duration, SystemTime};

use super::*;
use crate::storage::strangers::{Blanks, Looking, Stranger};

/// Looks at what is there.
fn look(fixture: &Fixture, (throttle, blanks): (&Throttle, &Blanks), is_begun: bool) -> Vec<Stranger> {
    let root = Root::open(fixture.temp.path()).unwrap();
    let looking = Looking {
        throttle,
        progress: &Progress::default(),
        blanks,
    };
    crate::storage::strangers(&fixture.metainfo, &root, &fixture.check(), is_begun, looking).unwrap()
}

/// The files that are not to be written over, by their names.
fn strange(fixture: &Fixture, is_begun: bool) -> Vec<String> {
    let found = look(fixture, (&Throttle::default(), &Blanks::default()), is_begun);
    found.iter().map(|stranger| stranger.path.as_str().to_owned()).collect()
}

#[test]
fn file_of_which_nothing_is_right_is_somebody_elses_and_any_other_the_torrents() {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false), ("d", 4096, false)]);
    assert!(strange(&fixture, false).is_empty());
    std::fs::write(fixture.path("a"), [7; 3072]).unwrap();
    fixture.flip("b", 5);
    assert_eq!(strange(&fixture, false), ["t/a"], "of the other a piece is right");
    // Of another length, whatever it is.
    for len in [3071, 10, 3073] {
        std::fs::write(fixture.path("a"), vec![7; len]).unwrap();
        assert_eq!(strange(&fixture, false), ["t/a"], "{len}");
    }
    // Space that was set aside.
    for len in [3072, 2000, 200_000] {
        std::fs::write(fixture.path("a"), vec![0; len]).unwrap();
        assert!(strange(&fixture, false).is_empty(), "{len}");
        let mut bytes = vec![0; len];
        bytes[len - 1] = 1;
        std::fs::write(fixture.path("a"), bytes).unwrap();
        assert_eq!(strange(&fixture, false), ["t/a"], "{len}");
    }
    // A download by its name: btd's own, or another's.
    fixture.part("a");
    assert_eq!(strange(&fixture, false), ["t/a.part"]);
    assert!(strange(&fixture, true).is_empty());
    std::fs::write(fixture.path("a.part"), [0; 3072]).unwrap();
    assert!(strange(&fixture, false).is_empty(), "it has nothing in it");
}

#[test]
fn part_of_another_client_that_has_something_right_is_gone_on_with() {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false)]);
    fixture.flip("a", 5);
    fixture.part("a");
    assert!(strange(&fixture, false).is_empty());
}

#[test]
fn file_that_is_mostly_zeros_is_read_once_and_not_when_nobody_wants_to_know() {
    let fixture = fixture(1024, &[("a", 300_000, false), ("b", 2048, false)]);
    let mut bytes = vec![0; 300_000];
    bytes[299_999] = 1;
    std::fs::write(fixture.path("a"), &bytes).unwrap();
    let (throttle, blanks) = (Throttle::default(), Blanks::default());
    let found = look(&fixture, (&throttle, &blanks), false);
    assert_eq!(found.len(), 1);
    let read = throttle.bytes_begun();
    assert!(read >= 300_000, "{read}");
    assert_eq!(look(&fixture, (&throttle, &blanks), false), found);
    assert_eq!(throttle.bytes_begun(), read, "it looks as it did");
    std::fs::write(fixture.path("a"), vec![0; 300_000]).unwrap();
    age(&fixture.path("a"));
    assert!(
        look(&fixture, (&throttle, &blanks), false).is_empty(),
        "it is another now"
    );
    assert!(throttle.bytes_begun() > read);
    // Nor is more read than may be.
    let progress = Progress::default();
    let report = fixture.check();
    progress.cancel();
    let looking = Looking {
        throttle: &throttle,
        progress: &progress,
        blanks: &Blanks::default(),
    };
    let root = Root::open(fixture.temp.path()).unwrap();
    let read = throttle.bytes_begun();
    let stopped = crate::storage::strangers(&fixture.metainfo, &root, &report, false, looking);
    assert_eq!(stopped, Err(Error::Cancelled));
    assert_eq!(throttle.bytes_begun(), read);
}

#[test]
fn stranger_is_the_same_until_it_is_changed_replaced_or_gone() {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false)]);
    let root = Root::open(fixture.temp.path()).unwrap();
    let write = |seconds_ago, len| {
        std::fs::write(fixture.path("other"), vec![7; len]).unwrap();
        let file = std::fs::File::options()
            .append(true)
            .open(fixture.path("other"))
            .unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago))
            .unwrap();
        std::fs::rename(fixture.path("other"), fixture.path("a")).unwrap();
    };
    write(100, 3072);
    let found = look(&fixture, (&Throttle::default(), &Blanks::default()), false);
    assert!(found[0].is_still(&root));
    // Somebody writes to it, and has written to it.
    write(0, 3000);
    assert!(found[0].is_still(&root), "it is not all there yet");
    write(50, 3000);
    assert!(!found[0].is_still(&root));
    let found = look(&fixture, (&Throttle::default(), &Blanks::default()), false);
    std::fs::remove_file(fixture.path("a")).unwrap();
    assert!(!found[0].is_still(&root));
}

#[test]
fn file_that_shares_its_only_piece_is_somebody_elses_only_if_the_fault_is_not_anothers() {
    let fixture = fixture(1024, &[("a", 2500, false), ("b", 500, false), ("c", 2000, false)]);
    // The end of `a` and all of `b` are in the third piece, which is wrong by the one or by the other.
    fixture.flip("a", 2400);
    assert!(strange(&fixture, false).is_empty(), "it may be the end of the other");
    // Nor can anything be said of it beside what is missing.
    std::fs::remove_file(fixture.path("a")).unwrap();
    assert!(strange(&fixture, false).is_empty());
    // Nothing is right anywhere.
    for (file, len) in [("a", 2500), ("b", 500), ("c", 2000)] {
        std::fs::write(fixture.path(file), vec![7; len]).unwrap();
    }
    assert_eq!(strange(&fixture, false), ["t/a", "t/b", "t/c"]);
}

#[test]
fn file_beside_the_one_that_a_download_has_made_is_somebody_elses() {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false)]);
    std::fs::write(fixture.path("a"), [7; 3072]).unwrap();
    assert!(strange(&fixture, true).is_empty(), "it has no other name");
    std::fs::write(fixture.path(&format!("a{PART_SUFFIX}")), [0; 3072]).unwrap();
    assert_eq!(strange(&fixture, true), ["t/a"]);
}
