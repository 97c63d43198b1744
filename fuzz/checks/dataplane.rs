//! A data plane at work: bytes decide what hosts and peers send, which routes come and go, and what is full.
//!
//! Checked after every step: each packet has one verdict or waits; what reaches a host is for that host and from somebody who
//! may send it; what leaves for a peer is one complete data packet.
use std::net::Ipv6Addr;
use std::sync::{Arc, LazyLock};

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::aead::AeadKey;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig, PendingLimits, Ports};
use mycelium_core::fib::{Fib, FibEntry, FibPublisher, Origin};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::time::{Duration, Time};
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};
use mycelium_core::wire::frame::{Kind, next_frame};
use mycelium_core::wire::ipv6::{self, Ipv6Packet};

/// Parties 0 and 1 are identities of the node under test, the others live elsewhere.
const PARTIES: usize = 5;
const LOCAL: usize = 2;

struct Party {
    secret: SecretKey,
    public_key: PublicKey,
    address: Ipv6Addr,
    subnet: Subnet,
}

static PARTY: LazyLock<[Party; PARTIES]> = LazyLock::new(|| {
    std::array::from_fn(|n| {
        let secret = SecretKey::from_bytes([0x40 + 8 * n as u8; 32]);
        let public_key = secret.public_key();
        Party {
            address: public_key.address(),
            subnet: public_key.subnet(),
            secret,
            public_key,
        }
    })
});

static KEYS: LazyLock<[[AeadKey; PARTIES]; PARTIES]> = LazyLock::new(|| {
    std::array::from_fn(|one| {
        std::array::from_fn(|other| {
            let secret = PARTY[one].secret.agree(&PARTY[other].public_key);
            AeadKey::v1(&secret.expect("not of low order"))
        })
    })
});

#[derive(Default)]
struct Outside {
    slot: Vec<u8>,
    full: u8,
    to_hosts: Vec<(IdentityId, Vec<u8>)>,
    to_peers: Vec<Vec<u8>>,
}

impl Ports for Outside {
    fn peer_slot(&mut self, _: PeerId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0xdd; len];
        (self.full & 1 == 0).then_some(&mut self.slot)
    }

    fn commit_peer(&mut self, _: PeerId) {
        self.to_peers.push(std::mem::take(&mut self.slot));
    }

    fn host_slot(&mut self, _: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0xdd; len];
        (self.full & 2 == 0).then_some(&mut self.slot)
    }

    fn commit_host(&mut self, identity: IdentityId) {
        self.to_hosts
            .push((identity, std::mem::take(&mut self.slot)));
    }

    fn commit_host_partial(&mut self, identity: IdentityId) {
        self.commit_host(identity);
    }

    fn route_needed(&mut self, subnet: Subnet, _: Option<PeerId>) -> bool {
        assert!(subnet.is_overlay());
        self.full & 4 == 0
    }
}

/// Takes decisions off the front of the input.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Some(bytes)
    }

    fn party(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) % PARTIES)
    }

    fn address(&mut self) -> Option<Ipv6Addr> {
        let choice = self.byte()?;
        let party = &PARTY[usize::from(choice) % PARTIES];
        Some(match choice >> 5 {
            0..4 => party.address,
            4 => Ipv6Addr::from_bits(party.subnet.network_address().to_bits() | 7),
            5 => Ipv6Addr::from_bits(0x04 << 120 | u128::from(self.byte()?) << 64),
            6 => Ipv6Addr::from_bits(0xff02 << 112 | 1),
            _ => Ipv6Addr::from_bits(u128::from(self.byte()?)),
        })
    }

    /// An IPv6 packet whose header is right but for what the input spoils.
    fn packet(&mut self) -> Option<Vec<u8>> {
        let (from, to) = (self.address()?, self.address()?);
        let (next, hops, spoil) = (self.byte()?, self.byte()?, self.byte()?);
        let payload = self.bytes()?;
        let mut packet = vec![0; ipv6::HEADER_LEN];
        let header = packet.first_chunk_mut()?;
        ipv6::write_header(header, payload.len() as u16, next, hops, from, to);
        packet.extend_from_slice(payload);
        if let Some(byte) = packet.get_mut(usize::from(spoil)) {
            *byte ^= 0x11;
        }
        Some(packet)
    }

    fn plaintext(&mut self) -> Option<Vec<u8>> {
        Some(match self.byte()? % 8 {
            0 => self.bytes()?.to_vec(),
            1 => [&[1, self.byte()?, 0, 0], self.bytes()?].concat(),
            2..5 => [&[1, 0, 0, 0], &self.packet()?[..]].concat(),
            _ => {
                let original = self.address()?;
                let mut message = self.packet()?;
                message.truncate(40);
                message[6] = 58;
                message.extend_from_slice(&[self.byte()? & 3, self.byte()? & 7, 0, 0, 0, 0, 0, 0]);
                let quote = match self.byte()? % 4 {
                    0 => self.bytes()?.to_vec(),
                    _ => {
                        let (one, other) = (self.party()?, self.party()?);
                        let inner = [&[1, 0, 0, 0], &self.packet()?[..]].concat();
                        seal(one, other, &inner)
                    }
                };
                [&[1, 2, 0, 0], &original.octets()[..], &message, &quote].concat()
            }
        })
    }
}

fn seal(one: usize, other: usize, plaintext: &[u8]) -> Vec<u8> {
    let mut body = plaintext.to_vec();
    let tag = KEYS[one][other].seal([5; 12], &[], &mut body);
    [&body[..], &tag, &[5; 12]].concat()
}

