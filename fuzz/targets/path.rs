//! A path that a torrent may have stays below its folder: no name leads up or elsewhere, and what is shown of it is one line.

#![no_main]

use btd_fuzz::proto::path::{RelPath, escaped};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let shown = escaped(input).to_string();
    assert!(
        !shown
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    );
    let names: Vec<&str> = input.split('\n').collect();
    for path in [RelPath::parse(input), RelPath::new(names.iter().copied())]
        .into_iter()
        .flatten()
    {
        let mut depth = 0_usize;
        for part in path.as_path().components() {
            assert!(matches!(part, std::path::Component::Normal(_)));
            depth += 1;
        }
        assert!(depth > 0 && depth == path.components().count());
        assert!(!path.as_str().contains('\0') && path.as_str().len() <= 4096);
        assert_eq!(RelPath::parse(path.as_str()).ok().as_ref(), Some(&path));
        assert!(path.components().all(|name| !name.is_empty() && name.len() <= 255));
    }
});
