//! The bench the tests work at.

use std::net::Ipv6Addr;
use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use etherparse::PacketBuilder;
use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig, Ports};
use mycelium_core::fib::{Fib, FibEntry, FibPublisher, Origin};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::time::Time;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};

pub(crate) const NODE: IdentityId = IdentityId::NODE;

/// Somebody with a key.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    pub(crate) secret: SecretKey,
    pub(crate) public_key: PublicKey,
    pub(crate) address: Ipv6Addr,
    pub(crate) subnet: Subnet,
}

/// The `n`th party: always the same one.
pub(crate) fn party(n: u16) -> Party {
    let mut bytes = [0x42; 32];
    // Not at the ends, where clamping would make parties equal.
    bytes[8..10].copy_from_slice(&n.to_be_bytes());
    party_of(SecretKey::from_bytes(bytes))
}

/// The party of the recordings whose key counts up from `first`.
pub(crate) fn recorded_party(first: u8) -> Party {
    party_of(SecretKey::from_bytes(std::array::from_fn(|i| {
        first + u8::try_from(i).unwrap()
    })))
}

fn party_of(secret: SecretKey) -> Party {
    let public_key = secret.public_key();
    Party {
        address: public_key.address(),
        subnet: public_key.subnet(),
        secret,
        public_key,
    }
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) to_peers: Vec<(PeerId, Vec<u8>)>,
    pub(crate) to_hosts: Vec<(IdentityId, Vec<u8>)>,
    pub(crate) asked: Vec<(Subnet, Option<PeerId>)>,
    pub(crate) peers_full: bool,
    pub(crate) hosts_full: bool,
    pub(crate) control_full: bool,
    /// Peers are behind streams.
    pub(crate) streams: bool,
    /// What is handled is of a sparse flow.
    pub(crate) sparse: bool,
    /// Whether each of `to_peers` was.
    pub(crate) marks: Vec<bool>,
    slot: Vec<u8>,
}

impl Outbox {
    fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.slot.clear();
        // Whatever was there before must not shine through.
        self.slot.resize(len, 0xdd);
        &mut self.slot
    }
}

impl Ports for Outbox {
    fn peer_slot(&mut self, _peer: PeerId, len: usize) -> Option<&mut [u8]> {
        (!self.peers_full).then(|| self.reserve(len))
    }

    fn commit_peer(&mut self, peer: PeerId) {
        let packet = std::mem::take(&mut self.slot);
        self.to_peers.push((peer, packet));
        self.marks.push(self.sparse);
    }

    fn host_slot(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        (!self.hosts_full).then(|| self.reserve(len))
    }

    fn commit_host(&mut self, identity: IdentityId) {
        let packet = std::mem::take(&mut self.slot);
        self.to_hosts.push((identity, packet));
    }

    fn is_sparse(&self) -> bool {
        self.sparse
    }

    fn set_sparse(&mut self, sparse: bool) {
        self.sparse = sparse;
    }

    fn carries_whole(&self, _peer: PeerId) -> bool {
        self.streams
    }

    fn commit_host_partial(&mut self, identity: IdentityId) {
        self.commit_host(identity);
    }

    fn route_needed(&mut self, subnet: Subnet, from: Option<PeerId>) -> bool {
        if !self.control_full {
            self.asked.push((subnet, from));
        }
        !self.control_full
    }
}

/// One node's data plane with the control plane's side of its table.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) fib: Fib,
    publisher: FibPublisher,
    pub(crate) plane: DataPlane,
    pub(crate) out: Outbox,
    pub(crate) now: Time,
}

impl Lab {
    /// A node whose own identity is `node`.
    pub(crate) fn new(node: &Party) -> Self {
        Self::with_config(node, DataPlaneConfig::default())
    }

    pub(crate) fn with_config(node: &Party, config: DataPlaneConfig) -> Self {
        let mut fib = Fib::new(7);
        fib.insert_origin(origin(NODE, node));
        let publisher = FibPublisher::new(fib.clone());
        let plane = DataPlane::new(config, publisher.reader(), [9; 32]);
        let mut lab = Self {
            fib,
            publisher,
            plane,
            out: Outbox::default(),
            now: Time::from_millis(1_000_000),
        };
        lab.batch();
        lab
    }

    /// A node `party(1)` that reaches `party(2)` over peer 2.
    pub(crate) fn pair() -> (Self, Party, Party) {
        let (ours, theirs) = (party(1), party(2));
        let mut lab = Self::new(&ours);
        lab.route(&theirs, PeerId(2));
        (lab, ours, theirs)
    }

    /// Install a route and start a batch.
    pub(crate) fn route(&mut self, to: &Party, peer: PeerId) {
        self.fib
            .insert(to.subnet, Arc::new(FibEntry::new(peer, to.public_key)));
        self.publish();
    }

    /// The same, where the peer is the destination.
    pub(crate) fn route_direct(&mut self, to: &Party, peer: PeerId) {
        let mut entry = FibEntry::new(peer, to.public_key);
        entry.direct = true;
        self.fib.insert(to.subnet, Arc::new(entry));
        self.publish();
    }

    pub(crate) fn unroute(&mut self, to: &Party) {
        self.fib.remove(to.subnet);
        self.publish();
    }

    pub(crate) fn add_identity(&mut self, id: u32, party: &Party) {
        self.fib.insert_origin(origin(IdentityId(id), party));
        self.publish();
    }

    pub(crate) fn publish(&mut self) {
        self.publisher.publish(self.fib.clone());
        self.batch();
    }

