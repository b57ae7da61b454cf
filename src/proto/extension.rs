//! The handshake of the extension protocol (BEP 10): which extensions a peer speaks and under which numbers, and a few
//! facts about it.
//!
//! Read field by field: one field that makes no sense is as if it were not there. What is not bencode at all, or no
//! dictionary, is an error. The messages of the extensions themselves have their own modules.

use std::net::IpAddr;

use serde::Serialize;
use serde_bytes::ByteBuf;

use super::bencode::{self, Dict, Limits, Value};
use super::path::is_misleading;

/// The number of the handshake among extended messages.
pub const HANDSHAKE_ID: u8 = 0;

/// How much of a peer's name for itself is kept.
pub const CLIENT_LEN_MAX: usize = 64;

/// What one side says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtensionHandshake {
    /// The numbers under which the sender wants to be sent its extensions.
    pub m: Extensions,
    /// The sender's program and version, cleaned and shortened to [`CLIENT_LEN_MAX`] bytes.
    pub v: Option<String>,
    /// How many requests the sender keeps in its request queue.
    pub reqq: Option<u32>,
    /// Whether the sender will not download (BEP 21).
    pub upload_only: bool,
    /// The receiver's address as the sender sees it.
    pub yourip: Option<IpAddr>,
    /// The port the sender listens at.
    pub p: Option<u16>,
    /// The length of the `info` dictionary (BEP 9).
    pub metadata_size: Option<u32>,
}

/// The extensions that btd has a name for, by the number the sender of the handshake gave them; 0 is "not spoken".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Metadata exchange (BEP 9).
    pub ut_metadata: u8,
    /// Peer exchange (BEP 11).
    pub ut_pex: u8,
    /// Changes of `upload_only` (BEP 21).
    pub upload_only: u8,
    /// A piece that is gone (BEP 54).
    pub lt_donthave: u8,
}

/// Why a handshake cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not bencode, or too much of it.
    #[error("broken bencode: {0}")]
    Bencode(#[from] bencode::Error),
    /// It is bencode, but no dictionary.
    #[error("not a dictionary")]
    NotADictionary,
}

#[derive(Serialize)]
struct Fields<'a> {
    m: Names,
    metadata_size: Option<u32>,
    p: Option<u16>,
    reqq: Option<u32>,
    upload_only: Option<u8>,
    v: Option<&'a str>,
    yourip: Option<ByteBuf>,
}

#[derive(Serialize)]
struct Names {
    lt_donthave: Option<u8>,
    upload_only: Option<u8>,
    ut_metadata: Option<u8>,
    ut_pex: Option<u8>,
}

