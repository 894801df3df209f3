//! Real agents, real programs, real packets: clusters of network namespaces with the netfilter rules that
//! clusters have. Every test needs root and the embedded eBPF object, and says so where they are missing.

mod bpftool;
mod change;
mod cluster;
mod detach;
mod drops;
mod dump;
mod explain;
mod flood;
mod fragment_order;
mod fragments;
mod health;
mod icmp;
mod ingress;
mod inspect;
mod kubectl;
mod kubernetes;
mod load;
mod lost;
mod matrix;
mod mtu;
mod north_south;
mod reach;
mod refuse;
mod restart;
mod rows;
mod scale;
mod second_hop;
mod service;
mod sockets;
mod stale;
mod startup;
mod status;
mod trace;
mod transfer;
mod uplinks;
