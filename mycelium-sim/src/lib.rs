//! A network in one process, on virtual time: the real core in every node, everything else pretended.
//!
//! - [`world`]: time, events, nodes, connections; [`station`] a node, [`link`] a cable, [`topology`] shapes of networks
//! - [`fault`]: what goes wrong, [`hostile`] who makes it go wrong, [`choices`] who decides: a seed or a byte string
//! - [`relay`]: a node on the way that meddles with packets; [`ledger`]: what must be true of packets nevertheless; [`dialect`]: who
//!   has sessions; [`mutant`]: nodes without a defence
//! - [`flow`]: who talks to whom; [`packet`]: real packets, by way of the data planes; [`oracle`]: what must be true, computed from the true topology alone; [`limits`]: how
//!   much may be remembered
//! - [`scenario`]: whole runs by name, for the tests, for the fuzzer and for
//!   `cargo run -p mycelium-sim --bin scenario -- --seed N NAME`, which replays any failure
//!
//! It never reads a clock or the system's randomness: equal choices give equal runs, to the byte.

pub mod choices;
mod connection;
pub mod dialect;
pub mod fault;
pub mod flow;
pub mod hostile;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod mutant;
pub mod oracle;
pub mod packet;
pub mod ports;
mod process;
pub mod relay;
pub mod scenario;
pub mod station;
pub mod topology;
pub mod trace;
pub mod world;
