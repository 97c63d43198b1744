//! Native links (docs/protocol.md §15) in the data worker: [`NativeEndpoint`] decides, this drives it.
//!
//! ```text
//!   UDP sockets ──► receive_udp ──► NativeEndpoint ──► DataPlane::from_peer        data, in place
//!        ▲               │              │    ▲
//!        │               └─ QUIC's ─►   │    └── control lanes, data lanes, dials, ICMP errors, time
//!        │                  Inbox       ▼
//!        └──────── drive, flush_link ◄──┴──► control thread, manager of peers      packets, links that come and go
//! ```

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::io::PeerId;
use mycelium_core::native::{
    CloseCode, DATA_HEADROOM, Event, LinkId, MAX_EVENTS, NativeEndpoint, NativeStats, Received,
    Sealed, is_native, is_sparse,
};
use mycelium_core::time::{Duration, Time};
use quinn::udp::{RecvMeta, Transmit};
use tokio::sync::{Notify, mpsc, oneshot};

use super::read_ahead::ReadAhead;
use super::receive::{BYTES_PER_WAKE, ControlLane, Look};
use super::{Shared, Worker};
use crate::clock;
use crate::link::native::{NativeError, PeerNews, Released, established};
use crate::link::outbox::Stage;
use crate::link::port::{LinkPort, Transmit as LinkTransmit};
use crate::link::udp_socket::{FULL_PAUSE, UdpReader, UdpSender, UdpSocket};
use crate::link::unreachable::NetworkError;
use crate::link::{Established, LinkClosed};

/// Buffers that one call to the system fills at most, each with datagrams of one sender.
const BUFFERS: usize = 4;
const BUFFER_LEN: usize = 64 << 10;
/// Bytes of the longest batch that the system takes, over IPv4.
const MAX_BATCH: usize = 65_507;
/// So many control packets of one link wait for the control thread before the link is held: what then comes is not
/// acknowledged, so it comes again.
const CONTROL_HIGH: usize = 1024;
/// A held link goes on when no more than this are left.
const CONTROL_LOW: usize = 256;
/// Room for what the endpoint took before it was told to hold, and what closes a gap. One more ends the link: they were
/// acknowledged.
const CONTROL_QUEUE: usize = CONTROL_HIGH + MAX_EVENTS + 1024;
/// Control packets taken from that queue at a time.
const CONTROL_BATCH: usize = 64;
/// Addresses for which we remember under which of ours they know us.
const MAX_LOCALS: usize = 4096;
/// How long a socket that refused a batch gets single datagrams.
const SINGLE_FOR: Duration = Duration::from_secs(10);
/// First byte of a datagram that was handled before its turn. None of ours starts so, and none of QUIC's: its fixed bit is set.
const TAKEN: u8 = 0;

/// All native links of the node.
pub(super) struct Native {
    endpoint: NativeEndpoint,
    v4: Option<Sender>,
    v6: Option<Sender>,
    links: BTreeMap<LinkId, Slot>,
    /// The link that brought data last: packets come in runs.
    last: Option<(LinkId, PeerId)>,
    /// Which of our addresses somebody sent to, and expects answers from.
    locals: BTreeMap<SocketAddr, IpAddr>,
    news: mpsc::Sender<PeerNews>,
    datagram: Vec<u8>,
    port: u16,
    sockets: Vec<Arc<UdpSocket>>,
}

struct Sender {
    udp: UdpSender,
    single_until: Time,
}

/// A link of the endpoint, or an attempt to have one.
enum Slot {
    Dialling(oneshot::Sender<Result<Established, NativeError>>),
    Up {
        peer: Option<PeerId>,
        dialled: bool,
        control: mpsc::Sender<Vec<u8>>,
        /// Until it is attached.
        waiting: Option<mpsc::Receiver<Vec<u8>>>,
    },
}

/// A link that has just been given to a peer.
pub(super) struct Adopted {
    pub(super) remote: SocketAddr,
    pub(super) control: mpsc::Receiver<Vec<u8>>,
}

