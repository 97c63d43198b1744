//! All sessions of a node: who speaks v2, handshakes in both roles, keys and their age (docs/protocol.md §14).
//!
//! A state machine without I/O. The data plane asks it how to send and what an index means, tells it of handshake units and of
//! the time, and carries out the [`Action`]s that result. Bounds: `SessionConfig`; who is idle and has no session goes first.
//!
//! What a packet from the network may do here before it is authenticated: cost a hash; and within the budgets of
//! [`responder`](super::responder) an agreement. Nothing is pinned, sent or retired by less than a packet that opens.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv6Addr;

use crate::addr::Subnet;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::fib::SubnetHash;
use crate::io::{IdentityId, PeerId};
use crate::rng::Rng;
use crate::time::{Duration, Time};

use super::config::{OWED, Policy, RETRY, SessionConfig, UNHEARD, V1_VERDICT};
use super::cookie::{CookieJar, CookieKey, ReturnAddress};
use super::fragment::{
    self, CookieReply, Fragment, MessageKind, Reassembly, ReassemblyLimits, Route, SecondMessage,
    Source, Unit, Whole,
};
use super::halves::Halves;
use super::handshake::{Arrival, Established, Hello, Initiator, Local, Responder, Timestamp};
use super::mac::{MAC_LEN, MacKey, Scope};
use super::path::{NextHops, Probe};
use super::pins::{Pin, Pins};
use super::remote::{Attempt, Pair, Remote, Session};
use super::responder::{Budgets, HalfOpen, HalfOpens, Room};
use super::transport::ReceiveError;
use super::view::{Protocol, SessionStats, SessionView};

