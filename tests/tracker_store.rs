//! Several btds that share one tracker's store by way of a real redis-server: what one is told the others hand out, at once and
//! after the store was away.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::btd::Btd;
use support::redis::Redis;
use support::scratch::Scratch;
use support::shared_tracker::{
    HASH, OTHER, THIRD, announce, config, contains, counts, counts_within, key, logged, start, wait_up,
};
use support::{installed, skip, wait_for, within};

/// What the figure is about: from an announce to one tracker to the reply of another.
const SHARED_WITHIN: Duration = Duration::from_secs(1);

/// Whether the test can run here.
fn can_run(test: &str) -> bool {
    let is_there = installed("redis-server");
    if !is_there {
        skip(&format!("{test}: redis-server is not installed"));
    }
    is_there
}

#[test]
fn what_one_tracker_is_told_the_other_hands_out_within_a_second() {
    if !can_run("what_one_tracker_is_told_the_other_hands_out_within_a_second") {
        return;
    }
    let scratch = Scratch::new("store-shared");
    let redis = Redis::start(&scratch.dir("redis"), &[]);
    let store = format!("redis://127.0.0.1:{}/3", redis.port);
    let (a, b) = (start(&scratch.dir("a"), &store), start(&scratch.dir("b"), &store));

    announce(&a, &HASH, 2, 2222, "&left=0&event=started");
    counts_within(SHARED_WITHIN, &b, &HASH, [1, 0, 0]);
    let body = announce(&b, &HASH, 3, 3333, "&left=9&event=started&compact=1");
    assert!(contains(&body, b"5:peers6:\x7f\0\0\x02\x08\xae"), "{body:?}");
    counts_within(SHARED_WITHIN, &a, &HASH, [1, 1, 0]);

    // A completion counts once, wherever it is asked for, and the leecher is a seeder from then on.
    announce(&b, &HASH, 3, 3333, "&left=0&event=completed");
    announce(&b, &HASH, 3, 3333, "&left=0&event=completed");
    counts_within(SHARED_WITHIN, &a, &HASH, [2, 0, 1]);
    assert_eq!(counts(&b, &HASH), [2, 0, 1]);

    // By name, and over IPv6.
    announce(&a, &HASH, 4, 4444, "&hostname=client1.internal&event=started");
    announce(&a, &HASH, 5, 5555, "&left=7&ip=2001:db8::7");
    counts_within(SHARED_WITHIN, &b, &HASH, [2, 2, 1]);
    let plain = announce(&b, &HASH, 6, 6666, "");
    assert!(contains(&plain, b"2:ip16:client1.internal4:porti4444e"), "{plain:?}");
    let compact = announce(&b, &HASH, 6, 6666, "&left=1&compact=1");
    let v6 = b"6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x15\xb3";
    assert!(contains(&compact, v6), "{compact:?}");

    // Who leaves one has left all, whichever it had come to.
    counts_within(SHARED_WITHIN, &a, &HASH, [2, 3, 1]);
    assert_eq!(redis.number(&[b"EXISTS", &key(&HASH)]), 0, "another database");
    let in_database = |command: &[&[u8]]| {
        // A script is how one command is asked of another database.
        let parts: Vec<String> = command
            .iter()
            .map(|part| format!("'{}'", String::from_utf8_lossy(part)))
            .collect();
        let script = format!("redis.call('SELECT', 3) return redis.call({})", parts.join(","));
        redis.number(&[b"EVAL", script.as_bytes(), b"0"])
    };
    // Five peers and the count.
    assert_eq!(in_database(&[b"ZCARD", &key(&HASH)]), 6);
    assert!(
        in_database(&[b"PTTL", &key(&HASH)]) > 0,
        "the engine forgets it by itself"
    );
    announce(&b, &HASH, 2, 2222, "&left=0&event=stopped");
    announce(&b, &HASH, 3, 3333, "&left=0&event=stopped");
    announce(&b, &HASH, 4, 4444, "&event=stopped");
    announce(&a, &HASH, 5, 5555, "&left=7&ip=2001:db8::7&event=stopped");
    announce(&a, &HASH, 6, 6666, "&left=1&event=stopped");
    for btd in [&a, &b] {
        counts_within(SHARED_WITHIN, btd, &HASH, [0, 0, 1]);
    }
    wait_for("nobody is left in the store", within(1), || {
        (in_database(&[b"ZCARD", &key(&HASH)]) == 1).then_some(())
    });

    assert!(a.metric("btd_tracker_store_sent_total") >= 5.0 && b.metric("btd_tracker_store_received_total") >= 4.0);
    for btd in [&a, &b] {
        assert_eq!(btd.metric("btd_tracker_store_bad_total"), 0.0);
        assert_eq!(btd.metric("btd_tracker_store_errors_total"), 0.0);
        assert_eq!(btd.metric("btd_tracker_store_dropped_total"), 0.0);
        assert!(btd.metric("btd_tracker_store_batches_total") > 0.0);
    }
    a.stop();
    b.stop();
}

