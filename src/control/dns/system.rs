//! What a machine is set up to look names up by: `/etc/hosts` and `/etc/resolv.conf`, as far as they concern whoever asks
//! name servers by himself. Texts in, values out.

use std::net::IpAddr;
use std::time::Duration;

/// As many as the C library uses.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;

/// Of `/etc/resolv.conf`: resolv.conf(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) servers: Vec<IpAddr>,
    /// What a name is tried with behind it.
    pub(super) search: Vec<String>,
    /// With so many dots a name is tried as it is first.
    pub(super) dots: usize,
    /// For one try.
    pub(super) patience: Duration,
    /// Rounds of all servers.
    pub(super) tries: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            patience: Duration::from_secs(2),
            tries: 2,
        }
    }
}

impl Settings {
    /// What the file says. What it says of things that are not known here is passed over, as the C library does.
    pub(super) fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // One of a link-local address has its device behind it, which is bound to anyway.
                    let server: Option<IpAddr> = words.next().and_then(|word| word.split('%').next()?.parse().ok());
                    settings.servers.extend(server);
                    settings.servers.truncate(SERVERS_MAX);
                }
                // The last of them counts.
                Some("search" | "domain") => {
                    settings.search = words.take(SEARCH_MAX).map(str::to_owned).collect();
                }
                Some("options") => {
                    for (option, value) in words.filter_map(|word| word.split_once(':')) {
                        match (option, value.parse::<u8>()) {
                            ("ndots", Ok(dots)) => settings.dots = dots.min(15).into(),
                            ("timeout", Ok(seconds)) => {
                                settings.patience = Duration::from_secs(seconds.clamp(1, 5).into());
                            }
                            ("attempts", Ok(tries)) => settings.tries = tries.clamp(1, 5).into(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        settings
    }

    /// The names that one stands for, in the order in which they are tried.
    pub(super) fn names(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let with = |suffix: &String| format!("{name}.{}", suffix.trim_matches('.'));
        let mut names: Vec<String> = self.search.iter().filter(|suffix| *suffix != ".").map(with).collect();
        let is_whole = name.matches('.').count() >= self.dots;
        names.insert(if is_whole { 0 } else { names.len() }, name.to_owned());
        names
    }
}

/// The addresses of a name in `/etc/hosts`.
pub(super) fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if let Some(Ok(ip)) = words.next().map(str::parse)
            && words.any(|word| word.eq_ignore_ascii_case(name))
        {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_file_within_bounds() {
        let text = "# made by hand\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 ; a comment\nnameserver nonsense\n\
                    nameserver 10.0.0.2\nnameserver 10.0.0.3\nsearch a.example b.example\noptions ndots:2 timeout:99 attempts:0 rotate\n";
        let settings = Settings::parse(text);
        let servers: Vec<IpAddr> = ["10.0.0.1", "fe80::1", "10.0.0.2"]
            .map(|ip| ip.parse().unwrap())
            .to_vec();
        assert_eq!(settings.servers, servers);
        assert_eq!(
            (settings.dots, settings.patience, settings.tries),
            (2, Duration::from_secs(5), 1)
        );
        assert_eq!(settings.names("x"), ["x.a.example", "x.b.example", "x"]);
        assert_eq!(settings.names("x.y.z"), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
        assert_eq!(settings.names("x."), ["x."]);
        assert_eq!(Settings::parse(""), Settings::default());
    }

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let text = "127.0.0.1 localhost\n10.0.0.9 client1 Client1.internal # client2\nnonsense client1\n2001:db8::9\tclient1\n";
        let found = |name| in_hosts(text, name);
        assert_eq!(
            found("client1"),
            ["10.0.0.9".parse::<IpAddr>().unwrap(), "2001:db8::9".parse().unwrap()]
        );
        assert_eq!(found("CLIENT1.internal."), ["10.0.0.9".parse::<IpAddr>().unwrap()]);
        assert!(found("client2").is_empty() && found("10.0.0.9").is_empty());
    }
}
