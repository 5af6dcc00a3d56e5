//! Room that is reserved for a group, and that others have not left in time.

use crate::{
    Group, HostId,
    reservation::reclaim,
    scheduler::{Context, Round},
    transaction::Change,
};

impl Round<'_> {
    /// Tells those to go who stayed too long in room that is reserved for the group, as far as so many more of its jobs
    /// need it, which fit nowhere now; on this host or on any. Gives for how many jobs room is coming so, and says so in
    /// `why`. Asks to be called when that may change.
    pub(super) fn reclaim(
        &self,
        group: &Group,
        on: Option<&HostId>,
        lacking: usize,
        (changes, why): (&mut Vec<Change>, &mut String),
        context: &mut Context<'_>,
    ) -> usize {
        let now_ms = context.now_ms();
        let reclaimed = reclaim(self.state, group, on, lacking, now_ms);
        if let Some(ms) = reclaimed.look_again_ms {
            context.wake_at(ms);
        }
        changes.extend(reclaimed.evictions(group, now_ms));
        let coming = reclaimed.coming.min(lacking);
        if coming > 0 {
            why.push_str(&format!(
                "; for {coming} of its jobs reserved room is being freed of those that stayed too long"
            ));
        }
        coming
    }
}
