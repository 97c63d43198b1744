//! Sixty nodes: a random graph of degree three, and a line.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netns_tests::daemon::Build::{Ours, Upstream};
use netns_tests::daemon::{Build, Node, NodeOptions, upstream_missing};
use netns_tests::figures::{judge, repetitions, report, strict};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::ping::Pinger;
use netns_tests::topology::Underlay;

const NODES: usize = 60;

fn main() -> ExitCode {
    run(vec![
        case("random_graph", random_graph),
        case("line", |scratch| line(scratch, Ours)),
        case("upstream/line", |scratch| line(scratch, Upstream)).unless(slow_comparison()),
    ])
}

fn slow_comparison() -> Option<String> {
    upstream_missing().or_else(|| {
        (!strict())
            .then(|| "comparison with upstream runs with MYCELIUM_TEST_STRICT=1 only".to_owned())
    })
}

/// A connected graph where every node has three neighbours: a ring, and a random pairing across it.
fn degree_three(seed: usize) -> Vec<(usize, usize)> {
    let mut edges: Vec<(usize, usize)> =
        (0..NODES).map(|node| (node, (node + 1) % NODES)).collect();
    let mut random = blake3::Hasher::new()
        .update(&seed.to_be_bytes())
        .finalize_xof();
    let mut left: Vec<usize> = (0..NODES).collect();
    while let Some(node) = left.pop() {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        let pick =
            usize::try_from(u64::from_be_bytes(bytes) % left.len().max(1) as u64).unwrap_or(0);
        if pick < left.len() {
            let other = left.swap_remove(pick);
            edges.push((node.min(other), node.max(other)));
        }
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

#[derive(Debug)]
struct Reached {
    /// From the start of the last process to the first reply, per node that got one.
    times: Vec<Duration>,
    /// From the start of the first process to the start of the last.
    starting: Duration,
    /// How many never got a reply.
    missing: usize,
}

/// Start a node on each host, the lower-numbered end of each edge being dialled, and let all ping node 0.
fn flood(
    scratch: &Scratch,
    build: Build,
    edges: &[(usize, usize)],
    limit: Duration,
) -> anyhow::Result<Reached> {
    let lab = Lab::new();
    let hosts: Vec<Arc<Host>> = (0..NODES)
        .map(|n| lab.host(&format!("n{n:02}")))
        .collect::<Result<_, _>>()?;
    let mut options: Vec<NodeOptions> = hosts
        .iter()
        .map(|host| NodeOptions::new(build, host.name()))
        .collect();
    for (low, high) in edges {
        let wire = lab.wire(&hosts[*low], &hosts[*high])?;
        let dialling = options[*high].clone();
        options[*high] = dialling.peer(Underlay::Tcp4.endpoint(&wire.left));
    }
    let target = options[0].public_key().address();
    let pingers: Vec<Pinger> = hosts[1..]
        .iter()
        .map(|host| Pinger::start(host, target, Duration::from_millis(20)))
        .collect::<Result<_, _>>()?;
    let first = Instant::now();
    let mut nodes = Vec::new();
    for (host, options) in hosts.iter().zip(options) {
        nodes.push(Node::start(scratch, host, options)?);
    }
    let last = nodes.last().context("sixty nodes")?.started();
    let deadline = last + limit;
    let mut times = Vec::new();
    for pinger in &pingers {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(reply) = pinger.reply_since(first, left) {
            times.push(reply.saturating_duration_since(last));
        }
    }
    for node in &mut nodes {
        node.check_alive()?;
    }
    let memory: Result<Vec<u64>, _> = nodes.iter().map(Node::resident_kib).collect();
    let memory = memory?;
    report(
        &format!("scale, {build}, resident memory"),
        format_args!(
            "{} KiB on average, {} at most",
            memory.iter().sum::<u64>() / memory.len() as u64,
            memory.iter().max().copied().unwrap_or_default()
        ),
    );
    Ok(Reached {
        missing: pingers.len() - times.len(),
        times,
        starting: last.duration_since(first),
    })
}

fn random_graph(scratch: &Scratch) -> anyhow::Result<()> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..repetitions(1, 5) {
        let edges = degree_three(round);
        let reached = flood(scratch, Ours, &edges, Duration::from_secs(20))?;
        anyhow::ensure!(
            reached.missing == 0,
            "{} of 59 never reach node 0",
            reached.missing
        );
        ours.push(reached.times.iter().max().copied().unwrap_or_default());
        report(
            "scale, random graph, time to start 60 processes",
            format_args!("{:.1?}", reached.starting),
        );
        if upstream_missing().is_none() {
            let reached = flood(scratch, Upstream, &edges, Duration::from_secs(40))?;
            report(
                "scale, random graph, upstream nodes that never reach node 0",
                reached.missing,
            );
            theirs.push(reached.times.iter().max().copied().unwrap_or_default());
        }
    }
    let bound = if theirs.is_empty() {
        Duration::from_millis(400)
    } else {
        judge(
            "scale, random graph, all reach node 0, theirs",
            &theirs,
            Duration::from_secs(60),
            Duration::from_secs(60),
        )?;
        netns_tests::figures::median(&theirs)
    };
    judge(
        "scale, random graph, all reach node 0, ours",
        &ours,
        bound,
        Duration::from_secs(10),
    )
}

fn line(scratch: &Scratch, build: Build) -> anyhow::Result<()> {
    let edges: Vec<(usize, usize)> = (1..NODES).map(|node| (node - 1, node)).collect();
    let reached = flood(scratch, build, &edges, Duration::from_secs(30))?;
    report(
        &format!("scale, line of 60, {build}, nodes that reach node 0"),
        format_args!("{} of 59", 59 - reached.missing),
    );
    if build == Upstream {
        return Ok(());
    }
    anyhow::ensure!(
        reached.missing == 0,
        "{} of 59 never reach node 0",
        reached.missing
    );
    let slowest = reached.times.iter().max().copied().unwrap_or_default();
    judge(
        "scale, line of 60, slowest node",
        &[slowest],
        Duration::from_secs(2),
        Duration::from_secs(10),
    )
}
