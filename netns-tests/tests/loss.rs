//! Native links that lose one packet in twenty, each way: what routes change is known everywhere soon, transfers finish,
//! and nothing is left behind.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mycelium_core::crypto::identity::SecretKey;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions, key_of};
use netns_tests::figures::{judge, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::impair;
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::tcp;
use netns_tests::topology::{Relay, Underlay, sends_over};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const PERCENT: u8 = 5;
const CHANGES: usize = 12;
/// Loss makes TCP slow; the kernel's, that is, on the interface.
const BYTES: u64 = 20_000_000;

fn main() -> ExitCode {
    let cases = Underlay::NATIVE.map(|underlay| {
        case(format!("five_percent/{underlay}"), move |scratch| {
            five_percent(scratch, underlay)
        })
        .unless(impair::firewall_missing())
    });
    run(cases.into())
}

/// A–R–B. Identities come and go at B while both links lose; A hears of it through R.
fn five_percent(scratch: &Scratch, underlay: Underlay) -> anyhow::Result<()> {
    let hosts = Relay::lay_out()?;
    for port in [
        &hosts.left.left,
        &hosts.left.right,
        &hosts.right.left,
        &hosts.right.right,
    ] {
        impair::lose(port.host(), port.interface(), PERCENT)?;
    }
    let node = |name| NodeOptions::new(Ours, name).metrics();
    let mut r = Node::start(scratch, &hosts.r, node("r"))?;
    let to_r = underlay.endpoint(&hosts.right.left);
    let mut b = Node::start(scratch, &hosts.b, node("b").peer(to_r))?;
    let to_r = underlay.endpoint(&hosts.left.right);
    let mut a = Node::start(scratch, &hosts.a, node("a").peer(to_r))?;
    for (node, target) in [(&a, &b), (&b, &a), (&r, &a), (&r, &b)] {
        sends_over(node, target, "UDP", PATIENCE)?;
    }
    let pinger = Pinger::start(a.host(), b.address(), Duration::from_millis(2))?;
    std::thread::sleep(Duration::from_secs(1));
    let pings = pinger.stop(Duration::from_millis(500))?;
    let (lost, sent) = (pings.lost(), pings.sent.len());
    // Four times one in twenty.
    ensure!(
        lost * 20 > sent,
        "hardly anything is lost: {lost} of {sent} pings"
    );
    let memory = a.resident_kib()?;

    let (mut appeared, mut withdrawn) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let guest = Guest::of(&format!("guest {number}"));
        appeared.push(guest.comes(&a, &b)?);
        withdrawn.push(guest.goes(&a, &b)?);
    }
    let label = format!("native, {PERCENT} % lost each way on two links, {underlay}");
    let soon = Duration::from_millis(500);
    let late = Duration::from_secs(10);
    judge(&format!("{label}: route appears"), &appeared, soon, late)?;
    judge(&format!("{label}: route goes"), &withdrawn, soon, late)?;

    let one_hop = tcp::transfer(a.host(), r.host(), r.address(), BYTES)?;
    let two_hops = tcp::Running::start(b.host(), a.host(), a.address(), 3 * PATIENCE)?;
    two_hops.advance(BYTES / 10, PATIENCE)?;
    // Control comes through beside data.
    let guest = Guest::of("guest beside a transfer");
    let (came, went) = (guest.comes(&a, &b)?, guest.goes(&a, &b)?);
    let two_hops = two_hops.stop()?;
    report(
        &format!("{label}: transfers over one and two links, Mb/s"),
        format_args!("{:.0} {:.0}", one_hop.megabits(), two_hops.megabits()),
    );
    report(
        &format!("{label}: route appears, goes, beside a transfer"),
        format_args!("{came:.1?} {went:.1?}"),
    );

    for node in [&mut a, &mut r, &mut b] {
        node.check_alive()?;
        settled(node)?;
    }
    let grown = a.resident_kib()?.saturating_sub(memory);
    report(&format!("{label}: A has grown by, KiB"), grown);
    ensure!(grown < 16 << 10, "A has grown by {grown} KiB");
    Ok(())
}

/// An identity that B has for a while.
struct Guest {
    secret: String,
    subnet: String,
}

impl Guest {
    fn of(name: &str) -> Self {
        let secret = key_of(name);
        Self {
            secret: secret.iter().map(|byte| format!("{byte:02x}")).collect(),
            subnet: SecretKey::from_bytes(secret)
                .public_key()
                .subnet()
                .to_string(),
        }
    }

    /// Appear at B; how long until A has a route.
    fn comes(&self, a: &Node, b: &Node) -> anyhow::Result<Duration> {
        let body = serde_json::json!({ "secretKey": self.secret });
        let asked = Instant::now();
        let (status, answer) = b.request("POST", "/admin/identities", Some(&body))?;
        ensure!(status < 300, "status {status}: {answer}");
        wait::until("a route", PATIENCE, || Ok(self.is_routed(a)?.then_some(())))?;
        Ok(asked.elapsed())
    }

    /// Go; how long until A has no route.
    fn goes(&self, a: &Node, b: &Node) -> anyhow::Result<Duration> {
        let identities = b.get("/admin/identities")?;
        let all = identities.as_array().context("a list of identities")?;
        let own = all
            .iter()
            .find(|identity| identity["subnet"] == self.subnet.as_str());
        let id = &own.context("the guest")?["id"];
        let asked = Instant::now();
        let (status, answer) = b.request("DELETE", &format!("/admin/identities/{id}"), None)?;
        ensure!(status < 300, "status {status}: {answer}");
        wait::until("no route", PATIENCE, || {
            Ok((!self.is_routed(a)?).then_some(()))
        })?;
        Ok(asked.elapsed())
    }

    fn is_routed(&self, node: &Node) -> anyhow::Result<bool> {
        let selected = node.get("/admin/routes/selected")?;
        let routes = selected.as_array().context("a list of routes")?;
        Ok(routes
            .iter()
            .any(|route| route["subnet"] == self.subnet.as_str() && route["metric"] != "infinite"))
    }
}

/// Every link is the first one, and nothing waits for its other end.
fn settled(node: &Node) -> anyhow::Result<()> {
    let name = node.host().name();
    for peer in node.peers()? {
        ensure!(peer["connectionState"] == "alive", "{name}: {peer}");
        ensure!(peer["lastError"].is_null(), "{name}: {peer}");
    }
    wait::until("nothing waits", PATIENCE, || {
        let waits = node.metric("mycelium_native_control_waiting")?;
        ensure!(waits == 0.0, "{waits} control packets wait at {name}");
        Ok(Some(()))
    })?;
    Ok(())
}
