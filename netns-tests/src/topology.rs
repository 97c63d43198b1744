//! The arrangements of running nodes that most tests start from.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::daemon::{Build, Node, NodeOptions, PORT};
use crate::harness::Scratch;
use crate::lab::{Host, Lab, Port, Wire};
use crate::probe::ping::Pinger;
use crate::wait;

/// What carries a link between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// QUIC over IPv4.
    Quic4,
    /// QUIC over IPv6.
    Quic6,
    /// The native link over IPv4.
    Udp4,
    /// The native link over IPv6.
    Udp6,
}

impl Underlay {
    /// Those that the present network speaks.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Quic4, Self::Quic6];
    /// Those that only our nodes speak.
    pub const NATIVE: [Self; 2] = [Self::Udp4, Self::Udp6];

    /// Whether links are QUIC connections.
    pub fn is_quic(self) -> bool {
        matches!(self, Self::Quic4 | Self::Quic6)
    }

    /// Whether links are made over IPv4.
    pub fn is_ipv4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Quic4 | Self::Udp4)
    }

    /// How to name the node behind `port` as a peer.
    pub fn endpoint(self, port: &Port) -> String {
        let (v4, v6) = (port.v4(), port.v6());
        match self {
            Self::Tcp4 => format!("tcp://{v4}:{PORT}"),
            Self::Tcp6 => format!("tcp://[{v6}]:{PORT}"),
            Self::Quic4 => format!("quic://{v4}:{PORT}"),
            Self::Quic6 => format!("quic://[{v6}]:{PORT}"),
            Self::Udp4 => format!("udp://{v4}:{PORT}"),
            Self::Udp6 => format!("udp://[{v6}]:{PORT}"),
        }
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp4 => "tcp-ipv4",
            Self::Tcp6 => "tcp-ipv6",
            Self::Quic4 => "quic-ipv4",
            Self::Quic6 => "quic-ipv6",
            Self::Udp4 => "udp-ipv4",
            Self::Udp6 => "udp-ipv6",
        })
    }
}

/// Two nodes, B dialling A.
#[derive(Debug)]
pub struct Pair {
    /// The node that listens.
    pub a: Node,
    /// The node that dials.
    pub b: Node,
    /// What joins them.
    pub wire: Wire,
}

impl Pair {
    /// Start both.
    pub fn start(
        scratch: &Scratch,
        underlay: Underlay,
        builds: [Build; 2],
    ) -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let wire = lab.wire(&a, &b)?;
        let endpoint = underlay.endpoint(&wire.left);
        Ok(Self {
            a: Node::start(scratch, &a, NodeOptions::new(builds[0], "a"))?,
            b: Node::start(scratch, &b, NodeOptions::new(builds[1], "b").peer(endpoint))?,
            wire,
        })
    }

    /// Wait until A's pings to B are answered.
    pub fn connected(&self, limit: Duration) -> anyhow::Result<()> {
        reachable(self.a.host(), &self.b, limit).map(drop)
    }
}

/// The hosts and wires of A–R–B, without nodes.
#[derive(Debug)]
pub struct Relay {
    /// One end.
    pub a: Arc<Host>,
    /// The middle.
    pub r: Arc<Host>,
    /// The other end.
    pub b: Arc<Host>,
    /// A on the left, R on the right.
    pub left: Wire,
    /// R on the left, B on the right.
    pub right: Wire,
}

impl Relay {
    /// Lay them out.
    pub fn lay_out() -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (a, r, b) = (lab.host("a")?, lab.host("r")?, lab.host("b")?);
        let left = lab.wire(&a, &r)?;
        let right = lab.wire(&r, &b)?;
        Ok(Self {
            a,
            r,
            b,
            left,
            right,
        })
    }

    /// How A is started: dialling R.
    pub fn options_a(&self, build: Build, underlay: Underlay) -> NodeOptions {
        NodeOptions::new(build, "a").peer(underlay.endpoint(&self.left.right))
    }

    /// How R is started: a pure relay that only listens.
    pub fn options_r(&self, build: Build) -> NodeOptions {
        NodeOptions::new(build, "r").no_tun()
    }

    /// How B is started: dialling R.
    pub fn options_b(&self, build: Build, underlay: Underlay) -> NodeOptions {
        NodeOptions::new(build, "b").peer(underlay.endpoint(&self.right.left))
    }

    /// Start the three nodes, R first.
    pub fn start(
        self,
        scratch: &Scratch,
        underlay: Underlay,
        builds: [Build; 3],
    ) -> anyhow::Result<Relayed> {
        let r = Node::start(scratch, &self.r, self.options_r(builds[1]))?;
        let b = Node::start(scratch, &self.b, self.options_b(builds[2], underlay))?;
        let a = Node::start(scratch, &self.a, self.options_a(builds[0], underlay))?;
        Ok(Relayed {
            a,
            r,
            b,
            layout: self,
        })
    }
}

/// A–R–B, running; R is a pure relay and both ends dial it.
#[derive(Debug)]
pub struct Relayed {
    /// One end.
    pub a: Node,
    /// The relay.
    pub r: Node,
    /// The other end.
    pub b: Node,
    /// Hosts and wires below.
    pub layout: Relay,
}

impl Relayed {
    /// Lay out and start.
    pub fn start(
        scratch: &Scratch,
        underlay: Underlay,
        builds: [Build; 3],
    ) -> anyhow::Result<Self> {
        Relay::lay_out()?.start(scratch, underlay, builds)
    }

    /// Wait until A's pings to B are answered.
    pub fn connected(&self, limit: Duration) -> anyhow::Result<()> {
        reachable(self.a.host(), &self.b, limit).map(drop)
    }
}

/// Wait until `node` sends to `target` over a link of that kind ("UDP", "TCP", "QUIC"); how long that took.
pub fn sends_over(
    node: &Node,
    target: &Node,
    transport: &str,
    limit: Duration,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let what = format!("{} sends over {transport}", node.host().name());
    wait::until(&what, limit, || {
        let hop = node.next_hop(target)?;
        Ok(hop
            .is_some_and(|hop| hop.starts_with(transport))
            .then_some(()))
    })
    .with_context(|| format!("{:?}", node.next_hop(target)))?;
    Ok(started.elapsed())
}

/// Ping `target` every 5 ms from `host` until it answers; how long that took.
pub fn reachable(host: &Host, target: &Node, limit: Duration) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let pinger = Pinger::start(host, target.address(), Duration::from_millis(5))?;
    let arrival = pinger.reply_since(started, limit)?;
    Ok(arrival.duration_since(started))
}
