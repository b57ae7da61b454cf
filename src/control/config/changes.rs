//! What of another configuration a running btd can take over, and which keys have to wait for its next start.
//!
//! Every field of [`Config`] is named here by its key, so that whoever adds one has to say which of the two it is.

use super::{Announce, Config, Limits, Metrics, Peers, Shards, Storage, Tracker};

/// Takes over what can be, and gathers the names of the rest.
#[derive(Default)]
struct Waiting(Vec<&'static str>);

impl Waiting {
    /// This key keeps its value until btd is started again.
    fn keep<T: PartialEq + Clone>(&mut self, key: &'static str, old: &T, new: T) -> T {
        if *old != new {
            self.0.push(key);
        }
        old.clone()
    }
}

impl Config {
    /// This configuration with what a running btd can take over of `new`, and the keys of what it cannot.
    #[must_use]
    pub fn taking_over(&self, new: Config) -> (Config, Vec<&'static str>) {
        let mut waiting = Waiting::default();
        let Config {
            state_dir,
            log_level,
            peers,
            storage,
            watch,
            limits,
            tracker,
            announce,
            metrics,
            shards,
        } = new;
        let config = Config {
            state_dir: waiting.keep("state-dir", &self.state_dir, state_dir),
            log_level,
            peers: self.peers.taking_over(peers, &mut waiting),
            storage: self.storage.taking_over(storage, &mut waiting),
            watch,
            limits: {
                // All of them.
                let Limits {
                    upload_slots: _,
                    seed_choker: _,
                    upload_rate: _,
                    upload_rate_per_torrent: _,
                    download_rate: _,
                    schedule: _,
                } = limits;
                limits
            },
            tracker: match (&self.tracker, tracker) {
                (Some(old), Some(new)) => Some(old.taking_over(new, &mut waiting)),
                (old, new) => waiting.keep("[tracker]", old, new),
            },
            announce: self.announce.taking_over(announce, &mut waiting),
            metrics: match (&self.metrics, metrics) {
                (Some(old), Some(new)) => Some(old.taking_over(new, &mut waiting)),
                (old, new) => waiting.keep("[metrics]", old, new),
            },
            shards: self.shards.taking_over(shards, &mut waiting),
        };
        (config, waiting.0)
    }
}

impl Peers {
    fn taking_over(&self, new: Peers, waiting: &mut Waiting) -> Peers {
        let Peers {
            listen,
            max_connections,
            max_connections_per_torrent,
            max_connections_per_ip,
            zero_copy,
            bind_device,
            bind_address,
            dns_servers,
        } = new;
        Peers {
            listen: waiting.keep("peers.listen", &self.listen, listen),
            // Tables are as long as this.
            max_connections: waiting.keep("peers.max-connections", &self.max_connections, max_connections),
            max_connections_per_torrent,
            max_connections_per_ip,
            zero_copy: waiting.keep("peers.zero-copy", &self.zero_copy, zero_copy),
            // Sockets that are open would stay as they are.
            bind_device: waiting.keep("peers.bind-device", &self.bind_device, bind_device),
            bind_address: waiting.keep("peers.bind-address", &self.bind_address, bind_address),
            dns_servers: waiting.keep("peers.dns-servers", &self.dns_servers, dns_servers),
        }
    }
}

impl Storage {
    fn taking_over(&self, new: Storage, waiting: &mut Waiting) -> Storage {
        let Storage {
            read_mode,
            cache_size,
            check_rate,
            write_buffer,
            part_names,
            preallocate,
            scrub,
        } = new;
        Storage {
            read_mode: waiting.keep("storage.read-mode", &self.read_mode, read_mode),
            cache_size: waiting.keep("storage.cache-size", &self.cache_size, cache_size),
            check_rate,
            write_buffer: waiting.keep("storage.write-buffer", &self.write_buffer, write_buffer),
            part_names: waiting.keep("storage.part-names", &self.part_names, part_names),
            preallocate: waiting.keep("storage.preallocate", &self.preallocate, preallocate),
            scrub: waiting.keep("storage.scrub", &self.scrub, scrub),
        }
    }
}

impl Tracker {
    fn taking_over(&self, new: Tracker, waiting: &mut Waiting) -> Tracker {
        let Tracker {
            http,
            udp,
            private,
            allow,
            deny,
            max_connections,
            max_connections_per_ip,
            store,
            settings,
        } = new;
        let (old, new) = (&self.settings, settings);
        waiting.keep("tracker.interval", &old.interval, new.interval);
        waiting.keep("tracker.min-interval", &old.min_interval, new.min_interval);
        waiting.keep("tracker.numwant-max", &old.numwant_max, new.numwant_max);
        waiting.keep("tracker.hostname-allow", &old.hostname_allow, new.hostname_allow);
        waiting.keep("tracker.trust-ip", &old.trust_ip, new.trust_ip);
        waiting.keep("tracker.memory", &old.memory_max, new.memory_max);
        Tracker {
            http: waiting.keep("tracker.http", &self.http, http),
            udp: waiting.keep("tracker.udp", &self.udp, udp),
            private,
            allow,
            deny,
            max_connections: waiting.keep("tracker.max-connections", &self.max_connections, max_connections),
            max_connections_per_ip,
            store: waiting.keep("tracker.store", &self.store, store),
            settings: self.settings.clone(),
        }
    }
}

impl Announce {
    fn taking_over(&self, new: Announce, waiting: &mut Waiting) -> Announce {
        let Announce {
            enabled,
            hostname,
            port,
            ip,
            allow_private,
            trackers,
        } = new;
        Announce {
            enabled: waiting.keep("announce.enabled", &self.enabled, enabled),
            hostname,
            port,
            ip,
            allow_private: waiting.keep("announce.allow-private", &self.allow_private, allow_private),
            trackers,
        }
    }
}

impl Metrics {
    fn taking_over(&self, new: Metrics, waiting: &mut Waiting) -> Metrics {
        let Metrics {
            listen,
            hosts,
            top_torrents,
        } = new;
        Metrics {
            listen: waiting.keep("metrics.listen", &self.listen, listen),
            hosts: waiting.keep("metrics.hosts", &self.hosts, hosts),
            top_torrents: waiting.keep("metrics.top-torrents", &self.top_torrents, top_torrents),
        }
    }
}

impl Shards {
    fn taking_over(&self, new: Shards, waiting: &mut Waiting) -> Shards {
        let Shards {
            count,
            pin,
            gather_wait,
        } = new;
        Shards {
            count: waiting.keep("shards.count", &self.count, count),
            pin: waiting.keep("shards.pin", &self.pin, pin),
            gather_wait: waiting.keep("shards.gather-wait", &self.gather_wait, gather_wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/btd/btd.toml"), []).expect("valid")
    }

    #[test]
    fn what_can_be_taken_over_is_and_the_rest_is_named_again_each_time() {
        let old = parse("[metrics]\n[tracker]\nhttp = \"127.0.0.1:1\"");
        let text = "state-dir = \"elsewhere\"\nlog-level = \"debug\"\n\
            [peers]\nlisten = \"127.0.0.1:7000\"\nmax-connections-per-ip = 3\n\
            [storage]\ncache-size = \"64 MiB\"\ncheck-rate = \"1 MB/s\"\n\
            [limits]\nupload-rate = \"1 MB/s\"\nupload-slots = 9\n\
            [tracker]\nhttp = \"127.0.0.1:2\"\nallow = \"a\"\ninterval = \"20m\"\n\
            [announce]\ntrackers = [\"udp://t.example:1/announce\"]\nenabled = false\n\
            [shards]\ncount = 1\n[[watch]]\ndir = \"a\"\ndata-dir = \"b\"";
        let (taken, waiting) = old.taking_over(parse(text));
        let mut sorted = waiting.clone();
        sorted.sort_unstable();
        let expected = [
            "[metrics]",
            "announce.enabled",
            "peers.listen",
            "shards.count",
            "state-dir",
            "storage.cache-size",
            "tracker.http",
            "tracker.interval",
        ];
        assert_eq!(sorted, expected);
        assert_eq!(taken.limits.upload_rate, Some(1_000_000));
        assert_eq!((taken.limits.upload_slots, taken.peers.max_connections_per_ip), (9, 3));
        assert_eq!(taken.storage.check_rate, Some(1_000_000));
        assert_eq!((taken.watch.len(), taken.announce.trackers.len()), (1, 1));
        assert!(taken.tracker.as_ref().is_some_and(|tracker| tracker.allow.is_some()));
        // What goes on is as it was, and so the same keys are named the next time.
        assert_eq!((&taken.peers.listen, &taken.metrics), (&old.peers.listen, &old.metrics));
        assert_eq!(taken.taking_over(parse(text)).1, waiting);
        assert_eq!(taken.taking_over(taken.clone()), (taken, Vec::new()));
    }
}
