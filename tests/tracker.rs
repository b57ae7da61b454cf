//! btd as a tracker, from outside: requests made by hand, requests that mean harm, and other people's clients that find each
//! other through it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::btd::{Btd, Config};
use support::client::Client;
use support::payload::Payload;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{http, private_net, skip, wait_for, within};

const HASH: [u8; 20] = [0xa1; 20];
const OTHER: [u8; 20] = [0xb2; 20];

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn start(scratch: &Scratch, more: &str) -> Btd {
    let more = format!("[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\n{more}");
    Btd::start(
        scratch.path(),
        &Config {
            more,
            ..Config::default()
        },
    )
}

/// A connection that stays open.
struct Kept {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Kept {
    fn connect(to: SocketAddr) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, to)
    }

    fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .bind(&SocketAddr::from((source, 0)).into())
            .expect("an address of this machine");
        socket.connect(&to.into()).expect("connect to the tracker");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        Self {
            stream,
            heard: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("write to the tracker");
    }

    /// The body of the next response, or `None` at the end of the stream.
    fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(head_len) = self.heard.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.heard[..head_len]).to_lowercase();
                let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let len: usize = len.expect("a length").parse().expect("a number");
                if self.heard.len() >= head_len + 4 + len {
                    let rest = self.heard.split_off(head_len + 4 + len);
                    let response = std::mem::replace(&mut self.heard, rest);
                    return Some(response[head_len + 4..].to_vec());
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the tracker says nothing: {error}"),
            }
        }
    }
}

fn get(more: &str) -> String {
    format!("GET {more} HTTP/1.1\r\nHost: tracker\r\n\r\n")
}

fn announce(hash: &[u8; 20], port: u16, more: &str) -> String {
    let hash = escaped(hash);
    format!("/announce?info_hash={hash}&peer_id=-XX0000-{port:0>12}&port={port}&uploaded=0&downloaded=0{more}")
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// Panics unless a scrape says so many seeders, leechers and completions.
#[track_caller]
fn assert_counts(to: SocketAddr, hash: &[u8; 20], complete: u32, incomplete: u32, downloaded: u32) {
    let body = http::get(to, &format!("/scrape?info_hash={}", escaped(hash)))
        .expect("scrape")
        .body;
    let expected = format!("d8:completei{complete}e10:downloadedi{downloaded}e10:incompletei{incomplete}ee");
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(contains(&body, expected.as_bytes()), "{text}, not {expected}");
}

#[test]
fn peers_that_announce_by_http_are_told_of_each_other_and_counted_at_each_step() {
    let scratch = Scratch::new("tracker-http");
    let btd = start(&scratch, "interval = \"40m\"\nhostname-allow = [\".internal\"]\n");
    let to = btd.tracker_http.expect("HTTP");
    let (two, three) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));

    let mut seeder = Kept::connect_from(two, to);
    seeder.say(&get(&announce(&HASH, 2222, "&left=0&event=started&compact=1")));
    let body = seeder.hear().expect("an answer");
    assert!(
        contains(&body, b"8:intervali2400e"),
        "{}",
        String::from_utf8_lossy(&body)
    );
    assert!(contains(&body, b"5:peers0:"), "alone");
    assert_counts(to, &HASH, 1, 0, 0);

    // From another connection, and so perhaps on another shard.
    let mut leecher = Kept::connect_from(three, to);
    leecher.say(&get(&announce(&HASH, 3333, "&left=9&event=started&compact=1")));
    let body = leecher.hear().expect("an answer");
    assert!(contains(&body, b"5:peers6:\x7f\0\0\x02\x08\xae"), "{body:?}");
    assert_counts(to, &HASH, 1, 1, 0);
    leecher.say(&get(&announce(&HASH, 3333, "&left=0&event=completed&compact=1")));
    assert!(
        contains(&leecher.hear().expect("an answer"), b"5:peers0:"),
        "seeders need no seeders"
    );
    assert_counts(to, &HASH, 2, 0, 1);

    // As plain as can be, with a name.
    let plain = format!(
        "/announce?info_hash={}&peer_id=-XX0000-nnnnnnnnnnnn&port=7&hostname=client1.internal",
        escaped(&HASH)
    );
    leecher.say(&get(&plain));
    leecher.hear().expect("an answer");
    seeder.say(&get(&announce(&HASH, 2222, "&left=5&compact=0")));
    let body = seeder.hear().expect("an answer");
    assert!(
        contains(&body, b"2:ip16:client1.internal"),
        "{}",
        String::from_utf8_lossy(&body)
    );

    for port in [2222, 3333, 7] {
        let peer = if port == 2222 { &mut seeder } else { &mut leecher };
        let peer_of = announce(&HASH, port, "&left=0&event=stopped");
        peer.say(&get(&peer_of));
        peer.hear().expect("an answer");
    }
    assert_counts(to, &HASH, 0, 0, 1);

    let stats = http::get(to, "/stats").expect("read the statistics");
    assert_eq!(stats.status, 200);
    wait_for("the requests are counted", within(10), || {
        let count = |kind: &str| {
            btd.metric(&format!(
                "btd_tracker_requests_total{{kind=\"{kind}\",result=\"answered\"}}"
            ))
        };
        (count("http_announce") == 8.0 && count("http_scrape") >= 4.0 && count("http_stats") == 1.0).then_some(())
    });
    let log = btd.process.log();
    assert!(log.contains(&format!("tracker on http://{to}/announce")));
    assert!(!log.contains("[[watch]]"), "a tracker needs no torrents: {log}");
    btd.stop();
}

