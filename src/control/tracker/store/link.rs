//! A connection to the store: RESP3, so that replies and the messages of a channel come by one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper_rustls::ConfigBuilderExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, Value};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver};
use tokio_rustls::TlsConnector;

use super::guard::{Allowance, Exceeded, Guarded, TooMuch};
use super::keys::channel;
use crate::control::config::StoreUrl;
use crate::control::resolver::Resolver;
use crate::tracker::sharing::MESSAGE_LEN_MAX;

/// For a reply to a pipeline of commands.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);
/// Messages that wait to be taken in: 8 MiB at most.
const INBOX_MAX: usize = 256;
/// What is shown of a text of the store's, in characters.
const TEXT_MAX: usize = 200;

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    /// The name leads nowhere.
    #[error("its name is not found: {0}")]
    Name(Arc<str>),
    /// Nobody is there.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// TLS did not come about.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// What it says, or why it does not.
    #[error("{0}")]
    Redis(String),
    /// It does not answer.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It says more than can be borne.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// What it answers is nothing that it could.
    #[error("it answers {0} otherwise than Redis does")]
    Strange(&'static str),
}

impl From<redis::RedisError> for Gone {
    fn from(error: redis::RedisError) -> Self {
        if error.is_timeout() {
            return Self::Silent(REPLY_PATIENCE);
        }
        Self::Redis(error.to_string())
    }
}

/// A text of the store's on one line, and not a long one: it goes into the log.
pub(super) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(TEXT_MAX).map(shown).collect()
}

/// A connection, with what keeps it going.
pub(super) struct Link {
    connection: MultiplexedConnection,
    /// Reads and writes; it ends with the connection.
    pub(super) driver: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Messages of the channel.
    pub(super) inbox: Option<Receiver<Vec<u8>>>,
    /// How many there was no room for.
    pub(super) unheard: Arc<AtomicU64>,
    allowance: Allowance,
    channel: String,
    clock: Option<(u64, Instant)>,
}

impl Link {
    /// Connects and logs in.
    pub(super) async fn connect(url: &StoreUrl, resolver: &Resolver) -> Result<Self, Gone> {
        // Whatever is known of a name that has failed is not good enough.
        let young = Duration::from_secs(1);
        let addresses = resolver.addresses_since(&url.host, young).await.map_err(Gone::Name)?;
        let mut refused = None;
        for ip in addresses.iter() {
            match TcpStream::connect((*ip, url.port)).await {
                Ok(stream) => return Self::log_in(url, stream).await,
                Err(error) => refused = Some(error),
            }
        }
        Err(Gone::Connect(refused.unwrap_or(io::ErrorKind::NotFound.into())))
    }

    async fn log_in(url: &StoreUrl, stream: TcpStream) -> Result<Self, Gone> {
        // A batch is one write, and its first bytes need not wait for more.
        stream.set_nodelay(true).map_err(Gone::Connect)?;
        let allowance = Allowance::new();
        let stream = if url.tls {
            let stream = with_tls(&url.host, stream).await.map_err(Gone::Tls)?;
            Guarded::new(stream, allowance.clone())
        } else {
            Guarded::new(stream, allowance.clone())
        };
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(url.database.into())
            .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &url.password {
            login = login.set_password(password);
        }
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let unheard = Arc::new(AtomicU64::new(0));
        let (channel, of_channel) = (channel(url.database), channel(url.database));
        let count = Arc::clone(&unheard);
        let hear = move |push: PushInfo| -> Result<(), ()> {
            if let Some(message) = message_of(push, &of_channel)
                && sender.try_send(message).is_err()
            {
                count.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_push_sender(hear)
            .set_response_timeout(Some(REPLY_PATIENCE));
        let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
        Ok(Self {
            connection,
            driver: Some(Box::pin(driver)),
            inbox: Some(inbox),
            unheard,
            allowance,
            channel,
            clock: None,
        })
    }

    /// Hears the channel from now on.
    pub(super) async fn subscribe(&mut self) -> Result<(), Gone> {
        let channel = self.channel.clone();
        Ok(self.connection.subscribe(channel).await?)
    }

    /// What has ended the connection, if it was more than can be borne.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        self.allowance.exceeded()
    }

    /// The name of the channel.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Looks at the store's clock. Trackers write by this one, not by their own, which may differ.
    pub(super) async fn read_clock(&mut self) -> Result<(), Gone> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        let replies = self.ask(&pipeline).await?;
        let strange = Gone::Strange("TIME");
        let Some(Value::Array(parts)) = replies.first() else {
            return Err(strange);
        };
        let number = |value: &Value| -> Option<u64> {
            match value {
                Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
                _ => None,
            }
        };
        match parts.iter().map(number).collect::<Option<Vec<_>>>().as_deref() {
            // Up to the year 2100: what is computed with it stays far from any overflow.
            Some([seconds @ ..4_102_444_800, micros @ ..1_000_000]) => {
                self.clock = Some((seconds * 1000 + micros / 1000, Instant::now()));
                Ok(())
            }
            Some(_) | None => Err(strange),
        }
    }

