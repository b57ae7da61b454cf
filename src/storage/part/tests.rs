//! Files made and finished: over what was there before, with every interruption, and on disks that refuse.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::storage::folder::steps::stop_after;
use tempfile::TempDir;

const SPARSE: Options = Options {
    preallocate: Preallocate::Sparse,
    part_names: true,
};
const FULL: Options = Options {
    preallocate: Preallocate::Full,
    part_names: true,
};

/// Files: their path, their length, and `true` for padding.
fn entries(files: &[(&str, u64, bool)]) -> Vec<FileEntry> {
    let mut offset = 0;
    let entry = |&(path, len, pad): &(&str, u64, bool)| {
        offset += len;
        FileEntry {
            path: RelPath::parse(path).unwrap(),
            len,
            offset: offset - len,
            pad,
        }
    };
    files.iter().map(entry).collect()
}

/// A data folder and the files of a torrent.
struct Fixture {
    temp: TempDir,
    root: Root,
    files: Vec<FileEntry>,
    names: PartNames,
}

fn fixture(files: &[(&str, u64, bool)]) -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let files = entries(files);
    Fixture {
        root: Root::open(temp.path()).unwrap(),
        names: PartNames::new(&files),
        files,
        temp,
    }
}

impl Fixture {
    fn prepare(&self, options: Options) -> Result<Prepared, Error> {
        prepare(&self.root, &self.files, &self.names, options, &mut self.seen())
    }

    /// What a check finds now.
    fn seen(&self) -> Vec<Seen> {
        seen(&self.root, &self.files)
    }