/// What sending one batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It is gone, or lost.
    Gone,
    /// There is no room; nothing was taken.
    Full,
    /// It is lost because it is longer than the interface takes.
    TooLarge,
}

impl Native {
    /// Read these sockets from now on. The tasks that do so live as long as the worker.
    pub(super) fn attach(
        worker: &Shared,
        endpoint: NativeEndpoint,
        sockets: Vec<Arc<UdpSocket>>,
        port: u16,
        news: mpsc::Sender<PeerNews>,
    ) -> io::Result<()> {
        let mut native = Self {
            endpoint,
            v4: None,
            v6: None,
            links: BTreeMap::new(),
            last: None,
            locals: BTreeMap::new(),
            news,
            datagram: Vec::new(),
            port,
            sockets: Vec::new(),
        };
        for socket in &sockets {
            let sender = Sender {
                udp: socket.sender()?,
                single_until: Time::ZERO,
            };
            let is_v4 = socket.is_ipv4()?;
            let reader = socket.divert()?;
            let index = worker.borrow_mut().add_read_ahead();
            tokio::task::spawn_local(read_udp(Rc::clone(worker), reader, index));
            *(if is_v4 {
                &mut native.v4
            } else {
                &mut native.v6
            }) = Some(sender);
        }
        native.sockets = sockets;
        let mut shared = worker.borrow_mut();
        shared.ports.native = Some(Box::new(native));
        Ok(())
    }

    /// QUIC datagrams dropped because QUIC did not take them in time.
    pub(super) fn quic_dropped(&self) -> u64 {
        self.sockets
            .iter()
            .map(|socket| socket.inbox.dropped())
            .sum()
    }

    pub(super) fn stats(&self) -> NativeStats {
        self.endpoint.stats()
    }

    /// Control packets that other ends have not acknowledged.
    pub(super) fn control_waiting(&self) -> usize {
        let links = self.endpoint.links(clock::now());
        links.map(|link| link.control_waiting).sum()
    }

