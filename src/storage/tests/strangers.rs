//! Files that were there before a download, and whose they are.

use super::*;

/// The files that are not to be written over, by their names.
fn strange(fixture: &Fixture, is_begun: bool) -> Vec<&str> {
    let root = Root::open(fixture.temp.path()).unwrap();
    let found = strangers(&fixture.metainfo, &root, &fixture.check(), is_begun);
    let path = |file: u32| fixture.metainfo.files[file as usize].path.as_str();
    found.into_iter().map(path).collect()
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
    // Space that was set aside, a download by its name, and what is not there.
    for len in [3072, 2000, 200_000] {
        std::fs::write(fixture.path("a"), vec![0; len]).unwrap();
        assert!(strange(&fixture, false).is_empty(), "{len}");
        let mut bytes = vec![0; len];
        bytes[len - 1] = 1;
        std::fs::write(fixture.path("a"), bytes).unwrap();
        assert_eq!(strange(&fixture, false), ["t/a"], "{len}");
    }
    fixture.part("a");
    assert!(strange(&fixture, false).is_empty());
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
