//! Announces and scrapes by datagrams (BEP 15): one socket for each family, answers told apart by their transaction and where they
//! come from, connection ids kept for their minute.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::connect::{permitted, plain};
use super::{Sources, random};
use crate::announcer::udp::{self, Reply};
use crate::announcer::{Answer, Failure, Request, Rule, Swarm, TrackerUrl, scrape};
use crate::control::resolver::Resolver;
use crate::proto::InfoHash;

/// For the first try; the next have twice as long each (BEP 15). The specification goes on for an hour; the schedule has
/// its own back-off, and another tracker may be there.
const PATIENCE: Duration = Duration::from_secs(15);
const TRIES: u32 = 3;
/// The same at the end of a run, which lasts a few seconds.
const PARTING_PATIENCE: Duration = Duration::from_millis(800);
/// How long a connection id may be used.
const CONNECTION_FOR: Duration = Duration::from_secs(60);
/// After an error of a socket.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Connection ids that are kept.
const CONNECTIONS_MAX: usize = 1024;

/// Asks trackers by datagrams.
#[derive(Clone)]
pub(super) struct Udp(Arc<Inner>);

struct Inner {
    resolver: Arc<Resolver>,
    rule: Rule,
    sources: Sources,
    v4: Mutex<Option<Open>>,
    v6: Mutex<Option<Open>>,
    waiting: Arc<Mutex<Waiting>>,
    connections: Mutex<HashMap<SocketAddr, (u64, Instant)>>,
    is_parting: AtomicBool,
}

/// A socket, and what receives from it until it is dropped.
struct Open {
    socket: Arc<UdpSocket>,
    /// The device that it is bound to, by number.
    device: Option<u32>,
    receiving: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

/// Who waits for an answer, by transaction, and from where it has to come.
type Waiting = HashMap<u32, (SocketAddr, oneshot::Sender<Vec<u8>>)>;

/// Takes its transaction back when nobody waits any more.
struct Transaction<'a> {
    number: u32,
    waiting: &'a Mutex<Waiting>,
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.number);
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(step: &str, error: &io::Error) -> Failure {
    Failure::Unreachable(format!("cannot {step}: {}", plain(error)).into())
}

impl Udp {
    pub(super) fn new(resolver: &Arc<Resolver>, rule: Rule, sources: &Sources) -> Self {
        Self(Arc::new(Inner {
            resolver: Arc::clone(resolver),
            rule,
            sources: sources.clone(),
            v4: Mutex::default(),
            v6: Mutex::default(),
            waiting: Arc::default(),
            connections: Mutex::default(),
            is_parting: AtomicBool::new(false),
        }))
    }

    /// Announces to a tracker.
    pub(super) async fn announce(&self, url: &TrackerUrl, request: &Request) -> Result<Answer, Failure> {
        let make = |id, number| udp::announce(id, number, request, url.target());
        let read = |reply: Reply<'_>, from| match reply {
            Reply::Announce(body) => udp::read_announce(body, from),
            _ => Err(Failure::Malformed("no answer to an announce".into())),
        };
        self.ask(url, make, read).await
    }

    /// Scrapes torrents of a tracker.
    pub(super) async fn scrape(&self, url: &TrackerUrl, hashes: &[InfoHash]) -> Result<Vec<Option<Swarm>>, Failure> {
        let make = |id, number| udp::scrape(id, number, hashes);
        let read = |reply: Reply<'_>, _| match reply {
            Reply::Scrape(body) => scrape::read(body, hashes.len()),
            _ => Err(Failure::Malformed("no answer to a scrape".into())),
        };
        self.ask(url, make, read).await
    }

    /// From now on nobody waits long for an answer: what is lost is sent again soon, or not at all.
    pub(super) fn part(&self) {
        self.0.is_parting.store(true, Ordering::Relaxed);
    }

    async fn ask<T>(
        &self,
        url: &TrackerUrl,
        make: impl Fn(u64, u32) -> Vec<u8>,
        read: impl Fn(Reply<'_>, SocketAddr) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let addresses = permitted(&self.0.resolver, self.0.rule, &self.0.sources, url.host()).await?;
        let mut failure = None;
        for (attempt, ip) in (0..TRIES).zip(addresses.iter().cycle()) {
            let to = SocketAddr::new(*ip, url.port());
            let patience = match self.0.is_parting.load(Ordering::Relaxed) {
                true => PARTING_PATIENCE,
                false => PATIENCE,
            };
            let tried = tokio::time::timeout(patience * (1 << attempt), self.0.once(to, &make, &read));
            match tried.await {
                Ok(Err(Failure::Unreachable(why))) => failure = Some(Failure::Unreachable(why)),
                Ok(result) => return result,
                Err(_) => lock(&self.0.connections).retain(|at, _| *at != to),
            }
        }
        Err(failure.unwrap_or_else(|| Failure::Unreachable(format!("no answer to {TRIES} datagrams").into())))
    }
}

