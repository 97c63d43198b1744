//! What docs/threat-model.md claims of sessions, at the level of the state machine.

use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::session::mac::NetworkKey;
use mycelium_core::session::view::Protocol;
use mycelium_core::time::Duration;
use mycelium_core::wire::checksum;
use mycelium_core::wire::data::BODY_OFFSET;
use mycelium_core::wire::ipv6::Ipv6Packet;

use crate::world::{World, empty_frame, is_unit, prefer};

const BODY_HEAD: usize = BODY_OFFSET + 4;

fn v1() -> SessionConfig {
    SessionConfig::default()
}

#[test]
fn the_first_packet_waits_one_round_trip_and_goes_on_a_session() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.send(0, 1, b"first");
    world.run(29);
    assert!(world.nodes[1].received().is_empty());
    world.run(2);
    assert_eq!(world.nodes[1].received(), [b"first"]);
    assert_eq!(
        world.nodes[0].protocol(world.address(1)),
        Some(Protocol::V2)
    );
    assert_eq!(
        world.nodes[1].protocol(world.address(0)),
        Some(Protocol::V2)
    );
    let view = world.nodes[0].view(world.address(1)).unwrap();
    assert!(view.pinned && view.initiated);
}

#[test]
fn every_length_arrives_as_it_was_sent_over_direct_and_narrow_paths() {
    for direct in [true, false] {
        let mut world = World::connected(vec![prefer(), prefer()]);
        world.route(0, 1, true, direct);
        world.mtu = if direct { usize::MAX } else { 1434 };
        for len in (0..1361).step_by(17).chain([1360]) {
            let payload = vec![7; len];
            world.send(0, 1, &payload);
            world.run(50);
            assert_eq!(world.nodes[1].received(), [payload], "{len} bytes");
        }
    }
}

#[test]
fn a_path_that_carries_1162_bytes_still_carries_1280_byte_packets() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    world.route(0, 1, true, false);
    world.mtu = 1162;
    world.send(0, 1, &[1; 1360]);
    world.run(2000);
    assert_eq!(
        world.nodes[1].received().len(),
        1,
        "in halves while probing"
    );
    world.send(0, 1, &[1; 1360]);
    world.run(50);
    assert!(world.nodes[1].received().is_empty());
    let told = world.nodes[0].out.packets.pop().unwrap();
    assert_eq!((told[6], told[40]), (58, 2), "Packet Too Big");
    assert_eq!(told[44..48], 1280u32.to_be_bytes());
    world.send(0, 1, &[2; 1240]);
    world.run(50);
    assert_eq!(world.nodes[1].received(), [vec![2; 1240]]);
}

#[test]
fn nodes_that_speak_v1_are_served_at_once_and_for_ever() {
    let mut world = World::new(vec![prefer(), v1()]);
    for (from, to) in [(0, 1), (1, 0)] {
        world.send(from, to, b"plain");
        world.run(11);
        assert_eq!(world.nodes[to].received(), [b"plain"]);
    }
    world.run(600_000);
    world.send(0, 1, b"plain");
    world.run(11);
    assert_eq!(world.nodes[1].received(), [b"plain"]);
    assert_eq!(
        world.nodes[0].protocol(world.address(1)),
        Some(Protocol::V1)
    );
}

#[test]
fn a_forged_hint_delays_a_v1_node_once_by_less_than_a_second() {
    let mut world = World::new(vec![prefer(), v1()]);
    world.route(0, 1, true, true);
    world.send(0, 1, b"wait");
    world.run(1000);
    assert_eq!(world.nodes[1].received(), [b"wait"]);
    world.send(0, 1, b"go");
    world.run(11);
    assert_eq!(world.nodes[1].received(), [b"go"]);
}

#[test]
fn a_stripped_hint_is_noticed_under_the_seal_of_v1() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.route(0, 1, false, true);
    world.route(1, 0, false, true);
    world.send(0, 1, b"plain");
    world.run(300);
    assert_eq!(world.nodes[1].received(), [b"plain"]);
    assert!(world.nodes[1].plane.session_stats().hints_stripped > 0);
    assert_eq!(
        world.nodes[0].protocol(world.address(1)),
        Some(Protocol::V2)
    );
}

