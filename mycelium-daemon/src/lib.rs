//! The node: sockets, interfaces, API and the threads around [`mycelium_core`].
//!
//! ```text
//!  thread "main"                               thread "control"            thread "worker"
//!  node: start, signals, end                   control: owns core::Node ◄► worker: owns core::DataPlane,
//!  peering: dials, accepts, beacons, watches     ▲         │                 links and TUNs
//!  the host's network ── Established links ──────┼─────────┼────────────────►  ▲
//!    ▲                                           │         ▼ snapshots         │ QUIC sockets: "main"
//!    │ bounded requests                        EngineHandle (engine)
//!  thread "api": api, metrics ───────────────────┘
//! ```
//!
//! [`engine`] opens with the channels of the two threads on the right, [`peering`] with those of the peers. No packet
//! passes through the main thread, except that it drives the UDP sockets of QUIC; nothing the API does is waited for by
//! the threads on the right. Where to go next: [`node`], which starts everything, in order.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod api;
pub mod args;
pub mod config;
pub mod health;
pub mod identities;
pub mod identity;
pub mod logging;
pub mod metrics;
mod net_dir;
pub mod node;
pub mod notify;
pub mod peering;
pub mod pin_file;
mod pin_keeper;
mod server;
mod session;
pub mod session_key;
pub mod shutdown;
pub mod status;

// The engine: two threads, links and interfaces.
pub mod clock;
mod control;
pub(crate) mod descriptors;
pub mod engine;
pub mod host;
pub mod link;
mod worker;

/// Run the program with these arguments, the program's name first; its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = node_integration::porter::serve_if_asked(&arguments) {
        return code;
    }
    let args::Invocation { line, command } = match args::parse(arguments) {
        Ok(invocation) => invocation,
        Err(error) => return ExitCode::from(args::report(&error)),
    };
    let result = match command {
        Some(command) => run_command(command, &line),
        None => node::run(&line),
    };
    result.unwrap_or_else(|error| {
        // The alternate form joins the causes with colons: one line.
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_command(
    command: mycelium_cli::Command,
    line: &args::CommandLine,
) -> anyhow::Result<ExitCode> {
    let context = mycelium_cli::Context {
        key_file: line.key_file.clone(),
        api: config::api_of_node(line),
        root: args::definition,
    };
    Ok(mycelium_cli::run(command, &context)?)
}
