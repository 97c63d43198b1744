//! `mycelium routes`: the routes that the node uses, holds ready and asks for.

use std::io::Write;
use std::net::Ipv6Addr;

use mycelium_api::Route;
use mycelium_api::client::Client;
use mycelium_api::path;

use crate::quantity::Seconds;
use crate::table::Table;
use crate::{Error, write_verbatim};

/// Arguments of `routes`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mycelium routes selected"
)]
pub struct Args {
    /// How to show.
    #[command(flatten)]
    pub show: ShowArgs,
    /// What to show instead.
    #[command(subcommand)]
    pub table: Option<RouteTable>,
}

/// Which routes.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RouteTable {
    /// Routes in use: the best known to each subnet
    #[command(after_help = "Example:\n  mycelium routes selected --json")]
    Selected(ShowArgs),
    /// Routes held ready in case a selected one fails
    #[command(after_help = "Example:\n  mycelium routes fallback")]
    Fallback(ShowArgs),
    /// Subnets that the network is being asked for
    #[command(after_help = "Example:\n  mycelium routes queried")]
    Queried(ShowArgs),
}

/// How to show.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// Print the node's JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

pub(crate) fn run(args: Args, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    match args.table.unwrap_or(RouteTable::Selected(args.show)) {
        RouteTable::Selected(ShowArgs { json: true }) => {
            write_verbatim(client, path::ROUTES_SELECTED, out)
        }
        RouteTable::Fallback(ShowArgs { json: true }) => {
            write_verbatim(client, path::ROUTES_FALLBACK, out)
        }
        RouteTable::Queried(ShowArgs { json: true }) => {
            write_verbatim(client, path::ROUTES_QUERIED, out)
        }
        RouteTable::Selected(_) => Ok(write!(out, "{}", routes(client.selected_routes()?))?),
        RouteTable::Fallback(_) => Ok(write!(out, "{}", routes(client.fallback_routes()?))?),
        RouteTable::Queried(_) => queried(client, out),
    }
}

fn routes(mut routes: Vec<Route>) -> Table {
    routes.sort_by(|a, b| {
        let place = |route: &Route| (address(&route.subnet), route.metric);
        place(a)
            .cmp(&place(b))
            .then_with(|| a.next_hop.cmp(&b.next_hop))
    });
    let mut table = Table::new(&["Subnet", "Next Hop", "Metric", "Seq No"]);
    for route in &routes {
        table.row(vec![
            route.subnet.clone(),
            route.next_hop.clone(),
            route.metric.to_string(),
            route.seqno.to_string(),
        ]);
    }
    if routes.iter().any(|route| route.expires_in.is_some()) {
        let cell = |route: &Route| route.expires_in.map(|seconds| Seconds(seconds).to_string());
        table.column("Expires in", routes.iter().map(cell));
    }
    table
}

fn queried(client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    let mut subnets = client.queried_subnets()?;
    subnets.sort_by_cached_key(|queried| address(&queried.subnet));
    let mut table = Table::new(&["Subnet", "Query expiration"]);
    for queried in subnets {
        table.row(vec![queried.subnet, queried.expiration]);
    }
    write!(out, "{table}")?;
    Ok(())
}

/// Subnets sort by number; whatever is none comes first.
fn address(subnet: &str) -> Option<Ipv6Addr> {
    subnet.split_once('/')?.0.parse().ok()
}
