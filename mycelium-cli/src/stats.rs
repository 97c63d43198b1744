//! `mycelium stats`: traffic by overlay address.

use std::cmp::Reverse;
use std::io::Write;

use mycelium_api::PacketStatEntry;
use mycelium_api::client::Client;
use mycelium_api::path;

use crate::table::Table;
use crate::{Error, write_verbatim};

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mycelium stats packets"
)]
pub struct Args {
    /// How to show.
    #[command(flatten)]
    pub packets: PacketsArgs,
    /// What to show.
    #[command(subcommand)]
    pub counters: Option<Counters>,
}

/// Which counters.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Counters {
    /// Packets and bytes by source and by destination, most bytes first
    #[command(after_help = "Example:\n  mycelium stats packets --json")]
    Packets(PacketsArgs),
}

/// How to show.
#[derive(Clone, Debug, clap::Args)]
pub struct PacketsArgs {
    /// Print the node's JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

pub(crate) fn run(args: Args, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    let Counters::Packets(args) = args.counters.unwrap_or(Counters::Packets(args.packets));
    if args.json {
        return write_verbatim(client, path::PACKET_STATS, out);
    }
    let statistics = client.packet_statistics()?;
    writeln!(out, "Statistics by Source IP:")?;
    write!(out, "{}", table("Source IP", statistics.by_source))?;
    writeln!(out)?;
    writeln!(out, "Statistics by Destination IP:")?;
    write!(
        out,
        "{}",
        table("Destination IP", statistics.by_destination)
    )?;
    Ok(())
}

fn table(header: &str, mut entries: Vec<PacketStatEntry>) -> Table {
    entries.sort_by_key(|entry| (Reverse(entry.byte_count), entry.ip));
    let mut table = Table::new(&[header, "Packets", "Bytes"]);
    for entry in entries {
        table.row(vec![
            entry.ip.to_string(),
            entry.packet_count.to_string(),
            entry.byte_count.to_string(),
        ]);
    }
    table
}
