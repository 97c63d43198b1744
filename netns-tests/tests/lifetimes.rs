//! Sessions from their first packet to their last: how long the first one waits, what a restart costs, that new keys cost
//! nothing, that unmodified relays carry all of it, and what is remembered (docs/protocol.md §14).

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use netns_tests::daemon::Build::{self, Ours, Upstream};
use netns_tests::daemon::{Node, upstream_missing};
use netns_tests::figures::{bulk_bytes, judge, repetitions, report, strict};
use netns_tests::harness::{Case, Scratch, case, main as run};
use netns_tests::lab::Lab;
use netns_tests::probe::numbered::{BothWays, listen_beside};
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::tcp;
use netns_tests::topology::{Relay, Relayed, Underlay, reachable, sends_over};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(40);
const INTERFACE: &str = "mycelium";

fn main() -> ExitCode {
    let mut cases: Vec<Case> = vec![
        case("first_ping", first_ping),
        case("restarted_peer", restarted_peer),
        case("rekey_under_load", rekey_under_load),
        case("pin_survives_restart", pin_survives_restart),
        case("require", require),
    ];
    for underlay in Underlay::ALL {
        cases.push(
            case(format!("upstream_relay/{underlay}"), move |scratch| {
                upstream_relay(scratch, underlay)
            })
            .unless(upstream_missing()),
        );
    }
    run(cases)
}

fn protocol(node: &Node, remote: &Node) -> anyhow::Result<String> {
    let session = node.session(remote.public_key())?;
    Ok(session["protocol"].as_str().unwrap_or_default().to_owned())
}

fn wait_for_v2(a: &Node, b: &Node) -> anyhow::Result<()> {
    wait::until("v2 at both ends", PATIENCE, || {
        Ok((protocol(a, b)? == "v2" && protocol(b, a)? == "v2").then_some(()))
    })
}

/// A ping on a fresh session waits for the handshake: one round trip and what the handshake computes.
fn first_ping(scratch: &Scratch) -> anyhow::Result<()> {
    let mut extra = Vec::new();
    for _ in 0..repetitions(2, 10) {
        let layout = Relay::lay_out()?;
        let net = layout.start(scratch, Underlay::Tcp4, [Ours; 3])?;
        wait::until("routes at both ends", PATIENCE, || {
            let knows = |node: &Node, other: &Node| -> anyhow::Result<bool> {
                let routes = node.get("/admin/routes/selected")?.to_string();
                Ok(routes.contains(&other.subnet().to_string()))
            };
            Ok((knows(&net.a, &net.b)? && knows(&net.b, &net.a)?).then_some(()))
        })?;
        let start = Instant::now();
        let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_secs(5))?;
        let first = pinger.first_reply(PATIENCE)?.duration_since(start);
        drop(pinger);
        let start = Instant::now();
        let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_secs(5))?;
        let second = pinger.first_reply(PATIENCE)?.duration_since(start);
        extra.push(first.saturating_sub(2 * second));
    }
    judge(
        "sessions, first ping, beyond one more round trip, A-R-B",
        &extra,
        Duration::from_millis(5),
        Duration::from_millis(200),
    )
}

/// The peer restarts, and nobody tells: the packet that is lost is the one that tells.
fn restarted_peer(scratch: &Scratch) -> anyhow::Result<()> {
    let mut net = Relayed::start(scratch, Underlay::Tcp4, [Ours; 3])?;
    net.connected(PATIENCE)?;
    wait_for_v2(&net.a, &net.b)?;
    let mut outages = Vec::new();
    for _ in 0..repetitions(3, 10) {
        net.b.kill()?;
        net.b.start_again()?;
        // Until R's ping is answered B is not back; then one packet finds out that the session is not.
        reachable(net.r.host(), &net.b, Duration::from_millis(1)).ok();
        wait::until("B knows A's subnet again", PATIENCE, || {
            let routes = net.b.get("/admin/routes/selected")?.to_string();
            Ok(routes.contains(&net.a.subnet().to_string()).then_some(()))
        })?;
        let start = Instant::now();
        let pinger = Pinger::start(net.a.host(), net.b.address(), Duration::from_millis(1))?;
        outages.push(pinger.first_reply(PATIENCE)?.duration_since(start));
    }
    judge(
        "sessions, restarted peer, first packet to first answer",
        &outages,
        Duration::from_millis(50),
        Duration::from_millis(1500),
    )
}

