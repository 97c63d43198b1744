//! The table of peers: which there are, which have links, and when the others are tried again.
//!
//! One task owns it; everybody else sends requests through a [`PeerHandle`]. Entries we dial (configured, added, discovered) are keyed by
//! endpoint and keep their entry whatever happens to their links. Inbound links are keyed by link and vanish with it, so
//! a stranger's connection can never displace a configured peer (wire spec S29).

mod native;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mycelium_core::io::{CloseReason, PeerId};
use mycelium_core::native::LinkId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, Failure};
use super::chatter::Chatter;
use super::dialer::{DialError, Dialer};
use super::endpoint::{Endpoint, Scheme, Target, is_inside_overlay};
use super::handle::{self, AddError, PeerHandle, RemoveError, Request};
use super::netmon::{self, Change};
use super::view::{Connection, Counters, LinkView, Origin, PeerView, Peers};
use crate::link::{Established, LinkClosed, LinkStats, Transport, vsock};

/// Peers that may be found on the local network at a time.
pub const MAX_DISCOVERED: usize = 128;
/// Inbound links at a time.
pub const MAX_INBOUND: usize = 1024;
/// Inbound links at a time from one IPv4 address or IPv6 /64.
pub const MAX_INBOUND_PER_SOURCE: usize = 128;
/// A discovered peer is forgotten after this many failed attempts in a row, as upstream does.
const DISCOVERED_ATTEMPTS: u32 = 3;
/// Wait between attempts of a discovered peer: its beacon shows that it runs, so a failure means a firewall.
const DISCOVERED_RETRY: Duration = Duration::from_secs(5);
/// Wait before an endpoint is tried again that turned out to be ourselves.
const OURSELVES_RETRY: Duration = Duration::from_secs(300);
const OURSELVES: &str = "this endpoint is this very node: remove it from the peers";
/// A stream peer that takes native links was not dialled by us: how long it has for dialling.
const MOVE_COURTESY: Duration = Duration::from_secs(3);
/// The longest wait before a stream peer is tried over UDP again.
const MOVE_RETRY: Duration = Duration::from_secs(60);
/// How often we look whether a native link that came from a stream peer still exists.
const MOVE_RECHECK: Duration = Duration::from_secs(5);
/// Suspended longer than this, and peers have given us up.
const SUSPEND_LIMIT: Duration = Duration::from_secs(3);
/// A link that lived this long was a success.
const LASTING: Duration = Duration::from_secs(2);
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// A link that carries packets.
#[derive(Debug)]
pub struct Attached {
    /// Its id.
    pub peer: PeerId,
    /// Its counters.
    pub stats: Arc<LinkStats>,
    /// Resolves when it ends.
    pub closed: oneshot::Receiver<LinkClosed>,
}

/// Where links go: the engine.
pub trait Links: Send + 'static {
    /// Let `link` carry packets.
    fn attach(&self, link: Established) -> Attached;
    /// End a link.
    fn close(&self, peer: PeerId);
    /// Have links go on that can move to another address of this host.
    fn network_changed(&self, change: &Change);
}

#[derive(Debug)]
struct Link {
    peer: PeerId,
    scheme: Scheme,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    stats: Arc<LinkStats>,
    up_since: Instant,
    /// Its other end, which is a link of ours as well, was closed for that reason.
    is_ourselves: bool,
    /// Its name among native links.
    native: Option<LinkId>,
    sampled: (u64, u64),
    rate: (u64, u64),
}

impl Link {
    fn view(&self) -> LinkView {
        LinkView {
            peer: self.peer,
            scheme: self.scheme,
            local: self.local,
            remote: self.remote,
            tx_rate: self.rate.0,
            rx_rate: self.rate.1,
            dropped: self.stats.dropped_full.get() + self.stats.dropped_old.get(),
        }
    }

    fn bytes(&self) -> (u64, u64) {
        (self.stats.tx_bytes.get(), self.stats.rx_bytes.get())
    }

