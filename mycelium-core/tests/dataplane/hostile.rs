//! What a hostile peer, or a hostile node behind one, can send. Names say what the input is.

use std::net::Ipv6Addr;

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::io::{IdentityId, PeerId};
use proptest::prelude::*;

use crate::lab::*;

/// A packet of `theirs` whose sealed inner packet is anything at all; it must not reach the host.
fn refuse_inner(inner: &[u8], counter: &str) {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, inner));
    lab.expect_silence();
    assert_eq!(lab.count(counter), 1, "{counter}");
    lab.check_conservation();
}

#[test]
fn an_inner_source_that_the_key_does_not_authenticate_is_refused() {
    let ours = party(1);
    let public: Ipv6Addr = "2001:db8::1".parse().unwrap();
    for source in [
        party(3).address,
        ours.address,
        public,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::UNSPECIFIED,
        "fe80::1".parse().unwrap(),
        "ff02::1".parse().unwrap(),
    ] {
        refuse_inner(&udp(source, ours.address, 64, b""), "drop_inner_source");
    }
}

#[test]
fn an_inner_destination_that_is_not_ours_is_refused() {
    let theirs = party(2);
    let public: Ipv6Addr = "2001:db8::1".parse().unwrap();
    for destination in [
        party(3).address,
        theirs.address,
        public,
        Ipv6Addr::LOCALHOST,
        "fe80::1".parse().unwrap(),
        "ff02::1".parse().unwrap(),
    ] {
        refuse_inner(
            &udp(theirs.address, destination, 64, b""),
            "drop_inner_destination",
        );
    }
}

#[test]
fn an_inner_packet_for_another_identity_of_this_node_is_refused() {
    let (mut lab, ours, theirs) = Lab::pair();
    let tenant = party(5);
    lab.add_identity(1, &tenant);
    let packet = udp(theirs.address, tenant.address, 64, b"");
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &packet));
    lab.expect_silence();
    assert_eq!(lab.count("drop_inner_destination"), 1);
}

#[test]
fn an_inner_packet_that_is_not_ipv6_is_refused() {
    let (ours, theirs) = (party(1), party(2));
    let packet = udp(theirs.address, ours.address, 64, b"payload");
    for len in 0..packet.len() {
        refuse_inner(&packet[..len], "drop_inner_malformed");
    }
    let mut ipv4 = packet;
    ipv4[0] = 0x45;
    refuse_inner(&ipv4, "drop_inner_malformed");
}

#[test]
fn bytes_behind_the_inner_packet_do_not_reach_the_host() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(theirs.address, ours.address, 64, b"payload");
    let padded = [&packet[..], b"padding"].concat();
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &padded));
    assert_eq!(lab.one_to_host().1, with_hop_limit(&packet, 8));
}

#[test]
fn a_body_too_short_to_be_sealed_is_refused_at_every_length() {
    let (mut lab, ours, theirs) = Lab::pair();
    for len in 0..32 {
        lab.peer_sends(
            PeerId(2),
            &frame(theirs.address, ours.address, 9, &vec![0; len]),
        );
    }
    assert_eq!(lab.count("drop_body_too_short"), 32);
    lab.peer_sends(PeerId(2), &frame(theirs.address, ours.address, 9, &[0; 32]));
    assert_eq!(lab.count("drop_authentication"), 1);
    lab.expect_silence();
    lab.check_conservation();
}

#[test]
fn a_body_changed_in_any_bit_is_refused() {
    let (mut lab, ours, theirs) = Lab::pair();
    let good = sealed_packet(
        &theirs,
        &ours,
        9,
        &udp(theirs.address, ours.address, 64, b"x"),
    );
    for at in 40..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            lab.peer_sends(PeerId(2), &bad);
        }
    }
    lab.expect_silence();
    assert_eq!(
        lab.count("drop_authentication"),
        (good.len() as u64 - 40) * 8
    );
}

