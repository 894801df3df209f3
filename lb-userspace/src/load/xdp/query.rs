//! Asks the kernel what is at a device's XDP hook. (aya can attach there, but not look.)

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::XdpMode;

/// What is at a device's XDP hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::load) struct Seen {
    /// Where it runs.
    pub(in crate::load) place: &'static str,
    /// Its number.
    pub(in crate::load) program: u32,
}

impl Seen {
    pub(in crate::load) const fn of(mode: XdpMode, program: u32) -> Self {
        Self {
            place: mode.name(),
            program,
        }
    }
}

/// The program on the device of this index, in the network namespace of the calling thread.
pub(in crate::load) fn on_device(index: u32) -> io::Result<Option<Seen>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = LinkMessage::default();
    message.header.index = index;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(parse(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected answer: {other:?}"))),
    }
}

fn parse(link: &LinkMessage) -> Option<Seen> {
    let attributes = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(attributes) => Some(attributes),
        _ => None,
    })?;
    let (mut place, mut program) = (None, 0);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => {}
            LinkXdp::Attached(XdpAttached::Driver) => place = Some(XdpMode::Native.name()),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => place = Some(XdpMode::Generic.name()),
            LinkXdp::Attached(XdpAttached::Hardware) => place = Some("hardware"),
            // Several at once: one of them is in the hardware.
            LinkXdp::Attached(_) => place = Some("multiple"),
            LinkXdp::ProgId(id) => program = *id,
            // With several, there is no one number.
            LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) if program == 0 => {
                program = *id;
            }
            _ => {}
        }
    }
    Some(Seen {
        place: place?,
        program,
    })
}
