//! Bulk TCP transfers between a virtual machine and a host.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};

use super::Vm;
use crate::lab::Host;
use crate::probe::tcp::{Transfer, receive, send};
use crate::wait;

/// Where the machine listens.
const PORT: u16 = 5001;
/// How long anything but the transfer itself may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// A transfer slower than this, bytes per second, has failed. Software emulation manages ten times that.
const SLOWEST: u64 = 1_000_000;

/// Both directions of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Into the machine.
    pub into: Transfer,
    /// Out of it.
    pub out: Transfer,
}

/// Send `bytes` from `host` to the machine, and from there back to `host_address`. The hash of what returns must be
/// that of what left: what changed on either way shows.
pub fn exchange(
    host: &Host,
    host_address: Ipv6Addr,
    vm: &mut Vm,
    vm_address: Ipv6Addr,
    bytes: u64,
) -> anyhow::Result<Exchange> {
    let limit = PATIENCE + Duration::from_secs(bytes / SLOWEST);
    vm.run(
        &format!(
            "rm -f /tmp/status; (nc -l -p {PORT} >/tmp/bulk 2>/tmp/error; echo $? >/tmp/status) &"
        ),
        PATIENCE,
    )?;
    let target = SocketAddr::from((vm_address, PORT));
    // Refused until the program listens.
    let stream = wait::until("the machine accepts a connection", PATIENCE, || {
        Ok(Some(host.inside(|| {
            TcpStream::connect_timeout(&target, PATIENCE)
        })??))
    })?;
    let started = Instant::now();
    let sent = send(stream, bytes)?;
    vm.eventually("[ -s /tmp/status ]", limit)?;
    let into = Transfer {
        bytes,
        elapsed: started.elapsed(),
    };
    let seen = vm.run("cat /tmp/status /tmp/error; wc -c </tmp/bulk", PATIENCE)?;
    let arrived: Vec<&str> = seen.split_whitespace().collect();
    ensure!(
        arrived == ["0", bytes.to_string().as_str()],
        "receiving {bytes} bytes in the machine: {seen}"
    );

    let listener = host
        .inside(|| TcpListener::bind(SocketAddr::from((host_address, 0))))?
        .with_context(|| format!("listen on {host_address}"))?;
    let port = listener.local_addr()?.port();
    let receiver = std::thread::spawn(move || receive(&listener, limit));
    let started = Instant::now();
    // By itself, nc writes 1024 bytes at a time, each a packet of its own where answers come at once: that would measure how
    // fast an emulated processor makes packets (a quarter of the rate, with nothing waiting anywhere on the way).
    vm.run(&format!("nc {host_address} {port} -e cat /tmp/bulk"), limit)?;
    let received = receiver
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))?
        .context("receiving from the machine")?;
    vm.run("rm /tmp/bulk", PATIENCE)?;
    ensure!(
        received.bytes == bytes,
        "{} of {bytes} bytes came back",
        received.bytes
    );
    ensure!(
        received.hash == sent,
        "the bytes that came back are not those sent"
    );
    let out = Transfer {
        bytes,
        elapsed: received.finished.duration_since(started),
    };
    Ok(Exchange { into, out })
}

/// Send `bytes` random bytes from one machine to another; an error if they do not arrive as sent.
pub fn between(from: &mut Vm, to: &mut Vm, address: Ipv6Addr, bytes: u64) -> anyhow::Result<()> {
    let limit = PATIENCE + Duration::from_secs(bytes / SLOWEST);
    // Without an open standard input the receiver would close its direction at once, and the sender stop at that.
    to.run(
        &format!(
            "rm -f /tmp/status /tmp/open; mkfifo /tmp/open; (nc -l -p {PORT} <>/tmp/open >/tmp/bulk; echo $? >/tmp/status) &"
        ),
        PATIENCE,
    )?;
    from.run(&format!("head -c {bytes} /dev/urandom >/tmp/bulk"), limit)?;
    // Refused until the program listens.
    from.eventually(&format!("nc -w 5 {address} {PORT} </tmp/bulk"), limit)?;
    to.eventually("[ -s /tmp/status ]", limit)?;
    let sent = from.run("sha256sum </tmp/bulk; rm /tmp/bulk", limit)?;
    let arrived = to.run("sha256sum </tmp/bulk; rm /tmp/bulk", limit)?;
    ensure!(
        sent == arrived,
        "the bytes that arrived are not those sent: {sent}, {arrived}"
    );
    Ok(())
}
