//! A stream of numbered UDP datagrams in one direction: what was lost, came twice, came late, came changed, or came to
//! somebody else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use node_integration::link;

use super::icmp::is_timeout;
use super::journal::Journal;
use crate::daemon::Node;
use crate::lab::Host;
use crate::wait;

/// Text in every datagram, for those who try to read them under way.
pub const MARKER: &[u8] = b"for the eyes of the other end only";
/// The 8-byte number, the marker, and the hash that shows changes.
const LEAST: usize = 8 + MARKER.len() + 32;

#[derive(Debug, Default)]
struct Notes {
    sent: Vec<Instant>,
    arrived: HashMap<u64, Instant>,
    /// One beyond the highest number that arrived.
    next: u64,
    duplicates: usize,
    overtaken: usize,
    changed: usize,
    astray: usize,
}

/// A running stream.
#[derive(Debug)]
pub struct Numbered {
    journal: Arc<Journal<Notes>>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of the datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedReport {
    /// Taken by the sender's kernel.
    pub sent: usize,
    /// Arrived at least once.
    pub arrived: usize,
    /// Arrivals of what had arrived before.
    pub duplicates: usize,
    /// First arrivals after the arrival of a later one.
    pub overtaken: usize,
    /// Arrivals that were not sent like this.
    pub changed: usize,
    /// Arrivals at the address where nothing was sent to.
    pub astray: usize,
}

impl Numbered {
    /// Send `size` bytes (at least the marker's and some more) every `interval` from `source` on `from` to `address` on `to`.
    /// `neighbour` is another address of `to` where nothing must arrive.
    pub fn start(
        (from, source): (&Host, Ipv6Addr),
        (to, address): (&Host, Ipv6Addr),
        neighbour: Option<Ipv6Addr>,
        interval: Duration,
        size: usize,
    ) -> anyhow::Result<Self> {
        let receiving = to
            .inside(|| UdpSocket::bind(SocketAddr::from((address, 0))))?
            .with_context(|| format!("bind {address} at {}", to.name()))?;
        let target = receiving.local_addr()?;
        let mut sockets = vec![(receiving, false)];
        if let Some(neighbour) = neighbour {
            let beside = to
                .inside(|| UdpSocket::bind(SocketAddr::from((neighbour, target.port()))))?
                .with_context(|| format!("bind {neighbour} at {}", to.name()))?;
            sockets.push((beside, true));
        }
        let sending = from.inside(|| UdpSocket::bind(SocketAddr::from((source, 0))))??;
        let journal = Journal::<Notes>::start();
        let mut threads = Vec::new();
        for (socket, astray) in sockets {
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let journal = Arc::clone(&journal);
            threads.push(std::thread::spawn(move || {
                receive(&socket, &journal, astray)
            }));
        }
        let also = Arc::clone(&journal);
        threads.push(std::thread::spawn(move || {
            send(&sending, target, &also, interval, size.max(LEAST));
        }));
        Ok(Self { journal, threads })
    }

    /// Wait for the arrival of any datagram sent at or after `since`; when it arrived.
    pub fn arrival_since(&self, since: Instant, limit: Duration) -> anyhow::Result<Instant> {
        wait::until("a numbered datagram", limit, || {
            let notes = self.journal.notes();
            let first = notes.sent.partition_point(|sent| *sent < since) as u64;
            Ok(notes
                .arrived
                .iter()
                .filter(|(number, _)| **number >= first)
                .map(|(_, at)| *at)
                .min())
        })
    }

    /// Counts so far.
    pub fn report(&self) -> NumberedReport {
        let notes = self.journal.notes();
        NumberedReport {
            sent: notes.sent.len(),
            arrived: notes.arrived.len(),
            duplicates: notes.duplicates,
            overtaken: notes.overtaken,
            changed: notes.changed,
            astray: notes.astray,
        }
    }

    /// Stop sending, wait `grace` for what is under way, and report.
    pub fn stop(mut self, grace: Duration) -> anyhow::Result<NumberedReport> {
        let sender = self.threads.pop();
        self.journal.stop();
        // The receivers look at the flag once a timeout; what is under way comes before.
        std::thread::sleep(grace);
        for thread in self.threads.drain(..).chain(sender) {
            thread
                .join()
                .map_err(|_| anyhow!("a stream's thread panicked"))?;
        }
        Ok(self.report())
    }
}

/// The address of the same subnet that differs in its last bit.
pub fn neighbour_of(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() ^ 1)
}

/// Give the node's host that second address, on the overlay's `interface`, as soon as the node's own is there.
pub fn listen_beside(node: &Node, interface: &str) -> anyhow::Result<()> {
    wait::until("the overlay's address", Duration::from_secs(10), || {
        node.host()
            .inside(|| UdpSocket::bind(SocketAddr::from((node.address(), 0))))??;
        Ok(Some(()))
    })?;
    let beside = IpAddr::V6(neighbour_of(node.address()));
    link::add_address(node.host().namespace(), interface, beside, 128)?;
    Ok(())
}

/// Streams in both directions between two nodes that [`listen_beside`].
#[derive(Debug)]
pub struct BothWays {
    /// From the first to the second.
    pub there: Numbered,
    /// From the second to the first.
    pub back: Numbered,
}

