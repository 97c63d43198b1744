//! `mycelium status`: the node on one screen.

use std::io::Write;
use std::path::Path;

use mycelium_api::client::Client;
use mycelium_api::{ConnectionState, HealthState, Listener, PeerStats, Status};

use crate::quantity::{Bytes, Milliseconds, Seconds};
use crate::table::printable;
use crate::{Error, key_file, peers, write_json};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mycelium status")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// As many peers fit one screen beside the rest; `mycelium peers` lists them all.
const PEERS_SHOWN: usize = 8;

/// As many identities fit one screen; `mycelium identities` lists them all.
const IDENTITIES_SHOWN: usize = 8;

pub(crate) fn run(
    args: &Args,
    client: &Client,
    key_file: &Path,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let status = client.status()?;
    if let Some(remark) = is_another(&status, client, key_file) {
        // Not to be told is no reason to fail.
        let _ = writeln!(remarks, "{remark}");
    }
    if args.json {
        return write_json(&status, out);
    }
    let mut peers = client.peers()?;
    peers::sort(&mut peers);
    write_health(&status, out)?;
    write_self(&status, out)?;
    write_peers(&status, &peers, out)?;
    write_traffic(&status, out)?;
    write_sessions(&status, out)?;
    write_identities(&status, out)
}

/// What to say if it is not the node of this key file that answered: another one may have the API's address. Nothing if
/// there is no such file, or it is not ours to read.
fn is_another(status: &Status, client: &Client, key_file: &Path) -> Option<String> {
    let expected = key_file::read(key_file).ok()?.public_key();
    let keys = status.identities.iter().map(|identity| identity.public_key);
    let mut keys = keys.chain([status.public_key]);
    let is_there = keys.any(|key| key.0 == expected.0);
    (!is_there).then(|| {
        format!(
            "note: the node at {} is not the one of the key file {}, whose address is {}; name the API of that one with --api-addr or --api-socket, or its own key file with --key-file",
            client.address(),
            key_file.display(),
            expected.address(),
        )
    })
}

fn write_health(status: &Status, out: &mut dyn Write) -> Result<(), Error> {
    let word = match status.health.state {
        HealthState::Ok => "healthy",
        HealthState::Degraded => "needs attention",
    };
    writeln!(
        out,
        "mycelium {}, up {}: {word}",
        status.version,
        Seconds(status.uptime)
    )?;
    for warning in &status.health.warnings {
        writeln!(out, "  ! {}", printable(&warning.text))?;
        if let Some(hint) = &warning.hint {
            writeln!(out, "    {}", printable(hint))?;
        }
    }
    Ok(writeln!(out)?)
}

fn write_self(status: &Status, out: &mut dyn Write) -> Result<(), Error> {
    line(out, "Address", &status.address.to_string())?;
    line(out, "Subnet", &status.subnet)?;
    line(out, "Public key", &status.public_key.to_string())?;
    let interface = match &status.tun {
        Some(tun) => format!("{}, MTU {}", tun.name, tun.mtu),
        None => "none: this node only passes on the traffic of others".to_owned(),
    };
    line(out, "Interface", &interface)?;
    let listeners: Vec<_> = status.listeners.iter().map(listener).collect();
    line(
        out,
        "Listening",
        &if listeners.is_empty() {
            "nowhere".to_owned()
        } else {
            listeners.join(", ")
        },
    )
}

fn listener(listener: &Listener) -> String {
    use mycelium_api::ListenerService as S;
    let service = match listener.service {
        S::Tcp => "TCP",
        S::Tls => "TLS",
        S::Quic => "QUIC",
        S::Vsock => "vsock",
        S::Discovery => "discovery",
        S::Api => "API",
        S::JsonRpc => "JSON-RPC",
        S::Metrics => "metrics",
    };
    format!("{service} {}", listener.address)
}

