//! One fact each, with a peer of a torrent of ten pieces of two blocks.

use std::time::Duration;

use super::*;

const BLOCK: u32 = 16 * 1024;

fn geometry() -> Geometry {
    Geometry::new(2 * BLOCK, u64::from(20 * BLOCK)).unwrap()
}

struct Fixture {
    peer: Peer,
    now: Instant,
}

impl Fixture {
    /// A peer that offers what we do.
    fn new() -> Self {
        Self::with(Reserved::OURS)
    }

    /// A peer that offers nothing beyond BEP 3.
    fn plain() -> Self {
        Self::with(Reserved::default())
    }

    fn with(theirs: Reserved) -> Self {
        let now = Instant::now();
        Self {
            peer: Peer::new(Reserved::OURS, theirs, now),
            now,
        }
    }

    fn unchoked(mut self) -> Self {
        self.peer.unchoke(self.now);
        self
    }

    /// We have every piece but the last.
    fn says<'a>(&mut self, message: Message<'a>) -> Result<Event<'a>, Violation> {
        self.now += Duration::from_secs(1);
        self.peer
            .on_message(&message, &geometry(), |piece| piece.get() != 9, self.now)
    }

    fn asks(&mut self, piece: u32, block: u32) -> Result<Event<'static>, Violation> {
        self.says(Message::Request {
            piece,
            begin: block * BLOCK,
            length: BLOCK,
        })
    }
}

fn block(piece: u32, block: u32) -> BlockRequest {
    geometry().check(piece, block * BLOCK, BLOCK).unwrap()
}

#[test]
fn an_admitted_request_is_queued_in_order() {
    let mut peer = Fixture::new().unchoked();
    assert_eq!(peer.asks(3, 1), Ok(Event::Request(block(3, 1))));
    assert_eq!(peer.asks(2, 0), Ok(Event::Request(block(2, 0))));
    assert_eq!(peer.peer.request_count(), 2);
    assert_eq!(peer.peer.next_request(), Some(block(3, 1)));
    assert_eq!(peer.peer.front_request(), Some(&block(2, 0)));
    assert_eq!(peer.peer.next_request(), Some(block(2, 0)));
    assert_eq!(peer.peer.next_request(), None);
}

#[test]
fn a_request_while_choked_is_refused_and_not_queued() {
    let mut peer = Fixture::new();
    assert_eq!(
        peer.asks(0, 0),
        Ok(Event::Refused {
            request: block(0, 0),
            why: Refusal::Choked
        })
    );
    assert_eq!(peer.peer.request_count(), 0);
}

#[test]
fn a_request_for_a_piece_we_lack_is_refused() {
    let mut peer = Fixture::new().unchoked();
    assert_eq!(
        peer.asks(9, 0),
        Ok(Event::Refused {
            request: block(9, 0),
            why: Refusal::PieceNotHad
        })
    );
}

#[test]
fn a_request_that_is_queued_already_is_not_queued_again() {
    let mut peer = Fixture::new().unchoked();
    peer.asks(0, 0).unwrap();
    assert_eq!(peer.asks(0, 0), Ok(Event::Duplicate(block(0, 0))));
    assert_eq!(peer.peer.request_count(), 1);
    // Once it has left the queue it may be asked for again.
    peer.peer.next_request();
    assert_eq!(peer.asks(0, 0), Ok(Event::Request(block(0, 0))));
}

#[test]
fn the_request_queue_has_an_end() {
    let mut peer = Fixture::new().unchoked();
    let ask = |peer: &mut Fixture, at: usize| {
        peer.says(Message::Request {
            piece: at as u32 % 9,
            begin: at as u32 / 9,
            length: 1,
        })
    };
    for at in 0..REQUEST_QUEUE_MAX {
        assert!(matches!(ask(&mut peer, at), Ok(Event::Request(_))));
    }
    let refused = ask(&mut peer, REQUEST_QUEUE_MAX);
    assert!(matches!(
        refused,
        Ok(Event::Refused {
            why: Refusal::QueueFull,
            ..
        })
    ));
    peer.peer.next_request();
    assert!(matches!(ask(&mut peer, REQUEST_QUEUE_MAX), Ok(Event::Request(_))));
}

