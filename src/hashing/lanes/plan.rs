//! Which kernel for how many filled lanes.
//!
//! A vector kernel takes as long for one message as for all its lanes, so below some number of them a narrower one is
//! faster. Where that is depends on the processor, and on some the SHA instructions beat AVX2 with all lanes filled. It is
//! therefore measured, once, on data that lies as pieces do.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use super::backend::Backend;
use super::{BLOCK_LEN, Block};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, shani};

/// Lanes of the widest kernel.
const WIDTH_MAX: usize = 16;

/// Blocks that one measurement hashes in each lane, and measurements of which the fastest counts. The lanes are 16 KiB
/// apart, as pieces are, so that what their addresses have in common costs here what it costs there. Measured with all
/// lanes on the same few blocks, AVX2 on a Zen 3 is faster than two messages with the SHA instructions; on pieces it is
/// slower.
const SAMPLE_BLOCKS: usize = 256;
const SAMPLES: usize = 6;

/// What advances messages by some blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// 16 messages in AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 messages in AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 3 messages with the SHA instructions.
    #[cfg(target_arch = "x86_64")]
    ShaNi,
    /// 2 messages with the SHA instructions.
    #[cfg(target_arch = "x86_64")]
    ShaNiPair,
    /// One message.
    Single,
}

/// The kernels of one [`Backend`], by how many lanes are filled.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For 1, 2.. filled lanes.
    kernels: [Kernel; WIDTH_MAX],
    width: usize,
    /// Blocks per nanosecond with all lanes filled.
    rate: f64,
}

impl Plan {
    /// The plan for a backend, measured when it is first asked for.
    ///
    /// # Panics
    /// When this processor does not have the backend.
    pub fn of(backend: Backend) -> &'static Plan {
        static PLANS: [OnceLock<Plan>; Backend::ALL.len()] = [const { OnceLock::new() }; Backend::ALL.len()];
        assert!(backend.is_available(), "{} was not asked for", backend.name());
        PLANS[backend as usize].get_or_init(|| Plan::new(backend, Kernel::measure))
    }

    /// With a kernel's cost for one block in each of its lanes.
    fn new(backend: Backend, cost: impl Fn(Kernel) -> f64) -> Plan {
        let narrower = Backend::ALL.into_iter().skip(backend as usize);
        let kernels = narrower
            .filter(|backend| backend.is_available())
            .flat_map(|backend| [Some(Kernel::of(backend)), Kernel::narrow(backend)])
            .flatten();
        let costs: Vec<(Kernel, f64)> = kernels.map(|kernel| (kernel, cost(kernel))).collect();
        let (widest, widest_cost) = costs[0];
        // What so many messages of equal length cost for each of their blocks: those in the lanes, then those left over.
        let mut left_over = [0.0; WIDTH_MAX + 1];
        let mut kernels = [widest; WIDTH_MAX];
        for filled in 1..=WIDTH_MAX {
            let all = |(kernel, cost): &(Kernel, f64)| cost + left_over[filled - kernel.width().min(filled)];
            let fastest = costs
                .iter()
                .min_by(|a, b| all(a).total_cmp(&all(b)))
                .expect("the widest, at least");
            left_over[filled] = all(fastest);
            if filled < widest.width() {
                kernels[filled - 1] = fastest.0;
            } // Else the widest: it was chosen, whatever is fastest.
        }
        Plan {
            kernels,
            width: widest.width(),
            rate: widest.width() as f64 / widest_cost,
        }
    }

    /// The backend's own kernel even for one filled lane, for tests.
    #[cfg(test)]
    pub(super) fn always(backend: Backend) -> Plan {
        Plan {
            kernels: [Kernel::of(backend); WIDTH_MAX],
            ..Plan::of(backend).clone()
        }
    }

    /// Lanes to be filled, at best.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What to use when so many lanes are filled, at least one.
    pub(super) fn kernel(&self, filled: usize) -> Kernel {
        self.kernels[filled - 1]
    }

    /// Blocks per nanosecond with all lanes filled.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }
}

impl Kernel {
    fn of(backend: Backend) -> Kernel {
        match backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Kernel::Avx512,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Kernel::Avx2,
            #[cfg(target_arch = "x86_64")]
            Backend::ShaNi => Kernel::ShaNi,
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx512 | Backend::Avx2 | Backend::ShaNi => unreachable!("not available"),
            Backend::Scalar => Kernel::Single,
        }
    }

    /// What a backend has for fewer messages than its own kernel takes.
    fn narrow(backend: Backend) -> Option<Kernel> {
        match backend {
            #[cfg(target_arch = "x86_64")]
            Backend::ShaNi => Some(Kernel::ShaNiPair),
            _ => None,
        }
    }

    fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => avx512::WIDTH,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::WIDTH,
            #[cfg(target_arch = "x86_64")]
            Kernel::ShaNi => shani::WIDTH,
            #[cfg(target_arch = "x86_64")]
            Kernel::ShaNiPair => shani::PAIR,
            Kernel::Single => 1,
        }
    }

    /// Nanoseconds for one block in each lane.
    fn measure(self) -> f64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => sample(avx512::compress),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => sample(avx2::compress),
            #[cfg(target_arch = "x86_64")]
            Kernel::ShaNi => sample(shani::compress::<{ shani::WIDTH }>),
            #[cfg(target_arch = "x86_64")]
            Kernel::ShaNiPair => sample(shani::compress::<{ shani::PAIR }>),
            Kernel::Single => sample(|[state]: &mut [_; 1], [blocks]| sha1::block_api::compress(state, blocks)),
        }
    }
}

/// The fastest of some measurements: whatever disturbs one makes it slower.
fn sample<const N: usize>(compress: impl Fn(&mut [[u32; 5]; N], [&[Block]; N])) -> f64 {
    let data = vec![[0x5a; BLOCK_LEN]; N * SAMPLE_BLOCKS];
    let blocks: [&[Block]; N] = std::array::from_fn(|lane| &data[lane * SAMPLE_BLOCKS..][..SAMPLE_BLOCKS]);
    let mut states = [[0; 5]; N];
    let samples = (0..SAMPLES).map(|_| {
        let started = Instant::now();
        compress(black_box(&mut states), black_box(blocks));
        started.elapsed()
    });
    let fastest = samples.min().expect("several samples");
    // A clock may be coarse; then no kernel seems to cost anything, and the widest is as good as any.
    fastest.as_nanos().max(1) as f64 / SAMPLE_BLOCKS as f64
}
