//! The folders that payload is in, and the disks below them.
//!
//! What a filesystem can do is tried with files that have no name (`O_TMPFILE`): nothing is left behind, and a folder that
//! may not be written to is only looked at.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::{Errno, ReadWriteFlags};

use super::finding::Finding;
use super::machine::{Identity, Machine, Mount, Queue};
use crate::control::config::{Config, ReadMode, display_size};

/// `RWF_DONTCACHE`, Linux 6.14.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// Filesystems that are somewhere else.
const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs"];
/// Less than this part of a disk, and this much, is next to nothing.
const FREE_PARTS: u64 = 100;
const FREE_MIN: u64 = 1 << 30;
/// Fewer requests than this in a queue keep no disk busy.
const REQUESTS_MIN: u64 = 32;

/// What a filesystem can do; `None` where it could not be tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trial {
    direct: Option<bool>,
    dontcache: Option<bool>,
    reflink: Option<bool>,
}

/// All data folders, and the state folder.
pub(super) fn look(machine: &Machine, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: Vec<&Path> = Vec::new();
    for watch in &config.watch {
        if !watch.dir.is_dir() {
            let says = format!("{}: there is no such folder yet; it is looked for", watch.dir.display());
            findings.push(Finding::info("watch", says).with(format!("mkdir -p {}", quoted(&watch.dir))));
        }
        if seen.contains(&watch.data_dir.as_path()) {
            continue;
        }
        seen.push(&watch.data_dir);
        findings.extend(folder(machine, &watch.data_dir, config.storage.read_mode));
    }
    findings
}

fn folder(machine: &Machine, folder: &Path, mode: ReadMode) -> Vec<Finding> {
    let real = folder.canonicalize();
    let identity = machine
        .process()
        .and_then(|process| Some((process, machine.identity()?)));
    let closed = match (&real, &identity) {
        (Ok(real), Some((process, identity))) => closed_to(identity, real).map(|closed| {
            let user = identity.user;
            format!("process {process} (user {user}) may not enter {}", closed.display())
        }),
        (Ok(real), None) => {
            let is_closed = rustix::fs::access(real, rustix::fs::Access::EXEC_OK).is_err();
            is_closed.then(|| "this user may not enter it".to_owned())
        }
        (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => match machine.process() {
            // Its user may be one who may.
            Some(process) => {
                let says = format!(
                    "{}: this user may not look at it, and so cannot tell whether process {process} may enter it (hint: sudo)",
                    folder.display()
                );
                return vec![Finding::info("data", says)];
            }
            None => Some("this user may not enter it".to_owned()),
        },
        (Err(_), _) => None,
    };
    if let Some(closed) = closed {
        let says = format!("{}: {closed}: nothing there is served", folder.display());
        let remedy = "SupplementaryGroups= in btd.service (systemctl edit btd), or the rights of the folder";
        return vec![Finding::warn("data", says, remedy)];
    }
    let Ok(real) = real else {
        let says = format!(
            "{}: there is no such folder: a disk that is not mounted?",
            folder.display()
        );
        let remedy = format!(
            "mount its disk, or, if it is to be a folder of this one: mkdir -p {}, which btd's user may write to",
            quoted(folder)
        );
        return vec![Finding::warn("data", says, remedy)];
    };
    let mount = machine.mount_of(&real);
    let mut findings = vec![filesystem(&real, mount.as_ref(), try_out(&real), mode)];
    findings.extend(free(&real));
    if let Some(mount) = mount {
        let queue = machine.queue_of(&mount.device);
        // Some filesystems (btrfs) have no device of their own.
        let queue = queue.or_else(|| machine.queue_of(&machine.device_named(&mount.source)?));
        findings.extend(queue.map(|queue| disk(&real, &queue)));
    }
    findings
}

/// The first folder on the way to this one (absolute, through no symbolic link) that somebody may not enter, by its mode. One with an
/// access control list may be open to whom its mode does not tell of, and is taken to be.
fn closed_to(identity: &Identity, folder: &Path) -> Option<PathBuf> {
    if identity.enters_all {
        return None;
    }
    let mut way: Vec<&Path> = folder.ancestors().collect();
    way.reverse();
    let is_closed = |folder: &Path| {
        let Ok(found) = folder.metadata() else { return false };
        let bit = if found.uid() == identity.user {
            0o100
        } else if identity.groups.contains(&found.gid()) {
            0o010
        } else {
            0o001
        };
        let has_list = || rustix::fs::getxattr(folder, "system.posix_acl_access", &mut [0_u8; 0]).is_ok();
        found.mode() & bit == 0 && !has_list()
    };
    way.into_iter().find(|folder| is_closed(folder)).map(Path::to_owned)
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Tries what reads and copies may use.
fn try_out(folder: &Path) -> Trial {
    let unnamed = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options.custom_flags(libc::O_TMPFILE | flags).open(folder)
    };
    let Ok(mut file) = unnamed(0) else {
        return Trial::default();
    };
    let is_refusal = |error: &std::io::Error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
    let direct = match unnamed(libc::O_DIRECT) {
        Ok(_) => Some(true),
        Err(error) => is_refusal(&error).then_some(false),
    };
    if file.write_all(&[0; 4096]).is_err() {
        return Trial {
            direct,
            ..Trial::default()
        };
    }
    let mut bytes = [0; 512];
    let read = rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut bytes)], 0, DONTCACHE);
    let answer = |result: Result<(), Errno>| match result {
        Ok(()) => Some(true),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY) => Some(false),
        Err(_) => None,
    };
    let clone = |from: &File| Some(rustix::fs::ioctl_ficlone(unnamed(0).ok()?, from));
    Trial {
        direct,
        dontcache: answer(read.map(drop)),
        reflink: clone(&file).and_then(answer),
    }
}