#[test]
fn requests_may_be_torn_and_pipelined_and_the_connection_is_closed_when_that_is_asked_for() {
    let scratch = Scratch::new("tracker-torn");
    let btd = start(&scratch, "max-connections-per-ip = 1000\n");
    let mut kept = Kept::connect(btd.tracker_http.expect("HTTP"));
    kept.stream.set_nodelay(true).expect("set");
    let request = get(&announce(&HASH, 1000, "&left=1"));
    for (index, byte) in request.bytes().enumerate() {
        kept.say(&char::from(byte).to_string());
        if index % 16 == 0 {
            std::thread::yield_now();
        }
    }
    assert!(contains(&kept.hear().expect("an answer"), b"8:interval"));
    let many: String = (0..500)
        .map(|port| get(&announce(&HASH, 1001 + port, "&left=1")))
        .collect();
    std::thread::scope(|scope| {
        let mut stream = kept.stream.try_clone().expect("a second handle");
        scope.spawn(move || stream.write_all(many.as_bytes()).expect("write"));
        for _ in 0..500 {
            assert!(contains(&kept.hear().expect("an answer"), b"8:interval"));
        }
    });
    kept.say(&format!(
        "GET {} HTTP/1.1\r\nHost: tracker\r\nConnection: close\r\n\r\n",
        announce(&HASH, 1, "&left=1")
    ));
    assert!(kept.hear().is_some());
    assert_eq!(kept.hear(), None);
    btd.stop();
}

/// What a UDP client does.
struct Udp {
    socket: UdpSocket,
    connection_id: [u8; 8],
}

const CONNECT: [u8; 8] = 0x0417_2710_1980_u64.to_be_bytes();

impl Udp {
    fn connect(source: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((source, 0)).expect("an address of this machine");
        socket.connect(to).expect("an address");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let mut udp = Self {
            socket,
            connection_id: CONNECT,
        };
        let reply = udp.ask(0, &[]);
        udp.connection_id = reply.try_into().expect("a connection id");
        udp
    }

