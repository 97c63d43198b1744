//! Paths below native links that stop carrying full packets, with routers that say so and with others that do not: what
//! runs goes on, and what is new begins.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::figures::{bulk_bytes, judge, report};
use netns_tests::harness::{Case, Scratch, case, main as run};
use netns_tests::impair;
use netns_tests::lab::Lab;
use netns_tests::probe::{tcp, udp};
use netns_tests::routers::Routed;
use netns_tests::topology::{Underlay, reachable, sends_over};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(20);
/// The least that IPv6 has.
const NARROW: u32 = 1280;
const PIECE: u64 = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routers {
    /// Answer what is too long with an ICMP error.
    Tell,
    /// Their errors do not arrive.
    Mute,
}

fn main() -> ExitCode {
    let mut cases: Vec<Case> = Vec::new();
    for underlay in Underlay::NATIVE {
        for routers in [Routers::Tell, Routers::Mute] {
            cases.push(
                case(format!("narrows/{routers:?}/{underlay}"), move |scratch| {
                    narrows(scratch, underlay, routers)
                })
                .unless(impair::firewall_missing()),
            );
        }
    }
    run(cases)
}

/// A and B with two routers between them, and C beyond B. The path between the routers narrows during transfers between
/// A and B. Then A and C meet for the first time, and B starts anew.
fn narrows(scratch: &Scratch, underlay: Underlay, routers: Routers) -> anyhow::Result<()> {
    let lab = Lab::new();
    let path = Routed::lay_out(&lab)?;
    let c = lab.host("c")?;
    let beyond = lab.wire(&path.b, &c)?;
    if routers == Routers::Mute {
        path.mute_routers()?;
    }
    let node = |name| NodeOptions::new(Ours, name);
    let to_a = underlay.endpoint(&path.at_a);
    let a = Node::start(scratch, &path.a, node("a"))?;
    let mut b = Node::start(scratch, &path.b, node("b").peer(to_a))?;
    let to_b = underlay.endpoint(&beyond.left);
    let c = Node::start(scratch, &c, node("c").peer(to_b))?;
    reachable(a.host(), &b, PATIENCE)?;
    for (node, target) in [(&a, &b), (&b, &a), (&c, &a), (&a, &c)] {
        sends_over(node, target, "UDP", PATIENCE)?;
    }

    let limit = 3 * PATIENCE;
    let there = tcp::Running::start(a.host(), b.host(), b.address(), limit)?;
    let back = tcp::Running::start(b.host(), a.host(), a.address(), limit)?;
    for transfer in [&there, &back] {
        transfer.advance(PIECE, PATIENCE)?;
    }
    path.narrow(NARROW)?;
    let narrowed = Instant::now();
    for transfer in [&there, &back] {
        transfer.advance(PIECE, PATIENCE)?;
    }
    let went_on = narrowed.elapsed();
    for transfer in [there, back] {
        transfer.stop()?;
    }
    let label = format!("path narrows to {NARROW}, routers {routers:?}, {underlay}");
    judge(
        &format!("{label}: both transfers {} MB further", PIECE / 1_000_000),
        &[went_on],
        Duration::from_secs(2),
        PATIENCE,
    )?;
    sends_over(&a, &b, "UDP", Duration::ZERO)?;
    ensure!(b.peers()?.iter().all(|peer| peer["lastError"].is_null()));
    udp::echo(a.host(), b.host(), b.address())?;

    // Neither knows anything of the other.
    ensure!(a.session(c.public_key()).is_err(), "A and C have met");
    let met = reachable(a.host(), &c, PATIENCE)?;
    is_v2(&a, &c)?;
    let bytes = bulk_bytes(100_000_000);
    let beyond = tcp::transfer(a.host(), c.host(), c.address(), bytes)?;
    udp::echo(c.host(), a.host(), a.address())?;

    b.kill()?;
    b.start_again()?;
    let linked = reachable(a.host(), &b, PATIENCE)?;
    is_v2(&a, &b)?;
    sends_over(&b, &a, "UDP", PATIENCE)?;
    let again = tcp::transfer(b.host(), a.host(), a.address(), bytes)?;
    report(
        &format!("{label}: new session A-B-C; B restarted"),
        format_args!(
            "first answer after {met:.1?}, {:.0} Mb/s; after {linked:.1?}, {:.0} Mb/s",
            beyond.megabits(),
            again.megabits()
        ),
    );
    Ok(())
}

fn is_v2(a: &Node, b: &Node) -> anyhow::Result<()> {
    wait::until("session v2 at both ends", PATIENCE, || {
        let speaks = |node: &Node, other: &Node| -> anyhow::Result<bool> {
            Ok(node.session(other.public_key())?["protocol"] == "v2")
        };
        Ok((speaks(a, b)? && speaks(b, a)?).then_some(()))
    })
}
