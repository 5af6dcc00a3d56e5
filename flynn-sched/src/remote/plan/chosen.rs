//! Ids that somebody chose, instead of drawing them.
//!
//! Two starts on different hosts share no key, so two that choose the same id at the same time would both succeed. An id in
//! the shape of a random UUID, as [`SeededIds`](crate::scheduler::SeededIds) draws them, is taken to be random: nobody draws
//! it twice. Any other id is somebody's choice, which somebody else may make too: it has the key `cell/ids/<job>` as long as
//! its job is listed, and its start compares that there is none.

use crate::{
    JobId,
    remote::{
        keys::CellKey,
        plan::{Chunk, steps::Planner},
    },
};

impl Planner<'_> {
    /// Adds to the step that starts the job that nobody else has its id.
    pub(super) fn take_id(&self, step: &mut Chunk, id: &JobId) {
        if is_drawn(id) {
            return;
        }
        let key = CellKey::Id(id.clone());
        step.expect(self.mirror, key.clone());
        if self.after.job(id).is_some() {
            step.touch(key);
        } else {
            step.delete(key);
        }
    }

    /// Adds to the step that removes the job that its id is free.
    pub(super) fn free_id(step: &mut Chunk, id: &JobId) {
        if !is_drawn(id) {
            step.delete(CellKey::Id(id.clone()));
        }
    }
}

/// Is it in the shape of a random UUID (RFC 9562, version 4)?
fn is_drawn(id: &JobId) -> bool {
    let text = id.as_str().as_bytes();
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'4',
            19 => b"89ab".contains(byte),
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{JobIds, SeededIds};

    #[test]
    fn what_is_drawn_is_told_from_what_is_chosen() {
        let mut ids = SeededIds::new(1);
        for _ in 0..1000 {
            let id = ids.next_id();
            assert!(is_drawn(&id), "{id}");
        }
        for chosen in [
            "web-1",
            "a",
            "00000000-0000-1000-8000-000000000000",
            "00000000-0000-4000-c000-000000000000",
            "0000000000000-4000-8000-000000000000",
            "00000000-0000-4000-8000-00000000000g",
            "00000000-0000-4000-8000-0000000000000",
        ] {
            let id = JobId::parse(chosen).unwrap();
            assert!(!is_drawn(&id), "{chosen}");
        }
    }
}
