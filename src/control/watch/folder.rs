//! What one watch folder holds, and what has changed since it was looked at last.
//!
//! Events of the kernel are only hints at which names to look at. What is true is on the disk, so a look compares it with
//! what was seen before: an event that comes twice, late or not at all changes nothing but the time of the look.
//! Blocks on the disk: runs on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::Event;
use crate::control::catalog::Catalog;
use crate::control::torrent_file;

/// A file that changed this lately may still be written to. Its end is an event of its own, so that only the regular
/// rescan, which exists for lost events, has to be patient.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// Which names to look at.
#[derive(Debug)]
pub(super) enum Look {
    /// All of them, now.
    All,
    /// All of them, but new files only when they have been left alone for a while.
    Settled,
    /// These.
    Names {
        /// To be looked at.
        names: BTreeSet<OsString>,
        /// The same, unless it is an ordinary file: that has just been created, and the end of its writing will be told.
        created: BTreeSet<OsString>,
    },
}

/// The folder as it was seen last.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// What earlier btds have read.
    catalog: Option<Catalog>,
    /// Device and inode of the folder that `known` is about.
    seen: Option<(u64, u64)>,
    known: BTreeMap<Box<OsStr>, Known>,
    lost: bool,
}

#[derive(Debug)]
struct Known {
    /// `None` if it could not be read for a reason that may pass. It has been told, and is tried again.
    identity: Option<Identity>,
    /// Whether a torrent was announced under this name, now or in an earlier content.
    announced: bool,
}

/// What changes when a file is replaced, written to or made readable. There may be 100,000: 64 bits of a hash stand for inode,
/// length and times, and a change that leaves them the same is as likely as a disk that lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    /// One more than its number, so that there is room for none in the same 8 bytes.
    device: NonZeroU64,
    looks: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let mut hasher = DefaultHasher::new();
        (metadata.ino(), metadata.len(), modified, changed).hash(&mut hasher);
        Self {
            device: NonZeroU64::MIN.saturating_add(metadata.dev()),
            looks: hasher.finish(),
        }
    }
}

impl Identity {
    fn is_but_for_the_device(&self, other: &Self) -> bool {
        self.looks == other.looks
    }
}

/// Whether a file of this name is ours to load. Hidden files are how many tools write before they rename.
pub(super) fn is_torrent_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b".") && name.len() > b".torrent".len() && name.to_ascii_lowercase().ends_with(b".torrent")
}

impl Folder {
    pub(super) fn new(dir: PathBuf, catalog: Option<Catalog>) -> Self {
        Self {
            dir,
            catalog,
            seen: None,
            known: BTreeMap::new(),
            lost: false,
        }
    }