    /// Called every [`RATE_INTERVAL`]; the average is over about four of them.
    fn sample(&mut self) {
        let now = self.bytes();
        let smooth = |rate: u64, now: u64, before: u64| (rate * 3 + now.saturating_sub(before)) / 4;
        self.rate = (
            smooth(self.rate.0, now.0, self.sampled.0),
            smooth(self.rate.1, now.1, self.sampled.1),
        );
        self.sampled = now;
    }
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Dialling { attempt: u64, task: AbortHandle },
    Up(Link),
}

/// A peer that we dial.
#[derive(Debug)]
struct Outgoing {
    origin: Origin,
    state: State,
    /// Of attempts that failed since the last link.
    backoff: Backoff,
    /// Of links that ended as soon as they were up, since the last lasting one: a peer that hangs up at once is not
    /// dialled two hundred times a second.
    short_links: Backoff,
    failures: u32,
    known_since: Instant,
    last_connected: Option<Instant>,
    address: Option<SocketAddr>,
    /// Bytes of the links that ended.
    past: (u64, u64),
    last_error: Option<String>,
}

impl Outgoing {
    fn new(origin: Origin) -> Self {
        let now = Instant::now();
        Self {
            origin,
            state: State::Waiting { until: now },
            backoff: Backoff::default(),
            short_links: Backoff::default(),
            failures: 0,
            known_since: now,
            last_connected: None,
            address: None,
            past: (0, 0),
            last_error: None,
        }
    }

    fn link(&self) -> Option<&Link> {
        match &self.state {
            State::Up(link) => Some(link),
            State::Waiting { .. } | State::Dialling { .. } => None,
        }
    }
}

#[derive(Debug)]
struct Inbound {
    link: Link,
}

/// Which entry a link belongs to.
#[derive(Clone, Debug)]
enum Owner {
    Outgoing(Endpoint),
    Inbound,
}

#[derive(Debug)]
enum Finished {
    Dialled {
        endpoint: Endpoint,
        attempt: u64,
        result: Result<Box<Established>, DialError>,
    },
    Closed {
        peer: PeerId,
        reason: LinkClosed,
    },
}

/// The task.
#[derive(Debug)]
pub struct Manager<L> {
    links: L,
    dialer: Dialer,
    requests: mpsc::Receiver<Request>,
    outgoing: BTreeMap<Endpoint, Outgoing>,
    inbound: BTreeMap<PeerId, Inbound>,
    owners: BTreeMap<PeerId, Owner>,
    /// One for every attempt and every link: as bounded as they are.
    tasks: JoinSet<Finished>,
    attempts: u64,
    counters: Counters,
    past_bytes: (u64, u64),
    /// Of lines about nodes that we did not ask for.
    chatter: Chatter,
}

impl<L: Links> Manager<L> {
    /// A task with these configured peers; [`run`](Self::run) runs it.
    pub fn new(links: L, dialer: Dialer, peers: Vec<Endpoint>) -> (Self, PeerHandle) {
        let (handle, requests) = handle::channel();
        let mut manager = Self {
            links,
            dialer,
            requests,
            outgoing: BTreeMap::new(),
            inbound: BTreeMap::new(),
            owners: BTreeMap::new(),
            tasks: JoinSet::new(),
            attempts: 0,
            counters: Counters::default(),
            past_bytes: (0, 0),
            chatter: Chatter::new(Instant::now()),
        };
        manager.configure(peers);
        (manager, handle)
    }

