//! What a worker counts: requests by kind and by how they ended. Plain integers, published by whoever owns the worker.

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

names! {
    /// What was asked.
    Kind {
        /// `GET /announce`.
        HttpAnnounce = "http_announce",
        /// `GET /scrape`.
        HttpScrape = "http_scrape",
        /// `GET /stats`.
        HttpStats = "http_stats",
        /// HTTP that is nothing of the above.
        HttpOther = "http_other",
        /// A connection id was asked for (BEP 15).
        UdpConnect = "udp_connect",
        /// An announce by UDP.
        UdpAnnounce = "udp_announce",
        /// A scrape by UDP.
        UdpScrape = "udp_scrape",
        /// A datagram that is nothing of the above.
        UdpOther = "udp_other",
    }
}

names! {
    /// How it ended.
    Outcome {
        /// With what was asked for.
        Answered = "answered",
        /// The torrent is not served here, or there is no room. The peer was told.
        Refused = "refused",
        /// It was malformed. The peer was told.
        Bad = "bad",
        /// It was malformed or came from an unproven source. Nothing was said.
        Dropped = "dropped",
    }
}

/// Requests so far, by kind and outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([[u64; Outcome::ALL.len()]; Kind::ALL.len()]);

impl Counts {
    /// How many requests of this kind have ended so.
    pub const fn get(&self, kind: Kind, outcome: Outcome) -> u64 {
        self.0[kind as usize][outcome as usize]
    }

    pub(super) const fn add(&mut self, kind: Kind, outcome: Outcome) {
        self.0[kind as usize][outcome as usize] += 1;
    }
}
