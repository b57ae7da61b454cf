//! `peers.bind-device`: everything that has to do with peers goes by one network device, and by no other while that is away.
//!
//! Each test has a network of its own: a device `vpn0` that btd is bound to, and a device `wan0` with the default route, by which
//! everything on the other side can be reached as well. On the other side are trackers, a name server and a peer. What btd
//! sends by `wan0` is counted by the kernel, and has to be nothing at all.

mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::btd::{Btd, Config};
use support::payload::Payload;
use support::process::Process;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{installed, private_net, skip, wait_for, within};

/// On the other side, reachable by either device.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Of btd at `vpn0`.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
/// What comes back within this time is in time.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const OK: &str = "btd_announces_total{result=\"ok\"}";
const UP: &str = "btd_bind_device_up";

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {message}");
}

fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Both sides and what is between them.
struct Net {
    dns: Process,
}

impl Net {
    fn start(scratch: &Scratch) -> Self {
        // `ip netns` has its files there; in this mount namespace they are nobody else's.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        ip("netns add far");
        ip("-n far link set lo up");
        ip(&format!("-n far address add {FAR}/32 dev lo"));
        ip("link add wan0 type veth peer name wan1 netns far");
        // What the kernel says of itself by IPv6 would be counted.
        fs::write("/proc/sys/net/ipv6/conf/wan0/disable_ipv6", "1").expect("turn IPv6 off");
        // The kernel asks now and then whether a neighbour is still there; these know each other for ever.
        ip("link set wan0 address 02:00:00:00:00:02");
        ip("-n far link set wan1 address 02:00:00:00:00:01");
        ip("address add 10.80.0.2/24 dev wan0");
        ip("link set wan0 up");
        ip("-n far address add 10.80.0.1/24 dev wan1");
        ip("-n far link set wan1 up");
        ip("neigh replace 10.80.0.1 lladdr 02:00:00:00:00:01 dev wan0 nud permanent");
        ip("-n far neigh replace 10.80.0.2 lladdr 02:00:00:00:00:02 dev wan1 nud permanent");
        ip("route add default via 10.80.0.1 dev wan0");
        let dir = scratch.dir("dns");
        let resolv_conf = dir.join("resolv.conf");
        fs::write(
            &resolv_conf,
            format!("nameserver {FAR}\noptions timeout:1 attempts:1\n"),
        )
        .expect("write resolv.conf");
        run(
            "mount",
            &["--bind", resolv_conf.to_str().expect("UTF-8"), "/etc/resolv.conf"],
        );
        let mut command = far("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
                "--pid-file",
                "--no-resolv",
                "--no-hosts",
            ])
            .args([
                "--bind-interfaces",
                &format!("--listen-address={FAR}"),
                "--log-queries",
                "--log-facility=-",
            ])
            .args([
                &format!("--address=/tracker.test/{FAR}"),
                &format!("--address=/peer.test/{FAR}"),
            ]);
        let mut dns = Process::spawn("dnsmasq", &mut command, &dir.join("dnsmasq.log"));
        // The way by which it would be found, were btd to go that way. What this sends is not counted.
        wait_for("the name server listens", within(20), || {
            dns.assert_running();
            TcpStream::connect_timeout(&SocketAddr::from((FAR, 53)), Duration::from_secs(1)).ok()
        });
        Self { dns }
    }

    /// There is a `vpn0` from now on, and it is up.
    fn plug(&self) {
        ip("link add vpn0 type veth peer name vpn1 netns far");
        ip("-n far address add 10.79.0.1/24 dev vpn1");
        ip("-n far link set vpn1 up");
        ip(&format!("address add {NEAR}/24 dev vpn0"));
        ip("link set vpn0 up");
        ip(&format!("route add {FAR} via 10.79.0.1 dev vpn0"));
    }

    fn unplug(&self) {
        ip("link delete vpn0");
    }
}

