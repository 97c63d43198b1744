//! Ten thousand sessions in one node, made through the whole data plane: handshakes a second and a core in both roles, bytes
//! of memory a session, and what the rest of the node pays for having them.
//!
//! Memory is what the process grew by (resident set), forwarding table and remotes' own state left out: a remote exists only
//! while it talks.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration as Span;

use benches::{LINK, packet};
use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig, Ports};
use mycelium_core::fib::{Fib, FibEntry, FibPublisher, Origin};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::session::view::Protocol;
use mycelium_core::time::{Duration, Time};
use rustix::time::{ClockId, clock_gettime};

const REMOTES: u32 = 10_000;
/// Of `cargo test --benches`.
const FEW: u32 = 50;
/// Virtual time from one handshake to the next. The budget of handshakes that hosts cause is one a millisecond.
const STEP: Duration = Duration::from_millis(1);
const START: Time = Time::from_millis(1_000_000);

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let count = if test { FEW } else { REMOTES };
    println!(
        "{:<34} {:>12} {:>14} {:>16}",
        "role of the node", "sessions", "handshakes/s", "bytes a session"
    );
    for role in [Role::Responder, Role::Initiator] {
        measure(role, count);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Initiator,
    Responder,
}

fn measure(role: Role, count: u32) {
    let hub = secret(0);
    let remotes: Vec<SecretKey> = (1..=count).map(secret).collect();
    let mut node = Node::new(&hub, &remotes);
    // Whatever the first handshake of a process allocates is not the sessions' own.
    let before = resident();
    let mut busy = Span::ZERO;
    for (n, remote) in remotes.iter().enumerate() {
        node.now = node.now + STEP;
        let mut peer = Node::new(remote, std::slice::from_ref(&hub));
        peer.now = node.now;
        busy += handshake(role, &mut node, &mut peer);
        assert!(peer.has_session(), "remote {n}: {:?}", peer.plane.stats());
    }
    let after = resident();
    let sessions = node.plane.sessions();
    let live = sessions
        .iter()
        .filter(|view| view.protocol == Protocol::V2)
        .count();
    assert_eq!(live, remotes.len(), "{:?}", node.plane.session_stats());
    let bytes = after.saturating_sub(before) / u64::from(count);
    println!(
        "{:<34} {live:>12} {:>14.0} {bytes:>16}",
        format!("{role:?}"),
        f64::from(count) / busy.as_secs_f64(),
    );
    const BATCHES: u32 = 10_000;
    let busy = timed(|| (0..BATCHES).for_each(|_| node.begin()));
    println!(
        "{:<34} {:>12.0} ns",
        "  an empty batch beside them",
        busy.as_secs_f64() * 1e9 / f64::from(BATCHES)
    );
    let busy = timed(|| assert_eq!(node.plane.sessions().len(), remotes.len()));
    println!(
        "{:<34} {:>12.2} ms",
        "  a list of all of them",
        busy.as_secs_f64() * 1e3
    );
    // All keys are destroyed at their hard age, here in one batch.
    node.now = node.now + Duration::from_secs(600);
    let busy = timed(|| node.begin());
    let left = node
        .plane
        .sessions()
        .iter()
        .filter(|v| v.age.is_some())
        .count();
    assert_eq!(left, 0, "keys outlive their age");
    println!(
        "{:<34} {:>12.2} ms, then {} bytes a remote are left",
        "  all of them expire at once",
        busy.as_secs_f64() * 1e3,
        resident().saturating_sub(before) / u64::from(count)
    );
}

/// One handshake and a packet each way; the time the node itself spent.
fn handshake(role: Role, node: &mut Node, peer: &mut Node) -> Span {
    let mut busy = Span::ZERO;
    let mut hello = match role {
        Role::Initiator => packet(node.address, peer.address, 100),
        Role::Responder => packet(peer.address, node.address, 100),
    };
    match role {
        Role::Initiator => busy += timed(|| node.host(&mut hello)),
        Role::Responder => peer.host(&mut hello),
    }
    while !(node.ports.frames.is_empty() && peer.ports.frames.is_empty()) {
        for mut frame in std::mem::take(&mut node.ports.frames) {
            peer.peer(&mut frame);
        }
        for mut frame in std::mem::take(&mut peer.ports.frames) {
            busy += timed(|| node.peer(&mut frame));
        }
    }
    busy
}

/// Processor time, so that what else runs on the machine does not count.
fn timed(work: impl FnOnce()) -> Span {
    let start = processor_time();
    work();
    processor_time().saturating_sub(start)
}

fn processor_time() -> Span {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Span::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Node {
    plane: DataPlane,
    ports: Wire,
    address: Ipv6Addr,
    now: Time,
}

impl Node {
    fn new(own: &SecretKey, others: &[SecretKey]) -> Self {
        let mut fib = Fib::new(0x9e37_79b9_7f4a_7c15);
        fib.insert_origin(Origin {
            id: IdentityId::NODE,
            subnet: own.public_key().subnet(),
            secret: own.clone(),
        });
        for other in others {
            let mut entry = FibEntry::new(LINK, other.public_key());
            entry.speaks_v2 = true;
            fib.insert(other.public_key().subnet(), Arc::new(entry));
        }
        let session = SessionConfig {
            policy: Policy::Prefer,
            has_aes: true,
            unix_epoch: Duration::from_secs(1_700_000_000),
            // What the machine can do is asked here, not what it allows others.
            unproven_per_link: 1_000_000,
            handshakes: 1_000_000,
            ..SessionConfig::default()
        };
        let config = DataPlaneConfig {
            session,
            ..DataPlaneConfig::default()
        };
        let publisher = FibPublisher::new(fib);
        let seed = own.public_key().0;
        let mut node = Self {
            plane: DataPlane::new(config, publisher.reader(), seed),
            ports: Wire::default(),
            address: own.public_key().address(),
            now: START,
        };
        node.begin();
        node
    }

    fn begin(&mut self) {
        self.plane.begin_batch(self.now, &mut self.ports);
    }

    fn host(&mut self, packet: &mut [u8]) {
        self.begin();
        self.plane
            .from_host(IdentityId::NODE, packet, &mut self.ports);
    }

    fn peer(&mut self, frame: &mut [u8]) {
        self.begin();
        self.plane.from_peer(LINK, frame, &mut self.ports);
    }

    fn has_session(&self) -> bool {
        let sessions = self.plane.sessions();
        sessions.iter().any(|view| view.protocol == Protocol::V2)
    }
}

/// Keeps what goes to peers.
#[derive(Default)]
struct Wire {
    slot: Vec<u8>,
    frames: Vec<Vec<u8>>,
}

impl Ports for Wire {
    fn peer_slot(&mut self, _peer: PeerId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0; len];
        Some(&mut self.slot)
    }

    fn commit_peer(&mut self, _peer: PeerId) {
        self.frames.push(std::mem::take(&mut self.slot));
    }

    fn host_slot(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0; len];
        Some(&mut self.slot)
    }

    fn commit_host(&mut self, _identity: IdentityId) {}

    fn commit_host_partial(&mut self, _identity: IdentityId) {}

    fn route_needed(&mut self, _subnet: Subnet, _from: Option<PeerId>) -> bool {
        true
    }
}

fn secret(n: u32) -> SecretKey {
    let mut bytes = [0x41; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_bytes(bytes)
}

/// Bytes of this process that are in memory; 0 where nobody tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}
