//! Floods of what nobody can tell from a handshake or a packet before looking at it (docs/protocol.md §14): two honest nodes
//! with a session go on as before, and the node under attack neither grows nor asks around.
//!
//! In strict mode at 100 000 packets a second; else at a rate that any machine bears, and without judging delays.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions, PORT};
use netns_tests::figures::{judge, repetitions, report, strict};
use netns_tests::flood::{Flooder, Thrown, quantile, throw_datagrams};
use netns_tests::flood_frames::{self, Frames};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::ping::Pinger;
use netns_tests::topology::{Underlay, reachable};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// How much later existing sessions' packets may be at the 99th percentile.
const DELAY: Duration = Duration::from_millis(5);
/// How much the node may grow from the first third of all floods to their end: half-open sessions live for 5 s.
const FLAT_KIB: u64 = 2 << 10;
/// And from before the flood: bounded tables and buffers fill.
const GROWTH_KIB: u64 = 24 << 10;
/// Route requests that one link's packets may cause at once, and a second (docs/architecture.md).
const REQUESTS: f64 = 256.0;
const REQUESTS_PER_SECOND: f64 = 64.0;
/// Cookies that a node tells over one link at most.
const COOKIES_PER_SECOND: u32 = 1000;
/// A request is repeated while it has no answer.
const REPEATS: f64 = 8.0;

fn main() -> ExitCode {
    run(vec![
        case("routeless_garbage", routeless_garbage),
        case("spoofed_peer", spoofed_peer),
        case("unannounced_strangers", |scratch| {
            strangers(scratch, With::Nothing)
        }),
        case("announced_strangers", |scratch| {
            strangers(scratch, With::Routes)
        }),
        case("proven_strangers", |scratch| {
            strangers(scratch, With::Cookies)
        }),
        case("native_port", native_port),
    ])
}

/// What self-made identities have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    Nothing,
    /// Routes, so that answers arrive.
    Routes,
    /// Those, and the cookies that they were told.
    Cookies,
}

/// Packets a second.
fn rate() -> u32 {
    if strict() { 100_000 } else { 10_000 }
}

fn duration() -> Duration {
    Duration::from_millis(if strict() { 6_000 } else { 1_200 })
}

/// Self-made identities.
fn crowd() -> usize {
    if strict() { 10_000 } else { 500 }
}

/// The node under attack, a friend with a session, and an attacker on a wire of its own.
struct Siege {
    node: Node,
    friend: Node,
    attacker: Arc<Host>,
    target: SocketAddr,
}

/// How the friend's pings fared.
#[derive(Clone, Copy, Debug)]
struct Service {
    median: Duration,
    p99: Duration,
    worst: Duration,
    sent: usize,
    lost: usize,
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "median {:.2?}, p99 {:.2?}, worst {:.2?}, lost {} of {}",
            self.median, self.p99, self.worst, self.lost, self.sent
        )
    }
}

/// What a flood came to, but for the pings.
struct Outcome {
    thrown: Thrown,
    counts: Counts,
    /// KiB: before, and after each part of the floods.
    memory: Vec<u64>,
}

impl Outcome {
    fn report(&self, what: &str) {
        let Self { thrown, counts, .. } = self;
        let seconds = thrown.elapsed.as_secs_f64();
        report(
            &format!("flood, {what}: thrown"),
            format_args!(
                "{:.0} packets a second for {:.1?}, {:.0} MB/s, generator {:.2} CPU",
                thrown.rate(),
                thrown.elapsed,
                thrown.bytes as f64 / seconds / 1e6,
                thrown.cpu.as_secs_f64() / seconds,
            ),
        );
        report(
            &format!("flood, {what}: node"),
            format_args!(
                "took {:.0} data packets, {:.2} CPU, asked for routes {} times, resident KiB {:?}",
                counts.taken,
                counts.cpu.as_secs_f64() / seconds,
                counts.asked,
                self.memory,
            ),
        );
    }

