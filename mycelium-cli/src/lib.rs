//! The client commands of the `mycelium` binary: everything that it does besides being the node.
//!
//! Each command is a file with its arguments, help text and output. They talk to a running node through
//! [`mycelium_api::client`] or work on key files; none opens a socket of its own or knows the protocol.
//! Standard output carries the answer and nothing else, so that it can be piped; remarks go to standard error.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use mycelium_api::Address;
use mycelium_api::client::Client;

#[cfg(target_os = "linux")]
pub mod attach;
#[cfg(target_os = "linux")]
pub mod demo;
mod error;
pub mod generate_keys;
pub mod identities;
pub mod inspect;
pub mod key_file;
#[cfg(target_os = "linux")]
pub mod net;
pub mod peers;
mod quantity;
pub mod routes;
pub mod sessions;
pub mod shell;
pub mod stats;
pub mod status;
mod table;

pub use error::Error;

/// The commands. Their help is edited prose; man page and completions are generated from it.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the node at a glance
    ///
    /// Who the node is, whether it is well and what to do if not, its peers, routes, traffic, open ports and
    /// identities, on one screen.
    Status(status::Args),
    /// Show the public key and the overlay address of a key
    ///
    /// Without KEY, the key file is read: the one named with --key-file, or the default. With KEY, the address of
    /// that public key is shown. Needs no running node, and creates nothing.
    Inspect(inspect::Args),
    /// Create a key file, and with it a new address
    ///
    /// The key is written to the file named with --key-file, or to the default, readable by its owner only. A key
    /// that exists is kept unless --force is given: replacing it changes the address of the node for good.
    GenerateKeys(generate_keys::Args),
    /// List, add and remove peers
    ///
    /// Peers are the nodes that this one has, had or wants a link to. Without a subcommand, they are listed.
    Peers(peers::Args),
    /// Show the routes that the node uses, holds ready and asks for
    ///
    /// Without a subcommand, the routes in use are shown. Routes to distant subnets appear when there is traffic
    /// for them.
    Routes(routes::Args),
    /// Show traffic counters
    ///
    /// Without a subcommand, packets and bytes are shown by overlay address, counted since the node started.
    Stats(stats::Args),
    /// List, add and remove the identities of the node
    ///
    /// An identity is a key with its own address and /64. Number 0 is the node itself; every further one is a user
    /// network or a workload, with its own interface, in its own network namespace where one is named. All share
    /// the node's links and routes. Without a subcommand, identities are listed.
    Identities(identities::Args),
    /// Show how packets to and from remote identities are protected
    ///
    /// One line for each remote identity of which anything is known: whether packets go on a session (v2: keys that
    /// are renewed and forgotten, no replay, hybrid against quantum computers) or as in mycelium 0.7 (v1), whether it
    /// is held to that (pinned), and what was dropped. Without a subcommand, sessions are listed.
    Sessions(sessions::Args),
    /// User networks of this host: create, delete, list, show, apply
    ///
    /// A user network is an identity of the node with a namespace and a bridge of its own, to which virtual machines,
    /// containers and services are attached. What is wanted is a directory of files; `apply` makes it so. Without a
    /// subcommand, networks are listed.
    #[cfg(target_os = "linux")]
    Net(net::Args),
    /// Attach a virtual machine, a container or a service to a user network
    ///
    /// It gets an address that follows from its name or seed. Nobody can connect to it but those that --allow names,
    /// and it can use no address but its own.
    #[cfg(target_os = "linux")]
    Attach(attach::Args),
    /// Detach a workload from a user network
    #[cfg(target_os = "linux")]
    Detach(attach::DetachArgs),
    /// Show an overlay at work: three nodes in network namespaces of their own, A, R and B, where R only relays
    ///
    /// Brings the nodes up, shows their addresses, peers and routes, pings B from A, moves data and prints the rate.
    /// Leaves nothing behind, also when interrupted.
    #[cfg(target_os = "linux")]
    Demo(demo::Args),
    /// Print a completion script for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write all pages to a directory
    Man(shell::ManArgs),
}

/// What the options before the command decide.
#[derive(Clone, Debug)]
pub struct Context {
    /// `--key-file`; `None`: [`key_file::default_path`].
    pub key_file: Option<PathBuf>,
    /// Where the node's API is.
    pub api: Api,
    /// The whole command line of the binary, from which completions and manual pages are made.
    pub root: fn() -> clap::Command,
}

/// Where a node is looked for.
#[derive(Clone, Debug)]
pub enum Api {
    /// There, as somebody said.
    At(Address),
    /// At the socket of this machine's node; if there is none, here.
    Default(SocketAddr),
}

impl Context {
    fn client(&self) -> Client {
        match &self.api {
            Api::At(address) => Client::new(address.clone()),
            Api::Default(address) => {
                Client::of_this_machine().unwrap_or_else(|| Client::new(*address))
            }
        }
    }

    fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(key_file::default_path)
    }
}

/// Run a command against standard output and error.
///
/// The caller prints an error as `Error: {error}` on standard error and exits with 1. A reader that went away
/// (`mycelium routes | head`) is success.
pub fn run(command: Command, context: &Context) -> Result<ExitCode, Error> {
    // Not locked: the demo writes for itself.
    let mut stdout = io::BufWriter::new(io::stdout());
    let result = execute(command, context, &mut stdout, &mut io::stderr())
        .and_then(|code| Ok(stdout.flush().map(|()| code)?));
    let result = reader_may_leave(result);
    // After a failure, dropping the writer would try once more to write what is left.
    let _ = stdout.into_parts();
    result
}

fn reader_may_leave(result: Result<ExitCode, Error>) -> Result<ExitCode, Error> {
    match result {
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        result => result,
    }
}

fn execute(
    command: Command,
    context: &Context,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<ExitCode, Error> {
    match command {
        #[cfg(target_os = "linux")]
        Command::Demo(args) => return Ok(demo::run(args)?),
        #[cfg(target_os = "linux")]
        Command::Net(args) => net::run(args, context, out, remarks),
        #[cfg(target_os = "linux")]
        Command::Attach(args) => attach::run(args, context, out, remarks),
        #[cfg(target_os = "linux")]
        Command::Detach(args) => attach::detach(&args, context, remarks),
        Command::Status(args) => {
            status::run(&args, &context.client(), &context.key_file(), out, remarks)
        }
        Command::Inspect(args) => inspect::run(&args, &context.key_file(), out),
        Command::GenerateKeys(args) => {
            generate_keys::run(&args, context.key_file.as_deref(), remarks)
        }
        Command::Peers(args) => peers::run(args, &context.client(), out),
        Command::Routes(args) => routes::run(args, &context.client(), out),
        Command::Stats(args) => stats::run(args, &context.client(), out),
        Command::Identities(args) => identities::run(args, &context.client(), out),
        Command::Sessions(args) => sessions::run(args, &context.client(), out),
        Command::Completions(args) => shell::completions(&args, (context.root)(), out),
        Command::Man(args) => shell::man(&args, (context.root)(), out),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Pretty JSON with two spaces, and a newline.
fn write_json(value: &impl serde::Serialize, out: &mut dyn Write) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .expect("answers are structs with text keys, which always serialise");
    Ok(writeln!(out, "{text}")?)
}

/// The node's own JSON, and a newline.
fn write_verbatim(client: &Client, path: &str, out: &mut dyn Write) -> Result<(), Error> {
    Ok(writeln!(out, "{}", client.body(path)?)?)
}

#[cfg(test)]
mod tests;
