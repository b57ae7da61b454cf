//! A Docker daemon of a test's own, and the image that packaging/docker/Dockerfile makes, with the binary under test in it.
//!
//! To be used within [`super::private_net::run`]: containers, their networks and what is mounted end with the test, and no packet
//! leaves the machine. No registry is asked: the images that the Dockerfile begins with are made of this machine's C library.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use rustix::process::{Resource, Signal, getrlimit};
use serde_json::{Value, json};

use super::mount::Tmpfs;
use super::package::root;
use super::process::Process;
use super::scratch::Scratch;
use super::system::remove_group;
use super::{installed, wait_for, within};

/// For the daemon, and for each command, on a busy machine.
const SECONDS: u64 = 60;
/// Who btd is in compose.yml and in stack.yml.
pub const USER: u32 = 1000;
/// What the runtime's stage is made from, in the Dockerfile and here.
const BASE: &str = "gcr.io/distroless/cc-debian12:nonroot";
/// The name of the stage that builds btd. An image of that name stands in for it.
const BUILD: &str = "build";
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Ended when dropped.
pub struct Docker {
    daemon: Process,
    /// The parent of the control groups of its containers.
    group: String,
    dir: PathBuf,
    _mounted: [Tmpfs; 2],
}

impl Docker {
    /// Starts a daemon whose own profile is `profile`, and makes the image `btd`. `Err` says why that cannot be done here.
    pub fn start(scratch: &Scratch, profile: &Value) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a Docker daemon needs root".to_owned());
        }
        let dir = scratch.dir("docker");
        let memory = Tmpfs::mount(&dir, c"mode=711")?;
        // Its socket, and those of its parts: not those of the machine's own daemon.
        let run = Tmpfs::mount(Path::new("/run"), c"mode=755")?;
        let profile_file = dir.join("profile.json");
        fs::write(&profile_file, profile.to_string()).expect("write a profile");
        // A name that no other test has: that of its folder.
        let name = scratch.path().file_name().expect("a name").to_string_lossy();
        let group = format!("btd-test-{name}");
        let mut command = Command::new("dockerd");
        command.arg(format!("--data-root={}/data", dir.display()));
        command.arg(format!("--seccomp-profile={}", profile_file.display()));
        command.arg(format!("--cgroup-parent=/{group}"));
        command.args([
            "--config-file=/run/none.json",
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ]);
        fs::write("/run/none.json", "{}").expect("write a configuration");
        let daemon = Process::spawn("dockerd", &mut command, &scratch.path().join("dockerd.log"));
        let mut docker = Self {
            daemon,
            group,
            dir,
            _mounted: [memory, run],
        };
        docker.wait_ready()?;
        docker.import_base();
        docker.import_build();
        docker.build();
        Ok(docker)
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = within(SECONDS);
        while !docker(&["version"]).status.success() {
            if self.daemon.has_ended() || Instant::now() > deadline {
                let log = self.daemon.log();
                return Err(format!(
                    "no Docker daemon runs here: {}",
                    log.lines().last().unwrap_or_default()
                ));
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }

    /// The C library that the binary under test is linked to, and the accounts that the real one has.
    fn import_base(&self) {
        let tree = self.dir.join("base");
        let linked = Command::new("ldd")
            .arg(env!("CARGO_BIN_EXE_btd"))
            .output()
            .expect("run ldd");
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), &tree.join(&library[1..]));
        }
        for dir in ["etc", "tmp"] {
            fs::create_dir_all(tree.join(dir)).expect("make a folder");
        }
        mode(&tree.join("tmp"), 0o1777);
        let accounts =
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n";
        fs::write(tree.join("etc/passwd"), accounts).expect("write the accounts");
        fs::write(tree.join("etc/group"), "root:x:0:\nnonroot:x:65532:\n").expect("write the groups");
        import(&tree, BASE);
    }

    /// What the stage that builds it leaves: the binary, and the folders as its own line makes them.
    fn import_build(&self) {
        let tree = self.dir.join("build");
        let release = tree.join("src/target/release");
        fs::create_dir_all(&release).expect("make a folder");
        run(Command::new("strip")
            .arg("-o")
            .arg(release.join("btd"))
            .arg(env!("CARGO_BIN_EXE_btd")));
        let dockerfile = dockerfile().replace("\\\n", " ");
        let line = dockerfile.lines().find(|line| line.starts_with("RUN cargo build"));
        let (_, folders) = line
            .and_then(|line| line.split_once("mkdir"))
            .expect("the Dockerfile makes folders");
        let folders = format!("mkdir{folders}");
        let is_within = |word: &str| !word.starts_with('/') || word.starts_with("/out/");
        assert!(
            folders.split_whitespace().all(is_within),
            "it is run here, and not in a container: {folders}"
        );
        let folders = folders.replace("/out/", "out/");
        run(Command::new("sh").args(["-ec", &folders]).current_dir(&tree));
        import(&tree, BUILD);
    }

    /// The last stage of the Dockerfile, to the letter.
    fn build(&self) {
        let text = dockerfile();
        let (_, stage) = text.rsplit_once("\nFROM ").expect("a second stage");
        assert!(stage.starts_with(BASE), "another base: {stage}");
        let context = self.dir.join("context");
        copy(
            &root().join("packaging/docker/btd.toml"),
            &context.join("packaging/docker/btd.toml"),
        );
        fs::write(context.join("Dockerfile"), format!("FROM {stage}")).expect("write a Dockerfile");
        let context = context.to_str().expect("UTF-8");
        self.run(&["build", "--quiet", "--tag", "btd", context]);
    }

    /// A command that has to succeed, and what it said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = docker(arguments);
        let said = said(&output);
        assert!(output.status.success(), "docker {arguments:?}: {said}");
        said.trim().to_owned()
    }

    /// The exit code of a command, and what it said.
    pub fn attempt(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = docker(arguments);
        (output.status.code(), said(&output))
    }

    /// What is so of a container.
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.run(&["inspect", "--format", template, container])
    }

    /// Waits until the image's own check of it has found it well.
    pub fn wait_healthy(&self, container: &str) {
        wait_for("the container is healthy", within(SECONDS), || {
            (self.inspect(container, "{{.State.Health.Status}}") == "healthy").then_some(())
        });
    }

    /// `btd ctl`, in a container.
    pub fn wait_listed(&self, container: &str, info_hash: &str, state: &str) {
        wait_for(&format!("{info_hash} is {state}"), within(SECONDS), || {
            let (_, said) = self.attempt(&["exec", container, "/usr/bin/btd", "ctl", "list", "--json"]);
            let mut listed = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let is_so = |torrent: Value| torrent["info_hash"] == info_hash && torrent["state"] == state;
            listed.any(is_so).then_some(())
        });
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let left = docker(&["ps", "--all", "--quiet"]);
        for container in String::from_utf8_lossy(&left.stdout).split_whitespace() {
            if std::thread::panicking() {
                eprintln!("{}", said(&docker(&["logs", container])));
            }
            docker(&["rm", "--force", "--volumes", container]);
        }
        if !self.daemon.has_ended() {
            self.daemon.signal(Signal::TERM);
        }
        let deadline = within(SECONDS);
        while !self.daemon.has_ended() && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // Cgroup v2 has one hierarchy, v1 a folder for each.
        let v1 = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let hierarchies = v1.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
        for group in hierarchies.map(|hierarchy: PathBuf| hierarchy.join(&self.group)) {
            while group.is_dir() && remove_group(&group).is_err() && Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// Why no daemon can be tried at all.
pub fn missing() -> Option<String> {
    let programs = ["dockerd", "docker", "docker-compose", "iptables", "strip", "ldd", "tar"];
    let program = programs.into_iter().find(|program| !installed(program))?;
    Some(format!("`{program}` is not installed (hint: tests/run installs it)"))
}

/// Docker's own profile as it has been since Docker 25, in what concerns btd: io_uring is not permitted. Older ones, Debian's among
/// them, permit it.
pub fn profile_without_io_uring() -> Value {
    let text = fs::read_to_string(root().join("config/seccomp.json")).expect("read the profile");
    let mut profile: Value = serde_json::from_str(&text).expect("JSON");
    let rules = profile["syscalls"].as_array_mut().expect("rules");
    let before = rules.len();
    rules.retain(|rule| {
        !rule["names"]
            .as_array()
            .expect("names")
            .contains(&json!("io_uring_setup"))
    });
    assert_eq!(rules.len(), before - 1);
    profile["defaultErrnoRet"] = json!(1);
    profile
}

/// Goes with a Compose file of packaging/docker, which is taken as it is as far as this machine can do it: who may not raise limits keeps
/// what there is. And the health is looked at more often, so that no test waits for it.
pub fn override_file(scratch: &Scratch, head: &str, more: &str) -> PathBuf {
    let status = fs::read_to_string("/proc/self/status").expect("read the capabilities");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.expect("capabilities").trim(), 16).expect("a number");
    let mut text = format!("{head}services:\n  btd:\n    healthcheck: {{interval: 1s}}\n");
    if effective & CAP_SYS_RESOURCE == 0 {
        text.push_str("    ulimits:\n");
        for (name, resource) in [("memlock", Resource::Memlock), ("nofile", Resource::Nofile)] {
            let most = getrlimit(resource)
                .maximum
                .map_or("-1".to_owned(), |most| most.to_string());
            text.push_str(&format!("      {name}: {{soft: {most}, hard: {most}}}\n"));
        }
    }
    let file = scratch.path().join("override.yml");
    fs::write(&file, text + more).expect("write a Compose file");
    file
}

/// A folder of the user that btd is in the container.
pub fn dir_of_user(scratch: &Scratch, name: &str) -> PathBuf {
    let dir = scratch.dir(name);
    chown(&dir, Some(USER), Some(USER)).expect("give a folder away");
    dir
}

fn dockerfile() -> String {
    fs::read_to_string(root().join("packaging/docker/Dockerfile")).expect("read the Dockerfile")
}

fn docker(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg(SECONDS.to_string()).arg("docker").args(arguments);
    environment(&mut command).output().expect("run timeout")
}

/// That of the daemon in [`Docker`], whatever this machine's own is.
pub fn environment(command: &mut Command) -> &mut Command {
    for variable in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CONFIG"] {
        command.env_remove(variable);
    }
    // The older builder takes a stage from an image of its name without asking a registry.
    command
        .env("DOCKER_HOST", "unix:///run/docker.sock")
        .env("DOCKER_BUILDKIT", "0")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn run(command: &mut Command) -> String {
    super::package::succeed(command)
}

fn import(tree: &Path, image: &str) {
    let archive = tree.with_extension("tar");
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--create", "--file"]).arg(&archive);
    run(tar.arg("--directory").arg(tree).arg("."));
    let output = docker(&["import", archive.to_str().expect("UTF-8"), image]);
    assert!(output.status.success(), "docker import: {}", said(&output));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
    fs::copy(from, to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set permissions");
}
