//! A wire that is not what it seems: everything between two ends of a native link passes it, and some of it comes out
//! otherwise (docs/protocol.md §15). QUIC on the same port passes untouched.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::daemon::PORT;
use crate::lab::{Host, Port};

/// Where the sealed part of a datagram begins, and the body of data.
const SEALED: usize = 25;
const BODY: usize = 58;
const MEMORY: usize = 512;

/// One way of misbehaving towards datagrams of native links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireMischief {
    /// None.
    Honest,
    /// Everything at once again, and something old with it.
    Replay,
    /// Everything also back to its sender.
    Reflect,
    /// Every other datagram with a bit flipped, each time elsewhere in its first 90 bytes or its last 16.
    Flip,
    /// Every other datagram cut short.
    Truncate,
    /// Sealed headers exchanged between datagrams, the tails of their bodies, which seal them to the header, with them.
    Splice,
    /// Everything a moment earlier from an address of ours as well; what comes back there is passed on, too.
    Race,
    /// As `Race`, but what comes back there is kept.
    RaceAndKeep,
}

impl WireMischief {
    /// All but none.
    pub const ALL: [Self; 7] = [
        Self::Replay,
        Self::Reflect,
        Self::Flip,
        Self::Truncate,
        Self::Splice,
        Self::Race,
        Self::RaceAndKeep,
    ];
}

/// A UDP relay on a host between two others, which the dialling node takes for its peer.
#[derive(Debug)]
pub struct Wiretap {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mischief: Mutex<WireMischief>,
    misdeeds: AtomicU64,
    stop: AtomicBool,
    /// Towards the dialling node, whose address is learnt; towards the other; the second of each is the racer's.
    left: [UdpSocket; 2],
    right: [UdpSocket; 2],
    dialler: Mutex<Option<SocketAddr>>,
    target: SocketAddr,
}

