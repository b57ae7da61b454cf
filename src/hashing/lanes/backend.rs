//! Which instructions hash many messages: found at run time, or named in the environment.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::OnceLock;

use super::plan::Plan;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, shani};

/// The environment variable that names a backend, for tests and measurements.
pub const VARIABLE: &str = "BTD_SHA1";

/// The widest instructions to use. Where too few lanes are filled for them, a narrower backend takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// 16 messages at once in AVX-512.
    Avx512,
    /// 8 messages at once in AVX2.
    Avx2,
    /// 3 messages at once with the SHA instructions.
    ShaNi,
    /// One message at a time, with the `sha1` crate. That uses the SHA instructions too, where it finds them.
    Scalar,
}

/// `BTD_SHA1` names no backend that this processor has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongBackend {
    value: String,
}

impl Backend {
    /// All of them, the widest first.
    pub const ALL: [Backend; 4] = [Backend::Avx512, Backend::Avx2, Backend::ShaNi, Backend::Scalar];

    /// As `BTD_SHA1` has it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Avx512 => "avx512",
            Backend::Avx2 => "avx2",
            Backend::ShaNi => "shani",
            Backend::Scalar => "scalar",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => avx512::is_available(),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Backend::ShaNi => shani::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx512 | Backend::Avx2 | Backend::ShaNi => false,
            Backend::Scalar => true,
        }
    }

    /// Those that this processor has, the widest first. The last one is [`Backend::Scalar`], which all have.
    pub fn available() -> impl Iterator<Item = Backend> {
        Backend::ALL.into_iter().filter(|backend| backend.is_available())
    }

    /// The one that is fastest here when all its lanes are filled.
    ///
    /// The widest is not the fastest everywhere: a processor may split wide vectors in halves, and how fast it is with the SHA
    /// instructions varies more. So it is measured, which takes a fraction of a millisecond, once.
    pub fn detect() -> Backend {
        Backend::available()
            .max_by(|a, b| Plan::of(*a).rate().total_cmp(&Plan::of(*b).rate()))
            .expect("scalar is always available")
    }

    /// The one that `BTD_SHA1` names, else the one that [`Backend::detect`] finds. The answer is found once.
    ///
    /// # Errors
    /// When the variable names none, or one that this processor does not have.
    pub fn from_env() -> Result<Backend, WrongBackend> {
        static ANSWER: OnceLock<Result<Backend, WrongBackend>> = OnceLock::new();
        let find = || match std::env::var_os(VARIABLE) {
            Some(value) => Backend::named(&value.to_string_lossy()),
            None => Ok(Backend::detect()),
        };
        ANSWER.get_or_init(find).clone()
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// When there is none, or this processor does not have it.
    pub fn named(name: &str) -> Result<Backend, WrongBackend> {
        let found = Backend::available().find(|backend| backend.name() == name);
        found.ok_or_else(|| WrongBackend { value: name.to_owned() })
    }
}

impl fmt::Display for WrongBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Backend::available().map(Backend::name).collect();
        let known = Backend::ALL.iter().any(|backend| backend.name() == self.value);
        let why = if known {
            "this processor has no such instructions"
        } else {
            "no such backend"
        };
        write!(f, "{VARIABLE}={}: {why} (choose from {})", self.value, names.join(", "))
    }
}

impl std::error::Error for WrongBackend {}
