//! Room that is being made for a group is not given to a less important one.

use crate::{HostState, Job};

use super::{Applying, No};

impl Applying<'_> {
    /// The job does not use room that is being made for something more important.
    pub(super) fn kept_for_more_important(&self, job: &Job, host: &HostState) -> Result<(), No> {
        let id = &host.host.id;
        if !self.state.is_nominated(id) {
            return Ok(());
        }
        let group = self.state.group(&job.group);
        let priority = group.map_or(0, |group| group.priority);
        let kept = self.state.kept_above(id, priority);
        let free = host.free().saturating_sub(&kept.0);
        let shortage = free.shortage(&job.spec.request).or_else(|| {
            let mut taken = host.promised_named.clone();
            taken.add(&kept.1);
            host.host.named.shortage(&taken, &job.spec.named)
        });
        let mut others = self.state.nominated_above(id, priority);
        if let Some(shortage) = shortage {
            let names: Vec<&str> = others.map(|(group, _)| group.id.as_str()).take(3).collect();
            return Err(No::conflict(
                id,
                format!(
                    "{shortage} beside the room that is being made for {}",
                    names.join(", ")
                ),
            ));
        }
        let clash = others.find_map(|(other, _)| {
            let port = job.spec.port_clash(&other.spec)?;
            Some(format!("port {port} is being freed for {}", other.id))
        });
        clash.map_or(Ok(()), |why| Err(No::conflict(id, why)))
    }
}
