//! Looks names up through a network device, or from an address: the system's resolver cannot be told which way to ask, and would
//! ask by another when that is away.
//!
//! The servers are those of the configuration or of `/etc/resolv.conf`; `/etc/hosts` is looked into first. A server at a
//! loopback address is not asked: it forwards by whatever way it likes. There is no cache here ([`super::resolver`] has one)
//! and no trust: an answer is a list of addresses that somebody on the way may have made up, as with any resolver that is
//! not DNSSEC's. Blocks its thread.
//!
//! - `message`: questions and answers as bytes; `system`: what the two files say.

mod message;
mod system;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Protocol, Type};

use super::outlet::Outlet;
use message::{Kind, Reply};
use system::Settings;

const PORT: u16 = 53;
/// Without the extension mechanism (RFC 6891) no datagram is longer than 512; some servers send more all the same.
const DATAGRAM_LEN_MAX: usize = 4096;
/// The files are small, and may be anything.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Asks name servers by one way.
#[derive(Clone, Debug)]
pub(super) struct Dns {
    outlet: Outlet,
    /// In the place of those of `/etc/resolv.conf`, if there are any.
    servers: Vec<IpAddr>,
    port: u16,
}

impl Dns {
    pub(super) fn new(outlet: &Outlet, servers: &[IpAddr]) -> Self {
        Self {
            outlet: outlet.clone(),
            servers: servers.to_vec(),
            port: PORT,
        }
    }

    /// The addresses of a name, IPv4 first. None if it has none.
    ///
    /// # Errors
    /// Why they cannot be had, for people.
    pub(super) fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let found = system::in_hosts(&read("/etc/hosts"), name);
        if !found.is_empty() {
            return Ok(found);
        }
        let mut settings = Settings::parse(&read("/etc/resolv.conf"));
        if !self.servers.is_empty() {
            settings.servers.clone_from(&self.servers);
        }
        self.ask_all(&settings, name)
    }

    fn ask_all(&self, settings: &Settings, name: &str) -> Result<Vec<IpAddr>, String> {
        let is_local = |server: &&IpAddr| server.to_canonical().is_loopback() && !self.outlet.stays_here();
        if let Some(local) = settings.servers.iter().find(is_local)
            && settings.servers.iter().all(|server| is_local(&server))
        {
            return Err(format!(
                "the name server {local} is this machine's own, which asks others by any way (hint: [peers] dns-servers names one \
                 that is reached {})",
                self.outlet
            ));
        }
        let servers: Vec<IpAddr> = settings
            .servers
            .iter()
            .filter(|server| !is_local(server))
            .copied()
            .collect();
        if servers.is_empty() {
            return Err("there is no name server to ask (hint: [peers] dns-servers)".to_owned());
        }
        let mut why = String::new();
        for name in settings.names(name) {
            match self.ask(settings, &servers, &name, Kind::A) {
                Ok(Some(mut found)) => {
                    // A name may have addresses of one family only, and servers that know nothing of the other.
                    let more = self.ask(settings, &servers, &name, Kind::Aaaa);
                    found.extend(more.ok().flatten().unwrap_or_default());
                    return Ok(found);
                }
                Ok(None) => why = "there is no such name".to_owned(),
                Err(error) => return Err(error),
            }
        }
        Err(why)
    }

    /// The addresses of one family; `None` if there is no such name.
    fn ask(
        &self,
        settings: &Settings,
        servers: &[IpAddr],
        name: &str,
        kind: Kind,
    ) -> Result<Option<Vec<IpAddr>>, String> {
        let mut why = "no answer".to_owned();
        for _ in 0..settings.tries {
            for server in servers {
                let question = message::question(random()?, name, kind).map_err(|error| error.to_string())?;
                let to = SocketAddr::new(*server, self.port);
                let mut reply = self.by_datagram(to, &question, kind, settings.patience);
                if matches!(reply, Ok(Reply::Truncated)) {
                    reply = self.by_connection(to, &question, kind, settings.patience);
                }
                match reply {
                    Ok(Reply::Addresses(found)) => return Ok(Some(found)),
                    Ok(Reply::NoSuchName) => return Ok(None),
                    Ok(Reply::Truncated) => why = format!("{server} cuts its answers short"),
                    Ok(Reply::Failed { code }) => why = format!("{server} has answered with code {code}"),
                    Err(error) => why = format!("{server}: {error}"),
                }
            }
        }
        Err(why)
    }

    fn by_datagram(&self, to: SocketAddr, question: &[u8], kind: Kind, patience: Duration) -> io::Result<Reply> {
        let socket = self.outlet.socket(to.ip(), Type::DGRAM, Protocol::UDP)?;
        // From then on only what comes from there is received.
        socket.connect(&to.into())?;
        let socket = std::net::UdpSocket::from(socket);
        socket.send(question)?;
        let deadline = Instant::now() + patience;
        let mut buf = [0; DATAGRAM_LEN_MAX];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            socket.set_read_timeout(Some(left))?;
            let len = socket.recv(&mut buf).map_err(in_time)?;
            if let Some(reply) = message::answer(&buf[..len], question, kind) {
                return Ok(reply);
            }
        }
    }

    fn by_connection(&self, to: SocketAddr, question: &[u8], kind: Kind, patience: Duration) -> io::Result<Reply> {
        let socket = self.outlet.socket(to.ip(), Type::STREAM, Protocol::TCP)?;
        socket.connect_timeout(&to.into(), patience)?;
        let mut stream = TcpStream::from(socket);
        stream.set_write_timeout(Some(patience))?;
        let len = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes()[..], question].concat())?;
        // Of the whole answer: one that trickles in byte by byte must not keep this thread.
        let until = Instant::now() + patience;
        let mut len = [0; 2];
        read_until(&mut stream, &mut len, until).map_err(in_time)?;
        let mut message = vec![0; u16::from_be_bytes(len).into()];
        read_until(&mut stream, &mut message, until).map_err(in_time)?;
        message::answer(&message, question, kind).ok_or_else(|| io::Error::other("another answer than to the question"))
    }
}

