//! Node processes: the node under test, or an unmodified mycelium 0.7.10, which take the same command line.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::Scratch;
use crate::lab::Host;
use crate::wait;

/// Port of every node's admin API; each node has a namespace and so a loopback of its own.
pub const API_PORT: u16 = 8989;
/// Port of a node's metrics, where they are on.
pub const METRICS_PORT: u16 = 9090;
/// Default TCP and QUIC port of a node.
pub const PORT: u16 = 9651;

/// Path of the node under test: `MYCELIUM_BIN`, or what `cargo build -p mycelium-daemon` provides in the profile
/// and target directory of the running test.
///
/// # Panics
/// When the build fails: no test could mean anything.
pub fn mycelium_binary() -> PathBuf {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let located = BINARY.get_or_init(|| locate().map_err(|error| format!("{error:#}")));
    match located {
        Ok(path) => path.clone(),
        Err(reason) => panic!("no node to test: {reason}"),
    }
}

fn locate() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("MYCELIUM_BIN") {
        return std::path::absolute(path).context("MYCELIUM_BIN");
    }
    // This program is <target>/<profile directory>/deps/<name>: the profile is known from where cargo put it.
    let own = std::env::current_exe().context("path of the running test")?;
    let directory = own
        .parent()
        .filter(|parent| parent.ends_with("deps"))
        .and_then(Path::parent)
        .with_context(|| format!("{} is not where cargo puts tests", own.display()))?;
    let target = directory
        .parent()
        .context("a profile directory has a parent")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--package",
            "mycelium-daemon",
            "--package",
            "node-integration",
            "--bins",
        ])
        .args(["--profile", profile])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo build -p mycelium-daemon: {status}");
    Ok(directory.join("mycelium"))
}

/// Path of an unmodified mycelium 0.7.10, if the environment names one.
pub fn upstream_binary() -> Option<PathBuf> {
    std::env::var_os("MYCELIUM_UPSTREAM_BIN")
        .map(PathBuf::from)
        .filter(|path| path.is_file())
}

/// Why tests against upstream cannot run; `None` when they can.
pub fn upstream_missing() -> Option<String> {
    upstream_binary().is_none().then(|| {
        "MYCELIUM_UPSTREAM_BIN does not name an unmodified mycelium 0.7.10 to test against"
            .to_owned()
    })
}

/// Make sure there is a node to test, outside of any namespace.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let path = mycelium_binary();
    ensure!(path.is_file(), "{} does not exist", path.display());
    Ok(())
}

/// Which implementation a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// The node under test.
    Ours,
    /// Unmodified mycelium 0.7.10.
    Upstream,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Upstream => "theirs",
        })
    }
}

/// How a node is started, apart from where.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    build: Build,
    seed: [u8; 32],
    peers: Vec<String>,
    tun: bool,
    discovery: bool,
    extra: Vec<String>,
}

impl NodeOptions {
    /// A node whose key is derived from `name`: no peers, a TUN, no LAN discovery.
    pub fn new(build: Build, name: &str) -> Self {
        Self {
            build,
            seed: key_of(name),
            peers: Vec::new(),
            tun: true,
            discovery: false,
            extra: Vec::new(),
        }
    }

    /// Use these 32 bytes as the secret key.
    #[must_use]
    pub fn secret(mut self, seed: [u8; 32]) -> Self {
        self.seed = seed;
        self
    }

    /// Add a static peer.
    #[must_use]
    pub fn peer(mut self, endpoint: impl Into<String>) -> Self {
        self.peers.push(endpoint.into());
        self
    }

    /// Add static peers.
    #[must_use]
    pub fn peers(mut self, endpoints: impl IntoIterator<Item = String>) -> Self {
        self.peers.extend(endpoints);
        self
    }

    /// A pure relay, without a TUN.
    #[must_use]
    pub fn no_tun(mut self) -> Self {
        self.tun = false;
        self
    }

    /// Look for peers on the LAN.
    #[must_use]
    pub fn discovery(mut self) -> Self {
        self.discovery = true;
        self
    }