    /// Whether the folder itself was missing at the last look.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Looks, and reports what has changed. Stops early when `report` says that nobody listens any more.
    ///
    /// Files that appeared are reported before files that went: a rename is then an addition of the same torrent and a
    /// removal, between which the torrent is served on.
    pub(super) fn look(&mut self, look: &Look, report: &mut dyn FnMut(Event) -> bool) {
        let listed = match self.list(look) {
            Ok(names) => names,
            Err(error) => return self.lose(error, report),
        };
        if std::mem::replace(&mut self.lost, false) && !report(Event::FolderBack { dir: self.dir.clone() }) {
            return;
        }
        let is_first = self.known.is_empty();
        let mut gone = Vec::new();
        for name in listed {
            match std::fs::metadata(self.dir.join(&name)) {
                Ok(metadata) => {
                    if !self.look_at(name, &metadata, matches!(look, Look::Settled), report) {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone.push(name),
                // Not readable just now is not gone.
                Err(error) => {
                    if self.known.contains_key(name.as_os_str()) {
                        tracing::debug!(file = %self.dir.join(&name).display(), %error, "cannot look at a watched file");
                    }
                }
            }
        }
        if is_first {
            // They came in order, which leaves half of the table's room empty.
            self.known = std::mem::take(&mut self.known).into_iter().collect();
        }
        // Names that are missing because the whole folder went meanwhile are not gone.
        if !gone.is_empty()
            && let Err(error) = self.is_still_there()
        {
            return self.lose(error, report);
        }
        for name in gone {
            let Some(known) = self.known.remove(name.as_os_str()) else {
                continue;
            };
            let file = self.dir.join(name);
            if let Some(catalog) = &self.catalog {
                catalog.forget(&file);
            }
            if known.announced && !report(Event::Removed { file }) {
                return;
            }
        }
    }

    /// The folder cannot be looked into. Its torrents stay: an unmounted disk should not cost a check of everything when
    /// it is back.
    fn lose(&mut self, error: io::Error, report: &mut dyn FnMut(Event) -> bool) {
        if !std::mem::replace(&mut self.lost, true) {
            report(Event::FolderLost {
                dir: self.dir.clone(),
                error,
            });
        }
    }

    /// The names to look at: those asked for, or those there are and those there were.
    fn list(&mut self, look: &Look) -> io::Result<BTreeSet<OsString>> {
        if let Look::Names { names, created } = look {
            self.is_still_there()?;
            let is_link = |name: &&OsString| {
                let metadata = std::fs::symlink_metadata(self.dir.join(name));
                metadata.is_ok_and(|metadata| !metadata.is_file() || metadata.nlink() > 1)
            };
            let created = created.iter().filter(is_link);
            return Ok(names
                .iter()
                .chain(created)
                .filter(|name| is_torrent_name(name))
                .cloned()
                .collect());
        }
        let folder = std::fs::metadata(&self.dir)?;
        let folder = (folder.dev(), folder.ino());
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if is_torrent_name(&name) {
                names.insert(name);
            }
        }
        // A mount point without its disk is an empty folder on another device. One that was replaced on the same device, or
        // that holds torrents, is what it is now.
        let is_other_disk = self.seen.is_some_and(|(device, _)| device != folder.0);
        if is_other_disk && names.is_empty() && !self.known.is_empty() {
            return Err(io::Error::other("the disk it is on seems to be unmounted"));
        }
        self.seen = Some(folder);
        names.extend(self.known.keys().map(|name| OsString::from(&**name)));
        Ok(names)
    }

    /// Whether the folder is the one that was listed last.
    fn is_still_there(&self) -> io::Result<()> {
        let folder = std::fs::metadata(&self.dir)?;
        match self.seen == Some((folder.dev(), folder.ino())) {
            true => Ok(()),
            false => Err(io::Error::other("another folder has taken its place")),
        }
    }

    fn look_at(
        &mut self,
        name: OsString,
        metadata: &Metadata,
        settled_only: bool,
        report: &mut dyn FnMut(Event) -> bool,
    ) -> bool {
        let identity = Identity::of(metadata);
        let known = self.known.get_mut(name.as_os_str());
        if let Some(known) = &known
            && known.identity == Some(identity)
        {
            return true;
        }
        // Some filesystems are another device each time they are mounted.
        if let Some(Known {
            identity: Some(seen), ..
        }) = known
            && seen.is_but_for_the_device(&identity)
        {
            *seen = identity;
            return true;
        }
        let known = self.known.get(name.as_os_str());
        if settled_only && !is_settled(metadata) {
            return true;
        }
        let announced_before = known.is_some_and(|known| known.announced);
        let file = self.dir.join(&name);
        // Only the first time: whatever comes later is another file than the catalog knows, or one that somebody has touched.
        let found = self.catalog.as_ref().filter(|_| known.is_none());
        if let Some((card, whole)) = found.and_then(|catalog| catalog.find(&file, metadata)) {
            let known = Known {
                identity: Some(identity),
                announced: true,
            };
            self.known.insert(name.into(), known);
            let card = Box::new(card);
            return report(Event::Known { file, card, whole });
        }
        let (event, announced) = match torrent_file::read(&file) {
            Ok(meta) => {
                if let Some(catalog) = &self.catalog {
                    catalog.note(&file, metadata, &meta);
                }
                let meta = Box::new(meta);
                (Event::Added { file, meta }, true)
            }
            // Gone since it was listed: the next look tells.
            Err(torrent_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => return true,
            // Want of descriptors or memory, a disk that is not well: may pass. It is tried again, and told once.
            Err(torrent_file::Error::Io(error)) => {
                let is_told = known.is_some_and(|known| known.identity.is_none());
                self.known.insert(
                    name.into(),
                    Known {
                        identity: None,
                        announced: announced_before,
                    },
                );
                let error = torrent_file::Error::Io(error);
                return is_told || report(Event::Refused { file, error });
            }
            // What was announced under this name stays until it is replaced by a torrent, or the name goes.
            Err(error) => (Event::Refused { file, error }, announced_before),
        };
        let identity = Some(identity);
        self.known.insert(name.into(), Known { identity, announced });
        report(event)
    }
}

fn is_settled(metadata: &Metadata) -> bool {
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    // A time in the future says nothing: do not wait for it.
    age.is_none_or(|age| age >= SETTLED_AFTER)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::control::watch::testing::torrent;
    use crate::session::Store;

    fn look(folder: &mut Folder, look: &Look) -> Vec<String> {
        let mut seen = Vec::new();
        folder.look(look, &mut |event| {
            seen.push(match event {
                Event::Added { file, meta } => format!("+{}={}", base(&file), meta.name),
                Event::Known { file, card, whole } => {
                    format!("={}={}{}", base(&file), card.name, if whole { " whole" } else { "" })
                }
                Event::Refused { file, .. } => format!("!{}", base(&file)),
                Event::Removed { file } => format!("-{}", base(&file)),
                Event::FolderLost { .. } => "lost".to_owned(),
                Event::FolderBack { .. } => "back".to_owned(),
                Event::Scanned => "scanned".to_owned(),
            });
            true
        });
        seen
    }

    fn base(path: &Path) -> String {
        path.file_name().expect("a name").to_string_lossy().into_owned()
    }

    fn names(names: &[&str]) -> Look {
        Look::Names {
            names: names.iter().map(OsString::from).collect(),
            created: BTreeSet::new(),
        }
    }

    #[test]
    fn each_file_is_reported_once_however_often_it_is_looked_at() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("a.torrent"), torrent("a")).expect("written");
        std::fs::write(dir.path().join("b.TORRENT"), torrent("b")).expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        assert_eq!(look(&mut folder, &Look::All), ["+a.torrent=a", "+b.TORRENT=b"]);
        assert!(look(&mut folder, &Look::All).is_empty());
        assert!(look(&mut folder, &names(&["a.torrent"])).is_empty());
    }

