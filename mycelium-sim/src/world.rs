//! The world: virtual time, a heap of events, stations, links. It jumps from event to event; nothing ever waits.
//!
//! ```text
//!            Arrive, Wake, Connected, Disconnected, Dial, Happen, Flow
//!   heap ──────────────► step ──► station: Node::handle / handle_timeout
//!    ▲                                │ settle: poll_output until empty, publish the FIB, check the contract
//!    └── link: latency, loss, rate ◄──┘ Send, Close
//! ```
//!
//! After every event the poll contract of the node that was touched is checked, and every FIB change is checked for
//! loops (see [`crate::oracle`]). The first violation ends the run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::Duration;

use mycelium_core::addr::Subnet;
use mycelium_core::io::{Input, Output, PeerId};
use mycelium_core::node::NodeConfig;
use mycelium_core::time::Time;

use crate::choices::Choices;
use crate::dialect::Dialect;
use crate::fault::Fault;
use crate::flow::Flow;
use crate::ledger::Ledger;
use crate::link::{Connection, Lane, Link, Traffic};
use crate::mutant::{Contents, Mutant};
use crate::oracle::Stretch;
use crate::packet::Delivery;
use crate::station::Station;
use crate::topology::Topology;
use crate::trace::{Trace, TraceMode};

/// How a run is set up.
#[derive(Clone, Debug, Default)]
pub struct WorldConfig {
    /// Configuration of every node.
    pub node: NodeConfig,
    /// Look for loops after every FIB change. Otherwise only when asked: large networks.
    pub watch_loops: bool,
    /// Give every node a data plane, so that real packets can be sent.
    pub packets: bool,
    /// What each node speaks, where the run has packets; those beyond the end speak v1.
    pub dialects: Vec<Dialect>,
    /// Age at which keys of sessions are renewed, unless it is the usual one.
    pub rekey_after: Option<Duration>,
    /// What all nodes lack, to see whether anybody notices.
    pub mutant: Option<Mutant>,
    /// Nodes find their pins again when they start: they have a state directory.
    pub keeps_pins: bool,
    /// What to write down.
    pub trace: TraceMode,
    /// Stations that do not run our program.
    pub hostile: Vec<usize>,
}

/// Something that must never happen, did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Time,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} µs: {}", self.at.as_micros(), self.what)
    }
}

impl std::error::Error for Violation {}

/// A subnet that somebody originates, or did.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// The subnet.
    pub subnet: Subnet,
    /// Whose.
    pub owner: usize,
    /// Which identity of the owner.
    pub identity: usize,
}

/// What nodes reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that the heap gave out.
    pub events: u64,
    /// Control packets by TLV: Hello, IHU, Update, RouteRequest, SeqnoRequest, other.
    pub tlvs: [u64; 6],
    /// Looked-up subnets that were given up.
    pub queries_failed: u64,
    /// Connections that a node closed, by reason: silent, malformed, flooding, ourselves.
    pub closed: [u64; 4],
    /// Circles between two incarnations of a destination, which must be short-lived.
    pub brief_circles: u64,
    /// Tables published.
    pub published: u64,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub(crate) config: WorldConfig,
    pub(crate) now: Time,
    pub(crate) choices: Choices,
    pub(crate) stations: Vec<Station>,
    pub(crate) links: Vec<Link>,
    pub(crate) connections: Vec<Option<Connection>>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) by_subnet: BTreeMap<Subnet, usize>,
    /// Next hops as published, by station and destination: what the loop check follows.
    pub(crate) hops: Vec<Vec<Option<PeerId>>>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) failed: BTreeMap<(usize, Subnet), Time>,
    pub(crate) ledger: Option<Box<Ledger>>,
    pub(crate) contents: Contents,
    /// Packets that came out of host interfaces, in order.
    pub deliveries: Vec<Delivery>,
    /// Of the paths that the last check of many looked at.
    pub stretch: Stretch,
    /// What happened so far, in numbers.
    pub tally: Tally,
    /// What happened so far, in words.
    pub trace: Trace,
    pub(crate) base: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    /// What is scheduled; the heap has places in here, which are used again.
    whats: Vec<Option<What>>,
    free: Vec<usize>,
    order: u64,
    pub(crate) outputs: Vec<Output>,
}

