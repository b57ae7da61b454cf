//! Payload that cannot be read, is another than was checked, or is gone, and what peers are told of it.

use super::*;

#[test]
fn unreadable_piece_is_withdrawn_and_the_rest_is_served() {
    let mut fixture = Fixture::single(10 * EXTENT_LEN as usize, 16);
    let mut far = fixture.unchoked(FAST);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    fixture.request(&far, 0, 0, 16384);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.said, ["Reject { piece: 0, begin: 0, length: 16384 }"]);
    assert_eq!(fixture.torrent.have_count(), 19);
    assert!(
        fixture
            .torrent
            .fault()
            .unwrap()
            .contains("payload: cannot be read at byte 0")
    );
    for piece in 1..20 {
        fixture.request(&far, piece, 0, 16384);
    }
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 19);
    fixture.check(&far);
    // A later peer is told.
    let mut later = fixture.far(PLAIN);
    fixture.settle();
    fixture.hear(&mut later);
    assert_eq!(later.said, ["Bitfield([127, 255, 240])"]);
}

#[test]
fn peer_that_knows_no_rejects_is_let_go_when_its_piece_cannot_be_read() {
    let mut fixture = Fixture::single(10 * EXTENT_LEN as usize, 16);
    let far = fixture.unchoked(PLAIN);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    fixture.request(&far, 0, 0, 16384);
    fixture.settle();
    assert_eq!(fixture.world.ended(far.id), Some(Ending::Orderly));
    assert_eq!(fixture.drops(), ["piece_withdrawn"]);
}

#[test]
fn peer_that_understands_it_is_told_that_a_piece_is_gone() {
    let mut fixture = Fixture::single(10 * EXTENT_LEN as usize, 16);
    let mut far = fixture.far(Reserved::OURS);
    let (id, payload) = (0, &b"d1:md11:lt_donthavei7eee"[..]);
    fixture.say(&far, &Message::Extended { id, payload });
    far = fixture.unchoke(far);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    let (id, payload) = (7, &3_u32.to_be_bytes()[..]);
    let mut told = Vec::new();
    wire::encode(&Message::Extended { id, payload }, &mut told);
    let (piece, begin, length) = (3, 0, 16384);
    let mut rejected = Vec::new();
    wire::encode(&Message::Reject { piece, begin, length }, &mut rejected);
    // Told once, and rejected as often as it asks.
    fixture.request(&far, piece, begin, length);
    fixture.settle();
    assert_eq!(fixture.world.read(far.id), [told, rejected.clone()].concat());
    for _ in 0..100 {
        fixture.request(&far, piece, begin, length);
        fixture.settle();
        assert_eq!(fixture.world.read(far.id), rejected);
    }
}

#[test]
fn peer_that_asks_for_much_that_is_gone_is_sent_away_to_be_told_anew() {
    let mut fixture = Fixture::single(100 * PIECE_LEN as usize, 16);
    // It understands rejects and nothing else; another is told of each piece.
    let ignorant = fixture.unchoked(FAST);
    let told = fixture.far(Reserved::OURS);
    let (id, payload) = (0, &b"d1:md11:lt_donthavei7eee"[..]);
    fixture.say(&told, &Message::Extended { id, payload });
    let told = fixture.unchoke(told);
    // The file is another one, which is known when it is opened.
    fixture.world.set_modified("payload", 5);
    for times in 1..=65 {
        fixture.request(&ignorant, 3, 0, 16384);
        fixture.request(&told, times, 0, 16384);
        fixture.request(&told, times, 16384, 16384);
        fixture.settle();
        let ending = (times > 64).then_some(Ending::Orderly);
        assert_eq!(fixture.world.ended(ignorant.id), ending, "{times}");
        assert_eq!(fixture.world.ended(told.id), ending, "{times}");
    }
    assert_eq!(fixture.drops(), ["piece_withdrawn"]);
    let mut again = fixture.far(FAST);
    fixture.settle();
    fixture.pass(3.0);
    fixture.hear(&mut again);
    assert_eq!(again.said[0], "HaveNone", "{:?}", again.said);
}

