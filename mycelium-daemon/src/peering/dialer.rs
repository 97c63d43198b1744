//! One attempt to reach an endpoint: names are resolved, addresses raced.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::native::{DownReason, LinkId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backoff::Failure;
use super::endpoint::{Endpoint, Scheme, Target, canonical, is_inside_overlay};
use crate::link::native::{NativeDialer, NativeError};
use crate::link::quic::{QuicEndpoint, QuicError};
use crate::link::{Established, tcp, vsock};

/// A name's addresses beyond this many are not tried.
const MAX_ADDRESSES: usize = 8;
/// Head start of an address before the next one is tried as well (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// A resolver that takes longer is down.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// All of an attempt: a handshake that has not ended by then leads to no useful link.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Whether QUIC can be used.
#[derive(Clone, Debug)]
pub enum QuicState {
    /// Being set up: wait.
    Starting,
    /// Ready.
    Ready(Arc<QuicEndpoint>),
    /// Switched off.
    Disabled,
}

/// Why an attempt failed, in words for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {host}: {error}")]
    Resolve { host: String, error: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("{host} resolves to {address}, inside the overlay itself")]
    InsideOverlay { host: String, address: IpAddr },
    #[error("{0}")]
    Stream(io::Error),
    #[error("{0}")]
    Quic(QuicError),
    #[error("{0}")]
    Native(NativeError),
    #[error("QUIC is disabled")]
    QuicDisabled,
    #[error("no answer within {} s", ATTEMPT_LIMIT.as_secs())]
    TimedOut,
}

impl DialError {
    /// The native link that there is already to the node that was dialled.
    pub(crate) fn duplicate_of(&self) -> Option<LinkId> {
        match self {
            Self::Native(NativeError::Down(DownReason::Duplicate(link))) => Some(*link),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> Failure {
        match self {
            Self::Stream(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkDown
                        | io::ErrorKind::AddrNotAvailable
                ) =>
            {
                Failure::Immediate
            }
            Self::Native(NativeError::Down(DownReason::Refused)) => Failure::Immediate,
            _ => Failure::Slow,
        }
    }
}

/// Makes attempts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dialer {
    firewall_mark: Option<u32>,
    quic: watch::Receiver<QuicState>,
    native: Option<NativeDialer>,
}

/// How one address is tried.
enum Means {
    Tcp,
    Quic(Arc<QuicEndpoint>),
    Native(NativeDialer, Option<PublicKey>),
}

impl Dialer {
    /// With SO_MARK `firewall_mark` on everything, and QUIC as soon as `quic` has it.
    pub fn new(firewall_mark: Option<u32>, quic: watch::Receiver<QuicState>) -> Self {
        Self {
            firewall_mark,
            quic,
            native: None,
        }
    }

    /// Also with native links, which need the UDP socket of QUIC.
    #[must_use]
    pub fn with_native(mut self, native: NativeDialer) -> Self {
        self.native = Some(native);
        self
    }

    /// SO_MARK of everything sent.
    pub(crate) fn firewall_mark(&self) -> Option<u32> {
        self.firewall_mark
    }

    pub(crate) async fn dial(mut self, endpoint: Endpoint) -> Result<Established, DialError> {
        let means = match endpoint.scheme {
            Scheme::Tcp => Means::Tcp,
            Scheme::Vsock => {
                return timeout(ATTEMPT_LIMIT, dial_vsock(&endpoint.target))
                    .await
                    .map_err(|_| DialError::TimedOut)?
                    .map_err(DialError::Stream);
            }
            Scheme::Quic => Means::Quic(self.quic().await?),
            Scheme::Udp => {
                self.quic().await?;
                let native = self.native.clone();
                let native = native.ok_or(DialError::Native(NativeError::Disabled))?;
                Means::Native(native, endpoint.key)
            }
        };
        let addresses = resolve(&endpoint.target).await?;
        timeout(ATTEMPT_LIMIT, self.race(addresses, means))
            .await
            .map_err(|_| DialError::TimedOut)?
    }

