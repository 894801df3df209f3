//! `lb0`: one end of a pair without neighbour resolution and without addresses.

use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth,
    packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

use super::{HostError, Sysctls, sysctl};
use crate::node::facts::{LB0, LB0_PEER};

/// `IN6_ADDR_GEN_MODE_NONE`: no link-local address.
const NO_ADDRESSES: &str = "1";

#[derive(Clone, Debug)]
pub(super) struct Lb0 {
    pub(super) index: u32,
    pub(super) mtu: u32,
    pub(super) alias: String,
}

pub(super) async fn find(handle: &Handle) -> Result<Option<Lb0>, HostError> {
    let mut links = handle.link().get().match_name(LB0.to_owned()).execute();
    let link = match links.try_next().await {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(None),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => return Ok(None),
        Err(source) => return Err(failed("find", LB0)(source)),
    };
    if is_pair(&link) {
        Ok(Some(lb0(link)))
    } else {
        Err(HostError::Foreign(LB0))
    }
}

/// Makes the pair; both ends stay down until [`bring_up`].
pub(super) async fn create(handle: &Handle) -> Result<Lb0, HostError> {
    let pair = LinkVeth::new(LB0, LB0_PEER).build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .map_err(failed("make", LB0))?;
    find(handle).await?.ok_or(HostError::Foreign(LB0))
}

/// Sets both ends up, whatever has become of them.
pub(super) async fn bring_up(handle: &Handle, sysctls: &Sysctls, lb0: &Lb0) -> Result<(), HostError> {
    for device in [LB0, LB0_PEER] {
        // Before it is up, else it gets a link-local address first.
        sysctls.write(&sysctl::of_device("ipv6", device, "addr_gen_mode"), NO_ADDRESSES)?;
    }
    // Replies come in here whose sources are routed to other devices (other nodes' NodePorts). It can not be made
    // stricter by less than `all`, and nothing comes in here but what our programs redirect.
    sysctls.write(&sysctl::of_device("ipv4", LB0, "rp_filter"), "0")?;
    let ends = [
        (LB0, LinkUnspec::new_with_index(lb0.index)),
        (LB0_PEER, LinkUnspec::new_with_name(LB0_PEER)),
    ];
    for (device, link) in ends {
        let message = link.arp(false).up().build();
        handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(failed("set up", device))?;
    }
    Ok(())
}

pub(super) async fn set_alias(handle: &Handle, lb0: &Lb0, alias: &str) -> Result<(), HostError> {
    let message = LinkUnspec::new_with_index(lb0.index).alias(alias).build();
    handle
        .link()
        .change(message)
        .execute()
        .await
        .map_err(failed("set the alias of", LB0))
}

pub(super) async fn set_mtu(handle: &Handle, lb0: &Lb0, mtu: u32) -> Result<(), HostError> {
    let message = LinkUnspec::new_with_index(lb0.index).mtu(mtu).build();
    handle
        .link()
        .change(message)
        .execute()
        .await
        .map_err(failed("set the MTU of", LB0))
}

pub(super) async fn delete(handle: &Handle, lb0: &Lb0) -> Result<(), HostError> {
    handle
        .link()
        .del(lb0.index)
        .execute()
        .await
        .map_err(failed("delete", LB0))
}

fn failed(action: &'static str, device: &'static str) -> impl FnOnce(rtnetlink::Error) -> HostError {
    move |source| HostError::Device {
        action,
        device,
        source,
    }
}

fn lb0(link: LinkMessage) -> Lb0 {
    let mut lb0 = Lb0 {
        index: link.header.index,
        mtu: 0,
        alias: String::new(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => lb0.mtu = mtu,
            LinkAttribute::IfAlias(alias) => lb0.alias = alias,
            _ => {}
        }
    }
    lb0
}

fn is_pair(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    })
}
