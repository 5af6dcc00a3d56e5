//! The policy. This file is all it takes.

use std::{cmp::Reverse, sync::Arc};

use flynn_sched::{
    ClusterState, Group, GroupKind, Job, Phase, Scheduler, Transaction,
    placement::{Board, Candidate, Need, Placer, Score},
    scheduler::Context,
    transaction::Change,
};

/// Places batches with the nearest deadline first, each job on the cheapest host that has room for it.
#[derive(Debug)]
pub(crate) struct DeadlineScheduler;

impl Scheduler for DeadlineScheduler {
    fn name(&self) -> &'static str {
        "deadline"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let placer = Placer::new().with_score(Cheap, 1.0);
        let mut board = Board::of(state);
        let mut transaction = Transaction::on(state);
        let mut groups: Vec<&Arc<Group>> = state.groups().collect();
        groups.sort_by_key(|group| (deadline_ms(group), Reverse(group.priority)));
        for group in groups {
            let GroupKind::Batch { count, .. } = group.kind else {
                continue; // another scheduler's
            };
            // Jobs whose host is lost are taken as gone; all others have run, or will.
            let host = |job: &Job| state.host(&job.host).filter(|h| h.lost_since_ms.is_none());
            let counts = |job: &&Arc<Job>| job.status.phase == Phase::Done || host(job).is_some();
            let there = state.jobs_of(&group.id).filter(counts).count();
            let group_id = &group.id;
            let need = Need::new(group_id, &group.spec).at(context.now_ms());
            let mut tally = board.tally(state, group_id);
            let hosts: Vec<_> = (there..count as usize)
                .map_while(|_| placer.place(&need, &mut board, &mut tally)) // or no room now: the next end wakes us
                .collect();
            if !hosts.is_empty() {
                // If another copy of this scheduler was faster, nothing of this group is applied twice.
                let (group, version) = (group_id.clone(), state.group_version(group_id));
                transaction = transaction.with(Change::ExpectGroup { group, version });
            }
            for host in hosts {
                transaction = transaction.start(context.new_job(group, host));
            }
        }
        transaction
    }
}

fn deadline_ms(group: &Group) -> u64 {
    let text = group.spec.metadata.get("deadline_ms");
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// Prefers hosts with a low `price` tag.
#[derive(Debug)]
struct Cheap;

impl Score for Cheap {
    fn name(&self) -> &'static str {
        "cheap"
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        let price = candidate.host.tags.get("price");
        let price = price.and_then(|price| price.parse().ok());
        1.0 / (1.0 + price.unwrap_or(0.0_f64))
    }
}
