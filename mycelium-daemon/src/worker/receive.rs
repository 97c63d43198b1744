//! The tasks of the data worker that wait for links and interfaces, and what they do when woken.
//!
//! A task that reads also runs the packets through the data plane and writes the results: run to completion. After
//! [`BYTES_PER_WAKE`] it lets the others go on.
//!
//! Control packets go to the control thread, each link's on its own budget of [`CONTROL_BUDGET`] bytes: a peer that sends
//! more than the control thread can take is simply not read until there is room, so the transport's flow control slows
//! it down and nobody else.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::time::Duration;
use mycelium_core::wire::frame::{self, FrameError, Kind};
use mycelium_core::wire::ipv6::HEADER_LEN as IPV6_HEADER_LEN;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tun_rs::AsyncDevice;

use super::offload::{self, Offloaded};
use super::read_ahead::ReadAhead;
use super::{Shared, Worker};
use crate::clock;
use crate::control::ControlInput;
use crate::host::MTU;
use crate::link::LinkClosed;
use crate::link::port::{DatagramStep, LinkPort, Transmit};

/// What one task may read before it lets others run: a quarter of a millisecond at 8 Gb/s.
pub(super) const BYTES_PER_WAKE: usize = 256 << 10;
/// Packets of at most one per read that one task may take from an interface, for the same reason.
const READS_PER_WAKE: usize = 64;
/// Control bytes of one link that may wait for the control thread: some 600 Updates.
pub(crate) const CONTROL_BUDGET: usize = 64 << 10;
/// How soon a held datagram is looked at again.
const HOLD_STEP: Duration = Duration::from_millis(1);

/// Passes the control packets of one link on.
pub(crate) struct ControlLane {
    peer: PeerId,
    control: mpsc::Sender<ControlInput>,
    budget: Arc<Semaphore>,
}

impl ControlLane {
    pub(crate) fn new(peer: PeerId, control: mpsc::Sender<ControlInput>) -> Self {
        Self {
            peer,
            control,
            budget: Arc::new(Semaphore::new(CONTROL_BUDGET)),
        }
    }

    /// Hand `packets` (back to back, complete) over; waits while the link's budget or the queue is full.
    ///
    /// Once the control thread has stopped they are of no use to anybody. Reading goes on all the same: a link that is closed
    /// with unread data is reset, and our goodbye may be lost.
    pub(super) async fn forward(&self, packets: Vec<u8>) {
        if packets.is_empty() {
            return;
        }
        let bytes = u32::try_from(packets.len().min(CONTROL_BUDGET)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        if let Ok(budget) = Arc::clone(&self.budget).acquire_many_owned(bytes).await {
            let input = ControlInput::Packets {
                peer: self.peer,
                packets,
                budget,
            };
            let _ = self.control.send(input).await;
        }
    }
}

/// What came of one look at a link or interface.
pub(super) enum Look {
    /// Everything that was there is read.
    Drained,
    /// There may be more, but the others come first.
    More,
    /// There will be no more.
    Closed(LinkClosed),
}

/// Read a TCP link until it ends.
pub(crate) async fn read_tcp(
    worker: Shared,
    peer: PeerId,
    stream: Rc<TcpStream>,
    lane: ControlLane,
) -> LinkClosed {
    let mut rest = Vec::new();
    loop {
        if let Err(error) = stream.readable().await {
            return LinkClosed::new(format!("read failed: {error}"));
        }
        let mut control = Vec::new();
        let look = worker
            .borrow_mut()
            .receive_tcp(peer, &stream, &mut rest, &mut control);
        // Before the link's end, so that the last words of a leaving node count.
        lane.forward(control).await;
        match look {
            Look::Drained => {}
            Look::More => tokio::task::yield_now().await,
            Look::Closed(closed) => return closed,
        }
    }
}

/// Read the stream of a QUIC link until it ends.
pub(crate) async fn read_quic_stream(
    worker: Shared,
    peer: PeerId,
    mut recv: quinn::RecvStream,
    lane: ControlLane,
) -> LinkClosed {
    let mut rest = Vec::new();
    loop {
        let chunk = match recv.read_chunk(BYTES_PER_WAKE, true).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return LinkClosed::new("closed by the peer"),
            Err(error) => return LinkClosed::new(format!("read failed: {error}")),
        };
        let mut control = Vec::new();
        let result = {
            let mut worker = worker.borrow_mut();
            worker.begin();
            rest.extend_from_slice(&chunk.bytes);
            let result = worker.stream_bytes(peer, &mut rest, &mut control);
            worker.finish();
            result
        };
        lane.forward(control).await;
        match result {
            Ok(consumed) => {
                rest.drain(..consumed);
                if rest.is_empty() {
                    // A large packet's buffer is not kept.
                    rest = Vec::new();
                }
            }
            Err(error) => return LinkClosed::new(error.to_string()),
        }
        tokio::task::coop::consume_budget().await;
    }
}

