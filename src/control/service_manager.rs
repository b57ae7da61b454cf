//! What systemd is told: ready, stopping, and one line for `systemctl status`. Without systemd, nothing happens.

use sd_notify::NotifyState;

/// Listening, and the torrents that were there at start are known.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line about what btd is doing.
pub(super) fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
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
