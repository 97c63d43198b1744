//! `mycelium demo`: a small overlay on one machine, for a first look and for "does it work here?".
//!
//! Three processes of this binary, A – R – B, in network namespaces joined by virtual cables; R only relays. The
//! command starts itself again (`outside`) as the first process of new mount, network and PID namespaces
//! (`inside`), for an ordinary user below a user namespace. So it is the kernel that removes nodes, interfaces and
//! files, however the command ends, `kill -9` included.

use std::process::ExitCode;

mod error;
mod inside;
mod network;
mod node;
mod outside;
mod ping;
mod transfer;

pub use error::Error;

/// Arguments of `demo`.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mycelium demo\n  mycelium demo --quic --seconds 1\n\nNeeds Linux and access to /dev/net/tun; not root where ordinary users may have user namespaces."
)]
pub struct Args {
    /// How long to move data
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u8).range(1..=60))]
    pub seconds: u8,

    /// Link the nodes by QUIC instead of TCP
    #[arg(long)]
    pub quic: bool,

    /// For the command itself: run as the first process of the namespaces it has made.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Run the demo; what happens goes to standard output. The process must not have started a thread yet.
///
/// # Errors
/// What is missing or went wrong, with its remedy.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let Args {
        seconds,
        quic,
        inside,
    } = args;
    if inside {
        inside::run(seconds, quic)
    } else {
        outside::run(seconds, quic)
    }
}