impl ExtensionHandshake {
    /// Puts the payload of the handshake's message behind what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let id = |id: u8| (id != 0).then_some(id);
        let fields = Fields {
            m: Names {
                lt_donthave: id(self.m.lt_donthave),
                upload_only: id(self.m.upload_only),
                ut_metadata: id(self.m.ut_metadata),
                ut_pex: id(self.m.ut_pex),
            },
            metadata_size: self.metadata_size,
            p: self.p,
            reqq: self.reqq,
            upload_only: self.upload_only.then_some(1),
            v: self.v.as_deref(),
            yourip: self.yourip.map(|ip| match ip {
                IpAddr::V4(ip) => ByteBuf::from(ip.octets()),
                IpAddr::V6(ip) => ByteBuf::from(ip.octets()),
            }),
        };
        let bytes = serde_bencode::to_bytes(&fields).expect("strings, numbers and structures have a bencode form");
        out.extend_from_slice(&bytes);
    }

    /// Reads the payload of the handshake's message.
    pub fn decode(payload: &[u8]) -> Result<Self, Error> {
        let mut read = Self::default();
        read.update(payload)?;
        Ok(read)
    }

    /// Takes a later handshake in, which changes what it names and nothing else (BEP 10).
    ///
    /// # Errors
    /// As [`ExtensionHandshake::decode`]; nothing is changed then.
    pub fn update(&mut self, payload: &[u8]) -> Result<(), Error> {
        let scanned = bencode::scan(payload, Limits::MESSAGE)?;
        let dict = scanned.value.as_dict().ok_or(Error::NotADictionary)?;
        for (key, value) in dict {
            match key {
                b"m" => value.as_dict().into_iter().for_each(|dict| self.m.update(dict)),
                b"v" => self.v = value.as_bytes().and_then(clean),
                b"reqq" => self.reqq = positive(value),
                b"upload_only" => self.upload_only = value.as_int().is_some_and(|flag| flag != 0),
                b"yourip" => self.yourip = value.as_bytes().and_then(address),
                b"p" => self.p = positive(value),
                b"metadata_size" => self.metadata_size = positive(value),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Extensions {
    /// The numbers we give out.
    pub const OURS: Self = Self {
        ut_metadata: 0,
        ut_pex: 0,
        upload_only: 1,
        lt_donthave: 0,
    };

    fn update(&mut self, dict: Dict<'_>) {
        for (name, value) in dict {
            let place = match name {
                b"ut_metadata" => &mut self.ut_metadata,
                b"ut_pex" => &mut self.ut_pex,
                b"upload_only" => &mut self.upload_only,
                b"lt_donthave" => &mut self.lt_donthave,
                _ => continue,
            };
            *place = positive(value).unwrap_or(0);
        }
    }
}

fn positive<T: TryFrom<i64>>(value: Value<'_>) -> Option<T> {
    let number = value.as_int().filter(|number| *number > 0)?;
    T::try_from(number).ok()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A peer's name for itself as one short line: what is no text or would move a terminal's cursor becomes a `?`.
fn clean(bytes: &[u8]) -> Option<String> {
    let mut name = String::new();
    // No character takes more than four bytes, so this is enough of them.
    for character in String::from_utf8_lossy(&bytes[..bytes.len().min(CLIENT_LEN_MAX * 4)]).chars() {
        let character = match character {
            char::REPLACEMENT_CHARACTER => '?',
            c if is_misleading(c) => '?',
            c => c,
        };
        if name.len() + character.len_utf8() > CLIENT_LEN_MAX {
            break;
        }
        name.push(character);
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ours() -> ExtensionHandshake {
        ExtensionHandshake {
            m: Extensions {
                ut_metadata: 2,
                ut_pex: 0,
                upload_only: 3,
                lt_donthave: 7,
            },
            v: Some("btd 0.1.0".into()),
            reqq: Some(2048),
            upload_only: true,
            yourip: Some(Ipv4Addr::new(127, 0, 0, 1).into()),
            p: Some(6881),
            metadata_size: Some(31235),
        }
    }

    #[test]
    fn a_handshake_survives_its_bytes() {
        for yourip in [None, Some(IpAddr::from(Ipv6Addr::LOCALHOST)), ours().yourip] {
            let handshake = ExtensionHandshake { yourip, ..ours() };
            let mut bytes = Vec::new();
            handshake.encode(&mut bytes);
            assert_eq!(ExtensionHandshake::decode(&bytes), Ok(handshake));
        }
    }

    #[test]
    fn a_handshake_has_the_bytes_of_bep_10() {
        let mut bytes = Vec::new();
        ExtensionHandshake { yourip: None, ..ours() }.encode(&mut bytes);
        let m = "1:md11:lt_donthavei7e11:upload_onlyi3e11:ut_metadatai2ee";
        let rest = "13:metadata_sizei31235e1:pi6881e4:reqqi2048e11:upload_onlyi1e1:v9:btd 0.1.0";
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("d{m}{rest}e"));
    }

    #[test]
    fn an_empty_handshake_says_nothing() {
        assert_eq!(ExtensionHandshake::decode(b"de"), Ok(ExtensionHandshake::default()));
        let mut bytes = Vec::new();
        ExtensionHandshake::default().encode(&mut bytes);
        assert_eq!(bytes, b"d1:mdee");
    }

    #[test]
    fn a_field_that_makes_no_sense_is_as_if_it_were_not_there() {
        let odd = b"d1:mi1e13:metadata_sizei-1e1:pi65536e4:reqqi0e11:upload_only1:x1:vi3e6:yourip3:abce";
        assert_eq!(ExtensionHandshake::decode(odd), Ok(ExtensionHandshake::default()));
        let ids = ExtensionHandshake::decode(b"d1:md6:ut_pexi256e11:upload_onlyi-1e11:ut_metadatai9eee")
            .unwrap()
            .m;
        assert_eq!(
            ids,
            Extensions {
                ut_metadata: 9,
                ..Extensions::default()
            }
        );
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        assert_eq!(ExtensionHandshake::decode(b"le"), Err(Error::NotADictionary));
        assert!(matches!(ExtensionHandshake::decode(b"d1:m"), Err(Error::Bencode(_))));
        assert!(matches!(
            ExtensionHandshake::decode(&[b'l'; 40]),
            Err(Error::Bencode(_))
        ));
    }

    #[test]
    fn a_client_name_is_short_and_harmless() {
        assert_eq!(clean(b"a\x1b[2J\nb\xffc").as_deref(), Some("a?[2J?b?c"));
        assert_eq!(clean(b""), None);
        let long = clean("é".repeat(200).as_bytes()).unwrap();
        assert_eq!(long, "é".repeat(32));
    }
}
