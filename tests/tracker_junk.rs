//! A tracker under junk: whatever is thrown at it, honest peers are served beside it, memory stays within its cap, and it is no
//! use for making traffic.
//!
//! The ignored test is the whole of it (10^6 datagrams, 10^5 requests, 5,000 connections that trickle, 10^7 made-up hashes); the
//! other is a hundredth, with every run. Both print what they measure: `--nocapture` shows it.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::btd::{Btd, Config};
use support::scratch::Scratch;
use support::{wait_for, within};

const CONNECT: [u8; 8] = 0x0417_2710_1980_u64.to_be_bytes();
/// Honest swarms, each of as many peers.
const SWARMS: u32 = 50;
const PEERS: u32 = 8;

/// How much of it.
struct Scale {
    datagrams: u32,
    requests: u32,
    trickles: u32,
    hashes: u32,
    /// Honest rounds before it, of one announce by UDP and two by HTTP each.
    rounds: u32,
    /// The tracker's memory in MiB, which the hashes fill several times over.
    memory: u32,
    /// btd has a CPU, junk another one, and honest peers are not kept waiting by whoever makes the junk, as if each were a
    /// machine: how long they wait is btd's doing.
    apart: bool,
}

#[test]
fn junk_costs_honest_peers_nothing_but_time() {
    under_junk(&Scale {
        datagrams: 10_000,
        requests: 1_000,
        trickles: 50,
        hashes: 100_000,
        rounds: 300,
        memory: 4,
        apart: false,
    });
}

#[test]
#[ignore = "takes a quarter of an hour, and both cores"]
fn a_great_deal_of_junk_costs_honest_peers_nothing_but_time() {
    under_junk(&Scale {
        datagrams: 1_000_000,
        requests: 100_000,
        trickles: 5_000,
        hashes: 10_000_000,
        rounds: 3_000,
        memory: 32,
        apart: true,
    });
}

fn under_junk(scale: &Scale) {
    let memory = scale.memory;
    let scratch = Scratch::new("tracker-junk-scale");
    let more = format!(
        "[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\nmemory = \"{memory} MiB\"\nmax-connections = 8000\n"
    );
    if scale.apart {
        keep_to(0);
    }
    let btd = Btd::start(
        scratch.path(),
        &Config {
            more,
            ..Config::default()
        },
    );
    let mut goes_first = false;
    if scale.apart {
        keep_to(1);
        goes_first = let_go_first();
        match goes_first {
            true => println!("btd on one CPU, junk and honest peers on another, where honest peers go first"),
            false => println!("honest peers wait for junk to be made: chrt(1) may not let them go first"),
        }
    }
    let (http, udp) = (btd.tracker_http.expect("HTTP"), btd.tracker_udp.expect("UDP"));
    for swarm in 0..SWARMS {
        for peer in 0..PEERS {
            let udp = Udp::connect(honest(peer), udp);
            udp.announce(&honest_hash(swarm), 6881, &mut [0; 2048]);
        }
    }
    let pause = if scale.rounds < 1000 { 1 } else { 5 };
    let quiet = Latencies::of(scale.rounds, pause, http, udp, || true);
    println!("honest announces, quiet: {quiet}");

    // One kind after the other, so that it shows what each costs.
    let kinds: [(&str, &(dyn Fn() + Sync)); 4] = [
        ("datagrams", &|| malformed_datagrams(scale.datagrams, udp)),
        ("requests", &|| malformed_requests(scale.requests, http)),
        ("trickles", &|| trickling_requests(scale.trickles, http)),
        ("made-up hashes", &|| made_up_hashes(scale.hashes, udp)),
    ];
    for (kind, junk) in kinds {
        let is_over = AtomicBool::new(false);
        let began = Instant::now();
        let loud = std::thread::scope(|scope| {
            let junk = scope.spawn(|| {
                // Also when it panics: nobody waits for ever.
                let _over = Over(&is_over);
                if scale.apart {
                    chrt("--other", "0");
                }
                junk();
            });
            let loud = Latencies::of(1, pause, http, udp, || is_over.load(Ordering::Relaxed));
            junk.join().expect("junk that was met as it should be");
            loud
        });
        let times = loud.p99().as_secs_f64() / quiet.p99().as_secs_f64();
        println!(
            "honest announces beside {kind} ({:.1?}): {loud}, {times:.2} times as long",
            began.elapsed()
        );
        assert!(loud.p99() < Duration::from_secs(1), "beside {kind}: {loud}");
        assert!(
            !goes_first || times < 2.0,
            "beside {kind}: {loud}, {times:.2} times as long"
        );
    }

    let bytes = wait_for("the memory is told", within(10), || {
        Some(btd.metric("btd_tracker_bytes"))
    });
    let (swarms, evicted) = (
        btd.metric("btd_tracker_swarms"),
        btd.metric("btd_tracker_evicted_total"),
    );
    println!(
        "{swarms} torrents in {:.1} MiB of {memory} MiB, {evicted} made way",
        bytes / f64::from(1 << 20)
    );
    assert!(bytes <= f64::from(memory << 20) && evicted > 0.0, "{bytes} bytes");
    // Honest swarms have everybody they had, and the one who asks.
    let asker = Udp::connect(Ipv4Addr::new(127, 9, 9, 9), udp);
    let mut buffer = [0; 2048];
    for swarm in 0..SWARMS {
        let peers = asker.announce(&honest_hash(swarm), 6881, &mut buffer).len() / 6;
        assert_eq!(peers as u32, PEERS, "peers of the honest swarm {swarm}");
    }
    btd.stop();
}

