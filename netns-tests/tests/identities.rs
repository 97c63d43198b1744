//! Fifty identities in one process, each with its own namespace and TUN.

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mycelium_core::crypto::identity::SecretKey;
use netns_tests::daemon::Build::{self, Ours, Upstream};
use netns_tests::daemon::{Node, NodeOptions, key_of, upstream_missing};
use netns_tests::figures::{judge, report, strict};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::ping::Pinger;
use netns_tests::topology::{Underlay, reachable};
use netns_tests::wait;

const IDENTITIES: usize = 50;
const PATIENCE: Duration = Duration::from_secs(15);
/// The interface of every identity, each in a namespace of its own.
const INTERFACE: &str = "overlay0";

fn main() -> ExitCode {
    run(vec![
        case("fifty/remote_ours", |scratch| fifty(scratch, Ours)),
        case("fifty/remote_theirs", |scratch| fifty(scratch, Upstream)).unless(upstream_missing()),
        case("idle", idle),
    ])
}

/// A workload: its namespace and its key.
struct Workload {
    host: Arc<Host>,
    secret: [u8; 32],
    address: Ipv6Addr,
}

impl Workload {
    fn new(lab: &Lab, number: usize) -> anyhow::Result<Self> {
        let name = format!("w{number:02}");
        let secret = key_of(&name);
        let address = SecretKey::from_bytes(secret).public_key().address();
        Ok(Self {
            host: lab.host(&name)?,
            secret,
            address,
        })
    }

    fn hex(&self) -> String {
        self.secret.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn netns(&self) -> String {
        self.host.namespace().path().display().to_string()
    }

    /// The section of the configuration file that brings it up with the node.
    fn section(&self, scratch: &Scratch) -> anyhow::Result<String> {
        let key_file = scratch.path().join(format!("{}.key", self.host.name()));
        std::fs::write(&key_file, self.secret)?;
        let permissions =
            <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(&key_file, permissions)?;
        Ok(format!(
            "[[identities]]\nname = \"{}\"\nkey_file = {key_file:?}\ntun_name = \"{INTERFACE}\"\nnetns = \"{}\"\n\n",
            self.host.name(),
            self.netns()
        ))
    }
}

fn reached(from: &Host, to: Ipv6Addr, limit: Duration) -> anyhow::Result<()> {
    let pinger = Pinger::start(from, to, Duration::from_millis(10))?;
    pinger
        .reply_since(Instant::now() - limit, limit)
        .with_context(|| format!("{} to {to}", from.name()))?;
    Ok(())
}

fn fifty(scratch: &Scratch, remote_build: Build) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (host, other) = (lab.host("node")?, lab.host("remote")?);
    let wire = lab.wire(&host, &other)?;
    let workloads: Vec<Workload> = (0..IDENTITIES)
        .map(|number| Workload::new(&lab, number))
        .collect::<Result<_, _>>()?;

    // Memory of the same node with its own identity only.
    let peer = Underlay::Tcp4.endpoint(&wire.right);
    let remote = Node::start(scratch, &other, NodeOptions::new(remote_build, "remote"))?;
    let plain = Node::start(
        scratch,
        &host,
        NodeOptions::new(Ours, "node").peer(peer.clone()),
    )?;
    reachable(&host, &remote, PATIENCE)?;
    let single = plain.resident_kib()?;
    drop(plain);

    let configuration = scratch.path().join("node.toml");
    let sections: Result<Vec<String>, _> = workloads
        .iter()
        .map(|workload| workload.section(scratch))
        .collect();
    std::fs::write(&configuration, sections?.concat())?;
    let options = NodeOptions::new(Ours, "node").peer(peer).arguments([
        "--config-file".to_owned(),
        configuration.display().to_string(),
    ]);
    let mut node = Node::start(scratch, &host, options)?;
    reachable(&host, &remote, PATIENCE)?;
    all_reach_each_other(&workloads, &node, &remote)?;
    let many = node.resident_kib()?;
    report(
        &format!("identities, remote {remote_build}, memory per identity"),
        format_args!(
            "{:.1} KiB ({single} KiB with one, {many} KiB with {})",
            (many.saturating_sub(single)) as f64 / IDENTITIES as f64,
            IDENTITIES + 1
        ),
    );

    add_and_remove(&lab, &workloads, &node, &remote)?;

    // A restart brings all back at once.
    let pingers: Vec<Pinger> = workloads
        .iter()
        .map(|workload| Pinger::start(&other, workload.address, Duration::from_millis(20)))
        .collect::<Result<_, _>>()?;
    for pinger in &pingers {
        pinger.reply_since(Instant::now() - PATIENCE, PATIENCE)?;
    }
    node.kill()?;
    node.start_again()?;
    let started = node.started();
    let mut times = Vec::new();
    for pinger in &pingers {
        times.push(
            pinger
                .reply_since(started, PATIENCE + PATIENCE)?
                .duration_since(started),
        );
    }
    node.check_alive()?;
    let slowest = times.iter().max().copied().unwrap_or_default();
    judge(
        &format!("identities, remote {remote_build}, all {IDENTITIES} back after a restart"),
        &[slowest],
        Duration::from_secs(1),
        PATIENCE,
    )
}

