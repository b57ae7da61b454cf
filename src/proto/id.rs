//! The two 20-byte names of the protocol: which torrent, and which peer.
//!
//! Neither is more than its bytes. How an info-hash is computed stands in [`super::metainfo`].

use std::fmt;
use std::str::FromStr;

/// The SHA-1 of a torrent's `info` dictionary: the name of its swarm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

/// Why a text is not an info-hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseInfoHashError {
    /// Not 40 characters.
    #[error("an info-hash is 40 hexadecimal digits, this has {0} bytes")]
    Length(usize),
    /// A character that is no hexadecimal digit.
    #[error("an info-hash is 40 hexadecimal digits, byte {0} is none")]
    Digit(usize),
}

impl FromStr for InfoHash {
    type Err = ParseInfoHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        if text.len() != 40 {
            return Err(ParseInfoHashError::Length(text.len()));
        }
        let digit = |at: usize| {
            let digit = char::from(text[at]).to_digit(16);
            digit.map(|d| d as u8).ok_or(ParseInfoHashError::Digit(at))
        };
        let mut bytes = [0; 20];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = digit(2 * at)? << 4 | digit(2 * at + 1)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 40];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a peer calls itself (BEP 20): eight bytes of client and version by convention, then noise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

/// Printable ASCII as it is, every other byte as `%xx`: a peer chooses these bytes, and a log line is no place for its
/// control characters.
impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.0 {
            if byte.is_ascii_graphic() && byte != b'%' {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_hash_survives_its_text() {
        let text = "00112233445566778899aabbccddeeff01234567";
        let hash: InfoHash = text.parse().unwrap();
        assert_eq!(hash.0[..3], [0x00, 0x11, 0x22]);
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(hash));
    }

    #[test]
    fn a_text_that_is_no_info_hash_is_refused() {
        assert_eq!("0011".parse::<InfoHash>(), Err(ParseInfoHashError::Length(4)));
        let text = "0011223344556677889+aabbccddeeff01234567";
        assert_eq!(text.parse::<InfoHash>(), Err(ParseInfoHashError::Digit(19)));
        // Forty bytes, but not forty characters.
        assert!("é".repeat(20).parse::<InfoHash>().is_err());
    }

    #[test]
    fn a_peer_id_shows_no_control_character() {
        let id = PeerId(*b"-bt\x1b[31m-%\n\x00 abcdefg");
        assert_eq!(id.to_string(), "-bt%1b[31m-%25%0a%00%20abcdefg");
    }
}
