//! Takes values out of a section by key, and remembers which keys it was asked for.
//!
//! A key is therefore named once, where it is read; whatever nobody asked for is unknown. A value that cannot be used
//! is reported and replaced by its default, so that one run tells the operator everything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Node, Table, Value};
use super::problem::{At, Problem, did_you_mean};
use super::store_url::StoreUrl;
use super::variables::{REPEATED_AS_VARIABLE, places_of};
use super::{schedule, units};
use crate::announcer::TrackerUrl;
use crate::announcer::url::is_name;
use crate::control::device;
use crate::tracker::HostnameRule;

/// Of what people call a folder.
const LABEL_LEN_MAX: usize = 64;

/// What all sections of one configuration share.
pub(super) struct Context<'a> {
    /// Relative paths start here.
    pub(super) base: &'a Path,
    pub(super) problems: RefCell<Vec<Problem>>,
    /// Whether files that the configuration names are looked at.
    pub(super) looks: bool,
    /// Texts that lack their quotes, by their lines.
    pub(super) unquoted: BTreeMap<usize, Vec<String>>,
    /// Those of these lines of which that was said with their keys.
    pub(super) told_unquoted: RefCell<BTreeSet<usize>>,
    /// Every key that was asked for, as `section.key`: what the documentation must cover.
    pub(super) keys: RefCell<Vec<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(base: &'a Path, problems: Vec<Problem>) -> Self {
        Self {
            base,
            looks: false,
            unquoted: BTreeMap::new(),
            told_unquoted: RefCell::default(),
            problems: RefCell::new(problems),
            keys: RefCell::default(),
        }
    }

    pub(super) fn report(&self, at: At, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            at,
            message: without_secrets(&message.into()),
        });
    }

    /// Whether a text lacks its quotes.
    fn is_unquoted(&self, node: &Node) -> bool {
        match (&node.at, &node.value) {
            (At::Line(line), Value::Text(text)) => self.unquoted.get(line).is_some_and(|texts| texts.contains(text)),
            _ => false,
        }
    }

    /// What of a value lacks its quotes, if anything does.
    fn unquoted_in(&self, node: &Node) -> Option<Unquoted> {
        let shown = |node: &Node| node.value.describe();
        let (nodes, meant) = match &node.value {
            Value::Text(_) => (std::slice::from_ref(node), shown(node)),
            Value::Array(items) => {
                let items_shown: Vec<String> = items.iter().map(shown).collect();
                (items.as_slice(), format!("[{}]", items_shown.join(", ")))
            }
            _ => return None,
        };
        let unquoted = nodes.iter().filter(|node| self.is_unquoted(node));
        let mut found: Option<Unquoted> = None;
        for node in unquoted {
            let at = node.at.clone();
            if let At::Line(line) = at {
                self.told_unquoted.borrow_mut().insert(line);
            }
            let texts = Vec::new();
            let found = found.get_or_insert_with(|| Unquoted {
                at,
                meant: meant.clone(),
                texts,
            });
            found.texts.push(shown(node));
        }
        found
    }
}

/// What of a value lacks its quotes.
struct Unquoted {
    /// The first of it.
    at: At,
    /// The value with them.
    meant: String,
    /// Each of the texts, with them.
    texts: Vec<String>,
}

