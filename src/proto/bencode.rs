//! Bencode, read under limits: one scan over foreign bytes, then borrowed views into what passed it.
//!
//! [`scan`] walks the whole input once, without recursion and without building anything, and refuses what is broken,
//! too deep, too long, or has too many parts. A [`Value`] exists only behind it, and is nothing but the exact bytes of
//! one value: looking into it allocates nothing, and the `info` dictionary that an info-hash is taken of is
//! [`Value::raw`].
//!
//! Stricter than most readers about numbers, lengths and duplicate keys, where two readers might understand two
//! different things. Keys out of order are told, not refused: torrents that have them are about, and their info-hash is
//! that of their bytes as they are.
//!
//! Writing is done by `serde_bencode`, from typed structures; see [`super::metainfo`] and [`super::extension`].

use std::ops::Range;

/// How much is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub len: usize,
    /// Lists and dictionaries inside each other.
    pub depth: usize,
    /// Strings, numbers, beginnings and ends of lists and dictionaries.
    pub tokens: usize,
}

impl Limits {
    /// For torrent files. 32 MiB hold the hashes of 1.6 million pieces; a file in a list is eight tokens.
    pub const METAINFO: Self = Self {
        len: 32 << 20,
        depth: 64,
        tokens: 2_000_000,
    };

    /// For messages of peers.
    pub const MESSAGE: Self = Self {
        len: 32 << 10,
        depth: 8,
        tokens: 2_000,
    };
}

/// What is wrong, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (byte {offset})")]
pub struct Error {
    /// The byte at which it shows, counted from 0.
    pub offset: usize,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with bytes that are not acceptable bencode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The input as a whole is too long; the offset is the limit.
    #[error("{0} bytes are too many")]
    InputTooLong(usize),
    /// Lists or dictionaries too deep inside each other.
    #[error("nested more than {0} deep")]
    TooDeep(usize),
    /// Too many parts.
    #[error("more than {0} tokens")]
    TooManyTokens(usize),
    /// The input ends inside a value.
    #[error("the input ends in the middle of a value")]
    Truncated,
    /// A value begins with a byte that none can begin with.
    #[error("no value begins with byte 0x{0:02x}")]
    UnexpectedByte(u8),
    /// An integer without digits, with a leading zero, a minus zero or a foreign character.
    #[error("a malformed integer")]
    Integer,
    /// An integer beyond 64 bits.
    #[error("an integer beyond 64 bits")]
    IntegerRange,
    /// A string's length with a leading zero, a foreign character, or beyond 32 bits.
    #[error("a malformed string length")]
    StringLen,
    /// A string longer than what is left of the input.
    #[error("a string of {len} bytes where {left} are left")]
    StringPastEnd {
        /// Its length.
        len: usize,
        /// What is left.
        left: usize,
    },
    /// A dictionary's key that is no string.
    #[error("a dictionary key that is not a string")]
    KeyNotString,
    /// A dictionary that ends behind a key.
    #[error("a dictionary key without a value")]
    KeyWithoutValue,
    /// A dictionary with the same key twice.
    #[error("a dictionary key that occurs twice")]
    DuplicateKey,
    /// Something behind the value.
    #[error("{0} bytes behind the end of the value")]
    Trailing(usize),
}

/// Input that passed the scan.
#[derive(Debug, Clone, Copy)]
pub struct Scanned<'a> {
    /// The value that the input is.
    pub value: Value<'a>,
    /// The first key that is not in the order that bencode asks for.
    pub unsorted_at: Option<usize>,
}

/// One token, as both the scan and the views read it.
enum Token<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List,
    Dict,
    End,
}

/// Reads the token at `at` and tells where the next begins.
fn token(input: &[u8], at: usize) -> Result<(Token<'_>, usize), Error> {
    let Some(&first) = input.get(at) else {
        return Err(Error {
            offset: input.len(),
            reason: Reason::Truncated,
        });
    };
    match first {
        b'l' => Ok((Token::List, at + 1)),
        b'd' => Ok((Token::Dict, at + 1)),
        b'e' => Ok((Token::End, at + 1)),
        b'i' => integer(input, at),
        b'0'..=b'9' => string(input, at),
        byte => Err(Error {
            offset: at,
            reason: Reason::UnexpectedByte(byte),
        }),
    }
}

