//! Native links: pairs and relays over `udp://`, peers on streams that move to it and back, and QUIC on the same port.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::{Ours, Upstream};
use netns_tests::daemon::{Node, NodeOptions, PORT, upstream_missing};
use netns_tests::figures::{bulk_bytes, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::impair;
use netns_tests::lab::Lab;
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::{tcp, udp};
use netns_tests::topology::{Pair, Relayed, Underlay, reachable, sends_over};
use netns_tests::wait;
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut cases = Vec::new();
    for underlay in Underlay::NATIVE {
        cases.push(case(format!("pair/{underlay}"), move |scratch| {
            pair(scratch, underlay)
        }));
        cases.push(case(format!("relay/{underlay}"), move |scratch| {
            relay(scratch, underlay)
        }));
    }
    for underlay in Underlay::ALL {
        cases.push(case(format!("moves/{underlay}"), move |scratch| {
            moves(scratch, underlay)
        }));
    }
    cases.push(case("sparse_first", sparse_first));
    cases.push(case("both_dial", both_dial));
    cases.push(case("pinned", pinned));
    cases.push(case("blocked", blocked).unless(impair::firewall_missing()));
    cases.push(case("restarted", restarted));
    cases.push(case("idle", idle));
    cases.push(case("quic_beside", quic_beside).unless(upstream_missing()));
    run(cases)
}

/// Wait until both use a link of that kind; how long that took.
fn both_over(a: &Node, b: &Node, transport: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    sends_over(a, b, transport, PATIENCE)?;
    sends_over(b, a, transport, PATIENCE)?;
    Ok(started.elapsed())
}

fn pair(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let net = Pair::start(scratch, underlay, [Ours; 2])?;
    let connected = reachable(net.a.host(), &net.b, PATIENCE)?;
    report(
        &format!("native pair, {underlay}, start to first answer"),
        format_args!("{connected:.1?}"),
    );
    both_over(&net.a, &net.b, "UDP")?;
    for node in [&net.a, &net.b] {
        let peers = node.peers()?;
        ensure!(peers.len() == 1, "one link: {peers:?}");
        ensure!(peers[0]["endpoint"]["proto"] == "udp", "{peers:?}");
    }
    let round_trip = udp::echo(net.a.host(), net.b.host(), net.b.address())?;
    report(
        &format!("native pair, {underlay}, UDP round trip"),
        format_args!("{round_trip:.1?}"),
    );
    let bytes = bulk_bytes(1_000_000_000);
    let there = tcp::transfer(net.a.host(), net.b.host(), net.b.address(), bytes)?;
    let back = tcp::transfer(net.b.host(), net.a.host(), net.a.address(), bytes)?;
    report(
        &format!("native pair, {underlay}, there and back, Mb/s"),
        format_args!("{:.0} {:.0}", there.megabits(), back.megabits()),
    );
    Ok(())
}

fn relay(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let net = Relayed::start(scratch, underlay, [Ours; 3])?;
    net.connected(PATIENCE)?;
    both_over(&net.a, &net.b, "UDP")?;
    let bytes = bulk_bytes(300_000_000);
    let there = tcp::transfer(net.a.host(), net.b.host(), net.b.address(), bytes)?;
    let back = tcp::transfer(net.b.host(), net.a.host(), net.a.address(), bytes)?;
    report(
        &format!("native relay, {underlay}, there and back, Mb/s"),
        format_args!("{:.0} {:.0}", there.megabits(), back.megabits()),
    );
    Ok(())
}

/// While a node is off the processor much may come. What a flow that sends little has to say is handled before all that, at a
/// relay and at the other end; the others keep their order.
fn sparse_first(scratch: &Scratch) -> anyhow::Result<()> {
    // What fits into the receiving socket.
    const COUNT: u32 = 80;
    // Before it is known that a flow sends much, 8 KiB of it are as good as any.
    const AT_MOST_BEHIND: usize = 16;
    let net = Relayed::start(scratch, Underlay::Udp4, [Ours; 3])?;
    net.connected(PATIENCE)?;
    let receiver = net
        .b
        .host()
        .inside(|| UdpSocket::bind((net.b.address(), 0)))??;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let target = receiver.local_addr()?;
    let sender = || -> anyhow::Result<UdpSocket> {
        let socket = net
            .a
            .host()
            .inside(|| UdpSocket::bind((net.a.address(), 0)))??;
        socket.connect(target)?;
        Ok(socket)
    };
    let ways = [
        (&net.a, "fromHostPackets", &net.r),
        (&net.r, "forwardedPackets", &net.b),
    ];
    for (before_it, counter, stopped) in ways {
        let (bulk, sparse) = (sender()?, sender()?);
        let sent = || -> anyhow::Result<u64> {
            let status = before_it.get("/admin/status")?;
            let packets = status["traffic"][counter].as_u64();
            packets.with_context(|| format!("no count in {status}"))
        };
        let before = sent()?;
        stopped.pause()?;
        for number in 0..COUNT {
            let mut datagram = [0; 1200];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            bulk.send(&datagram)?;
        }
        // More than one, for the host says other things now and then, and those are counted too.
        for _ in 0..3 {
            sparse.send(b"sparse")?;
        }
        let all = before + u64::from(COUNT) + 3;
        let handed_over = wait::until("everything is sent", PATIENCE, || {
            Ok((sent()? >= all).then_some(()))
        });
        stopped.signal(Signal::SIGCONT)?;
        handed_over?;
        let mut buffer = [0; 2000];
        let mut numbers = Vec::new();
        let mut place = None;
        while numbers.last() != Some(&(COUNT - 1)) {
            let len = receiver
                .recv(&mut buffer)
                .with_context(|| format!("after {} of them: {place:?}", numbers.len()))?;
            match buffer[..len].first_chunk() {
                Some(number) if len == 1200 => numbers.push(u32::from_be_bytes(*number)),
                _ => place = place.or(Some(numbers.len())),
            }
        }
        ensure!(
            numbers.is_sorted(),
            "the others in their order: {numbers:?}"
        );
        let place = place.context("it comes before the last of the others")?;
        report("native, others before a sparse flow's packet, of 80", place);
        ensure!(place <= AT_MOST_BEHIND, "{place} went before");
    }
    Ok(())
}

