//! JSON-RPC 2.0 over HTTP: the administrative methods of mycelium 0.7.10, at any path of `--jsonrpc-addr`.
//!
//! Parameters may be positional or named, names in snake or camel case; batches are answered in order. Codes are
//! upstream's, texts are not: upstream says "Server error" to nearly everything. There is no WebSocket.

use std::net::IpAddr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{self, Part};
use crate::peering::endpoint::Endpoint;
use crate::peering::handle::{AddError, RemoveError};
use crate::status::NodeView;

/// A request, or a batch. Answers are longer; `answer.rs` bounds them.
const MAX_BODY: usize = 64 << 10;
/// More in one batch is refused: every one may copy a table.
const MAX_BATCH: usize = 64;

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
const BAD_IP: i32 = -32007;
const NO_KEY: i32 = -32008;
const BAD_ENDPOINT_TO_ADD: i32 = -32009;
const PEER_EXISTS: i32 = -32010;
const PEER_UNKNOWN: i32 = -32011;
const BAD_ENDPOINT_TO_DELETE: i32 = -32012;

/// Methods, their parameters and what they do.
const METHODS: [(&str, &[&str], &str); 11] = [
    ("getInfo", &[], "who the node is"),
    (
        "getPublicKeyFromIp",
        &["ip"],
        "the key behind an overlay address",
    ),
    ("getPeers", &[], "every peer"),
    ("addPeer", &["endpoint"], "keep a link to an endpoint"),
    ("deletePeer", &["endpoint"], "forget a peer"),
    ("getSelectedRoutes", &[], "the routes in use"),
    ("getFallbackRoutes", &[], "the routes held ready"),
    (
        "getQueriedSubnets",
        &[],
        "the subnets that are being asked for",
    ),
    ("getPacketStatistics", &[], "packets and bytes by address"),
    (
        "getSessions",
        &[],
        "how packets to and from remote identities are protected",
    ),
    ("rpc.discover", &[], "this list, as an OpenRPC document"),
];

/// JSON-RPC of `node`.
pub fn app(node: NodeView) -> Router {
    Router::new()
        .route("/", post(serve))
        .route("/{*path}", post(serve))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(node)
}

/// Why a call failed: code and text.
#[derive(Debug, PartialEq, Eq)]
struct Failure(i32, String);

impl Failure {
    fn new(code: i32, text: &dyn std::fmt::Display) -> Self {
        Self(code, text.to_string())
    }
}

async fn serve(State(node): State<NodeView>, headers: HeaderMap, body: Bytes) -> Response {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(is_json) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let parts = match serde_json::from_slice(&body) {
        Err(error) => vec![error_answer(
            &Value::Null,
            &Failure::new(PARSE_ERROR, &error),
        )],
        Ok(Value::Array(batch)) => answer_batch(&node, batch).await,
        Ok(request) => answer(&node, request).await,
    };
    answer::response(parts, "application/json; charset=utf-8")
}

/// `application/json` or `application/json-rpc`, with or without a character set.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/json-rpc"]
        .iter()
        .any(|json| essence.eq_ignore_ascii_case(json))
}

async fn answer_batch(node: &NodeView, batch: Vec<Value>) -> Vec<Part> {
    if batch.is_empty() || batch.len() > MAX_BATCH {
        let text = format!("a batch has 1 to {MAX_BATCH} requests");
        return vec![error_answer(&Value::Null, &Failure(INVALID_REQUEST, text))];
    }
    let mut parts = Vec::with_capacity(batch.len());
    for request in batch {
        let answer = answer(node, request).await;
        if !answer.is_empty() {
            parts.push(Part::from(if parts.is_empty() { "[" } else { "," }));
            parts.extend(answer);
        }
    }
    if !parts.is_empty() {
        parts.push(Part::from("]"));
    }
    parts
}

