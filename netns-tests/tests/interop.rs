//! Beside an unmodified mycelium 0.7.10: every mixture of ours and theirs on A–R–B carries traffic, survives restarts
//! and finds its neighbours on the LAN. All-theirs is the control: it proves the harness and gives the figures to beat.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::{Ours, Upstream};
use netns_tests::daemon::{Build, Node, NodeOptions, upstream_missing};
use netns_tests::figures::{bulk_bytes, judge, repetitions, report};
use netns_tests::harness::{Case, Scratch, case, main as run};
use netns_tests::lab::Lab;
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::{tcp, udp};
use netns_tests::topology::{Relay, Relayed, Underlay};

/// A route request that mycelium 0.7.10 did not get answered costs it 15 s, and it dials every 5 s.
const PATIENCE: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let mut cases: Vec<Case> = Vec::new();
    for underlay in Underlay::ALL {
        for placement in placements() {
            let label = placement.map(|build| build.to_string()).join("-");
            cases.push(
                case(format!("relay/{underlay}/{label}"), move |scratch| {
                    mixture(scratch, underlay, placement)
                })
                .unless(upstream_missing()),
            );
        }
    }
    for underlay in Underlay::ALL {
        cases.push(
            case(
                format!("dialling_relay/{underlay}/theirs-ours-theirs"),
                move |scratch| dialling_relay(scratch, underlay),
            )
            .unless(upstream_missing()),
        );
    }
    for underlay in Underlay::ALL {
        cases.push(
            case(
                format!("restarts_of_an_end/{underlay}/ours-theirs-theirs"),
                move |scratch| restarts_of_an_end(scratch, underlay),
            )
            .unless(upstream_missing()),
        );
    }
    for pair in [[Ours, Upstream], [Upstream, Ours], [Upstream, Upstream]] {
        let label = pair.map(|build| build.to_string()).join("-");
        cases.push(
            case(format!("lan/{label}"), move |scratch| lan(scratch, pair))
                .unless(upstream_missing()),
        );
    }
    run(cases)
}

/// The six mixtures, and all-theirs as control.
fn placements() -> Vec<[Build; 3]> {
    let mut all = vec![[Upstream; 3]];
    for bits in 1..7_u8 {
        all.push([4, 2, 1].map(|bit| if bits & bit == 0 { Upstream } else { Ours }));
    }
    all
}

/// Whether two ends exchange bulk TCP: two of theirs over QUIC never do (their packets do not fit its datagrams).
fn carries_bulk(underlay: Underlay, [a, _, b]: [Build; 3]) -> bool {
    !underlay.is_quic() || a == Ours || b == Ours
}

fn mixture(scratch: &Scratch, underlay: Underlay, placement: [Build; 3]) -> anyhow::Result<()> {
    let label = format!(
        "{underlay} {}",
        placement.map(|build| build.to_string()).join("-")
    );
    let mut net = Relayed::start(scratch, underlay, placement)?;
    let started = net.a.started();
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(10))?;
    let first = pinger
        .reply_since(started, PATIENCE)
        .context("first ping")?;
    report(
        &format!("interop, first ping, {label}"),
        format_args!("{:.3?}", first.duration_since(started)),
    );
    drop(pinger);
    // A full packet of theirs does not fit a QUIC datagram and ends their link.
    let largest = if underlay.is_quic() { 1024 } else { usize::MAX };
    udp::echo_up_to(largest, net.a.host(), net.b.host(), net.b.address())?;
    if carries_bulk(underlay, placement) {
        let bytes = bulk_bytes(100_000_000);
        let there = tcp::transfer(net.a.host(), net.b.host(), net.b.address(), bytes)?;
        let back = tcp::transfer(net.b.host(), net.a.host(), net.a.address(), bytes)?;
        report(
            &format!("interop, Mb/s there and back, {label}"),
            format_args!("{:.0} {:.0}", there.megabits(), back.megabits()),
        );
    }
    for index in 0..3 {
        match restart(&mut net, index, &label) {
            // Whether two of theirs find each other again is theirs to get right: about one run in five over QUIC does not.
            Err(error) if placement == [Upstream; 3] => {
                report(
                    &format!("interop, not back, {label}"),
                    format_args!("{error:#}"),
                );
                return Ok(());
            }
            result => result?,
        }
    }
    for node in [&mut net.a, &mut net.r, &mut net.b] {
        node.check_alive()?;
    }
    Ok(())
}

