//! Tells the kernel how long the super-packets may be that it hands to us, and how many packets may wait for us.

use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// So many bytes that the segments of one super-packet, sealed, leave in one batch: 45 of 1400 bytes, which are 1452 on a native
/// link, where a batch has at most 65 507 bytes. The kernel takes some 320 off for headers.
const LONGEST: u32 = 61_200;
/// Packets: what a host sends at 400 000 a second while the worker waits 5 ms for its turn of the processor. The kernel's own
/// figure, 500, is lost in one.
const WAITING: u32 = 2000;

/// Tune interface `index` of this thread's network namespace.
pub(super) fn tune(index: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&request(index), &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

fn request(index: u32) -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![
        LinkAttribute::GsoMaxSize(LONGEST),
        LinkAttribute::TxQueueLen(WAITING),
    ];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}
