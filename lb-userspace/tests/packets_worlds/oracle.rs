//! What must become of a packet, read from Kubernetes objects alone: slow, and as close to the words of
//! `docs/semantics.md` as can be. The sections named here are its sections.
//!
//! *Independent*: shares no decision with the agent or the programs. It does not use their types of Services, their
//! parsers, their selection of endpoints or their tables. Where several answers are right, all of them are
//! given, each with the reason.

mod addresses;
mod destinations;
mod endpoints;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::ServicePort;

use crate::{
    cluster::Cluster,
    places,
    probe::{Client, Probe},
};

pub(crate) use addresses::{address, prefix_contains};
pub(crate) use destinations::{Kind, Owner, ingress, owners};

/// A protocol that a Service port can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Section 3: the default is TCP.
    pub(crate) fn of(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

/// How the node is set up.
#[derive(Clone, Default, Debug)]
pub(crate) struct Settings {
    /// `--nodeport-addresses`; empty: the primary ones.
    pub(crate) nodeport_addresses: Vec<String>,
    /// `--external-ip-ranges`; empty: no limit.
    pub(crate) external_ip_ranges: Vec<String>,
    /// `--masquerade-all`.
    pub(crate) masquerade_all: bool,
    /// `--pod-detection none`.
    pub(crate) no_pod_detection: bool,
}

/// Whose address the backend sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Source {
    Client,
    Node,
    Either,
}

/// What becomes of the packets of a client to a destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Each connection goes to one of these, and none of them is left out.
    Forward {
        backends: BTreeMap<SocketAddr, Source>,
        /// All connections of one client go to one of them.
        sticky: bool,
    },
    Reject,
    Drop,
    Pass,
}

/// An answer that is right, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) why: &'static str,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Forward { backends, sticky } => {
                write!(
                    f,
                    "forward{}",
                    if *sticky { ", always the same way," } else { "" }
                )?;
                for (backend, source) in backends {
                    write!(f, " {backend} (source: {source:?})")?;
                }
            }
            other => write!(f, "{other:?}")?,
        }
        write!(f, ": {}", self.why)
    }
}

fn answer(verdict: Verdict, why: &'static str) -> Answer {
    Answer { verdict, why }
}

/// All right answers to a probe; the first is the preferred one.
pub(crate) fn answers(cluster: &Cluster, settings: &Settings, probe: &Probe) -> Vec<Answer> {
    let mut all = Vec::new();
    let mut add = |new: Vec<Answer>| {
        for answer in new {
            if !all.iter().any(|known: &Answer| known.verdict == answer.verdict) {
                all.push(answer);
            }
        }
    };
    let owners = owners(cluster, settings, probe.to, probe.protocol);
    if owners.is_empty() {
        add(nobodys(cluster, settings, probe));
    }
    // The semantics do not say which of several Services gets an address and port that they all claim.
    for owner in owners {
        add(judged(cluster, settings, probe, &owner));
    }
    all
}

/// Sections 5, 6, 8 and 9: a destination that a Service port has.
fn judged(cluster: &Cluster, settings: &Settings, probe: &Probe, owner: &Owner<'_>) -> Vec<Answer> {
    let ipv6 = probe.to.is_ipv6();
    let mut all = Vec::new();
    let ranges = match owner.kind {
        // Section 8: apply to VIP-mode LB IPs only.
        Kind::LoadBalancer => ranges(owner, ipv6, probe.from()),
        _ => Ranges::Open,
    };
    match ranges {
        Ranges::Open => {}
        Ranges::Outside => {
            all.push(answer(Verdict::Drop, "5: source not in loadBalancerSourceRanges"));
        }
        Ranges::OtherFamily => all.push(answer(
            Verdict::Drop,
            "8: a family left without a range is unfiltered, an implementation may deny",
        )),
    }
    for endpoints in endpoints::readings(cluster, owner, ipv6) {
        let verdict = by_policy(cluster, settings, probe, owner, &endpoints);
        match ranges {
            // The order of ranges and refusal is not verified for one of the modes.
            Ranges::Outside if verdict.verdict == Verdict::Reject => all.push(answer(
                Verdict::Reject,
                "5: no endpoint; that the ranges hide this is so in one mode",
            )),
            Ranges::Outside => {}
            // Preferred, so in front.
            _ => all.insert(0, verdict),
        }
    }
    all
}

