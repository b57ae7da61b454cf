//! What a configuration says, and what is told of one that says something else.

mod keys;

use proptest::prelude::*;

use super::*;

const SEED: &str = include_str!("../../../config/seed.toml");

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/btd/btd.toml"), [])
}

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    Config::parse(text, Path::new("/etc/btd/btd.toml"), variables)
}

#[test]
fn the_defaults_written_in_seed_toml_are_the_defaults_of_the_code() {
    let written = parse(SEED).expect("config/seed.toml is valid");
    let built_in = parse("[metrics]").expect("an empty section is valid");
    assert_eq!(
        Config {
            watch: Vec::new(),
            ..written
        },
        built_in
    );
}

/// With the section that is commented out.
fn whole_seed() -> String {
    let is_off = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|line| !line.starts_with(' ') && !line.is_empty())
    };
    let on = |line: &str| {
        if is_off(line) {
            line[1..].to_owned()
        } else {
            line.to_owned()
        }
    };
    SEED.lines().map(|line| on(line) + "\n").collect()
}

#[test]
fn the_tracker_is_off_as_it_is_shipped_and_its_defaults_are_those_of_the_code() {
    assert_eq!(parse(SEED).expect("valid").tracker, None);
    let written = parse(&whole_seed()).expect("valid with its # away");
    let written = written.tracker.expect("a tracker");
    assert_eq!(written.allow.as_deref(), Some(Path::new("/etc/btd/allow.txt")));
    assert_eq!((written.http.len(), written.udp.len()), (1, 1));
    let built_in = Tracker {
        http: written.http.clone(),
        udp: written.udp.clone(),
        allow: written.allow.clone(),
        deny: written.deny.clone(),
        ..Tracker::default()
    };
    assert_eq!(written, built_in);
}

#[test]
fn relative_paths_start_at_the_file_and_absolute_ones_are_kept() {
    let config =
        parse("state-dir = \"state\"\n[[watch]]\ndir = \"/srv/torrents\"\ndata-dir = \"../data\"").expect("valid");
    assert_eq!(config.state_dir, Path::new("/etc/btd/state"));
    assert_eq!(config.watch[0].dir, Path::new("/srv/torrents"));
    assert_eq!(config.watch[0].data_dir, Path::new("/etc/btd/../data"));
}

#[test]
fn payload_is_not_believed_where_an_unfinished_file_looks_like_a_whole_one() {
    for verify in ["lazy", "trust"] {
        let watch = format!("[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nverify = \"{verify}\"\n");
        let error = parse(&format!("{watch}[storage]\npart-names = false")).expect_err("refused");
        assert!(error.to_string().contains("storage.part-names"), "{error}");
        parse(&watch).expect("with names of their own");
    }
}

