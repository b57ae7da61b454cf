//! A torrent taken out, with its payload or without.
//!
//! Payload is deleted last, when nobody reads or writes it any more, and only if no other torrent has the same files. That
//! is looked for before anything is changed: among the torrents of the same data folder, and of data folders that lie within
//! it or around it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Contents, contents, find, gone, shown, wait_for};
use crate::control::contents::Contents as TorrentFile;
use crate::control::ctl::api::{Kind, Refusal, Removed};
use crate::control::ctl::counted;
use crate::control::ctl::door::Door;
use crate::control::supervisor::Neighbour;
use crate::proto::InfoHash;
use crate::proto::metainfo::Metainfo;
use crate::storage::erase;

/// Torrents that are looked at for the same files at a time: below a millisecond.
const PAGE_LEN: usize = 2048;
/// How long those who make and sync files of the torrent may go on with that.
const REST_DEADLINE: Duration = Duration::from_secs(30);

/// Takes a torrent out.
pub(super) async fn remove(door: &Door, hash: String, with_data: bool) -> Result<Removed, Refusal> {
    let info_hash = find(door, hash).await?;
    let known = door.ask(move |supervisor| supervisor.known(info_hash)).await?;
    let known = known.ok_or_else(|| gone(info_hash))?;
    let (name, data_dir, files) = (known.row.name, known.data_dir, known.files);
    drop(known.torrent);
    let places = door.ask(|supervisor| supervisor.places()).await?;
    let meta = match with_data {
        true => {
            let (places, dir) = (Arc::clone(&places), data_dir.clone());
            let looked = wait_for(move || places.look(&dir)).await?;
            // Where it is not, its disk may just not be mounted; on another disk it would be somebody else's.
            if let Err(absence) = looked {
                let message = format!("{absence}: nothing was removed (hint: without --with-data)");
                return Err(Refusal::new(Kind::Refused, message));
            }
            let meta = contents(door, info_hash).await?;
            ensure_own(door, &meta, &name, &data_dir).await?;
            Some(meta)
        }
        false => None,
    };
    let taken = files.clone();
    wait_for(move || take_out(&taken)).await??;
    let took = files.clone();
    let (is_gone, rest) = door
        .ask(move |supervisor| supervisor.took_out(info_hash, &took))
        .await?;
    let mut removed = Removed {
        info_hash: info_hash.to_string(),
        name,
        torrent_files: files.iter().map(|file| shown(file)).collect(),
        files: 0,
        folders: 0,
        kept: Vec::new(),
        failed: Vec::new(),
    };
    if !is_gone {
        let message = "another .torrent file of it has come meanwhile: it stays, and its payload with it";
        return Err(Refusal::new(Kind::Refused, message));
    }
    let Some(meta) = meta else { return Ok(removed) };
    if let Some(rest) = rest
        && timeout(REST_DEADLINE, rest).await.is_err()
    {
        let message = "it is removed, but its files are still being worked on and were not deleted (a slow disk?)";
        return Err(Refusal::new(Kind::Io, message));
    }
    // That it was complete once would keep it from being downloaded, should it be added again.
    let told = door
        .ask(move |supervisor| {
            supervisor.forget(info_hash);
            supervisor.lines()
        })
        .await?;
    let dir = data_dir.clone();
    let erased = wait_for(move || match places.open(&dir) {
        Ok(root) => Ok(erase::erase(&root, &meta.files)),
        // It was there a moment ago.
        Err(absence) => Err(Refusal::new(
            Kind::Io,
            format!("it is removed, but not its files: {absence}"),
        )),
    });
    let erased = erased.await??;
    told.info(
        "torrents deleted with their files",
        format_args!(
            "deleted {} and {} of {:?} ({info_hash}), as somebody asked for",
            counted(erased.files, "file"),
            counted(erased.folders, "folder"),
            removed.name
        ),
    );
    (removed.files, removed.folders) = (erased.files, erased.folders);
    removed.kept = lines(erased.kept, |path| path);
    // btd knows nothing of it any more: whoever deletes the rest needs to be told where it is.
    removed.failed = lines(erased.failed, |path| shown(&data_dir.join(path)));
    if let Some(first) = removed.failed.first() {
        told.warn(
            "torrents of which something could not be deleted",
            format_args!("could not delete all of {:?} ({info_hash}): {first}", removed.name),
        );
    }
    Ok(removed)
}