#[test]
fn a_request_out_of_bounds_is_a_violation() {
    let mut peer = Fixture::new().unchoked();
    for (piece, begin, length) in [
        (10, 0, 1),
        (0, 0, 0),
        (0, 0, BLOCK + 1),
        (0, 2 * BLOCK, 1),
        (0, u32::MAX, u32::MAX),
    ] {
        let request = peer.says(Message::Request { piece, begin, length });
        assert_eq!(request, Err(Violation::BadRequest { piece, begin, length }));
        let cancel = peer.says(Message::Cancel { piece, begin, length });
        assert_eq!(cancel, Err(Violation::BadRequest { piece, begin, length }));
    }
}

#[test]
fn a_peer_that_does_not_listen_is_told_off_in_the_end() {
    let mut peer = Fixture::new();
    for _ in 0..VAIN_REQUESTS_MAX {
        assert!(peer.asks(0, 0).is_ok());
    }
    assert_eq!(peer.asks(0, 0), Err(Violation::RequestFlood));
}

#[test]
fn being_unchoked_forgives_what_was_asked_too_early() {
    let mut peer = Fixture::new();
    for _ in 0..10 {
        for _ in 0..VAIN_REQUESTS_MAX {
            assert!(peer.asks(0, 0).is_ok());
        }
        peer.peer.unchoke(peer.now);
        assert!(peer.peer.choke(peer.now).is_empty());
    }
}

#[test]
fn a_cancel_takes_the_request_off_the_queue() {
    let mut peer = Fixture::new().unchoked();
    peer.asks(0, 0).unwrap();
    peer.asks(0, 1).unwrap();
    let cancel = |of: BlockRequest| Message::cancel(&of);
    assert_eq!(peer.says(cancel(block(0, 0))), Ok(Event::Cancelled(block(0, 0))));
    assert_eq!(peer.says(cancel(block(0, 0))), Ok(Event::CancelUnknown(block(0, 0))));
    assert_eq!(peer.peer.requests().collect::<Vec<_>>(), [&block(0, 1)]);
}

#[test]
fn choking_gives_back_what_a_fast_peer_must_be_told() {
    let mut peer = Fixture::new().unchoked();
    peer.asks(0, 0).unwrap();
    peer.asks(0, 1).unwrap();
    assert_eq!(peer.peer.choke(peer.now), [block(0, 0), block(0, 1)]);
    assert!(peer.peer.am_choking() && peer.peer.request_count() == 0);

    let mut peer = Fixture::plain().unchoked();
    peer.asks(0, 0).unwrap();
    assert!(peer.peer.choke(peer.now).is_empty());
    assert_eq!(peer.peer.request_count(), 0);
}

#[test]
fn unchoking_tells_whether_it_is_news() {
    let mut peer = Fixture::new();
    assert!(peer.peer.unchoke(peer.now));
    assert!(!peer.peer.unchoke(peer.now));
}

#[test]
fn interest_is_an_event_only_when_it_changes() {
    let mut peer = Fixture::new();
    assert_eq!(peer.says(Message::NotInterested), Ok(Event::None));
    assert_eq!(peer.says(Message::Interested), Ok(Event::Interested));
    let since = peer.now;
    assert_eq!(peer.says(Message::Interested), Ok(Event::None));
    assert!(peer.peer.peer_interested());
    assert_eq!(peer.peer.waiting_since(), since);
    assert_eq!(peer.peer.heard_at(), peer.now);
    assert_eq!(peer.says(Message::NotInterested), Ok(Event::NotInterested));
}

#[test]
fn the_peers_choke_is_an_event_only_when_it_changes() {
    let mut peer = Fixture::new();
    assert_eq!(peer.says(Message::Choke), Ok(Event::None));
    assert_eq!(peer.says(Message::Unchoke), Ok(Event::Unchoked));
    assert!(!peer.peer.peer_choking());
    assert_eq!(peer.says(Message::Choke), Ok(Event::Choked));
}

#[test]
fn a_bitfield_tells_what_the_peer_has() {
    let mut peer = Fixture::plain();
    assert_eq!(
        peer.says(Message::Bitfield(&[0b1000_0000, 0b0100_0000])),
        Ok(Event::Pieces)
    );
    let has: Vec<_> = geometry()
        .pieces()
        .filter(|piece| peer.peer.has(*piece))
        .map(PieceIndex::get)
        .collect();
    assert_eq!(has, [0, 9]);
    assert!(!peer.peer.is_seed());
}