    /// Sends a request and gives what follows action and transaction of its reply.
    fn ask(&self, action: u32, rest: &[u8]) -> Vec<u8> {
        let head = [&action.to_be_bytes()[..], &77_u32.to_be_bytes()].concat();
        let request = [&self.connection_id[..], &head, rest].concat();
        self.socket.send(&request).expect("send");
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).expect("a reply");
        assert_eq!(buffer[..8], head, "{}", String::from_utf8_lossy(&buffer[8..len]));
        buffer[8..len].to_vec()
    }

    /// Interval, leechers, seeders, and the peers.
    fn announce(&self, hash: &[u8; 20], port: u16, left: u64, event: u32) -> ([u32; 3], Vec<u8>) {
        let mut rest = hash.to_vec();
        rest.extend_from_slice(format!("-XX0000-{port:0>12}").as_bytes());
        rest.extend_from_slice(&[0; 8]);
        rest.extend_from_slice(&left.to_be_bytes());
        rest.extend_from_slice(&[0; 8]);
        rest.extend_from_slice(&event.to_be_bytes());
        rest.extend_from_slice(&[0; 8]);
        rest.extend_from_slice(&(-1_i32).to_be_bytes());
        rest.extend_from_slice(&port.to_be_bytes());
        let reply = self.ask(1, &rest);
        (numbers(&reply[..12]), reply[12..].to_vec())
    }
}

fn numbers(bytes: &[u8]) -> [u32; 3] {
    let mut numbers = bytes
        .chunks_exact(4)
        .map(|four| u32::from_be_bytes(four.try_into().expect("four")));
    std::array::from_fn(|_| numbers.next().expect("twelve bytes"))
}

#[test]
fn peers_that_announce_by_udp_are_told_of_each_other_and_counted_by_every_shard() {
    let scratch = Scratch::new("tracker-udp");
    let btd = start(&scratch, "");
    let to = btd.tracker_udp.expect("UDP");
    // From many ports, so that each shard is met.
    let clients: Vec<Udp> = (1..=20)
        .map(|last| Udp::connect(Ipv4Addr::new(127, 0, 0, last), to))
        .collect();
    for (client, port) in clients.iter().zip(5000..) {
        let ([interval, leechers, seeders], peers) = client.announce(&HASH, port, u64::from(port % 2), 2);
        assert_eq!(interval, 1800);
        assert_eq!(u32::from(port) - 5000 + 1, leechers + seeders);
        assert_eq!(peers.len() % 6, 0);
    }
    let rest = [HASH, OTHER].concat();
    let reply = clients[0].ask(2, &rest);
    assert_eq!((numbers(&reply[..12]), numbers(&reply[12..])), ([10, 0, 10], [0, 0, 0]));
    // The same swarm by HTTP.
    assert_counts(btd.tracker_http.expect("HTTP"), &HASH, 10, 10, 0);
    for (client, port) in clients.iter().zip(5000..) {
        client.announce(&HASH, port, 0, 3);
    }
    assert_counts(btd.tracker_http.expect("HTTP"), &HASH, 0, 0, 0);
    wait_for("the datagrams are counted", within(10), || {
        (btd.metric("btd_tracker_datagrams_total") == 61.0).then_some(())
    });
    btd.stop();
}

#[test]
fn request_without_an_end_has_five_seconds_beside_honest_ones() {
    let scratch = Scratch::new("tracker-slow");
    let btd = start(&scratch, "max-connections-per-ip = 1000\n");
    let to = btd.tracker_http.expect("HTTP");
    let mut slow: Vec<Kept> = (0..200).map(|_| Kept::connect(to)).collect();
    let started = Instant::now();
    for kept in &mut slow {
        kept.say("GET /announce?info_hash=");
    }
    // One that was served before, and one that trickles.
    let mut served = Kept::connect(to);
    served.say(&get(&announce(&HASH, 1, "&left=1")));
    served.hear().expect("an answer");
    served.say("GET ");
    let mut worst = Duration::ZERO;
    let mut trickled = 0;
    while started.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let response = http::get(to, &announce(&HASH, 9, "&left=1")).expect("an answer");
        worst = worst.max(asked.elapsed());
        assert_eq!(response.status, 200);
        if started.elapsed().as_millis() / 10 > trickled {
            trickled = started.elapsed().as_millis() / 10;
            let _ = slow[0].stream.write_all(b"%");
        }
    }
    assert!(
        worst < Duration::from_secs(2),
        "the slowest of the honest requests took {worst:?}"
    );
    for kept in slow.iter_mut().chain([&mut served]) {
        assert_eq!(kept.hear(), None);
    }
    let took = started.elapsed();
    assert!((4..9).contains(&took.as_secs()), "they were closed after {took:?}");
    wait_for("they are counted", within(10), || {
        (btd.metric("btd_tracker_timeouts_total") == 201.0).then_some(())
    });
    btd.stop();
}