/// Read the datagrams of a QUIC link until it ends.
pub(crate) async fn read_quic_datagrams(
    worker: Shared,
    peer: PeerId,
    connection: quinn::Connection,
    lane: ControlLane,
) -> LinkClosed {
    loop {
        let first = match connection.read_datagram().await {
            Ok(datagram) => datagram,
            Err(error) => return LinkClosed::new(error.to_string()),
        };
        let mut control = Vec::new();
        worker
            .borrow_mut()
            .receive_datagrams(peer, &connection, first, &mut control);
        lane.forward(control).await;
        tokio::task::yield_now().await;
    }
}

/// Go on writing where [`LinkPort::flush`] found a TCP link full.
pub(crate) async fn write_tcp(
    worker: Shared,
    peer: PeerId,
    stream: Rc<TcpStream>,
    wake: Rc<Notify>,
) -> LinkClosed {
    loop {
        wake.notified().await;
        loop {
            if let Err(error) = stream.writable().await {
                return LinkClosed::new(format!("write failed: {error}"));
            }
            let mut worker = worker.borrow_mut();
            let now = clock::now();
            let Some(LinkPort {
                outbox,
                stats,
                transmit: Transmit::Tcp(tcp),
                ..
            }) = worker.ports.link(peer)
            else {
                return LinkClosed::new("forgotten");
            };
            stats.dropped_old.add(outbox.expire(now));
            match tcp.write(outbox, stats) {
                Ok(true) => {
                    tcp.writer.at_work = false;
                    worker.drained.notify_waiters();
                    break;
                }
                Ok(false) => {}
                Err(closed) => return closed,
            }
        }
    }
}

/// Go on writing the stream of a QUIC link where it was full.
pub(crate) async fn write_quic_stream(
    worker: Shared,
    peer: PeerId,
    wake: Rc<Notify>,
) -> LinkClosed {
    loop {
        wake.notified().await;
        let written = poll_fn(|context| {
            let mut worker = worker.borrow_mut();
            let Some(LinkPort {
                outbox,
                stats,
                transmit: Transmit::Quic(quic),
                ..
            }) = worker.ports.link(peer)
            else {
                return Poll::Ready(Err(LinkClosed::new("forgotten")));
            };
            quic.poll_stream(context, outbox, stats, clock::now())
        });
        if let Err(closed) = written.await {
            return closed;
        }
        let mut worker = worker.borrow_mut();
        let now = clock::now();
        if let Some(link) = worker.ports.link(peer) {
            if let Transmit::Quic(quic) = &mut link.transmit {
                quic.stream_writer.at_work = false;
            }
            if let Err(closed) = link.flush(now) {
                return closed;
            }
        }
        worker.drained.notify_waiters();
    }
}

/// Go on sending datagrams of a QUIC link where its connection had no room.
pub(crate) async fn write_quic_datagrams(
    worker: Shared,
    peer: PeerId,
    connection: quinn::Connection,
    wake: Rc<Notify>,
) -> LinkClosed {
    loop {
        wake.notified().await;
        loop {
            let step = {
                let mut worker = worker.borrow_mut();
                let Some(LinkPort {
                    outbox,
                    stats,
                    transmit: Transmit::Quic(quic),
                    ..
                }) = worker.ports.link(peer)
                else {
                    return LinkClosed::new("forgotten");
                };
                quic.datagram_step(outbox, stats, clock::now())
            };
            match step {
                Err(closed) => return closed,
                Ok(DatagramStep::Done) => break,
                Ok(DatagramStep::Held) => tokio::time::sleep(HOLD_STEP).await,
                Ok(DatagramStep::Send(datagram)) => {
                    let len = datagram.len();
                    let result = connection.send_datagram_wait(datagram).await;
                    let mut worker = worker.borrow_mut();
                    if let Some(LinkPort {
                        stats,
                        transmit: Transmit::Quic(quic),
                        ..
                    }) = worker.ports.link(peer)
                        && let Err(closed) = quic.sent_datagram(&result, len, stats)
                    {
                        return closed;
                    }
                }
            }
        }
    }
}

