//! The limit of open files: raised as far as it goes, and a warning when that is not far enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside connections: payload files kept open, rings, logs, scrapers.
const OTHER_FILES: u64 = 1024;

/// Raises the soft limit to the hard one.
pub(super) fn raise(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + OTHER_FILES;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < allowed) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files cannot be raised");
        }
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now < wanted {
        tracing::warn!(
            "only {now} files may be open at once, {connections} connections and the payload may need {wanted}: \
             peers will have to wait (hint: LimitNOFILE= in btd.service, or ulimit -n)"
        );
    }
}
