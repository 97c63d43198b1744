//! Running this program under valgrind and reading what it counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// A full run takes a minute or two.
const LIMIT: Duration = Duration::from_secs(600);
/// The function whose instructions count.
const MEASURED: &str = "benches::micro_suite::measured";
const NO_STRING_COPIES: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824";

/// Instructions of one call, by case; `cases` are names and calls in the order in which the program runs them.
pub(super) fn count(cases: &[(&str, u32)], short: bool) -> anyhow::Result<BTreeMap<String, u64>> {
    let scratch = tempfile::Builder::new().prefix("callgrind-").tempdir()?;
    let out = scratch.path().join("out");
    let messages = scratch.path().join("messages");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(format!("--log-file={}", messages.display()))
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--dump-after={MEASURED}"))
        .arg(std::env::current_exe()?)
        .arg("--under-callgrind")
        .args(short.then_some("--short"))
        // Addresses, and with them paths through allocator and copies, depend on the size of the environment.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // Or long copies are one instruction for every byte, from a length on that depends on the processor's caches.
        .env("GLIBC_TUNABLES", NO_STRING_COPIES)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command
        .spawn()
        .context("cannot start valgrind (Debian: apt-get install valgrind)")?;
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("valgrind: not within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let words = fs::read_to_string(&messages).unwrap_or_default();
    ensure!(status.success(), "valgrind: {status}\n{words}");
    let mut counts = BTreeMap::new();
    for (index, (name, calls)) in cases.iter().enumerate() {
        let part = out.with_extension((index + 1).to_string());
        let total = total(&part)
            .with_context(|| format!("{name}: callgrind did not see {MEASURED}\n{words}"))?;
        counts.insert((*name).to_owned(), total / u64::from(*calls));
    }
    Ok(counts)
}

/// The instructions of one part of a profile.
fn total(part: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(part).with_context(|| part.display().to_string())?;
    of_profile(&text).with_context(|| format!("no total in {}", part.display()))
}

fn of_profile(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| {
            line.strip_prefix("totals: ")
                .or(line.strip_prefix("summary: "))
        })
        .and_then(|number| number.trim().parse().ok())
        .filter(|total| *total > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found() {
        assert_eq!(
            of_profile("events: Ir\nsummary: 1234\n\nfn=(1) x\n1 2\n"),
            Some(1234)
        );
        assert_eq!(of_profile("events: Ir\nfn=(1) x\n\ntotals: 5\n"), Some(5));
        assert_eq!(
            of_profile("totals: 0\n"),
            None,
            "nothing was counted: the name has changed"
        );
    }
}
