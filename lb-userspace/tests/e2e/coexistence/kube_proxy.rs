//! Rules of the shape that kube-proxy writes, for one Service on one node: iptables and nftables.
//!
//! Only what translates: chains for ClusterIP, load balancer and NodePort, the mark that asks for masquerading, a random choice
//! among endpoints. Chains and their order as kube-proxy of Kubernetes 1.31 has them.

use std::{fmt::Write as _, net::IpAddr};

use lb_lab::{Family, Netns, Proto};

/// Which back end of kube-proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Iptables,
    Nftables,
}

/// What the rules are about, in one family.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) family: Family,
    pub(super) cluster_ip: IpAddr,
    pub(super) load_balancer: IpAddr,
    pub(super) node_port: u16,
    pub(super) port: u16,
    pub(super) endpoints: Vec<IpAddr>,
    pub(super) target: u16,
    /// Sources that are pods of the cluster.
    pub(super) pods: String,
}

/// What asks for masquerading.
const MARK: &str = "0x4000";

impl Rules {
    /// Writes them.
    pub(super) fn put(&self, mode: Mode, netns: &Netns) {
        match mode {
            Mode::Iptables => feed(
                netns,
                &[&self.program("-restore"), "-w", "--noflush"],
                &self.iptables(),
            ),
            Mode::Nftables => feed(netns, &["nft", "-f", "-"], &self.nftables()),
        }
    }

    /// Takes them away, as `kube-proxy --cleanup` does: jumps first, then the chains.
    pub(super) fn clean_up(&self, mode: Mode, netns: &Netns) {
        match mode {
            Mode::Nftables => {
                let table = format!("delete table {} kube-proxy\n", self.table());
                feed(netns, &["nft", "-f", "-"], &table);
            }
            Mode::Iptables => {
                let text = self.iptables();
                let chains: Vec<_> = text
                    .lines()
                    .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
                    .collect();
                let mut undo = "*nat\n".to_owned();
                for line in text.lines() {
                    if let Some(jump) = line.strip_prefix("-I ") {
                        let _ = writeln!(undo, "-D {jump}");
                    }
                }
                for action in ["-F", "-X"] {
                    for chain in &chains {
                        let _ = writeln!(undo, "{action} {chain}");
                    }
                }
                undo += "COMMIT\n";
                feed(netns, &[&self.program("-restore"), "-w", "--noflush"], &undo);
            }
        }
    }

    fn program(&self, end: &str) -> String {
        let name = match self.family {
            Family::V4 => "iptables-nft",
            Family::V6 => "ip6tables-nft",
        };
        format!("{name}{end}")
    }

