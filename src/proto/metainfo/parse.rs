//! Reading a torrent file, field by field.

use sha1::{Digest, Sha1};

use super::{Error, FILE_COUNT_MAX, FileEntry, Metainfo, PAD_PREFIX_OLD, PATHS_LEN_MAX, PieceHashes, Problem};
use crate::proto::InfoHash;
use crate::proto::bencode::{self, Dict, Limits, Value};
use crate::proto::geometry::{self, Geometry, TOTAL_LEN_MAX};
use crate::proto::path::{self, RelPath};

pub(super) fn parse(input: &[u8]) -> Result<Metainfo, Error> {
    let scanned = bencode::scan(input, Limits::METAINFO)?;
    let top = Top::read(scanned.value.as_dict().ok_or(Error::NotATorrent)?);
    let raw_info = top.info.ok_or_else(|| field("info", Problem::Missing))?;
    let info = Info::read(dict("info", raw_info)?);

    let name = text("info.name", info.name_utf8.or(info.name))?;
    path::check_name(name).map_err(|error| field("info.name", error))?;
    let piece_len = piece_len(info.piece_len)?;
    let Some(pieces) = info.pieces else {
        let v2 = info
            .meta_version
            .and_then(Value::as_int)
            .is_some_and(|version| version >= 2);
        return Err(if v2 {
            Error::V2Only
        } else {
            field("info.pieces", Problem::Missing)
        });
    };
    let pieces = pieces
        .as_bytes()
        .ok_or_else(|| field("info.pieces", Problem::NotA("a string")))?;

    let files = match (info.length, info.files) {
        (Some(_), Some(_)) => return Err(field("info.files", Problem::LengthAndFiles)),
        (None, None) => return Err(field("info.length", Problem::Missing)),
        (Some(length), None) => Files::single(name, length)?,
        (None, Some(files)) => Files::several(name, files, piece_len)?,
    };
    let geometry = Geometry::new(piece_len, files.total_len).map_err(|error| match error {
        geometry::Error::PieceLen(_) => field("info.piece length", error),
        geometry::Error::Empty | geometry::Error::PieceCount(_) => field("info", error),
    })?;

    Ok(Metainfo {
        info_hash: InfoHash(Sha1::digest(raw_info.raw()).into()),
        name: name.to_owned(),
        private: info.private.and_then(Value::as_int).is_some_and(|private| private != 0),
        geometry,
        piece_hashes: piece_hashes(pieces, &geometry)?,
        files: files.entries,
        announce: tiers(top.announce_list, top.announce),
        url_list: top.url_list.map(strings).unwrap_or_default(),
        comment: owned(top.comment_utf8).or_else(|| owned(top.comment)),
        created_by: owned(top.created_by),
        creation_date: top.creation_date.and_then(Value::as_int),
        hybrid: info.meta_version.is_some() && info.file_tree.is_some(),
        symlinks: files.symlinks,
        unsorted_at: scanned.unsorted_at,
    })
}

/// The outer dictionary's entries that mean something to us.
#[derive(Default)]
struct Top<'a> {
    announce: Option<Value<'a>>,
    announce_list: Option<Value<'a>>,
    comment: Option<Value<'a>>,
    comment_utf8: Option<Value<'a>>,
    created_by: Option<Value<'a>>,
    creation_date: Option<Value<'a>>,
    info: Option<Value<'a>>,
    url_list: Option<Value<'a>>,
}

impl<'a> Top<'a> {
    fn read(dict: Dict<'a>) -> Self {
        let mut top = Self::default();
        for (key, value) in dict {
            let place = match key {
                b"announce" => &mut top.announce,
                b"announce-list" => &mut top.announce_list,
                b"comment" => &mut top.comment,
                b"comment.utf-8" => &mut top.comment_utf8,
                b"created by" => &mut top.created_by,
                b"creation date" => &mut top.creation_date,
                b"info" => &mut top.info,
                b"url-list" => &mut top.url_list,
                _ => continue,
            };
            *place = Some(value);
        }
        top
    }
}

/// The `info` dictionary's entries that mean something to us.
#[derive(Default)]
struct Info<'a> {
    file_tree: Option<Value<'a>>,
    files: Option<Value<'a>>,
    length: Option<Value<'a>>,
    meta_version: Option<Value<'a>>,
    name: Option<Value<'a>>,
    name_utf8: Option<Value<'a>>,
    piece_len: Option<Value<'a>>,
    pieces: Option<Value<'a>>,
    private: Option<Value<'a>>,
}

