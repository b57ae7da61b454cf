//! A tracker over HTTP: a thread for each connection, which is kept for as long as the client wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ledger::{Event, Ledger};
use crate::proto::InfoHash;

/// Of a request, in bytes.
const HEAD_LEN_MAX: usize = 16 << 10;

/// Answers until the process ends. `times` are the interval that clients are told, and how long an answer takes.
pub(super) fn serve(listener: TcpListener, tracker: usize, ledger: Arc<Ledger>, times: (Duration, Duration)) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            ledger.connected();
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || answer(stream, tracker, &ledger, times));
        }
    });
}

fn answer(mut stream: TcpStream, tracker: usize, ledger: &Ledger, (interval, delay): (Duration, Duration)) {
    let _ = stream.set_nodelay(true); // Slower without.
    let (mut bytes, mut buf) = (Vec::new(), [0; 4096]);
    let announced = format!(
        "d8:completei1e10:incompletei0e8:intervali{}e5:peers0:e",
        interval.as_secs()
    );
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let body = match read(&head) {
                Some(Request::Announce(info_hash, event)) => {
                    ledger.announced_to(tracker, info_hash, event, true, Instant::now());
                    announced.clone().into_bytes()
                }
                Some(Request::Scrape(hashes)) => {
                    ledger.scraped(tracker, true, Instant::now());
                    scraped(&hashes)
                }
                None => {
                    ledger.other();
                    b"d14:failure reason10:no requeste".to_vec()
                }
            };
            thread::sleep(delay);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                return;
            }
        }
        match stream.read(&mut buf) {
            Ok(len) if len > 0 && bytes.len() < HEAD_LEN_MAX => bytes.extend_from_slice(&buf[..len]),
            Ok(_) | Err(_) => return,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Announce(InfoHash, Event),
    Scrape(Vec<InfoHash>),
}

fn read(head: &[u8]) -> Option<Request> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let target = std::str::from_utf8(line)
        .ok()?
        .strip_prefix("GET ")?
        .split(' ')
        .next()?;
    let (path, query) = target.split_once('?')?;
    let parts = query.split('&').filter_map(|part| part.split_once('='));
    let hashes = parts.clone().filter(|(name, _)| *name == "info_hash");
    let hashes: Vec<InfoHash> = hashes.filter_map(|(_, value)| unescape(value)).collect();
    match path.rsplit('/').next()? {
        "scrape" => Some(Request::Scrape(hashes)),
        "announce" => {
            let stops = parts.clone().any(|part| part == ("event", "stopped"));
            let event = if stops { Event::Stops } else { Event::Comes };
            Some(Request::Announce(*hashes.first()?, event))
        }
        _ => None,
    }
}

fn unescape(text: &str) -> Option<InfoHash> {
    let mut bytes = text.bytes();
    let mut hash = [0; 20];
    for to in &mut hash {
        *to = match bytes.next()? {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        };
    }
    bytes.next().is_none().then_some(InfoHash(hash))
}

/// Nobody is anywhere.
fn scraped(hashes: &[InfoHash]) -> Vec<u8> {
    let mut body = b"d5:filesd".to_vec();
    let mut hashes = hashes.to_vec();
    hashes.sort_by_key(|info_hash| info_hash.0);
    for info_hash in hashes {
        body.extend_from_slice(b"20:");
        body.extend_from_slice(&info_hash.0);
        body.extend_from_slice(b"d8:completei1e10:downloadedi0e10:incompletei0ee");
    }
    body.extend_from_slice(b"ee");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announces_and_scrapes_are_read_and_what_is_neither_is_not() {
        let hash = InfoHash(*b"\x00\xffaaaaaaaaaaaaaaaaaa");
        let escaped = "%00%FFaaaaaaaaaaaaaaaaaa";
        let read = |target: &str| read(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(
            read(&format!("/announce?info_hash={escaped}&event=started")),
            Some(Request::Announce(hash, Event::Comes))
        );
        assert_eq!(
            read(&format!("/key/announce?a=b&info_hash={escaped}&event=stopped")),
            Some(Request::Announce(hash, Event::Stops))
        );
        assert_eq!(
            read(&format!("/scrape?info_hash={escaped}&info_hash={escaped}")),
            Some(Request::Scrape(vec![hash; 2]))
        );
        for target in [
            "/announce",
            "/announce?info_hash=a",
            "/announce?info_hash=%0",
            "/x?info_hash=a",
        ] {
            assert_eq!(read(target), None, "{target}");
        }
    }
}