#[test]
fn a_sealed_body_under_another_source_or_for_another_identity_is_refused() {
    let (mut lab, ours, theirs) = Lab::pair();
    let tenant = party(5);
    lab.add_identity(1, &tenant);
    lab.route(&party(3), PeerId(2));
    let plaintext = [
        &[1, 0, 0, 0],
        &udp(theirs.address, ours.address, 64, b"")[..],
    ]
    .concat();
    for (source, destination) in [
        (party(3).address, ours.address),
        (theirs.address, tenant.address),
    ] {
        let moved = seal_between(&theirs, &ours, source, destination, 9, &plaintext);
        lab.peer_sends(PeerId(2), &moved);
    }
    lab.expect_silence();
    assert_eq!(lab.count("drop_authentication"), 2);
}

/// Protocol v1 has no sequence numbers and one key for ever: a captured packet opens as often as it is sent.
#[test]
fn a_replayed_packet_is_delivered_again_because_v1_cannot_tell() {
    let (mut lab, ours, theirs) = Lab::pair();
    let captured = sealed_packet(
        &theirs,
        &ours,
        9,
        &udp(theirs.address, ours.address, 64, b"pay"),
    );
    lab.peer_sends(PeerId(2), &captured);
    lab.peer_sends(PeerId(3), &captured);
    assert_eq!(lab.out.to_hosts.len(), 2);
}

#[test]
fn our_own_packet_reflected_as_if_from_its_destination_is_refused() {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.host_sends(&udp(ours.address, theirs.address, 64, b"hello"));
    let (_, sent) = lab.one_to_peer();
    let reflected = frame(theirs.address, ours.address, 9, &sent[40..]);
    lab.peer_sends(PeerId(2), &reflected);
    lab.expect_silence();
    // It opens: one key seals both directions. Its inner source gives it away.
    assert_eq!(lab.count("drop_inner_source"), 1);
}

#[test]
fn a_packet_to_us_in_our_own_name_is_refused() {
    let (mut lab, ours, _) = Lab::pair();
    let tenant = party(5);
    lab.add_identity(1, &tenant);
    for source in [&ours, &tenant] {
        let packet = udp(source.address, ours.address, 64, b"");
        lab.peer_sends(PeerId(2), &frame(source.address, ours.address, 9, &[0; 64]));
        lab.peer_sends(PeerId(2), &sealed_packet(source, &ours, 9, &packet));
    }
    lab.expect_silence();
    assert!(lab.out.asked.is_empty());
    assert_eq!(lab.count("drop_own_source"), 4);
}

#[test]
fn user_data_of_unknown_version_or_type_is_dropped_in_silence() {
    let (mut lab, ours, theirs) = Lab::pair();
    for version in (0..=255).filter(|&version| version != 1) {
        lab.peer_sends(
            PeerId(2),
            &seal(&theirs, &ours, 9, &[version, 0, 0, 0, 1, 2, 3]),
        );
    }
    for kind in 3..=255 {
        lab.peer_sends(
            PeerId(2),
            &seal(&theirs, &ours, 9, &[1, kind, 0, 0, 1, 2, 3]),
        );
    }
    lab.expect_silence();
    assert_eq!(lab.count("drop_user_data_version"), 255);
    assert_eq!(lab.count("drop_user_data_type"), 253);
    lab.check_conservation();
}

#[test]
fn fragments_of_messages_of_any_length_are_dropped() {
    let (mut lab, ours, theirs) = Lab::pair();
    for len in 0..80 {
        for flags in [0x80, 0x40, 0x20, 0x10] {
            let mut fragment = vec![0xff; len];
            if let Some(byte) = fragment.get_mut(8) {
                *byte = flags;
            }
            lab.peer_sends(
                PeerId(2),
                &seal(&theirs, &ours, 9, &[&[1, 1, 0, 0], &fragment[..]].concat()),
            );
        }
    }
    lab.expect_silence();
    assert_eq!(lab.count("drop_message"), 320);
}

