//! Real agents, real programs, real packets: clusters of network namespaces with the netfilter rules that
//! clusters have. Every test needs root and the embedded eBPF object, and says so where they are missing.

mod change;
mod cluster;
mod operate;
mod reach;
mod refuse;
mod service;
mod transfer;
