//! Placing several jobs of a group so that all of them fit, or none is placed.

use crate::{
    HostId,
    placement::{Board, Need, Placer, Tally},
};

/// Not all of them fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shortfall {
    /// How many of them fit at once.
    pub(super) fit: u32,
    /// What the next one lacks.
    pub(super) why: String,
}

/// Chooses a host for each of `count` jobs and claims them on the board. If not all fit, the board is left with the
/// claims of those that did: it is of no use any more.
pub(super) fn place_all(
    placer: &Placer,
    need: &Need<'_>,
    board: &mut Board,
    tally: &mut Tally,
    count: u32,
) -> Result<Vec<HostId>, Shortfall> {
    let mut hosts = Vec::new();
    for fit in 0..count {
        match placer.place(need, board, tally) {
            Some(host) => hosts.push(host),
            None => {
                let why = placer.why_in_short(need, board, tally);
                return Err(Shortfall { fit, why });
            }
        }
    }
    Ok(hosts)
}
