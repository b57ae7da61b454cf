//! A test in a network of its own: it runs itself again inside fresh network and process namespaces.
//!
//! Why: Transmission takes no peer in 127.0.0.0/8, so the swarm needs another address of this machine, and nobody's
//! real interface should be touched. It also means that no packet of any client can leave the machine, that ports
//! never collide between tests, and that whatever a client left running ends with the namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// Where btd listens.
pub const SEED: IpAddr = address(1);

/// The further addresses, one for each client: to Transmission, two peers of one address are one peer, and one of the
/// two that its tracker names is itself.
pub const CLIENTS: [IpAddr; 5] = [address(2), address(3), address(4), address(5), address(6)];

const fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
}

const INSIDE: &str = "BTD_TEST_PRIVATE_NET";

/// Runs `body` inside. `test` is the full name of the calling test, by which the test binary is told to run just it.
pub fn run(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        ip(&["link", "set", "lo", "up"]);
        for addr in CLIENTS.iter().chain([&SEED]) {
            ip(&["address", "add", &format!("{addr}/32"), "dev", "lo"]);
        }
        return body();
    }
    if let Err(why) = available() {
        return super::skip(&format!("{test}: {why}"));
    }
    let output = unshare()
        .arg(std::env::current_exe().expect("the path of the running test binary"))
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .output()
        .expect("run unshare");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "the test failed in its private network (see above)"
    );
    // A misspelt name would run nothing and succeed.
    let ran = String::from_utf8_lossy(&output.stdout).contains("test result: ok. 1 passed");
    assert!(ran, "no test of the name {test:?}");
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    // With a process namespace, so that the end of the test is the end of everything it started.
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--");
    command
}

/// Whether namespaces can be made here, or why not.
fn available() -> Result<(), String> {
    for tool in ["unshare", "ip"] {
        if !super::installed(tool) {
            return Err(format!("`{tool}` is not installed"));
        }
    }
    let output = unshare()
        .arg("true")
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("no network namespace to be had: {message}"))
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("run ip");
    assert!(status.success(), "ip {arguments:?}: {status}");
}
