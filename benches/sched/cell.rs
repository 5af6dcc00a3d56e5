//! Cells and work in the shape of Google's cluster trace of 2011.
//!
//! Machines are of the ten types, in the numbers, of Table 1 in Reiss, Tumanov, Ganger, Katz, Kozuch, "Heterogeneity and
//! Dynamicity of Clouds at Scale: Google Trace Analysis" (SoCC 2012), where 1.0 of processor is taken as 96 cores and
//! 1.0 of memory as 384 GiB. Jobs are as many and as large as that paper describes: three of four have one task, a few
//! have hundreds, and these have most of the tasks; requests are few round numbers, most of them small. As in Sharma,
//! Chudnovsky, Hellerstein, Rifaat, Das, "Modeling and Synthesizing Task Placement Constraints in Google Compute
//! Clusters" (SoCC 2011), one job in six is picky.

use std::sync::Arc;

use flynn_sched::{
    ClusterState, Constraint, Domain, Group, GroupId, GroupKind, Host, HostId, JobSpec, Named,
    Resources, Spread, Taint, TaintEffect, Transaction,
};

pub(crate) const GIB: u64 = 1 << 30;

/// A group and how many of its jobs are to be placed.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) id: GroupId,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) count: usize,
}

/// Processor and memory as shares of the largest machine, in percent, and how many of 12,583 machines are so.
const MACHINES: [(u64, u64, u64); 10] = [
    (50, 50, 6732),
    (50, 25, 3863),
    (50, 75, 1001),
    (100, 100, 795),
    (25, 25, 126),
    (50, 12, 52),
    (50, 3, 5),
    (50, 97, 5),
    (100, 50, 3),
    (50, 6, 1),
];

/// Numbers that look random and are always the same. (SplitMix64.)
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// One of the values, as often as its weight says.
    fn weighted(&mut self, values: &[(u64, u64)]) -> u64 {
        let all: u64 = values.iter().map(|(_, weight)| weight).sum();
        let mut at = self.below(all);
        for (value, weight) in values {
            if at < *weight {
                return *value;
            }
            at -= weight;
        }
        0
    }

    pub(crate) fn request(&mut self) -> Resources {
        Resources {
            cpu_millis: self.weighted(&[
                (100, 25),
                (200, 30),
                (300, 20),
                (500, 15),
                (1000, 8),
                (2000, 2),
            ]),
            memory_bytes: GIB / 4
                * self.weighted(&[(1, 25), (2, 30), (4, 25), (8, 12), (16, 6), (32, 2)]),
            disk_bytes: 0,
        }
    }

    pub(crate) fn machine(&mut self) -> Resources {
        let mut at = self.below(MACHINES.iter().map(|(_, _, n)| n).sum());
        let found = MACHINES.iter().find(|(_, _, n)| {
            let is_it = at < *n;
            at = at.saturating_sub(*n);
            is_it
        });
        let (cpu, memory, _) = found.copied().unwrap_or(MACHINES[0]);
        Resources {
            cpu_millis: 960 * cpu,
            memory_bytes: 384 * GIB * memory / 100,
            disk_bytes: 0,
        }
    }
}

/// A cell without jobs: three zones, racks of forty, half of the machines with SSDs, three kernels, one machine in twenty
/// with GPUs, one in fifty tainted.
pub(crate) fn empty(hosts: usize) -> ClusterState {
    let mut draw = Draw(1);
    let mut state = ClusterState::default();
    for n in 0..hosts {
        let id = HostId::parse(format!("h{n:05}")).expect("letters and digits");
        let mut host = Host::new(id, draw.machine());
        host.zone = Some(["a", "b", "c"][n % 3].to_owned());
        host.rack = Some(format!("r{}", n / 40));
        let kernel = ["4.19.3", "5.10.8", "6.1.2"][usize::try_from(draw.below(3)).unwrap_or(0)];
        host.tags.insert("kernel".to_owned(), kernel.to_owned());
        if draw.below(2) == 0 {
            host.tags.insert("ssd".to_owned(), "true".to_owned());
        }
        if draw.below(20) == 0 {
            host.named = Named::from_iter([("gpu", 8)]);
        }
        if draw.below(50) == 0 {
            host.taints.push(Taint {
                key: "dedicated".to_owned(),
                value: "db".to_owned(),
                effect: TaintEffect::NoSchedule,
            });
        }
        state = state.host_joined(host, 0).expect("its id is new");
    }
    state
}

/// Groups with `tasks` jobs together.
pub(crate) fn work(tasks: usize) -> Vec<Wanted> {
    let mut draw = Draw(2);
    let mut left = tasks;
    let mut work = Vec::new();
    while left > 0 {
        let count = usize::try_from(size(&mut draw)).unwrap_or(1).min(left);
        left -= count;
        let n = work.len();
        let id = format!("app{}.release{}.web", n % 977, n);
        work.push(Wanted {
            id: GroupId::parse(id).expect("letters, digits and dots"),
            spec: Arc::new(spec(&mut draw, count)),
            count,
        });
    }
    work
}

fn size(draw: &mut Draw) -> u64 {
    match draw.below(100) {
        0..75 => 1,
        75..90 => 2 + draw.below(9),
        90..98 => 11 + draw.below(90),
        _ => 100 << draw.below(5),
    }
}

fn spec(draw: &mut Draw, count: usize) -> JobSpec {
    let mut spec = JobSpec {
        args: vec!["./serve".to_owned()],
        request: draw.request(),
        ..JobSpec::default()
    };
    let expression = |text: &str| {
        let parsed = text.parse().expect("it is written right");
        Constraint::Expression(parsed)
    };
    match draw.below(100) {
        0..5 => spec.constraints.push(expression("tag.ssd = true")),
        5..10 => spec
            .constraints
            .push(expression("tag.kernel >= 5.10 and not rack = r1")),
        10..14 if count <= 30 => spec.constraints.push(Constraint::DistinctHosts),
        14..16 if count <= 30 => spec.constraints.push(Constraint::Apart {
            jobs: flynn_sched::Jobs::Prefix("app7.".to_owned()),
            within: Domain::Host,
        }),
        16 if count == 1 => spec.named = Named::from_iter([("gpu", 1)]),
        _ => {}
    }
    if count > 1 && draw.below(5) == 0 {
        spec.spread.push(Spread {
            over: Domain::Zone,
            weight: 100,
            max_skew: Some(1),
        });
    }
    spec
}

/// The cell with the groups written into it.
pub(crate) fn with_groups(state: &ClusterState, work: &[Wanted]) -> ClusterState {
    let transaction = work
        .iter()
        .fold(Transaction::on(state), |transaction, wanted| {
            let count = u32::try_from(wanted.count).unwrap_or(u32::MAX);
            let kind = GroupKind::Service { count };
            transaction.put_group(Group::new(
                wanted.id.clone(),
                kind,
                Arc::clone(&wanted.spec),
            ))
        });
    state.apply(&transaction).expect("it is incremental").state
}