    fn finish(&self, parts: &[bool]) -> Vec<Error> {
        let all: Vec<u32> = (0..self.files.len() as u32).collect();
        finish(&self.root, &self.files, &self.names, parts, &all)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Every file and folder, with the files' lengths.
    fn found(&self) -> BTreeMap<String, Option<u64>> {
        fn walk(dir: &Path, base: &Path, found: &mut BTreeMap<String, Option<u64>>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
                let metadata = path.symlink_metadata().unwrap();
                found.insert(name, metadata.is_file().then_some(metadata.len()));
                if metadata.is_dir() {
                    walk(&path, base, found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.temp.path(), self.temp.path(), &mut found);
        found
    }

    fn assert_found(&self, expected: &[(&str, Option<u64>)]) {
        let expected = expected.iter().map(|(name, len)| ((*name).to_owned(), *len));
        assert_eq!(self.found(), expected.collect());
    }
}

fn seen(root: &Root, files: &[FileEntry]) -> Vec<Seen> {
    let names = PartNames::new(files);
    let look = |(index, entry)| match names.find(root, index, entry) {
        Ok(found) => Seen::of(&found.metadata, found.part),
        Err(_) => Seen::Nothing,
    };
    (0..).zip(files).map(look).collect()
}

fn name_of(files: &[(&str, u64, bool)], index: u32) -> Option<String> {
    let files = entries(files);
    let name = PartNames::new(&files).get(index, &files[index as usize]);
    name.map(|path| path.as_str().to_owned())
}

#[test]
fn a_file_that_is_not_complete_has_a_suffix_where_it_can() {
    assert_eq!(name_of(&[("t/a", 1, false)], 0).as_deref(), Some("t/a.part"));
    assert_eq!(
        name_of(&[("t/a", 0, false)], 0),
        None,
        "complete as soon as it is there"
    );
    assert_eq!(name_of(&[("t/a", 1, true)], 0), None, "padding is nowhere");
    let name = |len: usize| name_of(&[(&"x".repeat(len), 1, false)], 0);
    assert_eq!(name(250).map(|name| name.len()), Some(255));
    assert_eq!(name(251), None);
}

#[test]
fn a_name_that_the_torrent_gives_away_itself_is_no_name_of_another_file() {
    let cases: [&[&str]; 5] = [
        &["t/x", "t/x.part"],
        &["t/x", "t/x.part/y"],
        &["t/x", "t/x.part/y.part/z"],
        &["t/x", "t/X.PART"],
        &["x", "x.part"],
    ];
    for case in cases {
        let files: Vec<_> = case.iter().map(|path| (*path, 1, false)).collect();
        assert_eq!(name_of(&files, 0), None, "{case:?}");
        assert!(name_of(&files, 1).is_some(), "{case:?}");
    }
    for other in ["u/x.part", "t/x/x.part", "t/x.parts", "t/.part", "xpart"] {
        assert!(
            name_of(&[("t/x", 1, false), (other, 1, false)], 0).is_some(),
            "{other:?}"
        );
    }
    assert!(
        name_of(&[("t/x", 1, false), ("t/x.part", 1, true)], 0).is_some(),
        "padding"
    );
    let files = [("x", 1, false), ("x.part", 1, false), ("x.part.part", 1, false)];
    assert_eq!((name_of(&files, 0), name_of(&files, 1)), (None, None));
}

#[test]
fn a_torrent_is_made_from_nothing_and_finished() {
    let fixture = fixture(&[
        ("t/a", 5000, false),
        ("t/.pad/24", 24, true),
        ("t/d/e/b", 70_000, false),
        ("t/d/empty", 0, false),
        ("t/c", 1, false),
    ]);
    let folders = [("t", None), ("t/d", None), ("t/d/e", None), ("t/d/empty", Some(0))];
    for options in [SPARSE, FULL] {
        let prepared = fixture.prepare(options).unwrap();
        assert_eq!(prepared.parts, [true, false, true, false, true]);
        assert_eq!(prepared.notices, []);
        let files = [
            ("t/a.part", Some(5000)),
            ("t/d/e/b.part", Some(70_000)),
            ("t/c.part", Some(1)),
        ];
        fixture.assert_found(&[&folders[..], &files[..]].concat());
        assert_eq!(fixture.prepare(options), Ok(prepared), "nothing is left to be done");
    }
    assert_eq!(fixture.finish(&[true, false, true, false, true]), []);
    let files = [("t/a", Some(5000)), ("t/d/e/b", Some(70_000)), ("t/c", Some(1))];
    fixture.assert_found(&[&folders[..], &files[..]].concat());
    assert_eq!(fixture.finish(&[true, false, true, false, true]), [], "as before");
    assert_eq!(fixture.finish(&[false; 5]), []);
    assert_eq!(fixture.prepare(SPARSE).unwrap().parts, [false; 5]);
}

#[test]
fn a_sparse_file_takes_no_room_and_a_full_one_all_of_it() {
    let blocks = |fixture: &Fixture| fixture.path("a.part").metadata().unwrap().blocks() * 512;
    let fixture = fixture(&[("a", 1 << 20, false)]);
    fixture.prepare(SPARSE).unwrap();
    assert_eq!(blocks(&fixture), 0);
    std::os::unix::fs::FileExt::write_all_at(
        &File::options().write(true).open(fixture.path("a.part")).unwrap(),
        b"payload",
        500_000,
    )
    .unwrap();
    fixture.prepare(FULL).unwrap();
    assert!(blocks(&fixture) >= 1 << 20);
    let bytes = std::fs::read(fixture.path("a.part")).unwrap();
    assert_eq!(
        (&bytes[500_000..500_007], bytes.len()),
        (b"payload".as_slice(), 1 << 20)
    );
}

#[test]
fn without_the_suffix_a_file_has_its_own_name_and_what_has_the_other_keeps_it() {
    let fixture = fixture(&[("a", 10, false), ("b", 10, false), ("c", 10, false)]);
    let options = Options {
        part_names: false,
        ..SPARSE
    };
    fixture.write("b.part", b"begun");
    fixture.write("c", b"begun");
    assert_eq!(fixture.prepare(options).unwrap().parts, [false, true, false]);
    fixture.assert_found(&[("a", Some(10)), ("b.part", Some(10)), ("c", Some(10))]);
    assert_eq!(fixture.finish(&[false, true, false]), []);
    fixture.assert_found(&[("a", Some(10)), ("b", Some(10)), ("c", Some(10))]);
}

#[test]
fn what_is_there_is_kept_whatever_it_is() {
    let fixture = fixture(&[
        ("right", 5, false),
        ("short", 9, false),
        ("long", 3, false),
        ("part", 9, false),
        ("long part", 3, false),
        ("both", 5, false),
        ("both short", 9, false),
        ("empty", 0, false),
        ("x", 9, false),
        ("x.part", 5, false),
    ]);
    for name in [
        "right",
        "short",
        "long",
        "part.part",
        "long part.part",
        "both",
        "both.part",
        "both short",
        "both short.part",
        "empty",
        "x",
        "x.part",
    ] {
        fixture.write(name, b"bytes");
    }
    let prepared = fixture.prepare(SPARSE).unwrap();
    let parts = [false, true, false, true, true, false, true, false, false, false];
    assert_eq!(prepared.parts, parts);
    fixture.assert_found(&[
        ("right", Some(5)),
        ("short.part", Some(9)),
        ("long", Some(5)),
        ("part.part", Some(9)),
        ("long part.part", Some(5)),
        ("both", Some(5)),
        ("both.part", Some(5)),
        ("both short", Some(5)),
        ("both short.part", Some(9)),
        ("empty", Some(5)),
        ("x", Some(9)),
        ("x.part", Some(5)),
    ]);
    for name in fixture.found().into_keys() {
        let bytes = std::fs::read(fixture.path(&name)).unwrap();
        assert!(
            bytes.starts_with(b"bytes") && bytes[5..].iter().all(|byte| *byte == 0),
            "{name}"
        );
    }
    let told: Vec<String> = prepared.notices.iter().map(Notice::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].starts_with("`long` has 5 bytes instead of 3"));
    assert!(told[1].starts_with("`long part.part` has 5 bytes"));
    assert!(told[2].starts_with("`both short` is not what the torrent says"));
    assert!(told[3].starts_with("`empty` has 5 bytes instead of 0"));

    let failed = fixture.finish(&prepared.parts);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].file, failed[0].cause), (6, Cause::Exists));
    assert_eq!(std::fs::read(fixture.path("both short")).unwrap(), b"bytes");
    assert_eq!(fixture.path("both short.part").metadata().unwrap().len(), 9);
    assert!(!fixture.path("short.part").exists() && fixture.path("short").exists());
}