/// What has not gone, a line for each.
fn lines(left: erase::Left, shown: impl Fn(String) -> String) -> Vec<String> {
    let told = left
        .told
        .into_iter()
        .map(|(path, why)| format!("{}: {why}", shown(path)));
    let more = (left.more > 0).then(|| format!("{} more", left.more));
    told.chain(more).collect()
}

/// Deletes the files that a torrent comes from.
fn take_out(files: &[PathBuf]) -> Result<(), Refusal> {
    for (before, file) in files.iter().enumerate() {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let changed = match before {
                    0 => "nothing was changed".to_owned(),
                    _ => format!("{before} other .torrent files of it are deleted already, and it stays"),
                };
                let message = format!("cannot delete {}: {error} ({changed})", file.display());
                return Err(Refusal::new(Kind::Io, message));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether no other torrent has a file of this one.
async fn ensure_own(door: &Door, meta: &Contents, name: &str, data_dir: &Path) -> Result<(), Refusal> {
    let dirs = door.ask(|supervisor| supervisor.data_dirs()).await?;
    let (own_dir, own_meta) = (data_dir.to_owned(), meta.clone());
    let (own, near) = wait_for(move || (Own::new(&own_meta, &own_dir), near(&own_dir, &dirs))).await?;
    let (own, near) = (Arc::new(own), Arc::new(near));
    let mut after: Option<InfoHash> = None;
    loop {
        let (info_hash, name, data_dir, near) =
            (meta.info_hash, name.to_owned(), data_dir.to_owned(), Arc::clone(&near));
        let page = door.ask(move |supervisor| {
            let is_near = |dir: &Path| near.contains(dir);
            supervisor.neighbours((info_hash, &name, &data_dir), is_near, (after, PAGE_LEN))
        });
        let (neighbours, last) = page.await?;
        if !neighbours.is_empty() {
            let own = Arc::clone(&own);
            let shared = wait_for(move || neighbours.iter().find_map(|other| own.shares(other))).await?;
            if let Some(message) = shared {
                return Err(Refusal::new(Kind::Refused, message));
            }
        }
        match last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}

/// Which of the data folders lie within one, around it, or are it by another path.
fn near(data_dir: &Path, dirs: &[PathBuf]) -> HashSet<PathBuf> {
    let real = real(data_dir);
    let overlaps = |dir: &&PathBuf| {
        let other = self::real(dir);
        dir.as_path() != data_dir && (other.starts_with(&real) || real.starts_with(&other))
    };
    dirs.iter().filter(overlaps).cloned().collect()
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// What is to be deleted.
struct Own {
    /// The file, or the folder of all files.
    top: PathBuf,
    paths: HashSet<PathBuf>,
}

impl Own {
    fn new(meta: &Metainfo, data_dir: &Path) -> Self {
        let dir = real(data_dir);
        let top = |path: &str| dir.join(path.split('/').next().unwrap_or_default());
        let first = meta.files.first();
        Self {
            top: first.map_or_else(|| dir.clone(), |file| top(file.path.as_str())),
            paths: erase::names(&meta.files).map(|path| dir.join(path)).collect(),
        }
    }

    /// What another torrent has of it, in words.
    fn shares(&self, other: &Neighbour) -> Option<String> {
        let (name, info_hash) = (&other.name, other.info_hash);
        let dir = real(&other.data_dir);
        // One that rests is read: a file that is not to be had any more is as if nothing were known of it.
        let file = other.file.clone().map(TorrentFile::InFile);
        let read = file.and_then(|file| file.get(info_hash).ok());
        let meta = other.torrent.as_ref().map(|torrent| torrent.shared_meta()).or(read);
        match meta {
            Some(meta) => {
                let path = erase::names(&meta.files).find(|path| self.paths.contains(&dir.join(path)))?;
                Some(format!(
                    "{:?} is a file of {name:?} ({info_hash}) too: nothing was removed (hint: without --with-data, or the \
                     other one first)",
                    path.as_str()
                ))
            }
            None => {
                let top = dir.join(name);
                (top.starts_with(&self.top) || self.top.starts_with(&top)).then(|| {
                    format!(
                        "{name:?} ({info_hash}) may have the same files, which is not known while it is checked or cannot \
                         be served: nothing was removed"
                    )
                })
            }
        }
    }
}
