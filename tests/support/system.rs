//! A Linux of a test's own with a systemd that runs services: this machine's own root, booted as a container. A layer in memory
//! takes what is written there.
//!
//! To be used within [`super::private_net::run`]: what is mounted is mounted for the test alone, services have the test's loopback
//! network, and all processes end with the test. Nothing is enabled there but what a test enables.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::mount::Tmpfs;
use super::process::Process;
use super::scratch::Scratch;
use super::{installed, wait_for, within};

/// For a boot, and for each command, on a busy machine.
const SECONDS: u64 = 60;
/// Where a package that the test has made lies in it.
pub const PACKAGE: &str = "/mnt/btd.deb";
/// systemd's own hierarchy where there is cgroup v1. `systemd-nspawn` makes groups there as well.
const GROUPS_V1: &str = "/sys/fs/cgroup/systemd";
/// It has one, so that this is not its first boot, at which all that is installed is enabled.
const MACHINE_ID: &str = "b7d0b7d0b7d0b7d0b7d0b7d0b7d0b7d0\n";

/// Switched off when dropped.
pub struct System {
    dir: PathBuf,
    /// Of its control group.
    name: String,
    package: PathBuf,
    /// `None` while it is off.
    nspawn: Option<Process>,
    /// Its first process, by the number that it has here.
    init: u32,
    _mounted: [Tmpfs; 2],
}

impl System {
    /// Boots one, with this file as [`PACKAGE`]. `Err` says why that cannot be done here.
    pub fn boot(scratch: &Scratch, package: PathBuf) -> Result<Self, String> {
        for program in ["systemd-nspawn", "nsenter", "timeout", "dpkg", "useradd"] {
            if !installed(program) {
                return Err(format!("`{program}` is not installed"));
            }
        }
        if !rustix::process::geteuid().is_root() {
            return Err("booting a container needs root".to_owned());
        }
        let dir = scratch.dir("system");
        // A layer may not lie in the other. What is mounted within goes with it.
        let memory = Tmpfs::mount(&dir, c"mode=755")?;
        // systemd-nspawn has notes and locks there.
        let run = Tmpfs::mount(Path::new("/run"), c"mode=755")?;
        for part in ["upper", "work", "root", "groups"] {
            scratch.dir(&format!("system/{part}"));
        }
        let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", dir.display());
        mount(&["-t", "overlay", "-o", &layers, "overlay"], &dir.join("root"))?;
        mount(&["-t", "cgroup2", "cgroup2"], &dir.join("groups"))?;
        // A name that no other test has: that of its folder.
        let name = scratch.path().file_name().expect("a name").to_string_lossy();
        let mut system = Self {
            name: format!("btd-test-{name}"),
            dir,
            package,
            nspawn: None,
            init: 0,
            _mounted: [run, memory],
        };
        let made = fs::create_dir(system.group());
        made.map_err(|error| format!("no group of cgroup v2 can be made: {error}"))?;
        system.clear();
        system.switch_on()?;
        Ok(system)
    }

    fn group(&self) -> PathBuf {
        self.dir.join("groups").join(&self.name)
    }

