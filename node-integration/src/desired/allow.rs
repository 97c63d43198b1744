//! Allow rules: `all`, `icmp`, `tcp/22`, `udp/5000-5010`, each with ` from PREFIX` or without.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who may open which connections to a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allow {
    /// Which.
    pub traffic: Traffic,
    /// Who: a prefix; `None`: everybody.
    pub from: Option<(Ipv6Addr, u8)>,
}

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Everything.
    All,
    /// ICMPv6: echo requests above all.
    Icmp,
    /// TCP to a port from the first to the last.
    Tcp(u16, u16),
    /// UDP, likewise.
    Udp(u16, u16),
}

/// The text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no allow rule: write all, icmp, tcp/PORT, udp/FIRST-LAST, and ' from PREFIX/LENGTH' after it to limit who may"
)]
pub struct AllowError(String);

impl FromStr for Allow {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        parse(text).ok_or_else(|| AllowError(text.chars().take(100).collect()))
    }
}

fn parse(text: &str) -> Option<Allow> {
    let mut words = text.split_whitespace();
    let traffic = match words.next()? {
        "all" => Traffic::All,
        "icmp" => Traffic::Icmp,
        other => {
            let (protocol, ports) = other.split_once('/')?;
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                return None;
            }
            match protocol {
                "tcp" => Traffic::Tcp(first, last),
                "udp" => Traffic::Udp(first, last),
                _ => return None,
            }
        }
    };
    let from = match words.next() {
        None => None,
        Some("from") => Some(prefix(words.next()?)?),
        Some(_) => return None,
    };
    words.next().is_none().then_some(Allow { traffic, from })
}

/// Decimal digits only, from 1.
fn port(text: &str) -> Option<u16> {
    let port = text.parse().ok()?;
    (port > 0 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(port)
}

/// An address, or a prefix without bits behind its length.
fn prefix(text: &str) -> Option<(Ipv6Addr, u8)> {
    let (address, length) = text.split_once('/').unwrap_or((text, "128"));
    let address: Ipv6Addr = address.parse().ok()?;
    let length: u8 = length.parse().ok().filter(|length| *length <= 128)?;
    let host_bits = u128::MAX.checked_shr(length.into()).unwrap_or(0);
    (address.to_bits() & host_bits == 0).then_some((address, length))
}

impl TryFrom<String> for Allow {
    type Error = AllowError;

    fn try_from(text: String) -> Result<Self, AllowError> {
        text.parse()
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> Self {
        allow.to_string()
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |f: &mut fmt::Formatter<'_>, protocol, first, last| {
            if first == last {
                write!(f, "{protocol}/{first}")
            } else {
                write!(f, "{protocol}/{first}-{last}")
            }
        };
        match self.traffic {
            Traffic::All => f.write_str("all")?,
            Traffic::Icmp => f.write_str("icmp")?,
            Traffic::Tcp(first, last) => ports(f, "tcp", first, last)?,
            Traffic::Udp(first, last) => ports(f, "udp", first, last)?,
        }
        match self.from {
            Some((address, length)) => write!(f, " from {address}/{length}"),
            None => Ok(()),
        }
    }
}
