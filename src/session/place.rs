//! Which filesystem a data folder lies on, as far as that can be told again after a restart, and its form as bytes.
//!
//! Device numbers say nothing: the kernel gives them out anew at each start, in the order in which it finds disks. What
//! lasts is the identifier that a filesystem was made with, and where there is none (network mounts, FUSE) the place
//! that it is mounted at and what from. How these are found is the business of `storage`.
//!
//! The bytes come from a disk, so they are read like a stranger's. All numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the version of this form, 1 |
//! | 8 | the kind of the filesystem |
//! | 2 + n each | the folder's path, the identifier (empty for none), the mount point, what was mounted |

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The version of the form above.
const VERSION: u8 = 1;

/// Longer texts are cut off: no path that the kernel takes is as long.
const TEXT_LEN_MAX: usize = 4096;

/// A filesystem, and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its magic number, statfs(2).
    pub kind: u64,
    /// What it was given when it was made, if it has anything of that sort.
    pub id: Option<String>,
    /// Where it is mounted; empty where that cannot be found out.
    pub mount_point: PathBuf,
    /// What was mounted: a device, an export, a name.
    pub source: String,
}

impl Filesystem {
    /// Whether another is the same, as far as can be told: by their identifiers, else by what is mounted where. The name
    /// of a device counts for nothing, since it is given out anew at each start.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        if self.kind != other.kind {
            return false;
        }
        if let (Some(a), Some(b)) = (&self.id, &other.id) {
            return a == b;
        }
        let is_device = |fs: &Self| fs.source.starts_with("/dev/");
        let same_source = self.source == other.source || is_device(self) && is_device(other);
        self.mount_point == other.mount_point && same_source
    }

    /// It and the folder on it as bytes.
    pub(super) fn encode(&self, folder: &Path) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.kind.to_le_bytes());
        let id = self.id.as_deref().unwrap_or_default();
        let texts = [
            folder.as_os_str().as_bytes(),
            id.as_bytes(),
            self.mount_point.as_os_str().as_bytes(),
            self.source.as_bytes(),
        ];
        for text in texts {
            let text = &text[..text.len().min(TEXT_LEN_MAX)];
            bytes.extend((text.len() as u16).to_le_bytes()); // At most `TEXT_LEN_MAX`.
            bytes.extend(text);
        }
        bytes
    }

    /// The other way round; `None` for what is of another form or folder.
    pub(super) fn decode(bytes: &[u8], folder: &Path) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (kind, mut rest) = rest.split_first_chunk::<8>()?;
        if *version != VERSION {
            return None;
        }
        let mut texts = [&[][..]; 4];
        for text in &mut texts {
            let (len, behind) = rest.split_first_chunk::<2>()?;
            (*text, rest) = behind.split_at_checked(u16::from_le_bytes(*len).into())?;
        }
        let [path, id, mount_point, source] = texts;
        if !rest.is_empty() || path != folder.as_os_str().as_bytes() {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some(Self {
            kind: u64::from_le_bytes(*kind),
            id: Some(text(id)?).filter(|id| !id.is_empty()),
            mount_point: OsStr::from_bytes(mount_point).into(),
            source: text(source)?,
        })
    }
}

/// `ext4, made as 6f3c.., from /dev/sda1 at /mnt/disk`: as far as it is known.
impl std::fmt::Display for Filesystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match self.source.as_str() {
            "" => "a filesystem",
            source => source,
        };
        match self.mount_point.as_os_str().is_empty() {
            true => write!(f, "{source}")?,
            false => write!(f, "{source} at {}", self.mount_point.display())?,
        }
        match &self.id {
            Some(id) => write!(f, " ({id})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filesystem(id: Option<&str>, at: &str, source: &str) -> Filesystem {
        Filesystem {
            kind: 0xef53,
            id: id.map(str::to_owned),
            mount_point: at.into(),
            source: source.to_owned(),
        }
    }

    #[test]
    fn an_identifier_outweighs_names_and_places() {
        let disk = filesystem(Some("a"), "/mnt/disk", "/dev/sda1");
        assert!(disk.is_same(&filesystem(Some("a"), "/elsewhere", "/dev/sdb1")));
        assert!(!disk.is_same(&filesystem(Some("b"), "/mnt/disk", "/dev/sda1")));
        let other_kind = Filesystem {
            kind: 1,
            ..disk.clone()
        };
        assert!(!disk.is_same(&other_kind));
    }

    #[test]
    fn without_an_identifier_it_is_what_is_mounted_there_and_devices_have_no_names() {
        let disk = filesystem(None, "/mnt/disk", "/dev/sda1");
        assert!(disk.is_same(&filesystem(None, "/mnt/disk", "/dev/sdb1")));
        assert!(!disk.is_same(&filesystem(None, "/", "/dev/sda1")));
        // Of one that has lost its identifier, or had none when it was looked at last.
        assert!(disk.is_same(&filesystem(Some("a"), "/mnt/disk", "/dev/sdc")));
        let export = filesystem(None, "/mnt/disk", "server:/export");
        assert!(!export.is_same(&filesystem(None, "/mnt/disk", "server:/other")));
        assert!(!export.is_same(&disk));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_for_its_own_folder_only(
            kind: u64, id in proptest::option::of("[a-z0-9]{1,40}"), at in "/[a-z/ ]{0,40}", source in "\\PC{0,40}",
        ) {
            let filesystem = Filesystem { kind, id, mount_point: at.into(), source };
            let bytes = filesystem.encode(Path::new("/srv/data"));
            prop_assert_eq!(Filesystem::decode(&bytes, Path::new("/srv/data")), Some(filesystem));
            prop_assert_eq!(Filesystem::decode(&bytes, Path::new("/srv/dat")), None);
            for len in 0..bytes.len() {
                prop_assert_eq!(Filesystem::decode(&bytes[..len], Path::new("/srv/data")), None);
            }
        }

        #[test]
        fn no_bytes_are_too_bad_to_be_read(bytes: Vec<u8>) {
            let _ = Filesystem::decode(&bytes, Path::new("/srv/data"));
        }
    }
}
