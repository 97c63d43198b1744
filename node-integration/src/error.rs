//! What can go wrong, worded so that the reader knows what to do.

use std::io;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a namespace or an interface. The message names the remedy where there is one; the cause is
/// in [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel wants CAP_NET_ADMIN or CAP_SYS_ADMIN for this.
    #[error(
        "{action}: not permitted; run as root, or inside a user namespace (`unshare --user --map-root-user`)"
    )]
    NotPermitted {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The machine's configuration keeps ordinary users from having user namespaces.
    #[error("user namespaces are not available: {reason}; run as root, or {remedy}")]
    NoUserNamespaces {
        /// Which limit was hit.
        reason: &'static str,
        /// What lifts it.
        remedy: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// User namespaces can only be entered while the process has a single thread.
    #[error("a user namespace can only be entered before the first thread is started")]
    AlreadyThreaded,
    /// No interface of this name in the namespace.
    #[error("{action}: no interface {interface} in this namespace")]
    NoSuchInterface {
        /// What was tried.
        action: String,
        /// The missing interface.
        interface: String,
    },
    /// What should be created is there already.
    #[error("{action}: it exists already; remove it first or choose another name")]
    Exists {
        /// What was tried.
        action: String,
    },
    /// A name that the kernel or the file system would not take.
    #[error("{name:?} is not a usable name: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No namespace of this name.
    #[error("there is no network namespace {name}; `ip netns list` shows those that exist")]
    NoSuchNamespace {
        /// The name.
        name: String,
    },
    /// The kernel has no such setting.
    #[error("{action}: the kernel has no such setting")]
    NoSuchSetting {
        /// What was tried.
        action: String,
    },
    /// Anything else the operating system refused.
    #[error("{action}")]
    Refused {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// Sort an answer of the operating system to `action`.
    pub(crate) fn from_io(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { action, source },
            io::ErrorKind::AlreadyExists => Self::Exists { action },
            _ => Self::Refused { action, source },
        }
    }

    /// The kind of I/O error that describes it best.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NotPermitted { .. } | Self::NoUserNamespaces { .. } => {
                io::ErrorKind::PermissionDenied
            }
            Self::NoSuchInterface { .. }
            | Self::NoSuchNamespace { .. }
            | Self::NoSuchSetting { .. } => io::ErrorKind::NotFound,
            Self::Exists { .. } => io::ErrorKind::AlreadyExists,
            Self::BadName { .. } => io::ErrorKind::InvalidInput,
            Self::AlreadyThreaded => io::ErrorKind::Unsupported,
            Self::Refused { source, .. } => source.kind(),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}
