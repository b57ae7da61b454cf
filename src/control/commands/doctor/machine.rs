//! What the kernel says of itself, of a process and of its disks, in `/proc` and `/sys`.
//!
//! All of it is read below a root, so that tests can make up a machine. Nothing is judged here; what cannot be read is
//! `None`, which is no finding: a container or `ProcSubset=pid` hides much of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// No file that is read here is longer, but for the mounts of a host of many containers.
const FILE_LEN_MAX: u64 = 4 << 20;

/// As bits of `CapEff`.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

/// See the head of this file.
pub(super) struct Machine {
    root: PathBuf,
    /// `self`, or a number.
    process: String,
}

/// A limit of a process; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// As whom a process looks at files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: u32,
    pub(super) groups: Vec<u32>,
    /// It may enter any folder (`CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`).
    pub(super) enters_all: bool,
}

/// What a folder lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `ext4`
    pub(super) filesystem: String,
    /// `8:1`, that of the filesystem.
    pub(super) device: String,
    /// Where it was mounted from: `/dev/sda1`, or a name.
    pub(super) source: String,
}

/// A disk's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// `sda`
    pub(super) name: String,
    pub(super) seeks: bool,
    /// `mq-deadline`
    pub(super) scheduler: Option<String>,
    pub(super) requests: Option<u64>,
}

impl Machine {
    /// This one, with the limits of the process of this number, or of this process.
    pub(super) fn here(process: Option<u32>) -> Self {
        let process = process.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        Self {
            root: PathBuf::from("/"),
            process,
        }
    }

    /// Whether there is a process of that number, as far as this one can see.
    pub(super) fn has_process(&self) -> bool {
        self.root.join("proc").join(&self.process).exists()
    }

    /// One whose `/proc` and `/sys` are below `root`.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            process: "self".to_owned(),
        }
    }

    /// The same with the limits of the process of this number.
    #[cfg(test)]
    pub(super) fn with(self, process: u32) -> Self {
        let process = process.to_string();
        Self { process, ..self }
    }

    /// A file without the white space around its text.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut text = String::new();
        let file = File::open(self.root.join(path)).ok()?;
        file.take(FILE_LEN_MAX).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file that is a number.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// A line of the process's status: `Seccomp`, `CapEff`.
    pub(super) fn status(&self, key: &str) -> Option<String> {
        let text = self.read(format!("proc/{}/status", self.process))?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == key).then(|| value.trim().to_owned())
        })
    }

    /// The process that was asked for, if it is another than this one.
    pub(super) fn process(&self) -> Option<&str> {
        Some(self.process.as_str()).filter(|process| *process != "self")
    }

    /// As whom the process looks at files; `None` if that is hidden.
    pub(super) fn identity(&self) -> Option<Identity> {
        let numbers = |key: &str| {
            let text = self.status(key)?;
            text.split_whitespace()
                .map(|number| number.parse().ok())
                .collect::<Option<Vec<u32>>>()
        };
        // Real, effective, saved, and that for files.
        let [.., user] = numbers("Uid")?[..] else { return None };
        let [.., group] = numbers("Gid")?[..] else { return None };
        let mut groups = numbers("Groups")?;
        groups.push(group);
        let caps = u64::from_str_radix(&self.status("CapEff")?, 16).ok()?;
        Some(Identity {
            user,
            groups,
            enters_all: caps & (CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH) != 0,
        })
    }

    /// A limit of the process, by its name in `/proc/PID/limits`: `Max open files`.
    pub(super) fn limit(&self, name: &str) -> Option<Limit> {
        let text = self.read(format!("proc/{}/limits", self.process))?;
        let values = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut values = values.split_whitespace().map(|value| match value {
            "unlimited" => Some(None),
            value => value.parse().ok().map(Some),
        });
        Some(Limit {
            soft: values.next()??,
            hard: values.next()??,
        })
    }

    /// What a folder (absolute, through no symbolic link) lies on: the mount with the longest name above it, the last of
    /// those, since a mount hides what is below it.
    pub(super) fn mount_of(&self, folder: &Path) -> Option<Mount> {
        let text = self.read("proc/self/mountinfo")?;
        let mounts = text.lines().filter_map(|line| {
            // `36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw`, proc_pid_mountinfo(5).
            let (fields, rest) = line.split_once(" - ")?;
            let mut fields = fields.split(' ');
            let device = fields.nth(2)?;
            let point = unescaped(fields.nth(1)?);
            let mut rest = rest.split(' ');
            let mount = Mount {
                filesystem: rest.next()?.to_owned(),
                device: device.to_owned(),
                source: unescaped(rest.next()?),
            };
            folder.starts_with(&point).then_some((point.len(), mount))
        });
        mounts.max_by_key(|(len, _)| *len).map(|(_, mount)| mount)
    }

    /// The queue of a block device (`8:1`), or of the disk that it is a partition of.
    pub(super) fn queue_of(&self, device: &str) -> Option<Queue> {
        let link = Path::new("sys/dev/block").join(device);
        let disk = [link.clone(), link.join("..")]
            .into_iter()
            .find(|disk| self.root.join(disk).join("queue/rotational").exists())?;
        let name = self.root.join(&disk).canonicalize().ok()?;
        let scheduler = self.read(disk.join("queue/scheduler")).and_then(|text| {
            // `none [mq-deadline] kyber`
            let (_, rest) = text.split_once('[')?;
            Some(rest.split_once(']')?.0.to_owned())
        });
        Some(Queue {
            name: name.file_name()?.to_string_lossy().into_owned(),
            seeks: self.read(disk.join("queue/rotational"))? == "1",
            scheduler,
            requests: self.number(disk.join("queue/nr_requests")),
        })
    }

    /// The device number of a block device by its name (`/dev/sda1`), as `/sys/class/block` has it.
    pub(super) fn device_named(&self, source: &str) -> Option<String> {
        let name = source.strip_prefix("/dev/").filter(|name| !name.contains('/'))?;
        self.read(Path::new("sys/class/block").join(name).join("dev"))
    }
}

