//! Random changes of the objects that there are.

use super::{SERVICES, SLICES, Traits, namespace, nodes, service_name, services, slices};
use lb_common::testing::chance::Chance;

use crate::cluster::{Cluster, Event, Key, Kind, Object};

/// Some changes of what there is in `cluster`.
pub(super) fn changes(chance: &mut Chance, traits: &Traits, cluster: &Cluster) -> Vec<Event> {
    let mut now = cluster.clone();
    let mut events = Vec::new();
    for _ in 0..=chance.below(5) {
        let keys: Vec<Key> = now.objects.keys().cloned().collect();
        let event = if keys.is_empty() || chance.one_in(4) {
            any(chance, traits, &now)
        } else {
            let key = chance.pick(&keys).clone();
            match &now.objects[&key] {
                _ if chance.one_in(5) => Event::Delete(key),
                Object::Service(service) => {
                    let number = (0..SERVICES).find(|number| {
                        service.metadata.name == Some(service_name(*number))
                            && service.metadata.namespace == Some(namespace(*number))
                    });
                    let other = services::service(chance, traits, number.unwrap_or_default());
                    Event::Put(one_field_of(chance, service, other))
                }
                Object::Slice(slice) => {
                    let mut slice = slice.clone();
                    match chance.below(3) {
                        0 => drop(slice.endpoints.pop()),
                        _ => {
                            for endpoint in &mut slice.endpoints {
                                if chance.one_in(2) {
                                    endpoint.conditions = slices::conditions(chance);
                                }
                            }
                        }
                    }
                    Event::Put(Object::Slice(slice))
                }
                Object::Node(_) => {
                    let number = crate::places::NODES.iter().position(|name| **name == *key.name);
                    Event::Put(nodes::node(chance, number.unwrap_or_default() as u8))
                }
            }
        };
        now.apply(&event);
        events.push(event);
    }
    events
}

/// Any version of any object, whether there is one or not.
fn any(chance: &mut Chance, traits: &Traits, now: &Cluster) -> Event {
    let number = chance.below(usize::from(SERVICES)) as u8;
    match chance.below(4) {
        0 => Event::Put(services::service(chance, traits, number)),
        1 => Event::Put(nodes::node(chance, chance_node(now))),
        _ => {
            let known: Vec<Event> = now.objects.values().cloned().map(Event::Put).collect();
            let slice = chance.below(usize::from(SLICES)) as u8;
            Event::Put(slices::slice(chance, &known, number, slice))
        }
    }
}

/// The node that is most worth changing: this one, unless it is alone.
fn chance_node(now: &Cluster) -> u8 {
    let others = now.objects.keys().filter(|key| key.kind == Kind::Node).count();
    (others % 3) as u8
}

/// `service` with one part of another.
fn one_field_of(chance: &mut Chance, service: &k8s_openapi::api::core::v1::Service, other: Object) -> Object {
    let Object::Service(other) = other else {
        return other;
    };
    let mut changed = service.clone();
    if let (Some(spec), Some(from)) = (&mut changed.spec, other.spec.clone()) {
        match chance.below(10) {
            0 => spec.type_ = from.type_,
            1 => spec.internal_traffic_policy = from.internal_traffic_policy,
            2 => spec.external_traffic_policy = from.external_traffic_policy,
            3 => spec.ports = from.ports,
            4 => spec.external_ips = from.external_ips,
            5 => spec.load_balancer_source_ranges = from.load_balancer_source_ranges,
            6 => spec.session_affinity = from.session_affinity,
            7 => changed.status = other.status,
            8 => changed.metadata.labels = other.metadata.labels,
            _ => return Object::Service(other),
        }
    }
    Object::Service(Box::new(changed))
}

/// Adds events without effect in the end: repetitions, versions that are replaced at once, objects that come and
/// go.
pub(super) fn repeat(chance: &mut Chance, traits: &Traits, step: &mut Vec<Event>) {
    let mut with = Vec::new();
    for event in step.drain(..) {
        if chance.one_in(6) {
            let number = chance.below(usize::from(SERVICES)) as u8;
            match &event {
                Event::Put(Object::Service(service)) => {
                    let mut other = services::service(chance, traits, number);
                    if let Object::Service(other) = &mut other {
                        other.metadata.name.clone_from(&service.metadata.name);
                        other.metadata.namespace.clone_from(&service.metadata.namespace);
                    }
                    with.push(Event::Put(other));
                }
                Event::Put(Object::Slice(slice)) => {
                    let mut other = slices::slice(chance, &with, number, 0);
                    if let Object::Slice(other) = &mut other {
                        other.metadata.name.clone_from(&slice.metadata.name);
                        other.metadata.namespace.clone_from(&slice.metadata.namespace);
                    }
                    with.push(Event::Put(other));
                }
                _ => with.push(Event::Delete(event.key())),
            }
        }
        if chance.one_in(8) {
            with.push(event.clone());
        }
        with.push(event);
    }
    *step = with;
}