    async fn quic(&mut self) -> Result<Arc<QuicEndpoint>, DialError> {
        let state = self
            .quic
            .wait_for(|state| !matches!(state, QuicState::Starting))
            .await;
        match state.as_deref() {
            Ok(QuicState::Ready(endpoint)) => Ok(Arc::clone(endpoint)),
            _ => Err(DialError::QuicDisabled),
        }
    }

    /// The first link wins; else the last failure counts.
    async fn race(
        &self,
        addresses: Vec<SocketAddr>,
        means: Means,
    ) -> Result<Established, DialError> {
        let attempt = |address| {
            let means = &means;
            async move {
                match means {
                    Means::Tcp => tcp::dial(address, self.firewall_mark)
                        .await
                        .map_err(DialError::Stream),
                    Means::Quic(quic) => quic.dial(address).await.map_err(DialError::Quic),
                    Means::Native(native, key) => {
                        native.dial(address, *key).await.map_err(DialError::Native)
                    }
                }
            }
        };
        let mut waiting = addresses.into_iter();
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if running.is_empty() {
                match waiting.next() {
                    Some(address) => running.push(attempt(address)),
                    None => return Err(failure.unwrap_or(DialError::TimedOut)),
                }
            }
            tokio::select! {
                Some(result) = running.next() => match result {
                    Ok(link) => return Ok(link),
                    Err(error) => failure = Some(error),
                },
                () = sleep(STAGGER), if waiting.len() > 0 => running.extend(waiting.next().map(attempt)),
            }
        }
    }
}

async fn dial_vsock(target: &Target) -> io::Result<Established> {
    match target {
        Target::Vsock { cid, port } => vsock::dial(*cid, *port).await,
        Target::Monitor { path, port } => vsock::dial_monitor(path.as_ref(), *port).await,
        Target::Address(_) | Target::Name { .. } => Err(io::ErrorKind::InvalidInput.into()),
    }
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, DialError> {
    let (host, port) = match target {
        Target::Address(address) => return Ok(vec![*address]),
        Target::Name { host, port } => (host.as_str(), *port),
        // Dialled without a look here.
        Target::Vsock { .. } | Target::Monitor { .. } => return Ok(Vec::new()),
    };
    let failed = |error| DialError::Resolve {
        host: host.to_owned(),
        error,
    };
    let found = timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| {
            failed(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer from the resolver",
            ))
        })?
        .map_err(failed)?;
    let all = interleave(found.map(canonical));
    let usable: Vec<_> = all
        .iter()
        .copied()
        .filter(|address| !is_inside_overlay(address.ip()))
        .take(MAX_ADDRESSES)
        .collect();
    match (usable.is_empty(), all.first()) {
        (false, _) => Ok(usable),
        (true, Some(address)) => Err(DialError::InsideOverlay {
            host: host.to_owned(),
            address: address.ip(),
        }),
        (true, None) => Err(DialError::NoAddress(host.to_owned())),
    }
}

/// The resolver's order, families alternating from its first on (RFC 8305 §4), without duplicates.
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let first_is_v6 = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = unique
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    while !(first.is_empty() && second.is_empty()) {
        ordered.extend(first.pop());
        ordered.extend(second.pop());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let of = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let mixed = of(&[
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "1.2.3.4:1",
            "1.2.3.4:1",
        ]);
        assert_eq!(
            interleave(mixed.into_iter()),
            of(&["[2001:db8::1]:1", "1.2.3.4:1", "[2001:db8::2]:1"])
        );
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hold_up_a_live_one() {
        let listener = tcp::listen(0, None).unwrap();
        let live = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let closed = tcp::listen(0, None).unwrap().local_addr().unwrap().port();
        let (_sender, quic) = watch::channel(QuicState::Disabled);
        let dialer = Dialer::new(None, quic);
        let link = dialer
            .race(vec![([127, 0, 0, 1], closed).into(), live], Means::Tcp)
            .await
            .unwrap();
        assert_eq!(link.remote, live);
    }

    #[tokio::test]
    async fn quic_that_is_switched_off_says_so() {
        let (_sender, quic) = watch::channel(QuicState::Disabled);
        let result = Dialer::new(None, quic)
            .dial("quic://127.0.0.1:1".parse().unwrap())
            .await;
        assert!(matches!(result, Err(DialError::QuicDisabled)));
    }
}
