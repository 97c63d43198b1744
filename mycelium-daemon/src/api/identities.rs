//! Identities: list, add, remove. Secrets come in and never go out.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use mycelium_api::{AddIdentity, Identity};
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::io::IdentityId;

use super::{Refusal, answer};
use crate::engine::EngineError;
use crate::identities::{AddIdentityError, HostPlace, RemoveIdentityError};
use crate::status::{NodeView, api_identity};

pub(super) async fn list(State(node): State<NodeView>) -> Response {
    answer::json(node.shelf(), &node.identity_list().await)
}

pub(super) async fn add(
    State(node): State<NodeView>,
    Json(request): Json<AddIdentity>,
) -> Result<(StatusCode, Json<Identity>), Refusal> {
    let secret = SecretKey::from_bytes(*request.secret_key.as_bytes());
    let place = HostPlace {
        tun_name: request.tun_name,
        netns: request.netns.map(PathBuf::from),
    };
    match node.identities().add(secret, request.name, place).await {
        Ok(record) => Ok((StatusCode::CREATED, Json(api_identity(&record)))),
        Err(error) => Err(Refusal::new(code_of(&error), &error)),
    }
}

fn code_of(error: &AddIdentityError) -> StatusCode {
    match error {
        AddIdentityError::KeyExists(_)
        | AddIdentityError::NameExists(_)
        | AddIdentityError::TooMany
        | AddIdentityError::Engine(EngineError::DuplicateIdentity(_)) => StatusCode::CONFLICT,
        AddIdentityError::NamespaceWithoutInterface | AddIdentityError::Interface(_) => {
            StatusCode::BAD_REQUEST
        }
        AddIdentityError::Engine(EngineError::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
        AddIdentityError::Engine(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) async fn remove(
    State(node): State<NodeView>,
    Path(id): Path<u32>,
) -> Result<StatusCode, Refusal> {
    match node.identities().remove(IdentityId(id)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            let code = match &error {
                RemoveIdentityError::Unknown(_) => StatusCode::NOT_FOUND,
                RemoveIdentityError::Engine(EngineError::NodeIdentity) => StatusCode::CONFLICT,
                RemoveIdentityError::Engine(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            Err(Refusal::new(code, &error))
        }
    }
}
