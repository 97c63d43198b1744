//! Runs the node: what starts in which order, what a signal does, how it ends.
//!
//! The first dial waits for nothing but the engine. The interface is made on a thread of its own, certificates for QUIC on
//! another, and further identities after all that.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mycelium_api::{DEFAULT_SOCKET, ListenerService};
use mycelium_core::config::NodeConfig;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::DataPlaneConfig;
use mycelium_core::io::PeerId;
use mycelium_core::router_id::RouterId;
use mycelium_core::session::config::Policy;
use mycelium_core::session::mac::NetworkKey;
use socket2::{Domain, Socket, Type};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};

use crate::args::CommandLine;
use crate::config::{self, ApiSocket, Config, DEFAULT_PEER_PORT};
use crate::descriptors;
use crate::engine::{AttachedLink, Engine, EngineConfig, EngineHandle};
use crate::health::Health;
use crate::host::{HostInterface, guard};
use crate::identities::{self, Identities};
use crate::identity;
use crate::link::quic::QuicEndpoint;
use crate::link::reset::ResetSecret;
use crate::link::{Established, tcp, vsock};
use crate::logging::{self, Level, LogControl};
use crate::net_dir;
use crate::notify::Notifier;
use crate::peering::dialer::{Dialer, QuicState};
use crate::peering::handle::PeerHandle;
use crate::peering::manager::{Attached, Links, Manager};
use crate::peering::netmon::{self, Change, Interfaces};
use crate::peering::{discovery, listener};
use crate::server::local::SocketFile;
use crate::server::{self, Server};
use crate::shutdown::{Request, Signals};
use crate::status::NodeView;
use crate::{pin_keeper, session, session_key};

/// A busy port is tried again this often: its owner may be an older node that is just stopping.
const PORT_RETRY: Duration = Duration::from_secs(2);
/// A broken network monitor or beacon socket is opened again after this.
const SERVICE_RETRY: Duration = Duration::from_secs(30);
/// Telling QUIC peers that we leave takes no longer.
const GOODBYE: Duration = Duration::from_millis(200);

impl Links for EngineHandle {
    fn attach(&self, link: Established) -> Attached {
        let AttachedLink {
            peer,
            stats,
            closed,
        } = self.attach_link(link);
        Attached {
            peer,
            stats,
            closed,
        }
    }

    fn close(&self, peer: PeerId) {
        self.close_link(peer);
    }

    fn network_changed(&self, change: &Change) {
        Self::network_changed(self, change.vanished.clone(), change.paths);
    }
}

/// Run the node until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, one line each.
pub fn run(line: &CommandLine) -> anyhow::Result<ExitCode> {
    let (config, notices) = config::load(line)?;
    let log = logging::init(line.log_format, level(line, &config))?;
    require_mark(config.firewall_mark)?;
    let network_key = match &config.sessions.key_file {
        Some(path) => Some(session_key::load(path)?),
        None => None,
    };
    let key = identity::load_or_create_node_key(line.key_file.as_deref())?;
    let health = Health::default();
    health.set_notices(notices);
    identities::report_key(&key, &health);
    let network_key = network_key.map(|loaded| {
        identities::report_mode(&loaded.path, loaded.exposed_mode, &health);
        loaded.key
    });
    let sessions = session::configure(&config.sessions, network_key);
    let pins = pin_keeper::load(config.sessions.state_dir.as_deref(), &health);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let engine = EngineConfig {
        node: NodeConfig {
            zone: match sessions.effective_policy() {
                Policy::Off => <[u8; 2]>::default(),
                Policy::Prefer | Policy::Require => RouterId::SPEAKS_V2,
            },
            ..NodeConfig::default()
        },
        dataplane: DataPlaneConfig {
            session: sessions,
            ..DataPlaneConfig::default()
        },
        host: None,
        pins,
    };
    let result = runtime.block_on(serve(line, config, engine, key.secret, health, log));
    // A resolver that hangs in a thread of its own must not hold us up.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// Sending without the mark would lead packets past the rules that it stands for: then rather not at all.
fn require_mark(mark: Option<u32>) -> anyhow::Result<()> {
    let Some(mark) = mark else {
        return Ok(());
    };
    let probe = Socket::new(Domain::IPV4, Type::DGRAM, None)
        .or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None))
        .context("cannot open a socket")?;
    probe.set_mark(mark).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "no permission to set the firewall mark {mark}: run as root, grant CAP_NET_ADMIN, or drop --firewall-mark"
        ),
        _ => anyhow::anyhow!("cannot set the firewall mark {mark}: {error}"),
    })
}

