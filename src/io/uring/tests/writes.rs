//! Files that are written to.

use bytes::Bytes;

use super::*;
use crate::io::Opened;

/// A file of a temporary folder, opened through the ring.
fn open_to_write(driver: &mut Uring, dir: &std::path::Path, name: &str) -> Result<Opened, Errno> {
    driver.submit(OWNER, open_as(&folder(dir), name, true, false));
    let completion = reap(driver, 1).remove(0);
    let Outcome::Opened { result, write: true } = completion.outcome else {
        panic!("not an open for writing");
    };
    result
}

#[test]
fn what_is_written_is_there_wherever_it_was_put() {
    for features in all_masks() {
        let mut driver = Uring::new(config(features)).unwrap();
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), b"0123456789").unwrap();
        let file = open_to_write(&mut driver, temp.path(), "file").unwrap().file;
        for (offset, text) in [(2, &b"ab"[..]), (20, b"end")] {
            driver.submit(
                OWNER,
                Op::Write {
                    file: file.clone(),
                    offset,
                    bytes: Bytes::from_static(text),
                    uncached: false,
                },
            );
            let completion = reap(&mut driver, 1).remove(0);
            let Outcome::Written { result, bytes } = completion.outcome else {
                panic!("not a write");
            };
            assert_eq!((result, &bytes[..]), (Ok(text.len() as u32), text));
        }
        let written = fs::read(temp.path().join("file")).unwrap();
        assert_eq!(written, b"01ab456789\0\0\0\0\0\0\0\0\0\0end");
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn nothing_is_opened_to_write_through_a_link_or_outside_or_that_is_not_there() {
    let mut driver = driver();
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("data")).unwrap();
    fs::write(temp.path().join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink("../secret", temp.path().join("data/link")).unwrap();
    let data = temp.path().join("data");
    let mut error = |name| open_to_write(&mut driver, &data, name).unwrap_err();
    assert_eq!(error("link"), Errno::LOOP);
    assert_eq!(error("../secret"), Errno::XDEV);
    assert_eq!(error("none"), Errno::NOENT);
    assert_eq!(error("."), Errno::ISDIR);
}
