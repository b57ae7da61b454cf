//! Announces and scrapes over HTTP: one request, the redirects that it meets, and a body that is never larger than it may be.
//!
//! Connections are kept for the next announce. TLS is always verified, against the certificates of the system.

use std::collections::HashSet;
use std::error::Error as _;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;

use super::Sources;
use super::connect::Connector;
use crate::announcer::schedule::{IN_FLIGHT_MAX, TRIALS_MAX};
use crate::announcer::url::Scheme;
use crate::announcer::{
    Answer, Failure, Request, Retry, Rule, Swarm, TrackerUrl, answer, redacted, redacted_failure, scrape,
};
use crate::control::resolver::Resolver;
use crate::proto::InfoHash;

/// For the whole of an announce, redirects and all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS_MAX: u32 = 5;
/// Of an answer as it comes, in bytes.
const BODY_LEN_MAX: usize = 1 << 20;
/// Of an answer unpacked.
const UNPACKED_LEN_MAX: usize = 4 << 20;
/// Headers of an answer, in bytes.
const HEADERS_LEN_MAX: usize = 32 << 10;
/// Connections in all; each is a file descriptor.
pub(in crate::control) const SOCKETS_MAX: usize = IN_FLIGHT_MAX;
// Dead hosts leave some to those that answer.
const _: () = assert!(SOCKETS_MAX >= TRIALS_MAX + 32);
/// How long a connection is kept that nobody uses, and how many of one host.
const IDLE_FOR: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 6;
/// The same at the end of a run, when each host has its share of all connections, and needs it until the end.
const PARTING_IDLE_MAX: usize = SOCKETS_MAX;
/// Trackers that are remembered as telling of no names.
const NAMELESS_MAX: usize = 4096;

/// Asks trackers over HTTP.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<Connector>, Empty<Bytes>>,
    connector: HttpsConnector<Connector>,
    /// Host and port of trackers that refuse to be asked for the form of peers that has room for names.
    nameless: Arc<Mutex<HashSet<Box<str>>>>,
}

impl Http {
    pub(super) fn new(resolver: &Arc<Resolver>, rule: Rule, sources: &Sources) -> Self {
        let connector = Connector {
            resolver: Arc::clone(resolver),
            rule,
            sources: sources.clone(),
            sockets: Arc::new(Semaphore::new(SOCKETS_MAX)),
        };
        let connector = with_tls().https_or_http().enable_http1().wrap_connector(connector);
        Self {
            client: client(&connector, IDLE_MAX),
            connector,
            nameless: Arc::default(),
        }
    }

    /// From now on no connection is closed while there is more to be said over it. Those that are open end with their requests.
    pub(super) fn part(&mut self) {
        self.client = client(&self.connector, PARTING_IDLE_MAX);
    }

    /// Connections that are kept are none to be used any more: the network is another one. Requests over them end by
    /// themselves.
    pub(super) fn renew(&mut self) {
        self.client = client(&self.connector, IDLE_MAX);
    }

    /// Announces to a tracker.
    pub(super) async fn announce(&self, url: &TrackerUrl, request: &Request) -> Result<Answer, Failure> {
        in_time(self.ask(url, request)).await
    }

    /// Scrapes torrents of a tracker.
    pub(super) async fn scrape(&self, url: &TrackerUrl, hashes: &[InfoHash]) -> Result<Vec<Option<Swarm>>, Failure> {
        let nowhere = || Failure::Malformed("it has no address for scrapes".into());
        let target = scrape::target(url.target(), hashes).ok_or_else(nowhere)?;
        let mut met = Vec::new();
        let scraped = self.follow_met(url, target, &mut met, |body| scrape::parse(body, hashes));
        let scraped = in_time(scraped).await;
        scraped.map_err(|failure| met.iter().fold(failure, |failure, at| redacted_failure(at, failure)))
    }