#[test]
fn file_that_was_changed_takes_its_pieces_along_and_no_others() {
    let files = ["a", "b", "c"].map(|name| (name.to_owned(), bytes(100_000, 1), false));
    let mut fixture = Fixture::new(files.into(), 16 * 1024, 16);
    let far = fixture.unchoked(FAST);
    fixture.world.set_modified("folder/b", 5);
    fixture.request(&far, 9, 0, 16384);
    fixture.settle();
    assert!(fixture.torrent.is_changed());
    let torrent = &fixture.torrent;
    let gone: Vec<u32> = torrent
        .geometry()
        .pieces()
        .filter(|&piece| !torrent.has(piece))
        .map(|piece| piece.get())
        .collect();
    assert_eq!(gone, (6..=12).collect::<Vec<_>>(), "those of bytes 100,000 to 199,999");
}

#[test]
fn truncated_and_missing_files_withdraw_their_pieces_only() {
    let files = vec![
        ("a".to_owned(), bytes(100_000, 1), false),
        ("b".to_owned(), bytes(100_000, 2), false),
        ("c".to_owned(), bytes(100_000, 3), false),
    ];
    let mut fixture = Fixture::new(files, 16 * 1024, 16);
    fixture.world.file("folder/a", &fixture.payload[..50_000]);
    fixture.world.remove_file("folder/b");
    let mut far = fixture.unchoked(FAST);
    let count = fixture.request_all(&far);
    for _ in 0..5 {
        fixture.settle();
    }
    fixture.hear(&mut far);
    let rejects = far.said.iter().filter(|said| said.starts_with("Reject")).count();
    assert_eq!(rejects + far.blocks.len(), count);
    let mut served: Vec<u32> = far.blocks.iter().map(|(piece, _, _)| *piece).collect();
    served.sort_unstable();
    // What is left of `a` holds pieces 0 to 2 whole; `c` holds 13 to 18.
    assert_eq!(served, [0, 1, 2, 13, 14, 15, 16, 17, 18]);
    assert_eq!(fixture.torrent.have_count(), 9);
    fixture.check(&far);
    assert!(fixture.drops().is_empty());
}

#[test]
fn want_of_descriptors_or_memory_withdraws_nothing() {
    for (kind, errno, times) in [
        (OpKind::Open, Errno::MFILE, 3),
        (OpKind::Open, Errno::NFILE, 1),
        (OpKind::Open, Errno::CANCELED, 9),
        (OpKind::Read, Errno::NOMEM, 2),
        (OpKind::Read, Errno::AGAIN, 9),
    ] {
        for reserved in [FAST, PLAIN] {
            let mut fixture = Fixture::single(300_000, 8);
            let mut far = fixture.unchoked(reserved);
            for _ in 0..times {
                fixture.world.fail_next(kind, errno);
            }
            let count = fixture.request_all(&far);
            for _ in 0..20 {
                fixture.pass(0.2);
            }
            fixture.hear(&mut far);
            assert!(fixture.torrent.is_complete(), "{kind:?} {errno:?}");
            assert_eq!(far.blocks.len(), count, "{kind:?} {errno:?}");
            fixture.check(&far);
        }
    }
}

#[test]
fn filesystem_without_direct_reads_is_read_through_the_cache() {
    let refusals: [(&[Errno], bool, How); 4] = [
        (&[], false, How::Direct),
        // At the open; by the first read; and neither way of sparing the cache is known.
        (&[], true, How::Uncached),
        (&[Errno::INVAL], false, How::Uncached),
        (&[Errno::INVAL, Errno::OPNOTSUPP], false, How::Cached),
    ];
    for (reads, open, how) in refusals {
        let mut fixture = Fixture::single(100_000, 4);
        reads
            .iter()
            .for_each(|errno| fixture.world.fail_next(OpKind::Read, *errno));
        if open {
            fixture.world.refuse_direct();
        }
        let mut far = fixture.unchoked(FAST);
        fixture.download(&mut far);
        assert_eq!(fixture.shard.disk.modes.count(how), 1, "{reads:?} {open}");
    }
}
