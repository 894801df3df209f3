//! Waiting until the kernel has finished what it does in the background after `ip` has returned.
//!
//! On an idle machine that is at once. While many other namespaces are made and removed it takes seconds, in
//! which a device drops what is sent and an IPv6 address is not answered for (its host route comes late, even
//! without duplicate address detection).

use std::{collections::BTreeSet, fs, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use crate::{netns::Netns, wait::wait_for};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(20);
/// IPv6 addresses and routes. (/proc/net is the first thread's, whatever namespace this thread has entered.)
const ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
const ROUTES: &str = "/proc/thread-self/net/ipv6_route";
/// Flag of a route to an address of this host (`RTF_LOCAL`).
const LOCAL: u32 = 0x8000_0000;

/// Waits until all devices of a namespace that are up run, and all IPv6 addresses are answered for; `idle`
/// names a device that is known not to get there.
pub(crate) fn wait(netns: &Netns, idle: &str) -> Result<()> {
    let mut missing = Ok(BTreeSet::new());
    let waited = netns.run(|| {
        wait_for(
            LIMIT,
            &format!("devices and addresses of {}", netns.name()),
            || {
                missing = unfinished(idle);
                missing.as_ref().is_ok_and(BTreeSet::is_empty)
            },
        )
    });
    waited.with_context(|| format!("not finished: {missing:?}"))
}

/// Waits until the namespace answers for one address of its own.
pub(crate) fn wait_for_address(netns: &Netns, ip: IpAddr) -> Result<()> {
    // IPv4 addresses are complete when `ip` returns.
    let IpAddr::V6(v6) = ip else { return Ok(()) };
    let address = format!("{:032x}", v6.to_bits());
    netns.run(|| {
        wait_for(LIMIT, &format!("address {ip} of {}", netns.name()), || {
            fs::read_to_string(ROUTES).is_ok_and(|routes| local_routes(&routes).contains(address.as_str()))
        })
    })
}

/// Devices and addresses that are not there yet, in the namespace of the calling thread.
fn unfinished(idle: &str) -> Result<BTreeSet<String>> {
    let devices = getifaddrs()?
        .filter(|d| {
            d.flags.contains(InterfaceFlags::IFF_UP) && !d.flags.contains(InterfaceFlags::IFF_RUNNING)
        })
        .map(|d| d.interface_name);
    let addresses = fs::read_to_string(ADDRESSES).context("no IPv6 here")?;
    let routes = fs::read_to_string(ROUTES).context("no IPv6 here")?;
    let local = local_routes(&routes);
    let addresses = addresses.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, device) = (words.next()?, words.next_back()?);
        (device != idle && !local.contains(address)).then(|| format!("{address} on {device}"))
    });
    Ok(devices.filter(|device| device != idle).chain(addresses).collect())
}

/// The host's own addresses among the routes, in hexadecimal as the kernel prints them.
fn local_routes(table: &str) -> BTreeSet<&str> {
    let local = |line: &&str| {
        let flags = line.split_whitespace().nth(8);
        flags
            .and_then(|f| u32::from_str_radix(f, 16).ok())
            .is_some_and(|f| f & LOCAL != 0)
    };
    table
        .lines()
        .filter(local)
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_routes_count() {
        let none = "0".repeat(32);
        let line = |address: &str, flags: &str| {
            format!("{address} 80 {none} 00 {none} 00000000 00000002 00000000 {flags}       lo\n")
        };
        let own = "fd000000000000000000000000000005";
        assert_eq!(local_routes(&line(own, "80200001")), [own].into());
        assert!(
            local_routes(&line(own, "00200200")).is_empty(),
            "an ordinary route to the same address"
        );
    }
}
