//! What we announce ourselves (RFC 8966 §3.7.4, decisions: a table of identities).

use super::*;
use crate::io::IdentityId;

fn secret(number: u8) -> SecretKey {
    SecretKey::from_bytes([number; 32])
}

#[test]
fn an_identity_is_announced_when_added_and_retracted_when_removed() {
    let mut solo = Solo::new();
    let other = Remote::of(secret(40).public_key(), 0);
    solo.up(P1);
    solo.up(P2);
    let sent = solo.input(Input::AddIdentity {
        id: IdentityId(5),
        secret: secret(40),
    });
    assert_eq!(updates(&sent, other), [(P1, 0, 0), (P2, 0, 0)]);
    assert!(solo.node.fib().origin(other.subnet()).is_some());
    let sent = solo.input(Input::RemoveIdentity { id: IdentityId(5) });
    assert_eq!(
        updates(&sent, other),
        [(P1, 0, INFINITE), (P2, 0, INFINITE)]
    );
    assert!(solo.node.fib().origin(other.subnet()).is_none());
}

#[test]
fn a_removed_identity_that_comes_back_from_a_neighbour_is_not_believed() {
    let mut solo = Solo::new();
    solo.up(P1);
    let sent = solo.input(Input::AddIdentity {
        id: IdentityId(5),
        secret: secret(40),
    });
    let Some((_, Tlv::Update(ours))) = sent.first().copied() else {
        panic!("announced");
    };
    let gone = Remote::of(secret(40).public_key(), 0);
    solo.input(Input::RemoveIdentity { id: IdentityId(5) });
    let echo = Update { metric: 20, ..ours };
    assert_eq!(solo.update(P1, echo), []);
    assert_eq!(solo.next_hop(gone), None);
    let elsewhere = Remote::of(secret(40).public_key(), 77);
    solo.update(P1, elsewhere.update(0, 20));
    assert_eq!(
        solo.next_hop(gone),
        Some(P1),
        "the same identity on another node is"
    );
}

#[test]
fn identities_have_router_ids_and_seqnos_of_their_own() {
    let mut solo = Solo::with(NodeConfig {
        zone: [0x12, 0x34],
        ..NodeConfig::default()
    });
    solo.input(Input::AddIdentity {
        id: IdentityId(1),
        secret: secret(40),
    });
    let sent = solo.up(P1);
    let ours: Vec<Update> = sent
        .iter()
        .filter_map(|(_, tlv)| match tlv {
            Tlv::Update(update) => Some(*update),
            _ => None,
        })
        .collect();
    assert_eq!(ours.len(), 2);
    assert_ne!(
        ours[0].router_id.as_bytes()[34..],
        ours[1].router_id.as_bytes()[34..]
    );
    for update in &ours {
        assert_eq!(update.router_id.zone(), [0x12, 0x34]);
        assert_eq!(
            update.prefix,
            Prefix::from(update.router_id.public_key().subnet())
        );
    }
    let first = Remote {
        public_key: ours[0].router_id.public_key(),
        router_id: ours[0].router_id,
    };
    solo.seqno_request(P1, first, 9, 64);
    let mut seqnos: Vec<u16> = solo
        .node
        .snapshot(solo.now)
        .identities
        .iter()
        .map(|identity| identity.seqno)
        .collect();
    seqnos.sort_unstable();
    assert_eq!(seqnos, [0, 9]);
}

#[test]
fn our_own_identity_cannot_be_removed() {
    let mut solo = Solo::new();
    solo.up(P1);
    assert_eq!(
        solo.input(Input::RemoveIdentity {
            id: IdentityId::NODE
        }),
        []
    );
    assert_eq!(solo.node.snapshot(solo.now).identities.len(), 1);
}

#[test]
fn an_identity_that_was_elsewhere_before_moves_here() {
    let mut solo = Solo::new();
    let moved = Remote::of(secret(40).public_key(), 7);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, moved.update(3, 100));
    let sent = solo.input(Input::AddIdentity {
        id: IdentityId(1),
        secret: secret(40),
    });
    assert_eq!(updates(&sent, moved), [(P1, 0, 0), (P2, 0, 0)]);
    assert!(solo.node.fib().is_empty());
    assert_eq!(solo.node.snapshot(solo.now).peers[0].routes, 0);
    solo.update(P1, moved.update(3, 100));
    assert!(
        solo.node.fib().is_empty(),
        "our own subnets are never learned"
    );
}

