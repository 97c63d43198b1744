//! One validated configuration from flags, file and defaults.
//!
//! A flag that is given wins over the file, which wins over the default. A key that the file does not know is a
//! notice; a value that does not fit is an error, so that no setting is lost silently.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use mycelium_api::Address;
use mycelium_cli::Api;
use toml::{Table, Value};

use crate::args::{CommandLine, DEFAULT_API_ADDRESS, NodeArgs, SessionPolicy};
use crate::logging::Level;
use crate::peering::endpoint::{Endpoint, ParseEndpointError};

/// Port for peers over TCP and QUIC.
pub const DEFAULT_PEER_PORT: u16 = 9651;
/// Port of the beacons.
pub const DEFAULT_DISCOVERY_PORT: u16 = 9650;
/// Where JSON-RPC listens.
pub const DEFAULT_JSONRPC_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8990);
/// Name of the node's interface.
pub const DEFAULT_TUN_NAME: &str = "mycelium";
/// A configuration larger than this is a mistaken path.
const MAX_FILE: u64 = 1 << 20;

/// How to run the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Peers to keep a link to, without duplicates.
    pub peers: Vec<Endpoint>,
    /// TCP port for peers.
    pub tcp_listen_port: u16,
    /// UDP port for QUIC peers; `None`: no QUIC at all.
    pub quic_listen_port: Option<u16>,
    /// vsock port for peers; `None`: none is opened at the socket family.
    pub vsock_listen_port: Option<u32>,
    /// Sockets at which monitors show the vsock of guests.
    pub vsock_sockets: Vec<PathBuf>,
    /// Beacons on the local network; `None`: off.
    pub discovery: Option<Discovery>,
    /// Address of the HTTP API.
    pub api_address: SocketAddr,
    /// Unix socket of the HTTP API.
    pub api_socket: ApiSocket,
    /// Address of JSON-RPC.
    pub jsonrpc_address: SocketAddr,
    /// Address of the metrics; `None`: not served.
    pub metrics_address: Option<SocketAddr>,
    /// Name of the node's interface; `None`: no interface.
    pub tun_name: Option<String>,
    /// SO_MARK of everything sent to peers.
    pub firewall_mark: Option<u32>,
    /// Sessions with other identities.
    pub sessions: SessionSettings,
    /// Directory that describes user networks; `None`: there are none.
    pub net_dir: Option<PathBuf>,
    /// Log level of the file; the flags win over it.
    pub log_level: Option<Level>,
    /// Identities besides the node's own.
    pub identities: Vec<IdentityConfig>,
}

impl Config {
    /// What differs in `new` and cannot be changed while running: the keys, for a person.
    pub fn differences_that_need_a_restart(&self, new: &Self) -> Vec<&'static str> {
        [
            (
                "tcp_listen_port",
                self.tcp_listen_port != new.tcp_listen_port,
            ),
            (
                "quic_listen_port or disable_quic",
                self.quic_listen_port != new.quic_listen_port,
            ),
            (
                "vsock_listen_port or vsock_sockets",
                (self.vsock_listen_port, &self.vsock_sockets)
                    != (new.vsock_listen_port, &new.vsock_sockets),
            ),
            ("peer discovery", self.discovery != new.discovery),
            ("api_addr", self.api_address != new.api_address),
            ("api_socket", self.api_socket != new.api_socket),
            ("jsonrpc_addr", self.jsonrpc_address != new.jsonrpc_address),
            (
                "metrics_api_address",
                self.metrics_address != new.metrics_address,
            ),
            ("tun_name or no_tun", self.tun_name != new.tun_name),
            ("firewall_mark", self.firewall_mark != new.firewall_mark),
            ("net_dir", self.net_dir != new.net_dir),
            (
                "session_policy, session_key_file or state_dir",
                self.sessions != new.sessions,
            ),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// Sessions with other identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionSettings {
    /// Towards those that do not speak v2.
    pub policy: SessionPolicy,
    /// File with the secret of a closed network; `None`: the network is open.
    pub key_file: Option<PathBuf>,
    /// Where pins are kept; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Seconds until new keys; `None`: as everybody.
    pub rekey_interval: Option<u32>,
}

/// Unix socket of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSocket {
    /// None is served.
    Off,
    /// There.
    At(PathBuf),
    /// At the usual place, if it is free and may be written.
    Default,
}

