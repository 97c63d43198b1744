//! `mycelium peers`: list, add and remove peers.

use std::io::Write;

use mycelium_api::client::Client;
use mycelium_api::{ConnectionState, PeerStats, PeerType, Protocol};

use crate::quantity::{Bytes, Milliseconds, Seconds};
use crate::table::Table;
use crate::{Error, write_json};

/// Arguments of `peers`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mycelium peers add tcp://192.0.2.7:9651 && mycelium peers"
)]
pub struct Args {
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
    /// What to do instead.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do with peers.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List all peers with their state and traffic
    #[command(after_help = "Example:\n  mycelium peers list --json")]
    List(ListArgs),
    /// Add peers, until the node restarts
    #[command(
        after_help = "Example:\n  mycelium peers add tcp://192.0.2.7:9651 'quic://[2001:db8::7]:9651'"
    )]
    Add(EndpointArgs),
    /// Remove peers and close their links
    #[command(after_help = "Example:\n  mycelium peers remove tcp://192.0.2.7:9651")]
    Remove(EndpointArgs),
}

/// How to list.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Which peers.
#[derive(Clone, Debug, clap::Args)]
pub struct EndpointArgs {
    /// Endpoints: tcp://, quic:// or udp://, then address or name, a colon and the port; IPv6 addresses in brackets
    #[arg(value_name = "ENDPOINT")]
    pub endpoints: Vec<String>,
}

pub(crate) fn run(args: Args, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    match args.action.unwrap_or(Action::List(args.list)) {
        Action::List(args) => list(&args, client, out),
        Action::Add(args) => each(args, "add", |endpoint| client.add_peer(endpoint)),
        Action::Remove(args) => each(args, "remove", |endpoint| client.remove_peer(endpoint)),
    }
}

fn each(
    args: EndpointArgs,
    verb: &'static str,
    action: impl Fn(&str) -> Result<(), mycelium_api::client::Error>,
) -> Result<(), Error> {
    for endpoint in args.endpoints {
        action(&endpoint).map_err(|error| Error::Peer {
            verb,
            endpoint,
            error,
        })?;
    }
    Ok(())
}

fn list(args: &ListArgs, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    let mut peers = client.peers()?;
    if args.json {
        return write_json(&peers, out);
    }
    sort(&mut peers);
    write!(out, "{}", table(&peers))?;
    Ok(())
}

/// Living peers first, the nearest before the others; then by name.
pub(crate) fn sort(peers: &mut [PeerStats]) {
    let rank = |peer: &PeerStats| match peer.connection_state {
        ConnectionState::Alive => 0,
        ConnectionState::Connecting => 1,
        ConnectionState::Dead => 2,
    };
    let rtt = |peer: &PeerStats| peer.details.rtt_ms.unwrap_or(f64::INFINITY);
    peers.sort_by_cached_key(|peer| peer.endpoint.to_string());
    peers.sort_by(|a, b| rank(a).cmp(&rank(b)).then(rtt(a).total_cmp(&rtt(b))));
}

fn table(peers: &[PeerStats]) -> Table {
    let mut table = Table::new(&[
        "Protocol",
        "Socket",
        "Type",
        "Connection",
        "Rx total",
        "Tx total",
        "Discovered",
        "Last connection",
    ]);
    for peer in peers {
        table.row(vec![
            protocol(peer.endpoint.proto).to_owned(),
            peer.endpoint.addr.to_string(),
            peer_type(peer.peer_type).to_owned(),
            state(peer.connection_state).to_owned(),
            Bytes(peer.rx_bytes).to_string(),
            Bytes(peer.tx_bytes).to_string(),
            Seconds(peer.discovered).to_string(),
            peer.last_connected.map_or_else(
                || "Never connected".to_owned(),
                |seconds| Seconds(seconds).to_string(),
            ),
        ]);
    }
    let mut extra = |header, cell: &dyn Fn(&PeerStats) -> Option<String>| {
        let cells: Vec<_> = peers.iter().map(cell).collect();
        if cells.iter().any(Option::is_some) {
            table.column(header, cells);
        }
    };
    extra("Name", &|peer| peer.endpoint.host.clone());
    extra("RTT", &|peer| {
        peer.details.rtt_ms.map(|rtt| Milliseconds(rtt).to_string())
    });
    extra("Cost", &|peer| {
        peer.details.cost.map(|cost| cost.to_string())
    });
    extra("Routes", &|peer| {
        peer.details.routes.map(|routes| routes.to_string())
    });
    extra("Address", &|peer| {
        peer.details.address.map(|address| address.to_string())
    });
    extra("Last error", &|peer| peer.details.last_error.clone());
    table
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "Tcp",
        Protocol::Tls => "Tls",
        Protocol::Quic => "Quic",
        Protocol::Vsock => "Vsock",
        Protocol::Udp => "Udp",
    }
}

const fn peer_type(peer_type: PeerType) -> &'static str {
    match peer_type {
        PeerType::Static => "Static",
        PeerType::LinkLocalDiscovery => "LinkLocalDiscovery",
        PeerType::Inbound => "Inbound",
    }
}

pub(crate) const fn state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Alive => "Alive",
        ConnectionState::Connecting => "Connecting",
        ConnectionState::Dead => "Dead",
    }
}
