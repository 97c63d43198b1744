//! Packets that should arrive do.

use etherparse::{PacketBuilder, TcpOptionElement};
use mycelium_core::io::{IdentityId, PeerId};

use crate::lab::*;

#[test]
fn a_host_packet_leaves_sealed_with_the_hop_limit_of_its_origin() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(ours.address, theirs.address, 64, b"hello");
    lab.host_sends(&packet);
    let (peer, frame) = lab.one_to_peer();
    assert_eq!(peer, PeerId(2));
    let (header, plaintext) = open(&theirs, &ours, &frame);
    assert_eq!(
        (header.source, header.destination),
        (ours.address, theirs.address)
    );
    assert_eq!(header.hop_limit, 63);
    assert_eq!(frame.len(), packet.len() + 72);
    assert_eq!(plaintext, [&[1, 0, 0, 0], &packet[..]].concat());
    assert_eq!(lab.count("sent"), 1);
    lab.check_conservation();
}

#[test]
fn a_sealed_packet_is_delivered_with_the_outer_hop_limit() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(theirs.address, ours.address, 64, b"hello");
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 62, &packet));
    assert_eq!(lab.one_to_host(), (NODE, with_hop_limit(&packet, 61)));
    assert_eq!(lab.count("delivered_remote"), 1);
    lab.check_conservation();
}

#[test]
fn the_last_hop_is_delivered_and_zero_hops_are_refused() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(theirs.address, ours.address, 64, b"");
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 1, &packet));
    assert_eq!(lab.one_to_host().1[7], 1);
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 0, &packet));
    lab.expect_silence();
    assert_eq!(lab.count("drop_hop_limit"), 1);
}

#[test]
fn a_tail_behind_the_packet_in_a_datagram_is_ignored() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(theirs.address, ours.address, 64, b"hello");
    let mut frame = sealed_packet(&theirs, &ours, 62, &packet);
    frame.extend_from_slice(b"tail");
    lab.peer_sends(PeerId(2), &frame);
    assert_eq!(lab.one_to_host().1, with_hop_limit(&packet, 61));
}

#[test]
fn every_address_of_a_64_sends_and_receives() {
    let (mut lab, ours, theirs) = Lab::pair();
    let (a, b) = (neighbour_of(&ours), neighbour_of(&theirs));
    lab.host_sends(&udp(a, b, 64, b"out"));
    let (header, _) = open(&theirs, &ours, &lab.one_to_peer().1);
    assert_eq!((header.source, header.destination), (a, b));
    let packet = udp(b, a, 64, b"in");
    lab.peer_sends(
        PeerId(2),
        &seal_between(
            &theirs,
            &ours,
            b,
            a,
            2,
            &[&[1, 0, 0, 0], &packet[..]].concat(),
        ),
    );
    assert_eq!(lab.one_to_host().1, with_hop_limit(&packet, 1));
}

#[test]
fn two_nodes_exchange_packets_through_a_third() {
    let (a, relay, b) = (party(1), party(3), party(2));
    let (mut at_a, mut at_relay, mut at_b) = (Lab::new(&a), Lab::new(&relay), Lab::new(&b));
    at_a.route(&b, PeerId(10));
    at_b.route(&a, PeerId(20));
    at_relay.route(&a, PeerId(31));
    at_relay.route(&b, PeerId(32));

    for round in 0..100u8 {
        let payload = vec![round; usize::from(round) * 12];
        let ping = udp(a.address, b.address, 64, &payload);
        at_a.host_sends(&ping);
        let (peer, frame) = at_a.one_to_peer();
        assert_eq!(peer, PeerId(10));
        at_relay.peer_sends(PeerId(31), &frame);
        let (peer, relayed) = at_relay.one_to_peer();
        assert_eq!(peer, PeerId(32));
        assert_eq!(
            relayed[8..],
            frame[8..],
            "a relay changes the hop limit only"
        );
        at_b.peer_sends(PeerId(20), &relayed);
        assert_eq!(at_b.one_to_host().1, with_hop_limit(&ping, 61));

        let pong = udp(b.address, a.address, 64, &payload);
        at_b.host_sends(&pong);
        at_relay.peer_sends(PeerId(32), &at_b.one_to_peer().1);
        at_a.peer_sends(PeerId(10), &at_relay.one_to_peer().1);
        assert_eq!(at_a.one_to_host().1, with_hop_limit(&pong, 61));
    }
    assert_eq!((at_a.count("sent"), at_b.count("sent")), (100, 100));
    assert_eq!(at_relay.count("forwarded"), 200);
    // One agreement a pair and end, and none where packets only pass.
    assert_eq!(at_a.plane.key_counts(), (1, 1));
    assert_eq!(at_b.plane.key_counts(), (1, 1));
    assert_eq!(at_relay.plane.key_counts(), (0, 0));
    for lab in [&at_a, &at_relay, &at_b] {
        lab.check_conservation();
    }
}