#[test]
fn our_subnets_are_announced_every_five_minutes() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    let sent = solo.pass(Duration::from_secs(1_510), true);
    assert_eq!(updates(&sent, us), [(P1, 0, 0); 5]);
}

#[test]
fn our_announcement_coming_back_is_normal() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    solo.update(P1, us.update(0, 20));
    solo.update(P1, Remote::of(us.public_key, 200).update(9, 20));
    solo.update(P1, Remote::of(us.public_key, 200).update(9, INFINITE));
    assert_eq!(solo.other, []);
    assert!(solo.node.fib().is_empty());
}

#[test]
fn a_neighbour_that_retracts_what_is_ours_is_told_again() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    solo.up(P2);
    // Nodes of the present network retract under their own router-id.
    let retraction = Update {
        prefix: us.subnet().into(),
        ..Remote::new(1).update(0, INFINITE)
    };
    assert_eq!(updates(&solo.update(P1, retraction), us), [(P1, 0, 0)]);
    let told: usize = (0..10_000)
        .map(|_| updates(&solo.update(P1, retraction), us).len())
        .sum();
    assert_eq!(told, 4_095, "no more than are answered who ask");
    assert_eq!(updates(&solo.update(P2, retraction), us), [(P2, 0, 0)]);
}

#[test]
fn a_link_to_ourselves_is_closed() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    solo.update(P1, us.update(0, 0));
    assert_eq!(solo.closed(), [(P1, CloseReason::Ourselves)]);
}

#[test]
fn a_neighbour_that_originates_our_key_is_reported_once() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    let twin = Remote::of(us.public_key, 200);
    solo.up(P1);
    solo.update(P1, twin.update(0, 0));
    solo.update(P1, twin.update(1, 0));
    let duplicate = Event::DuplicateIdentity {
        subnet: us.subnet(),
        peer: P1,
    };
    assert_eq!(solo.events(), [&duplicate]);
    assert_eq!(solo.closed(), []);
}

#[test]
fn a_shutdown_retracts_everything_and_ends_the_conversation() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    let other = Remote::of(secret(40).public_key(), 0);
    solo.input(Input::AddIdentity {
        id: IdentityId(5),
        secret: secret(40),
    });
    solo.up(P1);
    solo.up(P2);
    let sent = solo.input(Input::Shutdown);
    for gone in [us, other] {
        assert_eq!(updates(&sent, gone), [(P1, 0, INFINITE), (P2, 0, INFINITE)]);
    }
    assert_eq!(solo.update(P1, us.update(0, 20)), []);
    assert_eq!(solo.request(P1, us.subnet(), 0), []);
}

#[test]
fn a_request_for_a_newer_seqno_is_met_at_once_and_told_to_everybody() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    solo.up(P2);
    let sent = solo.seqno_request(P1, us, 1, 64);
    assert_eq!(updates(&sent, us), [(P1, 1, 0), (P2, 1, 0)]);
    let sent = solo.seqno_request(P2, us, 30, 1);
    assert_eq!(
        updates(&sent, us),
        [(P1, 30, 0), (P2, 30, 0)],
        "all the way, with any hop count"
    );
}

#[test]
fn a_request_for_what_we_have_is_answered_to_the_asker_alone() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    let before = Remote::of(us.public_key, 200);
    solo.up(P1);
    solo.up(P2);
    assert_eq!(
        updates(&solo.seqno_request(P1, us, 0, 64), us),
        [(P1, 0, 0)]
    );
    assert_eq!(
        updates(&solo.seqno_request(P1, before, 900, 64), us),
        [(P1, 0, 0)]
    );
}

#[test]
fn a_flood_of_seqno_requests_is_met_at_a_bounded_rate() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    for seqno in 1..=1_000 {
        solo.seqno_request(P1, us, seqno, 64);
    }
    let snapshot = solo.node.snapshot(solo.now);
    assert_eq!(snapshot.identities[0].seqno, 16);
    assert_eq!(snapshot.counters.seqno_increases, 16);
    solo.pass(Duration::from_secs(1), true);
    let sent = solo.seqno_request(P1, us, 1_000, 64);
    assert_eq!(
        updates(&sent, us),
        [(P1, 1_000, 0)],
        "and the honest request gets through"
    );
}
