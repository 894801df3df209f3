//! A record in words.

use std::{fmt, net::IpAddr};

use bytemuck::{AnyBitPattern, pod_read_unaligned};
use lb_common::{
    abi::{
        Address, Affinity, AffinityKey, Backend, End, Entered, Flow, Frontend, FrontendKey, Outcome, Phase,
        Protocol, Range, RangeKey, Record, Set, Source, State, Step, Tuple, V4, V6, Way,
    },
    net::Net,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::explain::evidence::{
    Evidence, Shown, affinity_key, at, bytes, evidence, frontend_key, frontend_name, range_key,
};

/// A step of a packet.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Told {
    /// Which one, see [`Step`].
    pub step: &'static str,
    /// What was asked for, as bpftool shows it.
    pub key: Value,
    /// What was found or done, as bpftool shows it; null: nothing was found.
    pub value: Value,
    /// The key for people.
    pub asked: String,
    /// What the value means.
    pub means: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9}  {}", self.step, self.asked)?;
        if self.means.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.means)
        }
    }
}

/// What a record says; `None`: a later version has written it.
#[must_use]
pub fn step(record: &Record) -> Option<Told> {
    let step = Step::from_number(record.step)?;
    let Evidence {
        map,
        key,
        value,
        asked,
        means,
    } = match record.family {
        4 => in_family::<V4>(record, step),
        6 => in_family::<V6>(record, step),
        _ => None,
    }?;
    Some(Told {
        step: map,
        key,
        value,
        asked,
        means,
    })
}

/// The source address and port that a new flow has afterwards, if they are not the client's own, as an end.
#[must_use]
pub fn source_afterwards(record: &Record) -> Option<End> {
    if record.step != Step::Create as u8 {
        return None;
    }
    match record.family {
        4 => afterwards::<V4>(record),
        6 => afterwards::<V6>(record),
        _ => None,
    }
}

fn afterwards<F: Values>(record: &Record) -> Option<End> {
    let (key, flow) = (F::tuple(&record.key), F::flow(&record.value));
    let is_onward = flow.flags & Flow::<F::Addr>::REVERSE == 0;
    (is_onward && key.source != flow.to.source).then(|| End {
        address: super::ends::general(flow.to.source.into()),
        port: flow.to.source_port,
        protocol: flow.to.protocol,
        side: End::FROM,
    })
}

/// The values of a record whose addresses are of one family.
trait Values: Net<Addr: AnyBitPattern> {
    fn tuple(bytes: &[u8]) -> Tuple<Self::Addr>;
    fn flow(bytes: &[u8]) -> Flow<Self::Addr>;
    fn frontend(bytes: &[u8]) -> FrontendKey<Self::Addr>;
    fn backend(bytes: &[u8]) -> Backend<Self::Addr>;
    fn range(bytes: &[u8]) -> RangeKey<Self::Addr>;
    fn client(bytes: &[u8]) -> AffinityKey<Self::Addr>;
    fn affinity(bytes: &[u8]) -> Affinity<Self::Addr>;
}

/// The first bytes, as many as the type has.
fn read<T: AnyBitPattern>(bytes: &[u8]) -> T {
    pod_read_unaligned(&bytes[..size_of::<T>()])
}

macro_rules! values {
    ($($family:ty),+) => {$(
        impl Values for $family {
            fn tuple(bytes: &[u8]) -> Tuple<Self::Addr> { read(bytes) }
            fn flow(bytes: &[u8]) -> Flow<Self::Addr> { read(bytes) }
            fn frontend(bytes: &[u8]) -> FrontendKey<Self::Addr> { read(bytes) }
            fn backend(bytes: &[u8]) -> Backend<Self::Addr> { read(bytes) }
            fn range(bytes: &[u8]) -> RangeKey<Self::Addr> { read(bytes) }
            fn client(bytes: &[u8]) -> AffinityKey<Self::Addr> { read(bytes) }
            fn affinity(bytes: &[u8]) -> Affinity<Self::Addr> { read(bytes) }
        }
    )+};
}

values!(V4, V6);

