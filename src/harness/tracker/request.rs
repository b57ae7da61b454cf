//! What the load says: requests as clients make them (BEP 3, 15, 23), and requests as nobody should.

use std::io::Write as _;

use super::work::Event;
use crate::harness::random::Random;
use crate::proto::InfoHash;

/// What a connect request has for a connection id (BEP 15).
pub(super) const PROTOCOL_ID: u64 = 0x417_2710_1980;
pub(super) const CONNECT: u32 = 0;
pub(super) const ANNOUNCE: u32 = 1;
pub(super) const SCRAPE: u32 = 2;

/// How many kinds of malformed requests there are.
const DATAGRAM_KINDS: u32 = 9;
const HTTP_KINDS: u32 = 11;

/// One announce, whatever it travels by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announce<'a> {
    pub(super) info_hash: &'a InfoHash,
    /// The peer's number: its id and its key.
    pub(super) peer: u32,
    pub(super) port: u16,
    pub(super) seeder: bool,
    pub(super) event: Event,
    pub(super) numwant: u32,
}

impl Announce<'_> {
    fn left(&self) -> u64 {
        if self.seeder || self.event == Event::Completed {
            0
        } else {
            1 << 20
        }
    }

    fn peer_id(&self) -> [u8; 20] {
        let mut id = *b"-BB0001-000000000000";
        write!(&mut id[8..], "{:012x}", self.peer).expect("twelve digits");
        id
    }
}

fn head(out: &mut Vec<u8>, connection_id: u64, action: u32, transaction: u32) {
    out.clear();
    out.extend_from_slice(&connection_id.to_be_bytes());
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}

/// Makes a request for a connection id.
pub(super) fn udp_connect(out: &mut Vec<u8>, transaction: u32) {
    head(out, PROTOCOL_ID, CONNECT, transaction);
}

/// Makes an announce of 98 bytes.
pub(super) fn udp_announce(out: &mut Vec<u8>, connection_id: u64, transaction: u32, announce: &Announce<'_>) {
    head(out, connection_id, ANNOUNCE, transaction);
    out.extend_from_slice(&announce.info_hash.0);
    out.extend_from_slice(&announce.peer_id());
    for amount in [0, announce.left(), 0] {
        out.extend_from_slice(&amount.to_be_bytes());
    }
    let event: u32 = match announce.event {
        Event::None => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    // The address is the one that it comes from.
    for field in [event, 0, announce.peer, announce.numwant] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(&announce.port.to_be_bytes());
}

/// Makes a scrape of these torrents.
pub(super) fn udp_scrape<'a>(
    out: &mut Vec<u8>,
    connection_id: u64,
    transaction: u32,
    torrents: impl Iterator<Item = &'a InfoHash>,
) {
    head(out, connection_id, SCRAPE, transaction);
    torrents.for_each(|torrent| out.extend_from_slice(&torrent.0));
}

/// Makes a GET of an announce, for a compact reply. `close` asks for the connection to end with it.
pub(super) fn http_announce(out: &mut Vec<u8>, announce: &Announce<'_>, close: bool) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.clear();
    out.extend_from_slice(b"GET /announce?info_hash=");
    for byte in announce.info_hash.0 {
        let [high, low] = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
        out.extend_from_slice(&[b'%', high, low]);
    }
    out.extend_from_slice(b"&peer_id=");
    out.extend_from_slice(&announce.peer_id());
    let event = match announce.event {
        Event::None => "",
        Event::Completed => "&event=completed",
        Event::Started => "&event=started",
        Event::Stopped => "&event=stopped",
    };
    let close = if close { "Connection: close\r\n" } else { "" };
    write!(
        out,
        "&port={}&uploaded=0&downloaded=0&left={}&compact=1&numwant={}&key={:08x}{event} HTTP/1.1\r\nHost: tracker\r\n{close}\r\n",
        announce.port,
        announce.left(),
        announce.numwant,
        announce.peer,
    )
    .expect("a vector takes everything");
}

/// Makes a datagram that no tracker should like. True says that it proves its source by a good connection id: then it may be told
/// what is wrong at any length, otherwise at no more than its own. `transaction` is made of that and the length.
pub(super) fn junk_datagram(
    out: &mut Vec<u8>,
    random: &mut Random,
    connection_id: u64,
    good: &Announce<'_>,
    transaction: impl Fn(bool, usize) -> u32,
) -> bool {
    let forged = random.next_u64();
    let cut = |random: &mut Random, below: u32| random.below(below) as usize;
    let proven = match random.below(DATAGRAM_KINDS) {
        // Too short for anything.
        0 => {
            udp_connect(out, 0);
            out.truncate(cut(random, 16));
            false
        }
        // Noise.
        1 => {
            let len = 16 + cut(random, 1384);
            out.clear();
            out.extend((0..len).map(|_| random.next_u64() as u8));
            false
        }
        // A connect without its magic number.
        2 => {
            head(out, forged, CONNECT, 0);
            false
        }
        // An announce, and a scrape, whose source proves nothing.
        3 => {
            udp_announce(out, forged, 0, good);
            false
        }
        4 => {
            udp_scrape(out, forged, 0, std::iter::repeat_n(good.info_hash, 50));
            false
        }
        // Cut off.
        5 => {
            udp_announce(out, connection_id, 0, good);
            out.truncate(16 + cut(random, 82));
            true
        }
        // A scrape of 19 bytes.
        6 => {
            udp_scrape(out, connection_id, 0, std::iter::once(good.info_hash));
            out.truncate(16 + 19);
            true
        }
        // No such action.
        7 => {
            head(out, connection_id, 4 + random.below(u32::MAX - 4), 0);
            true
        }
        // No such port.
        _ => {
            udp_announce(out, connection_id, 0, &Announce { port: 0, ..*good });
            true
        }
    };
    let transaction = transaction(proven, out.len()).to_be_bytes();
    if let Some(field) = out.get_mut(12..16) {
        field.copy_from_slice(&transaction);
    }
    proven
}