fn integer(input: &[u8], at: usize) -> Result<(Token<'_>, usize), Error> {
    let mut next = at + 1;
    let negative = input.get(next) == Some(&b'-');
    next += usize::from(negative);
    let digits = next;
    // Counted downwards, since the range of negative numbers is one longer.
    let mut number: i64 = 0;
    loop {
        match input.get(next) {
            None => {
                return Err(Error {
                    offset: next,
                    reason: Reason::Truncated,
                });
            }
            Some(b'e') if next > digits => break,
            Some(&byte @ b'0'..=b'9') => {
                // A second digit behind a zero, or a zero behind a minus.
                if next > digits && input[digits] == b'0' || next == digits && byte == b'0' && negative {
                    return Err(Error {
                        offset: next,
                        reason: Reason::Integer,
                    });
                }
                let digit = i64::from(byte - b'0');
                let grown = number.checked_mul(10).and_then(|n| n.checked_sub(digit));
                number = grown.ok_or(Error {
                    offset: at,
                    reason: Reason::IntegerRange,
                })?;
            }
            Some(_) => {
                return Err(Error {
                    offset: next,
                    reason: Reason::Integer,
                });
            }
        }
        next += 1;
    }
    if !negative {
        number = number.checked_neg().ok_or(Error {
            offset: at,
            reason: Reason::IntegerRange,
        })?;
    }
    Ok((Token::Int(number), next + 1))
}

fn string(input: &[u8], at: usize) -> Result<(Token<'_>, usize), Error> {
    let mut next = at;
    let mut len: u32 = 0;
    loop {
        match input.get(next) {
            None => {
                return Err(Error {
                    offset: next,
                    reason: Reason::Truncated,
                });
            }
            Some(b':') => break,
            Some(&byte @ b'0'..=b'9') if next == at || input[at] != b'0' => {
                let grown = len.checked_mul(10).and_then(|n| n.checked_add(u32::from(byte - b'0')));
                len = grown.ok_or(Error {
                    offset: at,
                    reason: Reason::StringLen,
                })?;
            }
            Some(_) => {
                return Err(Error {
                    offset: next,
                    reason: Reason::StringLen,
                });
            }
        }
        next += 1;
    }
    let (begin, len) = (next + 1, len as usize);
    let left = input.len() - begin;
    if len > left {
        return Err(Error {
            offset: at,
            reason: Reason::StringPastEnd { len, left },
        });
    }
    Ok((Token::Bytes(&input[begin..begin + len]), begin + len))
}

/// A list or dictionary that the scan is inside of.
struct Open {
    /// For a dictionary: where its keys begin in the stack of keys.
    keys: Option<usize>,
    /// A key has been read and its value has not.
    value_due: bool,
    sorted: bool,
}

/// Checks the whole input and gives the one value it is.
pub fn scan(input: &[u8], limits: Limits) -> Result<Scanned<'_>, Error> {
    let scanned = scan_prefix(input, limits)?;
    let end = scanned.value.0.len();
    if end < input.len() {
        return Err(Error {
            offset: end,
            reason: Reason::Trailing(input.len() - end),
        });
    }
    Ok(scanned)
}

/// Checks the value that the input begins with. What is behind it is the caller's: metadata messages (BEP 9) have their
/// payload there.
pub fn scan_prefix(input: &[u8], limits: Limits) -> Result<Scanned<'_>, Error> {
    if input.len() > limits.len {
        return Err(Error {
            offset: limits.len,
            reason: Reason::InputTooLong(input.len()),
        });
    }
    let mut open: Vec<Open> = Vec::new();
    // The keys of all open dictionaries, with the places they stand at.
    let mut keys: Vec<(&[u8], usize)> = Vec::new();
    let mut unsorted_at = None;
    let mut at = 0;
    for _ in 0..limits.tokens {
        let here = |reason| Error { offset: at, reason };
        let (token, next) = token(input, at)?;
        let is_key = open.last().is_some_and(|open| open.keys.is_some() && !open.value_due);
        match token {
            Token::End => {
                let Some(closed) = open.pop() else {
                    return Err(here(Reason::UnexpectedByte(b'e')));
                };
                if closed.value_due {
                    return Err(here(Reason::KeyWithoutValue));
                }
                if let Some(from) = closed.keys {
                    if !closed.sorted {
                        refuse_duplicates(&mut keys[from..])?;
                    }
                    keys.truncate(from);
                }
            }
            Token::Bytes(key) if is_key => {
                let dict = open.last_mut().expect("a key is inside a dictionary");
                dict.value_due = true;
                let first = dict.keys == Some(keys.len());
                if let Some((previous, _)) = keys.last().filter(|_| !first) {
                    if *previous == key {
                        return Err(here(Reason::DuplicateKey));
                    }
                    if *previous > key {
                        dict.sorted = false;
                        unsorted_at = unsorted_at.or(Some(at));
                    }
                }
                keys.push((key, at));
                at = next;
                continue;
            }
            _ if is_key => return Err(here(Reason::KeyNotString)),
            Token::Int(_) | Token::Bytes(_) => {}
            Token::List | Token::Dict => {
                if open.len() == limits.depth {
                    return Err(here(Reason::TooDeep(limits.depth)));
                }
                let keys = matches!(token, Token::Dict).then_some(keys.len());
                open.push(Open {
                    keys,
                    value_due: false,
                    sorted: true,
                });
                at = next;
                continue;
            }
        }
        // A value is complete.
        at = next;
        match open.last_mut() {
            None => {
                return Ok(Scanned {
                    value: Value(&input[..at]),
                    unsorted_at,
                });
            }
            Some(parent) => parent.value_due = false,
        }
    }
    Err(Error {
        offset: at,
        reason: Reason::TooManyTokens(limits.tokens),
    })
}

