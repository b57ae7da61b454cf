//! Filesystems of a test's own. All of them need root.

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, unmount};

use super::cannot;
use super::scratch::Scratch;

/// A filesystem in memory, mounted as long as this lives.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one with these options at `at`. `Err` says why that cannot be done here.
    pub fn mount(at: &Path, options: &CStr) -> Result<Tmpfs, String> {
        match rustix::mount::mount("btd-test", at, "tmpfs", MountFlags::empty(), Some(options)) {
            Ok(()) => Ok(Tmpfs(at.to_owned())),
            Err(errno) => Err(format!("no tmpfs can be mounted: {errno}")),
        }
    }
}

/// A file in the place of another, as long as this lives.
pub struct InPlace(PathBuf);

impl InPlace {
    /// Puts `file` in the place of the one at `at`. `Err` says why that cannot be done here.
    pub fn put(file: &Path, at: &Path) -> Result<InPlace, String> {
        match rustix::mount::mount_bind(file, at) {
            Ok(()) => Ok(InPlace(at.to_owned())),
            Err(errno) => Err(format!("no file can be mounted: {errno}")),
        }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A filesystem in memory, and a data folder on it. Where that cannot be had, it is said so.
pub fn small_disk(scratch: &Scratch, options: &CStr) -> Option<(Tmpfs, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        cannot("mounting needs root");
        return None;
    }
    match Tmpfs::mount(&scratch.dir("small"), options) {
        Ok(mounted) => Some((mounted, scratch.dir("small/data"))),
        Err(why) => {
            cannot(&why);
            None
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A filesystem in a file, mounted as long as this lives.
pub struct Image {
    pub file: PathBuf,
    pub mounted_at: PathBuf,
}

impl Image {
    /// Makes a filesystem and mounts it. `None` where that cannot be done.
    pub fn make(scratch: &Scratch, filesystem: &str) -> Option<Image> {
        let file = scratch.path().join("image");
        // The least that XFS takes is 300 MiB; what is not written takes no room.
        let made = fs::File::create(&file).and_then(|image| image.set_len(400 << 20));
        made.expect("make an image file");
        let mkfs = Command::new(format!("mkfs.{filesystem}")).arg("-q").arg(&file).status();
        if !mkfs.expect("run mkfs").success() {
            return None;
        }
        Image::mount(file, scratch.dir("mounted"), filesystem)
    }

    pub fn mount(file: PathBuf, at: PathBuf, filesystem: &str) -> Option<Image> {
        // A copy of an XFS has its UUID, and is refused beside it.
        let options = if filesystem == "xfs" { "loop,nouuid" } else { "loop" };
        let status = Command::new("mount").args(["-o", options]).arg(&file).arg(&at).status();
        status
            .expect("run mount")
            .success()
            .then_some(Image { file, mounted_at: at })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mounted_at).status();
    }
}
