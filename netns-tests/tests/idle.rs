//! What a node with links and nothing to do costs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::figures::{report, strict};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::Lab;
use netns_tests::topology::{Underlay, reachable, sends_over};

const PATIENCE: Duration = Duration::from_secs(20);
const LINKS: usize = 10;
const SPELL: Duration = Duration::from_secs(12);
/// New links ask more often than old ones.
const YOUNG: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    run(vec![
        case("ten_native_links", |scratch| {
            ten_links(scratch, Underlay::Udp6, 12 << 10)
        }),
        // Each has a stream, too.
        case("ten_moved_links", |scratch| {
            ten_links(scratch, Underlay::Tcp4, 13 << 10)
        }),
    ])
}

/// A node with ten peers that know it. Nobody sends anything. `strict_memory` is in KiB.
fn ten_links(scratch: &Scratch, underlay: Underlay, strict_memory: u64) -> anyhow::Result<()> {
    let lab = Lab::new();
    let hub = lab.host("hub")?;
    let mut wires = Vec::new();
    for number in 0..LINKS {
        let leaf = lab.host(&format!("leaf{number}"))?;
        wires.push((lab.wire(&hub, &leaf)?, leaf));
    }
    let hub = Node::start(scratch, &hub, NodeOptions::new(Ours, "hub"))?;
    let mut leaves = Vec::new();
    for (wire, leaf) in &wires {
        let to_hub = underlay.endpoint(&wire.left);
        let options = NodeOptions::new(Ours, leaf.name()).peer(to_hub);
        leaves.push(Node::start(scratch, leaf, options)?);
    }
    for leaf in &leaves {
        reachable(leaf.host(), &hub, PATIENCE)?;
        sends_over(leaf, &hub, "UDP", PATIENCE)?;
        sends_over(&hub, leaf, "UDP", PATIENCE)?;
    }
    std::thread::sleep(YOUNG);

    let before = [hub.cpu_time()?, leaves[0].cpu_time()?];
    let started = Instant::now();
    std::thread::sleep(SPELL);
    let elapsed = started.elapsed();
    let share = |node: &Node, before: Duration| -> anyhow::Result<f64> {
        let used = node.cpu_time()?.saturating_sub(before);
        Ok(100.0 * used.as_secs_f64() / elapsed.as_secs_f64())
    };
    let (of_hub, of_leaf) = (share(&hub, before[0])?, share(&leaves[0], before[1])?);
    let memory = hub.resident_kib()?;
    let label = format!("idle, {LINKS} peers, {underlay}");
    report(
        &format!("{label}: share of a processor, that of a peer"),
        format_args!("{of_hub:.2} %, {of_leaf:.2} %, over {elapsed:.0?}"),
    );
    report(&format!("{label}: resident, KiB"), memory);
    let most_share = if strict() { 0.3 } else { 5.0 };
    let most_memory = if strict() { strict_memory } else { 64 << 10 };
    for share in [of_hub, of_leaf] {
        ensure!(
            share <= most_share,
            "{share:.2} % of a processor while idle"
        );
    }
    ensure!(memory <= most_memory, "{memory} KiB");
    for node in leaves.iter().chain([&hub]) {
        let peers = node.peers()?;
        ensure!(
            peers.iter().all(|peer| peer["lastError"].is_null()),
            "{}: {peers:?}",
            node.host().name()
        );
    }
    Ok(())
}
