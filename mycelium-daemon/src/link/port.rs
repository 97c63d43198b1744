//! The sending half of a link, as the data worker owns it: an outbox and the transport it drains into.
//!
//! [`flush`](LinkPort::flush) writes what the transport takes now. What it does not take stays in the outbox, and the
//! link's writer task is woken to go on when there is room. Nothing here waits.

use std::io;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use mycelium_core::io::PeerId;
use mycelium_core::time::{Duration, Time};
use quinn::{SendDatagramError, VarInt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::native::NativeTransmit;
use super::outbox::{ControlOverflow, Outbox};
use super::quic::DATAGRAM_SEND_BUFFER;
use super::{LinkClosed, LinkStats};

/// How often the control plane hears that data arrived on a link.
const HEARD_INTERVAL: Duration = Duration::from_millis(200);
/// How often it may hear that a link is in doubt.
const DOUBT_INTERVAL: Duration = Duration::from_millis(20);
/// Longest that datagrams are held back for control bytes on the stream of a congested QUIC link.
const HOLD_LIMIT: Duration = Duration::from_millis(100);

/// One link of the data worker.
#[derive(Debug)]
pub(crate) struct LinkPort {
    pub(crate) peer: PeerId,
    pub(crate) stats: Arc<LinkStats>,
    pub(crate) outbox: Outbox,
    pub(crate) transmit: Transmit,
    /// In the worker's list of links to flush.
    pub(crate) touched: bool,
    /// The port at which the peer says that it takes native links.
    pub(crate) native_port: Option<u16>,
    pub(crate) closed: Option<oneshot::Sender<LinkClosed>>,
    /// Ends with the link.
    pub(crate) tasks: Vec<AbortHandle>,
    last_heard: Time,
    next_doubt: Time,
}

/// The transport's sending half.
#[derive(Debug)]
pub(crate) enum Transmit {
    Tcp(TcpTransmit),
    Quic(Box<QuicTransmit>),
    Native(NativeTransmit),
}

#[derive(Debug)]
pub(crate) struct TcpTransmit {
    pub(crate) stream: Rc<TcpStream>,
    pub(crate) writer: WriterTask,
}

#[derive(Debug)]
pub(crate) struct QuicTransmit {
    pub(crate) connection: quinn::Connection,
    pub(crate) send: quinn::SendStream,
    pub(crate) stream_writer: WriterTask,
    pub(crate) datagram_writer: WriterTask,
    /// Control bytes are on the stream behind queued datagrams: no further datagrams until they are out.
    hold: Option<Hold>,
}

/// QUIC sends datagrams before stream data, so control would starve behind a full datagram queue.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// STREAM frames sent in all once the control bytes are out.
    until_frames: u64,
    since: Time,
}

/// A task that goes on where a write would have blocked.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriterTask {
    wake: Rc<Notify>,
    /// It is at work; nobody else writes meanwhile.
    pub(crate) at_work: bool,
}

impl WriterTask {
    /// Hand over to the task.
    pub(crate) fn call(&mut self) {
        self.at_work = true;
        self.wake.notify_one();
    }

    /// What the task waits for.
    pub(crate) fn wake(&self) -> Rc<Notify> {
        Rc::clone(&self.wake)
    }
}

/// What the datagram writer should do next.
#[derive(Debug)]
pub(crate) enum DatagramStep {
    /// Nothing is left: wait for a call.
    Done,
    /// Send this one as soon as there is room.
    Send(Bytes),
    /// Look again shortly.
    Held,
}

impl LinkPort {
    pub(crate) fn new(
        peer: PeerId,
        transmit: Transmit,
        stats: Arc<LinkStats>,
        closed: oneshot::Sender<LinkClosed>,
    ) -> Self {
        Self {
            peer,
            stats,
            outbox: match transmit {
                Transmit::Native(_) => NativeTransmit::outbox(),
                Transmit::Tcp(_) | Transmit::Quic(_) => Outbox::default(),
            },
            transmit,
            touched: false,
            native_port: None,
            closed: Some(closed),
            tasks: Vec::new(),
            last_heard: Time::ZERO,
            next_doubt: Time::ZERO,
        }
    }

    /// Queue a control packet.
    pub(crate) fn push_control(&mut self, packet: &[u8], now: Time) -> Result<(), ControlOverflow> {
        self.outbox.push_control(packet, now)?;
        self.stats.tx_control.add(1);
        Ok(())
    }

