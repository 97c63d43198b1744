//! The binary `mycelium`: the node, or one of its client commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    mycelium_daemon::main(std::env::args_os())
}
