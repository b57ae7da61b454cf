//! What trackers say of swarms, over HTTP and UDP, is read for those that were asked about, or refused.

#![no_main]

use btd_fuzz::announcer::scrape::{parse, read};
use btd_fuzz::proto::InfoHash;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let hashes: Vec<InfoHash> = (0..3).map(|n| InfoHash([b'a' + n; 20])).collect();
    if let Ok(swarms) = parse(input, &hashes) {
        assert_eq!(swarms.len(), hashes.len());
        assert!(swarms.iter().flatten().all(|swarm| swarm.peers() >= swarm.seeders));
    }
    for count in [0, 1, 3, 74] {
        if let Ok(swarms) = read(input, count) {
            assert_eq!(swarms.len(), count);
            assert!(swarms.iter().flatten().all(|swarm| swarm.peers() >= swarm.seeders));
        }
    }
});
