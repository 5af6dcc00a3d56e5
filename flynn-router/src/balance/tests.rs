use std::collections::BTreeMap;

use flynn_discovery::InstanceId;
use proptest::prelude::*;

use super::*;

fn endpoints(n: usize) -> Vec<Arc<Endpoint>> {
    (0..n)
        .map(|i| {
            let id = InstanceId::parse(i.to_string()).unwrap();
            let addr = format!("127.0.0.1:{}", i + 1).parse().unwrap();
            Arc::new(Endpoint::new(id, addr, String::new()))
        })
        .collect()
}

fn balancers() -> [&'static dyn Balancer; 3] {
    [&LeastLoaded, &Random, &RoundRobin]
}

/// Numbers that are spread like random ones.
fn numbers() -> impl Iterator<Item = u64> {
    (1_u64..).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

fn shares(pick: &dyn Pick) -> BTreeMap<InstanceId, usize> {
    let mut shares = BTreeMap::new();
    for random in numbers().take(3000) {
        let id = pick.pick(random, &|_| true).unwrap().id().clone();
        *shares.entry(id).or_insert(0) += 1;
    }
    shares
}

#[test]
fn everybody_gets_a_fair_share() {
    let endpoints = endpoints(3);
    for balancer in balancers() {
        let shares = shares(&*balancer.rebuild(&endpoints));
        assert_eq!(shares.len(), 3, "{balancer:?}");
        assert!(
            shares.values().all(|n| (800..1200).contains(n)),
            "{balancer:?} {shares:?}"
        );
    }
}

#[test]
fn of_none_none_is_chosen() {
    for balancer in balancers() {
        assert!(
            balancer.rebuild(&[]).pick(7, &|_| true).is_none(),
            "{balancer:?}"
        );
        assert!(
            balancer
                .rebuild(&endpoints(2))
                .pick(7, &|_| false)
                .is_none(),
            "{balancer:?}"
        );
    }
}

#[test]
fn a_loaded_endpoint_gets_less() {
    let endpoints = endpoints(3);
    let pick = LeastLoaded.rebuild(&endpoints);
    let load: Vec<_> = (0..5).map(|_| endpoints[0].begin()).collect();
    assert_eq!(shares(&*pick).get(endpoints[0].id()), None);
    drop(load);
    assert_eq!(endpoints[0].in_flight(), 0);
    assert_eq!(shares(&*pick).len(), 3);
}

proptest! {
    /// Whoever is eligible is found, and nobody else is chosen.
    #[test]
    fn only_the_eligible_are_chosen_and_one_always_is(
        n in 1_usize..8, allowed in any::<u8>(), random in any::<u64>(),
    ) {
        let endpoints = endpoints(n);
        let is_allowed = |e: &Endpoint| allowed >> (e.addr().port() - 1) & 1 == 1;
        let any_allowed = endpoints.iter().any(|e| is_allowed(e));
        for balancer in balancers() {
            let pick = balancer.rebuild(&endpoints);
            let chosen = pick.pick(random, &is_allowed);
            prop_assert_eq!(chosen.is_some(), any_allowed);
            prop_assert!(chosen.is_none_or(|e| is_allowed(e)));
        }
    }
}
