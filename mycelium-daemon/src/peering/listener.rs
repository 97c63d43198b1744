//! Takes connections of other nodes.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::handle::{PeerHandle, Request};
use crate::link::quic::QuicEndpoint;
use crate::link::tcp;

/// Accept TCP links for as long as the listener works.
pub async fn accept_tcp(listener: TcpListener, peers: PeerHandle) -> std::io::Error {
    loop {
        match tcp::accept(&listener).await {
            Ok(link) => peers.send(Request::Inbound(Box::new(link))).await,
            Err(error) => return error,
        }
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
