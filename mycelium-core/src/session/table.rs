//! All sessions of a node: who speaks v2, handshakes in both roles, keys and their age (docs/protocol.md §14).
//!
//! A state machine without I/O. The data plane asks it how to send and what an index means, tells it of handshake units and of
//! the time, and carries out the [`Action`]s that result. Bounds: `SessionConfig`; who is idle and has no session goes first.
//!
//! What a packet from the network may do here before it is authenticated: cost a hash; and within the budgets of
//! [`responder`](super::responder) an agreement. Nothing is pinned, sent or retired by less than a packet that opens.
//!
//! Here: slots, and what the data plane asks per packet. Below: handshakes of ours (`initiate`), of others (`answer`), what is due
//! (`timers`), what is shown (`report`).

mod answer;
mod initiate;
mod report;
mod timers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv6Addr;

use crate::addr::Subnet;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::fib::SubnetHash;
use crate::io::{IdentityId, PeerId};
use crate::rng::Rng;
use crate::time::{Duration, Time};

use super::config::{OWED, Policy, RECEIVE_FOR, RETRY, SessionConfig, UNHEARD};
use super::cookie::{CookieJar, CookieKey};
use super::fragment::{MessageKind, Reassembly, ReassemblyLimits, Unit};
use super::halves::Halves;
use super::handshake::Local;
use super::mac::{MacKey, Scope};
use super::path::{NextHops, Probe};
use super::pins::{Pin, Pins};
use super::remote::{Pair, Remote, Session};
use super::responder::{Budgets, HalfOpens};
use super::transport::ReceiveError;
use super::view::SessionStats;

/// Our confirmation is repeated after these, counted from the session's start, until something is heard.
const CONFIRM_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// A packet that fits nothing is no sign of lost keys while the session was alive so lately.
const ALIVE: Duration = Duration::from_secs(5);
/// Slots looked at for an idle one.
const EVICTION_TRIES: usize = 64;

/// What the route to a remote identity says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoteHint<'a> {
    pub(crate) key: &'a PublicKey,
    /// Its router-id says that it speaks v2.
    pub(crate) speaks_v2: bool,
}

/// How to send to a remote identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// On the current session of this slot.
    V2(usize),
    V1,
    /// Not yet: keep it until [`Action::Ready`].
    Wait,
    /// Not at all: another key is pinned.
    Conflict,
    /// Not at all: it needs a session, and all places are taken.
    Full,
}

/// Who wants a place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A host of ours has a packet for the remote.
    Ours,
    /// The remote sent something.
    Theirs,
}

/// What an index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Locator {
    Attempt(usize),
    Session(usize),
    HalfOpen,
}

/// What opened, and on which slot.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) slot: usize,
    pub(crate) plaintext: &'a mut [u8],
}

/// What the data plane is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send handshake units from an identity. `half_open`: whose message 2 this is, if it is one.
    Units {
        from: IdentityId,
        to: Ipv6Addr,
        units: Vec<Vec<u8>>,
        half_open: Option<(u32, PeerId)>,
    },
    /// Send an empty packet on a slot's session; `confirm`: unless packets have done so already.
    Empty { slot: usize, confirm: bool },
    /// Send a probe on a slot's session.
    Probe { slot: usize, probe: Probe },
    /// What waited for a session to `Subnet` can go, one way or another.
    Ready(Subnet),
}

