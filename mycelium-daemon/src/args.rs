//! The command line: the flags of mycelium, and what becomes of those it has and we have not yet.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, ValueEnum};

use crate::peering::endpoint::Endpoint;

/// Where the API listens unless told otherwise, and where client commands look for it.
pub const DEFAULT_API_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8989);

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: short, coloured on a terminal.
    #[default]
    Compact,
    /// `key=value` pairs, coloured on a terminal.
    Logfmt,
    /// `key=value` pairs, never coloured.
    Plain,
}

/// What a node does towards those that do not speak session v2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SessionPolicy {
    /// v2 with those that speak it, v1 with the others.
    #[default]
    Prefer,
    /// v2 or nothing.
    Require,
    /// v1 with everybody, for comparison.
    #[value(hide = true)]
    Off,
}

/// Options that stand before the command.
#[derive(Clone, Debug, Default, Args)]
pub struct CommandLine {
    /// File with the node's 32-byte secret key; created if missing
    ///
    /// [default: $XDG_DATA_HOME/mycelium/priv_key.bin or ~/.local/share/mycelium/priv_key.bin]
    #[arg(short = 'k', long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Configuration file (TOML); flags win over it
    ///
    /// [default: $XDG_CONFIG_HOME/mycelium/mycelium.toml or ~/.config/mycelium/mycelium.toml, if it exists]
    #[arg(short = 'c', long, global = true, value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Log what happens inside; no effect with --silent
    #[arg(short = 'd', long)]
    pub debug: bool,

    /// Log errors only
    #[arg(long)]
    pub silent: bool,

    /// Shape of log lines
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// How to run the node.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Options of the node. Those that a configuration file may set too are optional, so that giving one always wins.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Node options")]
pub struct NodeArgs {
    /// Peers to connect to.
    #[arg(
        long,
        num_args = 0..,
        value_name = "ENDPOINT",
        help = "Peers to connect to: tcp://, quic:// or udp:// with ip:port, [ipv6]:port or name:port; vsock://CID:PORT"
    )]
    pub peers: Option<Vec<Endpoint>>,

    /// Port for peers over TCP [default: 9651]
    #[arg(short = 't', long, value_name = "PORT")]
    pub tcp_listen_port: Option<u16>,

    /// Neither listen nor connect over QUIC
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub disable_quic: Option<bool>,

    /// UDP port for peers over QUIC [default: 9651]
    #[arg(short = 'q', long, value_name = "PORT")]
    pub quic_listen_port: Option<u16>,

    /// Port for peers over vsock: a guest's host, or guests of this host [default: off]
    #[arg(long, value_name = "PORT")]
    pub vsock_listen_port: Option<u32>,

    /// Unix socket at which a monitor (Cloud Hypervisor, Firecracker) shows a guest's vsock; repeatable
    ///
    /// The node then listens for that guest at PATH_PORT, with the port of --vsock-listen-port, or 9651.
    #[arg(long, value_name = "PATH")]
    pub vsock_socket: Option<Vec<PathBuf>>,

    /// UDP port of the beacons that find peers on the local network [default: 9650]
    #[arg(long, value_name = "PORT")]
    pub peer_discovery_port: Option<u16>,

    /// Do not look for peers on the local network
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub disable_peer_discovery: Option<bool>,

    /// Look for local peers on this interface only; repeatable [default: all]
    #[arg(long, value_name = "INTERFACE")]
    pub peer_discovery_interface: Option<Vec<String>>,

    /// Address of the HTTP API; client commands look for the node there [default: 127.0.0.1:8989]
    #[arg(long, value_name = "ADDRESS")]
    pub api_addr: Option<SocketAddr>,

    /// Unix socket of the HTTP API, or `off`; client commands look for the node there first
    ///
    /// [default: api.sock in $RUNTIME_DIRECTORY, or /run/mycelium/api.sock for root, unless another node has it]
    #[arg(long, value_name = "PATH")]
    pub api_socket: Option<PathBuf>,

    /// Address of JSON-RPC [default: 127.0.0.1:8990]
    #[arg(long, value_name = "ADDRESS")]
    pub jsonrpc_addr: Option<SocketAddr>,

    /// Do not create an interface: route for others only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub no_tun: Option<bool>,

    /// Name of the interface [default: mycelium]
    #[arg(long, value_name = "NAME")]
    pub tun_name: Option<String>,

    /// Serve Prometheus metrics at http://ADDRESS/metrics [default: off]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_api_address: Option<SocketAddr>,

    /// Towards nodes that do not speak session v2: `prefer` to, or `require` it and do without them [default: prefer]
    #[arg(long, value_name = "POLICY", hide_possible_values = true)]
    pub session_policy: Option<SessionPolicy>,

    /// File with the 32-byte secret of a closed network, raw or in hexadecimal; implies `--session-policy require`
    #[arg(long, value_name = "FILE")]
    pub session_key_file: Option<PathBuf>,

    /// Directory where it is kept who speaks session v2 under which key, so that it holds after a restart [default: none]
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,

    /// For tests: seconds until a session gets new keys.
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub session_rekey_interval: Option<u32>,

    /// Carry the user networks that are described in this directory, and answer their guests [default: none]
    #[arg(long, value_name = "DIRECTORY")]
    pub net_dir: Option<PathBuf>,

    /// Firewall mark (SO_MARK) of everything sent to peers
    #[arg(long, value_name = "MARK")]
    pub firewall_mark: Option<u32>,

    /// Accepted for compatibility and ignored: updates are handled by one task, which keeps their order
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=254))]
    pub update_workers: Option<u8>,

    #[command(flatten)]
    pub(crate) not_yet: NotYet,
}

