//! From what a registry's watch says to the events discoverd's clients know. No IO.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Instance, InstanceId, Metadata, ServiceEvent, ServiceName};

/// An event on the wire.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WireEvent {
    service: ServiceName,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<Instance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_meta: Option<Metadata>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Up,
    Update,
    Down,
    Leader,
    ServiceMeta,
    /// All that was there at the beginning has been said.
    Current,
}

/// Which events a subscriber hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    Instances,
    Leader,
}

impl Wanted {
    fn includes(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Instances => matches!(kind, Kind::Up | Kind::Update | Kind::Down),
            Self::Leader => kind == Kind::Leader,
        }
    }
}

/// Remembers what a subscriber has been told, so that a watch that starts afresh tells it only the difference:
/// discoverd's clients know no reset.
#[derive(Debug)]
pub(crate) struct Announcer {
    service: ServiceName,
    wanted: Wanted,
    instances: BTreeMap<InstanceId, Instance>,
    leader: Option<Instance>,
    metadata: Option<Metadata>,
    /// Has `current` been said?
    is_current: bool,
}

impl Announcer {
    pub(crate) fn new(service: ServiceName, wanted: Wanted) -> Self {
        Self {
            service,
            wanted,
            instances: BTreeMap::new(),
            leader: None,
            metadata: None,
            is_current: false,
        }
    }

    /// Takes what the watch said; gives what the subscriber is to hear, in order.
    pub(crate) fn handle(&mut self, event: ServiceEvent) -> Vec<WireEvent> {
        let mut events = Vec::new();
        match event {
            ServiceEvent::Reset {
                instances,
                leader,
                metadata,
            } => self.reset(instances, leader, metadata, &mut events),
            ServiceEvent::Up(instance) | ServiceEvent::Update(instance) => {
                events.extend(self.put(instance));
            }
            ServiceEvent::Down(instance) => events.extend(self.remove(&instance.id)),
            ServiceEvent::Leader(leader) => events.extend(self.lead(leader)),
            ServiceEvent::Metadata(metadata) => events.extend(self.describe(metadata)),
        }
        events.retain(|event| self.wanted.includes(event.kind));
        events
    }

    fn reset(
        &mut self,
        instances: Vec<Instance>,
        leader: Option<Instance>,
        metadata: Option<Metadata>,
        events: &mut Vec<WireEvent>,
    ) {
        let mut gone: Vec<InstanceId> = self.instances.keys().cloned().collect();
        gone.retain(|id| instances.iter().all(|instance| instance.id != *id));
        for instance in instances {
            if self.instances.get(&instance.id) != Some(&instance) {
                events.extend(self.put(instance));
            }
        }
        for id in gone {
            events.extend(self.remove(&id));
        }
        if leader != self.leader {
            events.extend(self.lead(leader));
        }
        if metadata != self.metadata {
            events.extend(self.describe(metadata));
        }
        if !self.is_current {
            self.is_current = true;
            events.push(self.event(Kind::Current));
        }
    }

    fn put(&mut self, instance: Instance) -> Option<WireEvent> {
        let known = self.instances.insert(instance.id.clone(), instance.clone());
        let kind = match known {
            None => Kind::Up,
            Some(_) => Kind::Update,
        };
        Some(WireEvent {
            instance: Some(instance),
            ..self.event(kind)
        })
    }

    fn remove(&mut self, id: &InstanceId) -> Option<WireEvent> {
        let instance = self.instances.remove(id)?;
        Some(WireEvent {
            instance: Some(instance),
            ..self.event(Kind::Down)
        })
    }

    fn lead(&mut self, leader: Option<Instance>) -> Option<WireEvent> {
        self.leader.clone_from(&leader);
        // Instances without a leader: it was chosen by hand and is gone, of which discoverd says nothing.
        if leader.is_none() && !self.instances.is_empty() {
            return None;
        }
        Some(WireEvent {
            instance: leader,
            ..self.event(Kind::Leader)
        })
    }

