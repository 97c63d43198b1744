//! A steady stream of echo requests, to see when a path works, how long it was gone and what was lost.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};

use super::icmp::{IcmpError, Message, echo_request, identifier, is_timeout, open, parse};
use super::journal::Journal;
use crate::lab::Host;
use crate::wait;

/// Bytes of payload: a 4-byte number that outlives the 16-bit sequence number, and filling.
const PAYLOAD: usize = 56;

#[derive(Debug, Default)]
struct Notes {
    /// When each request was handed to the kernel.
    sent: Vec<Instant>,
    /// When its first reply arrived.
    answered: Vec<Option<Instant>>,
    duplicates: usize,
    refused: usize,
    errors: Vec<(Instant, Ipv6Addr, IcmpError)>,
}

/// Sends echo requests at a fixed interval until stopped.
#[derive(Debug)]
pub struct Pinger {
    journal: Arc<Journal<Notes>>,
    interval: Duration,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

/// What became of the requests of a [`Pinger`].
#[derive(Clone, Debug)]
pub struct PingReport {
    /// Time between requests.
    pub interval: Duration,
    /// Requests that the kernel took, in order.
    pub sent: Vec<Instant>,
    /// Arrival of the reply to each of them.
    pub answered: Vec<Option<Instant>>,
    /// Replies to a request that already had one.
    pub duplicates: usize,
    /// Requests that the kernel refused (no route, no interface).
    pub refused: usize,
    /// ICMPv6 errors: when, from whom, what.
    pub errors: Vec<(Instant, Ipv6Addr, IcmpError)>,
}

impl Pinger {
    /// Ping `target` from `host` every `interval`. Refused requests (no interface yet) are repeated.
    pub fn start(host: &Host, target: Ipv6Addr, interval: Duration) -> anyhow::Result<Self> {
        Self::start_bound(host, None, target, interval)
    }

    /// As [`Pinger::start`], from this source address.
    pub fn start_bound(
        host: &Host,
        source: Option<Ipv6Addr>,
        target: Ipv6Addr,
        interval: Duration,
    ) -> anyhow::Result<Self> {
        let socket = open(host, source)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let journal = Journal::<Notes>::start();
        let id = identifier();
        let sending = (socket.try_clone()?, Arc::clone(&journal));
        let receiving = (socket, Arc::clone(&journal));
        let sender = std::thread::Builder::new()
            .name("ping-send".into())
            .spawn(move || send(&sending.0, &sending.1, id, target, interval))?;
        let receiver = std::thread::Builder::new()
            .name("ping-receive".into())
            .spawn(move || receive(&receiving.0, &receiving.1, id))?;
        Ok(Self {
            journal,
            interval,
            sender: Some(sender),
            receiver: Some(receiver),
        })
    }

    /// Wait for the reply to any request sent at or after `since`; its arrival.
    pub fn reply_since(&self, since: Instant, limit: Duration) -> anyhow::Result<Instant> {
        wait::until("a reply to a ping", limit, || {
            let notes = self.journal.notes();
            Ok(notes
                .sent
                .iter()
                .zip(&notes.answered)
                .rev()
                .take_while(|(sent, _)| **sent >= since)
                .filter_map(|(_, answered)| *answered)
                .min())
        })
        .map_err(|error| {
            let notes = self.journal.notes();
            anyhow!(
                "{error} ({} sent, {} refused by the kernel, {} answered, last error {:?})",
                notes.sent.len(),
                notes.refused,
                notes.answered.iter().flatten().count(),
                notes.errors.last()
            )
        })
    }

    /// Wait for any reply.
    pub fn first_reply(&self, limit: Duration) -> anyhow::Result<Instant> {
        let start = self.journal.notes().sent.first().copied();
        self.reply_since(start.unwrap_or_else(Instant::now), limit)
    }

    /// Wait until `count` consecutive requests sent after `since` were answered; arrival of the first of their replies.
    pub fn steady_since(
        &self,
        since: Instant,
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Instant> {
        wait::until("steady replies to pings", limit, || {
            let notes = self.journal.notes();
            let from = notes.sent.partition_point(|sent| *sent < since);
            let run = notes
                .answered
                .get(from..)
                .unwrap_or_default()
                .windows(count)
                .find_map(|window| {
                    window
                        .iter()
                        .all(Option::is_some)
                        .then(|| window.first().copied().flatten())
                        .flatten()
                });
            Ok(run)
        })
    }

    /// Stop sending, allow `grace` for replies under way, and report.
    pub fn stop(mut self, grace: Duration) -> anyhow::Result<PingReport> {
        let sent = self.journal.notes().sent.len();
        let _ = wait::until("replies under way", grace, || {
            let notes = self.journal.notes();
            Ok(notes
                .answered
                .iter()
                .take(sent)
                .all(Option::is_some)
                .then_some(()))
        });
        self.journal.stop();
        for thread in [self.sender.take(), self.receiver.take()]
            .into_iter()
            .flatten()
        {
            thread
                .join()
                .map_err(|_| anyhow!("a ping thread panicked"))?;
        }
        let mut notes = self.journal.notes();
        let notes = std::mem::take(&mut *notes);
        let mut report = PingReport {
            interval: self.interval,
            sent: notes.sent,
            answered: notes.answered,
            duplicates: notes.duplicates,
            refused: notes.refused,
            errors: notes.errors,
        };
        // What was sent during the grace period may still be under way.
        report.sent.truncate(sent);
        report.answered.truncate(sent);
        Ok(report)
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.journal.stop();
    }
}

impl PingReport {
    /// Requests without a reply.
    pub fn lost(&self) -> usize {
        self.answered
            .iter()
            .filter(|answer| answer.is_none())
            .count()
    }