/// A name of `mountinfo`, in which blanks are `\040`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = more.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        (rest, _) = match code {
            Some(byte) => (&more[3..], bytes.push(byte)),
            None => (more, bytes.push(*first)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A machine of these files.
    pub(crate) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let machine = Machine::at(dir.path());
        (dir, machine)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::machine;
    use super::*;

    const MOUNTS: &str = "\
        22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        36 22 8:17 / /srv rw - xfs /dev/sdb1 rw\n\
        37 36 0:44 / /srv/a\\040b rw master:1 - fuse.mergerfs a:b rw\n\
        38 22 0:45 / /srvx rw - tmpfs tmpfs rw\n\
        39 36 0:46 / /srv rw - btrfs /dev/sdc rw\n";

    #[test]
    fn folder_lies_on_the_mount_that_hides_the_others() {
        let (_dir, machine) = machine(&[("proc/self/mountinfo", MOUNTS)]);
        let of = |folder: &str| machine.mount_of(Path::new(folder)).map(|mount| mount.filesystem);
        assert_eq!(of("/home/x").as_deref(), Some("ext4"));
        assert_eq!(of("/srv/a b/c").as_deref(), Some("fuse.mergerfs"));
        assert_eq!(
            of("/srv/torrents").as_deref(),
            Some("btrfs"),
            "the last of two on one folder"
        );
    }

    #[test]
    fn partition_has_the_queue_of_its_disk() {
        let (dir, machine) = machine(&[
            ("sys/block/sda/queue/rotational", "1\n"),
            ("sys/block/sda/queue/scheduler", "none [mq-deadline] bfq\n"),
            ("sys/block/sda/queue/nr_requests", "64\n"),
            ("sys/block/sda/sda1/dev", "8:1\n"),
            ("sys/dev/block/x", ""),
            ("sys/class/block/x", ""),
        ]);
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, dir.path().join(name)).expect("linked");
        };
        link("../../block/sda/sda1", "sys/dev/block/8:1");
        link("../../block/sda/sda1", "sys/class/block/sda1");
        let queue = machine.queue_of("8:1").expect("it is there");
        assert_eq!((queue.name.as_str(), queue.seeks), ("sda", true));
        assert_eq!(
            (queue.scheduler.as_deref(), queue.requests),
            (Some("mq-deadline"), Some(64))
        );
        assert_eq!(machine.device_named("/dev/sda1").as_deref(), Some("8:1"));
        assert_eq!(machine.queue_of("8:2"), None);
        assert_eq!(machine.device_named("tank/data"), None);
    }

    #[test]
    fn limits_and_status_are_those_of_the_process() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max locked memory         8388608              unlimited            bytes     \n\
            Max open files            1024                 1048576              files     \n";
        let status = "Name:\tbtd\nSeccomp:\t2\n";
        let (_dir, machine) = machine(&[("proc/self/limits", limits), ("proc/self/status", status)]);
        let open = machine.limit("Max open files").expect("it is there");
        assert_eq!((open.soft, open.hard), (Some(1024), Some(1_048_576)));
        assert_eq!(machine.limit("Max locked memory").expect("it is there").hard, None);
        assert_eq!(machine.limit("Max cpu time"), None);
        assert_eq!(machine.status("Seccomp").as_deref(), Some("2"));
        assert_eq!(machine.identity(), None, "what is hidden is not made up");
    }

    #[test]
    fn process_looks_at_files_as_its_user_for_that_with_all_its_groups() {
        let status = "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapEff:\t0000000000000400\n";
        let root = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\nCapEff:\t000001ffffffffff\n";
        let (_dir, machine) = machine(&[("proc/7/status", status), ("proc/8/status", root)]);
        let machine = machine.with(7);
        let identity = machine.identity().expect("it is there");
        assert_eq!(
            (identity.user, identity.groups, identity.enters_all),
            (4, vec![9, 10, 8], false)
        );
        let identity = machine.with(8).identity().expect("it is there");
        assert_eq!(
            (identity.user, identity.groups, identity.enters_all),
            (0, vec![0], true)
        );
    }
}
