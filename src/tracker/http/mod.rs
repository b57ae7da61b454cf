//! The HTTP side: requests out of what a connection has sent, and responses to them.
//!
//! Only `GET` without a body, with a header of at most 4 KiB. What is wrong is told in a bencoded `failure reason`, since
//! that is what clients show their users, and the connection is closed. What is malformed as a query is answered with
//! status 200 as trackers do (clients do not read the body of another), what is malformed as HTTP with its own status.

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Instant;

mod announce;
pub(super) mod query;
mod scrape;
mod write;

use super::counts::{Kind, Outcome};
use super::{Http, REQUEST_LEN_MAX, Tracker, Worker};
use crate::proto::InfoHash;
use announce::put_refusal;
use write::{Connection, Status, put_response};

/// How many header lines a request may have.
const HEADERS_MAX: usize = 64;

/// Buffers that are used again for each request.
#[derive(Default)]
pub(super) struct Scratch {
    /// The body of a response.
    body: Vec<u8>,
    /// IPv4 peers of a compact reply, or all peers as dictionaries.
    peers4: Vec<u8>,
    peers6: Vec<u8>,
    info_hashes: Vec<InfoHash>,
    /// The URL that a datagram carries, and a host name decoded.
    pub(super) url: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// How a request was answered. The body lies in the worker's scratch.
struct Answer {
    kind: Kind,
    outcome: Outcome,
    status: Status,
}

impl Tracker {
    /// See [`Tracker::on_http`].
    pub(super) fn serve_http(
        &self,
        worker: &mut Worker,
        from: SocketAddr,
        received: &[u8],
        now: Instant,
        reply: &mut Vec<u8>,
    ) -> Http {
        let header = &received[..received.len().min(REQUEST_LEN_MAX)];
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let too_large = (Status::HeaderTooLarge, "the request is too large");
        let (answer, consumed, connection) = match request.parse_with_uninit_headers(header, &mut headers) {
            Ok(httparse::Status::Complete(len)) => {
                let asked_for = connection(&request);
                let answer = self.answer(worker, from, &request, now);
                let closes = answer.status != Status::Ok || answer.outcome == Outcome::Bad;
                (answer, len, if closes { Connection::Close } else { asked_for })
            }
            Ok(httparse::Status::Partial) if received.len() < REQUEST_LEN_MAX => return Http::Incomplete,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                (not_http(worker, too_large), received.len(), Connection::Close)
            }
            Err(_) => {
                let wrong = (Status::BadRequest, "this is not HTTP/1.1");
                (not_http(worker, wrong), received.len(), Connection::Close)
            }
        };
        worker.counts.add(answer.kind, answer.outcome);
        put_response(reply, answer.status, connection, &worker.scratch.body);
        Http::Answered {
            consumed,
            keep_alive: connection != Connection::Close,
        }
    }

    /// Answers a request whose header is whole.
    fn answer(
        &self,
        worker: &mut Worker,
        from: SocketAddr,
        request: &httparse::Request<'_, '_>,
        now: Instant,
    ) -> Answer {
        let method = request.method.unwrap_or_default();
        if method != "GET" {
            return not_http(worker, (Status::MethodNotAllowed, "only GET is answered"));
        }
        if has_body(request) {
            return not_http(worker, (Status::BadRequest, "a request has no body"));
        }
        let target = request.path.unwrap_or_default().as_bytes();
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, &[][..]),
        };
        match path {
            b"/announce" => {
                let (outcome, status) = match self.http_announce(worker, from.ip(), query, now) {
                    Ok(()) => (Outcome::Answered, Status::Ok),
                    Err(refusal) => {
                        put_refusal(&mut worker.scratch.body, refusal.reason, refusal.retry_in_min);
                        (refusal.outcome, Status::Ok)
                    }
                };
                Answer {
                    kind: Kind::HttpAnnounce,
                    outcome,
                    status,
                }
            }
            b"/scrape" => {
                let (outcome, status) = match self.http_scrape(worker, query) {
                    Ok(()) => (Outcome::Answered, Status::Ok),
                    Err(wrong) => {
                        put_refusal(&mut worker.scratch.body, wrong, None);
                        (Outcome::Bad, Status::BadRequest)
                    }
                };
                Answer {
                    kind: Kind::HttpScrape,
                    outcome,
                    status,
                }
            }
            b"/stats" => {
                self.http_stats(worker, now);
                Answer {
                    kind: Kind::HttpStats,
                    outcome: Outcome::Answered,
                    status: Status::Ok,
                }
            }
            _ => not_http(worker, (Status::NotFound, "there is /announce, /scrape and /stats")),
        }
    }

    /// A page for people: what the tracker knows.
    fn http_stats(&self, worker: &mut Worker, now: Instant) {
        let totals = self.totals_of_late(worker, now);
        let peers = totals.peers_v4 + totals.peers_v6;
        let text = format!(
            "btd tracker, up for {} s, interval {} s\n\
             {}\n\
             {}: {}, {}; {} IPv4, {} IPv6; {} by name\n\
             {} KiB of {} KiB\n\
             {} not heard of again, {} made way for others\n",
            now.saturating_duration_since(self.start).as_secs(),
            self.settings.interval.as_secs(),
            counted(totals.swarms as u64, "torrent"),
            counted(peers as u64, "peer"),
            counted(totals.seeders as u64, "seeder"),
            counted((peers - totals.seeders) as u64, "leecher"),
            totals.peers_v4,
            totals.peers_v6,
            totals.named,
            totals.bytes >> 10,
            self.settings.memory_max >> 10,
            counted(totals.swept, "peer"),
            counted(totals.evicted, "torrent"),
        );
        worker.scratch.body.clear();
        worker.scratch.body.extend_from_slice(text.as_bytes());
    }
}

/// `1 seeder`, `2 seeders`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The answer to what is no request for anything here.
fn not_http(worker: &mut Worker, (status, reason): (Status, &str)) -> Answer {
    put_refusal(&mut worker.scratch.body, reason, None);
    Answer {
        kind: Kind::HttpOther,
        outcome: Outcome::Bad,
        status,
    }
}

/// Whether something follows the header.
fn has_body(request: &httparse::Request<'_, '_>) -> bool {
    request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding")
            || header.name.eq_ignore_ascii_case("content-length") && header.value.trim_ascii() != b"0"
    })
}

/// What the client wants to become of the connection: HTTP/1.1 keeps it unless told otherwise, HTTP/1.0 the other way round.
fn connection(request: &httparse::Request<'_, '_>) -> Connection {
    let says = |token: &[u8]| {
        let lines = request
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("connection"));
        let mut tokens = lines.flat_map(|line| line.value.split(|byte| *byte == b','));
        tokens.any(|said| said.trim_ascii().eq_ignore_ascii_case(token))
    };
    match request.version {
        _ if says(b"close") => Connection::Close,
        Some(1) => Connection::Open,
        _ if says(b"keep-alive") => Connection::KeptAlive,
        _ => Connection::Close,
    }
}

#[cfg(test)]
mod tests;
