//! Round-trip times, by ICMPv6 echo requests that the other end's kernel answers.
//!
//! As `ping` does it: a request carries nothing but its number, the time of sending is noted before the call, and the
//! time of arrival is the kernel's, so that what is measured is the network and not when this program is woken.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use netns_tests::lab::Host;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use super::Bench;
use super::bulk::Streams;
use crate::macro_suite::results::Samples;

const REQUEST: u8 = 128;
const REPLY: u8 = 129;
const HEADER: usize = 8;
const PAYLOAD: usize = 56;
/// Pings that are not counted: the first ones set things up.
const WARM_UP: u32 = 50;
/// Pings one after another.
const SINGLE: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);
/// Time between pings beside other traffic.
const INTERVAL: Duration = Duration::from_millis(2);
/// A reply that has not come by then is lost.
const LOST: Duration = Duration::from_secs(1);
/// How often a waiting receiver looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

/// A socket for requests of one identifier.
struct Echo {
    socket: Socket,
    target: SocketAddrV6,
    id: u16,
}

/// The number in a reply, and when the kernel got it.
struct Reply {
    number: u32,
    arrived: Duration,
}

impl Echo {
    fn open(host: &Host, target: Ipv6Addr) -> anyhow::Result<Self> {
        let socket = host
            .inside(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)))?
            .context("raw ICMPv6 socket")?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Self {
            socket,
            target: SocketAddrV6::new(target, 0, 0, 0),
            id: 0x4d59,
        })
    }

    /// When it was sent.
    fn request(&self, number: u32) -> anyhow::Result<Duration> {
        let mut packet = [0; HEADER + PAYLOAD];
        packet[0] = REQUEST;
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[8..12].copy_from_slice(&number.to_be_bytes());
        let sent = SystemTime::now().duration_since(UNIX_EPOCH)?;
        self.socket
            .send_to(&packet, &SocketAddr::V6(self.target).into())
            .context("send an echo request")?;
        Ok(sent)
    }

    /// `None`: nothing for a while, or something else.
    fn reply(&self) -> anyhow::Result<Option<Reply>> {
        let mut bytes = [0; 1500];
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let (length, arrived) = match received {
            Ok(message) => (
                message.bytes,
                message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                    _ => None,
                }),
            ),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let packet = &bytes[..length];
        if length != HEADER + PAYLOAD || packet[0] != REPLY || packet[4..6] != self.id.to_be_bytes()
        {
            return Ok(None);
        }
        let mut number = [0; 4];
        number.copy_from_slice(&packet[8..12]);
        Ok(Some(Reply {
            number: u32::from_be_bytes(number),
            arrived: arrived.context("no time of arrival")?,
        }))
    }

    /// Send one and wait for its reply.
    fn once(&self, number: u32) -> anyhow::Result<Option<Duration>> {
        let sent = self.request(number)?;
        let deadline = Instant::now() + LOST;
        while Instant::now() < deadline {
            if let Some(reply) = self.reply()?.filter(|reply| reply.number == number) {
                return Ok(Some(reply.arrived.saturating_sub(sent)));
            }
        }
        Ok(None)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The value below which that part of the sorted samples lies.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of samples"
    )]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index.min(last)).copied().unwrap_or_default()
}

/// Without other traffic.
pub(super) fn idle(name: &str, bench: &Bench<'_>, samples: &mut Samples) -> anyhow::Result<()> {
    let echo = Echo::open(&bench.testbed.a, bench.overlay.b)?;
    let mut times = Vec::new();
    let mut lost = 0_u32;
    for number in 0..WARM_UP + SINGLE {
        let time = echo.once(number)?;
        if number >= WARM_UP {
            lost += u32::from(time.is_none());
            times.extend(time);
        }
        ensure!(lost < 10, "{lost} of {number} pings are lost");
        std::thread::sleep(PAUSE);
    }
    times.sort_unstable();
    samples.add(name, "median µs", micros(quantile(&times, 0.5)));
    samples.add(name, "p99 µs", micros(quantile(&times, 0.99)));
    samples.add(name, "lost", f64::from(lost));
    Ok(())
}

/// Beside a TCP stream in the same direction.
pub(super) fn under_load(
    name: &str,
    bench: &Bench<'_>,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let streams = Streams::start(&bench.testbed.a, &bench.testbed.b, bench.overlay.b, 1)?;
    streams.warm_up();
    let echo = Echo::open(&bench.testbed.a, bench.overlay.b)?;
    let stop = AtomicBool::new(false);
    let span = streams.span(&bench.overlay.daemons)?;
    let (sent, arrived) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let receiver = scope.spawn(|| -> anyhow::Result<BTreeMap<u32, Duration>> {
            let mut arrived = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                if let Some(reply) = echo.reply()? {
                    arrived.entry(reply.number).or_insert(reply.arrived);
                }
            }
            Ok(arrived)
        });
        let sent = send_steadily(&echo, bench.duration.max(INTERVAL * 1000));
        std::thread::sleep(LOST);
        stop.store(true, Ordering::Relaxed);
        let arrived = receiver
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        Ok((sent?, arrived))
    })?;
    let spent = streams.spent(&span)?;
    let mut times: Vec<Duration> = sent
        .iter()
        .filter_map(|(number, sent)| Some(arrived.get(number)?.saturating_sub(*sent)))
        .collect();
    times.sort_unstable();
    ensure!(!times.is_empty(), "no ping came back");
    samples.add(name, "p50 ms", micros(quantile(&times, 0.5)) / 1e3);
    samples.add(name, "p99 ms", micros(quantile(&times, 0.99)) / 1e3);
    samples.add(name, "max ms", micros(quantile(&times, 1.0)) / 1e3);
    samples.add(name, "lost", (sent.len() - times.len()) as f64);
    samples.add(name, "Gb/s", spent.bytes * 8e-9 / spent.seconds);
    Ok(())
}

fn send_steadily(echo: &Echo, duration: Duration) -> anyhow::Result<Vec<(u32, Duration)>> {
    let started = Instant::now();
    let mut next = started;
    let mut sent = Vec::new();
    let mut number = 0;
    while started.elapsed() < duration {
        sent.push((number, echo.request(number)?));
        number += 1;
        next += INTERVAL;
        match next.checked_duration_since(Instant::now()) {
            Some(pause) => std::thread::sleep(pause),
            // Late by a scheduling delay: no catching up in a burst.
            None => next = Instant::now(),
        }
    }
    Ok(sent)
}
