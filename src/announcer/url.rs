//! A tracker's address: `http`, `https` or `udp`, a host, a port, and what is asked for there.
//!
//! Private trackers know their users by a key in the path or the query. Neither [`std::fmt::Display`] nor
//! [`std::fmt::Debug`] shows it, so that no log line can. Whether the host is one that may be connected to is decided
//! when its addresses are known ([`super::address`]).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// No tracker's address is longer.
pub const URL_LEN_MAX: usize = 2048;

/// How a tracker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// Datagrams (BEP 15).
    Udp,
}

impl Scheme {
    /// Its name in an address.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Udp => "udp",
        }
    }

    fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https => Some(443),
            Self::Udp => None,
        }
    }
}

/// Why a text is no tracker's address. None of these repeats the text, which may hold a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than any.
    #[error("an address of {0} bytes, at most {URL_LEN_MAX} accepted")]
    TooLong(usize),
    /// Another protocol, or none.
    #[error("not an http, https or udp address")]
    Scheme,
    /// A name and password before the host.
    #[error("a user name in front of the host")]
    User,
    /// No host, or one that cannot be.
    #[error("no valid host")]
    Host,
    /// No port where one is needed, or none that can be.
    #[error("no valid port")]
    Port,
    /// Line breaks and the like.
    #[error("control characters")]
    Control,
}

/// A tracker's address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackerUrl {
    scheme: Scheme,
    /// In lower case; an IPv6 address without its brackets.
    host: Box<str>,
    port: u16,
    /// Path and query, as they are sent. Begins with `/`.
    target: Box<str>,
}

impl TrackerUrl {
    /// Reads an address as it stands in a torrent file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() > URL_LEN_MAX {
            return Err(Error::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::Control);
        }
        let (scheme, rest) = text.split_once("://").ok_or(Error::Scheme)?;
        let schemes = [Scheme::Http, Scheme::Https, Scheme::Udp];
        let scheme = schemes
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(scheme))
            .ok_or(Error::Scheme)?;
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(Error::User);
        }
        let (host, port) = split_port(authority).ok_or(Error::Host)?;
        let host = read_host(host).ok_or(Error::Host)?;
        let port = match port {
            None | Some("") => scheme.default_port().ok_or(Error::Port)?,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(Error::Port)?
            }
            Some(_) => return Err(Error::Port),
        };
        Ok(Self {
            scheme,
            host,
            port,
            target: read_target(target).into(),
        })
    }

    /// Where a redirect from here leads to.
    ///
    /// # Errors
    /// It is no address, or leads away from HTTP.
    pub fn join(&self, location: &str) -> Result<Self, Error> {
        let location = location.trim();
        let has_scheme = location
            .split_once(':')
            .is_some_and(|(scheme, _)| !scheme.contains(['/', '?', '#']));
        let joined = if has_scheme {
            Self::parse(location)?
        } else if location.starts_with("//") {
            Self::parse(&format!("{}:{location}", self.scheme.name()))?
        } else {
            if location.len() > URL_LEN_MAX {
                return Err(Error::TooLong(location.len()));
            }
            if location.chars().any(char::is_control) {
                return Err(Error::Control);
            }
            let path = self.path();
            let target = match location.bytes().next() {
                Some(b'/') => location.to_owned(),
                Some(b'?') => format!("{path}{location}"),
                None | Some(b'#') => self.target.to_string(),
                Some(_) => format!("{}/{location}", &path[..path.rfind('/').unwrap_or(0)]),
            };
            Self {
                target: read_target(&target).into(),
                ..self.clone()
            }
        };
        match joined.scheme {
            Scheme::Udp => Err(Error::Scheme),
            Scheme::Http | Scheme::Https => Ok(joined),
        }
    }

    /// How it is spoken to.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name or an address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, which may hold a key.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Host and port as they stand in an address.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{}", self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// What is not shown of path and query: parts of the path, values of the query and what it has without a name, each as
    /// it is sent and as it is behind its escapes.
    pub(super) fn keys(&self) -> Vec<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let values = query
            .split('&')
            .map(|param| param.split_once('=').map_or(param, |(_, value)| value));
        let parts = self
            .path()
            .split('/')
            .filter(|part| !PLAIN.contains(part))
            .chain(values);
        let mut keys = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let plain = unescaped(part);
            if plain != part && !plain.is_empty() {
                keys.push(plain);
            }
            keys.push(part.to_owned());
        }
        keys
    }
}

/// Words of paths that are nobody's key.
const PLAIN: [&str; 6] = ["", "announce", "announce.php", "ann", "tracker", "tracker.php"];

/// Without path and query but for the usual words: `https://tracker.example/…/announce`.
impl fmt::Display for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = self.host.contains(':');
        let (open, close) = if v6 { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}", self.scheme.name(), self.host)?;
        if self.scheme.default_port() != Some(self.port) {
            write!(f, ":{}", self.port)?;
        }
        for word in self.path().split('/').skip(1) {
            write!(f, "/{}", if PLAIN.contains(&word) { word } else { "…" })?;
        }
        if self.target.contains('?') {
            f.write_str("?…")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits `host:port`, `host` or `[v6]:port`.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => (!port.contains(':')).then_some((host, Some(port))),
        None => Some((authority, None)),
    }
}

