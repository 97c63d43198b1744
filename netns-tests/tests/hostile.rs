//! A peer that sends garbage. The node drops it, counts it, keeps its memory bounded and serves everybody else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions, PORT};
use netns_tests::figures::report;
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::ping::Pinger;
use netns_tests::wait;

/// How much a hostile peer may make a node grow.
const GROWTH_KIB: u64 = 24 << 10;

fn main() -> ExitCode {
    run(vec![
        case("garbage", garbage),
        case("unfinished_frames", unfinished_frames),
        case("control_flood", control_flood),
        case("data_flood", data_flood),
        case("connection_flood", connection_flood),
    ])
}

/// A node under attack from its own wire, and a friend whose pings must go on.
struct Siege {
    node: Node,
    friend: Node,
    attacker: Arc<Host>,
    target: SocketAddr,
    before_kib: u64,
}

impl Siege {
    fn start(scratch: &Scratch) -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (host, other, attacker) = (
            lab.host("node")?,
            lab.host("friend")?,
            lab.host("attacker")?,
        );
        let friendly = lab.wire(&host, &other)?;
        let hostile = lab.wire(&host, &attacker)?;
        let node = Node::start(scratch, &host, NodeOptions::new(Ours, "node").metrics())?;
        let peer = format!("tcp://{}:{PORT}", friendly.left.v4());
        let friend = Node::start(scratch, &other, NodeOptions::new(Ours, "friend").peer(peer))?;
        netns_tests::topology::reachable(friend.host(), &node, Duration::from_secs(10))?;
        let before_kib = node.resident_kib()?;
        let target = SocketAddr::from((hostile.left.v4(), PORT));
        Ok(Self {
            node,
            friend,
            attacker,
            target,
            before_kib,
        })
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = self
            .attacker
            .inside(|| TcpStream::connect_timeout(&self.target, Duration::from_secs(5)))??;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(stream)
    }

    /// Pings of the friend while `attack` runs, and the state of the node afterwards. The metric family `counted`
    /// must have noticed.
    fn endure(
        mut self,
        what: &str,
        counted: &str,
        attack: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let pinger = Pinger::start(
            self.friend.host(),
            self.node.address(),
            Duration::from_millis(5),
        )?;
        let start = pinger.first_reply(Duration::from_secs(10))?;
        let counted_before = self.node.metric(counted)?;
        attack(&self)?;
        pinger
            .reply_since(Instant::now(), Duration::from_secs(5))
            .context("afterwards")?;
        let result = pinger.stop(Duration::from_secs(2))?;
        let grown = self.node.resident_kib()?.saturating_sub(self.before_kib);
        report(
            &format!("hostile, {what}"),
            format_args!(
                "grew by {grown} KiB, longest gap of the friend's pings {:.1?}, lost {} of {}",
                result.outage(start)?,
                result.lost(),
                result.sent.len()
            ),
        );
        self.node.check_alive()?;
        wait::until(&format!("{counted} grows"), Duration::from_secs(2), || {
            Ok((self.node.metric(counted)? > counted_before).then_some(()))
        })?;
        ensure!(grown <= GROWTH_KIB, "grew by {grown} KiB");
        ensure!(
            result.outage(start)? < Duration::from_secs(1),
            "the friend's pings stopped"
        );
        Ok(())
    }
}

/// Write all of it, or as much as the node takes before it hangs up. Whether it hung up.
fn pour(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_err()
}

/// Whether the node hangs up within two seconds; what it sends meanwhile is read and forgotten.
fn hung_up(stream: &mut TcpStream) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if netns_tests::probe::icmp::is_timeout(&error) => {}
            Err(_) => return true,
        }
    }
    false
}

fn control(tlv: &[u8]) -> Vec<u8> {
    let body = u16::try_from(tlv.len()).expect("a test sends short TLVs");
    let mut packet = vec![1, 1, 0, 0, 42, 3];
    packet.extend_from_slice(&body.to_be_bytes());
    packet.extend_from_slice(tlv);
    packet
}

