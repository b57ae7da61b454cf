//! Paths that a torrent file names, checked before anything is made of them.
//!
//! A [`RelPath`] cannot leave the folder it is opened under: no `..`, nothing absolute, no empty name, no NUL. It is
//! also what the kernel will take (255 bytes a name, 4,095 a path). Names must be UTF-8: a name in another encoding
//! could only be guessed or escaped, and then the payload would be looked for, and written, under a name that no other
//! client gives it. Such torrents mostly carry a UTF-8 form beside it, which is preferred ([`super::metainfo`]).
//!
//! Control characters are harmless in a file name and stay as they are; whoever shows a path shows it through
//! [`escaped`], as [`RelPath`]'s own `Display` does.
//!
//! That symbolic links on the way are not followed is the opener's doing: `storage`.

use std::fmt;
use std::path::Path;

/// The longest name that Linux filesystems take, in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// The longest path that the kernel takes: PATH_MAX less its terminating NUL.
pub const PATH_LEN_MAX: usize = 4095;

/// A relative path that stays below where it starts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<str>);

/// Why names are not a path that btd would open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No name at all.
    #[error("an empty path")]
    Empty,
    /// One of the names is empty.
    #[error("an empty name in a path")]
    EmptyName,
    /// A name with a meaning of its own: `.` or `..`.
    #[error("the name `{0}`, which leads elsewhere")]
    Dots(String),
    /// A name with a slash or NUL in it.
    #[error("a name with a slash or a NUL in it: `{}`", escaped(.0))]
    Separator(String),
    /// A name that no filesystem takes.
    #[error("a name of {0} bytes, at most {NAME_LEN_MAX} accepted")]
    NameTooLong(usize),
    /// A path that the kernel does not take.
    #[error("a path of {0} bytes, at most {PATH_LEN_MAX} accepted")]
    PathTooLong(usize),
    /// Not UTF-8.
    #[error("a name that is not UTF-8")]
    NotUtf8,
}

impl RelPath {
    /// A path of these names, from the outermost to the file's own.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut path = String::new();
        for name in names {
            check_name(name)?;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
            if path.len() > PATH_LEN_MAX {
                return Err(Error::PathTooLong(path.len()));
            }
        }
        if path.is_empty() {
            return Err(Error::Empty);
        }
        Ok(Self(path.into()))
    }

    /// A path written with slashes.
    pub fn parse(path: &str) -> Result<Self, Error> {
        Self::new(path.split('/'))
    }

    /// The names, from the outermost.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The path without its last name, if it has more than one.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The path with slashes. Not for logs: it may contain any character but NUL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as the file functions take it.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl AsRef<Path> for RelPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escaped(&self.0).fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", escaped(&self.0))
    }
}

/// Whether this can be the name of a file or folder.
pub fn check_name(name: &str) -> Result<(), Error> {
    match name {
        "" => Err(Error::EmptyName),
        "." | ".." => Err(Error::Dots(name.to_owned())),
        _ if name.contains(['/', '\0']) => Err(Error::Separator(name.to_owned())),
        _ if name.len() > NAME_LEN_MAX => Err(Error::NameTooLong(name.len())),
        _ => Ok(()),
    }
}

/// Foreign text, shown on one line of a terminal or log: control characters and those that turn the writing direction
/// appear as `\u{..}`.
pub fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`escaped`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in self.0.char_indices().filter(|(_, c)| is_misleading(*c)) {
            write!(f, "{}{}", &self.0[plain..at], character.escape_unicode())?;
            plain = at + character.len_utf8();
        }
        f.write_str(&self.0[plain..])
    }
}

/// Whether a character would do something to a terminal or the direction of a line rather than be seen.
#[must_use]
pub fn is_misleading(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Two paths that cannot both be what they say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// The same path twice.
    #[error("`{0}` occurs twice")]
    Duplicate(RelPath),
    /// Two paths that differ in upper and lower case only, one file on a filesystem that folds case.
    #[error("`{0}` and `{1}` differ in upper and lower case only")]
    Case(RelPath, RelPath),
    /// A path that is a file and a folder.
    #[error("`{0}` is a file, and a folder in `{1}`")]
    FileAndFolder(RelPath, RelPath),
}