/// What to do about a port that cannot be opened; `flag` chooses another.
fn port_hint(error: &io::Error, port: u16, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "ports like {port} need root or CAP_NET_BIND_SERVICE; grant it or choose a port above 1023 with {flag}"
        ),
        _ => format!("stop its owner or choose another with {flag}"),
    }
}

/// Where the API's Unix socket is unless somebody says otherwise: what the service manager made for us, or root's own.
fn usual_socket() -> Option<PathBuf> {
    match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(directory) => Some(Path::new(&directory).join("api.sock")),
        None if rustix::process::geteuid().is_root() => Some(DEFAULT_SOCKET.into()),
        None => None,
    }
}

/// Flags, then file, then the default.
fn level(line: &CommandLine, config: &Config) -> Level {
    match (line.silent, line.debug) {
        (true, _) => Level::Error,
        (false, true) => Level::Debug,
        (false, false) => config.log_level.unwrap_or_default(),
    }
}

async fn serve(
    line: &CommandLine,
    config: Config,
    engine_config: EngineConfig,
    secret: SecretKey,
    health: Health,
    log: LogControl,
) -> anyhow::Result<()> {
    descriptors::raise_limit();
    let mut signals = Signals::listen().context("cannot handle signals")?;
    let notifier = Notifier::from_environment();
    let public_key = secret.public_key();
    let reset_secret = ResetSecret::of(&secret);
    let node_secret = secret.clone();
    let network_key = engine_config.dataplane.session.network_key.clone();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %public_key.address(),
        %public_key,
        "starting"
    );
    let engine = {
        let tun_name = config.tun_name.clone();
        spawn_blocking(move || start_engine(engine_config, secret, tun_name.as_deref()))
    };
    let (quic_sender, quic) = watch::channel(match config.quic_listen_port {
        Some(_) => QuicState::Starting,
        None => QuicState::Disabled,
    });
    let quic_bound = config.quic_listen_port.map(|port| {
        let mark = config.firewall_mark;
        spawn_blocking(move || QuicEndpoint::bind(port, mark, &reset_secret))
    });
    // The port is open while the interface is still being made: peers that dial now are not refused.
    let listener = tcp::listen(config.tcp_listen_port, config.firewall_mark);

    let (engine, handle) = engine.await.context("starting the engine")??;
    let dialer = Dialer::new(config.firewall_mark, quic).with_native(handle.native_dialer());
    let (manager, peers) = Manager::new(handle.clone(), dialer, config.peers.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(manager.run());
    if let Some(directory) = config.sessions.state_dir.clone() {
        tasks.spawn(pin_keeper::keep(directory, handle.clone(), health.clone()));
    }

    let identities = Identities::new(handle.clone(), public_key, config.tun_name.clone());
    let view = NodeView::new(
        handle.clone(),
        peers.clone(),
        identities.clone(),
        health.clone(),
        public_key,
        config.tun_name.clone(),
    );
    let mut node = RunningNode {
        tasks,
        line,
        config,
        health,
        log,
        engine: handle.clone(),
        secret: node_secret,
        network_key,
        peers,
        identities,
        view,
        notifier,
        socket_file: None,
    };
    let quic = node
        .start_services(listener, public_key, quic_bound, &quic_sender)
        .await;
    let result = match &quic {
        Ok(_) => node.serve_requests(&mut signals).await,
        Err(_) => Ok(()),
    };
    // From here on nobody dials, accepts or beacons: whoever noticed our leaving would connect again.
    node.tasks.shutdown().await;
    if let Some(directory) = &node.config.sessions.state_dir {
        pin_keeper::save(directory, &handle, &node.health).await;
    }
    handle.shutdown().await;
    if let Ok(Some(quic)) = &quic {
        quic.close(GOODBYE).await;
    }
    engine.join();
    quic.and(result)
}

