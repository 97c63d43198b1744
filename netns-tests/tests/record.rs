//! Recording the golden bytes of an unmodified mycelium 0.7.10 for `mycelium-core/tests/golden_upstream.rs`.
//!
//! Runs only when `MYCELIUM_RECORD_VECTORS` names the directory to write to:
//! `MYCELIUM_RECORD_VECTORS=mycelium-core/tests/vectors cargo test -p netns-tests --test record`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::capture;
use netns_tests::daemon::Build::Upstream;
use netns_tests::daemon::{Node, NodeOptions, PORT, upstream_missing};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::Lab;
use netns_tests::probe::icmp::Echo;
use netns_tests::topology::reachable;
use netns_tests::wait;

fn main() -> ExitCode {
    let unmet = upstream_missing().or_else(|| {
        directory()
            .is_none()
            .then(|| "MYCELIUM_RECORD_VECTORS is not set".to_owned())
    });
    run(vec![
        case("stream", stream).unless(unmet.clone()),
        case("beacon", beacon).unless(unmet),
    ])
}

fn directory() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("MYCELIUM_RECORD_VECTORS")?);
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    Some(if path.is_absolute() {
        path
    } else {
        PathBuf::from(workspace).join(path)
    })
}

/// The secrets of A, B and C: 00..1f, 20..3f, 40..5f.
fn secret(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first + u8::try_from(index).expect("below 32"))
}

fn write(name: &str, comment: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in comment.lines() {
        writeln!(text, "# {line}")?;
    }
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}")?;
        }
        text.push('\n');
    }
    let path = directory().context("checked in main")?.join(name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

/// A dials B through a recording proxy; C stands behind B. Pings, errors, a request for nobody, C's death.
fn stream(scratch: &Scratch) -> anyhow::Result<()> {
    let lab = Lab::new();
    let hosts = [
        lab.host("a")?,
        lab.host("m")?,
        lab.host("b")?,
        lab.host("c")?,
    ];
    let [a, m, b, c] = &hosts;
    let near = lab.wire(a, m)?;
    let far = lab.wire(m, b)?;
    let behind = lab.wire(b, c)?;
    let node_b = Node::start(
        scratch,
        b,
        NodeOptions::new(Upstream, "b").secret(secret(0x20)),
    )?;
    let peer = format!("tcp://{}:{PORT}", behind.left.v4());
    let mut node_c = Node::start(
        scratch,
        c,
        NodeOptions::new(Upstream, "c")
            .secret(secret(0x40))
            .peer(peer),
    )?;
    reachable(b, &node_c, Duration::from_secs(40))?;
    let recording = capture::proxy(m, PORT, (far.right.v4(), PORT).into())?;
    let peer = format!("tcp://{}:{PORT}", near.right.v4());
    let _node_a = Node::start(
        scratch,
        a,
        NodeOptions::new(Upstream, "a").secret(secret(0)).peer(peer),
    )?;
    reachable(a, &node_b, Duration::from_secs(40))?;
    reachable(a, &node_c, Duration::from_secs(40))?;
    Echo {
        size: 1352,
        ..Echo::to(node_c.address())
    }
    .send(a, Duration::from_secs(5))?
    .context("full size")?;
    // Answered by A, B and C in turn with "hop limit exceeded".
    for hop_limit in 1..=3 {
        Echo {
            hop_limit,
            ..Echo::to(node_c.address())
        }
        .send(a, Duration::from_secs(5))?
        .context("hop limit")?;
    }
    let nobody = "4ff:dead:beef:1::1".parse()?;
    Echo::to(nobody)
        .send(a, Duration::from_secs(30))?
        .context("no route")?;
    // Hellos come every 20 s, each answered by an IHU.
    wait::until(
        "a Hello and an IHU each way",
        Duration::from_secs(50),
        || {
            let done = [recording.from_dialler(), recording.from_listener()]
                .iter()
                .all(|bytes| [4, 5].iter().all(|tlv| contains_control(bytes, *tlv)));
            Ok(done.then_some(()))
        },
    )?;
    let before = recording.from_listener().len();
    node_c.kill()?;
    wait::until("B retracts C", Duration::from_secs(10), || {
        Ok((recording.from_listener().len() > before).then_some(()))
    })?;
    // Pings to C now draw a seqno request, or an error.
    Echo::to(node_c.address()).send(a, Duration::from_secs(20))?;
    let keys = "Keys: A 00..1f, B 20..3f, C 40..5f. A dials B over TCP; C is B's peer.";
    write(
        "upstream_a_to_b.hex",
        &format!("All bytes that an unmodified mycelium 0.7.10 (A) sent to another (B).\n{keys}"),
        &recording.from_dialler(),
    )?;
    write(
        "upstream_b_to_a.hex",
        &format!("All bytes that an unmodified mycelium 0.7.10 (B) sent to another (A).\n{keys}"),
        &recording.from_listener(),
    )
}

/// Whether a byte stream holds a control packet with this TLV; good enough for a recording without bulk data.
fn contains_control(bytes: &[u8], tlv: u8) -> bool {
    bytes
        .windows(9)
        .any(|window| window.starts_with(&[1, 1, 0, 0, 42, 3]) && window.get(8) == Some(&tlv))
}

fn beacon(scratch: &Scratch) -> anyhow::Result<()> {
    let lab = Lab::new();
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let switch = lab.switch(&[&a, &b])?;
    switch.wait_for_link_local(Duration::from_secs(10))?;
    let started = Instant::now();
    let listening = capture::beacon_listener(&b, switch.port(1)?, 9650)?;
    let _node = Node::start(
        scratch,
        &a,
        NodeOptions::new(Upstream, "a")
            .secret(secret(0))
            .discovery(),
    )?;
    let bytes = listening.receive(Duration::from_secs(70))?;
    ensure!(started.elapsed() < Duration::from_secs(70), "late");
    write(
        "upstream_beacon.hex",
        "The LAN discovery beacon of an unmodified mycelium 0.7.10 with key 00..1f, TCP port 9651.",
        &bytes,
    )
}