/// Read a host interface until it is gone.
pub(crate) async fn read_host(
    worker: Shared,
    identity: IdentityId,
    device: Rc<AsyncDevice>,
) -> LinkClosed {
    loop {
        if let Err(error) = device.readable().await {
            return LinkClosed::new(error.to_string());
        }
        let look = worker.borrow_mut().receive_host(identity, &device);
        match look {
            Look::Drained => {}
            Look::More => tokio::task::yield_now().await,
            Look::Closed(closed) => return closed,
        }
    }
}

impl Worker {
    fn receive_tcp(
        &mut self,
        peer: PeerId,
        stream: &TcpStream,
        rest: &mut Vec<u8>,
        control: &mut Vec<u8>,
    ) -> Look {
        let mut buffer = std::mem::take(&mut self.stream_buffer);
        let look = self.read_tcp_batches(peer, stream, rest, control, &mut buffer);
        self.stream_buffer = buffer;
        look
    }

    fn read_tcp_batches(
        &mut self,
        peer: PeerId,
        stream: &TcpStream,
        rest: &mut Vec<u8>,
        control: &mut Vec<u8>,
        buffer: &mut [u8],
    ) -> Look {
        let mut total = 0;
        while total < BYTES_PER_WAKE {
            let kept = rest.len();
            buffer[..kept].copy_from_slice(rest);
            let read = match stream.try_read(&mut buffer[kept..]) {
                Ok(0) => return Look::Closed(LinkClosed::new("closed by the peer")),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Look::Drained,
                Err(error) => {
                    return Look::Closed(LinkClosed::new(format!("read failed: {error}")));
                }
            };
            total += read;
            let filled = kept + read;
            self.begin();
            let result = self.stream_bytes(peer, &mut buffer[..filled], control);
            self.finish();
            match result {
                Ok(consumed) => {
                    rest.clear();
                    rest.extend_from_slice(&buffer[consumed..filled]);
                    if rest.is_empty() && rest.capacity() > frame::HEADER_LEN * 1024 {
                        *rest = Vec::new();
                    }
                }
                Err(error) => return Look::Closed(LinkClosed::new(error.to_string())),
            }
            if filled < buffer.len() {
                return Look::Drained;
            }
        }
        Look::More
    }

