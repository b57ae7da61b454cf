//! Relays between a leecher and those that it downloads from, of which none may give much more than any other: so all of them
//! have to give something, however fast one is.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use socket2::{Domain, Protocol, Socket, Type};

/// So many bytes more than the one that has given least.
pub const LEAD: u64 = 1 << 20;

/// One relay for each seeder. Those who wait for others give up when it is dropped.
pub struct Relays {
    /// Where the relays listen, in the order of the seeders.
    pub addrs: Vec<SocketAddr>,
    given: Arc<Given>,
}

struct Given {
    /// Bytes of each seeder that went on to the leecher; `None` at the end of the test.
    bytes: Mutex<Option<Vec<u64>>>,
    changed: Condvar,
}

impl Relays {
    /// Listens on free ports of `ip`, which is also where the seeders see their peers come from.
    pub fn start(ip: IpAddr, seeders: &[SocketAddr]) -> Relays {
        let given = Arc::new(Given {
            bytes: Mutex::new(Some(vec![0; seeders.len()])),
            changed: Condvar::new(),
        });
        let relay = |(number, seeder): (usize, &SocketAddr)| {
            let listener = TcpListener::bind((ip, 0)).expect("a free port");
            let addr = listener.local_addr().expect("bound");
            let (given, seeder) = (given.clone(), *seeder);
            // Lives as long as the test.
            std::thread::spawn(move || {
                for leecher in listener.incoming().flatten() {
                    // The leecher tries again.
                    let Ok(seeder) = connect(ip, seeder) else { continue };
                    let _ = join(leecher, seeder, number, &given);
                }
            });
            addr
        };
        Relays {
            addrs: seeders.iter().enumerate().map(relay).collect(),
            given,
        }
    }

    /// Bytes that each seeder has given, in order.
    pub fn given(&self) -> Vec<u64> {
        self.given
            .bytes
            .lock()
            .expect("no relay panics")
            .clone()
            .expect("until it is dropped")
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        if let Ok(mut bytes) = self.given.bytes.lock() {
            *bytes = None;
        }
        self.given.changed.notify_all();
    }
}

impl Given {
    /// Waits for a seeder's turn to give `len` bytes. False at the end of the test.
    fn may_give(&self, number: usize, len: u64) -> bool {
        let bytes = self.bytes.lock().expect("no relay panics");
        let is_ahead = |bytes: &mut Option<Vec<u64>>| {
            let ahead = |bytes: &Vec<u64>| {
                bytes
                    .iter()
                    .min()
                    .is_some_and(|least| bytes[number] + len > least + LEAD)
            };
            bytes.as_ref().is_some_and(ahead)
        };
        let mut bytes = self.changed.wait_while(bytes, is_ahead).expect("no relay panics");
        if let Some(bytes) = &mut *bytes {
            bytes[number] += len;
        }
        self.changed.notify_all();
        bytes.is_some()
    }
}

fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Hands on what each end says until both have ended.
fn join(leecher: TcpStream, seeder: TcpStream, number: usize, given: &Arc<Given>) -> io::Result<()> {
    let (from_leecher, to_seeder) = (leecher.try_clone()?, seeder.try_clone()?);
    std::thread::spawn(move || hand_on(from_leecher, to_seeder, |_| true));
    let given = given.clone();
    std::thread::spawn(move || hand_on(seeder, leecher, |len| given.may_give(number, len)));
    Ok(())
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, may: impl Fn(u64) -> bool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !may(len as u64) || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
