//! Numbered UDP datagrams: how many a second get through, and in which order.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::lab::Host;
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn6, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::Bench;
use super::bulk::Streams;
use crate::macro_suite::results::Samples;

/// IPv6 and UDP.
const HEADERS: usize = 48;
/// Packets in one call of `sendmmsg` or `recvmmsg`, at most.
const BATCH: usize = 64;
/// Packets in one send with `UDP_SEGMENT`.
const SEGMENTS: usize = 32;
/// Room in the receiver's socket: it is not what is measured.
const BUFFER: usize = 16 << 20;
/// How long one rate is tried.
const TRIAL: Duration = Duration::from_millis(600);
/// Part that may be lost.
const TOLERABLE: f64 = 0.001;
/// Where a search starts that knows nothing, packets a second.
const FIRST_RATE: f64 = 20_000.0;
/// Rates tried in one search, at most.
const TRIALS: u32 = 16;
/// A search ends when what succeeded and what failed are this close.
const CLOSE: f64 = 1.06;
/// How often a waiting receiver looks whether it should stop.
const LOOK: Duration = Duration::from_millis(60);
/// The flow beside a TCP stream.
const BESIDE: Flow = Flow {
    size: 512,
    segmented: false,
    rate: 5000.0,
    bursts: false,
};
/// How long a flow in bursts sends, and how long from one burst to the next: a node that lets flows go first which send
/// little takes it for one of those anew each time.
const BURST: Duration = Duration::from_millis(20);
const EACH: Duration = Duration::from_millis(250);

/// What is sent.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Bytes of each packet, IPv6 and UDP headers included.
    size: usize,
    segmented: bool,
    /// Packets a second.
    rate: f64,
    /// With pauses.
    bursts: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    sent: u64,
    received: u64,
    /// Packets with a number below one that had arrived before.
    late: u64,
    seconds: f64,
}

impl Outcome {
    fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    fn rate(&self) -> f64 {
        self.received as f64 / self.seconds
    }
}

/// Let a flow run for `duration`.
fn trial(
    from: &Host,
    to: &Host,
    address: Ipv6Addr,
    flow: Flow,
    duration: Duration,
) -> anyhow::Result<Outcome> {
    let receiver = to
        .inside(|| UdpSocket::bind(SocketAddr::from((address, 0))))?
        .with_context(|| format!("bind to {address}"))?;
    receiver.set_read_timeout(Some(LOOK))?;
    setsockopt(&receiver, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&receiver, sockopt::RcvBuf, &BUFFER))?;
    let target = receiver.local_addr()?;
    let sender = from.inside(|| UdpSocket::bind("[::]:0"))??;
    sender.connect(target)?;
    let payload = flow.size.saturating_sub(HEADERS).max(8);
    if flow.segmented {
        setsockopt(&sender, sockopt::UdpGsoSegment, &i32::try_from(payload)?)?;
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, payload, &stop));
        let sent = Sender::new(&sender, payload, flow).run(duration);
        stop.store(true, Ordering::Relaxed);
        let received = receiving
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let (sent, seconds) = sent?;
        Ok(Outcome {
            sent,
            seconds,
            ..received
        })
    })
}

/// Sends packets at a steady rate.
struct Sender<'a> {
    socket: &'a UdpSocket,
    payload: usize,
    flow: Flow,
    bytes: Vec<u8>,
    headers: MultiHeaders<SockaddrIn6>,
    number: u64,
}

impl<'a> Sender<'a> {
    fn new(socket: &'a UdpSocket, payload: usize, flow: Flow) -> Self {
        Self {
            socket,
            payload,
            flow,
            bytes: vec![0xa5; payload * BATCH],
            headers: MultiHeaders::preallocate(BATCH, None),
            number: 0,
        }
    }

    /// Packets sent, and how long that took. A delay of the sender is not caught up with: the burst would measure the
    /// queues, not the rate.
    fn run(mut self, duration: Duration) -> anyhow::Result<(u64, f64)> {
        let started = Instant::now();
        let mut credit = 0.0;
        let mut last = started;
        let least = if self.flow.segmented { SEGMENTS } else { 1 };
        let interval = Duration::from_secs_f64(least as f64 / self.flow.rate);
        loop {
            let now = Instant::now();
            if now.duration_since(started) >= duration {
                return Ok((self.number, now.duration_since(started).as_secs_f64()));
            }
            credit += now.duration_since(last).as_secs_f64() * self.flow.rate;
            credit = credit.min((2 * BATCH) as f64);
            last = now;
            let phase = (now - started).as_nanos() % EACH.as_nanos();
            if self.flow.bursts && phase >= BURST.as_nanos() {
                credit = 0.0;
            }
            if credit < least as f64 {
                std::thread::sleep(
                    interval.clamp(Duration::from_micros(60), Duration::from_millis(5)),
                );
                continue;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 128"
            )]
            let due = credit as usize;
            credit -= self.send(due)? as f64;
        }
    }

    /// How many were sent, about `due`.
    fn send(&mut self, due: usize) -> anyhow::Result<usize> {
        let count = if self.flow.segmented {
            SEGMENTS
        } else {
            due.min(BATCH)
        };
        for (packet, number) in self
            .bytes
            .chunks_mut(self.payload)
            .take(count)
            .zip(self.number..)
        {
            packet[..8].copy_from_slice(&number.to_be_bytes());
        }
        let sent = if self.flow.segmented {
            match self.socket.send(&self.bytes[..count * self.payload]) {
                Ok(_) => count,
                Err(error) if is_full(error.raw_os_error()) => 0,
                Err(error) => return Err(error).context("send"),
            }
        } else {
            let slices: Vec<[IoSlice<'_>; 1]> = self
                .bytes
                .chunks(self.payload)
                .take(count)
                .map(|packet| [IoSlice::new(packet)])
                .collect();
            let nowhere = vec![None; count];
            let fd = self.socket.as_raw_fd();
            match sendmmsg(
                fd,
                &mut self.headers,
                &slices,
                nowhere,
                [],
                MsgFlags::empty(),
            ) {
                Ok(sent) => sent.count(),
                Err(errno) if is_full(Some(errno as i32)) => 0,
                Err(errno) => return Err(errno).context("sendmmsg"),
            }
        };
        self.number += sent as u64;
        Ok(sent)
    }
}