/// Two equal keys in a dictionary that is out of order need not be neighbours.
fn refuse_duplicates(keys: &mut [(&[u8], usize)]) -> Result<(), Error> {
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Error {
            offset: pair[1].1,
            reason: Reason::DuplicateKey,
        }),
        None => Ok(()),
    }
}

/// One value of input that passed the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// Exactly the bytes of this value.
    pub const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// Where this value stands in the input it was scanned from.
    pub fn span_in(self, input: &[u8]) -> Range<usize> {
        let begin = self.0.as_ptr().addr() - input.as_ptr().addr();
        begin..begin + self.0.len()
    }

    /// The number, if it is one.
    pub fn as_int(self) -> Option<i64> {
        match first_token(self.0) {
            (Token::Int(number), _) => Some(number),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match first_token(self.0) {
            (Token::Bytes(bytes), _) => Some(bytes),
            _ => None,
        }
    }

    /// The string, if it is one and valid UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The items, if it is a list.
    pub fn as_list(self) -> Option<List<'a>> {
        (self.0[0] == b'l').then(|| List(&self.0[1..]))
    }

    /// The entries, if it is a dictionary.
    pub fn as_dict(self) -> Option<Dict<'a>> {
        (self.0[0] == b'd').then(|| Dict(List(&self.0[1..])))
    }
}

/// The items of a list, one by one.
#[derive(Debug, Clone)]
pub struct List<'a>(&'a [u8]);

impl<'a> Iterator for List<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.0[0] == b'e' {
            return None;
        }
        let mut depth = 0;
        let mut at = 0;
        loop {
            let (token, next) = first_token(&self.0[at..]);
            at += next;
            match token {
                Token::List | Token::Dict => depth += 1,
                Token::End => depth -= 1,
                Token::Int(_) | Token::Bytes(_) => {}
            }
            if depth == 0 {
                let (value, rest) = self.0.split_at(at);
                self.0 = rest;
                return Some(Value(value));
            }
        }
    }
}

/// The entries of a dictionary, one by one.
#[derive(Debug, Clone)]
pub struct Dict<'a>(List<'a>);

impl<'a> Dict<'a> {
    /// The value of this key. It walks the dictionary: go through the entries once where many keys are wanted.
    pub fn get(&self, key: &[u8]) -> Option<Value<'a>> {
        self.clone().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Dict<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.as_bytes()?;
        Some((key, self.0.next()?))
    }
}