/// Section 5, both tables.
fn by_policy(
    cluster: &Cluster,
    settings: &Settings,
    probe: &Probe,
    owner: &Owner<'_>,
    endpoints: &[endpoints::Endpoint],
) -> Answer {
    let spec = owner.service.spec.as_ref();
    let is_local = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Local");
    let external_local = is_local(spec.and_then(|spec| spec.external_traffic_policy.as_ref()));
    let internal_local = is_local(spec.and_then(|spec| spec.internal_traffic_policy.as_ref()));
    let known_pod = matches!(probe.client, Client::Pod(_)) && !settings.no_pod_detection;
    let here = known_pod || probe.client == Client::Node;
    let use_local = match owner.kind {
        Kind::ClusterIp => internal_local,
        // The short-circuit.
        _ if here => false,
        _ => external_local,
    };
    let set = if use_local {
        endpoints::local_set(endpoints)
    } else {
        endpoints::cluster_set(cluster, endpoints)
    };
    if set.is_empty() {
        return if use_local && endpoints::exist(endpoints) {
            answer(Verdict::Drop, "5: policy Local, none local, some elsewhere")
        } else {
            answer(Verdict::Reject, "5: no usable endpoint anywhere")
        };
    }
    let policy_local = owner.kind != Kind::ClusterIp && external_local;
    let source = |backend: &SocketAddr| {
        let source = source(settings, probe, owner.kind, policy_local, backend.ip());
        (*backend, source)
    };
    let affinity = spec.and_then(|spec| spec.session_affinity.as_deref());
    let verdict = Verdict::Forward {
        backends: set.iter().map(source).collect(),
        sticky: affinity == Some("ClientIP"),
    };
    let why = match (use_local, owner.kind) {
        (true, Kind::ClusterIp) => "5: ClusterIP, internal policy Local: the Local set",
        (true, _) => "5: external destination, policy Local, client outside: the Local set",
        (false, _) if policy_local => "5: short-circuit of a client on this node: the Cluster set",
        (false, _) => "5: policy Cluster: the Cluster set",
    };
    answer(verdict, why)
}

/// Section 6.
fn source(settings: &Settings, probe: &Probe, kind: Kind, policy_local: bool, backend: IpAddr) -> Source {
    let pod = matches!(probe.client, Client::Pod(_));
    if probe.client == Client::Node {
        // Whatever is done: "an address of this node" is what it has anyway.
        return Source::Node;
    }
    if backend == probe.from() {
        return Source::Node; // 4: hairpin
    }
    match kind {
        Kind::ClusterIp if settings.masquerade_all => Source::Node, // 1
        // Without detection nobody is masqueraded for being no pod.
        Kind::ClusterIp if pod || settings.no_pod_detection => Source::Client,
        // 1 asks for the node's. Preferred, and accepted by the cases, is the client's own: a local backend
        // needs no masquerading for its replies to come back.
        Kind::ClusterIp => Source::Either,
        _ if policy_local => Source::Client,
        // 2 asks for the node's, for the same reason.
        _ => Source::Either,
    }
}

/// Section 5, last rows; section 7.
fn nobodys(cluster: &Cluster, settings: &Settings, probe: &Probe) -> Vec<Answer> {
    let ip = probe.to.ip();
    let ipv6 = ip.is_ipv6();
    let kinds = destinations::kinds_of(cluster, settings, ip);
    let mut all = Vec::new();
    // A process' packets to Service addresses are routed into `lb0`, which leads nowhere else: what no Service
    // has is refused there rather than lost.
    let by_lb0 = "a process of this node would wait for nobody: refused at lb0";
    if kinds.contains(&Kind::ClusterIp) {
        all.push(answer(
            Verdict::Reject,
            "5: known ClusterIP, unknown port, nftables mode",
        ));
        all.push(answer(
            Verdict::Pass,
            "5: known ClusterIP, unknown port, iptables mode",
        ));
        return all;
    }
    let in_service_cidr = places::SERVICE_CIDRS
        .iter()
        .any(|(network, bits)| prefix_contains(*network, *bits, ip));
    if in_service_cidr {
        all.push(answer(
            Verdict::Drop,
            "5: unallocated address in a service CIDR, nftables mode",
        ));
        all.push(answer(
            Verdict::Pass,
            "5: unallocated address in a service CIDR, iptables mode",
        ));
        if probe.client == Client::Node {
            all.push(answer(Verdict::Reject, by_lb0));
        }
        return all;
    }
    all.push(answer(Verdict::Pass, "5: not ours"));
    if !kinds.is_empty() && probe.client == Client::Node {
        all.push(answer(Verdict::Reject, by_lb0));
    }
    // Section 7: another node's NodePort is not captured; served at the source it is accepted, and wanted.
    let other_node = [1, 2].iter().any(|node| places::node(*node, ipv6) == ip);
    if other_node && !matches!(probe.client, Client::Outside(_)) {
        for owner in destinations::node_port_owners(cluster, probe.to, probe.protocol) {
            all.extend(judged(cluster, settings, probe, &owner));
        }
    }
    all
}