#[test]
fn addresses_outside_the_overlay_are_refused_and_never_searched_for() {
    let (mut lab, ours, theirs) = Lab::pair();
    for text in [
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "2001:db8::1",
        "600::1",
        "3ff::1",
        "::ffff:10.0.0.1",
    ] {
        let foreign: Ipv6Addr = text.parse().unwrap();
        lab.peer_sends(PeerId(2), &frame(foreign, ours.address, 9, &[0; 64]));
        lab.peer_sends(PeerId(2), &frame(foreign, theirs.address, 9, &[0; 64]));
        lab.peer_sends(PeerId(2), &frame(theirs.address, foreign, 9, &[0; 64]));
    }
    lab.expect_silence();
    assert!(lab.out.asked.is_empty());
    assert_eq!(lab.count("drop_foreign_address"), 24);
    lab.check_conservation();
}

#[test]
fn a_packet_is_never_sent_back_to_where_it_came_from() {
    let (mut lab, _, theirs) = Lab::pair();
    lab.peer_sends(
        PeerId(2),
        &frame(party(3).address, theirs.address, 9, &[0; 64]),
    );
    lab.expect_silence();
    assert_eq!(lab.count("drop_return_to_sender"), 1);
    lab.check_conservation();
}

#[test]
fn packets_cut_short_of_another_kind_or_version_are_refused() {
    let (mut lab, ours, theirs) = Lab::pair();
    let good = sealed_packet(
        &theirs,
        &ours,
        9,
        &udp(theirs.address, ours.address, 64, b"x"),
    );
    for len in 0..good.len() {
        lab.peer_sends(PeerId(2), &good[..len]);
    }
    let mut control = good.clone();
    control[1] = 1;
    lab.peer_sends(PeerId(2), &control);
    let mut version = good.clone();
    version[0] = 2;
    lab.peer_sends(PeerId(2), &version);
    lab.expect_silence();
    assert_eq!(lab.count("drop_peer_malformed"), good.len() as u64 + 2);
    lab.check_conservation();
}

#[test]
fn a_low_order_key_neither_seals_nor_opens_and_is_tried_once() {
    let mut lab = Lab::new(&party(1));
    let ours = party(1);
    let mut weak = party(9);
    weak.public_key = PublicKey([0; 32]);
    weak.address = weak.public_key.address();
    weak.subnet = weak.public_key.subnet();
    lab.route(&weak, PeerId(2));
    for _ in 0..10 {
        lab.host_sends(&udp(ours.address, weak.address, 64, b""));
        lab.peer_sends(PeerId(2), &frame(weak.address, ours.address, 9, &[0; 64]));
    }
    lab.expect_silence();
    assert_eq!(lab.count("drop_low_order_key"), 20);
    assert_eq!(lab.plane.key_counts(), (1, 1));
}

#[test]
fn the_longest_sealed_packet_is_handled() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(theirs.address, ours.address, 64, &vec![0; 65_503 - 48]);
    let sealed = sealed_packet(&theirs, &ours, 9, &packet);
    assert_eq!(sealed.len(), 65_575);
    lab.peer_sends(PeerId(2), &sealed);
    assert_eq!(lab.one_to_host().1.len(), 65_503);
}

/// One node with everything that a packet can meet.
fn crowded() -> Lab {
    let (mut lab, ..) = Lab::pair();
    lab.add_identity(1, &party(5));
    lab.route(&party(3), PeerId(3));
    lab
}

fn any_address() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        (1u16..8).prop_map(|n| party(n).address),
        (1u16..8).prop_map(|n| neighbour_of(&party(n))),
        any::<u128>().prop_map(Ipv6Addr::from),
        any::<u64>().prop_map(|bits| Ipv6Addr::from_bits(
            u128::from(0x0400_0000_0000_0000 | bits >> 7) << 64
        )),
    ]
}

