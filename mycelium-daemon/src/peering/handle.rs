//! How the rest of the node speaks to the manager of peers.

use std::net::SocketAddr;

use mycelium_core::io::PeerId;
use tokio::sync::{mpsc, oneshot};

use super::endpoint::Endpoint;
use super::netmon::Change;
use super::view::Peers;
use crate::link::Established;

/// Requests that wait. Senders wait when it is full; none of them is on a data path.
const REQUESTS: usize = 128;

/// What the task can be told.
#[derive(Debug)]
pub(crate) enum Request {
    Add(Endpoint, oneshot::Sender<Result<(), AddError>>),
    Remove(Endpoint, oneshot::Sender<Result<(), RemoveError>>),
    Configure(Vec<Endpoint>),
    List(oneshot::Sender<Peers>),
    Discovered(SocketAddr),
    Inbound(Box<Established>),
    /// Somebody there believes to have a native link with us.
    Stray(SocketAddr),
    /// The node at the other end of that stream takes native links at this port.
    SpeaksNative(PeerId, u16),
    Network(Change),
}

/// Why a peer was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// It is there.
    #[error("a peer identified by that endpoint already exists")]
    Exists,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Why a peer was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// It is not there.
    #[error("a peer identified by that endpoint does not exist")]
    Unknown,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Speaks to the task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerHandle(mpsc::Sender<Request>);

impl PeerHandle {
    /// Keep a link to `endpoint` from now on.
    ///
    /// # Errors
    /// See [`AddError`].
    pub async fn add(&self, endpoint: Endpoint) -> Result<(), AddError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Add(endpoint, reply)).await;
        answer.await.unwrap_or(Err(AddError::Stopping))
    }

    /// Forget `endpoint` and close its link.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, endpoint: Endpoint) -> Result<(), RemoveError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Remove(endpoint, reply)).await;
        answer.await.unwrap_or(Err(RemoveError::Stopping))
    }

    /// Make the configured peers these.
    pub async fn configure(&self, peers: Vec<Endpoint>) {
        self.send(Request::Configure(peers)).await;
    }

    /// The table; empty while the node is stopping.
    pub async fn list(&self) -> Peers {
        let (reply, answer) = oneshot::channel();
        self.send(Request::List(reply)).await;
        answer.await.unwrap_or_default()
    }

    pub(crate) async fn send(&self, request: Request) {
        // A closed channel means that the node is stopping: whoever waits for an answer sees that.
        let _ = self.0.send(request).await;
    }
}

/// A handle, and what the manager receives through it and its clones.
pub(super) fn channel() -> (PeerHandle, mpsc::Receiver<Request>) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    (PeerHandle(sender), requests)
}