    /// Takes out of this machine's configuration what would start something of its own.
    fn clear(&self) {
        let etc = self.dir.join("root/etc");
        let (units, generators) = (etc.join("systemd/system"), etc.join("systemd/system-generators"));
        for dir in [&units, &generators] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir_all(dir).expect("make a folder");
        }
        let target = "/usr/lib/systemd/system/multi-user.target";
        symlink(target, units.join("default.target")).expect("make a link");
        // Units that are made of disks, clouds and old scripts.
        for generator in fs::read_dir("/usr/lib/systemd/system-generators").expect("list generators") {
            let name = generator.expect("list generators").file_name();
            symlink("/dev/null", generators.join(name)).expect("make a link");
        }
        for (file, text) in [("fstab", ""), ("machine-id", MACHINE_ID)] {
            // It may be a link, which would lead out of here.
            let _ = fs::remove_file(etc.join(file));
            fs::write(etc.join(file), text).expect("write a file");
        }
    }

    fn switch_on(&mut self) -> Result<(), String> {
        let mut command = Command::new("sh");
        // In a group of its own: it can be taken away, and several tests do not meet.
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(self.group()).arg("systemd-nspawn");
        command.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]);
        command.arg(format!("--directory={}/root", self.dir.display()));
        command.arg(format!("--bind-ro={}:{PACKAGE}", self.package.display()));
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let mut nspawn = Process::spawn("systemd-nspawn", &mut command, &self.dir.join("console"));
        let booted = first_of(&mut nspawn);
        self.nspawn = Some(nspawn);
        self.init = booted?;
        let output = self.command("systemctl").args(["is-system-running", "--wait"]).output();
        let output = output.map_err(|error| format!("nsenter: {error}"))?;
        match String::from_utf8_lossy(&output.stdout).trim() {
            // What of this machine does not run in a container is no concern of btd's.
            "running" | "degraded" => Ok(()),
            state => Err(format!(
                "a container was booted and is {state:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// Shuts it down as an operator does, and boots it again.
    pub fn reboot(&mut self) {
        // It may be gone before it has answered.
        let _ = self.command("systemctl").arg("reboot").output();
        let mut nspawn = self.nspawn.take().expect("it is on");
        nspawn.wait(within(SECONDS));
        self.switch_on().unwrap_or_else(|why| panic!("{why}"));
    }

    /// A command that runs in it, as root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(SECONDS.to_string());
        command.args(["nsenter", "--target", &self.init.to_string()]);
        command.args(["--all", "--root", "--wd", "--", program]);
        // Nothing of the test's own.
        command.env_clear().env("LC_ALL", "C.UTF-8");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Whether a command succeeds, and what it says.
    pub fn attempt(&self, line: &[&str]) -> (bool, String) {
        let output = self.command(line[0]).args(&line[1..]).output().expect("run nsenter");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), said)
    }

    /// Runs a command that has to succeed, and gives what it said.
    pub fn run(&self, line: &[&str]) -> String {
        let (is_done, said) = self.attempt(line);
        assert!(is_done, "{line:?}:\n{said}\n{}", self.journal());
        said
    }

    /// What a unit is, as systemd says.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let said = self.run(&["systemctl", "show", "--value", "--property", name, unit]);
        said.trim().to_owned()
    }

    pub fn wait_property(&self, unit: &str, name: &str, value: &str) {
        wait_for(&format!("{name} of {unit} is {value:?}"), within(SECONDS), || {
            (self.property(unit, name) == value).then_some(())
        });
    }

    /// What all btds have said.
    pub fn journal(&self) -> String {
        self.attempt(&["journalctl", "--no-pager", "--unit", "btd*"]).1
    }

    /// Where a file of it lies for the test.
    pub fn path(&self, path: &str) -> PathBuf {
        root_of(self.init).join(path.trim_start_matches('/'))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() && self.nspawn.is_some() {
            eprintln!("{}", self.journal());
        }
        if let Some(nspawn) = self.nspawn.take() {
            // With its first process all others end, and systemd-nspawn has nothing more to do.
            for init in children(&nspawn) {
                let _ = kill_process(init, Signal::KILL);
            }
        }
        for group in [self.group(), Path::new(GROUPS_V1).join(&self.name)] {
            let deadline = within(SECONDS);
            while group.exists() && remove_group(&group).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// The first process of the container, once it takes commands, or why there will be none.
fn first_of(nspawn: &mut Process) -> Result<u32, String> {
    let listens = |init: &u32| {
        let root = root_of(*init);
        // It is in its own root by then.
        root.join(&PACKAGE[1..]).exists() && root.join("run/systemd/private").exists()
    };
    let deadline = within(SECONDS);
    loop {
        let mut found = children(nspawn)
            .into_iter()
            .map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if let Some(init) = found.find(listens) {
            return Ok(init);
        }
        if nspawn.has_ended() || Instant::now() > deadline {
            return Err(format!("no container can be booted: {}", nspawn.log().trim()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn children(process: &Process) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.pid()));
    let listed = listed.unwrap_or_default();
    let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

fn root_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root"))
}

/// A control group, and those within.
pub fn remove_group(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(at).output();
    let output = output.map_err(|error| format!("mount: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("mount {arguments:?} {}: {}", at.display(), said.trim()))
}
