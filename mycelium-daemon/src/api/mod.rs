//! The HTTP API under `/api/v1`: paths, shapes and codes of mycelium 0.7.10, and our additions.
//!
//! It lives on a thread of its own and reads snapshots, so that no client can hold up a packet, a route or another
//! client. There is no authentication: whoever can reach the address may use it, which is why it is loopback by
//! default, and why a request must name us in its Host header (a web page in a browser on this machine cannot). Identities
//! and pins are changed by root and the node's own user only (`credentials.rs`).

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header, uri::Authority};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use mycelium_api::path;

use crate::status::NodeView;

pub(crate) mod answer;
pub(crate) mod credentials;
mod identities;
mod info;
mod peers;
mod routes;
pub mod rpc;
mod sessions;

/// Largest body that is read; the largest sensible one is a few hundred bytes.
const MAX_BODY: usize = 64 << 10;

/// The API of `node`; `port` is where it listens on TCP, 0 on a Unix socket.
pub(crate) fn app(node: NodeView, port: u16) -> Router {
    let trusted = Router::new()
        .route(path::IDENTITIES, post(identities::add))
        .route(path::IDENTITY, delete(identities::remove))
        .route(path::SESSION, delete(sessions::forget))
        .layer(middleware::from_fn_with_state(
            port,
            credentials::require_trusted_user,
        ));
    let api = Router::new()
        .route(path::ADMIN, get(info::info))
        .route(path::STATUS, get(info::status))
        .route(path::PUBLIC_KEY, get(info::public_key))
        .route(path::PEERS, get(peers::list).post(peers::add))
        .route(path::PEER, delete(peers::remove))
        .route(path::ROUTES_SELECTED, get(routes::selected))
        .route(path::ROUTES_FALLBACK, get(routes::fallback))
        .route(path::ROUTES_QUERIED, get(routes::queried))
        .route(path::PACKET_STATS, get(routes::packet_statistics))
        .route(path::IDENTITIES, get(identities::list))
        .route(path::SESSIONS, get(sessions::list))
        .merge(trusted)
        .with_state(node);
    Router::new()
        .nest(path::BASE, api)
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Refuses requests for other hosts: a name that an attacker made to resolve to this machine (DNS rebinding).
pub(crate) async fn require_our_host(
    State(bound): State<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|host| host.to_str().unwrap_or_default());
    // HTTP/2 and absolute requests carry it in the target instead; HTTP/1.0 clients send none, browsers always do.
    let host = request.uri().authority().map(Authority::as_str).or(host);
    if host.is_none_or(|host| is_our_host(host, bound)) {
        next.run(request).await
    } else {
        tracing::debug!(host, "API request for another host refused");
        let text =
            "this API answers only to its own address, localhost or a loopback address as Host\n";
        (StatusCode::FORBIDDEN, text).into_response()
    }
}

/// Refuses clients that mean the node of their own network namespace, if that is not ours: they found our socket by the
/// name of its file, which every namespace sees.
pub(crate) async fn require_our_network(request: Request, next: Next) -> Response {
    let theirs = request
        .headers()
        .get(mycelium_api::NETWORK_HEADER)
        .map(|network| network.to_str().unwrap_or_default());
    let ours = mycelium_api::network_namespace().map(|network| network.to_string());
    if theirs.is_none() || theirs == ours.as_deref() {
        return next.run(request).await;
    }
    let text = "this node is in another network namespace\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

fn is_our_host(host: &str, bound: SocketAddr) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    match name.parse::<IpAddr>() {
        // Bound to all addresses we cannot know which are ours, but an address is never subject to rebinding.
        Ok(ip) => {
            ip.to_canonical().is_loopback() || ip == bound.ip() || bound.ip().is_unspecified()
        }
        Err(_) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// An answer other than the wanted one: a code and one sentence for a person.
#[derive(Debug)]
pub(crate) struct Refusal(StatusCode, String);

impl Refusal {
    fn new(code: StatusCode, reason: &dyn Display) -> Self {
        Self(code, reason.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let bound: SocketAddr = "127.0.0.1:8989".parse().unwrap();
        for host in [
            "127.0.0.1:8989",
            "localhost:8989",
            "LOCALHOST",
            "[::1]:8989",
            "a.localhost:1",
            "127.0.0.2",
        ] {
            assert!(is_our_host(host, bound), "{host}");
        }
        for host in [
            "evil.example:8989",
            "127.0.0.1.evil.example",
            "192.0.2.1:8989",
            "",
            "localhost.evil.example",
            "a b",
        ] {
            assert!(!is_our_host(host, bound), "{host}");
        }
        assert!(is_our_host(
            "192.0.2.1:8989",
            "192.0.2.1:8989".parse().unwrap()
        ));
        assert!(is_our_host(
            "192.0.2.1:8989",
            "0.0.0.0:8989".parse().unwrap()
        ));
        assert!(!is_our_host(
            "evil.example:8989",
            "[::]:8989".parse().unwrap()
        ));
    }
}
