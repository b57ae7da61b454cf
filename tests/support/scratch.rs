//! A folder of one test's own, under `target/tmp`, gone when the test ends.

use std::path::{Path, PathBuf};

/// Deleted when dropped, also after a failure: the runs are gigabytes. What a failed test has to tell is printed.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A fresh folder whose name begins with `name`.
    pub fn new(name: &str) -> Self {
        // Under the target folder, because `/tmp` may be memory, and another filesystem than the payload's.
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Self(dir.expect("make a scratch folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new folder within.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        std::fs::create_dir_all(&dir).expect("make a folder in the scratch folder");
        dir
    }
}
