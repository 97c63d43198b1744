//! A QUIC peer at the UDP port at which native links come, go, move and are blocked: it notices nothing.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::{self, Ours, Upstream};
use netns_tests::daemon::{Node, NodeOptions, upstream_missing};
use netns_tests::figures::{bulk_bytes, report, strict};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::impair;
use netns_tests::lab::{Host, Lab, Port};
use netns_tests::probe::numbered::{Numbered, NumberedReport};
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::tcp;
use netns_tests::routers::{End, Translator};
use netns_tests::topology::{Underlay, reachable, sends_over};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(5);
const SIZE: usize = 400;
const MOVES: usize = 5;

fn main() -> ExitCode {
    run(vec![
        case("quic_undisturbed/ours", |scratch| {
            undisturbed(scratch, Ours)
        })
        .unless(impair::firewall_missing()),
        case("quic_undisturbed/theirs", |scratch| {
            undisturbed(scratch, Upstream)
        })
        .unless(impair::firewall_missing())
        .unless(upstream_missing()),
    ])
}

fn undisturbed(scratch: &Scratch, build: Build) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (hub, quic, native) = (lab.host("hub")?, lab.host("quic")?, lab.host("native")?);
    let (translator, mobile) = (lab.host("translator")?, lab.host("mobile")?);
    let to_quic = lab.wire(&hub, &quic)?;
    let to_native = lab.wire(&hub, &native)?;
    let to_translator = lab.wire(&hub, &translator)?;
    let to_mobile = lab.wire(&translator, &mobile)?;
    let translator = Translator::start(
        &to_mobile.left,
        &to_translator.right,
        &to_translator.left,
        Underlay::Udp4,
    )?;

    // Theirs has none; and to it, which allows that, we send QUIC with any first byte (RFC 9287).
    if build == Ours {
        for port in [&to_quic.left, &to_quic.right] {
            no_native_links(port)?;
        }
    }
    let hub = Node::start(scratch, &hub, NodeOptions::new(Ours, "hub"))?;
    let peer = Underlay::Quic4.endpoint(&to_quic.left);
    let quic = Node::start(scratch, &quic, NodeOptions::new(build, "quic").peer(peer))?;
    reachable(quic.host(), &hub, PATIENCE)?;
    let (host_of_hub, host_of_quic) = (hub.host(), quic.host());
    let (hub_end, quic_end) = (
        (host_of_hub.as_ref(), hub.address()),
        (host_of_quic.as_ref(), quic.address()),
    );
    let there = Numbered::start(hub_end, quic_end, None, INTERVAL, SIZE)?;
    let back = Numbered::start(quic_end, hub_end, None, INTERVAL, SIZE)?;
    for stream in [&there, &back] {
        stream.arrival_since(Instant::now(), PATIENCE)?;
    }

    let started = Instant::now();
    come_and_go(scratch, &hub, &native, &to_native.left)?;
    let peer = Underlay::Udp4.endpoint(&to_mobile.left);
    let options = NodeOptions::new(Ours, "mobile").peer(peer);
    let mobile = Node::start(scratch, &mobile, options)?;
    move_about(&hub, &mobile, &translator)?;
    for stream in [&there, &back] {
        stream.arrival_since(Instant::now(), PATIENCE)?;
    }

    let grace = Duration::from_millis(200);
    let (there, back) = (there.stop(grace)?, back.stop(grace)?);
    let lost = |way: NumberedReport| way.sent - way.arrived;
    report(
        &format!("QUIC peer ({build}) beside native links that come, go, move and are blocked"),
        format_args!(
            "{} and {} of {} and {} packets lost within {:.0?}",
            lost(there),
            lost(back),
            there.sent,
            back.sent,
            started.elapsed()
        ),
    );
    for way in [there, back] {
        ensure!(way.duplicates + way.changed == 0, "{way:?}");
        // A busy machine stalls, and queues drop what is too old.
        let most = if strict() { 0 } else { way.sent / 20 };
        ensure!(lost(way) <= most, "{way:?}");
    }
    let next_hop = hub.next_hop(&quic)?.context("no way to the QUIC peer")?;
    ensure!(next_hop.starts_with("QUIC"), "{next_hop}");
    let peers = hub.peers()?;
    let mut of_quic = peers
        .iter()
        .filter(|peer| peer["endpoint"]["proto"] == "quic");
    let link = of_quic.next().context("no QUIC peer")?;
    ensure!(link["connectionState"] == "alive", "{link}");
    let age = link["lastConnected"].as_u64().unwrap_or_default();
    ensure!(age >= started.elapsed().as_secs(), "a new link: {link}");
    ensure!(of_quic.next().is_none(), "{peers:?}");
    Ok(())
}

/// Drop datagrams that arrive here and are a native link's (docs/protocol.md §15: first byte 04 to 0F), not QUIC's.
fn no_native_links(port: &Port) -> anyhow::Result<()> {
    let rules = format!(
        "table inet quic_only {{ chain arriving {{ type filter hook prerouting priority raw; \
         iifname \"{}\" meta l4proto udp @th,64,8 4-15 drop; }}; }}",
        port.interface()
    );
    impair::firewall(port.host(), &rules)
}

/// A native peer transfers, crashes, comes back, leaves, comes back, is blocked and let through again.
fn come_and_go(
    scratch: &Scratch,
    hub: &Node,
    native: &Arc<Host>,
    at_hub: &Port,
) -> anyhow::Result<()> {
    let peer = Underlay::Udp4.endpoint(at_hub);
    let options = NodeOptions::new(Ours, "native").peer(peer);
    let mut native = Node::start(scratch, native, options)?;
    let linked = |native: &Node| -> anyhow::Result<()> {
        reachable(native.host(), hub, PATIENCE)?;
        sends_over(hub, native, "UDP", PATIENCE)?;
        Ok(())
    };
    linked(&native)?;
    let bytes = bulk_bytes(100_000_000);
    tcp::transfer(native.host(), hub.host(), hub.address(), bytes)?;
    tcp::transfer(hub.host(), native.host(), native.address(), bytes)?;
    native.kill()?;
    native.start_again()?;
    linked(&native)?;
    native.terminate(PATIENCE)?;
    native.start_again()?;
    linked(&native)?;

    let rules = format!(
        "table inet wall {{ chain arriving {{ type filter hook prerouting priority raw; \
         iifname \"{}\" meta l4proto udp drop; }}; }}",
        at_hub.interface()
    );
    impair::firewall(hub.host(), &rules)?;
    wait::until("no way to who is blocked", PATIENCE, || {
        Ok(hub.next_hop(&native)?.is_none().then_some(()))
    })?;
    impair::firewall(hub.host(), "delete table inet wall\n")?;
    linked(&native)
}

/// Another peer's address and port change several times, and it goes on.
fn move_about(hub: &Node, mobile: &Node, translator: &Translator) -> anyhow::Result<()> {
    reachable(mobile.host(), hub, PATIENCE)?;
    sends_over(hub, mobile, "UDP", PATIENCE)?;
    let pinger = Pinger::start(mobile.host(), hub.address(), INTERVAL)?;
    for _ in 0..MOVES {
        pinger.first_reply(PATIENCE)?;
        translator.move_end(End::Dialling)?;
        pinger.reply_since(Instant::now() + INTERVAL, PATIENCE)?;
    }
    pinger.stop(INTERVAL)?;
    Ok(())
}
