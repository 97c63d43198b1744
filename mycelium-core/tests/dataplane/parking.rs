//! Packets that wait for a route, and what becomes of them.

use mycelium_core::addr::Subnet;
use mycelium_core::dataplane::{DataPlaneConfig, PendingLimits};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::time::Duration;
use mycelium_core::wire::data::DataHeader;

use crate::lab::*;

fn sequence(packets: &[(PeerId, Vec<u8>)], one: &Party, other: &Party) -> Vec<u8> {
    packets
        .iter()
        .map(|(_, frame)| *open(one, other, frame).1.last().unwrap())
        .collect()
}

#[test]
fn the_first_burst_waits_for_its_route_and_leaves_in_order() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    for n in 0..200 {
        lab.host_sends(&udp(ours.address, theirs.address, 64, &[n]));
    }
    lab.expect_silence();
    assert_eq!(lab.out.asked, [(theirs.subnet, None)], "asked once");
    assert_eq!(lab.plane.parked(), 200);
    lab.check_conservation();
    lab.route(&theirs, PeerId(2));
    let expected: Vec<u8> = (0..200).collect();
    assert_eq!(sequence(&lab.out.to_peers, &ours, &theirs), expected);
    assert_eq!((lab.plane.parked(), lab.plane.parked_bytes()), (0, 0));
    assert_eq!(
        (
            lab.count("parked"),
            lab.count("released"),
            lab.count("sent")
        ),
        (200, 200, 200)
    );
    assert_eq!(lab.plane.poll_timeout(), None);
    lab.check_conservation();
}

#[test]
fn a_waiting_packet_goes_before_newer_ones_of_the_same_batch() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    lab.host_sends(&udp(ours.address, theirs.address, 64, &[1]));
    // The table changes while a batch is under way: it is looked at when the next one starts.
    lab.fib.insert(
        theirs.subnet,
        std::sync::Arc::new(mycelium_core::fib::FibEntry::new(
            PeerId(2),
            theirs.public_key,
        )),
    );
    lab.publish_only();
    lab.host_sends(&udp(ours.address, theirs.address, 64, &[2]));
    lab.expect_silence();
    lab.batch();
    lab.host_sends(&udp(ours.address, theirs.address, 64, &[3]));
    assert_eq!(sequence(&lab.out.to_peers, &ours, &theirs), [1, 2, 3]);
}

/// What is marked of a sparse and another packet of a host and of two of others, with a route that comes after `millis`.
fn marks_after(millis: u64) -> Vec<bool> {
    let (ours, theirs, far) = (party(1), party(2), party(3));
    let mut lab = Lab::new(&ours);
    for (number, sparse) in [(1, true), (2, false)] {
        lab.out.sparse = sparse;
        lab.host_sends(&udp(ours.address, theirs.address, 64, &[number]));
        lab.peer_sends(PeerId(3), &frame(far.address, theirs.address, 9, &[number]));
    }
    lab.out.sparse = false;
    lab.advance(millis);
    lab.expect_silence();
    lab.route(&theirs, PeerId(2));
    assert!(!lab.out.sparse, "what is handled next is not marked");
    assert_eq!(sequence(&lab.out.to_peers[..2], &ours, &theirs), [1, 2]);
    assert_eq!(lab.out.marks.len(), 4);
    assert_eq!(lab.out.marks[..2], lab.out.marks[2..]);
    lab.out.marks
}

#[test]
fn a_waiting_packet_keeps_its_mark_and_after_long_none_can_overtake_it() {
    assert_eq!(marks_after(49), [true, false, true, false]);
    // A flow that was not sparse may be by now.
    assert_eq!(marks_after(50), [true; 4]);
}

#[test]
fn transit_waits_for_its_destination_and_is_passed_on_unread() {
    let (a, relay, b) = (party(1), party(3), party(2));
    let mut lab = Lab::new(&relay);
    let packet = frame(a.address, b.address, 9, b"sealed");
    lab.peer_sends(PeerId(31), &packet);
    assert_eq!(lab.out.asked, [(b.subnet, Some(PeerId(31)))]);
    lab.route(&b, PeerId(32));
    let (peer, out) = lab.one_to_peer();
    assert_eq!((peer, &out[8..]), (PeerId(32), &packet[8..]));
    lab.check_conservation();
}

