//! A connection to the store: RESP3, so that replies and the messages of a channel come by one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, ServerError, Value,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver};
use tokio_rustls::TlsConnector;

use super::guard::{Allowance, Exceeded, Guarded, TooMuch};
use super::keys::{channel, probe};
use crate::control::config::StoreUrl;
use crate::tracker::sharing::MESSAGE_LEN_MAX;

/// For a reply to a pipeline of commands.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);
/// Messages that wait to be taken in: 8 MiB at most.
const INBOX_MAX: usize = 256;
/// What is shown of a text of the store's, in characters.
const TEXT_MAX: usize = 200;
/// The codes of refusals that are not about a command: it loads, it follows another and may not be written to, it follows one
/// that is away, it runs somebody's script, we are nobody to it. A store that answers so is as good as none.
const REFUSES_ALL: [&str; 5] = ["LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOAUTH"];

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
    /// It is there, and of no use.
    #[error("it refuses everything: {0}")]
    Refuses(String),
    /// There is no more of it.
    #[error("the connection has ended")]
    Ended,
    /// It was not the store: btd stops.
    #[error("btd is stopping")]
    Stopping,
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
    /// Connects to one of the store's addresses, logs in, and sees to it that everything works which is needed: the channel
    /// is heard from then on, the clock is known, and the store may be written to.
    pub(super) async fn open(
        url: &StoreUrl,
        address: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, Gone> {
        let stream = TcpStream::connect(address).await.map_err(Gone::Connect)?;
        let mut link = Self::log_in(url, stream, tls).await?;
        let mut driver = link.driver.take().expect("a connection that is new");
        let begun = tokio::select! {
            begun = link.begin() => begun,
            () = &mut driver => Err(Gone::Ended),
        };
        link.driver = Some(driver);
        match link.exceeded() {
            Some(Exceeded { what, .. }) => Err(what.into()),
            None => begun.map(|()| link),
        }
    }

    async fn begin(&mut self) -> Result<(), Gone> {
        let channel = self.channel.clone();
        self.connection.subscribe(channel).await?;
        self.read_clock().await?;
        self.check().await
    }

    async fn log_in(url: &StoreUrl, stream: TcpStream, tls: Option<Arc<ClientConfig>>) -> Result<Self, Gone> {
        // A batch is one write, and its first bytes need not wait for more.
        stream.set_nodelay(true).map_err(Gone::Connect)?;
        let allowance = Allowance::new();
        let stream = match tls {
            Some(tls) => {
                let stream = with_tls(&url.host, stream, tls).await.map_err(Gone::Tls)?;
                Guarded::new(stream, allowance.clone())
            }
            None => Guarded::new(stream, allowance.clone()),
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

    /// What has ended the connection, if it was more than can be borne.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        self.allowance.exceeded()
    }

    /// The name of the channel.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Looks at the store's clock. Trackers write by this one, not by their own, which may differ.
    async fn read_clock(&mut self) -> Result<(), Gone> {
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

    /// Looks whether the store is there and may be written to.
    pub(super) async fn check(&mut self) -> Result<(), Gone> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(probe());
        self.ask(&pipeline).await.map(|_| ())
    }

    /// What the store's clock shows, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        let (then, since) = self.clock.expect("the clock is read before a connection is had");
        then + u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX / 4)
    }

    /// Sends commands together, and gives their replies: one for each, of which any may be an error that is about its command.
    pub(super) async fn ask(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Gone> {
        self.allowance.renew();
        let count = pipeline.len();
        let replies = self.connection.send_packed_commands(pipeline, 0, count).await?;
        if let Some(refusal) = replies.iter().find_map(refusal_of_all) {
            return Err(Gone::Refuses(refusal));
        }
        match replies.len() == count {
            true => Ok(replies),
            false => Err(Gone::Strange("a pipeline")),
        }
    }
}

/// What a refusal says.
pub(super) fn text_of(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}

/// What a reply says if it means that there will be no better one to anything.
fn refusal_of_all(reply: &Value) -> Option<String> {
    match reply {
        Value::ServerError(error) if REFUSES_ALL.contains(&error.code()) => Some(text_of(error)),
        _ => None,
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

/// TLS, always verified.
async fn with_tls(
    host: &str,
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(config).connect(name, stream).await
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
    fn a_refusal_of_everything_is_told_from_that_of_a_command() {
        let reply = |text: &str| redis::parse_redis_value(text.as_bytes()).expect("a reply");
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "NOAUTH Authentication required.",
            "BUSY Redis is busy running a script.",
        ] {
            let refusal = refusal_of_all(&reply(&format!("-{text}\r\n")));
            assert_eq!(refusal.as_deref(), Some(text));
        }
        for text in [
            "-WRONGTYPE Operation against a key\r\n",
            "-ERR unknown command\r\n",
            "-OOM command not allowed\r\n",
            "$8\r\nREADONLY\r\n",
            ":1\r\n",
        ] {
            assert_eq!(refusal_of_all(&reply(text)), None, "{text}");
        }
    }

    #[test]
    fn what_the_store_says_is_shown_on_one_line() {
        assert_eq!(plain("ERR a\r\nb\u{1b}[31m"), "ERR a  b [31m");
        assert_eq!(plain(&"x".repeat(5000)).len(), TEXT_MAX);
    }
}
