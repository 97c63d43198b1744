//! The Container Network Interface, versions 0.3.0 to 1.1.0 of its specification.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::desired::{Allow, Attachment, AttachmentSpec, Kind, Name, Network};
use crate::directory::DirectoryError;
use crate::host::Host;
use crate::naming::device_hash;
use crate::object::{self, GATEWAY_LINK_LOCAL, OVERLAY_MTU};
use crate::reconcile::{Entry, NoNode, ReconcileError, entry_of};
use crate::secret::Seed;
use crate::{Namespace, link};

/// What we speak, the newest last.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Error codes of the specification, §"Error".
mod code {
    pub(super) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(super) const ENVIRONMENT: u32 = 4;
    pub(super) const INPUT_OUTPUT: u32 = 5;
    pub(super) const DECODE: u32 = 6;
    pub(super) const CONFIGURATION: u32 = 7;
    pub(super) const NOT_AVAILABLE: u32 = 50;
    /// Ours begin here.
    pub(super) const REFUSED: u32 = 100;
    pub(super) const DRIFTED: u32 = 101;
}

/// A failed call, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The version that was asked in.
    #[serde(rename = "cniVersion")]
    pub version: String,
    /// Of the specification, or from 100 on ours.
    pub code: u32,
    /// One sentence.
    pub msg: String,
}

/// What the runtime says by its environment.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Call {
    /// Of this process.
    pub fn of_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: variable("CNI_COMMAND"),
            container: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            interface: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
        }
    }
}

/// The configuration on standard input, as far as it concerns us.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    /// The user network; `None`: it is called as the configuration is.
    #[serde(default)]
    network: Option<Name>,
    #[serde(default)]
    allow: Vec<Allow>,
    #[serde(default)]
    seed_from: SeedFrom,
    #[serde(default)]
    packets_per_second: Option<u32>,
    #[serde(default)]
    net_dir: Option<PathBuf>,
    #[serde(default)]
    notes_dir: Option<PathBuf>,
    #[serde(default)]
    runtime_config: RuntimeConfiguration,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

/// What a container's address follows from, where nobody says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SeedFrom {
    /// The container: every one has another.
    #[default]
    Container,
    /// Namespace and name of its pod in Kubernetes: the next of that name has it again.
    Pod,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RuntimeConfiguration {
    /// Capability `ips`.
    #[serde(default)]
    ips: Vec<String>,
    /// Capability `mac`.
    #[serde(default)]
    mac: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Answer a call: what to print on standard output; nothing for success without an answer.
///
/// # Errors
/// What to print before exiting with 1.
pub fn answer(call: &Call, input: &str) -> Result<Option<Value>, Failure> {
    let newest = VERSIONS[VERSIONS.len() - 1];
    if call.command == "VERSION" {
        // The version that was asked in, if there is one.
        let asked: Value = serde_json::from_str(input).unwrap_or_default();
        let version = asked["cniVersion"].as_str().unwrap_or(newest);
        return Ok(Some(
            json!({ "cniVersion": version, "supportedVersions": VERSIONS }),
        ));
    }
    let fail = |version: &str, code, msg: String| Failure {
        version: version.to_owned(),
        code,
        msg,
    };
    let configuration: Configuration = serde_json::from_str(input)
        .map_err(|error| fail(newest, code::DECODE, format!("configuration: {error}")))?;
    let version = configuration
        .cni_version
        .clone()
        .unwrap_or_else(|| "0.1.0".to_owned());
    if !VERSIONS.contains(&version.as_str()) {
        let msg = format!("cniVersion {version} is not one of {}", VERSIONS.join(", "));
        return Err(fail(&version, code::INCOMPATIBLE_VERSION, msg));
    }
    let session = Session {
        call,
        version: version.clone(),
        host: super::host(
            configuration.net_dir.as_ref(),
            configuration.notes_dir.as_ref(),
        ),
        configuration,
    };
    let outcome = match call.command.as_str() {
        "ADD" => session.add().map(Some),
        "DEL" => session.del().map(|()| None),
        "CHECK" => session.check().map(|()| None),
        "GC" => session.collect_garbage().map(|()| None),
        "STATUS" => session.status().map(|()| None),
        other => Err((code::ENVIRONMENT, format!("CNI_COMMAND is {other:?}"))),
    };
    outcome.map_err(|(code, msg)| fail(&version, code, msg))
}

type Outcome<T> = Result<T, (u32, String)>;

struct Session<'a> {
    call: &'a Call,
    version: String,
    host: Host,
    configuration: Configuration,
}

