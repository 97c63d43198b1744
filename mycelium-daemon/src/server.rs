//! The thread that serves the API, JSON-RPC and the metrics.

use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::middleware;
use axum::serve::IncomingStream;
use mycelium_api::ListenerService;

use self::bounded::Bounded;
use crate::api::credentials::Client;
use crate::status::NodeView;
use crate::{api, metrics};

mod bounded;

const BACKLOG: i32 = 128;

/// Open `address` for a server; where it is in truth (port 0 is any).
///
/// # Errors
/// What the system says.
pub(crate) fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serve `node` on these listeners until the process ends.
///
/// # Errors
/// If there is no thread or event loop to be had.
pub(crate) fn spawn(
    servers: Vec<(ListenerService, TcpListener, SocketAddr)>,
    node: &NodeView,
) -> io::Result<()> {
    if servers.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let servers: Vec<_> = servers
        .into_iter()
        .map(|(service, listener, bound)| (listener, app(service, node.clone(), bound)))
        .collect();
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for (listener, app) in servers {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => {
                            let app = app.into_make_service_with_connect_info::<Client>();
                            tasks.spawn(
                                async move { axum::serve(Bounded::new(listener), app).await },
                            );
                        }
                        Err(error) => tracing::warn!(%error, "a server did not start"),
                    }
                }
                while tasks.join_next().await.is_some() {}
            });
        })?;
    Ok(())
}

impl Connected<IncomingStream<'_, Bounded>> for Client {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(*stream.remote_addr())
    }
}

fn app(service: ListenerService, node: NodeView, bound: SocketAddr) -> Router {
    match service {
        // Scrapers name this host as they like, and there is nothing to change or to hide.
        ListenerService::Metrics => return metrics::app(node),
        ListenerService::JsonRpc => api::rpc::app(node),
        _ => api::app(node, bound),
    }
    .layer(middleware::from_fn_with_state(bound, api::require_our_host))
}