    /// Further arguments.
    #[must_use]
    pub fn arguments<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Serve metrics, for [`Node::metric`].
    #[must_use]
    pub fn metrics(self) -> Self {
        self.arguments([
            "--metrics-api-address".to_owned(),
            format!("127.0.0.1:{METRICS_PORT}"),
        ])
    }

    /// The public key that the node will have.
    pub fn public_key(&self) -> PublicKey {
        SecretKey::from_bytes(self.seed).public_key()
    }
}

/// The test key that belongs to a name: the same in every run, so that captures and logs can be compared.
pub fn key_of(name: &str) -> [u8; 32] {
    *blake3::hash(format!("mycelium netns test key of {name}").as_bytes()).as_bytes()
}

/// A running node process. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    host: Arc<Host>,
    options: NodeOptions,
    key: PublicKey,
    files: PathBuf,
    child: Child,
    started: Instant,
}

impl Node {
    /// Start a node on `host`; its files are named after the host.
    pub fn start(
        scratch: &Scratch,
        host: &Arc<Host>,
        options: NodeOptions,
    ) -> anyhow::Result<Self> {
        let key = options.public_key();
        let files = scratch.path().join(host.name());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(files.with_extension("key"))?;
        file.write_all(&options.seed)?;
        let child = spawn(host, &options, &files)?;
        Ok(Self {
            host: Arc::clone(host),
            options,
            key,
            files,
            child,
            started: Instant::now(),
        })
    }

    /// The host it runs on.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Which implementation it is.
    pub fn build(&self) -> Build {
        self.options.build
    }

    /// When the process was last started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its public key.
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// Its overlay address.
    pub fn address(&self) -> Ipv6Addr {
        self.key.address()
    }

    /// Its /64.
    pub fn subnet(&self) -> Subnet {
        self.key.subnet()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kill the process as by a crash (SIGKILL) and reap it. Nothing happens if it already ended.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ask the process to leave (SIGTERM) and wait for it.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let name = self.host.name().to_owned();
        wait::until(&format!("{name} leaves after SIGTERM"), limit, || {
            Ok(self.child.try_wait()?)
        })
    }

