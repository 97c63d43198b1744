//! From nothing to the first overlay ping: whoever starts first, at once, and without losing a packet.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::{Ours, Upstream};
use netns_tests::daemon::{Build, Node, upstream_missing};
use netns_tests::figures::{judge, repetitions};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::probe::ping::{Pinger, burst};
use netns_tests::topology::{Pair, Relay, Underlay};

const ORDERS: [&str; 6] = ["arb", "abr", "rab", "rba", "bar", "bra"];
/// Pings of the first burst.
const BURST: u16 = 50;

fn main() -> ExitCode {
    run(vec![
        case("pair", |scratch| pair(scratch, Ours)),
        case("relay/every_order", |scratch| {
            relay(scratch, Ours, Duration::ZERO)
        }),
        case("relay/every_order_staggered", |scratch| {
            relay(scratch, Ours, Duration::from_millis(300))
        }),
        case("relay/first_burst", first_burst),
        case("upstream/pair", |scratch| pair(scratch, Upstream)).unless(strict_upstream()),
        case("upstream/relay", |scratch| {
            relay(scratch, Upstream, Duration::ZERO)
        })
        .unless(strict_upstream()),
    ])
}

/// The figures of mycelium 0.7.10 take minutes (15 s a start): only for comparison, on request.
fn strict_upstream() -> Option<String> {
    upstream_missing().or_else(|| {
        (!netns_tests::figures::strict())
            .then(|| "comparison with upstream runs with MYCELIUM_TEST_STRICT=1 only".to_owned())
    })
}

fn pair(scratch: &Scratch, build: Build) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..10 {
        let started = Instant::now();
        let net = Pair::start(scratch, Underlay::Tcp4, [build; 2])?;
        let _ = started;
        let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(1))?;
        let from = net.a.started();
        times.push(
            pinger
                .first_reply(Duration::from_secs(40))?
                .duration_since(from),
        );
    }
    let generous = if build == Ours {
        Duration::from_millis(500)
    } else {
        Duration::from_secs(40)
    };
    judge(
        &format!("start-up, A-B, {build}"),
        &times,
        strict(build, 20),
        generous,
    )
}

/// What is asserted of ours in strict mode; theirs is only reported.
fn strict(build: Build, milliseconds: u64) -> Duration {
    match build {
        Ours => Duration::from_millis(milliseconds),
        Upstream => Duration::from_secs(60),
    }
}

/// Start A, R and B in every order, `pause` apart, and time from the last start to the first reply.
fn relay(scratch: &Scratch, build: Build, pause: Duration) -> anyhow::Result<()> {
    let rounds = if build == Ours { repetitions(2, 10) } else { 1 };
    let mut all = Vec::new();
    for order in ORDERS {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(one_start(scratch, build, order, pause)?);
        }
        let generous = if build == Ours {
            Duration::from_secs(2)
        } else {
            Duration::from_secs(60)
        };
        judge(
            &format!("start-up, A-R-B, order {order}, {pause:?} apart, {build}"),
            &times,
            strict(build, 100),
            generous,
        )?;
        all.extend(times);
    }
    judge(
        &format!("start-up, A-R-B, all orders, {pause:?} apart, {build}"),
        &all,
        strict(build, 100),
        Duration::from_secs(60),
    )
}

fn one_start(
    scratch: &Scratch,
    build: Build,
    order: &str,
    pause: Duration,
) -> anyhow::Result<Duration> {
    let layout = Relay::lay_out()?;
    let mut nodes: Vec<Node> = Vec::new();
    let target = layout
        .options_b(build, Underlay::Tcp4)
        .public_key()
        .address();
    let pinger = Pinger::start(&layout.a, target, Duration::from_millis(1))?;
    let first = Instant::now();
    for (index, letter) in order.chars().enumerate() {
        let (host, options) = match letter {
            'a' => (&layout.a, layout.options_a(build, Underlay::Tcp4)),
            'r' => (&layout.r, layout.options_r(build)),
            _ => (&layout.b, layout.options_b(build, Underlay::Tcp4)),
        };
        if index > 0 && !pause.is_zero() {
            // The scenario itself: whoever is first must have been refused for a while when the others come.
            std::thread::sleep(pause);
        }
        nodes.push(Node::start(scratch, host, options)?);
    }
    let reply = pinger
        .reply_since(first, Duration::from_secs(60))
        .with_context(|| format!("order {order}"))?;
    // At once: the whole time counts. Staggered: what the last one needed.
    let from = if pause.is_zero() {
        first
    } else {
        nodes.last().context("three nodes")?.started()
    };
    Ok(reply.duration_since(from))
}

/// Fifty pings sent as soon as A has its interface, long before there is a route: all are answered.
fn first_burst(scratch: &Scratch) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for order in ORDERS {
        let layout = Relay::lay_out()?;
        let mut nodes = Vec::new();
        for letter in order.chars() {
            let (host, options) = match letter {
                'a' => (&layout.a, layout.options_a(Ours, Underlay::Tcp4)),
                'r' => (&layout.r, layout.options_r(Ours)),
                _ => (&layout.b, layout.options_b(Ours, Underlay::Tcp4)),
            };
            nodes.push(Node::start(scratch, host, options)?);
        }
        let target = layout
            .options_b(Ours, Underlay::Tcp4)
            .public_key()
            .address();
        let outcome = burst(&layout.a, target, BURST, Duration::from_secs(5))?;
        ensure!(
            outcome.lost == 0,
            "order {order}: {} of {BURST} pings of the first burst lost",
            outcome.lost
        );
        let reply = outcome.first_reply.context("no reply")?;
        times.push(reply.duration_since(outcome.first));
    }
    judge(
        "start-up, first burst: interface to first reply",
        &times,
        Duration::from_millis(100),
        Duration::from_secs(2),
    )
}