#[test]
fn what_came_to_lie_there_meanwhile_is_not_replaced() {
    let fixture = fixture(&[("t/a", 5, false), ("t/b", 5, false)]);
    let parts = fixture.prepare(SPARSE).unwrap().parts;
    fixture.write("t/a", b"other");
    let failed = fixture.finish(&parts);
    assert_eq!(failed.len(), 1);
    assert_eq!(
        failed[0].to_string(),
        "cannot give its final name to `t/a.part`: there is something of that name, which btd does not replace (hint: \
         move it away, or delete it)"
    );
    fixture.assert_found(&[("t", None), ("t/a", Some(5)), ("t/a.part", Some(5)), ("t/b", Some(5))]);
    assert_eq!(std::fs::read(fixture.path("t/a")).unwrap(), b"other");
    std::fs::remove_file(fixture.path("t/a")).unwrap();
    assert_eq!(fixture.finish(&parts), []);
    fixture.assert_found(&[("t", None), ("t/a", Some(5)), ("t/b", Some(5))]);
}

#[test]
fn a_file_that_is_gone_cannot_be_finished_and_another_is_not_taken_for_it() {
    let fixture = fixture(&[("a", 5, false), ("b", 5, false)]);
    let parts = fixture.prepare(SPARSE).unwrap().parts;
    std::fs::remove_file(fixture.path("a.part")).unwrap();
    fixture.write("b", b"shrt");
    std::fs::remove_file(fixture.path("b.part")).unwrap();
    let failed = fixture.finish(&parts);
    let causes: Vec<_> = failed.iter().map(|error| (error.file, error.cause)).collect();
    assert_eq!(causes, [(0, Cause::Open(OpenError::Missing)), (1, Cause::TooShort)]);
}

#[test]
fn nothing_is_made_through_a_link_or_over_something_else() {
    type Case = (&'static str, fn(&Fixture), Cause, &'static str);
    let cases: [Case; 6] = [
        (
            "t/d/a",
            |fixture| fixture.write("t/d", b""),
            Cause::Open(OpenError::NotAFolder),
            "cannot open the folder `t/d`: a file stands where a folder of its path should be",
        ),
        (
            "t/d/a",
            |fixture| {
                fixture.write("t/x", b"");
                symlink("/tmp", fixture.path("t/d")).unwrap();
            },
            Cause::Open(OpenError::SymbolicLink),
            "cannot open the folder `t/d`: a symbolic link",
        ),
        (
            "t/a",
            |fixture| {
                fixture.write("t/x", b"");
                symlink("x", fixture.path("t/a")).unwrap();
            },
            Cause::Open(OpenError::SymbolicLink),
            "cannot open `t/a`: a symbolic link",
        ),
        (
            "t/a",
            |fixture| {
                fixture.write("t/x", b"");
                symlink("x", fixture.path("t/a.part")).unwrap();
            },
            Cause::Open(OpenError::SymbolicLink),
            "cannot open `t/a.part`: a symbolic link",
        ),
        (
            "t/a",
            |fixture| fixture.write("t/a/x", b""),
            Cause::Open(OpenError::NotRegular("a folder")),
            "cannot open `t/a`: a folder, not a regular file",
        ),
        (
            "t/a",
            |fixture| fixture.write("t/a.part/x", b""),
            Cause::Open(OpenError::NotRegular("a folder")),
            "cannot open `t/a.part`: a folder, not a regular file",
        ),
    ];
    for (path, make, cause, message) in cases {
        let fixture = fixture(&[(path, 5, false)]);
        make(&fixture);
        let before = fixture.found();
        let error = fixture.prepare(SPARSE).unwrap_err();
        assert_eq!(error.cause, cause, "{error}");
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(fixture.found(), before);
    }
}