/// New keys every second while TCP and numbered datagrams flow: nothing is lost, doubled, overtaken or changed.
fn rekey_under_load(scratch: &Scratch) -> anyhow::Result<()> {
    let layout = Relay::lay_out()?;
    let arguments = ["--session-rekey-interval", "1", "--tun-name", INTERFACE];
    let r = Node::start(scratch, &layout.r, layout.options_r(Ours))?;
    let b = layout.options_b(Ours, Underlay::Tcp4).arguments(arguments);
    let b = Node::start(scratch, &layout.b, b)?;
    let a = layout.options_a(Ours, Underlay::Tcp4).arguments(arguments);
    let a = Node::start(scratch, &layout.a, a)?;
    reachable(a.host(), &b, PATIENCE)?;
    wait_for_v2(&a, &b)?;
    // Packets on two links in turn may overtake each other.
    for (node, target) in [(&a, &b), (&r, &a), (&r, &b), (&b, &a)] {
        sends_over(node, target, "UDP", PATIENCE)?;
    }
    listen_beside(&a, INTERFACE)?;
    listen_beside(&b, INTERFACE)?;
    let before = a.session(b.public_key())?["rekeys"]
        .as_u64()
        .unwrap_or_default();
    let streams = BothWays::start(&a, &b, Duration::from_millis(5), 400)?;
    let start = Instant::now();
    let enough = if strict() {
        Duration::from_secs(60)
    } else {
        Duration::from_secs(5)
    };
    let mut megabits = Vec::new();
    while start.elapsed() < enough {
        let transfer = tcp::transfer(a.host(), b.host(), b.address(), bulk_bytes(100 << 20))?;
        megabits.push(transfer.megabits());
    }
    let seconds = start.elapsed().as_secs();
    let rekeys = a.session(b.public_key())?["rekeys"]
        .as_u64()
        .unwrap_or_default()
        - before;
    report(
        "sessions, rekey every second under load",
        format_args!(
            "{rekeys} times in {seconds} s, {} transfers of 100 MB, slowest {:.0} Mb/s",
            megabits.len(),
            megabits.iter().copied().fold(f64::INFINITY, f64::min)
        ),
    );
    let outcome = streams.stop()?;
    report(
        "sessions, numbered datagrams meanwhile",
        format_args!("{} lost, {outcome:?}", outcome.lost()),
    );
    outcome.check_clean()?;
    outcome.check_order()?;
    // A busy machine stalls, and queues drop what is too old.
    let allowed = if strict() { 0.0 } else { 0.4 };
    ensure!(1.0 - outcome.share() <= allowed, "{outcome:?}");
    ensure!(rekeys + 2 >= seconds, "only {rekeys} rekeys in {seconds} s");
    drop(r);
    Ok(())
}

