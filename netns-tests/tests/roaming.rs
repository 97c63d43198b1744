//! Native links whose ends move (docs/protocol.md §15.4): behind a translator that forgets, and to another network. It
//! costs a few packets and no link.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::figures::{report, strict};
use netns_tests::harness::{Case, Scratch, case, main as run};
use netns_tests::impair;
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::numbered::{BothWays, listen_beside};
use netns_tests::probe::tcp;
use netns_tests::routers::{End, Translator, TwoNetworks};
use netns_tests::topology::{Relay, Underlay, reachable, sends_over};

const PATIENCE: Duration = Duration::from_secs(20);
/// Before and after a move.
const SPELL: Duration = Duration::from_secs(1);
/// Of each way: as many as one of 50 a second, and on a quiet machine one of 500 a second, may lose.
const LOST: usize = 3;
const SIZE: usize = 400;
const PIECE: u64 = 10_000_000;
const INTERFACE: &str = "overlay";

fn main() -> ExitCode {
    let mut cases: Vec<Case> = Vec::new();
    for underlay in Underlay::NATIVE {
        for end in [End::Dialling, End::Dialled] {
            cases.push(case(
                format!("translated/{end:?}/{underlay}"),
                move |scratch| translated(scratch, end, underlay),
            ));
        }
    }
    // Also beside a stream, which does not move and is made anew.
    for underlay in [
        Underlay::Udp4,
        Underlay::Udp6,
        Underlay::Tcp4,
        Underlay::Quic6,
    ] {
        cases.push(
            case(format!("other_network/{underlay}"), move |scratch| {
                other_network(scratch, underlay)
            })
            .unless(impair::firewall_missing()),
        );
    }
    run(cases)
}

fn interval() -> Duration {
    match strict() {
        true => Duration::from_millis(2),
        false => Duration::from_millis(20),
    }
}

fn options(name: &str) -> NodeOptions {
    NodeOptions::new(Ours, name)
        .arguments(["--tun-name", INTERFACE])
        .metrics()
}

/// Two nodes with a native link, the first of which dials.
struct Linked {
    a: Node,
    b: Node,
    answered: [f64; 2],
}

impl Linked {
    fn start(
        scratch: &Scratch,
        a: &Arc<Host>,
        b: &Arc<Host>,
        to_b: String,
    ) -> anyhow::Result<Self> {
        let b = Node::start(scratch, b, options("b"))?;
        let a = Node::start(scratch, a, options("a").peer(to_b))?;
        reachable(a.host(), &b, PATIENCE)?;
        sends_over(&a, &b, "UDP", PATIENCE)?;
        sends_over(&b, &a, "UDP", PATIENCE)?;
        for node in [&a, &b] {
            listen_beside(node, INTERFACE)?;
        }
        let answered = answered(&a, &b)?;
        Ok(Self { a, b, answered })
    }

    /// Move while numbered datagrams go both ways, then while a transfer runs.
    fn moves(&self, what: &str, moving: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let streams = BothWays::start(&self.a, &self.b, interval(), SIZE)?;
        streams.flowing(Instant::now(), PATIENCE)?;
        std::thread::sleep(SPELL);
        moving()?;
        let recovered = streams.flowing(Instant::now(), PATIENCE)?;
        std::thread::sleep(SPELL);
        let outcome = streams.stop()?;
        report(
            &format!("native, {what}, one packet each way every {:?}", interval()),
            format_args!(
                "{} lost, {} overtaken, both ways again after {recovered:.1?}",
                outcome.lost(),
                outcome.there.overtaken + outcome.back.overtaken
            ),
        );
        outcome.check_clean()?;
        for way in [outcome.there, outcome.back] {
            ensure!(
                way.sent - way.arrived + way.overtaken <= LOST,
                "{outcome:?}"
            );
        }
        self.same_link()
    }

    fn moves_during_transfer(
        &self,
        what: &str,
        moving: impl Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let bulk = tcp::Running::start(from.host(), to.host(), to.address(), 3 * PATIENCE)?;
            bulk.advance(PIECE, PATIENCE)?;
            moving()?;
            let went_on = bulk.advance(PIECE, PATIENCE)?;
            let whole = bulk.stop()?;
            report(
                &format!("native, {what}, during a transfer"),
                format_args!(
                    "{} MB more after {went_on:.1?}, {:.0} Mb/s on the whole",
                    PIECE / 1_000_000,
                    whole.megabits()
                ),
            );
        }
        self.same_link()
    }

    /// An error if either node has made or lost a native link since the first.
    fn same_link(&self) -> anyhow::Result<()> {
        for node in [&self.a, &self.b] {
            let peers = node.peers()?;
            let native: Vec<_> = peers
                .iter()
                .filter(|peer| peer["endpoint"]["proto"] == "udp")
                .collect();
            ensure!(native.len() == 1, "{peers:?}");
            ensure!(native[0]["connectionState"] == "alive", "{peers:?}");
            ensure!(native[0]["lastError"].is_null(), "{peers:?}");
        }
        let now = answered(&self.a, &self.b)?;
        ensure!(
            now == self.answered,
            "handshakes: {:?}, now {now:?}",
            self.answered
        );
        Ok(())
    }
}

/// Handshakes of native links that each has answered.
fn answered(a: &Node, b: &Node) -> anyhow::Result<[f64; 2]> {
    let answered = |node: &Node| node.metric("mycelium_native_handshakes{event=\"answered\"}");
    Ok([answered(a)?, answered(b)?])
}

/// A translator between the two forgets what it knows, and takes another address and port for one of them.
fn translated(scratch: &Scratch, end: End, underlay: Underlay) -> anyhow::Result<()> {
    let hosts = Relay::lay_out()?;
    let (inner, outer) = (&hosts.left.right, &hosts.right.left);
    let translator = Translator::start(inner, outer, &hosts.right.right, underlay)?;
    let linked = Linked::start(scratch, &hosts.a, &hosts.b, underlay.endpoint(inner))?;
    let what = format!("{end:?} end translated anew, {underlay}");
    linked.moves(&what, || translator.move_end(end))?;
    linked.moves_during_transfer(&what, || translator.move_end(end))
}

/// The dialling host leaves one network, where its address goes away, for another, and both are behind translators.
fn other_network(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let hosts = TwoNetworks::lay_out(&Lab::new())?;
    let to_b = underlay.endpoint(&hosts.at_b);
    let linked = Linked::start(scratch, &hosts.a, &hosts.b, to_b)?;
    linked.moves(&format!("another network, {underlay}"), || hosts.change())
}
