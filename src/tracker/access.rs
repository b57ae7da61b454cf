//! Which torrents the tracker is for.
//!
//! Three lists, each of them optional: torrents that are refused, torrents that alone are served, and the torrents that
//! btd itself holds (`private`). Reading files is done elsewhere; what stands in one is understood here.

use std::collections::HashSet;
use std::str::FromStr as _;
use std::sync::Arc;

use crate::proto::{InfoHash, ParseInfoHashError};

/// A set of torrents, cheap to hand on.
pub type InfoHashes = Arc<HashSet<InfoHash>>;

/// The torrents that are served. By default all are.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// These alone, if it is there: `tracker.allow`.
    pub allow: Option<InfoHashes>,
    /// Never these: `tracker.deny`. It outweighs the others.
    pub deny: Option<InfoHashes>,
    /// These alone, if it is there: the torrents that btd holds, with `tracker.private`. With `allow` as well, a torrent
    /// that is in either is served.
    pub held: Option<InfoHashes>,
    /// What btd holds is still being found out: a torrent that is not in `held` may be so in a moment.
    pub is_finding_out: bool,
}

/// Why a list of info-hashes is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ListError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: ParseInfoHashError,
}

impl Access {
    /// Whether this torrent is served.
    pub fn allows(&self, info_hash: &InfoHash) -> bool {
        let has = |list: &Option<InfoHashes>| list.as_ref().map(|list| list.contains(info_hash));
        if has(&self.deny) == Some(true) {
            return false;
        }
        match (has(&self.allow), has(&self.held)) {
            (None, None) => true,
            (allow, held) => allow == Some(true) || held == Some(true),
        }
    }

    /// Whether a torrent that is not served may be so in a moment.
    pub fn may_allow_soon(&self, info_hash: &InfoHash) -> bool {
        let is_denied = self.deny.as_ref().is_some_and(|deny| deny.contains(info_hash));
        self.is_finding_out && self.held.is_some() && !is_denied
    }
}

/// Reads a list: one info-hash of 40 hexadecimal digits a line. What follows a `#` is comment, empty lines are nothing.
pub fn parse_list(text: &str) -> Result<HashSet<InfoHash>, ListError> {
    let mut list = HashSet::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        list.insert(InfoHash::from_str(line).map_err(|reason| ListError { line: number, reason })?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(bytes: &[u8]) -> Option<InfoHashes> {
        Some(Arc::new(bytes.iter().map(|byte| InfoHash([*byte; 20])).collect()))
    }

    fn allowed(access: &Access) -> Vec<u8> {
        (0..6).filter(|byte| access.allows(&InfoHash([*byte; 20]))).collect()
    }

    #[test]
    fn without_lists_every_torrent_is_served() {
        assert_eq!(allowed(&Access::default()), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_list_of_the_allowed_shuts_out_the_rest() {
        let access = Access {
            allow: list(&[1, 2]),
            ..Access::default()
        };
        assert_eq!(allowed(&access), [1, 2]);
        let nobody = Access {
            allow: list(&[]),
            ..Access::default()
        };
        assert!(allowed(&nobody).is_empty());
    }

    #[test]
    fn what_is_denied_is_denied_even_when_it_is_allowed_or_held() {
        let access = Access {
            allow: list(&[1, 2]),
            deny: list(&[2, 3, 4]),
            held: list(&[3, 5]),
            ..Access::default()
        };
        assert_eq!(allowed(&access), [1, 5]);
        assert_eq!(
            allowed(&Access {
                deny: list(&[0]),
                ..Access::default()
            }),
            [1, 2, 3, 4, 5]
        );
    }

    #[test]
    fn a_private_tracker_knows_what_is_held_and_what_the_list_adds() {
        assert_eq!(
            allowed(&Access {
                held: list(&[3]),
                ..Access::default()
            }),
            [3]
        );
        let access = Access {
            allow: list(&[1]),
            held: list(&[3]),
            ..Access::default()
        };
        assert_eq!(allowed(&access), [1, 3]);
    }

    #[test]
    fn while_it_is_found_out_what_is_held_only_what_is_denied_is_refused_for_good() {
        let mut access = Access {
            deny: list(&[2]),
            held: list(&[3]),
            is_finding_out: true,
            ..Access::default()
        };
        let soon = |access: &Access| -> Vec<u8> {
            (1..4)
                .filter(|byte| access.may_allow_soon(&InfoHash([*byte; 20])))
                .collect()
        };
        assert_eq!((allowed(&access), soon(&access)), (vec![3], vec![1_u8, 3]));
        access.is_finding_out = false;
        assert!(soon(&access).is_empty());
    }

    #[test]
    fn a_list_has_a_hash_a_line_and_comments() {
        let (a, b) = ("0123456789abcdef0123456789ABCDEF01234567", "ff".repeat(20));
        let text = format!("# ours\n\n{a}\r\n  {b}  # the second\n{a}\n#{b}");
        let expected = [a, &b].map(|hash| InfoHash::from_str(hash).expect("a hash"));
        assert_eq!(parse_list(&text), Ok(HashSet::from(expected)));
        assert_eq!(parse_list(""), Ok(HashSet::new()));
    }

    #[test]
    fn a_line_that_is_no_hash_is_told_with_its_number() {
        let good = "ab".repeat(20);
        let error = parse_list(&format!("{good}\n\nab")).expect_err("a short hash");
        assert_eq!((error.line, &error.reason), (3, &ParseInfoHashError::Length(2)));
        let error = parse_list(&format!("{good} {good}")).expect_err("two on a line");
        assert_eq!(error.line, 1);
        assert_eq!(
            parse_list(&"xy".repeat(20)).expect_err("no digits").to_string(),
            "line 1: an info-hash is 40 hexadecimal digits, byte 0 is none"
        );
    }
}