fn in_family<F: Values>(record: &Record, step: Step) -> Option<Evidence> {
    let (key, value) = (record.key.as_slice(), record.value.as_slice());
    let name = step.name();
    let is_found = record.found != 0;
    let told = |key: Value, asked: String, value: Value, means: String| Evidence {
        map: name,
        key,
        value,
        asked,
        means,
    };
    let number: u32 = read(key);
    Some(match step {
        Step::Enter => {
            let tuple = F::tuple(key);
            let entered: Entered = read(value);
            let (value, means) = entry(record, &tuple, &entered);
            told(tuple_key(&tuple), ends(&tuple, is_found), value, means)
        }
        Step::Address => {
            let address: F::Addr = read(key);
            shown::<Address>(name, bytes(&address), text(address), is_found, value)
        }
        Step::Source => {
            let address: F::Addr = read(key);
            shown::<Source>(name, bytes(&address), text(address), is_found, value)
        }
        Step::Frontend => {
            let key = F::frontend(key);
            shown::<Frontend>(name, frontend_key(&key), frontend_name(&key), is_found, value)
        }
        Step::Set => shown::<Set>(name, json!(number), format!("service {number}"), is_found, value),
        Step::Row => {
            let [table, rows, hash]: [u32; 3] = read(key);
            let position: u32 = read(value);
            told(
                json!({ "table": table, "rows": rows, "hash": hash }),
                format!("hash {hash:#010x} in {rows} rows from {table} on"),
                json!(position),
                format!("position {position}"),
            )
        }
        Step::Backend => {
            let found = is_found.then(|| F::backend(value));
            evidence(name, json!(number), number.to_string(), found.as_ref())
        }
        Step::Range => {
            let key = F::range(key);
            let asked = format!("table {}, {}", key.table, text(key.address));
            shown::<Range>(name, range_key(&key), asked, is_found, value)
        }
        Step::Affinity => {
            let key = F::client(key);
            let found = is_found.then(|| F::affinity(value));
            evidence(name, affinity_key(&key), text(key.client), found.as_ref())
        }
        Step::Flow | Step::Create => {
            let tuple = F::tuple(key);
            let found = is_found.then(|| F::flow(value));
            evidence(name, tuple_key(&tuple), of_phase(&tuple), found.as_ref())
        }
        Step::Route => {
            let tuple = F::tuple(key);
            shown::<Way>(name, tuple_key(&tuple), ends(&tuple, true), is_found, value)
        }
        Step::Rewrite => {
            let (from, to) = (F::tuple(key), F::tuple(value));
            told(
                tuple_key(&from),
                ends(&from, true),
                tuple_key(&to),
                ends(&to, true),
            )
        }
        Step::Checksum => {
            let means = if is_found {
                "changed by the kernel, since its sender may have left it to the device"
            } else {
                "complete, changed in place"
            };
            let asked = format!("the transport's, at byte {number}");
            told(
                json!(number),
                asked,
                json!({ "by_kernel": is_found }),
                means.to_owned(),
            )
        }
        Step::Outcome => {
            let outcome = Outcome::from_number(number)?;
            told(
                json!(number),
                outcome.name().to_owned(),
                json!(outcome.name()),
                outcome.help().trim().to_owned(),
            )
        }
        Step::Verdict => {
            let verdict: i32 = read(key);
            told(
                json!(verdict),
                verdict.to_string(),
                Value::Null,
                kernels(record, verdict).to_owned(),
            )
        }
    })
}

fn shown<V: Shown + AnyBitPattern>(
    name: &'static str,
    key: Value,
    asked: String,
    is_found: bool,
    value: &[u8],
) -> Evidence {
    let found = is_found.then(|| read::<V>(value));
    evidence(name, key, asked, found.as_ref())
}

fn text(address: impl Into<IpAddr>) -> String {
    address.into().to_string()
}

/// The tuple, as bpftool shows it.
fn tuple_key<A: AsRef<[u8]>>(tuple: &Tuple<A>) -> Value {
    json!({
        "source": bytes(&tuple.source), "destination": bytes(&tuple.destination),
        "source_port": tuple.source_port, "destination_port": tuple.destination_port,
        "protocol": tuple.protocol, "phase": tuple.phase, "reserved": tuple.reserved,
    })
}