/// The interface has no room, or an earlier packet has met an error: not the end.
fn is_full(errno: Option<i32>) -> bool {
    [
        Errno::ENOBUFS,
        Errno::EAGAIN,
        Errno::EINTR,
        Errno::ECONNREFUSED,
    ]
    .into_iter()
    .any(|known| Some(known as i32) == errno)
}

fn receive(socket: &UdpSocket, payload: usize, stop: &AtomicBool) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut bytes = vec![0; payload * BATCH];
    let mut headers = MultiHeaders::<SockaddrIn6>::preallocate(BATCH, None);
    let mut next = 0;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = bytes
            .chunks_mut(payload)
            .map(|packet| [IoSliceMut::new(packet)])
            .collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) {
            Ok(received) => received.count(),
            Err(Errno::EAGAIN) if stopping => return Ok(outcome),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => return Err(errno).context("recvmmsg"),
        };
        for packet in bytes.chunks(payload).take(received) {
            let mut number = [0; 8];
            number.copy_from_slice(&packet[..8]);
            let number = u64::from_be_bytes(number);
            outcome.received += 1;
            outcome.late += u64::from(number < next);
            next = next.max(number + 1);
        }
    }
}

/// The highest rate at which no more than [`TOLERABLE`] is lost, twice in a row not.
pub(super) fn measure(
    name: &str,
    bench: &Bench<'_>,
    size: usize,
    segmented: bool,
    earlier: &Samples,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    const UNIT: &str = "kpps";
    let (testbed, overlay) = (bench.testbed, bench.overlay);
    let hint = earlier.median(name, UNIT).map(|thousands| thousands * 1e3);
    let mut rate = hint.map_or(FIRST_RATE, |hint| hint * 0.85);
    let growth = if hint.is_some() { 1.15 } else { 1.5 };
    let (mut good, mut bad) = (0.0, f64::INFINITY);
    let mut best = Outcome::default();
    let mut late = 0;
    let mut failed_once = false;
    for _ in 0..TRIALS {
        let flow = Flow {
            size,
            segmented,
            rate,
            bursts: false,
        };
        let outcome = trial(&testbed.a, &testbed.b, overlay.b, flow, TRIAL)?;
        ensure!(outcome.received > 0, "no packet of {size} bytes arrives");
        late += outcome.late;
        if outcome.loss() <= TOLERABLE {
            failed_once = false;
            if outcome.rate() > best.rate() || best.sent == 0 {
                best = outcome;
            }
            // The sender does not get that fast on this machine.
            if (outcome.sent as f64) < 0.85 * rate * outcome.seconds {
                break;
            }
            good = rate;
        } else if !failed_once {
            failed_once = true;
            continue;
        } else {
            failed_once = false;
            bad = rate;
        }
        if good > 0.0 && bad / good < CLOSE {
            break;
        }
        rate = match (good > 0.0, bad.is_finite()) {
            (true, false) => good * growth,
            (true, true) => (good * bad).sqrt(),
            (false, _) => rate / 2.0,
        };
    }
    samples.add(name, UNIT, best.rate().max(0.0) / 1e3);
    samples.add(name, "late", late as f64);
    Ok(())
}

/// A steady flow, then one in bursts, beside a TCP stream in the same direction.
pub(super) fn beside_bulk(
    name: &str,
    bench: &Bench<'_>,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let (testbed, overlay) = (bench.testbed, bench.overlay);
    let streams = Streams::start(&testbed.a, &testbed.b, overlay.b, 1)?;
    streams.warm_up();
    let mut late = 0;
    for bursts in [false, true] {
        let flow = Flow { bursts, ..BESIDE };
        let outcome = trial(&testbed.a, &testbed.b, overlay.b, flow, bench.duration)?;
        late += outcome.late;
        if !bursts {
            samples.add(name, "lost ‰", outcome.loss() * 1e3);
        }
    }
    samples.add(name, "late", late as f64);
    Ok(())
}
