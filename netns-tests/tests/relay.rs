//! A–R–B where R is a pure relay without a TUN.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mycelium_core::addr::Subnet;
use netns_tests::daemon::Build::Ours;
use netns_tests::figures::{bulk_bytes, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::probe::icmp::{Echo, HOP_LIMIT, Message};
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::{tcp, trace, udp};
use netns_tests::topology::{Relayed, Underlay};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut cases = Vec::new();
    for underlay in Underlay::ALL {
        // One case moves a full gigabyte; the others prove that the underlay carries every size.
        let bytes = if underlay == Underlay::Tcp6 {
            1_000_000_000
        } else {
            100_000_000
        };
        cases.push(case(format!("traffic/{underlay}"), move |scratch| {
            traffic(scratch, underlay, bytes)
        }));
    }
    cases.push(case("traceroute", traceroute));
    cases.push(case("leaves_cleanly", leaves_cleanly));
    run(cases)
}

fn traffic(scratch: &Scratch, underlay: Underlay, bytes: u64) -> anyhow::Result<()> {
    let net = Relayed::start(scratch, underlay, [Ours; 3])?;
    net.connected(PATIENCE)?;
    let round_trip = udp::echo(net.a.host(), net.b.host(), net.b.address())?;
    report(
        &format!("relay, {underlay}, UDP round trip"),
        format_args!("{round_trip:.1?}"),
    );
    let bytes = bulk_bytes(bytes);
    let there = tcp::transfer(net.a.host(), net.b.host(), net.b.address(), bytes)?;
    let back = tcp::transfer(net.b.host(), net.a.host(), net.a.address(), bytes)?;
    report(
        &format!(
            "relay, {underlay}, {} MB there and back, Mb/s",
            bytes / 1_000_000
        ),
        format_args!("{:.0} {:.0}", there.megabits(), back.megabits()),
    );
    Ok(())
}

/// Each node on the way shows itself, in order, and errors from afar quote the packet they are about.
fn traceroute(scratch: &Scratch) -> anyhow::Result<()> {
    let net = Relayed::start(scratch, Underlay::Tcp4, [Ours; 3])?;
    net.connected(PATIENCE)?;
    let hops = trace::route(net.a.host(), net.b.address())?;
    let mut subnets: Vec<Subnet> = hops.iter().copied().map(Subnet::containing).collect();
    subnets.dedup();
    let expected = [net.a.subnet(), net.r.subnet(), net.b.subnet()];
    ensure!(
        subnets == expected,
        "hops {hops:?}, expected one in each of {expected:?}"
    );
    ensure!(
        hops.last() == Some(&net.b.address()),
        "the route ends elsewhere: {hops:?}"
    );
    for size in [0, 56, 1000, 1100] {
        let echo = Echo {
            hop_limit: 2,
            size,
            ..Echo::to(net.b.address())
        };
        let answer = echo.send(net.a.host(), Duration::from_secs(5))?;
        let Some((from, Message::Error(error))) = answer else {
            anyhow::bail!("{size} bytes: {answer:?}");
        };
        ensure!(error.kind == HOP_LIMIT, "{size} bytes: {error:?}");
        ensure!(
            net.r.subnet().contains(from),
            "{size} bytes: sent by {from}, which is not R"
        );
        // What may be too large for a path that nobody has asked yet goes in halves, of which the first is quoted.
        let least = if size > 1000 { size / 2 } else { 48 + size };
        ensure!(
            (least..=48 + size).contains(&error.quoted),
            "{size} bytes: {} quoted",
            error.quoted
        );
    }
    Ok(())
}

/// A node that is told to leave says so: the others stop using it at once.
fn leaves_cleanly(scratch: &Scratch) -> anyhow::Result<()> {
    let mut net = Relayed::start(scratch, Underlay::Tcp4, [Ours; 3])?;
    net.connected(PATIENCE)?;
    let asked = Instant::now();
    let status = net.b.terminate(Duration::from_secs(3))?;
    report(
        "relay, time to leave after SIGTERM",
        format_args!("{:.1?}", asked.elapsed()),
    );
    ensure!(status.success(), "SIGTERM: {status}");
    netns_tests::wait::until("A forgets the route to B", Duration::from_secs(2), || {
        let selected = net.a.get("/admin/routes/selected")?;
        let subnet = net.b.subnet().to_string();
        let routes = selected.as_array().context("a list of routes")?;
        Ok(routes
            .iter()
            .all(|route| route["subnet"] != subnet.as_str() || route["metric"] == "infinite")
            .then_some(()))
    })?;
    net.b.start_again()?;
    let started = net.b.started();
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(5))?;
    let back = pinger.reply_since(started, PATIENCE)?;
    report(
        "relay, pings after a clean restart",
        format_args!("{:.1?}", back.duration_since(started)),
    );
    Ok(())
}