fn start_engine(
    mut config: EngineConfig,
    secret: SecretKey,
    tun_name: Option<&str>,
) -> anyhow::Result<(Engine, EngineHandle)> {
    if let Some(name) = tun_name {
        let address = secret.public_key().address();
        config.host = Some(HostInterface::create(name, None, address)?);
    }
    Engine::start(secret, config)
}

struct RunningNode<'a> {
    /// The manager of peers and the services around it.
    tasks: JoinSet<()>,
    line: &'a CommandLine,
    config: Config,
    health: Health,
    log: LogControl,
    engine: EngineHandle,
    secret: SecretKey,
    network_key: Option<NetworkKey>,
    peers: PeerHandle,
    identities: Identities,
    view: NodeView,
    notifier: Notifier,
    /// Goes with the node.
    socket_file: Option<SocketFile>,
}

type QuicBound = tokio::task::JoinHandle<io::Result<QuicEndpoint>>;

impl RunningNode<'_> {
    /// Everything that is not needed to reach the first peer over TCP. Only QUIC can fail.
    async fn start_services(
        &mut self,
        listener: io::Result<tcp::Listener>,
        public_key: PublicKey,
        quic_bound: Option<QuicBound>,
        quic_state: &watch::Sender<QuicState>,
    ) -> anyhow::Result<Option<Arc<QuicEndpoint>>> {
        let (port_sender, port) = watch::channel(None);
        self.listen_tcp(listener, port_sender);
        self.listen_vsock();
        let (interfaces_sender, interfaces) = watch::channel(Arc::new(Interfaces::new()));
        self.watch_network(interfaces_sender);
        self.discover(public_key, port, interfaces);
        self.start_servers();
        let quic = match (quic_bound, self.config.quic_listen_port) {
            (Some(bound), Some(port)) => {
                let endpoint = bound.await.context("opening QUIC")?.map_err(|error| {
                    let hint = port_hint(&error, port, "--quic-listen-port");
                    anyhow::anyhow!(
                        "cannot open UDP port {port} for QUIC: {error}; {hint}, or do without (--disable-quic)"
                    )
                })?;
                let endpoint = Arc::new(endpoint);
                let port = endpoint.local_port().unwrap_or(port);
                self.health
                    .listening(ListenerService::Quic, &format_args!("[::]:{port}"));
                self.tasks.spawn(listener::accept_quic(
                    Arc::clone(&endpoint),
                    self.peers.clone(),
                ));
                let news = self
                    .engine
                    .attach_udp(&endpoint, &self.secret, self.network_key.clone())
                    .await?;
                self.tasks
                    .spawn(listener::take_news(news, self.peers.clone()));
                let (watched, engine) = (Arc::clone(&endpoint), self.engine.clone());
                self.tasks.spawn(listener::tell_errors(watched, engine));
                quic_state.send_replace(QuicState::Ready(Arc::clone(&endpoint)));
                Some(endpoint)
            }
            _ => None,
        };
        let (identities, health) = (self.identities.clone(), self.health.clone());
        let wanted = self.config.identities.clone();
        self.tasks.spawn(async move {
            identities.configure(&wanted, &health).await;
            identities.follow_namespaces(health).await;
        });
        if let Some(directory) = self.config.net_dir.clone() {
            let (identities, health) = (self.identities.clone(), self.health.clone());
            self.tasks
                .spawn(net_dir::follow(directory, identities, health));
        }
        Ok(quic)
    }

    /// A busy port is no reason not to run: we can still dial. It is tried again, since its owner may go.
    fn listen_tcp(
        &mut self,
        first: io::Result<tcp::Listener>,
        port_sender: watch::Sender<Option<u16>>,
    ) {
        const CODE: &str = "tcp-port-unusable";
        let (port, mark) = (self.config.tcp_listen_port, self.config.firewall_mark);
        let (health, peers) = (self.health.clone(), self.peers.clone());
        self.tasks.spawn(async move {
            let mut attempt = first;
            let mut complained = false;
            loop {
                match attempt {
                    Ok(listener) => {
                        let bound = listener.local_addr().map_or(port, |address| address.port());
                        health.clear(CODE, "");
                        health.listening(ListenerService::Tcp, &format_args!("[::]:{bound}"));
                        port_sender.send_replace(Some(bound));
                        let error = listener::accept_tcp(listener, peers.clone()).await;
                        tracing::warn!(%error, "the TCP listener broke; opening it again");
                        port_sender.send_replace(None);
                    }
                    Err(error) => {
                        if !complained {
                            let text = format!("cannot accept peers on TCP port {port}: {error}");
                            let hint = port_hint(&error, port, "--tcp-listen-port");
                            health.raise(CODE, "", text, &hint);
                            complained = true;
                        }
                    }
                }
                tokio::time::sleep(PORT_RETRY).await;
                attempt = tcp::listen(port, mark);
            }
        });
    }

    /// One that cannot be opened now is tried again: the module is loaded later, the directory made later.
    fn listen_vsock(&mut self) {
        let port = self.config.vsock_listen_port;
        let family = port.map(|port| (None, port));
        let monitors = self.config.vsock_sockets.iter();
        let default = u32::from(DEFAULT_PEER_PORT);
        let monitors = monitors.map(|path| (Some(path.clone()), port.unwrap_or(default)));
        for (number, (path, port)) in (1..).zip(monitors.chain(family)) {
            let (health, peers) = (self.health.clone(), self.peers.clone());
            self.tasks.spawn(async move {
                let place = match &path {
                    Some(path) => vsock::monitor_socket(path, port).display().to_string(),
                    None => format!("vsock port {port}"),
                };
                let open = || match &path {
                    Some(path) => vsock::Listener::monitor(path, port, number),
                    None => vsock::Listener::family(port),
                };
                let listener = loop {
                    match open() {
                        Ok(listener) => break listener,
                        Err(error) => {
                            let text = format!("cannot accept guests at {place}: {error}");
                            let hint =
                                "it is tried again; see --vsock-listen-port and --vsock-socket";
                            health.raise("vsock-unusable", &place, text, hint);
                        }
                    }
                    tokio::time::sleep(PORT_RETRY).await;
                };
                health.clear("vsock-unusable", &place);
                health.listening(ListenerService::Vsock, &place);
                listener::accept_vsock(listener, peers).await;
            });
        }
    }

    fn watch_network(&mut self, interfaces: watch::Sender<Arc<Interfaces>>) {
        let (peers, health) = (self.peers.clone(), self.health.clone());
        let news = Arc::new(Notify::new());
        self.tasks.spawn(guard::run(
            self.identities.clone(),
            self.engine.clone(),
            self.health.clone(),
            Arc::clone(&news),
        ));
        self.tasks.spawn(async move {
            loop {
                let watch = netmon::watch(peers.clone(), interfaces.clone(), Arc::clone(&news));
                if let Err(error) = watch.await {
                    let text = format!("changes of this host's network are not noticed: {error}");
                    health.raise("network-monitor", "", text, "");
                }
                tokio::time::sleep(SERVICE_RETRY).await;
                health.clear("network-monitor", "");
            }
        });
    }

    fn discover(
        &mut self,
        public_key: PublicKey,
        port: watch::Receiver<Option<u16>>,
        interfaces: watch::Receiver<Arc<Interfaces>>,
    ) {
        const CODE: &str = "discovery-unusable";
        let Some(config) = self.config.discovery.clone() else {
            return;
        };
        let (mark, health, peers) = (
            self.config.firewall_mark,
            self.health.clone(),
            self.peers.clone(),
        );
        self.tasks.spawn(async move {
            let mut random = [0; 6];
            // Only tells restarts apart.
            let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
            let router_id = RouterId::new(public_key, [0; 2], random);
            loop {
                let error = match discovery::open(config.port, mark) {
                    Ok(socket) => {
                        health.clear(CODE, "");
                        health.listening(
                            ListenerService::Discovery,
                            &format_args!("[::]:{}", config.port),
                        );
                        return discovery::run(socket, config, router_id, port, interfaces, peers)
                            .await;
                    }
                    Err(error) => error,
                };
                let text = format!(
                    "cannot look for local peers on UDP port {}: {error}",
                    config.port
                );
                let hint = port_hint(&error, config.port, "--peer-discovery-port");
                let hint = format!("{hint}, or do without (--disable-peer-discovery)");
                health.raise(CODE, "", text, &hint);
                tokio::time::sleep(SERVICE_RETRY).await;
            }
        });
    }

    /// Busy addresses are no reason not to run.
    fn start_servers(&mut self) {
        let mut servers = Vec::new();
        let mut bind = |service, name, flag, address: SocketAddr| match server::bind(address) {
            Ok((listener, bound)) => {
                self.health.listening(service, &bound);
                servers.push(Server::Tcp(service, listener, bound));
            }
            Err(error) => self.health.raise(
                "server-unusable",
                name,
                format!("{name} is not available at {address}: {error}"),
                &format!("{}, and restart", port_hint(&error, address.port(), flag)),
            ),
        };
        bind(
            ListenerService::Api,
            "the API",
            "--api-addr",
            self.config.api_address,
        );
        bind(
            ListenerService::JsonRpc,
            "JSON-RPC",
            "--jsonrpc-addr",
            self.config.jsonrpc_address,
        );
        if let Some(address) = self.config.metrics_address {
            bind(
                ListenerService::Metrics,
                "metrics",
                "--metrics-api-address",
                address,
            );
        }
        self.bind_socket(&mut servers);
        if let Err(error) = server::spawn(servers, &self.view) {
            let text = format!("the API is not available: {error}");
            self.health.raise("server-unusable", "thread", text, "");
        }
    }

    /// The API's Unix socket. Somebody else's at the usual place is no trouble: one node of a machine has it.
    fn bind_socket(&mut self, servers: &mut Vec<Server>) {
        let (path, wanted) = match &self.config.api_socket {
            ApiSocket::Off => return,
            ApiSocket::At(path) => (path.clone(), true),
            ApiSocket::Default => match usual_socket() {
                Some(path) => (path, false),
                None => return,
            },
        };
        match server::local::bind(&path) {
            Ok((listener, file)) => {
                self.health.listening(ListenerService::Api, &path.display());
                servers.push(Server::Local(listener));
                self.socket_file = Some(file);
            }
            Err(error) if wanted => {
                let text = format!("the API is not available at {}: {error}", path.display());
                let hint = "choose another path with --api-socket, or off, and restart";
                self.health.raise("server-unusable", "socket", text, hint);
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "no Unix socket for the API");
            }
        }
    }

    /// Until a signal says stop.
    async fn serve_requests(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        self.notifier
            .ready(&format!("{}", self.view.info().node_ip));
        tracing::info!("ready");
        let interval = self.notifier.watchdog_interval();
        let mut watchdog = tokio::time::interval(interval.unwrap_or(Duration::from_secs(3600)));
        loop {
            tokio::select! {
                request = signals.next() => match request {
                    Request::Stop(signal) => {
                        tracing::info!(signal, "leaving");
                        self.notifier.stopping();
                        return Ok(());
                    }
                    Request::Reload => self.reload().await,
                    Request::Dump => self.dump().await,
                },
                // A router that does not answer is not reported alive, and restarted.
                _ = watchdog.tick(), if interval.is_some() => {
                    if self.view.is_alive().await {
                        self.notifier.alive();
                    }
                }
            }
        }
    }

    /// Peers, identities and the log level follow the file; the rest is said to need a restart.
    async fn reload(&mut self) {
        self.notifier.reloading();
        match config::load(self.line) {
            Ok((config, notices)) => {
                self.health.clear("config-unreadable", "");
                self.health.set_notices(notices);
                self.apply(config).await;
            }
            Err(error) => {
                let text = format!("the configuration is unchanged: {error}");
                let hint = "correct the file and send SIGHUP again";
                self.health.raise("config-unreadable", "", text, hint);
            }
        }
        self.notifier
            .ready(&format!("{}", self.view.info().node_ip));
    }

    async fn apply(&mut self, config: Config) {
        const CODE: &str = "restart-needed";
        self.health.clear_all(CODE);
        for key in self.config.differences_that_need_a_restart(&config) {
            let text = format!(
                "{key} has changed in the configuration, which cannot be done while running"
            );
            self.health.raise(CODE, key, text, "restart the node");
        }
        let level = level(self.line, &config);
        if level != self::level(self.line, &self.config) && !self.log.set_level(level) {
            tracing::warn!("the log level is unchanged: RUST_LOG decides it");
        }
        self.peers.configure(config.peers.clone()).await;
        self.identities
            .configure(&config.identities, &self.health)
            .await;
        tracing::info!(
            peers = config.peers.len(),
            identities = config.identities.len(),
            "configuration read again"
        );
        self.config = Config {
            peers: config.peers,
            identities: config.identities,
            log_level: config.log_level,
            ..self.config.clone()
        };
    }

    /// The state, as lines of the log.
    async fn dump(&self) {
        let status = self.view.status().await;
        tracing::info!(uptime = status.uptime, version = status.version, "state");
        for warning in &status.health.warnings {
            tracing::info!(code = warning.code, "warning: {}", warning.text);
        }
        for identity in &status.identities {
            tracing::info!(
                id = identity.id,
                name = identity.name,
                address = %identity.address,
                public_key = %identity.public_key,
                interface = identity.tun_name,
                netns = identity.netns,
                "identity"
            );
        }
        for peer in self.view.peers().await {
            tracing::info!(
                endpoint = %peer.endpoint,
                kind = ?peer.peer_type,
                state = ?peer.connection_state,
                tx_bytes = peer.tx_bytes,
                rx_bytes = peer.rx_bytes,
                rtt_ms = peer.details.rtt_ms,
                cost = peer.details.cost,
                routes = peer.details.routes,
                error = peer.details.last_error,
                "peer"
            );
        }
        for (kind, routes) in [
            ("selected", self.view.selected_routes().await),
            ("fallback", self.view.fallback_routes().await),
        ] {
            for route in routes {
                tracing::info!(
                    kind,
                    subnet = route.subnet,
                    next_hop = route.next_hop,
                    metric = %route.metric,
                    seqno = route.seqno,
                    expires_in = route.expires_in,
                    "route"
                );
            }
        }
        for query in self.view.queried().await {
            tracing::info!(
                subnet = query.subnet,
                expires_in = query.expiration,
                "queried"
            );
        }
        let snapshot = self.view.engine_snapshot().await;
        tracing::info!(counters = ?snapshot.control.counters, "control plane");
        let moved = snapshot
            .worker
            .dataplane
            .named()
            .filter(|(_, count)| *count > 0);
        tracing::info!(counters = ?moved.collect::<Vec<_>>(), "data plane");
    }
}
