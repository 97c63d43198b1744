//! `mycelium attach` and `mycelium detach`: workloads of a user network.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use node_integration::desired::{Allow, Attachment, AttachmentSpec, Kind, Name, Network};
use node_integration::guest::cidata::{self, Content, Interface};
use node_integration::naming::Mac;
use node_integration::secret::Seed;

use crate::net::{self, Node, Place, show::Attached};
use crate::{Context, Error, write_json};

/// What the gateway is good for: `400::/7`.
const OVERLAY: IpAddr = IpAddr::V6(Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0));

/// Arguments of `attach`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  mycelium attach tap web vm1 --allow tcp/22\n  mycelium attach netns web www --allow tcp/80 --allow icmp"
)]
pub struct Args {
    /// What is attached.
    #[command(subcommand)]
    pub kind: Attach,
}

/// What to attach.
#[derive(Debug, clap::Subcommand)]
pub enum Attach {
    /// A tap for a virtual machine; prints the arguments for QEMU and cloud-hypervisor
    #[command(after_help = "Example:\n  mycelium attach tap web vm1 --allow tcp/22")]
    Tap(TapArgs),
    /// An interface in a network namespace that is there, such as a container's
    #[command(
        after_help = "Example:\n  mycelium attach veth web db --netns /proc/4711/ns/net --allow tcp/5432"
    )]
    Veth(VethArgs),
    /// An interface in a network namespace that is made for it
    #[command(after_help = "Example:\n  mycelium attach netns web www --allow tcp/80")]
    Netns(NetnsArgs),
    /// An interface of the host itself
    #[command(after_help = "Example:\n  mycelium attach host web ssh --allow tcp/22")]
    Host(HostArgs),
}

/// What all attachments have.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// What its address ends in: 12 hexadecimal digits, or base64 [default: derived from its name]
    #[arg(long)]
    pub seed: Option<Seed>,
    /// Its MAC [default: derived from its name]
    #[arg(long)]
    pub mac: Option<Mac>,
    /// Who may connect to it: `all`, `icmp`, `tcp/PORT`, `udp/FIRST-LAST`, each with ` from PREFIX` or without;
    /// repeatable [default: nobody]
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<Allow>,
    /// A further address of the network's /64 that it may use; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<Ipv6Addr>,
    /// Packets that it may send in a second [default: any number]
    #[arg(long, value_name = "NUMBER")]
    pub packets_per_second: Option<u32>,
    /// What its names are derived from, TWIN-CONTRACT-NAME in Zero-OS [default: NETWORK/NAME]
    #[arg(long, value_name = "TEXT")]
    pub workload: Option<String>,
    /// The network
    pub network: Name,
    /// What to call it
    pub name: Name,
}

/// A tap.
#[derive(Clone, Debug, clap::Args)]
pub struct TapArgs {
    /// What all have.
    #[command(flatten)]
    pub common: Common,
    /// Number of the user that may open the tap, beside root
    #[arg(long, value_name = "UID")]
    pub owner: Option<u32>,
    /// Write a disk to this file from which cloud-init configures the machine (NoCloud): its name, address and routes
    #[arg(long, value_name = "FILE")]
    pub cidata: Option<PathBuf>,
    /// File with public keys that may log in as root, for --cidata
    #[arg(long, value_name = "FILE", requires = "cidata")]
    pub ssh_keys: Option<PathBuf>,
}

