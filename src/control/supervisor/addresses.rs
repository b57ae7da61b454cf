//! The addresses that everything leaves from: noticed when they go, and made use of again when they are back.
//!
//! Nothing has to be done for what is bound to an address to leave from no other, nor to be listened for at it: see
//! [`crate::control::outlet`]. What is to be done is to say so, and to announce when it is back.

use std::net::IpAddr;
use std::time::Instant;

use super::Supervisor;
use super::network::Tries;
use crate::control::metrics;
use crate::control::outlet::{Outlet, absence};

/// The addresses, and what is known of them.
pub(super) struct BoundAddresses {
    outlet: Outlet,
    /// Those that were not there at the last look; `None` before the first.
    away: Option<Vec<IpAddr>>,
    tries: Tries,
}

impl BoundAddresses {
    pub(super) fn new(outlet: Outlet) -> Self {
        Self {
            outlet,
            away: None,
            tries: Tries::default(),
        }
    }
}

impl Supervisor<'_> {
    /// Time has passed: an address may have gone, or be back.
    pub(super) fn look_at_addresses(&mut self) {
        let bound = &mut self.addresses;
        if bound.outlet.address_count() == 0 {
            return;
        }
        let Some(away) = bound.outlet.absent() else {
            return; // As it was, until the next look knows better.
        };
        let now = Instant::now();
        let before = bound.away.replace(away.clone());
        if before.as_ref() == Some(&away) {
            if bound.tries.is_due(now) {
                self.network_is_back(false);
            }
            return;
        }
        metrics::publish_addresses(away.is_empty());
        if before.is_none() && away.is_empty() {
            tracing::info!("peers, trackers and name servers are reached {} only", bound.outlet);
        }
        let before = before.unwrap_or_default();
        let back: Vec<IpAddr> = before.iter().copied().filter(|ip| !away.contains(ip)).collect();
        match back.is_empty() {
            true => bound.tries.clear(),
            false => bound.tries.begin(now),
        }
        for ip in &back {
            self.lines.info(
                "addresses that are back",
                format_args!("{ip} is back: torrents are announced from it"),
            );
        }
        for ip in away.iter().filter(|ip| !before.contains(ip)) {
            self.lines
                .error("addresses that are away", format_args!("{}", absence(*ip)));
        }
        if !back.is_empty() {
            self.network_is_back(true);
        }
    }

    /// What is wrong with the addresses, if anything is, and whether none is left.
    pub(super) fn address_trouble(&self) -> (Vec<String>, bool) {
        let bound = &self.addresses;
        let away: Vec<String> = bound.away.iter().flatten().copied().map(absence).collect();
        let is_all = away.len() == bound.outlet.address_count() && !away.is_empty();
        (away, is_all)
    }
}
