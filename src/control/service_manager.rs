//! What systemd is told: ready, reloading, alive, stopping, and one line for `systemctl status`. Without systemd, nothing
//! happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Listening, and the torrents that were there at start are known. Also the end of a reload, however it went.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line about what btd is doing.
pub(super) fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The start goes on, and is given so much more time, from now.
pub(super) fn starting(status: &str, time: Duration) {
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(time), NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] follows.
pub(super) fn reloading() {
    // `Type=notify-reload` does not believe it without the time, which tells this reload from an earlier one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock for the service manager"),
    }
}

/// The watchdog's sign of life.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How long the service manager waits for [`alive`], if it does.
pub(super) fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// A clean stop has begun.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
