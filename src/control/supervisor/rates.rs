//! Which rates are in force, and why: what somebody has set by `btd ctl` until the configuration is read again, else the first slot
//! of the schedule that holds, else `[limits]`. And those of watch folders, which hold beside them.
//!
//! All rates of all torrents together are set here and nowhere else, so that what is told is what holds. It is looked at once a
//! minute, and when one of the three changes.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Instant;

use super::Supervisor;
use crate::control::config::Limits;
use crate::control::config::schedule::{Slot, Wall};
use crate::control::config::sections::RATE_MIN;
use crate::control::ctl::api::{self, FolderLimits, Kind, Refusal};
use crate::control::ctl::display_rate;
use crate::control::local_time;

/// A rate in bytes a second, `None` for no limit, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InForce {
    rate: Option<u64>,
    why: String,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate.map_or_else(|| "unlimited".to_owned(), display_rate);
        write!(f, "{rate}, by {}", self.why)
    }
}

/// What was set by hand, and what is in force.
#[derive(Debug, Default)]
pub(super) struct Rates {
    upload_by_hand: Option<Option<u64>>,
    download_by_hand: Option<Option<u64>>,
    /// Up and down; `None` before the first look.
    in_force: Option<[InForce; 2]>,
    /// The minute of the last look.
    looked_at: Option<Wall>,
}

impl Rates {
    /// What is in force at this moment.
    fn at(&self, limits: &Limits, now: Wall) -> [InForce; 2] {
        let by =
            |by_hand: Option<Option<u64>>, of_slot: fn(&Slot) -> Option<Option<u64>>, rate: Option<u64>, key: &str| {
                if let Some(rate) = by_hand {
                    let why = "btd ctl limits, until the configuration is read again".to_owned();
                    return InForce { rate, why };
                }
                let mut slots = limits.schedule.iter().filter(|slot| slot.holds_at(now));
                match slots.find_map(|slot| Some((of_slot(slot)?, slot))) {
                    Some((rate, slot)) => InForce {
                        rate,
                        why: format!("[[limits.schedule]], {slot}"),
                    },
                    None => InForce {
                        rate,
                        why: format!("[limits] {key}"),
                    },
                }
            };
        [
            by(
                self.upload_by_hand,
                |slot| slot.upload_rate,
                limits.upload_rate,
                "upload-rate",
            ),
            by(
                self.download_by_hand,
                |slot| slot.download_rate,
                limits.download_rate,
                "download-rate",
            ),
        ]
    }
}

