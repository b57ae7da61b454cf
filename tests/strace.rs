//! What the kernel is asked by a busy seed: almost only `io_uring_enter`, and nothing that it has to hand to a worker
//! thread of its own (io-wq); and by a start: nothing about payload.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::btd::{Btd, Config};
use support::payload::Payload;
use support::process::Process;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, installed, skip, wait_for, within};

use rustix::process::Signal;

/// What is uploaded while strace looks: 16,384 blocks.
const UPLOAD_MIB: u64 = 256;
/// Its magic number, `EXT4_SUPER_MAGIC` of linux/magic.h.
const EXT4: i64 = 0xEF53;

#[test]
fn shards_of_a_busy_seed_make_almost_no_call_but_io_uring_enter() {
    if !installed("strace") {
        return skip("`strace` is not installed (hint: tests/run installs it)");
    }
    let scratch = Scratch::new("strace");
    let (btd, torrent) = seed(&scratch);
    let counts = scratch.path().join("counts");
    let mut command = Command::new("strace");
    command.args(["-c", "-U", "name,calls", "-o"]).arg(&counts);
    let shards = shard_threads(&btd);
    for thread in &shards {
        command.args(["-p", &thread.to_string()]);
    }
    let mut strace = Process::spawn("strace", &mut command, &scratch.path().join("strace.log"));
    wait_for("strace has attached to every shard", within(20), || {
        strace.assert_running();
        (strace.log().matches(" attached").count() == shards.len()).then_some(())
    });

    load(&btd, &torrent);

    strace.signal(Signal::INT);
    strace.wait(within(20));
    let calls = counted_calls(&counts);
    let blocks = uploaded_blocks(&btd);
    eprintln!("{blocks} blocks served with {calls:?}");
    assert!(calls.contains_key("io_uring_enter"), "strace saw the shards: {calls:?}");
    let others: u64 = calls
        .iter()
        .filter(|(name, _)| *name != "io_uring_enter")
        .map(|(_, count)| count)
        .sum();
    assert!(
        (others as f64) < blocks / 100.0,
        "{others} other calls for {blocks} blocks: {calls:?}"
    );
    btd.stop();
}

#[test]
fn io_wq_is_not_needed_to_serve_a_block() {
    let scratch = Scratch::new("punts");
    let filesystem = rustix::fs::statfs(scratch.path())
        .expect("ask for the filesystem")
        .f_type;
    if filesystem != EXT4 {
        eprintln!("SKIPPED: the promise is about ext4, and target/ is on another filesystem ({filesystem:#x})");
        return;
    }
    let Some(trace) = Trace::start(std::process::id()) else {
        // Not one of the things that tests/run can install.
        eprintln!("SKIPPED: no tracing instance can be made under /sys/kernel/tracing (needs root and tracefs)");
        return;
    };
    let (btd, torrent) = seed(&scratch);
    trace.clear();

    load(&btd, &torrent);

    let shards = shard_threads(&btd);
    let punts: Vec<String> = trace.lines().into_iter().filter(|line| is_of(line, &shards)).collect();
    let (blocks, read) = (uploaded_blocks(&btd), btd.metric("btd_disk_read_bytes_total"));
    eprintln!("{} punts for {blocks} blocks and {read} bytes read", punts.len());
    assert!(read > 0.0, "the disk was asked at all");
    assert!(
        punts.is_empty(),
        "{} punts, the first: {:?}",
        punts.len(),
        punts.first()
    );
    btd.stop();
}

/// Ten thousand files on a disk that sleeps would keep it from being ready for minutes.
#[test]
fn start_asks_for_no_payload_file_of_what_is_known() {
    const TORRENTS: usize = 40;
    if !installed("strace") {
        return skip("`strace` is not installed (hint: tests/run installs it)");
    }
    let scratch = Scratch::new("untouched");
    let (watch, data) = (scratch.dir("watch"), scratch.dir("data"));
    let name = |number: usize| format!("payload-{number:02}");
    for number in 0..TORRENTS {
        let files = [(name(number), 64 << 10)];
        let payload = Payload::make(&data, &name(number), number as u64, &files);
        age(&payload.path());
        Torrent::create(&payload.path(), 16 << 10, watch.join(format!("{number:02}.torrent")));
    }
    let config = Config {
        watch: vec![(watch, data)],
        ..Config::default()
    };
    let home = scratch.dir("btd");
    let btd = Btd::start(&home, &config);
    btd.wait_seeding(TORRENTS);
    btd.stop();

    let calls = scratch.path().join("calls");
    let mut command = Command::new("strace");
    // The program under test stays the child; strace looks on from beside.
    command.args(["-D", "-f", "-e", "trace=%file,write", "-o"]).arg(&calls);
    command.arg(env!("CARGO_BIN_EXE_btd"));
    let notified = scratch.path().join("notified");
    let _notified = UnixDatagram::bind(&notified).expect("a socket as systemd has");
    command.env("NOTIFY_SOCKET", &notified);
    let btd = Btd::start_within(command, &home, &config);
    btd.wait_seeding(TORRENTS);
    // They are looked at behind that, a few at a time, by a thread: strace sees it. What shards open by their rings it does not
    // see, but they have nothing to open before a torrent was looked at.
    let is_payload = |line: &str| line.contains("payload-") && !line.contains("write(");
    let text = wait_for("payload is looked at after the start", within(60), || {
        let text = fs::read_to_string(&calls).unwrap_or_default();
        text.lines().any(is_payload).then_some(text)
    });
    btd.stop();
    let ready = text.lines().position(|line| line.contains("READY=1"));
    let ready = ready.unwrap_or_else(|| panic!("btd says that it is ready: {text}"));
    let before: Vec<&str> = text.lines().take(ready).filter(|line| is_payload(line)).collect();
    assert!(
        before.is_empty(),
        "{} calls, the first: {:?}",
        before.len(),
        before.first()
    );
    assert!(
        text.lines().take(ready).any(|line| line.contains("session.redb")),
        "{text}"
    );
}

