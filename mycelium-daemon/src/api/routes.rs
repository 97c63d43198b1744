//! Routes and traffic counters.

use axum::Json;
use axum::extract::State;
use mycelium_api::{PacketStatistics, QueriedSubnet, Route};

use crate::status::NodeView;

pub(super) async fn selected(State(node): State<NodeView>) -> Json<Vec<Route>> {
    Json(node.selected_routes().await)
}

pub(super) async fn fallback(State(node): State<NodeView>) -> Json<Vec<Route>> {
    Json(node.fallback_routes().await)
}

pub(super) async fn queried(State(node): State<NodeView>) -> Json<Vec<QueriedSubnet>> {
    Json(node.queried().await)
}

pub(super) async fn packet_statistics(State(node): State<NodeView>) -> Json<PacketStatistics> {
    Json(node.packet_statistics().await)
}
