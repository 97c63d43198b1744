//! Instructions, counted by valgrind's callgrind: the same on a busy machine as on a quiet one, so that they can decide.
//!
//! The program runs itself under callgrind. Every case prepares itself unobserved; then `measured` calls it a
//! known number of times, which is all that is counted. Counts are of the instructions that callgrind's processor has
//! (AES and AVX2, no wider ones), so the AEAD's share differs from that of the machine itself.

mod baseline;
mod callgrind;
mod case;
mod codec;
mod packets;
mod station;
mod tables;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;

use baseline::Baseline;
use case::Case;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "instructions",
    about = "Instructions per packet, counted by callgrind"
)]
struct Options {
    /// Leave out what takes long to prepare
    #[arg(long)]
    short: bool,
    /// Compare with a committed baseline; what takes more instructions than tolerated is an error
    #[arg(long, value_name = "PATH")]
    check: Option<PathBuf>,
    /// Make this the new baseline
    #[arg(long, value_name = "PATH", conflicts_with = "check")]
    save: Option<PathBuf>,
    /// What a count may exceed the baseline by, in percent
    #[arg(long, default_value_t = 3.0, value_name = "PERCENT")]
    tolerance: f64,
    /// Run the cases, as callgrind wants it.
    #[arg(long, hide = true)]
    under_callgrind: bool,
}

/// Parse the command line and do what it says.
///
/// # Errors
/// When valgrind is missing or fails, and when a check fails.
pub fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let cases = all(options.short);
    if options.under_callgrind {
        for case in cases {
            let calls = case.calls;
            let mut call = (case.prepare)();
            measured(calls, &mut *call);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let calls: Vec<(&str, u32)> = cases.iter().map(|case| (case.name, case.calls)).collect();
    let counted = Baseline::new(callgrind::count(&calls, options.short)?);
    if let Some(path) = &options.save {
        counted.write(path)?;
    }
    let Some(path) = &options.check else {
        print!("{}", counted.table(None));
        return Ok(ExitCode::SUCCESS);
    };
    let committed = Baseline::read(path)?;
    print!("{}", counted.table(Some(&committed)));
    let complaints = counted.complaints(&committed, options.tolerance);
    ensure!(
        complaints.is_empty(),
        "{}\nIf that is meant, say why in the commit and save a new baseline: \
         cargo run --release -p benches --bin instructions -- --save {}",
        complaints.join("\n"),
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// What is counted, and nothing else: callgrind knows it by its name.
#[inline(never)]
fn measured(calls: u32, call: &mut dyn FnMut()) {
    for _ in 0..calls {
        call();
    }
}

/// All cases, in the order of the table.
fn all(short: bool) -> Vec<Case> {
    let mut cases = packets::cases();
    cases.extend(codec::cases());
    // Last: the allocator remembers a million routes for a while.
    cases.extend(tables::cases(short));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_as_often_as_it_says() {
        let cases = all(true);
        let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "two cases share a name");
        for case in cases {
            let mut call = (case.prepare)();
            measured(case.calls, &mut *call);
        }
    }
}