/// Nothing for a notification, which wants no answer.
async fn answer(node: &NodeView, request: Value) -> Vec<Part> {
    let id = request.get("id").cloned();
    let valid_id = matches!(
        id,
        None | Some(Value::Null | Value::Number(_) | Value::String(_))
    );
    let is_v2 = request.get("jsonrpc").and_then(Value::as_str) == Some("2.0");
    let method = request.get("method").and_then(Value::as_str);
    let params = request.get("params").cloned().unwrap_or(Value::Null);
    let Some(method) = method.filter(|_| is_v2 && valid_id) else {
        let id = id.filter(|_| valid_id).unwrap_or(Value::Null);
        return vec![error_answer(
            &id,
            &Failure::new(INVALID_REQUEST, &"not a JSON-RPC 2.0 request"),
        )];
    };
    let result = call(node, method, &params).await;
    let Some(id) = id else {
        return Vec::new();
    };
    match result {
        Ok(result) => vec![
            format!(r#"{{"id":{id},"jsonrpc":"2.0","result":"#).into(),
            result,
            "}".into(),
        ],
        Err(failure) => vec![error_answer(&id, &failure)],
    }
}

fn error_answer(id: &Value, failure: &Failure) -> Part {
    let answer =
        json!({"jsonrpc": "2.0", "id": id, "error": {"code": failure.0, "message": failure.1}});
    answer.to_string().into()
}

/// The result, as JSON.
async fn call(node: &NodeView, method: &str, params: &Value) -> Result<Part, Failure> {
    match method {
        "getInfo" => value(node, &node.info()),
        "getPeers" => value(node, &node.peers().await),
        "getSelectedRoutes" => Ok(Part::Shared(node.selected_routes_json().await)),
        "getFallbackRoutes" => Ok(Part::Shared(node.fallback_routes_json().await)),
        "getQueriedSubnets" => value(node, &node.queried().await),
        "getPacketStatistics" => value(node, &node.packet_statistics().await),
        "getSessions" => value(node, &node.sessions().await),
        "getPublicKeyFromIp" => {
            // Upstream's own description calls it mycelium_ip.
            let text = text(params, &["ip", "mycelium_ip", "myceliumIp"])?;
            let ip: IpAddr = text
                .parse()
                .map_err(|_| Failure(BAD_IP, format!("{text:?} is not an IP address")))?;
            match node.public_key_of(ip).await {
                Some(key) => value(node, &key),
                None => Err(Failure(NO_KEY, format!("no route to {ip} is known"))),
            }
        }
        "addPeer" => {
            let endpoint = endpoint(params, BAD_ENDPOINT_TO_ADD)?;
            match node.peer_handle().add(endpoint).await {
                Ok(()) => Ok("true".into()),
                Err(error @ AddError::Exists) => Err(Failure::new(PEER_EXISTS, &error)),
                Err(error @ AddError::Stopping) => Err(Failure::new(INTERNAL_ERROR, &error)),
            }
        }
        "deletePeer" => {
            let endpoint = endpoint(params, BAD_ENDPOINT_TO_DELETE)?;
            match node.peer_handle().remove(endpoint).await {
                Ok(()) => Ok("true".into()),
                Err(error @ RemoveError::Unknown) => Err(Failure::new(PEER_UNKNOWN, &error)),
                Err(error @ RemoveError::Stopping) => Err(Failure::new(INTERNAL_ERROR, &error)),
            }
        }
        "rpc.discover" => Ok(description().to_string().into()),
        _ => Err(Failure(
            METHOD_NOT_FOUND,
            format!("there is no method {method:?}"),
        )),
    }
}

fn value(node: &NodeView, answer: &impl Serialize) -> Result<Part, Failure> {
    serde_json::to_vec(answer)
        .map(|text| node.shelf().part(text))
        .map_err(|error| Failure::new(INTERNAL_ERROR, &error))
}

/// The only parameter of a method.
fn text<'a>(params: &'a Value, names: &[&str]) -> Result<&'a str, Failure> {
    let param = match params {
        Value::Array(positional) => positional.first().filter(|_| positional.len() == 1),
        named => names.iter().find_map(|name| named.get(name)),
    };
    param.and_then(Value::as_str).ok_or_else(|| {
        let name = names.first().unwrap_or(&"parameter");
        Failure(
            INVALID_PARAMS,
            format!("one parameter is needed: {name}, a text"),
        )
    })
}

fn endpoint(params: &Value, code: i32) -> Result<Endpoint, Failure> {
    let text = text(params, &["endpoint"])?;
    text.parse()
        .map_err(|error| Failure(code, format!("{text:?}: {error}")))
}

fn description() -> Value {
    let methods = METHODS.iter().map(|(name, params, summary)| {
        let params = params
            .iter()
            .map(|param| json!({"name": param, "required": true, "schema": {"type": "string"}}));
        json!({
            "name": name,
            "summary": summary,
            "params": params.collect::<Vec<_>>(),
            "result": {"name": "result", "schema": {}},
        })
    });
    json!({
        "openrpc": "1.2.6",
        "info": {"title": "mycelium", "version": env!("CARGO_PKG_VERSION")},
        "methods": methods.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_json_with_or_without_a_character_set() {
        for good in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON-RPC",
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "application/jsonx", ""] {
            assert!(!is_json(bad), "{bad}");
        }
    }

    #[test]
    fn a_parameter_is_positional_or_named() {
        let names = ["ip", "mycelium_ip"];
        assert_eq!(text(&json!(["::1"]), &names), Ok("::1"));
        assert_eq!(text(&json!({"ip": "::1"}), &names), Ok("::1"));
        assert_eq!(text(&json!({"mycelium_ip": "::1"}), &names), Ok("::1"));
        for bad in [
            json!(null),
            json!([]),
            json!(["a", "b"]),
            json!([1]),
            json!({"x": "y"}),
            json!("::1"),
        ] {
            assert_eq!(text(&bad, &names).unwrap_err().0, INVALID_PARAMS, "{bad}");
        }
    }
}
