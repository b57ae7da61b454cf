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

/// A port that nobody listens on now. redis-server cannot be told to take any; another may get it first, and then the
/// server says so and the test fails.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

impl Redis {
    /// Starts one on a port, with its log in `dir`, and waits until it answers.
    pub fn start(dir: &Path, port: u16, more: &[&str]) -> Self {
        let redis = Self::spawn(dir, port, &[&["--port", &port.to_string()], more].concat());
        wait_for("redis-server answers", within(20), || {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
            let reply = exchange(stream, &[b"PING"]).ok()?;
            (reply.starts_with("+PONG") || reply.starts_with("-NOAUTH")).then_some(())
        });
        redis
    }

    /// Starts one with arguments that say where it listens.
    pub fn spawn(dir: &Path, port: u16, arguments: &[&str]) -> Self {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(dir).args(arguments);
        let process = Process::spawn("redis-server", &mut command, &dir.join("redis.log"));
        Self { process, port }
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
