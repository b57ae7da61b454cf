//! Whether the network device and the addresses are there that the configuration binds btd to.
//!
//! As seen by who asks: a btd in a network namespace of its own may have others.

use super::finding::{Finding, Level};
use crate::control::config::Config;
use crate::control::device::Device;
use crate::control::outlet::{Outlet, absence, listens_elsewhere};

/// Nothing where btd leaves by whatever way the system chooses.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let peers = &config.peers;
    let device = peers.bind_device.as_deref().map(|name| device(&Device::new(name)));
    let absent = Outlet::new(None, &peers.bind_address).absent();
    let addresses =
        peers.bind_address.iter().map(|ip| {
            match absent.as_ref().map(|absent| absent.contains(ip)) {
        None => Finding::info("bind-address", format!("{ip} could not be looked for")),
        Some(false) => Finding::ok("bind-address", format!("this machine has {ip}")),
        Some(true) => Finding::said("bind-address", Level::Warn, &absence(*ip)).with(format!(
            "ip address add {ip} dev DEVICE, or another peers.bind-address (ip -brief address shows which there are)"
        )),
    }
        });
    let listen = listens_elsewhere(peers).map(|warning| Finding::said("listen", Level::Warn, &warning));
    device.into_iter().chain(addresses).chain(listen).collect()
}

fn device(device: &Device) -> Finding {
    let topic = "bind-device";
    let name = device.name();
    match device.look().map(|link| device.trouble(link)) {
        None => Finding::info(topic, format!("{name} could not be looked at")),
        Some(None) => Finding::ok(topic, format!("{name} is up")),
        Some(Some(trouble)) => Finding::warn(
            topic,
            trouble,
            format!("ip link set {name} up, or another peers.bind-device (ip -brief link shows which there are)"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(peers: &str) -> Vec<(&'static str, Level)> {
        let text = format!("[peers]\n{peers}");
        let config = Config::parse(&text, Path::new("/etc/btd.toml"), []).expect("a good configuration");
        look(&config)
            .into_iter()
            .map(|finding| (finding.topic, finding.level))
            .collect()
    }

    #[test]
    fn what_btd_is_bound_to_is_there_or_warned_of() {
        assert_eq!(found(""), []);
        assert_eq!(found("bind-device = \"lo\""), [("bind-device", Level::Ok)]);
        assert_eq!(
            found("bind-device = \"btd-no-such-de\""),
            [("bind-device", Level::Warn)]
        );
        // The second is for examples only (RFC 3849), or of a family that is switched off.
        assert_eq!(
            found("bind-address = [\"127.0.7.9\", \"2001:db8::9\"]"),
            [("bind-address", Level::Ok), ("bind-address", Level::Warn)]
        );
    }
}
