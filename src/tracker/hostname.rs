//! Which host names a peer may go by.
//!
//! A name is what DNS calls one: labels of letters, digits and hyphens. It is accepted when the operator's list has it;
//! the tracker never resolves it, so what the list lets in is what other peers will look up.

/// The longest host name, in bytes (RFC 1035 without the root's dot).
pub const HOSTNAME_LEN_MAX: usize = 253;
/// The longest label of one.
const LABEL_LEN_MAX: usize = 63;

/// Whether a text is a host name: at most 253 bytes, labels of 1 to 63 letters, digits and hyphens, no hyphen at either
/// end. A dot at the end is not accepted, and neither is what would be read as an IPv4 address.
pub fn is_hostname(name: &[u8]) -> bool {
    let label = |label: &[u8]| {
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
    };
    // Resolvers take `1.2.3.4`, and `1.2` and `0x7f.1` as well, for addresses: a name whose last label begins with a digit
    // is none (no top-level domain does, RFC 3696).
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    name.len() <= HOSTNAME_LEN_MAX
        && name.split(|byte| *byte == b'.').all(label)
        && !last.first().is_some_and(u8::is_ascii_digit)
}

/// The names that peers may go by: `tracker.hostname-allow`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostnameRule {
    /// In lower case.
    entries: Vec<Box<[u8]>>,
}

/// Why a text is no entry of the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host name: at most {HOSTNAME_LEN_MAX} bytes, labels of letters, digits and hyphens, \
     with a dot before it for all names below it"
)]
pub struct BadEntry(pub String);

impl HostnameRule {
    /// The rule of these entries: one that begins with a dot allows all names that end so, any other that name alone.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, BadEntry> {
        let entry = |entry: &str| {
            let name = entry.strip_prefix('.').unwrap_or(entry);
            if is_hostname(name.as_bytes()) {
                Ok(entry.to_ascii_lowercase().into_bytes().into_boxed_slice())
            } else {
                Err(BadEntry(entry.to_owned()))
            }
        };
        let entries = entries.into_iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// No name is allowed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a peer may go by this name. Case does not matter.
    pub fn allows(&self, name: &[u8]) -> bool {
        let matches = |entry: &[u8]| match entry.strip_prefix(b".") {
            // Something must stand before the dot: `is_hostname` has no empty label.
            Some(_) => name.len() > entry.len() && name[name.len() - entry.len()..].eq_ignore_ascii_case(entry),
            None => name.eq_ignore_ascii_case(entry),
        };
        self.entries.iter().any(|entry| matches(entry)) && is_hostname(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(entries: &[&str]) -> HostnameRule {
        HostnameRule::new(entries.iter().copied()).expect("a rule")
    }

    #[test]
    fn a_name_is_labels_of_letters_digits_and_hyphens() {
        for name in [
            "client2",
            "a",
            "A-b.c3",
            "seed.example.internal",
            "1a.x9y",
            "xn--bcher-kva.example",
        ] {
            assert!(is_hostname(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a/b",
            "b\u{fc}cher",
            "a\0",
            "a\r\nb",
            "[::1]",
            "a:1",
        ] {
            assert!(!is_hostname(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn an_address_is_not_a_name() {
        for name in ["127.0.0.1", "1", "0x7f.1", "a.2"] {
            assert!(!is_hostname(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_and_labels_have_a_longest() {
        let label = "a".repeat(63);
        assert!(is_hostname(label.as_bytes()));
        assert!(!is_hostname("a".repeat(64).as_bytes()));
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), HOSTNAME_LEN_MAX);
        assert!(is_hostname(longest.as_bytes()));
        assert!(!is_hostname(format!("{longest}a").as_bytes()));
    }

    #[test]
    fn an_entry_allows_exactly_its_name() {
        let rule = rule(&["client1", "seed.example"]);
        assert!(rule.allows(b"client1") && rule.allows(b"seed.example"));
        assert!(!rule.allows(b"client12") && !rule.allows(b"xclient1") && !rule.allows(b"a.client1"));
        assert!(!rule.allows(b"example"));
    }

    #[test]
    fn an_entry_with_a_leading_dot_allows_what_is_below_it() {
        let rule = rule(&[".internal"]);
        assert!(rule.allows(b"a.internal") && rule.allows(b"a.b.internal"));
        assert!(!rule.allows(b"internal") && !rule.allows(b".internal") && !rule.allows(b"ainternal"));
        assert!(!rule.allows(b"a.internal.example") && !rule.allows(b"-.internal") && !rule.allows(b"a..internal"));
    }

    #[test]
    fn case_does_not_matter() {
        let rule = rule(&["Client1", ".Internal"]);
        assert!(rule.allows(b"cLIENT1") && rule.allows(b"X.INTERNAL"));
    }

    #[test]
    fn without_entries_no_name_is_allowed() {
        assert!(!HostnameRule::default().allows(b"client1"));
        assert!(HostnameRule::default().is_empty());
    }

    #[test]
    fn an_entry_that_is_no_name_is_refused_with_itself() {
        for entry in ["", ".", "..a", "*.internal", "a b", "10.0.0.1"] {
            assert_eq!(HostnameRule::new([entry]), Err(BadEntry(entry.to_owned())));
        }
    }
}
