//! Everything that grows is filled to its bound.

use std::net::Ipv6Addr;

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::dataplane::{AddressTable, DataPlaneConfig, RateLimit};
use mycelium_core::io::PeerId;

use crate::lab::*;

const UNLIMITED: RateLimit = RateLimit {
    per_second: 1_000_000,
    burst: 1_000_000,
};

/// Somebody whose secret nobody has: keys are free.
fn stranger(n: u32) -> Party {
    let mut party = party(1);
    let mut key = [0x77; 32];
    key[4..8].copy_from_slice(&n.to_be_bytes());
    party.public_key = PublicKey(key);
    party.address = party.public_key.address();
    party.subnet = party.public_key.subnet();
    party
}

fn few_keys() -> DataPlaneConfig {
    DataPlaneConfig {
        keys: 16,
        host_agreements: UNLIMITED,
        peer_agreements: UNLIMITED,
        ..DataPlaneConfig::default()
    }
}

#[test]
fn the_key_cache_is_bounded_and_keeps_the_keys_in_use() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::with_config(&ours, few_keys());
    lab.route(&theirs, PeerId(2));
    let strangers: Vec<Party> = (0..200).map(stranger).collect();
    for other in &strangers {
        lab.fib.insert(
            other.subnet,
            std::sync::Arc::new(mycelium_core::fib::FibEntry::new(
                PeerId(2),
                other.public_key,
            )),
        );
    }
    lab.publish();
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    for other in &strangers {
        // Spoofed: it costs an agreement, and does not open.
        lab.peer_sends(PeerId(3), &frame(other.address, ours.address, 9, &[0; 64]));
        lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
        assert!(lab.plane.key_counts().0 <= 16);
    }
    // One agreement for each stranger, and one only for the flow in use.
    assert_eq!(lab.plane.key_counts(), (16, 201));
    assert_eq!(lab.count("drop_authentication"), 200);
    lab.check_conservation();
}

#[test]
fn a_cache_full_of_keys_in_use_still_takes_a_new_one() {
    let ours = party(1);
    let mut lab = Lab::with_config(&ours, few_keys());
    for n in 0..40 {
        lab.route(&party(100 + n), PeerId(2));
    }
    for _ in 0..3 {
        for n in 0..40 {
            lab.host_sends(&udp(ours.address, party(100 + n).address, 64, b""));
        }
    }
    assert_eq!(lab.count("sent"), 120);
    assert_eq!(lab.plane.key_counts().0, 16);
}

#[test]
fn a_flood_of_routed_sources_cannot_starve_our_own_flows() {
    let config = DataPlaneConfig {
        peer_agreements: RateLimit {
            per_second: 10,
            burst: 5,
        },
        host_agreements: RateLimit {
            per_second: 10,
            burst: 5,
        },
        ..DataPlaneConfig::default()
    };
    let (ours, known) = (party(1), party(2));
    let mut lab = Lab::with_config(&ours, config);
    lab.route(&known, PeerId(2));
    lab.route(&party(4), PeerId(2));
    let strangers: Vec<Party> = (0..100).map(stranger).collect();
    for other in &strangers {
        lab.route(other, PeerId(2));
    }
    let packet = udp(known.address, ours.address, 64, b"");
    let sealed = sealed_packet(&known, &ours, 9, &packet);
    lab.peer_sends(PeerId(2), &sealed);
    lab.one_to_host();
    for other in &strangers {
        lab.peer_sends(PeerId(3), &frame(other.address, ours.address, 9, &[0; 64]));
        // An existing flow goes on.
        lab.peer_sends(PeerId(2), &sealed);
        lab.one_to_host();
    }
    assert_eq!(lab.plane.key_counts().1, 5);
    assert_eq!(lab.count("drop_agreement_budget"), 96);
    // So does a new one of ours, from its own budget, which is bounded too.
    lab.host_sends(&udp(ours.address, party(4).address, 64, b""));
    lab.one_to_peer();
    for other in &strangers {
        lab.host_sends(&udp(ours.address, other.address, 64, b""));
    }
    // Four strangers have keys already, and four more agreements are left.
    assert_eq!(lab.count("sent"), 1 + 4 + 4);
    lab.advance(1_000);
    for other in &strangers {
        lab.peer_sends(PeerId(3), &frame(other.address, ours.address, 9, &[0; 64]));
    }
    assert_eq!(lab.plane.key_counts().1, 5 + 5 + 5);
    lab.check_conservation();
}

#[test]
fn spoofed_addresses_fill_the_statistics_to_their_bound_and_heavy_talkers_stay() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(ours.address, theirs.address, 64, b"");
    for _ in 0..100 {
        lab.host_sends(&packet);
    }
    // Transit from any address of 400::/7 to a routed /64.
    for n in 0..100_000u128 {
        let spoofed = Ipv6Addr::from_bits(0x04 << 120 | n << 64 | n);
        let target = Ipv6Addr::from_bits(theirs.subnet.network_address().to_bits() | n);
        lab.peer_sends(PeerId(3), &frame(spoofed, target, 9, &[]));
    }
    let (sources, destinations) = (lab.plane.by_source(), lab.plane.by_destination());
    assert_eq!(AddressTable::CAPACITY, 1024);
    assert_eq!(sources.iter().count(), 1024);
    assert_eq!(destinations.iter().count(), 1024);
    assert_eq!(sources.evicted(), 100_000 + 1 - 1024);
    let ours_now = sources
        .iter()
        .find(|entry| entry.address == ours.address)
        .unwrap();
    assert_eq!((ours_now.packets, ours_now.bytes), (100, 100 * (48 + 72)));
    assert!(
        destinations
            .iter()
            .any(|entry| entry.address == theirs.address)
    );
    lab.check_conservation();
}

#[test]
fn the_defaults_bound_the_memory_of_a_data_plane() {
    // Three tables of waiting packets and the keys: what a node can be made to hold.
    let config = DataPlaneConfig::default();
    let waiting = [
        config.pending_host,
        config.pending_transit,
        config.pending_inbound,
    ];
    let bytes: usize = waiting.iter().map(|limits| limits.bytes).sum();
    assert_eq!(bytes, 12 << 20);
    for limits in waiting {
        assert!(limits.bytes_per_arrival < limits.bytes);
        assert!(limits.subnets_per_arrival < limits.subnets);
        // A burst of the largest initial windows fits.
        assert!(limits.bytes_per_subnet >= 64 * 1500);
    }
}

#[test]
fn default_tables_hold_their_bounds_when_every_peer_floods() {
    let ours = party(1);
    let mut lab = Lab::new(&ours);
    let mut most = 0;
    for n in 0..60_000u128 {
        let made_up = Ipv6Addr::from_bits(0x04 << 120 | (n % 5_000) << 64 | 1);
        let peer = PeerId(u32::try_from(n % 97).unwrap());
        lab.peer_sends(peer, &frame(made_up, ours.address, 9, &[0; 1_000]));
        lab.peer_sends(peer, &frame(party(3).address, made_up, 9, &[0; 1_000]));
        lab.host_sends(&udp(ours.address, made_up, 64, &[0; 1_000]));
        most = most.max(lab.plane.parked_bytes());
    }
    assert!(most <= 12 << 20, "{most}");
    assert!(most > 5 << 20, "{most}");
    lab.check_conservation();
    lab.advance(4_000);
    assert_eq!((lab.plane.parked(), lab.plane.parked_bytes()), (0, 0));
    lab.check_conservation();
}