impl From<PathBuf> for ApiSocket {
    fn from(path: PathBuf) -> Self {
        if path == Path::new("off") {
            Self::Off
        } else {
            Self::At(path)
        }
    }
}

/// Where to look for local peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// UDP port of the beacons.
    pub port: u16,
    /// Interfaces; empty: all.
    pub interfaces: Vec<String>,
}

/// An identity besides the node's own: `[[identities]]` in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// What to call it; unique.
    pub name: String,
    /// Its key file, created if missing.
    pub key_file: PathBuf,
    /// Its interface; `None`: it has none.
    pub tun_name: Option<String>,
    /// Path of the network namespace of that interface; `None`: the node's own.
    pub netns: Option<PathBuf>,
}

/// Where `ip netns` keeps the namespaces that have a name.
const NAMED_NAMESPACES: &str = "/run/netns";

/// A name that `ip netns` knows, or a path.
fn namespace_path(text: &str) -> PathBuf {
    if text.contains('/') {
        PathBuf::from(text)
    } else {
        Path::new(NAMED_NAMESPACES).join(text)
    }
}

/// Something in the configuration that is not fatal and must not be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Stable name, kebab case.
    pub code: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named does not exist.
    #[error("there is no configuration file {path}", path = .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Too large to be one.
    #[error("{path} is larger than 1 MiB: not a configuration file", path = .0.display())]
    TooLarge(PathBuf),
    /// Not TOML.
    #[error("{path}:{line}:{column}: {message}", path = .path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// A value that does not fit.
    #[error("{path}: {error}", path = .path.display())]
    Value {
        /// Which.
        path: PathBuf,
        /// Key and reason.
        error: ValueError,
    },
}

/// A value that does not fit its key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {reason}")]
pub struct ValueError {
    /// Which key.
    pub key: String,
    /// The value, as in the file.
    pub value: String,
    /// What would fit.
    pub reason: String,
}

/// Read the file that `line` names (or the default one, if it exists) and put the flags over it.
///
/// # Errors
/// [`ConfigError`], one line each.
pub fn load(line: &CommandLine) -> Result<(Config, Vec<Notice>), ConfigError> {
    let (path, must_exist) = match &line.config_file {
        Some(path) => (path.clone(), true),
        None => (default_path(), false),
    };
    let table = match read(&path)? {
        Some(table) => table,
        None if must_exist => {
            return Err(ConfigError::Missing(path));
        }
        None => Table::new(),
    };
    let mut notices = Vec::new();
    let file = FileConfig::from_table(table, &path, &mut notices)
        .map_err(|error| ConfigError::Value { path, error })?;
    Ok((merge(file, &line.node, &mut notices), notices))
}

/// Where client commands find the node: the flags' word, else the file's, else the usual places.
///
/// The file is read for this alone, and a broken one does not count: client commands are needed to repair it.
pub fn api_of_node(line: &CommandLine) -> Api {
    let at = |socket: Option<PathBuf>, address: Option<SocketAddr>| match socket.map(Into::into) {
        Some(ApiSocket::At(path)) => Some(Api::At(Address::Local(path))),
        Some(_) => Some(Api::At(address.unwrap_or(DEFAULT_API_ADDRESS).into())),
        None => address.map(|address| Api::At(address.into())),
    };
    let file = || {
        let path = line.config_file.clone().unwrap_or_else(default_path);
        let table = read(&path).ok()??;
        let text = |key: &str| table.get(key).and_then(Value::as_str);
        let address = text("api_addr").and_then(|address| address.parse().ok());
        at(text("api_socket").map(PathBuf::from), address)
    };
    at(line.node.api_socket.clone(), line.node.api_addr)
        .or_else(file)
        .unwrap_or(Api::Default(DEFAULT_API_ADDRESS))
}

