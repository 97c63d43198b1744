//! Routes and traffic counters.

use axum::extract::State;
use axum::response::Response;

use super::answer::{self, Part};
use crate::status::NodeView;

pub(super) async fn selected(State(node): State<NodeView>) -> Response {
    let answer = node.selected_routes_json().await;
    answer::response(vec![Part::Shared(answer)], answer::JSON)
}

pub(super) async fn fallback(State(node): State<NodeView>) -> Response {
    let answer = node.fallback_routes_json().await;
    answer::response(vec![Part::Shared(answer)], answer::JSON)
}

pub(super) async fn queried(State(node): State<NodeView>) -> Response {
    answer::json(node.shelf(), &node.queried().await)
}

pub(super) async fn packet_statistics(State(node): State<NodeView>) -> Response {
    answer::json(node.shelf(), &node.packet_statistics().await)
}
