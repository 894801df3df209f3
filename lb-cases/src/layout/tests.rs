use super::*;

const CASE: &str = "
format: lbcase/v1
name: x
ip_family: dual
nodes:
  - {name: a, self: true, ip: 192.168.0.2, ip6: '2001:db8::2', extra_ips: [192.168.1.2], pod_cidr: 10.180.0.0/24, pod_cidr6: 'fd00::/64'}
  - {name: b, ip: 192.168.0.3, pod_cidr: 10.180.1.0/24}
endpointslices:
  - addressType: IPv4
    ports: [{port: 80}, {port: 53, protocol: SCTP}, {name: none}]
    endpoints:
      - {addresses: [10.180.0.001], nodeName: a}
      - {addresses: [192.168.0.2], nodeName: a}
      - {addresses: [10.99.0.1]}
      - {addresses: [10.180.1.9], nodeName: a}
  - {addressType: FQDN, ports: [{port: 1}], endpoints: [{addresses: [web.example]}]}
flows:
  - {name: p, client: {kind: pod, node: a, ip: 10.180.0.200}, dst: {ip: 172.30.0.41, port: 80, proto: TCP}, expect: {outcome: drop}}
  - {name: q, client: {kind: external, ip: 203.0.113.2}, dst: {ip: 192.168.0.2, port: 30001, proto: UDP}, expect: {outcome: pass}}
  - {name: r, client: {kind: node, node: a, ip: 192.0.2.10}, dst: {ip: 192.0.2.10, port: 80, proto: TCP}, expect: {outcome: drop}}
  - {name: s, client: {kind: pod, node: b, ip: 10.180.1.7}, dst: {ip: 192.168.0.3, port: 30001, proto: TCP}, expect: {outcome: pass}}
";

fn layout() -> Layout {
    Layout::of(&Case::parse(CASE).unwrap(), "lbt").unwrap()
}

#[test]
fn every_address_has_its_place() {
    let layout = layout();
    for (ip, place) in [
        ("192.168.0.2", SELF),
        ("192.168.1.2", SELF),
        ("2001:db8::2", SELF),
        ("127.0.0.1", SELF),
        ("10.180.0.1", "pod0"),
        ("10.180.0.200", "pod1"),
        ("192.168.0.3", PEERS),
        ("10.180.1.7", PEERS),
        ("10.180.1.9", "pod2"),
        ("10.99.0.1", PEERS),
        ("203.0.113.2", OUTSIDE),
        ("172.30.0.41", FABRIC),
        ("192.0.2.10", FABRIC),
    ] {
        assert_eq!(layout.place(ip.parse().unwrap()), place, "{ip}");
    }
}

#[test]
fn endpoints_listen_and_so_does_whoever_gets_what_is_not_translated() {
    let listeners: Vec<_> = layout()
        .listeners
        .iter()
        .map(|l| format!("{} {} {}", l.place, l.proto, l.at))
        .collect();
    let expected = [
        "fabric TCP 172.30.0.41:80",
        "fabric TCP 192.0.2.10:80",
        "peers TCP 10.99.0.1:80",
        "peers TCP 192.168.0.3:30001",
        "peers SCTP 10.99.0.1:53",
        "pod0 TCP 10.180.0.1:80",
        "pod0 SCTP 10.180.0.1:53",
        "pod2 TCP 10.180.1.9:80",
        "pod2 SCTP 10.180.1.9:53",
        "self TCP 192.168.0.2:80",
        "self SCTP 192.168.0.2:53",
    ];
    assert_eq!(listeners, expected);
}

#[test]
fn services_addresses_lead_to_the_agents_node_and_end_at_the_fabric() {
    let layout = layout();
    let commands = |name: &str| {
        let place = layout
            .wiring
            .places
            .iter()
            .find(|place| place.name == name)
            .unwrap();
        place.commands.clone()
    };
    let fabric = commands(FABRIC);
    assert!(fabric.contains("route add 192.0.2.10/32 via 192.168.0.2 dev br0 onlink table 100\n"));
    assert!(fabric.contains("addr add 192.0.2.10/32 dev lo\n"));
    assert!(commands(PEERS).contains("route add 172.30.0.0/16 via 192.168.0.2 dev eth0 onlink\n"));
    let own = commands(SELF);
    assert!(own.contains("addr add 192.168.0.2/24 dev eth0\naddr add 2001:db8::2/64 dev eth0 nodad\n"));
    assert!(own.contains("route add 10.180.0.200/32 dev veth1 src 192.168.0.2\n"));
}