fn write_peers(status: &Status, peers: &[PeerStats], out: &mut dyn Write) -> Result<(), Error> {
    let counts = &status.peers;
    let mut text = format!("{} of {} alive", counts.alive, counts.total);
    if let Some(rtt) = counts.best_rtt_ms {
        text.push_str(&format!(", best RTT {}", Milliseconds(rtt)));
    }
    if counts.total == 0 {
        "none: add one with `mycelium peers add`".clone_into(&mut text);
    }
    line(out, "Peers", &text)?;
    let shown = &peers[..peers.len().min(PEERS_SHOWN)];
    let endpoints: Vec<_> = shown.iter().map(|peer| peer.endpoint.to_string()).collect();
    let width = endpoints.iter().map(String::len).max().unwrap_or(0);
    for (peer, endpoint) in shown.iter().zip(&endpoints) {
        let state = match (peer.connection_state, peer.details.rtt_ms) {
            (ConnectionState::Alive, Some(rtt)) => Milliseconds(rtt).to_string(),
            (state, _) => peers::state(state).to_lowercase(),
        };
        let who = match (
            peer.connection_state,
            &peer.details.address,
            &peer.details.last_error,
        ) {
            (ConnectionState::Alive, Some(address), _) => address.to_string(),
            (ConnectionState::Alive, None, _) => String::new(),
            (_, _, Some(error)) => error.clone(),
            (_, Some(address), None) => address.to_string(),
            (_, None, None) => String::new(),
        };
        let text = format!("{state:10}  {endpoint:width$}  {who}");
        line(out, "", text.trim_end())?;
    }
    if peers.len() > shown.len() {
        let rest = peers.len() - shown.len();
        line(out, "", &format!("and {rest} more: mycelium peers"))?;
    }
    Ok(())
}

fn write_traffic(status: &Status, out: &mut dyn Write) -> Result<(), Error> {
    let routes = &status.routes;
    line(
        out,
        "Routes",
        &format!(
            "{} in use, {} ready, {} being asked for",
            routes.selected, routes.fallback, routes.queried
        ),
    )?;
    let traffic = &status.traffic;
    let rate =
        |rate: Option<u64>| rate.map_or_else(String::new, |rate| format!(" ({}/s)", Bytes(rate)));
    line(
        out,
        "Traffic",
        &format!(
            "{} received{}, {} sent{}",
            Bytes(traffic.rx_bytes),
            rate(traffic.rx_rate),
            Bytes(traffic.tx_bytes),
            rate(traffic.tx_rate)
        ),
    )?;
    line(
        out,
        "Packets",
        &format!(
            "{} from this host, {} to it, {} passed on, {} dropped",
            traffic.from_host_packets,
            traffic.to_host_packets,
            traffic.forwarded_packets,
            traffic.dropped_packets
        ),
    )
}

fn write_sessions(status: &Status, out: &mut dyn Write) -> Result<(), Error> {
    let Some(sessions) = &status.sessions else {
        return Ok(());
    };
    line(
        out,
        "Sessions",
        &format!(
            "{} on v2, {} on v1, {} waiting, {} pinned",
            sessions.v2, sessions.v1, sessions.waiting, sessions.pins
        ),
    )
}

fn write_identities(status: &Status, out: &mut dyn Write) -> Result<(), Error> {
    // The node's own, number 0, is the subject of everything above.
    let further: Vec<_> = status
        .identities
        .iter()
        .filter(|identity| identity.id != 0)
        .collect();
    if further.is_empty() {
        return Ok(());
    }
    line(
        out,
        "Identities",
        &format!("{} besides the node's own", further.len()),
    )?;
    for identity in further.iter().take(IDENTITIES_SHOWN) {
        let name = match &identity.name {
            Some(name) => name.clone(),
            None => format!("#{}", identity.id),
        };
        let mut text = format!("{name}  {}", identity.address);
        if let Some(tun) = &identity.tun_name {
            text.push_str(&format!("  {tun}"));
        }
        if let Some(netns) = &identity.netns {
            text.push_str(&format!(" in {netns}"));
        }
        line(out, "", &text)?;
    }
    if further.len() > IDENTITIES_SHOWN {
        let rest = further.len() - IDENTITIES_SHOWN;
        line(out, "", &format!("and {rest} more: mycelium identities"))?;
    }
    Ok(())
}

fn line(out: &mut dyn Write, label: &str, text: &str) -> Result<(), Error> {
    Ok(writeln!(out, "{label:12}{}", printable(text))?)
}
