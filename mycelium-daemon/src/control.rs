//! The control thread: owns the [`Node`], turns channel messages into its inputs and carries its outputs out.
//!
//! A turn handles what has queued up (bounded), publishes the forwarding table if it changed, and only then hands the outputs
//! to the worker: a neighbour never hears of a route that we cannot forward yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::fib::FibPublisher;
use mycelium_core::io::{Event, IdentityId, Input, LinkInfo, Output, PeerId};
use mycelium_core::node::Node;
use mycelium_core::snapshot::Snapshot;
use mycelium_core::time::{Duration, Time};
use mycelium_core::wire::frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use self::held::{Held, Packets};
use crate::clock;
use crate::worker::Turn;

mod held;

/// Messages handled before outputs are carried out and timers looked at.
const INPUTS_PER_TURN: usize = 128;
/// Hints handled in one turn: they come from data packets, so they never outnumber the control traffic's share.
const HINTS_PER_TURN: usize = 64;
/// Outputs handed to the worker at a time. The thread waits when the worker has not taken the previous ones.
const OUTPUTS_PER_TURN: usize = 512;
/// How old a snapshot may be while somebody reads them.
pub(crate) const SNAPSHOT_AGE: Duration = Duration::from_millis(100);
/// A snapshot that took t to make is followed by at least this many t without one: 3 % of the thread at most.
const SNAPSHOT_REST: u32 = 30;

/// What the control thread is told. The queue is bounded; senders wait.
#[derive(Debug)]
pub(crate) enum ControlInput {
    PeerUp {
        peer: PeerId,
        link: LinkInfo,
        /// Who has proved to be there, on links that show it.
        remote_key: Option<PublicKey>,
    },
    PeerDown {
        peer: PeerId,
    },
    /// Complete control packets, back to back.
    Packets {
        peer: PeerId,
        packets: Vec<u8>,
        /// The sender's budget, given back when this is handled.
        budget: OwnedSemaphorePermit,
    },
    AddIdentity {
        id: IdentityId,
        secret: SecretKey,
        /// `false`: there is an identity with that subnet.
        done: oneshot::Sender<bool>,
    },
    RemoveIdentity {
        id: IdentityId,
    },
    Resolve {
        subnet: Subnet,
    },
    SnapshotWanted,
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// What the data plane noticed. In a queue of its own, which drops when full: such news is repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hint {
    Heard {
        peer: PeerId,
    },
    Doubt {
        peer: PeerId,
    },
    RouteNeeded {
        subnet: Subnet,
        from: Option<PeerId>,
    },
}

/// The latest published view of the control plane.
#[derive(Clone, Debug)]
pub(crate) struct PublishedSnapshot {
    pub(crate) taken: Time,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Links over which another node announces a key of ours, and which.
    pub(crate) duplicates: Arc<BTreeMap<PeerId, Subnet>>,
}

/// The control thread's ends of its channels.
#[derive(Debug)]
pub(crate) struct ControlChannels {
    pub(crate) inputs: mpsc::Receiver<ControlInput>,
    pub(crate) hints: mpsc::Receiver<Hint>,
    pub(crate) turns: mpsc::Sender<Turn>,
    pub(crate) fib: FibPublisher,
    pub(crate) snapshots: watch::Sender<PublishedSnapshot>,
    /// Somebody wants a snapshot that is fresher than the published one.
    pub(crate) snapshot_wanted: Arc<AtomicBool>,
}

struct Control {
    node: Node,
    channels: ControlChannels,
    turn: Turn,
    next_snapshot: Time,
    /// One for each link at most, until it is gone.
    duplicates: BTreeMap<PeerId, Subnet>,
    held: Held,
    /// Everything is said; to be told once the last turn is with the worker.
    stopping: Option<oneshot::Sender<()>>,
}

/// Run the control plane until it is told to stop or nobody is left to tell it.
pub(crate) async fn run(node: Node, channels: ControlChannels) {
    let mut control = Control {
        node,
        channels,
        turn: Turn::default(),
        next_snapshot: Time::ZERO,
        duplicates: BTreeMap::new(),
        held: Held::default(),
        stopping: None,
    };
    let mut inputs = Vec::with_capacity(INPUTS_PER_TURN);
    let mut hints = Vec::with_capacity(HINTS_PER_TURN);
    loop {
        let snapshot_due = control
            .channels
            .snapshot_wanted
            .load(Ordering::Acquire)
            .then_some(control.next_snapshot);
        let timeout = control.node.poll_timeout();
        let wake = timeout
            .into_iter()
            .chain(snapshot_due)
            .chain(control.held.due())
            .min();
        tokio::select! {
            biased;
            received = control.channels.inputs.recv_many(&mut inputs, INPUTS_PER_TURN) => {
                if received == 0 {
                    return;
                }
            }
            _ = control.channels.hints.recv_many(&mut hints, HINTS_PER_TURN), if !control.channels.hints.is_closed() => {}
            () = clock::sleep_until(wake) => {}
        }
        while hints.len() < HINTS_PER_TURN
            && let Ok(hint) = control.channels.hints.try_recv()
        {
            hints.push(hint);
        }
        if control.take_turn(&mut inputs, &mut hints).await.is_none() {
            return;
        }
    }
}

