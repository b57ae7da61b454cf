//! As much HTTP as the tests speak: one request, one answer, connection closed. To trackers, to the clients' remote
//! controls, to btd's `/metrics`.

use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

pub struct Response {
    pub status: u16,
    /// The header lines, as they came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let matching = |line: &&str| {
            line.split_once(':')
                .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        self.head
            .lines()
            .find(matching)
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn get(addr: SocketAddr, path: &str) -> io::Result<Response> {
    request(addr, "GET", path, &[], b"")
}

pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    exchange(
        TcpStream::connect_timeout(&addr, Duration::from_secs(5))?,
        addr,
        method,
        path,
        headers,
        body,
    )
}

/// A GET that comes from the address `source` of this machine.
pub fn get_from(source: IpAddr, addr: SocketAddr, path: &str) -> io::Result<Response> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&addr.into(), Duration::from_secs(5))?;
    exchange(socket.into(), addr, "GET", path, &[], b"")
}

fn exchange(
    mut stream: TcpStream,
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // HTTP/1.0, so that no answer comes in chunks and every answer ends with the connection.
    let mut head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())?;

    let mut answer = Vec::new();
    // Some of them hold the connection open regardless: then the length says where the answer ends.
    let mut buf = [0; 16 << 10];
    loop {
        if let Some(response) = parse(&answer)
            && let Some(len) = response
                .header("content-length")
                .and_then(|len| len.parse::<usize>().ok())
            && response.body.len() >= len
        {
            return Ok(response);
        }
        match stream.read(&mut buf)? {
            0 => break,
            len => answer.extend_from_slice(&buf[..len]),
        }
    }
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let head_len = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..head_len]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response {
        status,
        head,
        body: answer[head_len + 4..].to_vec(),
    })
}
