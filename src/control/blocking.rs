//! Work that may block, on a thread of its own.
//!
//! Not the runtime's blocking pool: that one is waited for when the runtime ends, and a folder on a dead network mount
//! must not delay a stop.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` on a new thread called `name` and gives its result, or `None` if it panicked.
pub(super) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody waits any more when btd is stopping.
        let _ = done.send(work());
    })?;
    Ok(result.await.ok())
}
