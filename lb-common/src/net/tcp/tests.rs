//! The state machine as a full table, and lifetimes.

use super::State::{self, Answered, Closed, ClosingForward, ClosingReverse, Established, New};
use super::*;

const STATES: [State; 6] = [New, Answered, Established, ClosingForward, ClosingReverse, Closed];
const TCP: u8 = Protocol::Tcp as u8;
const PSH: u8 = 8;

/// What a flag does in each state of [`STATES`].
type Row = [State; 6];

/// Sent by the client: flags and what becomes of each state.
const FORWARD: [(&str, u8, Row); 8] = [
    (
        "SYN",
        SYN,
        [New, Answered, Established, ClosingForward, ClosingReverse, Closed],
    ),
    (
        "ACK",
        ACK,
        [
            New,
            Established,
            Established,
            ClosingForward,
            ClosingReverse,
            Closed,
        ],
    ),
    (
        "data",
        ACK | PSH,
        [
            New,
            Established,
            Established,
            ClosingForward,
            ClosingReverse,
            Closed,
        ],
    ),
    (
        "FIN",
        FIN | ACK,
        [
            New,
            ClosingForward,
            ClosingForward,
            ClosingForward,
            Closed,
            Closed,
        ],
    ),
    (
        "FIN without ACK",
        FIN,
        [New, Answered, ClosingForward, ClosingForward, Closed, Closed],
    ),
    ("RST", RST, [Closed; 6]),
    ("RST, ACK", RST | ACK, [Closed; 6]),
    (
        "nothing",
        0,
        [New, Answered, Established, ClosingForward, ClosingReverse, Closed],
    ),
];

/// Sent by the backend.
const REVERSE: [(&str, u8, Row); 7] = [
    (
        "SYN, ACK",
        SYN | ACK,
        [
            Answered,
            Answered,
            Established,
            ClosingForward,
            ClosingReverse,
            Closed,
        ],
    ),
    (
        "ACK",
        ACK,
        [
            Established,
            Answered,
            Established,
            ClosingForward,
            ClosingReverse,
            Closed,
        ],
    ),
    (
        "data",
        ACK | PSH,
        [
            Established,
            Answered,
            Established,
            ClosingForward,
            ClosingReverse,
            Closed,
        ],
    ),
    (
        "FIN",
        FIN | ACK,
        [
            Established,
            Answered,
            ClosingReverse,
            Closed,
            ClosingReverse,
            Closed,
        ],
    ),
    ("RST", RST, [Closed; 6]),
    ("RST, ACK", RST | ACK, [Closed; 6]),
    (
        "nothing",
        0,
        [
            Established,
            Answered,
            Established,
            ClosingForward,
            ClosingReverse,
            Closed,
        ],
    ),
];

#[test]
fn every_segment_leads_from_every_state_where_the_table_says() {
    for (what, flags, row) in FORWARD {
        for (from, to) in STATES.into_iter().zip(row) {
            assert_eq!(
                next_state(from, TCP, false, flags),
                to,
                "{what} from the client in {from:?}"
            );
        }
    }
    for (what, flags, row) in REVERSE {
        for (from, to) in STATES.into_iter().zip(row) {
            assert_eq!(
                next_state(from, TCP, true, flags),
                to,
                "{what} from the backend in {from:?}"
            );
        }
    }
}

#[test]
fn without_tcp_going_on_after_an_answer_establishes_and_nothing_closes() {
    for protocol in [Protocol::Udp as u8, Protocol::Sctp as u8] {
        for state in STATES {
            let forward = if state == Answered { Established } else { state };
            let reverse = if state == New { Answered } else { state };
            assert_eq!(next_state(state, protocol, false, 0), forward);
            assert_eq!(next_state(state, protocol, true, 0), reverse);
        }
    }
}

/// Who sends (true: the backend), which flags, and the state afterwards.
type Sent = (bool, u8, State);

/// A whole connection.
fn check(what: &str, segments: &[Sent]) {
    let mut state = New;
    for (n, (reverse, flags, expected)) in segments.iter().enumerate() {
        state = next_state(state, TCP, *reverse, *flags);
        assert_eq!(state, *expected, "{what}: segment {n}");
    }
}

#[test]
fn connections_run_their_course() {
    let (c, b) = (false, true);
    let opening = [
        (b, SYN | ACK, Answered),
        (c, ACK, Established),
        (c, ACK | PSH, Established),
        (b, ACK, Established),
    ];
    let closing: [(&str, &[Sent]); 4] = [
        (
            "client closes first",
            &[
                (c, FIN | ACK, ClosingForward),
                (b, ACK, ClosingForward),
                (b, FIN | ACK, Closed),
                (c, ACK, Closed),
            ],
        ),
        (
            "backend closes first",
            &[
                (b, FIN | ACK, ClosingReverse),
                (c, ACK | PSH, ClosingReverse),
                (c, FIN | ACK, Closed),
            ],
        ),
        (
            "both at once",
            &[(c, FIN | ACK, ClosingForward), (b, FIN | ACK, Closed)],
        ),
        ("client aborts", &[(c, RST, Closed)]),
    ];
    for (what, tail) in closing {
        check(what, &[&opening[..], tail].concat());
    }
    check("refused by the backend", &[(b, RST | ACK, Closed)]);
    check(
        "data with the last part of the handshake",
        &[(b, SYN | ACK, Answered), (c, ACK | PSH, Established)],
    );
    check(
        "the SYN and its answer sent again",
        &[
            (c, SYN, New),
            (b, SYN | ACK, Answered),
            (c, SYN, Answered),
            (b, SYN | ACK, Answered),
            (c, ACK, Established),
        ],
    );
    check(
        "half open for good",
        &[
            (b, SYN | ACK, Answered),
            (c, FIN | ACK, ClosingForward),
            (b, ACK | PSH, ClosingForward),
            (b, ACK | PSH, ClosingForward),
        ],
    );
}

#[test]
fn states_survive_their_number() {
    for state in STATES {
        assert_eq!(State::from_number(state as u8), state);
    }
    for number in 6..=255 {
        assert_eq!(State::from_number(number), Closed, "{number}");
    }
}

#[test]
fn only_unconfirmed_flows_may_be_displaced_and_only_closing_ones_make_way() {
    for (state, embryonic, closing) in [
        (New, true, false),
        (Answered, true, false),
        (Established, false, false),
        (ClosingForward, false, true),
        (ClosingReverse, false, true),
        (Closed, false, true),
    ] {
        assert_eq!(
            (state.is_embryonic(), state.is_closing()),
            (embryonic, closing),
            "{state:?}"
        );
    }
}

#[test]
fn lifetimes_are_those_of_the_table() {
    const HOUR: u32 = 3600;
    let rows = [
        (Protocol::Tcp, [30, 60, 6 * HOUR, HOUR, HOUR, 30]),
        (Protocol::Udp, [30, 30, 180, HOUR, HOUR, 30]),
        (Protocol::Sctp, [30, 30, HOUR, HOUR, HOUR, 30]),
    ];
    for (protocol, row) in rows {
        for (state, expected) in STATES.into_iter().zip(row) {
            assert_eq!(lifetime(protocol as u8, state), expected, "{protocol} {state:?}");
        }
    }
}