    /// Publish without starting a batch.
    pub(crate) fn publish_only(&mut self) {
        self.publisher.publish(self.fib.clone());
    }

    pub(crate) fn batch(&mut self) {
        self.plane.begin_batch(self.now, &mut self.out);
    }

    pub(crate) fn advance(&mut self, millis: u64) {
        self.now = self.now + std::time::Duration::from_millis(millis);
        self.batch();
    }

    pub(crate) fn host_sends(&mut self, packet: &[u8]) {
        self.identity_sends(NODE, packet);
    }

    pub(crate) fn identity_sends(&mut self, identity: IdentityId, packet: &[u8]) {
        self.plane
            .from_host(identity, &mut packet.to_vec(), &mut self.out);
    }

    pub(crate) fn peer_sends(&mut self, peer: PeerId, frame: &[u8]) {
        self.plane
            .from_peer(peer, &mut frame.to_vec(), &mut self.out);
    }

    /// The only packet that went to a peer since the last call.
    pub(crate) fn one_to_peer(&mut self) -> (PeerId, Vec<u8>) {
        assert_eq!(self.out.to_peers.len(), 1, "packets to peers");
        self.out.to_peers.pop().unwrap()
    }

    /// The only packet that went to a host since the last call.
    pub(crate) fn one_to_host(&mut self) -> (IdentityId, Vec<u8>) {
        assert_eq!(self.out.to_hosts.len(), 1, "packets to hosts");
        self.out.to_hosts.pop().unwrap()
    }

    /// Check that nothing came out.
    pub(crate) fn expect_silence(&self) {
        assert_eq!(
            (self.out.to_peers.len(), self.out.to_hosts.len()),
            (0, 0),
            "something came out"
        );
    }

    /// A counter by name.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.plane
            .stats()
            .named()
            .find(|(other, _)| *other == name)
            .unwrap_or_else(|| panic!("no counter {name}"))
            .1
    }

    /// Every packet that went in has one verdict, or waits.
    pub(crate) fn check_conservation(&self) {
        let went_in = self.count("host_packets") + self.count("peer_packets");
        let verdicts: u64 = self
            .plane
            .stats()
            .named()
            .filter(|(name, _)| {
                name.starts_with("drop_")
                    || [
                        "sent",
                        "forwarded",
                        "delivered_remote",
                        "delivered_local",
                        "notices_delivered",
                    ]
                    .contains(name)
            })
            .map(|(_, count)| count)
            .sum();
        assert_eq!(
            went_in,
            verdicts + self.plane.parked() as u64,
            "{:#?}",
            self.plane.stats()
        );
    }
}

fn origin(id: IdentityId, party: &Party) -> Origin {
    Origin {
        id,
        subnet: party.subnet,
        secret: party.secret.clone(),
    }
}

/// A UDP packet between hosts.
pub(crate) fn udp(from: Ipv6Addr, to: Ipv6Addr, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(from.octets(), to.octets(), hop_limit)
        .udp(1000, 2000)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// The same packet with another hop limit.
pub(crate) fn with_hop_limit(packet: &[u8], hop_limit: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[7] = hop_limit;
    packet
}

/// An address in the /64 of a party that is not its own.
pub(crate) fn neighbour_of(party: &Party) -> Ipv6Addr {
    Ipv6Addr::from_bits(party.subnet.network_address().to_bits() | 0x1234)
}

fn cipher(ours: &Party, theirs: &Party) -> Aes256Gcm {
    let secret = ours.secret.agree(&theirs.public_key).unwrap();
    Aes256Gcm::new_from_slice(secret.as_bytes()).unwrap()
}

/// A data packet from one party to another as any v1 node would seal it.
pub(crate) fn seal(from: &Party, to: &Party, hop_limit: u8, plaintext: &[u8]) -> Vec<u8> {
    seal_between(from, to, from.address, to.address, hop_limit, plaintext)
}

/// The same with outer addresses of the caller's choice.
pub(crate) fn seal_between(
    from: &Party,
    to: &Party,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    plaintext: &[u8],
) -> Vec<u8> {
    let nonce = [3; 12];
    let mut body = cipher(from, to)
        .encrypt(&Nonce::from(nonce), plaintext)
        .unwrap();
    body.extend_from_slice(&nonce);
    frame(source, destination, hop_limit, &body)
}

/// A data packet with this body.
pub(crate) fn frame(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    body: &[u8],
) -> Vec<u8> {
    let mut head = [0; BODY_OFFSET];
    DataHeader {
        body_len: u16::try_from(body.len()).unwrap(),
        hop_limit,
        source,
        destination,
    }
    .write(&mut head);
    [&head[..], body].concat()
}

/// A sealed packet between hosts.
pub(crate) fn sealed_packet(from: &Party, to: &Party, hop_limit: u8, packet: &[u8]) -> Vec<u8> {
    seal(from, to, hop_limit, &[&[1, 0, 0, 0], packet].concat())
}

/// Open a body (ciphertext ‖ tag ‖ nonce) between two parties.
pub(crate) fn open_body(one: &Party, other: &Party, body: &[u8]) -> Option<Vec<u8>> {
    let (sealed, nonce) = body.split_last_chunk::<12>()?;
    cipher(one, other)
        .decrypt(&Nonce::from(*nonce), sealed)
        .ok()
}

/// The header of a data packet, and its plaintext.
pub(crate) fn open(one: &Party, other: &Party, frame: &[u8]) -> (DataHeader, Vec<u8>) {
    let header = DataHeader::parse(frame).unwrap();
    let plaintext = open_body(one, other, &frame[BODY_OFFSET..]).expect("opens");
    (header, plaintext)
}