#[test]
fn after_the_first_confirmation_v1_is_refused_whatever_the_route_says() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    world.route(0, 1, false, true);
    world.route(1, 0, false, true);
    world.run(400_000);
    let mut v1_bodies = 0;
    world.send(0, 1, b"still sealed");
    world.run_bent(Duration::from_millis(500), |frame| {
        let body_len = frame.len() - BODY_OFFSET;
        v1_bodies += usize::from(!is_unit(&frame) && body_len == 40 + 12 + 4 + 28);
        vec![frame]
    });
    assert_eq!(world.nodes[1].received(), [b"still sealed"]);
    assert_eq!(v1_bodies, 0);
    // Somebody restarts as a v1 node with the same key.
    world.nodes[1].config.policy = Policy::Off;
    world.restart(1, Duration::ZERO);
    world.send(1, 0, b"downgraded");
    world.run(100);
    assert!(world.nodes[0].received().is_empty());
    assert!(world.nodes[0].plane.session_stats().drop_v1 > 0);
    let subnet = world.nodes[1].public.subnet();
    assert!(world.nodes[0].plane.forget_session(subnet));
    world.send(1, 0, b"forgiven");
    world.run(100);
    assert_eq!(world.nodes[0].received(), [b"forgiven"]);
}

#[test]
fn pins_survive_a_restart_where_they_are_kept() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    let pins = world.nodes[0].plane.pins();
    assert_eq!(pins.len(), 1);
    world.restart(0, prefer().unix_epoch);
    world.nodes[0].plane.load_pins(&pins);
    world.nodes[1].config.policy = Policy::Off;
    world.restart(1, Duration::ZERO);
    world.route(0, 1, false, true);
    world.send(1, 0, b"downgraded");
    world.run(100);
    assert!(world.nodes[0].received().is_empty());
}

#[test]
fn replayed_packets_and_handshakes_do_nothing() {
    let mut world = World::new(vec![prefer(), prefer()]);
    let mut seen = Vec::new();
    for n in 0..20u8 {
        world.send(0, 1, &[n]);
        world.send(1, 0, &[n]);
        world.run_bent(Duration::from_millis(40), |frame| {
            seen.push(frame.clone());
            vec![frame]
        });
    }
    assert_eq!(world.nodes[1].received().len(), 20);
    assert_eq!(world.nodes[0].received().len(), 20);
    let before = world.nodes[1].view(world.address(0)).unwrap().counters;
    for wait in [0, 3_000, 200_000] {
        world.run(wait);
        for frame in &seen {
            world.deliver(frame);
        }
        world.run(10_000);
        assert!(world.nodes[0].received().is_empty());
        assert!(world.nodes[1].received().is_empty());
        // Later, packets of a session that is over make its owner ask the peer for a new one: with the real one.
        if wait < 190_000 {
            let after = world.nodes[1].view(world.address(0)).unwrap().counters;
            assert_eq!(before.handshakes, after.handshakes);
        }
    }
    world.send(0, 1, b"and still");
    world.run(100);
    assert_eq!(world.nodes[1].received(), [b"and still"]);
}

#[test]
fn reflected_packets_do_nothing() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    world.send(0, 1, b"mirror");
    let (_, frame) = world.wire.pop_front().unwrap();
    let mut back = frame.clone();
    back[8..24].copy_from_slice(&frame[24..40]);
    back[24..40].copy_from_slice(&frame[8..24]);
    world.deliver(&back);
    world.deliver(&frame);
    world.run(50);
    assert!(world.nodes[0].received().is_empty());
    assert_eq!(world.nodes[1].received(), [b"mirror"]);
}

#[test]
fn no_byte_but_the_hop_limit_can_be_changed() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    world.send(0, 1, b"as it is");
    let (_, frame) = world.wire.pop_front().unwrap();
    for at in 0..frame.len() {
        for bit in [0x01, 0x80] {
            let mut changed = frame.clone();
            changed[at] ^= bit;
            world.deliver(&changed);
            // Byte 2 and 3 are not looked at, 4 neither, 7 is the hop limit: the packet counts once all the same.
            let got = world.nodes[1].received();
            if matches!(at, 2 | 3 | 4 | 7) {
                assert!(got.len() <= 1, "byte {at}");
                if got.len() == 1 {
                    world.send(0, 1, b"as it is");
                    world.wire.clear();
                }
            } else {
                assert!(got.is_empty(), "byte {at}");
            }
        }
    }
    world.send(0, 1, b"next");
    world.run(50);
    assert_eq!(world.nodes[1].received(), [b"next"]);
}

