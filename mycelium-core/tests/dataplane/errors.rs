//! ICMPv6 errors: to local hosts, out of band, and not too many.

use std::net::Ipv6Addr;

use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
use etherparse::{Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
use mycelium_core::io::{IdentityId, PeerId};

use crate::lab::*;

const NO_ROUTE: Icmpv6Type = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute);
const HOP_LIMIT: Icmpv6Type = Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded);

/// Type, source and destination of an ICMPv6 error, after its checksum and its quote were checked.
fn read_error(packet: &[u8], offender: &[u8]) -> (Icmpv6Type, Ipv6Addr, Ipv6Addr) {
    let (source, destination) = addresses(packet);
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
        panic!("not ICMPv6");
    };
    assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
    assert_eq!(icmp.payload(), &offender[..offender.len().min(1232)]);
    assert!(packet.len() <= 1280);
    (icmp.icmp_type(), source, destination)
}

fn addresses(packet: &[u8]) -> (Ipv6Addr, Ipv6Addr) {
    let (header, _) = etherparse::Ipv6Header::from_slice(packet).unwrap();
    (header.source_addr(), header.destination_addr())
}

#[test]
fn a_host_is_told_why_its_packet_failed() {
    let (mut lab, ours, theirs) = Lab::pair();
    let outside: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let unreachable = Icmpv6Type::DestinationUnreachable;
    for (from, to, hop_limit, len, expected) in [
        (
            theirs.address,
            theirs.address,
            64,
            8,
            unreachable(DestUnreachableCode::SourceAddressFailedPolicy),
        ),
        (
            outside,
            theirs.address,
            64,
            8,
            unreachable(DestUnreachableCode::SourceAddressFailedPolicy),
        ),
        (ours.address, outside, 64, 8, NO_ROUTE),
        (
            ours.address,
            neighbour_of(&ours),
            64,
            8,
            unreachable(DestUnreachableCode::Address),
        ),
        (ours.address, theirs.address, 1, 8, HOP_LIMIT),
        (ours.address, theirs.address, 0, 1300, HOP_LIMIT),
        (
            ours.address,
            theirs.address,
            64,
            1353,
            Icmpv6Type::PacketTooBig { mtu: 1400 },
        ),
    ] {
        let packet = udp(from, to, hop_limit, &vec![0x11; len]);
        lab.host_sends(&packet);
        let (identity, error) = lab.one_to_host();
        assert_eq!(identity, NODE);
        assert_eq!(read_error(&error, &packet), (expected, ours.address, from));
    }
    assert!(lab.out.to_peers.is_empty());
    assert_eq!(lab.count("host_errors"), 7);
    assert_eq!(lab.count("drop_source_policy"), 2);
    assert_eq!(lab.count("drop_hop_limit"), 2);
    for name in [
        "drop_not_overlay",
        "drop_address_unreachable",
        "drop_too_big",
    ] {
        assert_eq!(lab.count(name), 1, "{name}");
    }
    lab.check_conservation();
}

#[test]
fn an_identity_may_not_use_the_source_of_another() {
    let (mut lab, _, theirs) = Lab::pair();
    let (tenant, other) = (party(5), party(6));
    lab.add_identity(1, &tenant);
    lab.add_identity(2, &other);
    for to in [theirs.address, tenant.address] {
        lab.identity_sends(IdentityId(1), &udp(other.address, to, 64, b"spoofed"));
        let (identity, _) = lab.one_to_host();
        assert_eq!(identity, IdentityId(1), "the error goes to the culprit");
    }
    assert!(lab.out.to_peers.is_empty());
    assert_eq!(lab.count("drop_source_policy"), 2);
}

#[test]
fn what_hosts_send_all_the_time_is_dropped_in_silence() {
    let (mut lab, ours, theirs) = Lab::pair();
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let group: Ipv6Addr = "ff02::2".parse().unwrap();
    for (from, to) in [
        (link_local, group),
        (Ipv6Addr::UNSPECIFIED, group),
        (ours.address, group),
        (ours.address, link_local),
        (link_local, theirs.address),
        (Ipv6Addr::UNSPECIFIED, theirs.address),
        (group, theirs.address),
    ] {
        lab.host_sends(&udp(from, to, 255, b""));
    }
    lab.expect_silence();
    assert_eq!(lab.count("drop_not_routable"), 7);
    lab.check_conservation();
}