fn restart(net: &mut Relayed, index: usize, label: &str) -> anyhow::Result<()> {
    let position = ["a", "r", "b"][index];
    // Pings from the end that is not restarted.
    let (from, to) = if index == 0 {
        (&net.b, &net.a)
    } else {
        (&net.a, &net.b)
    };
    let pinger = Pinger::start(from.host(), to.address(), Duration::from_millis(10))?;
    pinger
        .reply_since(Instant::now(), PATIENCE)
        .with_context(|| format!("before the restart of {position}"))?;
    let node = match index {
        0 => &mut net.a,
        1 => &mut net.r,
        _ => &mut net.b,
    };
    let build = node.build();
    node.kill()?;
    node.start_again()?;
    let started = node.started();
    let back = pinger
        .reply_since(started, PATIENCE + PATIENCE)
        .with_context(|| format!("after the restart of {position}"))?
        .duration_since(started);
    report(
        &format!("interop, back after restart of {position} ({build}), {label}"),
        format_args!("{back:.3?}"),
    );
    Ok(())
}

/// Whoever dials decides how soon a link is back. Here our relay dials both of theirs: back at once after its restart.
fn dialling_relay(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let layout = Relay::lay_out()?;
    let a = Node::start(scratch, &layout.a, NodeOptions::new(Upstream, "a"))?;
    let b = Node::start(scratch, &layout.b, NodeOptions::new(Upstream, "b"))?;
    let peers = vec![
        underlay.endpoint(&layout.left.left),
        underlay.endpoint(&layout.right.right),
    ];
    let mut r = Node::start(scratch, &layout.r, layout.options_r(Ours).peers(peers))?;
    let pinger = Pinger::start(a.host(), b.address(), Duration::from_millis(10))?;
    pinger.reply_since(Instant::now(), PATIENCE)?;
    let mut gaps = Vec::new();
    for _ in 0..repetitions(3, 10) {
        r.kill()?;
        r.start_again()?;
        let started = r.started();
        gaps.push(
            pinger
                .reply_since(started, PATIENCE)?
                .duration_since(started),
        );
    }
    judge(
        &format!("interop, back after restart of our relay that dials, {underlay}"),
        &gaps,
        Duration::from_secs(1),
        Duration::from_secs(10),
    )
}

/// Our end dials a relay of theirs from the same address and port again and again. While the relay replaces the old
/// link it may forget what it hears on the new one; only our end can notice that.
fn restarts_of_an_end(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let mut net = Relayed::start(scratch, underlay, [Ours, Upstream, Upstream])?;
    let pinger = Pinger::start(net.b.host(), net.a.address(), Duration::from_millis(10))?;
    pinger.reply_since(Instant::now(), PATIENCE)?;
    let mut gaps = Vec::new();
    for _ in 0..repetitions(5, 20) {
        net.a.kill()?;
        net.a.start_again()?;
        let started = net.a.started();
        gaps.push(
            pinger
                .reply_since(started, PATIENCE)?
                .duration_since(started),
        );
    }
    judge(
        &format!("interop, back after restart of our end, {underlay}"),
        &gaps,
        Duration::from_secs(1),
        Duration::from_secs(10),
    )
}

/// Two nodes on one LAN, without any configured peer.
fn lan(scratch: &Scratch, builds: [Build; 2]) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let switch = lab.switch(&[&a, &b])?;
    switch.wait_for_link_local(Duration::from_secs(10))?;
    let first = Node::start(scratch, &a, NodeOptions::new(builds[0], "a").discovery())?;
    let second = Node::start(scratch, &b, NodeOptions::new(builds[1], "b").discovery())?;
    let started = second.started();
    let pinger = Pinger::start(first.host(), second.address(), Duration::from_millis(10))?;
    // A beacon every 60 s; the first one at the start.
    let arrival = pinger.reply_since(started, Duration::from_secs(90))?;
    let label = builds.map(|build| build.to_string()).join(", then ");
    report(
        &format!("interop, LAN discovery, {label}"),
        format_args!("{:.3?}", arrival.duration_since(started)),
    );
    let peers = second.get("/admin/peers")?;
    let found = peers.as_array().is_some_and(|peers| {
        peers
            .iter()
            .any(|peer| peer["type"] == "linkLocalDiscovery" || peer["type"] == "inbound")
    });
    ensure!(found, "no discovered peer in {peers}");
    Ok(())
}
