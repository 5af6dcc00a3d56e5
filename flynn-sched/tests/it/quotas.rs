//! Schedulers under quotas: they say what is the matter, and go on when there is room again.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Group, GroupKind, Namespace, Quota, SimCluster, Transaction,
    scheduler::{BatchScheduler, ServiceScheduler},
    transaction::Change,
};
use futures::executor::block_on;

use crate::fixture::{MIB, group, group_id, host};

const SECOND: Duration = Duration::from_secs(1);

fn of_team(group: Group) -> Group {
    let mut spec = (*group.spec).clone();
    spec.namespace = Namespace::parse("team").unwrap();
    Group {
        spec: Arc::new(spec),
        ..group
    }
}

fn limit(cell: &SimCluster, quota: Quota) {
    let put = Transaction::default().with(Change::PutQuota(Arc::new(quota)));
    let committed = block_on(flynn_sched::Cluster::commit(cell, put)).unwrap();
    assert_eq!(committed.refused, vec![]);
}

fn team() -> Quota {
    Quota::of(Namespace::parse("team").unwrap())
}

fn cell() -> SimCluster {
    let cell = SimCluster::new(1);
    cell.join(host("a", 1000)).unwrap();
    cell.join(host("b", 1000)).unwrap();
    cell
}

fn blocked(cell: &SimCluster, id: &str) -> Option<String> {
    let state = cell.state();
    let status = state.group_status(&group_id(id));
    status.and_then(|status| status.blocked.clone())
}

fn live(cell: &SimCluster, id: &str) -> usize {
    let (state, id) = (cell.state(), group_id(id));
    let jobs = state.jobs_of(&id);
    jobs.filter(|job| !job.status.phase.is_final()).count()
}

#[test]
fn a_service_starts_what_its_quota_allows_and_says_so() {
    let cell = cell();
    limit(
        &cell,
        Quota {
            memory_bytes: Some(100 * MIB),
            ..team()
        },
    );
    let service = |id, count| of_team(group(id, GroupKind::Service { count }, 30));
    cell.put_group(service("g", 2));
    cell.put_group(service("h", 4));
    // Somebody important is bound by it as well, and nobody is preempted in vain.
    cell.put_group(Group {
        priority: 90,
        ..service("top", 2)
    });
    cell.run(&mut [&mut ServiceScheduler::new()], 10 * SECOND);
    assert_eq!(
        (live(&cell, "top"), live(&cell, "g"), live(&cell, "h")),
        (2, 1, 0)
    );
    let says = "the quota of namespace team is 104857600 bytes of memory, 94371840 is used: \
                raise it or stop something";
    assert_eq!(blocked(&cell, "g").as_deref(), Some(says));
    assert_eq!(blocked(&cell, "h").as_deref(), Some(says));
    let counters = cell.counters();
    assert_eq!(
        (counters.conflicts, counters.preempted),
        (0, 0),
        "nothing is proposed in vain"
    );
    cell.put_group(Group {
        priority: 90,
        ..service("top", 0)
    });
    cell.run(&mut [&mut ServiceScheduler::new()], 10 * SECOND);
    assert_eq!((live(&cell, "g"), live(&cell, "h")), (2, 1));
    limit(&cell, team());
    cell.run(&mut [&mut ServiceScheduler::new()], 10 * SECOND);
    assert_eq!((live(&cell, "g"), live(&cell, "h")), (2, 4));
    assert_eq!((blocked(&cell, "g"), blocked(&cell, "h")), (None, None));
}

#[test]
fn an_omni_group_and_a_batch_are_bound_by_it_too() {
    let cell = cell();
    limit(
        &cell,
        Quota {
            jobs: Some(2),
            ..team()
        },
    );
    let batch = GroupKind::Batch {
        count: 5,
        retries: 0,
    };
    cell.put_group(of_team(group("omni", GroupKind::Omni { per_host: 1 }, 1)));
    cell.put_group(of_team(group("b", batch, 1)));
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    cell.run(&mut [&mut services], SECOND);
    cell.run(&mut [&mut services, &mut batches], 10 * SECOND);
    assert_eq!((live(&cell, "omni"), live(&cell, "b")), (2, 0));
    let says = "the quota of namespace team is 2 jobs, 2 is used: raise it or stop something";
    assert_eq!(blocked(&cell, "b").as_deref(), Some(says));
    assert_eq!(cell.counters().conflicts, 0);
    limit(
        &cell,
        Quota {
            jobs: Some(3),
            ..team()
        },
    );
    // One after the other.
    cell.run(&mut [&mut services, &mut batches], 60 * SECOND);
    let state = cell.state();
    let status = state.group_status(&group_id("b")).unwrap();
    assert_eq!((status.succeeded, status.is_complete), (5, true));
    cell.join(host("c", 1000)).unwrap();
    cell.run(&mut [&mut services, &mut batches], 60 * SECOND);
    cell.join(host("d", 1000)).unwrap();
    cell.run(&mut [&mut services, &mut batches], 60 * SECOND);
    assert_eq!(live(&cell, "omni"), 3);
    assert_eq!(
        blocked(&cell, "omni").as_deref(),
        Some(says.replace('2', "3").as_str())
    );
}
