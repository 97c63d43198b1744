//! What can keep the demo from working, each with what to do about it.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use mycelium_api::client;

use crate::key_file;

/// Why the demo failed. One or a few lines for a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The TUN driver is not there.
    #[error(
        "there is no usable /dev/net/tun: load the driver with `sudo modprobe tun`; in a container, start it with --device /dev/net/tun ({0})"
    )]
    NoTunDevice(io::Error),
    /// The TUN device belongs to others.
    #[error(
        "this user may not open /dev/net/tun: allow it with `sudo chmod 0666 /dev/net/tun` (most distributions do; interfaces still need privileges), or run `sudo mycelium demo` ({0})"
    )]
    TunForbidden(io::Error),
    /// Root may not open the TUN device.
    #[error(
        "even root may not open /dev/net/tun here: in a container, start it with --device /dev/net/tun ({0})"
    )]
    TunForbiddenToRoot(io::Error),
    /// Namespaces, interfaces or addresses.
    #[error("{}", with_causes(.0))]
    Namespace(node_integration::Error),
    /// The command line of the inner half, typed by a person.
    #[error("--inside is for the demo itself: run `mycelium demo`")]
    NotInside,
    /// The inner half was killed.
    #[error("the demo's nodes were killed from outside ({0}): out of memory?")]
    Killed(ExitStatus),
    /// No key.
    #[error(transparent)]
    KeyFile(#[from] key_file::Error),
    /// A node ended.
    #[error("node {name} stopped ({status}). Its last words:\n{log}")]
    NodeStopped {
        /// Which.
        name: char,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A node does not serve its API.
    #[error("node {name} is running but its API does not answer: {reason}. Its last words:\n{log}")]
    NodeSilent {
        /// Which.
        name: char,
        /// What asking gave.
        reason: client::Error,
        /// The end of its log.
        log: String,
    },
    /// No answer to pings.
    #[error(
        "B did not answer A within {} s{}. Last words of A:\n{log}",
        limit.as_secs(),
        reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
    )]
    NoReply {
        /// How long was waited.
        limit: Duration,
        /// What sending gave, if it failed.
        reason: Option<io::Error>,
        /// The end of A's log.
        log: String,
    },
    /// The transfer broke.
    #[error("data stopped moving from A to B: {reason}. Last words of A:\n{log}")]
    Transfer {
        /// What the socket gave.
        reason: io::Error,
        /// The end of A's log.
        log: String,
    },
    /// Bytes went missing.
    #[error("A sent {sent} bytes and B received {received}: please report this")]
    BytesLost {
        /// By A.
        sent: u64,
        /// By B.
        received: u64,
    },
    /// Anything else the operating system refused.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// An answer of the operating system to `action`.
    pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

impl From<node_integration::Error> for Error {
    fn from(error: node_integration::Error) -> Self {
        Self::Namespace(error)
    }
}

/// An error and what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
