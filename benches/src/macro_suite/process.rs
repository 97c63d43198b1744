//! Programs under measurement: started on a host, accounted for, ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use netns_tests::lab::Host;

/// How long a tool that sets something up may take.
const TOOL: Duration = Duration::from_secs(10);

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    role: String,
    child: Child,
    log: PathBuf,
}

/// Processor time of every thread of a daemon at one moment.
#[derive(Clone, Debug)]
pub struct CpuClock {
    threads: BTreeMap<String, u64>,
}

impl Daemon {
    /// Start `command` on `host`; what it prints goes to a file in `scratch`. The environment is empty but for PATH,
    /// and HOME, which is in `scratch`.
    pub fn start(
        host: &Host,
        role: &str,
        scratch: &Path,
        command: &mut Command,
    ) -> anyhow::Result<Self> {
        let log = scratch.join(format!("{role}.log"));
        let output = File::create(&log)?;
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", scratch)
            .env("RUNTIME_DIRECTORY", scratch.join(format!("{role}.run")))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = host
            .spawn(command)
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self {
            role: role.to_owned(),
            child,
            log,
        })
    }

    /// "a", "b" or "r": whose end it is.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// An error with the end of its log if it has ended.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the daemon of {} ended: {status}: {}",
                self.role,
                self.last_words()
            );
        }
        Ok(())
    }

    /// The end of what it has printed.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Processor time so far, from the scheduler's nanosecond accounting.
    pub fn cpu(&self) -> anyhow::Result<CpuClock> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?;
            // A thread may end between the listing and the reading.
            let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            let used = text
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
            threads.insert(
                task.file_name().to_string_lossy().into_owned(),
                used.context("schedstat")?,
            );
        }
        ensure!(!threads.is_empty(), "the daemon of {} has ended", self.role);
        Ok(CpuClock { threads })
    }

    /// Highest resident memory so far, in MiB.
    pub fn peak_memory(&self) -> anyhow::Result<f64> {
        self.status("VmHWM:")
    }

    /// Resident memory now, in MiB.
    pub fn memory(&self) -> anyhow::Result<f64> {
        self.status("VmRSS:")
    }

    fn status(&self, key: &str) -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib: f64 = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{key} of the daemon of {}", self.role))?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Errors mean that it is already gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CpuClock {
    /// Seconds used since `earlier`; of threads that have ended in between, nothing.
    pub fn since(&self, earlier: &Self) -> f64 {
        let used: u64 = self
            .threads
            .iter()
            .map(|(thread, now)| {
                now.saturating_sub(earlier.threads.get(thread).copied().unwrap_or_default())
            })
            .sum();
        Duration::from_nanos(used).as_secs_f64()
    }
}

/// Run a tool on `host` that sets something up, to its end; its output.
pub fn run_tool(
    host: &Host,
    program: &str,
    arguments: &[&str],
    scratch: &Path,
) -> anyhow::Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let (out, err) = (scratch.join("tool.out"), scratch.join("tool.err"));
    let mut child = host
        .spawn(
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(File::create(&out)?)
                .stderr(File::create(&err)?),
        )
        .with_context(shown)?;
    let deadline = Instant::now() + TOOL;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{}: not within {TOOL:?}", shown());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let complaint = std::fs::read_to_string(&err)?;
    ensure!(
        status.success(),
        "{}: {status}: {}",
        shown(),
        complaint.trim()
    );
    Ok(std::fs::read_to_string(&out)?)
}

/// Where a program is, as PATH says.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
