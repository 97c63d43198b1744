//! Two hosts, one link.

use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use netns_tests::daemon::Build::Ours;
use netns_tests::figures::{bulk_bytes, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::probe::icmp::{
    ADDRESS_UNREACHABLE, Echo, HOP_LIMIT, Message, NO_ROUTE, SOURCE_POLICY,
};
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::{tcp, trace, udp};
use netns_tests::topology::{Pair, Underlay};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut cases = Vec::new();
    for underlay in Underlay::ALL {
        // One case moves a full gigabyte; the others prove that the underlay carries every size.
        let bytes = if underlay == Underlay::Tcp4 {
            1_000_000_000
        } else {
            100_000_000
        };
        cases.push(case(format!("traffic/{underlay}"), move |scratch| {
            traffic(scratch, underlay, bytes)
        }));
    }
    cases.push(case("errors", errors));
    cases.push(case("lossless_when_idle", lossless_when_idle));
    run(cases)
}

fn traffic(scratch: &Scratch, underlay: Underlay, bytes: u64) -> anyhow::Result<()> {
    let net = Pair::start(scratch, underlay, [Ours; 2])?;
    net.connected(PATIENCE)?;
    let round_trip = udp::echo(net.a.host(), net.b.host(), net.b.address())?;
    report(
        &format!("pair, {underlay}, UDP round trip"),
        format_args!("{round_trip:.1?}"),
    );
    let bytes = bulk_bytes(bytes);
    let there = tcp::transfer(net.a.host(), net.b.host(), net.b.address(), bytes)?;
    let back = tcp::transfer(net.b.host(), net.a.host(), net.a.address(), bytes)?;
    report(
        &format!(
            "pair, {underlay}, {} MB there and back, Mb/s",
            bytes / 1_000_000
        ),
        format_args!("{:.0} {:.0}", there.megabits(), back.megabits()),
    );
    let hops = trace::route(net.a.host(), net.b.address())?;
    ensure!(
        hops.last() == Some(&net.b.address()),
        "the route ends elsewhere: {hops:?}"
    );
    Ok(())
}

/// Every packet that cannot be delivered draws the right ICMPv6 error.
fn errors(scratch: &Scratch) -> anyhow::Result<()> {
    let net = Pair::start(scratch, Underlay::Tcp4, [Ours; 2])?;
    net.connected(PATIENCE)?;
    let nobody: Ipv6Addr = "4ff:dead:beef:1::1".parse()?;
    let mut in_own_subnet = net.a.address().octets();
    in_own_subnet[15] ^= 0x55;
    let in_own_subnet = Ipv6Addr::from(in_own_subnet);
    let outside = net.wire.left.v6();
    let target = net.b.address();
    let expectations = [
        ("no route", Echo::to(nobody), NO_ROUTE),
        (
            "unknown address in our /64",
            Echo::to(in_own_subnet),
            ADDRESS_UNREACHABLE,
        ),
        (
            "source outside the overlay",
            Echo {
                source: Some(outside),
                ..Echo::to(target)
            },
            SOURCE_POLICY,
        ),
        (
            "hop limit 1",
            Echo {
                hop_limit: 1,
                ..Echo::to(target)
            },
            HOP_LIMIT,
        ),
        (
            "no route, full size",
            Echo {
                size: 1352,
                ..Echo::to(nobody)
            },
            NO_ROUTE,
        ),
    ];
    for (what, echo, expected) in expectations {
        let answer = echo.send(net.a.host(), Duration::from_secs(20))?;
        let Some((from, Message::Error(error))) = answer else {
            anyhow::bail!("{what}: expected an error {expected:?}, got {answer:?}");
        };
        ensure!(error.kind == expected, "{what}: {error:?} from {from}");
        ensure!(
            error.destination == echo.target,
            "{what}: quotes another packet: {error:?}"
        );
        // RFC 4443 §2.4 (c): as much as fits the minimum MTU, and never more.
        let whole = 40 + 8 + echo.size;
        ensure!(
            error.quoted == whole.min(1232),
            "{what}: quotes {} bytes of {whole}",
            error.quoted
        );
    }
    // The path still works.
    net.connected(PATIENCE)
}

/// A thousand pings over a quiet link: none is lost, doubled or answered late.
fn lossless_when_idle(scratch: &Scratch) -> anyhow::Result<()> {
    let net = Pair::start(scratch, Underlay::Tcp4, [Ours; 2])?;
    net.connected(PATIENCE)?;
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(2))?;
    let start = pinger.first_reply(PATIENCE)?;
    pinger.reply_since(start + Duration::from_secs(2), PATIENCE)?;
    let result = pinger.stop(PATIENCE)?;
    report(
        "pair, ping round trip",
        format_args!("{:.1?}", result.round_trip()),
    );
    ensure!(
        result.lost() == 0,
        "{} of {} pings lost",
        result.lost(),
        result.sent.len()
    );
    ensure!(result.duplicates == 0, "{} duplicates", result.duplicates);
    Ok(())
}