#[test]
fn a_store_that_was_lost_is_filled_again_and_its_peers_are_shared_again() {
    if !can_run("a_store_that_was_lost_is_filled_again_and_its_peers_are_shared_again") {
        return;
    }
    let scratch = Scratch::new("store-lost");
    let redis = Redis::start(&scratch.dir("redis"), &[]);
    let port = redis.port;
    let store = format!("redis://127.0.0.1:{port}");
    let (mut a, mut b) = (start(&scratch.dir("a"), &store), start(&scratch.dir("b"), &store));
    announce(&a, &HASH, 2, 2222, "&left=0");
    announce(&a, &HASH, 3, 3333, "&left=5");
    announce(&a, &HASH, 3, 3333, "&left=0&event=completed");
    counts_within(SHARED_WITHIN, &b, &HASH, [2, 0, 1]);

    redis.kill();
    wait_up(&a, false);
    wait_up(&b, false);
    // Everybody goes on by what is known.
    announce(&a, &HASH, 4, 4444, "&left=5&event=started");
    announce(&a, &HASH, 4, 4444, "&left=0&event=completed");
    announce(&a, &OTHER, 5, 5555, "&left=5&hostname=client5.internal");
    let body = announce(&b, &HASH, 6, 6666, "&left=5&compact=1");
    assert!(contains(&body, b"5:peers12:"), "two seeders: {body:?}");
    assert_eq!(counts(&a, &HASH), [3, 0, 2]);
    assert_eq!(counts(&b, &HASH), [2, 1, 1]);
    assert_eq!(counts(&b, &OTHER), [0, 0, 0]);

    // With nothing in it.
    let redis = Redis::start_at(&scratch.dir("redis-again"), port, &[]);
    wait_up(&a, true);
    wait_up(&b, true);
    for btd in [&a, &b] {
        counts_within(Duration::from_secs(5), btd, &HASH, [3, 1, 2]);
    }
    // One that B had never heard of, if A was back before it: it is looked up when somebody wants it.
    announce(&b, &OTHER, 7, 7777, "");
    for btd in [&a, &b] {
        counts_within(SHARED_WITHIN, btd, &OTHER, [0, 2, 0]);
    }
    let plain = announce(&b, &OTHER, 7, 7777, "");
    assert!(contains(&plain, b"2:ip16:client5.internal"), "{plain:?}");
    assert_eq!(redis.number(&[b"ZCARD", &key(&HASH)]), 5, "four peers and the count");
    for btd in [&mut a, &mut b] {
        btd.process.assert_running();
        let at = format!("the tracker's store at redis://127.0.0.1:{port}/0 is");
        assert_eq!(logged(btd, &format!("{at} away")), 1, "it is told once");
        assert_eq!(logged(btd, &format!("{at} there, after")), 1);
    }
    a.stop();
    b.stop();
}

