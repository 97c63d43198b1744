//! The engine: the control plane and the data plane of [`mycelium_core`], each on a thread of its own, and the handle
//! through which everything else talks to them.
//!
//! ```text
//!                 ┌───────────────────────────────────────┐
//!    TUN fds ◄──► │ thread "worker"     owns DataPlane    │ ◄──► TCP links
//!   (1 task each) │ worker.rs           and all links     │ ◄──► QUIC links (their UDP sockets are driven by
//!                 └─┬──────────▲─────────▲─────────────▲──┘      the runtime that opened them)
//!       inputs 1024 │ 256      │ 64      │ FIB         │ 1024 commands: attach and close links,
//!       (senders    │ hints    │ turns:  │ (Arc,       │ attach and detach interfaces, report
//!        wait)      │ (dropped │ packets │ generation) │
//!                   │ when     │ to send,│             │
//!                   │ full)    │ closes  │             │
//!                 ┌─▼──────────┴─────────┴──┐       ┌──┴──────────────────────────┐
//!                 │ thread "control"        │ ◄──── │ EngineHandle (any thread):  │
//!                 │ control.rs  owns Node   │ ────► │ peering, API, signals       │
//!                 └─────────────────────────┘ watch └─────────────────────────────┘
//!                                    snapshots, on demand
//! ```
//!
//! Every channel is bounded. The worker never waits for the control thread: tasks of single links do. The control thread
//! waits for the worker when 64 turns are under way. Nobody waits for readers of snapshots.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use mycelium_core::addr::Subnet;
use mycelium_core::config::NodeConfig;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig};
use mycelium_core::fib::FibPublisher;
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::native::{NativeConfig, NativeEndpoint};
use mycelium_core::node::Node;
use mycelium_core::session::mac::NetworkKey;
use mycelium_core::session::pins::Pin;
use mycelium_core::snapshot::Snapshot;
use mycelium_core::time::{Duration, Time};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use zeroize::Zeroizing;

use crate::clock;
use crate::control::{self, ControlChannels, ControlInput, PublishedSnapshot, SNAPSHOT_AGE};
use crate::host::HostInterface;
use crate::link::native::{NativeDialer, PeerNews};
use crate::link::quic::QuicEndpoint;
use crate::link::unreachable::NetworkError;
use crate::link::{Established, LinkClosed, LinkStats};
use crate::worker::{self, WorkerChannels, WorkerCommand};

pub use crate::worker::WorkerReport;

const INPUTS: usize = 1024;
const HINTS: usize = 256;
const TURNS: usize = 64;
const COMMANDS: usize = 1024;
/// By how much the thread of the data plane goes before the rest of the process (ADR 0017).
const WORKER_NICE: i32 = -3;
/// Inbound native links, and ports told, that wait for the manager of peers. Links beyond are closed, ports told again.
const NEWS: usize = 256;
/// Leaving takes no longer than this, whatever the peers do.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);
/// How long a reader of snapshots waits for a fresh one before it takes the last.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(1);

/// Settings of the engine.
#[derive(Debug, Default)]
pub struct EngineConfig {
    /// Of the control plane.
    pub node: NodeConfig,
    /// Of the data plane.
    pub dataplane: DataPlaneConfig,
    /// The interface of the node's own identity; `None` for a pure relay.
    pub host: Option<HostInterface>,
    /// Pins of before a restart.
    pub pins: Vec<Pin>,
}

/// The two threads.
#[derive(Debug)]
pub struct Engine {
    control: JoinHandle<()>,
    worker: JoinHandle<()>,
}

/// Talks to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    control: mpsc::Sender<ControlInput>,
    worker: mpsc::Sender<WorkerCommand>,
    snapshots: watch::Receiver<PublishedSnapshot>,
    snapshot_wanted: Arc<AtomicBool>,
    next_peer: AtomicU32,
    next_identity: AtomicU32,
}

/// A link that the engine owns from now on.
#[derive(Debug)]
pub struct AttachedLink {
    /// Its id.
    pub peer: PeerId,
    /// Its counters, live.
    pub stats: Arc<LinkStats>,
    /// Says why it ended, once it has.
    pub closed: oneshot::Receiver<LinkClosed>,
}

/// What a user may want to know, as of one moment.
#[derive(Clone, Debug)]
pub struct EngineSnapshot {
    /// The control plane.
    pub control: Arc<Snapshot>,
    /// Links over which another node announces a key of ours, and which: its key file is a copy.
    pub duplicates: Arc<BTreeMap<PeerId, Subnet>>,
    /// When that was, on the clock of [`clock::now`].
    pub taken: Time,
    /// The data plane.
    pub worker: WorkerReport,
}

