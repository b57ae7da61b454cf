//! Files that are opened, read and closed.

use super::*;

#[test]
fn a_file_that_is_kept_apart_is_closed_by_the_kernels_threads() {
    let mut driver = driver();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("payload");
    fs::write(&path, b"payload").unwrap();
    driver.submit(OWNER, open_as(&folder(temp.path()), "payload", false, true));
    let Outcome::Opened { result, .. } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("not an open");
    };
    let file = result.unwrap().file;
    let link = format!("/proc/self/fd/{}", file.raw_fd());
    let is_open = || fs::read_link(&link).is_ok_and(|target| target == path);
    assert!(is_open());
    drop(file);
    assert!(is_open(), "dropping it must not wait for a close(2)");
    let deadline = Instant::now() + Duration::from_secs(10);
    let wait = Wait {
        at_most: Duration::from_millis(1),
        ..Wait::POLL
    };
    while is_open() {
        assert!(Instant::now() < deadline, "it is never closed");
        driver.turn(wait, &mut Vec::new()).unwrap();
    }
}

#[test]
fn open_stays_beneath_its_folder_and_does_not_hang() {
    let mut driver = driver();
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("data");
    fs::create_dir(&root).unwrap();
    fs::create_dir(root.join("sub")).unwrap();
    fs::write(temp.path().join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let dir = folder(&root);
    let mut open = |path: &str| {
        driver.submit(OWNER, open(&dir, path));
        match reap(&mut driver, 1).remove(0).outcome {
            Outcome::Opened { result, .. } => result.map(|opened| opened.regular),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(open("../secret"), Err(Errno::XDEV));
    assert_eq!(open("link"), Err(Errno::LOOP));
    assert_eq!(open("fifo"), Ok(false));
    assert_eq!(open("sub"), Ok(false));
    assert_eq!(open("gone"), Err(Errno::NOENT));
}

#[test]
fn file_of_a_filesystem_without_asynchronous_reads_is_read() {
    let mut driver = driver();
    // tmpfs where there is one; elsewhere this is one more read.
    let temp = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    fs::write(temp.path().join("payload"), [3; 100]).unwrap();
    driver.submit(OWNER, open(&folder(temp.path()), "payload"));
    let Outcome::Opened { result: Ok(opened), .. } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("not opened");
    };
    let (file, buf) = (opened.file, driver.pool().take().unwrap());
    let (offset, len, at) = (0, 4096, 0);
    driver.submit(
        OWNER,
        Op::Read {
            file,
            offset,
            len,
            at,
            buf,
            uncached: false,
        },
    );
    let Outcome::ReadDone { result, buf } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("not a read");
    };
    assert_eq!(result, Ok(100));
    assert_eq!(buf.as_slice()[..100], [3; 100]);
}
