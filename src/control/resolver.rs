//! Names to addresses, for trackers and for peers: by the system's resolver, on threads, each name once at a time.
//!
//! The system's resolver and not one of our own, because it goes by what the machine is set up for: `/etc/hosts`,
//! `nsswitch.conf`, search domains, the resolver that Docker puts into a container, and all of that as it is now. It does
//! not tell for how long an answer holds, so that a name is looked up again a minute after it was, if anybody asks, and
//! sooner for who has found nobody there: that is how a peer is found that has another address now. A look-up that fails is
//! not repeated for half a minute, but for who keeps to a pace of his own, and what was known before serves meanwhile.
//!
//! Trackers and peers have a resolver each: names of peers, which trackers may make up, hold up no tracker.
//!
//! Which addresses may be connected to is not decided here.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, Semaphore};

use super::blocking;
use super::dns::Dns;

/// Threads that wait for the system's resolver, at most: of each resolver, of which there are two.
const AT_ONCE: usize = 16;
/// Addresses of one name that are used.
const ADDRESSES_MAX: usize = 8;
/// How long an answer holds.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// How long after a failure there is no other try.
const FAILED_FOR: Duration = Duration::from_secs(30);
/// For how long what was known serves, when the name cannot be looked up any more.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// How long an answer is waited for. The thread may wait longer, and counts as one until it ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names that are remembered.
const NAMES_MAX: usize = 4096;

/// Blocks until the addresses of a name are known.
type LookUp = dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync;

/// See the module's page.
pub(super) struct Resolver {
    names: Mutex<HashMap<Box<str>, Arc<Name>>>,
    threads: Arc<Semaphore>,
    look_up: Arc<LookUp>,
}

/// One look-up of a name, under way or done.
#[derive(Default)]
struct Name {
    found: OnceCell<Found>,
    /// Of the last look-up that found something, and when that was.
    known: Option<(Arc<[IpAddr]>, Instant)>,
}

#[derive(Clone)]
struct Found {
    result: Result<Arc<[IpAddr]>, Arc<str>>,
    /// When it was answered; nothing if it was not.
    answered: Option<Instant>,
    /// When it ended, with an answer or without.
    ended: Instant,
    until: Instant,
    /// When the addresses were found.
    since: Instant,
}

impl Resolver {
    /// By the system's resolver.
    pub(super) fn new() -> Arc<Self> {
        Self::with(|name| {
            let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
            Ok(found.map(|addr| addr.ip()).collect())
        })
    }

    /// Through a network device or from an address, by name servers that are reached so: see [`super::dns`].
    pub(super) fn through(dns: Dns) -> Arc<Self> {
        Self::with(move |name| dns.look_up(name))
    }