/// Why the engine did not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// One identity per /64.
    #[error("an identity with subnet {0} is already present")]
    DuplicateIdentity(Subnet),
    /// The node cannot live without its own identity.
    #[error("the node's own identity cannot be removed")]
    NodeIdentity,
    /// The interface could not be taken over.
    #[error("cannot use the interface: {0}")]
    Host(#[source] std::io::Error),
}

impl Engine {
    /// Start both threads with `secret` as the node's own identity.
    ///
    /// # Errors
    /// When the system has no threads or no randomness left.
    pub fn start(secret: SecretKey, config: EngineConfig) -> anyhow::Result<(Self, EngineHandle)> {
        let now = clock::now();
        let node = Node::new(config.node, secret, *seed()?, now);
        let fib = FibPublisher::new(node.fib().clone());
        let mut dataplane = DataPlane::new(config.dataplane, fib.reader(), *seed()?);
        dataplane.load_pins(&config.pins);
        let (control_tx, control_rx) = mpsc::channel(INPUTS);
        let (hints_tx, hints_rx) = mpsc::channel(HINTS);
        let (turns_tx, turns_rx) = mpsc::channel(TURNS);
        let (worker_tx, worker_rx) = mpsc::channel(COMMANDS);
        let snapshot = PublishedSnapshot {
            taken: now,
            snapshot: Arc::new(node.snapshot(now)),
            duplicates: Arc::default(),
        };
        let (snapshots_tx, snapshots_rx) = watch::channel(snapshot);
        let snapshot_wanted = Arc::new(AtomicBool::new(false));

        let control_channels = ControlChannels {
            inputs: control_rx,
            hints: hints_rx,
            turns: turns_tx,
            fib,
            snapshots: snapshots_tx,
            snapshot_wanted: Arc::clone(&snapshot_wanted),
        };
        let worker_channels = WorkerChannels {
            control: control_tx.clone(),
            hints: hints_tx,
            turns: turns_rx,
            commands: worker_rx,
        };
        if let Some(host) = config.host {
            // Nobody waits for the answer: watching an open descriptor fails only where nothing works. The worker logs it.
            let (done, _) = oneshot::channel();
            let command = WorkerCommand::AttachHost {
                identity: IdentityId::NODE,
                host,
                done,
            };
            // The queue is empty and larger than one.
            worker_tx.try_send(command).context("engine queue")?;
        }
        let control = spawn("control", move || {
            Ok((runtime()?, control::run(node, control_channels)))
        })?;
        let worker = spawn("worker", move || {
            // Of this thread only. What is ready to be sent waits for the processor otherwise, while a program makes more.
            if let Err(error) = rustix::process::nice(WORKER_NICE) {
                tracing::debug!(%error, "the worker keeps the priority of the process");
            }
            Ok((runtime()?, worker::run(dataplane, worker_channels)))
        })?;
        let handle = EngineHandle(Arc::new(Shared {
            control: control_tx,
            worker: worker_tx,
            snapshots: snapshots_rx,
            snapshot_wanted,
            next_peer: AtomicU32::new(1),
            next_identity: AtomicU32::new(IdentityId::NODE.0 + 1),
        }));
        Ok((Self { control, worker }, handle))
    }

    /// Wait for both threads, which end after [`EngineHandle::shutdown`] or with the last handle.
    pub fn join(self) {
        for thread in [self.control, self.worker] {
            if thread.join().is_err() {
                tracing::error!("an engine thread panicked");
            }
        }
    }
}

impl EngineHandle {
    /// Give a link to the engine, which announces us on it at once.
    pub fn attach_link(&self, link: Established) -> AttachedLink {
        let peer = PeerId(self.0.next_peer.fetch_add(1, Ordering::Relaxed));
        let stats = Arc::new(LinkStats::default());
        let (closed_tx, closed) = oneshot::channel();
        let command = WorkerCommand::AttachLink {
            peer,
            link: Box::new(link),
            stats: Arc::clone(&stats),
            closed: closed_tx,
        };
        if let Err(error) = self.0.worker.try_send(command) {
            let (reason, command) = match error {
                mpsc::error::TrySendError::Full(command) => ("too many links at a time", command),
                mpsc::error::TrySendError::Closed(command) => ("the node is stopping", command),
            };
            if let WorkerCommand::AttachLink { closed, .. } = command {
                // The receiver is about to be returned.
                let _ = closed.send(LinkClosed::new(reason));
            }
        }
        AttachedLink {
            peer,
            stats,
            closed,
        }
    }

    /// Close a link. Its `closed` fires when that is done.
    pub fn close_link(&self, peer: PeerId) {
        let command = WorkerCommand::CloseLink {
            peer,
            reason: LinkClosed::new("closed by us"),
        };
        if let Err(error) = self.0.worker.try_send(command) {
            tracing::warn!(peer = peer.0, %error, "cannot close the link");
        }
    }