fn filesystem(folder: &Path, mount: Option<&Mount>, trial: Trial, mode: ReadMode) -> Finding {
    let topic = "data";
    let kind = mount.map_or("unknown", |mount| mount.filesystem.as_str());
    let folder = folder.display();
    let reflink = match trial.reflink {
        Some(true) => "; copies can share their blocks (cp --reflink)",
        _ => "",
    };
    let note = match kind {
        kind if REMOTE.contains(&kind) => {
            "; it is on another machine: each look at a file waits for the network, and check-rate keeps checks from filling it"
        }
        kind if kind.starts_with("fuse") => {
            "; one that opens files for direct I/O and answers reads in part cannot be served from"
        }
        "zfs" => {
            "; its own cache is the ARC: read-mode \"buffered\" and cache-size \"off\" keep payload in memory once"
        }
        _ => "",
    };
    let says = |how: &str| format!("{folder}: {kind}, read {how}{reflink}{note}");
    match (mode, trial.direct, trial.dontcache) {
        (ReadMode::Buffered, ..) => Finding::ok(topic, says("through the page cache, as read-mode says")),
        (_, Some(true), _) => Finding::ok(topic, says("past the page cache")),
        (_, Some(false), Some(true)) => Finding::info(
            topic,
            says("through the page cache, of which nothing stays there: direct reads are refused"),
        ),
        (_, Some(false), _) => Finding::warn(
            topic,
            says("through the page cache, which fills with it: direct reads are refused"),
            "a kernel from 6.14 on, where the filesystem has RWF_DONTCACHE; or a smaller storage.cache-size",
        ),
        (_, None, _) => Finding::info(
            topic,
            says("in a way that is found out by reading: it may not be written to from here"),
        ),
    }
}

fn free(folder: &Path) -> Option<Finding> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let (free, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    (free < FREE_MIN && free < all / FREE_PARTS).then(|| {
        let says = format!(
            "{}: {} of {} is free",
            folder.display(),
            display_size(free),
            display_size(all)
        );
        Finding::warn(
            "space",
            says,
            "room on the disk: downloads stop when it is full, and go on when it is not",
        )
    })
}

