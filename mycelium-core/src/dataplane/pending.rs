//! Packets that wait for a route, per /64 and bounded in every direction.
//!
//! Three such tables exist, so that none can displace another: packets of hosts (by destination), packets of others (by
//! destination) and packets to us whose sender's key is unknown (by source). Policy when something is full:
//! - a subnet's packets or bytes: its oldest packets go;
//! - all bytes or all subnets: the oldest packets of the subnet that has waited longest go;
//! - the share, in subnets or bytes, of one peer or one identity: its newcomer goes, so that whoever cycles through made-up
//!   subnets hurts nobody else.
//!
//! A subnet waits at most [`PendingLimits::lifetime`] from its first packet on; then, or when the control plane gives up, all
//! its packets fail together.

use std::collections::{HashMap, VecDeque};

use crate::addr::Subnet;
use crate::fib::SubnetHash;
use crate::io::{IdentityId, PeerId};
use crate::time::{Duration, Time};

/// Bookkeeping per packet that the byte limits also count: a queue entry and an allocation's header.
const PACKET_OVERHEAD: usize = 64;

/// Longer than queues hold packets (30 ms), and less than half of the pause after which a flow counts as sparse again (200 ms),
/// since a packet may wait twice.
const LONG_WAIT: Duration = Duration::from_millis(50);

/// Bounds of one table of waiting packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingLimits {
    /// Subnets that may wait at once.
    pub subnets: usize,
    /// Subnets that the packets of one peer, or of one identity, may make wait at once.
    pub subnets_per_arrival: usize,
    /// Bytes of the packets of one peer, or of one identity.
    pub bytes_per_arrival: usize,
    /// Packets per subnet.
    pub packets_per_subnet: usize,
    /// Bytes per subnet.
    pub bytes_per_subnet: usize,
    /// Bytes of all packets.
    pub bytes: usize,
    /// How long a subnet waits.
    pub lifetime: Duration,
}

/// Where a waiting packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Arrival {
    /// A host: plaintext.
    Host(IdentityId),
    /// A peer: a whole data packet.
    Peer(PeerId),
}

impl Arrival {
    pub(super) fn peer(self) -> Option<PeerId> {
        match self {
            Self::Host(_) => None,
            Self::Peer(peer) => Some(peer),
        }
    }
}

/// A waiting packet.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) arrival: Arrival,
    /// Of a sparse flow, when it arrived.
    sparse: bool,
    since: Time,
    pub(super) packet: Box<[u8]>,
}

impl Parked {
    /// Whether it goes on marked as of a sparse flow, so that no later packet of its flow overtakes it, nor it an earlier one.
    /// After [`LONG_WAIT`] earlier ones have left every queue, so it may be marked; before, no later one is, since its flow
    /// has to pause longer for that.
    pub(super) fn goes_first(&self, now: Time) -> bool {
        self.sparse || now.since(self.since) >= LONG_WAIT
    }

    fn cost(&self) -> usize {
        self.packet.len() + PACKET_OVERHEAD
    }
}

/// What parking a packet did to others. One call can drop several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ParkOutcome {
    /// Whether the packet waits now.
    pub(super) parked: bool,
    /// Whether the control plane has not been asked for the subnet yet.
    pub(super) must_ask: bool,
    /// Not parked because the arrival's share of subnets is used up.
    pub(super) refused_share: bool,
    pub(super) dropped_subnet_full: u64,
    pub(super) dropped_full: u64,
}

#[derive(Debug)]
struct Queue {
    packets: VecDeque<Parked>,
    bytes: usize,
    deadline: Time,
    /// Who made the subnet wait: whose share it counts against, and on whose behalf the route is asked for.
    owner: Arrival,
    asked: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<Parked> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.cost();
        Some(packet)
    }
}

/// One table of waiting packets.
#[derive(Debug)]
pub(super) struct Pending {
    limits: PendingLimits,
    queues: HashMap<Subnet, Queue, SubnetHash>,
    /// The waiting subnets, longest first; since all live equally long also by deadline.
    order: VecDeque<Subnet>,
    account: Account,
    unasked: usize,
}

/// What waits, in total and on whose behalf.
#[derive(Debug, Default)]
struct Account {
    packets: usize,
    bytes: usize,
    shares: HashMap<Arrival, Share>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    subnets: usize,
    bytes: usize,
}

impl Account {
    fn share(&self, arrival: Arrival) -> Share {
        self.shares.get(&arrival).copied().unwrap_or_default()
    }

    fn add(&mut self, packet: &Parked) {
        self.packets += 1;
        self.bytes += packet.cost();
        self.shares.entry(packet.arrival).or_default().bytes += packet.cost();
    }

    fn subtract(&mut self, packet: &Parked) {
        self.packets -= 1;
        self.bytes -= packet.cost();
        self.shrink(packet.arrival, |share| share.bytes -= packet.cost());
    }

    fn shrink(&mut self, arrival: Arrival, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.shares.get_mut(&arrival) {
            change(share);
            if *share == Share::default() {
                self.shares.remove(&arrival);
            }
        }
    }
}

impl Pending {
    pub(super) fn new(limits: PendingLimits, hash_key: u64) -> Self {
        Self {
            limits,
            queues: HashMap::with_hasher(SubnetHash::new(hash_key)),
            order: VecDeque::new(),
            account: Account::default(),
            unasked: 0,
        }
    }

