//! The disk a folder lies on, and whether it seeks.
//!
//! The kernel says so in `/sys/dev/block/MAJOR:MINOR/queue/rotational` (of a partition: its disk's). A filesystem
//! without a device of its own (btrfs and its subvolumes, for one) is looked up in `/proc/self/mountinfo`, which names
//! the device it was mounted from. What cannot be found out counts as a disk that does not seek.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, StatxFlags, makedev};

/// See [`Manners::depth`]. Half of the threads that a shard's ring has at most: reads of one filesystem that hangs behind another
/// process or machine leave some for the other disks.
const DEPTH_UNKNOWN: u32 = 32;
const DEPTH_MIN: u32 = 16;
const DEPTH_MAX: u32 = 512;

/// One disk, or what stands for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// The disk's device number, or the filesystem's where the disk is not known.
    id: u64,
    /// Whether reading here and there is much slower than reading on.
    pub seeks: bool,
}

impl Device {
    /// The device of an open file or folder.
    #[must_use]
    pub fn of(fd: impl AsFd) -> Self {
        // The descriptor is open, so this cannot fail for want of it; if it does, all such count as one device.
        let id = rustix::fs::fstat(&fd).map_or(0, |stat| stat.st_dev);
        let sys = Path::new("/sys/dev/block");
        let unknown = Self { id, seeks: false };
        disk(sys, id)
            .or_else(|| disk(sys, mounted_from(fd)?))
            .unwrap_or(unknown)
    }
}

impl Device {
    /// What the kernel calls the disk (`sda`), else its numbers (`0:45`).
    #[must_use]
    pub fn name(&self) -> String {
        let numbers = format!("{}:{}", rustix::fs::major(self.id), rustix::fs::minor(self.id));
        let events = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
        let name = events.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        name.map_or(numbers, str::to_owned)
    }
}

/// How a block device is best asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// Requests that it takes at once: half of its queue, since others read too. Where that is not known (no block device
    /// of its own) as many as keep a fast one busy: 4 MiB and more.
    pub depth: u32,
    /// Whether reading here and there is much slower than reading on.
    pub seeks: bool,
}

/// How the block device of this number is best asked.
#[must_use]
pub fn manners(id: u64) -> Manners {
    manners_in(Path::new("/sys/dev/block"), id)
}

fn manners_in(sys: &Path, id: u64) -> Manners {
    Manners {
        depth: depth_in(sys, id),
        seeks: disk(sys, id).is_some_and(|disk| disk.seeks),
    }
}

fn depth_in(sys: &Path, id: u64) -> u32 {
    let device = sys.join(format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id)));
    let queue = [device.clone(), device.join("..")].iter().find_map(|disk| {
        let text = fs::read_to_string(disk.join("queue/nr_requests")).ok()?;
        text.trim().parse::<u32>().ok()
    });
    queue.map_or(DEPTH_UNKNOWN, |requests| (requests / 2).clamp(DEPTH_MIN, DEPTH_MAX))
}

/// The disk that a block device is, or is a partition of.
fn disk(sys: &Path, id: u64) -> Option<Device> {
    let device = sys.join(format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id)));
    [device.clone(), device.join("..")].iter().find_map(|disk| {
        let seeks = match fs::read_to_string(disk.join("queue/rotational")).ok()?.trim() {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let id = fs::read_to_string(disk.join("dev"))
            .ok()
            .and_then(|text| number(text.trim()))
            .unwrap_or(id);
        Some(Device { id, seeks })
    })
}

/// The block device that the mount of a file was made from. By the mount's id, statx(2): the `st_dev` of a btrfs subvolume
/// is nowhere else to be found.
fn mounted_from(fd: impl AsFd) -> Option<u64> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = rustix::fs::stat(source_of(&mounts, stat.stx_mnt_id)?).ok()?;
    (FileType::from_raw_mode(source.st_mode) == FileType::BlockDevice).then_some(source.st_rdev)
}

/// What a mount was made from, proc_pid_mountinfo(5): `36 35 98:0 /root /mnt rw - ext4 /dev/sda1 rw`.
fn source_of(mounts: &str, mount: u64) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        (fields.split(' ').next()?.parse() == Ok(mount)).then(|| rest.split(' ').nth(1))?
    })
}

/// `8:1` as a device number.
fn number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
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
        fs::write(disk.join("dev"), "8:0\n").unwrap();
        let (id, found) = (makedev(8, 0), |minor| disk_at(temp.path(), minor));
        assert_eq!(found(0), Some(Device { id, seeks: true }));
        assert_eq!(
            found(1),
            Some(Device { id, seeks: true }),
            "a head reads one of them at a time"
        );
        assert_eq!(found(2), None);
        fs::write(disk.join("queue/nr_requests"), "256\n").unwrap();
        let found_in = |minor| manners_in(temp.path(), makedev(8, minor));
        let manners = |depth, seeks| Manners { depth, seeks };
        assert_eq!([0, 1].map(found_in), [manners(128, true); 2]);
        assert_eq!(found_in(2), manners(DEPTH_UNKNOWN, false));
        fs::write(disk.join("queue/rotational"), "0\n").unwrap();
        assert_eq!(found(1), Some(Device { id, seeks: false }));
    }

    fn disk_at(sys: &Path, minor: u32) -> Option<Device> {
        super::disk(sys, makedev(8, minor))
    }

    #[test]
    fn a_filesystem_without_a_device_is_found_by_its_mount() {
        let mounts = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      30 21 0:33 /@home /home rw,relatime shared:2 - btrfs /dev/sdb rw,subvol=/@home\n\
                      31 21 0:40 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(mounts, 30), Some("/dev/sdb"));
        assert_eq!(source_of(mounts, 31), Some("tmpfs"));
        assert_eq!(source_of(mounts, 3), None);
    }

    #[test]
    fn folders_of_one_filesystem_are_on_one_device() {
        let temp = tempfile::tempdir().unwrap();
        let sub = temp.path().join("sub");
        fs::create_dir(&sub).unwrap();
        let device = |path: &Path| Device::of(fs::File::open(path).unwrap());
        assert_eq!(device(temp.path()), device(&sub));
        assert!(!device(temp.path()).name().is_empty());
    }
}