    /// Whether it is time to tell the control plane that data arrives.
    pub(crate) fn is_heard_due(&mut self, now: Time) -> bool {
        let due = now.since(self.last_heard) >= HEARD_INTERVAL;
        if due {
            self.last_heard = now;
        }
        due
    }

    /// Whether an ICMP error for a datagram to `remote` is a reason to doubt that the peer is there. A forger can cause
    /// any number of them.
    pub(crate) fn is_doubtful(&mut self, remote: SocketAddr, now: Time) -> bool {
        let doubtful = match &self.transmit {
            // Its kernel resets it where needed, and remembers which errors it brought upon itself.
            Transmit::Tcp(_) => false,
            // Its own probes take a little longer to be sure than it takes to use another way.
            Transmit::Native(native) => native.remote == remote,
            Transmit::Quic(quic) => quic.connection.remote_address() == remote,
        };
        let due = doubtful && now >= self.next_doubt;
        if due {
            self.next_doubt = now + DOUBT_INTERVAL;
        }
        due
    }

    /// Whether what waits had better wait for the rest of the batch. Whoever reads a TCP link is woken by every write, and
    /// takes all that is there at once.
    pub(crate) fn gathers(&self) -> bool {
        matches!(self.transmit, Transmit::Tcp(_))
    }

    /// Write what the transport takes now. Native links are written by the worker.
    ///
    /// # Errors
    /// When the link is dead.
    pub(crate) fn flush(&mut self, now: Time) -> Result<(), LinkClosed> {
        self.stats.dropped_old.add(self.outbox.expire(now));
        match &mut self.transmit {
            Transmit::Tcp(tcp) => {
                if !tcp.writer.at_work && !tcp.write(&mut self.outbox, &self.stats)? {
                    tcp.writer.call();
                }
                Ok(())
            }
            Transmit::Quic(quic) => quic.flush(&mut self.outbox, &self.stats, now),
            Transmit::Native(_) => Ok(()),
        }
    }

    /// End the connection. What is still queued is lost.
    pub(crate) fn close_transport(&self, reason: &LinkClosed) {
        match &self.transmit {
            // Dropping the last handle closes the socket.
            Transmit::Tcp(_) => {}
            // Closed by the worker.
            Transmit::Native(_) => {}
            Transmit::Quic(quic) => quic
                .connection
                .close(VarInt::from_u32(0), reason.reason.as_bytes()),
        }
    }
}

impl TcpTransmit {
    pub(crate) fn new(stream: Rc<TcpStream>) -> Self {
        Self {
            stream,
            writer: WriterTask::default(),
        }
    }

