//! Names of peers that lead nowhere, to too much or into a circle, and a DNS server that says nothing: the download goes on with
//! those that lead somewhere, few threads wait, and no shard does.

mod support;

use std::fs;
use std::net::Ipv4Addr;

use support::btd::{Btd, Config};
use support::dns::{Dns, Says};
use support::leech::{SECONDS, Source, files};
use support::private_net;
use support::{wait_for, within};

/// Of each resolver, of which there are two.
const THREADS_MAX: usize = 2 * 16;
/// Names that nothing is said of.
const SILENT: usize = 60;

#[test]
fn names_that_lead_nowhere_do_not_keep_a_download_from_one_that_does() {
    private_net::run(
        "names_that_lead_nowhere_do_not_keep_a_download_from_one_that_does",
        || {
            let source = Source::start_with("names", &files(), 64 << 10, "[limits]\nupload-rate = \"1 MB/s\"\n");
            let scratch = &source.scratch;
            let port = source.btd.peers.port();
            let dns = Dns::start(scratch.path(), |name| match name {
                "good.test" => Says::Addresses(vec![Ipv4Addr::LOCALHOST]),
                // Nobody is at any of them, and connecting to none ends at once.
                "many.test" => Says::Addresses((1..=28).map(|last| Ipv4Addr::new(127, 7, 7, last)).collect()),
                "failure.test" => Says::Code(2),
                "none.test" => Says::Code(3),
                "circle.test" => Says::Itself,
                "garbage.test" => Says::Garbage,
                _ => Says::Nothing,
            });
            let mut peers: Vec<String> = ["many", "failure", "none", "circle", "garbage"]
                .map(|name| format!("{name}.test:9"))
                .to_vec();
            peers.extend((0..SILENT).map(|number| format!("silent{number}.test:9")));
            peers.push(format!("good.test:{port}"));
            let (watch, data) = (scratch.dir("leech-watch"), scratch.dir("leech-data"));
            fs::copy(&source.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
            let config = Config {
                more: format!(
                    "[announce]\nallow-private = true\n[[watch]]\ndir = {watch:?}\ndata-dir = {data:?}\npeers = {peers:?}\n"
                ),
                ..Config::default()
            };
            let btd = Btd::start(&scratch.dir("leech"), &config);
            let mut most = 0;
            wait_for("btd has everything", within(SECONDS), || {
                most = most.max(resolving(&btd));
                (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
            });
            source.payload.assert_same(&data, true);
            assert!((1..=THREADS_MAX).contains(&most), "{most} threads waited for names");
            for name in ["good.test", "many.test", "none.test", "circle.test", "garbage.test"] {
                assert!(dns.times_asked(name) > 0, "{name} was not asked for");
            }
            // Eight of its addresses are used, each tried a few times: all of them would be more than a hundred connections begun.
            let dialed = btd.metric("btd_connections_dialed_total");
            assert!(dialed < 70.0, "{dialed} connections begun");
            // Nobody was kept waiting by a name: no turn of a shard was longer than a busy machine makes it.
            let slow = slow_turns(&btd);
            assert_eq!(slow, 0.0, "{slow} turns of more than a second");
            btd.stop();
        },
    );
}

/// Threads that wait for a name.
fn resolving(btd: &Btd) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", btd.process.pid()));
    let names = tasks.into_iter().flatten().filter_map(|task| {
        let name = fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.starts_with("btd-resolve"))
    });
    names.filter(|is_one| *is_one).count()
}

fn slow_turns(btd: &Btd) -> f64 {
    let count = btd.metric("btd_loop_stall_seconds_count");
    count - btd.metric("btd_loop_stall_seconds_bucket{le=\"1\"}")
}