    /// Run the complete packets of `bytes`; how many bytes they were. Control packets are appended to `control`.
    fn stream_bytes(
        &mut self,
        peer: PeerId,
        bytes: &mut [u8],
        control: &mut Vec<u8>,
    ) -> Result<usize, FrameError> {
        let mut consumed = 0;
        let mut packets = 0;
        let mut data = false;
        let result = loop {
            let frame = match frame::next_frame(&bytes[consumed..]) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(consumed),
                Err(error) => {
                    self.bad_streams += 1;
                    break Err(error);
                }
            };
            let packet = &mut bytes[consumed..consumed + frame.len];
            match frame.kind {
                Kind::Data => {
                    data = true;
                    self.dataplane.from_peer(peer, packet, &mut self.ports);
                }
                Kind::Control => {
                    control.extend_from_slice(packet);
                    self.ports.note_native_port(peer, frame.reserved);
                }
            }
            packets += 1;
            consumed += frame.len;
        };
        self.received(peer, consumed, packets, data);
        result
    }

    fn receive_datagrams(
        &mut self,
        peer: PeerId,
        connection: &quinn::Connection,
        first: bytes::Bytes,
        control: &mut Vec<u8>,
    ) {
        self.begin();
        let mut total = 0;
        let mut datagram = first;
        loop {
            total += datagram.len();
            self.datagram(peer, &datagram, control);
            if total >= BYTES_PER_WAKE {
                break;
            }
            match poll_once(connection.read_datagram()) {
                Some(Ok(next)) => datagram = next,
                // Its end, if it is one, is found at the next look.
                Some(Err(_)) | None => break,
            }
        }
        self.finish();
    }

    fn datagram(&mut self, peer: PeerId, datagram: &[u8], control: &mut Vec<u8>) {
        let Ok(Some(frame)) = frame::next_frame(datagram) else {
            if let Some(link) = self.ports.link(peer) {
                link.stats.bad_datagrams.add(1);
                link.stats.rx_bytes.add(datagram.len() as u64);
            }
            return;
        };
        // The data plane changes packets in place, and a datagram is not ours to change.
        let Some(packet) = self.stream_buffer.get_mut(..frame.len) else {
            return;
        };
        packet.copy_from_slice(&datagram[..frame.len]);
        match frame.kind {
            Kind::Data => self.dataplane.from_peer(peer, packet, &mut self.ports),
            Kind::Control => control.extend_from_slice(packet),
        }
        self.received(peer, datagram.len(), 1, frame.kind == Kind::Data);
    }

    pub(super) fn received(&mut self, peer: PeerId, bytes: usize, packets: u64, data: bool) {
        if let Some(link) = self.ports.link(peer) {
            link.stats.rx_bytes.add(bytes as u64);
            link.stats.rx_packets.add(packets);
        }
        if data {
            self.ports.heard(peer);
        }
    }

    fn receive_host(&mut self, identity: IdentityId, device: &AsyncDevice) -> Look {
        let mut queue = std::mem::take(&mut self.from_hosts);
        self.begin();
        let look = self.read_ahead(identity, device, &mut queue);
        let mut total = 0;
        while total < BYTES_PER_WAKE
            && let Some((identity, raw)) = queue.pop()
        {
            total += raw.len();
            self.host_packet(identity, raw);
            if raw.len() >= super::LARGE_BATCH {
                // The next one would only wait behind this.
                self.ports.flush_large();
            }
        }
        self.finish();
        let is_empty = queue.is_empty();
        self.from_hosts = queue;
        match look {
            Look::Drained if !is_empty => Look::More,
            look => look,
        }
    }

    /// Put what the interface has behind what was read before, but for packets of sparse flows: those go at once.
    fn read_ahead(
        &mut self,
        identity: IdentityId,
        device: &AsyncDevice,
        queue: &mut ReadAhead<IdentityId>,
    ) -> Look {
        let mut any_sparse = false;
        let mut look = Look::More;
        for _ in 0..READS_PER_WAKE {
            let Some(room) = queue.room(super::RAW_LEN) else {
                break;
            };
            let len = match device.try_recv(room) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    look = Look::Drained;
                    break;
                }
                Err(error) => {
                    look = Look::Closed(LinkClosed::new(error.to_string()));
                    break;
                }
            };
            let raw = room.get_mut(..len).unwrap_or_default();
            let packet = raw.get(tun_rs::VIRTIO_NET_HDR_LEN..).unwrap_or_default();
            if self.flows.is_sparse(packet, self.ports.now) {
                any_sparse = true;
                self.ports.sparse = true;
                self.host_packet(identity, raw);
                self.ports.sparse = false;
            } else {
                queue.push(identity, 0, len);
            }
        }
        if any_sparse {
            self.ports.flush();
        }
        look
    }

    /// Run what an interface gave.
    fn host_packet(&mut self, identity: IdentityId, raw: &mut [u8]) {
        let (header, packet) = match offload::read(raw) {
            Some(Offloaded::Packet(packet)) => {
                // Also one that is too long, whoever raised the interface's MTU: the data plane tells the sender what fits.
                return self.dataplane.from_host(identity, packet, &mut self.ports);
            }
            Some(Offloaded::Partial(header, segment, packet)) => {
                if self
                    .dataplane
                    .from_host_partial(identity, packet, segment, &mut self.ports)
                {
                    return;
                }
                (header, packet)
            }
            Some(Offloaded::Special(header, packet)) => (header, packet),
            None => {
                self.bad_host_packets += 1;
                return;
            }
        };
        if !offload::is_segmented(&header) {
            match offload::complete(&header, packet) {
                Ok(()) => self.dataplane.from_host(identity, packet, &mut self.ports),
                Err(_) => self.bad_host_packets += 1,
            }
            return;
        }
        let mut segments = std::mem::take(&mut self.segments);
        if segments.packets.is_empty() {
            segments.packets = vec![vec![0; super::SEGMENT_LEN]; super::SEGMENTS];
        }
        match offload::cut(header, packet, &mut segments.packets, &mut segments.lengths) {
            Ok(count) => {
                let packets = segments.packets.iter_mut().zip(&segments.lengths);
                for (packet, &len) in packets.take(count) {
                    self.dataplane
                        .from_host(identity, &mut packet[..len], &mut self.ports);
                }
            }
            Err(error) => match too_long(raw) {
                Some(packet) => self.dataplane.from_host(identity, packet, &mut self.ports),
                None => {
                    self.bad_host_packets += 1;
                    tracing::debug!(identity = identity.0, %error, "unusable packet from the interface");
                }
            },
        }
        self.segments = segments;
    }
}

/// The IPv6 packet that was read, if it is longer than ours may be: somebody raised the interface's MTU.
fn too_long(raw: &mut [u8]) -> Option<&mut [u8]> {
    let packet = raw.get_mut(tun_rs::VIRTIO_NET_HDR_LEN..)?;
    let &[version, _, _, _, high, low, ..] = &*packet else {
        return None;
    };
    let len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    let is_ours = version >> 4 == 6 && len > usize::from(MTU);
    is_ours.then(|| packet.get_mut(..len)).flatten()
}

/// What `future` has ready now.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
