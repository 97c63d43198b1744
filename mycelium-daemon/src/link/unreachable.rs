//! What the network says of datagrams that it could not deliver: ICMP errors, from the error queue of a UDP socket.
//!
//! UDP has no connection that could be reset. Of a peer that was killed, only its kernel's "port unreachable" tells at
//! once. Anybody can forge such an error, so it is a reason to ask the peer, never proof.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use rustix::event::{Timespec, epoll};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use super::udp_socket::readable;

/// Errors taken at a time, before other tasks go on.
const AT_A_TIME: usize = 64;
/// Times that many are taken before the addresses are told. Errors that wait take room from datagrams, so in a flood most
/// must go unread quickly.
const ROUNDS: usize = 16;
/// Errors told at once; further ones are dropped.
const MAX_ERRORS: usize = 64;

/// What the network says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// Port, host or network cannot be reached.
    Unreachable(SocketAddr),
    /// A datagram was too long for the path.
    TooLarge(SocketAddr),
}

/// The error queue of one UDP socket.
#[derive(Debug)]
pub(super) struct ErrorQueue {
    socket: UdpSocket,
    /// Watches `socket` for errors alone. Through tokio's own epoll every datagram would wake us, and the readiness of
    /// the socket itself would no longer tell anything.
    errors: AsyncFd<OwnedFd>,
}

impl ErrorQueue {
    /// Let the kernel queue the errors of `socket`. Must be called inside a tokio runtime.
    pub(super) fn of(socket: &UdpSocket) -> io::Result<Self> {
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
        }
        let socket = socket.try_clone()?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &watch,
            &socket,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::ERR | epoll::EventFlags::ET,
        )?;
        Ok(Self {
            socket,
            errors: readable(watch)?,
        })
    }

    /// Wait for errors, each different one once.
    pub(super) async fn errors(&self) -> io::Result<Vec<NetworkError>> {
        let mut errors = Vec::new();
        for round in 1.. {
            let mut ready = self.errors.readable().await?;
            // Errors from here on are news again.
            epoll::wait(
                self.errors.get_ref(),
                &mut [epoll::Event {
                    flags: epoll::EventFlags::empty(),
                    data: epoll::EventData::new_u64(0),
                }],
                Some(&Timespec::default()),
            )?;
            let drained = self.take(&mut errors)?;
            if drained {
                // The latest error fails the next send or receive, unless it is asked for.
                SockRef::from(&self.socket).take_error()?;
                ready.clear_ready();
            }
            if !errors.is_empty() && (drained || round >= ROUNDS) {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(errors)
    }

    /// `true`: the queue is empty.
    fn take(&self, errors: &mut Vec<NetworkError>) -> io::Result<bool> {
        let mut control = nix::cmsg_space!([u8; 256]);
        for _ in 0..AT_A_TIME {
            let mut payload = [0; 1];
            let mut payload = [IoSliceMut::new(&mut payload)];
            let message = match recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut payload,
                Some(&mut control),
                MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(remote) = message.address.as_ref().and_then(socket_address) else {
                continue;
            };
            let Ok(parts) = message.cmsgs() else {
                continue;
            };
            for error in parts.filter_map(|part| network_error(&part, remote)) {
                if !errors.contains(&error) && errors.len() < MAX_ERRORS {
                    errors.push(error);
                }
            }
        }
        Ok(false)
    }
}

/// A router's or host's word about a datagram to `remote`. That a firewall refuses it says nothing about the peer.
fn network_error(part: &ControlMessageOwned, remote: SocketAddr) -> Option<NetworkError> {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) =
        part
    else {
        return None;
    };
    let from_network = matches!(
        error.ee_origin,
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
    );
    match Errno::from_raw(i32::try_from(error.ee_errno).ok()?) {
        Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH if from_network => {
            Some(NetworkError::Unreachable(remote))
        }
        Errno::EMSGSIZE if from_network => Some(NetworkError::TooLarge(remote)),
        _ => None,
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::new(v4.ip(), v4.port()).into());
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}