#[test]
fn a_packet_to_us_waits_for_the_key_of_its_source() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    let packet = udp(theirs.address, ours.address, 64, b"hello");
    lab.peer_sends(PeerId(7), &sealed_packet(&theirs, &ours, 9, &packet));
    lab.peer_sends(PeerId(7), &sealed_packet(&theirs, &ours, 9, &packet));
    assert_eq!(lab.out.asked, [(theirs.subnet, Some(PeerId(7)))]);
    lab.expect_silence();
    lab.route(&theirs, PeerId(8));
    assert_eq!(lab.out.to_hosts.len(), 2);
    assert_eq!(lab.out.to_hosts[0], (NODE, with_hop_limit(&packet, 8)));
    lab.check_conservation();
}

#[test]
fn a_packet_waits_for_a_local_identity_too() {
    let (ours, tenant) = (party(1), party(5));
    let mut lab = Lab::new(&ours);
    let packet = udp(ours.address, tenant.address, 64, b"");
    lab.host_sends(&packet);
    lab.add_identity(1, &tenant);
    assert_eq!(
        lab.one_to_host(),
        (IdentityId(1), with_hop_limit(&packet, 63))
    );
    lab.check_conservation();
}

#[test]
fn a_failed_query_tells_each_kind_of_waiter_its_way() {
    let (ours, unknown, source) = (party(1), party(2), party(3));
    let mut lab = Lab::new(&ours);
    lab.route(&source, PeerId(31));
    lab.host_sends(&udp(ours.address, unknown.address, 64, b"host"));
    lab.peer_sends(
        PeerId(31),
        &frame(source.address, unknown.address, 9, &[0; 50]),
    );
    lab.peer_sends(
        PeerId(31),
        &frame(unknown.address, ours.address, 9, &[0; 50]),
    );
    assert_eq!(lab.plane.parked(), 3);
    lab.plane.query_failed(unknown.subnet, &mut lab.out);
    // ICMPv6 to the host, a notice to the source of the transit packet, nothing to a source nobody knows.
    let (identity, error) = lab.one_to_host();
    assert_eq!((identity, error[40], error[41]), (NODE, 1, 0));
    let (peer, notice) = lab.one_to_peer();
    assert_eq!(peer, PeerId(31));
    assert_eq!(open(&source, &ours, &notice).1[60..62], [1, 0]);
    assert_eq!(
        (lab.count("drop_no_route"), lab.count("drop_unknown_source")),
        (2, 1)
    );
    assert_eq!(lab.plane.parked(), 0);
    lab.check_conservation();
    // The next packet asks again.
    lab.out.asked.clear();
    lab.host_sends(&udp(ours.address, unknown.address, 64, b"again"));
    assert_eq!(lab.out.asked.len(), 1);
}

#[test]
fn a_query_that_failed_just_before_the_route_came_harms_nobody() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    lab.fib.insert(
        theirs.subnet,
        std::sync::Arc::new(mycelium_core::fib::FibEntry::new(
            PeerId(2),
            theirs.public_key,
        )),
    );
    lab.publish_only();
    lab.plane.query_failed(theirs.subnet, &mut lab.out);
    lab.one_to_peer();
    assert!(lab.out.to_hosts.is_empty());
    lab.check_conservation();
}

#[test]
fn a_control_plane_that_never_answers_does_not_hold_packets_for_ever() {
    let (ours, unknown) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    lab.host_sends(&udp(ours.address, unknown.address, 64, b""));
    let deadline = lab.plane.poll_timeout().unwrap();
    assert_eq!(deadline.since(lab.now), Duration::from_secs(4));
    lab.advance(3_999);
    lab.expect_silence();
    lab.advance(1);
    let (_, error) = lab.one_to_host();
    assert_eq!((error[40], error[41]), (1, 0));
    assert_eq!(lab.plane.poll_timeout(), None);
    lab.check_conservation();
}

