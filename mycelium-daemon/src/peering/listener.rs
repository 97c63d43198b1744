//! Takes connections of other nodes, and what the network says of our own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::handle::{PeerHandle, Request};
use crate::engine::EngineHandle;
use crate::link::native::PeerNews;
use crate::link::quic::QuicEndpoint;
use crate::link::{tcp, vsock};

/// Least time between two looks at ICMP errors. Anybody can send any number of them, and what they tell is no more than a
/// reason to ask a peer; meanwhile the kernel keeps them.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// Accept TCP links for as long as the listener works.
pub async fn accept_tcp(listener: tcp::Listener, peers: PeerHandle) -> std::io::Error {
    loop {
        match tcp::accept(&listener).await {
            Ok(link) => peers.send(Request::Inbound(Box::new(link))).await,
            Err(error) => return error,
        }
    }
}

/// Accept vsock links for ever.
pub(crate) async fn accept_vsock(listener: vsock::Listener, peers: PeerHandle) {
    loop {
        let link = listener.accept().await;
        peers.send(Request::Inbound(Box::new(link))).await;
    }
}

/// Accept QUIC links until the endpoint is closed. Handshakes run side by side; the endpoint bounds how many.
pub async fn accept_quic(endpoint: Arc<QuicEndpoint>, peers: PeerHandle) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else {
                    return;
                };
                let (endpoint, peers) = (Arc::clone(&endpoint), peers.clone());
                handshakes.spawn(async move {
                    let remote = incoming.remote_address();
                    match endpoint.complete(incoming).await {
                        Ok(link) => peers.send(Request::Inbound(Box::new(link))).await,
                        Err(error) => tracing::debug!(%remote, %error, "inbound QUIC handshake failed"),
                    }
                });
            }
            Some(_) = handshakes.join_next() => {}
        }
    }
}

/// Pass on what the engine says of peers, until it stops.
pub(crate) async fn take_news(mut news: mpsc::Receiver<PeerNews>, peers: PeerHandle) {
    while let Some(news) = news.recv().await {
        let request = match news {
            PeerNews::Inbound(link) => Request::Inbound(link),
            PeerNews::Stray(address) => Request::Stray(address),
            PeerNews::SpeaksNative { peer, port } => Request::SpeaksNative(peer, port),
        };
        peers.send(request).await;
    }
}

/// Tell the engine of the network's errors, until they cannot be known any more.
pub async fn tell_errors(endpoint: Arc<QuicEndpoint>, engine: EngineHandle) {
    loop {
        match endpoint.errors().await {
            Ok(errors) => engine.network_errors(errors),
            Err(error) => {
                tracing::warn!(%error, "ICMP errors are not noticed");
                return;
            }
        }
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}
