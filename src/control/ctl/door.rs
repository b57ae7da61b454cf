//! The way to the supervisor for those who are not it: a queue of things to do, each done between two of its events.
//!
//! What is asked must be short, a few milliseconds at most. What looks at all torrents does so page by page, and what waits
//! for a disk, a shard or a tracker has the waiting done elsewhere.

use tokio::sync::{mpsc, oneshot};

use super::api::Refusal;
use crate::control::supervisor::Supervisor;

/// Questions that wait. Connections are bounded, and each asks one at a time.
const ASKS_MAX: usize = 64;

/// Something for the supervisor to do.
pub(in crate::control) type Ask = Box<dyn for<'a, 'b> FnOnce(&'a mut Supervisor<'b>)>;

/// The asking end.
#[derive(Clone)]
pub(in crate::control) struct Door(mpsc::Sender<Ask>);

/// Makes both ends.
pub(in crate::control) fn door() -> (Door, mpsc::Receiver<Ask>) {
    let (sender, asks) = mpsc::channel(ASKS_MAX);
    (Door(sender), asks)
}

impl Door {
    /// Has the supervisor do something, and gives what came of it.
    ///
    /// # Errors
    /// btd is stopping.
    pub(super) async fn ask<T: 'static>(
        &self,
        look: impl for<'a, 'b> FnOnce(&'a mut Supervisor<'b>) -> T + 'static,
    ) -> Result<T, Refusal> {
        let (answer, told) = oneshot::channel();
        let ask: Ask = Box::new(move |supervisor| {
            let _ = answer.send(look(supervisor)); // Who asked may have gone.
        });
        self.0.send(ask).await.map_err(|_| Refusal::stopping())?;
        told.await.map_err(|_| Refusal::stopping())
    }
}
