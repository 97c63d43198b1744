//! The round-trip time of a TCP connection as the kernel has measured it, asked over netlink (sock_diag(7)): there is no safe
//! binding for the socket option.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mycelium_core::time::Duration;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{self, Socket};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// `INET_DIAG_INFO`.
const INFO: u16 = 2;
/// Bytes of a netlink header.
const HEADER_LEN: usize = 16;
/// Bytes of an answer (`inet_diag_msg`) before its attributes.
const ANSWER_LEN: usize = 72;
/// Where `tcp_info` has the smoothed round-trip time, microseconds.
const RTT: usize = 68;

/// The round-trip time of the connection between these two; `None`: the kernel does not say.
pub(super) fn of(local: SocketAddr, remote: SocketAddr) -> Option<Duration> {
    match ask(&request(local, remote)) {
        Ok(answer) => parse(&answer).filter(|rtt| !rtt.is_zero()),
        Err(error) => {
            tracing::debug!(%remote, %error, "no round-trip time");
            None
        }
    }
}

fn ask(request: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send_to(request, &sys::SocketAddr::new(0, 0), 0)?;
    // The kernel has answered by now.
    socket.set_non_blocking(true)?;
    Ok(socket.recv_from_full()?.0)
}

/// `nlmsghdr` and `inet_diag_req_v2`.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let (family, scope) = match remote {
        SocketAddr::V4(_) => (AF_INET, 0),
        SocketAddr::V6(v6) => (AF_INET6, v6.scope_id()),
    };
    let mut message = vec![0; 4];
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, TCP, 1 << (INFO - 1), 0]);
    // In any state.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        match address {
            IpAddr::V4(v4) => message.extend([v4.octets(), [0; 4], [0; 4], [0; 4]].as_flattened()),
            IpAddr::V6(v6) => message.extend(v6.octets()),
        }
    }
    message.extend(scope.to_ne_bytes());
    // Whichever socket that is.
    message.extend([0xff; 8]);
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

fn parse(answer: &[u8]) -> Option<Duration> {
    if answer.get(4..6)? != BY_FAMILY.to_ne_bytes() {
        return None;
    }
    let mut attributes = answer.get(HEADER_LEN + ANSWER_LEN..)?;
    loop {
        let &[len_0, len_1, kind_0, kind_1] = attributes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([len_0, len_1])).max(4);
        if u16::from_ne_bytes([kind_0, kind_1]) == INFO {
            let rtt = attributes.get(4..len)?.get(RTT..)?.first_chunk()?;
            return Some(Duration::from_micros(u32::from_ne_bytes(*rtt).into()));
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_ends_of_a_connection_know_it() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (far, _) = listener.accept().unwrap();
            for stream in [near, far] {
                let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
                let rtt = of(local, remote).unwrap();
                assert!(rtt < Duration::from_secs(1), "{rtt:?}");
            }
        }
    }

    #[test]
    fn of_a_connection_that_is_none_nothing_is_said() {
        let (local, remote) = (
            "127.0.0.1:9".parse().unwrap(),
            "127.0.0.1:1".parse().unwrap(),
        );
        assert_eq!(of(local, remote), None);
    }

    #[test]
    fn an_answer_that_is_cut_short_says_nothing() {
        let mut answer = vec![0; HEADER_LEN + ANSWER_LEN + 8];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer.extend(100_u16.to_ne_bytes());
        answer.extend(INFO.to_ne_bytes());
        answer.extend([0; 96]);
        let at = HEADER_LEN + ANSWER_LEN;
        // An attribute of eight bytes, then the one that counts.
        answer[at..at + 2].copy_from_slice(&8_u16.to_ne_bytes());
        answer[at + 12 + RTT] = 7;
        assert_eq!(parse(&answer), Some(Duration::from_micros(7)));
        for len in 0..answer.len() {
            assert_eq!(parse(&answer[..len]), None, "{len}");
        }
    }
}
