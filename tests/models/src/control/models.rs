//! Torrents that are wanted while they rest: threads that are begun for them, and end when there is nothing more.

use std::path::Path;

use super::places::Places;
use super::wakes::{Wake, Wakes};
use crate::proto::InfoHash;
use crate::session::Store;
use crate::sync::mpsc::channel;
use crate::sync::{Arc, explore};

/// One thread at most for a folder: it ends just as another torrent comes, or does not.
#[test]
fn every_torrent_that_is_wanted_is_looked_at_though_the_thread_for_its_folder_ends() {
    explore(|| {
        let (told, woken) = channel();
        let mut wakes = Wakes::new(&Arc::new(Store), Arc::new(Places), told);
        for number in 1..=3 {
            wakes.submit(Wake {
                info_hash: InfoHash([number; 20]),
                file: Path::new("a.torrent").into(),
                data_dir: "folder".into(),
                folder: 0,
                wanted: number == 3,
            });
        }
        for _ in 0..3 {
            assert!(woken.recv().unwrap().result.is_err());
        }
    });
}