/// When, in which order among those of one instant, and where in `whats`: as tuples compare.
type Scheduled = (Time, u64, usize);

#[derive(Debug)]
pub(crate) enum What {
    Wake {
        station: usize,
        incarnation: u32,
    },
    Arrive {
        connection: usize,
        end: usize,
        lane: Lane,
        packet: Vec<u8>,
    },
    Dial {
        link: usize,
    },
    Connected {
        connection: usize,
        end: usize,
        incarnation: u32,
    },
    Disconnected {
        connection: usize,
        end: usize,
    },
    Happen(Fault),
    Flow(usize),
    Recheck {
        station: usize,
        destination: usize,
    },
    Attack {
        station: usize,
        every: Duration,
    },
    /// A meddling relay sends a packet towards its destination.
    Inject {
        station: usize,
        packet: Vec<u8>,
    },
}

impl World {
    /// A network in which nothing runs yet.
    pub fn new(topology: &Topology, config: WorldConfig, mut choices: Choices) -> Self {
        let base = choices.within(0..u64::MAX);
        let trace = Trace::new(config.trace);
        let mut stations: Vec<Station> = (0..topology.nodes)
            .map(|n| Station::new(config.hostile.contains(&n)))
            .collect();
        let mut links = Vec::with_capacity(topology.links.len());
        for &(a, b, spec) in &topology.links {
            stations[a].links.push((links.len(), 0));
            stations[b].links.push((links.len(), 1));
            links.push(Link::new([a, b], spec));
        }
        let mut world = Self {
            now: Time::from_millis(1000),
            choices,
            hops: vec![Vec::new(); stations.len()],
            stations,
            links,
            connections: Vec::new(),
            destinations: Vec::new(),
            by_subnet: BTreeMap::new(),
            flows: Vec::new(),
            failed: BTreeMap::new(),
            ledger: None,
            contents: Contents::default(),
            deliveries: Vec::new(),
            stretch: Stretch::default(),
            tally: Tally::default(),
            trace,
            base,
            heap: BinaryHeap::new(),
            whats: Vec::new(),
            free: Vec::new(),
            order: 0,
            outputs: Vec::new(),
            config,
        };
        for station in 0..topology.nodes {
            world.new_identity(station);
        }
        world
    }

    /// Start every station now.
    pub fn start_all(&mut self) -> Result<(), Violation> {
        (0..self.stations.len()).try_for_each(|n| self.apply(Fault::Start(n)))
    }

    /// Virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The run's decisions.
    pub fn choices(&mut self) -> &mut Choices {
        &mut self.choices
    }

    /// How many stations there are.
    pub fn nodes(&self) -> usize {
        self.stations.len()
    }

    /// A station.
    pub fn station(&self, node: usize) -> &Station {
        &self.stations[node]
    }

    /// What a station speaks.
    pub fn dialect(&self, node: usize) -> Dialect {
        self.config.dialects.get(node).copied().unwrap_or_default()
    }

    /// The links, in the order of the topology.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Every subnet that was ever originated, in order of appearance: the nodes' own first.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// Everything sent over all links.
    pub fn traffic(&self) -> Traffic {
        let all = self.links.iter().flat_map(|link| link.sent);
        all.fold(Traffic::default(), Traffic::plus)
    }

    /// Let `fault` happen at `at`.
    pub fn schedule(&mut self, at: Time, fault: Fault) {
        self.push(at, What::Happen(fault));
    }

    /// Let a hostile station send something every so often, for ever.
    pub fn attack(&mut self, station: usize, every: Duration) {
        self.push(self.now + every, What::Attack { station, every });
    }

    /// Let `flow` try every so often.
    pub(crate) fn schedule_flow(&mut self, at: Time, flow: usize) {
        self.push(at, What::Flow(flow));
    }

