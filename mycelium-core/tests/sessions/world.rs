//! Nodes on one wire. What a node sends arrives at the owner of its destination when the test says so.

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::sync::Arc;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig, Ports, Segmentation};
use mycelium_core::fib::{Fib, FibEntry, FibPublisher, Origin};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::session::view::{Protocol, SessionView};
use mycelium_core::time::{Duration, Time};
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};
use mycelium_core::wire::ipv6;

/// The link that everybody has.
pub(crate) const WIRE: PeerId = PeerId(1);

#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) asked: usize,
    /// Packets whose checksum is that of the pseudo-header.
    pub(crate) partial: Vec<Vec<u8>>,
    /// Super-packets that the host got, and how they are to be cut.
    pub(crate) whole: Vec<(Vec<u8>, Segmentation)>,
    /// The wire is a stream.
    pub(crate) is_stream: bool,
    slot: Vec<u8>,
}

impl Ports for Out {
    fn peer_slot(&mut self, _peer: PeerId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0xdd; len];
        Some(&mut self.slot)
    }

    fn commit_peer(&mut self, _peer: PeerId) {
        self.frames.push(std::mem::take(&mut self.slot));
    }

    fn host_slot(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0xdd; len];
        Some(&mut self.slot)
    }

    fn commit_host(&mut self, _identity: IdentityId) {
        self.packets.push(std::mem::take(&mut self.slot));
    }

    fn commit_host_partial(&mut self, _identity: IdentityId) {
        self.partial.push(std::mem::take(&mut self.slot));
    }

    fn carries_whole(&self, _peer: PeerId) -> bool {
        self.is_stream
    }

    fn host_slot_whole(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0xdd; len];
        Some(&mut self.slot)
    }

    fn commit_host_whole(&mut self, _identity: IdentityId, segmentation: Segmentation) {
        self.whole
            .push((std::mem::take(&mut self.slot), segmentation));
    }

    fn route_needed(&mut self, _subnet: Subnet, _from: Option<PeerId>) -> bool {
        self.asked += 1;
        true
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: SecretKey,
    pub(crate) public: PublicKey,
    pub(crate) address: Ipv6Addr,
    pub(crate) config: SessionConfig,
    pub(crate) plane: DataPlane,
    pub(crate) out: Out,
    publisher: FibPublisher,
    fib: Fib,
    incarnation: u8,
}

impl Node {
    fn start(key: SecretKey, config: SessionConfig, fib: Fib, incarnation: u8) -> Self {
        let public = key.public_key();
        let publisher = FibPublisher::new(fib.clone());
        let plane_config = DataPlaneConfig {
            session: config.clone(),
            ..DataPlaneConfig::default()
        };
        let mut seed = public.0;
        seed[0] = incarnation;
        Self {
            plane: DataPlane::new(plane_config, publisher.reader(), seed),
            key,
            address: public.address(),
            public,
            config,
            out: Out::default(),
            publisher,
            fib,
            incarnation,
        }
    }

    /// How packets to `remote` go.
    pub(crate) fn view(&self, remote: Ipv6Addr) -> Option<SessionView> {
        let subnet = Subnet::containing(remote);
        let mut views = self.plane.sessions().into_iter();
        views.find(|view| view.subnet == subnet)
    }

    pub(crate) fn protocol(&self, remote: Ipv6Addr) -> Option<Protocol> {
        self.view(remote).map(|view| view.protocol)
    }

    /// Payloads of the packets that the host got.
    pub(crate) fn received(&mut self) -> Vec<Vec<u8>> {
        let packets = std::mem::take(&mut self.out.packets);
        packets
            .into_iter()
            .filter(|packet| packet[6] == 59)
            .map(|packet| packet[ipv6::HEADER_LEN..].to_vec())
            .collect()
    }
}

/// All nodes, and what is on the wire.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) wire: VecDeque<(Time, Vec<u8>)>,
    pub(crate) now: Time,
    pub(crate) latency: Duration,
    /// Frames longer than this do not arrive.
    pub(crate) mtu: usize,
}

pub(crate) fn prefer() -> SessionConfig {
    SessionConfig {
        policy: Policy::Prefer,
        has_aes: true,
        unix_epoch: Duration::from_secs(1_700_000_000),
        ..SessionConfig::default()
    }
}

impl World {
    /// Nodes with these settings; `Policy::Off` makes one that speaks v1 and says so.
    pub(crate) fn new(configs: Vec<SessionConfig>) -> Self {
        let keys: Vec<SecretKey> = (0..configs.len())
            .map(|n| SecretKey::from_bytes([u8::try_from(n).unwrap() + 7; 32]))
            .collect();
        let nodes = configs
            .into_iter()
            .zip(&keys)
            .map(|(config, key)| {
                let mut fib = Fib::new(5);
                fib.insert_origin(Origin {
                    id: IdentityId::NODE,
                    subnet: key.public_key().subnet(),
                    secret: key.clone(),
                });
                Node::start(key.clone(), config, fib, 0)
            })
            .collect();
        let mut world = Self {
            nodes,
            wire: VecDeque::new(),
            now: Time::from_millis(1_000_000),
            latency: Duration::from_millis(10),
            mtu: usize::MAX,
        };
        for of in 0..world.nodes.len() {
            for to in 0..world.nodes.len() {
                if of != to {
                    let speaks_v2 = world.nodes[to].config.policy != Policy::Off;
                    world.route(of, to, speaks_v2, true);
                }
            }
        }
        world
    }