#[test]
fn what_is_no_ipv6_packet_is_dropped_in_silence() {
    let (mut lab, ours, theirs) = Lab::pair();
    let packet = udp(ours.address, theirs.address, 64, b"payload");
    for len in 0..packet.len() {
        lab.host_sends(&packet[..len]);
    }
    let mut ipv4 = packet.clone();
    ipv4[0] = 0x45;
    lab.host_sends(&ipv4);
    lab.expect_silence();
    assert_eq!(lab.count("drop_host_malformed"), packet.len() as u64 + 1);
    lab.check_conservation();
}

#[test]
fn errors_are_not_answered_with_errors() {
    let (mut lab, ours, theirs) = Lab::pair();
    let mut packet = Vec::new();
    PacketBuilder::ipv6(ours.address.octets(), theirs.address.octets(), 1)
        .icmpv6(NO_ROUTE)
        .write(&mut packet, b"quote")
        .unwrap();
    lab.host_sends(&packet);
    lab.expect_silence();
    assert_eq!(lab.count("drop_hop_limit"), 1);
}

#[test]
fn a_host_that_fails_a_lot_is_told_at_a_bounded_rate() {
    let (mut lab, ours, theirs) = Lab::pair();
    lab.add_identity(1, &party(5));
    let packet = udp(ours.address, theirs.address, 1, b"");
    for _ in 0..1000 {
        lab.host_sends(&packet);
    }
    assert_eq!(lab.out.to_hosts.len(), 100);
    assert_eq!(lab.count("host_errors_suppressed"), 900);
    // Somebody else's budget is untouched, and it refills.
    lab.identity_sends(
        IdentityId(1),
        &udp(party(5).address, theirs.address, 1, b""),
    );
    assert_eq!(lab.out.to_hosts.len(), 101);
    lab.advance(100);
    for _ in 0..1000 {
        lab.host_sends(&packet);
    }
    assert_eq!(lab.out.to_hosts.len(), 121);
    lab.check_conservation();
}

#[test]
fn a_relay_tells_the_source_that_the_hop_limit_is_used_up() {
    let (a, relay, b) = (party(1), party(3), party(2));
    let mut at_a = Lab::new(&a);
    at_a.route(&b, PeerId(1));
    at_a.route(&relay, PeerId(1));
    let mut at_relay = Lab::new(&relay);
    at_relay.route(&a, PeerId(31));
    at_relay.route(&b, PeerId(32));

    let probe = udp(a.address, b.address, 2, b"traceroute");
    at_a.host_sends(&probe);
    at_relay.peer_sends(PeerId(31), &at_a.one_to_peer().1);
    let (peer, notice) = at_relay.one_to_peer();
    assert_eq!(peer, PeerId(31));
    assert_eq!(
        (
            at_relay.count("drop_hop_limit"),
            at_relay.count("notices_sent")
        ),
        (1, 1)
    );

    // As upstream would read it.
    let (header, plaintext) = open(&a, &relay, &notice);
    assert_eq!(header.source, relay.subnet.network_address());
    assert_eq!(header.destination, a.address);
    assert_eq!(header.hop_limit, 63);
    assert_eq!(plaintext[..4], [1, 2, 0, 0]);
    assert_eq!(plaintext[4..20], b.address.octets());
    assert!((64..=1296).contains(&(plaintext.len() - 4)));
    let (source, destination) = addresses(&plaintext[20..]);
    assert_eq!(
        (source, destination),
        (relay.subnet.network_address(), a.address)
    );
    assert_eq!((plaintext[20 + 6], plaintext[20 + 7]), (58, 64));
    assert_eq!(plaintext[60..62], [3, 0]);
    let quoted = open_body(&a, &b, &plaintext[68..]).unwrap();
    assert_eq!(quoted[4..], probe);

    at_a.peer_sends(PeerId(1), &notice);
    let (identity, error) = at_a.one_to_host();
    assert_eq!(identity, NODE);
    assert_eq!(
        read_error(&error, &probe),
        (HOP_LIMIT, relay.subnet.network_address(), a.address)
    );
    assert_eq!(at_a.count("notices_delivered"), 1);
    at_a.check_conservation();
    at_relay.check_conservation();
}