/// `$XDG_CONFIG_HOME/mycelium/mycelium.toml`, or below `~/.config`, or here if there is no home.
pub fn default_path() -> PathBuf {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))
        .unwrap_or_else(|| PathBuf::from("."));
    base.join("mycelium").join("mycelium.toml")
}

fn read(path: &Path) -> Result<Option<Table>, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => {
            return Err(ConfigError::TooLarge(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    text.parse::<Table>().map(Some).map_err(|error| {
        let before = text
            .get(..error.span().map_or(0, |span| span.start))
            .unwrap_or_default();
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|&c| c != '\n').count() + 1,
            message: error.message().lines().collect::<Vec<_>>().join("; "),
        }
    })
}

/// The file alone: what it does not set is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
struct FileConfig {
    peers: Option<Vec<Endpoint>>,
    tcp_listen_port: Option<u16>,
    disable_quic: Option<bool>,
    quic_listen_port: Option<u16>,
    vsock_listen_port: Option<u32>,
    vsock_sockets: Option<Vec<String>>,
    no_tun: Option<bool>,
    tun_name: Option<String>,
    disable_peer_discovery: Option<bool>,
    peer_discovery_port: Option<u16>,
    peer_discovery_interfaces: Option<Vec<String>>,
    api_addr: Option<SocketAddr>,
    api_socket: Option<PathBuf>,
    jsonrpc_addr: Option<SocketAddr>,
    metrics_api_address: Option<SocketAddr>,
    firewall_mark: Option<u32>,
    session_policy: Option<SessionPolicy>,
    session_key_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    net_dir: Option<PathBuf>,
    log_level: Option<Level>,
    identities: Vec<IdentityConfig>,
}

