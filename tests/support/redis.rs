//! A redis-server of the test's own, and as much of its protocol as it takes to look into it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::process::Process;
use super::{wait_for, within};

/// A running server that keeps nothing on the disk. Killed when dropped.
pub struct Redis {
    process: Process,
    pub port: u16,
}

/// How often a port is tried.
const ATTEMPTS: usize = 20;

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

impl Redis {
    /// Starts one on a free port, with its log in `dir`, and waits until it serves.
    pub fn start(dir: &Path, more: &[&str]) -> Self {
        Self::start_by(dir, |port| arguments(port, more))
    }

    /// The same with arguments that say where it listens. redis-server cannot be told to take any port, and another may get
    /// a free one first: then the server ends, and the next is tried.
    pub fn start_by(dir: &Path, arguments: impl Fn(u16) -> Vec<String>) -> Self {
        for _ in 0..ATTEMPTS {
            let port = free_port();
            if let Some(redis) = Self::spawn(dir, port, &arguments(port)) {
                return redis;
            }
        }
        panic!("{ATTEMPTS} free ports were taken before redis-server had them");
    }

    /// The same on a port that must be had.
    pub fn start_at(dir: &Path, port: u16, more: &[&str]) -> Self {
        let redis = Self::spawn(dir, port, &arguments(port, more));
        redis.unwrap_or_else(|| panic!("port {port} is taken by somebody else"))
    }

    /// Starts one and waits until it serves; nothing if its port is taken.
    fn spawn(dir: &Path, port: u16, arguments: &[String]) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(dir).args(arguments);
        let mut process = Process::spawn("redis-server", &mut command, &dir.join("redis.log"));
        // By its own log: whoever answers at the port may be another.
        let serves = wait_for("redis-server serves or says that its port is taken", within(20), || {
            let log = process.log();
            let is_taken = log.contains("Address already in use");
            if !is_taken {
                process.assert_running();
            }
            (is_taken || log.contains("Ready to accept connections")).then_some(!is_taken)
        });
        serves.then_some(Self { process, port })
    }

    /// Stops it as it is, or has it go on: SIGSTOP, SIGCONT.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(within(10));
    }

    /// The reply to a command, as it came.
    pub fn ask(&self, command: &[&[u8]]) -> String {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("connect to redis-server");
        exchange(stream, command).expect("an answer of redis-server")
    }

    /// A reply that is a number.
    pub fn number(&self, command: &[&[u8]]) -> i64 {
        let reply = self.ask(command);
        let number = reply.strip_prefix(':').and_then(|number| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("{reply} is no number"))
    }

    /// Its clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let reply = self.ask(&[b"TIME"]);
        let seconds = reply.lines().nth(2).and_then(|seconds| seconds.parse::<u64>().ok());
        seconds.unwrap_or_else(|| panic!("{reply} is no time")) * 1000
    }
}

fn arguments(port: u16, more: &[&str]) -> Vec<String> {
    let port = port.to_string();
    ["--port", &port]
        .iter()
        .chain(more)
        .map(|&argument| argument.to_owned())
        .collect()
}

/// Sends one command and reads its reply: a line, a string, or a flat list of them.
fn exchange(mut stream: TcpStream, command: &[&[u8]]) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for part in command {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    stream.write_all(&bytes)?;
    let mut reader = BufReader::new(stream);
    let mut reply = String::new();
    let mut left = 1;
    while left > 0 {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line).into_owned();
        let number = || text[1..].trim().parse::<usize>().unwrap_or(0);
        left -= 1;
        if text.starts_with('*') {
            left += number();
        } else if text.starts_with('$') && !text.starts_with("$-") {
            let mut string = vec![0; number() + 2];
            reader.read_exact(&mut string)?;
            reply.push_str(&text);
            reply.push_str(&String::from_utf8_lossy(&string));
            continue;
        }
        reply.push_str(&text);
    }
    Ok(reply)
}
