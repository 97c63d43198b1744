//! User networks of hosts in a lab: the commands that make them, and workloads as hosts.

pub mod frames;
mod state;

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use node_integration::{named, porter, userns};
use serde_json::Value;

use crate::daemon::mycelium_binary;
use crate::harness::Scratch;
use crate::lab::{Host, Lab};

/// The user networks of one host.
#[derive(Debug)]
pub struct Networks {
    host: Arc<Host>,
    directory: PathBuf,
    notes: PathBuf,
}

/// A workload, as a host of its own, and what `attach` said about it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its namespace; that of the host for a tap.
    pub host: Arc<Host>,
    /// Its address.
    pub address: Ipv6Addr,
    /// The answer.
    pub answer: Value,
}

/// Processes that wait for the kernel where commands have ended; others' of the same build too.
pub fn porters() -> anyhow::Result<Vec<i32>> {
    let binary = std::fs::canonicalize(mycelium_binary())?;
    let is_porter = |process: &Path| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let argument = arguments.split(|byte| *byte == 0).nth(1);
        argument == Some(porter::ARGUMENT.as_bytes())
            && std::fs::read_link(process.join("exe")).is_ok_and(|program| program == binary)
    };
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        let path = process?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        found.extend(number.filter(|_: &i32| is_porter(&path)));
    }
    Ok(found)
}

/// Names of namespaces are the test's own from here on.
pub fn own_names() -> anyhow::Result<()> {
    let directory = Path::new(named::DIRECTORY);
    std::fs::create_dir_all(directory)?;
    userns::cover_with_memory(directory)?;
    Ok(())
}

impl Networks {
    /// Those of `host`; there are none yet.
    pub fn new(scratch: &Scratch, host: &Arc<Host>) -> Self {
        let base = scratch.path().join(host.name());
        Self {
            host: Arc::clone(host),
            directory: base.with_extension("net.d"),
            notes: base.with_extension("notes"),
        }
    }

    /// How a node carries them.
    pub fn arguments(&self) -> [String; 2] {
        ["--net-dir".to_owned(), self.directory.display().to_string()]
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Where they are described.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where it is noted what was made.
    pub fn notes(&self) -> &Path {
        &self.notes
    }

    /// Run `mycelium` with these words, split at spaces, and say which networks are meant.
    pub fn try_run(&self, words: &str) -> anyhow::Result<Output> {
        let mut command = Command::new(mycelium_binary());
        command
            .args(words.split(' '))
            .arg("--net-dir")
            .arg(&self.directory)
            .arg("--notes-dir")
            .arg(&self.notes);
        let output = self.host.inside(|| command.output())??;
        Ok(output)
    }

    /// Run `mycelium` with these words; what it prints.
    pub fn run(&self, words: &str) -> anyhow::Result<String> {
        let output = self.try_run(words)?;
        ensure!(
            output.status.success(),
            "mycelium {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Run `mycelium` with these words and `--json`.
    pub fn json(&self, words: &str) -> anyhow::Result<Value> {
        let text = self.run(&format!("{words} --json"))?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// Create a network whose key follows from its name; its address.
    pub fn create(&self, name: &str, options: &str) -> anyhow::Result<Ipv6Addr> {
        let key: String = crate::daemon::key_of(name)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let options = match options {
            "" => String::new(),
            options => format!(" {options}"),
        };
        let network = self.json(&format!("net create {name} --key {key}{options}"))?;
        address(&network)
    }

    /// Attach a workload in a namespace of its own; `words` are kind, network, name and options.
    pub fn attach(&self, words: &str) -> anyhow::Result<Workload> {
        let answer = self.json(&format!("attach {words}"))?;
        let host = match answer["netns"].as_str() {
            Some(name) if !name.contains('/') => Lab::new().adopt(name, named::open(name)?),
            _ => Arc::clone(&self.host),
        };
        Ok(Workload {
            host,
            address: address(&answer)?,
            answer,
        })
    }

    /// These networks, for the library that the commands are made of.
    pub fn users(&self) -> node_integration::host::Host {
        node_integration::host::Host {
            directory: node_integration::directory::Directory::new(&self.directory),
            notes: self.notes.clone(),
        }
    }

    /// Packets that were stopped at a workload of a network, by why; what is missing was never made.
    pub fn stopped(&self, network: &str, name: &str, why: &str) -> anyhow::Result<u64> {
        let shown = self.json(&format!("net show {network}"))?;
        shown["attachments"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|attachment| attachment["name"] == name)
            .and_then(|attachment| attachment["stopped"][why]["packets"].as_u64())
            .with_context(|| format!("no counter {why} of {network}/{name}: {shown:#}"))
    }
}

fn address(answer: &Value) -> anyhow::Result<Ipv6Addr> {
    let text = answer["address"].as_str().context("an address")?;
    Ok(text.parse()?)
}