/// What both streams came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// From the first to the second.
    pub there: NumberedReport,
    /// From the second to the first.
    pub back: NumberedReport,
}

impl BothWays {
    /// Start both, each with a datagram of `size` bytes every `interval`.
    pub fn start(a: &Node, b: &Node, interval: Duration, size: usize) -> anyhow::Result<Self> {
        let one_way = |from: &Node, to: &Node| {
            let beside = Some(neighbour_of(to.address()));
            Numbered::start(
                (from.host(), from.address()),
                (to.host(), to.address()),
                beside,
                interval,
                size,
            )
        };
        Ok(Self {
            there: one_way(a, b)?,
            back: one_way(b, a)?,
        })
    }

    /// Wait until something sent after `since` has arrived in each direction; how long after `since` that was.
    pub fn flowing(&self, since: Instant, limit: Duration) -> anyhow::Result<Duration> {
        let there = self.there.arrival_since(since, limit).context("there")?;
        let back = self.back.arrival_since(since, limit).context("back")?;
        Ok(there.max(back).saturating_duration_since(since))
    }

    /// Counts so far.
    pub fn report(&self) -> Outcome {
        Outcome {
            there: self.there.report(),
            back: self.back.report(),
        }
    }

    /// Stop both, with some time for what is under way.
    pub fn stop(self) -> anyhow::Result<Outcome> {
        let grace = Duration::from_millis(200);
        Ok(Outcome {
            there: self.there.stop(grace)?,
            back: self.back.stop(grace)?,
        })
    }
}

impl NumberedReport {
    /// What was added to `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            arrived: self.arrived - earlier.arrived,
            duplicates: self.duplicates - earlier.duplicates,
            overtaken: self.overtaken - earlier.overtaken,
            changed: self.changed - earlier.changed,
            astray: self.astray - earlier.astray,
        }
    }
}

impl Outcome {
    /// What was added to `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            there: self.there.since(&earlier.there),
            back: self.back.since(&earlier.back),
        }
    }

    /// An error unless nothing came twice, changed, or to another address.
    pub fn check_clean(&self) -> anyhow::Result<()> {
        for (way, outcome) in [("there", self.there), ("back", self.back)] {
            ensure!(
                outcome.duplicates == 0,
                "{way}: delivered twice: {outcome:?}"
            );
            ensure!(
                outcome.changed == 0,
                "{way}: delivered changed: {outcome:?}"
            );
            ensure!(
                outcome.astray == 0,
                "{way}: delivered elsewhere: {outcome:?}"
            );
        }
        Ok(())
    }

    /// An error unless, within each direction, everything came in the order in which it was sent.
    pub fn check_order(&self) -> anyhow::Result<()> {
        for (way, outcome) in [("there", self.there), ("back", self.back)] {
            ensure!(
                outcome.overtaken == 0,
                "{way}: delivered after a later one: {outcome:?}"
            );
        }
        Ok(())
    }

    /// Datagrams that did not arrive, of both directions.
    pub fn lost(&self) -> usize {
        let lost = |way: NumberedReport| way.sent.saturating_sub(way.arrived);
        lost(self.there) + lost(self.back)
    }

    /// The share of datagrams that arrived, the worse of the two directions.
    pub fn share(&self) -> f64 {
        let share = |outcome: NumberedReport| {
            let arrived = u32::try_from(outcome.arrived).unwrap_or(u32::MAX);
            let sent = u32::try_from(outcome.sent).unwrap_or(u32::MAX).max(1);
            f64::from(arrived) / f64::from(sent)
        };
        share(self.there).min(share(self.back))
    }
}

fn datagram(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let (front, rest) = bytes.split_at_mut(8 + MARKER.len());
    front[..8].copy_from_slice(&number.to_be_bytes());
    front[8..].copy_from_slice(MARKER);
    blake3::Hasher::new()
        .update(front)
        .finalize_xof()
        .fill(rest);
    bytes
}

fn send(
    socket: &UdpSocket,
    target: SocketAddr,
    journal: &Journal<Notes>,
    interval: Duration,
    size: usize,
) {
    let start = Instant::now();
    let mut turn = 0_u32;
    while !journal.stopped() {
        let number = journal.notes().sent.len() as u64;
        // Refused by the kernel (no interface yet): the number is used again.
        if socket.send_to(&datagram(number, size), target).is_ok() {
            journal.notes().sent.push(Instant::now());
        }
        turn += 1;
        let due = start + interval * turn;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, journal: &Journal<Notes>, astray: bool) {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                let mut notes = journal.notes();
                if astray {
                    notes.astray += 1;
                    continue;
                }
                let number = bytes
                    .first_chunk()
                    .map(|number| u64::from_be_bytes(*number));
                match number.filter(|number| datagram(*number, length.max(LEAST)) == bytes) {
                    None => notes.changed += 1,
                    Some(number) => {
                        if notes.arrived.insert(number, Instant::now()).is_some() {
                            notes.duplicates += 1;
                        } else if number < notes.next {
                            notes.overtaken += 1;
                        }
                        notes.next = notes.next.max(number + 1);
                    }
                }
            }
            Err(error) if is_timeout(&error) => {
                if journal.stopped() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