/// A program on the other side.
fn far(program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net=/run/netns/far", "--", program]);
    command
}

/// Packets and bytes that have left by a device.
fn sent(device: &str) -> (u64, u64) {
    let text = fs::read_to_string("/proc/net/dev").expect("read /proc/net/dev");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{device}:")));
    let numbers: Vec<u64> = line
        .unwrap_or_else(|| panic!("no {device} in {text}"))
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    (numbers[9], numbers[8])
}

fn missing() -> Option<String> {
    let missing = ["dnsmasq", "nsenter", "curl"]
        .into_iter()
        .find(|program| !installed(program))?;
    Some(format!("`{missing}` is not installed (hint: tests/run installs it)"))
}

/// One torrent of a folder: its payload there or not.
struct Home {
    watch: std::path::PathBuf,
    data: std::path::PathBuf,
    payload: Payload,
    torrent: Torrent,
}

/// A torrent whose trackers are those of the other side, by name.
fn home(scratch: &Scratch, name: &str, seed: u64, tracker: SocketAddr) -> Home {
    let (watch, data) = (
        scratch.dir(&format!("{name}/watch")),
        scratch.dir(&format!("{name}/data")),
    );
    let payload = Payload::make(&data, name, seed, &[(name.to_owned(), 3 << 20)]);
    let plain = Torrent::create(
        &payload.path(),
        64 << 10,
        scratch.path().join(format!("{name}.torrent")),
    );
    let url = format!("http://tracker.test:{}/announce", tracker.port());
    let torrent = plain.with_tracker(&url, watch.join("t.torrent"));
    Home {
        watch,
        data,
        payload,
        torrent,
    }
}

fn bound(device: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.env("BTD_PEERS__BIND_DEVICE", device);
    command
}

/// A btd of the other side that is the tracker, by HTTP and by datagrams.
fn tracker(scratch: &Scratch) -> Btd {
    let more = format!("[tracker]\nhttp = \"{FAR}:0\"\nudp = \"{FAR}:0\"\ninterval = \"2s\"\nmin-interval = \"1s\"\n");
    let config = Config {
        listen: IpAddr::V4(FAR),
        metrics: IpAddr::V4(FAR),
        shards: 1,
        more,
        ..Config::default()
    };
    Btd::start_within(far(env!("CARGO_BIN_EXE_btd")), &scratch.dir("tracker"), &config)
}

fn announce(udp: SocketAddr) -> String {
    // A second list: that of the torrent is asked by HTTP.
    format!(
        "[announce]\nallow-private = true\ntrackers = [\"udp://tracker.test:{}/announce\"]\n",
        udp.port()
    )
}

/// Waits until what was away is used again, as long as that may take.
fn back(what: &str, from: Instant, mut is_so: impl FnMut() -> bool) {
    wait_for(what, from + BACK_WITHIN, || is_so().then_some(()));
}

fn metric_is(btd: &Btd, name: &str, value: f64) {
    wait_for(&format!("{name} is {value}"), within(20), || {
        (btd.metric(name) == value).then_some(())
    });
}

/// A download on the other side, of what btd seeds: to the end.
fn fetch(scratch: &Scratch, name: &str, torrent: &Path, seed: SocketAddr, payload: &Payload) {
    let (watch, data) = (
        scratch.dir(&format!("{name}/watch")),
        scratch.dir(&format!("{name}/data")),
    );
    fs::copy(torrent, watch.join("t.torrent")).expect("copy a torrent");
    let config = Config {
        listen: IpAddr::V4(FAR),
        metrics: IpAddr::V4(FAR),
        shards: 1,
        watch: vec![(watch, data.clone())],
        peers: vec![seed],
        more: "[announce]\nenabled = false\n".to_owned(),
        ..Config::default()
    };
    let leech = Btd::start_within(far(env!("CARGO_BIN_EXE_btd")), &scratch.dir(name), &config);
    wait_for("the peer has everything", within(60), || {
        http_get_far(&leech, "btd_torrents{state=\"seeding\"} 1").then_some(())
    });
    payload.assert_same(&data, true);
    leech.stop();
}