#[test]
fn inbound_packets_of_unknown_sources_do_not_leak() {
    let ours = party(1);
    let mut lab = Lab::new(&ours);
    for round in 0..20u64 {
        for n in 0..256 {
            let source =
                Subnet::from_octets((0x0400_0000_0000_0000 | round << 16 | n).to_be_bytes());
            lab.peer_sends(
                PeerId(3),
                &frame(source.network_address(), ours.address, 9, &[0; 64]),
            );
        }
        assert_eq!(lab.plane.parked(), 256);
        lab.advance(4_000);
        assert_eq!((lab.plane.parked(), lab.plane.parked_bytes()), (0, 0));
    }
    lab.expect_silence();
    assert_eq!(lab.count("drop_unknown_source"), 20 * 256);
    lab.check_conservation();
}

#[test]
fn a_request_that_found_no_room_is_repeated_soon() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    lab.out.control_full = true;
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    lab.peer_sends(
        PeerId(9),
        &frame(party(3).address, ours.address, 9, &[0; 64]),
    );
    assert!(lab.out.asked.is_empty());
    assert_eq!(
        lab.plane.poll_timeout().unwrap().since(lab.now),
        Duration::from_millis(10)
    );
    lab.advance(10);
    assert!(lab.out.asked.is_empty());
    lab.out.control_full = false;
    lab.advance(10);
    assert_eq!(
        lab.out.asked,
        [(theirs.subnet, None), (party(3).subnet, Some(PeerId(9)))]
    );
    lab.advance(10);
    assert_eq!(lab.out.asked.len(), 2, "and then no more");
    assert_eq!(
        lab.plane.poll_timeout().unwrap().since(lab.now),
        Duration::from_millis(3_970)
    );
}

#[test]
fn a_later_packet_also_repeats_a_request() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::new(&ours);
    lab.out.control_full = true;
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    lab.out.control_full = false;
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    assert_eq!(lab.out.asked.len(), 1);
}

#[test]
fn a_lost_route_parks_again() {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.unroute(&theirs);
    lab.host_sends(&udp(ours.address, theirs.address, 64, b""));
    assert_eq!(lab.out.asked, [(theirs.subnet, None)]);
    lab.route(&theirs, PeerId(4));
    assert_eq!(lab.one_to_peer().0, PeerId(4));
}

fn small() -> DataPlaneConfig {
    let limits = PendingLimits {
        subnets: 8,
        subnets_per_arrival: 4,
        packets_per_subnet: 10,
        bytes_per_subnet: 2_000,
        bytes_per_arrival: 3_000,
        bytes: 6_000,
        lifetime: Duration::from_secs(4),
    };
    DataPlaneConfig {
        pending_host: limits,
        pending_transit: limits,
        pending_inbound: limits,
        ..DataPlaneConfig::default()
    }
}

#[test]
fn a_subnet_that_is_full_of_packets_drops_its_oldest() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::with_config(&ours, small());
    for n in 0..25 {
        lab.host_sends(&udp(ours.address, theirs.address, 64, &[n]));
    }
    assert_eq!(
        (lab.plane.parked(), lab.count("drop_parked_subnet_full")),
        (10, 15)
    );
    lab.route(&theirs, PeerId(2));
    assert_eq!(
        sequence(&lab.out.to_peers, &ours, &theirs),
        (15..25).collect::<Vec<u8>>()
    );
    lab.check_conservation();
}

#[test]
fn a_subnet_that_is_full_of_bytes_drops_its_oldest() {
    let (ours, theirs) = (party(1), party(2));
    let mut lab = Lab::with_config(&ours, small());
    for n in 0..10 {
        lab.host_sends(&udp(ours.address, theirs.address, 64, &[n; 600]));
        assert!(lab.plane.parked_bytes() <= 2_000);
    }
    assert_eq!(
        (lab.plane.parked(), lab.count("drop_parked_subnet_full")),
        (2, 8)
    );
    lab.route(&theirs, PeerId(2));
    assert_eq!(sequence(&lab.out.to_peers, &ours, &theirs), [8, 9]);
    lab.check_conservation();
}

