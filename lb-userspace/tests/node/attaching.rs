//! Loading, attaching, restarting and detaching, with the embedded object.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType, links::FdLink, links::PinnedLink};
use lb_common::abi::{DeviceKind, LAYOUT_VERSION};
use lb_userspace::{
    gc,
    load::{self, Attachments, Capacities, Direction, Options, Target, TcAttach, detach, probe},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::timeout;

use crate::scratch::{BPFFS, Scratch};

fn start(options: Options) -> Attachments {
    probe::check(Path::new(BPFFS), options.tc_attach).unwrap();
    load::load(options).unwrap().into_attachments().unwrap()
}

fn target(ns: &Scratch, name: &str, kind: DeviceKind) -> Target {
    Target {
        index: ns.index(name),
        name: name.into(),
        kind,
    }
}

#[track_caller]
fn sync(attachments: &mut Attachments, targets: &[Target]) {
    let errors = attachments.sync(targets.iter().cloned());
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Names of the programs on a device by tcx, in the namespace of the calling thread.
fn programs(device: &str, direction: TcAttachType) -> Vec<String> {
    let (_, programs) = SchedClassifier::query_tcx(device, direction).unwrap();
    programs
        .iter()
        .map(|program| program.name_as_str().unwrap().to_owned())
        .collect()
}

/// The kernel detaches after a grace period.
#[track_caller]
fn wait_until_free(device: &str, direction: TcAttachType) {
    let free = || programs(device, direction).is_empty();
    lb_lab::wait_for(Duration::from_secs(5), "the program leaves the device", free).unwrap();
}

fn program_id(device: &str, direction: TcAttachType) -> u32 {
    SchedClassifier::query_tcx(device, direction).unwrap().1[0].id()
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

fn namespace(test: &str) -> Option<Scratch> {
    let ns = Scratch::with_object(test)?;
    ns.ip("link add up0 type veth peer name up1");
    ns.ip("link add p.1 type veth peer name p1c");
    ns.ip("link add lb0 type veth peer name lb0p");
    Some(ns)
}

#[test]
fn devices_get_their_programs_and_keep_them_across_restarts_as_root() {
    let Some(ns) = namespace("devices_get_their_programs_and_keep_them_across_restarts_as_root") else {
        return;
    };
    let all = [
        target(&ns, "up0", DeviceKind::Uplink),
        target(&ns, "p.1", DeviceKind::Pod),
        target(&ns, "lb0", DeviceKind::Host),
        target(&ns, "lo", DeviceKind::Loopback),
    ];
    let link = ns
        .directory()
        .join(format!("links/p_1-{}-ingress", ns.index("p.1")));
    let link_id = || {
        FdLink::from(PinnedLink::from_pin(&link).unwrap())
            .info()
            .unwrap()
            .id()
    };
    ns.run(async || {
        use TcAttachType::{Egress, Ingress};
        let mut first = start(ns.options(TcAttach::Tcx));
        sync(&mut first, &all);
        for (device, direction, expected) in [
            ("up0", Ingress, &["uplink_in"][..]),
            ("up0", Egress, &["uplink_out"]),
            ("p.1", Ingress, &["pod_in"]),
            ("p.1", Egress, &["pod_out"]),
            ("lb0", Ingress, &[]),
            ("lb0", Egress, &["host_out"]),
            ("lo", Egress, &["loopback_out"]),
        ] {
            assert_eq!(programs(device, direction), expected, "{device} {direction:?}");
        }
        assert_eq!(first.list().count(), 6);
        let (old_link, old_program) = (link_id(), program_id("p.1", Ingress));
        sync(&mut first, &all);
        assert_eq!(
            program_id("p.1", Ingress),
            old_program,
            "nothing to do, nothing done"
        );
        // A crash: nothing is detached, not even by dropping everything.
        drop(first);
        assert_eq!(programs("p.1", Ingress), ["pod_in"]);

        let mut second = start(ns.options(TcAttach::Tcx));
        assert_eq!(
            program_id("p.1", Ingress),
            old_program,
            "loading touches no packet's way"
        );
        sync(&mut second, &all);
        assert_eq!(link_id(), old_link, "the link stays");
        assert_ne!(
            program_id("p.1", Ingress),
            old_program,
            "the program in it is the new one"
        );
        assert_eq!(programs("p.1", Ingress), ["pod_in"], "and the only one");

        // The pod's device becomes a bridge's port, then goes.
        let mut fewer = all.to_vec();
        fewer[1].kind = DeviceKind::BridgePort;
        sync(&mut second, &fewer);
        assert_eq!(
            (link_id(), programs("p.1", Ingress)),
            (old_link, vec!["bridge_port_in".to_owned()])
        );
        fewer.remove(1);
        sync(&mut second, &fewer);
        wait_until_free("p.1", Ingress);
        wait_until_free("p.1", Egress);
        assert!(!link.exists());

        // What a process before has left on a device that no longer concerns us is removed, too.
        sync(&mut second, &all);
        drop(second);
        let mut third = start(ns.options(TcAttach::Tcx));
        sync(&mut third, &fewer);
        wait_until_free("p.1", Ingress);
        drop(third);

        detach(&ns.options(TcAttach::Tcx).pins).unwrap();
        wait_until_free("up0", Ingress);
        assert!(!ns.directory().exists());
        detach(&ns.options(TcAttach::Tcx).pins).unwrap();
    });
}

/// Packets sent, and answers received, of a `ping` that was told to stop.
fn sent_and_received(summary: &str) -> (u32, u32) {
    let line = summary
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .unwrap();
    let mut numbers = line
        .split(", ")
        .map(|part| part.split(' ').next().unwrap().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn no_packet_is_lost_in_a_restart_as_root() {
    let Some(ns) = Scratch::with_object("no_packet_is_lost_in_a_restart_as_root") else {
        return;
    };
    let Some(other) = Scratch::new("its other end") else {
        return;
    };
    ns.ip(&format!(
        "link add up0 type veth peer name up0 netns {}",
        other.name()
    ));
    for (end, address) in [(&ns, "192.168.0.5/24"), (&other, "192.168.0.6/24")] {
        end.ip(&format!("address add {address} dev up0"));
        end.ip("link set up0 up");
    }
    let all = [target(&ns, "up0", DeviceKind::Uplink)];
    for tc_attach in [TcAttach::Tcx, TcAttach::Clsact] {
        ns.run(async || {
            let mut old = start(ns.options(tc_attach));
            sync(&mut old, &all);
            let ping = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    other.name(),
                    "ping",
                    "-w",
                    "60",
                    "-q",
                    "-i",
                    "0.002",
                    "192.168.0.5",
                ])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut new = start(ns.options(tc_attach));
            drop(old);
            sync(&mut new, &all);
            kill(Pid::from_raw(ping.id().cast_signed()), Signal::SIGINT).unwrap();
            let output = ping.wait_with_output().unwrap();
            let summary = String::from_utf8(output.stdout).unwrap();
            let (sent, received) = sent_and_received(&summary);
            assert!(sent > 20 && sent - received <= 1, "{tc_attach}: {summary}");
        });
    }
}

#[test]
fn dead_link_of_a_device_with_the_same_index_is_replaced_as_root() {
    let Some(ns) = namespace("dead_link_of_a_device_with_the_same_index_is_replaced_as_root") else {
        return;
    };
    ns.run(async || {
        let index = ns.index("up0");
        let mut first = start(ns.options(TcAttach::Tcx));
        sync(&mut first, &[target(&ns, "up0", DeviceKind::Uplink)]);
        drop(first);
        ns.ip("link del up0");
        ns.ip(&format!("link add up0 index {index} type veth peer name up1"));
        let mut second = start(ns.options(TcAttach::Tcx));
        sync(&mut second, &[target(&ns, "up0", DeviceKind::Uplink)]);
        assert_eq!(programs("up0", TcAttachType::Ingress), ["uplink_in"]);
    });
}

#[test]
fn device_that_cannot_be_served_keeps_no_other_waiting_as_root() {
    let Some(ns) = namespace("device_that_cannot_be_served_keeps_no_other_waiting_as_root") else {
        return;
    };
    ns.run(async || {
        let mut attachments = start(ns.options(TcAttach::Tcx));
        let gone = Target {
            index: 9999,
            name: "gone0".into(),
            kind: DeviceKind::Pod,
        };
        let errors = attachments.sync([gone, target(&ns, "up0", DeviceKind::Uplink)]);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "gone0 (egress): cannot attach `pod_out`",
                "gone0 (ingress): cannot attach `pod_in`"
            ]
        );
        assert_eq!(programs("up0", TcAttachType::Ingress), ["uplink_in"]);
        assert_eq!(
            attachments.list().next(),
            Some(("up0", Direction::Ingress, "uplink_in"))
        );
    });
}

#[test]
fn filters_are_replaced_in_place_and_removed_as_root() {
    let Some(ns) = namespace("filters_are_replaced_in_place_and_removed_as_root") else {
        return;
    };
    let filters = |name: &str| {
        Command::new("tc")
            .args(["-n", name, "filter", "show", "dev", "up0", "ingress"])
            .output()
    };
    let shown = || String::from_utf8(filters(ns.name()).unwrap().stdout).unwrap();
    let count = || shown().matches("handle 0x1b").count();
    let all = [target(&ns, "up0", DeviceKind::Uplink)];
    ns.run(async || {
        let mut first = start(ns.options(TcAttach::Clsact));
        assert!(!first.uses_tcx());
        sync(&mut first, &all);
        assert_eq!(count(), 1, "{}", shown());
        let before = shown();
        drop(first);
        let mut second = start(ns.options(TcAttach::Clsact));
        sync(&mut second, &all);
        assert_eq!(count(), 1, "{}", shown());
        assert_ne!(shown(), before, "another program");
        drop(second);

        // From filters to links and back: never both.
        let mut third = start(ns.options(TcAttach::Auto));
        assert!(third.uses_tcx());
        sync(&mut third, &all);
        assert_eq!(
            (count(), programs("up0", TcAttachType::Ingress)),
            (0, vec!["uplink_in".to_owned()])
        );
        drop(third);
        let mut fourth = start(ns.options(TcAttach::Clsact));
        sync(&mut fourth, &all);
        wait_until_free("up0", TcAttachType::Ingress);
        assert_eq!(count(), 1, "{}", shown());
        sync(&mut fourth, &[]);
        assert_eq!(count(), 0, "{}", shown());
        sync(&mut fourth, &all);
        drop(fourth);
        detach(&ns.options(TcAttach::Clsact).pins).unwrap();
        assert_eq!(count(), 0, "{}", shown());
    });
}

#[test]
fn flows_are_adopted_only_by_tables_of_the_same_shape_as_root() {
    let Some(ns) = namespace("flows_are_adopted_only_by_tables_of_the_same_shape_as_root") else {
        return;
    };
    ns.run(async || {
        let map = |name: &str| {
            aya::maps::MapData::from_pin(ns.directory().join(format!("v{LAYOUT_VERSION}")).join(name))
                .unwrap()
                .info()
                .unwrap()
                .id()
        };
        let loaded = load::load(ns.options(TcAttach::Auto)).unwrap();
        assert!(loaded.adopted().is_empty());
        let mut first = loaded.into_attachments().unwrap();
        assert!(
            !ns.directory()
                .join(format!("v{LAYOUT_VERSION}/services4"))
                .exists(),
            "not before the programs run"
        );
        sync(&mut first, &[]);
        let maps = names_in(&ns.directory().join(format!("v{LAYOUT_VERSION}")));
        assert!(
            maps.contains(&"services4".to_owned()) && !maps.iter().any(|name| name.starts_with("new-")),
            "{maps:?}"
        );
        let (flows, services) = (map("flows4"), map("services4"));

        let loaded = load::load(ns.options(TcAttach::Auto)).unwrap();
        let (connections, others) = loaded.adopted().split_at(4);
        assert_eq!(connections, ["flows4", "flows6", "embryos4", "embryos6"]);
        let kept = [
            "affinity4",
            "affinity6",
            "fragments4",
            "fragments6",
            "fragment_id",
            "peers",
            "counters",
            "traffic4",
            "traffic6",
            "handover_tc",
            "handover_xdp",
        ];
        assert_eq!(others, kept);
        let mut second = loaded.into_attachments().unwrap();
        assert_eq!((map("flows4"), map("services4")), (flows, services));
        sync(&mut second, &[]);
        assert_eq!(map("flows4"), flows, "connections go on");
        assert_ne!(map("services4"), services, "configuration is written afresh");

        let mut larger = ns.options(TcAttach::Auto);
        larger.capacities = Capacities::default().with_flows(8192);
        let loaded = load::load(larger).unwrap();
        assert_eq!(loaded.adopted(), kept);
        let mut third = loaded.into_attachments().unwrap();
        sync(&mut third, &[]);
        assert_ne!(map("flows4"), flows);
        let maps = names_in(&ns.directory().join(format!("v{LAYOUT_VERSION}")));
        assert!(!maps.iter().any(|name| name.starts_with("old")), "{maps:?}");
    });
}

#[test]
fn expired_flows_are_swept_as_root() {
    let Some(ns) = namespace("expired_flows_are_swept_as_root") else {
        return;
    };
    ns.run(async || {
        let mut loaded = load::load(ns.options(TcAttach::Auto)).unwrap();
        let sweeper = loaded.sweeper().unwrap();
        let mut swept = gc::run(move |frame| sweeper.run(frame), Duration::from_millis(10));
        let runs = timeout(Duration::from_secs(10), swept.wait_for(|swept| swept.runs >= 3)).await;
        let swept = *runs.expect("three runs within ten seconds").unwrap();
        assert_eq!(
            (swept.failures, swept.entries, swept.removed),
            (0, [0, 0], [0, 0])
        );
        assert_eq!(
            names_in(&ns.directory().join(format!("v{LAYOUT_VERSION}")))
                .iter()
                .filter(|name| *name == "new-sweep")
                .count(),
            0
        );
    });
}

#[test]
fn missing_file_system_is_mounted_as_root() {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    if !lb_lab::require_root("missing_file_system_is_mounted_as_root") {
        return;
    }
    // In a thread that sees mounts of its own.
    let path = std::env::temp_dir().join(format!("nd-bpffs-{}", std::process::id()));
    let inside = || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        probe::check(&path, TcAttach::Auto).unwrap();
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mounted = || mounts().matches(path.to_str().unwrap()).count();
        assert_eq!(mounted(), 1);
        probe::check(&path, TcAttach::Auto).unwrap();
        assert_eq!(mounted(), 1, "once is enough");
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap();
    std::fs::remove_dir(&path).unwrap();
}
