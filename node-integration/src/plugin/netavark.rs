//! Podman's network plugins (netavark's plugin API 1.0.0): `create`, `setup`, `teardown`, `info`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::desired::{AttachmentSpec, Kind, Name};
use crate::directory::DirectoryError;
use crate::host::Host;
use crate::object::GATEWAY_LINK_LOCAL;
use crate::reconcile::{NoNode, ReconcileError};
use crate::secret::Seed;

/// Options of `podman network create -o`.
const OPTIONS: [&str; 4] = ["network", "allow", "net_dir", "notes_dir"];
/// Options of `podman run --network NAME:…`.
const CONTAINER_OPTIONS: [&str; 2] = ["seed", "allow"];
/// What `podman ps` shows of a container's id.
const SHORT_ID: usize = 12;

#[derive(Clone, Debug, Deserialize)]
struct Network {
    name: String,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    subnets: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Setup {
    container_id: String,
    #[serde(default)]
    container_name: String,
    network: Network,
    network_options: PerNetwork,
}

#[derive(Clone, Debug, Deserialize)]
struct PerNetwork {
    interface_name: String,
    #[serde(default)]
    static_ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    static_mac: Option<String>,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

/// Answer `command`, with the path of the container's namespace for `setup` and `teardown`: what to print.
///
/// # Errors
/// A sentence, to be printed as `{"error": …}` before exiting with 1.
pub fn answer(command: &str, netns: Option<&str>, input: &str) -> Result<Option<Value>, String> {
    match (command, netns) {
        ("info", _) => Ok(Some(
            json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": "1.0.0" }),
        )),
        ("create", _) => create(input).map(Some),
        ("setup", Some(netns)) => setup(netns, &decode(input)?).map(Some),
        ("teardown", Some(_)) => teardown(&decode(input)?).map(|()| None),
        ("setup" | "teardown", None) => Err(format!("{command} needs the path of a namespace")),
        _ => Err(format!(
            "{command:?} is none of create, setup, teardown and info"
        )),
    }
}

fn decode<'a, T: Deserialize<'a>>(input: &'a str) -> Result<T, String> {
    serde_json::from_str(input).map_err(|error| format!("input: {error}"))
}

impl Network {
    fn option(&self, name: &str) -> Option<&str> {
        Some(self.options.as_ref()?.get(name)?.as_str())
    }

    fn host(&self) -> Host {
        let path = |name| self.option(name).map(PathBuf::from);
        super::host(path("net_dir").as_ref(), path("notes_dir").as_ref())
    }

    /// The user network: named by an option, or called the same.
    fn user_network(&self) -> Result<Name, String> {
        let name = self.option("network").unwrap_or(&self.name);
        name.parse().map_err(|error| format!("{error}"))
    }

    /// What everybody on it lets in.
    fn allow(&self, spec: &mut AttachmentSpec) -> Result<(), String> {
        allow(self.option("allow").unwrap_or_default(), ',', spec)
    }
}

/// Add rules that a character separates.
fn allow(rules: &str, separator: char, spec: &mut AttachmentSpec) -> Result<(), String> {
    let rules = rules.split(separator).map(str::trim);
    for rule in rules.filter(|rule| !rule.is_empty()) {
        spec.allow
            .push(rule.parse().map_err(|error| format!("{error}"))?);
    }
    Ok(())
}

/// Refuse a misspelt option rather than go without it.
fn known(options: Option<&BTreeMap<String, String>>, known: &[&str]) -> Result<(), String> {
    let mut names = options.into_iter().flat_map(BTreeMap::keys);
    match names.find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(format!(
            "unknown option {name:?}: there are {}",
            known.join(", ")
        )),
    }
}

/// Check what Podman is about to write down; it is written down as it came.
fn create(input: &str) -> Result<Value, String> {
    let network: Network = decode(input)?;
    known(network.options.as_ref(), &OPTIONS)?;
    if network.subnets.iter().flatten().next().is_some() {
        return Err("a subnet cannot be chosen: it follows from the network's key".to_owned());
    }
    network.allow(&mut AttachmentSpec::of_kind(Kind::Veth))?;
    let name = network.user_network()?;
    let directory = network.host().directory;
    directory
        .network(&name)
        .map_err(|error| format!("{error}; make it with `mycelium net create {name}`"))?;
    let mut described: Value = decode(input)?;
    // Podman would give each container an address of its own choice.
    described["ipam_options"] = json!({ "driver": "none" });
    Ok(described)
}

/// As `podman ps` and `podman inspect` name the container and its interface.
fn attachment_name(setup: &Setup) -> Result<Name, String> {
    let id = setup.container_id.get(..SHORT_ID);
    let id = id.unwrap_or(&setup.container_id);
    format!("podman.{id}.{}", setup.network_options.interface_name)
        .parse()
        .map_err(|error| format!("{error}"))
}

/// What its address ends in: the same for the next container of that name.
fn seed(setup: &Setup) -> Result<Seed, String> {
    let options = setup.network_options.options.as_ref();
    match options.and_then(|options| options.get("seed")) {
        Some(text) => Seed::parse(text).map_err(|error| error.to_string()),
        None => {
            let names = [&setup.container_name, &setup.container_id];
            let container = names.into_iter().find(|name| !name.is_empty());
            let container = container.ok_or("the container has no name")?;
            Ok(Seed::of_name(&format!(
                "{}/{container}",
                setup.network.name
            )))
        }
    }
}

fn setup(netns: &str, setup: &Setup) -> Result<Value, String> {
    let host = setup.network.host();
    let name = setup.network.user_network()?;
    let network = host
        .directory
        .network(&name)
        .map_err(|error| error.to_string())?;
    let options = &setup.network_options;
    let mut spec = AttachmentSpec::of_kind(Kind::Veth);
    spec.netns = Some(PathBuf::from(netns));
    spec.interface = Some(options.interface_name.clone());
    spec.seed = Some(seed(setup)?);
    setup.network.allow(&mut spec)?;
    known(options.options.as_ref(), &CONTAINER_OPTIONS)?;
    if let Some(rules) = options.options.as_ref().and_then(|all| all.get("allow")) {
        // Podman itself separates options by commas.
        allow(rules, ';', &mut spec)?;
    }
    for address in options.static_ips.iter().flatten() {
        match address {
            IpAddr::V6(address) => super::want_address(&network, *address, &mut spec),
            IpAddr::V4(address) => return Err(format!("{address} is no IPv6 address")),
        }
    }
    if let Some(mac) = &options.static_mac {
        spec.mac = Some(mac.parse().map_err(|error| format!("{error}"))?);
    }
    let (network, attachment) = host
        .attach(&name, &attachment_name(setup)?, &spec, &mut NoNode)
        .map_err(|error| error.to_string())?;
    super::wait_until_usable(netns, &attachment)?;
    let subnets: Vec<Value> = attachment
        .addresses
        .iter()
        .map(|address| json!({ "ipnet": format!("{address}/128"), "gateway": GATEWAY_LINK_LOCAL }))
        .collect();
    let interface = json!({ "mac_address": attachment.names.mac, "subnets": subnets });
    Ok(json!({
        "dns_search_domains": [],
        "dns_server_ips": network.spec.name_servers,
        "interfaces": { attachment.interface: interface },
    }))
}

fn teardown(setup: &Setup) -> Result<(), String> {
    let host = setup.network.host();
    let name = setup.network.user_network()?;
    match host.detach(&name, &attachment_name(setup)?, &mut NoNode) {
        Ok(()) | Err(ReconcileError::Directory(DirectoryError::NoAttachment(..))) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