/// A pseudo-random stream, the same in every run.
fn noise(label: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(label.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn garbage(scratch: &Scratch) -> anyhow::Result<()> {
    Siege::start(scratch)?.endure("garbage", "mycelium_router_malformed_packets", |siege| {
        let wrong: Vec<(&str, Vec<u8>)> = vec![
            ("noise", noise("garbage", 1 << 16)),
            ("packet version 2", vec![2, 0, 0, 0, 0, 0, 0, 0]),
            ("packet type 9", vec![1, 9, 0, 0, 0, 0, 0, 0]),
            ("an Update cut short", control(&[8, 58, 2, 0])),
            (
                "another protocol",
                b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(),
            ),
        ];
        for (what, bytes) in wrong {
            let mut stream = siege.connect()?;
            let gone = pour(&mut stream, &bytes) || hung_up(&mut stream);
            ensure!(gone, "{what}: the link stays up");
        }
        for round in 0..1000 {
            let mut stream = siege.connect()?;
            pour(&mut stream, &noise(&format!("round {round}"), 4096));
        }
        Ok(())
    })
}

/// Frames that announce much and deliver little, on many links at once.
fn unfinished_frames(scratch: &Scratch) -> anyhow::Result<()> {
    Siege::start(scratch)?.endure(
        "unfinished frames",
        "mycelium_peer_manager_peers_added",
        |siege| {
            let mut held = Vec::new();
            for round in 0..64 {
                let mut stream = siege.connect()?;
                let header = if round % 2 == 0 {
                    // A data packet of 65 535 bytes.
                    vec![1, 0, 0, 0, 0, 0xff, 0xff, 64]
                } else {
                    // A control packet of 65 535 bytes.
                    vec![1, 1, 0, 0, 42, 3, 0xff, 0xff]
                };
                pour(&mut stream, &header);
                pour(&mut stream, &noise("part", 30_000));
                held.push(stream);
            }
            // Hold them open while the friend's pings run.
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        },
    )
}

/// Valid and nearly valid routing messages as fast as the node takes them.
fn control_flood(scratch: &Scratch) -> anyhow::Result<()> {
    Siege::start(scratch)?.endure(
        "control flood",
        "mycelium_router_control_bytes_received",
        |siege| {
            let mut stream = siege.connect()?;
            let mut flood = Vec::new();
            for index in 0..2000_u32 {
                let key = noise(&format!("key {index}"), 32);
                let key: [u8; 32] = key.try_into().expect("32 bytes were asked for");
                let address = mycelium_core::addr::address_of_key(&key).octets();
                // An honest-looking Update for the /64 of this made-up key.
                let mut update = vec![8, 58, 2, 0, 64, 0, 0x75, 0x30, 0, 0, 0, 0];
                update.extend_from_slice(&address[..8]);
                update.extend_from_slice(&key);
                update.extend_from_slice(&[0; 8]);
                flood.extend(control(&update));
                // A Hello and a route request for a subnet nobody has.
                flood.extend(control(&[4, 6, 0x80, 0, 0, 0, 0x07, 0xd0]));
                let mut request = vec![9, 11, 0, 2, 64];
                request.extend_from_slice(&[4, 0xee]);
                request.extend_from_slice(&noise(&format!("nobody {index}"), 6));
                flood.extend(control(&request));
            }
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                // What it answers is read, so that this is a flood and not a blocked peer.
                let mut sink = [0; 65_536];
                if pour(&mut stream, &flood) {
                    stream = siege.connect()?;
                }
                stream.set_nonblocking(true)?;
                while matches!(stream.read(&mut sink), Ok(1..)) {}
                stream.set_nonblocking(false)?;
            }
            Ok(())
        },
    )
}

/// Data packets to nowhere, to the node with a broken seal, and from sources that are not ours.
fn data_flood(scratch: &Scratch) -> anyhow::Result<()> {
    Siege::start(scratch)?.endure("data flood", "mycelium_dataplane_drops", |siege| {
        let mut stream = siege.connect()?;
        let mut flood = Vec::new();
        for index in 0..500_u32 {
            let body = noise(&format!("body {index}"), 1000);
            let length = u16::try_from(body.len()).expect("1000 fits");
            let mut source = [4; 16];
            source[1..8].copy_from_slice(&noise(&format!("source {index}"), 7));
            let target = if index % 2 == 0 {
                siege.node.address().octets()
            } else {
                source
            };
            flood.extend_from_slice(&[1, 0, 0, 0, 0]);
            flood.extend_from_slice(&length.to_be_bytes());
            flood.push(64);
            flood.extend_from_slice(&source);
            flood.extend_from_slice(&target);
            flood.extend_from_slice(&body);
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            if pour(&mut stream, &flood) {
                stream = siege.connect()?;
            }
        }
        Ok(())
    })
}

/// A thousand connections that say nothing.
fn connection_flood(scratch: &Scratch) -> anyhow::Result<()> {
    Siege::start(scratch)?.endure(
        "connection flood",
        "mycelium_peer_manager_peers_added",
        |siege| {
            let mut held = Vec::new();
            for _ in 0..500 {
                match siege.connect() {
                    Ok(stream) => held.push(stream),
                    Err(_) => break,
                }
            }
            ensure!(!held.is_empty(), "no connection at all");
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        },
    )
}