    fn describe(&mut self, metadata: Option<Metadata>) -> Option<WireEvent> {
        self.metadata.clone_from(&metadata);
        // That metadata is gone has no event: the service went with it.
        Some(WireEvent {
            service_meta: Some(metadata?),
            ..self.event(Kind::ServiceMeta)
        })
    }

    fn event(&self, kind: Kind) -> WireEvent {
        WireEvent {
            service: self.service.clone(),
            kind,
            instance: None,
            service_meta: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(id: &str, created: u64) -> Instance {
        Instance {
            id: InstanceId::parse(id).unwrap(),
            addr: "10.0.0.1:80".to_owned(),
            proto: "http".to_owned(),
            attributes: BTreeMap::new(),
            created,
        }
    }

    fn reset(instances: &[Instance], leader: Option<&Instance>, index: u64) -> ServiceEvent {
        ServiceEvent::Reset {
            instances: instances.to_vec(),
            leader: leader.cloned(),
            metadata: Some(Metadata {
                data: json!({}),
                index,
            }),
        }
    }

    /// `up a`, `leader b`, `current`, ….
    fn told(events: Vec<WireEvent>) -> Vec<String> {
        events
            .iter()
            .map(|event| {
                let event = serde_json::to_value(event).unwrap();
                assert_eq!(event["service"], "www");
                let kind = event["kind"].as_str().unwrap();
                match event["instance"]["id"].as_str() {
                    Some(id) => format!("{kind} {id}"),
                    None => kind.to_owned(),
                }
            })
            .collect()
    }

    fn announcer(wanted: Wanted) -> Announcer {
        Announcer::new(ServiceName::parse("www").unwrap(), wanted)
    }

    #[test]
    fn the_beginning_is_instances_by_age_then_leader_then_metadata_then_current() {
        let (a, b) = (instance("a", 2), instance("b", 1));
        let begin = reset(&[b.clone(), a], Some(&b), 3);
        let all = announcer(Wanted::All).handle(begin.clone());
        assert_eq!(
            told(all),
            ["up b", "up a", "leader b", "service_meta", "current"]
        );
        let instances = announcer(Wanted::Instances).handle(begin.clone());
        assert_eq!(told(instances), ["up b", "up a"]);
        assert_eq!(told(announcer(Wanted::Leader).handle(begin)), ["leader b"]);
    }

    #[test]
    fn a_later_reset_tells_only_what_differs() {
        let (a, b, c) = (instance("a", 1), instance("b", 2), instance("c", 3));
        let mut announcer = announcer(Wanted::All);
        announcer.handle(reset(&[a.clone(), b.clone()], Some(&a), 3));
        let again = reset(&[a.clone(), b.clone()], Some(&a), 3);
        assert_eq!(told(announcer.handle(again)), [""; 0]);
        let mut changed = b;
        changed.addr = "10.0.0.2:80".to_owned();
        let differs = reset(&[changed.clone(), c], Some(&changed), 4);
        assert_eq!(
            told(announcer.handle(differs)),
            ["update b", "up c", "down a", "leader b", "service_meta"]
        );
    }

    #[test]
    fn that_a_leader_chosen_by_hand_is_gone_is_not_told() {
        let (a, b) = (instance("a", 1), instance("b", 2));
        let mut announcer = announcer(Wanted::All);
        announcer.handle(reset(&[a.clone(), b], Some(&a), 3));
        assert_eq!(told(announcer.handle(ServiceEvent::Down(a))), ["down a"]);
        assert_eq!(told(announcer.handle(ServiceEvent::Leader(None))), [""; 0]);
    }

    #[test]
    fn the_last_instance_goes_with_a_leader_event_that_names_nobody() {
        let a = instance("a", 1);
        let mut announcer = announcer(Wanted::All);
        announcer.handle(reset(std::slice::from_ref(&a), Some(&a), 3));
        let down = announcer.handle(ServiceEvent::Down(a));
        assert_eq!(told(down), ["down a"]);
        let leader = announcer.handle(ServiceEvent::Leader(None));
        assert_eq!(
            serde_json::to_string(&leader).unwrap(),
            r#"[{"service":"www","kind":"leader"}]"#
        );
    }
}