#[test]
fn a_store_that_hangs_holds_up_nobody_and_what_happened_meanwhile_is_told_with_its_age() {
    if !can_run("a_store_that_hangs_holds_up_nobody_and_what_happened_meanwhile_is_told_with_its_age") {
        return;
    }
    let scratch = Scratch::new("store-hangs");
    let redis = Redis::start(&scratch.dir("redis"), &[]);
    // By name, and with units of age of 312 ms.
    let config = config(&format!("redis://localhost:{}", redis.port), "interval = \"30s\"\n");
    let start = |name: &str| Btd::start(&scratch.dir(name), &config);
    let (a, b) = (start("a"), start("b"));
    wait_up(&a, true);
    wait_up(&b, true);
    for host in [2, 3] {
        announce(&a, &HASH, host, 2222, "&left=0");
    }
    counts_within(SHARED_WITHIN, &b, &HASH, [2, 0, 0]);
    assert_eq!(redis.number(&[b"ZCARD", &key(&HASH)]), 2);

    redis.signal(Signal::STOP);
    // Before and after it is found to hang, announces are answered.
    let announce_quickly = |to: &Btd, port: u16| {
        let begun = Instant::now();
        announce(to, &OTHER, 4, port, "&left=5");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    };
    announce_quickly(&a, 1);
    wait_up(&a, false);
    wait_up(&b, false);
    let memory_before = resident_kib(&a);
    for port in 1..2000 {
        announce_quickly(&a, port);
        announce(&a, &OTHER, 4, port, "&left=5&event=stopped");
    }
    let grown = resident_kib(&a).saturating_sub(memory_before);
    assert!(grown < 32 << 10, "{grown} KiB more");

    // Both leave where they had come to; one comes back at the other tracker, some units later.
    let left = Instant::now();
    for host in [2, 3] {
        announce(&a, &HASH, host, 2222, "&left=0&event=stopped");
    }
    assert_eq!(counts(&a, &HASH), [0, 0, 0]);
    wait_for("six units of age", within(10), || {
        (left.elapsed() > Duration::from_millis(6 * 313)).then_some(())
    });
    announce(&b, &HASH, 2, 2222, "&left=0");
    redis.signal(Signal::CONT);
    wait_up(&a, true);
    wait_up(&b, true);
    for btd in [&a, &b] {
        counts_within(Duration::from_secs(5), btd, &HASH, [1, 0, 0]);
    }
    let score = redis.ask(&[b"ZSCORE", &key(&HASH), b"\x04\x7f\0\0\x02\x08\xae"]);
    assert!(!score.starts_with("$-1"), "{score}");
    wait_for("the other one is in the store no more", within(5), || {
        (redis.number(&[b"ZCARD", &key(&HASH)]) == 1).then_some(())
    });
    // And everything is shared as before.
    announce(&b, &HASH, 5, 5555, "&left=1");
    counts_within(SHARED_WITHIN, &a, &HASH, [1, 1, 0]);
    for btd in [&a, &b] {
        assert_eq!(btd.metric("btd_tracker_store_dropped_total"), 0.0);
    }
    a.stop();
    b.stop();
}

/// How much of a btd's memory is in use, in KiB.
fn resident_kib(btd: &Btd) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", btd.process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|number| number.parse().ok()).expect("a size in kB")
}

#[test]
fn a_tracker_that_starts_later_looks_up_what_it_is_asked_for() {
    if !can_run("a_tracker_that_starts_later_looks_up_what_it_is_asked_for") {
        return;
    }
    let scratch = Scratch::new("store-later");
    let redis = Redis::start(&scratch.dir("redis"), &[]);
    let store = format!("redis://127.0.0.1:{}/0", redis.port);
    let a = start(&scratch.dir("a"), &store);
    // More than fit one reply of the store.
    for port in 10_000..11_300 {
        let left = if port % 2 == 0 { 0 } else { 1 };
        announce(&a, &HASH, 2, port, &format!("&left={left}&numwant=0"));
    }
    announce(&a, &HASH, 2, 10_001, "&left=0&event=completed");
    announce(&a, &HASH, 3, 3, "&left=1&hostname=client3.internal");
    announce(&a, &OTHER, 2, 2222, "&left=0");
    wait_for("all of them are in the store", within(10), || {
        (redis.number(&[b"ZCARD", &key(&HASH)]) == 1302).then_some(())
    });
    let expected = counts(&a, &HASH);
    assert_eq!(expected, [651, 650, 1]);
    a.stop();

    let b = start(&scratch.dir("b"), &store);
    assert_eq!(counts(&b, &HASH), [0, 0, 0]);
    announce(&b, &HASH, 4, 4, "&left=1");
    counts_within(SHARED_WITHIN, &b, &HASH, [651, 651, 1]);
    let body = announce(&b, &HASH, 4, 4, "&left=1&compact=1&numwant=50");
    assert!(contains(&body, b"5:peers300:"), "{}", String::from_utf8_lossy(&body));
    // Nobody has asked for this one.
    assert_eq!(counts(&b, &OTHER), [0, 0, 0]);
    b.stop();
}

