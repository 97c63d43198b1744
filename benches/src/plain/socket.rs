//! UDP with segmentation offload both ways.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of buffer wished for; the kernel grants what it likes.
const BUFFER: usize = 4 << 20;

/// A connected socket.
#[derive(Debug)]
pub(super) struct OffloadSocket {
    socket: UdpSocket,
    control: Vec<u8>,
}

impl OffloadSocket {
    pub(super) fn connect(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(remote)?;
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER))?;
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &BUFFER))?;
        Ok(Self::over(socket))
    }

    fn over(socket: UdpSocket) -> Self {
        Self {
            socket,
            control: nix::cmsg_space!(i32),
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::over(self.socket.try_clone()?))
    }

    /// Send `bytes` as datagrams of `segment` bytes, the last one perhaps shorter. That nobody listens is no error.
    pub(super) fn send(&self, bytes: &[u8], segment: u16) -> io::Result<()> {
        let slices = [IoSlice::new(bytes)];
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let control = match bytes.len() > usize::from(segment) {
            true => &control[..],
            false => &[],
        };
        let fd = self.socket.as_raw_fd();
        // Twice: an ICMP error of an earlier datagram is reported by the next call, which then has not sent.
        for _ in 0..2 {
            match sendmsg::<SockaddrStorage>(fd, &slices, control, MsgFlags::empty(), None) {
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        Ok(())
    }

    /// Wait for datagrams; bytes received and the size of all but the last datagram.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        let fd = self.socket.as_raw_fd();
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            let received = recvmsg::<SockaddrStorage>(
                fd,
                &mut slices,
                Some(&mut self.control),
                MsgFlags::empty(),
            );
            match received {
                Ok(message) => {
                    let length = message.bytes;
                    let segment = message.cmsgs()?.find_map(|control| match control {
                        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                        _ => None,
                    });
                    let segment = segment.filter(|size| *size > 0).unwrap_or(length.max(1));
                    return Ok((length, segment));
                }
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Wait until `source` has something to read.
pub(super) fn wait_readable(source: impl AsFd) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(&source, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}