#[test]
fn a_relay_tells_the_source_that_there_is_no_route() {
    let (a, relay, b) = (party(1), party(3), party(2));
    let mut at_a = Lab::new(&a);
    at_a.route(&b, PeerId(1));
    at_a.route(&relay, PeerId(1));
    let mut at_relay = Lab::new(&relay);
    at_relay.route(&a, PeerId(31));

    let packet = udp(a.address, b.address, 64, &[9; 1100]);
    at_a.host_sends(&packet);
    at_relay.peer_sends(PeerId(31), &at_a.one_to_peer().1);
    assert_eq!(at_relay.out.asked, [(b.subnet, Some(PeerId(31)))]);
    at_relay.expect_silence();
    at_relay.plane.query_failed(b.subnet, &mut at_relay.out);
    at_a.peer_sends(PeerId(1), &at_relay.one_to_peer().1);
    let (_, error) = at_a.one_to_host();
    assert_eq!(
        read_error(&error, &packet),
        (NO_ROUTE, relay.subnet.network_address(), a.address)
    );
    at_relay.check_conservation();
}

#[test]
fn notices_are_bounded_in_rate_and_never_cause_a_search() {
    let (relay, b, known) = (party(3), party(2), party(1));
    let mut lab = Lab::new(&relay);
    lab.route(&b, PeerId(32));
    lab.route(&known, PeerId(31));
    for n in 0..1000 {
        lab.peer_sends(
            PeerId(9),
            &frame(party(1000 + n).address, b.address, 1, &[0; 64]),
        );
    }
    lab.expect_silence();
    assert!(lab.out.asked.is_empty());
    for _ in 0..1000 {
        lab.peer_sends(PeerId(31), &frame(known.address, b.address, 1, &[0; 64]));
    }
    assert_eq!(lab.out.to_peers.len(), 100);
    assert_eq!(
        (lab.count("notices_sent"), lab.count("notices_suppressed")),
        (100, 1900)
    );
    lab.check_conservation();
}

#[test]
fn a_packet_too_long_to_quote_gets_no_notice() {
    let (relay, a, b) = (party(3), party(1), party(2));
    let mut lab = Lab::new(&relay);
    lab.route(&a, PeerId(31));
    lab.route(&b, PeerId(32));
    lab.peer_sends(PeerId(31), &frame(a.address, b.address, 1, &[0; 1233]));
    lab.expect_silence();
    lab.peer_sends(PeerId(31), &frame(a.address, b.address, 1, &[0; 1232]));
    assert_eq!(lab.one_to_peer().1.len(), 40 + 4 + 16 + 1280 + 28);
}

/// A notice about `probe`, which `ours` sent to `theirs`, from `reporter`.
fn notice(reporter: &Party, ours: &Party, theirs: &Party, probe: &[u8]) -> Vec<u8> {
    let sealed = sealed_packet(ours, theirs, 1, probe);
    notice_quoting(reporter, ours, theirs.address, &sealed[40..])
}

fn notice_quoting(reporter: &Party, ours: &Party, original: Ipv6Addr, quote: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    PacketBuilder::ipv6(reporter.address.octets(), ours.address.octets(), 64)
        .icmpv6(HOP_LIMIT)
        .write(&mut message, quote)
        .unwrap();
    let plaintext = [&[1, 2, 0, 0], &original.octets()[..], &message].concat();
    seal(reporter, ours, 60, &plaintext)
}

fn notice_lab() -> (Lab, Party, Party, Party) {
    let (mut lab, ours, theirs) = Lab::pair();
    let reporter = party(3);
    lab.route(&reporter, PeerId(2));
    (lab, ours, theirs, reporter)
}

