//! UDP datagrams of many sizes, echoed and compared.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use super::icmp::is_timeout;
use crate::lab::Host;

/// Sizes around every boundary on the way: empty, the sizes of a full overlay packet (1352 bytes of payload fill the
/// 1400 bytes of the interface), and datagrams that the kernel cuts into fragments.
const SIZES: [usize; 12] = [
    0, 1, 17, 512, 1024, 1232, 1280, 1351, 1352, 1353, 4000, 16_000,
];

/// Send datagrams of many sizes from `from` to `address` on `to`, each echoed back and compared byte by byte.
/// Median round-trip time.
///
/// # Errors
/// When one does not come back within two seconds, or comes back changed: the wires below lose nothing.
pub fn echo(from: &Host, to: &Host, address: Ipv6Addr) -> anyhow::Result<Duration> {
    echo_up_to(usize::MAX, from, to, address)
}

/// As [`echo`], with no datagram above `largest` bytes.
pub fn echo_up_to(
    largest: usize,
    from: &Host,
    to: &Host,
    address: Ipv6Addr,
) -> anyhow::Result<Duration> {
    let server = to
        .inside(|| UdpSocket::bind(SocketAddr::from((address, 0))))?
        .with_context(|| format!("bind {address} at {}", to.name()))?;
    let target = server.local_addr()?;
    server.set_read_timeout(Some(Duration::from_millis(50)))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let echoing = std::thread::spawn(move || serve(&server, &stopped));
    let outcome = exchange(largest, from, target);
    stop.store(true, Ordering::Relaxed);
    echoing
        .join()
        .map_err(|_| anyhow!("the echo server panicked"))??;
    outcome.with_context(|| format!("UDP from {} to {}", from.name(), to.name()))
}

fn serve(server: &UdpSocket, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match server.recv_from(&mut buffer) {
            Ok((length, client)) => {
                server.send_to(buffer.get(..length).unwrap_or_default(), client)?;
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn exchange(largest: usize, from: &Host, target: SocketAddr) -> anyhow::Result<Duration> {
    let client = from.inside(|| -> std::io::Result<UdpSocket> {
        let client = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        client.connect(target)?;
        client.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(client)
    })??;
    let mut answer = vec![0; 65_536];
    let mut times = Vec::new();
    let sizes: Vec<usize> = SIZES.into_iter().filter(|size| *size <= largest).collect();
    for (round, size) in sizes
        .iter()
        .copied()
        .cycle()
        .take(sizes.len() * 5)
        .enumerate()
    {
        let mut datagram = vec![0; size];
        blake3::Hasher::new()
            .update(&round.to_be_bytes())
            .finalize_xof()
            .fill(&mut datagram);
        let sent = Instant::now();
        client.send(&datagram)?;
        let length = client
            .recv(&mut answer)
            .with_context(|| format!("datagram of {size} bytes, number {round}"))?;
        times.push(sent.elapsed());
        if answer.get(..length) != Some(datagram.as_slice()) {
            bail!("datagram of {size} bytes, number {round}, came back changed ({length} bytes)");
        }
    }
    Ok(crate::figures::median(&times))
}
