//! The HTTP server of `GET /metrics` and `GET /health`.
//!
//! It answers one request per connection, from a bounded number of connections, each within a deadline, and only when
//! it is called by an address or by a name it was told of: a web page that points its own name at this machine (DNS
//! rebinding) gets nothing. There is no password, so it belongs on a private address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// A scraper or two, a health check, somebody with curl, and room for those that connect and say nothing.
const CONNECTIONS_MAX: usize = 256;
/// From accept to the last byte of the answer.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
/// For the request's line and headers.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// For the same, in bytes. hyper accepts no less.
const HEADER_LEN_MAX: usize = 8 << 10;
/// After accept failed (no file descriptor left, most likely): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What is served.
pub trait Source: Send + Sync + 'static {
    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Whether btd is working.
    ///
    /// # Errors
    /// What is not.
    fn health(&self) -> Result<(), String>;
}

/// Serves `source` until dropped. `hosts` are names the server may be called by.
pub async fn serve<S: Source>(listener: TcpListener, source: Arc<S>, hosts: Vec<String>) {
    let routes = Router::new()
        .route("/metrics", get(metrics::<S>))
        .route("/health", get(health::<S>))
        .with_state(source)
        .layer(middleware::from_fn_with_state(Arc::new(hosts), check_host));
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the metrics server cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::task::spawn_local(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .max_buf_size(HEADER_LEN_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // However it ends, it is the client's affair.
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
            drop(place);
        });
    }
}

async fn metrics<S: Source>(State(source): State<Arc<S>>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        source.metrics(),
    )
        .into_response()
}

async fn health<S: Source>(State(source): State<Arc<S>>) -> Response {
    match source.health() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn check_host(State(hosts): State<Arc<Vec<String>>>, request: Request, next: Next) -> Response {
    if is_called_rightly(request.headers(), &hosts) {
        return next.run(request).await;
    }
    let message = "this name is not one of btd's (hint: use its IP address, or add the name to hosts in [metrics])\n";
    (StatusCode::MISDIRECTED_REQUEST, message).into_response()
}

/// Whether there is exactly one Host, and it is an address, `localhost` or one of `hosts`, with or without a port.
fn is_called_rightly(headers: &HeaderMap, hosts: &[String]) -> bool {
    let mut values = headers.get_all(header::HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Ok(value) = value.to_str() else {
        return false;
    };
    if let Some(rest) = value.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_is_good && address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
    }
    let name = match value.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => value,
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|host| name.eq_ignore_ascii_case(host))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct Fixed(Result<(), String>);

    impl Source for Fixed {
        fn metrics(&self) -> String {
            "btd_build_info 1\n".to_owned()
        }

        fn health(&self) -> Result<(), String> {
            self.0.clone()
        }
    }

    /// Sends `request` to a server of `source` and gives the whole answer.
    fn ask(source: Fixed, request: &str) -> String {
        let request = request.to_owned();
        tokio_uring::start(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::task::spawn_local(serve(listener, Arc::new(source), vec!["seedbox".to_owned()]));
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            // A refused giant may end in a reset after the answer.
            let _ = stream.read_to_string(&mut answer).await;
            answer
        })
    }

    #[test]
    fn metrics_and_health_are_served_and_nothing_else() {
        let answer = ask(Fixed(Ok(())), "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9469\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("btd_build_info 1\n"),
            "{answer}"
        );
        let answer = ask(Fixed(Ok(())), "GET /health HTTP/1.1\r\nHost: seedbox\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
            "{answer}"
        );
        let answer = ask(
            Fixed(Err("shard 1 is stuck".to_owned())),
            "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        );
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("shard 1 is stuck\n"),
            "{answer}"
        );
        assert!(ask(Fixed(Ok(())), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(Fixed(Ok(())), "POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 405"));
    }

    #[test]
    fn a_request_under_a_strange_name_is_misdirected() {
        assert!(ask(Fixed(Ok(())), "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").starts_with("HTTP/1.1 421"));
        assert!(ask(Fixed(Ok(())), "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 421"));
    }

    #[test]
    fn a_giant_header_is_refused() {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
            "x".repeat(2 * HEADER_LEN_MAX)
        );
        assert!(!ask(Fixed(Ok(())), &request).starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn hosts_are_addresses_localhost_or_the_names_told() {
        let called = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            is_called_rightly(&headers, &["seedbox".to_owned()])
        };
        for host in [
            "127.0.0.1",
            "10.1.2.3:9469",
            "[::1]",
            "[::1]:9469",
            "LocalHost:1",
            "seedbox:9469",
        ] {
            assert!(called(host), "{host}");
        }
        for host in [
            "",
            "evil",
            "localhost.evil",
            "[::1",
            "[::1]x",
            "[1.2.3.4]",
            "::1",
            "localhost:http",
            "localhost:+1",
            "127.0.0.1.evil:80",
        ] {
            assert!(!called(host), "{host}");
        }
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("localhost"));
        two.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(!is_called_rightly(&two, &[]));
    }
}
