//! Parts of the control plane that read what is foreign, with as much around them as they need.

#[path = "../../../src/control/config/mod.rs"]
pub mod config;

#[path = "../../../src/control/ctl/api.rs"]
pub mod ctl_api;

#[path = "../../../src/control/dns/message.rs"]
mod dns_message;

/// What a name is asked for with; `None` if it is no name.
pub fn dns_question(id: u16, name: &str, v6: bool) -> Option<Vec<u8>> {
    dns_message::question(id, name, kind(v6)).ok()
}

/// The addresses in an answer to it: none of one that says something else, `None` of what is no answer to it.
pub fn dns_answer(message: &[u8], question: &[u8], v6: bool) -> Option<Vec<std::net::IpAddr>> {
    Some(match dns_message::answer(message, question, kind(v6))? {
        dns_message::Reply::Addresses(addresses) => addresses,
        dns_message::Reply::NoSuchName | dns_message::Reply::Truncated => Vec::new(),
        dns_message::Reply::Failed { code } => {
            assert!(code < 16 && code != 0 && code != 3, "{code}");
            Vec::new()
        }
    })
}

fn kind(v6: bool) -> dns_message::Kind {
    if v6 { dns_message::Kind::Aaaa } else { dns_message::Kind::A }
}

// Not all of it is asked for here.
#[allow(dead_code)]
#[path = "../../../src/control/tracker/store/guard.rs"]
mod guard;

/// What [`guard`] lets through of a stream that comes in pieces of these lengths, and whether it ended it.
pub fn guarded(stream: &[u8], sizes: &[u8]) -> (Vec<u8>, bool) {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use tokio::io::{AsyncRead, ReadBuf};

    let pieces = crate::pieces::Pieces::new(stream.to_vec(), sizes.to_vec());
    let mut guarded = guard::Guarded::new(pieces, guard::Allowance::new());
    let mut context = Context::from_waker(Waker::noop());
    let (mut through, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let mut into = ReadBuf::new(&mut buffer);
        match Pin::new(&mut guarded).poll_read(&mut context, &mut into) {
            Poll::Ready(Ok(())) if into.filled().is_empty() => return (through, false),
            Poll::Ready(Ok(())) => through.extend_from_slice(into.filled()),
            Poll::Ready(Err(_)) => return (through, true),
            Poll::Pending => unreachable!("all of it is there"),
        }
    }
}

/// The most that is let through of one reply.
pub const FRAME_LEN_MAX: usize = guard::FRAME_LEN_MAX;

/// In the place of the command line.
pub mod cli {
    /// As there.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
    pub enum LogLevel {
        Error,
        Warn,
        Info,
        Debug,
        Trace,
    }

    impl LogLevel {
        /// As there.
        pub fn name(self) -> &'static str {
            match self {
                Self::Error => "error",
                Self::Warn => "warn",
                Self::Info => "info",
                Self::Debug => "debug",
                Self::Trace => "trace",
            }
        }
    }
}

/// In the place of the shards.
pub mod shards {
    /// As there, on a machine of two cores.
    pub fn count_of(wanted: usize) -> usize {
        if wanted == 0 { 2 } else { wanted }
    }
}

/// In the place of the tracker: no file is opened.
pub mod tracker {
    /// As there, and always empty.
    pub fn read_list(_: &std::path::Path) -> std::io::Result<std::collections::HashSet<crate::proto::InfoHash>> {
        Ok(std::collections::HashSet::new())
    }
}

/// In the place of what knows network devices.
pub mod device {
    /// As there (`IFNAMSIZ` and its end).
    pub const NAME_LEN_MAX: usize = 15;
}

/// In the place of the metrics.
pub mod metrics {
    /// As there.
    pub mod top {
        /// As there.
        pub const TOP_TORRENTS_MAX: usize = 100;
    }
}
