//! Who the node is and how it is.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use mycelium_api::{Info, PublicKeyReply};

use super::answer;
use crate::status::NodeView;

pub(super) async fn info(State(node): State<NodeView>) -> Json<Info> {
    Json(node.info())
}

pub(super) async fn status(State(node): State<NodeView>) -> Response {
    answer::json(node.shelf(), &node.status().await)
}

pub(super) async fn public_key(
    State(node): State<NodeView>,
    Path(ip): Path<IpAddr>,
) -> Result<Json<PublicKeyReply>, StatusCode> {
    let public_key = node.public_key_of(ip).await.ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(PublicKeyReply { public_key }))
}
