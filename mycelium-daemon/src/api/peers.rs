//! Peers: list, add, remove.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use mycelium_api::AddPeer;

use super::{Refusal, answer};
use crate::peering::endpoint::{Endpoint, ParseEndpointError};
use crate::peering::handle::{AddError, RemoveError};
use crate::status::NodeView;

pub(super) async fn list(State(node): State<NodeView>) -> Response {
    answer::json(node.shelf(), &node.peers().await)
}

pub(super) async fn add(
    State(node): State<NodeView>,
    Json(request): Json<AddPeer>,
) -> Result<StatusCode, Refusal> {
    let endpoint = parse(&request.endpoint)?;
    match node.peer_handle().add(endpoint).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error @ AddError::Exists) => Err(Refusal::new(StatusCode::CONFLICT, &error)),
        Err(error @ AddError::Stopping) => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &error))
        }
    }
}

pub(super) async fn remove(
    State(node): State<NodeView>,
    Path(endpoint): Path<String>,
) -> Result<StatusCode, Refusal> {
    let endpoint = parse(&endpoint)?;
    match node.peer_handle().remove(endpoint).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error @ RemoveError::Unknown) => Err(Refusal::new(StatusCode::NOT_FOUND, &error)),
        Err(error @ RemoveError::Stopping) => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &error))
        }
    }
}

fn parse(endpoint: &str) -> Result<Endpoint, Refusal> {
    endpoint.parse().map_err(|error: ParseEndpointError| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            &format_args!("{endpoint:?}: {error}"),
        )
    })
}
