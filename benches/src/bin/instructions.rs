//! Instructions per packet and more, counted by callgrind. See `docs/benchmarks.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match benches::micro_suite::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