#[test]
fn a_peer_whose_last_piece_arrives_is_a_seed() {
    let mut peer = Fixture::plain();
    peer.says(Message::Bitfield(&[0xff, 0x80])).unwrap();
    let last = geometry().piece_index(9).unwrap();
    assert_eq!(peer.says(Message::Have(9)), Ok(Event::Have(last)));
    assert!(peer.peer.is_seed() && peer.peer.is_upload_only());
    assert_eq!(peer.says(Message::Have(9)), Ok(Event::None));
    let mut peer = Fixture::plain();
    peer.says(Message::Bitfield(&[0xff, 0xc0])).unwrap();
    assert_eq!(peer.peer.pieces(), &Pieces::HaveAll);
    let mut peer = Fixture::new();
    peer.says(Message::HaveAll).unwrap();
    assert!(peer.peer.is_seed());
}

#[test]
fn a_bitfield_of_another_torrent_is_a_violation() {
    for bits in [&[0xff][..], &[0xff, 0xff], &[0xff, 0, 0], &[]] {
        let mut peer = Fixture::plain();
        assert!(matches!(
            peer.says(Message::Bitfield(bits)),
            Err(Violation::BadBitfield(_))
        ));
    }
    assert_eq!(
        Fixture::plain().says(Message::Have(10)),
        Err(Violation::BadPiece {
            piece: 10,
            piece_count: 10
        })
    );
}

#[test]
fn have_all_and_have_none_come_once_and_first() {
    let first = [
        Message::HaveAll,
        Message::HaveNone,
        Message::Bitfield(&[0, 0]),
        Message::Have(0),
    ];
    for first in first {
        let mut peer = Fixture::new();
        peer.says(first).unwrap();
        assert_eq!(peer.says(Message::HaveNone), Err(Violation::LateHaveNone));
        // Whoever has all may say so at any time.
        let mut peer = Fixture::new();
        peer.says(first).unwrap();
        assert_eq!(peer.says(Message::HaveAll), Ok(Event::Pieces));
        assert!(peer.peer.is_seed());
    }
}

#[test]
fn a_later_bitfield_is_the_last_word() {
    let mut peer = Fixture::new();
    peer.says(Message::HaveNone).unwrap();
    assert_eq!(peer.says(Message::Bitfield(&[0b1000_0000, 0])), Ok(Event::Pieces));
    assert_eq!(peer.says(Message::Bitfield(&[0b1100_0000, 0])), Ok(Event::Pieces));
    assert!(matches!(peer.peer.pieces(), Pieces::Bits(bits) if bits.count() == 2));
}

#[test]
fn one_that_takes_back_what_it_has_over_and_over_is_not_listened_to() {
    let mut peer = Fixture::new();
    let (less, more) = (
        Message::Bitfield(&[0b1000_0000, 0]),
        Message::Bitfield(&[0b1100_0000, 0]),
    );
    for _ in 0..TAKEN_BACK_MAX {
        // As often as it likes, as long as it is no less.
        for _ in 0..10 {
            assert_eq!(peer.says(more), Ok(Event::Pieces));
        }
        assert_eq!(peer.says(less), Ok(Event::Pieces));
    }
    assert_eq!(peer.says(Message::HaveAll), Ok(Event::Pieces));
    assert_eq!(peer.says(more), Err(Violation::PiecesFlood));
    assert_eq!(*peer.peer.pieces(), Pieces::HaveAll);
}

#[test]
fn a_bitfield_may_follow_messages_that_say_nothing_of_pieces() {
    let mut peer = Fixture::new();
    for message in [
        Message::KeepAlive,
        Message::Extended { id: 0, payload: b"de" },
        Message::Port(1),
        Message::Interested,
    ] {
        peer.says(message).unwrap();
    }
    assert_eq!(peer.says(Message::HaveAll), Ok(Event::Pieces));
}

#[test]
fn extensions_that_were_not_offered_are_a_violation() {
    let mut peer = Fixture::plain();
    let reject = Message::Reject {
        piece: 0,
        begin: 0,
        length: BLOCK,
    };
    for message in [
        Message::HaveAll,
        Message::HaveNone,
        Message::Suggest(0),
        Message::AllowedFast(0),
        reject,
    ] {
        assert_eq!(peer.says(message), Err(Violation::FastNotNegotiated));
    }
    let extended = peer.says(Message::Extended { id: 0, payload: b"de" });
    assert_eq!(extended, Err(Violation::ExtensionNotNegotiated));
}