    /// Have the peers that the network's errors are about asked whether they are alive. What is told while the engine is
    /// overloaded is lost.
    pub(crate) fn network_errors(&self, errors: Vec<NetworkError>) {
        let _ = self.0.worker.try_send(WorkerCommand::Errors { errors });
    }

    /// Have native links go on from where this host is now: `vanished` are addresses that it has lost, `paths` says that it
    /// has others, or other routes. What is told while the engine is overloaded is lost; the links then find out by timers.
    pub(crate) fn network_changed(&self, vanished: Vec<IpAddr>, paths: bool) {
        let command = WorkerCommand::NetworkChanged { vanished, paths };
        let _ = self.0.worker.try_send(command);
    }

    /// Make native links over the sockets of `quic`, as the node whose `secret` this is, with those that have `network_key`.
    /// What the engine has to say of peers arrives at the receiver.
    ///
    /// # Errors
    /// When the engine is stopping, or the system has no randomness left.
    pub(crate) async fn attach_udp(
        &self,
        quic: &QuicEndpoint,
        secret: &SecretKey,
        network_key: Option<NetworkKey>,
    ) -> anyhow::Result<mpsc::Receiver<PeerNews>> {
        let config = NativeConfig {
            aes: has_aes(),
            network_key,
            ..NativeConfig::default()
        };
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.unwrap_or_default();
        let endpoint = NativeEndpoint::new(config, secret, *seed()?, unix, clock::now());
        let (news, receiver) = mpsc::channel(NEWS);
        self.tell_worker(WorkerCommand::AttachUdp {
            endpoint: Box::new(endpoint),
            sockets: quic.sockets(),
            port: quic.local_port()?,
            news,
        })
        .await?;
        Ok(receiver)
    }

    /// Makes native links, once [`attach_udp`](Self::attach_udp) was called.
    pub(crate) fn native_dialer(&self) -> NativeDialer {
        NativeDialer::new(self.0.worker.clone())
    }

    /// Originate another identity, with an interface or without.
    ///
    /// # Errors
    /// See [`EngineError`]; then nothing has changed.
    pub async fn add_identity(
        &self,
        secret: SecretKey,
        host: Option<HostInterface>,
    ) -> Result<IdentityId, EngineError> {
        let id = IdentityId(self.0.next_identity.fetch_add(1, Ordering::Relaxed));
        let subnet = Subnet::containing(secret.public_key().address());
        let (done, is_new) = oneshot::channel();
        self.tell_control(ControlInput::AddIdentity { id, secret, done })
            .await?;
        if !is_new.await.map_err(|_| EngineError::Stopping)? {
            return Err(EngineError::DuplicateIdentity(subnet));
        }
        if let Some(host) = host {
            let (done, attached) = oneshot::channel();
            let command = WorkerCommand::AttachHost {
                identity: id,
                host,
                done,
            };
            self.tell_worker(command).await?;
            if let Err(error) = attached.await.map_err(|_| EngineError::Stopping)? {
                self.tell_control(ControlInput::RemoveIdentity { id })
                    .await?;
                return Err(EngineError::Host(error));
            }
        }
        Ok(id)
    }

    /// Give an identity another interface in place of the one it has or had.
    ///
    /// # Errors
    /// See [`EngineError`]; then it has none.
    pub(crate) async fn replace_host(
        &self,
        identity: IdentityId,
        host: HostInterface,
    ) -> Result<(), EngineError> {
        let (done, detached) = oneshot::channel();
        self.tell_worker(WorkerCommand::DetachHost { identity, done })
            .await?;
        detached.await.map_err(|_| EngineError::Stopping)?;
        let (done, attached) = oneshot::channel();
        self.tell_worker(WorkerCommand::AttachHost {
            identity,
            host,
            done,
        })
        .await?;
        let attached = attached.await.map_err(|_| EngineError::Stopping)?;
        attached.map_err(EngineError::Host)
    }

    /// Stop originating an identity and take its interface down. Unknown ids are ignored.
    ///
    /// # Errors
    /// For [`IdentityId::NODE`], or when the engine is stopping.
    pub async fn remove_identity(&self, id: IdentityId) -> Result<(), EngineError> {
        if id == IdentityId::NODE {
            return Err(EngineError::NodeIdentity);
        }
        self.tell_control(ControlInput::RemoveIdentity { id })
            .await?;
        let (done, detached) = oneshot::channel();
        self.tell_worker(WorkerCommand::DetachHost { identity: id, done })
            .await?;
        detached.await.map_err(|_| EngineError::Stopping)
    }