    pub(crate) fn schedule_recheck(&mut self, at: Time, station: usize, destination: usize) {
        self.push(
            at,
            What::Recheck {
                station,
                destination,
            },
        );
    }

    /// Let events happen until `until`, which then is the time.
    pub fn run_until(&mut self, until: Time) -> Result<(), Violation> {
        while self
            .heap
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= until)
        {
            self.step()?;
        }
        self.now = self.now.max(until);
        Ok(())
    }

    /// Let events happen for `duration`.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), Violation> {
        self.run_until(self.now + duration)
    }

    /// Let the next event happen; `false` if there is none.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(Reverse((at, _, place))) = self.heap.pop() else {
            return Ok(false);
        };
        self.free.push(place);
        let Some(what) = self.whats[place].take() else {
            return Ok(true);
        };
        self.now = at;
        self.tally.events += 1;
        match what {
            What::Wake {
                station,
                incarnation,
            } => self.wake(station, incarnation)?,
            What::Arrive {
                connection,
                end,
                lane,
                mut packet,
            } => self.arrive(connection, end, lane, &mut packet)?,
            What::Dial { link } => self.dial(link),
            What::Connected {
                connection,
                end,
                incarnation,
            } => self.connected(connection, end, incarnation)?,
            What::Disconnected { connection, end } => self.disconnected(connection, end)?,
            What::Happen(fault) => self.apply(fault)?,
            What::Flow(flow) => self.try_flow(flow)?,
            What::Recheck {
                station,
                destination,
            } => self.recheck(station, destination)?,
            What::Attack { station, every } => {
                self.attack_once(station)?;
                self.attack(station, every);
            }
            What::Inject { station, packet } => self.inject(station, packet)?,
        }
        Ok(true)
    }

    /// Let `fault` happen now.
    pub fn apply(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.trace.wanted() {
            self.trace.line(self.now, format_args!("---- {fault:?}"));
        }
        match fault {
            Fault::Kill(node) => self.stop(node, true)?,
            Fault::PowerLoss(node) => self.stop(node, false)?,
            Fault::Leave(node) => {
                self.tell(node, Input::Shutdown)?;
                self.stop(node, true)?;
            }
            Fault::Start(node) => self.start(node)?,
            Fault::Restart(node) => {
                self.stop(node, true)?;
                self.start(node)?;
            }
            Fault::CarrierLoss(link) => {
                self.links[link].carrier = false;
                self.reset(link)?;
            }
            Fault::CarrierBack(link) => {
                self.links[link].carrier = true;
                self.want_dial(link);
            }
            Fault::Silence(link) => self.links[link].silent = true,
            Fault::Heal(link) => self.heal(link),
            Fault::Reset(link) => {
                self.reset(link)?;
                self.want_dial(link);
            }
            Fault::Latency(link, millis) => {
                self.links[link].spec.latency = Duration::from_millis(millis)
            }
            Fault::Loss(link, per_million) => self.links[link].spec.loss = per_million,
            Fault::AddIdentity(node) => self.add_identity(node)?,
            Fault::RemoveIdentity(node) => self.remove_identity(node)?,
        }
        Ok(())
    }

    /// Tell a station's core something, and let it react. Nothing happens to stations that are down or hostile.
    pub fn tell(&mut self, node: usize, input: Input<'_>) -> Result<(), Violation> {
        let now = self.now;
        let Some(core) = self.stations[node].core_mut() else {
            return Ok(());
        };
        core.node.handle(input, now);
        self.settle(node)
    }

    /// A violation, now.
    pub fn violation(&self, what: impl Into<String>) -> Violation {
        Violation {
            at: self.now,
            what: what.into(),
        }
    }

    pub(crate) fn push(&mut self, at: Time, what: What) {
        self.order += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.whats[place] = Some(what);
                place
            }
            None => {
                self.whats.push(Some(what));
                self.whats.len() - 1
            }
        };
        self.heap
            .push(Reverse((at.max(self.now), self.order, place)));
    }
}
