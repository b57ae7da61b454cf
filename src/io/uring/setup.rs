//! Making a ring: flags tried from the best downward, never chosen by the kernel's version, and a failure that names its
//! cause and the remedy.

use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Capabilities that btd can do without. `BTD_URING_MASK` (comma-separated names) makes the probe say no, so that each
/// fallback is tested on any kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `IORING_SETUP_DEFER_TASKRUN` (6.1): completions run in our enter only.
    pub defer_taskrun: bool,
    /// `IORING_SETUP_NO_SQARRAY` (6.6): one load less per submission.
    pub no_sqarray: bool,
    /// `IORING_REGISTER_RING_FDS` (5.18).
    pub ring_fd: bool,
    /// Registered file table (5.19 for a sparse one).
    pub files: bool,
    /// Registered buffers for reads.
    pub buffers: bool,
    /// The buffers are on reserved huge pages.
    pub huge_pages: bool,
    /// Minimum wait (6.12): a batch is collected while the shard is busy.
    pub min_wait: bool,
    /// Sends that lend their memory (`IORING_OP_SENDMSG_ZC`, 6.1).
    pub zero_copy: bool,
}

impl Features {
    /// Everything; what a probe starts from.
    pub const ALL: Features = Features {
        defer_taskrun: true,
        no_sqarray: true,
        ring_fd: true,
        files: true,
        buffers: true,
        huge_pages: true,
        min_wait: true,
        zero_copy: true,
    };

    /// Name and value of each.
    #[must_use]
    pub fn list(&self) -> [(&'static str, bool); 8] {
        [
            ("defer_taskrun", self.defer_taskrun),
            ("no_sqarray", self.no_sqarray),
            ("ring_fd", self.ring_fd),
            ("files", self.files),
            ("buffers", self.buffers),
            ("huge_pages", self.huge_pages),
            ("min_wait", self.min_wait),
            ("zero_copy", self.zero_copy),
        ]
    }

    /// All but those named in `mask`.
    ///
    /// # Errors
    /// The name that is none.
    pub fn masked(mask: &str) -> Result<Features, String> {
        let mut features = Features::ALL;
        for name in mask.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            *match name {
                "defer_taskrun" => &mut features.defer_taskrun,
                "no_sqarray" => &mut features.no_sqarray,
                "ring_fd" => &mut features.ring_fd,
                "files" => &mut features.files,
                "buffers" => &mut features.buffers,
                "huge_pages" => &mut features.huge_pages,
                "min_wait" => &mut features.min_wait,
                "zero_copy" => &mut features.zero_copy,
                other => return Err(other.to_owned()),
            } = false;
        }
        Ok(features)
    }
}

