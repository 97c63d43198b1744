//! One node of the simulated network: its keys, and the process that runs the real core while it is up.

use std::collections::BTreeMap;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::DataPlane;
use mycelium_core::fib::{Fib, FibPublisher};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::node::Node;
use mycelium_core::session::pins::Pin;
use mycelium_core::time::Time;

use crate::hostile::Attacker;
use crate::ports::Lanes;
use crate::relay::Relay;

/// A machine. Its keys survive; its process need not.
#[derive(Debug)]
pub struct Station {
    /// Its identities, the node's own first. `false`: removed again.
    pub identities: Vec<Identity>,
    /// The running program.
    pub process: Option<Process>,
    /// How often the program was started.
    pub starts: u32,
    /// It does not run our program but sends what it likes.
    pub hostile: bool,
    /// It relays, and meddles with what it relays.
    pub relay: Option<Relay>,
    /// Pins of its last run, where it keeps them.
    pub(crate) pins: Vec<Pin>,
    /// Links it has an end of, and which end.
    pub links: Vec<(usize, usize)>,
}

/// A key that a station originates.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its secret.
    pub secret: SecretKey,
    /// The public half.
    pub key: PublicKey,
    /// Its /64.
    pub subnet: Subnet,
    /// Whether it is originated now.
    pub active: bool,
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    /// What decides.
    pub brain: Brain,
    /// Its connections by their names at this end: (connection, which end).
    pub peers: BTreeMap<PeerId, (usize, usize)>,
    /// Which start of the station this is.
    pub incarnation: u32,
    pub(crate) next_peer: u32,
    /// The earliest wake-up that is in the heap, if any.
    pub(crate) wake: Option<Time>,
    /// Wake-ups at one and the same instant, to notice a timer that never advances.
    pub(crate) wakes: (Time, u32),
}

/// What decides in a process.
#[derive(Debug)]
pub enum Brain {
    /// The core under test.
    Core(Box<Core>),
    /// Somebody who means harm.
    Hostile(Attacker),
}

/// The core under test and what it has published.
#[derive(Debug)]
pub struct Core {
    /// The control plane.
    pub node: Node,
    /// The data plane and where its forwarding tables come from, where the run has packets.
    pub data: Option<(DataPlane, FibPublisher)>,
    /// What the data plane did and nobody has carried out yet.
    pub lanes: Lanes,
    /// When data last arrived from each connection that was reported to the control plane.
    pub(crate) heard: BTreeMap<PeerId, Time>,
}

impl Core {
    /// The forwarding table: what is published after every turn.
    pub fn fib(&self) -> &Fib {
        self.node.fib()
    }
}

impl Station {
    /// A station that is not running yet.
    pub fn new(hostile: bool) -> Self {
        Self {
            identities: Vec::new(),
            process: None,
            starts: 0,
            hostile,
            relay: None,
            pins: Vec::new(),
            links: Vec::new(),
        }
    }

    /// The running core; `None` if it is down or hostile.
    pub fn core(&self) -> Option<&Core> {
        match &self.process.as_ref()?.brain {
            Brain::Core(core) => Some(core),
            Brain::Hostile(_) => None,
        }
    }

    /// As [`Station::core`].
    pub fn core_mut(&mut self) -> Option<&mut Core> {
        match &mut self.process.as_mut()?.brain {
            Brain::Core(core) => Some(core),
            Brain::Hostile(_) => None,
        }
    }

    /// Whether it runs and relays.
    pub fn forwards(&self) -> bool {
        self.core().is_some()
    }

    /// The id of its `index`th identity.
    pub fn identity_id(index: usize) -> IdentityId {
        IdentityId(u32::try_from(index).unwrap_or(u32::MAX))
    }
}
