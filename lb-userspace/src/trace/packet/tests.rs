//! Records as programs write them, and what becomes of them.

use lb_common::abi::{Addr4, Entered, Flow, Outcome, State, Tuple, VALUE};

use super::*;

fn record(cpu: u16, packet: u64, step: Step, key: &[u8], value: Option<&[u8]>) -> Record {
    let mut record = Record {
        time: 5_000_000,
        packet,
        device: 7,
        cpu,
        step: step as u8,
        hook: Hook::PodIn as u8,
        family: 4,
        found: value.is_some().into(),
        lost: 0,
        key: [0xee; 40],
        value: [0xee; VALUE],
    };
    record.key[..key.len()].copy_from_slice(key);
    let value = value.unwrap_or_default();
    record.value[..value.len()].copy_from_slice(value);
    record
}

fn tuple(to: [u8; 4], port: u16) -> Tuple<Addr4> {
    Tuple {
        source: Addr4 {
            bytes: [10, 244, 1, 5],
        },
        destination: Addr4 { bytes: to },
        source_port: 40_000,
        destination_port: port,
        protocol: 6,
        phase: 0,
        reserved: 0,
    }
}

fn enter(cpu: u16, packet: u64) -> Record {
    let entered = Entered {
        length: 74,
        segment: 0,
        tcp_flags: 0x12,
    };
    let key = tuple([10, 96, 0, 10], 80);
    record(
        cpu,
        packet,
        Step::Enter,
        bytemuck::bytes_of(&key),
        Some(bytemuck::bytes_of(&entered)),
    )
}

fn verdict(cpu: u16, packet: u64) -> Record {
    record(cpu, packet, Step::Verdict, &(-1_i32).to_ne_bytes(), Some(&[]))
}

fn packets() -> Packets {
    Packets::new(Names {
        devices: [(7, "veth1".to_owned())].into(),
        started: Some(SystemTime::UNIX_EPOCH),
    })
}

#[test]
fn a_packet_is_told_from_its_first_step_to_its_last() {
    let mut packets = packets();
    let before = tuple([10, 96, 0, 10], 80);
    let flow = Flow {
        to: tuple([10, 244, 2, 7], 8080),
        state: State::Established as u8,
        ..Flow::default()
    };
    let outcome = (Outcome::ForwardedFlow as u32).to_ne_bytes();
    let steps = [
        enter(0, 1),
        record(
            0,
            1,
            Step::Flow,
            bytemuck::bytes_of(&before),
            Some(bytemuck::bytes_of(&flow)),
        ),
        record(
            0,
            1,
            Step::Rewrite,
            bytemuck::bytes_of(&before),
            Some(bytemuck::bytes_of(&flow.to)),
        ),
        record(0, 1, Step::Checksum, &50_u32.to_ne_bytes(), None),
        record(0, 1, Step::Outcome, &outcome, Some(&[])),
    ];
    assert!(steps.iter().all(|step| packets.take(step).is_none()));
    let packet = packets.take(&verdict(0, 1)).expect("it is complete");
    assert_eq!(
        packet.to_string(),
        "\
1970-01-01T00:00:00.005000Z  pod-in on veth1  (CPU 0, packet 1)
  enter      10.244.1.5:40000 -> 10.96.0.10:80 TCP: 74 bytes, SYN ACK
  flow       10.244.1.5:40000 -> 10.96.0.10:80 TCP, before routing: onward: becomes 10.244.1.5:40000 -> 10.244.2.7:8080 TCP, by the stack; Established
  rewrite    10.244.1.5:40000 -> 10.96.0.10:80 TCP: 10.244.1.5:40000 -> 10.244.2.7:8080 TCP
  checksum   the transport's, at byte 50: complete, changed in place
  outcome    forwarded-flow: Forwarded: a flow that is known.
  verdict    -1: goes on (TCX_NEXT)
"
    );
    assert_eq!(packets.rest().count(), 0);
}

#[test]
fn packets_of_several_cpus_are_told_apart() {
    let mut packets = packets();
    assert_eq!(packets.take(&enter(0, 1)), None);
    assert_eq!(packets.take(&enter(1, 1)), None);
    assert_eq!(packets.take(&verdict(1, 1)).map(|packet| packet.cpu), Some(1));
    // The rest of the first was lost.
    let cut = packets.take(&enter(0, 2)).expect("the next has begun");
    assert_eq!((cut.packet, cut.steps.len()), (1, 1));
    // The beginning of this one was.
    assert_eq!(packets.take(&verdict(0, 3)), None);
    assert_eq!(
        packets.rest().map(|packet| packet.packet).collect::<Vec<_>>(),
        [2]
    );
}

#[test]
fn what_was_lost_is_said() {
    let mut packets = packets();
    packets.take(&Record {
        lost: 3,
        ..enter(0, 1)
    });
    packets.take(&Record {
        lost: 2,
        ..record(0, 1, Step::Checksum, &[50, 0, 0, 0], None)
    });
    let packet = packets.take(&verdict(0, 1)).expect("it is complete");
    assert_eq!(packet.lost, 5);
    assert!(
        packet.to_string().contains("5 steps before it were lost"),
        "{packet}"
    );
}

#[test]
fn what_a_later_version_writes_is_left_out() {
    let mut packets = packets();
    packets.take(&enter(0, 1));
    let later = Record {
        step: 200,
        ..enter(0, 1)
    };
    assert_eq!(packets.take(&later), None);
    assert_eq!(
        packets.take(&verdict(0, 1)).map(|packet| packet.steps.len()),
        Some(2)
    );
}
