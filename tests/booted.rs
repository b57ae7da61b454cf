//! The package under a systemd that runs services: installed, enabled, used, reloaded, hung, upgraded, rebooted and purged.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use btd::proto::handshake::Reserved;
use support::leech::{Leech, Source, info_hash};
use support::payload::Payload;
use support::peer::Peer;
use support::scratch::Scratch;
use support::system::{PACKAGE, System};
use support::torrent::Torrent;
use support::{age, cannot, http, installed, package, private_net, skip, wait_for, within};

/// Where btd listens by the configuration that the package installs.
const PEERS: SocketAddr = address(6881);
const METRICS: SocketAddr = address(9469);
/// And alice's, by hers.
const PEERS_OF_ALICE: SocketAddr = address(6991);

const PIECE_LEN: u32 = 64 << 10;
/// Long enough for a machine that runs all tests at once.
const SECONDS: u64 = 60;
/// What is promised of a stop, and what systemd takes for it.
const STOP: Duration = Duration::from_secs(5 + 2);

const fn address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Boots a system and installs the package there.
fn with_package(test: &str, body: impl FnOnce(&Scratch, &mut System)) {
    if !installed("systemd-nspawn") {
        return skip("`systemd-nspawn` is not installed (hint: tests/run installs it)");
    }
    if !installed("dpkg-deb") {
        return cannot("`dpkg-deb` is not installed");
    }
    private_net::run(test, || {
        let scratch = Scratch::new("booted");
        let package = package::build(&scratch);
        let mut system = match System::boot(&scratch, package) {
            Ok(system) => system,
            Err(why) => return cannot(&why),
        };
        system.run(&["dpkg", "--install", PACKAGE]);
        body(&scratch, &mut system);
    });
}

/// A payload that lies in this data folder of the system too, and its torrent, which is for the watch folder.
fn payload(scratch: &Scratch, system: &System, data: &str, name: &str) -> (Payload, Torrent) {
    let payload = Payload::make(&scratch.dir("payload"), name, 7, &[(name.to_owned(), 3 << 20)]);
    let there = system.path(data).join(name);
    fs::copy(payload.path(), &there).expect("copy a payload");
    age(&there);
    let torrent = scratch.path().join(format!("{name}.torrent"));
    let torrent = Torrent::create(&payload.path(), PIECE_LEN, torrent);
    (payload, torrent)
}

fn drop_in(torrent: &Torrent, watch: &Path) {
    let beside = watch.join("new");
    fs::copy(&torrent.path, &beside).expect("copy a torrent");
    fs::rename(beside, watch.join("payload.torrent")).expect("give it its name");
}

fn metric(name: &str) -> f64 {
    let text = http::get(METRICS, "/metrics").expect("read btd's metrics").text();
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    values.sum()
}

/// Reads the first block as a peer does.
fn fetch(peer: &mut Peer, payload: &Payload) {
    let block = peer.fetch(0, 0, 16 << 10).expect("a block");
    let file = fs::read(payload.path()).expect("read the payload");
    assert!(block == file[..16 << 10], "the block is another");
}

fn join(torrent: &Torrent) -> Peer {
    let peer = Peer::join(PEERS, Ipv4Addr::LOCALHOST, info_hash(torrent), Reserved::OURS);
    let mut peer = peer.expect("its handshake is answered");
    peer.hear_id(1).expect("unchoked");
    peer
}

/// What the unit says of privileges is so: the number of its process, which has none.
fn check_confined(system: &System) -> String {
    let pid = system.property("btd.service", "MainPID");
    let status = system.run(&["cat", &format!("/proc/{pid}/status")]);
    let has = |line: &str| status.lines().any(|found| found == line);
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(has(line), "{line:?} is not so:\n{status}");
    }
    check_user(system, "btd.service", "btd");
    // In the mount namespace of the service, and as root: what is read-only there is so for everybody.
    let touch = |file: &str| system.attempt(&["nsenter", "--target", &pid, "--mount", "--", "touch", file]);
    for file in ["/usr/bin/x", "/etc/x", "/var/lib/x"] {
        let (is_done, said) = touch(file);
        assert!(!is_done && said.contains("Read-only"), "{file}: {said}");
    }
    for file in ["/var/lib/btd/x", "/srv/torrents/data/x"] {
        let (is_done, said) = touch(file);
        assert!(is_done, "{file}: {said}");
        system.run(&["rm", file]);
    }
    pid
}

