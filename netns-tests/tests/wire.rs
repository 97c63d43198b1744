//! Native links over a wire that changes, repeats, cuts and races what they send (docs/protocol.md §15): it costs
//! datagrams, and nothing else.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions, PORT};
use netns_tests::figures::{report, strict};
use netns_tests::harness::{Case, case, main as run};
use netns_tests::probe::numbered::{BothWays, listen_beside};
use netns_tests::rogue::{WireMischief, Wiretap};
use netns_tests::topology::Relay;

const PATIENCE: Duration = Duration::from_secs(10);
const SPELL: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(2);
const SIZE: usize = 400;
const INTERFACE: &str = "overlay";

fn main() -> ExitCode {
    run(WireMischief::ALL.map(meddling).into())
}

/// Two nodes and a wiretap between them, which one of them dials.
fn meddling(mischief: WireMischief) -> Case {
    case(format!("meddling/{mischief:?}"), move |scratch| {
        let hosts = Relay::lay_out()?;
        let named = |name| NodeOptions::new(Ours, name).arguments(["--tun-name", INTERFACE]);
        let mut b = Node::start(scratch, &hosts.b, named("b"))?;
        let tap = Wiretap::start(&hosts.r, &hosts.right.right)?;
        let peer = format!("udp://{}:{PORT}", hosts.left.right.v4());
        let mut a = Node::start(scratch, &hosts.a, named("a").peer(peer))?;
        for node in [&a, &b] {
            listen_beside(node, INTERFACE)?;
        }
        let streams = BothWays::start(&a, &b, INTERVAL, SIZE)?;
        streams.flowing(Instant::now(), PATIENCE)?;
        let before = streams.report();
        tap.commit(mischief);
        std::thread::sleep(SPELL);
        let (misdeeds, during) = (tap.misdeeds(), streams.report());
        tap.commit(WireMischief::Honest);
        let recovered = streams.flowing(Instant::now(), PATIENCE)?;
        let outcome = streams.stop()?;
        let share = during.since(&before).share();
        report(
            &format!("wire, {mischief:?}"),
            format_args!(
                "{misdeeds} misdeeds, {:.1} % arrived meanwhile, afterwards {recovered:.1?}",
                100.0 * share
            ),
        );
        ensure!(misdeeds > 100, "hardly anything was touched: {misdeeds}");
        outcome.check_clean()?;
        ensure!(
            recovered < Duration::from_secs(3),
            "recovered after {recovered:?}"
        );
        let harmless = matches!(
            mischief,
            WireMischief::Replay
                | WireMischief::Reflect
                | WireMischief::Race
                | WireMischief::RaceAndKeep
        );
        // Everything true went through as well; a busy machine stalls, and queues drop what is too old.
        let whole = if strict() { 0.98 } else { 0.6 };
        ensure!(!harmless || share > whole, "{:.1} % arrived", 100.0 * share);
        a.check_alive()?;
        b.check_alive()
    })
}
