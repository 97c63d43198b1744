//! Where a peer is, as an operator writes it: `tcp://192.0.2.1:9651`, `quic://[2001:db8::1]:9651`,
//! `tcp://node.example.org:9651`, `udp://192.0.2.1:9651?key=bb39…`, `vsock://2:9651`,
//! `vsock:///run/vm1/vsock.sock:9651`.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use mycelium_core::addr::is_overlay;
use mycelium_core::crypto::identity::PublicKey;

/// Transport of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Tcp,
    /// QUIC.
    Quic,
    /// The native link: sealed datagrams (docs/protocol.md §15).
    Udp,
    /// A byte stream between a guest and its host.
    Vsock,
}

impl Scheme {
    /// As it stands before `://`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Udp => "udp",
            Self::Vsock => "vsock",
        }
    }
}

/// The part after `://`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A literal address. IPv4-mapped IPv6 addresses are stored as IPv4.
    Address(SocketAddr),
    /// A DNS name and a port, resolved again at every attempt.
    Name {
        /// The name, lower case.
        host: String,
        /// The port.
        port: u16,
    },
    /// A vsock address.
    Vsock {
        /// Context id: 2 is the host.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A guest whose monitor shows its vsock as a Unix socket.
    Monitor {
        /// The monitor's socket, an absolute path.
        path: String,
        /// The guest's port.
        port: u32,
    },
}

/// Transport and place of a peer. Two spellings of the same place compare equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Transport.
    pub scheme: Scheme,
    /// Place.
    pub target: Target,
    /// Whom to accept there, and nobody else. Only for [`Scheme::Udp`]: other links do not show it.
    pub key: Option<PublicKey>,
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseEndpointError {
    /// No `://`.
    #[error(
        "missing leading protocol: write it as tcp://address:port, quic://address:port or udp://address:port"
    )]
    MissingProtocol,
    /// A scheme of mycelium that this node does not speak yet.
    #[error("{0} links are not supported yet: use tcp://, quic:// or udp://")]
    NotYet(&'static str),
    /// A scheme that nobody speaks.
    #[error("unsupported protocol {0:?}: use tcp://, quic:// or udp://")]
    UnsupportedProtocol(String),
    /// No port.
    #[error("{0:?} has no port: mycelium nodes usually listen on 9651, as in {0}:9651")]
    MissingPort(String),
    /// Neither an address nor a name.
    #[error("{0:?} is neither ip:port, [ipv6]:port nor name:port")]
    BadAddress(String),
    /// A port that nobody can listen on.
    #[error("port 0 cannot be connected to")]
    PortZero,
    /// What follows the port of a UDP endpoint, or follows that of another.
    #[error(
        "{0:?} is not ?key= and the 64 hex digits of a public key, which udp:// endpoints alone may have"
    )]
    BadKey(String),
    /// Of a vsock endpoint.
    #[error(
        "{0:?} is neither CID:PORT, as in vsock://2:9651, nor the path of a monitor's socket and a port, as in vsock:///run/vm1.vsock:9651"
    )]
    BadVsock(String),
    /// The address of an overlay node: a link through itself.
    #[error(
        "{0} lies inside 400::/7, the overlay itself: give the peer's address in the network below"
    )]
    InsideOverlay(IpAddr),
}

/// The address as the rest of the program sees it: IPv4-mapped IPv6 becomes IPv4, flow labels vanish.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id())),
        },
    }
}

/// Whether `ip` is an address of the overlay, where no peer may be dialled.
pub fn is_inside_overlay(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if is_overlay(v6))
}

impl Endpoint {
    /// An endpoint with a literal address.
    pub fn address(scheme: Scheme, address: SocketAddr) -> Self {
        Self {
            scheme,
            target: Target::Address(canonical(address)),
            key: None,
        }
    }
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let text = text.trim();
        let (scheme, place) = text
            .split_once("://")
            .ok_or(ParseEndpointError::MissingProtocol)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "tcp" => Scheme::Tcp,
            "quic" => Scheme::Quic,
            "udp" => Scheme::Udp,
            "tls" => return Err(ParseEndpointError::NotYet("tls")),
            "vsock" => {
                return Ok(Self {
                    scheme: Scheme::Vsock,
                    target: parse_vsock(place)
                        .ok_or_else(|| ParseEndpointError::BadVsock(place.to_owned()))?,
                    key: None,
                });
            }
            other => return Err(ParseEndpointError::UnsupportedProtocol(other.to_owned())),
        };
        // A trailing slash is what people paste from an address bar.
        let (place, key) = match place.split_once('?') {
            Some((place, query)) => {
                let key = query.strip_prefix("key=").and_then(PublicKey::from_hex);
                match (scheme, key) {
                    (Scheme::Udp, Some(key)) => (place, Some(key)),
                    _ => return Err(ParseEndpointError::BadKey(format!("?{query}"))),
                }
            }
            None => (place, None),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        Ok(Self {
            scheme,
            target: parse_target(place)?,
            key,
        })
    }
}

/// `CID:PORT` or `/PATH:PORT`. `None`: neither.
fn parse_vsock(place: &str) -> Option<Target> {
    let (place, port) = place.rsplit_once(':')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten()
    };
    let port = number(port)?;
    if place.starts_with('/') && !place.ends_with('/') && !place.contains(char::is_control) {
        return Some(Target::Monitor {
            path: place.to_owned(),
            port,
        });
    }
    number(place).map(|cid| Target::Vsock { cid, port })
}

