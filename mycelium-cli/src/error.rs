//! What a command can fail with: one line for a person each, the cause included, hence none has a `source`.

use std::io;
use std::path::PathBuf;

use mycelium_api::client;

use crate::key_file;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node could not be asked, or refused.
    #[error(transparent)]
    Node(#[from] client::Error),
    /// A peer could not be added or removed.
    #[error("cannot {verb} peer {endpoint}: {error}")]
    Peer {
        /// What was to be done.
        verb: &'static str,
        /// To which.
        endpoint: String,
        /// Why not.
        error: client::Error,
    },
    /// No identity of the node is called that.
    #[error(
        "no identity `{0}`: `mycelium identities` lists their numbers, names, addresses and keys"
    )]
    UnknownIdentity(String),
    /// The text given as a public key is none.
    #[error("`{0}` is no public key: that is 64 hexadecimal digits")]
    NotAKey(String),
    /// The text given as a public key is zero.
    #[error("a public key of zeros only belongs to nobody")]
    ZeroKey,
    /// A key file could not be read or written.
    #[error(transparent)]
    KeyFile(#[from] key_file::Error),
    /// A manual page could not be written.
    #[error("cannot write manual pages to {}: {error}", directory.display())]
    ManualPages {
        /// Where.
        directory: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Networks of this host.
    #[cfg(target_os = "linux")]
    #[error("{0}")]
    Net(String),
    /// The demo failed.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Demo(#[from] crate::demo::Error),
    /// Standard output does not take the answer.
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

#[cfg(target_os = "linux")]
impl From<node_integration::reconcile::ReconcileError> for Error {
    fn from(error: node_integration::reconcile::ReconcileError) -> Self {
        Self::Net(error.to_string())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