impl Control {
    /// `None`: there is nothing more to do.
    async fn take_turn(
        &mut self,
        inputs: &mut Vec<ControlInput>,
        hints: &mut Vec<Hint>,
    ) -> Option<()> {
        let now = clock::now();
        for input in inputs.drain(..) {
            self.handle(input, now);
            self.collect_outputs();
            self.send_full_turns().await?;
        }
        while let Some((peer, packets)) = self.held.next(now) {
            self.handle_packets(peer, packets, now);
            self.collect_outputs();
            self.send_full_turns().await?;
        }
        for hint in hints.drain(..) {
            let input = match hint {
                Hint::Heard { peer } => Input::Heard { peer },
                Hint::Doubt { peer } => Input::Doubt { peer },
                Hint::RouteNeeded { subnet, from } => Input::RouteNeeded { subnet, from },
            };
            self.node.handle(input, now);
        }
        if self
            .node
            .poll_timeout()
            .is_some_and(|timeout| timeout <= now)
        {
            self.node.handle_timeout(now);
        }
        self.collect_outputs();
        self.send_turn().await?;
        if let Some(done) = self.stopping.take() {
            // The caller may have given up waiting.
            let _ = done.send(());
            return None;
        }
        self.publish_snapshot();
        Some(())
    }

    fn handle(&mut self, input: ControlInput, now: Time) {
        match input {
            ControlInput::PeerUp {
                peer,
                link,
                remote_key,
            } => {
                self.node.handle(Input::PeerUp { peer, link }, now);
                if let Some(public_key) = remote_key {
                    self.node
                        .handle(Input::PeerAuthenticated { peer, public_key }, now);
                }
            }
            ControlInput::PeerDown { peer } => {
                self.duplicates.remove(&peer);
                self.held.forget(peer);
                self.node.handle(Input::PeerDown { peer }, now);
            }
            ControlInput::Packets {
                peer,
                packets,
                budget,
            } => {
                let packets = Packets {
                    bytes: packets,
                    position: 0,
                    _budget: budget,
                };
                if let Some(packets) = self.held.queue(peer, packets) {
                    self.handle_packets(peer, packets, now);
                }
            }
            ControlInput::AddIdentity { id, secret, done } => {
                let subnet = Subnet::containing(secret.public_key().address());
                let is_new = self.node.fib().origin(subnet).is_none();
                if is_new {
                    self.node.handle(Input::AddIdentity { id, secret }, now);
                }
                // A caller that gave up knows from the snapshot.
                let _ = done.send(is_new);
            }
            ControlInput::RemoveIdentity { id } => {
                self.node.handle(Input::RemoveIdentity { id }, now)
            }
            ControlInput::Resolve { subnet } => self.node.handle(Input::Resolve { subnet }, now),
            // The flag is looked at after every turn.
            ControlInput::SnapshotWanted => {}
            ControlInput::Shutdown { done } => {
                self.node.handle(Input::Shutdown, now);
                self.stopping = Some(done);
            }
        }
    }

    fn handle_packets(&mut self, peer: PeerId, mut packets: Packets, now: Time) {
        // The worker forwards whole packets only.
        while let Some(rest) = packets.bytes.get(packets.position..)
            && let Ok(Some(frame)) = frame::next_frame(rest)
        {
            if let Some(until) = self.node.paused_until(peer, now) {
                return self.held.keep(peer, packets, until);
            }
            let packet = &rest[..frame.len];
            self.node.handle(Input::Control { peer, packet }, now);
            packets.position += frame.len;
        }
    }

    fn collect_outputs(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Event(event) => {
                    log(&event);
                    if let Event::DuplicateIdentity { subnet, peer } = event {
                        self.duplicates.insert(peer, subnet);
                    }
                }
                output => {
                    if let Output::Close { peer, .. } = output {
                        self.duplicates.remove(&peer);
                    }
                    self.turn.outputs.push(output);
                }
            }
        }
    }

    /// Keep the turn bounded however many inputs it has.
    async fn send_full_turns(&mut self) -> Option<()> {
        if self.turn.outputs.len() < OUTPUTS_PER_TURN {
            return Some(());
        }
        self.send_turn().await
    }

    /// Publish the table, then hand the outputs over. `None`: the worker is gone.
    async fn send_turn(&mut self) -> Option<()> {
        if let Some(fib) = self.node.fib_if_changed() {
            self.channels.fib.publish(fib);
            self.turn.fib_changed = true;
        }
        if !self.turn.fib_changed && self.turn.outputs.is_empty() {
            return Some(());
        }
        let turn = std::mem::take(&mut self.turn);
        self.channels.turns.send(turn).await.ok()
    }

    fn publish_snapshot(&mut self) {
        if !self.channels.snapshot_wanted.load(Ordering::Acquire) {
            return;
        }
        let now = clock::now();
        if now < self.next_snapshot {
            return;
        }
        self.channels
            .snapshot_wanted
            .store(false, Ordering::Release);
        let snapshot = Arc::new(self.node.snapshot(now));
        let done = clock::now();
        self.next_snapshot = done + SNAPSHOT_AGE.max(done.since(now) * SNAPSHOT_REST);
        self.channels.snapshots.send_replace(PublishedSnapshot {
            taken: now,
            snapshot,
            duplicates: Arc::new(self.duplicates.clone()),
        });
    }
}

fn log(event: &Event) {
    match event {
        Event::RouteSelected {
            subnet,
            peer,
            metric,
        } => {
            tracing::debug!(%subnet, peer = peer.0, metric, "route selected");
        }
        Event::RouteLost { subnet } => tracing::debug!(%subnet, "route lost"),
        Event::PeerIdentified { peer, public_key } => {
            tracing::debug!(peer = peer.0, %public_key, "peer identified");
        }
        Event::DuplicateIdentity { subnet, peer } => {
            tracing::warn!(%subnet, peer = peer.0, "another node announces an identity of ours: is the key file copied?");
        }
    }
}
