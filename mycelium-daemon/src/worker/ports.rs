//! The data plane's view of links and host interfaces, and the flushing of what a batch left in them.

use mycelium_core::addr::Subnet;
use mycelium_core::dataplane::{Ports, Segmentation};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::native::{BodyKind, CloseCode, DataClass};
use mycelium_core::time::Time;
use tokio::sync::mpsc;

use super::coalesce::Coalescer;
use super::host_port::HostPort;
use super::native::Native;
use crate::control::{ControlInput, Hint};
use crate::link::LinkClosed;
use crate::link::port::{LinkPort, Transmit};
use crate::link::unreachable::NetworkError;

/// Source and destination in a data packet (wire spec §4.2).
const ADDRESSES: std::ops::Range<usize> = 8..40;

/// Links and interfaces of the worker. Both tables are sorted by id: ids grow, tables are small, and a scan of packets for
/// one link hits the same entry again.
pub(crate) struct WorkerPorts {
    links: Vec<LinkPort>,
    last_link: usize,
    hosts: Vec<HostPort>,
    /// By interfaces that are gone.
    hosts_refused: u64,
    touched_links: Vec<PeerId>,
    /// Packets for interfaces.
    to_hosts: Coalescer,
    pub(crate) now: Time,
    /// Native links, once there is a UDP socket.
    pub(super) native: Option<Box<Native>>,
    /// The addresses of the packet that is being forwarded, if its body is known to be a session's.
    session: Option<[u8; ADDRESSES.end - ADDRESSES.start]>,
    /// What is sent now is of a sparse flow.
    pub(super) sparse: bool,
    control: mpsc::Sender<ControlInput>,
    hints: mpsc::Sender<Hint>,
}

impl WorkerPorts {
    pub(crate) fn new(control: mpsc::Sender<ControlInput>, hints: mpsc::Sender<Hint>) -> Self {
        Self {
            links: Vec::new(),
            last_link: 0,
            hosts: Vec::new(),
            hosts_refused: 0,
            touched_links: Vec::new(),
            to_hosts: Coalescer::default(),
            now: Time::ZERO,
            native: None,
            session: None,
            sparse: false,
            control,
            hints,
        }
    }

    pub(crate) fn link(&mut self, peer: PeerId) -> Option<&mut LinkPort> {
        let is_last = self
            .links
            .get(self.last_link)
            .is_some_and(|link| link.peer == peer);
        if !is_last {
            self.last_link = self
                .links
                .binary_search_by_key(&peer, |link| link.peer)
                .ok()?;
        }
        self.links.get_mut(self.last_link)
    }

    pub(crate) fn links(&mut self) -> &mut [LinkPort] {
        &mut self.links
    }

    /// Add a link, unless one has its id.
    pub(crate) fn insert_link(&mut self, link: LinkPort) {
        if let Err(index) = self
            .links
            .binary_search_by_key(&link.peer, |link| link.peer)
        {
            self.links.insert(index, link);
        }
    }

    pub(crate) fn host(&mut self, identity: IdentityId) -> Option<&mut HostPort> {
        let index = self
            .hosts
            .binary_search_by_key(&identity, |host| host.identity)
            .ok()?;
        self.hosts.get_mut(index)
    }

    pub(crate) fn insert_host(&mut self, host: HostPort) {
        match self
            .hosts
            .binary_search_by_key(&host.identity, |host| host.identity)
        {
            Ok(index) => self.hosts[index] = host,
            Err(index) => self.hosts.insert(index, host),
        }
    }

    /// Batches that interfaces did not take in full.
    pub(crate) fn host_refused(&self) -> u64 {
        self.hosts_refused + self.hosts.iter().map(|host| host.refused).sum::<u64>()
    }

    /// Take an interface down: dropping it closes the TUN.
    pub(crate) fn remove_host(&mut self, identity: IdentityId) {
        if let Ok(index) = self
            .hosts
            .binary_search_by_key(&identity, |host| host.identity)
        {
            let host = self.hosts.remove(index);
            self.hosts_refused += host.refused;
            if let Some(task) = host.task {
                task.abort();
            }
        }
    }