    /// Send a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(pid), signal).context("signal")?;
        Ok(())
    }

    /// Stop the process as if it had no processor, and wait until every thread of it stands. `SIGCONT` lets it go on.
    ///
    /// # Errors
    /// When it does not stand within a second.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.pid());
        wait::until("every thread stands", Duration::from_secs(1), || {
            for task in std::fs::read_dir(&tasks)? {
                let stat = std::fs::read_to_string(task?.path().join("stat"))?;
                // The state follows the name, which is in parentheses.
                if !stat
                    .rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.starts_with(" T"))
                {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Start a killed or terminated node again, with the same key and arguments.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.host, &self.options, &self.files)?;
        self.started = Instant::now();
        Ok(())
    }

    /// An error if the process has ended.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the node on {} ended: {status}", self.host.name());
        }
        Ok(())
    }

    /// `GET` a path below `/api/v1` of the admin API.
    pub fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let (status, body) = self.request("GET", path, None)?;
        ensure!(status == 200, "GET {path}: status {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("GET {path}: {body}"))
    }

    /// What it says of its session with the holder of `remote`, in the words of the API.
    pub fn session(&self, remote: PublicKey) -> anyhow::Result<serde_json::Value> {
        let wanted = remote.to_string();
        let sessions = self.get("/admin/sessions")?;
        let mut all = sessions.as_array().context("a list of sessions")?.iter();
        all.find(|session| session["publicKey"] == wanted.as_str())
            .cloned()
            .with_context(|| format!("{} knows no session with {wanted}", self.host.name()))
    }

    /// Its peers, in the words of the API.
    pub fn peers(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let peers = self.get("/admin/peers")?;
        Ok(peers.as_array().context("a list of peers")?.clone())
    }

    /// How it reaches `target`, in the words of the API; `None`: not at all.
    pub fn next_hop(&self, target: &Self) -> anyhow::Result<Option<String>> {
        let subnet = target.subnet().to_string();
        let selected = self.get("/admin/routes/selected")?;
        let routes = selected.as_array().context("a list of routes")?;
        Ok(routes
            .iter()
            .find(|route| route["subnet"] == subnet.as_str() && route["metric"] != "infinite")
            .and_then(|route| Some(route["nextHop"].as_str()?.to_owned())))
    }

    /// One request to the admin API: method, path below `/api/v1`, JSON body; the status and body of the answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<(u16, String)> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        self.http(API_PORT, method, &format!("/api/v1{path}"), &body)
    }

    /// The sum of all samples of a metric family; the node must have been started with [`NodeOptions::metrics`].
    pub fn metric(&self, family: &str) -> anyhow::Result<f64> {
        let (status, text) = self.http(METRICS_PORT, "GET", "/metrics", "")?;
        ensure!(status == 200, "GET /metrics: status {status}");
        let samples: Vec<f64> = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix(family)?
                    .split_whitespace()
                    .last()?
                    .parse()
                    .ok()
            })
            .collect();
        ensure!(!samples.is_empty(), "no metric {family}");
        Ok(samples.iter().sum())
    }

    fn http(
        &self,
        port: u16,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<(u16, String)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let limit = Duration::from_secs(10);
        let mut stream = self
            .host
            .inside(|| TcpStream::connect_timeout(&server, limit))?
            .with_context(|| format!("HTTP server of {}", self.host.name()))?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse_response(&answer)
    }

    /// Resident memory of the process, in KiB.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .context("no VmRSS")
    }

    /// Processor time used so far, all threads, from the scheduler's nanosecond accounting.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut total = 0_u64;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let statistics = std::fs::read_to_string(task?.path().join("schedstat"))?;
            total += statistics
                .split_whitespace()
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .context("schedstat")?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// What the process has printed since it was first started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.files.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Errors mean that it is already gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(host: &Host, options: &NodeOptions, files: &Path) -> anyhow::Result<Child> {
    let binary = match options.build {
        Build::Ours => mycelium_binary(),
        Build::Upstream => upstream_binary().context("MYCELIUM_UPSTREAM_BIN is not set")?,
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(files.with_extension("log"))?;
    let mut command = Command::new(&binary);
    command
        .arg("--key-file")
        .arg(files.with_extension("key"))
        .args(["--log-format", "plain"])
        // The API's socket of this machine's own node stays out of it.
        .env("RUNTIME_DIRECTORY", files.with_extension("run"));
    if std::env::var("MYCELIUM_TEST_LOG").as_deref() == Ok("debug") {
        command.arg("--debug");
    }
    if !options.tun {
        command.arg("--no-tun");
    }
    if !options.discovery {
        command.arg("--disable-peer-discovery");
    }
    command.args(&options.extra);
    if !options.peers.is_empty() {
        command.arg("--peers").args(&options.peers);
    }
    // An empty home: neither a configuration file nor a key of the person who runs the tests may have a say.
    command
        .env_clear()
        .env("HOME", files.with_extension("home"))
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    host.spawn(&mut command)
        .with_context(|| format!("cannot start {}", binary.display()))
}

fn parse_response(answer: &[u8]) -> anyhow::Result<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("not an HTTP response")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no HTTP status")?;
    if !head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return Ok((status, body.to_owned()));
    }
    let mut whole = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).context("chunk size")?;
        if size == 0 {
            break;
        }
        whole.push_str(after.get(..size).context("short chunk")?);
        rest = after.get(size + 2..).context("short chunk")?;
    }
    Ok((status, whole))
}

/// Print the end of every log in `directory` to standard error.
pub(crate) fn print_log_tails(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut logs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    for path in logs.iter().take(4) {
        eprintln!("--- end of {}", path.display());
        match tail(path) {
            Ok(text) => eprint!("{text}"),
            Err(error) => eprintln!("{error}"),
        }
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(3000)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