/// A service runs as this user, by all the numbers that a process has of one.
fn check_user(system: &System, unit: &str, user: &str) {
    let pid = system.property(unit, "MainPID");
    let status = system.run(&["cat", &format!("/proc/{pid}/status")]);
    let number = system.run(&["id", "--user", user]);
    let line = format!("Uid:{}", format!("\t{}", number.trim()).repeat(4));
    assert!(status.lines().any(|found| found == line), "{unit}: {line:?}:\n{status}");
}

#[test]
fn package_is_enabled_used_reloaded_upgraded_rebooted_and_purged_under_systemd() {
    let name = "package_is_enabled_used_reloaded_upgraded_rebooted_and_purged_under_systemd";
    with_package(name, |scratch, system| {
        // Whoever installs it looks at the configuration first.
        assert_eq!(system.property("btd.service", "ActiveState"), "inactive");
        system.run(&["systemctl", "enable", "--now", "btd"]);
        // It is ready, or `systemctl` had not come back.
        assert_eq!(system.property("btd.service", "SubState"), "running");
        assert_eq!(metric("btd_torrents{state=\"seeding\"}"), 0.0);
        let pid = check_confined(system);

        let (payload, torrent) = payload(scratch, system, "/srv/torrents/data", "payload");
        drop_in(&torrent, &system.path("/srv/torrents/watch"));
        system.wait_property("btd.service", "StatusText", "1 torrent: 1 seeding");
        let leech = Leech::from(scratch, "leech", &torrent, vec![PEERS]);
        leech.check(&payload);
        let listed = system.run(&["btd", "ctl", "--config", "/etc/btd/btd.toml", "list", "--json"]);
        assert!(listed.contains(&torrent.info_hash_hex()), "{listed}");

        reload(system, &torrent, &payload);
        assert_eq!(system.property("btd.service", "MainPID"), pid, "a reload is no restart");

        // The same package once more is an upgrade. Where the new program would not start, the former goes on.
        let config = system.path("/etc/btd/btd.toml");
        let good = fs::read_to_string(&config).expect("read the configuration");
        fs::write(&config, format!("{good}\n[limits]\nupload-rat = \"1 MB/s\"\n")).expect("write the configuration");
        let said = system.run(&["dpkg", "--install", PACKAGE]);
        assert!(
            said.contains("upload-rat") && said.contains("goes on with the former program"),
            "{said}"
        );
        assert_eq!(system.property("btd.service", "MainPID"), pid);
        fs::write(&config, good).expect("write the configuration");
        system.run(&["dpkg", "--install", PACKAGE]);
        assert_eq!(system.property("btd.service", "SubState"), "running");
        assert_ne!(system.property("btd.service", "MainPID"), pid);
        seeds_as_it_was(system, &torrent, &payload);

        let began = Instant::now();
        system.run(&["systemctl", "stop", "btd"]);
        assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
        assert_eq!(system.property("btd.service", "Result"), "success");
        assert_eq!(system.property("btd.service", "ActiveState"), "inactive");

        system.reboot();
        system.wait_property("btd.service", "SubState", "running");
        seeds_as_it_was(system, &torrent, &payload);

        system.run(&["dpkg", "--purge", "btd"]);
        assert!(Peer::connect(PEERS, Ipv4Addr::LOCALHOST).is_err(), "it still listens");
        assert_eq!(system.property("btd.service", "LoadState"), "not-found");
        for gone in ["/usr/bin/btd", "/etc/btd", "/var/lib/btd"] {
            assert!(!system.path(gone).exists(), "{gone}");
        }
        let left = system.run(&["find", "/etc/systemd/system", "-name", "*btd*"]);
        assert_eq!(left, "", "links of what was enabled");
        payload.assert_same(&system.path("/srv/torrents/data"), true);
    });
}

