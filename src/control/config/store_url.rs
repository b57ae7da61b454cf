//! The address of a tracker's shared store: `redis://[user[:password]@]host[:port][/database]`.
//!
//! `rediss` is the same over TLS; `valkey` and `valkeys` are other names of the two. What it says of a user is shown to
//! nobody, not even in an error.

use std::fmt;
use std::net::Ipv6Addr;

/// Where Redis listens, unless told otherwise.
const PORT: u16 = 6379;
/// Redis has 16 databases, and as many as its configuration says.
const DATABASE_MAX: u32 = 1 << 20;

/// Where a shared store is, and how to get in.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// Whether the connection is by TLS.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u32,
    /// Who to log in as, if not as the default user.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<String>,
}

/// Why a text is no such address. The text is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStoreUrl {
    /// It begins otherwise.
    #[error("not a redis:// or rediss:// address")]
    Scheme,
    /// There is no host, or none that can be.
    #[error("the host is neither a name nor an address")]
    Host,
    /// The port is none.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// The database is none.
    #[error("the database is no number from 0 to {DATABASE_MAX}")]
    Database,
    /// A % in user or password is not followed by two hexadecimal digits, or stands for what is not UTF-8.
    #[error("user or password has a % that is no escape")]
    Escape,
    /// There is a user without a password.
    #[error("a user needs a password: user:password@host")]
    Password,
    /// There are options behind it.
    #[error("nothing may follow the database, such as ? or #")]
    Options,
}

impl StoreUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadStoreUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadStoreUrl::Scheme)?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(BadStoreUrl::Scheme),
        };
        // A password may hold any of the signs below only as an escape, so that what comes first ends it.
        if rest.contains(['?', '#']) {
            return Err(BadStoreUrl::Options);
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => read_number(number)
                .filter(|number| *number <= DATABASE_MAX)
                .ok_or(BadStoreUrl::Database)?,
        };
        let (login, at) = match authority.rsplit_once('@') {
            Some((login, at)) => (Some(login), at),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (unescape(user)?, unescape(password)?),
            None => (None, None),
        };
        let (host, port) = split_port(at)?;
        let port = match port {
            None => PORT,
            Some(port) => read_number(port)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
                .ok_or(BadStoreUrl::Port)?,
        };
        // Nobody would be logged in without it, and nothing would say so.
        if user.is_some() && password.is_none() {
            return Err(BadStoreUrl::Password);
        }
        Ok(Self {
            tls,
            host,
            port,
            database,
            user,
            password,
        })
    }

    /// A text without the user and the password, which a server may repeat when it refuses them.
    pub fn without_secrets(&self, text: &str) -> String {
        let secrets = [&self.password, &self.user].into_iter().flatten();
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "..."))
    }
}

/// Digits and nothing else, such as a sign.
fn read_number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn split_port(at: &str) -> Result<(String, Option<&str>), BadStoreUrl> {
    if let Some(rest) = at.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or(BadStoreUrl::Host)?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| BadStoreUrl::Host)?;
        return match rest {
            "" => Ok((ip.to_string(), None)),
            rest => Ok((ip.to_string(), Some(rest.strip_prefix(':').ok_or(BadStoreUrl::Host)?))),
        };
    }
    let (host, port) = match at.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (at, None),
    };
    // Names of containers have underscores, which host names have not.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(is_name) {
        return Err(BadStoreUrl::Host);
    }
    Ok((host.to_owned(), port))
}

/// What a text with escapes stands for; nothing for an empty one.
fn unescape(text: &str) -> Result<Option<String>, BadStoreUrl> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let ([high, low], after) = rest.split_first_chunk().ok_or(BadStoreUrl::Escape)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadStoreUrl::Escape);
        bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| BadStoreUrl::Escape)?;
    Ok((!text.is_empty()).then_some(text))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        let Self {
            host, port, database, ..
        } = self;
        write!(f, "{scheme}://{open}{host}{close}:{port}/{database}")
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_read_with_its_defaults() {
        let url = StoreUrl::parse("redis://store").expect("an address");
        assert_eq!(
            (url.tls, url.host.as_str(), url.port, url.database),
            (false, "store", 6379, 0)
        );
        assert_eq!((url.user, url.password), (None, None));
        for (text, shown) in [
            ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
            ("rediss://a_b.c-d/", "rediss://a_b.c-d:6379/0"),
            ("valkeys://[::1]:7/12", "rediss://[::1]:7/12"),
            ("valkey://[fd00::1]", "redis://[fd00::1]:6379/0"),
        ] {
            assert_eq!(StoreUrl::parse(text).expect(text).to_string(), shown);
        }
    }

    #[test]
    fn user_and_password_are_read_and_never_shown() {
        let url = StoreUrl::parse("redis://btd:s%3Acr%40t%2F@store/1").expect("an address");
        assert_eq!(url.user.as_deref(), Some("btd"));
        assert_eq!(url.password.as_deref(), Some("s:cr@t/"));
        assert_eq!(format!("{url} {url:?}"), "redis://store:6379/1 redis://store:6379/1");
        let echoed = "unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'btd' 's:cr@t/'";
        assert_eq!(
            url.without_secrets(echoed),
            "unknown command 'HELLO', with args beginning with: '3' 'AUTH' '...' '...'"
        );
        let url = StoreUrl::parse("redis://:secret@store").expect("an address");
        assert_eq!((url.user, url.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason_alone() {
        for (text, reason) in [
            ("", BadStoreUrl::Scheme),
            ("store:6379", BadStoreUrl::Scheme),
            ("http://u:secret@store", BadStoreUrl::Scheme),
            ("REDIS://store", BadStoreUrl::Scheme),
            ("redis://", BadStoreUrl::Host),
            ("redis:///1", BadStoreUrl::Host),
            ("redis://a b", BadStoreUrl::Host),
            ("redis://[::1", BadStoreUrl::Host),
            ("redis://[::1]7", BadStoreUrl::Host),
            ("redis://[x]:7", BadStoreUrl::Host),
            ("redis://store:", BadStoreUrl::Port),
            ("redis://store:0", BadStoreUrl::Port),
            ("redis://store:+7", BadStoreUrl::Port),
            ("redis://store:65536", BadStoreUrl::Port),
            ("redis://store/x", BadStoreUrl::Database),
            ("redis://store/-1", BadStoreUrl::Database),
            ("redis://store/1/2", BadStoreUrl::Database),
            ("redis://store/99999999999", BadStoreUrl::Database),
            ("redis://secret@store", BadStoreUrl::Password),
            ("redis://secret:@store", BadStoreUrl::Password),
            ("redis://u:secret%@store", BadStoreUrl::Escape),
            ("redis://u:secret%g0@store", BadStoreUrl::Escape),
            ("redis://u:%ff@store", BadStoreUrl::Escape),
            ("redis://store/0?protocol=resp2", BadStoreUrl::Options),
            ("rediss://store/#insecure", BadStoreUrl::Options),
        ] {
            let error = StoreUrl::parse(text).expect_err(text);
            assert_eq!(error, reason, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "(redis://)?([a-z:]{0,3}@)?(\\[::[0-9a-f]\\]|[a-z%0-9:@/\\[\\]._é-]{0,40})(:[0-9])?",
        ) {
            if let Ok(url) = StoreUrl::parse(&text) {
                let shown = url.to_string();
                let again = StoreUrl::parse(&shown).expect("what is shown is an address");
                prop_assert_eq!(again.to_string(), shown);
            }
        }
    }
}
