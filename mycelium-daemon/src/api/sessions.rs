//! Sessions: list, forget.

use std::net::Ipv6Addr;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use mycelium_core::addr;

use super::{Refusal, answer};
use crate::status::NodeView;

pub(super) async fn list(State(node): State<NodeView>) -> Response {
    answer::json(node.shelf(), &node.sessions().await)
}

pub(super) async fn forget(
    State(node): State<NodeView>,
    Path(address): Path<Ipv6Addr>,
) -> Result<StatusCode, Refusal> {
    if !addr::is_overlay(address) {
        let text = format_args!("{address} is no overlay address");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, &text));
    }
    match node.forget_session(address).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => {
            let text = format_args!("{address} is not held to session v2");
            Err(Refusal::new(StatusCode::NOT_FOUND, &text))
        }
        Err(error) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &error)),
    }
}