/// This thread, and those that it starts, run on one CPU.
fn keep_to(cpu: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).expect("two CPUs");
}

/// Whether this thread runs from now on as soon as it could, whoever else wants the CPU.
fn let_go_first() -> bool {
    chrt("--fifo", "1")
}

/// Has this thread scheduled by another policy.
fn chrt(policy: &str, priority: &str) -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = std::process::Command::new("chrt");
    chrt.args([policy, "--pid", priority, &thread]);
    chrt.status().is_ok_and(|status| status.success())
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn honest(peer: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, 1 + peer as u8)
}

fn honest_hash(swarm: u32) -> [u8; 20] {
    let mut hash = [0x11; 20];
    hash[..4].copy_from_slice(&swarm.to_be_bytes());
    hash
}

/// How honest peers announce.
const WAYS: [&str; 3] = ["UDP", "HTTP over a connection that stays", "HTTP over one of its own"];

/// How long honest announces took, by the way they went.
struct Latencies([Vec<Duration>; 3]);

impl Latencies {
    /// At least so many rounds, and until it is said to be enough, with a pause of so many milliseconds behind each.
    fn of(rounds: u32, pause: u64, http: SocketAddr, udp: SocketAddr, is_enough: impl Fn() -> bool) -> Self {
        let by_udp = Udp::connect(honest(0), udp);
        let mut kept = connect(honest(1), http);
        let mut buffer = [0; 8192];
        let mut latencies: [Vec<Duration>; 3] = Default::default();
        let mut round = 0;
        while round < rounds || !is_enough() {
            let hash = honest_hash(round % SWARMS);
            let mut timed = |way: usize, act: &mut dyn FnMut()| {
                let asked = Instant::now();
                act();
                latencies[way].push(asked.elapsed());
            };
            timed(0, &mut || {
                by_udp.announce(&hash, 6881, &mut buffer);
            });
            timed(1, &mut || ask(&mut kept, &hash, &mut buffer));
            let mut socket = Some(bound(honest(2)));
            timed(2, &mut || {
                let socket = socket.take().expect("a socket for each round");
                ask(&mut connected(socket, http), &hash, &mut buffer);
            });
            round += 1;
            // It is what paces them, and no wait for anything.
            std::thread::sleep(Duration::from_millis(pause));
        }
        latencies.iter_mut().for_each(|latencies| latencies.sort());
        Self(latencies)
    }