/// One section being read.
pub(super) struct Section<'a> {
    context: &'a Context<'a>,
    /// `limits` or `watch`; empty for the top level.
    name: &'static str,
    /// Whether there may be several of this name.
    is_one_of_many: bool,
    /// Where the section begins.
    at: At,
    table: Table,
    known: Vec<&'static str>,
    /// Those that are sections which may be repeated.
    repeated: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(context: &'a Context<'a>, name: &'static str, at: At, table: Table) -> Self {
        Self {
            context,
            name,
            is_one_of_many: false,
            at,
            table,
            known: Vec::new(),
            repeated: Vec::new(),
        }
    }

    /// As it stands in the file: `[limits]`, `[[watch]]`.
    fn head(&self) -> String {
        head(self.name, self.is_one_of_many)
    }

    /// A named section of this one; an absent one reads as empty.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a> {
        self.optional_section(name)
            .unwrap_or_else(|| Section::new(self.context, name, At::File, Table::default()))
    }

    /// A named section of this one, where its absence means something.
    pub(super) fn optional_section(&mut self, name: &'static str) -> Option<Section<'a>> {
        self.known.push(name);
        let (at, node) = self.table.entries.remove(name)?;
        match node.value {
            Value::Table(table) => Some(Section::new(self.context, name, at, table)),
            other => {
                self.context.report(
                    at,
                    format!("{name}: expected a section [{name}], found {}", other.describe()),
                );
                None
            }
        }
    }

    /// A section that may be repeated: `[[watch]]`.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Section<'a>> {
        self.repeated.push(name);
        self.inner_sections(name, name)
    }

    /// The same below a section: `schedule` of `[limits]` is `limits.schedule` as a whole.
    pub(super) fn inner_sections(&mut self, key: &'static str, name: &'static str) -> Vec<Section<'a>> {
        self.known.push(key);
        let Some((at, node)) = self.table.entries.remove(key) else {
            return Vec::new();
        };
        let Value::Array(nodes) = node.value else {
            let message = match &at {
                At::Variable(_) if key == name => {
                    format!("{name}: a repeated section is set whole: {REPEATED_AS_VARIABLE}")
                }
                _ => format!("{name}: expected sections [[{name}]], found {}", node.value.describe()),
            };
            self.context.report(at, message);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for node in nodes {
            match node.value {
                Value::Table(table) => sections.push(Section {
                    is_one_of_many: true,
                    ..Section::new(self.context, name, node.at, table)
                }),
                other => self.context.report(
                    node.at,
                    format!("{name}: expected a section [[{name}]], found {}", other.describe()),
                ),
            }
        }
        sections
    }

    pub(super) fn bool(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key, default, |node| match node.value {
            Value::Bool(value) => Ok(value),
            other => Err(format!("expected true or false, found {}", other.describe())),
        })
    }

    pub(super) fn count(&mut self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        self.take(key, default, |node| {
            let number = match node.value {
                Value::Integer(number) => usize::try_from(number).ok(),
                _ => None,
            };
            number.filter(|number| range.contains(number)).ok_or_else(|| {
                let (min, max) = (range.start(), range.end());
                format!(
                    "expected a whole number from {min} to {max}, found {}",
                    node.value.describe()
                )
            })
        })
    }

    /// A size with its unit, where a bare number is a count of bytes, or "off".
    pub(super) fn size_or_off(
        &mut self,
        key: &'static str,
        default: Option<u64>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        self.take(key, default, |node| {
            let bytes = match &node.value {
                Value::Text(text) if text == "off" => return Ok(None),
                Value::Text(text) => units::size(text),
                Value::Integer(number) => u64::try_from(*number).ok(),
                _ => None,
            };
            let bytes = bytes.ok_or_else(|| {
                format!(
                    "expected a size such as \"512 MiB\", or \"off\", found {}",
                    node.value.describe()
                )
            })?;
            if range.contains(&bytes) {
                return Ok(Some(bytes));
            }
            let (min, max) = (units::display_size(*range.start()), units::display_size(*range.end()));
            Err(format!(
                "expected a size from {min} to {max}, or \"off\", found {}",
                node.value.describe()
            ))
        })
    }

    /// A size with its unit, where a bare number is a count of bytes.
    pub(super) fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.take(key, default, |node| {
            let bytes = match &node.value {
                Value::Text(text) => units::size(text),
                Value::Integer(number) => u64::try_from(*number).ok(),
                _ => None,
            };
            bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
                let (min, max) = (units::display_size(*range.start()), units::display_size(*range.end()));
                format!("expected a size from {min} to {max}, found {}", node.value.describe())
            })
        })
    }

    /// Peers by address or name, each with its port.
    pub(super) fn hosts_with_ports(&mut self, key: &'static str) -> Vec<String> {
        self.take(key, Vec::new(), |node| {
            let hosts = list(node)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
            for host in &hosts {
                let parts = host.rsplit_once(':');
                let is_right = |(name, port): (&str, &str)| {
                    let is_name =
                        !name.is_empty() && (!name.contains(':') || (name.starts_with('[') && name.ends_with(']')));
                    is_name && port.parse::<u16>().is_ok_and(|port| port != 0)
                };
                if !parts.is_some_and(is_right) {
                    return Err(format!(
                        "expected peers such as \"10.0.0.2:6881\" or \"client2:6881\", found {host:?}"
                    ));
                }
            }
            Ok(hosts)
        })
    }

    /// A rate with its unit, at least `least` bytes a second, or "unlimited".
    pub(super) fn rate(&mut self, key: &'static str, default: Option<u64>, least: u64) -> Option<u64> {
        self.take(key, default, |node| {
            let rate = match &node.value {
                Value::Text(text) => units::rate(text),
                _ => None,
            };
            let wanted = match rate {
                Some(Some(rate)) if rate < least => format!("at least \"{}/s\"", units::display_size(least)),
                Some(rate) => return Ok(rate),
                None => "a rate such as \"200 MB/s\", or \"unlimited\"".to_owned(),
            };
            Err(format!("expected {wanted}, found {}", node.value.describe()))
        })
    }

    /// Some of these words, by their numbers; all of them if the key is not there. One word is a list of one.
    pub(super) fn words(&mut self, key: &'static str, choices: &[&str]) -> Vec<usize> {
        self.take(key, (0..choices.len()).collect(), |node| {
            let words = list(node)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
            let find = |word: &String| {
                choices.iter().position(|choice| choice == word).ok_or_else(|| {
                    let hint = did_you_mean(word, choices.iter().copied(), |word| format!("{word:?}"));
                    format!("expected some of {}, found {word:?}{hint}", quoted(choices))
                })
            };
            match words.is_empty() {
                true => Err(format!("expected some of {}, found none", quoted(choices))),
                false => words.iter().map(find).collect(),
            }
        })
    }

    /// A time of day, in minutes after midnight. It has no default: when it is missing that is reported.
    pub(super) fn time_of_day(&mut self, key: &'static str) -> u16 {
        self.require(key);
        self.take(key, 0, |node| {
            let text = match &node.value {
                Value::Text(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                // TOML has times of its own.
                Value::Other(time) => match schedule::without_seconds(time) {
                    Some(meant) => return Err(format!("expected text in quotes: {key} = {meant:?}")),
                    None => String::new(),
                },
                _ => String::new(),
            };
            let is_text = matches!(node.value, Value::Text(_));
            schedule::time_of_day(&text).filter(|_| is_text).ok_or_else(|| {
                let hint = schedule::with_two_digits(&text)
                    .map(|meant| format!(" (did you mean {meant:?}?)"))
                    .unwrap_or_default();
                format!(
                    "expected a time of day from \"00:00\" to \"24:00\", found {}{hint}",
                    node.value.describe()
                )
            })
        })
    }

    /// A time with its unit, or "unlimited".
    pub(super) fn time_or_unlimited(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.take(key, None, |node| {
            let time = match &node.value {
                Value::Text(text) if text == "unlimited" => return Ok(None),
                Value::Text(text) => units::time(text),
                _ => None,
            };
            time.filter(|time| range.contains(time)).map(Some).ok_or_else(|| {
                let (min, max) = (units::display_time(*range.start()), units::display_time(*range.end()));
                let found = node.value.describe();
                format!("expected a time from \"{min}\" to \"{max}\", or \"unlimited\", found {found}")
            })
        })
    }

    /// A ratio such as 1.5, in hundredths, or "unlimited".
    pub(super) fn ratio(&mut self, key: &'static str) -> Option<u32> {
        self.take(key, None, |node| {
            let text = match &node.value {
                Value::Text(text) if text == "unlimited" => return Ok(None),
                Value::Text(text) | Value::Other(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                _ => String::new(),
            };
            units::hundredths(&text).map(Some).ok_or_else(|| {
                let found = node.value.describe();
                format!("expected a ratio from 0.01 to 10000 such as 1.5, or \"unlimited\", found {found}")
            })
        })
    }

    /// A short name for people; "" is none.
    pub(super) fn label(&mut self, key: &'static str) -> Option<String> {
        self.take(key, None, |node| match text(node)? {
            label if label.is_empty() => Ok(None),
            label if label.chars().count() <= LABEL_LEN_MAX && !label.chars().any(char::is_control) => Ok(Some(label)),
            label => Err(format!(
                "expected a name of at most {LABEL_LEN_MAX} characters, found {label:?}"
            )),
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        self.take(key, default, |node| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let Value::Text(found) = &node.value else {
                return Err(format!(
                    "expected one of {}, found {}",
                    quoted(&words),
                    node.value.describe()
                ));
            };
            let choice = choices.iter().find(|(word, _)| word == found);
            choice.map(|(_, value)| *value).ok_or_else(|| {
                let hint = did_you_mean(found, words.iter().copied(), |word| format!("{word:?}"));
                format!("expected one of {}, found {found:?}{hint}", quoted(&words))
            })
        })
    }

    /// A time with its unit.
    pub(super) fn time(&mut self, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.take(key, default, |node| {
            let time = match &node.value {
                Value::Text(text) => units::time(text),
                _ => None,
            };
            let found = node.value.describe();
            match time {
                Some(time) if range.contains(&time) => Ok(time),
                Some(_) => {
                    let (min, max) = (units::display_time(*range.start()), units::display_time(*range.end()));
                    Err(format!("expected a time from \"{min}\" to \"{max}\", found {found}"))
                }
                // Examples that the key would take.
                None if *range.end() < Duration::from_secs(1) => {
                    Err(format!("expected a time such as \"500us\" or \"1ms\", found {found}"))
                }
                None => Err(format!("expected a time such as \"30m\" or \"90s\", found {found}")),
            }
        })
    }

    /// A time with its unit, or "off".
    pub(super) fn time_or_off(
        &mut self,
        key: &'static str,
        default: Option<Duration>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.take(key, default, |node| {
            let time = match &node.value {
                Value::Text(text) if text == "off" => return Ok(None),
                Value::Text(text) => units::time(text),
                _ => None,
            };
            let found = node.value.describe();
            match time {
                Some(time) if range.contains(&time) => Ok(Some(time)),
                Some(_) => {
                    let (min, max) = (units::display_time(*range.start()), units::display_time(*range.end()));
                    Err(format!(
                        "expected a time from \"{min}\" to \"{max}\", or \"off\", found {found}"
                    ))
                }
                None => Err(format!("expected a time such as \"30d\", or \"off\", found {found}")),
            }
        })
    }

    /// Host names that peers may go by.
    pub(super) fn hostname_rule(&mut self, key: &'static str) -> HostnameRule {
        self.take(key, HostnameRule::default(), |node| {
            let names = list(node)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
            HostnameRule::new(names.iter().map(String::as_str)).map_err(|error| error.to_string())
        })
    }

    /// A tracker's store: the address of a shared one, or "memory". What is wrong is told without the address, which may hold
    /// a password.
    pub(super) fn store(&mut self, key: &'static str) -> Option<StoreUrl> {
        self.take(key, None, |node| {
            let text = match node.value {
                Value::Text(text) if text == "memory" => return Ok(None),
                Value::Text(text) => text,
                _ => String::new(),
            };
            StoreUrl::parse(&text).map(Some).map_err(|error| {
                format!("expected \"memory\", or an address such as \"redis://127.0.0.1:6379/0\": {error}")
            })
        })
    }

    /// The path of a file that is read by `read`, if files are looked at at all.
    pub(super) fn optional_file(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Option<PathBuf> {
        let Context { base, looks, .. } = *self.context;
        self.take(key, None, |node| {
            let path = path(node, base)?;
            if looks {
                read(&path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
            }
            Ok(Some(path))
        })
    }

    pub(super) fn text_list(&mut self, key: &'static str) -> Vec<String> {
        self.take(key, Vec::new(), |node| list(node)?.into_iter().map(text).collect())
    }

    pub(super) fn address(&mut self, key: &'static str, default: SocketAddr) -> SocketAddr {
        self.take(key, default, address)
    }

    /// Addresses to listen on; one alone may be written without the brackets of a list.
    pub(super) fn addresses(&mut self, key: &'static str, default: Vec<SocketAddr>) -> Vec<SocketAddr> {
        self.take(key, default, |node| {
            // A port alone is told what it lacks.
            let nodes = match node.value {
                Value::Integer(_) => vec![node],
                _ => list(node)?,
            };
            let addresses = nodes.into_iter().map(address).collect::<Result<Vec<_>, _>>()?;
            if addresses.is_empty() {
                return Err("expected at least one address".to_owned());
            }
            for (index, address) in addresses.iter().enumerate() {
                if address.port() != 0 && addresses[..index].contains(address) {
                    return Err(format!("{address} is there twice"));
                }
            }
            Ok(addresses)
        })
    }

    /// The name of a host; "" is none.
    pub(super) fn hostname(&mut self, key: &'static str) -> Option<String> {
        self.take(key, None, |node| match text(node)? {
            name if name.is_empty() => Ok(None),
            address if is_address(&address) => Err(format!(
                "expected a name such as \"client1.internal\", or \"\", found the address {address:?} (hint: ip = {:?})",
                address.trim_matches(['[', ']'])
            )),
            name if is_name(&name) => Ok(Some(name)),
            other => Err(format!(
                "expected a name such as \"client1.internal\", or \"\", found {other:?}"
            )),
        })
    }

    pub(super) fn port(&mut self, key: &'static str, default: u16) -> u16 {
        self.take(key, default, |node| {
            let port = match node.value {
                Value::Integer(number) => u16::try_from(number).ok(),
                _ => None,
            };
            port.ok_or_else(|| format!("expected a port from 0 to 65535, found {}", node.value.describe()))
        })
    }

    /// An address without a port; "" is none.
    pub(super) fn ip(&mut self, key: &'static str) -> Option<IpAddr> {
        self.take(key, None, |node| match text(node)? {
            text if text.is_empty() => Ok(None),
            text => match text.parse() {
                Ok(ip) => Ok(Some(ip)),
                Err(_) => Err(format!("expected an IP address, or \"\", found {text:?}")),
            },
        })
    }

    /// Addresses without ports.
    pub(super) fn ips(&mut self, key: &'static str) -> Vec<IpAddr> {
        self.take(key, Vec::new(), |node| {
            let texts = list(node)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
            let read = |text: String| {
                let ip = text.parse::<IpAddr>();
                ip.map_err(|_| format!("expected IP addresses such as \"10.0.0.1\", found {text:?}"))
            };
            texts.into_iter().map(read).collect()
        })
    }

    /// Addresses of this machine to leave from, at most one of each family; "" is none.
    pub(super) fn bind_addresses(&mut self, key: &'static str) -> Vec<IpAddr> {
        self.take(key, Vec::new(), |node| {
            let texts = list(node)?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
            if texts == [""] {
                return Ok(Vec::new());
            }
            let mut found: Vec<IpAddr> = Vec::new();
            for text in texts {
                let ip = bind_address(&text)?;
                if let Some(other) = found.iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
                    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                    return Err(format!(
                        "{other} and {ip} are both {family}, expected at most one address of each family (hint: which of the two would \
                         something leave from?)"
                    ));
                }
                found.push(ip);
            }
            Ok(found)
        })
    }

    /// The name of a network device; "" is none.
    pub(super) fn device(&mut self, key: &'static str) -> Option<String> {
        self.take(key, None, |node| {
            let name = text(node)?;
            // As the kernel has it (`dev_valid_name`).
            let is_right = |name: &str| {
                let is_right = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
                name.len() <= device::NAME_LEN_MAX && ![".", ".."].contains(&name) && name.chars().all(is_right)
            };
            match name {
                name if name.is_empty() => Ok(None),
                name if is_right(&name) => Ok(Some(name)),
                name => Err(format!(
                    "expected the name of a network device such as \"tun0\", or \"\", found {name:?} (hint: ip link shows which there are)"
                )),
            }
        })
    }

    /// Addresses of trackers. What is wrong is told without the address, which may hold a key.
    pub(super) fn trackers(&mut self, key: &'static str) -> Vec<TrackerUrl> {
        self.take(key, Vec::new(), |node| {
            let read = |(index, node): (usize, Node)| {
                TrackerUrl::parse(&text(node)?).map_err(|error| format!("tracker {index} of the list: {error}"))
            };
            (1..).zip(list(node)?).map(read).collect()
        })
    }

    pub(super) fn path(&mut self, key: &'static str, default: &str) -> PathBuf {
        let base = self.context.base;
        self.take(key, base.join(default), |node| path(node, base))
    }

    /// A path that has no default. When it is missing, that is reported and an empty path stands in for it.
    pub(super) fn required_path(&mut self, key: &'static str) -> PathBuf {
        self.require(key);
        let base = self.context.base;
        self.take(key, PathBuf::new(), |node| path(node, base))
    }

    /// Reports that a key is missing, if it is.
    fn require(&self, key: &str) {
        if !self.table.entries.contains_key(key) {
            self.context
                .report(self.at.clone(), format!("{} needs the key {key:?}", self.head()));
        }
    }

    /// Whether one of these keys was there.
    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.table.entries.contains_key(*key))
    }

    /// Where a key stands, if it is there.
    pub(super) fn at_key(&self, key: &str) -> Option<At> {
        let (at, _) = self.table.entries.get(key)?;
        Some(at.clone())
    }

    /// Where the section begins, for a problem that no single key has.
    pub(super) fn at(&self) -> At {
        self.at.clone()
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, (at, node)) in &self.table.entries {
            let is_section = match &node.value {
                Value::Table(_) => Some(false),
                Value::Array(nodes) => {
                    let is_table = |node: &Node| matches!(node.value, Value::Table(_));
                    nodes.first().is_some_and(is_table).then_some(true)
                }
                _ => None,
            };
            let message = match is_section.filter(|_| self.name.is_empty()) {
                Some(is_one_of_many) => {
                    let show = |name: &str| match at {
                        At::Variable(_) if self.repeated.contains(&name) => REPEATED_AS_VARIABLE.to_owned(),
                        _ => head(name, self.repeated.contains(&name)),
                    };
                    let hint = did_you_mean(key, self.known.iter().copied(), show);
                    format!("unknown section {}{hint}", head(key, is_one_of_many))
                }
                None => {
                    let hint = match places_of(key).as_slice() {
                        [] => did_you_mean(key, self.known.iter().copied(), |name| format!("{name:?}")),
                        places => format!(": it belongs {}", places.join(" or ")),
                    };
                    let here = match self.name {
                        "" => String::new(),
                        _ => format!(" in {}", self.head()),
                    };
                    format!("unknown key {key:?}{here}{hint}")
                }
            };
            self.context.report(at.clone(), message);
        }
    }

    fn take<T>(&mut self, key: &'static str, default: T, convert: impl FnOnce(Node) -> Result<T, String>) -> T {
        self.known.push(key);
        let full_key = if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        };
        let value = match self.table.entries.remove(key) {
            None => default,
            Some((_, node)) => {
                let unquoted = self.context.unquoted_in(&node);
                let at = unquoted.as_ref().map_or(&node.at, |unquoted| &unquoted.at).clone();
                let (message, value) = match (convert(node), unquoted) {
                    (Ok(value), None) => (None, value),
                    // An address may hold a key.
                    (Ok(value), Some(unquoted)) if unquoted.meant.contains("://") => {
                        (Some("expected text in quotes".to_owned()), value)
                    }
                    (Ok(value), Some(Unquoted { meant, .. })) => {
                        (Some(format!("expected text in quotes: {key} = {meant}")), value)
                    }
                    (Err(message), None) => (Some(message), default),
                    (Err(message), Some(Unquoted { texts, .. })) => {
                        let as_written = |message: String, text: &String| message.replace(text, text.trim_matches('"'));
                        (Some(texts.iter().fold(message, as_written)), default)
                    }
                };
                if let Some(message) = message {
                    self.context.report(at, format!("{full_key}: {message}"));
                }
                value
            }
        };
        self.context.keys.borrow_mut().push(full_key);
        value
    }
}