/// An interface in a namespace.
#[derive(Clone, Debug, clap::Args)]
pub struct VethArgs {
    /// What all have.
    #[command(flatten)]
    pub common: Common,
    /// The namespace: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: PathBuf,
    /// Name of the interface in the namespace [default: eth0]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

/// A namespace with an interface.
#[derive(Clone, Debug, clap::Args)]
pub struct NetnsArgs {
    /// What all have.
    #[command(flatten)]
    pub common: Common,
    /// Name of the namespace [default: NETWORK-NAME]
    #[arg(long, value_name = "NAME")]
    pub netns: Option<PathBuf>,
    /// Name of the interface in the namespace [default: eth0]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

/// An interface of the host.
#[derive(Clone, Debug, clap::Args)]
pub struct HostArgs {
    /// What all have.
    #[command(flatten)]
    pub common: Common,
    /// Name of the interface [default: derived from its name]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

/// Arguments of `detach`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  mycelium detach web www")]
pub struct DetachArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// The network
    pub network: Name,
    /// What it was called
    pub name: Name,
}

pub(crate) fn run(
    args: Args,
    context: &Context,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let mut disk = None;
    let (common, spec) = match args.kind {
        Attach::Tap(args) => {
            let mut spec = AttachmentSpec::of_kind(Kind::Tap);
            spec.owner = args.owner;
            disk = args
                .cidata
                .map(|path| Disk::new(path, args.ssh_keys.as_deref()))
                .transpose()?;
            (args.common, spec)
        }
        Attach::Veth(args) => {
            let mut spec = AttachmentSpec::of_kind(Kind::Veth);
            spec.netns = Some(args.netns);
            spec.interface = args.interface;
            (args.common, spec)
        }
        Attach::Netns(args) => {
            let mut spec = AttachmentSpec::of_kind(Kind::Netns);
            spec.netns = args.netns;
            spec.interface = args.interface;
            (args.common, spec)
        }
        Attach::Host(args) => {
            let mut spec = AttachmentSpec::of_kind(Kind::Host);
            spec.interface = args.interface;
            (args.common, spec)
        }
    };
    let spec = AttachmentSpec {
        seed: common.seed,
        mac: common.mac,
        allow: common.allow,
        addresses: common.address,
        packets_per_second: common.packets_per_second,
        workload: common.workload,
        ..spec
    };
    let host = common.place.host();
    let mut node = Node::new(context, &host.directory, remarks);
    let (network, attachment) = host.attach(&common.network, &common.name, &spec, &mut node)?;
    if let Some(disk) = disk {
        disk.write(&network, &attachment)?;
    }
    let attached = Attached::of(&network, &attachment);
    if common.json {
        return write_json(&attached, out);
    }
    attached.write(out)
}

/// A disk for cloud-init.
struct Disk {
    path: PathBuf,
    ssh_keys: Vec<String>,
}

impl Disk {
    /// Read the keys before anything is made.
    fn new(path: PathBuf, ssh_keys: Option<&Path>) -> Result<Self, Error> {
        let ssh_keys = match ssh_keys {
            None => Vec::new(),
            Some(file) => cidata::split_keys(&std::fs::read_to_string(file).map_err(|error| {
                Error::Net(format!(
                    "cannot read the keys in {}: {error}",
                    file.display()
                ))
            })?),
        };
        Ok(Self { path, ssh_keys })
    }

    fn write(self, network: &Network, attachment: &Attachment) -> Result<(), Error> {
        let gateway = network.gateway();
        let content = Content {
            hostname: attachment.name.to_string(),
            instance_id: format!("{}-{}", network.name, attachment.name),
            ssh_keys: self.ssh_keys,
            name_servers: network.spec.name_servers.clone(),
            interfaces: vec![Interface {
                mac: attachment.names.mac,
                addresses: vec![(attachment.address.into(), 64)],
                routes: vec![(OVERLAY, 7, gateway.into())],
                gateway4: None,
                gateway6: network.spec.default_route.then_some(gateway),
            }],
            ..Content::default()
        };
        cidata::image(&content)
            .and_then(|image| std::fs::write(&self.path, image))
            .map_err(|error| {
                let path = self.path.display();
                Error::Net(format!(
                    "{} is attached, but its disk {path} is not written: {error}",
                    attachment.name
                ))
            })
    }
}

pub(crate) fn detach(
    args: &DetachArgs,
    context: &Context,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let host = args.place.host();
    let mut node = Node::new(context, &host.directory, remarks);
    host.detach(&args.network, &args.name, &mut node)
        .map_err(net::net)
}
