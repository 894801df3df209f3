//! The uplinks' XDP hooks: attached, taken over, switched, left to others, with the embedded object.

use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use lb_common::abi::DeviceKind;
use lb_userspace::load::{self, Attachments, Options, Target, TcAttach, UplinkHook, detach, probe};

use crate::scratch::{BPFFS, Scratch};

fn namespace(test: &str) -> Option<Scratch> {
    let ns = Scratch::with_object(test)?;
    ns.ip("link add up0 type veth peer name up1");
    ns.ip("link set up0 up");
    ns.ip("link set up1 up");
    Some(ns)
}

fn options(ns: &Scratch, hook: UplinkHook) -> Options {
    Options {
        hook,
        ..ns.options(TcAttach::Auto)
    }
}

fn start(options: Options) -> Attachments {
    probe::check(Path::new(BPFFS), options.tc_attach).unwrap();
    load::load(options).unwrap().into_attachments().unwrap()
}

fn uplink(ns: &Scratch, name: &str) -> Target {
    Target {
        index: ns.index(name),
        name: name.into(),
        kind: DeviceKind::Uplink,
    }
}

fn failures(attachments: &mut Attachments, targets: &[Target]) -> Vec<String> {
    let errors = attachments.sync(targets.iter().cloned());
    errors.iter().map(ToString::to_string).collect()
}

/// What the kernel says is at a device's XDP hook: where it runs, and its number.
fn seen(ns: &Scratch, device: &str) -> Option<(&'static str, u32)> {
    let text = ns.ip(&format!("-d link show dev {device}"));
    let id = text.split("prog/xdp id ").nth(1)?.split_whitespace().next()?;
    let mode = if text.contains("xdpgeneric") {
        "generic"
    } else {
        "native"
    };
    Some((mode, id.parse().unwrap()))
}