    /// Give `of` a route to `to`.
    pub(crate) fn route(&mut self, of: usize, to: usize, speaks_v2: bool, direct: bool) {
        let key = self.nodes[to].public;
        let mut entry = FibEntry::new(WIRE, key);
        entry.speaks_v2 = speaks_v2;
        entry.direct = direct;
        let node = &mut self.nodes[of];
        node.fib.insert(key.subnet(), Arc::new(entry));
        node.publisher.publish(node.fib.clone());
        self.tick(of);
    }

    pub(crate) fn unroute(&mut self, of: usize, to: usize) {
        let subnet = self.nodes[to].public.subnet();
        let node = &mut self.nodes[of];
        node.fib.remove(subnet);
        node.publisher.publish(node.fib.clone());
        self.tick(of);
    }

    /// A node loses all it knew. Its clock may change.
    pub(crate) fn restart(&mut self, of: usize, unix_epoch: Duration) {
        let old = &self.nodes[of];
        let config = SessionConfig {
            unix_epoch,
            ..old.config.clone()
        };
        let next = Node::start(
            old.key.clone(),
            config,
            old.fib.clone(),
            old.incarnation + 1,
        );
        self.nodes[of] = next;
        self.tick(of);
    }

    /// A host's packet with `payload`, next header 59.
    pub(crate) fn packet(&self, from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; ipv6::HEADER_LEN];
        ipv6::write_header(
            packet.first_chunk_mut().unwrap(),
            u16::try_from(payload.len()).unwrap(),
            59,
            64,
            self.nodes[from].address,
            self.nodes[to].address,
        );
        packet.extend_from_slice(payload);
        packet
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        let mut packet = self.packet(from, to, payload);
        let node = &mut self.nodes[from];
        node.plane.begin_batch(self.now, &mut node.out);
        node.plane
            .from_host(IdentityId::NODE, &mut packet, &mut node.out);
        self.collect(from);
    }

    /// A host's packet with a partial checksum, or a super-packet; whether it was taken.
    pub(crate) fn send_partial(
        &mut self,
        from: usize,
        packet: &[u8],
        segment: Option<u16>,
    ) -> bool {
        let node = &mut self.nodes[from];
        node.plane.begin_batch(self.now, &mut node.out);
        let taken = node
            .plane
            .from_host_partial(IdentityId::NODE, packet, segment, &mut node.out);
        self.collect(from);
        taken
    }

    /// Give a frame to the node that it is for, or to nobody.
    pub(crate) fn deliver(&mut self, frame: &[u8]) {
        let Ok(header) = DataHeader::parse(frame) else {
            return;
        };
        let subnet = Subnet::containing(header.destination);
        let Some(to) = self
            .nodes
            .iter()
            .position(|node| node.public.subnet() == subnet)
        else {
            return;
        };
        let mut frame = frame.to_vec();
        let node = &mut self.nodes[to];
        node.plane.begin_batch(self.now, &mut node.out);
        node.plane.from_peer(WIRE, &mut frame, &mut node.out);
        self.collect(to);
    }

    /// Let `node` do what is due.
    pub(crate) fn tick(&mut self, of: usize) {
        let node = &mut self.nodes[of];
        node.plane.begin_batch(self.now, &mut node.out);
        self.collect(of);
    }

    fn collect(&mut self, of: usize) {
        let arrival = self.now + self.latency;
        for frame in std::mem::take(&mut self.nodes[of].out.frames) {
            if frame.len() <= self.mtu {
                self.wire.push_back((arrival, frame));
            }
        }
    }

    /// When anything happens next.
    fn next(&self) -> Option<Time> {
        let timers = self
            .nodes
            .iter()
            .filter_map(|node| node.plane.poll_timeout());
        timers.chain(self.wire.front().map(|(at, _)| *at)).min()
    }

    /// Run for `duration`; `bend` sees every frame that arrives and says what arrives instead.
    pub(crate) fn run_bent(
        &mut self,
        duration: Duration,
        mut bend: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>,
    ) {
        let end = self.now + duration;
        while let Some(next) = self.next()
            && next <= end
        {
            self.now = self.now.max(next);
            if self.wire.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, frame) = self.wire.pop_front().unwrap();
                for frame in bend(frame) {
                    self.deliver(&frame);
                }
            } else {
                for of in 0..self.nodes.len() {
                    self.tick(of);
                }
            }
        }
        self.now = end;
        for of in 0..self.nodes.len() {
            self.tick(of);
        }
    }

    pub(crate) fn run(&mut self, millis: u64) {
        self.run_bent(Duration::from_millis(millis), |frame| vec![frame]);
    }

    /// Node 0 and node 1 with a session, all quiet.
    pub(crate) fn connected(configs: Vec<SessionConfig>) -> Self {
        let mut world = Self::new(configs);
        world.send(0, 1, b"hello");
        world.run(100);
        assert_eq!(world.nodes[1].received(), [b"hello"]);
        world.send(1, 0, b"world");
        world.run(100);
        assert_eq!(world.nodes[0].received(), [b"world"]);
        world
    }

    pub(crate) fn address(&self, of: usize) -> Ipv6Addr {
        self.nodes[of].address
    }
}

/// Whether a frame is a handshake unit.
pub(crate) fn is_unit(frame: &[u8]) -> bool {
    frame[BODY_OFFSET..].starts_with(&[0; 4])
}

/// A data packet whose body is `body_len` zero bytes.
pub(crate) fn empty_frame(source: Ipv6Addr, destination: Ipv6Addr, body_len: u16) -> Vec<u8> {
    let mut frame = vec![0; BODY_OFFSET + usize::from(body_len)];
    let header = DataHeader {
        body_len,
        hop_limit: 60,
        source,
        destination,
    };
    header.write(frame.first_chunk_mut().unwrap());
    frame
}
