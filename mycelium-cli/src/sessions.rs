//! `mycelium sessions`: how packets to and from remote identities are protected.

use std::cmp::Reverse;
use std::io::Write;
use std::net::Ipv6Addr;

use mycelium_api::client::Client;
use mycelium_api::{Identity, Session, SessionProtocol, path};

use crate::quantity::Seconds;
use crate::table::Table;
use crate::{Error, write_verbatim};

/// Arguments of `sessions`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mycelium sessions"
)]
pub struct Args {
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
    /// What to do instead.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do with sessions.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List all sessions
    #[command(after_help = "Example:\n  mycelium sessions list --json")]
    List(ListArgs),
    /// Do not hold remote identities to session v2 and their key any more
    ///
    /// Who once had a session is not believed to be without one: its packets in the protocol of mycelium 0.7 are
    /// refused, and so is another key for its subnet. When its owner really went back, say so here.
    #[command(
        after_help = "Example:\n  mycelium sessions forget 437:5106:5530:1589:7c53:fa73:c63e:1ddb"
    )]
    Forget(ForgetArgs),
}

/// How to list.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Print the node's JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Whom to forget.
#[derive(Clone, Debug, clap::Args)]
pub struct ForgetArgs {
    /// Overlay addresses
    #[arg(value_name = "ADDRESS", required = true)]
    pub addresses: Vec<Ipv6Addr>,
}

pub(crate) fn run(args: Args, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    match args.action.unwrap_or(Action::List(args.list)) {
        Action::List(ListArgs { json: true }) => write_verbatim(client, path::SESSIONS, out),
        Action::List(_) => {
            let sessions = client.sessions()?;
            write!(out, "{}", table(sessions, &client.identities()?))?;
            Ok(())
        }
        Action::Forget(args) => {
            for address in args.addresses {
                client.forget_session(address)?;
            }
            Ok(())
        }
    }
}

/// What needs attention first, then what is used most.
fn table(mut sessions: Vec<Session>, identities: &[Identity]) -> Table {
    let order = |session: &Session| {
        let packets = session.tx_packets + session.rx_packets;
        (session.protocol, Reverse(packets), session.address)
    };
    sessions.sort_by_key(order);
    let mut table = Table::new(&[
        "Remote",
        "Protocol",
        "Suite",
        "Pinned",
        "Age",
        "Rekeys",
        "Sent",
        "Received",
        "Dropped",
        "Path size",
    ]);
    for session in &sessions {
        let protocol = match session.protocol {
            SessionProtocol::V1 => "v1",
            SessionProtocol::Waiting => "waiting",
            SessionProtocol::V2 if session.hybrid => "v2, hybrid",
            SessionProtocol::V2 => "v2",
            SessionProtocol::Idle => "idle",
        };
        let age = session.age.map(|age| Seconds(age).to_string());
        let size = session.path_size.map(|size| size.to_string());
        table.row(vec![
            session.address.to_string(),
            protocol.to_owned(),
            session.suite.clone().unwrap_or_default(),
            if session.pinned { "yes" } else { "" }.to_owned(),
            age.unwrap_or_default(),
            session.rekeys.to_string(),
            session.tx_packets.to_string(),
            session.rx_packets.to_string(),
            session.drops.total().to_string(),
            size.unwrap_or_default(),
        ]);
    }
    // With one identity, whose sessions these are says itself.
    if sessions.iter().any(|session| session.identity != 0) {
        let name = |session: &Session| {
            let identity = identities.iter().find(|one| one.id == session.identity);
            let name = identity.and_then(|identity| identity.name.clone());
            Some(name.unwrap_or_else(|| format!("#{}", session.identity)))
        };
        table.column("Identity", sessions.iter().map(name));
    }
    table
}