fn pins(ns: &Scratch) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(ns.directory().join("xdp"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn xdp_is_taken_over_by_a_restart_and_follows_every_change_of_the_hook_as_root() {
    let Some(ns) = namespace("xdp_is_taken_over_by_a_restart_and_follows_every_change_of_the_hook_as_root")
    else {
        return;
    };
    let all = [uplink(&ns, "up0")];
    let index = ns.index("up0");
    let link = |mode: &str| {
        let path = ns.directory().join(format!("xdp/up0-{index}-{mode}"));
        let link = PinnedLink::from_pin(path).ok()?;
        Some(FdLink::from(link).info().unwrap().id())
    };
    use UplinkHook::{Tc, Xdp, XdpGeneric, XdpNative};
    ns.run(async || {
        let mut before: (Option<&str>, Option<u32>, u32) = (None, None, 0);
        for (hook, mode) in [
            (Xdp, Some("native")),
            (Xdp, Some("native")),
            (XdpNative, Some("native")),
            (XdpGeneric, Some("generic")),
            (XdpGeneric, Some("generic")),
            (Xdp, Some("native")),
            (Tc, None),
            (XdpGeneric, Some("generic")),
            (XdpNative, Some("native")),
            (Tc, None),
            (Tc, None),
        ] {
            let what = format!("{hook} after {before:?}");
            let mut agent = start(options(&ns, hook));
            assert_eq!(
                seen(&ns, "up0").map(|(mode, _)| mode),
                before.0,
                "{what}: not yet"
            );
            assert_eq!(failures(&mut agent, &all), [""; 0], "{what}");
            if mode.is_none() {
                // The kernel takes it off after a grace period.
                lb_lab::wait_for(std::time::Duration::from_secs(5), "XDP to go", || {
                    seen(&ns, "up0").is_none()
                })
                .unwrap();
            }
            let now = seen(&ns, "up0");
            assert_eq!(now.map(|(mode, _)| mode), mode, "{what}");
            let names: Vec<String> = mode.iter().map(|mode| format!("up0-{index}-{mode}")).collect();
            assert_eq!(pins(&ns), names, "{what}");
            let listed: Vec<_> = agent
                .list_xdp()
                .map(|on| (on.mode.name(), on.reason.clone()))
                .collect();
            assert_eq!(
                listed,
                mode.iter().map(|mode| (*mode, None)).collect::<Vec<_>>(),
                "{what}"
            );
            let (link, program) = (mode.and_then(link), now.map_or(0, |(_, id)| id));
            if mode.is_some() && mode == before.0 {
                assert_eq!(link, before.1, "{what}: the link stays");
                assert_ne!(program, before.2, "{what}: the program in it is the new one");
            }
            // Nothing to do, nothing done.
            assert_eq!(failures(&mut agent, &all), [""; 0], "{what}");
            assert_eq!(seen(&ns, "up0"), now, "{what}");
            // A crash: it stays.
            drop(agent);
            assert_eq!(seen(&ns, "up0"), now, "{what}");
            before = (mode, link, program);
        }

        // A device that is no uplink any more; what detach takes.
        let mut agent = start(options(&ns, Xdp));
        assert_eq!(failures(&mut agent, &all), [""; 0]);
        assert_eq!(failures(&mut agent, &[]), [""; 0]);
        let gone = || seen(&ns, "up0").is_none();
        lb_lab::wait_for(std::time::Duration::from_secs(5), "XDP to go", gone).unwrap();
        assert_eq!(failures(&mut agent, &all), [""; 0]);
        drop(agent);
        detach(&options(&ns, Xdp).pins).unwrap();
        lb_lab::wait_for(std::time::Duration::from_secs(5), "XDP to go", gone).unwrap();
    });
}

#[test]
fn what_took_xdp_off_or_the_device_away_is_made_up_for_as_root() {
    let Some(ns) = namespace("what_took_xdp_off_or_the_device_away_is_made_up_for_as_root") else {
        return;
    };
    ns.run(async || {
        let mut agent = start(options(&ns, UplinkHook::Xdp));
        let index = ns.index("up0");
        assert_eq!(failures(&mut agent, &[uplink(&ns, "up0")]), [""; 0]);
        for again in ["while the agent runs", "while none runs"] {
            ns.ip("link del up0");
            ns.ip(&format!("link add up0 index {index} type veth peer name up1"));
            assert_eq!(seen(&ns, "up0"), None);
            if again == "while none runs" {
                agent = start(options(&ns, UplinkHook::Xdp));
            }
            assert_eq!(failures(&mut agent, &[uplink(&ns, "up0")]), [""; 0], "{again}");
            assert_eq!(seen(&ns, "up0").map(|(mode, _)| mode), Some("native"), "{again}");
        }
    });
}

#[test]
fn a_driver_without_xdp_gets_it_in_the_stack_and_says_why_as_root() {
    let Some(ns) = namespace("a_driver_without_xdp_gets_it_in_the_stack_and_says_why_as_root") else {
        return;
    };
    ns.ip("link add up2 type bridge");
    let all = [uplink(&ns, "up2"), uplink(&ns, "up0")];
    ns.run(async || {
        for round in ["at first", "after a restart"] {
            let mut agent = start(options(&ns, UplinkHook::Xdp));
            assert_eq!(failures(&mut agent, &all), [""; 0], "{round}");
            assert_eq!(seen(&ns, "up2").map(|(mode, _)| mode), Some("generic"), "{round}");
            assert_eq!(seen(&ns, "up0").map(|(mode, _)| mode), Some("native"), "{round}");
            let reasons: Vec<_> = agent
                .list_xdp()
                .map(|on| (on.device.as_str(), on.reason.clone().unwrap_or_default()))
                .collect();
            assert_eq!(reasons.len(), 2, "{reasons:?}");
            for (device, reason) in reasons {
                assert_eq!(
                    device == "up2",
                    reason.contains("not supported"),
                    "{device}: {reason}"
                );
            }
        }
        let mut agent = start(options(&ns, UplinkHook::XdpNative));
        let told = failures(&mut agent, &all);
        assert_eq!(
            told,
            ["up2: cannot attach `uplink_xdp` by XDP (native); TC serves the device alone"]
        );
        assert_eq!((seen(&ns, "up2"), agent.list().count()), (None, 4));
    });
}

#[test]
fn a_program_of_somebody_else_stays_and_is_named_as_root() {
    let Some(ns) = namespace("a_program_of_somebody_else_stays_and_is_named_as_root") else {
        return;
    };
    let Some(other) = Scratch::new("whose pins are somebody else's") else {
        return;
    };
    ns.run(async || {
        let all = [uplink(&ns, "up0")];
        let somebody = || Options {
            pins: other.options(TcAttach::Auto).pins,
            ..options(&ns, UplinkHook::XdpGeneric)
        };
        let mut theirs = start(somebody());
        assert_eq!(failures(&mut theirs, &all), [""; 0]);
        let (_, id) = seen(&ns, "up0").unwrap();
        for hook in [UplinkHook::Xdp, UplinkHook::XdpNative, UplinkHook::XdpGeneric] {
            let mut agent = start(options(&ns, hook));
            for _ in 0..2 {
                let told = failures(&mut agent, &all).join("\n");
                let named = format!("up0: another XDP program, `uplink_xdp` (id {id}, generic)");
                assert!(
                    told.starts_with(&named) && told.contains("TC serves it alone"),
                    "{hook}: {told}"
                );
            }
            assert_eq!(seen(&ns, "up0"), Some(("generic", id)), "{hook}");
            assert_eq!((agent.list().count(), agent.list_xdp().count()), (2, 0), "{hook}");
        }
        // It goes, and is followed without being told.
        let mut agent = start(options(&ns, UplinkHook::Xdp));
        assert_eq!(failures(&mut agent, &all).len(), 1);
        drop(theirs);
        detach(&somebody().pins).unwrap();
        lb_lab::wait_for(std::time::Duration::from_secs(5), "the hook to be free", || {
            failures(&mut agent, &all).is_empty()
        })
        .unwrap();
        assert_eq!(seen(&ns, "up0").map(|(mode, _)| mode), Some("native"));
    });
}
