//! TCP streams, and what the daemons spend on them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::lab::Host;

use super::Bench;
use crate::macro_suite::process::{CpuClock, Daemon};
use crate::macro_suite::results::Samples;

/// Bytes per write and read.
const BLOCK: usize = 128 << 10;
/// Until the congestion window has opened.
const WARM_UP: Duration = Duration::from_millis(700);
const CONNECT: Duration = Duration::from_secs(10);
/// How often a blocked thread looks whether it should stop.
const LOOK: Duration = Duration::from_millis(200);

/// Streams under way. They end when this is dropped.
pub(super) struct Streams {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sockets: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

/// One span of a measurement.
pub(super) struct Span<'a> {
    daemons: &'a [Daemon],
    clocks: Vec<CpuClock>,
    bytes: u64,
    started: Instant,
}

/// What a span came to.
pub(super) struct Spent {
    pub(super) bytes: f64,
    pub(super) seconds: f64,
    /// Processor seconds by role.
    pub(super) cpu: Vec<(String, f64)>,
}

impl Streams {
    /// Let `count` streams run from `from` to `to`, whose address is `address`.
    pub(super) fn start(
        from: &Host,
        to: &Host,
        address: Ipv6Addr,
        count: usize,
    ) -> anyhow::Result<Self> {
        let listener = to
            .inside(|| TcpListener::bind(SocketAddr::from((address, 0))))?
            .with_context(|| format!("listen on {address}"))?;
        let target = listener.local_addr()?;
        let mut streams = Self {
            stop: Arc::new(AtomicBool::new(false)),
            received: Arc::new(AtomicU64::new(0)),
            sockets: Vec::new(),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let sender = from
                .inside(|| TcpStream::connect_timeout(&target, CONNECT))?
                .with_context(|| format!("connect from {}", from.name()))?;
            let (receiver, _) = listener.accept()?;
            sender.set_write_timeout(Some(LOOK))?;
            receiver.set_read_timeout(Some(LOOK))?;
            streams.sockets.push(sender.try_clone()?);
            let stop = Arc::clone(&streams.stop);
            streams.threads.push(
                std::thread::Builder::new()
                    .name("send".into())
                    .spawn(move || send(sender, &stop))?,
            );
            let (stop, received) = (Arc::clone(&streams.stop), Arc::clone(&streams.received));
            streams.threads.push(
                std::thread::Builder::new()
                    .name("receive".into())
                    .spawn(move || receive(receiver, &stop, &received))?,
            );
        }
        Ok(streams)
    }

    /// Let them come to full rate.
    pub(super) fn warm_up(&self) {
        std::thread::sleep(WARM_UP);
    }

    /// Start measuring.
    pub(super) fn span<'a>(&self, daemons: &'a [Daemon]) -> anyhow::Result<Span<'a>> {
        Ok(Span {
            daemons,
            clocks: daemons
                .iter()
                .map(Daemon::cpu)
                .collect::<anyhow::Result<_>>()?,
            bytes: self.received.load(Ordering::Relaxed),
            started: Instant::now(),
        })
    }

    /// Stop measuring.
    pub(super) fn spent(&self, span: &Span<'_>) -> anyhow::Result<Spent> {
        let bytes = self.received.load(Ordering::Relaxed) - span.bytes;
        let seconds = span.started.elapsed().as_secs_f64();
        let mut cpu = Vec::new();
        for (daemon, before) in span.daemons.iter().zip(&span.clocks) {
            cpu.push((daemon.role().to_owned(), daemon.cpu()?.since(before)));
        }
        ensure!(bytes > 0, "the streams stand still");
        Ok(Spent {
            bytes: bytes as f64,
            seconds,
            cpu,
        })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Wakes both threads; an error means that the stream has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) {
    let block = vec![0xa5; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&block) {
            Err(error) if !is_timeout(error.kind()) => return,
            _ => {}
        }
    }
}

fn receive(mut stream: TcpStream, stop: &AtomicBool, received: &AtomicU64) {
    let mut block = vec![0; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut block) {
            Ok(0) => return,
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if !is_timeout(error.kind()) => return,
            Err(_) => {}
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// Rate, and processor seconds per gigabyte of each daemon and of all.
pub(super) fn measure(
    name: &str,
    bench: &Bench<'_>,
    streams: usize,
    reverse: bool,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let (testbed, overlay) = (bench.testbed, bench.overlay);
    let running = match reverse {
        false => Streams::start(&testbed.a, &testbed.b, overlay.b, streams)?,
        true => Streams::start(&testbed.b, &testbed.a, overlay.a, streams)?,
    };
    running.warm_up();
    let span = running.span(&overlay.daemons)?;
    std::thread::sleep(bench.duration);
    let spent = running.spent(&span)?;
    samples.add(name, "Gb/s", spent.bytes * 8e-9 / spent.seconds);
    let gigabytes = spent.bytes * 1e-9;
    samples.add(
        name,
        "CPU-s/GB",
        spent.cpu.iter().map(|(_, cpu)| cpu).sum::<f64>() / gigabytes,
    );
    for (role, cpu) in &spent.cpu {
        samples.add(name, &format!("CPU-s/GB of {role}"), cpu / gigabytes);
    }
    Ok(())
}