impl Inner {
    async fn once<T>(
        &self,
        to: SocketAddr,
        make: impl Fn(u64, u32) -> Vec<u8>,
        read: impl Fn(Reply<'_>, SocketAddr) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let kept = lock(&self.connections).get(&to).copied();
        let kept = kept.filter(|(_, until)| Instant::now() < *until);
        let mut is_kept = kept.is_some();
        let mut id = match kept {
            Some((id, _)) => id,
            None => self.connect(to).await?,
        };
        loop {
            let datagram = self.exchange(to, |number| make(id, number)).await?;
            return match udp::read(&datagram) {
                // The tracker may have been started again, and know the id no more.
                Some((_, Reply::Error(_))) if is_kept => {
                    is_kept = false;
                    id = self.connect(to).await?;
                    continue;
                }
                Some((_, Reply::Error(text))) => Err(udp::read_error(text)),
                Some((_, reply)) => read(reply, to),
                None => Err(Failure::Malformed("no answer".into())),
            };
        }
    }

    async fn connect(&self, to: SocketAddr) -> Result<u64, Failure> {
        let datagram = self.exchange(to, |number| udp::connect(number).to_vec()).await?;
        let id = match udp::read(&datagram) {
            Some((_, Reply::Connection(id))) => id,
            Some((_, Reply::Error(text))) => return Err(udp::read_error(text)),
            Some((_, Reply::Announce(_) | Reply::Scrape(_))) | None => {
                return Err(Failure::Malformed("no connection id".into()));
            }
        };
        let now = Instant::now();
        let mut connections = lock(&self.connections);
        if connections.len() >= CONNECTIONS_MAX {
            connections.retain(|_, (_, until)| now < *until);
        }
        if connections.len() < CONNECTIONS_MAX {
            connections.insert(to, (id, now + CONNECTION_FOR));
        }
        Ok(id)
    }

    /// Sends a datagram that is made of its transaction's number, and waits for the answer to it.
    async fn exchange(&self, to: SocketAddr, make: impl Fn(u32) -> Vec<u8>) -> Result<Vec<u8>, Failure> {
        let socket = self.socket(to.ip()).map_err(|error| failed("make a socket", &error))?;
        let (sender, answer) = oneshot::channel();
        let number = {
            let mut waiting = lock(&self.waiting);
            let mut number = random() as u32; // Half of the bits: nobody who does not see the datagram knows it.
            while waiting.contains_key(&number) {
                number = number.wrapping_add(1);
            }
            waiting.insert(number, (to, sender));
            number
        };
        let _transaction = Transaction {
            number,
            waiting: &self.waiting,
        };
        socket
            .send_to(&make(number), to)
            .await
            .map_err(|error| failed("send", &error))?;
        answer
            .await
            .map_err(|_| Failure::Unreachable("the socket is closed".into()))
    }

    /// The socket for addresses of this family. Where a device came back as another one, a new one is made, and ids are asked
    /// for again: what this machine's address is by now, trackers have to see.
    fn socket(&self, ip: IpAddr) -> io::Result<Arc<UdpSocket>> {
        let (cell, any) = match ip {
            IpAddr::V4(_) => (&self.v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (&self.v6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        let device = self.sources.device_index()?;
        let mut cell = lock(cell);
        if let Some(open) = cell.as_ref().filter(|open| open.device == device) {
            return Ok(Arc::clone(&open.socket));
        }
        let source = SocketAddr::new(self.sources.of(ip)?.unwrap_or(any), 0);
        let socket = Socket::new(Domain::for_address(source), Type::DGRAM, Some(Protocol::UDP))?;
        self.sources.bind(&socket)?;
        if source.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&source.into())?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let receiving = tokio::spawn(receive(Arc::clone(&socket), Arc::clone(&self.waiting)));
        lock(&self.connections).retain(|to, _| to.is_ipv4() != ip.is_ipv4());
        *cell = Some(Open {
            socket: Arc::clone(&socket),
            device,
            receiving: receiving.abort_handle(),
        });
        Ok(socket)
    }
}

/// Gives each answer to whom it is for, for as long as the socket is open.
async fn receive(socket: Arc<UdpSocket>, waiting: Arc<Mutex<Waiting>>) {
    let mut buf = vec![0; udp::DATAGRAM_LEN_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut buf).await {
            Ok(received) => received,
            // What the network says of a datagram that was sent: its sender finds out by waiting.
            Err(error) => {
                tracing::debug!("a tracker's socket: {error}");
                // One that comes again and again leaves the thread to others.
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let datagram = &buf[..len];
        let Some((number, _)) = udp::read(datagram) else {
            continue;
        };
        let mut waiting = lock(&waiting);
        if waiting.get(&number).is_some_and(|(to, _)| *to == from)
            && let Some((_, sender)) = waiting.remove(&number)
        {
            let _ = sender.send(datagram.to_vec()); // Nobody waits any more.
        }
    }
}
