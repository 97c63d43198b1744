//! Real nodes of several systems in network namespaces, direct and through a relay, under the same loads in turn.
//!
//! A run is *rounds* of *systems*: in each round every system is started afresh in namespaces of its own, put under
//! every workload and ended, so that a slow minute of the machine hits all of them. What is reported is the median
//! over the rounds.
//!
//! - [`options`]: the command line;
//! - `confinement`: the process and namespaces around a run, so that nothing is left however it ends;
//! - [`testbed`]: hosts and wires; [`process`]: programs on them, their processor time and memory;
//! - [`system`]: how each system is set up; [`workload`]: what is measured;
//! - [`results`], [`table`], [`chart`]: what comes out.

pub mod chart;
mod confinement;
pub mod options;
pub mod process;
pub mod results;
pub mod session;
pub mod system;
pub mod table;
pub mod testbed;
pub mod workload;

use std::process::ExitCode;

use clap::Parser as _;

use crate::plain;
use options::{Invocation, Part};

/// Parse the command line and do what it says.
///
/// # Errors
/// When nothing could be measured; failures of single systems are reported and leave the others alone.
pub fn main() -> anyhow::Result<ExitCode> {
    let invocation = Invocation::parse();
    match invocation.part {
        Some(Part::Inside) => session::run(&invocation.options),
        Some(Part::Forward(forward)) => {
            plain::forward(
                &forward.tun,
                forward.address,
                forward.local,
                forward.remote,
                forward.join_udp,
            )?;
            Ok(ExitCode::FAILURE)
        }
        Some(Part::Relay(relay)) => {
            plain::relay(
                [relay.left_local, relay.left_remote],
                [relay.right_local, relay.right_remote],
            )?;
            Ok(ExitCode::FAILURE)
        }
        None => confinement::run(&invocation.options),
    }
}