#[test]
fn garbage_in_the_store_does_no_harm() {
    if !can_run("garbage_in_the_store_does_no_harm") {
        return;
    }
    let scratch = Scratch::new("store-garbage");
    let redis = Redis::start(&scratch.dir("redis"), &[]);
    let store = format!("redis://127.0.0.1:{}/0", redis.port);
    // A key that is no sorted set; one whose members are mostly none; one that is too long for anybody.
    redis.ask(&[b"SET", &key(&HASH), b"nonsense"]);
    let score = ((redis.now_ms() + 60_000) * 2 + 1).to_string();
    let beyond = (redis.now_ms() * 4).to_string();
    let good = b"\x04\x7f\0\0\x09\x1a\xe1";
    for (score, member) in [
        (score.as_bytes(), &good[..]),
        (score.as_bytes(), b""),
        (score.as_bytes(), b"nonsense"),
        (score.as_bytes(), b"\x04\x7f\0\0\x09\0\0"),
        (score.as_bytes(), b"\x04\xff\xff\xff\xff\x1a\xe1"),
        (score.as_bytes(), &[0x06; 300]),
        (b"inf", b"\x04\x7f\0\0\x0a\x1a\xe1"),
        (beyond.as_bytes(), b"\x04\x7f\0\0\x0b\x1a\xe1"),
        (b"-7", b"downloads"),
    ] {
        assert_eq!(redis.number(&[b"ZADD", &key(&OTHER), score, member]), 1);
    }
    redis.ask(&[b"ZADD", &key(&THIRD), score.as_bytes(), &vec![4; 3 << 20]]);

    let (mut a, mut b) = (start(&scratch.dir("a"), &store), start(&scratch.dir("b"), &store));
    announce(&a, &HASH, 2, 2222, "&left=0");
    counts_within(SHARED_WITHIN, &b, &HASH, [1, 0, 0]);
    wait_for("the refusal is counted", within(5), || {
        (a.metric("btd_tracker_store_errors_total") >= 1.0).then_some(())
    });
    assert_eq!(logged(&a, "the tracker's store refuses something: WRONGTYPE"), 1);

    announce(&a, &OTHER, 2, 2222, "&left=0");
    // The one that is good, and the one that has announced.
    counts_within(SHARED_WITHIN, &a, &OTHER, [2, 0, 0]);
    wait_for("what is bad is counted", within(5), || {
        (a.metric("btd_tracker_store_bad_total") >= 7.0).then_some(())
    });

    // The connection ends at that reply, which is said, and comes back without it.
    announce(&a, &THIRD, 2, 2222, "&left=0");
    wait_for("the connection has come back", within(10), || {
        (logged(&a, "is there, after") == 1).then_some(())
    });
    assert_eq!(logged(&a, "is away: the store says more than is accepted: "), 1);
    counts_within(Duration::from_secs(5), &b, &THIRD, [1, 0, 0]);
    wait_up(&a, true);

    // On the channel: no message, parts of one, and then one that is too long to be borne.
    let bad_before = [&a, &b].map(|btd| btd.metric("btd_tracker_store_bad_total"));
    let header = b"btd\x010123456789abcdef\0\0\x10\0";
    let long = vec![b'x'; 2 << 20];
    let forged = [&header[..], &[0xff; 300]].concat();
    let much = vec![0; 100_000];
    for message in [&b""[..], b"nonsense", header, &header[..9], &forged, &much] {
        redis.ask(&[b"PUBLISH", b"btd:swarms:0", message]);
    }
    for (btd, before) in [&a, &b].into_iter().zip(bad_before) {
        wait_for("what is no message is counted", within(5), || {
            (btd.metric("btd_tracker_store_bad_total") == before + 5.0).then_some(())
        });
    }
    let connected_before = [&a, &b].map(|btd| logged(btd, "is there, after"));
    redis.ask(&[b"PUBLISH", b"btd:swarms:0", &long]);
    for (btd, before) in [&a, &b].into_iter().zip(connected_before) {
        wait_for("the connection has come back", within(10), || {
            (logged(btd, "is there, after") > before).then_some(())
        });
    }
    announce(&b, &OTHER, 3, 3333, "&left=1");
    counts_within(Duration::from_secs(5), &a, &OTHER, [2, 1, 0]);
    a.process.assert_running();
    b.process.assert_running();
    a.stop();
    b.stop();
}

