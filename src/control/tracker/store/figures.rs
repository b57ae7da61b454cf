//! What is counted of the shared store.

use std::cell::Cell;

/// Counters, written straight to the recorder: all of it happens on one thread, some times a second.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Of the outbox, as it was last.
    outbox_dropped: Cell<u64>,
}

impl Figures {
    /// All of them, at 0.
    pub(super) fn new() -> Self {
        let figures = Self::default();
        figures.set_up(false);
        figures.batch(0);
        figures.heard(0, 0);
        figures.drop_sent(0);
        figures.drop_heard(0);
        ::metrics::counter!("btd_tracker_store_errors_total").increment(0);
        figures
    }

    pub(super) fn set_up(&self, is: bool) {
        ::metrics::gauge!("btd_tracker_store_up").set(f64::from(u8::from(is)));
    }

    /// The store refused something, or went away.
    pub(super) fn error(&self) {
        ::metrics::counter!("btd_tracker_store_errors_total").increment(1);
    }

    /// A batch of so many peers was written.
    pub(super) fn batch(&self, peers: u64) {
        ::metrics::counter!("btd_tracker_store_batches_total").increment(u64::from(peers > 0));
        ::metrics::counter!("btd_tracker_store_sent_total").increment(peers);
    }

    /// Of what others said so many peers were taken in, and so many were none.
    pub(super) fn heard(&self, taken: u64, bad: u64) {
        ::metrics::counter!("btd_tracker_store_received_total").increment(taken);
        ::metrics::counter!("btd_tracker_store_bad_total").increment(bad);
    }

    /// So many updates in all were lost because the outbox was full.
    pub(super) fn set_outbox_dropped(&self, all: u64) {
        let before = self.outbox_dropped.replace(all);
        self.drop_sent(all.saturating_sub(before));
    }

    /// What was to be told when the store is back is too much.
    pub(super) fn drop_pending(&self) {
        self.drop_sent(1);
    }

    fn drop_sent(&self, count: u64) {
        ::metrics::counter!("btd_tracker_store_dropped_total", "what" => "sent").increment(count);
    }

    /// So many messages came faster than they could be taken in.
    pub(super) fn drop_heard(&self, count: u64) {
        ::metrics::counter!("btd_tracker_store_dropped_total", "what" => "received").increment(count);
    }
}
