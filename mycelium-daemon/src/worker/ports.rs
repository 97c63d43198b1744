//! The data plane's view of links and host interfaces, and the flushing of what a batch left in them.

use std::net::SocketAddr;

use mycelium_core::addr::Subnet;
use mycelium_core::dataplane::Ports;
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::time::Time;
use tokio::sync::mpsc;

use super::host_port::{HostBuffers, HostPort};
use crate::clock;
use crate::control::{ControlInput, Hint};
use crate::link::LinkClosed;
use crate::link::port::LinkPort;

/// Links and interfaces of the worker. Both tables are sorted by id: ids grow, tables are small, and a scan of packets for
/// one link hits the same entry again.
pub(crate) struct WorkerPorts {
    links: Vec<LinkPort>,
    last_link: usize,
    hosts: Vec<HostPort>,
    /// By interfaces that are gone.
    hosts_refused: u64,
    touched_links: Vec<PeerId>,
    touched_hosts: Vec<IdentityId>,
    pub(crate) host_buffers: HostBuffers,
    pub(crate) now: Time,
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
            touched_hosts: Vec::new(),
            host_buffers: HostBuffers::default(),
            now: Time::ZERO,
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

    /// Ask the control plane to ask the peers at these addresses whether they are still there.
    pub(crate) fn doubt(&mut self, remotes: &[SocketAddr]) {
        self.now = clock::now();
        for link in &mut self.links {
            if remotes
                .iter()
                .any(|remote| link.is_doubtful(*remote, self.now))
            {
                // A full queue loses the hint; if the peer is gone, another error follows the next packet.
                let _ = self.hints.try_send(Hint::Doubt { peer: link.peer });
            }
        }
    }

    /// Write out what the batch left in outboxes and interfaces.
    pub(crate) fn flush(&mut self) {
        let now = self.now;
        while let Some(peer) = self.touched_links.pop() {
            let Some(link) = self.link(peer) else {
                continue;
            };
            link.touched = false;
            if let Err(reason) = link.flush(now) {
                self.close_link(peer, reason, true);
            }
        }
        while let Some(identity) = self.touched_hosts.pop() {
            let index = self
                .hosts
                .binary_search_by_key(&identity, |host| host.identity);
            if let Ok(index) = index {
                let host = &mut self.hosts[index];
                host.touched = false;
                host.flush(&mut self.host_buffers);
            }
        }
    }

    /// Give back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        for link in &mut self.links {
            link.outbox.shrink();
        }
        self.host_buffers.shrink();
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
        let now = self.now;
        if let Some(link) = self.link(peer) {
            link.outbox.commit_data(now);
            link.stats.tx_packets.add(1);
            if !link.touched {
                link.touched = true;
                self.touched_links.push(peer);
            }
        }
    }

    fn host_slot(&mut self, identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        let index = self
            .hosts
            .binary_search_by_key(&identity, |host| host.identity)
            .ok()?;
        Some(self.hosts[index].slot(len, &mut self.host_buffers))
    }

    fn commit_host(&mut self, identity: IdentityId) {
        if let Some(host) = self.host(identity) {
            host.commit();
            if !host.touched {
                host.touched = true;
                self.touched_hosts.push(identity);
            }
        }
    }

    fn route_needed(&mut self, subnet: Subnet, from: Option<PeerId>) -> bool {
        self.hints
            .try_send(Hint::RouteNeeded { subnet, from })
            .is_ok()
    }
}