#[test]
fn forged_handshake_fragments_cost_at_most_the_handshake() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.send(0, 1, b"through");
    // Each unit comes with forgeries of itself before it: a relay knows all keys of MAC1.
    world.run_bent(Duration::from_millis(5_000), |frame| {
        let mut frames = Vec::new();
        if is_unit(&frame) {
            for at in [BODY_HEAD + 1, BODY_HEAD + 5, BODY_HEAD + 15, BODY_HEAD + 40] {
                let mut forged = frame.clone();
                forged[at] ^= 1;
                frames.push(forged);
            }
        }
        frames.push(frame);
        frames
    });
    assert_eq!(world.nodes[1].received(), [b"through"]);
}

#[test]
fn a_restarted_peer_is_rekeyed_within_a_round_trip_of_the_first_packet_to_it() {
    for (who, epoch) in [(1, 1_700_000_000), (1, 1_699_913_600), (0, 1_699_913_600)] {
        let mut world = World::connected(vec![prefer(), prefer()]);
        world.run(30_000);
        world.restart(who, Duration::from_secs(epoch));
        world.run(1);
        world.send(1 - who, who, b"lost: it finds out by this one");
        // There, and a round trip for the handshake, which the restarted one begins.
        world.run(10 + 30);
        world.nodes[who].received();
        world.send(1 - who, who, b"back");
        world.run(11);
        assert_eq!(world.nodes[who].received(), [b"back"]);
    }
}

#[test]
fn a_restarted_peer_that_speaks_first_is_heard_at_once() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    world.run(30_000);
    world.restart(0, Duration::from_secs(1_699_913_600));
    world.send(0, 1, b"me again");
    world.run(31);
    assert_eq!(world.nodes[1].received(), [b"me again"]);
    world.send(1, 0, b"welcome");
    world.run(11);
    assert_eq!(world.nodes[0].received(), [b"welcome"]);
}

#[test]
fn keys_rotate_without_losing_or_reordering_a_packet() {
    let config = || SessionConfig {
        rekey_after: Duration::from_secs(1),
        ..prefer()
    };
    let mut world = World::connected(vec![config(), config()]);
    let mut sent = Vec::new();
    for n in 0..3000u32 {
        world.send(0, 1, &n.to_be_bytes());
        sent.push(n.to_be_bytes().to_vec());
        if n % 3 == 0 {
            world.send(1, 0, b"ack");
        }
        world.run(7);
    }
    world.run(100);
    assert_eq!(world.nodes[1].received(), sent);
    assert_eq!(world.nodes[0].received().len(), 1000);
    let view = world.nodes[0].view(world.address(1)).unwrap();
    assert!(view.counters.handshakes > 15, "{view:?}");
}

#[test]
fn keys_are_destroyed_when_nothing_is_sent_any_more() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    let start = world.now;
    world.run(191_000);
    assert_eq!(
        world.nodes[0].protocol(world.address(1)),
        Some(Protocol::Idle)
    );
    assert!(world.nodes[0].plane.poll_timeout().is_none());
    assert!(world.nodes[1].plane.poll_timeout().is_none());
    assert!(world.now > start + Duration::from_secs(190));
}

#[test]
fn one_way_traffic_makes_no_handshakes_but_signs_of_life() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    let before = world.nodes[0].plane.session_stats().initiated;
    for _ in 0..100 {
        world.send(0, 1, b"one way");
        world.run(1000);
    }
    assert_eq!(world.nodes[1].received().len(), 100);
    let stats = world.nodes[0].plane.session_stats();
    assert_eq!(stats.initiated, before);
}