/// A name or an address in the form that is kept, if it can be one.
fn read_host(host: &str) -> Option<Box<str>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(ip.to_string().into());
    }
    is_name(host).then(|| host.to_ascii_lowercase().into())
}

/// Whether a text can be a name in the DNS: labels of letters, digits, hyphens and, as some have them, underscores.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(is_right)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253 && name.split('.').all(is_label)
}

/// Path and query as they are sent: what no request line can hold is escaped, what is escaped already is left.
fn read_target(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    let mut read = String::with_capacity(target.len() + 1);
    if !target.starts_with('/') {
        read.push('/');
    }
    for byte in target.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                read.push(char::from(byte));
            }
            _ => super::request::push_escaped(&mut read, byte),
        }
    }
    read
}

/// A part of a path or a query as its user has it. What is no UTF-8 behind its escapes nobody could have typed.
fn unescaped(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [byte, tail @ ..] = rest {
        let escaped = tail.first_chunk::<2>().filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    super::text::clean(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> TrackerUrl {
        TrackerUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_address_is_taken_apart() {
        let url = parse(" HTTPS://Tracker.Example:8443/a b/announce?x=1#y ");
        assert_eq!(
            (url.scheme(), url.host(), url.port(), url.target()),
            (Scheme::Https, "tracker.example", 8443, "/a%20b/announce?x=1")
        );
        let url = parse("http://[2001:DB8::1]");
        assert_eq!((url.host(), url.port(), url.target()), ("2001:db8::1", 80, "/"));
        assert_eq!(url.authority(), "[2001:db8::1]:80");
        assert_eq!(parse("udp://a.b:6969").target(), "/");
        assert_eq!(parse("http://a?x=%20é").target(), "/?x=%20%c3%a9");
    }

    #[test]
    fn what_is_no_address_of_a_tracker_is_refused() {
        for (text, error) in [
            ("", Error::Scheme),
            ("ftp://a/", Error::Scheme),
            ("wss://a/", Error::Scheme),
            ("http:/a", Error::Scheme),
            ("http://", Error::Host),
            ("http:///announce", Error::Host),
            ("http://a b/", Error::Host),
            ("http://-a/", Error::Host),
            ("http://::1/", Error::Host),
            ("http://[::1/", Error::Host),
            ("http://[::1]x/", Error::Host),
            ("http://user:secret@a/", Error::User),
            ("udp://a/", Error::Port),
            ("http://a:0/", Error::Port),
            ("http://a:65536/", Error::Port),
            ("http://a:+1/", Error::Port),
            ("http://a/\r\nHost: b", Error::Control),
        ] {
            assert_eq!(TrackerUrl::parse(text), Err(error), "{text:?}");
        }
        let long = format!("http://a/{}", "x".repeat(URL_LEN_MAX));
        assert!(matches!(TrackerUrl::parse(&long), Err(Error::TooLong(_))));
    }

    #[test]
    fn no_key_is_shown() {
        for (text, shown) in [
            (
                "https://t.example/0123456789abcdef/announce",
                "https://t.example/…/announce",
            ),
            (
                "http://t.example:2710/announce.php?passkey=0123",
                "http://t.example:2710/announce.php?…",
            ),
            ("udp://[::1]:6969/announce", "udp://[::1]:6969/announce"),
            ("https://t.example:443/", "https://t.example/"),
            ("https://t.example/announce/0123", "https://t.example/announce/…"),
        ] {
            let url = parse(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn a_redirect_leads_where_it_says() {
        let url = parse("https://a/x/announce?q=1");
        for (location, expected) in [
            ("http://b:81/y", "http://b:81/y"),
            ("//c/y", "https://c/y"),
            ("/y?z", "https://a/y?z"),
            ("y", "https://a/x/y"),
            ("?z", "https://a/x/announce?z"),
        ] {
            assert_eq!(url.join(location), Ok(parse(expected)), "{location}");
        }
        for location in [
            "udp://b:1/",
            "file:///etc/passwd",
            "javascript:x",
            "http://u@b/",
            "/\u{1}",
        ] {
            assert!(url.join(location).is_err(), "{location}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_can_stand_in_a_request(text in "(http|https|udp)://[ -~é\\[\\]:]{0,30}(:[0-9]{1,6})?[ -~é]{0,40}") {
            if let Ok(url) = TrackerUrl::parse(&text) {
                let is_right = |byte: u8| (b'!'..=b'~').contains(&byte);
                prop_assert!(url.target().starts_with('/') && url.target().bytes().all(is_right));
                prop_assert!(url.authority().bytes().all(is_right) && url.port() != 0);
                let again = format!("{}://{}{}", url.scheme().name(), url.authority(), url.target());
                prop_assert_eq!(TrackerUrl::parse(&again), Ok(url));
            }
        }

        #[test]
        fn a_redirect_never_panics(location in "(?s).{0,60}") {
            let _ = parse("https://a/x/announce").join(&location);
        }
    }
}
