//! Prometheus metrics, under upstream's names where we have the same thing, and under `mycelium_dataplane_…`,
//! `mycelium_link_…` where upstream has nothing. Numbers are read when asked for; nothing is counted twice.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mycelium_core::native::NativeStats;
use prometheus::{
    Encoder, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::engine::{EngineSnapshot, WorkerReport};
use crate::peering::view::Peers;
use crate::status::NodeView;

/// `GET /metrics` of `node`.
pub fn app(node: NodeView) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(node)
}

async fn metrics(State(node): State<NodeView>) -> Response {
    let (peers, snapshot) = tokio::join!(node.peer_handle().list(), node.engine_snapshot());
    match render(&peers, &snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn render(peers: &Peers, snapshot: &EngineSnapshot) -> Result<Vec<u8>, prometheus::Error> {
    let sheet = Sheet(Registry::new());
    let control = &snapshot.control.counters;
    let data = &snapshot.worker.dataplane;
    sheet.labelled(
        "mycelium_router_processed_tlvs",
        "Control messages handled",
        "tlv_type",
        &[
            ("hello", control.hellos_received),
            ("ihu", control.ihus_received),
            ("seqno_request", control.seqno_requests_received),
            ("route_request", control.route_requests_received),
            ("update", control.updates_received),
        ],
    )?;
    sheet.labelled(
        "mycelium_router_packets_routed",
        "Data packets by what became of them",
        "verdict",
        &[
            ("local", data.delivered_remote + data.delivered_local),
            ("forward", data.sent + data.forwarded),
            ("ttl_expired", data.drop_hop_limit),
            ("no_route", data.drop_no_route),
        ],
    )?;
    sheet.labelled(
        "mycelium_peer_manager_peers_added",
        "Peers added",
        "peer_type",
        &[
            ("static", peers.counters.added_static),
            ("inbound", peers.counters.added_inbound),
            ("link_local", peers.counters.added_discovered),
        ],
    )?;
    sheet.labelled(
        "mycelium_peer_manager_connection_attempts",
        "Outbound connection attempts",
        "connection_state",
        &[
            ("started", peers.counters.attempts_started),
            ("finished", peers.counters.attempts_finished),
        ],
    )?;
    sheet.labelled(
        "mycelium_router_outbound_packet_queue",
        "Packets parked for a route",
        "event",
        &[
            ("enqueued", data.parked),
            ("dequeued", data.released),
            (
                "dropped_query_timeout",
                data.drop_no_route + data.drop_unknown_source,
            ),
            ("queue_full_global", data.drop_parked_full),
            ("queue_full_subnet", data.drop_parked_subnet_full),
        ],
    )?;
    let drops: Vec<(&str, u64)> = data
        .named()
        .filter_map(|(name, count)| Some((name.strip_prefix("drop_")?, count)))
        .collect();
    sheet.labelled(
        "mycelium_dataplane_drops",
        "Packets dropped",
        "reason",
        &drops,
    )?;
    for (name, help, count) in [
        (
            "mycelium_router_peer_died",
            "Peers given up for silence",
            control.closed_silent,
        ),
        (
            "mycelium_router_update_not_interested",
            "Updates for other prefixes than ours",
            control.refused_prefix,
        ),
        (
            "mycelium_router_update_denied",
            "Updates whose key does not own the prefix",
            control.refused_owner,
        ),
        (
            "mycelium_router_selected_route_lost",
            "Selected routes lost without replacement",
            control.routes_lost,
        ),
        (
            "mycelium_router_route_expired",
            "Routes that expired",
            control.routes_expired,
        ),
        (
            "mycelium_router_control_bytes_sent",
            "Bytes of control packets sent",
            control.bytes_sent,
        ),
        (
            "mycelium_router_control_bytes_received",
            "Bytes of control packets received",
            control.bytes_received,
        ),
        (
            "mycelium_router_malformed_packets",
            "Control packets that closed their link",
            control.malformed,
        ),
        (
            "mycelium_link_bad_streams",
            "Links closed because the bytes on their stream are no packets",
            snapshot.worker.bad_streams,
        ),
        (
            "mycelium_interface_refused",
            "Batches that an interface did not take in full",
            snapshot.worker.host_refused,
        ),
        (
            "mycelium_interface_unusable",
            "Packets from interfaces that cannot be read: too long, or in too many segments",
            snapshot.worker.host_unusable,
        ),
        (
            "mycelium_dataplane_host_packets",
            "Packets from host interfaces",
            data.host_packets,
        ),
        (
            "mycelium_dataplane_host_bytes",
            "Bytes from host interfaces",
            data.host_bytes,
        ),
        (
            "mycelium_dataplane_peer_packets",
            "Data packets from peers",
            data.peer_packets,
        ),
        (
            "mycelium_dataplane_peer_bytes",
            "Data bytes from peers",
            data.peer_bytes,
        ),
    ] {
        sheet.counter(name, help, count)?;
    }
    for (name, help, value) in [
        (
            "mycelium_peer_manager_known_peers",
            "Known peers",
            peers.peers.len(),
        ),
        (
            "mycelium_router_selected_routes",
            "Routes in use",
            snapshot.control.selected.len(),
        ),
        (
            "mycelium_router_fallback_routes",
            "Routes held ready",
            snapshot.control.fallback.len(),
        ),
        (
            "mycelium_router_identities",
            "Identities originated",
            snapshot.control.identities.len(),
        ),
    ] {
        sheet.gauge(name, help, value)?;
    }
    sessions(&sheet, &snapshot.worker)?;
    native(&sheet, &snapshot.worker.native)?;
    sheet.gauge(
        "mycelium_native_control_waiting",
        "Control packets that the other ends of native links have not acknowledged",
        snapshot.worker.native_control_waiting,
    )?;
    links(&sheet, peers, snapshot)?;
    sheet.encode()
}

/// All sessions together: there may be too many for a label each.
fn sessions(sheet: &Sheet, report: &WorkerReport) -> Result<(), prometheus::Error> {
    let stats = &report.session_stats;
    let counts = crate::status::sessions::count(report);
    let remotes = IntGaugeVec::new(
        Opts::new(
            "mycelium_session_remotes",
            "Remote identities by how packets to them go",
        ),
        &["protocol"],
    )?;
    for (protocol, count) in [
        ("v1", counts.v1),
        ("v2", counts.v2),
        ("waiting", counts.waiting),
    ] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        remotes.with_label_values(&[protocol]).set(count);
    }
    sheet.0.register(Box::new(remotes))?;
    sheet.labelled(
        "mycelium_session_handshakes",
        "Handshakes of sessions by what became of them",
        "event",
        &[
            ("initiated", stats.initiated),
            ("answered", stats.answered),
            ("established", stats.established),
            ("taken_for_v1", stats.v1_verdicts),
            ("cookie_sent", stats.cookies_sent),
            ("cookie_received", stats.cookies_received),
            ("over_budget", stats.over_budget),
            ("table_full", stats.table_full),
        ],
    )?;
    sheet.labelled(
        "mycelium_session_drops",
        "What sessions refused, by reason",
        "reason",
        &[
            ("unit", stats.drop_unit),
            ("mac1", stats.drop_mac1),
            ("handshake", stats.drop_handshake),
            ("v1", stats.drop_v1),
            ("conflict", stats.conflicts),
            ("stray", stats.strays),
            ("low_order_key", stats.low_order),
            ("half", stats.halves_dropped),
            ("forged_fragment", stats.reassembly_forged),
        ],
    )?;
    sheet.counter(
        "mycelium_session_hints_stripped",
        "Remote identities whose route hides that they speak v2",
        stats.hints_stripped,
    )?;
    for (name, help, value) in [
        (
            "mycelium_session_half_open",
            "Sessions whose initiator has not proved itself yet",
            stats.half_open,
        ),
        (
            "mycelium_session_pins",
            "Remote identities held to v2 and their key",
            stats.pins,
        ),
    ] {
        sheet.gauge(name, help, usize::try_from(value).unwrap_or(usize::MAX))?;
    }
    Ok(())
}

/// Native links: what is not right about datagrams, and handshakes.
fn native(sheet: &Sheet, stats: &NativeStats) -> Result<(), prometheus::Error> {
    sheet.labelled(
        "mycelium_native_drops",
        "Datagrams of native links that were refused, by reason",
        "reason",
        &[
            ("invalid", stats.invalid),
            ("unknown_index", stats.unknown_index),
            ("authentication", stats.unauthentic),
            ("replay", stats.replayed),
            ("malformed", stats.malformed),
            ("control_held", stats.control_held),
            ("refused", stats.refused),
            ("outbox_full", stats.outbox_full),
        ],
    )?;
    sheet.labelled(
        "mycelium_native_handshakes",
        "Handshakes of native links by what became of them",
        "event",
        &[
            ("answered", stats.answered),
            ("confirmed", stats.confirmed),
            ("abandoned", stats.abandoned),
            ("cookie_sent", stats.cookies),
            ("over_budget", stats.over_budget),
            ("key_told", stats.who_answered),
            ("move_undone", stats.moves_undone),
        ],
    )
}

/// Per link: bytes and round trip.
fn links(sheet: &Sheet, peers: &Peers, snapshot: &EngineSnapshot) -> Result<(), prometheus::Error> {
    let bytes = IntCounterVec::new(
        Opts::new(
            "mycelium_link_bytes",
            "Bytes over all links to a peer so far",
        ),
        &["peer", "direction"],
    )?;
    let rtt = GaugeVec::new(
        Opts::new(
            "mycelium_link_rtt_seconds",
            "Round trip of a link: the lowest of the last eight",
        ),
        &["peer"],
    )?;
    for peer in &peers.peers {
        let name = peer.endpoint.to_string();
        bytes
            .with_label_values(&[name.as_str(), "tx"])
            .inc_by(peer.tx_bytes);
        bytes
            .with_label_values(&[name.as_str(), "rx"])
            .inc_by(peer.rx_bytes);
        let routed = peer.link.as_ref().and_then(|link| {
            let mut routed = snapshot.control.peers.iter();
            routed.find(|routed| routed.peer == link.peer)
        });
        if let Some(measured) = routed.and_then(|peer| peer.rtt) {
            rtt.with_label_values(&[name.as_str()])
                .set(measured.as_secs_f64());
        }
    }
    sheet.0.register(Box::new(bytes))?;
    sheet.0.register(Box::new(rtt))
}

struct Sheet(Registry);

impl Sheet {
    fn counter(&self, name: &str, help: &str, count: u64) -> Result<(), prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(count);
        self.0.register(Box::new(counter))
    }

    fn gauge(&self, name: &str, help: &str, value: usize) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(Box::new(gauge))
    }

    fn labelled(
        &self,
        name: &str,
        help: &str,
        label: &str,
        counts: &[(&str, u64)],
    ) -> Result<(), prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
        for (value, count) in counts {
            counters.with_label_values(&[value]).inc_by(*count);
        }
        self.0.register(Box::new(counters))
    }

    fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_sheet_has_upstreams_names_and_no_family_twice() {
        let snapshot = EngineSnapshot {
            control: Arc::default(),
            duplicates: Arc::default(),
            taken: crate::clock::now(),
            worker: WorkerReport {
                bad_streams: 7,
                ..Default::default()
            },
        };
        let text = String::from_utf8(render(&Peers::default(), &snapshot).unwrap()).unwrap();
        for line in [
            "mycelium_router_packets_routed{verdict=\"no_route\"} 0",
            "mycelium_peer_manager_known_peers 0",
            "mycelium_router_processed_tlvs{tlv_type=\"ihu\"} 0",
            "mycelium_link_bad_streams 7",
            "mycelium_native_drops{reason=\"replay\"} 0",
            "mycelium_native_control_waiting 0",
            "mycelium_session_remotes{protocol=\"v1\"} 0",
            "mycelium_session_handshakes{event=\"established\"} 0",
            "mycelium_session_drops{reason=\"v1\"} 0",
        ] {
            assert!(text.contains(line), "{line} missing in\n{text}");
        }
    }
}
