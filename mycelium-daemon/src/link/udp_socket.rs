//! The UDP socket below QUIC and the native link, one for each address family.
//!
//! It differs from quinn's own in two ways.
//!
//! ICMP errors are reported (`unreachable.rs`), which brings two dangers: the next send fails with an error that an
//! earlier one caused, perhaps to somebody else, and epoll calls the socket writable for ever. So a failed send is
//! repeated, and a full socket is looked at again after a moment instead of when epoll says so. No interest in
//! writability also spares an event for every packet that leaves.
//!
//! Two protocols share it, told apart by the first byte of each datagram. QUIC reads it itself until the data worker
//! takes over ([`UdpSocket::divert`]), for native datagrams must not wait for another thread. From then on QUIC's
//! datagrams pass through an [`Inbox`].

use std::fmt;
use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use mycelium_core::time::Duration;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep_until};

use super::inbox::Inbox;

/// How often a send is repeated that failed, which clears the error. Two, for another may arrive in between.
const SEND_RETRIES: usize = 2;
/// Looks at a socket in a row that bring nothing but errors.
const EMPTY_LOOKS: usize = 16;
/// How long a full socket is left alone: a small part of what it holds has left by then.
pub(crate) const FULL_PAUSE: Duration = Duration::from_millis(1);

/// A bound UDP socket. Must be made inside a tokio runtime, which then drives it.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    opened: Instant,
    /// Microseconds after `opened` until which QUIC leaves it alone because it was full; 0: never.
    full_until: AtomicU64,
    /// For QUIC's own reading; gone once somebody else reads.
    watch: Mutex<Option<AsyncFd<std::net::UdpSocket>>>,
    pub(crate) inbox: Inbox,
}

impl UdpSocket {
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            watch: Mutex::new(Some(readable(socket.try_clone()?)?)),
            socket,
            opened: Instant::now(),
            full_until: AtomicU64::new(0),
            inbox: Inbox::default(),
        })
    }

    /// From now on the caller reads, and puts what is QUIC's into the inbox. Must be called inside the tokio runtime that
    /// drives the reader.
    pub(crate) fn divert(self: &Arc<Self>) -> io::Result<UdpReader> {
        let reader = UdpReader {
            io: readable(self.socket.try_clone()?)?,
            socket: Arc::clone(self),
        };
        self.inbox.open();
        Ok(reader)
    }

    pub(crate) fn is_ipv4(&self) -> io::Result<bool> {
        Ok(self.socket.local_addr()?.is_ipv4())
    }

    /// A way of sending of one's own, beside QUIC's.
    pub(crate) fn sender(self: &Arc<Self>) -> io::Result<UdpSender> {
        Ok(UdpSender {
            state: UdpSocketState::new((&self.socket).into())?,
            socket: Arc::clone(self),
        })
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

    /// What the system refuses for any reason but lack of room is lost, as on the network.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match send(&self.state, &self.socket, transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let until = (self.opened.elapsed() + FULL_PAUSE).as_micros();
                let until = u64::try_from(until).unwrap_or(u64::MAX);
                self.full_until.store(until, Ordering::Relaxed);
                Err(error)
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // The lock is held by nobody else; it only makes the change of reader safe.
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Poll::Ready(received) = self.inbox.poll_take(context, buffers, meta) {
            *watch = None;
            return Poll::Ready(Ok(received));
        }
        if self.inbox.is_open() {
            *watch = None;
        }
        let Some(io) = watch.as_ref() else {
            return Poll::Pending;
        };
        for _ in 0..EMPTY_LOOKS {
            let mut ready = ready!(io.poll_read_ready(context))?;
            // Else it is what became of an earlier datagram, or nothing is there after all.
            if let Ok(Ok(received)) =
                ready.try_io(|io| self.state.recv(io.get_ref().into(), buffers, meta))
            {
                return Poll::Ready(Ok(received));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
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

/// Reads everything that arrives at a socket, for both protocols.
#[derive(Debug)]
pub(crate) struct UdpReader {
    io: AsyncFd<std::net::UdpSocket>,
    socket: Arc<UdpSocket>,
}

impl UdpReader {
    /// Wait until there is something.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await?.retain_ready();
        Ok(())
    }

    /// Datagrams, several of one sender joined in one buffer; `None`: there are none.
    pub(crate) fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Option<usize> {
        let read = |io: &std::net::UdpSocket| self.socket.state.recv(io.into(), buffers, meta);
        match self.io.try_io(Interest::READABLE, read) {
            Ok(received) => Some(received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // What became of an earlier datagram.
            Err(_) => Some(0),
        }
    }

    /// Where QUIC's datagrams go.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.socket.inbox
    }
}

/// Sends on a socket that others send on too.
#[derive(Debug)]
pub(crate) struct UdpSender {
    /// Its own: what one user of a socket gives up, such as segmentation offload after an error, is not given up by all.
    state: UdpSocketState,
    socket: Arc<UdpSocket>,
}

impl UdpSender {
    /// Send one datagram or a batch of equally long ones.
    ///
    /// # Errors
    /// `WouldBlock`, when the socket is full; else what the system says of this very datagram.
    pub(crate) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        send(&self.state, &self.socket.socket, transmit)
    }

    /// Most datagrams in one batch; 1 after the system refused a batch.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Try batches again.
    pub(crate) fn forgive(&mut self) {
        if let Ok(state) = UdpSocketState::new((&self.socket.socket).into()) {
            self.state = state;
        }
    }
}

/// Send, repeatedly if that fails: the error may be what became of an earlier datagram.
fn send(
    state: &UdpSocketState,
    socket: &std::net::UdpSocket,
    transmit: &Transmit<'_>,
) -> io::Result<()> {
    let mut result = state.try_send(socket.into(), transmit);
    for _ in 0..SEND_RETRIES {
        match &result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                result = state.try_send(socket.into(), transmit);
            }
            _ => break,
        }
    }
    result
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
