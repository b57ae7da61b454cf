//! What trackers say to each other: a compact form of a [`Batch`], cut into messages of bounded length.
//!
//! ```text
//! message: "btd" 1 | sender: 16 | unit: u32, ms | swarm...
//! swarm:   info-hash: 20 | completions in all, 0 if not said: u32 | count: u16 | peer * count
//! peer:    flags: 1 | address: 6 or 18 | how long ago that was: 1, in units | if named: length: 1, name
//! ```
//! Numbers are big-endian. A message is looked through to its end before any of it is used: one that is malformed anywhere is
//! refused as a whole, since whoever made it is not what it says.

use super::batch::{Batch, Change, To};
use crate::proto::InfoHash;
use crate::tracker::address::Address;
use crate::tracker::hostname::HOSTNAME_LEN_MAX;

/// The longest message, in bytes.
pub const MESSAGE_LEN_MAX: usize = 32 << 10;

/// Who says it: another number for each start of a tracker.
pub type SenderId = [u8; 16];

const MAGIC: &[u8; 4] = b"btd\x01";
const HEADER_LEN: usize = 4 + 16 + 4;
const SWARM_HEADER_LEN: usize = 20 + 4 + 2;
/// An IPv6 peer with the longest name.
const PEER_LEN_MAX: usize = 1 + 18 + 1 + 1 + HOSTNAME_LEN_MAX;
const _: () = assert!(HEADER_LEN + SWARM_HEADER_LEN + PEER_LEN_MAX <= MESSAGE_LEN_MAX);

const SEEDER: u8 = 1;
const V6: u8 = 1 << 1;
const LEFT: u8 = 1 << 2;
const COMPLETION: u8 = 1 << 3;
const NAMED: u8 = 1 << 4;
const FLAGS: u8 = SEEDER | V6 | LEFT | COMPLETION | NAMED;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// It does not begin as one.
    #[error("not a message of btd, or of another version")]
    Foreign,
    /// It is longer than any.
    #[error("message of {0} bytes, at most {MESSAGE_LEN_MAX} accepted")]
    TooLong(usize),
    /// It ends too early.
    #[error("message is cut off after {0} bytes")]
    CutOff(usize),
    /// There is something in it that means nothing.
    #[error("message has flags {0:#x}, of which some are unknown or contradict each other")]
    Flags(u8),
    /// A peer would live for no time.
    #[error("message counts in units of 0 ms")]
    Unit,
}

/// A message that was looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) sender: SenderId,
    /// How long a unit of age is, in milliseconds.
    pub(super) unit_ms: u32,
    swarms: &'a [u8],
}

/// A torrent in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SwarmHeader {
    pub(super) info_hash: InfoHash,
    pub(super) downloaded: u32,
    count: u16,
}

/// A peer in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) address: Address,
    pub(super) name: Option<&'a [u8]>,
    pub(super) to: To,
}

/// Reads from the front of bytes.
struct Fields<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Fields<'a> {
    fn take<const LEN: usize>(&mut self) -> Result<&'a [u8; LEN], BadMessage> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(BadMessage::CutOff(self.whole))?;
        self.rest = rest;
        Ok(field)
    }

    fn swarm(&mut self) -> Result<SwarmHeader, BadMessage> {
        Ok(SwarmHeader {
            info_hash: InfoHash(*self.take()?),
            downloaded: u32::from_be_bytes(*self.take()?),
            count: u16::from_be_bytes(*self.take()?),
        })
    }

    fn record(&mut self) -> Result<Record<'a>, BadMessage> {
        let [flags] = *self.take()?;
        let is = |flag| flags & flag != 0;
        if flags & !FLAGS != 0 || is(LEFT) && (is(SEEDER) || is(COMPLETION)) {
            return Err(BadMessage::Flags(flags));
        }
        let address = if is(V6) {
            Address::V6(*self.take()?)
        } else {
            Address::V4(*self.take()?)
        };
        let [age] = *self.take()?;
        let name = if is(NAMED) {
            let [len] = *self.take()?;
            let (name, rest) = self
                .rest
                .split_at_checked(len.into())
                .ok_or(BadMessage::CutOff(self.whole))?;
            self.rest = rest;
            Some(name)
        } else {
            None
        };
        let to = if is(LEFT) {
            To::Left { age }
        } else {
            To::Joined {
                is_seeder: is(SEEDER),
                is_completion: is(COMPLETION),
                age,
            }
        };
        Ok(Record { address, name, to })
    }
}

