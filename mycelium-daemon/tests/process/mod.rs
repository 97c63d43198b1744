//! Runs the real binary in a network namespace of its own.

#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mycelium_api::client::Client;
use node_integration::{Namespace, link};
use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes a second unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// The user that owns nothing.
const NOBODY: u32 = 65534;

/// A namespace and a directory for one test.
pub(crate) struct Place {
    pub(crate) namespace: Namespace,
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    /// `None`, after saying why on stderr, where neither root nor CAP_SYS_ADMIN is to be had. (The tests of the
    /// netns-tests crate run there too, in user namespaces.)
    pub(crate) fn new() -> Option<Self> {
        let namespace = match Namespace::create() {
            Ok(namespace) => namespace,
            Err(error) => {
                eprintln!("skipped: cannot create a network namespace: {error}");
                return None;
            }
        };
        link::up(&namespace, "lo").expect("loopback comes up");
        let directory = tempfile::tempdir().expect("temporary directory");
        // So that an unprivileged process can get at what is in it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("own directory");
        Some(Self {
            namespace,
            directory,
        })
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).expect("own directory");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mycelium"));
        command
            .args(arguments)
            .env_clear()
            .env("XDG_DATA_HOME", self.directory.path().join("data"))
            .env("XDG_CONFIG_HOME", self.directory.path().join("config"))
            // The machine's own node keeps its socket.
            .env("RUNTIME_DIRECTORY", self.directory.path().join("run"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        self.spawn(self.command(arguments))
    }

    pub(crate) fn start_with(&self, arguments: &[&str], variable: (&str, &str)) -> Process {
        let mut command = self.command(arguments);
        command.env(variable.0, variable.1);
        self.spawn(command)
    }

    pub(crate) fn start_watched(
        &self,
        arguments: &[&str],
        socket: &str,
        watchdog: Duration,
    ) -> Process {
        let mut command = self.command(arguments);
        command
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        self.spawn(command)
    }

    pub(crate) fn start_as_nobody(&self, arguments: &[&str]) -> Process {
        // The binary may be below a directory that only its owner enters.
        let binary = self.directory.path().join("mycelium");
        std::fs::copy(env!("CARGO_BIN_EXE_mycelium"), &binary).expect("own directory");
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .args(["--api-socket", "off"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(NOBODY)
            .gid(NOBODY);
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> Process {
        let stdout = tempfile::tempfile().expect("temporary file");
        let stderr = tempfile::tempfile().expect("temporary file");
        command
            .stdout(stdout.try_clone().expect("own file"))
            .stderr(stderr.try_clone().expect("own file"));
        Process {
            child: self
                .namespace
                .spawn(&mut command)
                .expect("the binary starts"),
            stdout,
            stderr,
        }
    }

    /// Ask the API, from inside.
    pub(crate) fn ask<T: Send>(&self, question: impl Fn(&Client) -> T + Send + Sync) -> T {
        let ask = || {
            let address: SocketAddr = ([127, 0, 0, 1], 8989).into();
            question(&Client::new(address))
        };
        self.namespace.run(ask).expect("namespace")
    }

    /// Wait until the API answers so.
    pub(crate) fn until<T: Send>(
        &self,
        what: &str,
        question: impl Fn(&Client) -> Option<T> + Sync + Send,
    ) -> T {
        until(what, || self.ask(&question))
    }

    /// The codes of what `status` warns of, once the node runs.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let status = self.until("status", |client| client.status().ok());
        let warnings = status.health.warnings.into_iter();
        warnings.map(|warning| warning.code).collect()
    }
}

/// Wait for something that happens soon.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "no {what} within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running node, killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("exit", || self.child.try_wait().expect("our child"))
    }

    pub(crate) fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// It ends by itself with `code` and one line on stderr that contains all of `words`.
    pub(crate) fn fails(mut self, code: i32, words: &[&str]) {
        let status = self.wait();
        let stderr = self.stderr();
        assert_eq!(status.code(), Some(code), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "not one line: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{word:?} is not in {stderr:?}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stdout\n{}--- stderr\n{}", self.stdout(), self.stderr());
        }
    }
}

fn read(file: &File) -> String {
    // Not through the offset, which is shared with the child that writes on.
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = file.read_at(&mut buffer, bytes.len() as u64) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(bytes).expect("text")
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("our paths are text")
}
