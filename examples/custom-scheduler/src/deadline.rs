//! The policy. This file is all it takes.

use std::{cmp::Reverse, sync::Arc};

use flynn_sched::{
    ClusterState, Group, GroupKind, JobSpec, Phase, Scheduler, Transaction,
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
        let mut groups: Vec<&Arc<Group>> = state.groups().collect();
        groups.sort_by_key(|group| (deadline_ms(&group.spec), Reverse(group.priority)));
        let mut transaction = Transaction::on(state);
        for group in groups {
            let GroupKind::Batch { count, .. } = group.kind else {
                continue; // another scheduler's
            };
            // Jobs whose host is lost are taken as gone; all others have run, or will.
            let is_there = |host| {
                state
                    .host(host)
                    .is_some_and(|host| host.lost_since_ms.is_none())
            };
            let counts = state
                .jobs_of(&group.id)
                .filter(|job| job.status.phase == Phase::Done || is_there(&job.host))
                .count();
            let missing = (count as usize).saturating_sub(counts);
            if missing == 0 {
                continue;
            }
            // If another copy of this scheduler was faster, nothing of this group is applied twice.
            transaction = transaction.with(Change::ExpectGroup {
                group: group.id.clone(),
                version: state.group_version(&group.id),
            });
            let mut tally = board.tally(state, &group.id);
            let need = Need::new(&group.id, &group.spec).at(context.now_ms());
            for _ in 0..missing {
                let Some(host) = placer.place(&need, &mut board, &mut tally) else {
                    break; // no room now; the next end of a job wakes us
                };
                transaction = transaction.start(context.new_job(group, host));
            }
        }
        // A guard alone changes nothing.
        let is_idle = !transaction
            .changes
            .iter()
            .any(|change| matches!(change, Change::Start(_)));
        if is_idle {
            Transaction::on(state)
        } else {
            transaction
        }
    }
}

fn deadline_ms(spec: &JobSpec) -> u64 {
    let text = spec.metadata.get("deadline_ms");
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