/// Two nodes that are told of TCP or QUIC only. Nothing is lost on the way.
fn moves(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let net = Pair::start(scratch, underlay, [Ours; 2])?;
    net.connected(PATIENCE)?;
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(2))?;
    let first = pinger.first_reply(PATIENCE)?;
    let took = both_over(&net.a, &net.b, "UDP")?;
    report(
        &format!("native, {underlay} peers move within"),
        format_args!("{took:.1?}"),
    );
    pinger.reply_since(Instant::now() + Duration::from_millis(500), PATIENCE)?;
    let result = pinger.stop(PATIENCE)?;
    ensure!(
        result.lost() == 0,
        "{} of {} pings lost since {first:?}",
        result.lost(),
        result.sent.len()
    );
    // The stream stays, for the day when UDP is blocked.
    for node in [&net.a, &net.b] {
        let all = node.peers()?;
        let alive = |proto: &str| {
            all.iter().any(|peer| {
                peer["endpoint"]["proto"] == proto && peer["connectionState"] == "alive"
            })
        };
        let stream = if underlay.is_quic() { "quic" } else { "tcp" };
        ensure!(alive("udp") && alive(stream) && all.len() == 2, "{all:?}");
    }
    Ok(())
}

/// Each is told of the other: one link comes about, and both call it theirs.
fn both_dial(scratch: &Scratch) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let wire = lab.wire(&a, &b)?;
    let to_b = Underlay::Udp6.endpoint(&wire.right);
    let to_a = Underlay::Udp6.endpoint(&wire.left);
    let a = Node::start(scratch, &a, NodeOptions::new(Ours, "a").peer(to_b))?;
    let b = Node::start(scratch, &b, NodeOptions::new(Ours, "b").peer(to_a))?;
    reachable(a.host(), &b, PATIENCE)?;
    for node in [&a, &b] {
        wait::until("one static peer, alive", PATIENCE, || {
            let all = node.peers()?;
            let is_it = |peer: &serde_json::Value| {
                peer["type"] == "static" && peer["connectionState"] == "alive"
            };
            Ok((all.len() == 1 && all.iter().all(is_it)).then_some(()))
        })
        .with_context(|| format!("{:?}", node.peers()))?;
    }
    Ok(())
}

/// An endpoint with a key is a link to its holder, or none.
fn pinned(scratch: &Scratch) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);
    let (near, far) = (lab.wire(&a, &b)?, lab.wire(&a, &c)?);
    let a = Node::start(scratch, &a, NodeOptions::new(Ours, "a"))?;
    let with_key = |endpoint: String, key| format!("{endpoint}?key={key}");
    let right = with_key(Underlay::Udp4.endpoint(&near.left), a.public_key());
    let stranger = NodeOptions::new(Ours, "stranger").public_key();
    let wrong = with_key(Underlay::Udp4.endpoint(&far.left), stranger);
    let b = Node::start(scratch, &b, NodeOptions::new(Ours, "b").peer(right))?;
    let c = Node::start(scratch, &c, NodeOptions::new(Ours, "c").peer(wrong))?;
    reachable(b.host(), &a, PATIENCE)?;
    wait::until("an attempt of C failed", PATIENCE, || {
        let all = c.peers()?;
        Ok(all
            .iter()
            .any(|peer| peer["lastError"].is_string())
            .then_some(()))
    })?;
    ensure!(c.next_hop(&a)?.is_none(), "C is linked to A");
    Ok(())
}