impl FileConfig {
    fn from_table(
        table: Table,
        path: &Path,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, ValueError> {
        let mut config = Self::default();
        for (key, value) in table {
            let field = Field { key, value };
            match field.key.as_str() {
                "peers" => config.peers = Some(field.peers()?),
                "tcp_listen_port" => {
                    config.tcp_listen_port = Some(field.number("a port, 0 to 65535")?)
                }
                "disable_quic" => config.disable_quic = Some(field.boolean()?),
                "quic_listen_port" => {
                    config.quic_listen_port = Some(field.number("a port, 0 to 65535")?)
                }
                "no_tun" => config.no_tun = Some(field.boolean()?),
                "tun_name" => config.tun_name = Some(field.string()?),
                "disable_peer_discovery" => config.disable_peer_discovery = Some(field.boolean()?),
                "peer_discovery_port" => {
                    config.peer_discovery_port = Some(field.number("a port, 0 to 65535")?);
                }
                // The singular is the name of the flag.
                "peer_discovery_interfaces" | "peer_discovery_interface" => {
                    config.peer_discovery_interfaces = Some(field.strings()?);
                }
                "vsock_listen_port" => {
                    config.vsock_listen_port = Some(field.number("a port, 0 to 4294967295")?)
                }
                "vsock_sockets" => config.vsock_sockets = Some(field.strings()?),
                "api_addr" => config.api_addr = Some(field.address()?),
                "api_socket" => config.api_socket = Some(field.string()?.into()),
                "jsonrpc_addr" => config.jsonrpc_addr = Some(field.address()?),
                "metrics_api_address" => config.metrics_api_address = Some(field.address()?),
                "firewall_mark" => {
                    config.firewall_mark = Some(field.number("a mark, 0 to 4294967295")?)
                }
                "session_policy" => config.session_policy = Some(field.policy()?),
                "session_key_file" => config.session_key_file = Some(field.string()?.into()),
                "state_dir" => config.state_dir = Some(field.string()?.into()),
                "net_dir" => config.net_dir = Some(field.string()?.into()),
                "log_level" => config.log_level = Some(field.level()?),
                "identities" => config.identities = field.identities()?,
                "update_workers" => {
                    field.number::<u8>("1 to 254")?;
                }
                "topic_config" | "cdn_cache" | "enable_dns" | "network_name"
                | "network_key_file" => notices.push(Notice {
                    code: "config-key-not-supported",
                    text: format!(
                        "{}: {} is ignored: this node does not have that feature yet",
                        path.display(),
                        field.key
                    ),
                    hint: format!("remove {} from the file", field.key),
                }),
                key => notices.push(Notice {
                    code: "config-key-unknown",
                    text: format!("{}: unknown key {key} is ignored", path.display()),
                    hint: "correct its spelling or remove it; docs/configuration.md lists all keys"
                        .to_owned(),
                }),
            }
        }
        Ok(config)
    }
}

/// One key and its value, with the conversions that mycelium's reader makes: numbers and switches may be quoted.
struct Field {
    key: String,
    value: Value,
}

impl Field {
    fn error(&self, reason: impl fmt::Display) -> ValueError {
        ValueError {
            key: self.key.clone(),
            value: match &self.value {
                Value::String(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
                Value::Integer(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Boolean(switch) => switch.to_string(),
                Value::Datetime(_) => "a date".to_owned(),
                Value::Array(_) => "a list".to_owned(),
                Value::Table(_) => "a section".to_owned(),
            },
            reason: reason.to_string(),
        }
    }

    fn number<T: TryFrom<i64>>(&self, expected: &str) -> Result<T, ValueError> {
        let number = match &self.value {
            Value::Integer(number) => Some(*number),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.error(format_args!("must be {expected}")))
    }

    fn boolean(&self) -> Result<bool, ValueError> {
        let text = match &self.value {
            Value::Boolean(switch) => return Ok(*switch),
            Value::Integer(number) => number.to_string(),
            Value::String(text) => text.trim().to_ascii_lowercase(),
            _ => String::new(),
        };
        match text.as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(self.error("must be true or false")),
        }
    }

    fn string(&self) -> Result<String, ValueError> {
        match &self.value {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(self.error("must be a text in quotes")),
        }
    }

    fn strings(&self) -> Result<Vec<String>, ValueError> {
        match &self.value {
            Value::String(text) => Ok(vec![text.clone()]),
            Value::Array(values) => values
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or_else(|| self.error("must be a list of texts in quotes")),
            _ => Err(self.error("must be a list of texts in quotes")),
        }
    }

    fn peers(&self) -> Result<Vec<Endpoint>, ValueError> {
        self.strings()?
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|error: ParseEndpointError| ValueError {
                        key: self.key.clone(),
                        value: format!("{text:?}"),
                        reason: error.to_string(),
                    })
            })
            .collect()
    }

    fn address(&self) -> Result<SocketAddr, ValueError> {
        let reason = "must be \"ip:port\", as in \"127.0.0.1:8989\"";
        let text = self.value.as_str().ok_or_else(|| self.error(reason))?;
        text.parse().map_err(|_| self.error(reason))
    }

    fn policy(&self) -> Result<SessionPolicy, ValueError> {
        let text = self.value.as_str().unwrap_or_default();
        SessionPolicy::from_str(text, false).map_err(|_| self.error("must be prefer or require"))
    }

    fn level(&self) -> Result<Level, ValueError> {
        let level = self.value.as_str().and_then(|text| text.parse().ok());
        level.ok_or_else(|| self.error("must be error, warn, info or debug"))
    }

    fn identities(self) -> Result<Vec<IdentityConfig>, ValueError> {
        let Value::Array(entries) = self.value else {
            return Err(self.error("identities are written as [[identities]] sections"));
        };
        let mut identities: Vec<IdentityConfig> = Vec::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            let key = |name: &str| format!("identities[{index}].{name}");
            let Value::Table(table) = entry else {
                return Err(Self {
                    key: key(""),
                    value: entry,
                }
                .error("must be a section"));
            };
            let [mut name, mut key_file, mut tun_name, mut netns] = [const { None }; 4];
            for (entry_key, value) in table {
                let field = Self {
                    key: key(&entry_key),
                    value,
                };
                let place = match entry_key.as_str() {
                    "name" => &mut name,
                    "key_file" => &mut key_file,
                    "tun_name" => &mut tun_name,
                    "netns" => &mut netns,
                    // A misspelt key here would put an interface into the wrong namespace.
                    _ => {
                        return Err(
                            field.error("unknown: an identity has name, key_file, tun_name, netns")
                        );
                    }
                };
                *place = Some(field.string()?);
            }
            let missing = |name: &str| ValueError {
                key: key(name),
                value: "nothing".to_owned(),
                reason: "every identity needs name and key_file".to_owned(),
            };
            let name = name.ok_or_else(|| missing("name"))?;
            if identities.iter().any(|other| other.name == name) {
                return Err(ValueError {
                    key: key("name"),
                    value: format!("{name:?}"),
                    reason: "another identity has that name".to_owned(),
                });
            }
            identities.push(IdentityConfig {
                name,
                key_file: key_file.ok_or_else(|| missing("key_file"))?.into(),
                tun_name,
                netns: netns.as_deref().map(namespace_path),
            });
        }
        Ok(identities)
    }
}

