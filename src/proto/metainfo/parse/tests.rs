//! Torrent files by hand: each test changes one thing in a small valid one.

use super::*;

/// `d 4:info d <entries> e e` with the entries in order.
fn torrent(entries: &[&str]) -> Vec<u8> {
    format!("d4:infod{}ee", entries.concat()).into_bytes()
}

fn pieces(count: usize) -> String {
    format!("6:pieces{}:{}", count * 20, "x".repeat(count * 20))
}

const NAME: &str = "4:name1:n";
const PIECE_LEN: &str = "12:piece lengthi16384e";

/// A torrent of several files, given as (further entries of the file, length, path).
fn several(files: &[(&str, u64, &[&str])]) -> Vec<u8> {
    let mut list = String::from("5:filesl");
    let mut total_len = 0;
    for (attr, len, path) in files {
        let path: String = path.iter().map(|name| format!("{}:{name}", name.len())).collect();
        list += &format!("d{attr}6:lengthi{len}e4:pathl{path}ee");
        total_len += len;
    }
    list += "e";
    torrent(&[&list, NAME, PIECE_LEN, &pieces(total_len.div_ceil(16384) as usize)])
}

fn problem(input: &[u8]) -> (String, Problem) {
    match Metainfo::parse(input) {
        Err(Error::Field { field, problem }) => (field, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_single_file_is_named_after_the_torrent() {
    let input = torrent(&["6:lengthi20000e", NAME, PIECE_LEN, &pieces(2), "7:privatei1e"]);
    let torrent = Metainfo::parse(&input).unwrap();
    assert_eq!(torrent.files.len(), 1);
    assert_eq!((torrent.files[0].path.as_str(), torrent.files[0].len), ("n", 20000));
    assert!(torrent.private && !torrent.hybrid);
    let last = torrent.geometry.piece_index(1).unwrap();
    assert_eq!(torrent.geometry.piece_len(last), 20000 - 16384);
    assert_eq!(torrent.piece_hashes.get(last), &[b'x'; 20]);
}

#[test]
fn the_info_hash_is_that_of_the_bytes_as_they_stand() {
    // Keys out of order: a reader that writes the dictionary anew would get another hash.
    let info = format!("d{NAME}6:lengthi1e{PIECE_LEN}{}e", pieces(1));
    let input = format!("d4:info{info}8:announce3:udpe");
    let torrent = Metainfo::parse(input.as_bytes()).unwrap();
    assert_eq!(torrent.info_hash.0, <[u8; 20]>::from(Sha1::digest(info.as_bytes())));
    assert_eq!(torrent.unsorted_at, Some(7 + NAME.len() + 1));
}

#[test]
fn several_files_follow_each_other_below_the_name() {
    let torrent = Metainfo::parse(&several(&[("", 5, &["a", "b"]), ("", 0, &["e"]), ("", 7, &["c"])])).unwrap();
    let files: Vec<_> = torrent
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.offset, file.len))
        .collect();
    assert_eq!(files, [("n/a/b", 0, 5), ("n/e", 5, 0), ("n/c", 5, 7)]);
}

#[test]
fn pad_files_are_known_by_attribute_and_by_their_old_name() {
    let pad = ("4:attr1:p", 10, &[".pad", "10"][..]);
    let old = ("", 9, &["_____padding_file_0_if you see this_____"][..]);
    let torrent = Metainfo::parse(&several(&[("", 1, &["a"]), pad, ("", 1, &["b"]), pad, old])).unwrap();
    let pads: Vec<_> = torrent.files.iter().map(|file| file.pad).collect();
    assert_eq!(pads, [false, true, false, true, true]);
}

#[test]
fn padding_of_a_piece_or_more_is_refused_however_it_is_divided() {
    let pad = |len| ("4:attr1:p", len, &[".pad", "0"][..]);
    let (some, none) = (("", 1, &["a"][..]), ("", 0, &["b"][..]));
    assert!(Metainfo::parse(&several(&[some, pad(16383), ("", 1, &["c"])])).is_ok());
    for files in [
        vec![some, pad(16384)],
        vec![some, pad(1 << 30)],
        vec![some, pad(16000), pad(384)],
        vec![some, pad(16000), none, pad(384)],
    ] {
        let last = format!("info.files[{}].length", files.len() - 1);
        assert_eq!(problem(&several(&files)), (last, Problem::PadTooLong));
    }
}

#[test]
fn paths_that_lead_out_or_clash_are_refused() {
    let (field, problem_found) = problem(&several(&[("", 1, &["a"]), ("", 1, &["..", "x"])]));
    assert_eq!(field, "info.files[1].path");
    assert_eq!(problem_found, Problem::Path(path::Error::Dots("..".into())));
    assert!(matches!(
        problem(&several(&[("", 1, &[])])).1,
        Problem::Path(path::Error::Empty)
    ));
    assert!(matches!(
        problem(&several(&[("", 1, &["a"]), ("", 1, &["a"])])).1,
        Problem::Clash(_)
    ));
    assert!(matches!(
        problem(&several(&[("", 1, &["a"]), ("", 1, &["A"])])).1,
        Problem::Clash(_)
    ));
    assert!(matches!(
        problem(&several(&[("", 1, &["a"]), ("", 0, &["a", "b"])])).1,
        Problem::Clash(_)
    ));
    let input = torrent(&["6:lengthi1e", "4:name4:../x", PIECE_LEN, &pieces(1)]);
    assert_eq!(problem(&input).0, "info.name");
}

#[test]
fn names_in_utf_8_are_preferred() {
    let list = "5:filesld6:lengthi1e4:pathl1:xe10:path.utf-8l3:\u{20ac}eee";
    let input = torrent(&[list, "4:name1:x10:name.utf-83:\u{20ac}", PIECE_LEN, &pieces(1)]);
    assert_eq!(
        Metainfo::parse(&input).unwrap().files[0].path.as_str(),
        "\u{20ac}/\u{20ac}"
    );
    let raw = [
        &b"d4:infod6:lengthi1e4:name1:\xff"[..],
        PIECE_LEN.as_bytes(),
        pieces(1).as_bytes(),
        b"ee",
    ]
    .concat();
    assert_eq!(problem(&raw), ("info.name".into(), Problem::Path(path::Error::NotUtf8)));
}

#[test]
fn sums_that_do_not_fit_are_refused() {
    let with = |length: &str, piece_len: &str, pieces: &str| problem(&torrent(&[length, NAME, piece_len, pieces]));
    let (field, found) = with("6:lengthi16385e", PIECE_LEN, &pieces(1));
    assert_eq!(field, "info.pieces");
    let expected = Problem::PiecesLen {
        len: 20,
        expected: 40,
        total_len: 16385,
        piece_len: 16384,
    };
    assert_eq!(found, expected);
    assert!(matches!(
        with("6:lengthi1e", PIECE_LEN, "6:pieces19:xxxxxxxxxxxxxxxxxxx").1,
        Problem::PiecesLen { .. }
    ));
    assert!(matches!(
        with("6:lengthi0e", PIECE_LEN, "6:pieces0:").1,
        Problem::Geometry(geometry::Error::Empty)
    ));
    assert_eq!(with("6:lengthi-1e", PIECE_LEN, &pieces(1)).1, Problem::Negative(-1));
    for piece_len in ["i0e", "i1e", "i-1e", "i2147483648e", "i9223372036854775807e"] {
        let (field, _) = with("6:lengthi1e", &format!("12:piece length{piece_len}"), &pieces(1));
        assert_eq!(field, "info.piece length");
    }
    assert_eq!(
        with("6:lengthi9223372036854775807e", PIECE_LEN, &pieces(1)).1,
        Problem::TotalLen
    );
    let (field, found) = with("6:lengthi1099511627776e", "12:piece lengthi16384e", &pieces(1));
    assert_eq!(
        (field.as_str(), found),
        ("info", geometry::Error::PieceCount(1 << 26).into())
    );
    let list = format!(
        "5:filesld6:lengthi{0}e4:pathl1:aeed6:lengthi{0}e4:pathl1:beee",
        1_u64 << 46
    );
    let three = list.replacen("5:filesl", "5:filesld6:lengthi1e4:pathl1:cee", 1);
    let input = torrent(&[&three, NAME, PIECE_LEN, &pieces(1)]);
    assert_eq!(problem(&input), ("info.files[2]".into(), Problem::TotalLen));
}

#[test]
fn missing_and_misshapen_fields_are_named() {
    assert_eq!(problem(b"de"), ("info".into(), Problem::Missing));
    assert_eq!(problem(b"d4:infoi1ee"), ("info".into(), Problem::NotA("a dictionary")));
    assert_eq!(problem(&torrent(&["6:lengthi1e"])).0, "info.name");
    assert_eq!(problem(&torrent(&["6:lengthi1e", NAME])).0, "info.piece length");
    assert_eq!(problem(&torrent(&["6:lengthi1e", NAME, PIECE_LEN])).0, "info.pieces");
    assert_eq!(problem(&torrent(&[NAME, PIECE_LEN, &pieces(1)])).0, "info.length");
    let both = torrent(&["5:filesle6:lengthi1e", NAME, PIECE_LEN, &pieces(1)]);
    assert_eq!(problem(&both), ("info.files".into(), Problem::LengthAndFiles));
    assert_eq!(Metainfo::parse(b"le"), Err(Error::NotATorrent));
    let error = Metainfo::parse(b"d4:infod6:length").unwrap_err();
    assert_eq!(
        error.to_string(),
        "broken bencode: the input ends in the middle of a value (byte 16)"
    );
}

#[test]
fn version_2_is_refused_and_a_hybrid_is_read_by_its_first_half() {
    let v2 = "9:file treede12:meta versioni2e";
    assert_eq!(Metainfo::parse(&torrent(&[v2, NAME, PIECE_LEN])), Err(Error::V2Only));
    let hybrid = torrent(&[
        "9:file treede",
        "6:lengthi1e",
        "12:meta versioni2e",
        NAME,
        PIECE_LEN,
        &pieces(1),
    ]);
    assert!(Metainfo::parse(&hybrid).unwrap().hybrid);
}

#[test]
fn an_empty_symbolic_link_is_left_out_and_one_with_bytes_refused() {
    let link = "4:attr1:l";
    let torrent = Metainfo::parse(&several(&[("", 1, &["a"]), (link, 0, &["b"])])).unwrap();
    assert_eq!((torrent.files.len(), torrent.symlinks), (1, 1));
    let (field, found) = problem(&several(&[(link, 1, &["b"])]));
    assert_eq!((field.as_str(), found), ("info.files[0].attr", Problem::Symlink(1)));
}

#[test]
fn trackers_come_in_tiers_and_a_list_outweighs_the_single_one() {
    let with = |outer: &str| {
        let info = format!("4:infod6:lengthi1e{NAME}{PIECE_LEN}{}e", pieces(1));
        Metainfo::parse(format!("d{outer}{info}e").as_bytes()).unwrap()
    };
    assert_eq!(with("8:announce1:a").announce, [["a"]]);
    assert_eq!(
        with("8:announce1:a13:announce-listll1:b1:cel1:dee").announce,
        [vec!["b", "c"], vec!["d"]]
    );
    assert_eq!(with("8:announce1:a13:announce-listle").announce, [["a"]]);
    // Nonsense outside `info` costs nothing but itself.
    let odd = with("8:announcei1e13:announce-listi2e7:comment2:\u{e9}10:created byi1e13:creation date1:x");
    assert!(odd.announce.is_empty() && odd.created_by.is_none() && odd.creation_date.is_none());
    assert_eq!(odd.comment.as_deref(), Some("\u{e9}"));
}

#[test]
fn web_seeds_are_one_string_or_a_list() {
    let with = |list: &str| {
        let info = format!("4:infod6:lengthi1e{NAME}{PIECE_LEN}{}e", pieces(1));
        Metainfo::parse(format!("d{info}8:url-list{list}e").as_bytes())
            .unwrap()
            .url_list
    };
    assert_eq!(with("1:u"), ["u"]);
    assert_eq!(with("l1:u1:ve"), ["u", "v"]);
    assert!(with("0:").is_empty());
}

#[test]
fn the_number_of_files_is_bounded() {
    let many = |count: usize| {
        let files: String = (0..count).map(|at| format!("d6:lengthi1e4:pathl6:{at:06}ee")).collect();
        torrent(&["5:filesl", &files, "e", NAME, PIECE_LEN, &pieces(count.div_ceil(16384))])
    };
    assert_eq!(
        Metainfo::parse(&many(FILE_COUNT_MAX)).unwrap().files.len(),
        FILE_COUNT_MAX
    );
    assert_eq!(
        problem(&many(FILE_COUNT_MAX + 1)),
        ("info.files".into(), Problem::TooManyFiles)
    );
}

#[test]
fn paths_that_repeat_a_long_name_have_a_bound_together() {
    let files = "d6:lengthi1e4:pathl1:aee".repeat(150_000);
    let name = format!("4:name255:{}", "n".repeat(255));
    let (field, found) = problem(&torrent(&["5:filesl", &files, "e", &name, PIECE_LEN, &pieces(10)]));
    assert_eq!((field.as_str(), found), ("info.files[130561]", Problem::PathsTooLong));
}
