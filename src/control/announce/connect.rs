//! Connections to trackers: to addresses that the rule permits, and to no others, however they were come by.
//!
//! The rule is applied to the address that is connected to, in the call that connects. So a name cannot lead elsewhere
//! between a check and its use, and redirects and addresses written as numbers go the same way. This is why the HTTP client
//! is not one with a resolver of its own.
//!
//! The public addresses of this machine are as private as its loopback: what comes from itself passes no firewall.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

use super::Sources;
use crate::announcer::{Failure, Rule};
use crate::control::resolver::Resolver;
use crate::io::uring::leave_from;

/// For one address of a tracker.
const CONNECT_PATIENCE: Duration = Duration::from_secs(8);

/// For one of the connections that there may be: less than is left of an announce when its name is known.
const PERMIT_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// Connects to trackers.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) resolver: Arc<Resolver>,
    pub(super) rule: Rule,
    pub(super) sources: Sources,
    /// One for each connection, those that are idle included.
    pub(super) sockets: Arc<Semaphore>,
}

impl Connector {
    async fn connect(self, host: String, port: u16) -> Result<TokioIo<Stream>, Failure> {
        let addresses = permitted(&self.resolver, self.rule, &self.sources, &host).await?;
        // Waiting for one of our own is not the tracker's fault, and ends before the announce's own time does.
        let permit = tokio::time::timeout(PERMIT_PATIENCE, self.sockets.acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or(Failure::Busy)?;
        let mut failure = Failure::Unreachable("cannot connect".into());
        for ip in addresses {
            let connecting = tokio::time::timeout(CONNECT_PATIENCE, connect_to(ip, port, &self.sources));
            match connecting.await {
                Ok(Ok(stream)) if !self.rule.allow_private && is_to_itself(&stream) => {
                    // It has become ours since it was looked at.
                    failure = Failure::Forbidden(format!("{ip} is an address of this machine").into());
                }
                Ok(Ok(stream)) => {
                    let _permit = permit;
                    return Ok(TokioIo::new(Stream { stream, _permit }));
                }
                Ok(Err(error)) => failure = Failure::Unreachable(format!("cannot connect: {}", plain(&error)).into()),
                Err(_) => failure = Failure::Unreachable("cannot connect: no answer in time".into()),
            }
        }
        Err(failure)
    }
}

/// The kernel's words, without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let first = text.chars().next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(text.chars().skip(1)).collect()
}

/// The addresses of a tracker that may be connected to, never none.
pub(super) async fn permitted(
    resolver: &Resolver,
    rule: Rule,
    sources: &Sources,
    host: &str,
) -> Result<Vec<IpAddr>, Failure> {
    let found = resolver.addresses(host).await;
    let found = found.map_err(|error| Failure::Name((*error).into()))?;
    let chosen = sources.choose(&choose(&found, rule, is_own)?);
    chosen.map_err(|error| Failure::Unreachable(format!("cannot connect: {}", plain(&error)).into()))
}

/// Those of these addresses, of which there is at least one, that may be connected to. `is_own` tells those of this machine.
fn choose(found: &[IpAddr], rule: Rule, is_own: impl Fn(IpAddr) -> bool) -> Result<Vec<IpAddr>, Failure> {
    let permits = |ip: &IpAddr| rule.permits(*ip) && (rule.allow_private || !is_own(*ip));
    let permitted: Vec<IpAddr> = found.iter().copied().filter(permits).collect();
    if !permitted.is_empty() {
        return Ok(permitted);
    }
    let what = match rule.permits(found[0]) {
        true => "an address of this machine",
        false => "a private or special address",
    };
    Err(Failure::Forbidden(
        format!(
            "{} is {what} (hint: [announce] allow-private = true lets btd go there)",
            found[0]
        )
        .into(),
    ))
}

/// Whether an address is one of this machine: it can be bound to, while one that is nobody's cannot, or what is sent there
/// would come from it. Nothing is sent.
fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    // For examples only (RFC 5737, RFC 3849). With `ip_nonlocal_bind` these can be bound to as well, and it shows nothing.
    let (nobody, any): (IpAddr, IpAddr) = match ip {
        IpAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::UNSPECIFIED.into(),
        ),
    };
    let binds = |ip| UdpSocket::bind(SocketAddr::new(ip, 0));
    let comes_from_itself = || {
        let socket = binds(any)?;
        socket.connect(SocketAddr::new(ip, 9))?;
        socket.local_addr().map(|local| local.ip() == ip)
    };
    binds(ip).is_ok() && binds(nobody).is_err() || comes_from_itself().unwrap_or(false)
}

async fn connect_to(ip: IpAddr, port: u16, sources: &Sources) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(ip, port)),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    sources.bind(&socket)?;
    if let Some(source) = sources.of(ip)? {
        leave_from(&socket, source)?;
    }
    socket.set_nonblocking(true)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.set_nodelay(true)?;
    socket.connect(SocketAddr::new(ip, port)).await
}

/// Both ends of a connection have the same address.
fn is_to_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local.ip() == peer.ip())
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // As it was made of a `TrackerUrl`, it has all of it.
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(0);
        Box::pin(self.clone().connect(host, port))
    }
}

/// A connection, which counts as one as long as it is open.
pub(super) struct Stream {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::outlet::Outlet;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_this_machine_are_known_and_others_are_not() {
        assert!(is_own(ip("127.0.0.1")) && is_own(ip("127.9.9.9")) && is_own(ip("::ffff:127.0.0.1")));
        for other in ["192.0.2.7", "203.0.113.1", "1.1.1.1", "2001:db8::7"] {
            assert!(!is_own(ip(other)), "{other}");
        }
    }

    #[test]
    fn public_addresses_of_this_machine_are_private() {
        let (own, other) = (ip("1.1.1.1"), ip("1.1.1.2"));
        let is_own = |ip| ip == own;
        let strict = Rule { allow_private: false };
        assert_eq!(choose(&[own, other], strict, is_own), Ok(vec![other]));
        let why = choose(&[own], strict, is_own).unwrap_err().to_string();
        assert!(why.starts_with("1.1.1.1 is an address of this machine (hint:"), "{why}");
        let why = choose(&[ip("10.0.0.1")], strict, is_own).unwrap_err().to_string();
        assert!(why.starts_with("10.0.0.1 is a private or special address"), "{why}");
        assert_eq!(choose(&[own], Rule { allow_private: true }, is_own), Ok(vec![own]));
    }

    #[test]
    fn a_connector_without_a_socket_to_spare_does_not_blame_the_tracker() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let connector = Connector {
                resolver: Resolver::new(),
                rule: Rule { allow_private: true },
                sources: Sources::new(&[], Outlet::new(None, &[])),
                sockets: Arc::new(Semaphore::new(0)),
            };
            let failure = connector.connect("127.0.0.1".to_owned(), 1).await.err();
            assert_eq!(failure, Some(Failure::Busy));
        });
    }
}