/// Datagrams of which none proves where it comes from.
fn junk_datagrams() -> Vec<Vec<u8>> {
    let mut junk: Vec<Vec<u8>> = [0, 1, 7, 8, 15, 16, 17, 97, 98, 99, 600, 2048, 2049, 9000]
        .iter()
        .map(|len| (0..*len).map(|at| (at * 31 % 251) as u8).collect())
        .collect();
    for action in [0_u32, 1, 2, 3, u32::MAX] {
        for id in [CONNECT, [0; 8], [0xff; 8], [7; 8]] {
            for len in [0, 4, 82, 84, 1480] {
                junk.push([&id[..], &action.to_be_bytes(), &[1; 4], &vec![1; len]].concat());
            }
        }
    }
    junk
}

#[test]
fn datagrams_that_mean_harm_are_never_answered_at_length_and_honest_ones_are() {
    let scratch = Scratch::new("tracker-junk");
    let btd = start(&scratch, "");
    let to = btd.tracker_udp.expect("UDP");
    let far = UdpSocket::bind("127.0.0.9:0").expect("an address of this machine");
    far.set_nonblocking(true).expect("set");
    let honest = Udp::connect(Ipv4Addr::LOCALHOST, to);
    let mut buffer = [0; 9000];
    let mut answered = 0;
    for round in 0..20 {
        for datagram in junk_datagrams() {
            far.send_to(&datagram, to).expect("send");
            while let Ok(len) = far.recv(&mut buffer) {
                // Which one it answers is not known: it is no longer than the shortest that could be meant.
                assert!(len <= 16, "{len} bytes to an unproven source");
                answered += 1;
            }
        }
        let ([_, leechers, _], _) = honest.announce(&HASH, 6000 + round, 1, 2);
        assert_eq!(leechers, u32::from(round) + 1);
    }
    // Those who ask for a connection id get it, and nobody else anything.
    let asking = 20
        * junk_datagrams()
            .iter()
            .filter(|junk| junk.starts_with(&CONNECT) && junk[8..12] == [0; 4])
            .count();
    assert!(answered > 0 && answered <= asking, "{answered} of {asking}");
    wait_for("too long ones are counted", within(10), || {
        (btd.metric("btd_tracker_datagrams_too_long_total") == 40.0).then_some(())
    });
    btd.stop();
}