#[test]
fn a_disk_that_is_too_small_is_found_out_before_anything_is_set_aside() {
    let fixture = fixture(&[("a", 1 << 42, false), ("b", 1 << 42, false)]);
    let error = fixture.prepare(FULL).unwrap_err();
    let Cause::NoSpace { needed, free } = error.cause else {
        panic!("{error}");
    };
    assert_eq!(needed, 2 << 42);
    assert!(
        error.to_string().contains(&format!("{} too few", needed - free)),
        "{error}"
    );
    assert_eq!(fixture.path("a.part").metadata().unwrap().len(), 0);
    let small = self::fixture(&[("a", 5, false)]);
    assert!(small.prepare(FULL).is_ok());
}

#[test]
fn a_disk_that_refuses_is_told_with_the_remedy() {
    let temp = tempfile::tempdir().unwrap();
    let folder = File::open(temp.path()).unwrap();
    for (errno, hint) in [
        (Errno::NOSPC, "too few (hint: make room"),
        (Errno::DQUOT, "quota"),
        (Errno::ACCESS, "needs to write"),
        (Errno::ROFS, "read-only"),
        (Errno::EXIST, "does not replace"),
        (Errno::FBIG, "longer than its filesystem takes"),
        (Errno::IO, "os error 5"),
    ] {
        let message = Cause::of(errno, 1 << 60, &folder).to_string();
        assert!(message.contains(hint), "{message}");
    }
    // In /proc not even root makes a file.
    let root = Root::open("/proc/self").unwrap();
    let files = entries(&[("a", 5, false)]);
    let error = prepare(&root, &files, &PartNames::new(&files), SPARSE, &mut seen(&root, &files)).unwrap_err();
    assert_eq!(error.step, "create");
}

/// What every interruption of `work` over `fixture` leaves behind, completed by doing it again, is what is there without.
fn interrupted_anywhere(make: impl Fn() -> Fixture, work: impl Fn(&Fixture) -> bool) {
    let whole = make();
    assert!(work(&whole));
    let expected = whole.found();
    for count in 0.. {
        let fixture = make();
        let (done, stopped) = stop_after(count, || work(&fixture));
        assert_ne!(done, stopped, "stopped after {count}");
        // The same again, then interrupted by another cut a step later.
        stop_after(count + 1, || work(&fixture));
        assert!(work(&fixture), "again, after {count}");
        assert_eq!(fixture.found(), expected, "after {count}");
        for (name, _) in expected.iter().filter(|(_, len)| **len > Some(0)) {
            let bytes = std::fs::read(fixture.path(name)).unwrap();
            assert_eq!(bytes, std::fs::read(whole.path(name)).unwrap(), "{name} after {count}");
        }
        if !stopped {
            assert!(count > 5, "{count} steps");
            return;
        }
    }
}

const INTERRUPTED: [(&str, u64, bool); 6] = [
    ("t/a", 5000, false),
    ("t/d/b", 9, false),
    ("t/d/empty", 0, false),
    ("t/short", 9, false),
    ("t/x", 9, false),
    ("t/x.part", 9, false),
];

#[test]
fn preparing_comes_to_the_same_end_however_often_it_is_interrupted() {
    for preallocate in [Preallocate::Sparse, Preallocate::Full] {
        for part_names in [true, false] {
            let options = Options {
                preallocate,
                part_names,
            };
            let make = || {
                let fixture = fixture(&INTERRUPTED);
                fixture.write("t/short", b"bytes");
                fixture
            };
            interrupted_anywhere(make, |fixture| fixture.prepare(options).is_ok());
        }
    }
}

