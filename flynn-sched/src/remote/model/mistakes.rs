//! Mistakes that must be noticed, or the trials show nothing.

use flynn_discovery::backend::{Compare, Key};
use stateright::{Checker, HasDiscoveries, Model};

use super::{
    Action, Trial, Troubles, group,
    properties::{COUNT, GANG, OVER, OWN},
    trials::{apart, beside, by_id, crowded, founding, trial},
};
use crate::{JobSpec, Jobs};

/// The mistake is found, as a breach of this property.
pub(super) fn is_noticed(trial: Trial, property: &'static str) {
    let checker = trial
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property);
    assert!(path.is_some(), "the mistake was not noticed");
}

fn is_seq(key: &Key, kind: &str) -> bool {
    key.as_str().starts_with(kind)
}

#[test]
fn a_protocol_that_does_not_compare_hosts_over_commits() {
    let keep = |compare: &Compare| !is_seq(&compare.key, "cell/seq/");
    is_noticed(Trial { keep, ..crowded() }, OVER);
}

#[test]
fn a_protocol_that_does_not_compare_groups_starts_too_many() {
    let keep = |compare: &Compare| !is_seq(&compare.key, "cell/groupseq/");
    let groups = vec![group("web", 1, JobSpec::default())];
    is_noticed(
        Trial {
            groups,
            keep,
            ..trial()
        },
        COUNT,
    );
}

#[test]
fn a_protocol_that_does_not_compare_what_keeps_apart_brings_them_together() {
    let forget_apart = |compare: &Compare| !is_seq(&compare.key, "cell/cellseq/apart");
    let forget_groups = |compare: &Compare| !is_seq(&compare.key, "cell/groupseq/web");
    let forget_news = |compare: &Compare| !is_seq(&compare.key, "cell/cellseq/groups");
    let by_prefix = || Jobs::Prefix("we".to_owned());
    for (jobs, keep) in [
        (by_id(), forget_apart as fn(&Compare) -> bool),
        (by_id(), forget_groups),
        (by_prefix(), forget_news),
    ] {
        is_noticed(
            Trial {
                keep,
                ..apart(jobs)
            },
            OWN,
        );
    }
}

#[test]
fn a_protocol_that_does_not_compare_new_groups_makes_orphans() {
    let keep = |compare: &Compare| !is_seq(&compare.key, "cell/groups/");
    is_noticed(Trial { keep, ..founding() }, OWN);
}

#[test]
fn a_protocol_that_does_not_compare_hosts_over_commits_beside_each_other() {
    let keep = |compare: &Compare| !is_seq(&compare.key, "cell/seq/");
    is_noticed(Trial { keep, ..beside() }, OVER);
}

#[test]
fn a_store_that_tears_commits_breaks_gangs() {
    is_noticed(
        Trial {
            tears: true,
            troubles: Troubles {
                elections: 1,
                ..Troubles::default()
            },
            ..trial()
        },
        GANG,
    );
}

#[test]
fn every_trouble_happens() {
    let trial = Trial {
        troubles: Troubles {
            losses: 1,
            ends: 1,
            rewrites: 1,
            crashes: 1,
            elections: 1,
            lost_answers: 1,
        },
        rewrites: vec![group("web", 1, JobSpec::default())],
        ..trial()
    };
    let first = trial.init_states().remove(0);
    let mut actions = Vec::new();
    trial.actions(&first, &mut actions);
    assert!(actions.contains(&Action::Propose(0)) && actions.contains(&Action::Propose(1)));
    let waiting = trial
        .next_state(&first, Action::Propose(0))
        .expect("it proposes");
    actions.clear();
    trial.actions(&waiting, &mut actions);
    for expected in [
        Action::Answer(0, 0),
        Action::LoseAnswer(0, 0),
        Action::Crash(0),
        Action::Elect,
        Action::Rewrite(0),
    ] {
        assert!(actions.contains(&expected), "{expected:?}");
    }
}
