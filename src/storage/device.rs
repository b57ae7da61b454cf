//! The disk a folder lies on, and whether it seeks.
//!
//! The kernel says so in `/sys/dev/block/MAJOR:MINOR/queue/rotational` (of a partition: its disk's). A filesystem
//! without a device of its own (btrfs and its subvolumes, for one) is looked up in `/proc/self/mountinfo`, which names
//! the device it was mounted from. What cannot be found out counts as a disk that does not seek.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, makedev};

/// One disk, or what stands for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// `st_dev` of the filesystem.
    id: u64,
    /// Whether reading here and there is much slower than reading on.
    pub seeks: bool,
}

impl Device {
    /// The device of an open file or folder.
    #[must_use]
    pub fn of(fd: impl AsFd) -> Self {
        // The descriptor is open, so this cannot fail for want of it; if it does, all such count as one device.
        let id = rustix::fs::fstat(fd).map_or(0, |stat| stat.st_dev);
        let seeks = rotational(Path::new("/sys/dev/block"), id).or_else(|| {
            let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
            let source = rustix::fs::stat(source_of(&mounts, id)?).ok()?;
            let is_device = FileType::from_raw_mode(source.st_mode) == FileType::BlockDevice;
            is_device.then(|| rotational(Path::new("/sys/dev/block"), source.st_rdev))?
        });
        Self {
            id,
            seeks: seeks.unwrap_or(false),
        }
    }
}

/// What the kernel says of a block device.
fn rotational(sys: &Path, id: u64) -> Option<bool> {
    let device = sys.join(format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id)));
    ["queue/rotational", "../queue/rotational"].iter().find_map(|file| {
        let text = fs::read_to_string(device.join(file)).ok()?;
        match text.trim() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    })
}

/// The device that a filesystem was mounted from, proc_pid_mountinfo(5): `36 35 98:0 /root /mnt rw - ext4 /dev/sda1 rw`.
fn source_of(mounts: &str, id: u64) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let (major, minor) = fields.split(' ').nth(2)?.split_once(':')?;
        (makedev(major.parse().ok()?, minor.parse().ok()?) == id).then(|| rest.split(' ').nth(1))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_as_its_disk_and_what_is_not_there_is_unknown() {
        let temp = tempfile::tempdir().unwrap();
        let disk = temp.path().join("devices/sda");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::create_dir_all(disk.join("sda1")).unwrap();
        fs::write(disk.join("queue/rotational"), "1\n").unwrap();
        for (name, target) in [("8:0", disk.clone()), ("8:1", disk.join("sda1"))] {
            std::os::unix::fs::symlink(target, temp.path().join(name)).unwrap();
        }
        assert_eq!(rotational(temp.path(), makedev(8, 0)), Some(true));
        assert_eq!(rotational(temp.path(), makedev(8, 1)), Some(true));
        assert_eq!(rotational(temp.path(), makedev(8, 2)), None);
        fs::write(disk.join("queue/rotational"), "0\n").unwrap();
        assert_eq!(rotational(temp.path(), makedev(8, 1)), Some(false));
    }

    #[test]
    fn a_filesystem_without_a_device_is_found_by_its_mount() {
        let mounts = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      30 21 0:33 /@home /home rw,relatime shared:2 - btrfs /dev/sdb rw,subvol=/@home\n\
                      31 21 0:40 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(mounts, makedev(0, 33)), Some("/dev/sdb"));
        assert_eq!(source_of(mounts, makedev(0, 40)), Some("tmpfs"));
        assert_eq!(source_of(mounts, makedev(0, 41)), None);
    }

    #[test]
    fn folders_of_one_filesystem_are_on_one_device() {
        let temp = tempfile::tempdir().unwrap();
        let sub = temp.path().join("sub");
        fs::create_dir(&sub).unwrap();
        let device = |path: &Path| Device::of(fs::File::open(path).unwrap());
        assert_eq!(device(temp.path()), device(&sub));
    }
}
