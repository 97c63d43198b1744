//! The process that the user starts: checks, makes the namespaces, waits, passes on the end.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use node_integration::userns;

use super::Error;

/// What a shell reports for a process that a signal ended: this plus the signal's number.
const ENDED_BY_SIGNAL: u8 = 128;

/// Run the demo in a child process that is the first of new namespaces.
pub(super) fn run(seconds: u8, quic: bool) -> Result<ExitCode, Error> {
    check_tun()?;
    // From here on signals wait to be read: an interrupt must not leave before the kernel has cleaned up.
    let signals = signals().map_err(Error::system("receive signals"))?;
    let as_user = userns::become_root()?;
    userns::separate_children()?;
    let mut arguments = vec![
        "demo".to_owned(),
        "--inside".to_owned(),
        format!("--seconds={seconds}"),
    ];
    arguments.extend(quic.then(|| "--quic".to_owned()));
    // The pipe tells the child that we are there; it is never written to.
    let mut child = Command::new("/proc/self/exe")
        .arg0("mycelium")
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(Error::system("start this program once more"))?;
    match wait(&mut child, &signals).map_err(Error::system("wait for the demo"))? {
        Outcome::Ended(status) if status.success() => {
            let how = if as_user {
                " It ran as an ordinary user, in a user namespace."
            } else {
                ""
            };
            say(&format!(
                "\nDone; nodes, interfaces, namespaces and keys are gone again.{how}"
            ));
            Ok(ExitCode::SUCCESS)
        }
        // It has said why.
        Outcome::Ended(status) => match status.code() {
            Some(_) => Ok(ExitCode::FAILURE),
            None => Err(Error::Killed(status)),
        },
        Outcome::Interrupted(signal) => {
            say("\nInterrupted; nodes, interfaces, namespaces and keys are gone again.");
            let number = u8::try_from(signal as i32).unwrap_or_default();
            Ok(ExitCode::from(ENDED_BY_SIGNAL + number))
        }
    }
}

enum Outcome {
    Ended(ExitStatus),
    Interrupted(Signal),
}

/// Wait for the child, or end it when a signal asks for that. Either way every process of its PID namespace has
/// ended when this returns: the kernel sees to that before it reports the first one's end.
fn wait(child: &mut Child, signals: &SignalFd) -> io::Result<Outcome> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Outcome::Ended(status));
        }
        let Some(received) = signals.read_signal()? else {
            continue;
        };
        let signal = i32::try_from(received.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        if let Some(signal) = signal.filter(|signal| *signal != Signal::SIGCHLD) {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Interrupted(signal));
        }
    }
}

fn signals() -> io::Result<SignalFd> {
    let set: SigSet = [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ]
    .into_iter()
    .collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?)
}

/// Whether nodes will be able to make interfaces, as far as the device file goes.
fn check_tun() -> Result<(), Error> {
    let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") else {
        return Ok(());
    };
    Err(match error.kind() {
        io::ErrorKind::PermissionDenied if nix::unistd::Uid::effective().is_root() => {
            Error::TunForbiddenToRoot(error)
        }
        io::ErrorKind::PermissionDenied => Error::TunForbidden(error),
        // Missing, or without a driver behind it.
        _ => Error::NoTunDevice(error),
    })
}

/// Print a line. A reader that has gone away does not matter: the exit code tells the outcome.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
