//! The UDP socket below QUIC, one for each address family.
//!
//! It differs from quinn's own in what it makes of ICMP errors. The kernel reports them (`unreachable.rs`), which brings
//! two dangers: the next send fails with an error that an earlier one caused, perhaps to somebody else, and epoll calls
//! the socket writable for ever. So a failed send is repeated, and a full socket is looked at again after a moment
//! instead of when epoll says so. No interest in writability also spares an event for every packet that leaves.

use std::fmt;
use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use mycelium_core::time::Duration;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep_until};

/// How often a send is repeated that failed, which clears the error. Two, for another may arrive in between.
const SEND_RETRIES: usize = 2;
/// Looks at a socket in a row that bring nothing but errors.
const EMPTY_LOOKS: usize = 16;
/// How long a full socket is left alone: a small part of what it holds has left by then.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// A bound UDP socket. Must be made inside a tokio runtime, which then drives it.
#[derive(Debug)]
pub(super) struct UdpSocket {
    io: AsyncFd<std::net::UdpSocket>,
    state: UdpSocketState,
    opened: Instant,
    /// Microseconds after `opened` until which it was found full; 0: never.
    full_until: AtomicU64,
}

impl UdpSocket {
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            io: readable(socket)?,
            state,
            opened: Instant::now(),
            full_until: AtomicU64::new(0),
        })
    }

    /// Send one datagram or a batch of equally long ones. What the system refuses for any reason but lack of room is
    /// lost, as on the network.
    ///
    /// # Errors
    /// `WouldBlock`, when the socket is full.
    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for _ in 0..=SEND_RETRIES {
            match self.state.try_send(self.io.get_ref().into(), transmit) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let until = (self.opened.elapsed() + FULL_PAUSE).as_micros();
                    self.full_until
                        .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
                    return Err(error);
                }
                // Perhaps what became of an earlier datagram.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// When it is worth trying again, if it was found full lately.
    fn full_until(&self) -> Option<Instant> {
        let until = self.full_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let until = self.opened + Duration::from_micros(until);
        (until > Instant::now()).then_some(until)
    }
}

impl AsyncUdpSocket for UdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room {
            socket: self,
            pause: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..EMPTY_LOOKS {
            let mut ready = ready!(self.io.poll_read_ready(context))?;
            match ready.try_io(|io| self.state.recv(io.get_ref().into(), buffers, meta)) {
                Ok(Ok(received)) => return Poll::Ready(Ok(received)),
                // What became of an earlier datagram, or (the outer error) nothing there after all.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Lets tokio wait until `inner` can be read, and for nothing else.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for the sake of types that may close their descriptor early"
)]
pub(super) fn readable<T: AsRawFd + AsFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

/// Waits for room in the socket, for one task.
struct Room {
    socket: Arc<UdpSocket>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(until) = self.socket.full_until() else {
            return Poll::Ready(Ok(()));
        };
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if pause.deadline() != until {
            pause.as_mut().reset(until);
        }
        pause.as_mut().poll(context).map(Ok)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

#[cfg(test)]
mod tests;