#[test]
fn simultaneous_initiations_end_in_one_session_to_send_on() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.send(0, 1, b"a");
    world.send(1, 0, b"b");
    world.run(100);
    assert_eq!(world.nodes[1].received(), [b"a"]);
    assert_eq!(world.nodes[0].received(), [b"b"]);
    for _ in 0..10 {
        world.send(0, 1, b"a");
        world.send(1, 0, b"b");
        world.run(1000);
    }
    assert_eq!(world.nodes[1].received().len(), 10);
    assert_eq!(world.nodes[0].received().len(), 10);
    let initiated = |of: usize| {
        world.nodes[of]
            .view(world.address(1 - of))
            .unwrap()
            .initiated
    };
    assert_ne!(initiated(0), initiated(1), "both send on the same one");
}

#[test]
fn the_responder_sends_nothing_before_the_initiators_proof() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.send(0, 1, b"x");
    // Message 2 never arrives, so the initiator never proves itself: as if somebody else had made message 1.
    let reply = world.address(1).octets();
    world.run_bent(Duration::from_millis(300), |frame| {
        match frame[8..24] == reply {
            true => vec![],
            false => vec![frame],
        }
    });
    assert!(world.nodes[1].plane.session_stats().half_open > 0);
    assert_eq!(world.nodes[1].plane.session_stats().pins, 0);
    assert!(world.nodes[1].view(world.address(0)).is_none());
    world.send(1, 0, b"secret for 0");
    let mut sealed = 0;
    world.run_bent(Duration::from_millis(300), |frame| {
        sealed += usize::from(!is_unit(&frame));
        vec![]
    });
    assert_eq!(sealed, 0, "only handshakes of its own");
}

#[test]
fn without_the_network_key_nobody_gets_anywhere() {
    let closed = |byte: u8| SessionConfig {
        network_key: NetworkKey::from_bytes([byte; 32]),
        ..prefer()
    };
    for stranger in [prefer(), v1(), closed(2)] {
        let mut world = World::new(vec![closed(1), closed(1), stranger]);
        for (from, to) in [(2, 0), (0, 2)] {
            world.send(from, to, b"let me in");
            world.run(5_000);
            assert!(world.nodes[to].received().is_empty());
        }
        assert_eq!(world.nodes[0].plane.session_stats().answered, 0);
        world.send(0, 1, b"among us");
        world.run(100);
        assert_eq!(world.nodes[1].received(), [b"among us"]);
    }
}

#[test]
fn require_speaks_no_v1_in_either_direction() {
    let require = SessionConfig {
        policy: Policy::Require,
        ..prefer()
    };
    let mut world = World::new(vec![require, v1()]);
    world.send(0, 1, b"out");
    world.send(1, 0, b"in");
    let mut v1_bodies = 0;
    let from_us = world.address(0).octets();
    world.run_bent(Duration::from_secs(10), |frame| {
        v1_bodies += usize::from(frame[8..24] == from_us && !is_unit(&frame));
        vec![frame]
    });
    assert!(world.nodes[0].received().is_empty() && world.nodes[1].received().is_empty());
    assert_eq!(v1_bodies, 0);
}

#[test]
fn an_initiator_without_a_route_back_is_answered_when_there_is_one() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.unroute(1, 0);
    world.send(0, 1, b"who are you");
    world.run(100);
    assert_eq!(world.nodes[1].out.asked, 1);
    assert!(world.nodes[1].received().is_empty());
    world.route(1, 0, true, true);
    world.run(31);
    assert_eq!(world.nodes[1].received(), [b"who are you"]);
}

#[test]
fn a_flood_of_handshakes_is_told_cookies_and_honest_ones_get_through() {
    let mut configs = vec![prefer(), prefer()];
    configs.extend((0..100).map(|_| prefer()));
    let mut world = World::new(configs);
    for from in 2..102 {
        world.send(from, 1, b"flood");
    }
    world.send(0, 1, b"honest");
    world.run(35);
    let told = world.nodes[1].plane.session_stats().cookies_sent;
    // Nobody has to ask again, which would be after 400 ms.
    world.run(300);
    let stats = world.nodes[1].plane.session_stats();
    assert!(told > 0, "{stats:?}");
    let got = world.nodes[1].received();
    assert!(got.contains(&b"honest".to_vec()));
    assert_eq!(got.len(), 101, "cookies let all through in time: {stats:?}");
    // And not by way of v1.
    let to = world.address(1);
    for from in (2..102).chain([0]) {
        assert_eq!(world.nodes[from].protocol(to), Some(Protocol::V2), "{from}");
    }
}