    /// Queue a control packet for a link. A full lane closes the link.
    pub(crate) fn send_control(&mut self, peer: PeerId, packet: &[u8]) {
        let now = self.now;
        let Some(link) = self.link(peer) else {
            return;
        };
        match link.push_control(packet, now) {
            Ok(()) => self.touch_link(peer),
            Err(overflow) => self.close_link(peer, LinkClosed::new(overflow.to_string()), true),
        }
    }

    /// Forget a link and tell whoever attached it; the control plane too if `tell_control`.
    pub(crate) fn close_link(&mut self, peer: PeerId, reason: LinkClosed, tell_control: bool) {
        let Ok(index) = self.links.binary_search_by_key(&peer, |link| link.peer) else {
            return;
        };
        let mut link = self.links.remove(index);
        tracing::debug!(peer = peer.0, %reason, "link closed");
        link.close_transport(&reason);
        if let (Transmit::Native(transmit), Some(native)) = (&link.transmit, &mut self.native) {
            native.close(transmit.link, CloseCode::Unwanted, self.now);
        }
        for task in &link.tasks {
            task.abort();
        }
        if let Some(closed) = link.closed.take() {
            // Whoever attached it may have lost interest.
            let _ = closed.send(reason);
        }
        if tell_control {
            let control = self.control.clone();
            match control.try_send(ControlInput::PeerDown { peer }) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(input)) => {
                    // One small task per dead link at most; it cannot be dropped, or its routes would stay.
                    tokio::task::spawn_local(async move {
                        let _ = control.send(input).await;
                    });
                }
            }
        }
    }

    /// Tell the control plane, now and then, that data arrives from `peer`.
    pub(crate) fn heard(&mut self, peer: PeerId) {
        let now = self.now;
        if self.link(peer).is_some_and(|link| link.is_heard_due(now)) {
            // A full queue means that it has enough to do; the next report is at most 200 ms away.
            let _ = self.hints.try_send(Hint::Heard { peer });
        }
    }

    /// Ask whether the peers that an error is about are still there.
    pub(crate) fn doubt(&mut self, errors: &[NetworkError]) {
        if let Some(native) = &mut self.native {
            for error in errors {
                native.on_error(*error, self.now);
            }
        }
        for link in &mut self.links {
            if errors.iter().any(|error| {
                matches!(error, NetworkError::Unreachable(remote) if link.is_doubtful(*remote, self.now))
            }) {
                // A full queue loses the hint; if the peer is gone, another error follows the next packet.
                let _ = self.hints.try_send(Hint::Doubt { peer: link.peer });
            }
        }
    }

    /// The two bytes of a control packet on a stream that tell where the peer takes native links.
    pub(super) fn note_native_port(&mut self, peer: PeerId, told: [u8; 2]) {
        let port = u16::from_be_bytes(told);
        if port == 0 {
            return;
        }
        let Ok(index) = self.links.binary_search_by_key(&peer, |link| link.peer) else {
            return;
        };
        let link = &mut self.links[index];
        // It does not change as long as the process at the other end lives, so what differs is ignored.
        if link.native_port.is_none()
            && let Some(native) = &self.native
            && native.tell_port(peer, port)
        {
            link.native_port = Some(port);
        }
    }

    /// From here on a packet of a native link is forwarded.
    pub(super) fn arrived(&mut self, class: DataClass, frame: &[u8]) {
        self.sparse = class.sparse;
        self.session = match class.body {
            BodyKind::Session => frame.get(ADDRESSES).and_then(|bytes| bytes.try_into().ok()),
            BodyKind::Other => None,
        };
    }

    /// To here.
    pub(super) fn arrived_none(&mut self) {
        self.session = None;
        self.sparse = false;
    }

    /// Write out what the batch left in outboxes and interfaces.
    pub(crate) fn flush(&mut self) {
        self.flush_links(|_| true);
        self.flush_hosts();
    }

    /// In the middle of a batch: write out what gains nothing by waiting for the rest of it.
    pub(super) fn flush_large(&mut self) {
        self.flush_links(|link| !link.gathers());
        self.flush_hosts();
    }

    fn flush_links(&mut self, which: impl Fn(&LinkPort) -> bool) {
        let now = self.now;
        let mut at = 0;
        while let Some(&peer) = self.touched_links.get(at) {
            let index = self.links.binary_search_by_key(&peer, |link| link.peer);
            if index.is_ok_and(|index| !which(&self.links[index])) {
                at += 1;
                continue;
            }
            self.touched_links.swap_remove(at);
            let Ok(index) = index else {
                continue;
            };
            let link = &mut self.links[index];
            link.touched = false;
            let result = match (&link.transmit, &mut self.native) {
                (Transmit::Native(_), Some(native)) => native.flush_link(link, now),
                _ => link.flush(now),
            };
            if let Err(reason) = result {
                self.close_link(peer, reason, true);
            }
        }
    }

    fn flush_hosts(&mut self) {
        let Self {
            hosts, to_hosts, ..
        } = self;
        to_hosts.drain(|identity, pieces| {
            if let Ok(index) = hosts.binary_search_by_key(&identity, |host| host.identity) {
                hosts[index].write(pieces);
            }
        });
    }

    /// Give back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        for link in &mut self.links {
            link.outbox.shrink();
        }
        self.to_hosts.shrink();
    }

    fn commit(&mut self, peer: PeerId, body: BodyKind) {
        let now = self.now;
        let class = DataClass {
            body,
            sparse: self.sparse,
        };
        if let Some(link) = self.link(peer) {
            link.outbox.commit_data(class, now);
            link.stats.tx_packets.add(1);
            if !link.touched {
                link.touched = true;
                self.touched_links.push(peer);
            }
        }
    }

    pub(crate) fn touch_link(&mut self, peer: PeerId) {
        if let Some(link) = self.link(peer)
            && !link.touched
        {
            link.touched = true;
            self.touched_links.push(peer);
        }
    }
}