impl<'a> Message<'a> {
    /// Looks through bytes.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BadMessage> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(BadMessage::TooLong(bytes.len()));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(BadMessage::Foreign)?;
        let mut fields = Fields {
            rest,
            whole: bytes.len(),
        };
        let sender = *fields.take()?;
        let unit_ms = u32::from_be_bytes(*fields.take()?);
        if unit_ms == 0 {
            return Err(BadMessage::Unit);
        }
        let swarms = fields.rest;
        while !fields.rest.is_empty() {
            for _ in 0..fields.swarm()?.count {
                fields.record()?;
            }
        }
        Ok(Self {
            sender,
            unit_ms,
            swarms,
        })
    }

    /// Tells each torrent and then each of its peers.
    pub(super) fn visit(&self, mut visit: impl FnMut(&SwarmHeader, Option<Record<'a>>)) {
        let looked_through = "the message was looked through";
        let mut fields = Fields {
            rest: self.swarms,
            whole: self.swarms.len(),
        };
        while !fields.rest.is_empty() {
            let swarm = fields.swarm().expect(looked_through);
            visit(&swarm, None);
            for _ in 0..swarm.count {
                visit(&swarm, Some(fields.record().expect(looked_through)));
            }
        }
    }
}

/// The messages that say what a batch says, from `sender`, whose unit of age is so many milliseconds.
#[must_use]
pub fn encode(batch: &Batch, sender: &SenderId, unit_ms: u32) -> Vec<Vec<u8>> {
    let begin = || [&MAGIC[..], sender, &unit_ms.max(1).to_be_bytes()].concat();
    let mut messages = Vec::new();
    let mut message = begin();
    for (info_hash, swarm) in &batch.swarms {
        let mut left = swarm.peers.iter().peekable();
        // Torrents of which there is nothing to be said but a count are said once.
        let mut is_begun = swarm.peers.is_empty() && swarm.downloaded == 0;
        while left.peek().is_some() || !is_begun {
            is_begun = true;
            if message.len() + SWARM_HEADER_LEN + PEER_LEN_MAX > MESSAGE_LEN_MAX {
                messages.push(std::mem::replace(&mut message, begin()));
            }
            message.extend_from_slice(&info_hash.0);
            message.extend_from_slice(&swarm.downloaded.to_be_bytes());
            let count_at = message.len();
            message.extend_from_slice(&[0; 2]);
            let mut count = 0_u16;
            while message.len() + PEER_LEN_MAX <= MESSAGE_LEN_MAX
                && let Some((address, change)) = left.next()
            {
                put_record(&mut message, address, change);
                count += 1; // A message of bytes that a u16 counts has fewer peers than that.
            }
            message[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }
    if message.len() > HEADER_LEN {
        messages.push(message);
    }
    messages
}

fn put_record(out: &mut Vec<u8>, address: &Address, change: &Change) {
    let name = change.name.as_deref().filter(|name| name.len() <= HOSTNAME_LEN_MAX);
    let (of_change, age) = match change.to {
        To::Joined {
            is_seeder,
            is_completion,
            age,
        } => {
            let of_seeder = if is_seeder { SEEDER } else { 0 };
            let of_completion = if is_completion { COMPLETION } else { 0 };
            (of_seeder | of_completion, age)
        }
        To::Left { age } => (LEFT, age),
    };
    let of_address = match address {
        Address::V4(_) => 0,
        Address::V6(_) => V6,
    };
    out.push(of_change | of_address | name.map_or(0, |_| NAMED));
    out.extend_from_slice(address.bytes());
    out.push(age);
    if let Some(name) = name {
        out.push(name.len() as u8); // At most 253.
        out.extend_from_slice(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENDER: SenderId = *b"0123456789abcdef";

    fn read(messages: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::default();
        for message in messages {
            let message = Message::parse(message).expect("a message");
            assert_eq!((message.sender, message.unit_ms), (SENDER, 18_750));
            message.visit(|swarm, record| match record {
                None => batch.set_downloaded(swarm.info_hash, swarm.downloaded),
                Some(Record { address, name, to }) => batch.add_known(swarm.info_hash, address, name, to),
            });
        }
        batch
    }

    fn batch() -> impl Strategy<Value = Batch> {
        let address = prop_oneof![
            any::<[u8; 6]>().prop_map(Address::V4),
            any::<[u8; 18]>().prop_map(Address::V6)
        ];
        let to = prop_oneof![
            1 => any::<u8>().prop_map(|age| To::Left { age }),
            4 => any::<(bool, bool, u8)>().prop_map(|(is_seeder, is_completion, age)| To::Joined {
                is_seeder,
                is_completion,
                age,
            }),
        ];
        let name = prop::option::weighted(0.3, prop::collection::vec(any::<u8>(), 1..=HOSTNAME_LEN_MAX));
        let peers = prop::collection::vec((address, name, to), 0..300);
        let swarms = prop::collection::btree_map(any::<[u8; 20]>(), (peers, 1_u32..9), 0..6);
        swarms.prop_map(|swarms| {
            let mut batch = Batch::default();
            for (info_hash, (peers, downloaded)) in swarms {
                let info_hash = InfoHash(info_hash);
                batch.set_downloaded(info_hash, downloaded);
                for (address, name, to) in peers {
                    batch.add_known(info_hash, address, name.as_deref(), to);
                }
            }
            batch
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn messages_say_what_the_batch_says_and_none_is_too_long(batch in batch()) {
            let messages = encode(&batch, &SENDER, 18_750);
            prop_assert!(messages.iter().all(|message| message.len() <= MESSAGE_LEN_MAX));
            prop_assert_eq!(read(&messages), batch);
        }

        #[test]
        fn a_message_with_a_few_bytes_changed_is_read_or_refused(
            batch in batch(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            len in any::<prop::sample::Index>(),
        ) {
            for mut message in encode(&batch, &SENDER, 18_750) {
                for (at, byte) in &changes {
                    let at = at.index(message.len());
                    message[at] = *byte;
                }
                for bytes in [&message[..], &message[..len.index(message.len())]] {
                    if let Ok(message) = Message::parse(bytes) {
                        message.visit(|_, _| {});
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [bytes.clone(), [&MAGIC[..], &SENDER, &[0, 0, 0, 1], &bytes].concat()] {
                if let Ok(message) = Message::parse(&bytes) {
                    message.visit(|_, _| {});
                }
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_reason() {
        let header = [&MAGIC[..], &SENDER, &[0, 0, 0, 1]].concat();
        assert!(Message::parse(&header).is_ok());
        let unit = [&MAGIC[..], &SENDER, &[0, 0, 0, 0]].concat();
        assert_eq!(Message::parse(&unit), Err(BadMessage::Unit));
        assert_eq!(Message::parse(b"btd\x02"), Err(BadMessage::Foreign));
        assert_eq!(Message::parse(&header[..23]), Err(BadMessage::CutOff(23)));
        let long = vec![0; MESSAGE_LEN_MAX + 1];
        assert_eq!(Message::parse(&long), Err(BadMessage::TooLong(MESSAGE_LEN_MAX + 1)));
        for flags in [LEFT | SEEDER, 1 << 7] {
            let swarm = [
                &header[..],
                &[7; 20],
                &[0, 0, 0, 0, 0, 1],
                &[flags, 1, 2, 3, 4, 5, 6, 0],
            ]
            .concat();
            assert_eq!(Message::parse(&swarm), Err(BadMessage::Flags(flags)));
        }
    }

    #[test]
    fn a_batch_that_says_nothing_is_no_message() {
        assert!(encode(&Batch::default(), &SENDER, 1).is_empty());
    }
}