    /// Where names are used, asks for them first; of a tracker that takes offence at it, what it has.
    async fn ask(&self, url: &TrackerUrl, request: &Request) -> Result<Answer, Failure> {
        let authority = url.authority();
        let nameless = || self.nameless.lock().unwrap_or_else(PoisonError::into_inner);
        let tries_names = request.hostname.is_some() && !nameless().contains(authority.as_str());
        if tries_names {
            let answer = self.follow(url, request.target_for_names(url.target())).await;
            if !answer.as_ref().is_err_and(may_be_for_the_form) {
                return answer;
            }
        }
        let answer = self.follow(url, request.target(url.target())).await;
        if tries_names && answer.is_ok() {
            let mut nameless = nameless();
            if nameless.len() < NAMELESS_MAX {
                nameless.insert(authority.into());
            }
        }
        answer
    }

    /// Asks, and goes where redirects lead to; their keys are in no text that comes of it.
    async fn follow(&self, url: &TrackerUrl, target: String) -> Result<Answer, Failure> {
        let mut met = Vec::new();
        let result = self.follow_met(url, target, &mut met, answer::parse).await;
        met.iter().fold(result, |result, at| redacted(at, result))
    }

    /// The same, what comes being read by `parse`; where redirects have led to is in `met`.
    async fn follow_met<T>(
        &self,
        url: &TrackerUrl,
        mut target: String,
        met: &mut Vec<TrackerUrl>,
        parse: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.get(&at, &target).await?;
            let status = response.status();
            if !is_redirect(status) {
                return read(response, parse).await;
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            let location = location.ok_or_else(|| Failure::Malformed("a redirect that leads nowhere".into()))?;
            // One that goes away from TLS would show the key to everybody on the way.
            let next = at
                .join(location)
                .map_err(|error| Failure::Malformed(format!("a redirect to {error}").into()))?;
            if at.scheme() == Scheme::Https && next.scheme() != Scheme::Https {
                return Err(Failure::Forbidden("a redirect from https to http".into()));
            }
            target = next.target().to_owned();
            met.push(next.clone());
            at = next;
        }
        Err(Failure::Redirects(REDIRECTS_MAX))
    }

    async fn get(&self, url: &TrackerUrl, target: &str) -> Result<Response<Incoming>, Failure> {
        let uri = Uri::builder()
            .scheme(url.scheme().name())
            .authority(url.authority())
            .path_and_query(target)
            .build()
            .map_err(|error| Failure::Malformed(format!("its address cannot be asked for: {error}").into()))?;
        let request = hyper::Request::builder()
            .method(Method::GET)
            .uri(uri)
            .header(header::USER_AGENT, concat!("btd/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT_ENCODING, "gzip")
            .header(header::ACCEPT, "*/*")
            .body(Empty::new());
        let request = request.map_err(|error| Failure::Malformed(error.to_string().into()))?;
        self.client.request(request).await.map_err(|error| failure_of(&error))
    }
}

/// What comes of a request, if it comes before anybody's patience ends.
async fn in_time<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let in_vain = |_| Failure::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()).into());
    tokio::time::timeout(PATIENCE, asked).await.map_err(in_vain)?
}

/// A client that keeps so many idle connections of each host.
fn client(connector: &HttpsConnector<Connector>, idle_max: usize) -> Client<HttpsConnector<Connector>, Empty<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_FOR)
        .pool_max_idle_per_host(idle_max)
        .http1_max_buf_size(HEADERS_LEN_MAX)
        .http1_max_headers(64)
        .build(connector.clone())
}

/// TLS with the certificates of the system. Without any, no tracker over TLS is trusted.
fn with_tls() -> HttpsConnectorBuilder<hyper_rustls::builderstates::WantsSchemes> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    match HttpsConnectorBuilder::new().with_provider_and_native_roots(Arc::clone(&provider)) {
        Ok(builder) => builder,
        Err(error) => {
            tracing::warn!(
                "trackers over https cannot be verified and are not asked: {error} (hint: install the package ca-certificates)"
            );
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring knows the versions of rustls")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        }
    }
}