#[test]
fn a_relay_clears_reserved_bits_and_counts_a_hop() {
    let relay = party(3);
    let (a, b) = (party(1), party(2));
    let mut lab = Lab::new(&relay);
    lab.route(&b, PeerId(2));
    let mut packet = frame(a.address, b.address, 2, b"not even sealed");
    packet[2..5].fill(0xff);
    lab.peer_sends(PeerId(1), &packet);
    packet[2..5].fill(0);
    packet[7] = 1;
    assert_eq!(lab.one_to_peer(), (PeerId(2), packet));
    assert_eq!(lab.count("forwarded"), 1);
}

#[test]
fn a_relay_carries_the_longest_packet_that_can_be() {
    let mut lab = Lab::new(&party(3));
    let (a, b) = (party(1), party(2));
    lab.route(&b, PeerId(2));
    let packet = frame(a.address, b.address, 64, &vec![7; 65_535]);
    lab.peer_sends(PeerId(1), &packet);
    assert_eq!(lab.one_to_peer().1.len(), 65_575);
}

#[test]
fn identities_of_one_node_talk_in_the_clear_and_it_costs_a_hop() {
    let (mut lab, ours, _) = Lab::pair();
    let tenant = party(5);
    lab.add_identity(1, &tenant);
    let packet = udp(ours.address, tenant.address, 64, b"local");
    lab.host_sends(&packet);
    assert_eq!(
        lab.one_to_host(),
        (IdentityId(1), with_hop_limit(&packet, 63))
    );
    let packet = udp(tenant.address, ours.address, 64, b"back");
    lab.identity_sends(IdentityId(1), &packet);
    assert_eq!(lab.one_to_host(), (NODE, with_hop_limit(&packet, 63)));
    assert!(lab.out.to_peers.is_empty());
    assert_eq!(lab.count("delivered_local"), 2);
    assert_eq!(lab.plane.key_counts(), (0, 0));
    lab.check_conservation();
}

#[test]
fn each_identity_seals_with_its_own_key_and_is_reached_with_it() {
    let (mut lab, _, theirs) = Lab::pair();
    for n in 1..=50 {
        lab.add_identity(u32::from(n), &party(100 + n));
    }
    for n in 1..=50 {
        let tenant = party(100 + n);
        let identity = IdentityId(u32::from(n));
        lab.identity_sends(identity, &udp(tenant.address, theirs.address, 64, b"out"));
        let (header, _) = open(&theirs, &tenant, &lab.one_to_peer().1);
        assert_eq!(header.source, tenant.address);
        let packet = udp(theirs.address, tenant.address, 64, b"in");
        lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &tenant, 9, &packet));
        assert_eq!(lab.one_to_host(), (identity, with_hop_limit(&packet, 8)));
    }
    assert_eq!(lab.plane.key_counts(), (50, 50));
    lab.check_conservation();
}

#[test]
fn a_removed_identity_takes_its_keys_with_it() {
    let (mut lab, _, theirs) = Lab::pair();
    let tenant = party(5);
    lab.add_identity(1, &tenant);
    lab.identity_sends(IdentityId(1), &udp(tenant.address, theirs.address, 64, b""));
    lab.host_sends(&udp(party(1).address, theirs.address, 64, b""));
    assert_eq!(lab.plane.key_counts().0, 2);
    lab.fib.remove_origin(tenant.subnet);
    lab.publish();
    assert_eq!(lab.plane.key_counts().0, 1);
    lab.out.to_peers.clear();
    lab.identity_sends(IdentityId(1), &udp(tenant.address, theirs.address, 64, b""));
    lab.expect_silence();
    assert_eq!(lab.count("drop_unknown_identity"), 1);
    // The other key is still found.
    lab.host_sends(&udp(party(1).address, theirs.address, 64, b""));
    assert_eq!(lab.plane.key_counts(), (1, 2));
}

#[test]
fn a_route_with_another_key_is_used_at_once() {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    open(&theirs, &ours, &lab.one_to_peer().1);
    // The same /64 under another key: what a 57-bit collision would look like.
    let mut usurper = party(77);
    usurper.subnet = theirs.subnet;
    lab.route(&usurper, PeerId(9));
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    let (peer, frame) = lab.one_to_peer();
    assert_eq!(peer, PeerId(9));
    open(&usurper, &ours, &frame);
    assert_eq!(lab.plane.key_counts(), (1, 2));
}

#[test]
fn routes_are_marked_used_by_sending_receiving_and_forwarding() {
    let (mut lab, ours, theirs) = Lab::pair();
    let used = |lab: &Lab| lab.fib.route(theirs.subnet).unwrap().take_used();
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    assert!(used(&lab));
    assert!(!used(&lab));
    let packet = udp(theirs.address, ours.address, 64, b"");
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &packet));
    assert!(used(&lab));
    lab.peer_sends(PeerId(3), &frame(party(9).address, theirs.address, 9, b""));
    assert!(used(&lab));
}

