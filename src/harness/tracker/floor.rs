//! The tracker's floor: what answers every request with bytes that it has ready. One thread; `recvfrom` and `sendto`, or an epoll
//! of HTTP connections.
//!
//! It is the yardstick of the load and no tracker: it keeps nothing, checks nothing, and tells requests apart only as far as
//! the length of a reply hangs on it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use slab::Slab;
use socket2::SockRef;

use super::request::{ANNOUNCE, CONNECT, SCRAPE};
use crate::harness::load::raise_open_files;

/// Peers in a reply: with 50 wanted, and some torrents that have fewer, what a tracker has to say is about that.
const PEERS: usize = 45;
/// How late a request to stop may be noticed.
const STOP_WAIT: Duration = Duration::from_millis(200);
const READ_LEN: usize = 16 * 1024;
const EVENTS_MAX: usize = 512;
/// What the listening socket's events carry; no slab grows this far.
const LISTENER: u64 = u64::MAX;
const RECEIVE_BUFFER: usize = 4 << 20;

/// A bound floor that has not begun to serve.
#[derive(Debug)]
pub enum Floor {
    /// By UDP.
    Udp(UdpSocket),
    /// By HTTP.
    Http(TcpListener),
}

impl Floor {
    /// A floor for UDP.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn udp(listen: SocketAddr) -> io::Result<Floor> {
        let socket = UdpSocket::bind(listen)?;
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.set_read_timeout(Some(STOP_WAIT))?;
        Ok(Floor::Udp(socket))
    }

    /// A floor for HTTP.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn http(listen: SocketAddr) -> io::Result<Floor> {
        raise_open_files();
        let listener = TcpListener::bind(listen)?;
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        Ok(Floor::Http(listener))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Floor::Udp(socket) => socket.local_addr(),
            Floor::Http(listener) => listener.local_addr(),
        }
    }

    /// Serves until `stop` is set.
    ///
    /// # Errors
    /// The socket's, or of the loop around it.
    pub fn run(self, stop: &AtomicBool) -> io::Result<()> {
        match self {
            Floor::Udp(socket) => serve_datagrams(&socket, stop),
            Floor::Http(listener) => serve_http(&listener, stop),
        }
    }
}

/// Addresses for documentation (RFC 5737), and port 6881.
fn peers() -> Vec<u8> {
    [192, 0, 2, 1, 0x1a, 0xe1].repeat(PEERS)
}

fn serve_datagrams(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    let mut reply = [&[0; 20][..], &peers()].concat();
    // An interval that is plausible: half an hour.
    reply[8..12].copy_from_slice(&1800_u32.to_be_bytes());
    // Nobody is anywhere.
    let mut scraped = [0; 8 + 12 * 74];
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error),
        };
        let Some(head) = buffer[..len].get(8..16) else { continue };
        let action = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        // Action and transaction are the request's own.
        let sent = match action {
            CONNECT => socket.send_to(&[head, &[1; 8]].concat(), from),
            ANNOUNCE => {
                reply[..8].copy_from_slice(head);
                socket.send_to(&reply, from)
            }
            SCRAPE => {
                let len = (8 + 12 * ((len - 16) / 20)).min(scraped.len());
                scraped[..8].copy_from_slice(head);
                socket.send_to(&scraped[..len], from)
            }
            _ => continue,
        };
        // A full send buffer loses the reply, as networks do.
        if let Err(error) = sent
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
    }
    Ok(())
}

fn serve_http(listener: &TcpListener, stop: &AtomicBool) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        listener,
        epoll::EventData::new_u64(LISTENER),
        epoll::EventFlags::IN,
    )?;
    let body = [
        &b"d8:completei9e10:incompletei9e8:intervali1800e5:peers270:"[..],
        &peers(),
        b"e",
    ]
    .concat();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let response = [head.as_bytes(), &body].concat();
    let mut conns: Slab<TcpStream> = Slab::new();
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut buffer = vec![0; READ_LEN];
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: STOP_WAIT.subsec_nanos().into(),
    };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data.u64();
            if data == LISTENER {
                accept(listener, &epoll, &mut conns, &response, &mut buffer)?;
                continue;
            }
            let index = usize::try_from(data).expect("an index of ours");
            if conns
                .get(index)
                .is_some_and(|stream| !answer(stream, &response, &mut buffer))
            {
                conns.remove(index);
            }
        }
    }
    Ok(())
}

/// Takes all connections there are. A request that has come with its connection is answered at once, and one that wants no
/// second never becomes an event.
fn accept(
    listener: &TcpListener,
    epoll: &OwnedFd,
    conns: &mut Slab<TcpStream>,
    response: &[u8],
    buffer: &mut [u8],
) -> io::Result<()> {
    loop {
        let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
        let stream = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => TcpStream::from(socket),
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(rustix::io::Errno::CONNABORTED) => continue,
            Err(error) => return Err(error.into()),
        };
        if answer(&stream, response, buffer) {
            let entry = conns.vacant_entry();
            let data = epoll::EventData::new_u64(entry.key() as u64);
            epoll::add(epoll, &stream, data, epoll::EventFlags::IN)?;
            entry.insert(stream);
        }
    }
}

/// Answers what has come, and says whether the connection goes on. A torn request is taken for a whole one.
fn answer(mut stream: &TcpStream, response: &[u8], buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        Ok(len) => {
            let close = buffer[..len].ends_with(b"close\r\n\r\n");
            stream.write_all(response).is_ok() && !close
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Report;
    use super::super::{Kind, Load, Until};
    use super::*;

    fn measured(floor: Floor, kind: Kind, junk: u32) -> Report {
        let SocketAddr::V4(server) = floor.local_addr().unwrap() else {
            panic!("bound to IPv4")
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| floor.run(&stop));
            let load = Load {
                peers: 100,
                torrents: 10,
                sources: 4,
                in_flight: 8,
                junk,
                verify: 1.0,
                until: Until::Requests(200),
                pid: Some(std::process::id()),
                ..Load::new(server, kind)
            };
            let report = load.run();
            stop.store(true, Ordering::Relaxed);
            serving.join().unwrap().unwrap();
            report.unwrap()
        })
    }

    #[test]
    fn the_load_gets_a_reply_to_everything_from_the_floor_and_sees_that_its_peers_are_nobody() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        for kind in [Kind::Udp, Kind::UdpScrape(50), Kind::Http, Kind::HttpClose] {
            let floor = match kind {
                Kind::Udp | Kind::UdpScrape(_) => Floor::udp(any),
                Kind::Http | Kind::HttpClose => Floor::http(any),
            };
            let report = measured(floor.unwrap(), kind, 0);
            assert_eq!((report.requests, report.replies.good), (200, 200), "{report}");
            assert_eq!(report.replies.compared, 200);
            let mismatched = if kind == Kind::UdpScrape(50) { 0 } else { 200 };
            assert_eq!(report.replies.mismatched, mismatched, "{report}");
            assert!(report.server.is_some() && report.latency.is_some());
            assert!(
                serde_json::to_string(&report)
                    .unwrap()
                    .contains("cpu_seconds_per_million")
            );
        }
    }

    #[test]
    fn a_server_that_answers_junk_with_more_than_it_was_is_found_out() {
        let floor = Floor::udp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let report = measured(floor, Kind::Udp, 4);
        assert_eq!(report.junk.sent, 800);
        assert!(report.junk.amplified > 0 && !report.is_clean(), "{report}");
    }
}