impl<'a> Info<'a> {
    fn read(dict: Dict<'a>) -> Self {
        let mut info = Self::default();
        for (key, value) in dict {
            let place = match key {
                b"file tree" => &mut info.file_tree,
                b"files" => &mut info.files,
                b"length" => &mut info.length,
                b"meta version" => &mut info.meta_version,
                b"name" => &mut info.name,
                b"name.utf-8" => &mut info.name_utf8,
                b"piece length" => &mut info.piece_len,
                b"pieces" => &mut info.pieces,
                b"private" => &mut info.private,
                _ => continue,
            };
            *place = Some(value);
        }
        info
    }
}

/// One entry of `files`.
#[derive(Default)]
struct File<'a> {
    attr: Option<Value<'a>>,
    length: Option<Value<'a>>,
    path: Option<Value<'a>>,
    path_utf8: Option<Value<'a>>,
}

impl<'a> File<'a> {
    fn read(dict: Dict<'a>) -> Self {
        let mut file = Self::default();
        for (key, value) in dict {
            let place = match key {
                b"attr" => &mut file.attr,
                b"length" => &mut file.length,
                b"path" => &mut file.path,
                b"path.utf-8" => &mut file.path_utf8,
                _ => continue,
            };
            *place = Some(value);
        }
        file
    }

    /// Whether one of the letters of BEP 47 is set.
    fn has_attr(&self, letter: u8) -> bool {
        self.attr
            .and_then(Value::as_bytes)
            .is_some_and(|attr| attr.contains(&letter))
    }
}

/// The files as they add up.
#[derive(Default)]
struct Files {
    entries: Vec<FileEntry>,
    total_len: u64,
    paths_len: usize,
    symlinks: u32,
    /// Bytes of pad files since the last byte of any other.
    pad_run: u64,
}

impl Files {
    fn single(name: &str, length: Value<'_>) -> Result<Self, Error> {
        let len = file_len(length).map_err(|problem| field("info.length", problem))?;
        let mut files = Self::default();
        let added = RelPath::new([name])
            .map_err(Problem::from)
            .and_then(|path| files.add(path, len, false));
        added.map_err(|problem| field("info.length", problem))?;
        Ok(files)
    }

    fn several(name: &str, list: Value<'_>, piece_len: u32) -> Result<Self, Error> {
        let list = list
            .as_list()
            .ok_or_else(|| field("info.files", Problem::NotA("a list")))?;
        let mut files = Self::default();
        for (index, value) in list.enumerate() {
            if index == FILE_COUNT_MAX {
                return Err(field("info.files", Problem::TooManyFiles));
            }
            let read = files.read(name, value);
            read.map_err(|(key, problem)| field(&format!("info.files[{index}]{key}"), problem))?;
            if files.pad_run >= u64::from(piece_len) {
                return Err(field(&format!("info.files[{index}].length"), Problem::PadTooLong));
            }
        }
        // Pad files are never on disk, and often all called the same.
        let on_disk = files.entries.iter().filter(|file| !file.pad).map(|file| &file.path);
        match path::find_clash(on_disk) {
            Some(clash) => Err(field("info.files", clash)),
            None => Ok(files),
        }
    }

    fn read(&mut self, name: &str, value: Value<'_>) -> Result<(), (&'static str, Problem)> {
        let file = File::read(value.as_dict().ok_or(("", Problem::NotA("a dictionary")))?);
        let length = file.length.ok_or((".length", Problem::Missing))?;
        let len = file_len(length).map_err(|problem| (".length", problem))?;
        if file.has_attr(b'l') {
            if len > 0 {
                return Err((".attr", Problem::Symlink(len)));
            }
            self.symlinks += 1;
            return Ok(());
        }
        let path = match file.path_utf8 {
            Some(path) => file_path(name, path).map_err(|problem| (".path.utf-8", problem))?,
            None => {
                let path = file.path.ok_or((".path", Problem::Missing))?;
                file_path(name, path).map_err(|problem| (".path", problem))?
            }
        };
        let pad = file.has_attr(b'p') || path.file_name().starts_with(PAD_PREFIX_OLD);
        self.add(path, len, pad).map_err(|problem| ("", problem))
    }