fn disk(folder: &Path, queue: &Queue) -> Finding {
    let topic = "disk";
    let scheduler = queue.scheduler.as_deref().unwrap_or("none");
    let kind = if queue.seeks {
        "a disk with heads"
    } else {
        "no heads to move"
    };
    let requests = queue.requests.unwrap_or(REQUESTS_MIN);
    let name = &queue.name;
    let says = format!(
        "{}: {name}, {kind}, {requests} requests at once, scheduler {scheduler}",
        folder.display()
    );
    let path = format!("/sys/block/{name}/queue");
    match (queue.seeks, scheduler) {
        _ if requests < REQUESTS_MIN => Finding::warn(
            topic,
            format!("{says}: it is not kept busy"),
            format!("echo 256 > {path}/nr_requests"),
        ),
        (true, "none") => Finding::info(topic, format!("{says}: peers' reads may wait behind checks"))
            .with(format!("echo mq-deadline > {path}/scheduler")),
        (false, "bfq") => Finding::info(topic, format!("{says}: much work for each request of a fast device"))
            .with(format!("echo none > {path}/scheduler")),
        _ => Finding::ok(topic, says),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::finding::Level;
    use super::super::machine::testing::machine;
    use super::*;

    fn config(data: &Path, more: &str) -> Config {
        let text = format!("{more}\n[[watch]]\ndir = {data:?}\ndata-dir = {data:?}");
        Config::parse(&text, Path::new("/etc/btd.toml"), []).expect("valid")
    }

    #[test]
    fn folder_is_told_with_filesystem_disk_and_queue_and_nothing_is_left_in_it() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mounts = "22 1 8:1 / / rw - fuse.sshfs x rw\n";
        let (_dir, machine) = machine(&[
            ("proc/self/mountinfo", mounts),
            ("sys/dev/block/8:1/queue/rotational", "1"),
            ("sys/dev/block/8:1/queue/scheduler", "[none] bfq"),
            ("sys/dev/block/8:1/queue/nr_requests", "4"),
        ]);
        let findings = look(&machine, &config(data.path(), ""));
        let of = |topic: &str| findings.iter().find(|finding| finding.topic == topic).expect("told");
        assert!(of("data").says.contains("fuse.sshfs") && of("data").says.contains("answers reads in part"));
        let disk = of("disk");
        assert_eq!(disk.level, Level::Warn, "a queue of four requests");
        assert_eq!(
            disk.remedy.as_deref(),
            Some("echo 256 > /sys/block/8:1/queue/nr_requests")
        );
        assert_eq!(data.path().read_dir().expect("listed").count(), 0);
    }

    /// It was judged as whoever has asked, who is root as a rule and may enter anything.
    #[test]
    fn folder_is_judged_by_whom_the_process_is() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data = dir.path().join("closed/data");
        std::fs::create_dir_all(&data).expect("made");
        // One that leads there may be closed itself, as a home is.
        let closed = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("set");
            std::fs::set_permissions(dir.path().join("closed"), mode).expect("set");
        };
        let found = dir.path().join("closed").metadata().expect("made");
        let (owner, group) = (found.uid(), found.gid());
        let told = |user: u32, group: u32, caps: &str| {
            let status =
                format!("Uid:\t{user}\t{user}\t{user}\t{user}\nGid:\t0\t0\t0\t1\nGroups:\t{group}\nCapEff:\t{caps}\n");
            let (_dir, machine) = machine(&[("proc/7/status", status.as_str())]);
            let findings = look(&machine.with(7), &config(&data, ""));
            let of_data = findings.into_iter().find(|finding| finding.topic == "data");
            of_data.expect("told").says
        };
        let others = (owner + 4321, group + 4321);
        closed(0o750);
        let said = told(others.0, others.1, "0");
        let expected = format!(
            "process 7 (user {}) may not enter {}",
            others.0,
            dir.path().join("closed").display()
        );
        assert!(said.contains(&expected), "{said}");
        for (user, group, caps) in [
            (owner, others.1, "0"),
            (others.0, group, "0"),
            (others.0, others.1, "4"),
        ] {
            let said = told(user, group, caps);
            assert!(!said.contains("may not enter"), "{said}");
        }
        closed(0o705);
        assert!(
            told(others.0, group, "0").contains("may not enter"),
            "others may, and this one is none of them"
        );
        assert!(!told(others.0, others.1, "0").contains("may not enter"));
    }

    #[test]
    fn folder_that_is_not_there_is_warned_of() {
        let (_dir, machine) = machine(&[]);
        let findings = look(&machine, &config(Path::new("/nowhere/at all"), ""));
        let of = |topic: &str| findings.iter().find(|finding| finding.topic == topic).expect("told");
        assert_eq!(of("data").level, Level::Warn);
        for topic in ["data", "watch"] {
            let remedy = of(topic).remedy.as_deref().expect("a line to change");
            assert!(remedy.contains("mkdir -p '/nowhere/at all'"), "{remedy}");
        }
    }

    #[test]
    fn way_of_reading_is_what_the_filesystem_does_not_refuse() {
        let level = |direct, dontcache, mode| {
            let trial = Trial {
                direct,
                dontcache,
                reflink: None,
            };
            filesystem(Path::new("/srv"), None, trial, mode).level
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(level(yes, no, ReadMode::Auto), Level::Ok);
        assert_eq!(level(no, yes, ReadMode::Auto), Level::Info);
        assert_eq!(level(no, no, ReadMode::Direct), Level::Warn);
        assert_eq!(level(no, no, ReadMode::Buffered), Level::Ok);
        assert_eq!(level(None, None, ReadMode::Auto), Level::Info);
    }

    #[test]
    fn disks_are_told_by_their_manners() {
        let level = |seeks, scheduler: &str, requests| {
            let queue = Queue {
                name: "x".to_owned(),
                seeks,
                scheduler: Some(scheduler.to_owned()),
                requests: Some(requests),
            };
            disk(Path::new("/srv"), &queue).level
        };
        assert_eq!(level(true, "mq-deadline", 64), Level::Ok);
        assert_eq!(level(true, "none", 64), Level::Info);
        assert_eq!(level(false, "none", 1023), Level::Ok);
        assert_eq!(level(false, "bfq", 256), Level::Info);
        assert_eq!(level(false, "none", 2), Level::Warn);
    }
}
