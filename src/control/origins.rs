//! The files that a torrent comes from: nearly always one, which takes no table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Paths, each with its watch folder. Never empty.
#[derive(Debug)]
pub(super) struct Origins {
    /// Any of them.
    one: (Arc<Path>, u32),
    /// The others, in order.
    #[allow(
        clippy::box_collection,
        reason = "8 bytes instead of 24 in each of 100,000, of which hardly one has others"
    )]
    others: Option<Box<BTreeMap<Arc<Path>, u32>>>,
}

impl Origins {
    /// This one.
    pub(super) fn new(file: Arc<Path>, folder: usize) -> Self {
        Self {
            one: (file, number(folder)),
            others: None,
        }
    }

    /// One of them.
    pub(super) fn first(&self) -> (&Arc<Path>, usize) {
        (&self.one.0, self.one.1 as usize)
    }

    /// All of them, each with its watch folder.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<Path>, usize)> {
        let others = self.others.iter().flat_map(|others| others.iter());
        std::iter::once(self.first()).chain(others.map(|(file, folder)| (file, *folder as usize)))
    }

    /// One more.
    pub(super) fn insert(&mut self, file: Arc<Path>, folder: usize) {
        if *file != *self.one.0 {
            self.others.get_or_insert_default().insert(file, number(folder));
        }
    }

    /// One less. False if it was the last, which stays.
    pub(super) fn remove(&mut self, file: &Path) -> bool {
        let others = self.others.as_mut();
        if *self.one.0 == *file {
            match others.and_then(|others| others.pop_first()) {
                Some(other) => self.one = other,
                None => return false,
            }
        } else if let Some(others) = others {
            others.remove(file);
        }
        self.others = self.others.take().filter(|others| !others.is_empty());
        true
    }
}

/// Folders are counted as they are opened: one a reload at most.
fn number(folder: usize) -> u32 {
    u32::try_from(folder).expect("fewer watch folders than 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(origins: &Origins) -> Vec<(&str, usize)> {
        let named = |(file, folder): (&'_ Arc<Path>, usize)| (file.to_str().expect("UTF-8").to_owned(), folder);
        let mut all: Vec<(String, usize)> = origins.iter().map(named).collect();
        all.sort();
        all.into_iter().map(|(name, folder)| (&*name.leak(), folder)).collect()
    }

    #[test]
    fn files_come_and_go_in_any_order_and_the_last_stays() {
        let mut origins = Origins::new(Path::new("b").into(), 1);
        origins.insert(Path::new("b").into(), 1);
        assert_eq!(paths(&origins), [("b", 1)]);
        assert!(!origins.remove(Path::new("b")), "it is the last");
        origins.insert(Path::new("a").into(), 2);
        origins.insert(Path::new("c").into(), 3);
        assert_eq!(paths(&origins), [("a", 2), ("b", 1), ("c", 3)]);
        assert!(origins.remove(Path::new("b")));
        assert!(origins.remove(Path::new("x")), "others are left");
        assert_eq!(paths(&origins), [("a", 2), ("c", 3)]);
        assert!(origins.remove(Path::new("c")));
        assert!(origins.others.is_none(), "one needs no table");
        assert!(!origins.remove(Path::new("a")));
    }
}