    /// Keep a copy of `packet`, which is of a sparse flow or not, until there is a route to `subnet`.
    pub(super) fn park(
        &mut self,
        subnet: Subnet,
        arrival: Arrival,
        sparse: bool,
        packet: &[u8],
        now: Time,
    ) -> ParkOutcome {
        let mut outcome = ParkOutcome::default();
        let cost = packet.len() + PACKET_OVERHEAD;
        let limits = self.limits;
        if cost > limits.bytes_per_subnet || cost > limits.bytes {
            outcome.dropped_subnet_full += 1;
            return outcome;
        }
        let share = self.account.share(arrival);
        let newcomer = !self.queues.contains_key(&subnet);
        if share.bytes + cost > limits.bytes_per_arrival
            || newcomer && share.subnets >= limits.subnets_per_arrival
        {
            outcome.refused_share = true;
            return outcome;
        }
        if newcomer {
            while self.order.len() >= limits.subnets.max(1)
                && let Some(&oldest) = self.order.front()
            {
                outcome.dropped_full += self.remove(oldest).len() as u64;
            }
            self.insert_queue(subnet, arrival, now);
        }
        if let Some(queue) = self.queues.get_mut(&subnet) {
            while (queue.packets.len() >= limits.packets_per_subnet.max(1)
                || queue.bytes + cost > limits.bytes_per_subnet)
                && let Some(oldest) = queue.pop()
            {
                self.account.subtract(&oldest);
                outcome.dropped_subnet_full += 1;
            }
        }
        outcome.dropped_full += self.make_room(cost, subnet);
        if let Some(queue) = self.queues.get_mut(&subnet) {
            let parked = Parked {
                arrival,
                sparse,
                since: now,
                packet: packet.into(),
            };
            self.account.add(&parked);
            queue.bytes += cost;
            queue.packets.push_back(parked);
            outcome.parked = true;
            outcome.must_ask = !queue.asked;
        }
        outcome
    }

    /// The control plane took the request for `subnet`.
    pub(super) fn mark_asked(&mut self, subnet: Subnet) {
        if let Some(queue) = self.queues.get_mut(&subnet)
            && !queue.asked
        {
            queue.asked = true;
            self.unasked -= 1;
        }
    }

    /// Subnets that the control plane has had no room for, longest wait first, and on whose behalf.
    pub(super) fn unasked(&self) -> Vec<(Subnet, Option<PeerId>)> {
        if self.unasked == 0 {
            return Vec::new();
        }
        self.order
            .iter()
            .filter_map(|subnet| {
                let queue = self.queues.get(subnet)?;
                (!queue.asked).then_some((*subnet, queue.owner.peer()))
            })
            .collect()
    }

    /// Whether a request for a route is still to be made.
    pub(super) fn has_unasked(&self) -> bool {
        self.unasked != 0
    }

    /// Number of waiting packets.
    pub(super) fn packets(&self) -> usize {
        self.account.packets
    }

    /// Bytes of waiting packets, bookkeeping included.
    pub(super) fn bytes(&self) -> usize {
        self.account.bytes
    }

    /// The waiting subnets that `ready` accepts, longest wait first.
    pub(super) fn matching(&self, ready: impl Fn(Subnet) -> bool) -> Vec<Subnet> {
        self.order
            .iter()
            .copied()
            .filter(|&subnet| ready(subnet))
            .collect()
    }

    /// The subnet that has waited longest, if its time is up.
    pub(super) fn expired(&self, now: Time) -> Option<Subnet> {
        let subnet = *self.order.front()?;
        (self.queues.get(&subnet)?.deadline <= now).then_some(subnet)
    }

    /// When the subnet that has waited longest must be failed.
    pub(super) fn deadline(&self) -> Option<Time> {
        Some(self.queues.get(self.order.front()?)?.deadline)
    }

    /// Take out all packets of `subnet`, in the order of their arrival.
    pub(super) fn remove(&mut self, subnet: Subnet) -> VecDeque<Parked> {
        let Some(queue) = self.queues.remove(&subnet) else {
            return VecDeque::new();
        };
        if self.order.front() == Some(&subnet) {
            self.order.pop_front();
        } else {
            self.order.retain(|&other| other != subnet);
        }
        self.unasked -= usize::from(!queue.asked);
        self.account.shrink(queue.owner, |share| share.subnets -= 1);
        for packet in &queue.packets {
            self.account.subtract(packet);
        }
        queue.packets
    }

    fn insert_queue(&mut self, subnet: Subnet, owner: Arrival, now: Time) {
        self.order.push_back(subnet);
        self.unasked += 1;
        self.account.shares.entry(owner).or_default().subnets += 1;
        let queue = Queue {
            packets: VecDeque::new(),
            bytes: 0,
            deadline: now + self.limits.lifetime,
            owner,
            asked: false,
        };
        self.queues.insert(subnet, queue);
    }

    /// Drop the oldest packets of the longest-waiting subnets until `cost` more bytes fit; returns how many went.
    fn make_room(&mut self, cost: usize, keep: Subnet) -> u64 {
        let mut dropped = 0;
        let mut position = 0;
        while self.account.bytes + cost > self.limits.bytes
            && let Some(&subnet) = self.order.get(position)
            && let Some(queue) = self.queues.get_mut(&subnet)
        {
            if let Some(packet) = queue.pop() {
                self.account.subtract(&packet);
                dropped += 1;
            } else if subnet == keep {
                position += 1;
            } else {
                self.remove(subnet);
            }
        }
        dropped
    }
}
