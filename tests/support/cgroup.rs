//! A control group of a test's own: btd with less memory or fewer threads than it would like. Needs root and cgroup v1 or v2
//! with the controller on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{wait_for, within};

/// Removed when dropped, which is to be after the end of what runs in it.
pub struct Cgroup {
    dir: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// A group below the root of this controller: "memory", "pids". `Err` says why that cannot be done here.
    pub fn make(controller: &str, name: &str) -> Result<Cgroup, String> {
        let v1 = Path::new("/sys/fs/cgroup").join(controller);
        let v2 = Path::new("/sys/fs/cgroup");
        let is_v2 = !v1.is_dir();
        if is_v2 {
            let on = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
            if !on.split_whitespace().any(|word| word == controller) {
                return Err(format!("no cgroup controller `{controller}`"));
            }
        }
        let parent = if is_v2 { v2 } else { &v1 };
        let dir = parent.join(format!("btd-test-{name}-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Cgroup { dir, is_v2 })
    }

    /// Runs btd in it.
    pub fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(&self.dir).arg(env!("CARGO_BIN_EXE_btd"));
        command
    }

    fn write(&self, file: &str, value: &str) {
        let path = self.dir.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn read(&self, file: &str) -> String {
        let path = self.dir.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// No more memory than this, page cache and socket buffers among it.
    pub fn limit_memory(&self, bytes: u64) {
        let file = if self.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        self.write(file, &bytes.to_string());
    }

    /// The most that it has had.
    pub fn memory_peak(&self) -> u64 {
        let file = if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        self.read(file).trim().parse().expect("a number of bytes")
    }

    /// How often somebody was killed in it for want of memory.
    pub fn kills(&self) -> u64 {
        let file = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = self.read(file);
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok())
            .expect("a number of kills")
    }

    /// Threads in it.
    pub fn threads(&self) -> u64 {
        self.read("pids.current").trim().parse().expect("a number of threads")
    }

    /// No more threads than this; those that are there stay.
    pub fn limit_threads(&self, count: u64) {
        self.write("pids.max", &count.to_string());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What was killed a moment ago is not out of it yet.
        if !std::thread::panicking() {
            wait_for("the cgroup is empty", within(10), || fs::remove_dir(&self.dir).ok());
        } else {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}
