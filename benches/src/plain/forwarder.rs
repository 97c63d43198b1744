//! The two programs: an end with a TUN, and a relay without.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;

use tun_rs::DeviceBuilder;

use super::inbound::Inbound;
use super::outbound::Outbound;
use super::socket::OffloadSocket;
use super::{LARGEST, MTU};

/// Make TUN `name` with `address`/64, and forward between it and the forwarder at `remote` until an error.
///
/// # Errors
/// Of the TUN or the socket.
pub fn forward(
    name: &str,
    address: IpAddr,
    local: SocketAddr,
    remote: SocketAddr,
    joins_udp: bool,
) -> io::Result<()> {
    let builder = DeviceBuilder::new()
        .name(name)
        .mtu(super::headers::u16_of(MTU));
    let builder = match address {
        IpAddr::V6(address) => builder.ipv6(address, 64_u8),
        IpAddr::V4(address) => builder.ipv4(address, 24_u8, None),
    };
    let tun = builder
        .with(|builder| {
            builder.offload(true);
        })
        .build_sync()?;
    tun.set_nonblocking(true)?;
    let tun = Arc::new(tun);
    let socket = OffloadSocket::connect(local, remote)?;
    let mut inbound = Inbound::new(Arc::clone(&tun), socket.try_clone()?, joins_udp);
    let mut outbound = Outbound::new(tun, socket);
    both(move || inbound.run(), move || outbound.run())
}

/// Forward between two forwarders, each given by the local and the remote address, until an error.
///
/// # Errors
/// Of a socket.
pub fn relay(left: [SocketAddr; 2], right: [SocketAddr; 2]) -> io::Result<()> {
    let left = OffloadSocket::connect(left[0], left[1])?;
    let right = OffloadSocket::connect(right[0], right[1])?;
    let (back_left, back_right) = (left.try_clone()?, right.try_clone()?);
    both(
        move || pass(left, &right),
        move || pass(back_right, &back_left),
    )
}

fn pass(mut from: OffloadSocket, to: &OffloadSocket) -> io::Result<()> {
    let mut buffer = vec![0; LARGEST];
    loop {
        let (length, segment) = from.receive(&mut buffer)?;
        to.send(&buffer[..length], super::headers::u16_of(segment))?;
    }
}

/// Until the first of the two ends, which ends the process and with it the other.
fn both(
    one: impl FnOnce() -> io::Result<()> + Send + 'static,
    other: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let (ended, end) = std::sync::mpsc::channel();
    let also_ended = ended.clone();
    thread::Builder::new()
        .name("inward".into())
        .spawn(move || ended.send(one()))?;
    thread::Builder::new()
        .name("outward".into())
        .spawn(move || also_ended.send(other()))?;
    end.recv()
        .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}