/// One of our identities, as handshakes need it.
#[derive(Debug)]
struct LocalKeys {
    local: Local,
    mac_key: MacKey,
    cookie_key: CookieKey,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sessions {
    config: SessionConfig,
    policy: Policy,
    rng: Rng,
    locals: BTreeMap<IdentityId, LocalKeys>,
    slots: HashMap<Pair, usize, SubnetHash>,
    remotes: Vec<Option<Remote>>,
    free: Vec<usize>,
    hand: usize,
    by_index: HashMap<u64, Locator, SubnetHash>,
    half_open: HalfOpens,
    reassembly: Reassembly,
    jar: CookieJar,
    budgets: Budgets,
    pins: Pins,
    pub(super) next_hops: NextHops,
    pub(crate) halves: Halves,
    timers: BTreeSet<(Time, usize)>,
    actions: VecDeque<Action>,
    stats: SessionStats,
}

impl Sessions {
    pub(crate) fn new(config: SessionConfig, seed: &[u8; 32]) -> Self {
        let mut rng = Rng::from_seed(*seed);
        let hash = |rng: &mut Rng| rng.next_u64();
        Self {
            policy: config.effective_policy(),
            locals: BTreeMap::new(),
            slots: HashMap::with_hasher(SubnetHash::new(hash(&mut rng))),
            remotes: Vec::new(),
            free: Vec::new(),
            hand: 0,
            by_index: HashMap::with_hasher(SubnetHash::new(hash(&mut rng))),
            half_open: HalfOpens::new(config.half_open, hash(&mut rng)),
            reassembly: Reassembly::new(ReassemblyLimits::default()),
            jar: CookieJar::default(),
            budgets: Budgets::new(&config, hash(&mut rng)),
            pins: Pins::new(config.own_pins, config.their_pins, hash(&mut rng)),
            next_hops: NextHops::default(),
            halves: Halves::default(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            stats: SessionStats::default(),
            config,
            rng,
        }
    }

    /// Whether only v1 is spoken.
    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        self.policy == Policy::Off
    }

    /// Whether v1 packets from and to `subnet` are out of the question.
    #[inline]
    pub(crate) fn refuses_v1(&self, subnet: Subnet) -> bool {
        match self.policy {
            Policy::Off => false,
            Policy::Prefer => self.pins.key(subnet).is_some(),
            Policy::Require => true,
        }
    }

    /// Our identities are now these.
    pub(crate) fn set_identities<'a>(
        &mut self,
        identities: impl Iterator<Item = (IdentityId, &'a SecretKey)>,
    ) {
        if self.is_off() {
            return;
        }
        let mut old = std::mem::take(&mut self.locals);
        for (id, secret) in identities {
            let keys = old.remove(&id).unwrap_or_else(|| {
                let local = Local::new(secret.clone());
                let network_key = self.config.network_key.as_ref();
                LocalKeys {
                    mac_key: MacKey::new(local.public_key(), network_key),
                    cookie_key: CookieKey::new(local.public_key(), network_key),
                    local,
                }
            });
            self.locals.insert(id, keys);
        }
        if !old.is_empty() {
            for slot in 0..self.remotes.len() {
                let pair = self.remotes[slot].as_ref().map(|remote| remote.pair);
                if pair.is_some_and(|(id, _)| old.contains_key(&id)) {
                    self.remove(slot);
                }
            }
        }
    }

    /// Whether `ids` are not those of [`set_identities`](Self::set_identities).
    pub(crate) fn identities_differ(&self, ids: impl Iterator<Item = IdentityId>) -> bool {
        !self.is_off() && !self.locals.keys().copied().eq(ids)
    }

    /// How a packet of our host goes to `pair`.
    #[inline]
    pub(crate) fn way(&mut self, pair: Pair, hint: RemoteHint<'_>, now: Time) -> Way {
        if self.is_off() {
            return Way::V1;
        }
        if let Some(&slot) = self.slots.get(&pair)
            && let Some(remote) = self.remotes[slot].as_mut()
            && let Some(keys) = self.locals.get(&pair.0)
            && remote
                .current_position(keys.local.public_key(), now)
                .is_some()
        {
            remote.last_host = now;
            if remote.is_worn(self.config.rekey_after, now) {
                self.upkeep(slot, now);
            }
            return Way::V2(slot);
        }
        self.way_without_session(pair, hint, now)
    }

    /// The session of `slot` to send on, with what its path carries.
    #[inline]
    pub(crate) fn outgoing(&mut self, slot: usize, now: Time) -> Option<(&mut Remote, usize)> {
        let remote = self.remotes.get_mut(slot)?.as_mut()?;
        let own = self.locals.get(&remote.pair.0)?.local.public_key();
        let position = remote.current_position(own, now)?;
        Some((remote, position))
    }