    /// Of all ways together.
    fn p99(&self) -> Duration {
        let mut all = self.0.concat();
        all.sort();
        quantile(&all, 0.99)
    }
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by each way, p99 {:.2?}", self.0[0].len(), self.p99())?;
        for (way, latencies) in WAYS.iter().zip(&self.0) {
            let [p50, p99, most] = [0.5, 0.99, 1.0].map(|part| quantile(latencies, part));
            write!(f, "; {way} p50 {p50:.2?}, p99 {p99:.2?}, at most {most:.2?}")?;
        }
        Ok(())
    }
}

fn connect(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    connected(bound(source), to)
}

/// A socket with a port, which is the harder to find the more connections there were from the same address.
fn bound(source: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // Also the port of a connection that has ended a moment ago.
    socket2::SockRef::from(&socket).set_reuse_address(true).expect("set");
    socket
        .bind(&SocketAddr::from((source, 0)).into())
        .expect("an address of this machine");
    socket
}

fn connected(socket: Socket, to: SocketAddr) -> TcpStream {
    socket.connect(&to.into()).expect("connect to the tracker");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.set_nodelay(true).expect("set");
    stream
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

fn announce(hash: &[u8], more: &str) -> String {
    format!(
        "/announce?info_hash={}&peer_id=-XX0000-000000000000&port=6881&left=1&compact=1{more}",
        escaped(hash)
    )
}

/// An announce over a connection that stays open, and all of its answer.
fn ask(stream: &mut TcpStream, hash: &[u8; 20], buffer: &mut [u8]) {
    let request = format!("GET {} HTTP/1.1\r\nHost: t\r\n\r\n", announce(hash, ""));
    stream.write_all(request.as_bytes()).expect("write to the tracker");
    let mut len = 0;
    loop {
        len += match stream.read(&mut buffer[len..]).expect("an answer") {
            0 => panic!("the end after {len} bytes of an answer"),
            len => len,
        };
        let head_len = buffer[..len].windows(4).position(|four| four == b"\r\n\r\n");
        let Some(head_len) = head_len else { continue };
        let head = String::from_utf8_lossy(&buffer[..head_len]);
        let body_len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let body_len: usize = body_len.expect("a length").parse().expect("a number");
        if len >= head_len + 4 + body_len {
            let body = &buffer[head_len + 4..len];
            assert!(
                body.windows(10).any(|window| window == b"8:interval"),
                "{}",
                String::from_utf8_lossy(body)
            );
            return;
        }
    }
}

/// A client by UDP that has proven where it is.
struct Udp {
    socket: UdpSocket,
    connection_id: [u8; 8],
}

impl Udp {
    fn connect(source: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((source, 0)).expect("an address of this machine");
        socket.connect(to).expect("an address");
        // A datagram may be lost: then it is sent again.
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
        let mut udp = Self {
            socket,
            connection_id: CONNECT,
        };
        let mut buffer = [0; 64];
        let reply = udp.ask(0, &[], &mut buffer);
        udp.connection_id = reply.try_into().expect("a connection id");
        udp
    }

    fn ask<'b>(&self, action: u32, rest: &[u8], buffer: &'b mut [u8]) -> &'b [u8] {
        let head = [action.to_be_bytes(), 7_u32.to_be_bytes()].concat();
        let request = [&self.connection_id[..], &head, rest].concat();
        for _ in 0..20 {
            self.socket.send(&request).expect("send");
            match self.socket.recv(buffer) {
                Ok(len) => {
                    assert_eq!(buffer[..8], head, "{}", String::from_utf8_lossy(&buffer[8..len]));
                    return &buffer[8..len];
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("no reply: {error}"),
            }
        }
        panic!("twenty datagrams without a reply");
    }

    /// The peers of the reply.
    fn announce<'b>(&self, hash: &[u8; 20], port: u16, buffer: &'b mut [u8]) -> &'b [u8] {
        &self.ask(1, &announce_rest(hash, port), buffer)[12..]
    }
}