    /// What the store's clock shows, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        let (then, since) = self.clock.expect("the clock is read before it is asked for");
        then + u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX / 4)
    }

    /// Sends commands together, and gives their replies: one for each, of which any may be an error.
    pub(super) async fn ask(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Gone> {
        self.allowance.renew();
        let count = pipeline.len();
        let replies = self.connection.send_packed_commands(pipeline, 0, count).await?;
        match replies.len() == count {
            true => Ok(replies),
            false => Err(Gone::Strange("a pipeline")),
        }
    }
}

/// The message in what was pushed, if it is one of our channel and none that is too long.
fn message_of(push: PushInfo, channel: &str) -> Option<Vec<u8>> {
    if push.kind != PushKind::Message {
        return None;
    }
    let mut data = push.data.into_iter();
    match (data.next(), data.next()) {
        (Some(Value::BulkString(of)), Some(Value::BulkString(mut message))) if of == channel.as_bytes() => {
            // One too long is still bad when it is a little too long: enough for it to be counted.
            message.truncate(MESSAGE_LEN_MAX + 1);
            message.shrink_to_fit();
            Some(message)
        }
        _ => None,
    }
}

/// TLS with the certificates of the system, always verified.
async fn with_tls(host: &str, stream: TcpStream) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions of rustls")
        .with_native_roots()?
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(kind: PushKind, data: &[&[u8]]) -> PushInfo {
        let data = data.iter().map(|part| Value::BulkString(part.to_vec())).collect();
        PushInfo { kind, data }
    }

    #[test]
    fn only_messages_of_the_channel_are_heard_and_none_takes_more_than_its_room() {
        let of = |push| message_of(push, "c");
        assert_eq!(of(push(PushKind::Message, &[b"c", b"hello"])), Some(b"hello".to_vec()));
        assert_eq!(of(push(PushKind::Message, &[b"d", b"hello"])), None);
        assert_eq!(of(push(PushKind::PMessage, &[b"c", b"c", b"hello"])), None);
        assert_eq!(of(push(PushKind::Message, &[b"c"])), None);
        let long = vec![0; 10 * MESSAGE_LEN_MAX];
        let heard = of(push(PushKind::Message, &[b"c", &long])).expect("it is counted");
        assert_eq!(
            (heard.len(), heard.capacity()),
            (MESSAGE_LEN_MAX + 1, MESSAGE_LEN_MAX + 1)
        );
    }

    #[test]
    fn what_the_store_says_is_shown_on_one_line() {
        assert_eq!(plain("ERR a\r\nb\u{1b}[31m"), "ERR a  b [31m");
        assert_eq!(plain(&"x".repeat(5000)).len(), TEXT_MAX);
    }
}
