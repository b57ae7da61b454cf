//! Signals as events.
//!
//! Caught by a thread of the kernel's choosing and told to the control plane; the shards' own waits are restarted by
//! their loops.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    PauseChecks,
    /// SIGUSR2.
    ResumeChecks,
}

/// Those that would end btd if nobody listened, and are not sent for that. They are listened to from the first moment on, and
/// what comes before they can be acted upon waits: a start may take long, and a configuration may be changed meanwhile.
pub(super) struct Early {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Early {
    pub(super) fn new() -> io::Result<Self> {
        // What is registered is of the whole process: it only takes some runtime to do so. The one that hears of them comes later.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// The signals btd listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    early: Early,
}

impl Signals {
    /// Until now the signals to stop have ended btd at once, which is what they are for.
    pub(super) fn new(early: Early) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            early,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.early.hangup.recv() => Request::Reload,
            _ = self.early.user1.recv() => Request::PauseChecks,
            _ = self.early.user2.recv() => Request::ResumeChecks,
        }
    }
}
