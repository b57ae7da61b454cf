//! The image, the Compose file and the stack file of packaging/docker, under a Docker daemon that this test starts.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::docker::{self, Docker, USER};
use support::leech::Leech;
use support::package::{root, succeed};
use support::payload::Payload;
use support::peer::Peer;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, cannot, private_net, skip, wait_for, within};

/// Where the container's port is published.
const PEERS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6881);
const SECONDS: u64 = 60;
/// What is promised of a stop, and what Docker takes for it.
const STOP: Duration = Duration::from_secs(5 + 2);
/// What btd says where the profile blocks io_uring.
const BLOCKED: &str = "io_uring is blocked by a seccomp filter, as in Docker's default profile (hint: ";

/// The folders that the container is given, with a payload and the torrent of it, which is not in the watch folder yet.
struct Folders {
    watch: PathBuf,
    data: PathBuf,
    state: PathBuf,
    payload: Payload,
    torrent: Torrent,
}

impl Folders {
    fn make(scratch: &Scratch) -> Folders {
        let [watch, data, state] = ["watch", "data", "state"].map(|name| docker::dir_of_user(scratch, name));
        let payload = Payload::make(&data, "payload", 7, &[("payload".to_owned(), 20_000_001)]);
        age(&payload.path());
        let torrent = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("t.torrent"));
        Folders {
            watch,
            data,
            state,
            payload,
            torrent,
        }
    }

    fn drop_in(&self) {
        let beside = self.watch.join("new");
        fs::copy(&self.torrent.path, &beside).expect("copy a torrent");
        fs::rename(beside, self.watch.join("t.torrent")).expect("give it its name");
    }
}

/// Runs `body` with a daemon whose own profile is this one.
fn with_docker(test: &str, profile: &Value, body: impl FnOnce(&Scratch, &Docker)) {
    if let Some(why) = docker::missing() {
        return skip(&why);
    }
    private_net::run(test, || {
        let scratch = Scratch::new("docker");
        match Docker::start(&scratch, profile) {
            Ok(docker) => body(&scratch, &docker),
            Err(why) => cannot(&why),
        }
    });
}

/// `docker-compose` with the Compose file as it is: its paths are from its folder.
fn compose(folders: &Folders, override_file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("docker-compose");
    command.current_dir(root().join("packaging/docker"));
    // Not what whoever uses the file here has written for himself.
    let no_env = override_file.with_extension("env");
    fs::write(&no_env, "").expect("write a file");
    command.arg("--env-file").arg(&no_env);
    command.args(["--project-name", "btd", "--file", "compose.yml", "--file"]);
    command.arg(override_file).args(arguments);
    for variable in ["PUID", "PGID", "BTD_CONFIG"] {
        command.env_remove(variable);
    }
    command.env("BTD_WATCH", &folders.watch).env("BTD_DATA", &folders.data);
    succeed(docker::environment(&mut command))
}

/// What the Compose file takes from the container is taken: the number of its process is one here too.
fn check_confined(docker: &Docker, container: &str, lines: &[&str]) {
    let pid = docker.inspect(container, "{{.State.Pid}}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status of a process");
    let user = format!("Uid:{}", format!("\t{USER}").repeat(4));
    let all = [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "Seccomp:\t2",
        &user,
    ];
    for line in all.iter().chain(lines) {
        assert!(
            status.lines().any(|found| found == *line),
            "{line:?} is not so:\n{status}"
        );
    }
    assert_eq!(docker.inspect(container, "{{.HostConfig.ReadonlyRootfs}}"), "true");
}

#[test]
fn image_is_seeding_and_healthy_under_the_compose_file_and_says_why_not_under_dockers_own_profile() {
    let name = "image_is_seeding_and_healthy_under_the_compose_file_and_says_why_not_under_dockers_own_profile";
    with_docker(name, &docker::profile_without_io_uring(), |scratch, docker| {
        let (code, said) = docker.attempt(&["run", "--rm", "btd"]);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(BLOCKED), "{said}");

        let folders = Folders::make(scratch);
        let override_file = docker::override_file(scratch, "", "");
        compose(&folders, &override_file, &["up", "--detach", "--no-build"]);
        let container = docker.run(&["ps", "--quiet"]);
        let hash = folders.torrent.info_hash_hex();
        folders.drop_in();
        docker.wait_listed(&container, &hash, "seeding");
        let leech = Leech::from(scratch, "leech", &folders.torrent, vec![PEERS]);
        leech.check(&folders.payload);
        check_confined(docker, &container, &["NoNewPrivs:\t1"]);
        docker.wait_healthy(&container);

        let began = Instant::now();
        docker.run(&["stop", &container]);
        assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
        assert_eq!(docker.inspect(&container, "{{.State.ExitCode}}"), "0");
        docker.run(&["start", &container]);
        // It is there from the first moment, and nothing is read for it.
        wait_for("btd is ready once more", within(SECONDS), || {
            let logs = docker.run(&["logs", &container]);
            let ready: Vec<&str> = logs.lines().filter(|line| line.contains("ready after")).collect();
            let [_, ready] = ready[..] else { return None };
            assert!(ready.ends_with("1 torrent: 1 seeding"), "{ready}");
            logs.contains("unchanged since it was checked").then_some(())
        });
        compose(&folders, &override_file, &["down", "--volumes"]);
        folders.payload.assert_same(&folders.data, true);
    });
}

