//! What is found when payload is read once more.

use super::*;
use crate::storage::reread::{Reread, Rereader};

#[test]
fn pieces_are_read_over_files_and_padding_and_what_is_wrong_is_found() {
    const PIECE_LEN: usize = 1 << 16;
    let files = [
        ("a", 3000, false),
        ("pad", 1096, true),
        ("b", (1 << 20) + 5, false),
        ("c", 70, false),
    ];
    let fixture = fixture(PIECE_LEN as u32, &files);
    let root = Root::open(fixture.temp.path()).unwrap();
    let (meta, throttle) = (&fixture.metainfo, Throttle::default());
    let all = || -> Vec<Reread> {
        let mut reader = Rereader::new(&root, meta);
        let pieces = meta.geometry.pieces();
        pieces.map(|piece| reader.reread(piece, &throttle, &|| true)).collect()
    };
    assert!(all().iter().all(|found| *found == Reread::Right));
    let at = 1 << 19;
    fixture.flip("b", at);
    let wrong = (3000 + 1096 + at) / PIECE_LEN;
    for (index, found) in all().iter().enumerate() {
        let expected = if index == wrong { Reread::Wrong } else { Reread::Right };
        assert_eq!(*found, expected, "piece {index}");
    }
    std::fs::remove_file(fixture.path("c")).unwrap();
    let last = meta.geometry.pieces().last().unwrap();
    let mut reader = Rereader::new(&root, meta);
    assert!(matches!(
        reader.reread(last, &throttle, &|| true),
        Reread::Unreadable(why) if why.contains("no such file")
    ));
    assert_eq!(reader.reread(last, &throttle, &|| false), Reread::Stopped);
    assert_eq!(reader.look(3), Err(OpenError::Missing));
    assert_eq!(reader.look(0).map(|(len, _)| len), Ok(3000));
}

#[test]
fn file_that_has_become_too_short_is_unreadable_where_it_ends() {
    let fixture = fixture(1 << 16, &[("a", 3 << 16, false)]);
    fixture.set_len("a", (1 << 16) + 100);
    let root = Root::open(fixture.temp.path()).unwrap();
    let mut reader = Rereader::new(&root, &fixture.metainfo);
    let throttle = Throttle::default();
    let pieces: Vec<PieceIndex> = fixture.metainfo.geometry.pieces().collect();
    assert_eq!(reader.reread(pieces[0], &throttle, &|| true), Reread::Right);
    for piece in &pieces[1..] {
        let found = reader.reread(*piece, &throttle, &|| true);
        assert!(matches!(found, Reread::Unreadable(_)), "{found:?}");
    }
}
