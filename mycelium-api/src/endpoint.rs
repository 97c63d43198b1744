//! Where a peer is reached: transport and address.

use std::fmt;
use std::net::SocketAddr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Transport of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// Plain TCP.
    Tcp,
    /// TLS with a pre-shared key, in private networks.
    Tls,
    /// QUIC.
    Quic,
    /// A hypervisor's socket.
    Vsock,
    /// Sealed datagrams.
    Udp,
}

impl Protocol {
    /// The scheme of an endpoint with this transport, without `://`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Vsock => "vsock",
            Self::Udp => "udp",
        }
    }
}

/// The address part of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// Address and port of TCP, TLS and QUIC.
    Socket(SocketAddr),
    /// Context id and port of vsock.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Vsock { cid, port } => write!(f, "{cid}:{port}"),
        }
    }
}

/// Where a peer is reached.
///
/// JSON carries the address twice: as `addr` (since 0.7.6) and, for sockets, as `socketAddr` (before, and in
/// upstream's documents). Either is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Transport.
    pub proto: Protocol,
    /// Address; of an endpoint given by name, the one last resolved, or `[::]:port` before the first answer.
    pub addr: EndpointAddress,
    /// The DNS name that the operator gave, without port; of a guest whose monitor shows its vsock as a Unix socket, the
    /// path of that (ours).
    pub host: Option<String>,
}

impl Endpoint {
    /// An endpoint with a literal address.
    pub const fn socket(proto: Protocol, address: SocketAddr) -> Self {
        Self {
            proto,
            addr: EndpointAddress::Socket(address),
            host: None,
        }
    }

    /// The part after `://`: the name with its port where one was given, else the address.
    pub fn address_text(&self) -> String {
        match (&self.host, self.addr) {
            (Some(host), EndpointAddress::Socket(address)) => format!("{host}:{}", address.port()),
            (Some(path), EndpointAddress::Vsock { port, .. }) => format!("{path}:{port}"),
            (None, address) => address.to_string(),
        }
    }
}

/// As in a peer list: `tcp://1.2.3.4:9651`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.proto.scheme(), self.address_text())
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum AddressObject {
    Socket(SocketAddr),
    Vsock { cid: u32, port: u32 },
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Endpoint", 4)?;
        object.serialize_field("proto", &self.proto)?;
        match self.addr {
            EndpointAddress::Socket(address) => {
                object.serialize_field("addr", &AddressObject::Socket(address))?;
                object.serialize_field("socketAddr", &address)?;
            }
            EndpointAddress::Vsock { cid, port } => {
                object.serialize_field("addr", &AddressObject::Vsock { cid, port })?;
                object.skip_field("socketAddr")?;
            }
        }
        match &self.host {
            Some(host) => object.serialize_field("host", host)?,
            None => object.skip_field("host")?,
        }
        object.end()
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            proto: Protocol,
            addr: Option<AddressObject>,
            socket_addr: Option<SocketAddr>,
            host: Option<String>,
        }

        let fields = Fields::deserialize(deserializer)?;
        let addr = match (fields.addr, fields.socket_addr) {
            (Some(AddressObject::Socket(address)), _) | (None, Some(address)) => {
                EndpointAddress::Socket(address)
            }
            (Some(AddressObject::Vsock { cid, port }), _) => EndpointAddress::Vsock { cid, port },
            (None, None) => return Err(D::Error::missing_field("addr")),
        };
        Ok(Self {
            proto: fields.proto,
            addr,
            host: fields.host,
        })
    }
}