    fn add(&mut self, path: RelPath, len: u64, pad: bool) -> Result<(), Problem> {
        let offset = self.total_len;
        let total_len = offset.checked_add(len).filter(|total| *total <= TOTAL_LEN_MAX);
        self.total_len = total_len.ok_or(Problem::TotalLen)?;
        self.paths_len += path.as_str().len();
        if self.paths_len > PATHS_LEN_MAX {
            return Err(Problem::PathsTooLong);
        }
        self.pad_run = match pad {
            true => self.pad_run + len,
            false if len > 0 => 0,
            false => self.pad_run,
        };
        self.entries.push(FileEntry { path, len, offset, pad });
        Ok(())
    }
}

fn file_len(value: Value<'_>) -> Result<u64, Problem> {
    let len = value.as_int().ok_or(Problem::NotA("an integer"))?;
    u64::try_from(len).map_err(|_| Problem::Negative(len))
}

fn file_path(name: &str, value: Value<'_>) -> Result<RelPath, Problem> {
    let names = value.as_list().ok_or(Problem::NotA("a list"))?;
    let mut path = vec![name];
    for name in names {
        let bytes = name.as_bytes().ok_or(Problem::NotA("a list of strings"))?;
        path.push(std::str::from_utf8(bytes).map_err(|_| path::Error::NotUtf8)?);
        // No path is longer, and each name has a byte at least: do not collect what will be refused.
        if path.len() > path::PATH_LEN_MAX {
            return Err(path::Error::PathTooLong(path.len()).into());
        }
    }
    if path.len() == 1 {
        return Err(path::Error::Empty.into());
    }
    Ok(RelPath::new(path)?)
}

fn piece_len(value: Option<Value<'_>>) -> Result<u32, Error> {
    let name = "info.piece length";
    let value = value.ok_or_else(|| field(name, Problem::Missing))?;
    let len = file_len(value).map_err(|problem| field(name, problem))?;
    u32::try_from(len).map_err(|_| field(name, geometry::Error::PieceLen(len)))
}

fn piece_hashes(pieces: &[u8], geometry: &Geometry) -> Result<PieceHashes, Error> {
    let (hashes, rest) = pieces.as_chunks::<20>();
    let expected = geometry.piece_count() as usize;
    if hashes.len() != expected || !rest.is_empty() {
        let problem = Problem::PiecesLen {
            len: pieces.len(),
            expected: expected * 20,
            total_len: geometry.total_len(),
            piece_len: geometry.piece_len_max(),
        };
        return Err(field("info.pieces", problem));
    }
    Ok(PieceHashes(hashes.into()))
}

/// The trackers: the list, and the single one only where there is no list (BEP 12).
fn tiers(list: Option<Value<'_>>, single: Option<Value<'_>>) -> Vec<Vec<String>> {
    let tiers = list.and_then(Value::as_list).into_iter().flatten().map(strings);
    let tiers: Vec<_> = tiers.filter(|tier| !tier.is_empty()).collect();
    if !tiers.is_empty() {
        return tiers;
    }
    let single = single.map(strings).unwrap_or_default();
    if single.is_empty() { Vec::new() } else { vec![single] }
}

/// A string or a list of strings, without those that are empty or not UTF-8.
fn strings(value: Value<'_>) -> Vec<String> {
    let single = value.as_list().is_none().then_some(value);
    let several = value.as_list().into_iter().flatten();
    let texts = single.into_iter().chain(several).filter_map(Value::as_str);
    texts
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect()
}

fn owned(value: Option<Value<'_>>) -> Option<String> {
    let bytes = value?.as_bytes()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn dict<'a>(name: &str, value: Value<'a>) -> Result<Dict<'a>, Error> {
    value
        .as_dict()
        .ok_or_else(|| field(name, Problem::NotA("a dictionary")))
}

fn text<'a>(name: &str, value: Option<Value<'a>>) -> Result<&'a str, Error> {
    let value = value.ok_or_else(|| field(name, Problem::Missing))?;
    let bytes = value.as_bytes().ok_or_else(|| field(name, Problem::NotA("a string")))?;
    std::str::from_utf8(bytes).map_err(|_| field(name, path::Error::NotUtf8))
}

fn field(name: &str, problem: impl Into<Problem>) -> Error {
    Error::Field {
        field: name.to_owned(),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests;