    /// Until the last handle is gone.
    pub async fn run(mut self) {
        let mut sample = tokio::time::interval(RATE_INTERVAL);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.dial_due();
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.handle_request(request),
                    None => return,
                },
                Some(finished) = self.tasks.join_next() => {
                    // An aborted attempt has nothing to say.
                    if let Ok(finished) = finished {
                        self.handle_finished(finished);
                    }
                }
                () = wait_until(due) => {}
                _ = sample.tick() => self.sample(),
            }
        }
    }

    fn handle_request(&mut self, request: Request) {
        // A requester that no longer waits for the answer is not an error.
        match request {
            Request::Add(endpoint, reply) => drop(reply.send(self.add(endpoint, Origin::Added))),
            Request::Remove(endpoint, reply) => drop(reply.send(self.remove(&endpoint))),
            Request::Configure(peers) => self.configure(peers),
            Request::List(reply) => drop(reply.send(self.list())),
            Request::Discovered(address) => self.on_discovered(address),
            Request::Inbound(link) => self.on_inbound(*link),
            Request::Stray(address) => self.on_stray(address),
            Request::SpeaksNative(peer, port) => self.on_speaks_native(peer, port),
            Request::Network(change) => self.on_network_change(&change),
        }
    }

    fn handle_finished(&mut self, finished: Finished) {
        match finished {
            Finished::Dialled {
                endpoint,
                attempt,
                result,
            } => {
                self.counters.attempts_finished += 1;
                let current = self.outgoing.get(&endpoint).is_some_and(
                    |entry| matches!(entry.state, State::Dialling { attempt: own, .. } if own == attempt),
                );
                // A link that nobody wants any more is closed by dropping it.
                match result {
                    Ok(link) if current => self.on_dialled(&endpoint, *link),
                    Err(error) if current => self.on_dial_failed(&endpoint, &error),
                    _ => {}
                }
            }
            Finished::Closed { peer, reason } => self.on_closed(peer, &reason),
        }
    }

    fn add(&mut self, endpoint: Endpoint, origin: Origin) -> Result<(), AddError> {
        match self.outgoing.get_mut(&endpoint) {
            Some(entry)
                if entry.origin > origin
                    || matches!(entry.origin, Origin::Discovered | Origin::Moved) =>
            {
                // Found on the network before, or added by hand before it was configured: it keeps its link.
                entry.origin = origin;
                Ok(())
            }
            Some(_) => Err(AddError::Exists),
            None => {
                match origin {
                    Origin::Discovered => self.counters.added_discovered += 1,
                    Origin::Moved => {}
                    Origin::Configured | Origin::Added | Origin::Inbound => {
                        self.counters.added_static += 1
                    }
                }
                self.outgoing.insert(endpoint, Outgoing::new(origin));
                Ok(())
            }
        }
    }

    fn remove(&mut self, endpoint: &Endpoint) -> Result<(), RemoveError> {
        if let Some(entry) = self.outgoing.remove(endpoint) {
            tracing::info!(peer = %endpoint, "peer removed");
            self.keep_bytes(entry.past);
            self.keep_bytes(entry.link().map_or((0, 0), Link::bytes));
            match entry.state {
                State::Up(link) => self.links.close(link.peer),
                State::Dialling { task, .. } => task.abort(),
                State::Waiting { .. } => {}
            }
            return Ok(());
        }
        let inbound = self
            .inbound
            .values()
            .find(|entry| inbound_endpoint(&entry.link) == *endpoint);
        match inbound {
            Some(entry) => {
                self.links.close(entry.link.peer);
                Ok(())
            }
            None => Err(RemoveError::Unknown),
        }
    }

    fn configure(&mut self, peers: Vec<Endpoint>) {
        let gone: Vec<_> = self
            .outgoing
            .iter()
            .filter(|(endpoint, entry)| {
                entry.origin == Origin::Configured && !peers.contains(endpoint)
            })
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        for endpoint in &gone {
            // It was found in the table just now.
            let _ = self.remove(endpoint);
        }
        for endpoint in peers {
            // Those that exist already stay as they are.
            let _ = self.add(endpoint, Origin::Configured);
        }
    }

    /// Start every attempt whose time has come; when the next one is.
    fn dial_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut satisfied = Vec::new();
        let moved: Vec<Endpoint> = self
            .outgoing
            .iter()
            .filter(|(_, entry)| {
                entry.origin == Origin::Moved
                    && matches!(entry.state, State::Waiting { until } if until <= now)
            })
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        for endpoint in moved {
            if !self.has_stream_to(&endpoint) {
                self.outgoing.remove(&endpoint);
            } else if self.has_native_from(&endpoint)
                && let Some(entry) = self.outgoing.get_mut(&endpoint)
            {
                entry.state = State::Waiting {
                    until: now + MOVE_RECHECK,
                };
            }
        }
        for (endpoint, entry) in &mut self.outgoing {
            let State::Waiting { until } = entry.state else {
                continue;
            };
            if until > now {
                next = Some(next.map_or(until, |next| next.min(until)));
                continue;
            }
            if entry.origin == Origin::Discovered && has_inbound_from(&self.inbound, endpoint) {
                satisfied.push(endpoint.clone());
                continue;
            }
            self.attempts += 1;
            self.counters.attempts_started += 1;
            let attempt = self.attempts;
            let dialer = self.dialer.clone();
            let target = endpoint.clone();
            tracing::debug!(peer = %endpoint, "connecting");
            let task = self.tasks.spawn(async move {
                let result = dialer.dial(target.clone()).await.map(Box::new);
                Finished::Dialled {
                    endpoint: target,
                    attempt,
                    result,
                }
            });
            entry.state = State::Dialling { attempt, task };
        }
        for endpoint in satisfied {
            self.outgoing.remove(&endpoint);
        }
        next
    }

    fn on_dialled(&mut self, endpoint: &Endpoint, link: Established) {
        let link = self.attach(link, Owner::Outgoing(endpoint.clone()));
        let Some(entry) = self.outgoing.get_mut(endpoint) else {
            return;
        };
        tracing::info!(peer = %endpoint, remote = %link.remote, "connected");
        entry.failures = 0;
        entry.backoff.reset();
        entry.last_error = None;
        entry.last_connected = Some(link.up_since);
        entry.address = Some(link.remote);
        entry.state = State::Up(link);
    }

    fn on_dial_failed(&mut self, endpoint: &Endpoint, error: &DialError) {
        if let Some(link) = error.duplicate_of()
            && self.take_over(endpoint, link)
        {
            return;
        }
        let Some(entry) = self.outgoing.get_mut(endpoint) else {
            return;
        };
        entry.failures = entry.failures.saturating_add(1);
        if entry.origin == Origin::Discovered && entry.failures >= DISCOVERED_ATTEMPTS {
            tracing::debug!(peer = %endpoint, %error, "discovered peer forgotten");
            self.outgoing.remove(endpoint);
            return;
        }
        let text = error.to_string();
        let wait = match entry.origin {
            Origin::Discovered => DISCOVERED_RETRY,
            Origin::Moved => moved_retry(entry.failures),
            _ => entry.backoff.failed(error.kind(), random_byte()),
        };
        // A peer that stays away is worth a line when the reason is new, not at every attempt; one that has another link is
        // worth none.
        if entry.origin == Origin::Moved || entry.last_error.as_deref() == Some(&text) {
            tracing::debug!(peer = %endpoint, error = %text, retry = ?wait, "cannot connect");
        } else {
            tracing::info!(peer = %endpoint, error = %text, "cannot connect; trying on");
        }
        entry.last_error = Some(text);
        entry.state = State::Waiting {
            until: Instant::now() + wait,
        };
    }

    fn on_inbound(&mut self, link: Established) {
        let remote = link.remote;
        let from_source = self
            .inbound
            .values()
            .filter(|entry| source_of(entry.link.remote.ip()) == source_of(remote.ip()))
            .count();
        if is_inside_overlay(remote.ip()) {
            self.counters.refused_inbound += 1;
            tracing::debug!(%remote, "inbound link through the overlay itself refused");
        } else if self.inbound.len() >= MAX_INBOUND || from_source >= MAX_INBOUND_PER_SOURCE {
            self.counters.refused_inbound += 1;
            tracing::debug!(%remote, inbound = self.inbound.len(), from_source, "too many inbound links: refused");
        } else {
            self.counters.added_inbound += 1;
            let link = self.attach(link, Owner::Inbound);
            self.say_of_stranger(&inbound_endpoint(&link), "peer connected to us");
            self.inbound.insert(link.peer, Inbound { link });
        }
    }

    fn attach(&mut self, link: Established, owner: Owner) -> Link {
        let (scheme, native) = match &link.transport {
            Transport::Tcp(_) => (Scheme::Tcp, None),
            Transport::Vsock(_) => (Scheme::Vsock, None),
            Transport::Quic { .. } => (Scheme::Quic, None),
            Transport::Native(link) => (Scheme::Udp, Some(link.id())),
        };
        let (local, remote) = (link.local, link.remote);
        let Attached {
            peer,
            stats,
            closed,
        } = self.links.attach(link);
        self.owners.insert(peer, owner);
        self.tasks.spawn(async move {
            let reason = closed.await.unwrap_or_else(|_| LinkClosed {
                reason: "the node is stopping".to_owned(),
            });
            Finished::Closed { peer, reason }
        });
        Link {
            peer,
            scheme,
            local,
            remote,
            stats,
            up_since: Instant::now(),
            is_ourselves: false,
            native,
            sampled: (0, 0),
            rate: (0, 0),
        }
    }

    fn say_of_stranger(&mut self, peer: &Endpoint, text: &str) {
        match self.chatter.allow(Instant::now()) {
            Some(0) => tracing::info!(%peer, "{text}"),
            Some(left_out) => tracing::info!(%peer, left_out, "{text}"),
            None => tracing::debug!(%peer, "{text}"),
        }
    }

    fn on_closed(&mut self, peer: PeerId, closed: &LinkClosed) {
        match self.owners.remove(&peer) {
            Some(Owner::Inbound) => {
                if let Some(entry) = self.inbound.remove(&peer) {
                    self.keep_bytes(entry.link.bytes());
                    let text = format!("inbound peer is gone: {closed}");
                    self.say_of_stranger(&inbound_endpoint(&entry.link), &text);
                    if closed.reason == CloseReason::Ourselves.to_string() {
                        self.on_ourselves(&entry.link);
                    }
                }
            }
            Some(Owner::Outgoing(endpoint)) => self.on_outgoing_closed(&endpoint, peer, closed),
            None => {}
        }
    }

    /// The accepting end found out first: the dialling end may only see that it was hung up on.
    fn on_ourselves(&mut self, inbound: &Link) {
        let mut discovered = Vec::new();
        for (endpoint, entry) in &mut self.outgoing {
            let is_other_end = endpoint.scheme == inbound.scheme
                && entry
                    .address
                    .is_some_and(|address| is_other_end(inbound, address));
            if !is_other_end {
                continue;
            }
            match &mut entry.state {
                State::Up(link) => {
                    link.is_ourselves = true;
                    self.links.close(link.peer);
                    continue;
                }
                State::Dialling { task, .. } => task.abort(),
                State::Waiting { .. } => {}
            }
            if matches!(entry.origin, Origin::Discovered | Origin::Moved) {
                discovered.push(endpoint.clone());
                continue;
            }
            entry.last_error = Some(CloseReason::Ourselves.to_string());
            entry.state = State::Waiting {
                until: Instant::now() + OURSELVES_RETRY,
            };
            tracing::warn!(peer = %endpoint, "{OURSELVES}");
        }
        for endpoint in discovered {
            self.outgoing.remove(&endpoint);
        }
    }

    fn on_outgoing_closed(&mut self, endpoint: &Endpoint, peer: PeerId, closed: &LinkClosed) {
        let Some(entry) = self.outgoing.get_mut(endpoint) else {
            return;
        };
        let State::Up(link) = &entry.state else {
            return;
        };
        if link.peer != peer {
            return;
        }
        let (tx, rx) = link.bytes();
        entry.past = (entry.past.0 + tx, entry.past.1 + rx);
        let now = Instant::now();
        let reason_ourselves = CloseReason::Ourselves.to_string();
        let ourselves = link.is_ourselves || closed.reason == reason_ourselves;
        let moved = entry.origin == Origin::Moved;
        let wait = if ourselves {
            OURSELVES_RETRY
        } else if moved {
            moved_retry(0)
        } else if link.up_since.elapsed() >= LASTING {
            entry.short_links.reset();
            Duration::ZERO
        } else {
            entry.short_links.failed(Failure::Immediate, random_byte())
        };
        if ourselves {
            tracing::warn!(peer = %endpoint, "{OURSELVES}");
        } else if moved {
            tracing::info!(peer = %endpoint, reason = %closed, "native link lost; its stream remains");
        } else {
            tracing::info!(peer = %endpoint, reason = %closed, "link lost; connecting again");
        }
        entry.last_error = Some(match ourselves {
            true => reason_ourselves,
            false => closed.reason.clone(),
        });
        entry.state = State::Waiting { until: now + wait };
        if ourselves && matches!(entry.origin, Origin::Discovered | Origin::Moved) {
            self.outgoing.remove(endpoint);
        }
    }

    fn on_discovered(&mut self, address: SocketAddr) {
        let endpoint = Endpoint::address(Scheme::Tcp, address);
        if self.outgoing.contains_key(&endpoint) || has_inbound_from(&self.inbound, &endpoint) {
            return;
        }
        let discovered = self
            .outgoing
            .values()
            .filter(|entry| entry.origin == Origin::Discovered)
            .count();
        if discovered >= MAX_DISCOVERED {
            self.counters.refused_discovered += 1;
            return;
        }
        self.say_of_stranger(&endpoint, "peer found on the local network");
        // It is not in the table, so this succeeds.
        let _ = self.add(endpoint, Origin::Discovered);
    }

    fn on_network_change(&mut self, change: &Change) {
        tracing::info!(
            suspended = ?change.suspended,
            vanished = change.vanished.len(),
            "this host's network changed"
        );
        let resumed = change.suspended >= SUSPEND_LIMIT;
        let mark = self.dialer.firewall_mark();
        // Native links move along.
        self.links.network_changed(change);
        let cut_off = |link: &Link| {
            link.scheme != Scheme::Udp
                && link
                    .local
                    .is_some_and(|local| change.vanished.contains(&local.ip()))
        };
        let stale =
            |link: &Link| resumed || cut_off(link) || (change.paths && has_moved(link, mark));
        for entry in self.inbound.values() {
            if cut_off(&entry.link) {
                self.links.close(entry.link.peer);
            }
        }
        let now = Instant::now();
        for entry in self.outgoing.values_mut() {
            entry.backoff.reset();
            entry.short_links.reset();
            match &entry.state {
                State::Up(link) if stale(link) => {
                    self.links.close(link.peer);
                    let (tx, rx) = link.bytes();
                    entry.past = (entry.past.0 + tx, entry.past.1 + rx);
                    self.owners.remove(&link.peer);
                    entry.last_error = Some("the network changed".to_owned());
                }
                State::Up(_) => continue,
                // Its packets may be on a path that is gone, where they would be repeated ever more slowly.
                State::Dialling { task, .. } => task.abort(),
                State::Waiting { .. } => {}
            }
            entry.state = State::Waiting { until: now };
        }
    }

    fn keep_bytes(&mut self, (tx, rx): (u64, u64)) {
        self.past_bytes = (self.past_bytes.0 + tx, self.past_bytes.1 + rx);
    }

    fn sample(&mut self) {
        for entry in self.outgoing.values_mut() {
            if let State::Up(link) = &mut entry.state {
                link.sample();
            }
        }
        for entry in self.inbound.values_mut() {
            entry.link.sample();
        }
    }

    fn list(&self) -> Peers {
        // Attempts to move a peer to UDP are nobody's business until they succeed: the peer is listed with its stream.
        let shown = |entry: &Outgoing| entry.origin != Origin::Moved || entry.link().is_some();
        let all = self.outgoing.iter().filter(|(_, entry)| shown(entry));
        let outgoing = all.map(|(endpoint, entry)| {
            let (tx, rx) = entry.link().map_or((0, 0), Link::bytes);
            PeerView {
                endpoint: endpoint.clone(),
                origin: entry.origin,
                connection: match entry.state {
                    State::Up(_) => Connection::Alive,
                    State::Dialling { .. } => Connection::Connecting,
                    State::Waiting { .. } => Connection::Dead,
                },
                link: entry.link().map(Link::view),
                address: entry.address,
                tx_bytes: entry.past.0 + tx,
                rx_bytes: entry.past.1 + rx,
                known_for: entry.known_since.elapsed(),
                last_connected: entry.last_connected.map(|at| at.elapsed()),
                last_error: entry.last_error.clone(),
            }
        });
        let inbound = self.inbound.values().map(|entry| {
            let (tx_bytes, rx_bytes) = entry.link.bytes();
            let age = entry.link.up_since.elapsed();
            PeerView {
                endpoint: inbound_endpoint(&entry.link),
                origin: Origin::Inbound,
                connection: Connection::Alive,
                link: Some(entry.link.view()),
                address: Some(entry.link.remote),
                tx_bytes,
                rx_bytes,
                known_for: age,
                last_connected: Some(age),
                last_error: None,
            }
        });
        Peers {
            peers: outgoing.chain(inbound).collect(),
            counters: self.counters,
            past_bytes: self.past_bytes,
        }
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn inbound_endpoint(link: &Link) -> Endpoint {
    if link.scheme == Scheme::Vsock {
        let (cid, port) = vsock::of_stand_in(link.remote);
        return Endpoint {
            scheme: link.scheme,
            target: Target::Vsock { cid, port },
            key: None,
        };
    }
    Endpoint::address(link.scheme, link.remote)
}

/// Whether the node behind a discovered endpoint has a link to us already: both ends hear each other's beacons, and one
/// link is enough.
fn has_inbound_from(inbound: &BTreeMap<PeerId, Inbound>, endpoint: &Endpoint) -> bool {
    let Target::Address(address) = endpoint.target else {
        return false;
    };
    inbound
        .values()
        .any(|entry| same_host(entry.link.remote, address))
}

/// Whether an inbound link that turned out to be our own was dialled to `address`. What only its remote end chose is
/// not believed: a stranger who plays us must not keep us from a peer.
fn is_other_end(inbound: &Link, address: SocketAddr) -> bool {
    let Some(local) = inbound.local else {
        return false;
    };
    match inbound.scheme {
        Scheme::Tcp => same_host(local, address) && local.port() == address.port(),
        // Dialled from the socket that also accepts, whose port `local` does not tell.
        Scheme::Quic | Scheme::Udp => {
            let from = inbound.remote;
            from.port() == address.port()
                && local.ip() == address.ip()
                && (from.ip() == local.ip() || from.ip().is_loopback())
        }
        Scheme::Vsock => false,
    }
}

fn same_host(a: SocketAddr, b: SocketAddr) -> bool {
    match (a, b) {
        (SocketAddr::V6(a), SocketAddr::V6(b)) => a.ip() == b.ip() && a.scope_id() == b.scope_id(),
        _ => a.ip() == b.ip(),
    }
}

/// 1, 2, 4 … 60 s (docs/protocol.md §15.4).
fn moved_retry(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(6);
    Duration::from_secs(1 << doublings).min(MOVE_RETRY)
}

/// What one party can hold many of: an IPv4 address, an IPv6 /64.
fn source_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64 | 1 << 63,
    }
}

/// Whether a new link to the same place would leave from another address. QUIC follows such a move by itself.
fn has_moved(link: &Link, firewall_mark: Option<u32>) -> bool {
    let (Scheme::Tcp, Some(local)) = (link.scheme, link.local) else {
        return false;
    };
    let link_local = matches!(link.remote.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    !link_local
        && netmon::source_towards(link.remote, firewall_mark)
            .is_ok_and(|source| source != local.ip())
}

/// Spreads retries; nothing secret.
fn random_byte() -> u8 {
    let mut byte = [128];
    // Without randomness the retries are merely not spread.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
    byte[0]
}

#[cfg(test)]
mod tests;
