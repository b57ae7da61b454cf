//! The cache as registered memory.

use rustix::io::Errno;

use super::*;
use crate::io::uring::pool::BUF_LEN;

/// Pages of the pool that there is memory for.
fn resident(driver: &Uring) -> usize {
    let len = driver.pool().len();
    let mut pages = vec![0_u8; len.div_ceil(4096)];
    // SAFETY: the pool is a mapping of this length, and there is a byte for each of its pages.
    let result = unsafe { libc::mincore(driver.pool().at(0).cast(), len, pages.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    pages.iter().filter(|page| **page & 1 == 1).count()
}

/// Reads the file into a buffer of each of so many stretches, a huge page each, and compares.
fn read_into(driver: &mut Uring, path: &Path, stretches: usize) {
    driver.submit(OWNER, open(&folder(path), "payload"));
    let Outcome::Opened { result, .. } = reap(driver, 1).remove(0).outcome else {
        panic!("not an open");
    };
    let file = result.unwrap().file;
    // The lowest first.
    let per_stretch = (2 << 20) / BUF_LEN;
    let mut held: Vec<_> = (0..stretches * per_stretch)
        .map(|_| driver.pool().take().unwrap())
        .collect();
    for stretch in (0..stretches).rev() {
        let read = Op::Read {
            file: file.clone(),
            offset: stretch as u64,
            len: 5000,
            at: 512,
            buf: held.swap_remove(stretch * per_stretch + stretch % per_stretch),
            uncached: false,
        };
        driver.submit(OWNER, read);
        let Outcome::ReadDone { result, buf } = reap(driver, 1).remove(0).outcome else {
            panic!("not a read");
        };
        assert_eq!(result, Ok(5000));
        let wanted: Vec<u8> = (stretch..stretch + 5000).map(|at| at as u8).collect();
        assert_eq!(buf.as_slice()[512..][..5000], wanted);
    }
}

fn payload() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fs::write(
        temp.path().join("payload"),
        (0..8192_usize).map(|at| at as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    temp
}

fn driver_of(mib: u32) -> Uring {
    let pool_bufs = mib * 8;
    Uring::new(UringConfig {
        pool_bufs,
        ..config(Features::ALL)
    })
    .unwrap()
}

#[test]
fn cache_is_memory_and_registered_as_far_as_it_is_read_into() {
    let (mut driver, temp) = (driver_of(64), payload());
    assert!(driver.features().buffers);
    let pages = |mib: usize| mib * 256;
    assert!(
        resident(&driver) <= pages(2),
        "{} pages before anything is read",
        resident(&driver)
    );
    read_into(&mut driver, temp.path(), 5);
    assert!(
        (pages(10)..=pages(12)).contains(&resident(&driver)),
        "{} pages",
        resident(&driver)
    );
    assert_eq!(driver.registered.as_ref().unwrap().known(), 5);
    // The same ones again, and others.
    read_into(&mut driver, temp.path(), 7);
    assert_eq!(driver.registered.as_ref().unwrap().known(), 7);
}

#[test]
fn what_may_not_be_registered_is_read_into_all_the_same() {
    let (mut driver, temp) = (driver_of(64), payload());
    driver.registered.as_mut().unwrap().refuse(Errno::NOMEM);
    read_into(&mut driver, temp.path(), 3);
    assert_eq!(driver.registered.as_ref().unwrap().known(), 1, "the one of the start");
}
