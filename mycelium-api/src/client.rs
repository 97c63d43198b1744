//! A blocking client: one method per path, errors that a person understands.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, StatusCode};
use ureq::{Agent, Timeout};

use crate::address::{Address, DEFAULT_SOCKET, NETWORK_HEADER, network_namespace};
use crate::{
    AddIdentity, AddPeer, Identity, Info, PacketStatistics, PeerStats, PublicKey, PublicKeyReply,
    QueriedSubnet, Route, Session, Status, path,
};

#[cfg(unix)]
mod local;

/// The server answers from published copies, in milliseconds: a wait this long means that something is stuck.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read: about a million routes.
const ANSWER_LIMIT: u64 = 256 << 20;

/// The longest error text that is shown.
const ERROR_TEXT_LIMIT: u64 = 4096;

/// What RFC 3986 lets stand in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens there.
    #[error(
        "no node answers at {address}: is mycelium running? If its API is elsewhere, name it with --api-addr or --api-socket before the command"
    )]
    NotRunning {
        /// Where we asked.
        address: Address,
    },
    /// Something listens and says nothing.
    #[error("the node at {address} did not answer within {timeout:?}")]
    Silent {
        /// Where we asked.
        address: Address,
        /// How long we waited.
        timeout: Duration,
    },
    /// The path is not known there.
    #[error(
        "what answers at {address} does not know this command: it may be an older node, or something else than mycelium"
    )]
    Unsupported {
        /// Where we asked.
        address: Address,
    },
    /// The node refused, and says why.
    #[error("{text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The node's words.
        text: String,
    },
    /// The answer is not what this version expects.
    #[error("the answer of {address} cannot be read: {error}")]
    Unreadable {
        /// Where we asked.
        address: Address,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The connection broke, or something that is no HTTP server answers.
    #[error("cannot talk to the node at {address}: {reason}")]
    Connection {
        /// Where we asked.
        address: Address,
        /// What the transport says.
        reason: String,
    },
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    address: Address,
    timeout: Duration,
    /// Only a node in this network namespace is to answer.
    network: Option<u64>,
}

impl Client {
    /// A client of the node whose API is at `address`, which waits 5 seconds at most. Does not connect yet.
    pub fn new(address: impl Into<Address>) -> Self {
        Self::with_timeout(address, TIMEOUT)
    }

