//! `mycelium attach` and `mycelium detach`: workloads of a user network.

use std::io::Write;
use std::path::PathBuf;

use mycelium_api::client::Client;
use node_integration::desired::{Allow, AttachmentSpec, Kind, Name};
use node_integration::naming::Mac;
use node_integration::secret::Seed;

use crate::net::{self, Node, Place, show::Attached};
use crate::{Error, write_json};

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
    pub address: Vec<std::net::Ipv6Addr>,
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
    client: &Client,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let (common, spec) = match args.kind {
        Attach::Tap(args) => {
            let mut spec = AttachmentSpec::of_kind(Kind::Tap);
            spec.owner = args.owner;
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
    let mut node = Node::new(client, &host.directory, remarks);
    let (network, attachment) = host.attach(&common.network, &common.name, &spec, &mut node)?;
    let attached = Attached::of(&network, &attachment);
    if common.json {
        return write_json(&attached, out);
    }
    attached.write(out)
}

pub(crate) fn detach(
    args: &DetachArgs,
    client: &Client,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let host = args.place.host();
    let mut node = Node::new(client, &host.directory, remarks);
    host.detach(&args.network, &args.name, &mut node)
        .map_err(net::net)
}