/// The head of a section of this name.
pub(super) fn head(name: &str, is_one_of_many: bool) -> String {
    match is_one_of_many {
        true => format!("[[{name}]]"),
        false => format!("[{name}]"),
    }
}

/// The items of a list; a single value is a list of one.
fn list(node: Node) -> Result<Vec<Node>, String> {
    match node.value {
        Value::Array(items) => Ok(items),
        Value::Text(_) => Ok(vec![node]),
        other => Err(format!("expected a list of strings, found {}", other.describe())),
    }
}

/// Whether a text is an address, or would be taken for one (`127.1`, `0x7f.1`).
fn is_address(text: &str) -> bool {
    let is_number = |label: &str| {
        let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
        hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            || !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || text.split('.').all(is_number)
}

fn text(node: Node) -> Result<String, String> {
    match node.value {
        Value::Text(text) => Ok(text),
        other => Err(format!("expected a string, found {}", other.describe())),
    }
}

/// An address that something can leave from.
fn bind_address(text: &str) -> Result<IpAddr, String> {
    const SHOWS: &str = "ip address shows which this machine has";
    let expected = "expected an IP address of this machine such as \"10.8.0.2\"";
    let Ok(ip) = text.parse::<IpAddr>() else {
        let hint = match text.parse::<SocketAddr>() {
            Ok(_) => "without a port, which is that of peers.listen",
            Err(_) => SHOWS,
        };
        return Err(format!("{expected}, found {text:?} (hint: {hint})"));
    };
    let what = match ip {
        _ if ip.is_unspecified() => "stands for all addresses",
        _ if ip.is_multicast() || ip == Ipv4Addr::BROADCAST => "is nobody's own",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4 address written as IPv6",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "reaches no further than one link",
        _ => return Ok(ip),
    };
    Err(format!("{expected}, found {text:?}, which {what} (hint: {SHOWS})"))
}

fn path(node: Node, base: &Path) -> Result<PathBuf, String> {
    match text(node)? {
        path if path.is_empty() => Err("expected a path, found \"\"".to_owned()),
        path if path.contains('\0') => Err("a path cannot hold a NUL".to_owned()),
        // It would be a folder of that name.
        path if path.starts_with('~') => Err(format!(
            "expected a path without \"~\", which stands for a home folder in a shell alone, found {path:?} (hint: the home folder by its \
             own name, such as \"/home/me\"; a file that is called so is \"./~\")"
        )),
        path => Ok(base.join(path)),
    }
}

fn address(node: Node) -> Result<SocketAddr, String> {
    let found = node.value.describe();
    let address = text(node).ok().and_then(|text| text.parse().ok());
    address.ok_or_else(|| {
        format!("expected an IP address and a port such as \"0.0.0.0:6881\" or \"[::]:6881\", found {found}")
    })
}

/// A message without what stands behind the `://` of URLs that were found where they do not belong: a tracker's may have a key in it.
fn without_secrets(message: &str) -> String {
    let found = ["found ", "unknown "]
        .iter()
        .filter_map(|word| message.find(word))
        .min();
    let (said, mut rest) = message.split_at(found.unwrap_or(message.len()));
    let mut shown = said.to_owned();
    while let Some((scheme, behind)) = rest.split_once("://") {
        let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ')' | ']');
        rest = &behind[behind.find(is_end).unwrap_or(behind.len())..];
        shown.push_str(scheme);
        shown.push_str("://...");
    }
    shown + rest
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}