/// Fills the buffer, or fails at this time.
fn read_until(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => buffer = &mut buffer[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The kernel's word for an end of patience is `EAGAIN`.
fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}

fn random() -> Result<u16, String> {
    let mut bytes = [0; 2];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| "the kernel has no random numbers".to_owned())?;
    Ok(u16::from_ne_bytes(bytes))
}

/// What is in a file of the system; nothing if it cannot be read.
fn read(path: &str) -> String {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::message::testing::reply;
    use super::*;
    use crate::control::device::Device;

    fn through(device: &str) -> Outlet {
        Outlet::new(Some(Device::new(device)), &[])
    }

    /// A server on loopback that answers each datagram by `make`, for as long as the test runs; and who asks it.
    fn server(make: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> (Dns, Settings) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(&make(&buf[..len]), from);
            }
        });
        let servers = vec![Ipv4Addr::LOCALHOST.into()];
        let dns = Dns {
            port,
            ..Dns::new(&through("lo"), &servers)
        };
        let settings = Settings {
            servers,
            patience: Duration::from_millis(300),
            ..Settings::default()
        };
        (dns, settings)
    }

    fn asks_for(question: &[u8]) -> (bool, String) {
        let is_v4 = question[question.len() - 3] == 1;
        let name: Vec<u8> = question[13..question.len() - 5].to_vec();
        (
            is_v4,
            String::from_utf8_lossy(&name).replace(|c: char| c.is_control(), "."),
        )
    }

    #[test]
    fn both_families_are_asked_for_and_another_transaction_is_no_answer() {
        let (dns, settings) = server(|question| match asks_for(question).0 {
            true => reply(question, 0, &[(1, &[10, 0, 0, 1])]),
            false => reply(question, 0, &[(28, &[1; 16])]),
        });
        let found = dns.ask_all(&settings, "tracker.example").unwrap();
        assert_eq!(found, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([1_u8; 16])]);
        let (dns, settings) = server(|question| {
            let mut other = question.to_vec();
            other[0] ^= 1;
            reply(&other, 0, &[(1, &[10, 6, 6, 6])])
        });
        let why = dns.ask_all(&settings, "tracker.example").unwrap_err();
        assert_eq!(why, "127.0.0.1: no answer in time");
    }

    #[test]
    fn search_goes_on_where_there_is_no_such_name_and_failures_are_told() {
        let (dns, settings) = server(|question| match asks_for(question) {
            (true, name) if name == "client2.swarm.internal" => reply(question, 0, &[(1, &[10, 0, 0, 2])]),
            (false, _) => reply(question, 2, &[]),
            (true, name) if name == "broken" => reply(question, 2, &[]),
            _ => reply(question, 3, &[]),
        });
        let text = "search other.internal swarm.internal";
        let searching = Settings {
            servers: settings.servers.clone(),
            patience: settings.patience,
            ..Settings::parse(text)
        };
        assert_eq!(
            dns.ask_all(&searching, "client2").unwrap(),
            [IpAddr::from([10, 0, 0, 2])]
        );
        assert_eq!(dns.ask_all(&settings, "client2").unwrap_err(), "there is no such name");
        let why = dns.ask_all(&settings, "broken").unwrap_err();
        assert_eq!(why, "127.0.0.1 has answered with code 2");
        assert!(dns.ask_all(&settings, "no name").is_err());
    }

    #[test]
    fn answer_that_does_not_fit_is_asked_for_over_a_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Ok((len, from)) = datagrams.recv_from(&mut buf) {
                let mut cut = reply(&buf[..len], 0, &[]);
                cut[2] |= 2;
                let _ = datagrams.send_to(&cut, from);
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut len = [0; 2];
                stream.read_exact(&mut len).unwrap();
                let mut question = vec![0; u16::from_be_bytes(len).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = match asks_for(&question).0 {
                    true => reply(&question, 0, &[(1, &[10, 0, 0, 3][..]); 30]),
                    false => reply(&question, 0, &[]),
                };
                let len = u16::try_from(answer.len()).unwrap();
                stream.write_all(&[&len.to_be_bytes()[..], &answer].concat()).unwrap();
            }
        });
        let servers = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        let dns = Dns {
            port,
            ..Dns::new(&through("lo"), &servers)
        };
        let settings = Settings {
            servers,
            ..Settings::default()
        };
        let found = dns.ask_all(&settings, "many.example").unwrap();
        assert_eq!(found.len(), 30);
    }

    #[test]
    fn no_server_of_this_machine_and_no_other_device_is_asked() {
        let local = Settings {
            servers: vec!["127.0.0.53".parse().unwrap()],
            ..Settings::default()
        };
        let why = Dns::new(&through("tun0"), &[])
            .ask_all(&local, "x.example")
            .unwrap_err();
        assert!(
            why.contains("127.0.0.53 is this machine's own") && why.contains("reached through tun0"),
            "{why}"
        );
        let from = |ip: &str| Dns::new(&Outlet::new(None, &[ip.parse().unwrap()]), &[]);
        let why = from("10.0.0.2").ask_all(&local, "x.example").unwrap_err();
        assert!(
            why.contains("this machine's own") && why.contains("reached from 10.0.0.2)"),
            "{why}"
        );
        let away = Settings {
            servers: vec!["203.0.113.1".parse().unwrap()],
            tries: 1,
            ..Settings::default()
        };
        let why = Dns::new(&through("btd-no-such-de"), &[])
            .ask_all(&away, "x.example")
            .unwrap_err();
        assert!(why.contains("No such device"), "{why}");
        // For examples only (RFC 5737, RFC 3849): the one is away, the other of another family than the server.
        let why = from("203.0.113.2").ask_all(&away, "x.example").unwrap_err();
        assert!(why.contains("Cannot assign requested address"), "{why}");
        let why = from("2001:db8::2").ask_all(&away, "x.example").unwrap_err();
        assert!(why.contains("no IPv4 address to leave from"), "{why}");
        assert!(
            Dns::new(&through("lo"), &[])
                .ask_all(&Settings::default(), "x")
                .is_err()
        );
    }
}