    /// `false`: the socket is full.
    pub(crate) fn write(&self, outbox: &mut Outbox, stats: &LinkStats) -> Result<bool, LinkClosed> {
        while !outbox.is_empty() {
            let slices = outbox.slices().map(IoSlice::new);
            match self.stream.try_write_vectored(&slices) {
                Ok(written) => {
                    outbox.advance(written);
                    stats.tx_bytes.add(written as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(LinkClosed::new(format!("write failed: {error}"))),
            }
        }
        Ok(true)
    }
}

impl QuicTransmit {
    pub(crate) fn new(connection: quinn::Connection, send: quinn::SendStream) -> Self {
        Self {
            connection,
            send,
            stream_writer: WriterTask::default(),
            datagram_writer: WriterTask::default(),
            hold: None,
        }
    }

    fn flush(
        &mut self,
        outbox: &mut Outbox,
        stats: &LinkStats,
        now: Time,
    ) -> Result<(), LinkClosed> {
        // Nobody is woken by this look; the writer task looks again with its own waker.
        let mut context = Context::from_waker(Waker::noop());
        if !self.stream_writer.at_work {
            match self.poll_stream(&mut context, outbox, stats, now) {
                Poll::Ready(result) => result?,
                Poll::Pending => self.stream_writer.call(),
            }
        }
        if self.datagram_writer.at_work {
            return Ok(());
        }
        while let Some(packet) = self.next_datagram(&mut context, outbox, stats)? {
            let len = packet.len();
            if self.is_held(now) || self.connection.datagram_send_buffer_space() < len {
                self.datagram_writer.call();
                return Ok(());
            }
            let datagram = Bytes::copy_from_slice(packet);
            outbox.advance_data(len);
            self.sent_datagram(&self.connection.send_datagram(datagram), len, stats)?;
        }
        Ok(())
    }

    /// Write the stream's share of the outbox: control, and the rest of a large data packet once begun.
    pub(crate) fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        outbox: &mut Outbox,
        stats: &LinkStats,
        now: Time,
    ) -> Poll<Result<(), LinkClosed>> {
        if outbox.stream_slice().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.hold_datagrams(outbox.stream_slice().len(), now);
        loop {
            let slice = outbox.stream_slice();
            if slice.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.send).poll_write(context, slice) {
                Poll::Ready(Ok(written)) => {
                    outbox.advance(written);
                    stats.tx_bytes.add(written as u64);
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(LinkClosed::new(format!("write failed: {error}"))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next packet that goes as a datagram. Larger ones go on the stream on the way.
    fn next_datagram<'a>(
        &mut self,
        context: &mut Context<'_>,
        outbox: &'a mut Outbox,
        stats: &LinkStats,
    ) -> Result<Option<&'a [u8]>, LinkClosed> {
        loop {
            let Some(packet) = outbox.next_data() else {
                return Ok(None);
            };
            // Asked anew for every packet: path MTU discovery changes it, downwards too.
            let Some(max) = self.connection.max_datagram_size() else {
                return Err(self.closed());
            };
            if packet.len() <= max {
                // Looked up again because the borrow checker does not see that the loop ends here.
                return Ok(outbox.next_data());
            }
            if self.stream_writer.at_work {
                return Ok(None);
            }
            match Pin::new(&mut self.send).poll_write(context, packet) {
                Poll::Ready(Ok(written)) => {
                    let is_whole = written == packet.len();
                    stats.tx_bytes.add(written as u64);
                    outbox.advance_data(written);
                    if !is_whole {
                        self.stream_writer.call();
                        return Ok(None);
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Err(LinkClosed::new(format!("write failed: {error}")));
                }
                Poll::Pending => {
                    self.stream_writer.call();
                    return Ok(None);
                }
            }
        }
    }

    /// One step of the datagram writer.
    pub(crate) fn datagram_step(
        &mut self,
        outbox: &mut Outbox,
        stats: &LinkStats,
        now: Time,
    ) -> Result<DatagramStep, LinkClosed> {
        stats.dropped_old.add(outbox.expire(now));
        if self.is_held(now) {
            return Ok(DatagramStep::Held);
        }
        let mut context = Context::from_waker(Waker::noop());
        match self.next_datagram(&mut context, outbox, stats)? {
            Some(packet) => {
                let datagram = Bytes::copy_from_slice(packet);
                outbox.advance_data(datagram.len());
                Ok(DatagramStep::Send(datagram))
            }
            None => {
                self.datagram_writer.at_work = false;
                Ok(DatagramStep::Done)
            }
        }
    }

    /// Account for a datagram given to the connection.
    pub(crate) fn sent_datagram(
        &self,
        result: &Result<(), SendDatagramError>,
        len: usize,
        stats: &LinkStats,
    ) -> Result<(), LinkClosed> {
        match result {
            Ok(()) => {
                stats.tx_bytes.add(len as u64);
                Ok(())
            }
            // The path's MTU shrank between the question and the answer.
            Err(SendDatagramError::TooLarge) => {
                stats.dropped_old.add(1);
                Ok(())
            }
            Err(_) => Err(self.closed()),
        }
    }

    fn closed(&self) -> LinkClosed {
        match self.connection.close_reason() {
            Some(reason) => LinkClosed::new(reason.to_string()),
            None => LinkClosed::new("the peer takes no datagrams"),
        }
    }

    fn hold_datagrams(&mut self, control: usize, now: Time) {
        /// Stream bytes in one packet, at least.
        const BYTES_PER_FRAME: usize = 1000;
        if self.connection.datagram_send_buffer_space() < DATAGRAM_SEND_BUFFER {
            let frames = control.div_ceil(BYTES_PER_FRAME) as u64;
            self.hold = Some(Hold {
                until_frames: self.connection.stats().frame_tx.stream + frames,
                since: now,
            });
        }
    }

    fn is_held(&mut self, now: Time) -> bool {
        let Some(hold) = self.hold else {
            return false;
        };
        let held = now.since(hold.since) < HOLD_LIMIT
            && self.connection.stats().frame_tx.stream < hold.until_frames;
        if !held {
            self.hold = None;
        }
        held
    }
}