fn frame(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut head = [0; BODY_OFFSET];
    DataHeader {
        body_len: body.len() as u16,
        hop_limit,
        source,
        destination,
    }
    .write(&mut head);
    [&head[..], body].concat()
}

fn config() -> DataPlaneConfig {
    let limits = PendingLimits {
        subnets: 4,
        subnets_per_arrival: 3,
        packets_per_subnet: 4,
        bytes_per_subnet: 1_000,
        bytes_per_arrival: 1_500,
        bytes: 2_000,
        lifetime: Duration::from_secs(4),
    };
    DataPlaneConfig {
        keys: 3,
        pending_host: limits,
        pending_transit: limits,
        pending_inbound: limits,
        ..DataPlaneConfig::default()
    }
}

fn origin(n: usize) -> Origin {
    Origin {
        id: IdentityId(n as u32),
        subnet: PARTY[n].subnet,
        secret: PARTY[n].secret.clone(),
    }
}

fn play(choices: &mut Choices<'_>) -> Option<()> {
    let mut fib = Fib::new(1);
    for n in 0..LOCAL {
        fib.insert_origin(origin(n));
    }
    let publisher = FibPublisher::new(fib.clone());
    let mut plane = DataPlane::new(config(), publisher.reader(), [1; 32]);
    let mut outside = Outside::default();
    let mut now = Time::from_millis(1_000);
    plane.begin_batch(now, &mut outside);
    loop {
        match choices.byte()? % 16 {
            0 => {
                let peer = PeerId(u32::from(choices.byte()? % 4));
                plane.from_peer(peer, &mut choices.bytes()?.to_vec(), &mut outside);
            }
            1 => {
                let peer = PeerId(u32::from(choices.byte()? % 4));
                let (source, destination) = (choices.address()?, choices.address()?);
                let mut packet = frame(source, destination, choices.byte()?, choices.bytes()?);
                plane.from_peer(peer, &mut packet, &mut outside);
            }
            2..7 => {
                let (one, other) = (choices.party()?, choices.party()?);
                let hops = choices.byte()?;
                let plaintext = choices.plaintext()?;
                let body = seal(one, other, &plaintext);
                let mut packet = frame(PARTY[one].address, PARTY[other].address, hops, &body);
                plane.from_peer(PeerId(3), &mut packet, &mut outside);
            }
            7 => {
                let identity = IdentityId(u32::from(choices.byte()? % 3));
                plane.from_host(identity, &mut choices.bytes()?.to_vec(), &mut outside);
            }
            8..11 => {
                let identity = IdentityId(u32::from(choices.byte()? % 3));
                plane.from_host(identity, &mut choices.packet()?, &mut outside);
            }
            11 => {
                let n = choices.party()?;
                let peer = PeerId(u32::from(choices.byte()? % 4));
                let entry = Arc::new(FibEntry::new(peer, PARTY[n].public_key));
                fib.insert(PARTY[n].subnet, entry);
                publisher.publish(fib.clone());
                plane.begin_batch(now, &mut outside);
            }
            12 => {
                fib.remove(PARTY[choices.party()?].subnet);
                publisher.publish(fib.clone());
            }
            13 => {
                let n = choices.party()?;
                match n {
                    0..LOCAL => fib.remove_origin(PARTY[n].subnet),
                    _ => (0..LOCAL).for_each(|n| fib.insert_origin(origin(n))),
                }
                publisher.publish(fib.clone());
                plane.begin_batch(now, &mut outside);
            }
            14 => {
                now = now + Duration::from_millis(u64::from(choices.byte()?) * 20);
                plane.begin_batch(now, &mut outside);
                if let Some(at) = plane.poll_timeout() {
                    assert!(at > now, "a timeout that was handled is not due again");
                }
            }
            _ => {
                outside.full = choices.byte()?;
                plane.query_failed(PARTY[choices.party()?].subnet, &mut outside);
            }
        }
        verify(&plane, &mut outside);
    }
}

fn verify(plane: &DataPlane, outside: &mut Outside) {
    let went_in = plane.stats().host_packets + plane.stats().peer_packets;
    let verdicts: u64 = plane
        .stats()
        .named()
        .filter(|(name, _)| {
            let done = [
                "sent",
                "forwarded",
                "delivered_remote",
                "delivered_local",
                "notices_delivered",
            ];
            name.starts_with("drop_") || done.contains(name)
        })
        .map(|(_, count)| count)
        .sum();
    assert_eq!(went_in, verdicts + plane.parked() as u64);
    assert!(plane.parked_bytes() <= 3 * 2_000);
    assert!(plane.key_counts().0 <= 3);
    for (identity, packet) in outside.to_hosts.drain(..) {
        let view = Ipv6Packet::parse(&packet).expect("hosts get IPv6 packets");
        assert_eq!(view.len(), packet.len());
        let own = PARTY[identity.0 as usize].subnet;
        // Errors go to whatever source the host used; everything else is for its /64 and from the overlay.
        let error = view.next_header() == ipv6::ICMPV6 && packet.len() <= 1280;
        assert!(error || own.contains(view.destination()));
        assert!(error || !own.contains(view.source()));
        assert_ne!(view.hop_limit(), 0);
    }
    for packet in outside.to_peers.drain(..) {
        let frame = next_frame(&packet)
            .expect("ours is legal")
            .expect("ours is whole");
        assert_eq!((frame.kind, frame.len), (Kind::Data, packet.len()));
        let header = DataHeader::parse(&packet).expect("ours is legal");
        assert_ne!(header.hop_limit, 0);
        assert!(Subnet::containing(header.destination).is_overlay());
    }
}

pub(crate) fn check(bytes: &[u8]) {
    play(&mut Choices(bytes));
}
