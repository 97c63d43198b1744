//! On a short way links do without a congestion control that sends at a pace (BBR), if that is what the system has: a timer
//! would wake the processor for every 64 KiB, for flows that have congestion controls of their own
//! (docs/adr/0016-pacing.md).
//!
//! Linux goes on sending at a pace when a connection leaves BBR, so it must not begin with it: the system's choice is set
//! aside on the socket, and given back once the way has turned out to be long.

use std::net::SocketAddr;

use mycelium_core::time::Duration;
use socket2::Socket;

use super::round_trip;

/// Below this round-trip time a way is short.
const SHORT: Duration = Duration::from_millis(1);

/// What the system would have used on a socket.
#[derive(Debug)]
pub(super) struct SetAside(Option<Vec<u8>>);

/// Keep `socket`, which neither listens nor is connected yet, from sending at a pace; those that it accepts, too.
pub(super) fn set_aside(socket: &Socket) -> SetAside {
    let system = socket
        .tcp_congestion()
        .ok()
        .filter(|name| name.starts_with(b"bbr"));
    // The first may not be there, or not be allowed. If neither is, things stay as they are.
    SetAside(system.filter(|_| {
        let result = socket
            .set_tcp_congestion(b"cubic")
            .or_else(|_| socket.set_tcp_congestion(b"reno"));
        result.is_ok()
    }))
}

impl SetAside {
    /// Give the system's choice back to a connection, unless its way is short. Where the kernel does not say how long it is,
    /// too.
    pub(super) fn give_back(&self, socket: &Socket, local: SocketAddr, remote: SocketAddr) {
        let Some(system) = &self.0 else {
            return;
        };
        if round_trip::of(local, remote).is_some_and(|time| time < SHORT) {
            tracing::debug!(%remote, "a short way, so not at a pace");
            return;
        }
        if let Err(error) = socket.set_tcp_congestion(system) {
            tracing::debug!(%remote, %error, "not the system's congestion control");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use socket2::{Domain, SockRef, Type};

    use super::*;

    fn congestion(socket: &Socket) -> Vec<u8> {
        let name = socket.tcp_congestion().unwrap();
        name.into_iter().take_while(|&byte| byte != 0).collect()
    }

    #[test]
    fn a_short_way_does_without_bbr_and_any_other_gets_it_back() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Only where the kernel has it.
        let is_paced = socket.set_tcp_congestion(b"bbr").is_ok();
        let system = congestion(&socket);
        let pace = set_aside(&socket);
        assert_eq!(pace.0.is_some(), is_paced);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(1).unwrap();
        let listener = TcpListener::from(socket);
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, remote) = listener.accept().unwrap();
        let local = accepted.local_addr().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(!congestion(&accepted).starts_with(b"bbr"));
        pace.give_back(&accepted, local, remote);
        assert!(!congestion(&accepted).starts_with(b"bbr"), "a short way");
        // Of such a connection the kernel says nothing.
        pace.give_back(&accepted, local, any);
        assert_eq!(congestion(&accepted), system);
        drop(near);
    }

    #[test]
    fn any_other_choice_is_left_alone() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_tcp_congestion(b"reno").unwrap();
        assert!(set_aside(&socket).0.is_none());
        assert_eq!(congestion(&socket), b"reno");
    }
}
