//! One message in a lane: what of it lies contiguous, in whole blocks.
#![forbid(unsafe_code)]

use super::Block;
use super::batch::Message;
use super::state::Padding;

/// A message on its way through the lanes.
pub(super) struct Lane<S, T> {
    pub(super) message: Message<S, T>,
    /// The span at hand, and how far it has been taken in.
    span: usize,
    offset: usize,
    run: Run,
}

/// What is to be hashed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Whole blocks from `offset` of the span at hand.
    Span { blocks: usize },
    /// The tail, which bytes of several spans have filled.
    Tail,
    /// The tail, which is padded.
    Padded(Padding),
    /// Nothing more.
    End,
}

impl<S: AsRef<[u8]>, T> Lane<S, T> {
    pub(super) fn new(message: Message<S, T>) -> Self {
        let mut lane = Lane {
            message,
            span: 0,
            offset: 0,
            run: Run::End,
        };
        lane.run = lane.gather();
        lane
    }

    /// Whether the message has been hashed to its end.
    pub(super) fn has_ended(&self) -> bool {
        self.run == Run::End
    }

    /// Blocks that can be hashed in one go. None when the message has ended.
    pub(super) fn block_count(&self) -> usize {
        match self.run {
            Run::Span { blocks } => blocks,
            Run::Tail | Run::Padded(_) => 1,
            Run::End => 0,
        }
    }

    /// The next `count` of them.
    pub(super) fn blocks(&self, count: usize) -> &[Block] {
        match self.run {
            Run::Span { .. } => {
                let span = self.message.spans[self.span].as_ref();
                &span[self.offset..].as_chunks().0[..count]
            }
            Run::Tail | Run::Padded(_) | Run::End => &std::slice::from_ref(&self.message.state.tail)[..count],
        }
    }

    /// The blocks that [`Lane::blocks`] gave have been hashed, to this value.
    pub(super) fn advance(&mut self, count: usize, h: [u32; 5]) {
        self.message.state.h = h;
        if let Run::Span { blocks } = &mut self.run {
            let bytes = count * size_of::<Block>();
            self.message.state.count(bytes);
            self.offset += bytes;
            *blocks -= count;
            if *blocks > 0 {
                return;
            }
        }
        self.run = match self.run {
            Run::Span { .. } | Run::Tail => self.gather(),
            Run::Padded(Padding::OneMore) => {
                self.message.state.pad_again();
                Run::Padded(Padding::Last)
            }
            Run::Padded(Padding::Last) | Run::End => Run::End,
        };
    }

    /// Finds what is next: blocks in place where they are whole, else through the tail.
    fn gather(&mut self) -> Run {
        let Message {
            state, spans, finish, ..
        } = &mut self.message;
        while let Some(span) = spans.get(self.span) {
            let rest = &span.as_ref()[self.offset..];
            if state.tail_len() == 0 && rest.len() >= size_of::<Block>() {
                return Run::Span {
                    blocks: rest.len() / size_of::<Block>(),
                };
            }
            let taken = &rest[..state.missing().min(rest.len())];
            self.offset += taken.len();
            if state.fill_tail(taken) {
                return Run::Tail;
            }
            self.span += 1;
            self.offset = 0;
        }
        if *finish { Run::Padded(state.pad()) } else { Run::End }
    }
}
