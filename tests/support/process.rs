//! A child process with a log file: ended with the test, and quoted when the test fails.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How much of the log a failed test prints.
const LOG_TAIL_LINES: usize = 40;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs going to `log`, no standard input, and none of the variables that mean
    /// something to btd or to the tests themselves.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("BTD_")) {
                command.env_remove(key);
            }
        }
        let output = File::create(log).expect("create a log file");
        let errors = output.try_clone().expect("open a log file twice");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Panics if the process has ended: it should be running.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait for a child") {
            panic!("{} ended too early: {status}", self.name);
        }
    }

    /// Whether it has come to its end.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot send {signal:?} to {}: {error}", self.name));
    }

    /// Waits for the end that the process comes to by itself.
    pub fn wait(&mut self, deadline: Instant) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for a child") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} is still running at the deadline",
                self.name
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end and panics unless it is a success.
    pub fn wait_success(&mut self, deadline: Instant) {
        let status = self.wait(deadline);
        assert!(status.success(), "{} failed: {status}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Both fail only if it has just ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            eprintln!("--- the last lines of {} ---\n{}\n---", self.name, tail.join("\n"));
        }
    }
}