#[test]
fn an_extension_handshake_is_kept_and_a_second_one_changes_it() {
    let mut peer = Fixture::new();
    let payload = b"d4:reqqi500e11:upload_onlyi1e1:v3:abce";
    assert_eq!(
        peer.says(Message::Extended { id: 0, payload }),
        Ok(Event::ExtensionHandshake)
    );
    assert!(peer.peer.is_upload_only());
    peer.says(Message::Extended {
        id: 0,
        payload: b"d1:md6:ut_pexi4eee",
    })
    .unwrap();
    let told = peer.peer.extension().unwrap();
    assert_eq!(
        (told.v.as_deref(), told.reqq, told.m.ut_pex),
        (Some("abc"), Some(500), 4)
    );
    let broken = peer.says(Message::Extended { id: 0, payload: b"d" });
    assert!(matches!(broken, Err(Violation::BadExtensionHandshake(_))));
}

#[test]
fn upload_only_can_change_later() {
    let mut peer = Fixture::new();
    let id = Extensions::OURS.upload_only;
    assert_eq!(
        peer.says(Message::Extended { id, payload: &[1] }),
        Ok(Event::UploadOnly(true))
    );
    assert!(peer.peer.is_upload_only());
    assert_eq!(
        peer.says(Message::Extended { id, payload: &[0] }),
        Ok(Event::UploadOnly(false))
    );
    let other = Message::Extended { id: 77, payload: b"x" };
    assert_eq!(peer.says(other), Ok(Event::Extended { id: 77, payload: b"x" }));
}

#[test]
fn a_second_extension_handshake_changes_what_it_names_and_nothing_else() {
    let mut peer = Fixture::new();
    let says = |peer: &mut Fixture, payload| peer.says(Message::Extended { id: 0, payload }).map(drop);
    let first = b"d1:md11:upload_onlyi3e6:ut_pexi7ee1:pi6881e4:reqqi250e11:upload_onlyi1ee";
    assert_eq!(says(&mut peer, &first[..]), Ok(()));
    assert_eq!(says(&mut peer, b"d1:md6:ut_pexi0ee4:reqqi500ee"), Ok(()));
    let told = peer.peer.extension().unwrap();
    assert_eq!((told.m.upload_only, told.m.ut_pex), (3, 0));
    assert_eq!((told.reqq, told.p, told.upload_only), (Some(500), Some(6881), true));
}

#[test]
fn cancels_of_what_is_not_queued_are_bounded() {
    let mut peer = Fixture::new().unchoked();
    let cancel = Message::Cancel {
        piece: 0,
        begin: 0,
        length: BLOCK,
    };
    for _ in 0..VAIN_REQUESTS_MAX {
        assert!(matches!(peer.says(cancel), Ok(Event::CancelUnknown(_))));
    }
    assert_eq!(peer.says(cancel), Err(Violation::RequestFlood));
}

#[test]
fn a_block_comes_only_to_those_who_asked() {
    let mut peer = Fixture::new();
    let data = [0; BLOCK as usize];
    let piece = Message::Piece {
        piece: 1,
        begin: BLOCK,
        data: &data,
    };
    assert_eq!(peer.says(piece), Err(Violation::AnswerNotAskedFor));
    assert!(peer.peer.set_interested(true));
    assert!(!peer.peer.set_interested(true));
    assert_eq!(
        peer.says(piece),
        Ok(Event::Block {
            block: block(1, 1),
            data: &data
        })
    );
    assert_eq!(
        peer.says(Message::reject(&block(1, 1))),
        Ok(Event::Rejected(block(1, 1)))
    );
    let outside = Message::Piece {
        piece: 1,
        begin: BLOCK + 1,
        data: &data,
    };
    assert!(matches!(peer.says(outside), Err(Violation::BadBlock { .. })));
    // A block may be under way when the interest is gone.
    peer.peer.set_interested(false);
    assert!(peer.says(piece).is_ok());
}

#[test]
fn unknown_messages_are_passed_over_up_to_a_bound() {
    let mut peer = Fixture::new();
    for _ in 0..UNKNOWN_MAX {
        assert_eq!(peer.says(Message::Unknown { id: 21 }), Ok(Event::None));
    }
    assert_eq!(
        peer.says(Message::Unknown { id: 22 }),
        Err(Violation::TooManyUnknown { id: 22 })
    );
}

#[test]
fn an_idle_peer_keeps_no_room_for_requests() {
    let mut peer = Fixture::new().unchoked();
    assert_eq!(peer.peer.requests.capacity(), 0);
    for begin in 0..1000 {
        peer.says(Message::Request {
            piece: 0,
            begin,
            length: 1,
        })
        .unwrap();
    }
    while peer.peer.next_request().is_some() {}
    peer.peer.shrink();
    assert_eq!(peer.peer.requests.capacity(), 0);
}
