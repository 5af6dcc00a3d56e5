//! Where the ids of new jobs come from.

use std::fmt;

use crate::JobId;

/// Draws job ids.
pub trait JobIds: fmt::Debug + Send {
    /// An id that no other job of the cell has.
    fn next_id(&mut self) -> JobId;
}

/// Ids in the shape of a random UUID, drawn from a seed: the same seed gives the same ids, so that simulations repeat.
/// Give every scheduler of a real cell a random seed.
#[derive(Debug, Clone)]
pub struct SeededIds(u64);

impl SeededIds {
    /// Ids of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl JobIds for SeededIds {
    fn next_id(&mut self) -> JobId {
        let (a, b) = (self.draw(), self.draw());
        let id = format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            (b >> 48) & 0x3fff | 0x8000,
            b & 0xffff_ffff_ffff
        );
        JobId::parse(id).expect("hex digits and dashes are a job id")
    }
}
