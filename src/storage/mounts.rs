//! Which filesystem a folder lies on, in terms that outlive a restart: see [`Filesystem`].
//!
//! The identifier is the one that statfs(2) gives where the filesystem makes it of what it was formatted with; the others
//! put a device number there, which is another one after the next start, or nothing. For those of them that lie on a block
//! device udev's `/dev/disk/by-uuid` is looked into. Nothing here is worth an error: what cannot be found out is left out.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatxFlags};

use crate::session::Filesystem;

/// Where udev names filesystems by their identifiers.
const BY_UUID: &str = "/dev/disk/by-uuid";

/// Filesystems whose `f_fsid` is made of what they were formatted with: ext2 to ext4, btrfs, ZFS, bcachefs.
const LASTING: [u64; 4] = [0xef53, 0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e];

/// The filesystem that an open file or folder lies on.
///
/// # Errors
/// The kernel does not say, as of a network mount that is dead.
pub fn filesystem_of(fd: impl AsFd) -> std::io::Result<Filesystem> {
    let fd = fd.as_fd();
    let kind = rustix::fs::fstatfs(fd)?.f_type as u64;
    let fsid = rustix::fs::fstatvfs(fd)?.f_fsid;
    let id = match LASTING.contains(&kind) {
        true => (fsid != 0).then(|| format!("{fsid:016x}")),
        false => uuid(fd),
    };
    let (mount_point, source) = mount(fd).unwrap_or_default();
    Ok(Filesystem {
        kind,
        id,
        mount_point,
        source,
    })
}

/// The name that udev has for the block device of a filesystem.
fn uuid(fd: BorrowedFd<'_>) -> Option<String> {
    let device = rustix::fs::fstat(fd).ok()?.st_dev;
    if rustix::fs::major(device) == 0 {
        return None; // It has no block device.
    }
    let is_its = |path: &Path| {
        let found = rustix::fs::stat(path);
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && stat.st_rdev == device)
    };
    let mut named = fs::read_dir(BY_UUID).ok()?.filter_map(Result::ok);
    let entry = named.find(|entry| is_its(&entry.path()))?;
    entry.file_name().into_string().ok()
}

/// Where the mount of a file is, and what was mounted there.
fn mount(fd: BorrowedFd<'_>) -> Option<(PathBuf, String)> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    mount_in(&mounts, stat.stx_mnt_id)
}

/// The same in proc_pid_mountinfo(5). A folder that is mounted on itself is where the filesystem is that it belongs to, if that is
/// to be seen: systemd mounts what a service may write to so (`ReadWritePaths=`), and what that names is changed with a unit.
fn mount_in(mounts: &[u8], id: u64) -> Option<(PathBuf, String)> {
    let all = || mounts.split(|byte| *byte == b'\n').filter_map(Mount::read);
    let own = all().find(|mount| mount.id == id)?;
    // Of several the same whatever their order.
    let whole = all()
        .filter(|mount| mount.device == own.device && mount.root == b"/")
        .min_by_key(|mount| mount.mount_point);
    let mount = whole.filter(|_| own.root != b"/").unwrap_or(own);
    let source = String::from_utf8_lossy(&unescaped(mount.source)).into_owned();
    let mount_point = std::ffi::OsString::from_vec(unescaped(mount.mount_point));
    Some((PathBuf::from(mount_point), source))
}

/// A line of it: `36 35 98:0 /root /mnt rw - ext4 /dev/sda1 rw`.
struct Mount<'a> {
    id: u64,
    device: &'a [u8],
    /// What of the filesystem is mounted.
    root: &'a [u8],
    mount_point: &'a [u8],
    source: &'a [u8],
}

impl<'a> Mount<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let (device, root, mount_point) = (fields.nth(1)?, fields.next()?, fields.next()?);
        let source = fields.skip_while(|field| *field != b"-").nth(2)?;
        Some(Self {
            id,
            device,
            root,
            mount_point,
            source,
        })
    }
}

/// The kernel writes blanks and the like as `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((byte, behind)) = rest.split_first() {
        let octal = behind.first_chunk::<3>().filter(|_| *byte == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &behind[3..];
            }
            None => {
                out.push(*byte);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        30 21 0:33 /@home /srv/my\\040disk rw,relatime shared:2 master:1 - btrfs /dev/sdb rw,subvol=/@home\n\
        31 21 0:40 / /net rw - nfs4 server:/export rw";

    #[test]
    fn a_mount_is_found_by_its_number_with_where_it_is_and_what_it_is_of() {
        let found = |id| mount_in(MOUNTS, id).map(|(at, source)| (at.display().to_string(), source));
        let expected = |at: &str, source: &str| Some((at.to_owned(), source.to_owned()));
        assert_eq!(found(21), expected("/", "/dev/sda1"));
        assert_eq!(found(30), expected("/srv/my disk", "/dev/sdb"));
        assert_eq!(found(31), expected("/net", "server:/export"));
        assert_eq!(found(3), None);
        assert_eq!(mount_in(b"garbage\n21\n\n21 1 8:1", 21), None);
    }

    /// As in the mount namespace of a service that may write to `/net/data`, and with another filesystem there.
    #[test]
    fn a_folder_that_is_mounted_on_itself_is_where_its_filesystem_is() {
        let bound = b"40 31 0:40 /data /net/data rw - nfs4 server:/export rw\n\
            41 21 0:41 / /net/other rw - nfs4 server:/other rw";
        let mounts = [MOUNTS, b"\n", bound].concat();
        let found = |id| mount_in(&mounts, id).map(|(at, source)| (at.display().to_string(), source));
        let expected = |at: &str, source: &str| Some((at.to_owned(), source.to_owned()));
        assert_eq!(found(40), found(31));
        assert_eq!(found(41), expected("/net/other", "server:/other"));
        // In a container nothing is to be seen of the whole.
        let alone = mount_in(bound, 40).map(|(at, _)| at);
        assert_eq!(alone, Some(PathBuf::from("/net/data")));
    }

    #[test]
    fn folders_of_one_filesystem_are_on_the_same_and_those_of_proc_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let sub = temp.path().join("sub");
        fs::create_dir(&sub).unwrap();
        let of = |path: &Path| filesystem_of(fs::File::open(path).unwrap()).unwrap();
        assert!(of(temp.path()).is_same(&of(&sub)));
        assert!(!of(temp.path()).is_same(&of(Path::new("/proc"))));
        assert!(!of(temp.path()).mount_point.as_os_str().is_empty());
    }
}