/// btd with one torrent of 64 MiB, and a cache too small for it.
fn seed(scratch: &Scratch) -> (Btd, Torrent) {
    let files = [("payload.bin".to_owned(), 64 << 20)];
    let payload = Payload::make(&scratch.dir("data"), "payload.bin", 11, &files);
    let watch = scratch.dir("watch");
    // A direct read of what is not on the disk yet waits for it to be written, which only a thread of io-wq may do.
    fs::File::open(payload.path())
        .and_then(|file| file.sync_all())
        .expect("write the payload to the disk");
    let torrent = Torrent::create(&payload.path(), 256 << 10, watch.join("payload.torrent"));
    let more = "[storage]\ncache-size = \"16 MiB\"\n".to_owned();
    let config = Config {
        watch: vec![(watch, payload.data_dir)],
        more,
        ..Config::default()
    };
    let btd = Btd::start(&scratch.dir("btd"), &config);
    btd.wait_seeding(1);
    (btd, torrent)
}

/// Sixteen leechers, flat out.
fn load(btd: &Btd, torrent: &Torrent) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command
        .args(["bench", "seed", "--torrent"])
        .arg(&torrent.path)
        .args(["--connect", &btd.peers.to_string()]);
    command.args([
        "--connections",
        "16",
        "--queue",
        "32",
        "--bytes",
        &format!("{UPLOAD_MIB}MiB"),
    ]);
    let output = command.output().expect("run btd bench seed");
    assert!(
        output.status.success(),
        "btd bench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The blocks served, once the shards have published them all.
fn uploaded_blocks(btd: &Btd) -> f64 {
    let least = (UPLOAD_MIB * 64) as f64;
    wait_for("btd has published what it uploaded", within(10), || {
        Some(btd.metric("btd_uploaded_blocks_total")).filter(|blocks| *blocks >= least)
    })
}

/// The thread ids of the shards.
fn shard_threads(btd: &Btd) -> Vec<u32> {
    let tasks = format!("/proc/{}/task", btd.process.pid());
    let threads = fs::read_dir(tasks).expect("list btd's threads").filter_map(|thread| {
        let thread = thread.ok()?;
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        name.starts_with("btd-shard")
            .then(|| thread.file_name().to_str()?.parse().ok())?
    });
    let threads: Vec<u32> = threads.collect();
    assert!(!threads.is_empty(), "btd has shards");
    threads
}

/// `strace -c -U name,calls`: name and count on each line, under a head and above a total.
fn counted_calls(file: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(file).expect("read strace's table");
    let lines = text.lines().filter_map(|line| {
        let (name, count) = line.trim().rsplit_once(' ')?;
        Some((name.trim().to_owned(), count.parse().ok()?))
    });
    lines.filter(|(name, _)| name != "total").collect()
}

/// Whether a line of the trace, `comm-tid [cpu] ...`, is of one of these threads.
fn is_of(line: &str, threads: &[u32]) -> bool {
    let task = line.trim().split(' ').next().unwrap_or_default();
    task.rsplit_once('-')
        .and_then(|(_, tid)| tid.parse().ok())
        .is_some_and(|tid| threads.contains(&tid))
}

/// A tracing instance of our own that sees every operation handed to io-wq on this machine.
struct Trace(PathBuf);

impl Trace {
    fn start(number: u32) -> Option<Self> {
        let instance = PathBuf::from(format!("/sys/kernel/tracing/instances/btd-test-{number}"));
        fs::create_dir(&instance).ok()?;
        let trace = Self(instance);
        fs::write(trace.0.join("events/io_uring/io_uring_queue_async_work/enable"), "1").ok()?;
        Some(trace)
    }

    fn clear(&self) {
        fs::write(self.0.join("trace"), "").expect("clear the trace");
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("trace")).expect("read the trace");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // The kernel takes the whole instance away with its folder.
        let _ = fs::remove_dir(&self.0);
    }
}