impl Supervisor<'_> {
    /// Time has passed: another slot may hold.
    pub(super) fn look_at_rates(&mut self) {
        if self.config.limits.schedule.is_empty() && self.rates.in_force.is_some() {
            return;
        }
        let now = local_time::now();
        if self.rates.looked_at != Some(now) {
            self.keep_to_rates(now);
        }
    }

    /// The configuration was read again: what was set by hand is over.
    pub(super) fn take_over_rates(&mut self) {
        (self.rates.upload_by_hand, self.rates.download_by_hand) = (None, None);
        self.keep_to_rates(local_time::now());
    }

    fn keep_to_rates(&mut self, now: Wall) {
        self.rates.looked_at = Some(now);
        let wanted = self.rates.at(&self.config.limits, now);
        if self.rates.in_force.as_ref() == Some(&wanted) {
            return;
        }
        let [upload, download] = &wanted;
        self.shards.set_rates(upload.rate, download.rate);
        let before = self.rates.in_force.replace(wanted.clone());
        let Some(before) = before else {
            return; // At the start the configuration says it all.
        };
        for (what, before, now) in [
            ("upload-rate", &before[0], &wanted[0]),
            ("download-rate", &before[1], &wanted[1]),
        ] {
            if before != now {
                tracing::info!("{what} is {now}");
            }
        }
    }

    /// Sets the rates that all torrents together keep to, those that are given (0 is no limit), and gives all that are in force.
    pub(in crate::control) fn limit(
        &mut self,
        upload: Option<u64>,
        download: Option<u64>,
    ) -> Result<api::Limits, Refusal> {
        for (rate, what) in [(upload, "upload-rate"), (download, "download-rate")] {
            if let Some(rate) = rate.filter(|rate| (1..RATE_MIN).contains(rate)) {
                let message = format!("{what}: {rate} bytes a second, at least {RATE_MIN} accepted");
                return Err(Refusal::new(Kind::BadRequest, message));
            }
        }
        let by_hand = |rate: u64| (rate > 0).then_some(rate);
        if let Some(rate) = upload {
            self.rates.upload_by_hand = Some(by_hand(rate));
        }
        if let Some(rate) = download {
            self.rates.download_by_hand = Some(by_hand(rate));
        }
        self.keep_to_rates(local_time::now());
        let none = || InForce {
            rate: None,
            why: String::new(),
        };
        let [upload, download] = self.rates.in_force.clone().unwrap_or_else(|| [none(), none()]);
        let folder = |watch: &crate::control::config::Watch| FolderLimits {
            watch: watch.dir.display().to_string(),
            label: watch.label.clone(),
            upload_rate: watch.upload_rate,
            download_rate: watch.download_rate,
        };
        Ok(api::Limits {
            upload_rate: upload.rate,
            upload_why: upload.why,
            download_rate: download.rate,
            download_why: download.why,
            upload_rate_per_torrent: self.config.limits.upload_rate_per_torrent,
            folders: self.folders.open_ones().map(|(_, watch)| folder(watch)).collect(),
        })
    }

    /// The upload rate that each torrent keeps to by itself, as the configuration has it now.
    pub(super) fn keep_to_own_rates(&self) {
        let (rate, now) = (self.config.limits.upload_rate_per_torrent, Instant::now());
        let served = self.torrents.served();
        served.for_each(|torrent| torrent.keep_to(rate.and_then(NonZeroU64::new), now));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::control::config::Config;

    fn limits() -> Limits {
        let text = "[limits]\nupload-rate = \"1 MB/s\"\n\
            [[limits.schedule]]\nfrom = \"22:00\"\nto = \"06:00\"\nupload-rate = \"unlimited\"\n\
            [[limits.schedule]]\ndays = \"sat\"\nfrom = \"00:00\"\nto = \"24:00\"\nupload-rate = \"3 MB/s\"\ndownload-rate = \"2 MB/s\"\n";
        Config::parse(text, Path::new("/etc/btd/btd.toml"), [])
            .expect("valid")
            .limits
    }

    fn at(rates: &Rates, weekday: u8, hour: u16) -> [(Option<u64>, String); 2] {
        let now = Wall {
            weekday,
            minute: hour * 60,
        };
        rates.at(&limits(), now).map(|in_force| (in_force.rate, in_force.why))
    }

    #[test]
    fn the_first_slot_that_holds_and_has_a_rate_counts_and_each_rate_by_itself() {
        let rates = Rates::default();
        let [up, down] = at(&rates, 0, 12);
        assert_eq!(up, (Some(1_000_000), "[limits] upload-rate".to_owned()));
        assert_eq!(down, (None, "[limits] download-rate".to_owned()));
        let [up, down] = at(&rates, 5, 23);
        assert_eq!(up, (None, "[[limits.schedule]], every day 22:00-06:00".to_owned()));
        assert_eq!(
            down,
            (Some(2_000_000), "[[limits.schedule]], sat 00:00-24:00".to_owned())
        );
        assert_eq!(at(&rates, 5, 12)[0].0, Some(3_000_000));
    }

    /// It was a number of bytes, as nobody has written it.
    #[test]
    fn rates_are_told_as_they_are_elsewhere() {
        let [up, down] = Rates::default().at(
            &limits(),
            Wall {
                weekday: 0,
                minute: 720,
            },
        );
        assert_eq!(up.to_string(), "1.0 MB/s, by [limits] upload-rate");
        assert_eq!(down.to_string(), "unlimited, by [limits] download-rate");
    }

    #[test]
    fn what_was_set_by_hand_outweighs_the_schedule_be_it_no_limit() {
        let rates = Rates {
            upload_by_hand: Some(Some(500_000)),
            download_by_hand: Some(None),
            ..Rates::default()
        };
        let [up, down] = at(&rates, 5, 12);
        assert_eq!((up.0, down.0), (Some(500_000), None));
        assert!(up.1.starts_with("btd ctl limits") && down.1 == up.1);
    }
}
