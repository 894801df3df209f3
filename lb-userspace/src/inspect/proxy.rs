//! Other proxies on the node: what it means that both are there, and how to be rid of them.
//!
//! Tried in `tests/e2e/coexistence` for kube-proxy's iptables and nftables; the rest follows from where each of them works.

/// Who else translates Services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Proxy {
    /// kube-proxy's chains of iptables, in either of its variants.
    Iptables,
    /// kube-proxy's tables of nftables.
    Nftables,
    /// Virtual servers of ipvs: kube-proxy's or kube-router's.
    Ipvs,
    /// Cilium in place of kube-proxy.
    Cilium,
    /// Calico's eBPF data plane.
    Calico,
}

impl Proxy {
    /// By the name of a program in the kernel, of which the kernel keeps 15 characters: programs that are at sockets only where
    /// Services are translated there.
    #[must_use]
    pub fn of_program(name: &str) -> Option<Self> {
        match name {
            name if name.starts_with("cil_sock") => Some(Self::Cilium),
            name if name.starts_with("calico_connect_") => Some(Self::Calico),
            _ => None,
        }
    }

    /// Who translates what while both are there.
    #[must_use]
    pub const fn means(self) -> &'static str {
        match self {
            Self::Iptables | Self::Nftables => {
                "the agent sees packets first, and nothing is translated twice: new connections of clients outside and of pods \
                 are the agent's, those of this node's own processes its rules' (with --connect-hooks the agent's, TCP); open \
                 TCP connections go on by connection tracking"
            }
            Self::Ipvs => {
                "the agent sees packets first, and nothing is translated twice: new connections of clients outside and of pods \
                 are the agent's; kube-ipvs0 makes each Service address one of this node's own, so its own processes' are ipvs'"
            }
            Self::Cilium | Self::Calico => {
                "it translates at sockets, before the agent sees a packet, and at the devices that the agent uses: who is first \
                 depends on the order of programs there"
            }
        }
    }

    /// How to be rid of it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Iptables | Self::Nftables => {
                "take kube-proxy off this node, then `kube-proxy --cleanup` (of the same version and mode): \
                 docs/migrate-from-kube-proxy.md"
            }
            Self::Ipvs => {
                "take kube-proxy off this node, then `kube-proxy --cleanup` (of the same version and mode); for kube-router \
                 --run-service-proxy=false, then `kube-router --cleanup-config`: docs/migrate-from-kube-proxy.md"
            }
            Self::Cilium => {
                "set kubeProxyReplacement=false and socketLB.enabled=false in Cilium, and restart its agents: pods need it for their \
                 network only"
            }
            Self::Calico => {
                "set bpfEnabled: false in Calico's FelixConfiguration (linuxDataplane: Iptables): pods need it for their network only"
            }
        }
    }
}
