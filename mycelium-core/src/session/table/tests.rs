//! Tables and places, seen from inside: what the data plane cannot show.

use super::*;
use crate::session::stub::{self, Kind, Stub};
use crate::session::transport::{self, OVERHEAD};

const LINK: PeerId = PeerId(1);

struct Node {
    sessions: Sessions,
    address: Ipv6Addr,
    key: PublicKey,
}

fn node(number: u8, change: impl FnOnce(&mut SessionConfig)) -> Node {
    let secret = SecretKey::from_bytes([number; 32]);
    let mut config = SessionConfig {
        policy: Policy::Prefer,
        ..SessionConfig::default()
    };
    change(&mut config);
    let mut sessions = Sessions::new(config, &[number; 32]);
    sessions.set_identities(std::iter::once((IdentityId::NODE, &secret)));
    let key = secret.public_key();
    Node {
        sessions,
        address: key.address(),
        key,
    }
}

impl Node {
    fn pair_with(&self) -> Pair {
        (IdentityId::NODE, Subnet::containing(self.address))
    }

    /// Our host has a packet for `other`.
    fn turn_to(&mut self, other: &Self, now: Time) -> Way {
        let hint = RemoteHint {
            key: &other.key,
            speaks_v2: true,
        };
        self.sessions.way(other.pair_with(), hint, now)
    }

    /// The units that go out.
    fn units(&mut self) -> Vec<Vec<u8>> {
        let actions = std::iter::from_fn(|| self.sessions.poll_action());
        actions
            .filter_map(|action| match action {
                Action::Units { units, .. } => Some(units),
                _ => None,
            })
            .flatten()
            .collect()
    }

    fn take_units(&mut self, source: Ipv6Addr, units: &[Vec<u8>], now: Time) {
        for unit in units {
            let (identity, own) = (IdentityId::NODE, self.address);
            assert!(
                self.sessions
                    .on_unit(identity, source, own, unit, LINK, now)
            );
        }
    }

    /// A packet of a session to `other`: whether it opened there.
    fn send(&mut self, other: &mut Self, now: Time) -> bool {
        let slot = self.sessions.live(other.pair_with(), now).unwrap();
        let (remote, at) = self.sessions.outgoing(slot, now).unwrap();
        let mut body = vec![0; OVERHEAD + stub::LEN];
        body[transport::HEAD_LEN..][..stub::LEN].copy_from_slice(&Stub::bytes_of(
            Kind::Empty,
            0,
            0,
        ));
        let sender = &mut remote.sessions[at].sender;
        sender
            .seal_body(self.address, other.address, &mut body)
            .unwrap();
        let index = transport::index_of(&body).unwrap();
        let opened = other.sessions.open(
            index,
            self.pair_with(),
            self.address,
            other.address,
            &mut body,
            now,
        );
        let slot = match opened {
            Some(Ok(opened)) => opened.slot,
            Some(Err(_)) | None => return false,
        };
        other.sessions.on_heard(slot, true, now);
        true
    }

    /// A handshake with `other` up to the second message.
    fn shake(&mut self, other: &mut Self, now: Time) {
        self.turn_to(other, now);
        let first = self.units();
        other.take_units(self.address, &first, now);
        let second = other.units();
        self.take_units(other.address, &second, now);
        self.units();
    }
}

#[test]
fn whoever_finds_no_place_leaves_nothing_behind() {
    let (mut crowded, other) = (node(1, |config| config.remotes = 1), node(2, |_| {}));
    let mut now = Time::from_millis(1000);
    for number in 3..20 {
        now = now + Duration::from_millis(20);
        let mut stranger = node(number, |_| {});
        stranger.shake(&mut crowded, now);
        // The last place is taken between the handshake and its proof.
        crowded.turn_to(&other, now);
        crowded.units();
        assert!(!stranger.send(&mut crowded, now));
        crowded.sessions.forget(other.key.subnet());
    }
    crowded
        .sessions
        .handle_timeout(now + Duration::from_secs(10));
    assert_eq!(crowded.sessions.by_index.len(), 0);
}

#[test]
fn who_would_find_no_place_gets_no_answer_and_so_learns_it() {
    let (mut crowded, other) = (node(1, |config| config.remotes = 1), node(2, |_| {}));
    let now = Time::from_millis(1000);
    crowded.turn_to(&other, now);
    crowded.units();
    let mut stranger = node(3, |_| {});
    stranger.shake(&mut crowded, now);
    assert_eq!(stranger.sessions.live(crowded.pair_with(), now), None);
    crowded.sessions.forget(other.key.subnet());
    let mut luckier = node(4, |_| {});
    luckier.shake(&mut crowded, now);
    assert!(luckier.send(&mut crowded, now));
}

