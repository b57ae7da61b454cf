//! `peers.bind-address`: everything that btd begins leaves from one address, and from no other while this machine does not have it.
//!
//! The test has a network of its own, in which everybody is at loopback: a tracker by HTTP and one by datagrams, a name server,
//! and peers of both families. All of them could be reached from any other address as well, and see from which they are.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};

use support::announce::Home;
use support::btd::{Btd, Config};
use support::dns::{Dns, Says};
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, reply};
use support::{private_net, wait_for, within};

/// What btd is to leave from.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const OK: &str = "btd_announces_total{result=\"ok\"}";

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("run ip");
    assert!(status.success(), "ip {arguments}: {status}");
}

/// This machine has the address from now on.
fn plug() {
    ip(&format!("address add {NEAR}/32 dev lo"));
}

fn unplug() {
    ip(&format!("address del {NEAR}/32 dev lo"));
}

/// Somebody whom btd may connect to, and who does not wait for it.
fn peer(at: IpAddr) -> TcpListener {
    let listener = TcpListener::bind((at, 0)).expect("listen as a peer");
    listener.set_nonblocking(true).expect("a socket that does not block");
    listener
}

/// From where somebody has connected or sent something, if anybody has.
fn seen(result: std::io::Result<SocketAddr>) -> Option<IpAddr> {
    match result {
        Ok(from) => Some(from.ip()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("a socket of the test: {error}"),
    }
}

/// Whether it is healthy, and whether it says that the address is away.
fn health(scratch: &Scratch) -> (bool, bool) {
    let told = support::ctl::ask(&scratch.path().join("btd"), &["health"]);
    let away = format!("this machine does not have the address {NEAR} ([peers] bind-address)");
    (told.code == 0, told.out.contains(&away))
}

#[test]
fn what_is_bound_to_an_address_that_is_away_leaves_from_no_other_and_begins_when_it_comes() {
    let name = "what_is_bound_to_an_address_that_is_away_leaves_from_no_other_and_begins_when_it_comes";
    private_net::run(name, || {
        let scratch = Scratch::new("bind_address");
        let dns = Dns::start_at(private_net::SEED, scratch.path(), |name| match name {
            "tracker.test" | "peer.test" => Says::Addresses(vec![Ipv4Addr::LOCALHOST]),
            _ => Says::Code(3),
        });
        let asked = Arc::<Mutex<Vec<IpAddr>>>::default();
        let from = Arc::clone(&asked);
        let http = StubTracker::start(move |_, stream| {
            let peer = stream.peer_addr().expect("a connection's other end");
            from.lock().expect("nobody panicked").push(peer.ip());
            // The connection ends, so that each request has its own.
            reply(stream, b"d8:intervali1800e5:peers0:e");
            false
        });
        let http_sources = || asked.lock().expect("nobody panicked").clone();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen as a tracker");
        udp.set_nonblocking(true).expect("a socket that does not block");
        let udp_source = || seen(udp.recv_from(&mut [0; 2048]).map(|(_, from)| from));
        let v4 = peer(Ipv4Addr::LOCALHOST.into());
        let v6 = peer(Ipv6Addr::LOCALHOST.into());
        let source = |of: &TcpListener| seen(of.accept().map(|(_, from)| from));
        let far = |of: &TcpListener| of.local_addr().expect("a listener's address");

        let wanted = Home::new(&scratch, "wanted", 256 << 10);
        wanted.with_tracker(&format!("http://tracker.test:{}/announce", http.addr.port()));
        fs::remove_file(wanted.payload.path()).expect("delete payload");
        let mut more = format!(
            "[announce]\nallow-private = true\ntrackers = [\"udp://{}/announce\"]\n",
            udp.local_addr().expect("a socket's address")
        );
        more += &format!(
            "[[watch]]\ndir = {:?}\ndata-dir = {:?}\npeers = [\"{}\", \"peer.test:{}\"]\n",
            wanted.watch,
            wanted.data,
            far(&v6),
            far(&v4).port()
        );
        let config = Config {
            listen: NEAR.into(),
            metrics: Ipv4Addr::LOCALHOST.into(),
            shards: 1,
            log_level: "debug",
            more,
            ..Config::default()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command.env("BTD_PEERS__BIND_ADDRESS", NEAR.to_string());
        let btd = Btd::start_within(command, &scratch.dir("btd"), &config);

        wait_for("both trackers were tried", within(60), || {
            (btd.metric("btd_announces_total") >= 2.0).then_some(())
        });
        wait_for("it says why", within(20), || {
            (health(&scratch) == (false, true)).then_some(())
        });
        assert_eq!(btd.metric(OK), 0.0);
        let not_dialed = format!("{}", far(&v6));
        wait_for("a peer of the other family was tried", within(60), || {
            let log = btd.process.log();
            let told = log
                .lines()
                .any(|line| line.contains("no socket") && line.contains(&not_dialed));
            told.then_some(())
        });
        assert_eq!((dns.sources(), http_sources()), (vec![], vec![]));
        assert_eq!((udp_source(), source(&v4), source(&v6)), (None, None, None));

        plug();
        let near = IpAddr::V4(NEAR);
        wait_for("a tracker is asked by HTTP", within(60), || {
            http_sources().first().copied()
        });
        assert_eq!(wait_for("a tracker is asked by UDP", within(60), udp_source), near);
        assert_eq!(wait_for("a peer is connected to", within(60), || source(&v4)), near);
        wait_for("its answer has come", within(60), || {
            (btd.metric(OK) >= 1.0).then_some(())
        });
        TcpStream::connect_timeout(&btd.peers, std::time::Duration::from_secs(10)).expect("it listens there by now");
        wait_for("it is healthy", within(20), || {
            (health(&scratch) == (true, false)).then_some(())
        });

        // It goes once more.
        unplug();
        wait_for("it says so again", within(20), || {
            (health(&scratch) == (false, true)).then_some(())
        });
        let (before, ok) = (http_sources().len(), btd.metric(OK));
        plug();
        wait_for("the torrent is announced again", within(60), || {
            (btd.metric(OK) > ok).then_some(())
        });
        for sources in [dns.sources(), http_sources()] {
            assert!(sources.iter().all(|from| *from == near), "{sources:?}");
        }
        assert!(dns.sources().len() >= 2 && http_sources().len() > before);
        assert_eq!(source(&v6), None, "it has no address to be reached from");
        let log = btd.process.log();
        assert_eq!(log.matches(&format!("{NEAR} is back")).count(), 2, "{log}");
        btd.stop();
    });
}