    fn table(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn endpoint(&self, ip: IpAddr) -> String {
        std::net::SocketAddr::new(ip, self.target).to_string()
    }

    fn iptables(&self) -> String {
        let (mut chains, mut rules) = (String::new(), String::new());
        for chain in [
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-MARK-MASQ",
        ] {
            let _ = writeln!(chains, ":{chain} - [0:0]");
        }
        let Self {
            cluster_ip,
            load_balancer,
            node_port,
            port,
            pods,
            ..
        } = self;
        for proto in Proto::BOTH {
            let (name, upper) = names(proto);
            let _ = write!(chains, ":KUBE-SVC-{upper} - [0:0]\n:KUBE-EXT-{upper} - [0:0]\n");
            let _ = write!(
                rules,
                "-A KUBE-SERVICES -d {cluster_ip} -p {name} -m {name} --dport {port} -j KUBE-SVC-{upper}\n\
                 -A KUBE-SERVICES -d {load_balancer} -p {name} -m {name} --dport {port} -j KUBE-EXT-{upper}\n\
                 -A KUBE-NODEPORTS -p {name} -m {name} --dport {node_port} -j KUBE-EXT-{upper}\n\
                 -A KUBE-EXT-{upper} -j KUBE-MARK-MASQ\n\
                 -A KUBE-EXT-{upper} -j KUBE-SVC-{upper}\n\
                 -A KUBE-SVC-{upper} ! -s {pods} -d {cluster_ip} -p {name} -m {name} --dport {port} -j KUBE-MARK-MASQ\n"
            );
            for (number, ip) in self.endpoints.iter().enumerate() {
                let left = self.endpoints.len() - number;
                let chance = match left {
                    1 => String::new(),
                    _ => format!(
                        "-m statistic --mode random --probability {:.10} ",
                        1.0 / left as f64
                    ),
                };
                let _ = writeln!(chains, ":KUBE-SEP-{upper}{number} - [0:0]");
                let _ = write!(
                    rules,
                    "-A KUBE-SVC-{upper} {chance}-j KUBE-SEP-{upper}{number}\n\
                     -A KUBE-SEP-{upper}{number} -s {ip} -j KUBE-MARK-MASQ\n\
                     -A KUBE-SEP-{upper}{number} -p {name} -m {name} -j DNAT --to-destination {}\n",
                    self.endpoint(*ip)
                );
            }
        }
        format!(
            "*nat\n{chains}\
             -I PREROUTING -j KUBE-SERVICES\n-I OUTPUT -j KUBE-SERVICES\n-I POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark {MARK}\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark {MARK}\n\
             {rules}\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
        )
    }

    fn nftables(&self) -> String {
        let ip = self.table();
        let Self {
            cluster_ip,
            load_balancer,
            node_port,
            port,
            pods,
            ..
        } = self;
        let kind = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let (mut chains, mut addresses, mut ports) = (String::new(), Vec::new(), Vec::new());
        for proto in Proto::BOTH {
            let (name, _) = names(proto);
            let mut choice = Vec::new();
            for (number, endpoint) in self.endpoints.iter().enumerate() {
                choice.push(format!("{number} : goto endpoint-{name}{number}"));
                let _ = write!(
                    chains,
                    "chain endpoint-{name}{number} {{\n{ip} saddr {endpoint} jump mark-for-masquerade\n\
                     meta l4proto {name} dnat to {}\n}}\n",
                    self.endpoint(*endpoint)
                );
            }
            let _ = write!(
                chains,
                "chain service-{name} {{\n\
                 {ip} daddr {cluster_ip} {name} dport {port} {ip} saddr != {pods} jump mark-for-masquerade\n\
                 numgen random mod {} vmap {{ {} }}\n}}\n\
                 chain external-{name} {{\njump mark-for-masquerade\ngoto service-{name}\n}}\n",
                choice.len(),
                choice.join(", ")
            );
            addresses.push(format!("{cluster_ip} . {name} . {port} : goto service-{name}"));
            addresses.push(format!(
                "{load_balancer} . {name} . {port} : goto external-{name}"
            ));
            ports.push(format!("{name} . {node_port} : goto external-{name}"));
        }
        format!(
            "table {ip} kube-proxy {{\n\
             chain mark-for-masquerade {{\nmeta mark set meta mark or {MARK}\n}}\n\
             chain masquerading {{\nmeta mark and {MARK} == 0 return\nmeta mark set meta mark xor {MARK}\nmasquerade fully-random\n}}\n\
             {chains}\
             map service-ips {{\ntype {kind} . inet_proto . inet_service : verdict\nelements = {{ {} }}\n}}\n\
             map service-nodeports {{\ntype inet_proto . inet_service : verdict\nelements = {{ {} }}\n}}\n\
             chain services {{\n{ip} daddr . meta l4proto . th dport vmap @service-ips\n\
             fib daddr type local meta l4proto . th dport vmap @service-nodeports\n}}\n\
             chain nat-prerouting {{\ntype nat hook prerouting priority dstnat;\njump services\n}}\n\
             chain nat-output {{\ntype nat hook output priority -100;\njump services\n}}\n\
             chain nat-postrouting {{\ntype nat hook postrouting priority srcnat;\njump masquerading\n}}\n\
             }}\n",
            addresses.join(", "),
            ports.join(", ")
        )
    }
}

fn feed(netns: &Netns, argv: &[&str], text: &str) {
    if let Err(error) = netns.feed(argv, text) {
        panic!("{error:#}\n{text}");
    }
}

fn names(proto: Proto) -> (&'static str, &'static str) {
    match proto {
        Proto::Tcp => ("tcp", "TCP"),
        Proto::Udp => ("udp", "UDP"),
    }
}