/// What an announce has behind its transaction.
fn announce_rest(hash: &[u8; 20], port: u16) -> Vec<u8> {
    let mut rest = hash.to_vec();
    rest.extend_from_slice(b"-XX0000-000000000000");
    rest.extend_from_slice(&[0; 8]);
    rest.extend_from_slice(&1_u64.to_be_bytes());
    rest.extend_from_slice(&[0; 20]);
    rest.extend_from_slice(&(-1_i32).to_be_bytes());
    rest.extend_from_slice(&port.to_be_bytes());
    rest
}

/// Numbers that look like chance, the same with each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 31
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A datagram of junk from a source that has proven nothing. Bytes 12 to 16 are its number, which a reply would have.
fn junk_datagram(number: u32, random: &mut Random) -> Vec<u8> {
    let len = [0, 1, 8, 15, 16, 17, 36, 97, 98, 99, 100, 600, 1500, 2048, 2049, 4000][random.next() as usize % 16];
    let mut datagram = random.bytes(len);
    let put = |datagram: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        if datagram.len() >= at + bytes.len() {
            datagram[at..at + bytes.len()].copy_from_slice(bytes);
        }
    };
    match random.next() % 4 {
        0 => {}
        1 => put(&mut datagram, 0, &CONNECT),
        2 => put(&mut datagram, 0, &[0; 8]),
        _ => put(&mut datagram, 0, &number.to_be_bytes()),
    }
    let action = [0, 1, 2, 3, u32::MAX][random.next() as usize % 5];
    put(&mut datagram, 8, &action.to_be_bytes());
    put(&mut datagram, 12, &number.to_be_bytes());
    datagram
}

/// So many datagrams of junk, and a look at every reply: none is longer than what it answers.
fn malformed_datagrams(count: u32, to: SocketAddr) {
    /// Sent before the tracker is waited for: what does not fit its socket would not have been met.
    const BATCH: u32 = 32;
    let socket = UdpSocket::bind("127.8.0.1:0").expect("an address of this machine");
    socket.connect(to).expect("an address");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
    let mut random = Random(1);
    let mut buffer = [0; 9000];
    let (mut replies, mut lens) = (0_u64, Vec::new());
    for first in (0..count).step_by(BATCH as usize) {
        lens.clear();
        for number in first..(first + BATCH).min(count) {
            let datagram = junk_datagram(number, &mut random);
            lens.push(datagram.len());
            socket.send(&datagram).expect("send");
        }
        // It answers in order: when this is answered, so is all that was sent before.
        let end = [&CONNECT[..], &[0; 4], &u32::MAX.to_be_bytes()].concat();
        socket.send(&end).expect("send");
        let mut lost = 0;
        loop {
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    assert_eq!(&buffer[..4], [0; 4], "it says something to an unproven source");
                    let number = u32::from_be_bytes(buffer[4..8].try_into().expect("four bytes"));
                    if number == u32::MAX {
                        break;
                    }
                    let asked = lens[(number - first) as usize];
                    assert!(len <= asked, "{len} bytes for {asked}");
                    replies += 1;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += 1;
                    assert!(lost < 20, "no reply any more after {first} datagrams");
                    socket.send(&end).expect("send");
                }
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }
    println!("{count} datagrams of junk: {replies} were answered, none at greater length");
    assert!(replies > 0 && replies < u64::from(count) / 5);
}