/// Cookie replies that one message 1 is repeated for.
const COOKIES_PER_MESSAGE: u8 = 2;
/// Our confirmation is repeated after these, counted from the session's start, until something is heard.
const CONFIRM_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// A packet that fits nothing is no sign of lost keys while the session was alive so lately.
const ALIVE: Duration = Duration::from_secs(5);
/// Slots looked at for an idle one.
const EVICTION_TRIES: usize = 64;
/// Hosts that sent nothing for so long do not need a session any more.
const HOST_PATIENCE: Duration = Duration::from_secs(5);

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
    pub(crate) fn new(config: SessionConfig, seed: [u8; 32]) -> Self {
        let mut rng = Rng::from_seed(seed);
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

    // ---- sending

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
            if !remote.ours || remote.is_worn(self.config.rekey_after, now) {
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

    /// A packet other than an empty one went out on `slot`.
    #[inline]
    pub(crate) fn on_sent(&mut self, slot: usize, now: Time) {
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.counters.sent += 1;
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
        let Some(slot) = self.slot_for(pair, hint.key, now) else {
            self.stats.table_full += 1;
            return if must { Way::Conflict } else { Way::V1 };
        };
        let Some(remote) = self.remotes[slot].as_mut() else {
            return Way::V1;
        };
        remote.last_host = now;
        remote.ours = true;
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

    /// New keys if they are due, and a better class for the pin of somebody our host turned to.
    #[cold]
    fn upkeep(&mut self, slot: usize, now: Time) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if !remote.ours {
            remote.ours = true;
            let (subnet, key) = (remote.pair.1, remote.key);
            self.pin(subnet, key, true);
        }
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

    /// Begin a handshake.
    fn initiate(&mut self, slot: usize, now: Time) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        remote.on_initiated(now);
        if !self.budgets.take_host(now) {
            self.stats.over_budget += 1;
            return;
        }
        let Some(keys) = self.locals.get(&remote.pair.0) else {
            return;
        };
        let index = fresh_index(&mut self.rng, &self.by_index);
        let hello = Hello {
            index,
            timestamp: Timestamp::from_unix(self.config.unix_epoch + now.since(Time::ZERO)),
            has_aes: self.config.has_aes,
        };
        let Ok((initiator, message)) = Initiator::start(
            super::handshake::Context::EndToEnd,
            &keys.local,
            &remote.key,
            &hello,
            &mut self.rng,
        ) else {
            self.stats.low_order += 1;
            return;
        };
        let scope = Scope::EndToEnd {
            source: keys.local.address(),
            destination: remote.address,
        };
        let mut units = fragment::split_first(&message, index, scope, &remote.mac_key);
        remote.cookies.stamp(now, &mut units);
        self.stats.initiated += 1;
        self.actions.push_back(Action::Units {
            from: remote.pair.0,
            to: remote.address,
            units: units.to_vec(),
            half_open: None,
        });
        // Two, so that an answer to the one before may still come.
        let old = (remote.attempts.len() >= 2).then(|| remote.attempts.remove(0));
        remote.attempts.push(Attempt {
            initiator,
            units,
            started: now,
            second: SecondMessage::default(),
            cookies: 0,
        });
        if let Some(old) = old {
            self.by_index.remove(&u64::from(old.initiator.index()));
        }
        self.by_index
            .insert(u64::from(index), Locator::Attempt(slot));
        self.arm(slot);
    }

    // ---- receiving

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

    /// The first packet of an initiator: its proof.
    #[cold]
    fn open_first<'a>(
        &mut self,
        index: u32,
        pair: Pair,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &'a mut [u8],
        now: Time,
    ) -> Option<Result<Opened<'a>, ReceiveError>> {
        let half = self.half_open.get_mut(index)?;
        if half.pair != pair {
            return None;
        }
        let plaintext = match half
            .established
            .receiver
            .open_body(source, destination, body)
        {
            Ok(plaintext) => plaintext,
            Err(error) => return Some(Err(error)),
        };
        let mut half = self.half_open.remove(index)?;
        half.established.sender.release();
        let slot = self.slot_for(pair, &half.established.remote_key, now)?;
        let session = Session {
            sender: half.established.sender,
            receiver: half.established.receiver,
            suite: half.established.suite,
            created: half.created,
            initiated: false,
            crossed: half.crossed,
            message_hash: half.message_hash,
        };
        self.install(slot, session);
        // So that the initiator knows, also where our host has nothing to say.
        self.actions.push_back(Action::Empty {
            slot,
            confirm: true,
        });
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.counters.received += 1;
        }
        Some(Ok(Opened { slot, plaintext }))
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
        if let Some(slot) = self.slot_for(pair, hint.key, now) {
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
        let Some(slot) = self.slot_for(pair, key, now) else {
            return;
        };
        if let Some(Some(remote)) = self.remotes.get_mut(slot)
            && !remote.hinted
        {
            remote.hinted = true;
            self.stats.hints_stripped += 1;
            if remote.attempts.is_empty() && now >= remote.quiet_until {
                self.initiate(slot, now);
            }
        }
    }

    /// A handshake unit for one of our identities. False: it is none.
    pub(crate) fn on_unit(
        &mut self,
        identity: IdentityId,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        bytes: &[u8],
        from: PeerId,
        now: Time,
    ) -> bool {
        let Ok(unit) = Unit::parse(bytes) else {
            return false;
        };
        let Some(keys) = self.locals.get(&identity) else {
            return true;
        };
        if keys.local.address() != destination {
            self.stats.drop_unit += 1;
            return true;
        }
        let pair = (identity, Subnet::containing(source));
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

    fn on_cookie_reply(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        reply: &CookieReply<'_>,
        now: Time,
    ) {
        let index = reply.receiver();
        let Some(&Locator::Attempt(slot)) = self.by_index.get(&u64::from(index)) else {
            return;
        };
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if remote.pair != pair || remote.address != source {
            return;
        }
        let Some(attempt) = remote
            .attempts
            .iter_mut()
            .find(|attempt| attempt.initiator.index() == index)
        else {
            return;
        };
        if attempt.cookies >= COOKIES_PER_MESSAGE
            || !remote.cookies.accept(now, &remote.cookie_key, reply)
        {
            return;
        }
        attempt.cookies += 1;
        remote.cookies.stamp(now, &mut attempt.units);
        self.stats.cookies_received += 1;
        self.actions.push_back(Action::Units {
            from: pair.0,
            to: remote.address,
            units: attempt.units.to_vec(),
            half_open: None,
        });
    }

    fn on_message_2(&mut self, pair: Pair, source: Ipv6Addr, fragment: &Fragment<'_>, now: Time) {
        let index = fragment.receiver();
        let Some(&Locator::Attempt(slot)) = self.by_index.get(&u64::from(index)) else {
            self.stats.drop_unit += 1;
            return;
        };
        let network_key = self.config.network_key.as_ref();
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if remote.pair != pair || remote.address != source {
            self.stats.drop_unit += 1;
            return;
        }
        let Some(position) = remote
            .attempts
            .iter()
            .position(|attempt| attempt.initiator.index() == index)
        else {
            return;
        };
        let attempt = &mut remote.attempts[position];
        if !attempt.initiator.reply_key().verify(fragment.bytes()) {
            self.stats.drop_mac1 += 1;
            return;
        }
        let Some(message) = attempt.second.add(now, fragment) else {
            return;
        };
        let finished = attempt
            .initiator
            .finish(fragment.sender(), &message.message, network_key);
        let Ok(established) = finished else {
            self.stats.drop_handshake += 1;
            return;
        };
        let started = remote.attempts.remove(position).started;
        // Their initiation was answered while ours was under way.
        let crossed = self.half_open.has(pair)
            || remote.sessions.first().is_some_and(|session| {
                !session.initiated && session.crossed && session.created >= started
            });
        let session = session_of(established, now, true, crossed, [0; 32]);
        self.install(slot, session);
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.confirm = Some((now + CONFIRM_AGAIN[0], 0));
        }
        self.actions.push_back(Action::Empty {
            slot,
            confirm: true,
        });
        self.arm(slot);
    }

    fn on_message_1(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        fragment: &Fragment<'_>,
        from: PeerId,
        now: Time,
    ) {
        let address = ReturnAddress::end_to_end(source);
        let proven = self.jar.verify(now, &address, fragment);
        // Somebody who proved its address and was answered may have lost the answer.
        let repeats = proven && self.half_open.has(pair);
        if !repeats && self.budgets.is_loaded(from, pair, proven, now) {
            if proven {
                self.stats.over_budget += 1;
            } else if fragment.number() == 0 {
                let asked = (fragment.sender(), fragment.mac1());
                self.tell_cookie(pair, source, asked, from, now);
            }
            return;
        }
        let route = Route {
            identity: pair.0,
            source: Source::overlay(pair.1),
            link: from.0,
        };
        let Some(message) = self.reassembly.add(now, route, fragment) else {
            return;
        };
        let message_hash = message.hash;
        if let Some(half) = self.half_open.find(pair, &message_hash) {
            if half.may_repeat(now) {
                let units = half.units.clone();
                let half_open = Some((half.established.local_index, from));
                self.actions.push_back(Action::Units {
                    from: pair.0,
                    to: source,
                    units,
                    half_open,
                });
            }
            return;
        }
        let slot = self.slots.get(&pair).copied();
        let remote = slot.and_then(|slot| self.remotes[slot].as_ref());
        if remote.is_some_and(|remote| {
            let mut sessions = remote.sessions.iter();
            sessions.any(|session| session.message_hash == message_hash)
        }) {
            self.stats.drop_unit += 1;
            return;
        }
        let crossed = remote.is_some_and(|remote| !remote.attempts.is_empty());
        match self.half_open.room(pair, now) {
            Room::Yes => {}
            Room::WithCookie if proven => {}
            Room::WithCookie => {
                let asked = (fragment.sender(), &message.mac1);
                self.tell_cookie(pair, source, asked, from, now);
                return;
            }
            Room::No => {
                self.stats.over_budget += 1;
                return;
            }
        }
        if !self.budgets.take(from, pair, proven, now) {
            self.stats.over_budget += 1;
            if !proven {
                let asked = (fragment.sender(), &message.mac1);
                self.tell_cookie(pair, source, asked, from, now);
            }
            return;
        }
        let Some(half) = self.respond(pair, source, fragment, &message, from, now) else {
            self.stats.drop_handshake += 1;
            return;
        };
        let half = HalfOpen { crossed, ..half };
        let index = half.established.local_index;
        self.actions.push_back(Action::Units {
            from: pair.0,
            to: source,
            units: half.units.clone(),
            half_open: Some((index, from)),
        });
        for gone in self.half_open.insert(half) {
            self.by_index.remove(&u64::from(gone));
        }
        self.by_index.insert(u64::from(index), Locator::HalfOpen);
        self.stats.answered += 1;
    }

    /// Answer message 1, paying step by step.
    fn respond(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        fragment: &Fragment<'_>,
        message: &Whole,
        from: PeerId,
        now: Time,
    ) -> Option<HalfOpen> {
        let keys = self.locals.get(&pair.0)?;
        let identified =
            Responder::identify(Arrival::EndToEnd { source }, &keys.local, &message.message)
                .ok()?;
        let remote_key = *identified.remote_key();
        let is_ours = |other: &LocalKeys| *other.local.public_key() == remote_key;
        if self.locals.values().any(is_ours) {
            return None;
        }
        if self.pins.key(pair.1).is_some_and(|key| *key != remote_key) {
            self.stats.conflicts += 1;
            return None;
        }
        let authenticated = identified.authenticate(fragment.sender()).ok()?;
        let index = fresh_index(&mut self.rng, &self.by_index);
        let network_key = self.config.network_key.as_ref();
        let response = authenticated
            .respond(index, self.config.has_aes, network_key, &mut self.rng)
            .ok()?;
        let established = response.established;
        let scope = Scope::EndToEnd {
            source: keys.local.address(),
            destination: source,
        };
        let units = fragment::split_second(
            &response.message,
            index,
            established.remote_index,
            scope,
            &MacKey::new(&remote_key, network_key),
            &response.reply_key,
        );
        Some(HalfOpen {
            pair,
            established,
            created: now,
            message_hash: message.hash,
            units: units.to_vec(),
            sent: now,
            unsent: false,
            from,
            crossed: false,
        })
    }

    /// Answer a first message with a cookie: its index, and MAC1 of its first half.
    fn tell_cookie(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        (index, mac1): (u32, &[u8; MAC_LEN]),
        from: PeerId,
        now: Time,
    ) {
        let Some(keys) = self.locals.get(&pair.0) else {
            return;
        };
        if !self.budgets.take_cookie(from, now) {
            return;
        }
        let address = ReturnAddress::end_to_end(source);
        let (key, rng) = (&keys.cookie_key, &mut self.rng);
        let reply = self.jar.reply_to(now, &address, index, mac1, key, rng);
        self.stats.cookies_sent += 1;
        self.actions.push_back(Action::Units {
            from: pair.0,
            to: source,
            units: vec![reply.to_vec()],
            half_open: None,
        });
    }

    // ---- time and what follows

    /// Who is at the other end of `slot`.
    pub(crate) fn remote_of(&self, slot: usize) -> Option<(IdentityId, Subnet, Ipv6Addr)> {
        let remote = self.remotes.get(slot)?.as_ref()?;
        Some((remote.pair.0, remote.pair.1, remote.address))
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

    /// Message 2 found no route. True: ask for one.
    pub(crate) fn on_unsent(&mut self, index: u32, from: PeerId, now: Time) -> bool {
        self.half_open.mark_unsent(index);
        self.budgets.take_query(from, now)
    }

    /// There are new routes: send what waited for them.
    pub(crate) fn on_routes(&mut self, has_route: impl Fn(Subnet) -> bool) {
        for index in self.half_open.take_sendable(|pair| has_route(pair.1)) {
            if let Some(half) = self.half_open.get_mut(index) {
                self.actions.push_back(Action::Units {
                    from: half.pair.0,
                    to: half.established.remote_key.address(),
                    units: half.units.clone(),
                    half_open: Some((index, half.from)),
                });
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|&(at, _)| at);
        [timer, self.half_open.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Do what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        for index in self.half_open.expire(now) {
            self.by_index.remove(&u64::from(index));
        }
        while let Some(&(at, slot)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(Some(remote)) = self.remotes.get_mut(slot) {
                remote.armed = None;
                self.service(slot, now);
            }
        }
    }

    fn service(&mut self, slot: usize, now: Time) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        let gone = remote.expire(now);
        if remote.owes(now) {
            remote.on_sent_empty();
            self.actions.push_back(Action::Empty {
                slot,
                confirm: false,
            });
        }
        if let Some((at, times)) = remote.confirm
            && at <= now
        {
            remote.confirm = CONFIRM_AGAIN
                .get(usize::from(times) + 1)
                .map(|&pause| (now + pause, times + 1));
            self.actions.push_back(Action::Empty {
                slot,
                confirm: false,
            });
        }
        let must = self.policy == Policy::Require || self.pins.key(remote.pair.1).is_some();
        let mut initiate = false;
        if !remote.sessions.is_empty() && remote.is_unheard(now) && now >= remote.quiet_until {
            initiate = true;
        }
        if remote.retry_at.is_some_and(|at| at <= now) {
            remote.retry_at = None;
            let waited = remote
                .waiting_since
                .map_or(Duration::ZERO, |since| now.since(since));
            if !must && waited >= V1_VERDICT {
                remote.on_v1_verdict(now);
                let subnet = remote.pair.1;
                self.stats.v1_verdicts += 1;
                self.actions.push_back(Action::Ready(subnet));
            } else if now.since(remote.last_host) < HOST_PATIENCE {
                initiate = true;
                let next = match remote.attempts.len() {
                    0 | 1 => now + RETRY,
                    _ => remote.quiet_until.max(now + RETRY),
                };
                remote.retry_at = Some(next);
            } else {
                remote.waiting_since = None;
            }
        }
        for index in gone {
            self.by_index.remove(&u64::from(index));
        }
        if initiate {
            self.initiate(slot, now);
        }
        self.arm(slot);
    }

    /// Set the timer of `slot`, unless it is set early enough.
    #[inline]
    fn arm(&mut self, slot: usize) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        let Some(due) = remote.next_due() else {
            return;
        };
        if remote.armed.is_some_and(|armed| armed <= due) {
            return;
        }
        if let Some(armed) = remote.armed.replace(due) {
            self.timers.remove(&(armed, slot));
        }
        self.timers.insert((due, slot));
    }

    // ---- slots

    /// The slot of `pair`, made if need be. `None`: no room.
    fn slot_for(&mut self, pair: Pair, key: &PublicKey, now: Time) -> Option<usize> {
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
                let slot = self.idle_slot(now)?;
                self.remove(slot);
                self.free.pop()?
            }
        };
        self.remotes[slot] = Some(remote);
        self.slots.insert(pair, slot);
        Some(slot)
    }

    fn idle_slot(&mut self, now: Time) -> Option<usize> {
        for _ in 0..EVICTION_TRIES.min(self.remotes.len()) {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.remotes.len();
            if let Some(remote) = &self.remotes[slot]
                && (remote.is_idle() || !remote.ours)
                && now.since(remote.last_heard.unwrap_or(Time::ZERO)) >= ALIVE
            {
                return Some(slot);
            }
        }
        None
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

    // ---- what is known

    /// A session of the remote in `pair` by the index under which *it* knows it: for bodies of ours that are quoted to us.
    pub(crate) fn sender_of(&mut self, pair: Pair, index: u32) -> Option<&mut Session> {
        let &slot = self.slots.get(&pair)?;
        let remote = self.remotes.get_mut(slot)?.as_mut()?;
        remote
            .sessions
            .iter_mut()
            .find(|session| session.sender.index() == index)
    }

    /// Counters.
    pub(crate) fn stats(&self) -> SessionStats {
        SessionStats {
            half_open: self.half_open.len() as u64,
            pins: self.pins.len() as u64,
            pins_refused: self.pins.refused(),
            halves_dropped: self.halves.dropped(),
            reassembly_forged: self.reassembly.stats().forged,
            ..self.stats
        }
    }

    /// Every remote identity that anything is known of, in a fixed order.
    pub(crate) fn views(&self, now: Time) -> Vec<SessionView> {
        let mut views: Vec<SessionView> = self
            .remotes
            .iter()
            .flatten()
            .map(|remote| {
                let own = self.locals.get(&remote.pair.0);
                let current = own
                    .and_then(|keys| remote.current_position(keys.local.public_key(), now))
                    .and_then(|position| remote.sessions.get(position));
                SessionView {
                    identity: remote.pair.0,
                    subnet: remote.pair.1,
                    key: remote.key,
                    protocol: match current {
                        Some(_) => Protocol::V2,
                        None if remote.waiting_since.is_some()
                            || !remote.attempts.is_empty() && remote.hinted =>
                        {
                            Protocol::Waiting
                        }
                        None if now < remote.v1_until => Protocol::V1,
                        None => Protocol::Idle,
                    },
                    suite: current.map(|session| session.suite),
                    age: current.map(|session| now.since(session.created)),
                    initiated: current.is_some_and(|session| session.initiated),
                    pinned: self.pins.key(remote.pair.1) == Some(&remote.key),
                    path_size: current.and_then(|_| remote.path.size()),
                    counters: remote.counters,
                }
            })
            .collect();
        views.sort_unstable_by_key(|view| (view.identity, view.subnet));
        views
    }

    /// The pins.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        self.pins.entries()
    }

    /// Changes whenever the pins do.
    pub(crate) fn pin_generation(&self) -> u64 {
        self.pins.generation()
    }

    /// Take over pins from before a restart.
    pub(crate) fn load_pins(&mut self, pins: &[Pin]) {
        for &pin in pins {
            self.pins.insert(pin, |_| false);
        }
    }

    /// An operator says that `subnet` need not speak v2 any more: its pin and sessions are gone.
    pub(crate) fn forget(&mut self, subnet: Subnet) -> bool {
        let slots: Vec<usize> = self
            .locals
            .keys()
            .filter_map(|&id| self.slots.get(&(id, subnet)).copied())
            .collect();
        for slot in slots {
            self.remove(slot);
        }
        self.pins.forget(subnet)
    }
}

fn session_of(
    established: Established,
    created: Time,
    initiated: bool,
    crossed: bool,
    message_hash: [u8; 32],
) -> Session {
    Session {
        sender: established.sender,
        receiver: established.receiver,
        suite: established.suite,
        created,
        initiated,
        crossed,
        message_hash,
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