    /// A client that waits this long at most for a whole exchange.
    ///
    /// Proxy settings of the environment are not followed: they are for the web, not for this machine's node.
    pub fn with_timeout(address: impl Into<Address>, timeout: Duration) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(timeout))
            .user_agent(concat!("mycelium/", env!("CARGO_PKG_VERSION")))
            .build();
        let address = address.into();
        let agent = match &address {
            #[cfg(unix)]
            Address::Local(path) => Agent::with_parts(
                config,
                local::LocalConnector(path.clone()),
                ureq::unversioned::resolver::DefaultResolver::default(),
            ),
            _ => config.new_agent(),
        };
        Self {
            agent,
            address,
            timeout,
            network: None,
        }
    }

    /// The node at [`DEFAULT_SOCKET`], if one is there and in this thread's network namespace.
    pub fn of_this_machine() -> Option<Self> {
        let mut client = Self::new(Path::new(DEFAULT_SOCKET));
        client.network = network_namespace();
        client.info().ok().map(|_| client)
    }

    /// Where this client asks.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Who the node is.
    pub fn info(&self) -> Result<Info, Error> {
        self.get(path::ADMIN)
    }

    /// All peers.
    pub fn peers(&self) -> Result<Vec<PeerStats>, Error> {
        self.get(path::PEERS)
    }

    /// Add a peer by its endpoint, `tcp://1.2.3.4:9651`.
    pub fn add_peer(&self, endpoint: &str) -> Result<(), Error> {
        let endpoint = endpoint.to_owned();
        self.post(path::PEERS, &AddPeer { endpoint }).map(drop)
    }

    /// Remove a peer by its endpoint; its link is closed.
    pub fn remove_peer(&self, endpoint: &str) -> Result<(), Error> {
        self.delete(&path::PEER.replace("{endpoint}", &segment(endpoint)))
    }

    /// Routes in use.
    pub fn selected_routes(&self) -> Result<Vec<Route>, Error> {
        self.get(path::ROUTES_SELECTED)
    }

    /// Routes held ready.
    pub fn fallback_routes(&self) -> Result<Vec<Route>, Error> {
        self.get(path::ROUTES_FALLBACK)
    }

    /// Subnets that are being asked for.
    pub fn queried_subnets(&self) -> Result<Vec<QueriedSubnet>, Error> {
        self.get(path::ROUTES_QUERIED)
    }

    /// Packets and bytes by address.
    pub fn packet_statistics(&self) -> Result<PacketStatistics, Error> {
        self.get(path::PACKET_STATS)
    }

    /// The key behind an overlay address; `None`: no route to it is known.
    pub fn public_key(&self, ip: IpAddr) -> Result<Option<PublicKey>, Error> {
        let path = path::PUBLIC_KEY.replace("{ip}", &segment(&ip.to_string()));
        match self.get::<PublicKeyReply>(&path) {
            Ok(reply) => Ok(Some(reply.public_key)),
            Err(Error::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The node at a glance (ours).
    pub fn status(&self) -> Result<Status, Error> {
        self.get(path::STATUS)
    }

    /// All identities (ours).
    pub fn identities(&self) -> Result<Vec<Identity>, Error> {
        self.get(path::IDENTITIES)
    }

    /// Add an identity (ours).
    pub fn add_identity(&self, identity: &AddIdentity) -> Result<Identity, Error> {
        self.read(&self.post(path::IDENTITIES, identity)?)
    }

    /// Remove an identity (ours); its interface goes, and its subnet is retracted.
    pub fn remove_identity(&self, id: u32) -> Result<(), Error> {
        self.delete(&path::IDENTITY.replace("{id}", &id.to_string()))
    }

    /// Sessions with remote identities (ours).
    pub fn sessions(&self) -> Result<Vec<Session>, Error> {
        self.get(path::SESSIONS)
    }

    /// Do not hold the identity with this address to session v2 any more (ours).
    pub fn forget_session(&self, ip: Ipv6Addr) -> Result<(), Error> {
        self.delete(&path::SESSION.replace("{ip}", &segment(&ip.to_string())))
    }

    /// The body of a successful `GET`, as it came.
    pub fn body(&self, path: &str) -> Result<String, Error> {
        self.exchange(Method::GET, path, None)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(&self.body(path)?)
    }

    fn post(&self, path: &str, request: &impl Serialize) -> Result<String, Error> {
        let body = serde_json::to_string(request)
            .expect("requests are structs of texts and options, which always serialise");
        self.exchange(Method::POST, path, Some(body))
    }

    fn delete(&self, path: &str) -> Result<(), Error> {
        self.exchange(Method::DELETE, path, None).map(drop)
    }

    fn read<T: DeserializeOwned>(&self, body: &str) -> Result<T, Error> {
        serde_json::from_str(body).map_err(|error| Error::Unreadable {
            address: self.address.clone(),
            error,
        })
    }

    fn exchange(&self, method: Method, path: &str, body: Option<String>) -> Result<String, Error> {
        let uri = match &self.address {
            Address::Tcp(address) => format!("http://{address}{}{path}", path::BASE),
            // Not looked up; the socket is what counts.
            Address::Local(_) => format!("http://127.0.0.1{}{path}", path::BASE),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(network) = self.network {
            request = request.header(NETWORK_HEADER, network.to_string());
        }
        let answer = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body)
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
            None => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
        };
        let mut answer = answer.map_err(|error| self.explain(error))?;
        let status = answer.status();
        let limit = if status.is_success() {
            ANSWER_LIMIT
        } else {
            ERROR_TEXT_LIMIT
        };
        let text = answer
            .body_mut()
            .with_config()
            .limit(limit)
            .lossy_utf8(!status.is_success())
            .read_to_string();
        if status.is_success() {
            return text.map_err(|error| self.explain(error));
        }
        let text = text.unwrap_or_default();
        Err(match text.trim() {
            "" if status == StatusCode::NOT_FOUND => Error::Unsupported {
                address: self.address.clone(),
            },
            "" => Error::Refused {
                status: status.as_u16(),
                text: format!("the node at {} answered {status}", self.address),
            },
            text => Error::Refused {
                status: status.as_u16(),
                text: text.to_owned(),
            },
        })
    }

    fn explain(&self, error: ureq::Error) -> Error {
        let address = self.address.clone();
        match error {
            // Connecting takes no time on this machine; elsewhere, nobody is there.
            ureq::Error::Timeout(Timeout::Connect) | ureq::Error::ConnectionFailed => {
                Error::NotRunning { address }
            }
            ureq::Error::Timeout(_) => Error::Silent {
                address,
                timeout: self.timeout,
            },
            // A socket without its node is a file that refuses, or none.
            ureq::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                Error::NotRunning { address }
            }
            other => Error::Connection {
                address,
                reason: other.to_string(),
            },
        }
    }
}

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

#[cfg(test)]
mod tests;
