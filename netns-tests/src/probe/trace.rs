//! The route a packet takes, found by growing hop limits.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::bail;

use super::icmp::{Echo, HOP_LIMIT, Message};
use crate::lab::Host;

/// The senders of "hop limit exceeded" on the way from `host` to `target`, in order and without repetitions, and
/// finally `target` itself, which answered.
///
/// # Errors
/// When a hop limit draws no answer or an unexpected one, or `target` does not answer within 16 hops.
pub fn route(host: &Host, target: Ipv6Addr) -> anyhow::Result<Vec<Ipv6Addr>> {
    let mut hops: Vec<Ipv6Addr> = Vec::new();
    for hop_limit in 1..=16 {
        let echo = Echo {
            hop_limit,
            ..Echo::to(target)
        };
        match echo.send(host, Duration::from_secs(2))? {
            None => bail!("nobody answered at hop limit {hop_limit}; so far {hops:?}"),
            Some((from, Message::EchoReply { .. })) => {
                hops.push(from);
                return Ok(hops);
            }
            Some((from, Message::Error(error))) if error.kind == HOP_LIMIT => {
                if hops.last() != Some(&from) {
                    hops.push(from);
                }
            }
            Some((from, Message::Error(error))) => {
                bail!("{from} sent {error:?} at hop limit {hop_limit}")
            }
        }
    }
    bail!("no answer from {target} within 16 hops: {hops:?}")
}
