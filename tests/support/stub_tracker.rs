//! A tracker of a test's own over HTTP, which says what the test has it say, and remembers what it was asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Answers until the test ends.
pub struct StubTracker {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl StubTracker {
    /// Starts one. `answer` is given path and query of each request, and writes the answer; false closes the connection.
    pub fn start(answer: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen as a tracker");
        let addr = listener.local_addr().expect("a tracker's address");
        let (requests, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (seen, count, answer) = (Arc::clone(&requests), Arc::clone(&connections), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self {
            addr,
            requests,
            connections,
        }
    }

    /// One that answers every announce with this dictionary.
    pub fn saying(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::start(move |_, stream| reply(stream, &body))
    }

    pub fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    /// What it was asked, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("nobody panicked").clone()
    }

    /// What it was asked with this event.
    pub fn with_event(&self, event: &str) -> Vec<String> {
        let event = format!("event={event}");
        let has = |request: &String| request.split(['?', '&']).any(|part| part == event);
        self.requests().into_iter().filter(has).collect()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A parameter of a query.
pub fn parameter<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let parts = request.split(['?', '&']);
    parts
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// A whole answer on a connection that stays open.
pub fn reply(stream: &mut TcpStream, body: &[u8]) -> bool {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &(impl Fn(&str, &mut TcpStream) -> bool + ?Sized)) {
    let mut bytes = Vec::new();
    let mut buf = [0; 4096];
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            seen.lock().expect("nobody panicked").push(target.clone());
            if !answer(&target, &mut stream) {
                return;
            }
        }
        match stream.read(&mut buf) {
            Ok(0) => return,
            Ok(len) => bytes.extend_from_slice(&buf[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