impl Session<'_> {
    fn network_name(&self) -> Outcome<Name> {
        match &self.configuration.network {
            Some(name) => Ok(name.clone()),
            None => self
                .configuration
                .name
                .parse()
                .map_err(|error| (code::CONFIGURATION, format!("{error}"))),
        }
    }

    fn network(&self) -> Outcome<Network> {
        let name = self.network_name()?;
        self.host
            .directory
            .network(&name)
            .map_err(|error| (code::CONFIGURATION, error.to_string()))
    }

    /// What attachments of this configuration begin with.
    fn prefix(&self) -> String {
        format!("cni.{}.", device_hash(self.configuration.name.as_bytes()))
    }

    fn attachment_name(&self, container: &str, interface: &str) -> Outcome<Name> {
        let hash = device_hash(format!("{container}/{interface}").as_bytes());
        let name = format!("{}{hash}", self.prefix());
        name.parse()
            .map_err(|error| (code::ENVIRONMENT, format!("{error}")))
    }

    /// The container and interface that the call is about.
    fn subject(&self) -> Outcome<Name> {
        let call = self.call;
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let first = call.container.bytes().next();
        if !first.is_some_and(|byte| byte.is_ascii_alphanumeric())
            || !call.container.bytes().all(is_inner)
        {
            let msg = format!("CNI_CONTAINERID is {:?}", call.container);
            return Err((code::ENVIRONMENT, msg));
        }
        let interface = call.interface.as_str();
        if interface.is_empty()
            || interface.len() > 15
            || matches!(interface, "." | "..")
            || interface.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        {
            let msg = format!("CNI_IFNAME is {interface:?}");
            return Err((code::ENVIRONMENT, msg));
        }
        self.attachment_name(&call.container, interface)
    }

    /// What the runtime says beside the configuration: `KEY=VALUE;…`.
    fn args(&self) -> Outcome<BTreeMap<&str, &str>> {
        let pairs = self.call.args.split(';').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                pair.split_once('=').ok_or_else(|| {
                    let msg = format!("CNI_ARGS: {pair:?} is no KEY=VALUE");
                    (code::ENVIRONMENT, msg)
                })
            })
            .collect()
    }

    fn description(&self, network: &Network) -> Outcome<AttachmentSpec> {
        let args = self.args()?;
        let bad = |what: &str, text: &str, error: &dyn std::fmt::Display| {
            (code::CONFIGURATION, format!("{what} {text:?}: {error}"))
        };
        let mut spec = AttachmentSpec::of_kind(Kind::Veth);
        spec.netns = Some(PathBuf::from(&self.call.netns));
        spec.interface = Some(self.call.interface.clone());
        spec.allow.clone_from(&self.configuration.allow);
        spec.packets_per_second = self.configuration.packets_per_second;
        if let Some(seed) = args.get("SEED") {
            let parsed = Seed::parse(seed).map_err(|error| bad("SEED", seed, &error))?;
            spec.seed = Some(parsed);
        } else if self.configuration.seed_from == SeedFrom::Pod {
            let (Some(namespace), Some(pod)) =
                (args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME"))
            else {
                let msg = "seedFrom pod needs K8S_POD_NAMESPACE and K8S_POD_NAME in CNI_ARGS";
                return Err((code::ENVIRONMENT, msg.to_owned()));
            };
            spec.seed = Some(Seed::of_name(&format!("{namespace}/{pod}")));
        }
        let by_args = args.get("IP").copied();
        let by_capability = self.configuration.runtime_config.ips.iter();
        for text in by_args.into_iter().chain(by_capability.map(String::as_str)) {
            let address = super::address(text)
                .ok_or_else(|| bad("the address", text, &"it is no IPv6 address"))?;
            super::want_address(network, address, &mut spec);
        }
        let by_args = args.get("MAC").copied();
        if let Some(mac) = by_args.or(self.configuration.runtime_config.mac.as_deref()) {
            let parsed = mac.parse().map_err(|error| bad("the MAC", mac, &error))?;
            spec.mac = Some(parsed);
        }
        Ok(spec)
    }

    fn add(&self) -> Outcome<Value> {
        let name = self.subject()?;
        if self.call.netns.is_empty() {
            return Err((code::ENVIRONMENT, "CNI_NETNS is empty".to_owned()));
        }
        let network = self.network()?;
        let spec = self.description(&network)?;
        let inside = Namespace::open(&self.call.netns)
            .map_err(|error| (code::ENVIRONMENT, format!("CNI_NETNS: {error}")))?;
        let there = link::index(&inside, &self.call.interface)
            .map_err(|error| (code::INPUT_OUTPUT, error.to_string()))?;
        if there.is_some() {
            let msg = format!("{} is there already", self.call.interface);
            return Err((code::REFUSED, msg));
        }
        let (network, attachment) = self
            .host
            .attach(&network.name, &name, &spec, &mut NoNode)
            .map_err(|error| (code_of(&error), error.to_string()))?;
        super::wait_until_usable(&self.call.netns, &attachment)
            .map_err(|error| (code::INPUT_OUTPUT, error))?;
        Ok(self.result(&network, &attachment))
    }

    /// The result of an ADD, in the shape of the version.
    fn result(&self, network: &Network, attachment: &Attachment) -> Value {
        let is_old = self.version.starts_with("0.");
        let is_newest = self.version == "1.1.0";
        let overlay = IpAddr::from(Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0));
        let mut inner = json!({
            "name": attachment.interface,
            "mac": attachment.names.mac,
            "sandbox": self.call.netns,
        });
        let mut outer = json!({ "name": attachment.names.port, "mac": "" });
        let mut route = json!({
            "dst": format!("{overlay}/7"),
            "gw": GATEWAY_LINK_LOCAL,
        });
        if is_newest {
            inner["mtu"] = OVERLAY_MTU.into();
            outer["mtu"] = 1500.into();
            route["mtu"] = OVERLAY_MTU.into();
        }
        let ips: Vec<Value> = attachment
            .addresses
            .iter()
            .map(|address| {
                let mut ip = json!({
                    "address": format!("{address}/128"),
                    "gateway": GATEWAY_LINK_LOCAL,
                    "interface": 1,
                });
                if is_old {
                    ip["version"] = "6".into();
                }
                ip
            })
            .collect();
        json!({
            "cniVersion": self.version,
            "interfaces": [outer, inner],
            "ips": ips,
            "routes": [route],
            "dns": { "nameservers": network.spec.name_servers },
        })
    }

    /// Also when it never was, is half gone, or its namespace is.
    fn del(&self) -> Outcome<()> {
        let name = self.subject()?;
        let network = self.network_name()?;
        match self.host.detach(&network, &name, &mut NoNode) {
            Ok(()) | Err(ReconcileError::Directory(DirectoryError::NoAttachment(..))) => Ok(()),
            Err(error) => Err((code_of(&error), error.to_string())),
        }
    }

    fn check(&self) -> Outcome<()> {
        let name = self.subject()?;
        let network = self.network()?;
        let attachment = self
            .host
            .directory
            .attachment(&network, &name)
            .map_err(|error| (code::DRIFTED, error.to_string()))?;
        let Some(earlier) = &self.configuration.prev_result else {
            return Err((code::CONFIGURATION, "CHECK needs prevResult".to_owned()));
        };
        let reported: BTreeSet<Ipv6Addr> = earlier["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| super::address(ip["address"].as_str()?))
            .collect();
        if let Some(missing) = attachment
            .addresses
            .iter()
            .find(|address| !reported.contains(address))
        {
            return Err((code::DRIFTED, format!("prevResult does not have {missing}")));
        }
        let entry = entry_of(&network, &attachment);
        let objects = object::attachment(&network, &attachment);
        let steps = self
            .host
            .open()
            .and_then(|mut host| host.plan(&entry, &objects, &mut NoNode))
            .map_err(|error| (code::DRIFTED, error.to_string()))?;
        match steps.first() {
            None => Ok(()),
            Some(step) => Err((
                code::DRIFTED,
                format!("{} things are not as they were made: {step}", steps.len()),
            )),
        }
    }

    fn collect_garbage(&self) -> Outcome<()> {
        let network = self.network_name()?;
        let Some(valid) = &self.configuration.valid_attachments else {
            let msg = "GC needs cni.dev/valid-attachments".to_owned();
            return Err((code::CONFIGURATION, msg));
        };
        let mut keep = BTreeSet::new();
        for attachment in valid {
            keep.insert(self.attachment_name(&attachment.container, &attachment.ifname)?);
        }
        let failed = |error: &dyn std::fmt::Display| (code::INPUT_OUTPUT, error.to_string());
        let mut there: BTreeSet<Name> = self
            .host
            .directory
            .attachment_names(&network)
            .map_err(|error| failed(&error))?
            .into_iter()
            .collect();
        let made = self
            .host
            .open()
            .and_then(|host| host.entries())
            .map_err(|error| failed(&error))?;
        there.extend(made.into_iter().filter_map(|entry| match entry {
            Entry::Attachment(of, name) if of == network => Some(name),
            _ => None,
        }));
        let prefix = self.prefix();
        for name in there {
            if name.as_str().starts_with(&prefix) && !keep.contains(&name) {
                self.host
                    .detach(&network, &name, &mut NoNode)
                    .map_err(|error| (code_of(&error), error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Ready when the network is made: then ADD has all it needs.
    fn status(&self) -> Outcome<()> {
        let unavailable = |error: &dyn std::fmt::Display| (code::NOT_AVAILABLE, error.to_string());
        let name = self.network_name()?;
        let network = self
            .host
            .directory
            .network(&name)
            .map_err(|error| unavailable(&error))?;
        let steps = self
            .host
            .open()
            .and_then(|mut host| {
                let objects = object::network(&network);
                host.plan(&Entry::Network(name.clone()), &objects, &mut NoNode)
            })
            .map_err(|error| unavailable(&error))?;
        match steps.first() {
            None => Ok(()),
            Some(_) => Err(unavailable(&format_args!(
                "network {name} is not made: run `mycelium net apply`"
            ))),
        }
    }
}

fn code_of(error: &ReconcileError) -> u32 {
    match error {
        ReconcileError::Directory(DirectoryError::Io { .. }) => code::INPUT_OUTPUT,
        ReconcileError::Directory(_) => code::CONFIGURATION,
        _ => code::REFUSED,
    }
}
