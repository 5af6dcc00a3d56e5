//! Room that is being made by preemption: who is told to go, and for whom the room is kept until they have gone.
//!
//! ```text
//!  no host takes a job ──► evict the victims, note the nomination ──► they stop ──► start the job where it fits
//!                                        │                                            ▲
//!                                        └── the room is taken for what is less important ──┘
//! ```
//!
//! The job is started when the room is there, not before: a host is never promised twice. Until then the group's note
//! names the host and the victims ([`GroupStatus::nominated`](crate::GroupStatus::nominated)); commits and boards count
//! that room as taken for every group of a lower priority, so that what stops is not replaced right there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    ClusterState, Eviction, Group, GroupId, HostId, Job, JobSpec, Nomination, Preemptor,
    clock::millis,
    placement::Board,
    preemption::{NoPlan, Plan, Preemption},
    scheduler::Context,
    transaction::Change,
};

/// What one round of a scheduler knows of room that is being made.
#[derive(Debug)]
pub(super) struct MakingRoom<'s> {
    state: &'s ClusterState,
    /// Nominated groups of which the board is still to be told, the most important last.
    off_board: Vec<&'s Group>,
    /// What the board is told of.
    held: Vec<(GroupId, HostId, Arc<JobSpec>)>,
    on_board: usize,
    preemption: Option<Preemption<'s>>,
    /// Nominated groups of which the preemption is still to be told, the most important last.
    uncounted: Vec<&'s Group>,
    /// Of groups that this round has dealt with: which of their earlier nominations still stand.
    standing: BTreeMap<GroupId, Vec<HostId>>,
    /// What this round starts, and how much of it the preemption has been told.
    started: Vec<(HostId, Arc<JobSpec>)>,
    counted: usize,
}

impl<'s> MakingRoom<'s> {
    pub(super) fn on(state: &'s ClusterState) -> Self {
        let mut nominated: Vec<&Group> = state.nominated_groups().map(AsRef::as_ref).collect();
        nominated.sort_by_key(|group| group.priority);
        Self {
            state,
            off_board: nominated.clone(),
            held: Vec::new(),
            on_board: 0,
            preemption: None,
            uncounted: nominated,
            standing: BTreeMap::new(),
            started: Vec::new(),
            counted: 0,
        }
    }

    /// Takes from the board what is kept for groups that are more important than this one. Groups must come by priority,
    /// the highest first.
    pub(super) fn hold_from(&mut self, group: &Group, board: &mut Board) {
        let is_above = |other: &mut &Group| other.priority > group.priority;
        while let Some(other) = self.off_board.pop_if(is_above) {
            for host in nominated_hosts(self.state, other) {
                let spec = Arc::clone(&other.spec);
                self.held.push((other.id.clone(), host.clone(), spec));
            }
        }
        for (group, host, spec) in &self.held[self.on_board..] {
            board.hold(self.state, group, host, spec);
        }
        self.on_board = self.held.len();
    }

    /// Another board is used from now on, which has been told nothing.
    pub(super) fn forget_board(&mut self) {
        self.on_board = 0;
    }

    /// The group's nominations that still stand.
    pub(super) fn seats(&self, group: &Group, context: &mut Context<'_>) -> Seats {
        let status = self.state.group_status(&group.id);
        let nominated = status.into_iter().flat_map(|status| &status.nominated);
        let open = nominated.filter(|nomination| self.stands(nomination, context));
        Seats {
            open: open.cloned().collect(),
            new: Vec::new(),
        }
    }

    /// The nominations of a group whose jobs start together: all of them, as long as each stands for which somebody goes
    /// (or, if nobody goes, one of them).
    pub(super) fn seats_together(&self, group: &Group, context: &mut Context<'_>) -> Seats {
        let status = self.state.group_status(&group.id);
        let nominated = status.map_or(&[][..], |status| &status.nominated);
        let mut going = nominated.iter().filter(|seat| !seat.victims.is_empty());
        let stand = if nominated.iter().all(|seat| seat.victims.is_empty()) {
            nominated.iter().any(|seat| self.stands(seat, context))
        } else {
            going.all(|seat| self.stands(seat, context))
        };
        if stand {
            Seats {
                open: nominated.to_vec(),
                new: Vec::new(),
            }
        } else {
            Seats::default()
        }
    }

    fn stands(&self, nomination: &Nomination, context: &mut Context<'_>) -> bool {
        let host = self.state.host(&nomination.host);
        if host.is_none_or(|host| !host.is_schedulable()) {
            return false;
        }
        let mut is_free = true;
        for victim in &nomination.victims {
            match self.state.job(victim) {
                Some(job) if job.status.phase.is_final() => {}
                Some(job) if job.is_stopping => is_free = false,
                // The cell did not accept that it goes.
                Some(_) => return false,
                None => {}
            }
        }
        if !is_free {
            return true;
        }
        // The room is there or will be in a moment. If the job still does not fit, nobody else goes for a while: perhaps
        // this scheduler's own filters say no where the cell says yes.
        let end = nomination.since_ms.saturating_add(millis(PATIENCE));
        if context.now_ms() < end {
            context.wake_at(end);
        }
        context.now_ms() < end
    }