/// Whoever was seen to speak v2 cannot come back with v1, also after our restart, where that is kept.
fn pin_survives_restart(scratch: &Scratch) -> anyhow::Result<()> {
    for keep in [true, false] {
        let lab = Lab::new();
        let (host_a, host_b) = (lab.host("a")?, lab.host("b")?);
        let wire = lab.wire(&host_a, &host_b)?;
        let state = scratch.path().join(format!("state-{keep}"));
        let mut options = netns_tests::daemon::NodeOptions::new(Ours, "a");
        if keep {
            options = options.arguments(["--state-dir".into(), state.display().to_string()]);
        }
        let mut a = Node::start(scratch, &host_a, options)?;
        let options_b = || {
            netns_tests::daemon::NodeOptions::new(Ours, "b")
                .peer(Underlay::Tcp4.endpoint(&wire.left))
        };
        let mut b = Node::start(scratch, &host_b, options_b())?;
        reachable(&host_b, &a, PATIENCE)?;
        wait_for_v2(&a, &b)?;
        if keep {
            wait::until("the pin on disk", PATIENCE, || {
                let written =
                    std::fs::read_dir(&state).is_ok_and(|mut files| files.any(|file| file.is_ok()));
                Ok(written.then_some(()))
            })?;
        }
        b.terminate(PATIENCE)?;
        a.terminate(PATIENCE)?;
        a.start_again()?;
        let impostor = options_b().arguments(["--session-policy", "off"]);
        let b = Node::start(scratch, &host_b, impostor)?;
        let limit = if keep {
            Duration::from_secs(3)
        } else {
            PATIENCE
        };
        let passed = reachable(&host_b, &a, limit).is_ok();
        if passed == keep {
            bail!("state kept: {keep}; v1 from a node that spoke v2 went through: {passed}");
        }
        if keep {
            let session = a.session(b.public_key())?;
            ensure!(session["pinned"] == true, "{session}");
        }
    }
    Ok(())
}

/// `require`: v2 with those that speak it, nothing with others.
fn require(scratch: &Scratch) -> anyhow::Result<()> {
    for (policy, wanted) in [("prefer", true), ("off", false)] {
        let lab = Lab::new();
        let (host_a, host_b) = (lab.host("a")?, lab.host("b")?);
        let wire = lab.wire(&host_a, &host_b)?;
        let options = netns_tests::daemon::NodeOptions::new(Ours, "a")
            .arguments(["--session-policy", "require"]);
        let a = Node::start(scratch, &host_a, options)?;
        let options = netns_tests::daemon::NodeOptions::new(Ours, "b")
            .peer(Underlay::Tcp4.endpoint(&wire.left))
            .arguments(["--session-policy", policy]);
        let b = Node::start(scratch, &host_b, options)?;
        wait::until("the link", PATIENCE, || {
            let routes = b.get("/admin/routes/selected")?.to_string();
            Ok(routes.contains(&a.subnet().to_string()).then_some(()))
        })?;
        let limit = if wanted {
            PATIENCE
        } else {
            Duration::from_secs(3)
        };
        let passed = reachable(&host_b, &a, limit).is_ok();
        ensure!(passed == wanted, "{policy}: reachable is {passed}");
    }
    Ok(())
}

/// v2 end to end through an unmodified relay, bulk included, and no link of ours is lost.
fn upstream_relay(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let builds: [Build; 3] = [Ours, Upstream, Ours];
    let net = Relayed::start(scratch, underlay, builds)?;
    net.connected(PATIENCE)?;
    wait_for_v2(&net.a, &net.b)?;
    let links = |node: &Node| -> anyhow::Result<Vec<String>> {
        let peers = node.get("/admin/peers")?;
        let peers = peers.as_array().context("a list of peers")?.iter();
        Ok(peers
            .map(|peer| format!("{} {}", peer["endpoint"], peer["connectionAttempts"]))
            .collect())
    };
    let before = (links(&net.a)?, links(&net.b)?);
    for (from, to) in [(&net.a, &net.b), (&net.b, &net.a)] {
        let transfer = tcp::transfer(from.host(), to.host(), to.address(), bulk_bytes(100 << 20))?;
        report(
            &format!("sessions, through an upstream relay, {underlay}"),
            format_args!("{:.0} Mb/s", transfer.megabits()),
        );
    }
    for (node, remote) in [(&net.a, &net.b), (&net.b, &net.a)] {
        let session = node.session(remote.public_key())?;
        ensure!(
            session["protocol"] == "v2" && session["pinned"] == true,
            "{session}"
        );
        report(
            &format!("sessions, path size, {underlay}"),
            &session["pathSize"],
        );
    }
    let after = (links(&net.a)?, links(&net.b)?);
    ensure!(before == after, "links changed: {before:?}, {after:?}");
    Ok(())
}