    /// The slot of a live session with `pair`, for what is only sent where there is one.
    pub(crate) fn live(&self, pair: Pair, now: Time) -> Option<usize> {
        let &slot = self.slots.get(&pair)?;
        let remote = self.remotes.get(slot)?.as_ref()?;
        let own = self.locals.get(&pair.0)?.local.public_key();
        remote.current_position(own, now).map(|_| slot)
    }

    /// What the path of `slot` does with a packet, and the remote itself.
    pub(crate) fn fit(
        &mut self,
        slot: usize,
        route: super::path::Route,
        inner_len: usize,
        wire_len: usize,
        now: Time,
    ) -> super::path::Fit {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return super::path::Fit::Whole;
        };
        if route.direct && remote.path.size().is_none() {
            return super::path::Fit::Whole;
        }
        let id = match wire_len > usize::from(super::path::SURE) {
            true => u32::from_be_bytes(self.rng.array()),
            false => 0,
        };
        let (fit, probe) =
            remote
                .path
                .fit(route, inner_len, wire_len, id, &mut self.next_hops, now);
        if let Some(probe) = probe {
            self.actions.push_back(Action::Probe { slot, probe });
        }
        fit
    }

    /// So many packets other than empty ones went out on `slot`.
    #[inline]
    pub(crate) fn on_sent(&mut self, slot: usize, packets: u64, now: Time) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.counters.sent += packets;
            remote.on_sent(now);
            if !remote.is_armed_by(now + UNHEARD) {
                self.arm(slot);
            }
        }
    }

    /// An empty packet went out on `slot`.
    pub(crate) fn on_sent_empty(&mut self, slot: usize) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.on_sent_empty();
        }
    }

    fn way_without_session(&mut self, pair: Pair, hint: RemoteHint<'_>, now: Time) -> Way {
        let pinned = self.pins.key(pair.1);
        if pinned.is_some_and(|key| key != hint.key) {
            self.stats.conflicts += 1;
            return Way::Conflict;
        }
        let must = pinned.is_some() || self.policy == Policy::Require;
        let Some(slot) = self.slot_for(pair, hint.key, Turn::Ours, now) else {
            self.stats.table_full += 1;
            // Whoever is known to speak v2 does not fall back to v1 for want of a place: others could take them all.
            return match must || hint.speaks_v2 {
                true => Way::Full,
                false => Way::V1,
            };
        };
        let Some(remote) = self.remotes[slot].as_mut() else {
            return Way::V1;
        };
        remote.last_host = now;
        // An answer is no sign that our host wanted anything: strangers can have as many as they like.
        remote.ours |= remote
            .last_heard
            .is_none_or(|heard| now.since(heard) >= RECEIVE_FOR);
        if hint.speaks_v2 && !remote.hinted {
            // It was taken for a v1 node before; perhaps it was one.
            remote.hinted = true;
            remote.v1_until = now;
            remote.quiet_until = now;
        }
        let may_initiate = now >= remote.quiet_until && remote.attempts.is_empty();
        if !must && now < remote.v1_until {
            return Way::V1;
        }
        if !must && !remote.hinted {
            // It may have been kept from saying that it speaks v2: ask, rarely, and without making anybody wait.
            if may_initiate {
                remote.on_v1_verdict(now);
                self.initiate(slot, now);
            }
            return Way::V1;
        }
        if remote.waiting_since.is_none() {
            remote.waiting_since = Some(now);
        }
        if may_initiate {
            self.initiate(slot, now);
            self.retry_later(slot, now + RETRY);
        } else if remote.retry_at.is_none() {
            let at = remote.quiet_until.max(now + RETRY);
            self.retry_later(slot, at);
        }
        Way::Wait
    }

    /// New keys if they are due.
    #[cold]
    fn upkeep(&mut self, slot: usize, now: Time) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if remote.is_worn(self.config.rekey_after, now)
            && remote.attempts.is_empty()
            && now >= remote.quiet_until
        {
            self.initiate(slot, now);
        }
    }

    fn retry_later(&mut self, slot: usize, at: Time) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.retry_at = Some(at);
            self.arm(slot);
        }
    }

    /// Open the body of a data packet to `identity`, if its index is one of ours for that source. `None`: it is not.
    #[inline]
    pub(crate) fn open<'a>(
        &mut self,
        index: u32,
        pair: Pair,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &'a mut [u8],
        now: Time,
    ) -> Option<Result<Opened<'a>, ReceiveError>> {
        let slot = match *self.by_index.get(&u64::from(index))? {
            Locator::Session(slot) => slot,
            Locator::HalfOpen => {
                return self.open_first(index, pair, source, destination, body, now);
            }
            Locator::Attempt(_) => return None,
        };
        let remote = self.remotes.get_mut(slot)?.as_mut()?;
        if remote.pair != pair {
            return None;
        }
        let session = remote.by_index(index)?;
        match session.receiver.open_body(source, destination, body) {
            Ok(plaintext) => {
                remote.counters.received += 1;
                Some(Ok(Opened { slot, plaintext }))
            }
            Err(error) => {
                match error {
                    ReceiveError::Replay(_) => remote.counters.drop_replay += 1,
                    ReceiveError::Length
                    | ReceiveError::Index
                    | ReceiveError::Exhausted
                    | ReceiveError::Authentication => remote.counters.drop_authentication += 1,
                }
                Some(Err(error))
            }
        }
    }

    /// A packet of `slot` opened. `is_empty`: it carried nothing.
    #[inline]
    pub(crate) fn on_heard(&mut self, slot: usize, is_empty: bool, now: Time) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.on_heard(is_empty, now);
            // Whoever only receives is not asked by `way` whether new keys are due.
            if remote.attempts.is_empty()
                && now >= remote.quiet_until
                && remote.is_worn(self.config.rekey_after * 3 / 2, now)
            {
                self.initiate(slot, now);
            }
            if let Some(Some(remote)) = self.remotes.get_mut(slot)
                && !remote.is_armed_by(now + OWED)
            {
                self.arm(slot);
            }
        }
    }

    /// A packet of `slot` opened, but what it holds is nothing we know.
    pub(crate) fn on_malformed(&mut self, slot: usize) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.counters.drop_malformed += 1;
        }
    }

    /// The remote answered a probe.
    pub(crate) fn on_answer(&mut self, slot: usize, id: u32, size: u16, now: Time) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.path.answered(id, size, &mut self.next_hops, now);
        }
    }

    fn install(&mut self, slot: usize, session: Session) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        let index = session.receiver.index();
        let gone = remote.on_session(session);
        let (subnet, key, ours) = (remote.pair.1, remote.key, remote.ours);
        for index in gone {
            self.by_index.remove(&u64::from(index));
        }
        self.by_index
            .insert(u64::from(index), Locator::Session(slot));
        self.stats.established += 1;
        self.pin(subnet, key, ours);
        self.actions.push_back(Action::Ready(subnet));
        self.arm(slot);
    }

    fn pin(&mut self, subnet: Subnet, key: PublicKey, ours: bool) {
        let Self {
            pins,
            slots,
            remotes,
            locals,
            ..
        } = self;
        // Whether any of our identities has a session there.
        let in_use = |subnet| {
            locals.keys().any(|&id| {
                slots
                    .get(&(id, subnet))
                    .and_then(|&slot| remotes[slot].as_ref())
                    .is_some_and(|remote| !remote.sessions.is_empty())
            })
        };
        if !pins.insert(Pin { subnet, key, ours }, in_use) {
            self.stats.unpinned += 1;
        }
    }

    /// A body for `identity` that fits no session and is no handshake, from somebody who speaks v2: it may have keys that we
    /// lost. We begin, rarely.
    pub(crate) fn on_stray(
        &mut self,
        pair: Pair,
        hint: RemoteHint<'_>,
        body_len: usize,
        from: PeerId,
        now: Time,
    ) {
        let known = self.pins.key(pair.1);
        if self.is_off()
            || body_len < super::transport::OVERHEAD + super::stub::LEN
            || known.is_some_and(|key| key != hint.key)
            || known.is_none() && !hint.speaks_v2
        {
            return;
        }
        self.stats.strays += 1;
        let known_slot = self.slots.get(&pair).copied();
        if let Some(slot) = known_slot
            && let Some(Some(remote)) = self.remotes.get(slot)
            && (now < remote.quiet_until
                || !remote.attempts.is_empty()
                || !remote.sessions.is_empty()
                    && remote
                        .last_heard
                        .is_some_and(|heard| now.since(heard) < ALIVE))
        {
            return;
        }
        if !self.budgets.take_stray(from, now) {
            self.stats.over_budget += 1;
            return;
        }
        if let Some(slot) = self.slot_for(pair, hint.key, Turn::Theirs, now) {
            if let Some(Some(remote)) = self.remotes.get_mut(slot) {
                remote.hinted |= hint.speaks_v2;
            }
            self.initiate(slot, now);
        }
    }

    /// A v1 packet from somebody who must not send any.
    pub(crate) fn on_v1_refused(&mut self, pair: Pair) {
        self.stats.drop_v1 += 1;
        if let Some(&slot) = self.slots.get(&pair)
            && let Some(Some(remote)) = self.remotes.get_mut(slot)
        {
            remote.counters.drop_v1 += 1;
        }
    }

    /// A v1 packet that opened says, under its seal, that its sender speaks v2 although its route does not.
    pub(crate) fn on_v1_hint(&mut self, pair: Pair, key: &PublicKey, now: Time) {
        if self.policy != Policy::Prefer || self.pins.key(pair.1).is_some() {
            return;
        }
        let Some(slot) = self.slot_for(pair, key, Turn::Theirs, now) else {
            return;
        };
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if !remote.hinted {
            remote.hinted = true;
            self.stats.hints_stripped += 1;
        }
        // Also while it is taken for a v1 node: it says itself that it is none, so somebody spoilt the handshake.
        if remote.sessions.is_empty() && remote.attempts.is_empty() && now >= remote.quiet_until {
            self.initiate(slot, now);
        }
    }

    /// A body that begins as a handshake unit, for one of our identities. False: it is none, and may be one of v1.
    pub(crate) fn on_unit(
        &mut self,
        identity: IdentityId,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        bytes: &[u8],
        from: PeerId,
        now: Time,
    ) -> bool {
        let pair = (identity, Subnet::containing(source));
        let Ok(unit) = Unit::parse(bytes) else {
            self.stats.drop_unit += 1;
            // A v1 body begins with anything. From who must not send one it says nothing, not even that keys were lost.
            return self.refuses_v1(pair.1);
        };
        let Some(keys) = self.locals.get(&identity) else {
            return true;
        };
        if keys.local.address() != destination {
            self.stats.drop_unit += 1;
            return true;
        }
        match unit {
            Unit::CookieReply(reply) => self.on_cookie_reply(pair, source, &reply, now),
            Unit::Fragment(fragment) => {
                let scope = Scope::EndToEnd {
                    source,
                    destination,
                };
                if !keys.mac_key.verify(scope, fragment.bytes()) {
                    self.stats.drop_mac1 += 1;
                    return true;
                }
                match fragment.kind() {
                    MessageKind::One => self.on_message_1(pair, source, &fragment, from, now),
                    MessageKind::Two => self.on_message_2(pair, source, &fragment, now),
                }
            }
        }
        true
    }

    /// Who is at the other end of `slot`.
    pub(crate) fn remote_of(&self, slot: usize) -> Option<(IdentityId, Subnet, Ipv6Addr)> {
        let remote = self.remotes.get(slot)?.as_ref()?;
        Some((remote.pair.0, remote.pair.1, remote.address))
    }

    /// The largest packet towards the remote of `slot` that is known to pass, bytes on the wire; `None`: any.
    pub(crate) fn path_size(&self, slot: usize) -> Option<u16> {
        self.remotes.get(slot)?.as_ref()?.path.size()
    }

    /// Whether anything went out on the current session of `slot`.
    pub(crate) fn has_sent(&mut self, slot: usize, now: Time) -> bool {
        self.outgoing(slot, now)
            .and_then(|(remote, position)| remote.sessions.get(position))
            .is_some_and(|session| session.sender.count() > 0)
    }

    /// The next thing for the data plane to do.
    #[inline]
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The slot of `pair`, made if need be. `None`: no room.
    fn slot_for(&mut self, pair: Pair, key: &PublicKey, turn: Turn, now: Time) -> Option<usize> {
        if let Some(&slot) = self.slots.get(&pair) {
            match &self.remotes[slot] {
                Some(remote) if remote.key == *key => return Some(slot),
                // Another key for the same /64, and none pinned: whoever was there is gone.
                _ => self.remove(slot),
            }
        }
        let network_key = self.config.network_key.as_ref();
        let remote = Remote::new(
            pair,
            *key,
            MacKey::new(key, network_key),
            CookieKey::new(key, network_key),
        );
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.remotes.len() < self.config.remotes => {
                self.remotes.push(None);
                self.remotes.len() - 1
            }
            None => {
                let slot = self.slot_to_give_up(turn, now)?;
                self.remove(slot);
                self.free.pop()?
            }
        };
        self.remotes[slot] = Some(remote);
        self.slots.insert(pair, slot);
        Some(slot)
    }

    /// Whether [`slot_for`](Self::slot_for) would find a slot for somebody who turns to us.
    fn has_place(&mut self, pair: Pair, now: Time) -> bool {
        if self.slots.contains_key(&pair)
            || !self.free.is_empty()
            || self.remotes.len() < self.config.remotes
        {
            return true;
        }
        let Some(slot) = self.slot_to_give_up(Turn::Theirs, now) else {
            return false;
        };
        // It is looked at first when it is needed.
        self.hand = slot;
        true
    }

    /// Who makes room: somebody idle or whom our hosts never turned to, not heard of lately; for a packet of our own host also
    /// the one of those strangers that has been silent for longest. Never a session that our hosts began.
    fn slot_to_give_up(&mut self, turn: Turn, now: Time) -> Option<usize> {
        let mut stranger: Option<(Time, usize)> = None;
        for _ in 0..EVICTION_TRIES.min(self.remotes.len()) {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.remotes.len();
            let Some(remote) = &self.remotes[slot] else {
                continue;
            };
            let heard = remote.last_heard.unwrap_or(Time::ZERO);
            if (remote.is_idle() || !remote.ours) && now.since(heard) >= ALIVE {
                return Some(slot);
            }
            if !remote.ours && stranger.is_none_or(|(longest, _)| heard < longest) {
                stranger = Some((heard, slot));
            }
        }
        match turn {
            Turn::Ours => stranger.map(|(_, slot)| slot),
            Turn::Theirs => None,
        }
    }

    fn remove(&mut self, slot: usize) {
        let Some(remote) = self.remotes.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if let Some(armed) = remote.armed {
            self.timers.remove(&(armed, slot));
        }
        for session in &remote.sessions {
            self.by_index.remove(&u64::from(session.receiver.index()));
        }
        for attempt in &remote.attempts {
            self.by_index.remove(&u64::from(attempt.initiator.index()));
        }
        self.slots.remove(&remote.pair);
        self.free.push(slot);
    }
}

/// An index that is neither 0 nor in use.
fn fresh_index(rng: &mut Rng, used: &HashMap<u64, Locator, SubnetHash>) -> u32 {
    loop {
        let index = u32::from_be_bytes(rng.array());
        if index != 0 && !used.contains_key(&u64::from(index)) {
            return index;
        }
    }
}

#[cfg(test)]
mod tests;