#[test]
fn a_notice_of_any_reporter_reaches_the_host() {
    let (mut lab, ours, theirs, reporter) = notice_lab();
    let probe = udp(ours.address, theirs.address, 2, b"probe");
    lab.peer_sends(PeerId(2), &notice(&reporter, &ours, &theirs, &probe));
    let (_, error) = lab.one_to_host();
    assert_eq!(
        read_error(&error, &probe),
        (HOP_LIMIT, reporter.address, ours.address)
    );
    assert_eq!(error[7], 59);
}

#[test]
fn a_notice_that_does_not_prove_itself_is_dropped() {
    let (mut lab, ours, theirs, reporter) = notice_lab();
    let probe = udp(ours.address, theirs.address, 2, b"probe");
    let good = notice(&reporter, &ours, &theirs, &probe);
    let (_, good_plaintext) = open(&ours, &reporter, &good);
    let mut bad = Vec::new();

    // Cut at every length, and too long.
    for len in 4..good_plaintext.len() {
        bad.push(seal(&reporter, &ours, 60, &good_plaintext[..len]));
    }
    bad.push(seal(
        &reporter,
        &ours,
        60,
        &[&good_plaintext[..], &[0; 1400]].concat(),
    ));
    // Another protocol, another ICMP type (Packet Too Big among them), another version of IP.
    for (at, value) in [
        (20 + 6, 17),
        (60, 128),
        (60, 1),
        (60, 2),
        (61, 7),
        (20, 0x45),
    ] {
        let mut plaintext = good_plaintext.clone();
        plaintext[at] = value;
        if (at, value) != (60, 1) {
            bad.push(seal(&reporter, &ours, 60, &plaintext));
        }
    }
    // An empty quote, one that does not open, and one to somebody unknown or to ourselves.
    bad.push(notice_quoting(&reporter, &ours, theirs.address, &[]));
    bad.push(notice_quoting(&reporter, &ours, theirs.address, &[0; 100]));
    bad.push(notice_quoting(
        &reporter,
        &ours,
        party(99).address,
        &good_plaintext[68..],
    ));
    bad.push(notice_quoting(
        &reporter,
        &ours,
        ours.address,
        &good_plaintext[68..],
    ));
    // A packet that we received, not sent: the same key seals both directions.
    let received = udp(theirs.address, ours.address, 2, b"probe");
    bad.push(notice(&reporter, &ours, &theirs, &received));
    // A packet to somebody else than the notice says.
    let elsewhere = udp(ours.address, reporter.address, 2, b"probe");
    bad.push(notice(&reporter, &ours, &theirs, &elsewhere));
    // A notice about an error, and about a message.
    let mut error = Vec::new();
    PacketBuilder::ipv6(ours.address.octets(), theirs.address.octets(), 2)
        .icmpv6(NO_ROUTE)
        .write(&mut error, b"")
        .unwrap();
    bad.push(notice(&reporter, &ours, &theirs, &error));
    let message = seal(&ours, &theirs, 2, &[1, 1, 0, 0, 9, 9]);
    bad.push(notice_quoting(
        &reporter,
        &ours,
        theirs.address,
        &message[40..],
    ));

    for (index, frame) in bad.iter().enumerate() {
        lab.peer_sends(PeerId(2), frame);
        assert!(lab.out.to_hosts.is_empty(), "{index}");
        lab.check_conservation();
    }
    assert!(lab.out.to_peers.is_empty());
    assert!(lab.out.asked.is_empty());
    assert_eq!(lab.count("drop_notice"), bad.len() as u64);
}

#[test]
fn notices_to_a_host_are_bounded_in_rate_apart_from_its_own_errors() {
    let (mut lab, ours, theirs, reporter) = notice_lab();
    let probe = udp(ours.address, theirs.address, 2, b"probe");
    let replayed = notice(&reporter, &ours, &theirs, &probe);
    for _ in 0..1000 {
        lab.peer_sends(PeerId(2), &replayed);
    }
    assert_eq!(lab.out.to_hosts.len(), 100);
    assert_eq!(lab.count("drop_notice"), 900);
    lab.out.to_hosts.clear();
    lab.host_sends(&udp(ours.address, theirs.address, 1, b""));
    lab.one_to_host();
    lab.check_conservation();
}
