//! A store of a test's own for trackers that share one: speaks as much of Redis's protocol (RESP3) as btd asks for, says what
//! the test has it say instead, and remembers what it was asked. It keeps nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// A command: its name and its arguments.
pub type Command = Vec<Vec<u8>>;

/// What becomes of a command.
pub enum Answer {
    /// What an empty store says.
    Usual,
    /// These bytes are said.
    Say(Vec<u8>),
    /// Nothing is said.
    Nothing,
    /// The connection ends.
    End,
}

type Script = dyn Fn(&Command) -> Answer + Send + Sync;

/// Answers until the test ends.
pub struct ScriptedStore {
    pub addr: SocketAddr,
    commands: Arc<Mutex<Vec<Command>>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl ScriptedStore {
    /// Starts one. `script` decides about each command, on the thread of its connection.
    pub fn start(script: impl Fn(&Command) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen as a store");
        let addr = listener.local_addr().expect("a store's address");
        let (commands, connections) = (Arc::<Mutex<Vec<Command>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (seen, open, script): (_, _, Arc<Script>) =
            (Arc::clone(&commands), Arc::clone(&connections), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                let kept = stream.try_clone().expect("a socket once more");
                open.lock().expect("nobody panicked").push(kept);
                // It ends with the connection, however that does.
                std::thread::spawn(move || serve(stream, &seen, &*script));
            }
        });
        Self {
            addr,
            commands,
            connections,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// What it was asked, in order.
    pub fn commands(&self) -> Vec<Command> {
        self.commands.lock().expect("nobody panicked").clone()
    }

    /// The commands of this name that have this among their bytes.
    pub fn count(&self, name: &str, part: &[u8]) -> usize {
        let has = |argument: &Vec<u8>| part.is_empty() || argument.windows(part.len()).any(|window| window == part);
        let commands = self.commands.lock().expect("nobody panicked");
        let named = commands.iter().filter(|command| command[0] == name.as_bytes());
        named.filter(|command| command.iter().any(has)).count()
    }

    /// How often it was greeted.
    pub fn connections(&self) -> usize {
        self.count("HELLO", b"")
    }

    /// Says these bytes on each connection that there is.
    pub fn say(&self, bytes: &[u8]) {
        for mut stream in self.connections.lock().expect("nobody panicked").iter() {
            let _ = stream.write_all(bytes); // Some have ended.
        }
    }
}

/// What is said when a look-up has found these members.
pub fn page(members: &[(&[u8], u64)]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", members.len()).into_bytes();
    for (member, score) in members {
        bytes.extend_from_slice(b"*2\r\n");
        put_string(&mut bytes, member);
        bytes.extend_from_slice(format!(",{score}\r\n").as_bytes());
    }
    bytes
}

/// What is said when somebody has published a message.
pub fn published(message: &[u8]) -> Vec<u8> {
    let mut bytes = b">3\r\n".to_vec();
    for part in [&b"message"[..], b"btd:swarms:0", message] {
        put_string(&mut bytes, part);
    }
    bytes
}

/// A message of another btd about one peer of a torrent: 0 is a leecher, 1 a seeder, 4 has left.
pub fn message(hash: &[u8; 20], flags: u8, address: [u8; 6], age: u8) -> Vec<u8> {
    let header = b"btd\x01another btd says\0\0\x10\0";
    [&header[..], hash, &[0, 0, 0, 0, 0, 1, flags], &address, &[age]].concat()
}

fn put_string(bytes: &mut Vec<u8>, string: &[u8]) {
    bytes.extend_from_slice(format!("${}\r\n", string.len()).as_bytes());
    bytes.extend_from_slice(string);
    bytes.extend_from_slice(b"\r\n");
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Command>>, script: &Script) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(command) = read_command(&mut reader)? {
        seen.lock().expect("nobody panicked").push(command.clone());
        match script(&command) {
            Answer::Usual => out.write_all(&usual(&command))?,
            Answer::Say(bytes) => out.write_all(&bytes)?,
            Answer::Nothing => {}
            Answer::End => return out.shutdown(std::net::Shutdown::Both),
        }
    }
    Ok(())
}

/// An array of strings, or nothing at the end.
fn read_command(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Command>> {
    let number = |kind: char, reader: &mut BufReader<TcpStream>| -> io::Result<Option<usize>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let number = line.strip_prefix(kind).and_then(|number| number.trim().parse().ok());
        Ok(Some(
            number.unwrap_or_else(|| panic!("{line:?} is no {kind} of a command")),
        ))
    };
    let Some(count) = number('*', reader)? else {
        return Ok(None);
    };
    let mut command = Vec::new();
    for _ in 0..count {
        let Some(len) = number('$', reader)? else {
            return Ok(None);
        };
        let mut string = vec![0; len + 2];
        reader.read_exact(&mut string)?;
        string.truncate(len);
        command.push(string);
    }
    Ok(Some(command))
}

fn usual(command: &Command) -> Vec<u8> {
    match command[0].as_slice() {
        b"HELLO" => b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_vec(),
        b"SUBSCRIBE" => {
            let mut bytes = b">3\r\n".to_vec();
            put_string(&mut bytes, b"subscribe");
            put_string(&mut bytes, &command[1]);
            bytes.extend_from_slice(b":1\r\n");
            bytes
        }
        b"TIME" => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = now.expect("after 1970").as_secs().to_string();
            let mut bytes = b"*2\r\n".to_vec();
            put_string(&mut bytes, seconds.as_bytes());
            put_string(&mut bytes, b"0");
            bytes
        }
        b"ZRANGE" => page(&[]),
        b"ZSCORE" => b"_\r\n".to_vec(),
        b"SELECT" | b"CLIENT" => b"+OK\r\n".to_vec(),
        _ => b":0\r\n".to_vec(),
    }
}
