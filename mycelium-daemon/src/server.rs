//! The thread that serves the API, JSON-RPC and the metrics.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::middleware;
use axum::serve::IncomingStream;
use mycelium_api::ListenerService;

use self::bounded::{Bounded, Source};
use crate::api::credentials::Client;
use crate::status::NodeView;
use crate::{api, metrics};

mod bounded;
pub(crate) mod local;

const BACKLOG: i32 = 128;
/// What the kernel holds of an answer at most, doubled by itself; enough for gigabytes a second on this machine.
const SEND_BUFFER: usize = 128 << 10;

/// Open `address` for a server; where it is in truth (port 0 is any).
///
/// # Errors
/// What the system says.
pub(crate) fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Connections have it from here.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// What is served where.
#[derive(Debug)]
pub(crate) enum Server {
    /// A service on TCP, and its address.
    Tcp(ListenerService, TcpListener, SocketAddr),
    /// The API on a Unix socket.
    Local(UnixListener),
}

/// Serve `node` there until the process ends.
///
/// # Errors
/// If there is no thread or event loop to be had.
pub(crate) fn spawn(servers: Vec<Server>, node: &NodeView) -> io::Result<()> {
    if servers.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let node = node.clone();
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for server in servers {
                    match open(server, &node) {
                        Ok((source, app)) => {
                            let app = app.into_make_service_with_connect_info::<Client>();
                            tasks
                                .spawn(async move { axum::serve(Bounded::new(source), app).await });
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
        *stream.remote_addr()
    }
}

fn open(server: Server, node: &NodeView) -> io::Result<(Source, Router)> {
    let node = node.clone();
    Ok(match server {
        Server::Tcp(service, listener, bound) => {
            let source = Source::Tcp(tokio::net::TcpListener::from_std(listener)?);
            (source, app(service, node, bound))
        }
        Server::Local(listener) => {
            let source = Source::Unix(tokio::net::UnixListener::from_std(listener)?);
            let app = api::app(node, 0).layer(middleware::from_fn(api::require_our_network));
            (source, app)
        }
    })
}

fn app(service: ListenerService, node: NodeView, bound: SocketAddr) -> Router {
    match service {
        // Scrapers name this host as they like, and there is nothing to change or to hide.
        ListenerService::Metrics => return metrics::app(node),
        ListenerService::JsonRpc => api::rpc::app(node),
        _ => api::app(node, bound.port()),
    }
    .layer(middleware::from_fn_with_state(bound, api::require_our_host))
}