/// A firewall that drops UDP, then lets it pass again.
fn blocked(scratch: &Scratch) -> anyhow::Result<()> {
    let net = Pair::start(scratch, Underlay::Tcp4, [Ours; 2])?;
    net.connected(PATIENCE)?;
    both_over(&net.a, &net.b, "UDP")?;
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(2))?;
    pinger.steady_since(Instant::now(), 100, PATIENCE)?;
    let since = Instant::now();
    for host in [net.a.host(), net.b.host()] {
        let rules = format!(
            "table inet wall {{\nchain arriving {{\ntype filter hook prerouting priority raw;\n\
             udp dport {PORT} drop\n}}\n}}\n"
        );
        impair::firewall(host, &rules)?;
    }
    pinger.steady_since(since, 1, PATIENCE)?;
    pinger.steady_since(since + Duration::from_millis(1500), 100, PATIENCE)?;
    let outage = pinger.stop(Duration::from_millis(500))?.outage(since)?;
    report("native, UDP blocked, outage", format_args!("{outage:.1?}"));
    both_over(&net.a, &net.b, "TCP")?;
    ensure!(
        outage <= Duration::from_secs(1),
        "{outage:?} without an answer"
    );
    // Long enough for a few attempts to fail.
    std::thread::sleep(Duration::from_secs(3));
    let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(2))?;
    pinger.first_reply(PATIENCE)?;
    for host in [net.a.host(), net.b.host()] {
        impair::firewall(host, "delete table inet wall\n")?;
    }
    let back = both_over(&net.a, &net.b, "UDP")?;
    report(
        "native, UDP let through again, used after",
        format_args!("{back:.1?}"),
    );
    pinger.reply_since(Instant::now() + Duration::from_millis(300), PATIENCE)?;
    let result = pinger.stop(PATIENCE)?;
    ensure!(
        result.lost() == 0,
        "{} pings lost on the way back",
        result.lost()
    );
    Ok(())
}

/// The listening end is killed and started again at once: the other end notices, and dials.
fn restarted(scratch: &Scratch) -> anyhow::Result<()> {
    let mut net = Pair::start(scratch, Underlay::Udp4, [Ours; 2])?;
    net.connected(PATIENCE)?;
    let pinger = Pinger::start(net.b.host(), net.a.address(), Duration::from_millis(2))?;
    pinger.steady_since(Instant::now(), 50, PATIENCE)?;
    net.a.kill()?;
    net.a.start_again()?;
    let started = net.a.started();
    let back = pinger.reply_since(started, PATIENCE)?;
    report(
        "native, listening end restarted, answers after",
        format_args!("{:.1?}", back.duration_since(started)),
    );
    Ok(())
}

/// Two linked nodes with nothing to say cost next to nothing, also after errors.
fn idle(scratch: &Scratch) -> anyhow::Result<()> {
    let mut net = Pair::start(scratch, Underlay::Udp6, [Ours; 2])?;
    net.connected(PATIENCE)?;
    let span = Duration::from_secs(5);
    let used = |net: &Pair| -> anyhow::Result<Duration> {
        let before = net.b.cpu_time()?;
        std::thread::sleep(span);
        Ok(net.b.cpu_time()? - before)
    };
    let linked = used(&net)?;
    net.a.kill()?;
    let alone = used(&net)?;
    report(
        "native, processor time in 5 s, linked and idle; redialling",
        format_args!("{linked:.1?}; {alone:.1?}"),
    );
    for time in [linked, alone] {
        ensure!(time < span / 20, "{time:?} of {span:?}");
    }
    Ok(())
}

/// An upstream node on QUIC and one of ours on UDP share a port, and a busy hour.
fn quic_beside(scratch: &Scratch) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);
    let (native, quic) = (lab.wire(&a, &b)?, lab.wire(&a, &c)?);
    let a = Node::start(scratch, &a, NodeOptions::new(Ours, "a"))?;
    let to_a = Underlay::Udp4.endpoint(&native.left);
    let b = Node::start(scratch, &b, NodeOptions::new(Ours, "b").peer(to_a))?;
    let to_a = Underlay::Quic4.endpoint(&quic.left);
    let c = Node::start(scratch, &c, NodeOptions::new(Upstream, "c").peer(to_a))?;
    reachable(b.host(), &a, PATIENCE)?;
    reachable(c.host(), &a, PATIENCE)?;
    let pinger = Pinger::start(c.host(), a.address(), Duration::from_millis(10))?;
    pinger.first_reply(PATIENCE)?;
    let bytes = bulk_bytes(300_000_000);
    let beside = tcp::transfer(b.host(), a.host(), a.address(), bytes)?;
    let through = tcp::transfer(c.host(), a.host(), a.address(), bytes / 10)?;
    let result = pinger.stop(PATIENCE)?;
    report(
        "native beside QUIC, Mb/s",
        format_args!("{:.0} beside {:.0}", beside.megabits(), through.megabits()),
    );
    ensure!(
        result.lost() * 20 <= result.sent.len(),
        "{} of {} pings over QUIC lost",
        result.lost(),
        result.sent.len()
    );
    let hop = a.next_hop(&c)?;
    ensure!(
        hop.as_deref().is_some_and(|hop| hop.starts_with("QUIC")),
        "{hop:?}"
    );
    Ok(())
}
