//! How much the nodes remember, against what they were configured to remember at most.

use std::collections::BTreeSet;

use mycelium_core::snapshot::{Counters, Snapshot};

use crate::world::{Violation, World};

/// Entries in the tables of all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Routes in use.
    pub selected: usize,
    /// Other routes.
    pub fallback: usize,
    /// Pending look-ups.
    pub queried: usize,
}

impl Tables {
    /// All of them.
    pub fn total(self) -> usize {
        self.selected + self.fallback + self.queried
    }
}

impl World {
    /// Entries in all tables of all nodes.
    pub fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        for snapshot in self.snapshots() {
            tables.selected += snapshot.selected.len();
            tables.fallback += snapshot.fallback.len();
            tables.queried += snapshot.queried.len();
        }
        tables
    }

    /// Every table of every node within its configured limit, and the published FIB no larger than the route table.
    pub fn check_limits(&self) -> Result<(), Violation> {
        let config = &self.config.node;
        for (node, station) in self.stations.iter().enumerate() {
            let Some(core) = station.core() else { continue };
            let snapshot = core.node.snapshot(self.now());
            let routes = snapshot.selected.iter().chain(&snapshot.fallback);
            let destinations: BTreeSet<_> = routes.map(|route| route.subnet).collect();
            let of_one = snapshot
                .peers
                .iter()
                .map(|peer| peer.routes)
                .max()
                .unwrap_or(0);
            for (what, held, limit) in [
                (
                    "routes",
                    snapshot.selected.len() + snapshot.fallback.len(),
                    config.max_routes,
                ),
                ("destinations", destinations.len(), config.max_destinations),
                (
                    "routes of one neighbour",
                    of_one,
                    config.max_routes_per_neighbour,
                ),
                ("queries", snapshot.queried.len(), config.max_queries),
                ("FIB entries", core.fib().len(), snapshot.selected.len()),
                (
                    "neighbours",
                    snapshot.peers.len(),
                    station.process.as_ref().map_or(0, |p| p.peers.len()),
                ),
            ] {
                if held > limit {
                    return Err(self.violation(format!(
                        "node {node} holds {held} {what}, the limit is {limit}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The sum of one counter over all nodes.
    pub fn counted(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.snapshots()
            .map(|snapshot| counter(&snapshot.counters))
            .sum()
    }

    fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        let cores = self.stations.iter().filter_map(|station| station.core());
        cores.map(|core| core.node.snapshot(self.now))
    }
}