#[test]
fn who_replays_old_handshakes_in_somebodys_name_does_not_keep_him_out() {
    let mut world = World::new(vec![prefer(), prefer()]);
    let mut old = Vec::new();
    // Two first messages of node 0 that never arrived.
    for _ in 0..2 {
        world.send(0, 1, b"lost");
        world.run_bent(Duration::from_millis(15), |frame| {
            old.push(frame);
            vec![]
        });
        world.restart(0, Duration::from_secs(1_800_000_000));
    }
    assert_eq!(old.len(), 4);
    // They take the places that need no cookie.
    for frame in &old {
        world.deliver(frame);
    }
    world.run_bent(Duration::from_millis(15), |_| vec![]);
    assert_eq!(world.nodes[1].plane.session_stats().answered, 2);
    world.send(0, 1, b"honest");
    world.run(55);
    assert_eq!(world.nodes[1].received(), [b"honest"]);
    assert_eq!(world.nodes[1].plane.session_stats().cookies_sent, 1);
}

/// TCP from node 0 to node 1 with a header of 20 bytes and so much data.
fn tcp(world: &World, data: usize) -> Vec<u8> {
    let mut packet = world.packet(0, 1, &vec![3; 20 + data]);
    packet[6] = 6;
    packet[40..60].fill(0);
    packet[52] = 5 << 4;
    packet
}

#[test]
fn super_packets_go_as_one_over_a_stream_between_neighbours_and_are_cut_elsewhere() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    let packet = tcp(&world, 50_000);
    for node in &mut world.nodes {
        node.out.is_stream = true;
    }
    assert!(world.send_partial(0, &packet, Some(1340)));
    world.run(50);
    let (got, cut) = world.nodes[1].out.whole.pop().unwrap();
    assert_eq!((cut.segment, cut.header_len), (1340, 60));
    assert_eq!(got[60..], packet[60..]);
    assert_eq!(got[8..40], packet[8..40]);
    // Whoever says it has a stream, and has none, is not believed.
    world.nodes[1].out.is_stream = false;
    assert!(world.send_partial(0, &packet, Some(1340)));
    world.run(50);
    assert!(world.nodes[1].out.whole.is_empty());
    assert!(world.nodes[1].out.partial.is_empty());
    // No stream, and then a relay between.
    world.nodes[0].out.is_stream = false;
    for (direct, segment) in [(true, 1340), (false, 1000)] {
        world.route(0, 1, true, direct);
        assert!(world.send_partial(0, &packet, Some(segment)));
        world.run(50);
        let cut = std::mem::take(&mut world.nodes[1].out.partial);
        assert_eq!(cut.len(), 50_000_usize.div_ceil(usize::from(segment)));
        let data: Vec<u8> = cut.iter().flat_map(|s| s[60..].to_vec()).collect();
        assert_eq!(data, packet[60..]);
        for (number, got) in cut.iter().enumerate() {
            let sequence = u32::from_be_bytes(got[44..48].try_into().unwrap());
            assert_eq!(sequence as usize, number * usize::from(segment));
            assert_eq!(got[8..40], packet[8..40]);
        }
    }
    assert!(world.nodes[1].out.whole.is_empty());
}

#[test]
fn a_checksum_that_the_host_left_to_others_is_left_to_the_other_host() {
    let mut world = World::connected(vec![prefer(), prefer()]);
    let packet = tcp(&world, 700);
    assert!(world.send_partial(0, &packet, None));
    world.run(50);
    let mut got = world.nodes[1].out.partial.pop().unwrap();
    let mut expected = packet.clone();
    expected[7] = got[7];
    assert!(checksum::set_partial(&mut expected));
    assert_eq!(got, expected);
    checksum::complete(&mut got, 40, checksum::TCP_FIELD).unwrap();
    assert!(checksum::is_whole(&Ipv6Packet::parse(&got).unwrap()));
    // What has no checksum that anybody could leave out, is too long, or somebody else's, is not taken.
    let mut other = packet.clone();
    other[6] = 58;
    assert!(!world.send_partial(0, &other, None));
    let long = tcp(&world, 1400);
    assert!(!world.send_partial(0, &long, None));
    assert!(!world.send_partial(0, &long, Some(1390)));
    let mut other = packet.clone();
    other[8] ^= 1;
    assert!(!world.send_partial(0, &other, None));
    assert!(!world.send_partial(0, &packet[..packet.len() - 1], None));
    assert!(world.send_partial(0, &packet, None));
}

