//! Packet tables: the loaded programs, run on real maps and real routes by `BPF_PROG_TEST_RUN`, packet by packet.
//!
//! [`site`] is what the maps say, [`namespace`] what the kernel's routes say; a [`row`] is a few packets with
//! the exact bytes, verdicts, counters and flows that they must come to.

mod admission;
mod affinity;
mod agreement;
mod budget;
mod exchange;
mod flows;
mod fragments;
mod full;
mod host;
mod icmp;
mod lengths;
mod maps;
mod masquerade;
mod namespace;
mod outside;
mod own;
mod pods;
mod refusals;
mod row;
mod simulation;
mod site;
mod sweep;
mod tables;
mod tap;
mod too_big;
mod tracked;
mod traffic;
mod world;