#[test]
fn http_requests_that_mean_harm_are_refused_and_cost_nobody_else_anything() {
    let scratch = Scratch::new("tracker-bad");
    let btd = start(&scratch, "");
    let to = btd.tracker_http.expect("HTTP");
    let head = "HTTP/1.1\r\nHost: t\r\n";
    let good = announce(&HASH, 1, "&left=1");
    let of = |query: &str| format!("GET /announce?{query} {head}\r\n");
    let hash = escaped(&HASH);
    let requests = [
        of(""),
        of(&format!(
            "info_hash={}&peer_id=-XX0000-000000000000&port=1",
            escaped(&[1; 19])
        )),
        of(&format!(
            "info_hash={}&peer_id=-XX0000-000000000000&port=1",
            escaped(&[1; 21])
        )),
        of(&format!("info_hash={hash}&peer_id=-XX0000-000000000000&port=0&left=1")),
        of(&format!(
            "info_hash={hash}&peer_id=-XX0000-000000000000&port=99999999999&left=1"
        )),
        of(&format!("info_hash={hash}&peer_id=short&port=1")),
        of("info_hash=%zz%1&peer_id=%&port=%"),
        of(&"a=b&".repeat(100_000)),
        format!("GET {good}&numwant=99999999999999999999 {head}\r\n"),
        format!("POST {good} {head}Content-Length: 5\r\n\r\nhello"),
        format!("GET {good} {head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("GET {good} {head}Content-Length: 5\r\n\r\nhello"),
        format!("GET {good}\r\n\r\n"),
        format!("GET {good} HTTP/9.9\r\n\r\n"),
        format!("GET /nowhere {head}\r\n"),
        format!("GET /scrape {head}\r\n"),
        format!("{}\r\n\r\n", "x".repeat(5000)),
        format!("GET {good} {head}{}\r\n", "X: y\r\n".repeat(2000)),
        "\0\x01\x02\r\n\r\n".to_owned(),
        "\r\n".repeat(3000),
    ];
    for round in 0..5 {
        for request in &requests {
            let mut kept = Kept::connect(to);
            // What is refused early is closed early, before all of it could be said.
            let _ = kept.stream.write_all(request.as_bytes());
            let _ = kept.stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = kept.stream.read_to_end(&mut answer);
            let text = String::from_utf8_lossy(&answer);
            let asked = &request[..request.len().min(60)];
            assert!(!text.contains("src/"), "{asked:?}: {text}");
            assert!(answer.len() < 4096, "{} bytes for {asked:?}", answer.len());
            // Who goes on for long after a refusal is cut off, and may miss it.
            if request.len() < 60_000 {
                let refused = text.starts_with("HTTP/1.1 4") || text.contains("14:failure reason");
                let is_clamped = request.contains("numwant=");
                let served = text.starts_with("HTTP/1.1 200 ") && text.contains("8:interval");
                assert!(refused && !served || is_clamped && served, "{asked:?}: {text:?}");
            }
        }
        // Behind what is refused nothing is served.
        let mut kept = Kept::connect(to);
        kept.say(&format!("{}{}", requests[0], get(&good)));
        kept.hear().expect("a refusal");
        assert_eq!(kept.hear(), None);
        let mut honest = Kept::connect(to);
        honest.say(&get(&announce(&OTHER, 100 + round, "&left=1")));
        assert!(contains(&honest.hear().expect("an answer"), b"8:interval"));
        assert_counts(to, &OTHER, 0, u32::from(round) + 1, 0);
    }
    btd.stop();
}

#[test]
fn lists_are_obeyed_and_read_again_and_a_private_tracker_knows_what_btd_holds() {
    let scratch = Scratch::new("tracker-lists");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let payload = Payload::make(&data, "held.bin", 5, &[("held.bin".to_owned(), 100_000)]);
    let torrent = Torrent::create(&payload.path(), 16 << 10, scratch.path().join("held.torrent"));
    let held: [u8; 20] = torrent.info_hash.clone().try_into().expect("20 bytes");
    let (allow, deny) = (scratch.path().join("allow"), scratch.path().join("deny"));
    fs::write(&allow, format!("# ours\n{}\n", hex(&HASH))).expect("write a list");
    fs::write(&deny, "").expect("write a list");
    let more = "[tracker]\nhttp = \"127.0.0.1:0\"\nprivate = true\nallow = \"allow\"\ndeny = \"deny\"\n";
    let btd = Btd::start(
        scratch.path(),
        &Config {
            watch: vec![(watch.clone(), data)],
            more: more.to_owned(),
            ..Config::default()
        },
    );
    let to = btd.tracker_http.expect("HTTP");
    let is_served = |hash: &[u8; 20]| {
        let body = http::get(to, &announce(hash, 1, "&left=1")).expect("announce").body;
        contains(&body, b"8:interval")
    };
    assert_eq!(
        (is_served(&HASH), is_served(&OTHER), is_served(&held)),
        (true, false, false)
    );
    let refusal = http::get(to, &announce(&OTHER, 1, "&left=1")).expect("announce").text();
    assert!(
        refusal.contains("14:failure reason32:this torrent is not tracked heree"),
        "what it is for is known: {refusal}"
    );
    fs::rename(&torrent.path, watch.join("held.torrent")).expect("add a torrent");
    wait_for("a torrent that was added is served", within(30), || {
        is_served(&held).then_some(())
    });
    fs::write(&deny, format!("{}\n{}\n", hex(&HASH), hex(&held))).expect("write a list");
    wait_for("what is denied is not served", within(30), || {
        (!is_served(&HASH) && !is_served(&held)).then_some(())
    });
    fs::write(&deny, "what is no hash\n").expect("write a list");
    wait_for("a bad list is told", within(30), || {
        btd.process.log().contains("([tracker] deny): line 1").then_some(())
    });
    assert!(!is_served(&HASH), "the last good one goes on");
    fs::remove_file(&deny).expect("remove a list");
    fs::write(&deny, "# nothing\n").expect("write a list");
    wait_for("they are served again", within(30), || {
        (is_served(&HASH) && is_served(&held)).then_some(())
    });
    fs::remove_file(watch.join("held.torrent")).expect("remove a torrent");
    wait_for("a torrent that was removed is not", within(30), || {
        (!is_served(&held)).then_some(())
    });
    btd.stop();
}

#[test]
fn btd_announces_what_it_holds_to_its_own_private_tracker_at_once() {
    let scratch = Scratch::new("tracker-own");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let more = "[tracker]\nhttp = \"127.0.0.1:0\"\nprivate = true\n[announce]\nallow-private = true\n";
    let btd = Btd::start(
        scratch.path(),
        &Config {
            watch: vec![(watch.clone(), data.clone())],
            more: more.to_owned(),
            ..Config::default()
        },
    );
    let to = btd.tracker_http.expect("HTTP");
    for number in 0..5 {
        let name = format!("held{number}.bin");
        let payload = Payload::make(&data, &name, number, &[(name.clone(), 50_000)]);
        let torrent = Torrent::create(
            &payload.path(),
            16 << 10,
            scratch.path().join(format!("plain{number}.torrent")),
        );
        let torrent = torrent.with_tracker(&format!("http://{to}/announce"), scratch.path().join("own.torrent"));
        fs::rename(&torrent.path, watch.join(format!("{number}.torrent"))).expect("add a torrent");
        let hash: [u8; 20] = torrent.info_hash.clone().try_into().expect("20 bytes");
        // One that is refused is not tried again for minutes.
        wait_for("the tracker knows of the seeder", within(30), || {
            let scraped = http::get(to, &format!("/scrape?info_hash={}", escaped(&hash))).ok()?;
            contains(&scraped.body, b"8:completei1e").then_some(())
        });
    }
    btd.stop();
}

#[test]
fn datagrams_without_bytes_hold_nobody_up() {
    let scratch = Scratch::new("tracker-empty");
    let btd = start(&scratch, "");
    let to = btd.tracker_udp.expect("UDP");
    let far = UdpSocket::bind("127.0.0.9:0").expect("an address of this machine");
    let honest = Udp::connect(Ipv4Addr::LOCALHOST, to);
    for round in 0..100 {
        for len in [0; 40].into_iter().chain([1, 15]) {
            far.send_to(&vec![1; len], to).expect("send");
        }
        let ([_, leechers, _], _) = honest.announce(&HASH, 6000 + round, 1, 2);
        assert_eq!(leechers, u32::from(round) + 1);
    }
    // They do not come as far as btd.
    wait_for("those that ask are counted, and no others", within(10), || {
        (btd.metric("btd_tracker_datagrams_total") == 101.0).then_some(())
    });
    btd.stop();
}

#[test]
fn addresses_of_both_families_and_one_port_for_both_protocols_can_be_had() {
    let scratch = Scratch::new("tracker-six");
    let more = "[tracker]\nhttp = [\"127.0.0.1:0\", \"[::1]:0\"]\nudp = \"[::1]:0\"\n";
    let btd = Btd::start(
        scratch.path(),
        &Config {
            more: more.to_owned(),
            ..Config::default()
        },
    );
    let udp = SocketAddr::new(
        IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        btd.tracker_udp.expect("UDP").port(),
    );
    let socket = UdpSocket::bind("[::1]:0").expect("IPv6");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    socket.send_to(&[&CONNECT[..], &[0; 8]].concat(), udp).expect("send");
    let mut buffer = [0; 64];
    assert_eq!(socket.recv(&mut buffer).expect("a reply"), 16);
    let log = btd.process.log();
    let six = log
        .split("http://[::1]:")
        .nth(1)
        .and_then(|rest| rest.split('/').next()?.parse::<u16>().ok())
        .expect("where IPv6 is answered");
    let six = SocketAddr::new(udp.ip(), six);
    let body = http::get(six, &announce(&HASH, 1, "&left=1&compact=1"))
        .expect("announce")
        .body;
    assert!(
        contains(&body, b"11:external ip16:"),
        "{}",
        String::from_utf8_lossy(&body)
    );
    let four = btd.tracker_http.expect("HTTP");
    assert_counts(four, &HASH, 0, 1, 0);
    btd.stop();
}

#[test]
fn three_clients_find_each_other_through_it_by_http_and_udp() {
    private_net::run("three_clients_find_each_other_through_it_by_http_and_udp", || {
        for client in [Client::Aria2, Client::Transmission, Client::Libtorrent] {
            if let Some(why) = client.missing() {
                return skip(&why);
            }
        }
        let scratch = Scratch::new("tracker-clients");
        let data = scratch.dir("data");
        let payload = Payload::make(&data, "shared.bin", 9, &[("shared.bin".to_owned(), 8 << 20)]);
        let torrent = Torrent::create(&payload.path(), 256 << 10, scratch.path().join("shared.torrent"));
        let hash: [u8; 20] = torrent.info_hash.clone().try_into().expect("20 bytes");
        let home = scratch.dir("btd");
        let seed = private_net::SEED;
        let btd = Btd::start(
            &home,
            &Config {
                listen: seed,
                more: format!("[tracker]\nhttp = \"{seed}:0\"\nudp = \"{seed}:0\"\n"),
                ..Config::default()
            },
        );
        let (to, udp) = (btd.tracker_http.expect("HTTP"), btd.tracker_udp.expect("UDP"));
        let (by_http, by_udp) = (format!("http://{to}/announce"), format!("udp://{udp}/announce"));
        let (_aria2, _) = Client::Aria2.seed_announced_to(&by_http, scratch.path(), &torrent, &data);
        wait_for("the seed announces itself", within(60), || {
            let body = http::get(to, &format!("/scrape?info_hash={}", escaped(&hash)))
                .ok()?
                .body;
            contains(&body, b"8:completei1e").then_some(())
        });
        for (client, announce) in [(Client::Transmission, &by_http), (Client::Libtorrent, &by_udp)] {
            let saved = client.download_by_tracker(scratch.path(), &torrent, announce, within(120));
            payload.assert_same(&saved, client.makes_empty_files());
        }
        // What they say at their end is not relied on: they are stopped as soon as they have everything, and not all of
        // them take the time.
        let requests = |kind: &str, result: &str| {
            btd.metric(&format!(
                "btd_tracker_requests_total{{kind=\"{kind}\",result=\"{result}\"}}"
            ))
        };
        wait_for("their announces are counted", within(10), || {
            (requests("http_announce", "answered") >= 2.0 && requests("udp_announce", "answered") >= 1.0).then_some(())
        });
        for kind in ["http_announce", "udp_announce"] {
            assert_eq!((requests(kind, "bad"), requests(kind, "refused")), (0.0, 0.0), "{kind}");
        }
        btd.stop();
    });
}