#[test]
fn a_password_opens_the_store_and_is_shown_nowhere() {
    if !can_run("a_password_opens_the_store_and_is_shown_nowhere") {
        return;
    }
    let scratch = Scratch::new("store-password");
    let redis = Redis::start(&scratch.dir("redis"), &["--requirepass", "open:sesame"]);
    let (port, wrong) = (redis.port, scratch.dir("wrong"));
    let locked_out = Btd::start(&wrong, &config(&format!("redis://:closed-sesame@127.0.0.1:{port}"), ""));
    wait_for("the store refuses", within(10), || {
        let lines = locked_out.process.log();
        lines.contains("is away: ").then_some(())
    });
    let a = start(&scratch.dir("a"), &format!("redis://:open%3Asesame@127.0.0.1:{port}"));
    let b = start(
        &scratch.dir("b"),
        &format!("redis://default:open%3Asesame@127.0.0.1:{port}"),
    );
    announce(&a, &HASH, 2, 2222, "&left=0");
    counts_within(SHARED_WITHIN, &b, &HASH, [1, 0, 0]);
    assert_eq!(locked_out.metric("btd_tracker_store_up"), 0.0);
    for btd in [&locked_out, &a, &b] {
        let log = btd.process.log();
        assert!(
            log.contains(&format!("redis://127.0.0.1:{port}/0")) && !log.contains("sesame"),
            "{log}"
        );
    }
    for btd in [locked_out, a, b] {
        btd.stop();
    }
}

#[test]
fn a_store_over_tls_is_verified() {
    if !can_run("a_store_over_tls_is_verified") {
        return;
    }
    if !installed("openssl") {
        return skip("a_store_over_tls_is_verified: openssl is not installed");
    }
    let scratch = Scratch::new("store-tls");
    let dir = scratch.dir("redis");
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&dir)
            .output();
        let output = output.expect("run openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(
        dir.join("ext"),
        "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )
    .expect("write");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 2 -subj /CN=test -keyout ca.key -out ca.pem"
    ));
    openssl(&format!(
        "req {key} -subj /CN=localhost -keyout store.key -out store.csr"
    ));
    openssl("x509 -req -in store.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out store.pem");
    let redis = Redis::start_by(&dir, |port| {
        let arguments = format!(
            "--port 0 --tls-port {port} --tls-cert-file store.pem --tls-key-file store.key --tls-ca-cert-file ca.pem \
             --tls-auth-clients no"
        );
        arguments.split_whitespace().map(str::to_owned).collect()
    });
    let port = redis.port;
    let store = format!("rediss://localhost:{port}");
    let start = |name: &str, knows_it: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        if knows_it {
            command.env("SSL_CERT_FILE", dir.join("ca.pem"));
        }
        Btd::start_within(command, &scratch.dir(name), &config(&store, ""))
    };
    let (a, b, stranger) = (start("a", true), start("b", true), start("stranger", false));
    wait_up(&a, true);
    wait_up(&b, true);
    announce(&a, &HASH, 2, 2222, "&left=0");
    counts_within(SHARED_WITHIN, &b, &HASH, [1, 0, 0]);
    wait_for(
        "the certificate is not believed by who does not know it",
        within(10),
        || stranger.process.log().contains("is away: TLS").then_some(()),
    );
    assert_eq!(stranger.metric("btd_tracker_store_up"), 0.0);
    for btd in [a, b, stranger] {
        btd.stop();
    }
}