#[test]
fn finishing_comes_to_the_same_end_however_often_it_is_interrupted() {
    let make = || {
        let fixture = fixture(&INTERRUPTED);
        fixture.write("t/short", b"bytes");
        let parts = fixture.prepare(SPARSE).unwrap().parts;
        for (index, entry) in fixture.files.iter().enumerate().filter(|(_, entry)| entry.len > 0) {
            let name = fixture.names.get(index as u32, entry).filter(|_| parts[index]);
            let name = name.as_ref().unwrap_or(&entry.path);
            fixture.write(name.as_str(), &vec![index as u8 + 1; entry.len as usize]);
        }
        fixture
    };
    let parts = make().prepare(SPARSE).unwrap().parts;
    assert_eq!(parts, [true, true, false, true, false, true]);
    // By one who still knows where they were, and by one who has started anew and looked.
    interrupted_anywhere(make, |fixture| fixture.finish(&parts).is_empty());
    interrupted_anywhere(make, |fixture| {
        let parts = fixture.prepare(SPARSE).unwrap_or_else(|_| Prepared {
            parts: parts.clone(),
            notices: Vec::new(),
        });
        fixture.finish(&parts.parts).is_empty()
    });
}

#[test]
fn a_renaming_by_links_that_was_interrupted_is_found_and_finished() {
    let fixture = fixture(&[("a", 5, false)]);
    fixture.write("a.part", b"bytes");
    std::fs::hard_link(fixture.path("a.part"), fixture.path("a")).unwrap();
    let prepared = fixture.prepare(SPARSE).unwrap();
    assert_eq!((prepared.parts.as_slice(), prepared.notices.len()), (&[true][..], 0));
    assert_eq!(fixture.finish(&prepared.parts), []);
    fixture.assert_found(&[("a", Some(5))]);
    // Other names of a file mean nothing.
    std::fs::hard_link(fixture.path("a"), fixture.path("b")).unwrap();
    assert_eq!(fixture.prepare(SPARSE).unwrap().parts, [false]);
}

#[test]
fn what_is_made_may_be_read_by_whom_the_umask_lets() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = fixture(&[("t/a", 5, false)]);
    fixture.prepare(SPARSE).unwrap();
    // Less what the umask of this process takes away, which other files here show.
    fixture.write("t/b", b"");
    let mode = |path: &str| fixture.path(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("t/a.part"), mode("t/b"));
    std::fs::create_dir(fixture.path("u")).unwrap();
    assert_eq!(mode("t"), mode("u"));
}

#[test]
fn many_files_are_finished_together_and_what_fails_is_told_of_its_own() {
    use crate::storage::folder::SYNCS_MAX;
    let names: Vec<String> = (0..2 * SYNCS_MAX).map(|n| format!("t/d{}/f{n}", n % 40)).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, 10, false)).collect();
    let fixture = fixture(&files);
    let parts = fixture.prepare(SPARSE).unwrap().parts;
    fixture.write("t/d3/f3", b"other");
    std::fs::rename(fixture.path("t/d7"), fixture.path("t/gone")).unwrap();
    let failed = fixture.finish(&parts);
    let mut indexes: Vec<u32> = failed.iter().map(|error| error.file).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [3, 7, 47]);
    std::fs::remove_file(fixture.path("t/d3/f3")).unwrap();
    std::fs::rename(fixture.path("t/gone"), fixture.path("t/d7")).unwrap();
    assert_eq!(fixture.finish(&parts), []);
    assert!(names.iter().all(|name| fixture.path(name).exists()));
    assert_eq!(fixture.found().len(), 1 + 40 + names.len());
}

/// However many they are, the disk is asked twice: for what is in the files, and for their names.
#[test]
fn two_thousand_files_in_forty_folders_are_finished_with_two_syncs() {
    const FILES: u32 = 2000;
    let names: Vec<String> = (0..FILES).map(|n| format!("t/d{}/f{n}", n % 40)).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, 10, false)).collect();
    let prepared = || {
        let fixture = fixture(&files);
        let parts = fixture.prepare(SPARSE).unwrap().parts;
        (fixture, parts)
    };
    let (fixture, parts) = prepared();
    // Each renaming is a step, and so is each sync. One too few: the last is the folders' sync, of which all hear.
    let (failed, stopped) = stop_after(FILES + 1, || fixture.finish(&parts));
    assert!(stopped && failed.len() == FILES as usize, "{} failed", failed.len());
    let is_named = |name: &String| fixture.path(name).exists();
    assert!(names.iter().all(is_named), "all are renamed by then");
    let (fixture, parts) = prepared();
    let (failed, stopped) = stop_after(FILES + 2, || fixture.finish(&parts));
    assert_eq!((failed, stopped), (vec![], false));
}