#[test]
fn v1_packets_leave_with_a_checksum() {
    let mut world = World::new(vec![prefer(), prefer()]);
    world.route(0, 1, false, true);
    world.route(1, 0, false, true);
    let packet = tcp(&world, 700);
    assert!(world.send_partial(0, &packet, None));
    assert!(world.send_partial(0, &packet, Some(256)));
    // A connection that begins learns how long segments may be.
    let mut syn = tcp(&world, 4);
    syn[52] = 6 << 4;
    syn[53] = 2;
    syn[60..].copy_from_slice(&[2, 4, 5, 0xa0]);
    assert!(world.send_partial(0, &syn, None));
    world.run(50);
    assert!(world.nodes[1].out.partial.is_empty());
    let got = std::mem::take(&mut world.nodes[1].out.packets);
    let lengths: Vec<_> = got.iter().map(Vec::len).collect();
    assert_eq!(lengths, [760, 316, 316, 248, 64]);
    for packet in &got {
        assert!(checksum::is_whole(&Ipv6Packet::parse(packet).unwrap()));
    }
    assert_eq!(got[0][60..], packet[60..]);
    let data: Vec<u8> = got[1..4].iter().flat_map(|s| s[60..].to_vec()).collect();
    assert_eq!(data, packet[60..]);
    assert_eq!(got[4][60..], [2, 4, 4, 6]);
}

#[test]
fn a_full_table_makes_room_for_our_own_host_and_sends_no_speaker_of_v2_to_v1() {
    let small = SessionConfig {
        remotes: 2,
        ..prefer()
    };
    // Strangers take all places, and go on talking.
    let mut world = World::new(vec![small.clone(), prefer(), prefer(), prefer()]);
    for from in [2, 3] {
        world.send(from, 0, b"here I am");
        world.run(100);
    }
    world.nodes[0].received();
    world.send(0, 1, b"ours");
    world.run(100);
    assert_eq!(world.nodes[1].received(), [b"ours"]);
    assert_eq!(
        world.nodes[0].protocol(world.address(1)),
        Some(Protocol::V2)
    );

    // All places belong to sessions that our own host began: one more is refused, and said so.
    let mut world = World::new(vec![small, prefer(), prefer(), prefer()]);
    for to in [2, 3] {
        world.send(0, to, b"ours");
        world.run(100);
        assert_eq!(world.nodes[to].received(), [b"ours"]);
    }
    world.send(0, 1, b"one too many");
    let mut to_it = 0;
    let its = world.address(1).octets();
    world.run_bent(Duration::from_secs(5), |frame| {
        to_it += usize::from(frame[24..40] == its);
        vec![frame]
    });
    assert_eq!(to_it, 0);
    assert!(world.nodes[0].plane.session_stats().table_full > 0);
    let told = world.nodes[0].out.packets.pop().unwrap();
    assert_eq!((told[6], told[40], told[41]), (58, 1, 0), "no route");
    // Those that have a place keep it.
    world.send(0, 2, b"still");
    world.run(100);
    assert_eq!(world.nodes[2].received(), [b"still"]);
}

#[test]
fn what_only_begins_as_a_handshake_unit_causes_none() {
    for known in [true, false] {
        let mut world = match known {
            true => World::connected(vec![prefer(), prefer()]),
            false => World::new(vec![prefer(), prefer()]),
        };
        // So that nothing was heard lately, and a packet that fits nothing would be looked at.
        world.run(20_000);
        let mut frame = empty_frame(world.address(0), world.address(1), 120);
        frame[BODY_HEAD] = 1;
        let before = world.nodes[1].plane.session_stats();
        world.deliver(&frame);
        world.run(2_000);
        let after = world.nodes[1].plane.session_stats();
        assert_eq!(after.drop_unit, before.drop_unit + 1, "counted");
        if known {
            assert_eq!(after.strays, before.strays, "no sign of lost keys");
            assert_eq!(after.initiated, before.initiated);
            assert_eq!(after.drop_v1, before.drop_v1, "and not tried as v1");
        }
    }
}
