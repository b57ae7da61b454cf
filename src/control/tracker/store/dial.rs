//! The way to the store: its name, then each of its addresses in turn until one of them serves.
//!
//! The name has as much time as names have, the addresses have theirs beside it: a slow name server takes nothing from them,
//! and one address that does not answer nothing from the next. What serves is decided by [`Link::open`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use tokio::sync::OnceCell;

use super::link::{Gone, Link};
use crate::control::blocking;
use crate::control::config::StoreUrl;
use crate::control::resolver::Resolver;

/// From the first attempt to have a connection to its first answers: of all addresses together.
const PATIENCE: Duration = Duration::from_secs(4);
/// The least of it that an address has.
const SHARE_LEAST: Duration = Duration::from_secs(1);
/// Whatever is known of a name that led to nobody is not good enough for longer.
const NAME_FOR: Duration = Duration::from_secs(1);

/// Where the store is, and how to get there.
pub(super) struct Dial {
    url: StoreUrl,
    resolver: Arc<Resolver>,
    /// What TLS believes, once it was needed.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Dial {
    pub(super) fn new(url: StoreUrl, resolver: Arc<Resolver>) -> Self {
        Self {
            url,
            resolver,
            tls: OnceCell::new(),
        }
    }

    /// Gets to the store, by the first of its addresses that serves.
    ///
    /// # Errors
    /// There is none: why not the last.
    pub(super) async fn connect(&self) -> Result<Link, Gone> {
        let addresses = self.resolver.addresses_anew(&self.url.host, NAME_FOR).await;
        let addresses = addresses.map_err(Gone::Name)?;
        let tls = match self.url.tls {
            true => Some(self.tls.get_or_try_init(read_roots).await.map_err(Gone::Tls)?),
            false => None,
        };
        let share = (PATIENCE / addresses.len().max(1) as u32).max(SHARE_LEAST); // There are eight at most.
        let mut why = Gone::Silent(share);
        for ip in addresses.iter() {
            let address = SocketAddr::new(*ip, self.url.port);
            let opening = Link::open(&self.url, address, tls.cloned());
            why = match tokio::time::timeout(share, opening).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(why)) => why,
                Err(_) => Gone::Silent(share),
            };
        }
        Err(why)
    }
}

/// Reads the certificates of the system, which are many files: on a thread, and once for as long as btd runs.
async fn read_roots() -> io::Result<Arc<ClientConfig>> {
    let read = || -> io::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows the versions of rustls")
            .with_native_roots()?
            .with_no_client_auth();
        Ok(Arc::new(config))
    };
    match blocking::run("btd-roots", read).await? {
        Some(read) => read,
        None => Err(io::Error::other("the certificates of the system cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::thread::JoinHandle;
    use std::time::Instant;

    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
    const BLACK_HOLE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(future)
    }

    /// Where a store listens, and at the same port of another address somebody who lets connect and says nothing.
    fn listeners() -> (TcpListener, TcpListener) {
        for _ in 0..100 {
            let store = TcpListener::bind((HERE, 0)).expect("a free port");
            let port = store.local_addr().expect("bound").port();
            if let Ok(black_hole) = TcpListener::bind((BLACK_HOLE, port)) {
                return (store, black_hole);
            }
        }
        panic!("no port that is free at two addresses");
    }

    /// Answers the commands of one connection until it ends: as much of Redis as it takes to be connected to. Nothing to
    /// `silent`.
    fn answer(stream: TcpStream, silent: &str) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(count) = lines.next() {
            let count: usize = count?.trim_start_matches('*').parse().expect("an array");
            let mut parts = Vec::new();
            for _ in 0..count {
                lines.next().transpose()?;
                parts.extend(lines.next().transpose()?);
            }
            let reply = match parts[0].as_str() {
                command if command == silent => continue,
                "HELLO" => "%1\r\n+server\r\n+redis\r\n".to_owned(),
                "SUBSCRIBE" => format!(">3\r\n$9\r\nsubscribe\r\n${}\r\n{}\r\n:1\r\n", parts[1].len(), parts[1]),
                "TIME" => "*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n".to_owned(),
                "PEXPIRE" => ":0\r\n".to_owned(),
                _ => "+OK\r\n".to_owned(),
            };
            out.write_all(reply.as_bytes())?;
        }
        Ok(())
    }

    fn serve(store: TcpListener, silent: &'static str) -> JoinHandle<()> {
        std::thread::spawn(move || {
            if let Ok((stream, _)) = store.accept() {
                let _ = answer(stream, silent); // Until the other side has enough.
            }
        })
    }

    fn dial(port: u16, resolver: Arc<Resolver>) -> Dial {
        let url = StoreUrl::parse(&format!("redis://store:{port}")).expect("an address");
        Dial::new(url, resolver)
    }

    #[test]
    fn an_address_that_says_nothing_does_not_hide_the_next() {
        let (store, black_hole) = listeners();
        let port = store.local_addr().expect("bound").port();
        let serving = serve(store, "");
        let resolver = Resolver::with(|name| {
            assert_eq!(name, "store");
            Ok(vec![IpAddr::from(BLACK_HOLE), IpAddr::from(HERE)])
        });
        let begun = Instant::now();
        run(async {
            let link = dial(port, resolver).connect().await.expect("the second serves");
            assert!(link.now_ms() >= 1_800_000_000_000);
        });
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        serving.join().expect("the store ends with its connection");
        drop(black_hole);
    }

    #[test]
    fn who_does_not_confirm_the_channel_or_tell_the_time_does_not_serve() {
        let silence = |silent| async move {
            let (store, _black_hole) = listeners();
            let port = store.local_addr().expect("bound").port();
            let serving = serve(store, silent);
            let resolver = Resolver::with(|_| Ok(vec![IpAddr::from(HERE)]));
            let why = dial(port, resolver).connect().await.err().expect("it does not serve");
            assert!(matches!(why, Gone::Silent(PATIENCE)), "{silent}: {why}");
            serving.join().expect("the store ends with its connection");
        };
        run(async { tokio::join!(silence("SUBSCRIBE"), silence("TIME"), silence("PEXPIRE")) });
    }

    #[test]
    fn a_name_that_is_not_found_is_looked_up_again_at_the_pace_of_the_attempts() {
        let looked_up = Arc::new((AtomicUsize::new(0), Mutex::new(Vec::new())));
        let count = Arc::clone(&looked_up);
        let resolver = Resolver::with(move |_| {
            count.0.fetch_add(1, Relaxed);
            count.1.lock().expect("nobody panics").push(Instant::now());
            Err("no such name".to_owned())
        });
        let dial = dial(1, resolver);
        run(async {
            let begun = Instant::now();
            while looked_up.0.load(Relaxed) < 2 {
                let why = dial.connect().await.err().expect("there is no such name");
                assert!(matches!(why, Gone::Name(_)), "{why}");
                assert!(
                    begun.elapsed() < 10 * NAME_FOR,
                    "looked up once in {:?}",
                    begun.elapsed()
                );
                tokio::time::sleep(NAME_FOR / 20).await;
            }
        });
        let times = looked_up.1.lock().expect("nobody panics");
        assert!(times[1] - times[0] >= NAME_FOR, "{times:?}");
    }
}