/// Why there is no ring. Each message names the cause and the line to change.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// ENOSYS, or an operation is missing.
    #[error(
        "this kernel cannot run btd: {missing} is missing (hint: btd needs Linux 6.1 or later with CONFIG_IO_URING)"
    )]
    Kernel {
        /// What is missing.
        missing: &'static str,
    },
    /// EPERM by the sysctl.
    #[error(
        "io_uring is switched off: kernel.io_uring_disabled = {value} (hint: `sysctl kernel.io_uring_disabled=0`, or \
         with 1 run btd in the group of kernel.io_uring_group)"
    )]
    Sysctl {
        /// The sysctl's value.
        value: String,
    },
    /// EPERM by a seccomp filter.
    #[error(
        "io_uring is blocked by a seccomp filter, as in Docker's default profile (hint: run the container with a \
         profile that allows io_uring_setup, io_uring_enter and io_uring_register; under systemd keep @aio in \
         SystemCallFilter=)"
    )]
    Seccomp,
    /// EPERM by something else.
    #[error("io_uring_setup is not permitted (hint: a security module of this system forbids it)")]
    Permission,
    /// ENOMEM.
    #[error(
        "cannot create a ring: the locked-memory limit is {limit}, of all processes of this user together, and too little: {} would do \
         for this one (hint: {}; or as much as there is: infinity, unlimited, -1)",
        mib(*.wanted), how_to_allow(*.wanted)
    )]
    Memlock {
        /// `RLIMIT_MEMLOCK`.
        limit: String,
        /// Bytes that are enough for all rings of this process and what is registered with them.
        wanted: u64,
    },
    /// Anything else.
    #[error("cannot {step}: {errno}")]
    Other {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl SetupError {
    /// ENOMEM, with the limit that this comes of, and the bytes that would be enough.
    #[must_use]
    pub fn memlock(wanted: u64) -> Self {
        let limit = memlock_limit();
        Self::Memlock { limit, wanted }
    }
}

/// Makes the ring with as many of `wanted` as the kernel has. `locked` is what this process locks in all, in bytes.
pub(super) fn ring(entries: u32, wanted: Features, locked: u64) -> Result<(IoUring, Features), SetupError> {
    let mut features = wanted;
    loop {
        let mut builder = IoUring::builder();
        // SUBMIT_ALL: one bad entry does not hold up those behind it. The completion queue holds four times the
        // submission queue, since each connection keeps a multishot receive armed.
        builder
            .setup_submit_all()
            .setup_clamp()
            .setup_single_issuer()
            .setup_cqsize(entries * 4)
            .dontfork();
        if features.defer_taskrun {
            builder.setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        if features.no_sqarray {
            builder.setup_no_sqarray();
        }
        match builder.build(entries) {
            Ok(ring) => {
                features.min_wait &= ring.params().is_feature_min_timeout();
                let probe = require_operations(&ring)?;
                features.zero_copy &= probe.is_supported(opcode::SendMsgZc::CODE);
                return Ok((ring, features));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && features.no_sqarray => {
                features.no_sqarray = false;
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && features.defer_taskrun => {
                features.defer_taskrun = false;
            }
            Err(error) => return Err(explain(&error, locked)),
        }
    }
}

/// Every operation that has no fallback. Gives what else there is.
fn require_operations(ring: &IoUring) -> Result<Probe, SetupError> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| other("probe the ring", &error))?;
    let needed = [
        (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
        (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
        (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
        (opcode::RecvMsgMulti::CODE, "IORING_OP_RECVMSG"),
        (opcode::Read::CODE, "IORING_OP_READ"),
        (opcode::OpenAt2::CODE, "IORING_OP_OPENAT2"),
        (opcode::Connect::CODE, "IORING_OP_CONNECT"),
        (opcode::Write::CODE, "IORING_OP_WRITE"),
        (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    ];
    for (code, missing) in needed {
        if !probe.is_supported(code) {
            return Err(SetupError::Kernel { missing });
        }
    }
    Ok(probe)
}

/// What an error of `io_uring_setup` means here.
fn explain(error: &io::Error, locked: u64) -> SetupError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => SetupError::Kernel {
            missing: "io_uring_setup",
        },
        Some(libc::EINVAL) => SetupError::Kernel {
            missing: "IORING_SETUP_SINGLE_ISSUER",
        },
        Some(libc::ENOMEM) => SetupError::memlock(locked),
        Some(libc::EPERM | libc::EACCES) => forbidden(
            fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok().as_deref(),
            fs::read_to_string("/proc/self/status").ok().as_deref(),
        ),
        _ => other("create a ring", error),
    }
}

/// Who forbids: the sysctl and a seccomp filter give the same EPERM. With `ProcSubset=pid` the sysctl cannot be read.
fn forbidden(sysctl: Option<&str>, status: Option<&str>) -> SetupError {
    if let Some(value) = sysctl.map(str::trim)
        && value != "0"
    {
        return SetupError::Sysctl {
            value: value.to_owned(),
        };
    }
    let filtered = status.is_some_and(|status| {
        status
            .lines()
            .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
    });
    if filtered {
        SetupError::Seccomp
    } else {
        SetupError::Permission
    }
}

pub(super) fn other(step: &'static str, error: &io::Error) -> SetupError {
    SetupError::Other {
        step,
        errno: Errno::from_io_error(error).unwrap_or(Errno::IO),
    }
}

/// Bytes that this process may lock, if that is bounded.
#[must_use]
pub fn locked_max() -> Option<u64> {
    // Nothing is counted for who has it.
    let is_free = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    getrlimit(Resource::Memlock).current.filter(|_| !is_free)
}

/// A limit of so many bytes, for people: whole MiB, and no less.
pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// How so many bytes are allowed to be locked, for people: each has a unit of its own.
pub(super) fn how_to_allow(bytes: u64) -> String {
    let mib = bytes.div_ceil(MIB);
    format!(
        "LimitMEMLOCK={mib}M in btd.service, `ulimit -l {}`, or --ulimit memlock={} of a container",
        mib * (MIB / 1024),
        mib * MIB
    )
}

const MIB: u64 = 1 << 20;

/// The locked-memory limit, for people.
pub(super) fn memlock_limit() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) => match bytes / 1024 {
            kib if kib.is_multiple_of(1024) => format!("{} MiB", kib / 1024),
            kib => format!("{kib} KiB"),
        },
        None => "unlimited".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_enough_is_told_in_the_units_of_those_who_set_it() {
        let error = SetupError::memlock((262 << 20) - 1).to_string();
        for says in [
            "262 MiB would do",
            "LimitMEMLOCK=262M",
            "`ulimit -l 268288`",
            "memlock=274726912",
        ] {
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn mask_takes_features_away_and_refuses_unknown_names() {
        let features = Features::masked("no_sqarray, files").unwrap();
        assert!(!features.no_sqarray && !features.files && features.buffers);
        assert_eq!(Features::masked("fiels"), Err("fiels".to_owned()));
    }

    #[test]
    fn eperm_is_told_apart_by_its_cause() {
        assert!(matches!(
            forbidden(Some("2\n"), None),
            SetupError::Sysctl { value } if value == "2"
        ));
        assert!(matches!(
            forbidden(Some("0\n"), Some("Name:\tbtd\nSeccomp:\t2\n")),
            SetupError::Seccomp
        ));
        assert!(matches!(forbidden(None, Some("Seccomp:\t0\n")), SetupError::Permission));
    }
}