/// From where to where.
fn ends<A: Copy + Into<IpAddr>>(tuple: &Tuple<A>, has_ports: bool) -> String {
    let protocol = Protocol::from_number(tuple.protocol).map_or_else(
        || format!("protocol {}", tuple.protocol),
        |known| known.to_string(),
    );
    let (source, destination): (IpAddr, IpAddr) = (tuple.source.into(), tuple.destination.into());
    match (has_ports, source.is_unspecified() && tuple.source_port == 0) {
        (true, true) => format!("-> {} {protocol}", at(destination, tuple.destination_port)),
        (true, false) => format!(
            "{} -> {} {protocol}",
            at(source, tuple.source_port),
            at(destination, tuple.destination_port)
        ),
        (false, _) => format!("{source} -> {destination} {protocol}, ports not seen"),
    }
}

/// As above, and on which side of the routing decision.
fn of_phase<A: Copy + Into<IpAddr>>(tuple: &Tuple<A>) -> String {
    let side = if tuple.phase == Phase::Before as u8 {
        "before"
    } else {
        "behind"
    };
    format!("{}, {side} routing", ends(tuple, true))
}

/// What is seen of a packet at first.
fn entry<A>(record: &Record, tuple: &Tuple<A>, entered: &Entered) -> (Value, String) {
    if record.device == 0 {
        return (
            json!({ "process": entered.length }),
            format!("process {}", entered.length),
        );
    }
    let mut means = format!("{} bytes", entered.length);
    if entered.segment != 0 {
        means += &format!(" in segments of {}", entered.segment);
    }
    let flags =
        (tuple.protocol == Protocol::Tcp as u8 && record.found != 0).then(|| tcp_flags(entered.tcp_flags));
    if let Some(flags) = &flags {
        means += &format!(", {flags}");
    }
    let value = json!({ "length": entered.length, "segment": entered.segment, "tcp_flags": flags });
    (value, means)
}

/// The flags of a TCP header (RFC 9293, section 3.1).
fn tcp_flags(flags: u32) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<_> = (0..)
        .zip(names)
        .filter(|(bit, _)| flags >> bit & 1 != 0)
        .map(|(_, name)| name)
        .collect();
    if set.is_empty() {
        "no flags".to_owned()
    } else {
        set.join(" ")
    }
}

/// What a verdict has the kernel do.
fn kernels(record: &Record, verdict: i32) -> &'static str {
    let at_xdp = record.hook == lb_common::abi::Hook::UplinkXdp as u8;
    match (at_xdp, verdict) {
        (true, 1) => "dropped (XDP_DROP)",
        (true, 2) => "goes on to the stack (XDP_PASS)",
        (true, 3) => "sent out of the same device (XDP_TX)",
        (true, 4) => "sent out of another device (XDP_REDIRECT)",
        (false, -1) => "goes on (TCX_NEXT)",
        (false, 2) => "ends here (TC_ACT_SHOT)",
        (false, 7) => "sent to another device, or received there (TC_ACT_REDIRECT)",
        _ => "unknown",
    }
}

impl<A: Copy + Into<IpAddr> + AsRef<[u8]>> Shown for Flow<A> {
    fn value(&self) -> Value {
        json!({
            "to": tuple_key(&self.to), "seen": self.seen, "created": self.created, "device": self.device,
            "twin_device": self.twin_device, "state": self.state, "action": self.action, "flags": self.flags,
        })
    }

    fn means(&self) -> String {
        let states = [
            State::New,
            State::Answered,
            State::Established,
            State::ClosingForward,
            State::ClosingReverse,
            State::Closed,
        ];
        let state = states.into_iter().find(|state| *state as u8 == self.state);
        let state = state.map_or_else(|| self.state.to_string(), |state| format!("{state:?}"));
        let half = if self.flags & Self::REVERSE != 0 {
            "the answer"
        } else {
            "onward"
        };
        let way = match self.action() {
            lb_common::abi::Action::Stack => "by the stack".to_owned(),
            lb_common::abi::Action::Neighbour => format!("out of interface {}", self.device),
            lb_common::abi::Action::Receive => format!("received on interface {}", self.device),
        };
        format!("{half}: becomes {}, {way}; {state}", ends(&self.to, true))
    }
}

impl Shown for Way {
    fn value(&self) -> Value {
        json!({ "device": self.device, "neighbour": self.neighbour })
    }

    fn means(&self) -> String {
        if self.neighbour == [0; 6] {
            return format!("interface {}", self.device);
        }
        let link: Vec<_> = self.neighbour.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("interface {}, next hop {}", self.device, link.join(":"))
    }
}