/// Plaintext with the shape of what an endpoint sends.
fn any_plaintext() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let packet = || {
        (any_address(), any_address(), bytes())
            .prop_map(|(from, to, rest)| udp(from, to, 64, &rest))
    };
    prop_oneof![
        bytes(),
        packet().prop_map(|packet| [&[1, 0, 0, 0], &packet[..]].concat()),
        (0u8..4, bytes()).prop_map(|(kind, rest)| [&[1, kind, 0, 0], &rest[..]].concat()),
        (any_address(), packet(), bytes()).prop_map(|(original, mut message, rest)| {
            message[6] = 58;
            message[40] = 3;
            message[41] = 0;
            [&[1, 2, 0, 0], &original.octets()[..], &message[..48], &rest].concat()
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Raw(Vec<u8>),
    Frame(Ipv6Addr, Ipv6Addr, u8, Vec<u8>),
    Sealed(u16, u16, u8, Vec<u8>),
    Host(u32, Vec<u8>),
    HostPacket(u32, Ipv6Addr, Ipv6Addr, u8, Vec<u8>),
    Route(u16),
    Unroute(u16),
    Advance(u16),
    Fail(u16),
    Full(bool, bool, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        2 => bytes().prop_map(Step::Raw),
        4 => (any_address(), any_address(), any::<u8>(), bytes()).prop_map(|(s, d, h, b)| Step::Frame(s, d, h, b)),
        8 => (1u16..8, 1u16..8, any::<u8>(), any_plaintext()).prop_map(|(f, t, h, p)| Step::Sealed(f, t, h, p)),
        1 => (0u32..3, bytes()).prop_map(|(i, b)| Step::Host(i, b)),
        6 => (0u32..3, any_address(), any_address(), any::<u8>(), bytes())
            .prop_map(|(i, s, d, h, b)| Step::HostPacket(i, s, d, h, b)),
        2 => (1u16..8).prop_map(Step::Route),
        1 => (1u16..8).prop_map(Step::Unroute),
        2 => (0u16..5000).prop_map(Step::Advance),
        1 => (1u16..8).prop_map(Step::Fail),
        1 => any::<(bool, bool, bool)>().prop_map(|(p, h, c)| Step::Full(p, h, c)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_traffic_never_panics_and_every_packet_has_a_verdict(
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        let mut lab = crowded();
        for step in steps {
            match step {
                Step::Raw(bytes) => lab.peer_sends(PeerId(2), &bytes),
                Step::Frame(source, destination, hops, body) => {
                    lab.peer_sends(PeerId(3), &frame(source, destination, hops, &body));
                }
                Step::Sealed(from, to, hops, plaintext) => {
                    lab.peer_sends(PeerId(2), &seal(&party(from), &party(to), hops, &plaintext));
                }
                Step::Host(identity, bytes) => lab.identity_sends(IdentityId(identity), &bytes),
                Step::HostPacket(identity, source, destination, hops, payload) => {
                    lab.identity_sends(IdentityId(identity), &udp(source, destination, hops, &payload));
                }
                Step::Route(n) => lab.route(&party(n), PeerId(u32::from(n))),
                Step::Unroute(n) => lab.unroute(&party(n)),
                Step::Advance(millis) => lab.advance(u64::from(millis)),
                Step::Fail(n) => lab.plane.query_failed(party(n).subnet, &mut lab.out),
                Step::Full(peers, hosts, control) => {
                    lab.out.peers_full = peers;
                    lab.out.hosts_full = hosts;
                    lab.out.control_full = control;
                }
            }
            lab.check_conservation();
            // Whatever reaches a host is an IPv6 packet to it, from somebody who may send it.
            for (identity, packet) in std::mem::take(&mut lab.out.to_hosts) {
                let (header, rest) = etherparse::Ipv6Header::from_slice(&packet).unwrap();
                prop_assert_eq!(usize::from(header.payload_length), rest.len());
                let subnet = if identity == NODE { party(1).subnet } else { party(5).subnet };
                let error = header.next_header == etherparse::IpNumber::IPV6_ICMP;
                prop_assert!(subnet.contains(header.destination_addr()) || error);
            }
            lab.out.to_peers.clear();
        }
        lab.advance(4_000);
        lab.check_conservation();
        prop_assert_eq!((lab.plane.parked(), lab.plane.parked_bytes()), (0, 0));
    }
}
