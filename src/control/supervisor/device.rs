//! The network device that everything is bound to: noticed when it goes, and made use of again when it is back.
//!
//! Nothing has to be done for what is bound to a device to stay off the others; see [`crate::control::device`]. What is to be
//! done is to say so, and when it is back to listen again (sockets of its former number reach nobody) and to announce.

use std::time::Instant;

use super::Supervisor;
use super::network::Tries;
use crate::control::device::{Device, Link};
use crate::control::metrics;

/// The device, and what is known of it.
pub(super) struct BoundDevice {
    device: Device,
    /// As it was last seen; `None` before the first look.
    link: Option<Link>,
    /// The number of the one that is listened by, as far as that is known.
    listens_by: Option<u32>,
    tries: Tries,
}

impl BoundDevice {
    /// Before the shards begin to listen by it, as they will if it is there: one that comes while they do may be listened by or
    /// not, and is listened by once more.
    pub(super) fn new(device: Device) -> Self {
        Self {
            listens_by: device.index().ok(),
            device,
            link: None,
            tries: Tries::default(),
        }
    }

    /// Which it is.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The number of the device, if it has to be listened by anew as it is now.
    fn to_listen_by(&self, link: Link) -> Option<u32> {
        link.index().filter(|index| self.listens_by != Some(*index))
    }
}

impl Supervisor<'_> {
    /// Time has passed: the device may have gone, or be back.
    pub(super) fn look_at_device(&mut self) {
        let Some(bound) = &mut self.device else {
            return;
        };
        let Some(link) = bound.device.look() else {
            return; // As it was, until the next look knows better.
        };
        let before = bound.link.replace(link);
        let name = bound.device.name();
        if let Some(index) = bound.to_listen_by(link) {
            match self.shards.listen_by(name) {
                Ok(()) => bound.listens_by = Some(index),
                // The next look tries again; it is told once.
                Err(error) if before != Some(link) => tracing::error!("{name} is there again, and {error}"),
                Err(error) => tracing::debug!("{name}: {error}"),
            }
        }
        let now = Instant::now();
        if before == Some(link) {
            if bound.tries.is_due(now) {
                self.network_is_back(false);
            }
            return;
        }
        bound.tries.clear();
        if before.is_some() && link.index().is_some() {
            bound.tries.begin(now);
        }
        metrics::publish_device(link.index().is_some());
        match (link, before) {
            (Link::Up(_), None) => tracing::info!("peers, trackers and name servers are reached through {name} only"),
            (Link::Up(_), Some(_)) => {
                self.lines.info(
                    "devices that are back",
                    format_args!("{name} is back: peers are listened for and torrents announced"),
                );
                self.network_is_back(true);
            }
            (Link::Down | Link::Absent, _) => {
                if let Some(why) = self.device_trouble() {
                    self.lines.error("devices that are away", format_args!("{why}"));
                }
            }
        }
    }

    /// What is wrong with the device, if anything is.
    pub(super) fn device_trouble(&self) -> Option<String> {
        let bound = self.device.as_ref()?;
        bound.device.trouble(bound.link?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_that_comes_after_the_start_has_begun_is_listened_by_and_one_that_was_there_not_twice() {
        let came = BoundDevice::new(Device::new("btd-no-such-de"));
        assert_eq!(came.to_listen_by(Link::Up(7)), Some(7));
        let there = BoundDevice::new(Device::new("lo"));
        let link = there.device().look().expect("there are descriptors");
        assert!(link.index().is_some());
        assert_eq!(there.to_listen_by(link), None);
        assert_eq!(there.to_listen_by(Link::Down), None);
    }
}