impl Ports for WorkerPorts {
    fn peer_slot(&mut self, peer: PeerId, len: usize) -> Option<&mut [u8]> {
        let link = self.link(peer)?;
        let slot = link.outbox.reserve_data(len);
        if slot.is_none() {
            link.stats.dropped_full.add(1);
        }
        slot
    }

    fn commit_peer(&mut self, peer: PeerId) {
        let session = self.session;
        let Some(link) = self.link(peer) else {
            return;
        };
        // Other packets than the one that arrived, such as errors about it, are not a session's.
        let kind = match session {
            Some(addresses) if link.outbox.reserved().get(ADDRESSES) == Some(&addresses[..]) => {
                BodyKind::Session
            }
            _ => BodyKind::Other,
        };
        self.commit(peer, kind);
    }

    fn commit_peer_session(&mut self, peer: PeerId) {
        self.commit(peer, BodyKind::Session);
    }

    fn is_sparse(&self) -> bool {
        self.sparse
    }

    fn set_sparse(&mut self, sparse: bool) {
        self.sparse = sparse;
    }

    fn carries_whole(&self, peer: PeerId) -> bool {
        let index = self.links.binary_search_by_key(&peer, |link| link.peer);
        index.is_ok_and(|index| matches!(self.links[index].transmit, Transmit::Tcp(_)))
    }

    fn host_slot_whole(&mut self, identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.host_slot(identity, len)
    }

    fn commit_host_whole(&mut self, identity: IdentityId, segmentation: Segmentation) {
        self.to_hosts.commit_whole(identity, segmentation);
    }

    fn host_slot(&mut self, identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.host(identity)?;
        if self.to_hosts.slot(len).is_none() {
            self.flush_hosts();
        }
        self.to_hosts.slot(len)
    }

    fn commit_host(&mut self, identity: IdentityId) {
        let joins_udp = self.host(identity).is_some_and(|host| host.joins_udp);
        self.to_hosts.commit(identity, false, joins_udp);
    }

    fn commit_host_partial(&mut self, identity: IdentityId) {
        let joins_udp = self.host(identity).is_some_and(|host| host.joins_udp);
        self.to_hosts.commit(identity, true, joins_udp);
    }

    fn route_needed(&mut self, subnet: Subnet, from: Option<PeerId>) -> bool {
        self.hints
            .try_send(Hint::RouteNeeded { subnet, from })
            .is_ok()
    }
}