/// Requests of every kind that is wrong, and whether all of it is known to be.
fn junk_requests() -> Vec<(&'static str, Vec<u8>)> {
    let (good, head) = (announce(&[7; 20], ""), "HTTP/1.1\r\nHost: t\r\n");
    let of = |query: &str| format!("GET /announce?{query} {head}\r\n").into_bytes();
    let rest = "&peer_id=-XX0000-000000000000&port=1&left=1";
    let hash = |len: usize| format!("info_hash={}", escaped(&vec![7; len]));
    vec![
        ("no parameters", of("")),
        ("19 bytes", of(&format!("{}{rest}", hash(19)))),
        ("21 bytes", of(&format!("{}{rest}", hash(21)))),
        ("no bytes", of(&format!("info_hash={rest}"))),
        ("two hashes", of(&format!("{0}&{0}{rest}", hash(20)))),
        ("escapes", of(&format!("info_hash=%zz%1{rest}"))),
        ("an escape cut off", of(&format!("{}%{rest}", hash(19)))),
        ("a short peer id", of(&format!("{}&peer_id=x&port=1", hash(20)))),
        (
            "port 0",
            of(&format!("{}&peer_id=-XX0000-000000000000&port=0&left=1", hash(20))),
        ),
        (
            "a huge port",
            of(&format!(
                "{}&peer_id=-XX0000-000000000000&port=99999999999&left=1",
                hash(20)
            )),
        ),
        ("100,000 parameters", of(&"a=b&".repeat(100_000))),
        (
            "a body",
            format!("GET {good} {head}Content-Length: 5\r\n\r\nhello").into_bytes(),
        ),
        (
            "two lengths",
            format!("GET {good} {head}Content-Length: 0\r\nContent-Length: 7\r\n\r\n").into_bytes(),
        ),
        (
            "chunked",
            format!("GET {good} {head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").into_bytes(),
        ),
        ("HTTP/0.9", format!("GET {good}\r\n\r\n").into_bytes()),
        ("HTTP/2", format!("GET {good} HTTP/2.0\r\n\r\n").into_bytes()),
        ("POST", format!("POST {good} {head}\r\n").into_bytes()),
        (
            "a long line",
            format!("GET /{} {head}\r\n", "x".repeat(5000)).into_bytes(),
        ),
        (
            "many header lines",
            format!("GET {good} {head}{}\r\n", "X: y\r\n".repeat(2000)).into_bytes(),
        ),
        ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        (
            "a handshake of peers",
            b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".repeat(200),
        ),
        ("NULs", vec![0; 8000]),
        (
            "a hash in a scrape",
            format!("GET /scrape?info_hash=%zz {head}\r\n").into_bytes(),
        ),
    ]
}

/// So many requests that are wrong, each over a connection of its own, which is closed after a refusal.
fn malformed_requests(count: u32, to: SocketAddr) {
    let junk = junk_requests();
    let mut refused = 0_u32;
    for number in 0..count {
        let (kind, request) = &junk[number as usize % junk.len()];
        let mut stream = connect(Ipv4Addr::new(127, 8, 1, 1 + (number / 500 % 200) as u8), to);
        // Pipelined behind it: nothing of it is served.
        let behind = format!("GET {} HTTP/1.1\r\nHost: t\r\n\r\n", announce(&[7; 20], ""));
        let _ = stream.write_all(request); // What is refused early is closed early.
        let _ = stream.write_all(behind.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let end = (&mut stream).take(1 << 16).read_to_end(&mut answer);
        if let Err(error) = &end {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{kind}: {error}");
        }
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.len() < 1024, "{} bytes for {kind}", answer.len());
        assert!(!text.contains("8:interval"), "{kind} is served: {text}");
        let is_refused = text.starts_with("HTTP/1.1 4") || text.contains("14:failure reason");
        // A reset may have overtaken it.
        assert!(is_refused || answer.is_empty(), "{kind}: {text}");
        refused += u32::from(is_refused);
        if number % 16 == 0 {
            honest_oddities(to);
        }
    }
    println!("{count} requests of junk, {refused} of them told that they are refused");
    assert!(refused > count / 2);
}

/// What looks like junk and is none: as many peers as there are numbers, and requests one behind the other.
fn honest_oddities(to: SocketAddr) {
    let mut stream = connect(Ipv4Addr::new(127, 8, 2, 1), to);
    let huge = announce(&[8; 20], "&numwant=99999999999999999999");
    let request = format!("GET {huge} HTTP/1.1\r\nHost: t\r\n\r\n").repeat(5);
    stream.write_all(request.as_bytes()).expect("write to the tracker");
    stream.shutdown(Shutdown::Write).expect("end it");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("five answers");
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("8:interval").count(), 5, "{text}");
}