/// What loadBalancerSourceRanges say of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ranges {
    /// It may.
    Open,
    /// It may not.
    Outside,
    /// There are ranges, but none of its family.
    OtherFamily,
}

/// Section 8: every client is judged by its source address; blanks are ignored; split by family.
fn ranges(owner: &Owner<'_>, ipv6: bool, from: IpAddr) -> Ranges {
    let spec = owner.service.spec.as_ref();
    let texts = spec.and_then(|spec| spec.load_balancer_source_ranges.as_ref());
    let texts: Vec<&str> = (texts.into_iter().flatten())
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .collect();
    let parsed: Vec<(IpAddr, u8)> = texts.iter().filter_map(|text| addresses::prefix(text)).collect();
    let of_family: Vec<_> = parsed
        .iter()
        .filter(|(address, _)| address.is_ipv6() == ipv6)
        .collect();
    if texts.is_empty() {
        Ranges::Open
    } else if of_family.is_empty() {
        Ranges::OtherFamily
    } else if of_family
        .iter()
        .any(|(network, bits)| prefix_contains(*network, *bits, from))
    {
        Ranges::Open
    } else {
        Ranges::Outside
    }
}

/// The backends that an established flow to this destination may be kept by. `None`: nobody is left to say.
///
/// Section 11: a UDP flow keeps its backend while that is a serving endpoint of the service port; TCP and SCTP
/// connections end when the endpoint ends, whatever its conditions say before.
pub(crate) fn keepers(cluster: &Cluster, settings: &Settings, probe: &Probe) -> Option<BTreeSet<SocketAddr>> {
    let owners = owners(cluster, settings, probe.to, probe.protocol);
    if owners.is_empty() {
        return None;
    }
    // Where several Services claim the place, the flow's must agree with all.
    let each = owners.iter().map(|owner| {
        endpoints::certain(
            cluster,
            owner,
            probe.to.is_ipv6(),
            probe.protocol == Protocol::Udp,
        )
    });
    each.reduce(|a, b| &a & &b)
}

/// Section 11, where it leaves a choice: a UDP flow may stay with a backend that serves in some reading, that gets new
/// flows though it does not serve, or where no other serves.
pub(crate) fn may_stay(cluster: &Cluster, settings: &Settings, probe: &Probe, backend: SocketAddr) -> bool {
    let owners = owners(cluster, settings, probe.to, probe.protocol);
    owners.iter().any(|owner| {
        let some = endpoints::some_serving(cluster, owner, probe.to.is_ipv6());
        some.is_empty() || some.contains(&backend)
    })
}

/// Section 9: whether a record that this probe has left still holds: its endpoint is there, in whatever condition, and
/// the Service port `name` is still the one that has the place, and has affinity.
pub(crate) fn keeps_record(
    cluster: &Cluster,
    settings: &Settings,
    probe: &Probe,
    name: &str,
    backend: SocketAddr,
) -> bool {
    match &owners(cluster, settings, probe.to, probe.protocol)[..] {
        [owner] if owner.name() == name => {
            let spec = owner.service.spec.as_ref();
            let affinity = spec.and_then(|spec| spec.session_affinity.as_deref());
            affinity == Some("ClientIP")
                && endpoints::certain(cluster, owner, probe.to.is_ipv6(), false).contains(&backend)
        }
        _ => false,
    }
}

/// `answers`, with what a record of this backend makes of them. Section 9: it is honoured only if its endpoint is in
/// the set selected for this packet.
pub(crate) fn remembering(mut answers: Vec<Answer>, record: SocketAddr) -> Vec<Answer> {
    for answer in &mut answers {
        if let Verdict::Forward {
            backends,
            sticky: true,
        } = &mut answer.verdict
            && backends.contains_key(&record)
        {
            backends.retain(|backend, _| *backend == record);
        }
    }
    answers
}

/// Name and namespace of the Service port that a destination belongs to, if it is one alone.
pub(crate) fn service_port(cluster: &Cluster, settings: &Settings, probe: &Probe) -> Option<String> {
    match &owners(cluster, settings, probe.to, probe.protocol)[..] {
        [one] => Some(one.name()),
        _ => None,
    }
}

/// Name of a port, empty if it has none.
fn port_name(port: &ServicePort) -> &str {
    port.name.as_deref().unwrap_or_default()
}