    /// A job is started in this round.
    pub(super) fn started(&mut self, host: &HostId, spec: &Arc<JobSpec>) {
        self.started.push((host.clone(), Arc::clone(spec)));
    }

    /// Makes room until so many jobs of the group have a seat; on this host, or anywhere. Returns why it did not go on.
    pub(super) fn make_room(
        &mut self,
        preemptor: &Preemptor,
        group: &Group,
        on: Option<&HostId>,
        wanted: usize,
        seats: &mut Seats,
        context: &Context<'_>,
    ) -> (Vec<Change>, Option<NoPlan>) {
        let mut evictions = Vec::new();
        while seats.len() < wanted.min(Nomination::MAX_OF_GROUP) {
            let preemption = self.counting(preemptor, group, seats, context);
            let plan = match on {
                Some(host) => preemption.find_on(group, host),
                None => preemption.find(group),
            };
            match plan {
                Ok(plan) => {
                    evictions.extend(plan.evictions(group));
                    seats.add(plan, context);
                }
                Err(no) => return (evictions, Some(no)),
            }
        }
        (evictions, None)
    }

    /// The round of preemption, told of everything that is started and of what is kept for groups that are as important.
    fn counting(
        &mut self,
        preemptor: &Preemptor,
        group: &Group,
        seats: &Seats,
        context: &Context<'_>,
    ) -> &mut Preemption<'s> {
        let state = self.state;
        let preemption = self
            .preemption
            .get_or_insert_with(|| preemptor.round(state, context.now_ms()));
        let is_as_important = |other: &mut &Group| other.priority >= group.priority;
        while let Some(other) = self.uncounted.pop_if(is_as_important) {
            if other.id == group.id {
                for seat in &seats.open {
                    preemption.claim(&seat.host, &other.spec);
                }
            } else if let Some(hosts) = self.standing.get(&other.id) {
                for host in hosts {
                    preemption.claim(host, &other.spec);
                }
            } else {
                for host in nominated_hosts(state, other) {
                    preemption.claim(host, &other.spec);
                }
            }
        }
        for (host, spec) in &self.started[self.counted..] {
            preemption.claim(host, spec);
        }
        self.counted = self.started.len();
        preemption
    }

    /// Keeps what is being made for the group from those that follow, and gives it for the group's note.
    pub(super) fn keep(&mut self, group: &Group, seats: Seats) -> Vec<Nomination> {
        self.off_board.retain(|other| other.id != group.id);
        for seat in seats.open.iter().chain(&seats.new) {
            let spec = Arc::clone(&group.spec);
            self.held.push((group.id.clone(), seat.host.clone(), spec));
        }
        let standing = seats.open.iter().map(|seat| seat.host.clone()).collect();
        self.standing.insert(group.id.clone(), standing);
        let mut all = seats.open;
        all.extend(seats.new);
        all
    }
}

fn nominated_hosts<'s>(
    state: &'s ClusterState,
    group: &Group,
) -> impl Iterator<Item = &'s HostId> + use<'s> {
    let status = state.group_status(&group.id);
    let nominated = status.into_iter().flat_map(|status| &status.nominated);
    nominated.map(|nomination| &nomination.host)
}

/// The places for which a group is nominated.
#[derive(Debug, Default)]
pub(super) struct Seats {
    open: Vec<Nomination>,
    /// Of this round.
    new: Vec<Nomination>,
}

impl Seats {
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.new.len()
    }

    fn add(&mut self, plan: Plan, context: &Context<'_>) {
        self.new.push(Nomination {
            host: plan.host,
            victims: plan.victims,
            since_ms: context.now_ms(),
        });
    }

    /// A job of the group was placed here.
    pub(super) fn take(&mut self, host: &HostId) {
        if let Some(at) = self.open.iter().position(|seat| seat.host == *host) {
            self.open.remove(at);
        }
    }

    pub(super) fn on(&self, host: &HostId) -> usize {
        let all = self.open.iter().chain(&self.new);
        all.filter(|seat| seat.host == *host).count()
    }

    /// Keeps so many at most, the oldest.
    pub(super) fn limit(&mut self, most: usize) {
        self.open.truncate(most);
    }

    /// What to say of a group that waits for its room.
    pub(super) fn describe(&self) -> String {
        let all = self.open.iter().chain(&self.new);
        let victims: usize = all.map(|seat| seat.victims.len()).sum();
        format!(
            "room is being made for {} of its jobs: {victims} that are less important are to stop",
            self.len()
        )
    }
}

/// Was it told to go because its room is somebody else's?
pub(super) fn was_preempted(job: &Job) -> bool {
    matches!(
        job.evicted,
        Some(Eviction::Preempted { .. } | Eviction::Overstayed(_))
    )
}

/// How long nobody else is preempted for a job that does not fit where room has been made for it.
const PATIENCE: Duration = Duration::from_secs(10);
