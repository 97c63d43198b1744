//! Networks and attachments for people and programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use node_integration::addressing;
use node_integration::desired::{Attachment, GuestAddressing, Kind, Network};
use node_integration::kernel::{Counted, Kernel};
use serde::Serialize;

use super::{ListArgs, ShowArgs, net, table};
use crate::{Error, write_json};

/// A network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    name: String,
    address: Ipv6Addr,
    subnet: String,
    public_key: String,
    gateway: Ipv6Addr,
    namespace: String,
    bridge: String,
    id: String,
}

impl Summary {
    pub(crate) fn of(network: &Network) -> Self {
        Self {
            name: network.name.to_string(),
            address: network.address(),
            subnet: network.subnet().to_string(),
            public_key: network.public_key.to_string(),
            gateway: network.gateway(),
            namespace: network.names.namespace.clone(),
            bridge: network.names.bridge.clone(),
            id: network.id.clone(),
        }
    }
}

/// An attachment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attached {
    network: String,
    name: String,
    kind: Kind,
    /// The tap, or the host's end of the pair.
    interface: String,
    mac: String,
    /// The one of its seed.
    address: Ipv6Addr,
    /// The one that it has as the network tells its guests: of its seed, or of its MAC.
    guest_address: Ipv6Addr,
    addresses: Vec<Ipv6Addr>,
    prefix: String,
    gateway: Ipv6Addr,
    link_local_gateway: Ipv6Addr,
    mtu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    /// The namespace of the workload's interface: a name below /run/netns, or a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    /// The workload's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    inside: Option<String>,
    allow: Vec<String>,
    /// Arguments for QEMU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    qemu: Vec<String>,
    /// Arguments for cloud-hypervisor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cloud_hypervisor: Vec<String>,
    /// An element of a domain's devices for libvirt.
    #[serde(skip_serializing_if = "Option::is_none")]
    libvirt: Option<String>,
    /// Packets that were stopped, by why.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<BTreeMap<String, Counted>>,
}

impl Attached {
    pub(crate) fn of(network: &Network, attachment: &Attachment) -> Self {
        let port = &attachment.names.port;
        let mac = attachment.names.mac;
        let name = &attachment.name;
        let is_tap = attachment.spec.kind == Kind::Tap;
        let for_tap = |arguments: [String; 4]| {
            if is_tap {
                arguments.to_vec()
            } else {
                Vec::new()
            }
        };
        let [option, tap, device, nic] = for_qemu(name.as_str(), port, &mac.to_string());
        Self {
            network: network.name.to_string(),
            name: name.to_string(),
            kind: attachment.spec.kind,
            interface: port.clone(),
            mac: mac.to_string(),
            address: attachment.address,
            guest_address: guest_address(network, attachment),
            addresses: attachment.addresses.clone(),
            prefix: network.subnet().to_string(),
            gateway: network.gateway(),
            link_local_gateway: node_integration::object::GATEWAY_LINK_LOCAL,
            mtu: node_integration::object::OVERLAY_MTU,
            ipv4: attachment.ipv4(),
            netns: node_integration::object::namespace_of(network, attachment),
            inside: (!is_tap).then(|| attachment.interface.clone()),
            allow: attachment
                .spec
                .allow
                .iter()
                .map(ToString::to_string)
                .collect(),
            qemu: for_tap([option, tap, device, nic]),
            cloud_hypervisor: if is_tap {
                vec!["--net".to_owned(), format!("tap={port},mac={mac}")]
            } else {
                Vec::new()
            },
            libvirt: is_tap.then(|| {
                format!(
                    "<interface type='ethernet'><target dev='{port}' managed='no'/><mac address='{mac}'/>\
                     <model type='virtio'/></interface>"
                )
            }),
            stopped: None,
        }
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        if self.guest_address == self.address {
            writeln!(out, "address     {}", self.address)?;
        } else {
            writeln!(out, "address     {}, from its MAC", self.guest_address)?;
            writeln!(out, "or by hand  {}, from its seed", self.address)?;
        }
        if let Some(ipv4) = self.ipv4 {
            writeln!(out, "IPv4        {ipv4}")?;
        }
        writeln!(out, "gateway     {}", self.gateway)?;
        writeln!(out, "interface   {}", self.interface)?;
        writeln!(out, "MAC         {}", self.mac)?;
        if let Some(inside) = &self.inside {
            let netns = self.netns.as_deref().unwrap_or("the host's namespace");
            writeln!(out, "inside      {inside} in {netns}")?;
        }
        if !self.qemu.is_empty() {
            writeln!(out, "QEMU        {}", self.qemu.join(" "))?;
            writeln!(out, "cloud-hypervisor  {}", self.cloud_hypervisor.join(" "))?;
        }
        if let Some(element) = &self.libvirt {
            writeln!(out, "libvirt     {element}")?;
        }
        Ok(())
    }
}

