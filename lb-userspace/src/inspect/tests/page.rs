//! `docs/look.md` shows what the commands print. `LB_UPDATE_GOLDEN=1 cargo test` writes it anew; the diff is then the
//! review.

use std::{env, fs, path::Path};

use super::{super::*, World};

/// Begins a block with a command and what it prints.
const COMMAND: &str = "$ lb-agent ";

/// What a command prints of the world of these tests.
fn printed(command: &str) -> String {
    let world = World::new();
    let all = Filter::default();
    match command {
        "services" => {
            let mut listing = listing(world.services(&all));
            listing.problems = Some(vec![ProblemRow {
                object: "Service shop/returns".into(),
                message: "the clusterIP 300.1.2.3 is no address: give it one, or leave the field out".into(),
            }]);
            listing.table(false) + &listing.why()
        }
        "services -s web -o wide" => {
            let web = Filter {
                service: Some("web".into()),
                ..all
            };
            listing(world.services(&web)).table(true)
        }
        "backends" => listing(world.backends(&all)).table(false),
        "flows" => listing(world.flows(&all)).table(false),
        "flows -o wide --limit 2" => listing(world.flows(&all)).limited(2).table(true),
        "flows --by backend" => listing(summary(&world.flows(&all), SummaryBy::Backend)).table(false),
        "affinity" => listing(world.affinities()).table(false),
        "flows -o yaml --limit 1" => serde_norway::to_string(&listing(world.flows(&all)).limited(1)).unwrap(),
        "counters --services" => table(&world.traffic(&all), false),
        "counters --services -s web -o wide" => {
            let web = Filter {
                service: Some("web".into()),
                ..all
            };
            let rows = world.traffic(&web);
            table(
                &rows.iter().flat_map(TrafficRow::by_backend).collect::<Vec<_>>(),
                true,
            )
        }
        "top --once" => super::traffic::screen(&world, true).text(150),
        "top --once --sort flows" => super::traffic::screen(&world, false).text(150),
        "check" => findings(&host()).text(),
        other => panic!("nobody knows what `{other}` prints"),
    }
}

/// A machine on which another proxy runs.
fn host() -> HostFacts {
    HostFacts {
        kernel: "6.12.30".into(),
        tcx: true,
        bpffs: ("/sys/fs/bpf".into(), true),
        cgroup: Some("/sys/fs/cgroup".into()),
        devices: vec![Device {
            name: "eth0".into(),
            kind: lb_common::abi::DeviceKind::Uplink,
            addresses: vec![super::ip("192.168.0.1"), super::ip("fd00::1")],
            driver_xdp: Some(false),
            lro: Some(false),
            occupants: Vec::new(),
        }],
        forwarding: [Some(true), Some(false)],
        rp_filter: Some("2".into()),
        proxies: vec![(Proxy::Nftables, "nftables: table ip kube-proxy".into())],
        taken_ports: vec![10_256],
        ..HostFacts::default()
    }
}

fn listing<R>(items: Vec<R>) -> Listing<R> {
    Listing {
        node: Some("n1".into()),
        agent_running: true,
        names_known: true,
        items,
        omitted: 0,
        problems: None,
    }
}

#[test]
fn listings_look_as_their_page_shows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/look.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut shown = 0;
    let blocks = page.split("```").enumerate().map(|(number, part)| {
        // Every other part is inside a block: behind its kind of contents.
        let block = part
            .split_once('\n')
            .and_then(|(kind, block)| Some((kind, block.strip_prefix(COMMAND)?)));
        match block.filter(|_| number % 2 == 1) {
            Some((kind, block)) => {
                shown += 1;
                let (command, _) = block.split_once('\n').unwrap();
                format!("{kind}\n{COMMAND}{command}\n{}", printed(command))
            }
            None => part.to_owned(),
        }
    });
    let now = blocks.collect::<Vec<_>>().join("```");
    assert!(shown > 0, "the page shows no command");
    if env::var_os("LB_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &now).unwrap();
        return;
    }
    let differs = page.lines().zip(now.lines()).find(|(page, now)| page != now);
    assert!(page == now, "docs/look.md is not what is printed: {differs:?}");
}