/// What is behind an error of the client: the innermost of those that say something.
fn failure_of(error: &hyper_util::client::legacy::Error) -> Failure {
    let mut at = error.source();
    let mut last = error.to_string();
    while let Some(cause) = at {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.clone();
        }
        if let Some(error) = tls_error(cause) {
            return Failure::Unreachable(format!("TLS: {error}").into());
        }
        last = match cause.downcast_ref::<std::io::Error>() {
            Some(error) => super::connect::plain(error),
            None => cause.to_string(),
        };
        at = cause.source();
    }
    Failure::Unreachable(format!("no HTTP answer: {last}").into())
}

/// What TLS says, however deep in errors of the system it is: their sources leave out what is in them.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
        tls_error(inner)
    })
}

/// Whether a tracker may have refused the form that peers were asked for in, and not the announce. opentracker does so by
/// status 400; others say why.
fn may_be_for_the_form(failure: &Failure) -> bool {
    match failure {
        Failure::Status { code, .. } => *code == 400,
        Failure::Refused { reason, .. } => reason.to_ascii_lowercase().contains("compact"),
        _ => false,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Reads an answer.
async fn read<T>(response: Response<Incoming>, parse: impl Fn(&[u8]) -> Result<T, Failure>) -> Result<T, Failure> {
    let status = response.status();
    let retry = read_retry(response.headers());
    let is_packed = match response
        .headers()
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes())
    {
        None | Some(b"identity" | b"") => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => return Err(Failure::Malformed("packed as nobody asked for".into())),
    };
    let body = collect(response.into_body()).await;
    let answer = body.and_then(|body| match is_packed {
        true => parse(&unpack(&body)?),
        false => parse(&body),
    });
    match answer {
        // There are trackers that say why with another status.
        answer if status == StatusCode::OK => answer,
        Err(refused @ Failure::Refused { .. }) => Err(refused),
        Ok(_) | Err(_) => Err(Failure::Status {
            code: status.as_u16(),
            retry,
        }),
    }
}

/// `Retry-After` in seconds; the other form, a date, is not worth a calendar.
fn read_retry(headers: &HeaderMap) -> Retry {
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(Retry::Unsaid, |seconds| Retry::After(Duration::from_secs(seconds)))
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Unreachable(format!("the answer broke off: {error}").into()))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > BODY_LEN_MAX {
                return Err(Failure::TooLong(BODY_LEN_MAX));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(packed).take(UNPACKED_LEN_MAX as u64 + 1);
    let read = reader.read_to_end(&mut bytes);
    if bytes.len() > UNPACKED_LEN_MAX {
        return Err(Failure::TooLong(UNPACKED_LEN_MAX));
    }
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::Malformed(format!("broken gzip: {error}").into())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked_as_far_as_it_may_go() {
        assert_eq!(unpack(&packed(b"d8:intervali1ee")), Ok(b"d8:intervali1ee".to_vec()));
        let bomb = packed(&vec![0; 100 << 20]);
        assert!(bomb.len() < BODY_LEN_MAX);
        assert_eq!(unpack(&bomb), Err(Failure::TooLong(UNPACKED_LEN_MAX)));
        assert!(matches!(unpack(b"d8:intervali1ee"), Err(Failure::Malformed(_))));
        let torn = packed(&[7; 1000]);
        assert!(matches!(unpack(&torn[..torn.len() - 4]), Err(Failure::Malformed(_))));
    }

    #[test]
    fn a_tracker_may_say_in_seconds_when_to_come_back() {
        let mut headers = HeaderMap::new();
        assert_eq!(read_retry(&headers), Retry::Unsaid);
        headers.insert(header::RETRY_AFTER, "120".parse().unwrap());
        assert_eq!(read_retry(&headers), Retry::After(Duration::from_secs(120)));
        headers.insert(header::RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(read_retry(&headers), Retry::Unsaid);
    }
}