#[test]
fn the_environment_takes_the_place_of_the_file_as_toml_or_as_a_plain_string() {
    let variables = [
        ("BTD_STATE_DIR", "/var/lib/btd"),
        ("BTD_LOG_LEVEL", "warn"),
        ("BTD_PEERS__LISTEN", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
        ("BTD_LIMITS__UPLOAD_SLOTS", "7"),
        ("BTD_METRICS__LISTEN", "127.0.0.1:0"),
        ("BTD_STORAGE__CACHE_SIZE", "64 MiB"),
        ("BTD_WATCH", "[{ dir = \"a\", data-dir = \"b\" }]"),
        ("BTD_SHA1", "scalar"),
        ("BTD_URING_MASK", "recv-multishot"),
        ("BTD_TEST_ANY__THING", "1"),
        ("BTD_PORT", "tcp://10.0.0.1:6881"),
        ("PATH", "/bin"),
    ];
    let config = parse_with("state-dir = \"x\"\n[limits]\nupload-slots = 3", &variables).expect("valid");
    assert_eq!(config.state_dir, Path::new("/var/lib/btd"));
    assert_eq!(config.log_level, LogLevel::Warn);
    assert_eq!(config.peers.listen.len(), 2);
    assert_eq!(config.limits.upload_slots, 7);
    assert_eq!(config.metrics.expect("named in the environment").listen.port(), 0);
    assert_eq!(config.storage.cache_size, Some(64 << 20));
    assert_eq!(config.watch[0].dir, Path::new("/etc/btd/a"));
}

#[test]
fn a_variable_that_is_nearly_one_of_a_key_is_refused_and_one_that_is_anybodys_is_not() {
    let refusals = |name: &str| match parse_with("", &[(name, "x")]) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    for (name, meant) in [
        ("BTD_STATEDIR", "BTD_STATE_DIR"),
        ("BTD_STATE_DIRS", "BTD_STATE_DIR"),
        ("BTD_LOGLEVEL", "BTD_LOG_LEVEL"),
        ("BTD_LIMITS_UPLOAD_SLOTS", "BTD_LIMITS__UPLOAD_SLOTS"),
        ("BTD_UPLOAD_SLOTS", "BTD_LIMITS__UPLOAD_SLOTS"),
        ("BTD_TRACKER_HTTP", "BTD_TRACKER__HTTP"),
        ("BTD_METRICS_LISTN", "BTD_METRICS__LISTEN"),
        ("BTD_ANNOUNCE_PORT", "BTD_ANNOUNCE__PORT"),
        ("BTD_WATCH_DIR", "BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'"),
    ] {
        let expected = format!("{name}: no key has this variable (did you mean {meant}?)");
        assert_eq!(refusals(name), Some(expected));
    }
    // As container runtimes set them for services called btd, btd-metrics and btd-tracker.
    for name in [
        "BTD_PORT",
        "BTD_SERVICE_HOST",
        "BTD_SERVICE_PORT",
        "BTD_SERVICE_PORT_PEERS",
        "BTD_PORT_6881_TCP",
        "BTD_PORT_6881_TCP_ADDR",
        "BTD_PORT_6881_TCP_PROTO",
        "BTD_METRICS_PORT",
        "BTD_METRICS_SERVICE_HOST",
        "BTD_TRACKER_PORT",
        "BTD_TRACKER_SERVICE_PORT",
        "BTD_",
        "BTD_X",
        "BTD_VERSION",
    ] {
        assert_eq!(refusals(name), None, "{name}");
    }
    for (name, message) in [
        (
            "BTD_WATCHES__DIR",
            "BTD_WATCHES__DIR: unknown section [watches] (did you mean BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'?)",
        ),
        (
            "BTD_WATCH__DIR",
            "BTD_WATCH__DIR: watch: a repeated section is set whole: BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'",
        ),
        (
            "BTD_LIMIT__UPLOAD_SLOTS",
            "BTD_LIMIT__UPLOAD_SLOTS: unknown section [limit] (did you mean [limits]?)",
        ),
    ] {
        assert_eq!(refusals(name).as_deref(), Some(message));
    }
}

#[test]
fn what_trackers_are_told_is_read_and_no_key_is_shown() {
    let text = "[announce]\nhostname = \"client1.internal\"\nport = 7000\nip = \"10.0.0.1\"\nallow-private = true\n\
                trackers = [\"udp://t.example:6969/announce\", \"https://t.example/0123456789/announce\"]";
    let announce = parse(text).expect("valid").announce;
    assert_eq!(announce.hostname.as_deref(), Some("client1.internal"));
    assert_eq!((announce.port, announce.ip), (7000, Some([10, 0, 0, 1].into())));
    assert!(announce.enabled && announce.allow_private && announce.trackers.len() == 2);
    for (text, message) in [
        (
            "hostname = \"a b\"",
            "announce.hostname: expected a name such as \"client1.internal\", or \"\", found \"a b\"",
        ),
        (
            "hostname = \"10.0.0.1\"",
            "announce.hostname: expected a name such as \"client1.internal\", or \"\", found the address \"10.0.0.1\" (hint: ip = \"10.0.0.1\")",
        ),
        (
            "hostname = \"[::1]\"",
            "announce.hostname: expected a name such as \"client1.internal\", or \"\", found the address \"[::1]\" (hint: ip = \"::1\")",
        ),
        ("hostname = \"127.1\"", "found the address \"127.1\""),
        (
            "port = 65536",
            "announce.port: expected a port from 0 to 65535, found 65536",
        ),
        (
            "ip = \"x\"",
            "announce.ip: expected an IP address, or \"\", found \"x\"",
        ),
        (
            "trackers = \"ftp://u:secret@x/\"",
            "announce.trackers: tracker 1 of the list: not an http, https or udp address",
        ),
        (
            "hostnam = \"a\"",
            "unknown key \"hostnam\" in [announce] (did you mean \"hostname\"?)",
        ),
    ] {
        let error = parse(&format!("[announce]\n{text}"))
            .expect_err("it is wrong")
            .to_string();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("secret"));
    }
}

