//! Network namespaces, interfaces, addresses and routes, for attaching workloads to the overlay and for running
//! whole networks on one machine.
//!
//! Nothing here shells out or needs `unsafe`. A network namespace belongs to a thread, not to a process, so operations run
//! on a short-lived thread that has entered the namespace, or on the caller's, which has come back when they return (only
//! [`userns::enter`] moves the caller, and says so). The API blocks: each operation takes well under a millisecond.
//!
//! - [`Namespace`]: create, open, enter with [`Namespace::run`], start processes with [`Namespace::spawn`];
//! - [`named`]: namespaces with a name under `/run/netns`, as `ip netns` makes and lists them;
//! - [`link`]: interfaces, addresses and routes over rtnetlink;
//! - [`desired`]: user networks and attachments as they are described; [`object`]: what they consist of; [`plan`]: what
//!   must be done to get there; [`kernel`]: what is there; [`directory`] and [`reconcile`]: a directory of descriptions,
//!   and making things so; [`host`]: all that together, for users; [`deploy`]: for deployments of Zero-OS; [`porter`]:
//!   commands that end before the kernel does;
//! - [`check`]: what commonly breaks;
//! - [`guest`]: how a guest learns its address;
//! - [`survey`]: a host's own interfaces, at a cost that does not grow with workloads;
//! - [`sysctl`]: settings below `/proc/sys/net` of a namespace;
//! - [`userns`]: the same rights for an ordinary user.

#![cfg(target_os = "linux")]

pub mod addressing;
pub mod check;
pub mod deploy;
pub mod desired;
pub mod directory;
mod error;
pub mod guest;
pub mod host;
pub mod kernel;
pub mod link;
pub mod named;
mod namespace;
pub mod naming;
mod netlink;
pub mod object;
pub mod plan;
pub mod plugin;
pub mod porter;
pub mod reconcile;
pub mod secret;
pub mod survey;
pub mod sysctl;
pub mod userns;

pub use error::{Error, Result};
pub use namespace::Namespace;
