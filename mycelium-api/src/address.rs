//! Where the API of a node is.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The socket that a node run by root, or as a service, serves unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mycelium/api.sock";

/// Header of requests over [`DEFAULT_SOCKET`] by clients that mean the node of their own network namespace: its number.
/// A node that is elsewhere answers 421. File names do not depend on the namespace, addresses do.
pub const NETWORK_HEADER: &str = "mycelium-network";

/// Where the API of a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On TCP.
    Tcp(SocketAddr),
    /// On a Unix socket, whose clients the node knows.
    Local(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Local(path.to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Local(path) => path.display().fmt(f),
        }
    }
}

/// The number of the network namespace that the calling thread is in; `None` where there are none.
pub fn network_namespace() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").ok()?;
        Some(std::os::unix::fs::MetadataExt::ino(&namespace))
    }
    #[cfg(not(target_os = "linux"))]
    None
}