    /// Requests without a reply that were sent in `[from, to)`.
    pub fn lost_between(&self, from: Instant, to: Instant) -> usize {
        self.sent
            .iter()
            .zip(&self.answered)
            .filter(|(sent, answer)| (from..to).contains(*sent) && answer.is_none())
            .count()
    }

    /// The outage as a user sees it: the longest time from `since` on without a reply arriving, less one interval.
    ///
    /// # Errors
    /// When nothing arrived after `since`.
    pub fn outage(&self, since: Instant) -> anyhow::Result<Duration> {
        let mut arrivals: Vec<Instant> = self.answered.iter().flatten().copied().collect();
        arrivals.sort_unstable();
        let from = arrivals.partition_point(|arrival| *arrival < since);
        ensure!(from < arrivals.len(), "no reply after the failure");
        let gap = arrivals
            .get(from.saturating_sub(1)..)
            .unwrap_or_default()
            .windows(2)
            .filter_map(|pair| Some(pair.get(1)?.duration_since(*pair.first()?)))
            .max()
            .context("no reply after the failure")?;
        Ok(gap.saturating_sub(self.interval))
    }

    /// Median round-trip time of the answered requests.
    pub fn round_trip(&self) -> Duration {
        let times: Vec<Duration> = self
            .sent
            .iter()
            .zip(&self.answered)
            .filter_map(|(sent, answer)| Some(answer.as_ref()?.duration_since(*sent)))
            .collect();
        crate::figures::median(&times)
    }
}

fn send(
    socket: &UdpSocket,
    journal: &Journal<Notes>,
    id: u16,
    target: Ipv6Addr,
    interval: Duration,
) {
    let to = SocketAddrV6::new(target, 0, 0, 0);
    let mut next = Instant::now();
    let mut number = 0_u32;
    let mut payload = [0xa5; PAYLOAD];
    while !journal.stopped() {
        if let Some((front, _)) = payload.split_at_mut_checked(4) {
            front.copy_from_slice(&number.to_be_bytes());
        }
        let sequence = u16::try_from(number & 0xffff).unwrap_or_default();
        let request = echo_request(id, sequence, &payload);
        {
            // Held across the send: the reply may be in before this thread runs again.
            let mut notes = journal.notes();
            match socket.send_to(&request, to) {
                Ok(_) => {
                    notes.sent.push(Instant::now());
                    notes.answered.push(None);
                    number += 1;
                }
                Err(_) => notes.refused += 1,
            }
        }
        next += interval;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(pause) => std::thread::sleep(pause),
            // Late by a scheduling delay: carry on from here, no catching up in a burst.
            None => next = now,
        }
    }
}

fn receive(socket: &UdpSocket, journal: &Journal<Notes>, id: u16) {
    let mut buffer = vec![0; 65_536];
    while !journal.stopped() {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => continue,
            // A raw socket reports nothing worth stopping for: the interface may come and go.
            Err(_) => continue,
        };
        let now = Instant::now();
        let SocketAddr::V6(from) = from else { continue };
        match parse(buffer.get(..length).unwrap_or_default()) {
            Some(Message::EchoReply {
                id: of, payload, ..
            }) if of == id && payload.len() == PAYLOAD => {
                let Some(number) = payload.first_chunk::<4>() else {
                    continue;
                };
                let index = u32::from_be_bytes(*number) as usize;
                let mut notes = journal.notes();
                match notes.answered.get_mut(index) {
                    Some(slot @ None) => *slot = Some(now),
                    Some(Some(_)) => notes.duplicates += 1,
                    None => {}
                }
            }
            Some(Message::Error(error)) if error.id == id => {
                journal.notes().errors.push((now, *from.ip(), error));
            }
            _ => {}
        }
    }
}

/// Send `count` requests back to back as soon as the kernel takes the first one, and wait up to `limit` for the replies.
/// How many were lost, and when the first was taken and the first reply arrived.
pub fn burst(host: &Host, target: Ipv6Addr, count: u16, limit: Duration) -> anyhow::Result<Burst> {
    let socket = open(host, None)?;
    let id = identifier();
    let to = SocketAddrV6::new(target, 0, 0, 0);
    let deadline = Instant::now() + limit;
    let first = loop {
        match socket.send_to(&echo_request(id, 0, &[0; PAYLOAD]), to) {
            Ok(_) => break Instant::now(),
            Err(error) => ensure!(
                Instant::now() < deadline,
                "no interface to send from: {error}"
            ),
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    for sequence in 1..count {
        socket.send_to(&echo_request(id, sequence, &[0; PAYLOAD]), to)?;
    }
    let mut seen = vec![false; count.into()];
    let mut first_reply = None;
    let mut buffer = vec![0; 65_536];
    while seen.contains(&false) {
        let Some(left) = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        else {
            break;
        };
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv_from(&mut buffer) {
            Ok((length, _)) => length,
            Err(error) if is_timeout(&error) => break,
            Err(error) => return Err(error.into()),
        };
        if let Some(Message::EchoReply {
            id: of, sequence, ..
        }) = parse(buffer.get(..length).unwrap_or_default())
            && of == id
            && let Some(slot) = seen.get_mut(usize::from(sequence))
        {
            *slot = true;
            first_reply.get_or_insert_with(Instant::now);
        }
    }
    Ok(Burst {
        first,
        first_reply,
        lost: seen.iter().filter(|seen| !**seen).count(),
    })
}

/// Outcome of [`burst`].
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// When the kernel took the first request.
    pub first: Instant,
    /// When the first reply arrived.
    pub first_reply: Option<Instant>,
    /// Requests that were never answered.
    pub lost: usize,
}