    fn check(&self) -> anyhow::Result<()> {
        let third = self.memory.get(self.memory.len() / 3);
        let (Some(before), Some(third), Some(end)) =
            (self.memory.first(), third, self.memory.last())
        else {
            anyhow::bail!("no samples of memory");
        };
        ensure!(
            *end <= third + FLAT_KIB && *end <= before + GROWTH_KIB,
            "grew during the flood: {:?} KiB",
            self.memory
        );
        let asked = self.counts.asked;
        let allowed = REQUESTS + REQUESTS_PER_SECOND * (self.thrown.elapsed.as_secs_f64() + 1.0);
        ensure!(
            asked <= allowed * REPEATS && asked <= self.thrown.packets as f64,
            "{asked} route requests because of {} packets",
            self.thrown.packets
        );
        ensure!(
            !strict() || self.thrown.rate() >= 0.9 * f64::from(rate()),
            "only {:.0} packets a second",
            self.thrown.rate()
        );
        Ok(())
    }
}

/// What only grows.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Route requests that the friend got.
    asked: f64,
    /// Data packets that the node took.
    taken: f64,
    cpu: Duration,
}

impl Counts {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            asked: self.asked - earlier.asked,
            taken: self.taken - earlier.taken,
            cpu: self.cpu.saturating_sub(earlier.cpu),
        }
    }
}

impl Siege {
    /// The two honest nodes get these further arguments.
    fn start(scratch: &Scratch, arguments: &[&str]) -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (host, other, attacker) = (
            lab.host("node")?,
            lab.host("friend")?,
            lab.host("attacker")?,
        );
        let friendly = lab.wire(&host, &other)?;
        let hostile = lab.wire(&host, &attacker)?;
        let options = |name| {
            let arguments = arguments.iter().copied();
            NodeOptions::new(Ours, name).metrics().arguments(arguments)
        };
        let node = Node::start(scratch, &host, options("node"))?;
        let peer = Underlay::Udp4.endpoint(&friendly.left);
        let friend = Node::start(scratch, &other, options("friend").peer(peer))?;
        reachable(friend.host(), &node, PATIENCE)?;
        Ok(Self {
            node,
            friend,
            attacker,
            target: SocketAddr::from((hostile.left.v4(), PORT)),
        })
    }

    /// Ping while `work` runs.
    fn serve<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Service)> {
        let pinger = Pinger::start(self.friend.host(), self.node.address(), PING_INTERVAL)?;
        pinger.first_reply(PATIENCE)?;
        let outcome = work()?;
        pinger
            .reply_since(Instant::now(), PATIENCE)
            .context("afterwards")?;
        let result = pinger.stop(Duration::from_secs(1))?;
        let times: Vec<Duration> = result
            .sent
            .iter()
            .zip(&result.answered)
            .filter_map(|(sent, answer)| Some(answer.as_ref()?.duration_since(*sent)))
            .collect();
        let service = Service {
            median: quantile(&times, 50),
            p99: quantile(&times, 99),
            worst: quantile(&times, 100),
            sent: result.sent.len(),
            lost: result.lost(),
        };
        Ok((outcome, service))
    }

    fn counts(&self) -> anyhow::Result<Counts> {
        let requests = "mycelium_router_processed_tlvs{tlv_type=\"route_request\"}";
        Ok(Counts {
            asked: self.friend.metric(requests)?,
            taken: self.node.metric("mycelium_dataplane_peer_packets")?,
            cpu: self.node.cpu_time()?,
        })
    }

    /// A quiet time, the flood, a quiet time, repeatedly; and the verdict.
    fn endure(
        &mut self,
        what: &str,
        flood: impl Fn(&Self, Duration) -> anyhow::Result<Thrown>,
    ) -> anyhow::Result<()> {
        let counts = self.counts()?;
        let (mut thrown, mut excess) = (Vec::new(), Vec::new());
        let mut memory = vec![self.node.resident_kib()?];
        let (mut sent, mut lost) = (0, 0);
        for _ in 0..repetitions(1, 3) {
            let ((), before) = self.quiet()?;
            let ((), during) = self.serve(|| {
                for part in [duration() / 3, duration() * 2 / 3] {
                    thrown.push(flood(self, part)?);
                    memory.push(self.node.resident_kib()?);
                }
                Ok(())
            })?;
            let ((), after) = self.quiet()?;
            for (when, service) in [("before", before), ("during", during), ("after", after)] {
                report(&format!("flood, {what}: pings {when}"), service);
                sent += service.sent;
                lost += service.lost;
            }
            excess.push(during.p99.saturating_sub(before.p99.max(after.p99)));
        }
        let outcome = Outcome {
            thrown: thrown.into_iter().reduce(Thrown::and).context("no flood")?,
            counts: self.counts()?.since(&counts),
            memory,
        };
        outcome.report(what);

        self.node.check_alive()?;
        self.friend.check_alive()?;
        outcome.check()?;
        self.still_v2()?;
        ensure!(lost * 100 <= sent, "{lost} of {sent} pings lost");
        if strict() {
            judge(
                &format!("flood, {what}: pings later at p99"),
                &excess,
                DELAY,
                DELAY,
            )?;
        }
        Ok(())
    }

    fn quiet(&self) -> anyhow::Result<((), Service)> {
        self.serve(|| {
            std::thread::sleep(duration() / 3);
            Ok(())
        })
    }

    /// The two honest nodes have a session.
    fn still_v2(&self) -> anyhow::Result<()> {
        let sessions = self.node.get("/admin/sessions")?;
        let friend = self.friend.public_key().to_string();
        let session = sessions
            .as_array()
            .context("a list of sessions")?
            .iter()
            .find(|session| session["publicKey"] == friend.as_str())
            .context("no session with the friend")?;
        ensure!(session["protocol"] == "v2", "{session}");
        Ok(())
    }

    fn flooder(&self) -> anyhow::Result<Flooder> {
        Flooder::connect(&self.attacker, self.target, "attacker")
    }

    /// As [`endure`](Self::endure), over a link of the attacker's.
    fn endure_peer(
        &mut self,
        what: &str,
        flooder: &Flooder,
        frames: &Frames,
    ) -> anyhow::Result<()> {
        self.endure(what, |_, duration| flooder.throw(frames, rate(), duration))?;
        let received = flooder.received();
        report(
            &format!("flood, {what}: back to the attacker"),
            format_args!("{received:?}"),
        );
        Ok(())
    }
}