    /// What could not be looked up may be now: the network is there again. What is being looked up goes on.
    pub(super) fn forget_failures(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|_, name| name.found.get().is_none_or(|found| found.answered.is_some()));
    }

    pub(super) fn with(look_up: impl Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            names: Mutex::default(),
            threads: Arc::new(Semaphore::new(AT_ONCE)),
            look_up: Arc::new(look_up),
        })
    }

    /// The addresses of a name, never none; an address is its own.
    ///
    /// # Errors
    /// Why they cannot be had, in the words of the system.
    pub(super) async fn addresses(&self, host: &str) -> Result<Arc<[IpAddr]>, Arc<str>> {
        self.addresses_since(host, FRESH_FOR).await
    }

    /// The same by an answer that is younger than `age`, for who has found nobody where an older one has led. After a
    /// failure that makes no difference.
    ///
    /// # Errors
    /// As for [`Self::addresses`].
    pub(super) async fn addresses_since(&self, host: &str, age: Duration) -> Result<Arc<[IpAddr]>, Arc<str>> {
        self.found(host, age, FAILED_FOR).await
    }

    /// The same for who asks at a pace of his own: a failure, too, holds no longer than `age`.
    ///
    /// # Errors
    /// As for [`Self::addresses`].
    pub(super) async fn addresses_anew(&self, host: &str, age: Duration) -> Result<Arc<[IpAddr]>, Arc<str>> {
        self.found(host, age, age).await
    }

    async fn found(&self, host: &str, age: Duration, failed_age: Duration) -> Result<Arc<[IpAddr]>, Arc<str>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Arc::new([ip]));
        }
        let name = self.name(host, (age, failed_age), Instant::now());
        let found = name.found.get_or_init(|| self.look_up(host, name.known.as_ref())).await;
        found.result.clone()
    }

    /// The look-up of a name that counts now: an answer younger than `age`, or a failure younger than `failed_age`.
    fn name(&self, host: &str, (age, failed_age): (Duration, Duration), now: Instant) -> Arc<Name> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |name: &Name| name.found.get().is_some_and(|found| found.until <= now);
        let is_too_old = |name: &Name| {
            let Some(found) = name.found.get() else {
                return false;
            };
            let (since, age) = match found.answered {
                Some(answered) => (answered, age),
                None => (found.ended, failed_age),
            };
            now.saturating_duration_since(since) >= age
        };
        if let Some(name) = names.get(host).filter(|name| !is_old(name) && !is_too_old(name)) {
            return Arc::clone(name);
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, name| !is_old(name));
        }
        let known = names.remove(host).and_then(|old| {
            let found = old.found.get()?;
            Some((found.result.clone().ok()?, found.since))
        });
        let name = Arc::new(Name {
            found: OnceCell::new(),
            known,
        });
        // Beyond that it is looked up all the same, and not remembered.
        if names.len() < NAMES_MAX {
            names.insert(host.into(), Arc::clone(&name));
        }
        name
    }

    async fn look_up(&self, host: &str, known: Option<&(Arc<[IpAddr]>, Instant)>) -> Found {
        let found = tokio::time::timeout(PATIENCE, self.on_thread(host)).await;
        let now = Instant::now();
        let answered = matches!(found, Ok(Ok(_))).then_some(now);
        let known = known.filter(|(_, since)| now < *since + KNOWN_FOR);
        let (result, fresh_for, since) = match found.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(found) => (Ok(found), FRESH_FOR, now),
            Err(error) => match known {
                Some((addresses, since)) => (Ok(Arc::clone(addresses)), FAILED_FOR, *since),
                None => (Err(error), FAILED_FOR, now),
            },
        };
        Found {
            result,
            answered,
            ended: now,
            until: now + fresh_for,
            since,
        }
    }

    async fn on_thread(&self, host: &str) -> Result<Arc<[IpAddr]>, Arc<str>> {
        let threads = Arc::clone(&self.threads);
        let permit = threads.acquire_owned().await.map_err(|_| "btd is stopping")?;
        let (host, look_up) = (host.to_owned(), Arc::clone(&self.look_up));
        let found = blocking::run("btd-resolve", move || {
            let _permit = permit;
            look_up(&host)
        });
        let found = match found.await {
            Ok(Some(found)) => found?,
            Ok(None) => return Err("the look-up has failed".into()),
            Err(error) => return Err(format!("no thread for it: {error}").into()),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in found {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        match addresses.is_empty() {
            true => Err("it has no address".into()),
            false => Ok(addresses.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    fn run(future: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(future);
    }

    /// Makes everything that is remembered too old, as if it had been found so long before.
    fn age(resolver: &Resolver, by: Duration) {
        let mut names = resolver.names.lock().unwrap();
        for name in names.values_mut() {
            let found = name.found.get().expect("nothing is under way").clone();
            let until = Instant::now();
            let old = Name {
                found: OnceCell::from(Found {
                    until,
                    since: found.since.checked_sub(by).expect("the machine is up for longer"),
                    ..found
                }),
                known: None,
            };
            *name = Arc::new(old);
        }
    }

    #[test]
    fn a_name_is_looked_up_once_for_all_who_ask_and_again_when_it_is_old() {
        run(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let resolver = Resolver::with(move |name| {
                assert_eq!(name, "client1");
                let last = u8::try_from(counted.fetch_add(1, Ordering::Relaxed)).unwrap();
                Ok(vec![IpAddr::from([10, 0, 0, last]); 2])
            });
            let (one, two) = tokio::join!(resolver.addresses("client1"), resolver.addresses("client1"));
            assert_eq!(one, two);
            assert_eq!(one.unwrap()[..], [IpAddr::from([10, 0, 0, 0])]);
            assert_eq!(
                resolver.addresses("client1").await.unwrap()[0],
                IpAddr::from([10, 0, 0, 0])
            );
            assert_eq!(count.load(Ordering::Relaxed), 1);
            let hour = Duration::from_secs(3600);
            resolver.addresses_since("client1", hour).await.unwrap();
            assert_eq!(count.load(Ordering::Relaxed), 1);
            age(&resolver, Duration::ZERO);
            assert_eq!(
                resolver.addresses("client1").await.unwrap()[0],
                IpAddr::from([10, 0, 0, 1])
            );
        });
    }

    #[test]
    fn a_name_is_looked_up_sooner_for_who_has_found_nobody_there_but_not_sooner_after_a_failure() {
        run(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let resolver = Resolver::with(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(vec![IpAddr::from([10, 0, 0, 0])]),
                1 => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
                _ => Err("no server".to_owned()),
            });
            let now = Duration::ZERO;
            for last in 0..2 {
                let found = resolver.addresses_since("client1", now).await.unwrap();
                assert_eq!(found[..], [IpAddr::from([10, 0, 0, last])]);
            }
            // What was known serves on, for as long as after any failure.
            for _ in 0..3 {
                let found = resolver.addresses_since("client1", now).await.unwrap();
                assert_eq!(found[..], [IpAddr::from([10, 0, 0, 1])]);
            }
            assert_eq!(count.load(Ordering::Relaxed), 3);
        });
    }

    #[test]
    fn a_failure_holds_no_longer_for_who_keeps_a_pace_of_his_own() {
        run(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let resolver = Resolver::with(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
                0 => Err("no server".to_owned()),
                _ => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
            });
            assert!(resolver.addresses("store").await.is_err());
            assert!(resolver.addresses_since("store", Duration::ZERO).await.is_err());
            assert!(
                resolver
                    .addresses_anew("store", Duration::from_secs(3600))
                    .await
                    .is_err()
            );
            assert!(resolver.addresses_anew("store", Duration::ZERO).await.is_ok());
            assert_eq!(count.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_failure_is_remembered_and_what_was_known_serves_meanwhile() {
        run(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let resolver = Resolver::with(move |name| match (name, counted.fetch_add(1, Ordering::Relaxed)) {
                ("known", 0) => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
                ("empty", _) => Ok(Vec::new()),
                _ => Err("not found".to_owned()),
            });
            assert!(resolver.addresses("known").await.is_ok());
            age(&resolver, Duration::ZERO);
            assert_eq!(
                resolver.addresses("known").await.unwrap()[0],
                IpAddr::from([10, 0, 0, 1])
            );
            // Not for ever, though it is asked for all the time.
            age(&resolver, KNOWN_FOR / 2);
            assert!(resolver.addresses("known").await.is_ok());
            age(&resolver, KNOWN_FOR / 2);
            assert_eq!(resolver.addresses("known").await, Err("not found".into()));
            assert_eq!(resolver.addresses("other").await, Err("not found".into()));
            assert_eq!(resolver.addresses("other").await, Err("not found".into()));
            assert_eq!(count.load(Ordering::Relaxed), 5);
            assert_eq!(resolver.addresses("empty").await, Err("it has no address".into()));
        });
    }

    #[test]
    fn failures_are_forgotten_when_the_network_is_back_and_what_was_found_is_not() {
        run(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let resolver = Resolver::with(move |name| match (name, counted.fetch_add(1, Ordering::Relaxed)) {
                ("lost", 1) => Err("No such device".to_owned()),
                _ => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
            });
            assert!(resolver.addresses("kept").await.is_ok());
            assert!(resolver.addresses("lost").await.is_err());
            assert!(resolver.addresses("lost").await.is_err());
            resolver.forget_failures();
            assert!(resolver.addresses("lost").await.is_ok() && resolver.addresses("kept").await.is_ok());
            assert_eq!(count.load(Ordering::Relaxed), 3);
        });
    }

    #[test]
    fn addresses_are_bounded_and_an_address_needs_no_look_up() {
        run(async {
            let resolver = Resolver::with(|_| Ok((0..100).map(|last| IpAddr::from([10, 0, 0, last])).collect()));
            assert_eq!(resolver.addresses("many").await.unwrap().len(), ADDRESSES_MAX);
            assert_eq!(
                resolver.addresses("::1").await.unwrap()[..],
                ["::1".parse::<IpAddr>().unwrap()]
            );
            assert_eq!(resolver.names.lock().unwrap().len(), 1);
        });
    }

    #[test]
    fn no_more_threads_wait_than_are_allowed() {
        run(async {
            let (release, gate) = mpsc::channel::<()>();
            let gate = Mutex::new(gate);
            let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
            let seen = Arc::clone(&running);
            let resolver = Resolver::with(move |_| {
                let now = seen.0.fetch_add(1, Ordering::SeqCst) + 1;
                seen.1.fetch_max(now, Ordering::SeqCst);
                gate.lock().unwrap().recv().unwrap();
                seen.0.fetch_sub(1, Ordering::SeqCst);
                Ok(vec![IpAddr::from([10, 0, 0, 1])])
            });
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..AT_ONCE + 10 {
                let resolver = Arc::clone(&resolver);
                tasks.spawn(async move { resolver.addresses(&format!("name{number}")).await.map(|_| ()) });
            }
            while running.0.load(Ordering::SeqCst) < AT_ONCE {
                tokio::task::yield_now().await;
            }
            for _ in 0..AT_ONCE + 10 {
                release.send(()).unwrap();
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap().unwrap();
            }
            assert_eq!(running.1.load(Ordering::SeqCst), AT_ONCE);
        });
    }
}
