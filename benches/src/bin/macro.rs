//! The macro suite: real nodes of several systems in network namespaces, side by side. See `docs/benchmarks.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match benches::macro_suite::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