/// What many small files cost: `cargo test --release -- --ignored --nocapture finish_time`.
#[test]
#[ignore = "measures, and judges nothing"]
fn finish_time_of_two_thousand_files() {
    let names: Vec<String> = (0..2000).map(|n| format!("t/d{}/f{n}", n / 100)).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, 100_000, false)).collect();
    for is_clean in [true, false] {
        let fixture = fixture(&files);
        let start = Instant::now();
        let parts = fixture.prepare(SPARSE).unwrap().parts;
        println!("prepared: {:?}", start.elapsed());
        for name in &names {
            std::fs::write(fixture.path(&format!("{name}.part")), [7; 100_000]).unwrap();
        }
        if is_clean {
            rustix::fs::syncfs(File::open(fixture.temp.path()).unwrap()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        let start = Instant::now();
        assert_eq!(fixture.finish(&parts), []);
        println!("finished, written before: {is_clean}: {:?}", start.elapsed());
    }
}

#[test]
fn files_are_synced_wherever_they_lie_and_an_error_of_the_disk_is_a_doubt() {
    // One, and more than are synced singly.
    for count in [1, 40] {
        let names: Vec<String> = (0..count).map(|at| format!("t/{at}")).collect();
        let files: Vec<(&str, u64, bool)> = names.iter().map(|name| (name.as_str(), 5, false)).collect();
        let fixture = fixture(&files);
        let mut parts = fixture.prepare(SPARSE).unwrap().parts;
        let all: Vec<u32> = (0..count).collect();
        let sync = |parts: &[bool]| sync(&fixture.root, &fixture.files, &fixture.names, parts, &all);
        assert_eq!(sync(&parts), Ok(()));
        let (failed, stopped) = stop_after(0, || sync(&parts));
        let error = failed.unwrap_err();
        assert!(stopped && error.is_doubtful(), "{error}");
        forget_cached(&fixture.root, &fixture.files, &fixture.names, &all);
        // It got its own name.
        std::fs::rename(fixture.path("t/0.part"), fixture.path("t/0")).unwrap();
        let error = sync(&parts).unwrap_err();
        assert!(error.is_doubtful() && error.step == "open", "{error}");
        parts[0] = false;
        assert_eq!(sync(&parts), Ok(()));
    }
}

#[test]
fn what_has_come_or_changed_since_it_was_looked_at_is_left_as_it_is() {
    let fixture = fixture(&[("t/a", 5, false), ("t/b", 5, false)]);
    let prepare = |seen: &mut Vec<Seen>| prepare(&fixture.root, &fixture.files, &fixture.names, SPARSE, seen);
    let refused = |seen: &mut Vec<Seen>, path: &str| {
        let error = prepare(seen).unwrap_err();
        assert_eq!((error.path.as_str(), error.cause), (path, Cause::Unjudged), "{error}");
        assert!(error.is_unjudged() && !error.is_doubtful());
    };
    // It came, right by its length or not, or as what is not complete.
    for (path, bytes) in [
        ("t/b", &b"mine!"[..]),
        ("t/b", b"mi"),
        ("t/b", b"mine, all"),
        ("t/b.part", b"mi"),
    ] {
        let mut seen = fixture.seen();
        fixture.write(path, bytes);
        refused(&mut seen, path);
        assert_eq!(std::fs::read(fixture.path(path)).unwrap(), bytes);
        std::fs::remove_dir_all(fixture.path("t")).unwrap();
    }
    // It was another, as what is not complete too.
    fixture.write("t/b.part", b"mi");
    let mut seen = fixture.seen();
    fixture.write("t/b.part", b"mine!");
    refused(&mut seen, "t/b.part");
    std::fs::remove_dir_all(fixture.path("t")).unwrap();
    fixture.write("t/b", b"ours.");
    let mut seen = fixture.seen();
    fixture.write("t/b", b"mine!");
    let file = std::fs::File::options().append(true).open(fixture.path("t/b")).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(9))
        .unwrap();
    refused(&mut seen, "t/b");
    // What was made before that is the download's, and what is gone is made.
    std::fs::remove_file(fixture.path("t/b")).unwrap();
    assert_eq!(prepare(&mut seen).unwrap().parts, [true, true]);
    fixture.write("t/a.part", b"right");
    assert_eq!(
        prepare(&mut seen).unwrap().parts,
        [true, true],
        "that was written by it"
    );
    fixture.write("t/a", b"mine!");
    refused(&mut seen, "t/a");
    assert_eq!(std::fs::read(fixture.path("t/a.part")).unwrap(), b"right");
}