    #[test]
    fn what_an_earlier_btd_has_read_is_known_once_and_read_when_it_is_touched() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let state = tempfile::tempdir().expect("another");
        let session = Arc::new(Store::open(state.path()).expect("opened").0);
        let path = dir.path().join("a.torrent");
        std::fs::write(&path, torrent("a")).expect("written");
        let fresh = || Folder::new(dir.path().to_owned(), Some(Catalog::new(&session)));
        assert_eq!(look(&mut fresh(), &Look::All), ["+a.torrent=a"]);
        let mut folder = fresh();
        assert_eq!(look(&mut folder, &Look::All), ["=a.torrent=a"]);
        assert!(look(&mut folder, &Look::All).is_empty());
        std::fs::write(&path, torrent("b")).expect("written");
        assert_eq!(look(&mut folder, &Look::All), ["+a.torrent=b"]);
        assert_eq!(look(&mut fresh(), &Look::All), ["=a.torrent=b"], "it is kept again");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(look(&mut folder, &Look::All), ["-a.torrent"]);
        std::fs::write(&path, torrent("b")).expect("written");
        assert_eq!(
            look(&mut fresh(), &Look::All),
            ["+a.torrent=b"],
            "what went is forgotten"
        );
    }

    #[test]
    fn hidden_files_and_other_names_are_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in [".a.torrent", ".torrent", "a.torrent.part", "a.txt"] {
            std::fs::write(dir.path().join(name), torrent("a")).expect("written");
        }
        let mut folder = Folder::new(dir.path().to_owned(), None);
        assert!(look(&mut folder, &Look::All).is_empty());
        assert!(look(&mut folder, &names(&[".a.torrent", "a.txt"])).is_empty());
    }

    #[test]
    fn a_rename_adds_before_it_removes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("b.torrent"), torrent("a")).expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        look(&mut folder, &Look::All);
        std::fs::rename(dir.path().join("b.torrent"), dir.path().join("c.torrent")).expect("renamed");
        assert_eq!(
            look(&mut folder, &names(&["b.torrent", "c.torrent"])),
            ["+c.torrent=a", "-b.torrent"]
        );
    }

    #[test]
    fn a_half_written_file_is_tried_again_when_it_changes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let whole = torrent("a");
        std::fs::write(dir.path().join("a.torrent"), &whole[..whole.len() / 2]).expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        assert_eq!(look(&mut folder, &Look::All), ["!a.torrent"]);
        assert!(look(&mut folder, &Look::All).is_empty());
        std::fs::write(dir.path().join("a.torrent"), &whole).expect("written");
        assert_eq!(look(&mut folder, &names(&["a.torrent"])), ["+a.torrent=a"]);
    }

    #[test]
    fn the_regular_rescan_leaves_a_file_in_peace_while_it_is_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.torrent");
        std::fs::write(&path, torrent("a")).expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        assert!(look(&mut folder, &Look::Settled).is_empty());
        let long_ago = SystemTime::now() - 2 * SETTLED_AFTER;
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(long_ago))
            .expect("set");
        assert_eq!(look(&mut folder, &Look::Settled), ["+a.torrent=a"]);
    }

    #[test]
    fn a_refused_file_that_goes_is_not_a_torrent_that_goes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.torrent");
        std::fs::write(&path, "rubbish").expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        assert_eq!(look(&mut folder, &Look::All), ["!a.torrent"]);
        std::fs::remove_file(&path).expect("removed");
        assert!(look(&mut folder, &Look::All).is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_for_now_is_told_once_and_tried_again() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.torrent");
        std::fs::write(&path, torrent("a")).expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        // As after an error that may pass: nothing has changed on the disk, but the content was never seen.
        let known = Known {
            identity: None,
            announced: false,
        };
        folder.known.insert(OsString::from("a.torrent").into(), known);
        assert_eq!(look(&mut folder, &Look::All), ["+a.torrent=a"]);
        assert!(look(&mut folder, &Look::All).is_empty());
    }

    #[test]
    fn a_file_that_is_only_created_is_left_until_its_end_and_a_link_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("a.torrent"), torrent("a")).expect("written");
        std::fs::write(dir.path().join("b"), torrent("b")).expect("written");
        std::fs::hard_link(dir.path().join("b"), dir.path().join("b.torrent")).expect("linked");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        folder.list(&Look::All).expect("listed");
        let created = Look::Names {
            names: BTreeSet::new(),
            created: ["a.torrent", "b.torrent"].map(OsString::from).into(),
        };
        assert_eq!(look(&mut folder, &created), ["+b.torrent=b"]);
        assert_eq!(look(&mut folder, &names(&["a.torrent"])), ["+a.torrent=a"]);
    }

    #[test]
    fn a_folder_replaced_by_another_holds_what_the_other_holds() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (here, other) = (dir.path().join("w"), dir.path().join("other"));
        for (folder, name) in [(&here, "a.torrent"), (&other, "b.torrent")] {
            std::fs::create_dir(folder).expect("made");
            std::fs::write(folder.join(name), torrent(name)).expect("written");
        }
        let mut folder = Folder::new(here.clone(), None);
        assert_eq!(look(&mut folder, &Look::All), ["+a.torrent=a.torrent"]);
        std::fs::rename(&here, dir.path().join("away")).expect("moved away");
        std::fs::rename(&other, &here).expect("moved in");
        // Seen by a look at a name, it is not yet believed.
        assert_eq!(look(&mut folder, &names(&["a.torrent"])), ["lost"]);
        assert_eq!(
            look(&mut folder, &Look::All),
            ["back", "+b.torrent=b.torrent", "-a.torrent"]
        );
    }

    #[test]
    fn a_mount_point_without_its_disk_is_lost_and_keeps_its_torrents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.torrent");
        std::fs::write(&path, torrent("a")).expect("written");
        let mut folder = Folder::new(dir.path().to_owned(), None);
        look(&mut folder, &Look::All);
        let (device, inode) = folder.seen.expect("seen");
        folder.seen = Some((device + 1, inode));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(look(&mut folder, &Look::All), ["lost"]);
        assert!(look(&mut folder, &Look::Settled).is_empty());
        std::fs::write(&path, torrent("b")).expect("written");
        assert_eq!(look(&mut folder, &Look::All), ["back", "+a.torrent=b"]);
    }

    #[test]
    fn a_folder_that_vanishes_is_told_once_and_keeps_its_torrents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (here, away) = (dir.path().join("w"), dir.path().join("away"));
        std::fs::create_dir(&here).expect("made");
        std::fs::write(here.join("a.torrent"), torrent("a")).expect("written");
        let mut folder = Folder::new(here.clone(), None);
        look(&mut folder, &Look::All);
        std::fs::rename(&here, &away).expect("moved away");
        assert_eq!(look(&mut folder, &names(&["a.torrent"])), ["lost"]);
        assert!(folder.is_lost());
        assert!(look(&mut folder, &Look::All).is_empty());
        std::fs::rename(&away, &here).expect("moved back");
        assert_eq!(look(&mut folder, &Look::All), ["back"]);
    }
}