    /// Where we take native links.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn dial(
        &mut self,
        remote: SocketAddr,
        key: Option<PublicKey>,
        reply: oneshot::Sender<Result<Established, NativeError>>,
        now: Time,
    ) {
        let family = if remote.is_ipv4() { &self.v4 } else { &self.v6 };
        if family.is_none() {
            let _ = reply.send(Err(NativeError::NoFamily));
            return;
        }
        // Attempts that nobody waits for any more.
        let given_up: Vec<_> = self
            .links
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Dialling(reply) if reply.is_closed()))
            .map(|(&link, _)| link)
            .collect();
        for link in given_up {
            self.close(link, CloseCode::Unwanted, now);
        }
        // It may have been set since.
        if let Ok(unix) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.endpoint.set_wall_clock(unix, now);
        }
        // Where somebody was answered from before may lead nowhere now.
        self.locals.remove(&remote);
        let link = self.endpoint.dial(remote, key, now);
        self.links.insert(link, Slot::Dialling(reply));
    }

    /// End a link and forget it.
    pub(super) fn close(&mut self, link: LinkId, code: CloseCode, now: Time) {
        self.forget(link);
        self.endpoint.close(link, code, now);
    }

    fn forget(&mut self, link: LinkId) -> Option<Slot> {
        self.last = self.last.filter(|(last, _)| *last != link);
        self.links.remove(&link)
    }

    /// Give a link to `peer`; `None`: it is gone.
    pub(super) fn adopt(&mut self, link: LinkId, peer: PeerId, now: Time) -> Option<Adopted> {
        let remote = self.endpoint.link(link, now)?.address;
        match self.links.get_mut(&link)? {
            Slot::Up {
                peer: owner @ None,
                waiting,
                ..
            } => {
                let control = waiting.take()?;
                *owner = Some(peer);
                Some(Adopted { remote, control })
            }
            _ => None,
        }
    }

    /// Tell the manager of peers that a node takes native links. `false`: later, perhaps.
    pub(super) fn tell_port(&self, peer: PeerId, port: u16) -> bool {
        let news = PeerNews::SpeaksNative { peer, port };
        self.news.try_send(news).is_ok()
    }

    pub(super) fn shutdown(&mut self, now: Time) {
        self.endpoint.shutdown(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.endpoint.poll_timeout()
    }

    pub(super) fn on_error(&mut self, error: NetworkError, now: Time) {
        match error {
            NetworkError::Unreachable(remote) => self.endpoint.on_unreachable(remote, now),
            NetworkError::TooLarge(remote) => self.endpoint.on_too_large(remote, now),
        }
    }

    /// The host has lost these addresses, or, if `paths`, has others, or other routes: links go on from where they are now.
    pub(super) fn on_network_change(&mut self, vanished: &[IpAddr], paths: bool, now: Time) {
        self.locals.retain(|_, local| !vanished.contains(local));
        if paths {
            // Who dialled us keeps the address that it dialled; whom we dialled shall see the one of the best route.
            for (&link, slot) in &self.links {
                if let Slot::Up { dialled: true, .. } = slot
                    && let Some(link) = self.endpoint.link(link, now)
                {
                    self.locals.remove(&link.address);
                }
            }
        }
        self.endpoint.on_network_change(now);
    }

    fn note_local(&mut self, remote: SocketAddr, local: Option<IpAddr>) {
        let Some(local) = local else {
            return;
        };
        if self.locals.get(&remote) == Some(&local) {
            return;
        }
        if self.locals.len() >= MAX_LOCALS {
            // Links learn theirs again with the next datagram.
            self.locals.clear();
        }
        self.locals.insert(remote, local);
    }

    /// Send what the endpoint itself has to say.
    fn send_control(&mut self, now: Time) {
        let mut datagram = std::mem::take(&mut self.datagram);
        while let Some(remote) = self.endpoint.poll_transmit(now, &mut datagram) {
            // What a full socket refuses is repeated by the endpoint.
            if self.send(remote, &datagram, None, now) == Sent::TooLarge {
                self.endpoint.on_too_large(remote, now);
            }
        }
        self.datagram = datagram;
    }

    /// Send one datagram, or a batch of equally long ones of which the last may be shorter.
    fn send(
        &mut self,
        remote: SocketAddr,
        contents: &[u8],
        segment: Option<usize>,
        now: Time,
    ) -> Sent {
        let sender = if remote.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        let Some(sender) = sender else {
            return Sent::Gone;
        };
        let mut transmit = Transmit {
            destination: remote,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: self.locals.get(&remote).copied(),
        };
        let mut result = sender.udp.send(&transmit);
        if transmit.src_ip.is_some() && result.as_ref().is_err_and(|error| !is_full(error)) {
            // Perhaps the address that it knew us by is no longer ours.
            self.locals.remove(&remote);
            transmit.src_ip = None;
            result = sender.udp.send(&transmit);
        }
        let error = match result {
            Ok(()) => return Sent::Gone,
            Err(error) if is_full(&error) => return Sent::Full,
            Err(error) => error,
        };
        let Some(segment) = segment else {
            return if is_too_large(&error) {
                Sent::TooLarge
            } else {
                tracing::trace!(%remote, %error, "datagram not sent");
                Sent::Gone
            };
        };
        // Or the interface takes no batches, or not of that length.
        sender.single_until = now + SINGLE_FOR;
        let mut result = Sent::Gone;
        for contents in contents.chunks(segment) {
            let single = Transmit {
                contents,
                segment_size: None,
                ..transmit.clone()
            };
            if sender.udp.send(&single).is_err_and(|e| is_too_large(&e)) {
                result = Sent::TooLarge;
            }
        }
        result
    }

    fn max_segments(&mut self, remote: SocketAddr, now: Time) -> usize {
        let sender = if remote.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        let Some(sender) = sender else {
            return 1;
        };
        if sender.udp.max_segments() == 1 && now >= sender.single_until {
            sender.udp.forgive();
            sender.single_until = now + SINGLE_FOR;
        }
        sender.udp.max_segments()
    }

    /// Send what waits on a link: control packets go to the endpoint, data packets are sealed where they lie.
    ///
    /// # Errors
    /// When the link takes no more.
    pub(super) fn flush_link(&mut self, port: &mut LinkPort, now: Time) -> Result<(), LinkClosed> {
        let LinkTransmit::Native(transmit) = &mut port.transmit else {
            return Ok(());
        };
        let link = transmit.link;
        while let Some(packet) = port.outbox.next_control() {
            let len = packet.len();
            if let Err(error) = self.endpoint.send_control(link, packet, now) {
                return Err(LinkClosed::new(error.to_string()));
            }
            port.stats.tx_bytes.add(len as u64);
            port.outbox.advance_control(len);
        }
        self.send_control(now);
        port.stats.dropped_old.add(port.outbox.expire(now));
        if transmit.writer.at_work {
            return Ok(());
        }
        while port.outbox.data_len() > 0 {
            if !self.send_run(port, now) {
                if let LinkTransmit::Native(transmit) = &mut port.transmit {
                    transmit.writer.call();
                }
                break;
            }
        }
        Ok(())
    }

    /// Send the packets at the front of the data lane that make one batch. `false`: the socket is full.
    fn send_run(&mut self, port: &mut LinkPort, now: Time) -> bool {
        let LinkTransmit::Native(transmit) = &mut port.transmit else {
            return true;
        };
        let link = transmit.link;
        let max_frame = self.endpoint.max_frame(link).unwrap_or(0);
        let max_segments = self.max_segments(transmit.remote, now);
        let (mut bytes, mut count, mut segment) = (0, 0, 0);
        while let Some((len, stage)) = port.outbox.data_packet(count) {
            let is_first = count == 0;
            if !is_first && (len > segment || bytes + len > MAX_BATCH || count >= max_segments) {
                break;
            }
            match stage {
                Stage::Sealed => {}
                Stage::Dead => {
                    if is_first {
                        port.outbox.advance_data(len);
                        return true;
                    }
                    break;
                }
                Stage::Plain(_) if !is_first && len - DATA_HEADROOM > max_frame => break,
                Stage::Plain(class) => {
                    let buffer = &mut port.outbox.data_mut()[bytes..bytes + len];
                    match self.endpoint.seal_data(link, class, buffer, now) {
                        Ok(Sealed::Whole { to }) => {
                            transmit.remote = to;
                            port.outbox.set_stage(count, Stage::Sealed);
                        }
                        Ok(Sealed::Halves { to, first, second }) if is_first => {
                            let halves = [first.to_vec(), second.to_vec()];
                            for half in &halves {
                                if self.send(to, half, None, now) == Sent::TooLarge {
                                    self.endpoint.on_too_large(to, now);
                                }
                            }
                            port.stats.tx_bytes.add(len as u64);
                            port.outbox.advance_data(len);
                            return true;
                        }
                        Ok(Sealed::Halves { .. }) | Err(_) => {
                            port.stats.dropped_old.add(1);
                            port.outbox.set_stage(count, Stage::Dead);
                            continue;
                        }
                    }
                }
            }
            if is_first {
                segment = len;
            }
            bytes += len;
            count += 1;
            if len < segment {
                break;
            }
        }
        let remote = transmit.remote;
        let batch = (count > 1).then_some(segment);
        match self.send(remote, &port.outbox.data()[..bytes], batch, now) {
            Sent::Full => return false,
            Sent::Gone => port.stats.tx_bytes.add(bytes as u64),
            Sent::TooLarge => self.endpoint.on_too_large(remote, now),
        }
        port.outbox.advance_data(bytes);
        true
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

impl Worker {
    /// Carry out what the endpoint of native links wants, until it wants nothing more.
    pub(super) fn drive_native(&mut self) {
        let now = self.ports.now;
        loop {
            let Some(native) = &mut self.ports.native else {
                return;
            };
            native.send_control(now);
            let Some(event) = native.endpoint.poll_event() else {
                return;
            };
            self.on_native_event(event);
        }
    }

    fn on_native_event(&mut self, event: Event) {
        match event {
            Event::Up {
                link,
                remote_key,
                address,
                rtt,
                dialled,
            } => self.on_native_up(link, remote_key, address, rtt, dialled),
            Event::Down { link, reason } => {
                let slot = self.ports.native.as_mut().and_then(|n| n.forget(link));
                match slot {
                    Some(Slot::Dialling(reply)) => {
                        // Whoever dialled may have lost interest.
                        let _ = reply.send(Err(reason.into()));
                    }
                    Some(Slot::Up {
                        peer: Some(peer), ..
                    }) => {
                        let reason = LinkClosed::new(reason.to_string());
                        self.ports.close_link(peer, reason, true);
                        self.drained.notify_waiters();
                    }
                    Some(Slot::Up { peer: None, .. }) | None => {}
                }
            }
            Event::Control { link, packet } => self.on_native_control(link, packet),
            Event::PathChanged { link, address, .. } => {
                tracing::debug!(%link, %address, "native link: another path or size");
            }
            Event::Stray { address } => {
                // Told again if it is lost.
                if let Some(native) = &self.ports.native {
                    let _ = native.news.try_send(PeerNews::Stray(address));
                }
            }
            Event::Observed { .. } | Event::Rtt { .. } => {}
        }
    }

    fn on_native_up(
        &mut self,
        link: LinkId,
        remote_key: PublicKey,
        address: SocketAddr,
        rtt: Option<Duration>,
        dialled: bool,
    ) {
        let Some(native) = &mut self.ports.native else {
            return;
        };
        let (control, waiting) = mpsc::channel(CONTROL_QUEUE);
        let slot = Slot::Up {
            peer: None,
            dialled,
            control,
            waiting: Some(waiting),
        };
        let local = native.locals.get(&address).copied();
        let (made, released) = established(link, remote_key, address, local, rtt);
        // A link that nobody takes is closed because it is dropped.
        match native.links.insert(link, slot) {
            Some(Slot::Dialling(reply)) => drop(reply.send(Ok(made))),
            _ => drop(native.news.try_send(PeerNews::Inbound(Box::new(made)))),
        }
        tokio::task::spawn_local(close_if_released(self.me.clone(), link, released));
    }

    fn on_native_control(&mut self, link: LinkId, packet: Vec<u8>) {
        let now = self.ports.now;
        let Some(native) = &mut self.ports.native else {
            return;
        };
        let Some(Slot::Up { peer, control, .. }) = native.links.get(&link) else {
            return;
        };
        let (peer, len) = (*peer, packet.len());
        if control.try_send(packet).is_ok() {
            if CONTROL_QUEUE - control.capacity() >= CONTROL_HIGH {
                native.endpoint.hold_control(link, true);
            }
            if let Some(peer) = peer {
                self.received(peer, len, 1, false);
            }
            return;
        }
        match peer {
            Some(peer) => {
                let reason = LinkClosed::new("more control packets than can be handled");
                self.ports.close_link(peer, reason, true);
            }
            None => native.close(link, CloseCode::Overflow, now),
        }
    }

    fn add_read_ahead(&mut self) -> usize {
        self.from_sockets.push(ReadAhead::default());
        self.from_sockets.len() - 1
    }

    fn receive_udp(&mut self, reader: &UdpReader, index: usize) -> Look {
        let Some(ahead) = self.from_sockets.get_mut(index) else {
            return Look::Drained;
        };
        let mut ahead = std::mem::take(ahead);
        let look = self.receive_datagrams_of(reader, &mut ahead);
        self.from_sockets[index] = ahead;
        look
    }

    fn receive_datagrams_of(
        &mut self,
        reader: &UdpReader,
        ahead: &mut ReadAhead<RecvMeta>,
    ) -> Look {
        self.begin();
        let is_drained = self.read_datagrams_ahead(reader, ahead);
        let mut total = 0;
        let mut quic = false;
        while total < BYTES_PER_WAKE
            && let Some((meta, datagrams)) = ahead.pop()
        {
            total += meta.len;
            quic |= self.datagrams_of(reader, &meta, datagrams);
            if meta.len >= super::LARGE_BATCH {
                // The next ones would only hold it up.
                self.ports.flush();
            }
        }
        if quic {
            reader.inbox().wake();
        }
        self.finish();
        match is_drained && ahead.is_empty() {
            true => Look::Drained,
            false => Look::More,
        }
    }

    /// Put what the socket has behind what was read before, but for data of sparse flows: that goes at once. Whether that
    /// was all.
    fn read_datagrams_ahead(
        &mut self,
        reader: &UdpReader,
        ahead: &mut ReadAhead<RecvMeta>,
    ) -> bool {
        let mut any_sparse = false;
        let mut is_drained = false;
        let mut metas = [RecvMeta::default(); BUFFERS];
        loop {
            let count = if ahead.has_room(BUFFERS * BUFFER_LEN) {
                BUFFERS
            } else {
                1
            };
            let Some(room) = ahead.room(count * BUFFER_LEN) else {
                break;
            };
            let mut chunks = room.chunks_exact_mut(BUFFER_LEN);
            let mut buffers = std::array::from_fn::<_, BUFFERS, _>(|_| {
                IoSliceMut::new(chunks.next().unwrap_or_default())
            });
            let Some(received) = reader.receive(&mut buffers[..count], &mut metas[..count]) else {
                is_drained = true;
                break;
            };
            let received = metas.get(..received).unwrap_or_default();
            for (buffer, meta) in buffers.iter_mut().zip(received) {
                let datagrams = buffer.get_mut(..meta.len).unwrap_or_default();
                any_sparse |= self.take_sparse(meta, datagrams);
            }
            for (index, meta) in received.iter().enumerate() {
                ahead.push(*meta, index * BUFFER_LEN, meta.len.min(BUFFER_LEN));
            }
        }
        if any_sparse {
            self.ports.flush();
        }
        is_drained
    }

    /// Take the data of sparse flows out of the datagrams of one sender. Whether there was any.
    fn take_sparse(&mut self, meta: &RecvMeta, datagrams: &mut [u8]) -> bool {
        let is_sparse =
            |datagram: &&mut [u8]| datagram.first().is_some_and(|&first| is_sparse(first));
        let mut any = false;
        let datagrams = datagrams.chunks_mut(meta.stride.max(1));
        for datagram in datagrams.filter(is_sparse) {
            let Some(mut native) = self.ports.native.take() else {
                return false;
            };
            native.note_local(meta.addr, meta.dst_ip);
            self.native_datagram(&mut native, meta.addr, datagram);
            self.ports.native = Some(native);
            datagram[0] = TAKEN;
            any = true;
        }
        any
    }

    /// Datagrams of one sender, each of which is either protocol's. `true`: some are QUIC's.
    fn datagrams_of(&mut self, reader: &UdpReader, meta: &RecvMeta, datagrams: &mut [u8]) -> bool {
        // Away from the ports, which the data plane uses while a packet still belongs to the endpoint.
        let Some(mut native) = self.ports.native.take() else {
            return false;
        };
        let stride = meta.stride.max(1);
        let is_ours = |at: usize, all: &[u8]| all.get(at).is_some_and(|&first| is_native(first));
        let mut noted = false;
        let mut quic = false;
        let mut at = 0;
        while at < datagrams.len() {
            if is_ours(at, datagrams) {
                if !noted {
                    native.note_local(meta.addr, meta.dst_ip);
                    noted = true;
                }
                let end = (at + stride).min(datagrams.len());
                self.native_datagram(&mut native, meta.addr, &mut datagrams[at..end]);
                at = end;
                continue;
            }
            if datagrams[at] == TAKEN {
                at = (at + stride).min(datagrams.len());
                continue;
            }
            let start = at;
            while at < datagrams.len() && datagrams[at] != TAKEN && !is_ours(at, datagrams) {
                at = (at + stride).min(datagrams.len());
            }
            let quics = &datagrams[start..at];
            let meta = RecvMeta {
                len: quics.len(),
                ..*meta
            };
            reader.inbox().push(meta, quics);
            quic = true;
        }
        self.ports.native = Some(native);
        quic
    }

    fn native_datagram(&mut self, native: &mut Native, from: SocketAddr, datagram: &mut [u8]) {
        let now = self.ports.now;
        let len = datagram.len();
        let (link, peer) = match native.endpoint.handle_datagram(now, from, datagram) {
            Received::Nothing => return,
            Received::Data { link, class, frame } => {
                // Looked up by hand: the packet still belongs to the endpoint.
                let peer = match (native.last, native.links.get(&link)) {
                    (Some((last, peer)), _) if last == link => peer,
                    (
                        _,
                        Some(Slot::Up {
                            peer: Some(peer), ..
                        }),
                    ) => *peer,
                    _ => return,
                };
                self.ports.arrived(class, frame);
                self.dataplane.from_peer(peer, frame, &mut self.ports);
                self.ports.arrived_none();
                (link, peer)
            }
        };
        native.last = Some((link, peer));
        self.received(peer, len, 1, true);
    }
}

/// Read a UDP socket for ever.
async fn read_udp(worker: Shared, reader: UdpReader, index: usize) {
    let mut look = Look::Drained;
    loop {
        if let Look::Drained = look
            && let Err(error) = reader.readable().await
        {
            tracing::error!(%error, "UDP socket lost");
            return;
        }
        look = worker.borrow_mut().receive_udp(&reader, index);
        if let Look::More = look {
            tokio::task::yield_now().await;
        }
    }
}

/// Close a link that nobody wants: a dial given up, or an inbound link refused.
async fn close_if_released(
    worker: Weak<std::cell::RefCell<Worker>>,
    link: LinkId,
    released: Released,
) {
    // It is only ever dropped.
    let _ = released.await;
    let Some(worker) = worker.upgrade() else {
        return;
    };
    let mut worker = worker.borrow_mut();
    worker.begin();
    let now = worker.ports.now;
    if let Some(native) = &mut worker.ports.native
        && let Some(Slot::Up { peer: None, .. }) = native.links.get(&link)
    {
        native.close(link, CloseCode::Unwanted, now);
    }
    worker.finish();
}

/// Pass the control packets of a native link on, and have it go on when there is room again.
pub(super) async fn forward_control(
    worker: Shared,
    link: LinkId,
    mut packets: mpsc::Receiver<Vec<u8>>,
    lane: ControlLane,
) -> LinkClosed {
    let mut batch = Vec::new();
    while packets.recv_many(&mut batch, CONTROL_BATCH).await > 0 {
        lane.forward(batch.concat()).await;
        batch.clear();
        if packets.len() <= CONTROL_LOW
            && let Some(native) = &mut worker.borrow_mut().ports.native
        {
            native.endpoint.hold_control(link, false);
        }
    }
    LinkClosed::new("closed")
}

/// Go on sending where the socket was full.
pub(super) async fn write_native(worker: Shared, peer: PeerId, wake: Rc<Notify>) -> LinkClosed {
    loop {
        wake.notified().await;
        loop {
            tokio::time::sleep(FULL_PAUSE).await;
            let mut worker = worker.borrow_mut();
            worker.ports.now = clock::now();
            let Some(LinkPort {
                transmit: LinkTransmit::Native(native),
                ..
            }) = worker.ports.link(peer)
            else {
                return LinkClosed::new("forgotten");
            };
            native.writer.at_work = false;
            worker.ports.touch_link(peer);
            worker.ports.flush();
            let is_full = worker.ports.link(peer).is_some_and(|link| {
                matches!(&link.transmit, LinkTransmit::Native(native) if native.writer.at_work)
            });
            if !is_full {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
