//! The routing rules by which this node's own packets find their routes to `lb0` first.
//!
//! `iif lo` matches what a process of this node sends, and nothing that is forwarded.

use futures::TryStreamExt;
use rtnetlink::{
    Error, Handle,
    packet_route::{
        AddressFamily,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{HostError, routes::OWN_TABLE};

/// Behind the table of local addresses, before whatever else there is.
const PRIORITY: u32 = 108;

/// Makes the rules that are missing.
pub(super) async fn ensure(handle: &Handle) -> Vec<HostError> {
    let rule = || {
        let rule = handle.rule().add().input_interface("lo").priority(PRIORITY);
        rule.table_id(OWN_TABLE.into()).action(RuleAction::ToTable)
    };
    let results = [rule().v4().execute().await, rule().v6().execute().await];
    let failed = results.into_iter().filter_map(Result::err).filter(|error| {
        // It is there, or this node has no IPv6.
        !has_code(error, &[libc::EEXIST, libc::EAFNOSUPPORT, libc::EOPNOTSUPP])
    });
    failed.map(HostError::Rules).collect()
}

/// Removes them, whichever process has made them.
pub(super) async fn remove(handle: &Handle) -> Result<(), HostError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = handle.rule().get(rtnetlink::IpVersion::V4);
        request.message_mut().header.family = family;
        let rules: Vec<RuleMessage> = match request.execute().try_collect().await {
            Err(error) if has_code(&error, &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => continue,
            rules => rules.map_err(HostError::Rules)?,
        };
        for rule in rules.into_iter().filter(is_ours) {
            handle
                .rule()
                .del(rule)
                .execute()
                .await
                .map_err(HostError::Rules)?;
        }
    }
    Ok(())
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
    rule.header.table == OWN_TABLE
        && has(&RuleAttribute::Priority(PRIORITY))
        && has(&RuleAttribute::Iifname("lo".into()))
}

fn has_code(error: &Error, codes: &[i32]) -> bool {
    matches!(error, Error::NetlinkError(error) if codes.contains(&-error.raw_code()))
}
