//! What the systems are put under.

mod bulk;
mod datagrams;
mod echo;
mod idle;
mod routes;

use std::time::Duration;

use super::options::Topology;
use super::results::Samples;
use super::system::Overlay;
use super::testbed::Testbed;

/// A workload.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// As on the command line.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Bulk { streams: usize, reverse: bool },
    Loaded,
    Ordered,
    Datagrams { size: usize, segmented: bool },
    RoundTrip,
    Idle,
    Routes,
}

/// What a workload runs on.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The hosts.
    pub testbed: &'a Testbed,
    /// The system under measurement.
    pub overlay: &'a Overlay,
    /// Length of bulk transfers.
    pub duration: Duration,
}

const fn bulk(name: &'static str, about: &'static str, streams: usize, reverse: bool) -> Workload {
    let kind = Kind::Bulk { streams, reverse };
    Workload { name, about, kind }
}

const fn datagrams(
    name: &'static str,
    about: &'static str,
    size: usize,
    segmented: bool,
) -> Workload {
    let kind = Kind::Datagrams { size, segmented };
    Workload { name, about, kind }
}

/// All workloads, in the order in which they run.
pub const ALL: &[Workload] = &[
    Workload {
        name: "rtt",
        about: "round-trip time of 1000 pings, one after another, without other traffic",
        kind: Kind::RoundTrip,
    },
    bulk(
        "tcp1",
        "one TCP stream from A to B, and processor time per gigabyte",
        1,
        false,
    ),
    bulk("tcp1r", "one TCP stream from B to A", 1, true),
    bulk("tcp4", "four TCP streams from A to B", 4, false),
    bulk("tcp4r", "four TCP streams from B to A", 4, true),
    Workload {
        name: "load",
        about: "round-trip time of 500 pings a second beside one TCP stream",
        kind: Kind::Loaded,
    },
    Workload {
        name: "order",
        about: "5000 numbered datagrams a second, then as many in bursts, beside one TCP stream: late ones and lost ones",
        kind: Kind::Ordered,
    },
    datagrams(
        "udp64",
        "most packets of 64 bytes a second with at most 0.1 % lost",
        64,
        false,
    ),
    datagrams("udp512", "the same with 512 bytes", 512, false),
    datagrams("udp1400", "the same with 1400 bytes", 1400, false),
    datagrams(
        "udp64g",
        "64 bytes, 32 packets to each send with UDP_SEGMENT",
        64,
        true,
    ),
    datagrams("udp512g", "the same with 512 bytes", 512, true),
    datagrams("udp1400g", "the same with 1400 bytes", 1400, true),
    Workload {
        name: "idle",
        about: "processor share and memory of A over a minute beside ten others, without traffic; in a star only",
        kind: Kind::Idle,
    },
    Workload {
        name: "routes",
        about: "memory of A with 100 000 routes; in a star only, and of nodes that speak Babel",
        kind: Kind::Routes,
    },
];

impl Workload {
    /// Whether it means anything there.
    pub fn fits(&self, topology: Topology) -> bool {
        matches!(self.kind, Kind::Idle | Kind::Routes) == (topology == Topology::Star)
    }

    /// Run it; `earlier` are the figures of earlier rounds, which may shorten a search.
    ///
    /// # Errors
    /// When traffic does not flow.
    pub fn run(
        &self,
        bench: &Bench<'_>,
        earlier: &Samples,
        samples: &mut Samples,
    ) -> anyhow::Result<()> {
        match self.kind {
            Kind::Bulk { streams, reverse } => {
                bulk::measure(self.name, bench, streams, reverse, samples)
            }
            Kind::Loaded => echo::under_load(self.name, bench, samples),
            Kind::Ordered => datagrams::beside_bulk(self.name, bench, samples),
            Kind::Datagrams { size, segmented } => {
                datagrams::measure(self.name, bench, size, segmented, earlier, samples)
            }
            Kind::RoundTrip => echo::idle(self.name, bench, samples),
            Kind::Idle => idle::measure(self.name, bench, samples),
            Kind::Routes if bench.overlay.takes_routes => {
                routes::measure(self.name, bench, samples)
            }
            Kind::Routes => Ok(()),
        }
    }
}