/// A reload takes a change over with no peer dropped, and a mistake is told and changes nothing.
fn reload(system: &System, torrent: &Torrent, payload: &Payload) {
    let config = system.path("/etc/btd/btd.toml");
    let before = fs::read_to_string(&config).expect("read the configuration");
    let mut peer = join(torrent);
    fetch(&mut peer, payload);
    fs::write(&config, format!("{before}\n[limits]\nupload-rate = \"90 MB/s\"\n")).expect("write the configuration");
    system.run(&["systemctl", "reload", "btd"]);
    let limits = || system.run(&["btd", "ctl", "--config", "/etc/btd/btd.toml", "limits", "--json"]);
    wait_for("the limit is in force", within(SECONDS), || {
        limits().contains("90000000").then_some(())
    });
    fetch(&mut peer, payload);

    fs::write(&config, format!("{before}\n[limits]\nupload-rat = \"1 MB/s\"\n")).expect("write the configuration");
    // With Type=notify systemd does not wait for what comes of it.
    system.run(&["systemctl", "reload", "btd"]);
    wait_for("the journal says why not", within(SECONDS), || {
        system.journal().contains("upload-rat").then_some(())
    });
    assert!(limits().contains("90000000"));
    assert_eq!(system.property("btd.service", "SubState"), "running");
    fetch(&mut peer, payload);
    fs::write(&config, before).expect("write the configuration");
}

/// After a restart: served, and nothing was read to see that it is right.
fn seeds_as_it_was(system: &System, torrent: &Torrent, payload: &Payload) {
    system.wait_property("btd.service", "StatusText", "1 torrent: 1 seeding");
    fetch(&mut join(torrent), payload);
    assert_eq!(metric("btd_check_read_bytes_total"), 0.0);
}

