//! Pauses that differ from driver to driver, so that those who met each other do not meet again at once.

use std::time::Duration;

use crate::{JobId, scheduler::JobIds};

/// Draws pauses. What it draws follows from the driver's ids alone: the same seed, the same pauses.
#[derive(Debug, Default)]
pub(super) struct Jitter(Option<u64>);

impl Jitter {
    /// Something between nothing and `most`.
    pub(super) fn up_to(&mut self, most: Duration, ids: &mut dyn JobIds) -> Duration {
        let state = self.0.get_or_insert_with(|| seed(&ids.next_id()));
        // Xorshift64*: good enough for who waits a little longer.
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let drawn = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let share = (u128::from(micros) * u128::from(drawn)) >> 32;
        Duration::from_micros(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// A pause of about this length: from a half of it to one and a half.
    pub(super) fn about(&mut self, pause: Duration, ids: &mut dyn JobIds) -> Duration {
        pause / 2 + self.up_to(pause, ids)
    }
}

/// FNV-1a of an id; never 0, where the generator would stay.
fn seed(id: &JobId) -> u64 {
    let hash = id
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    hash | 1
}