/// Makes an HTTP request that no tracker should like, whole as far as its head goes.
pub(super) fn junk_http(out: &mut Vec<u8>, random: &mut Random) {
    out.clear();
    let hash = "%aa".repeat(20);
    let rest = "peer_id=-BB0001-000000000000&left=1&compact=1";
    let get = |query: String| format!("GET /announce?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n");
    let text = match random.below(HTTP_KINDS) {
        0 => get(format!("{rest}&port=1000")),
        1 => get(format!("info_hash={}&{rest}&port=1000", "%aa".repeat(19))),
        2 => get(format!("info_hash={}&{rest}&port=1000", "%aa".repeat(21))),
        3 => get(format!("info_hash={}&{rest}&port=1000", "%zz".repeat(20))),
        4 => get(format!("info_hash={hash}&{rest}&port=0")),
        5 => get(format!("info_hash={hash}&{rest}&port=99999")),
        6 => get(format!("info_hash={hash}&{rest}&port=1000{}", "&a=b".repeat(2_500))),
        7 => format!(
            "POST /announce?info_hash={hash} HTTP/1.1\r\nHost: tracker\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        ),
        8 => format!("GET /announce?info_hash={hash}\r\n\r\n"),
        9 => "GET /nowhere HTTP/1.1\r\nHost: tracker\r\n\r\n".to_owned(),
        _ => {
            out.extend((0..200).map(|_| random.next_u64() as u8));
            "\r\n\r\n".to_owned()
        }
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([0xab; 20]);

    fn announce(event: Event) -> Announce<'static> {
        Announce {
            info_hash: &HASH,
            peer: 0x1234,
            port: 6881,
            seeder: false,
            event,
            numwant: 50,
        }
    }

    #[test]
    fn an_announce_by_udp_has_each_field_where_bep_15_has_it() {
        let mut out = Vec::new();
        udp_announce(&mut out, 7, 9, &announce(Event::Started));
        assert_eq!(out.len(), 98);
        assert_eq!(out[..16], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(
            (&out[16..36], &out[36..56]),
            (&HASH.0[..], &b"-BB0001-000000001234"[..])
        );
        assert_eq!(out[64..72], (1_u64 << 20).to_be_bytes());
        assert_eq!((&out[80..84], &out[92..96]), (&[0, 0, 0, 2][..], &[0, 0, 0, 50][..]));
        assert_eq!(out[96..], 6881_u16.to_be_bytes());
        udp_announce(&mut out, 7, 9, &announce(Event::Completed));
        assert_eq!(
            (out[64..72].to_vec(), out[83]),
            (vec![0; 8], 1),
            "complete: nothing is left"
        );
    }

    #[test]
    fn an_announce_by_http_is_understood_by_a_parser_of_requests() {
        let mut out = Vec::new();
        http_announce(&mut out, &announce(Event::Stopped), true);
        let mut headers = [httparse::EMPTY_HEADER; 4];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&out).unwrap();
        assert_eq!(parsed, httparse::Status::Complete(out.len()));
        let path = request.path.unwrap();
        assert!(path.starts_with("/announce?info_hash=%ab%ab"), "{path}");
        assert!(
            path.ends_with("&left=1048576&compact=1&numwant=50&key=00001234&event=stopped"),
            "{path}"
        );
        assert!(
            request
                .headers
                .iter()
                .any(|h| h.name == "Connection" && h.value == b"close")
        );
        http_announce(&mut out, &announce(Event::None), false);
        assert!(!String::from_utf8(out).unwrap().contains("close"));
    }

    #[test]
    fn every_kind_of_junk_is_made_and_says_in_its_transaction_how_long_it_is() {
        let mut random = Random::new(3);
        let mut out = Vec::new();
        let (mut short, mut proofs) = (0, 0);
        for _ in 0..1_000 {
            let transaction = |proven: bool, len: usize| u32::from(proven) << 16 | len as u32;
            let proven = junk_datagram(&mut out, &mut random, 5, &announce(Event::None), transaction);
            proofs += u32::from(proven);
            assert!(out.len() <= 1400);
            match out.get(12..16) {
                Some(field) => assert_eq!(field, transaction(proven, out.len()).to_be_bytes()),
                None => short += 1,
            }
        }
        assert!(short > 50 && (300..600).contains(&proofs), "{short} {proofs}");
    }

    #[test]
    fn junk_requests_end_as_a_head_does_so_that_nobody_waits_for_more() {
        let (mut out, mut random) = (Vec::new(), Random::new(3));
        for _ in 0..200 {
            junk_http(&mut out, &mut random);
            assert!(out.ends_with(b"\r\n\r\n"));
        }
    }
}
