//! Routes: subnets that the router knows, or asks for.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// Cost of a route: a number, or the text `infinite` for one that is retracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Reachable at this cost.
    Value(u16),
    /// Not reachable this way.
    Infinite,
}

impl From<Option<u16>> for Metric {
    /// `None` is infinite.
    fn from(metric: Option<u16>) -> Self {
        metric.map_or(Self::Infinite, Self::Value)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Infinite => f.write_str("infinite"),
        }
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => serializer.serialize_u16(*value),
            Self::Infinite => serializer.serialize_str("infinite"),
        }
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u16),
            Text(String),
        }

        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(value) => Ok(Self::Value(value)),
            NumberOrText::Text(text) if text == "infinite" => Ok(Self::Infinite),
            NumberOrText::Text(text) => Err(D::Error::custom(format!(
                "metric `{text}` is neither a number nor `infinite`"
            ))),
        }
    }
}

/// One element of `GET /admin/routes/selected` and `/fallback`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Destination, `x:x:x:x::/64`.
    pub subnet: String,
    /// The link towards it, in words: `TCP local <-> remote`, `QUIC -> remote`.
    pub next_hop: String,
    /// Cost of the whole way.
    pub metric: Metric,
    /// Sequence number of the announcement.
    pub seqno: u16,
    /// The key that originates the subnet (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<crate::PublicKey>,
    /// Seconds until the route expires unless refreshed (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// One element of `GET /admin/routes/queried`: a subnet that is being asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueriedSubnet {
    /// The subnet, `x:x:x:x::/64`.
    pub subnet: String,
    /// Seconds until the query is given up. Upstream sends the number as text, and so do we.
    pub expiration: String,
}

impl QueriedSubnet {
    /// A subnet whose query lasts for `seconds` more.
    pub fn new(subnet: String, seconds: u64) -> Self {
        Self {
            subnet,
            expiration: seconds.to_string(),
        }
    }
}