/// Flags of mycelium whose features this node does not have. Taken, so that the refusal can say so.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NotYet {
    #[arg(long, hide = true, num_args = 0..=1)]
    topic_config: Option<Option<OsString>>,
    #[arg(long, hide = true, num_args = 0..=1)]
    cdn_cache: Option<Option<OsString>>,
    #[arg(long, hide = true)]
    enable_dns: bool,
    #[arg(long, hide = true, num_args = 0..=1)]
    network_name: Option<Option<OsString>>,
    #[arg(long, hide = true, num_args = 0..=1)]
    network_key_file: Option<Option<OsString>>,
}

impl NotYet {
    fn first(&self) -> Option<(&'static str, &'static str)> {
        [
            (self.topic_config.is_some(), "--topic-config", "messages"),
            (self.cdn_cache.is_some(), "--cdn-cache", "content delivery"),
            (self.enable_dns, "--enable-dns", "a DNS resolver"),
            (
                self.network_name.is_some(),
                "--network-name",
                "private networks",
            ),
            (
                self.network_key_file.is_some(),
                "--network-key-file",
                "private networks",
            ),
        ]
        .into_iter()
        .find_map(|(given, flag, feature)| given.then_some((flag, feature)))
    }
}

/// End-to-end encrypted IPv6 overlay network. Without a command: run the node in the foreground.
#[derive(Debug, Parser)]
#[command(
    name = "mycelium",
    version,
    max_term_width = 100,
    after_help = "Example: mycelium --peers tcp://192.0.2.1:9651 quic://node.example.org:9651"
)]
pub struct Invocation {
    /// How to run the node.
    #[command(flatten)]
    pub line: CommandLine,
    /// The client command; `None`: run the node.
    #[command(subcommand)]
    pub command: Option<mycelium_cli::Command>,
}

/// The whole command line, for manual pages and completions.
pub fn definition() -> clap::Command {
    Invocation::command()
}

/// Read the command line, program name included.
///
/// # Errors
/// As clap reports them; help and version are "errors" too. [`report`] prints them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let invocation = Invocation::try_parse_from(arguments)?;
    if let Some((flag, feature)) = invocation.line.node.not_yet.first() {
        return Err(clap::Error::raw(
            ErrorKind::UnknownArgument,
            format!("{flag}: this node does not have {feature} yet; remove the flag"),
        ));
    }
    Ok(invocation)
}

/// Print help, version or what is wrong with the command line; the exit code (0 or 2).
///
/// What is wrong is one line, since journals and scripts show one; clap would append usage and advice.
pub fn report(error: &clap::Error) -> u8 {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        // Nothing can be done about a closed stream.
        let _ = error.print();
    } else {
        eprintln!("{}", one_line(error));
    }
    code
}

fn one_line(error: &clap::Error) -> String {
    let context = |context| match error.get(context) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if error.kind() == ErrorKind::ValueValidation
        && let (Some(value), Some(argument)) = (
            context(ContextKind::InvalidValue),
            context(ContextKind::InvalidArg),
        )
        && let Some(source) = std::error::Error::source(error)
    {
        // The argument reads `--peers [<ENDPOINT>...]`.
        let flag = argument.split([' ', '=']).next().unwrap_or(argument);
        return format!("error: {flag}: {value:?}: {source}");
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{line} (see mycelium --help)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Invocation, clap::Error> {
        parse(
            std::iter::once("mycelium")
                .chain(arguments.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn peers_are_greedy_repeatable_and_may_be_none() {
        let peers = |arguments: &[&str]| of(arguments).unwrap().line.node.peers;
        assert_eq!(peers(&[]), None);
        assert_eq!(peers(&["--peers"]), Some(Vec::new()));
        assert_eq!(peers(&["--peers", "--no-tun"]), Some(Vec::new()));
        assert_eq!(
            peers(&[
                "--peers",
                "tcp://1.2.3.4:1",
                "quic://[::1]:2",
                "-t",
                "5",
                "--peers",
                "tcp://a.b:3"
            ])
            .unwrap()
            .len(),
            3
        );
    }

    #[test]
    fn a_bad_peer_exits_with_2() {
        assert_eq!(
            of(&["--peers", "tcp://[400::1]:9651"])
                .unwrap_err()
                .exit_code(),
            2
        );
        assert_eq!(of(&["--peers", "inspect"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn flags_of_missing_features_are_refused() {
        for flag in ["--enable-dns", "--cdn-cache", "--topic-config"] {
            let error = of(&[flag]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    #[test]
    fn whatever_is_wrong_is_one_line() {
        for (arguments, words) in [
            (&["--bogus"][..], "--bogus"),
            (&["--log-format", "loud"], "compact"),
            (&["--tcp-listen-port"], "--tcp-listen-port"),
            (&["--peers", "x"], "missing leading protocol"),
            (&["--enable-dns"], "--enable-dns"),
            (&["peers", "bogus"], "bogus"),
        ] {
            let line = one_line(&of(arguments).unwrap_err());
            assert!(
                line.starts_with("error: ") && line.contains(words),
                "{line}"
            );
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }

    #[test]
    fn switches_can_be_switched_off() {
        let node = of(&["--no-tun=false", "--disable-quic"]).unwrap().line.node;
        assert_eq!((node.no_tun, node.disable_quic), (Some(false), Some(true)));
    }
}