/// Whether a btd of the other side says this line, asked from there.
fn http_get_far(btd: &Btd, line: &str) -> bool {
    let output = far("curl")
        .args(["-s", "--max-time", "5", &format!("http://{}/metrics", btd.metrics)])
        .output()
        .expect("run curl");
    String::from_utf8_lossy(&output.stdout).lines().any(|said| said == line)
}

#[test]
fn what_is_bound_to_a_device_that_is_away_sends_nothing_by_another_and_begins_when_it_comes() {
    let name = "what_is_bound_to_a_device_that_is_away_sends_nothing_by_another_and_begins_when_it_comes";
    private_net::run(name, || {
        if let Some(missing) = missing() {
            return skip(&missing);
        }
        let scratch = Scratch::new("away_at_first");
        let net = Net::start(&scratch);
        let tracker = tracker(&scratch);
        let (http, udp) = (tracker.tracker_http.expect("HTTP"), tracker.tracker_udp.expect("UDP"));
        let seeded = home(&scratch, "seeded", 1, http);
        let wanted = home(&scratch, "wanted", 2, http);
        let seeder = seeder(&scratch, &wanted);
        fs::remove_file(wanted.payload.path()).expect("delete payload");
        let before = sent("wan0");
        let mut config = Config {
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            shards: 2,
            watch: vec![(seeded.watch.clone(), seeded.data.clone())],
            more: announce(udp),
            ..Config::default()
        };
        config.more += &format!(
            "[[watch]]\ndir = {:?}\ndata-dir = {:?}\npeers = [\"peer.test:{}\"]\n",
            wanted.watch,
            wanted.data,
            seeder.peers.port()
        );
        let mut btd = Btd::start_within(bound("vpn0"), &scratch.dir("btd"), &config);
        btd.metrics.set_ip(Ipv4Addr::LOCALHOST.into());
        btd.wait_seeding(1);
        assert_eq!(btd.metric(UP), 0.0);
        assert!(
            btd.process.log().contains("vpn0 ([peers] bind-device) is not there"),
            "{}",
            btd.process.log()
        );
        // Names of trackers and of a peer were looked up in vain, and so were both trackers.
        wait_for("all that is tried has failed", within(60), || {
            (btd.metric("btd_announces_total") >= 4.0).then_some(())
        });
        assert_eq!(btd.metric(OK), 0.0);
        assert_eq!(sent("wan0"), before, "packets and bytes by the other device");
        let asked = |log: &str| log.lines().filter(|line| line.contains("query[")).count();
        assert_eq!(asked(&net.dns.log()), 0, "{}", net.dns.log());

        let from = Instant::now();
        net.plug();
        back("torrents are announced", from, || btd.metric(OK) >= 3.0);
        back("the download has begun", from, || {
            btd.metric("btd_downloaded_bytes_total") > 0.0
        });
        btd.wait_seeding(2);
        wanted.payload.assert_same(&wanted.data, true);
        assert_eq!(btd.metric(UP), 1.0);
        assert!(asked(&net.dns.log()) >= 2, "{}", net.dns.log());
        let seed = SocketAddr::new(IpAddr::V4(NEAR), btd.peers.port());
        fetch(&scratch, "leech", &seeded.torrent.path, seed, &seeded.payload);
        assert_eq!(sent("wan0"), before, "packets and bytes by the other device");
        btd.stop();
    });
}

