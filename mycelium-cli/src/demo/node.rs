//! A node of the demo: its key, its process, its log and its API.

use std::cell::RefCell;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mycelium_api::client::{self, Client};
use node_integration::Namespace;

use super::Error;
use crate::key_file;

/// Every node has a loopback interface of its own.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8989);

/// Lines of a log worth showing.
const LAST_WORDS: usize = 8;

/// What a node is to be.
pub(super) struct Setup<'a> {
    pub(super) name: char,
    /// Whom it dials. A node that dials nobody is the relay: it gets no interface.
    pub(super) peer: Option<String>,
    pub(super) quic: bool,
    /// Directory for its key and log.
    pub(super) scratch: &'a Path,
}

/// A node with a key, ready to run.
pub(super) struct Prepared<'a> {
    name: char,
    namespace: &'a Namespace,
    address: Ipv6Addr,
    command: Command,
    log: PathBuf,
}

/// A running node.
pub(super) struct Node<'a> {
    pub(super) name: char,
    /// Its overlay address.
    pub(super) address: Ipv6Addr,
    namespace: &'a Namespace,
    child: RefCell<Child>,
    log: PathBuf,
}

impl Setup<'_> {
    pub(super) fn prepare<'a>(&self, namespace: &'a Namespace) -> Result<Prepared<'a>, Error> {
        let key_path = self.scratch.join(format!("{}.key", self.name));
        let log = self.scratch.join(format!("{}.log", self.name));
        let key = key_file::generate()?;
        key_file::create(&key_path, &key)?;
        let output = File::create_new(&log).map_err(Error::system("create a log file"))?;
        let errors = output
            .try_clone()
            .map_err(Error::system("create a log file"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("mycelium")
            // The user's configuration, and whatever else the environment says, is for their own node.
            .env_clear()
            .env("HOME", self.scratch)
            .current_dir(self.scratch)
            // Ctrl-C is for the process in front; the nodes end with it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .arg("--key-file")
            .arg(&key_path)
            .args([
                "--log-format=plain",
                "--disable-peer-discovery",
                "--api-socket=off",
            ])
            .arg(format!("--api-addr={API}"));
        if !self.quic {
            command.arg("--disable-quic");
        }
        match &self.peer {
            Some(peer) => command.args(["--peers", peer]),
            None => command.arg("--no-tun"),
        };
        Ok(Prepared {
            name: self.name,
            namespace,
            address: key.public_key().address(),
            command,
            log,
        })
    }
}

impl<'a> Prepared<'a> {
    pub(super) fn start(mut self) -> Result<Node<'a>, Error> {
        let child = self
            .namespace
            .spawn(&mut self.command)
            .map_err(Error::system("start a node"))?;
        Ok(Node {
            name: self.name,
            address: self.address,
            namespace: self.namespace,
            child: RefCell::new(child),
            log: self.log,
        })
    }
}

impl Node<'_> {
    /// An error with its last words if the node has ended.
    pub(super) fn check(&self) -> Result<(), Error> {
        let status = self
            .child
            .borrow_mut()
            .try_wait()
            .map_err(Error::system("look after a node"))?;
        match status {
            None => Ok(()),
            Some(status) => Err(Error::NodeStopped {
                name: self.name,
                status,
                log: self.log_tail(),
            }),
        }
    }

    /// Ask the node's API, waiting up to `patience` for it to come up.
    pub(super) fn ask<T: Send>(
        &self,
        patience: Duration,
        question: impl Fn(&Client) -> Result<T, client::Error> + Sync,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self
                .namespace
                .run(|| question(&Client::new(API)))
                .map_err(Error::system("enter a node's namespace"))?;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(client::Error::NotRunning { .. }) if Instant::now() < deadline => {
                    self.check()?;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(reason) => {
                    self.check()?;
                    return Err(Error::NodeSilent {
                        name: self.name,
                        reason,
                        log: self.log_tail(),
                    });
                }
            }
        }
    }

    /// The end of the log, indented.
    pub(super) fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(LAST_WORDS)..)
            .unwrap_or_default();
        tail.iter()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}