#[test]
fn a_time_that_cannot_be_read_is_told_with_examples_that_the_key_takes() {
    for (text, message) in [
        (
            "[shards]\ngather-wait = 5",
            "shards.gather-wait: expected a time such as \"500us\" or \"1ms\", found 5",
        ),
        (
            "[tracker]\nhttp = \"127.0.0.1:0\"\ninterval = \"soon\"",
            "tracker.interval: expected a time such as \"30m\" or \"90s\", found \"soon\"",
        ),
    ] {
        let error = parse(text).expect_err("it is wrong").to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn limits_of_a_folder_and_of_hours_are_read_and_what_is_wrong_with_them_is_told() {
    let text = "[limits]\nupload-rate = \"1 MB/s\"\n[[limits.schedule]]\ndays = [\"mon\", \"sun\"]\nfrom = \"22:00\"\nto = \"06:30\"\n\
        upload-rate = \"unlimited\"\n[[limits.schedule]]\nfrom = \"08:00\"\nto = \"09:00\"\ndownload-rate = \"50 MB/s\"\n\
        [[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nlabel = \"linux\"\nupload-rate = \"2 MB/s\"\nseed-ratio = 1.5\nseed-time = \"7d\"";
    let config = parse(text).expect("valid");
    let [night, morning] = &config.limits.schedule[..] else {
        panic!("two of them");
    };
    assert_eq!((night.upload_rate, night.download_rate), (Some(None), None));
    assert_eq!(
        (morning.upload_rate, morning.download_rate),
        (None, Some(Some(50_000_000)))
    );
    assert_eq!(night.to_string(), "mon, sun 22:00-06:30");
    let watch = &config.watch[0];
    assert_eq!(
        (watch.label.as_deref(), watch.upload_rate, watch.download_rate),
        (Some("linux"), Some(2_000_000), None)
    );
    assert_eq!(
        (watch.seed_ratio, watch.seed_time),
        (Some(150), Some(Duration::from_secs(7 * 86_400)))
    );
    for (text, message) in [
        (
            "[[limits.schedule]]\nfrom = \"08:00\"\nto = \"09:00\"",
            "[[limits.schedule]] needs the key \"upload-rate\" or",
        ),
        (
            "[[limits.schedule]]\nto = \"09:00\"\nupload-rate = \"unlimited\"",
            "[[limits.schedule]] needs the key \"from\"",
        ),
        (
            "[[limits.schedule]]\nfrom = \"8:00\"\nto = \"09:00\"\nupload-rate = \"unlimited\"",
            "limits.schedule.from: expected a time of day from \"00:00\" to \"24:00\", found \"8:00\" (did you mean \"08:00\"?)",
        ),
        (
            "[[limits.schedule]]\nfrom = \"22:00\"\nto = \"6\"\nupload-rate = \"unlimited\"",
            "found \"6\" (did you mean \"06:00\"?)",
        ),
        (
            "[[limits.schedule]]\nfrom = \"25:00\"\nto = \"6:000\"\nupload-rate = \"unlimited\"",
            "found \"25:00\"\n",
        ),
        (
            "[[limits.schedule]]\nfrom = \"08:00\"\nto = \"09:00\"\ndays = [\"mom\"]\nupload-rate = \"unlimited\"",
            "found \"mom\" (did you mean \"mon\"?)",
        ),
        (
            "[[limits.schedule]]\ntoo = 1",
            "unknown key \"too\" in [[limits.schedule]] (did you mean \"to\"?)",
        ),
        (
            "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nseed-ratio = 0.001",
            "watch.seed-ratio: expected a ratio from 0.01 to 10000 such as 1.5, or \"unlimited\", found 0.001",
        ),
        (
            "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nseed-time = \"0s\"",
            "watch.seed-time: expected a time from \"1s\" to \"3660d\", or \"unlimited\", found \"0s\"",
        ),
        (
            "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nupload-rate = \"1 kB/s\"",
            "watch.upload-rate: expected at least \"16 KiB/s\"",
        ),
        (
            "[peers]\nbind-device = \"a b\"",
            "peers.bind-device: expected the name of a network device such as \"tun0\", or \"\", found \"a b\"",
        ),
        (
            "[peers]\nbind-device = \"0123456789abcdef\"",
            "found \"0123456789abcdef\"",
        ),
        (
            "[peers]\nbind-device = \"tun0\"\ndns-servers = [\"10.0.0.1\", \"dns.example\"]",
            "peers.dns-servers: expected IP addresses such as \"10.0.0.1\", found \"dns.example\"",
        ),
        (
            "[peers]\ndns-servers = \"10.0.0.1\"",
            "peers.dns-servers: these are asked through peers.bind-device or from peers.bind-address only, and there is neither",
        ),
        (
            "[peers]\nbind-address = \"0.0.0.0\"",
            "peers.bind-address: expected an IP address of this machine such as \"10.8.0.2\", found \"0.0.0.0\", which stands for all \
             addresses (hint: ip address shows which this machine has)",
        ),
        (
            "[peers]\nbind-address = [\"10.8.0.2\", \"::\"]",
            "found \"::\", which stands for all addresses",
        ),
        (
            "[peers]\nbind-address = \"10.8.0.2:6881\"",
            "found \"10.8.0.2:6881\" (hint: without a port, which is that of peers.listen)",
        ),
        (
            "[peers]\nbind-address = \"tun0\"",
            "found \"tun0\" (hint: ip address shows which this machine has)",
        ),
        (
            "[peers]\nbind-address = [\"10.8.0.2\", \"2001:db8::2\", \"10.8.0.3\"]",
            "peers.bind-address: 10.8.0.2 and 10.8.0.3 are both IPv4, expected at most one address of each family",
        ),
        (
            "[peers]\nbind-address = [\"10.8.0.2\", \"::ffff:10.8.0.2\"]",
            "found \"::ffff:10.8.0.2\", which is an IPv4 address written as IPv6",
        ),
        (
            "[peers]\nbind-address = \"fe80::1\"",
            "found \"fe80::1\", which reaches no further than one link",
        ),
        ("[peers]\nbind-address = \"224.0.0.1\"", "which is nobody's own"),
        (
            "[peers]\nbind-address = 1",
            "peers.bind-address: expected a list of strings, found",
        ),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn peers_are_listened_for_at_the_address_that_is_left_from_unless_another_is_given() {
    let listen = |text: &str| parse(&format!("[peers]\n{text}")).expect("valid").peers.listen;
    let addresses =
        |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().expect("an address")).collect() };
    for none in ["", "bind-address = []", "bind-address = \"\""] {
        assert_eq!(listen(none), addresses(&["0.0.0.0:6881"]));
    }
    assert_eq!(listen("bind-address = \"10.8.0.2\""), addresses(&["10.8.0.2:6881"]));
    assert_eq!(
        listen("bind-address = [\"2001:db8::2\", \"10.8.0.2\"]"),
        addresses(&["[2001:db8::2]:6881", "10.8.0.2:6881"])
    );
    let given =
        "listen = \"0.0.0.0:7000\"\nbind-address = \"10.8.0.2\"\nbind-device = \"tun0\"\ndns-servers = \"10.8.0.1\"";
    assert_eq!(listen(given), addresses(&["0.0.0.0:7000"]));
    let alone = "bind-address = \"10.8.0.2\"\ndns-servers = \"10.8.0.1\"";
    assert_eq!(listen(alone), addresses(&["10.8.0.2:6881"]));
}

#[test]
fn the_metrics_server_is_off_without_its_section() {
    assert_eq!(parse("").expect("valid").metrics, None);
}

#[test]
fn nesting_beyond_reason_is_an_error_and_not_a_stack_overflow() {
    assert!(parse(&format!("a = {}", "[".repeat(1_000_000))).is_err());
    assert!(parse(&format!("a = {}", "{a=".repeat(1_000_000))).is_err());
    assert!(parse(&format!("{}a = 1", "a.".repeat(100_000))).is_err());
}

proptest! {
    #[test]
    fn arbitrary_text_is_read_or_refused_but_never_panics(text in "(?s).{0,300}") {
        let _ = parse(&text);
    }

    #[test]
    fn arbitrary_values_of_real_keys_are_read_or_refused_but_never_panic(
        key in prop::sample::select(vec!["peers.listen", "storage.cache-size", "storage.read-mode", "watch", "shards.count", "metrics"]),
        value in "[0-9a-zA-Z\"\\[\\]{}=.,:_ +-]{0,40}",
    ) {
        let _ = parse(&format!("{key} = {value}"));
        let variable = format!("BTD_{}", key.replace('.', "__").replace('-', "_").to_uppercase());
        let _ = parse_with("", &[(&variable, &value)]);
    }
}

/// What is told of a file, line by line.
fn told(text: &str) -> Vec<String> {
    let error = parse(text).expect_err(text);
    let told = |problem: &Problem| match &problem.at {
        At::Line(line) => format!("{line}: {}", problem.message),
        at => format!("{at:?}: {}", problem.message),
    };
    error.problems().iter().map(told).collect()
}

/// They were answered by the words of whoever reads TOML.
#[test]
fn values_without_their_quotes_are_told_what_their_keys_want() {
    let text = "state-dir = /var/lib/btd # here\n[storage]\ncheck-rate = 50 MB/s\nread-mode = fast\nscrub = 30d\n\
                [peers]\nzero-copy = yes\nlisten = 0.0.0.0:6881\nlisen = 0.0.0.0:6882\n[shards]\r\ngather-wait = 1 ms\r\n";
    assert_eq!(
        told(text),
        [
            "1: state-dir: expected text in quotes: state-dir = \"/var/lib/btd\"",
            "3: storage.check-rate: expected text in quotes: check-rate = \"50 MB/s\"",
            "4: storage.read-mode: expected one of \"auto\", \"direct\", \"buffered\", found fast",
            "5: storage.scrub: expected text in quotes: scrub = \"30d\"",
            "7: peers.zero-copy: expected true or false, found yes",
            "8: peers.listen: expected text in quotes: listen = \"0.0.0.0:6881\"",
            "9: unknown key \"lisen\" in [peers] (did you mean \"listen\"?)",
            "11: shards.gather-wait: expected text in quotes: gather-wait = \"1 ms\"",
        ]
    );
    let path = "state-dir = /srv/#1/btd\t# here\n";
    assert_eq!(
        told(path),
        ["1: state-dir: expected text in quotes: state-dir = \"/srv/#1/btd\""]
    );
    let key = "[announce]\ntrackers = https://t.example/0123456789abcdef/announce\n";
    assert_eq!(told(key), ["2: announce.trackers: expected text in quotes"]);
}

#[test]
fn what_is_no_toml_for_another_reason_is_told_so_beside_values_without_quotes() {
    // What is wrong with keys behind it may come of it.
    let text = "[limits]\nupload-slots = \nupload-rate = 5 MB/s\ndownload-rate = \"fast\"\n";
    let told_of = told(text);
    assert!(told_of[0].starts_with("2: not valid TOML: "), "{told_of:?}");
    assert_eq!(
        told_of[1..],
        ["3: limits.upload-rate: expected text in quotes: upload-rate = \"5 MB/s\""]
    );
    for text in [
        "[limits]\nupload-rate = \"5 MB/s\" a\n",
        "[limits]\nupload rate = 5\n",
        "[limits]\nupload rate = 5 MB/s\n",
        "[limits]\nupload-slots = 5\nupload-slots = 5\n",
        "[limits\nupload-slots = 5\n",
    ] {
        let told_of = told(text);
        assert!(
            told_of.len() == 1 && told_of[0].contains(": not valid TOML: "),
            "{told_of:?}"
        );
    }
    // A variable in its place makes the file no better.
    let variables = [("BTD_LIMITS__UPLOAD_RATE", "1 MB/s")];
    let error = parse_with("[limits]\nupload-rate = 5 MB/s\n", &variables).expect_err("refused");
    let expected = "/etc/btd/btd.toml:2: not valid TOML: expected text in quotes";
    assert_eq!(error.to_string(), expected);
}

/// They were answered by the words of whoever reads TOML, or by what the key of an empty value would want.
#[test]
fn lists_tables_and_keys_of_all_forms_without_quotes_are_told_what_their_keys_want() {
    for (text, expected) in [
        (
            "[peers]\nlisten = [0.0.0.0:6881, [::]:6881]\nlisen = 7\n",
            &[
                "2: peers.listen: expected text in quotes: listen = [\"0.0.0.0:6881\", \"[::]:6881\"]",
                "3: unknown key \"lisen\" in [peers] (did you mean \"listen\"?)",
            ][..],
        ),
        (
            "[peers]\nlisten = [\n  \"[::]:6881\", # b\n  0.0.0.0:6881,\n  [::1]:6881\n]\n",
            &["4: peers.listen: expected text in quotes: listen = [\"[::]:6881\", \"0.0.0.0:6881\", \"[::1]:6881\"]"],
        ),
        (
            "watch = [{ dir = /a, data-dir = \"/b\" }]\n",
            &["1: watch.dir: expected text in quotes: dir = \"/a\""],
        ),
        (
            "limits = { upload-rate = 5 MB/s, upload-slots = 7 }\n",
            &["1: limits.upload-rate: expected text in quotes: upload-rate = \"5 MB/s\""],
        ),
        (
            "limits.upload-rate = 5 MB/s\n",
            &["1: limits.upload-rate: expected text in quotes: upload-rate = \"5 MB/s\""],
        ),
        (
            "\"state-dir\" = /x\n",
            &["1: state-dir: expected text in quotes: state-dir = \"/x\""],
        ),
        (
            "[limits]\nupload-rate = '5 MB/s\ndownload-rate = 6 MB/s\"\nupload-rate-per-torrent = \"fast\n",
            &[
                "2: limits.upload-rate: expected text in quotes: upload-rate = \"5 MB/s\"",
                "3: limits.download-rate: expected text in quotes: download-rate = \"6 MB/s\"",
                "4: limits.upload-rate-per-torrent: expected a rate such as \"200 MB/s\", or \"unlimited\", found fast",
            ],
        ),
        (
            "[announce]\ntrackers = [https://t.example/0123456789/announce]\n",
            &["2: announce.trackers: expected text in quotes"],
        ),
        (
            "[[limits.schedule]]\nfrom = 08:00\nto = 9\nupload-rate = \"unlimited\"\n",
            &[
                "2: limits.schedule.from: expected text in quotes: from = \"08:00\"",
                "3: limits.schedule.to: expected a time of day from \"00:00\" to \"24:00\", found 9 (did you mean \"09:00\"?)",
            ],
        ),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
}

#[test]
fn several_values_without_brackets_and_a_port_alone_are_told_what_they_should_be() {
    let text =
        "[peers]\nlisten = \"0.0.0.0:1\", \"[::]:1\" # both\n[announce]\ntrackers = \"t/secret\", \"http://u/\"\n";
    assert_eq!(
        told(text),
        [
            "2: several values need brackets around them: listen = [..., ...]",
            "4: several values need brackets around them: trackers = [..., ...]",
        ]
    );
    assert_eq!(
        told("[peers]\nlisten = 6881\n"),
        ["2: peers.listen: expected an IP address and a port such as \"0.0.0.0:6881\" or \"[::]:6881\", found 6881"]
    );
    assert_eq!(
        told("[metrics]\nlisten = 9469\n"),
        ["2: metrics.listen: expected an IP address and a port such as \"0.0.0.0:6881\" or \"[::]:6881\", found 9469",]
    );
}

#[test]
fn addresses_of_trackers_and_stores_in_the_wrong_place_are_told_without_their_secrets() {
    for text in [
        "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\npeers = \"http://t/SECRET/announce\"\n",
        "[tracker]\nhttp = \"redis://:SECRET@h:6379/0\"\n",
        "[tracker]\nhttp = 127.0.0.1:1, redis://:SECRET@h\n",
        "[announce]\nhostname = \"http://u:SECRET@h/\"\n",
        "[announce]\n\"http://u:SECRET@h/\" = 1\n",
        "[\"redis://u:SECRET@h/0\"]\n",
        "log-level = \"http://u:SECRET@h/\"\n",
    ] {
        let told_of = told(text);
        assert!(
            !told_of.is_empty() && !told_of.concat().contains("SECRET"),
            "{text}: {told_of:?}"
        );
    }
}

/// It made a folder of that name.
#[test]
fn home_folder_by_its_short_name_is_refused() {
    let why = "expected a path without \"~\", which stands for a home folder in a shell alone, found";
    let hint = "(hint: the home folder by its own name, such as \"/home/me\"; a file that is called so is \"./~\")";
    let text = "state-dir = \"~/btd\"\n[[watch]]\ndir = ~/torrents\ndata-dir = \"./~\"\n";
    assert_eq!(
        told(text),
        [
            format!("1: state-dir: {why} \"~/btd\" {hint}"),
            format!("3: watch.dir: {why} ~/torrents {hint}"),
        ]
    );
    let error = parse_with("", &[("BTD_STATE_DIR", "~me")]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        format!("BTD_STATE_DIR: state-dir: {why} \"~me\" {hint}")
    );
}

/// It was unknown.
#[test]
fn key_in_another_section_than_its_own_is_told_where_it_belongs() {
    let text = "upload-rate = \"1 MB/s\"\ntrackers = []\n[peers]\nlog-level = \"info\"\nfrom = 1\nlistn = 7\n[metrics]\n\
                seed-ratio = 1\n";
    assert_eq!(
        told(text),
        [
            "1: unknown key \"upload-rate\": it belongs under [limits] or under [[watch]] or under [[limits.schedule]]",
            "2: unknown key \"trackers\": it belongs under [announce]",
            "4: unknown key \"log-level\" in [peers]: it belongs above all sections",
            "5: unknown key \"from\" in [peers]: it belongs under [[limits.schedule]]",
            "6: unknown key \"listn\" in [peers] (did you mean \"listen\"?)",
            "8: unknown key \"seed-ratio\" in [metrics]: it belongs under [[watch]]",
        ]
    );
}
