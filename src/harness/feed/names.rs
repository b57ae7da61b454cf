//! Whether the client's files have their final names: looked for from the moment in which everything was sent.

use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked: a hundredth of what a person notices.
const EVERY: Duration = Duration::from_millis(2);

/// See the module's page.
#[derive(Debug)]
pub(super) struct Names {
    /// Files that are not there yet.
    left: Vec<PathBuf>,
    look_at: Option<Duration>,
    /// All of them were there when it was first looked: the client does not rename, and nothing was measured.
    pub(super) early: bool,
    /// When the last one was there.
    pub(super) named_at: Option<Duration>,
}

impl Names {
    pub(super) fn new(files: Vec<PathBuf>) -> Names {
        Names {
            left: files,
            look_at: None,
            early: false,
            named_at: None,
        }
    }

    /// Whether there is nothing to wait for.
    pub(super) fn are_there(&self) -> bool {
        self.left.is_empty()
    }

    /// Everything was sent: looks, if it is time to.
    pub(super) fn look(&mut self, now: Duration) {
        if self.left.is_empty() || self.look_at.is_some_and(|at| now < at) {
            return;
        }
        // Names come one after the other, mostly in order.
        while self.left.last().is_some_and(|path| path.exists()) {
            self.left.pop();
        }
        if self.left.is_empty() {
            self.early = self.look_at.is_none();
            self.named_at = (!self.early).then_some(now);
        }
        self.look_at = Some(now + EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_the_last_name_is_told_unless_all_were_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["a", "b"].map(|name| dir.path().join(name)).to_vec();
        let mut names = Names::new(files.clone());
        let at = Duration::from_millis;
        names.look(at(10));
        std::fs::write(&files[1], "").unwrap();
        names.look(at(12));
        std::fs::write(&files[0], "").unwrap();
        names.look(at(13));
        assert!(!names.are_there(), "too early to look again");
        names.look(at(14));
        assert_eq!(
            (names.are_there(), names.named_at, names.early),
            (true, Some(at(14)), false)
        );
        let mut names = Names::new(files);
        names.look(at(10));
        assert_eq!((names.are_there(), names.named_at, names.early), (true, None, true));
        assert!(Names::new(Vec::new()).are_there());
    }
}