impl Wiretap {
    /// Listen on `host` at the port of nodes and pass everything on to `target`.
    pub fn start(host: &Arc<Host>, target: &Port) -> anyhow::Result<Self> {
        let bind = |port: u16| -> anyhow::Result<UdpSocket> {
            let socket = host
                .inside(|| UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?
                .with_context(|| format!("wiretap on {}", host.name()))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(socket)
        };
        let shared = Arc::new(Shared {
            mischief: Mutex::new(WireMischief::Honest),
            misdeeds: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            left: [bind(PORT)?, bind(0)?],
            right: [bind(0)?, bind(0)?],
            dialler: Mutex::new(None),
            target: SocketAddr::from((target.v4(), PORT)),
        });
        for (leftwards, racer) in [(false, false), (true, false), (false, true), (true, true)] {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("wiretap".into())
                .spawn(move || shared.pass(leftwards, racer))?;
        }
        Ok(Self { shared })
    }

    /// Do this with everything from now on.
    pub fn commit(&self, mischief: WireMischief) {
        self.shared.misdeeds.store(0, Ordering::Relaxed);
        *guard(&self.shared.mischief) = mischief;
    }

    /// How many datagrams the mischief has touched since it began.
    pub fn misdeeds(&self) -> u64 {
        self.shared.misdeeds.load(Ordering::Relaxed)
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Carry one direction: from the sockets towards one end to those towards the other.
    fn pass(&self, leftwards: bool, racer: bool) {
        let place = usize::from(racer);
        let (from, to) = match leftwards {
            false => (&self.left, &self.right),
            true => (&self.right, &self.left),
        };
        let mut direction = Direction::default();
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((length, source)) = from[place].recv_from(&mut buffer) else {
                continue;
            };
            if !leftwards && !racer {
                *guard(&self.dialler) = Some(source);
            }
            let towards = match leftwards {
                false => Some(self.target),
                true => *guard(&self.dialler),
            };
            let Some(towards) = towards else { continue };
            let mischief = *guard(&self.mischief);
            let datagram = buffer.get(..length).unwrap_or_default();
            if racer {
                // Somebody took our address for the other end's.
                if mischief != WireMischief::RaceAndKeep {
                    let _ = to[0].send_to(datagram, towards);
                }
                continue;
            }
            let native = datagram
                .first()
                .is_some_and(|first| (4..16).contains(first));
            let acts = native && mischief != WireMischief::Honest;
            if !acts {
                let _ = to[0].send_to(datagram, towards);
                continue;
            }
            if matches!(mischief, WireMischief::Race | WireMischief::RaceAndKeep) {
                self.misdeeds.fetch_add(1, Ordering::Relaxed);
                let _ = to[1].send_to(datagram, towards);
                let _ = to[0].send_to(datagram, towards);
                continue;
            }
            if mischief == WireMischief::Reflect {
                let _ = from[0].send_to(datagram, source);
            }
            let (outcome, touched) = direction.handle(mischief, datagram.to_vec());
            self.misdeeds
                .fetch_add(u64::from(touched), Ordering::Relaxed);
            for datagram in outcome {
                let _ = to[0].send_to(&datagram, towards);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Direction {
    count: u64,
    touched: usize,
    kept: VecDeque<Vec<u8>>,
}

impl Direction {
    /// What to send instead, and whether that is more than the datagram.
    fn handle(&mut self, mischief: WireMischief, mut datagram: Vec<u8>) -> (Vec<Vec<u8>>, bool) {
        self.count += 1;
        let scatter = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let strikes = scatter & 1 == 1;
        match mischief {
            WireMischief::Replay => {
                let old = usize::try_from(scatter).unwrap_or(0) % self.kept.len().max(1);
                let old = self.kept.get(old).cloned();
                if self.kept.len() == MEMORY {
                    self.kept.pop_front();
                }
                self.kept.push_back(datagram.clone());
                let again = datagram.clone();
                (old.into_iter().chain([datagram, again]).collect(), true)
            }
            WireMischief::Flip if strikes && !datagram.is_empty() => {
                let turn = self.touched;
                self.touched += 1;
                // The first byte tells it from QUIC; another kind of ours is as good as any.
                let at = match turn % 106 {
                    turn @ 0..90 => turn,
                    turn => datagram.len().saturating_sub(turn - 89),
                };
                let bit = if at == 0 {
                    turn / 106 % 2
                } else {
                    turn / 106 % 8
                };
                let at = at % datagram.len();
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                (vec![datagram], true)
            }
            WireMischief::Truncate if strikes && !datagram.is_empty() => {
                let turn = self.touched;
                self.touched += 1;
                datagram.truncate(1 + turn % datagram.len());
                (vec![datagram], true)
            }
            WireMischief::Splice if datagram.len() > BODY + 16 => self.splice(datagram),
            _ => (vec![datagram], mischief == WireMischief::Reflect),
        }
    }

    /// Wait for a second datagram of the same size; then each goes with the other's header and tail.
    fn splice(&mut self, datagram: Vec<u8>) -> (Vec<Vec<u8>>, bool) {
        let fits =
            |kept: &Vec<u8>| kept.len() == datagram.len() && kept.first() == datagram.first();
        let Some(other) = self
            .kept
            .iter()
            .position(fits)
            .and_then(|at| self.kept.remove(at))
        else {
            if self.kept.len() < 4 && self.count.is_multiple_of(3) {
                self.kept.push_back(datagram);
                return (Vec::new(), false);
            }
            return (vec![datagram], false);
        };
        let tail = datagram.len() - 16;
        let mix = |head: &[u8], body: &[u8], from: usize| {
            let mut mixed = body.to_vec();
            for range in [0..from, tail..body.len()] {
                if let (Some(to), Some(bytes)) = (mixed.get_mut(range.clone()), head.get(range)) {
                    to.copy_from_slice(bytes);
                }
            }
            mixed
        };
        let spliced = vec![
            mix(&datagram, &other, BODY),
            mix(&other, &datagram, BODY),
            mix(&datagram, &other, SEALED),
            mix(&other, &datagram, SEALED),
        ];
        (spliced, true)
    }
}
