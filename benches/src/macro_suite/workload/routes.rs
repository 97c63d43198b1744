//! What a node takes that knows many routes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::router_id::RouterId;
use mycelium_core::wire::babel::{Prefix, Tlv, Update};
use netns_tests::daemon::{API_PORT, PORT};
use netns_tests::flood::Flooder;

use super::Bench;
use crate::macro_suite::results::Samples;

const ROUTES: u32 = 2 * EACH;
/// Of each of two announcers.
const EACH: u32 = 50_000;
/// A node may take them slowly: ours takes 5000 a second.
const LIMIT: Duration = Duration::from_secs(120);
/// Memory that has not grown for so long is what the routes take.
const STEADY: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(250);
/// Between the hosts of the overlay and what these keys stand for lies nothing.
const METRIC: u16 = 10;
const INTERVAL_CENTISECONDS: u16 = 30_000;

/// Resident memory of A once neighbours have announced [`ROUTES`] subnets, which A must then list.
pub(super) fn measure(name: &str, bench: &Bench<'_>, samples: &mut Samples) -> anyhow::Result<()> {
    let daemon = bench.overlay.daemon_of_a()?;
    // One neighbour alone may not fill a table.
    let testbed = bench.testbed;
    let (host, wire) = testbed
        .more
        .first()
        .context("a star has more than one leaf")?;
    let mut announcers = Vec::new();
    for (n, (host, wire)) in (0..).zip([(&testbed.b, &testbed.first), (host, wire)]) {
        let node = SocketAddr::from((wire.left.v4(), PORT));
        let announcer = Flooder::connect(host, node, &format!("announcer {n}"))?;
        announcer.say((n * EACH..(n + 1) * EACH).map(announcement).collect())?;
        announcers.push(announcer);
    }
    let deadline = Instant::now() + LIMIT;
    let (mut most, mut grown) = (daemon.memory()?, Instant::now());
    while grown.elapsed() < STEADY {
        ensure!(
            Instant::now() < deadline,
            "the table still grows after {LIMIT:?}"
        );
        std::thread::sleep(LOOK);
        let now = daemon.memory()?;
        // Some hundred routes.
        if now > most + 0.1 {
            (most, grown) = (now, Instant::now());
        }
    }
    samples.add(name, "MiB of a", daemon.memory()?);
    let listed = listed(bench)?;
    ensure!(
        listed >= ROUTES as usize,
        "A lists {listed} of {ROUTES} routes"
    );
    Ok(())
}

fn announcement(n: u32) -> Vec<u8> {
    let mut key = [0x55; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    let key = PublicKey(key);
    let prefix = Prefix::new(key.address(), 64).unwrap_or_else(|| unreachable!("64 bits of 128"));
    Tlv::Update(Update {
        interval: INTERVAL_CENTISECONDS,
        seqno: 0,
        metric: METRIC,
        prefix,
        router_id: RouterId::new(key, [0; 2], [0; 6]),
    })
    .to_packet()
}

/// Selected routes in the API of A.
fn listed(bench: &Bench<'_>) -> anyhow::Result<usize> {
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
    let mut stream = bench
        .testbed
        .a
        .inside(|| TcpStream::connect_timeout(&api, Duration::from_secs(5)))??;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let request = "GET /api/v1/admin/routes/selected HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .context("the list of routes")?;
    let key = b"\"subnet\"";
    Ok(answer
        .windows(key.len())
        .filter(|window| window == key)
        .count())
}