#[test]
fn a_key_that_is_not_the_pinned_one_gets_no_session_even_if_it_came_first() {
    let (mut ours, mut first) = (node(1, |_| {}), node(2, |_| {}));
    let now = Time::from_millis(1000);
    // Whoever has the other key for the same /64 is confirmed while this handshake is half-open.
    first.shake(&mut ours, now);
    let pin = Pin {
        subnet: first.key.subnet(),
        key: PublicKey([9; 32]),
        ours: true,
    };
    ours.sessions.load_pins(&[pin]);
    assert!(!first.send(&mut ours, now));
    assert_eq!(ours.sessions.live(first.pair_with(), now), None);
    // And in the other role.
    let (mut ours, mut first) = (node(1, |_| {}), node(2, |_| {}));
    ours.turn_to(&first, now);
    let units = ours.units();
    first.take_units(ours.address, &units, now);
    ours.sessions.load_pins(&[pin]);
    let units = first.units();
    ours.take_units(first.address, &units, now);
    assert_eq!(ours.sessions.live(first.pair_with(), now), None);
    assert!(ours.sessions.stats().conflicts > 0);
}

#[test]
fn half_open_sessions_keep_their_bound_whatever_order_they_end_in() {
    let mut ours = node(1, |config| config.half_open = 2);
    let mut now = Time::from_millis(1000);
    let (mut one, mut two) = (node(2, |_| {}), node(3, |_| {}));
    one.shake(&mut ours, now);
    two.shake(&mut ours, now);
    assert!(two.send(&mut ours, now));
    assert!(one.send(&mut ours, now));
    for number in 4..14 {
        now = now + Duration::from_millis(20);
        node(number, |_| {}).shake(&mut ours, now);
        assert!(ours.sessions.half_open.len() <= 2);
    }
}

#[test]
fn whom_our_host_only_answers_does_not_become_one_it_turned_to() {
    let (mut ours, mut stranger) = (node(1, |_| {}), node(2, |_| {}));
    let start = Time::from_millis(1000);
    stranger.shake(&mut ours, start);
    assert!(stranger.send(&mut ours, start));
    // A packet under keys that we send nothing under any more, and the answer of our host.
    let now = start + Duration::from_secs(169);
    assert!(stranger.send(&mut ours, now));
    ours.units();
    let now = start + Duration::from_secs(171);
    assert_eq!(ours.turn_to(&stranger, now), Way::Wait);
    let first = ours.units();
    stranger.take_units(ours.address, &first, now);
    let second = stranger.units();
    ours.take_units(stranger.address, &second, now);
    assert!(ours.sessions.live(stranger.pair_with(), now).is_some());
    assert!(!ours.sessions.pins()[0].ours);
}

#[test]
fn forged_halves_in_somebodys_name_cost_him_a_cookie() {
    use crate::session::handshake::MESSAGE_1_LEN;

    let (mut ours, mut honest) = (node(1, |_| {}), node(2, |_| {}));
    let now = Time::from_millis(1000);
    let scope = Scope::EndToEnd {
        source: honest.address,
        destination: ours.address,
    };
    let mac_key = MacKey::new(&ours.key, None);
    // First halves only, so that no agreement is ever paid for.
    let forged: Vec<Vec<u8>> = (0..200u8)
        .map(|number| {
            let message = [number; MESSAGE_1_LEN];
            let [half, _] = crate::session::fragment::split_first(
                &message,
                u32::from(number) + 1,
                scope,
                &mac_key,
            );
            half
        })
        .collect();
    let mut forged = forged.chunks(5);
    honest.turn_to(&ours, now);
    for unit in honest.units() {
        ours.take_units(honest.address, forged.next().unwrap(), now);
        ours.take_units(honest.address, &[unit], now);
    }
    let answer = ours.units();
    honest.take_units(ours.address, &answer, now);
    for unit in honest.units() {
        ours.take_units(honest.address, forged.next().unwrap(), now);
        ours.take_units(honest.address, &[unit], now);
        ours.take_units(honest.address, forged.next().unwrap(), now);
    }
    let answer = ours.units();
    honest.take_units(ours.address, &answer, now);
    assert!(honest.send(&mut ours, now));
}
