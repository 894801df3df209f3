//! Makes a failing world smaller while it still fails: fewer steps, events, endpoints, ports and fields.

use std::time::{Duration, Instant};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::{
    cluster::{Event, Object},
    generate::World,
    oracle::Settings,
    trial::{Bench, Failure, Questions, Tally},
};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a smaller world is tried.
const TRIES: u64 = 4;

/// The smallest world found that fails, and how.
pub(crate) fn shrink(bench: &mut Bench, world: World, failure: Box<Failure>) -> (World, Box<Failure>) {
    let deadline = Instant::now() + PATIENCE;
    let (mut world, mut failure) = (world, failure);
    // What happens by chance (order, batches, failures) is not the same in a smaller world: it gets some chances.
    let mut fails = |world: &mut World, questions: &Questions| {
        let seed = world.seed;
        (0..TRIES).find_map(|other| {
            world.seed = seed.wrapping_add(other << 32);
            bench.try_world(world, questions, &mut Tally::new()).err()
        })
    };
    // One question is enough, unless it takes others before it.
    let mut questions = Questions::Sample;
    if let Some(probe) = failure.probe
        && let Some(alone) = fails(&mut world, &Questions::Only(vec![probe]))
    {
        (questions, failure) = (Questions::Only(vec![probe]), alone);
    }
    loop {
        let smaller = smaller(&world);
        let found = smaller.into_iter().find_map(|mut smaller| {
            let failure = (Instant::now() < deadline).then(|| fails(&mut smaller, &questions))??;
            Some((smaller, failure))
        });
        match found {
            Some(found) => (world, failure) = found,
            None => return (world, failure),
        }
    }
}

/// Worlds with a little less in them, those with much less first.
fn smaller(world: &World) -> Vec<World> {
    let mut all = Vec::new();
    for step in 0..world.steps.len() {
        let mut without = world.clone();
        without.steps.remove(step);
        all.push(without);
        if step > 0 {
            let mut joined = world.clone();
            let events = joined.steps.remove(step);
            joined.steps[step - 1].extend(events);
            all.push(joined);
        }
    }
    for (step, events) in world.steps.iter().enumerate() {
        for chunk in [4, 1] {
            for first in (0..events.len()).step_by(chunk) {
                let mut without = world.clone();
                without.steps[step].drain(first..(first + chunk).min(events.len()));
                all.push(without);
            }
        }
    }
    for (step, events) in world.steps.iter().enumerate() {
        for (place, event) in events.iter().enumerate() {
            let Event::Put(object) = event else { continue };
            for object in simpler(object) {
                let mut with = world.clone();
                with.steps[step][place] = Event::Put(object);
                all.push(with);
            }
        }
    }
    if !is_default(&world.settings) {
        let mut plain = world.clone();
        plain.settings = Settings::default();
        all.push(plain);
    }
    all
}

fn is_default(settings: &Settings) -> bool {
    let Settings {
        nodeport_addresses,
        external_ip_ranges,
        masquerade_all,
        no_pod_detection,
    } = settings;
    nodeport_addresses.is_empty() && external_ip_ranges.is_empty() && !masquerade_all && !no_pod_detection
}

fn simpler(object: &Object) -> Vec<Object> {
    match object {
        Object::Service(service) => (simpler_services(service).into_iter())
            .map(|service| Object::Service(Box::new(service)))
            .collect(),
        Object::Slice(slice) => (simpler_slices(slice).into_iter())
            .map(|slice| Object::Slice(Box::new(slice)))
            .collect(),
        Object::Node(node) => {
            let mut plain = node.clone();
            plain.metadata.labels = None;
            let mut ready = node.clone();
            if let Some(status) = &mut ready.status {
                status.conditions = None;
            }
            let all = [plain, ready].into_iter().filter(|simpler| simpler != node);
            all.map(Object::Node).collect()
        }
    }
}

/// Copies of `object` with one part taken out each; a part that is not there gives no copy.
fn without<T: Clone + PartialEq>(object: &T, parts: &[&dyn Fn(&mut T)]) -> Vec<T> {
    let copies = parts.iter().map(|take_out| {
        let mut copy = object.clone();
        take_out(&mut copy);
        copy
    });
    copies.filter(|copy| copy != object).collect()
}

fn simpler_services(service: &Service) -> Vec<Service> {
    macro_rules! spec {
        ($field:ident) => {
            &|service: &mut Service| {
                if let Some(spec) = &mut service.spec {
                    spec.$field = None;
                }
            }
        };
    }
    let mut all = without(
        service,
        &[
            &|service| service.metadata.labels = None,
            &|service| service.status = None,
            spec!(external_ips),
            spec!(internal_traffic_policy),
            spec!(external_traffic_policy),
            spec!(load_balancer_source_ranges),
            spec!(health_check_node_port),
            spec!(session_affinity),
            spec!(session_affinity_config),
            spec!(ip_families),
            spec!(type_),
        ],
    );
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    for place in 0..ports.map_or(0, Vec::len) {
        let mut fewer = service.clone();
        if let Some(ports) = fewer.spec.as_mut().and_then(|spec| spec.ports.as_mut()) {
            ports.remove(place);
        }
        all.push(fewer);
    }
    let ingress = crate::oracle::ingress(service).count();
    for place in 0..ingress {
        let mut fewer = service.clone();
        let balancer = fewer
            .status
            .as_mut()
            .and_then(|status| status.load_balancer.as_mut());
        if let Some(ingress) = balancer.and_then(|balancer| balancer.ingress.as_mut()) {
            ingress.remove(place);
        }
        all.push(fewer);
    }
    all
}

fn simpler_slices(slice: &EndpointSlice) -> Vec<EndpointSlice> {
    let mut all = Vec::new();
    for place in 0..slice.endpoints.len() {
        let mut fewer = slice.clone();
        fewer.endpoints.remove(place);
        all.push(fewer);
    }
    for place in 0..slice.ports.as_ref().map_or(0, Vec::len) {
        let mut fewer = slice.clone();
        if let Some(ports) = &mut fewer.ports {
            ports.remove(place);
        }
        all.push(fewer);
    }
    for place in 0..slice.endpoints.len() {
        all.extend(without(
            slice,
            &[
                &|slice| slice.endpoints[place].conditions = None,
                &|slice| slice.endpoints[place].hints = None,
                &|slice| slice.endpoints[place].node_name = None,
                &|slice| slice.endpoints[place].addresses.truncate(1),
            ],
        ));
    }
    all
}