#[test]
fn twenty_times_a_device_goes_and_comes_back_and_nothing_leaves_by_another() {
    let name = "twenty_times_a_device_goes_and_comes_back_and_nothing_leaves_by_another";
    private_net::run(name, || {
        if let Some(missing) = missing() {
            return skip(&missing);
        }
        let scratch = Scratch::new("twenty_times");
        let net = Net::start(&scratch);
        // Nobody is there: who is asked for names is whom the configuration names (`dns-servers`).
        let resolv_conf = scratch.path().join("dns/resolv.conf");
        fs::write(resolv_conf, "nameserver 10.99.0.99\n").expect("write resolv.conf");
        let tracker = tracker(&scratch);
        let (http, udp) = (tracker.tracker_http.expect("HTTP"), tracker.tracker_udp.expect("UDP"));
        let seeded = home(&scratch, "seeded", 3, http);
        net.plug();
        let before = sent("wan0");
        let config = Config {
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            shards: 2,
            watch: vec![(seeded.watch.clone(), seeded.data.clone())],
            more: announce(udp),
            ..Config::default()
        };
        let mut command = bound("vpn0");
        command.env("BTD_PEERS__DNS_SERVERS", format!("[\"{FAR}\"]"));
        let mut btd = Btd::start_within(command, &scratch.dir("btd"), &config);
        btd.metrics.set_ip(Ipv4Addr::LOCALHOST.into());
        btd.wait_seeding(1);
        wait_for("both trackers were told", within(60), || {
            (btd.metric(OK) >= 2.0).then_some(())
        });
        let seed = SocketAddr::new(IpAddr::V4(NEAR), btd.peers.port());
        for round in 0..20 {
            match round % 2 {
                0 => ip("link set vpn0 down"),
                _ => net.unplug(),
            }
            metric_is(&btd, UP, 0.0);
            // It is asked in vain: by the other device it would be answered.
            run_ctl(&scratch, &["reannounce", "--all"]);
            assert_eq!(
                sent("wan0"),
                before,
                "packets and bytes by the other device in round {round}"
            );
            let (from, ok) = (Instant::now(), btd.metric(OK));
            match round % 2 {
                0 => ip("link set vpn0 up"),
                _ => net.plug(),
            }
            metric_is(&btd, UP, 1.0);
            back("peers are listened for", from, || {
                // It connects and says nothing.
                let connect = format!("exec 3<>/dev/tcp/{}/{}", seed.ip(), seed.port());
                far("timeout")
                    .args(["2", "bash", "-c", &connect])
                    .stderr(std::process::Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            });
            if round >= 18 {
                back("torrents are announced", from, || btd.metric(OK) >= ok + 2.0);
            }
        }
        fetch(&scratch, "leech", &seeded.torrent.path, seed, &seeded.payload);
        assert_eq!(sent("wan0"), before, "packets and bytes by the other device");
        let log = btd.process.log();
        assert_eq!(log.matches("vpn0 is back").count(), 20, "{log}");
        btd.stop();
    });
}

fn run_ctl(scratch: &Scratch, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["ctl", "--state-dir"])
        .arg(scratch.path().join("btd/state"))
        .args(arguments)
        .output()
        .expect("run btd ctl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A btd of the other side that has a payload, before it is deleted here.
fn seeder(scratch: &Scratch, home: &Home) -> Btd {
    let (watch, data) = (scratch.dir("seeder/watch"), scratch.dir("seeder/data"));
    fs::copy(&home.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    let name = home.payload.path();
    fs::copy(&name, data.join(name.file_name().expect("a name"))).expect("copy payload");
    let config = Config {
        listen: IpAddr::V4(FAR),
        metrics: IpAddr::V4(FAR),
        shards: 1,
        watch: vec![(watch, data)],
        more: "[announce]\nenabled = false\n".to_owned(),
        ..Config::default()
    };
    let btd = Btd::start_within(far(env!("CARGO_BIN_EXE_btd")), &scratch.dir("seeder"), &config);
    wait_for("the peer seeds", within(60), || {
        http_get_far(&btd, "btd_torrents{state=\"seeding\"} 1").then_some(())
    });
    btd
}