/// What a machine makes of advertisements follows from its MAC; whoever is told otherwise has the address of the seed.
fn guest_address(network: &Network, attachment: &Attachment) -> Ipv6Addr {
    match (attachment.spec.kind, network.spec.addressing) {
        (Kind::Tap, GuestAddressing::Automatic) => {
            addressing::of_mac(network.subnet(), attachment.names.mac)
        }
        _ => attachment.address,
    }
}

/// A tap that exists, and a network card behind it.
fn for_qemu(name: &str, port: &str, mac: &str) -> [String; 4] {
    [
        "-netdev".to_owned(),
        format!("tap,id={name},ifname={port},script=no,downscript=no"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev={name},mac={mac}"),
    ]
}

pub(super) fn list(args: &ListArgs, out: &mut dyn Write) -> Result<(), Error> {
    let directory = args.place.host().directory;
    let (networks, bad) = directory.networks().map_err(net)?;
    let summaries: Vec<Summary> = networks.iter().map(Summary::of).collect();
    if args.json {
        write_json(&summaries, out)?;
    } else {
        let mut rows = Vec::new();
        for summary in &summaries {
            let name = summary.name.parse().map_err(net)?;
            let attachments = directory.attachment_names(&name).map_err(net)?;
            rows.push(vec![
                summary.name.clone(),
                summary.address.to_string(),
                summary.subnet.clone(),
                summary.namespace.clone(),
                summary.bridge.clone(),
                attachments.len().to_string(),
            ]);
        }
        let header = [
            "Name",
            "Address",
            "Subnet",
            "Namespace",
            "Bridge",
            "Attachments",
        ];
        write!(out, "{}", table(rows, &header))?;
    }
    match bad.first() {
        None => Ok(()),
        Some((_, error)) => {
            out.flush()?;
            Err(net(error))
        }
    }
}

/// A network with its attachments, and what was refused.
#[derive(Debug, Serialize)]
struct Details {
    #[serde(flatten)]
    summary: Summary,
    attachments: Vec<Attached>,
    /// What the routed hop refused, by why; `None`: the network is not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<BTreeMap<String, Counted>>,
}

pub(super) fn network(args: &ShowArgs, out: &mut dyn Write) -> Result<(), Error> {
    let directory = args.place.host().directory;
    let network = directory.network(&args.name).map_err(net)?;
    let (attachments, bad) = directory.attachments(&network).map_err(net)?;
    let mut kernel = Kernel::new();
    let ports = kernel.port_counters().ok();
    let mut refused = kernel.network_counters(&network.names.namespace).ok();
    let attachments = attachments
        .iter()
        .map(|attachment| {
            let mut attached = Attached::of(&network, attachment);
            let prefix = format!("{} ", attached.interface);
            let mut stopped = BTreeMap::new();
            for counters in ports.iter().chain(&refused) {
                for (name, counted) in counters {
                    if let Some(why) = name.strip_prefix(&prefix) {
                        stopped.insert(why.to_owned(), *counted);
                    }
                }
            }
            attached.stopped = (!stopped.is_empty()).then_some(stopped);
            attached
        })
        .collect();
    // Those of workloads are shown with them.
    if let Some(refused) = &mut refused {
        refused.retain(|name, _| !name.contains(' '));
    }
    let details = Details {
        summary: Summary::of(&network),
        attachments,
        refused,
    };
    if args.json {
        write_json(&details, out)?;
    } else {
        write_details(&details, out)?;
    }
    match bad.first() {
        None => Ok(()),
        Some((_, error)) => {
            out.flush()?;
            Err(net(error))
        }
    }
}

fn write_details(details: &Details, out: &mut dyn Write) -> Result<(), Error> {
    let summary = &details.summary;
    writeln!(out, "address     {}", summary.address)?;
    writeln!(out, "subnet      {}", summary.subnet)?;
    writeln!(out, "gateway     {}", summary.gateway)?;
    writeln!(out, "namespace   {}", summary.namespace)?;
    writeln!(out, "bridge      {}", summary.bridge)?;
    if details.refused.is_none() {
        writeln!(out, "not made    run `mycelium net apply`")?;
    }
    writeln!(out)?;
    let rows = details.attachments.iter().map(|attached| {
        let stopped = attached.stopped.iter().flatten();
        let stopped: Vec<String> = stopped
            .filter(|(_, counted)| counted.packets > 0)
            .map(|(why, counted)| format!("{} {why}", counted.packets))
            .collect();
        vec![
            attached.name.clone(),
            attached.kind.to_string(),
            attached.guest_address.to_string(),
            attached.interface.clone(),
            attached.allow.join(", "),
            stopped.join(", "),
        ]
    });
    let header = ["Name", "Kind", "Address", "Interface", "Allowed", "Stopped"];
    write!(out, "{}", table(rows, &header))?;
    Ok(())
}
