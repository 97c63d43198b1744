//! `mycelium identities`: the identities of the node.

use std::io::Write;
use std::path::{Path, PathBuf};

use mycelium_api::client::Client;
use mycelium_api::{AddIdentity, Identity, SecretKey};

use crate::table::Table;
use crate::{Error, key_file, write_json};

/// Arguments of `identities`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mycelium identities add --name web --tun-name web0 --netns web web.bin"
)]
pub struct Args {
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
    /// What to do instead.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do with identities.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List all identities
    #[command(after_help = "Example:\n  mycelium identities list --json")]
    List(ListArgs),
    /// Add an identity, until the node restarts
    #[command(
        after_help = "Example:\n  mycelium generate-keys --key-file web.bin\n  mycelium identities add --name web --tun-name web0 --netns web web.bin"
    )]
    Add(AddArgs),
    /// Remove identities: their interfaces go, their subnets are withdrawn
    #[command(after_help = "Example:\n  mycelium identities remove web")]
    Remove(RemoveArgs),
}

/// How to list.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What to add.
#[derive(Clone, Debug, clap::Args)]
pub struct AddArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// What to call it
    #[arg(long)]
    pub name: Option<String>,
    /// Create this interface for it
    #[arg(long, value_name = "INTERFACE")]
    pub tun_name: Option<String>,
    /// Put the interface in this network namespace: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH", requires = "tun_name")]
    pub netns: Option<PathBuf>,
    /// Its key file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What to remove.
#[derive(Clone, Debug, clap::Args)]
pub struct RemoveArgs {
    /// Numbers, names, addresses or public keys
    #[arg(value_name = "IDENTITY", required = true)]
    pub identities: Vec<String>,
}

pub(crate) fn run(args: Args, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    match args.action.unwrap_or(Action::List(args.list)) {
        Action::List(args) => {
            let identities = client.identities()?;
            if args.json {
                return write_json(&identities, out);
            }
            write!(out, "{}", table(&identities))?;
            Ok(())
        }
        Action::Add(args) => add(args, client, out),
        Action::Remove(args) => remove(&args, client),
    }
}

fn add(args: AddArgs, client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    let secret = key_file::read(&args.file)?.to_bytes();
    let identity = client.add_identity(&AddIdentity {
        secret_key: SecretKey::new(*secret),
        name: args.name,
        tun_name: args.tun_name,
        netns: args.netns.as_deref().map(netns_path).transpose()?,
    })?;
    if args.json {
        return write_json(&identity, out);
    }
    write!(out, "{}", table(&[identity]))?;
    Ok(())
}

fn remove(args: &RemoveArgs, client: &Client) -> Result<(), Error> {
    let known = client.identities()?;
    for text in &args.identities {
        let identity = known
            .iter()
            .find(|identity| answers_to(identity, text))
            .ok_or_else(|| Error::UnknownIdentity(text.clone()))?;
        client.remove_identity(identity.id)?;
    }
    Ok(())
}

fn answers_to(identity: &Identity, text: &str) -> bool {
    identity.id.to_string() == text
        || identity.name.as_deref() == Some(text)
        || text.parse() == Ok(identity.address)
        || text.parse() == Ok(identity.public_key)
}

/// The node runs elsewhere: it needs a path that means the same there.
fn netns_path(netns: &Path) -> Result<String, Error> {
    let path = if netns.components().count() == 1 && !netns.is_absolute() {
        Path::new("/run/netns").join(netns)
    } else {
        std::path::absolute(netns)?
    };
    Ok(path.to_string_lossy().into_owned())
}

fn table(identities: &[Identity]) -> Table {
    let mut table = Table::new(&["Id", "Name", "Address", "Subnet", "Interface", "Namespace"]);
    for identity in identities {
        table.row(vec![
            identity.id.to_string(),
            identity.name.clone().unwrap_or_default(),
            identity.address.to_string(),
            identity.subnet.clone(),
            identity.tun_name.clone().unwrap_or_default(),
            identity.netns.clone().unwrap_or_default(),
        ]);
    }
    table
}
