//! Crowds of peers that mean harm, one manner after the other, each beside honest peers that must hardly notice, and each within
//! bounds: what btd's memory grows by, who is dropped, when, and under which name that is counted.
//!
//! One peer of each kind is what `hostile_peers` has; here it is many at once. `BTD_TEST_CROWD=5` makes each crowd five times as
//! large: `BTD_TEST_CROWD=5 cargo nextest run --test hostile_crowds` holds ten thousand that never finish their handshake.

mod support;

use std::io;
use std::net::Ipv4Addr;

use btd::proto::handshake::Reserved;
use btd::proto::wire::{self, Message};
use support::crowd::{BLOCK_LEN, Bounds, Crowd, Member, PIECE_COUNT, PIECE_LEN, Place, Then, stands};
use support::peer::{Peer, hello};

const PLAIN: Reserved = Reserved([0; 8]);
const KIB: u64 = 1 << 10;

fn connect(place: &Place, from: Ipv4Addr) -> io::Result<Peer> {
    Peer::connect(place.server, from)
}

fn begin_handshake(place: &Place, from: Ipv4Addr) -> io::Result<Peer> {
    let mut peer = connect(place, from)?;
    peer.send(&hello(place.info_hash, PLAIN)[..20])?;
    Ok(peer)
}

fn join(place: &Place, from: Ipv4Addr) -> io::Result<Peer> {
    Peer::join(place.server, from, place.info_hash, PLAIN)
}

fn join_unchoked(place: &Place, from: Ipv4Addr) -> io::Result<Peer> {
    let mut peer = join(place, from)?;
    peer.hear_id(1)?;
    Ok(peer)
}

fn join_fast_unchoked(place: &Place, from: Ipv4Addr) -> io::Result<Peer> {
    let mut peer = Peer::join(place.server, from, place.info_hash, Reserved([0, 0, 0, 0, 0, 0, 0, 4]))?;
    peer.hear_id(1)?;
    Ok(peer)
}

/// A byte now and then, as if more were to come.
fn trickle(member: &mut Member) -> io::Result<()> {
    member.drain()?;
    member.push_each_second(&[0])
}

fn keep_alive(member: &mut Member) -> io::Result<()> {
    member.push_each_second(&[0; 4])?;
    member.drain()
}

fn encoded(messages: impl IntoIterator<Item = Message<'static>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages
        .into_iter()
        .for_each(|message| wire::encode(&message, &mut bytes));
    bytes
}

fn block(number: u32) -> (u32, u32) {
    let per_piece = PIECE_LEN / BLOCK_LEN;
    (number / per_piece % PIECE_COUNT, number % per_piece * BLOCK_LEN)
}

fn request(number: u32) -> Message<'static> {
    let ((piece, begin), length) = (block(number), BLOCK_LEN);
    Message::Request { piece, begin, length }
}

fn cancel(number: u32) -> Message<'static> {
    let ((piece, begin), length) = (block(number), BLOCK_LEN);
    Message::Cancel { piece, begin, length }
}

/// Two thousand blocks, 31 MiB, of which it takes nothing.
fn ask_once_and_never_read(member: &mut Member) -> io::Result<()> {
    match member.round {
        1 => member.push(&encoded((0..2_000).map(request))),
        // Whether it was dropped can be learnt by writing alone.
        _ => member.push_each_second(&[0; 4]),
    }
}

/// The same block so often that no queue would hold it: 50,000 requests at once, and none of the answers wanted.
fn ask_for_one_block_without_end(member: &mut Member) -> io::Result<()> {
    if member.has_said_all() {
        member.push(&encoded((0..50_000).map(|_| request(7))))?;
    }
    member.push(&[])
}

/// A queue that is all but full, and the last of it taken back and asked for again as fast as it goes.
fn take_back_from_a_full_queue(member: &mut Member) -> io::Result<()> {
    if member.has_said_all() {
        // As many as have been served meanwhile come again.
        let queue = (0..1_990).map(request);
        let pairs = (0..2_000).flat_map(|_| [request(2_000), cancel(2_000)]);
        return member.push(&encoded(queue.chain(pairs)));
    }
    member.push(&[])
}

fn take_back_and_read(member: &mut Member) -> io::Result<()> {
    take_back_from_a_full_queue(member)?;
    member.drain()
}

fn waver(member: &mut Member) -> io::Result<()> {
    if member.has_said_all() {
        let pairs = (0..2_000).flat_map(|_| [Message::NotInterested, Message::Interested]);
        member.push(&encoded(pairs))?;
    }
    member.push(&[])?;
    member.drain()
}

/// Every piece but one, over and over.
fn have_without_end(member: &mut Member) -> io::Result<()> {
    if member.has_said_all() {
        let haves = (0..4_000).map(|number| Message::Have(number % (PIECE_COUNT - 1)));
        member.push(&encoded(haves))?;
    }
    member.push(&[])?;
    member.drain()
}

fn say_too_much(member: &mut Member) -> io::Result<()> {
    member.push(&[0x7f, 0xff, 0xff, 0xff, 20])?;
    member.drain()
}

