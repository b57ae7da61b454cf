//! Files under the names that they have while they are not complete.

use super::*;

#[test]
fn a_file_that_is_not_complete_is_found_under_its_other_name() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 5000, false), ("c", 2000, false)]);
    let part = fixture.part("b");
    let report = fixture.check();
    assert_eq!(report.parts, [false, true, false]);
    assert_eq!(report.files, [FileState::Ok; 3]);
    assert!(report.have.is_full() && !report.is_whole());
    assert_eq!(
        indexes(&report.have_by_final_names(&fixture.metainfo)),
        [0, 1, 2, 3, 10, 11]
    );

    // Something of the right length under its own name is what counts, and anything else is not.
    std::fs::write(fixture.path("b"), [0; 5000]).unwrap();
    let report = fixture.check();
    assert_eq!(
        (report.parts[1], indexes(&report.wrong)),
        (false, vec![4, 5, 6, 7, 8, 9])
    );
    for len in [4999, 5001] {
        fixture.set_len("b", len);
        let report = fixture.check();
        assert!(report.parts[1] && report.have.is_full(), "{len} bytes");
    }
    std::fs::remove_file(fixture.path("b")).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&part)
        .unwrap()
        .set_len(2500)
        .unwrap();
    let report = fixture.check();
    let (have, want) = (2500, 5000);
    assert_eq!(report.files[1], FileState::Shorter { have, want });
    assert_eq!(indexes(&report.have), [0, 1, 2, 3, 4, 5, 6, 10, 11]);
}

#[test]
fn a_name_that_belongs_to_the_torrent_is_not_taken_for_another_file() {
    let fixture = fixture(1024, &[("x", 2048, false), ("x.part", 2048, false)]);
    assert!(fixture.check().is_whole());
    std::fs::remove_file(fixture.path("x")).unwrap();
    let report = fixture.check();
    assert_eq!(report.files, [FileState::Missing, FileState::Ok]);
    assert_eq!((indexes(&report.have), report.wrong.count()), (vec![2, 3], 0));
}

#[test]
fn files_that_become_a_torrent_have_the_names_they_have() {
    let fixture = fixture(1024, &[("a", 5000, false)]);
    fixture.part("a");
    let root = Root::open(fixture.temp.path()).unwrap();
    let Metainfo { files, geometry, .. } = &fixture.metainfo;
    let throttle = Throttle::default();
    let digests = digest::digests(&root, files, geometry, fixture.means(&throttle), &Progress::default());
    let state = FileState::Missing;
    assert_eq!(digests.unwrap_err(), digest::Error::File { file: 0, state });
}
