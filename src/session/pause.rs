//! Why a torrent is paused, or will not be, and its form as bytes: none for the oldest reason, so that what earlier versions have
//! written is read as it was meant, else one.

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Somebody wants it.
    Asked,
    /// It has uploaded as many times its size as it was to.
    Ratio,
    /// It was seeded for as long as it was to be.
    Time,
    /// It is not paused, and is not to be by either of the two: somebody has resumed it.
    Never,
}

impl Pause {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Asked => Vec::new(),
            Self::Ratio => vec![1],
            Self::Time => vec![2],
            Self::Never => vec![3],
        }
    }

    /// What is not known is a reason of a later version.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        match bytes {
            [1] => Self::Ratio,
            [2] => Self::Time,
            [3] => Self::Never,
            _ => Self::Asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_its_bytes_and_strange_ones_are_a_pause() {
        for pause in [Pause::Asked, Pause::Ratio, Pause::Time, Pause::Never] {
            assert_eq!(Pause::decode(&pause.encode()), pause);
        }
        assert_eq!(Pause::Asked.encode(), b"", "as it always was");
        assert_eq!(Pause::decode(&[9, 9]), Pause::Asked);
    }
}