fn speak_http(member: &mut Member) -> io::Result<()> {
    member.push(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")?;
    member.drain()
}

/// What a connection in its handshake costs: itself and what the kernel was asked to do for it.
const HANDSHAKE_EACH: u64 = 4 * KIB;

#[test]
fn two_thousand_that_never_end_their_handshake_are_dropped_after_ten_seconds() {
    stands(&Crowd {
        name: "crowd-handshakes",
        count: 2_000,
        together: false,
        come: begin_handshake,
        again: trickle,
        bounds: Bounds {
            memory_each: HANDSHAKE_EACH,
            then: Then::AllDropped {
                reason: "handshake_timeout",
                seconds: (9, 30),
            },
        },
    });
}

#[test]
fn two_thousand_that_say_nothing_but_that_they_live_cost_four_kib_each() {
    stands(&Crowd {
        name: "crowd-idle",
        count: 2_000,
        together: false,
        come: join,
        again: keep_alive,
        bounds: Bounds {
            memory_each: 4 * KIB,
            then: Then::Stay,
        },
    });
}

#[test]
fn two_hundred_that_ask_and_never_read_are_dropped_after_a_minute() {
    stands(&Crowd {
        name: "crowd-deaf",
        count: 200,
        together: false,
        come: join_unchoked,
        again: ask_once_and_never_read,
        bounds: Bounds {
            // Their requests, and what is being sent. Not the blocks: those lie in the cache.
            memory_each: 64 * KIB,
            then: Then::AllDropped {
                reason: "stalled",
                seconds: (55, 90),
            },
        },
    });
}

#[test]
fn those_that_ask_for_one_block_without_end_are_dropped_as_a_flood() {
    stands(&Crowd {
        name: "crowd-flood",
        count: 20,
        together: false,
        come: join_unchoked,
        again: ask_for_one_block_without_end,
        bounds: Bounds {
            memory_each: 1_100 * KIB,
            then: Then::DroppedAgainAndAgain {
                reason: "request_flood",
                times: 40,
            },
        },
    });
}

#[test]
fn those_that_take_back_what_they_ask_for_as_fast_as_it_goes_hold_up_nobody() {
    stands(&Crowd {
        name: "crowd-cancel",
        count: 20,
        together: false,
        come: join_unchoked,
        again: take_back_from_a_full_queue,
        bounds: Bounds {
            memory_each: 1_100 * KIB,
            then: Then::Stay,
        },
    });
}

/// The same with the fast extension, of which each cancel is answered, and the answers are read.
#[test]
fn those_that_take_back_what_they_ask_for_and_read_the_rejects_hold_up_nobody() {
    stands(&Crowd {
        name: "crowd-cancel-fast",
        count: 20,
        together: false,
        come: join_fast_unchoked,
        again: take_back_and_read,
        bounds: Bounds {
            // What it says is held, and the rejects wait: 1.5 MB by count. 3 to 6 MB were seen, of which the rest seems to be
            // what the allocator keeps of what grows and goes. Not understood yet; here is what would be a leak.
            memory_each: 12_000 * KIB,
            then: Then::Stay,
        },
    });
}

#[test]
fn those_that_waver_hold_up_nobody() {
    stands(&Crowd {
        name: "crowd-waver",
        count: 50,
        together: false,
        come: join,
        again: waver,
        bounds: Bounds {
            memory_each: 600 * KIB,
            then: Then::Stay,
        },
    });
}

#[test]
fn those_that_say_what_they_have_without_end_hold_up_nobody() {
    stands(&Crowd {
        name: "crowd-haves",
        count: 50,
        together: false,
        come: join,
        again: have_without_end,
        bounds: Bounds {
            memory_each: 600 * KIB,
            then: Then::Stay,
        },
    });
}

#[test]
fn those_that_come_back_as_soon_as_they_are_dropped_leave_nothing_behind() {
    stands(&Crowd {
        name: "crowd-again",
        count: 50,
        together: false,
        come: join,
        again: say_too_much,
        bounds: Bounds {
            memory_each: 16 * KIB,
            then: Then::DroppedAgainAndAgain {
                reason: "message_too_long",
                times: 2_000,
            },
        },
    });
}

#[test]
fn those_of_another_protocol_that_come_back_at_once_leave_nothing_behind() {
    stands(&Crowd {
        name: "crowd-http",
        count: 50,
        together: false,
        come: connect,
        again: speak_http,
        bounds: Bounds {
            memory_each: 16 * KIB,
            then: Then::DroppedAgainAndAgain {
                reason: "not_a_handshake",
                times: 2_000,
            },
        },
    });
}

/// The default of `max-connections-per-ip`.
#[test]
fn three_hundred_of_one_address_have_sixty_four_connections() {
    stands(&Crowd {
        name: "crowd-one-address",
        count: 300,
        together: true,
        come: join,
        again: keep_alive,
        bounds: Bounds {
            memory_each: 16 * KIB,
            then: Then::TurnedAway { let_in: 64 },
        },
    });
}