#[test]
fn a_packet_larger_than_a_subnets_share_is_not_parked() {
    let mut lab = Lab::with_config(&party(1), small());
    lab.peer_sends(
        PeerId(2),
        &frame(party(2).address, party(3).address, 9, &[0; 3_000]),
    );
    assert_eq!(
        (lab.plane.parked(), lab.count("drop_parked_subnet_full")),
        (0, 1)
    );
    assert!(lab.out.asked.is_empty());
    lab.check_conservation();
}

#[test]
fn one_peer_cannot_take_the_places_of_another() {
    let relay = party(1);
    let mut lab = Lab::with_config(&relay, small());
    let honest = frame(party(2).address, party(3).address, 9, &[0; 100]);
    lab.peer_sends(PeerId(1), &honest);
    // A thousand made-up subnets, then a few with large packets, all over one link.
    for n in 0..1000 {
        lab.peer_sends(
            PeerId(66),
            &frame(party(2).address, party(1000 + n).address, 9, &[0; 100]),
        );
    }
    assert_eq!(lab.count("drop_parked_share"), 996);
    for n in 0..10 {
        lab.peer_sends(
            PeerId(66),
            &frame(
                party(2).address,
                party(1000 + n % 4).address,
                9,
                &[0; 1_500],
            ),
        );
    }
    assert!(lab.plane.parked_bytes() <= 3_000 + 300);
    assert_eq!(lab.out.asked.len(), 5, "a bounded number of searches");
    lab.route(&party(3), PeerId(2));
    assert_eq!(lab.one_to_peer().1[8..], honest[8..]);
    lab.check_conservation();
}

#[test]
fn a_full_table_drops_what_waited_longest() {
    let relay = party(1);
    let mut lab = Lab::with_config(&relay, small());
    for n in 0..12u16 {
        lab.peer_sends(
            PeerId(u32::from(n)),
            &frame(party(2).address, party(100 + n).address, 9, &[0; 10]),
        );
        lab.advance(1);
    }
    assert_eq!((lab.plane.parked(), lab.count("drop_parked_full")), (8, 4));
    for n in 0..12u16 {
        lab.route(&party(100 + n), PeerId(500));
        assert_eq!(lab.out.to_peers.len(), usize::from(n.saturating_sub(3)));
    }
    lab.check_conservation();
}

#[test]
fn a_table_full_of_bytes_drops_the_packets_that_waited_longest() {
    let relay = party(1);
    let mut lab = Lab::with_config(&relay, small());
    for n in 0..8u16 {
        lab.peer_sends(
            PeerId(u32::from(n)),
            &frame(party(2).address, party(100 + n).address, 9, &[0; 1_500]),
        );
        assert!(lab.plane.parked_bytes() <= 6_000);
    }
    assert_eq!((lab.plane.parked(), lab.count("drop_parked_full")), (3, 5));
    for n in 0..8u16 {
        lab.route(&party(100 + n), PeerId(500));
    }
    let survivors: Vec<_> = lab
        .out
        .to_peers
        .iter()
        .map(|(_, frame)| DataHeader::parse(frame).unwrap().destination)
        .collect();
    assert_eq!(
        survivors,
        [party(105).address, party(106).address, party(107).address]
    );
    lab.check_conservation();
}

#[test]
fn packets_of_hosts_transit_and_inbound_do_not_displace_each_other() {
    let ours = party(1);
    let mut lab = Lab::with_config(&ours, small());
    lab.host_sends(&udp(ours.address, party(2).address, 64, &[1]));
    for n in 0..1000 {
        let peer = PeerId(u32::from(n) % 50);
        lab.peer_sends(
            peer,
            &frame(party(1000 + n).address, ours.address, 9, &[0; 100]),
        );
        lab.peer_sends(
            peer,
            &frame(party(3).address, party(1000 + n).address, 9, &[0; 100]),
        );
    }
    assert!(lab.plane.parked_bytes() <= 3 * 6_000);
    lab.route(&party(2), PeerId(2));
    assert_eq!(sequence(&lab.out.to_peers, &ours, &party(2)), [1]);
    lab.check_conservation();
}