fn parse_target(place: &str) -> Result<Target, ParseEndpointError> {
    let bad = || ParseEndpointError::BadAddress(place.to_owned());
    if let Ok(address) = place.parse::<SocketAddr>() {
        let address = canonical(address);
        if is_inside_overlay(address.ip()) {
            return Err(ParseEndpointError::InsideOverlay(address.ip()));
        }
        if address.port() == 0 {
            return Err(ParseEndpointError::PortZero);
        }
        return Ok(Target::Address(address));
    }
    if place.parse::<IpAddr>().is_ok() || (place.starts_with('[') && place.ends_with(']')) {
        return Err(ParseEndpointError::MissingPort(place.to_owned()));
    }
    let Some((host, port)) = place.rsplit_once(':') else {
        return Err(if is_dns_name(place) {
            ParseEndpointError::MissingPort(place.to_owned())
        } else {
            bad()
        });
    };
    if !is_dns_name(host) {
        return Err(bad());
    }
    match port.parse::<u16>() {
        Ok(0) => Err(ParseEndpointError::PortZero),
        Ok(port) => Ok(Target::Name {
            host: host.to_ascii_lowercase(),
            port,
        }),
        Err(_) => Err(bad()),
    }
}

/// RFC 1123 §2.1 labels, and underscores, which resolvers accept. A name whose last label is all digits is a
/// mistyped IPv4 address, never a name.
fn is_dns_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// As an operator writes it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.target {
            Target::Address(address) => address.fmt(f)?,
            Target::Name { host, port } => write!(f, "{host}:{port}")?,
            Target::Vsock { cid, port } => write!(f, "{cid}:{port}")?,
            Target::Monitor { path, port } => write!(f, "{path}:{port}")?,
        }
        match &self.key {
            Some(key) => write!(f, "?key={key}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint, ParseEndpointError> {
        text.parse()
    }

    #[test]
    fn literals_and_names_are_read_and_printed_alike() {
        for text in [
            "tcp://192.0.2.1:9651",
            "quic://[2001:db8::1]:9651",
            "tcp://[fe80::1%2]:9651",
            "tcp://node.example.org:9651",
            "quic://localhost:1",
            "udp://192.0.2.1:9651",
            "vsock://2:9651",
            "vsock://3:4294967295",
            "vsock:///run/vm1/v.sock:9651",
            "udp://localhost:1?key=bb39b4a3a4efd70f3e05e37887677e02efbda14681d0acd3882bc0f754792c32",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            parse("TCP://1.2.3.4:5").unwrap().to_string(),
            "tcp://1.2.3.4:5"
        );
        assert_eq!(
            parse("tcp://Node.Example:5/").unwrap().to_string(),
            "tcp://node.example:5"
        );
    }

    #[test]
    fn spellings_of_one_place_are_one_endpoint() {
        assert_eq!(
            parse("tcp://[::ffff:1.2.3.4]:5").unwrap(),
            parse("tcp://1.2.3.4:5").unwrap()
        );
    }

    #[test]
    fn refused_texts_say_why() {
        use ParseEndpointError as E;
        let of = |text: &str| parse(text).unwrap_err();
        assert_eq!(of("192.0.2.1:9651"), E::MissingProtocol);
        assert_eq!(of(""), E::MissingProtocol);
        assert_eq!(of("tls://192.0.2.1:9651"), E::NotYet("tls"));
        for place in [
            "2",
            "2:",
            ":9651",
            "x:9651",
            "-1:2",
            "4294967296:1",
            "run/v:1",
            "/run/:1",
            "/a\nb:1",
            "2:1/",
        ] {
            assert_eq!(of(&format!("vsock://{place}")), E::BadVsock(place.into()));
        }
        assert_eq!(
            of("sctp://192.0.2.1:9651"),
            E::UnsupportedProtocol("sctp".into())
        );
        let key = "bb39b4a3a4efd70f3e05e37887677e02efbda14681d0acd3882bc0f754792c32";
        for text in [
            format!("tcp://192.0.2.1:9651?key={key}"),
            format!("udp://192.0.2.1:9651?key={key}0"),
            format!("udp://192.0.2.1:9651?name={key}"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(matches!(error, E::BadKey(_)), "{text}");
        }
        assert_eq!(of("tcp://192.0.2.1"), E::MissingPort("192.0.2.1".into()));
        assert_eq!(
            of("tcp://[2001:db8::1]"),
            E::MissingPort("[2001:db8::1]".into())
        );
        assert_eq!(
            of("tcp://2001:db8::1"),
            E::MissingPort("2001:db8::1".into())
        );
        assert_eq!(
            of("tcp://example.org"),
            E::MissingPort("example.org".into())
        );
        assert_eq!(of("tcp://300.2.3.4:5"), E::BadAddress("300.2.3.4:5".into()));
        assert_eq!(
            of("tcp://example.org:99999"),
            E::BadAddress("example.org:99999".into())
        );
        assert_eq!(of("tcp://:5"), E::BadAddress(":5".into()));
        assert_eq!(of("tcp://1.2.3.4:0"), E::PortZero);
        assert!(matches!(of("tcp://[400::1]:9651"), E::InsideOverlay(_)));
        assert!(matches!(of("quic://[5ff:1::1]:9651"), E::InsideOverlay(_)));
        assert!(parse("tcp://[600::1]:9651").is_ok());
    }
}
