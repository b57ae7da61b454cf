//! Machines of a test's own: network namespaces with an address each, joined by a bridge, and a DNS server that knows their
//! names. It is what containers see of an overlay network: a name stays, the address behind it does not.
//!
//! To be used within [`super::private_net::run`], whose namespaces hold all of it: the bridge, the mounts, `/run` with the
//! names of the namespaces, and `/etc/resolv.conf`. They are gone when the test ends, however it ends, and nobody else sees
//! any of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::process::Process;
use super::scratch::Scratch;
use super::{installed, wait_for, within};

/// Of the test itself, on the bridge: the DNS server is here.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 254);

/// The network, its DNS server and the names that it knows.
pub struct Overlay {
    dns: Process,
    hosts: PathBuf,
    names: Vec<(String, IpAddr)>,
}

/// A machine in it.
pub struct Machine {
    /// Of its network namespace.
    name: String,
    pub addr: IpAddr,
}

impl Overlay {
    /// What has to be installed for it and is not.
    pub fn missing() -> Option<String> {
        let missing = ["dnsmasq", "nsenter", "mount"]
            .into_iter()
            .find(|program| !installed(program))?;
        Some(format!("`{missing}` is not installed (hint: tests/run installs it)"))
    }

    /// A bridge with nobody on it, and a DNS server that knows no name.
    pub fn start(scratch: &Scratch) -> Self {
        let dir = scratch.dir("overlay");
        // `ip netns` has its files there; in this mount namespace they are nobody else's.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        let resolv_conf = dir.join("resolv.conf");
        fs::write(
            &resolv_conf,
            format!("nameserver {HERE}\noptions timeout:2 attempts:2\n"),
        )
        .expect("write resolv.conf");
        run("mount", &["--bind", path(&resolv_conf), "/etc/resolv.conf"]);
        run("ip", &["link", "add", "overlay", "type", "bridge"]);
        run("ip", &["address", "add", &format!("{HERE}/24"), "dev", "overlay"]);
        run("ip", &["link", "set", "overlay", "up"]);

        let hosts = dir.join("hosts");
        fs::write(&hosts, "").expect("write names");
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
                "--pid-file",
            ])
            .args(["--no-resolv", "--no-hosts", "--domain-needed", "--local-ttl=0"])
            .args(["--bind-interfaces", &format!("--listen-address={HERE}")])
            .args(["--log-queries", "--log-facility=-"])
            .arg(format!("--addn-hosts={}", hosts.display()));
        let mut dns = Process::spawn("dnsmasq", &mut command, &dir.join("dnsmasq.log"));
        // It is bound for datagrams before it is for connections.
        wait_for("the DNS server listens", within(20), || {
            dns.assert_running();
            TcpStream::connect_timeout(&SocketAddr::from((HERE, 53)), Duration::from_secs(1)).ok()
        });
        Self {
            dns,
            hosts,
            names: Vec::new(),
        }
    }

    /// A new machine with the address 10.78.0.`last`. No name leads to it yet.
    pub fn machine(&self, name: &str, last: u8) -> Machine {
        let addr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, last));
        run("ip", &["netns", "add", name]);
        run(
            "ip",
            &[
                "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name,
            ],
        );
        run("ip", &["link", "set", name, "master", "overlay", "up"]);
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &format!("{addr}/24"), "dev", "eth0"],
            &["link", "set", "eth0", "up"],
        ] {
            run("ip", &[&["-n", name], arguments].concat());
        }
        Machine {
            name: name.to_owned(),
            addr,
        }
    }

    /// From now on, and to whoever asks, this name has this address and no other.
    pub fn name(&mut self, name: &str, addr: IpAddr) {
        self.names.retain(|(known, _)| known != name);
        self.names.push((name.to_owned(), addr));
        let lines: String = self
            .names
            .iter()
            .map(|(name, addr)| format!("{addr} {name}\n"))
            .collect();
        fs::write(&self.hosts, lines).expect("write names");
        let read = |log: &str| {
            let line = format!("read {}", self.hosts.display());
            log.lines().filter(|text| text.contains(&line)).count()
        };
        let before = read(&self.dns.log());
        self.dns.signal(Signal::HUP);
        wait_for("the DNS server reads its names again", within(20), || {
            (read(&self.dns.log()) > before).then_some(())
        });
    }

    /// How often the DNS server was asked for a name by a machine and has given this address.
    pub fn times_told(&self, asker: &Machine, name: &str, addr: IpAddr) -> usize {
        let log = self.dns.log();
        let asked = format!("query[A] {name} from {}", asker.addr);
        let told = format!("{name} is {addr}");
        let lines: Vec<&str> = log.lines().collect();
        // The answer is the next line of the log that is about this name.
        let is_told = |at: &usize| {
            let next = lines[at + 1..]
                .iter()
                .find(|line| line.contains(&format!("{name} is ")));
            lines[*at].contains(&asked) && next.is_some_and(|line| line.ends_with(&told))
        };
        (0..lines.len()).filter(is_told).count()
    }
}

impl Machine {
    /// A program that runs there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    /// Takes it off the network: nobody answers at its address any more.
    pub fn unplug(self) {
        run("ip", &["link", "delete", &self.name]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {message}");
}