fn merge(file: FileConfig, flags: &NodeArgs, notices: &mut Vec<Notice>) -> Config {
    let mut peers: Vec<Endpoint> = Vec::new();
    for peer in flags.peers.clone().or(file.peers).unwrap_or_default() {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let interfaces = flags
        .peer_discovery_interface
        .clone()
        .or(file.peer_discovery_interfaces)
        .unwrap_or_default();
    let discovery_off = flags
        .disable_peer_discovery
        .or(file.disable_peer_discovery)
        .unwrap_or(false);
    if discovery_off && flags.peer_discovery_interface.is_some() {
        notices.push(Notice {
            code: "discovery-interface-ignored",
            text: "peer discovery is disabled, so its interfaces are ignored".to_owned(),
            hint: "drop --disable-peer-discovery or --peer-discovery-interface".to_owned(),
        });
    }
    let quic_off = flags.disable_quic.or(file.disable_quic).unwrap_or(false);
    let no_tun = flags.no_tun.or(file.no_tun).unwrap_or(false);
    Config {
        peers,
        tcp_listen_port: flags
            .tcp_listen_port
            .or(file.tcp_listen_port)
            .unwrap_or(DEFAULT_PEER_PORT),
        quic_listen_port: (!quic_off).then(|| {
            flags
                .quic_listen_port
                .or(file.quic_listen_port)
                .unwrap_or(DEFAULT_PEER_PORT)
        }),
        vsock_listen_port: flags.vsock_listen_port.or(file.vsock_listen_port),
        vsock_sockets: flags.vsock_socket.clone().unwrap_or_else(|| {
            let paths = file.vsock_sockets.unwrap_or_default();
            paths.into_iter().map(PathBuf::from).collect()
        }),
        discovery: (!discovery_off).then(|| Discovery {
            port: flags
                .peer_discovery_port
                .or(file.peer_discovery_port)
                .unwrap_or(DEFAULT_DISCOVERY_PORT),
            interfaces,
        }),
        api_address: flags
            .api_addr
            .or(file.api_addr)
            .unwrap_or(DEFAULT_API_ADDRESS),
        api_socket: flags
            .api_socket
            .clone()
            .or(file.api_socket)
            .map_or(ApiSocket::Default, ApiSocket::from),
        jsonrpc_address: flags
            .jsonrpc_addr
            .or(file.jsonrpc_addr)
            .unwrap_or(DEFAULT_JSONRPC_ADDRESS),
        metrics_address: flags.metrics_api_address.or(file.metrics_api_address),
        tun_name: (!no_tun).then(|| {
            flags
                .tun_name
                .clone()
                .or(file.tun_name)
                .unwrap_or_else(|| DEFAULT_TUN_NAME.to_owned())
        }),
        firewall_mark: flags.firewall_mark.or(file.firewall_mark),
        sessions: SessionSettings {
            policy: flags
                .session_policy
                .or(file.session_policy)
                .unwrap_or_default(),
            key_file: flags.session_key_file.clone().or(file.session_key_file),
            state_dir: flags.state_dir.clone().or(file.state_dir),
            rekey_interval: flags.session_rekey_interval,
        },
        net_dir: flags.net_dir.clone().or(file.net_dir),
        log_level: file.log_level,
        identities: file.identities,
    }
}

#[cfg(test)]
mod tests;