    /// The state of the engine: the control plane's at most about 100 ms old, or older with tables so large that a copy takes
    /// more than 3 ms; the data plane's as of now.
    pub async fn snapshot(&self) -> Arc<EngineSnapshot> {
        self.snapshot_of(false).await
    }

    /// The same with all sessions, of which there may be thousands: the worker copies them.
    pub async fn snapshot_with_sessions(&self) -> Arc<EngineSnapshot> {
        self.snapshot_of(true).await
    }

    async fn snapshot_of(&self, sessions: bool) -> Arc<EngineSnapshot> {
        let mut snapshots = self.0.snapshots.clone();
        let is_fresh =
            |published: &PublishedSnapshot| clock::now().since(published.taken) < SNAPSHOT_AGE;
        if !is_fresh(&snapshots.borrow_and_update()) {
            if !self.0.snapshot_wanted.swap(true, Ordering::AcqRel) {
                // A full queue wakes the control thread as well; then the last copy is what there is.
                let _ = self.0.control.try_send(ControlInput::SnapshotWanted);
            }
            let _ = tokio::time::timeout(SNAPSHOT_WAIT, snapshots.changed()).await;
        }
        let published = snapshots.borrow().clone();
        let (reply, report) = oneshot::channel();
        let report = match self
            .tell_worker(WorkerCommand::Report { sessions, reply })
            .await
        {
            Ok(()) => report.await.ok(),
            Err(_) => None,
        };
        Arc::new(EngineSnapshot {
            control: published.snapshot,
            duplicates: published.duplicates,
            taken: published.taken,
            worker: report.unwrap_or_default(),
        })
    }

    /// Forget the pin and the sessions of `subnet`: its owner may speak v1 again, or have another key. False: there was no pin.
    ///
    /// # Errors
    /// When the engine is stopping.
    pub async fn forget_session(&self, subnet: Subnet) -> Result<bool, EngineError> {
        let (done, known) = oneshot::channel();
        self.tell_worker(WorkerCommand::ForgetSession { subnet, done })
            .await?;
        known.await.map_err(|_| EngineError::Stopping)
    }

    /// Who is known to speak session v2, with a number that changes with them; `None`: that number is still `unless`.
    ///
    /// # Errors
    /// When the engine is stopping.
    pub async fn pins(&self, unless: Option<u64>) -> Result<Option<(u64, Vec<Pin>)>, EngineError> {
        let (reply, pins) = oneshot::channel();
        self.tell_worker(WorkerCommand::Pins { unless, reply })
            .await?;
        pins.await.map_err(|_| EngineError::Stopping)
    }

    /// Ask the network for `subnet`.
    pub async fn resolve(&self, subnet: Subnet) {
        // While stopping there is nothing to ask for.
        let _ = self.tell_control(ControlInput::Resolve { subnet }).await;
    }

    /// Retract our routes, hang up in good order and stop both threads. Takes at most about a second.
    pub async fn shutdown(&self) {
        let goodbye = async {
            let (done, said) = oneshot::channel();
            self.tell_control(ControlInput::Shutdown { done }).await?;
            said.await.map_err(|_| EngineError::Stopping)?;
            let (done, left) = oneshot::channel();
            self.tell_worker(WorkerCommand::Shutdown { done }).await?;
            left.await.map_err(|_| EngineError::Stopping)
        };
        match tokio::time::timeout(SHUTDOWN_LIMIT, goodbye).await {
            Ok(Ok(()) | Err(_)) => {}
            Err(_) => tracing::warn!("the engine did not stop in time"),
        }
    }

    async fn tell_control(&self, input: ControlInput) -> Result<(), EngineError> {
        self.0
            .control
            .send(input)
            .await
            .map_err(|_| EngineError::Stopping)
    }

    async fn tell_worker(&self, command: WorkerCommand) -> Result<(), EngineError> {
        self.0
            .worker
            .send(command)
            .await
            .map_err(|_| EngineError::Stopping)
    }
}

/// Run what `main` makes on a thread with a runtime of its own.
fn spawn<F: Future<Output = ()>>(
    name: &str,
    main: impl FnOnce() -> std::io::Result<(tokio::runtime::Runtime, F)> + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || match main() {
            Ok((runtime, future)) => LocalSet::new().block_on(&runtime, future),
            Err(error) => tracing::error!(%error, "cannot start an engine thread"),
        })
        .with_context(|| format!("cannot start the {name} thread"))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Whether this processor computes AES fast.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

fn seed() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    let mut filled = 0;
    while filled < seed.len() {
        filled +=
            rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())
                .context("no randomness from the system")?;
    }
    Ok(seed)
}

#[cfg(test)]
mod tests;