fn first_token(bytes: &[u8]) -> (Token<'_>, usize) {
    token(bytes, 0).expect("the scan has been over these bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_all(input: &[u8]) -> Result<Scanned<'_>, Error> {
        scan(input, Limits::METAINFO)
    }

    fn refused(input: &[u8]) -> (Reason, usize) {
        let error = scan_all(input).expect_err("accepted");
        (error.reason, error.offset)
    }

    #[test]
    fn values_are_found_again_in_their_own_bytes() {
        let input = b"d1:ai-42e4:infod3:keyli1e2:xyee1:z0:e";
        let dict = scan_all(input).unwrap().value.as_dict().unwrap();
        assert_eq!(dict.get(b"a").unwrap().as_int(), Some(-42));
        let info = dict.get(b"info").unwrap();
        assert_eq!(info.raw(), b"d3:keyli1e2:xyee");
        assert_eq!(info.span_in(input), 15..31);
        let list: Vec<_> = info
            .as_dict()
            .unwrap()
            .get(b"key")
            .unwrap()
            .as_list()
            .unwrap()
            .collect();
        assert_eq!((list[0].as_int(), list[1].as_str()), (Some(1), Some("xy")));
        assert_eq!(dict.get(b"z").unwrap().as_bytes(), Some(&b""[..]));
        assert_eq!(dict.get(b"y"), None);
    }

    #[test]
    fn a_value_of_another_kind_is_none() {
        let value = scan_all(b"le").unwrap().value;
        assert!(value.as_int().is_none() && value.as_bytes().is_none() && value.as_dict().is_none());
        assert_eq!(value.as_list().unwrap().count(), 0);
    }

    #[test]
    fn integers_have_one_spelling() {
        assert_eq!(scan_all(b"i0e").unwrap().value.as_int(), Some(0));
        assert_eq!(
            scan_all(b"i9223372036854775807e").unwrap().value.as_int(),
            Some(i64::MAX)
        );
        assert_eq!(
            scan_all(b"i-9223372036854775808e").unwrap().value.as_int(),
            Some(i64::MIN)
        );
        assert_eq!(refused(b"i-0e"), (Reason::Integer, 2));
        assert_eq!(refused(b"i03e"), (Reason::Integer, 2));
        assert_eq!(refused(b"ie"), (Reason::Integer, 1));
        assert_eq!(refused(b"i-e"), (Reason::Integer, 2));
        assert_eq!(refused(b"i1 e"), (Reason::Integer, 2));
        assert_eq!(refused(b"i9223372036854775808e"), (Reason::IntegerRange, 0));
        assert_eq!(refused(b"i-9223372036854775809e"), (Reason::IntegerRange, 0));
        assert_eq!(refused(b"i12"), (Reason::Truncated, 3));
    }

    #[test]
    fn string_lengths_are_checked_against_what_is_left() {
        assert_eq!(refused(b"5:abc"), (Reason::StringPastEnd { len: 5, left: 3 }, 0));
        assert_eq!(
            refused(b"4294967295:a"),
            (
                Reason::StringPastEnd {
                    len: 4_294_967_295,
                    left: 1
                },
                0
            )
        );
        assert_eq!(refused(b"9223372036854775808:a"), (Reason::StringLen, 0));
        assert_eq!(refused(b"03:abc"), (Reason::StringLen, 1));
        assert_eq!(refused(b"3abc"), (Reason::StringLen, 1));
        assert_eq!(refused(b"12"), (Reason::Truncated, 2));
    }

    #[test]
    fn broken_structure_is_refused_with_its_place() {
        assert_eq!(refused(b""), (Reason::Truncated, 0));
        assert_eq!(refused(b"e"), (Reason::UnexpectedByte(b'e'), 0));
        assert_eq!(refused(b"lx"), (Reason::UnexpectedByte(b'x'), 1));
        assert_eq!(refused(b"li1e"), (Reason::Truncated, 4));
        assert_eq!(refused(b"di1ei2ee"), (Reason::KeyNotString, 1));
        assert_eq!(refused(b"d1:ae"), (Reason::KeyWithoutValue, 4));
        assert_eq!(refused(b"i1ei2e"), (Reason::Trailing(3), 3));
    }

    #[test]
    fn a_key_that_occurs_twice_is_refused_wherever_it_stands() {
        assert_eq!(refused(b"d1:ai1e1:ai2ee"), (Reason::DuplicateKey, 7));
        assert_eq!(refused(b"d1:ai1e1:bi2e1:ai3ee"), (Reason::DuplicateKey, 13));
        // The same key in two dictionaries is fine.
        assert!(scan_all(b"d1:ad1:ai1eee").is_ok());
    }

    #[test]
    fn keys_out_of_order_are_told_not_refused() {
        assert_eq!(scan_all(b"d1:ai1e1:bi2ee").unwrap().unsorted_at, None);
        let scanned = scan_all(b"d1:ad1:yi1e1:xi2ee1:bi2ee").unwrap();
        assert_eq!(scanned.unsorted_at, Some(11));
        assert_eq!(scanned.value.as_dict().unwrap().get(b"b").unwrap().as_int(), Some(2));
    }

    #[test]
    fn depth_length_and_tokens_are_bounded() {
        let nested = |depth| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(scan_all(&nested(64)).is_ok());
        assert_eq!(refused(&nested(65)), (Reason::TooDeep(64), 64));
        assert_eq!(refused(&[b'l'; 1 << 20]), (Reason::TooDeep(64), 64));
        let limits = Limits {
            len: 6,
            depth: 2,
            tokens: 3,
        };
        assert!(scan(b"li1ee", limits).is_ok());
        assert_eq!(scan(b"l0:0:e", limits).unwrap_err().reason, Reason::TooManyTokens(3));
        assert_eq!(scan(b"li1234e", limits).unwrap_err().reason, Reason::InputTooLong(7));
    }

    #[test]
    fn a_prefix_ends_where_its_value_ends() {
        assert_eq!(scan_prefix(b"de\x00\x01", Limits::MESSAGE).unwrap().value.raw(), b"de");
    }
}