/// Docker's own profile, changed as stack.yml says.
fn profile_of_stack(stack: &str) -> Value {
    let (_, rules) = stack.split_once("jq '.syscalls += ").expect("what jq is told");
    let (rules, _) = rules.split_once('\'').expect("the end of it");
    let rules: Value = serde_json::from_str(rules).expect("JSON");
    let mut profile = docker::profile_without_io_uring();
    let syscalls = profile["syscalls"].as_array_mut().expect("rules");
    syscalls.extend(rules.as_array().expect("rules").iter().cloned());
    profile
}

#[test]
fn stack_is_seeding_and_healthy_on_a_node_whose_profile_has_io_uring() {
    let file = root().join("packaging/docker/stack.yml");
    let stack = fs::read_to_string(&file).expect("read the stack file");
    let name = "stack_is_seeding_and_healthy_on_a_node_whose_profile_has_io_uring";
    with_docker(name, &profile_of_stack(&stack), |scratch, docker| {
        let (code, said) = docker.attempt(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        if code != Some(0) {
            return cannot(&format!("no swarm can be made here: {said}"));
        }
        let node = docker.run(&["node", "ls", "--quiet"]);
        docker.run(&["node", "update", "--label-add", "btd=true", &node]);

        let folders = Folders::make(scratch);
        folders.drop_in();
        let mut mounts = String::from("    volumes:\n");
        for (dir, target) in [
            (&folders.watch, "/watch"),
            (&folders.data, "/data"),
            (&folders.state, "/state"),
        ] {
            let mount = json!({"type": "bind", "source": dir, "target": target});
            mounts.push_str(&format!("      - {mount}\n"));
        }
        // Files that go together are of one version.
        let version = stack.lines().find(|line| line.starts_with("version:"));
        let version = version.map(|line| format!("{line}\n")).unwrap_or_default();
        let override_file = docker::override_file(scratch, &version, &mounts);
        let [file, override_file] = [&file, &override_file].map(|file| file.to_str().expect("UTF-8"));
        docker.run(&["stack", "deploy", "-c", file, "-c", override_file, "seedbox"]);
        let container = wait_for("the task has a container", within(SECONDS), || {
            let container = docker.run(&["ps", "--quiet"]);
            (!container.is_empty()).then_some(container)
        });
        docker.wait_listed(&container, &folders.torrent.info_hash_hex(), "seeding");
        check_confined(docker, &container, &[]);
        let leech = Leech::from(scratch, "leech", &folders.torrent, vec![PEERS]);
        leech.check(&folders.payload);
        wait_for("the task runs, which means that it is healthy", within(SECONDS), || {
            let (_, state) = docker.attempt(&["stack", "ps", "--format", "{{.CurrentState}}", "seedbox"]);
            state.starts_with("Running").then_some(())
        });

        docker.run(&["stack", "rm", "seedbox"]);
        let ended = wait_for("the task has ended", within(SECONDS), || {
            let code = "{{index .Actor.Attributes \"exitCode\"}}";
            let filter = [
                "--since",
                "1h",
                "--until",
                "0s",
                "--filter",
                "event=die",
                "--format",
                code,
            ];
            let ended = docker.run(&[&["events"], &filter[..]].concat());
            (!ended.is_empty()).then_some(ended)
        });
        assert_eq!(ended, "0");
        wait_for("nothing listens there any more", within(SECONDS), || {
            Peer::connect(PEERS, Ipv4Addr::LOCALHOST).err()
        });
        docker.run(&["swarm", "leave", "--force"]);
        folders.payload.assert_same(&folders.data, true);
    });
}