fn routeless_garbage(scratch: &Scratch) -> anyhow::Result<()> {
    let mut siege = Siege::start(scratch, &[])?;
    let flooder = siege.flooder()?;
    let frames = flood_frames::garbage(siege.node.address());
    siege.endure_peer("routeless garbage", &flooder, &frames)
}

/// Everything says that it comes from the friend, with whom new keys are due meanwhile.
fn spoofed_peer(scratch: &Scratch) -> anyhow::Result<()> {
    let mut siege = Siege::start(scratch, &["--session-rekey-interval", "1"])?;
    let flooder = siege.flooder()?;
    let frames = flood_frames::spoofed(siege.friend.address(), &siege.node.public_key());
    siege.endure_peer("spoofed peer", &flooder, &frames)
}

/// Valid first messages.
fn strangers(scratch: &Scratch, with: With) -> anyhow::Result<()> {
    let mut siege = Siege::start(scratch, &[])?;
    let flooder = siege.flooder()?;
    let mut strangers = flood_frames::strangers(&siege.node.public_key(), crowd());
    if with == With::Nothing {
        let frames = strangers.frames();
        return siege.endure_peer("strangers without routes", &flooder, &frames);
    }
    flooder.say(strangers.updates())?;
    // A safe count: 2^53 and more.
    let wanted = crowd() as f64;
    wait::until("their routes", PATIENCE * 3, || {
        let routes = siege.node.metric("mycelium_router_selected_routes")?;
        Ok((routes >= wanted).then_some(()))
    })?;
    if with == With::Routes {
        let frames = strangers.frames();
        return siege.endure_peer("strangers with routes", &flooder, &frames);
    }
    let frames = strangers.frames();
    let rate = 2 * COOKIES_PER_SECOND;
    let once = Duration::from_secs_f64(frames.frames.len() as f64 / f64::from(rate));
    flooder.throw(&frames, rate, once)?;
    let mut told = 0;
    // Some are answered at once, and a busy machine may have taken several messages in one go.
    wait::until("cookies for half of them", PATIENCE, || {
        told = strangers.take_cookies(&flooder.packets());
        Ok((told * 2 >= crowd()).then_some(()))
    })
    .with_context(|| format!("{told} of {} have one", crowd()))?;
    let frames = strangers.proven();
    siege.endure_peer("strangers with routes and cookies", &flooder, &frames)
}

/// Datagrams to the port of native links, on which the friend's link runs as well.
fn native_port(scratch: &Scratch) -> anyhow::Result<()> {
    let mut siege = Siege::start(scratch, &[])?;
    let frames = flood_frames::datagrams(&siege.node.public_key());
    siege.endure("datagrams to the native port", |siege, duration| {
        throw_datagrams(&siege.attacker, siege.target, &frames, rate(), duration)
    })
}