/// Each reaches the next one, the first reaches all, and the remote node reaches all and is reached by all.
fn all_reach_each_other(workloads: &[Workload], node: &Node, remote: &Node) -> anyhow::Result<()> {
    for (index, workload) in workloads.iter().enumerate() {
        let next = &workloads[(index + 1) % workloads.len()];
        reached(&workload.host, next.address, PATIENCE)?;
        reached(&workload.host, remote.address(), PATIENCE)?;
        reached(&workload.host, node.address(), PATIENCE)?;
        reached(remote.host(), workload.address, PATIENCE)?;
        // Every pair is 2450 ways; a different stride for each covers all distances.
        let far = &workloads[(index * 7 + 3) % workloads.len()];
        if far.address != workload.address {
            reached(&workload.host, far.address, PATIENCE)?;
        }
    }
    Ok(())
}

/// The 51st comes and goes at run time. Pings of the others notice nothing.
fn add_and_remove(
    lab: &Lab,
    workloads: &[Workload],
    node: &Node,
    remote: &Node,
) -> anyhow::Result<()> {
    let bystanders: Vec<Pinger> = workloads
        .iter()
        .take(3)
        .map(|workload| Pinger::start(&workload.host, remote.address(), Duration::from_millis(5)))
        .collect::<Result<_, _>>()?;
    for pinger in &bystanders {
        pinger.first_reply(PATIENCE)?;
    }
    let calm = Instant::now();
    let newcomer = Workload::new(lab, IDENTITIES)?;
    let request = serde_json::json!({
        "secretKey": newcomer.hex(),
        "name": newcomer.host.name(),
        "tunName": INTERFACE,
        "netns": newcomer.netns(),
    });
    let asked = Instant::now();
    let (status, body) = node.request("POST", "/admin/identities", Some(&request))?;
    ensure!(
        (200..300).contains(&status),
        "adding an identity: {status} {body}"
    );
    reached(remote.host(), newcomer.address, PATIENCE)?;
    reached(&newcomer.host, workloads[0].address, PATIENCE)?;
    report(
        "identities, the 51st is reached after",
        format_args!("{:.1?}", asked.elapsed()),
    );
    let listed = node.get("/admin/identities")?;
    let entries = listed.as_array().context("a list of identities")?;
    ensure!(
        entries.len() == IDENTITIES + 2,
        "{} identities listed",
        entries.len()
    );
    let id = entries
        .iter()
        .find(|entry| entry["address"] == newcomer.address.to_string().as_str())
        .and_then(|entry| entry["id"].as_u64())
        .context("the new identity is listed")?;
    let (status, body) = node.request("DELETE", &format!("/admin/identities/{id}"), None)?;
    ensure!(
        (200..300).contains(&status),
        "removing an identity: {status} {body}"
    );
    let gone = remote.host();
    wait::until("the removed identity is gone", PATIENCE, || {
        let echo = netns_tests::probe::icmp::Echo::to(newcomer.address);
        let answer = echo.send(gone, Duration::from_millis(300))?;
        let reply = matches!(
            answer,
            Some((_, netns_tests::probe::icmp::Message::EchoReply { .. }))
        );
        Ok((!reply).then_some(()))
    })?;
    ensure!(
        node.get("/admin/identities")?
            .as_array()
            .is_some_and(|list| list.len() == IDENTITIES + 1)
    );
    for pinger in bystanders {
        let result = pinger.stop(PATIENCE)?;
        ensure!(
            result.lost() == 0,
            "the others lost {} pings meanwhile",
            result.lost()
        );
        report(
            "identities, longest gap of the others meanwhile",
            format_args!("{:.1?}", result.outage(calm)?),
        );
    }
    Ok(())
}

/// A node with one identity, one peer and no traffic.
fn idle(scratch: &Scratch) -> anyhow::Result<()> {
    let net = netns_tests::topology::Pair::start(scratch, Underlay::Tcp4, [Ours; 2])?;
    net.connected(PATIENCE)?;
    // Settle: start-up work must not count. Then watch.
    let (before, since) = wait::until("start-up work is over", PATIENCE, || {
        let first = net.a.cpu_time()?;
        std::thread::sleep(Duration::from_millis(500));
        let second = net.a.cpu_time()?;
        Ok((second - first < Duration::from_millis(5)).then(|| (second, Instant::now())))
    })?;
    let window = Duration::from_secs(if strict() { 30 } else { 3 });
    std::thread::sleep(window);
    let used = net.a.cpu_time()? - before;
    let share = used.as_secs_f64() / since.elapsed().as_secs_f64();
    let resident = net.a.resident_kib()?;
    report(
        "idle, resident memory",
        format_args!("{resident} KiB, wanted 14336"),
    );
    report(
        "idle, processor",
        format_args!("{:.3} % of a core", share * 100.0),
    );
    let bound = if strict() { 14 << 10 } else { 40 << 10 };
    ensure!(resident <= bound, "{resident} KiB resident");
    ensure!(share < 0.02, "{:.2} % of a core while idle", share * 100.0);
    Ok(())
}