/// As the README says it, and with what is forgotten first.
#[test]
fn folder_of_another_client_is_taken_over_and_written_to_once_the_unit_names_it() {
    let name = "folder_of_another_client_is_taken_over_and_written_to_once_the_unit_names_it";
    with_package(name, |scratch, system| {
        let source = Source::start("booted-source", &[("folder/new.bin".to_owned(), 3 << 20)], PIECE_LEN);
        for dir in ["torrents", "downloads"] {
            let dir = format!("/srv/old-client/{dir}");
            system.run(&["install", "-d", "-o", "btd", "-g", "btd", &dir]);
        }
        let (whole, torrent) = payload(scratch, system, "/srv/old-client/downloads", "payload");
        let torrents = system.path("/srv/old-client/torrents");
        drop_in(&torrent, &torrents);
        fs::copy(&source.torrent.path, torrents.join("new.torrent")).expect("copy a torrent");
        let config = system.path("/etc/btd/btd.toml");
        let before = fs::read_to_string(&config).expect("read the configuration");
        let section = format!(
            "[[watch]]\ndir = \"/srv/old-client/torrents\"\ndata-dir = \"/srv/old-client/downloads\"\n\
             verify = \"lazy\"\npeers = [\"{}\"]\n",
            source.btd.peers
        );
        fs::write(&config, before + &section).expect("write the configuration");
        system.run(&["btd", "check-config", "--config", "/etc/btd/btd.toml"]);
        system.run(&["systemctl", "start", "btd"]);
        // What is whole needs nothing but to be read.
        wait_for("what is whole is seeded", within(SECONDS), || {
            (metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        fetch(&mut join(&torrent), &whole);
        wait_for("the journal says what the unit lacks", within(SECONDS), || {
            system
                .journal()
                .contains("`ReadWritePaths=` has to name the folder")
                .then_some(())
        });

        // What `systemctl edit btd` would write.
        let drop_ins = system.path("/etc/systemd/system/btd.service.d");
        fs::create_dir(&drop_ins).expect("make a folder");
        let more = "[Service]\nReadWritePaths=/srv/old-client/downloads\n";
        fs::write(drop_ins.join("override.conf"), more).expect("write a drop-in");
        system.run(&["systemctl", "daemon-reload"]);
        system.run(&["systemctl", "restart", "btd"]);
        system.wait_property("btd.service", "StatusText", "2 torrents: 2 seeding");
        source
            .payload
            .assert_same(&system.path("/srv/old-client/downloads"), true);
        fetch(&mut join(&torrent), &whole);
        assert_eq!(
            metric("btd_check_read_bytes_total"),
            0.0,
            "nothing was read before it was asked for"
        );
    });
}

#[test]
fn btd_that_hangs_is_ended_by_the_watchdog_and_started_again() {
    with_package(
        "btd_that_hangs_is_ended_by_the_watchdog_and_started_again",
        |scratch, system| {
            system.run(&["systemctl", "start", "btd"]);
            assert_eq!(system.property("btd.service", "WatchdogUSec"), "30s");
            // The same in less time.
            let drop_ins = system.path("/etc/systemd/system/btd.service.d");
            fs::create_dir(&drop_ins).expect("make a folder");
            fs::write(drop_ins.join("soon.conf"), "[Service]\nWatchdogSec=4\n").expect("write a drop-in");
            system.run(&["systemctl", "daemon-reload"]);
            system.run(&["systemctl", "restart", "btd"]);
            let (payload, torrent) = payload(scratch, system, "/srv/torrents/data", "payload");
            drop_in(&torrent, &system.path("/srv/torrents/watch"));
            system.wait_property("btd.service", "StatusText", "1 torrent: 1 seeding");
            fetch(&mut join(&torrent), &payload);

            let hung = system.property("btd.service", "MainPID");
            system.run(&["systemctl", "kill", "--kill-whom=main", "--signal=STOP", "btd"]);
            wait_for("another runs in its place", within(SECONDS), || {
                let pid = system.property("btd.service", "MainPID");
                (pid != hung && pid != "0").then_some(())
            });
            assert_eq!(system.property("btd.service", "NRestarts"), "1");
            let journal = system.journal();
            assert!(journal.to_lowercase().contains("watchdog timeout"), "{journal}");
            system.wait_property("btd.service", "StatusText", "1 torrent: 1 seeding");
            fetch(&mut join(&torrent), &payload);
        },
    );
}

#[test]
fn user_of_the_host_has_a_btd_of_her_own_beside_the_other() {
    with_package(
        "user_of_the_host_has_a_btd_of_her_own_beside_the_other",
        |scratch, system| {
            system.run(&["useradd", "--create-home", "alice"]);
            for dir in ["watch", "data"] {
                let dir = format!("/srv/torrents/alice/{dir}");
                system.run(&["install", "-d", "-o", "alice", "-g", "alice", &dir]);
            }
            let config = "[peers]\nlisten = [\"127.0.0.1:6991\"]\n[metrics]\nlisten = \"127.0.0.1:9479\"\n\
            [[watch]]\ndir = \"/srv/torrents/alice/watch\"\ndata-dir = \"/srv/torrents/alice/data\"\n";
            fs::write(system.path("/etc/btd/alice.toml"), config).expect("write a configuration");
            let both = ["btd.service", "btd@alice.service"];
            system.run(&[&["systemctl", "enable", "--now"][..], &both].concat());

            let (payload, torrent) = payload(scratch, system, "/srv/torrents/alice/data", "hers");
            drop_in(&torrent, &system.path("/srv/torrents/alice/watch"));
            system.wait_property("btd@alice.service", "StatusText", "1 torrent: 1 seeding");
            let leech = Leech::from(scratch, "leech", &torrent, vec![PEERS_OF_ALICE]);
            leech.check(&payload);
            // What is hers is not the other's, who runs as well.
            assert_eq!(metric("btd_torrents{state=\"seeding\"}"), 0.0);
            let state = system.run(&["stat", "--format=%U %a", "/var/lib/btd-alice"]);
            assert_eq!(state.trim(), "alice 700");
            let pid = system.property("btd@alice.service", "MainPID");
            let user = system.run(&["stat", "--format=%U", &format!("/proc/{pid}")]);
            assert_eq!(user.trim(), "alice");

            system.run(&["dpkg", "--remove", "btd"]);
            for (unit, peers) in both.into_iter().zip([PEERS, PEERS_OF_ALICE]) {
                assert!(
                    Peer::connect(peers, Ipv4Addr::LOCALHOST).is_err(),
                    "{unit} still listens"
                );
                assert_eq!(system.property(unit, "ActiveState"), "inactive");
            }
            let left = system.run(&["find", "/etc/systemd/system", "-name", "*btd*"]);
            assert_eq!(left, "", "links of what was enabled");
            payload.assert_same(&system.path("/srv/torrents/alice/data"), true);
        },
    );
}
