//! A diamond: A and B joined by two relays. The one in use fails in three ways; pings every 2 ms show the outage.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netns_tests::daemon::Build::{Ours, Upstream};
use netns_tests::daemon::{Build, Node, NodeOptions, upstream_missing};
use netns_tests::figures::{judge, repetitions};
use netns_tests::harness::{Case, Scratch, case, main as run};
use netns_tests::impair;
use netns_tests::lab::{Host, Lab, Switch};
use netns_tests::probe::ping::Pinger;
use netns_tests::topology::Underlay;
use netns_tests::wait;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// kill -9.
    Crash,
    /// All packets dropped, carriers stay.
    Silence,
    /// The relay loses power: its neighbours lose their carriers.
    Carrier,
    /// Only A's cable to the relay is pulled; B has to learn it from the relay.
    Cable,
}

const FAILURES: [Failure; 4] = [
    Failure::Crash,
    Failure::Silence,
    Failure::Carrier,
    Failure::Cable,
];

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Silence => "silence",
            Self::Carrier => "carrier",
            Self::Cable => "cable",
        })
    }
}

fn main() -> ExitCode {
    let mut cases: Vec<Case> = Vec::new();
    for relays in [Ours, Upstream] {
        for underlay in [Underlay::Tcp4, Underlay::Quic6, Underlay::Udp6] {
            if relays == Upstream && Underlay::NATIVE.contains(&underlay) {
                continue;
            }
            for failure in FAILURES {
                if relays == Upstream && failure == Failure::Cable {
                    // Their relay tells B of a lost neighbour after 43 s at the earliest, and until then nobody can.
                    continue;
                }
                let name = format!("{failure}/{relays}/{underlay}");
                let body = move |scratch: &Scratch| failover(scratch, relays, underlay, failure);
                let unmet = if relays == Upstream {
                    upstream_missing()
                } else {
                    None
                };
                cases.push(case(name, body).unless(unmet));
            }
        }
    }
    run(cases)
}

struct Diamond {
    a: Node,
    b: Node,
    relays: Vec<Node>,
    /// A–R1 and A–R2.
    left: Vec<Switch>,
    /// R1–B and R2–B.
    right: Vec<Switch>,
}

impl Diamond {
    fn start(scratch: &Scratch, build: Build, underlay: Underlay) -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let middles: Vec<Arc<Host>> = vec![lab.host("r1")?, lab.host("r2")?];
        let (mut left, mut right, mut relays) = (Vec::new(), Vec::new(), Vec::new());
        let (mut peers_a, mut peers_b) = (Vec::new(), Vec::new());
        for middle in &middles {
            let near = lab.switch(&[&a, middle])?;
            let far = lab.switch(&[middle, &b])?;
            peers_a.push(underlay.endpoint(near.port(1)?));
            peers_b.push(underlay.endpoint(far.port(0)?));
            left.push(near);
            right.push(far);
            relays.push(Node::start(
                scratch,
                middle,
                NodeOptions::new(build, middle.name()).no_tun(),
            )?);
        }
        Ok(Self {
            a: Node::start(scratch, &a, NodeOptions::new(Ours, "a").peers(peers_a))?,
            b: Node::start(scratch, &b, NodeOptions::new(Ours, "b").peers(peers_b))?,
            relays,
            left,
            right,
        })
    }

    /// Which relay A's packets to B go through; `None` before both are known to A.
    fn active(&self, underlay: Underlay) -> anyhow::Result<Option<usize>> {
        let subnet = self.b.subnet().to_string();
        let of_b = |routes: &serde_json::Value| -> Vec<String> {
            let all = routes.as_array().map(Vec::as_slice).unwrap_or_default();
            all.iter()
                .filter(|route| route["subnet"] == subnet.as_str() && route["metric"] != "infinite")
                .filter_map(|route| Some(route["nextHop"].as_str()?.to_owned()))
                .collect()
        };
        let selected = of_b(&self.a.get("/admin/routes/selected")?);
        let fallback = of_b(&self.a.get("/admin/routes/fallback")?);
        let (Some(next_hop), false) = (selected.first(), fallback.is_empty()) else {
            return Ok(None);
        };
        for (index, medium) in self.left.iter().enumerate() {
            let endpoint = underlay.endpoint(medium.port(1)?);
            let address = endpoint
                .split_once("://")
                .context("an endpoint has a scheme")?
                .1;
            if next_hop.contains(address) {
                return Ok(Some(index));
            }
        }
        anyhow::bail!("next hop {next_hop} is neither relay")
    }
}

fn failover(
    scratch: &Scratch,
    relays: Build,
    underlay: Underlay,
    failure: Failure,
) -> anyhow::Result<()> {
    let mut outages = Vec::new();
    for _ in 0..repetitions(2, 10) {
        outages.push(one_failure(scratch, relays, underlay, failure)?);
    }
    let (strict, generous) = match failure {
        // Of a peer that was killed on UDP only an ICMP error tells at once.
        Failure::Crash => (Duration::from_millis(30), Duration::from_millis(500)),
        Failure::Silence | Failure::Carrier | Failure::Cable => {
            (Duration::from_secs(3), Duration::from_secs(6))
        }
    };
    judge(
        &format!("outage, {failure}, relays {relays}, {underlay}"),
        &outages,
        strict,
        generous,
    )
}

fn one_failure(
    scratch: &Scratch,
    relays: Build,
    underlay: Underlay,
    failure: Failure,
) -> anyhow::Result<Duration> {
    let mut net = Diamond::start(scratch, relays, underlay)?;
    let patience = Duration::from_secs(40);
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(2))?;
    pinger.first_reply(patience)?;
    // With upstream relays the second way may become known late: they announce it only when something changes.
    let active = wait::until("two ways from A to B", patience, || net.active(underlay))?;
    pinger.steady_since(Instant::now(), 100, patience)?;
    let active = net.active(underlay)?.unwrap_or(active);
    let failed = Instant::now();
    let relay = net.relays.get_mut(active).context("two relays")?;
    let (near, far) = (&net.left[active], &net.right[active]);
    match failure {
        Failure::Crash => relay.kill()?,
        Failure::Silence => {
            impair::silence(near)?;
            impair::silence(far)?;
        }
        Failure::Carrier => {
            impair::pull_cable(near, 0)?;
            impair::pull_cable(far, 1)?;
        }
        Failure::Cable => impair::pull_cable(near, 0)?,
    }
    // A steady second after the failure, so that an outage that begins late is seen as well.
    pinger.steady_since(failed, 1, patience)?;
    pinger.steady_since(Instant::now() + Duration::from_millis(500), 100, patience)?;
    let result = pinger.stop(Duration::from_millis(500))?;
    result.outage(failed)
}
