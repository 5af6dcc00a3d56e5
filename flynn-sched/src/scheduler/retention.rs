//! What becomes of groups that are complete.

use crate::{
    Group, GroupStatus,
    clock::millis,
    scheduler::{Context, Round},
    transaction::Change,
};

impl Round<'_> {
    /// Sets when the group became complete, if it did: now, unless it had been before.
    pub(super) fn date_completion(
        &self,
        group: &Group,
        status: &mut GroupStatus,
        context: &Context<'_>,
    ) {
        if status.is_complete {
            let present = self.state.group_status(&group.id);
            let known = present.and_then(|present| present.completed_ms);
            status.completed_ms = Some(known.unwrap_or_else(|| context.now_ms()));
        }
    }

    /// Removes a group that was complete for as long as it is to be kept; its jobs go with it, as those of any group
    /// that is gone. Returns whether it did; if it is too early, asks to be called in time.
    pub(super) fn retire(&mut self, group: &Group, context: &mut Context<'_>) -> bool {
        let status = self.state.group_status(&group.id);
        let completed_ms = status
            .filter(|status| status.is_complete)
            .and_then(|status| status.completed_ms);
        let (Some(keep), Some(completed_ms)) = (group.keep, completed_ms) else {
            return false;
        };
        let end = completed_ms.saturating_add(millis(keep));
        if context.now_ms() < end {
            context.wake_at(end);
            return false;
        }
        self.propose(group, vec![Change::RemoveGroup(group.id.clone())]);
        true
    }
}
