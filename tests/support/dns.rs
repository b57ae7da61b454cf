//! A DNS server of a test's own over UDP, which says whatever the test has it say. Only in a network and with a
//! `/etc/resolv.conf` of the test's own: see [`super::private_net`].

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Says {
    Addresses(Vec<Ipv4Addr>),
    /// A response code: 2 is a failure, 3 that there is no such name.
    Code(u8),
    Nothing,
    /// It is another name for itself.
    Itself,
    /// Bytes that are no answer.
    Garbage,
}

/// Answers until the test ends.
pub struct Dns {
    asked: Arc<Mutex<Vec<(String, IpAddr)>>>,
}

impl Dns {
    /// Listens at 127.0.0.1:53 and is the one that this network asks.
    pub fn start(folder: &Path, says: impl Fn(&str) -> Says + Send + 'static) -> Dns {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), folder, says)
    }

    /// The same at another address of this machine.
    pub fn start_at(ip: IpAddr, folder: &Path, says: impl Fn(&str) -> Says + Send + 'static) -> Dns {
        let conf = folder.join("resolv.conf");
        fs::write(&conf, format!("nameserver {ip}\noptions timeout:2 attempts:1\n")).expect("write resolv.conf");
        let mounted = Command::new("mount")
            .arg("--bind")
            .arg(&conf)
            .arg("/etc/resolv.conf")
            .status();
        assert!(mounted.expect("run mount").success());
        let socket = UdpSocket::bind((ip, 53)).expect("the port of DNS");
        let asked = Arc::<Mutex<Vec<(String, IpAddr)>>>::default();
        let names = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let query = &buffer[..len];
                let Some((name, end)) = question(query) else { continue };
                let who = (name.clone(), from.ip());
                names.lock().expect("nobody panicked").push(who);
                if let Some(answer) = answer(query, end, says(&name)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Dns { asked }
    }

    /// How often a name was asked for.
    pub fn times_asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().expect("nobody panicked");
        asked.iter().filter(|(asked, _)| asked == name).count()
    }

    /// From where it was asked, each time.
    pub fn sources(&self) -> Vec<IpAddr> {
        let asked = self.asked.lock().expect("nobody panicked");
        asked.iter().map(|(_, from)| *from).collect()
    }
}

/// The name that is asked for, and where its question ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let len = usize::from(*query.get(at)?);
        if len == 0 {
            return Some((labels.join("."), at + 5));
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + len)?).to_lowercase());
        at += 1 + len;
    }
}

fn answer(query: &[u8], end: usize, says: Says) -> Option<Vec<u8>> {
    let asks_for_v4 = query.get(end - 4..end - 2) == Some(&[0, 1]);
    let head = |code: u8, count: u16| {
        let mut head = query[..2].to_vec();
        head.extend([0x81, 0x80 | code, 0, 1]);
        head.extend(count.to_be_bytes());
        head.extend([0, 0, 0, 0]);
        head.extend(&query[12..end]);
        head
    };
    match says {
        Says::Nothing => None,
        Says::Code(code) => Some(head(code, 0)),
        Says::Garbage => Some([&query[..2], &[0xff; 40]].concat()),
        Says::Itself => {
            let mut answer = head(0, 1);
            // An alias (type 5) of the name in the question, which is the name in the question.
            answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, 12]);
            Some(answer)
        }
        Says::Addresses(addresses) => {
            let addresses = if asks_for_v4 { addresses } else { Vec::new() };
            let mut answer = head(0, u16::try_from(addresses.len()).expect("few"));
            for address in addresses {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address.octets());
            }
            Some(answer)
        }
    }
}