/// Looks for paths that clash. Case is folded by Unicode's simple lower case; other ways of writing the same name
/// (composed and decomposed accents) are different names to Linux and stay so.
pub fn find_clash<'a>(paths: impl IntoIterator<Item = &'a RelPath>) -> Option<Clash> {
    // With NUL for the slash, what is below a path follows it at once in the order of bytes: nothing sorts between.
    let fold = |path: &RelPath| path.0.to_lowercase().replace('/', "\0");
    let mut folded: Vec<(String, &RelPath)> = paths.into_iter().map(|path| (fold(path), path)).collect();
    folded.sort_unstable();
    folded.windows(2).find_map(|pair| {
        let [(first, first_path), (second, second_path)] = pair else {
            return None;
        };
        let below = second.strip_prefix(first.as_str())?;
        match below.as_bytes().first() {
            None if first_path == second_path => Some(Clash::Duplicate((*first_path).clone())),
            None => Some(Clash::Case((*first_path).clone(), (*second_path).clone())),
            Some(0) => Some(Clash::FileAndFolder((*first_path).clone(), (*second_path).clone())),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clash(paths: &[&str]) -> Option<Clash> {
        let paths: Vec<_> = paths.iter().map(|path| RelPath::parse(path).unwrap()).collect();
        find_clash(&paths)
    }

    #[test]
    fn a_path_keeps_its_names() {
        let path = RelPath::new(["a b", "ü", "c.txt"]).unwrap();
        assert_eq!(path.as_str(), "a b/ü/c.txt");
        assert_eq!(path.components().collect::<Vec<_>>(), ["a b", "ü", "c.txt"]);
        assert_eq!((path.file_name(), path.parent()), ("c.txt", Some("a b/ü")));
        assert_eq!(RelPath::parse("x").unwrap().parent(), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "a//b",
            "a/",
            ".",
            "..",
            "../x",
            "a/../../x",
            "a/./b",
            "a\0b",
        ] {
            assert!(RelPath::parse(path).is_err(), "{path:?}");
        }
        assert_eq!(RelPath::new(["a/b"]), Err(Error::Separator("a/b".into())));
        assert_eq!(RelPath::new([]), Err(Error::Empty));
        // Dots that are only part of a name lead nowhere.
        assert!(RelPath::parse("...").is_ok() && RelPath::parse("a..b/.c").is_ok());
    }

    #[test]
    fn names_and_paths_are_as_long_as_the_kernel_takes() {
        assert!(RelPath::parse(&"x".repeat(255)).is_ok());
        assert_eq!(RelPath::parse(&"x".repeat(256)), Err(Error::NameTooLong(256)));
        // In bytes, not characters.
        assert_eq!(RelPath::parse(&"é".repeat(128)), Err(Error::NameTooLong(256)));
        let long = ["x".repeat(255).as_str(); 16].join("/");
        assert_eq!(long.len(), 4095);
        assert!(RelPath::parse(&long).is_ok());
        assert!(RelPath::parse(&format!("y/{long}")).is_err());
    }

    #[test]
    fn a_path_is_shown_without_control_characters() {
        let path = RelPath::parse("a\x1b[2J\n/\u{202e}gpj.exe ü").unwrap();
        assert_eq!(path.to_string(), "a\\u{1b}[2J\\u{a}/\\u{202e}gpj.exe ü");
        assert!(!format!("{path:?}").contains('\x1b'));
    }

    #[test]
    fn paths_that_cannot_both_be_are_found() {
        let path = |path| RelPath::parse(path).unwrap();
        assert_eq!(clash(&["a/b", "a/c", "b"]), None);
        assert_eq!(clash(&["a/b", "x", "a/b"]), Some(Clash::Duplicate(path("a/b"))));
        assert!(matches!(clash(&["d/ÄB", "x", "d/äb"]), Some(Clash::Case(..))));
        // `a-` and `a.` sort between `a` and `a/` as plain text.
        assert_eq!(
            clash(&["a/x", "a-", "a.", "a"]),
            Some(Clash::FileAndFolder(path("a"), path("a/x")))
        );
        assert!(matches!(clash(&["A", "a/x"]), Some(Clash::FileAndFolder(..))));
        assert_eq!(clash(&["ab", "a/b"]), None);
    }
}