/// So many connections at once with a request that never ends: each has a byte a second, and is closed all the same.
fn trickling_requests(count: u32, to: SocketAddr) {
    let began = Instant::now();
    let mut open: Vec<(Instant, TcpStream)> = Vec::new();
    for number in 0..count {
        let mut stream = connect(Ipv4Addr::new(127, 8, 3, 1 + (number / 100) as u8), to);
        stream
            .write_all(b"GET /announce?info_hash=")
            .expect("write to the tracker");
        stream.set_nonblocking(true).expect("set");
        open.push((Instant::now(), stream));
    }
    let at_once = open.len();
    let mut longest = Duration::ZERO;
    let deadline = within(120);
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{} connections are still open", open.len());
        open.retain_mut(|(since, stream)| {
            let is_open = match stream.read(&mut [0; 512]) {
                Ok(0) => false,
                Ok(_) => true, // Perhaps it is told why.
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if is_open {
                let _ = stream.write_all(b"%");
            } else {
                longest = longest.max(since.elapsed());
            }
            is_open
        });
        std::thread::sleep(Duration::from_millis(200)); // It is what makes it a trickle.
    }
    println!(
        "{at_once} connections that trickle, all closed after {:.1?}, none kept longer than {longest:.1?}",
        began.elapsed()
    );
    assert!(longest < Duration::from_secs(60), "{longest:?}");
}

/// So many made-up hashes by a source that has proven where it is, every eighth with four ports, so that it looks like a swarm.
fn made_up_hashes(count: u32, to: SocketAddr) {
    /// Announces under way.
    const WINDOW: usize = 64;
    const PORTS: u16 = 4;
    let mut random = Random(2);
    let mut buffer = [0; 2048];
    let (replies, refused, lost) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let mut udp = Udp::connect(Ipv4Addr::new(127, 8, 4, 1), to);
    let mut under_way = 0;
    let hear = |udp: &Udp, under_way: &mut usize, buffer: &mut [u8]| {
        while *under_way > 0 {
            match udp.socket.recv(buffer) {
                Ok(_) => {
                    *under_way -= 1;
                    replies.fetch_add(1, Ordering::Relaxed);
                    refused.fetch_add(u64::from(buffer[3] == 3), Ordering::Relaxed);
                }
                Err(_) => {
                    lost.fetch_add(*under_way as u64, Ordering::Relaxed);
                    *under_way = 0;
                }
            }
        }
    };
    for number in 0..count {
        if number % 100_000 == 0 {
            hear(&udp, &mut under_way, &mut buffer);
            udp = Udp::connect(Ipv4Addr::new(127, 8, 4, 1), to); // Ids last for two minutes.
        }
        let hash: [u8; 20] = random.bytes(20).try_into().expect("20 bytes");
        for port in 1..=if number % 8 == 0 { PORTS } else { 1 } {
            let rest = announce_rest(&hash, port);
            let datagram = [
                &udp.connection_id[..],
                &1_u32.to_be_bytes(),
                &number.to_be_bytes(),
                &rest,
            ]
            .concat();
            udp.socket.send(&datagram).expect("send");
            under_way += 1;
        }
        if under_way >= WINDOW {
            hear(&udp, &mut under_way, &mut buffer);
        }
    }
    hear(&udp, &mut under_way, &mut buffer);
    let (replies, refused, lost) = (replies.into_inner(), refused.into_inner(), lost.into_inner());
    println!(
        "{count} made-up hashes of 1 or {PORTS} peers: {replies} replies, {refused} of them refusals, {lost} lost"
    );
    assert!(lost < u64::from(count) / 100 + 64, "{lost} lost");
    assert!(replies > u64::from(count));
}
