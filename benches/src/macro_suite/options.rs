//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Everything on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "macro",
    about = "Real nodes side by side, in network namespaces",
    max_term_width = 100
)]
pub struct Invocation {
    /// What to run.
    #[command(flatten)]
    pub options: Options,
    /// Parts of a run that are processes of their own.
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// What to run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Systems, in the order of each round; `--list` names them [default: the six of the committed baseline]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub systems: Vec<String>,

    /// Workloads [default: all that the topology has]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub only: Vec<String>,

    /// How the two ends are joined
    #[arg(long, value_delimiter = ',', default_value = "direct,relay")]
    pub topologies: Vec<Topology>,

    /// Rounds; medians need an odd number
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: u32,

    /// Length of each bulk transfer
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    pub seconds: f64,

    /// The node to measure [default: `mycelium` beside this program]
    #[arg(long, value_name = "PATH")]
    pub ours: Option<PathBuf>,

    /// Another build of the node, measured as `other`, for before and after
    #[arg(long, value_name = "PATH")]
    pub other: Option<PathBuf>,

    /// A mycelium 0.7.10 binary [default: $MYCELIUM_UPSTREAM_BIN]
    #[arg(long, value_name = "PATH")]
    pub upstream: Option<PathBuf>,

    /// Write all samples as JSON
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Write the table as Markdown
    #[arg(long, value_name = "PATH")]
    pub markdown: Option<PathBuf>,

    /// Write a chart
    #[arg(long, value_name = "PATH")]
    pub svg: Option<PathBuf>,

    /// Name the systems and workloads, and say which are missing here
    #[arg(long)]
    pub list: bool,
}

/// How the two ends are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Topology {
    /// A–B.
    Direct,
    /// A–R–B.
    Relay,
    /// A among ten others, for `idle` alone.
    Star,
}

impl Topology {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Star => "star",
        }
    }
}

/// A part of a run that is a process of its own.
#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// The run itself, as the first process of its PID namespace.
    #[command(hide = true)]
    Inside,
    /// The plaintext forwarder.
    #[command(hide = true)]
    Forward(Forward),
    /// Its relay.
    #[command(hide = true)]
    Relay(Relay),
}

/// An end of the plaintext forwarder.
#[derive(Clone, Debug, Args)]
pub struct Forward {
    /// Name of the interface.
    #[arg(long)]
    pub tun: String,
    /// Its address.
    #[arg(long)]
    pub address: IpAddr,
    /// Where to receive.
    #[arg(long)]
    pub local: SocketAddr,
    /// Where to send.
    #[arg(long)]
    pub remote: SocketAddr,
    /// Join UDP packets too.
    #[arg(long)]
    pub join_udp: bool,
}

/// A relay of plaintext forwarders.
#[derive(Clone, Debug, Args)]
pub struct Relay {
    #[arg(long)]
    pub(super) left_local: SocketAddr,
    #[arg(long)]
    pub(super) left_remote: SocketAddr,
    #[arg(long)]
    pub(super) right_local: SocketAddr,
    #[arg(long)]
    pub(super) right_remote: SocketAddr,
}
