//! Native links (docs/protocol.md §15), as the rest of the node holds them. The worker makes and drives them
//! (`worker/native.rs`), because their packets must not wait for another thread.

use std::net::{IpAddr, SocketAddr};

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::native::{DATA_HEADROOM, DownReason, LinkId};
use mycelium_core::time::Duration;
use tokio::sync::{mpsc, oneshot};

use super::outbox::Outbox;
use super::port::WriterTask;
use super::{Established, Transport, link_info};
use crate::worker::WorkerCommand;

/// Static cost over IPv4: a little less than QUIC's. Of several links to one node, the one that proved its key is preferred
/// anyway; much less would make ways through other neighbours infeasible (RFC 8966 §3.5.1) as soon as round trips differ.
const COST: u16 = 11;

/// A native link that is up. Dropped before it was attached, it is closed.
#[derive(Debug)]
pub struct NativeLink {
    id: LinkId,
    remote_key: PublicKey,
    _held: oneshot::Sender<()>,
}

/// Resolves when a [`NativeLink`] is dropped.
pub(crate) type Released = oneshot::Receiver<()>;

impl NativeLink {
    /// Its name in the worker.
    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    /// Who has proved to be at the other end.
    pub fn remote_key(&self) -> PublicKey {
        self.remote_key
    }
}

/// A link to whoever has proved to hold `remote_key`, at `remote`.
pub(crate) fn established(
    id: LinkId,
    remote_key: PublicKey,
    remote: SocketAddr,
    local: Option<IpAddr>,
    setup_rtt: Option<Duration>,
) -> (Established, Released) {
    let (held, released) = oneshot::channel();
    let link = Established {
        local: local.map(|ip| SocketAddr::new(ip, 0)),
        remote,
        info: link_info(COST, remote, setup_rtt),
        transport: Transport::Native(NativeLink {
            id,
            remote_key,
            _held: held,
        }),
    };
    (link, released)
}

/// Why there is no native link.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NativeError {
    /// There is no UDP socket.
    #[error("UDP is disabled")]
    Disabled,
    /// This system has no socket of the peer's address family.
    #[error("no socket for that address family on this system")]
    NoFamily,
    /// The attempt failed.
    #[error(transparent)]
    Down(#[from] DownReason),
}

/// Asks the worker for native links. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NativeDialer(mpsc::Sender<WorkerCommand>);

impl NativeDialer {
    pub(crate) fn new(worker: mpsc::Sender<WorkerCommand>) -> Self {
        Self(worker)
    }

    /// A link to whoever is at `remote`, or to the holder of `key` alone.
    ///
    /// # Errors
    /// See [`NativeError`].
    pub async fn dial(
        &self,
        remote: SocketAddr,
        key: Option<PublicKey>,
    ) -> Result<Established, NativeError> {
        let (reply, answer) = oneshot::channel();
        let command = WorkerCommand::DialNative { remote, key, reply };
        // A worker that is gone drops the command and with it the other end of the answer.
        let _ = self.0.send(command).await;
        answer.await.unwrap_or(Err(NativeError::Disabled))
    }
}

/// What the worker tells of peers, unasked.
#[derive(Debug)]
pub(crate) enum PeerNews {
    /// Somebody made a native link to us.
    Inbound(Box<Established>),
    /// Somebody there has a native link that we know nothing of: perhaps ours, of before we started.
    Stray(SocketAddr),
    /// The node at the other end of a stream takes native links at this port of the same host.
    SpeaksNative {
        peer: mycelium_core::io::PeerId,
        port: u16,
    },
}

/// The sending half of a native link; the rest of it is the worker's.
#[derive(Debug)]
pub(crate) struct NativeTransmit {
    pub(crate) link: LinkId,
    /// Where its sealed packets go.
    pub(crate) remote: SocketAddr,
    /// Looks again when the socket was full.
    pub(crate) writer: WriterTask,
}

impl NativeTransmit {
    pub(crate) fn new(link: LinkId, remote: SocketAddr) -> Self {
        Self {
            link,
            remote,
            writer: WriterTask::default(),
        }
    }

    /// What its packets wait in.
    pub(crate) fn outbox() -> Outbox {
        Outbox::with_headroom(DATA_HEADROOM)
    }
}
