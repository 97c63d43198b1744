//! Everything the control plane can be told (`Input`) or can ask for (`Output`). Recordable, hence replayable.

use crate::addr::Subnet;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::time::Duration;

/// One connection to another node; a Babel neighbour. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// One local identity: entry 0 is the node's own, the others are user networks and workloads. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId(pub u32);

impl IdentityId {
    /// The node's own identity.
    pub const NODE: Self = Self(0);
}

/// What the router must know of a new link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Fixed part of the link's cost by transport and address family (wire spec §2.7).
    pub static_cost: u16,
    /// Round trip measured while the connection was set up, where known: the first estimate of the RTT.
    pub setup_rtt: Option<Duration>,
}

/// What the control plane can be told.
#[derive(Debug)]
pub enum Input<'a> {
    /// A link is up; both directions work from here on.
    PeerUp {
        /// Its id, fresh.
        peer: PeerId,
        /// What is known of it.
        link: LinkInfo,
    },
    /// The node at the other end of a link has proved its key. Such a link is preferred to others to the same node.
    PeerAuthenticated {
        /// The link.
        peer: PeerId,
        /// Who is there.
        public_key: PublicKey,
    },
    /// A link is gone. Unknown ids are ignored.
    PeerDown {
        /// Its id.
        peer: PeerId,
    },
    /// A complete control packet arrived: 4-byte packet header included.
    Control {
        /// From whom.
        peer: PeerId,
        /// The whole packet.
        packet: &'a [u8],
    },
    /// Data arrived from `peer` since the last such report: it is alive in that direction. At most a few a second.
    Heard {
        /// From whom.
        peer: PeerId,
    },
    /// A sign that `peer` may be gone, such as an ICMP error for what was sent to it: it is asked at once, and suspect
    /// very soon if it does not answer. Signs that come too often are ignored.
    Doubt {
        /// Whom.
        peer: PeerId,
    },
    /// The data plane holds packets to, or from, a subnet that the FIB does not know.
    RouteNeeded {
        /// The unknown subnet.
        subnet: Subnet,
        /// The link that brought the packet, or `None` for the host: budgets are per source.
        from: Option<PeerId>,
    },
    /// Originate another identity from now on.
    AddIdentity {
        /// Its id, fresh.
        id: IdentityId,
        /// Its secret.
        secret: SecretKey,
    },
    /// Stop originating an identity: retracts its subnet. `IdentityId::NODE` cannot be removed.
    RemoveIdentity {
        /// Its id.
        id: IdentityId,
    },
    /// Ask the network for a subnet, as an operator's command does.
    Resolve {
        /// The subnet.
        subnet: Subnet,
    },
    /// We are about to stop: retract everything.
    Shutdown,
}

/// Why the control plane wants a link closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CloseReason {
    /// Nothing was heard for too long.
    #[error("no answer to our hellos")]
    Silent,
    /// It sent bytes that cannot be a control packet.
    #[error("protocol violation")]
    Malformed,
    /// It exceeded a stated bound.
    #[error("exceeded its limits")]
    Flooding,
    /// It is ourselves.
    #[error("connected to ourselves")]
    Ourselves,
}

/// What the control plane asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Put a complete control packet on a link's control lane.
    Send {
        /// To whom.
        peer: PeerId,
        /// The whole packet, 4-byte header included.
        packet: Vec<u8>,
    },
    /// Close a link. The control plane has already forgotten it.
    Close {
        /// Which.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// No route to `subnet` could be found in time: fail the packets that wait for it.
    QueryFailed {
        /// The subnet.
        subnet: Subnet,
    },
    /// Something that logs, metrics or tests may want to know.
    Event(Event),
}

/// Typed events: the same ones feed logs, metrics and assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A best route appeared or changed.
    RouteSelected {
        /// Destination.
        subnet: Subnet,
        /// Next hop.
        peer: PeerId,
        /// Total cost.
        metric: u16,
    },
    /// The best route is gone and nothing replaced it.
    RouteLost {
        /// Destination.
        subnet: Subnet,
    },
    /// The identity of the node at the other end of a link became known.
    PeerIdentified {
        /// The link.
        peer: PeerId,
        /// The key that it announced with metric 0 first.
        public_key: PublicKey,
    },
    /// Somebody else announces one of our own keys: a copied key file.
    DuplicateIdentity {
        /// Which of ours.
        subnet: Subnet,
        /// Over which link.
        peer: PeerId,
    },
}
