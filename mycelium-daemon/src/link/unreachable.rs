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
/// Addresses told at once; further ones are dropped.
const MAX_REMOTES: usize = 64;

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

    /// Wait for errors; to whom the datagrams went that could not be delivered, each once.
    pub(super) async fn unreachable(&self) -> io::Result<Vec<SocketAddr>> {
        let mut remotes = Vec::new();
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
            let drained = self.take(&mut remotes)?;
            if drained {
                // The latest error fails the next send or receive, unless it is asked for.
                SockRef::from(&self.socket).take_error()?;
                ready.clear_ready();
            }
            if !remotes.is_empty() && (drained || round >= ROUNDS) {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(remotes)
    }

    /// `true`: the queue is empty.
    fn take(&self, remotes: &mut Vec<SocketAddr>) -> io::Result<bool> {
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
            let Ok(mut parts) = message.cmsgs() else {
                continue;
            };
            if parts.any(|part| is_unreachable(&part))
                && !remotes.contains(&remote)
                && remotes.len() < MAX_REMOTES
            {
                remotes.push(remote);
            }
        }
        Ok(false)
    }
}

/// Whether it is a router's or host's word that port, host or network cannot be reached. Packets that are too big, or
/// that a firewall refuses, say nothing about the peer.
fn is_unreachable(part: &ControlMessageOwned) -> bool {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) =
        part
    else {
        return false;
    };
    matches!(
        error.ee_origin,
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
    ) && i32::try_from(error.ee_errno).is_ok_and(|errno| {
        matches!(
            Errno::from_raw(errno),
            Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH
        )
    })
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::new(v4.ip(), v4.port()).into());
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}
