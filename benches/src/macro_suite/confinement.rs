//! What keeps a run from leaving anything behind: a PID, a mount and a network namespace, which end with it.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use node_integration::userns;

use super::options::Options;
use super::system;

/// Run this program once more as the first process of new namespaces, and pass on how it ended.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.list {
        system::list(options);
        return Ok(ExitCode::SUCCESS);
    }
    let set: SigSet = [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ]
    .into_iter()
    .collect();
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
    userns::become_root()?;
    userns::separate_children()?;
    // The pipe tells the child that we are there; it is never written to.
    let mut child = Command::new("/proc/self/exe")
        .arg0("macro")
        .args(std::env::args_os().skip(1))
        .arg("inside")
        .stdin(Stdio::piped())
        .spawn()
        .context("start this program once more")?;
    match wait(&mut child, &signals)? {
        Some(status) if status.success() => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// `None`: ended by a signal to us. The kernel has ended every process of the PID namespace when this returns.
fn wait(child: &mut Child, signals: &SignalFd) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let number = signals.read_signal()?.map(|received| received.ssi_signo);
        if number.is_some_and(|number| number != Signal::SIGCHLD as u32) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
}

/// In the child: namespaces, the file systems that belong to them, and an end when the parent is gone.
pub(super) fn enter() -> anyhow::Result<()> {
    userns::enter()?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .context("mount /proc of the PID namespace")?;
    // Where some systems keep their control sockets.
    userns::cover_with_memory(Path::new("/run"))?;
    std::thread::Builder::new()
        .name("parent".into())
        .spawn(|| {
            let mut nothing = [0];
            while std::io::stdin()
                .read(&mut nothing)
                .is_ok_and(|read| read > 0)
            {}
            std::process::exit(1);
        })
        .context("watch the parent")?;
    Ok(())
}
