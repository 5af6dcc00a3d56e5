//! Endpoints from discovery's registry.

use flynn_discovery::{Instance, Registry, ServiceEvent, ServiceName};
use futures::{StreamExt as _, future, stream::BoxStream};

use super::{EndpointSet, EndpointSource};
use crate::{Result, error::while_};

impl EndpointSource for Registry {
    fn watch(&self, service: &ServiceName) -> BoxStream<'static, Result<EndpointSet>> {
        let events = Self::watch(self, service);
        events
            .scan(EndpointSet::default(), |set, event| {
                let item = event.map_err(while_("watching a service")).map(|event| {
                    apply(set, event);
                    set.clone()
                });
                future::ready(Some(item))
            })
            .boxed()
    }
}

fn apply(set: &mut EndpointSet, event: ServiceEvent) {
    let put = |instances: &mut Vec<Instance>, instance: Instance| {
        instances.retain(|i| i.id != instance.id);
        instances.push(instance);
    };
    match event {
        ServiceEvent::Reset {
            instances, leader, ..
        } => {
            set.instances = instances;
            set.leader = leader.map(|l| l.id);
        }
        ServiceEvent::Up(instance) | ServiceEvent::Update(instance) => {
            put(&mut set.instances, instance);
        }
        ServiceEvent::Down(instance) => set.instances.retain(|i| i.id != instance.id),
        ServiceEvent::Leader(leader) => set.leader = leader.map(|l| l.id),
        // Metadata, and whatever is added later, is nothing to a router.
        _ => {}
    }
}