/// A SYN that offers segments of 1340 bytes, in packets from byte 62 on.
fn syn(from: &Party, to: &Party) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(from.address.octets(), to.address.octets(), 64)
        .tcp(1, 2, 3, 4)
        .syn()
        .options(&[TcpOptionElement::MaximumSegmentSize(1340)])
        .unwrap()
        .write(&mut packet, &[])
        .unwrap();
    packet
}

#[test]
fn segment_sizes_are_clamped_in_both_directions() {
    let (mut lab, ours, theirs) = Lab::pair();
    let clamped = 1030u16.to_be_bytes();
    lab.host_sends(&syn(&ours, &theirs));
    let (_, plaintext) = open(&theirs, &ours, &lab.one_to_peer().1);
    assert_eq!(plaintext[4 + 62..4 + 64], clamped);
    let packet = syn(&theirs, &ours);
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &packet));
    assert_eq!(lab.one_to_host().1[62..64], clamped);
    assert_eq!(lab.count("mss_clamped"), 2);
}

#[test]
fn at_the_other_end_of_a_stream_segments_are_of_full_size_until_the_way_changes() {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.out.streams = true;
    lab.route_direct(&theirs, PeerId(2));
    let offered = 1340u16.to_be_bytes();
    lab.host_sends(&syn(&ours, &theirs));
    let (_, plaintext) = open(&theirs, &ours, &lab.one_to_peer().1);
    assert_eq!(plaintext[4 + 62..4 + 64], offered);
    let packet = syn(&theirs, &ours);
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &packet));
    assert_eq!(lab.one_to_host().1[62..64], offered);
    assert_eq!(lab.count("mss_clamped"), 0);

    // Two full segments and a bit: as they are, then in smaller ones that make the same stream.
    let data: Vec<u8> = (0..2800_u32)
        .flat_map(u32::to_be_bytes)
        .take(2800)
        .collect();
    let mut packet = Vec::new();
    PacketBuilder::ipv6(ours.address.octets(), theirs.address.octets(), 64)
        .tcp(1, 2, 1000, 4)
        .ack(5)
        .write(&mut packet, &data)
        .unwrap();
    for direct in [true, false] {
        match direct {
            true => lab.route_direct(&theirs, PeerId(2)),
            false => lab.route(&theirs, PeerId(2)),
        }
        let taken = lab
            .plane
            .from_host_partial(NODE, &packet, Some(1340), &mut lab.out);
        assert!(taken);
        let longest = if direct { 1400 } else { 1090 };
        let sent = std::mem::take(&mut lab.out.to_peers);
        let mut stream = Vec::new();
        for (_, frame) in &sent {
            let (_, plaintext) = open(&theirs, &ours, frame);
            let packet = &plaintext[4..];
            assert!(packet.len() <= longest, "{}", packet.len());
            let sequence = u32::from_be_bytes(packet[44..48].try_into().unwrap());
            assert_eq!(sequence as usize, 1000 + stream.len());
            stream.extend_from_slice(&packet[60..]);
        }
        assert_eq!(stream, data);
    }
}

#[test]
fn nonces_do_not_repeat_and_depend_on_the_seed() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(ours.address, theirs.address, 64, b"same");
    let mut nonces = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        lab.host_sends(&packet);
        let (_, frame) = lab.one_to_peer();
        assert!(nonces.insert(frame[frame.len() - 12..].to_vec()));
    }
}

#[test]
fn full_lanes_drop_and_count() {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.add_identity(1, &party(5));
    lab.out.peers_full = true;
    lab.out.hosts_full = true;
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    lab.host_sends(&udp(ours.address, party(5).address, 64, b""));
    lab.peer_sends(PeerId(3), &frame(party(9).address, theirs.address, 9, b""));
    let packet = udp(theirs.address, ours.address, 64, b"");
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &packet));
    lab.expect_silence();
    assert_eq!(
        (lab.count("drop_peer_full"), lab.count("drop_host_full")),
        (2, 2)
    );
    lab.check_conservation();
}

#[test]
fn traffic_is_counted_by_address() {
    let (mut lab, ours, theirs) = Lab::pair();
    for _ in 0..3 {
        lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    }
    let packet = udp(theirs.address, ours.address, 64, b"");
    lab.peer_sends(PeerId(2), &sealed_packet(&theirs, &ours, 9, &packet));
    let row = |packets, address| (address, packets, packets * (48 + 72));
    let read = |table: &mycelium_core::dataplane::AddressTable| {
        let mut rows: Vec<_> = table
            .iter()
            .map(|e| (e.address, e.packets, e.bytes))
            .collect();
        rows.sort();
        rows
    };
    let mut expected = vec![row(3, ours.address), row(1, theirs.address)];
    expected.sort();
    assert_eq!(read(lab.plane.by_source()), expected);
    let mut expected = vec![row(1, ours.address), row(3, theirs.address)];
    expected.sort();
    assert_eq!(read(lab.plane.by_destination()), expected);
}
