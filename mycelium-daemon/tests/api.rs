//! The HTTP API of a running node, byte by byte: paths, codes and shapes of mycelium 0.7.10, and ours.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use process::{Place, Process, path, until};
use serde_json::{Value, json};

/// Code and body of the answer.
fn request(place: &Place, method: &str, target: &str, headers: &str, body: &str) -> (u16, String) {
    let ask = || {
        let mut stream = TcpStream::connect("127.0.0.1:8989").ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let length = body.len();
        // Refused bodies may be cut off by a reset: what was answered counts.
        let _ = stream.write_all(
            format!(
                "{method} /api/v1{target} HTTP/1.1\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).ok()
    };
    let answer = until("answer", || place.namespace.run(ask).unwrap());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

const LOCAL: &str = "Host: localhost:8989\r\n";
const JSON: &str = "Host: 127.0.0.1:8989\r\nContent-Type: application/json\r\n";

fn get(place: &Place, target: &str) -> (u16, String) {
    request(place, "GET", target, LOCAL, "")
}

fn get_json(place: &Place, target: &str) -> Value {
    let (code, body) = get(place, target);
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A node with the key 00 01 .. 1f of the wire spec's vectors.
fn start(place: &Place, arguments: &[&str]) -> Process {
    let key = place.file("key.bin", (0..32).collect::<Vec<u8>>());
    place.start(&[&["-k", path(&key)], arguments].concat())
}

#[test]
fn the_node_says_who_it_is() {
    let Some(place) = Place::new() else { return };
    let _node = start(&place, &["--no-tun"]);
    let info = get_json(&place, "/admin");
    assert_eq!(info["nodeSubnet"], "430:9364:d8d8:84a9::/64");
    assert_eq!(info["nodeIp"], "430:9364:d8d8:84a9:dd60:de78:c767:d361");
    let key = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f";
    assert_eq!(info["nodePubkey"], key);
    assert!(info["nodeStartTime"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        get(&place, "/pubkey/430:9364:d8d8:84a9::1"),
        (200, format!("{{\"publicKey\":\"{key}\"}}"))
    );
    assert_eq!(get(&place, "/pubkey/431::1"), (404, String::new()));
    assert_eq!(get(&place, "/pubkey/192.0.2.1").0, 404);
    assert_eq!(get(&place, "/pubkey/nonsense").0, 400);
    for list in [
        "/admin/routes/selected",
        "/admin/routes/fallback",
        "/admin/routes/queried",
        "/admin/peers",
    ] {
        assert_eq!(get(&place, list), (200, "[]".to_owned()));
    }
    assert_eq!(
        get_json(&place, "/admin/stats/packets"),
        json!({"bySource": [], "byDestination": []})
    );
    assert_eq!(get(&place, "/nonsense"), (404, String::new()));
    assert_eq!(request(&place, "PUT", "/admin", LOCAL, "").0, 405);
}

#[test]
fn peers_come_and_go_with_the_codes_of_the_present_network() {
    let Some(place) = Place::new() else { return };
    let _node = start(&place, &["--no-tun"]);
    let post = |headers, body: &str| request(&place, "POST", "/admin/peers", headers, body);
    let endpoint = r#"{"endpoint": "tcp://127.0.0.1:9"}"#;
    assert_eq!(post(JSON, endpoint), (204, String::new()));
    assert_eq!(post(JSON, endpoint).0, 409);
    assert_eq!(post(JSON, r#"{"endpoint": "tcp://[400::1]:9"}"#).0, 400);
    assert_eq!(post(JSON, "{").0, 400);
    assert_eq!(post(JSON, "{}").0, 422);
    assert_eq!(post(LOCAL, endpoint).0, 415);
    assert_eq!(post(JSON, &format!("\"{}\"", "x".repeat(1 << 20))).0, 413);
    let peers = get_json(&place, "/admin/peers");
    let peer = &peers[0];
    assert_eq!(
        peer["endpoint"],
        json!({"proto": "tcp", "addr": {"socket": "127.0.0.1:9"}, "socketAddr": "127.0.0.1:9"})
    );
    assert_eq!(peer["type"], "static");
    assert!(["connecting", "dead"].contains(&peer["connectionState"].as_str().unwrap()));
    assert_eq!(
        (&peer["txBytes"], &peer["lastConnected"]),
        (&json!(0), &Value::Null)
    );
    let delete = |endpoint: &str| {
        request(
            &place,
            "DELETE",
            &format!("/admin/peers/{endpoint}"),
            LOCAL,
            "",
        )
        .0
    };
    assert_eq!(delete("tcp%3A%2F%2F127.0.0.1%3A9"), 204);
    assert_eq!(delete("tcp%3A%2F%2F127.0.0.1%3A9"), 404);
    assert_eq!(delete("nonsense"), 400);
}

#[test]
fn pages_of_other_origins_are_refused() {
    let Some(place) = Place::new() else { return };
    let _node = start(&place, &["--no-tun"]);
    for host in ["evil.example:8989", "192.0.2.1", "localhost.evil.example"] {
        let answer = request(&place, "GET", "/admin", &format!("Host: {host}\r\n"), "");
        assert_eq!(answer.0, 403, "{host}");
    }
    assert_eq!(
        request(&place, "GET", "/admin", "Host: [::1]:8989\r\n", "").0,
        200
    );
}

#[test]
fn identities_come_and_go_and_secrets_stay() {
    let Some(place) = Place::new() else { return };
    let _node = start(&place, &[]);
    let post = |body: &Value| request(&place, "POST", "/admin/identities", JSON, &body.to_string());
    let secret = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    let (code, body) = post(&json!({"secretKey": secret, "name": "b", "tunName": "myb"}));
    assert_eq!(code, 201, "{body}");
    assert!(!body.contains(secret));
    let added: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(added["address"], "437:5106:5530:1589:7c53:fa73:c63e:1ddb");
    let names = node_integration::link::names(&place.namespace).unwrap();
    assert!(names.contains(&"myb".to_owned()), "{names:?}");
    assert_eq!(post(&json!({"secretKey": secret})).0, 409);
    let other = "ff".repeat(32);
    assert_eq!(post(&json!({"secretKey": other, "name": "b"})).0, 409);
    assert_eq!(post(&json!({"secretKey": other, "tunName": "myb"})).0, 400);
    assert_eq!(
        post(&json!({"secretKey": other, "netns": "/run/netns/x"})).0,
        400
    );
    assert_eq!(post(&json!({"secretKey": "ff"})).0, 422);
    let (_, list) = get(&place, "/admin/identities");
    assert!(!list.contains(secret) && !list.contains(&other));
    assert_eq!(
        serde_json::from_str::<Value>(&list)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let delete = |id: &str| {
        request(
            &place,
            "DELETE",
            &format!("/admin/identities/{id}"),
            LOCAL,
            "",
        )
        .0
    };
    assert_eq!(delete("0"), 409);
    assert_eq!(delete(&added["id"].to_string()), 204);
    assert_eq!(delete(&added["id"].to_string()), 404);
    let gone = || {
        let names = node_integration::link::names(&place.namespace).unwrap();
        (!names.contains(&"myb".to_owned())).then_some(())
    };
    until("removal of the interface", gone);
}

/// One JSON-RPC request at some path; code and answer.
fn rpc(place: &Place, content_type: &str, body: &str) -> (u16, String) {
    let ask = || {
        let mut stream = TcpStream::connect("127.0.0.1:8990").ok()?;
        let length = body.len();
        let head = format!(
            "POST /rpc/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Some(answer)
    };
    let answer = until("answer", || place.namespace.run(ask).unwrap());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[test]
fn json_rpc_answers_with_the_codes_of_the_present_network() {
    let Some(place) = Place::new() else { return };
    let _node = start(&place, &["--no-tun"]);
    let call = |method: &str, params: Value| -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let (code, body) = rpc(&place, "application/json", &request.to_string());
        assert_eq!(code, 200);
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["jsonrpc"], &answer["id"]),
            (&json!("2.0"), &json!(7))
        );
        if answer["result"].is_null() {
            answer["error"]["code"].clone()
        } else {
            answer["result"].clone()
        }
    };
    assert_eq!(
        call("getInfo", json!([]))["nodeIp"],
        "430:9364:d8d8:84a9:dd60:de78:c767:d361"
    );
    let key = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f";
    assert_eq!(
        call("getPublicKeyFromIp", json!({"ip": "430:9364:d8d8:84a9::5"})),
        key
    );
    assert_eq!(call("getPublicKeyFromIp", json!(["431::"])), -32008);
    assert_eq!(call("getPublicKeyFromIp", json!(["x"])), -32007);
    assert_eq!(call("getPublicKeyFromIp", json!([])), -32602);
    assert_eq!(call("addPeer", json!(["x"])), -32009);
    assert_eq!(call("addPeer", json!(["tcp://127.0.0.1:9"])), true);
    assert_eq!(
        call("addPeer", json!({"endpoint": "tcp://127.0.0.1:9"})),
        -32010
    );
    assert_eq!(
        call("getPeers", json!([]))[0]["endpoint"]["socketAddr"],
        "127.0.0.1:9"
    );
    assert_eq!(call("deletePeer", json!(["x"])), -32012);
    assert_eq!(call("deletePeer", json!(["tcp://127.0.0.1:9"])), true);
    assert_eq!(call("deletePeer", json!(["tcp://127.0.0.1:9"])), -32011);
    assert_eq!(call("getSelectedRoutes", json!(null)), json!([]));
    assert_eq!(call("popMessage", json!([])), -32601);
    assert_eq!(call("rpc.discover", json!([]))["openrpc"], "1.2.6");

    assert_eq!(rpc(&place, "text/plain", "{}").0, 415);
    let code = |body| -> Value {
        serde_json::from_str::<Value>(&rpc(&place, "application/json", body).1).unwrap()["error"]["code"].clone()
    };
    assert_eq!(code("{"), -32700);
    assert_eq!(code("{}"), -32600);
    assert_eq!(code("[]"), -32600);
    let notification = r#"{"jsonrpc":"2.0","method":"getInfo"}"#;
    assert_eq!(
        rpc(&place, "application/json", notification),
        (200, String::new())
    );
    let batch =
        r#"[{"jsonrpc":"2.0","id":"a","method":"getPeers"},{"jsonrpc":"2.0","id":1,"method":"x"}]"#;
    let answers: Value =
        serde_json::from_str(&rpc(&place, "application/json-rpc", batch).1).unwrap();
    assert_eq!(
        (&answers[0]["id"], &answers[1]["id"]),
        (&json!("a"), &json!(1))
    );
}

#[test]
fn metrics_are_served_where_asked_for() {
    let Some(place) = Place::new() else { return };
    let _node = start(
        &place,
        &["--no-tun", "--metrics-api-address", "127.0.0.1:9100"],
    );
    let ask = || {
        let mut stream = TcpStream::connect("127.0.0.1:9100").ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nHost: prometheus-target\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Some(answer)
    };
    let answer = until("metrics", || place.namespace.run(ask).unwrap());
    assert!(
        answer.contains("content-type: text/plain; charset=utf-8"),
        "{answer}"
    );
    assert!(
        answer.contains("\nmycelium_peer_manager_known_peers 0\n"),
        "{answer}"
    );
}

/// The socket knows its clients, serves nobody of another network by mistake, and goes with its node.
#[test]
fn the_api_is_on_a_unix_socket_too() {
    let Some(place) = Place::new() else { return };
    let mut node = start(&place, &["--no-tun"]);
    let socket = place.directory.path().join("run/api.sock");
    let client = mycelium_api::client::Client::new(socket.as_path());
    until("answer", || client.info().ok());
    // All users may ask, root may change identities.
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o666);
    let added = client.add_identity(&mycelium_api::AddIdentity {
        secret_key: mycelium_api::SecretKey::new([7; 32]),
        name: None,
        tun_name: None,
        netns: None,
    });
    assert_eq!(client.remove_identity(added.unwrap().id).ok(), Some(()));
    let listeners = client.status().unwrap().listeners;
    assert!(
        listeners
            .iter()
            .any(|listener| listener.address == path(&socket)),
        "{listeners:?}"
    );

    let ask = |headers: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let request = format!("GET /api/v1/admin HTTP/1.0\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask(""), "200");
    assert_eq!(ask("Host: whatever.example\r\n"), "200");
    assert_eq!(ask("mycelium-network: 1\r\n"), "421");
    let network = place
        .namespace
        .run(mycelium_api::network_namespace)
        .unwrap()
        .unwrap();
    assert_eq!(ask(&format!("mycelium-network: {network}\r\n")), "200");

    // Another user is not trusted with identities.
    let status = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "DELETE",
        ])
        .arg("--unix-socket")
        .arg(&socket)
        .arg("http://localhost/api/v1/admin/identities/7")
        .uid(65534)
        .output();
    match status {
        Ok(output) => assert_eq!(output.stdout, b"403"),
        Err(error) => eprintln!("skipped: no curl: {error}"),
    }

    node.signal(rustix::process::Signal::TERM);
    assert!(node.wait().success());
    assert!(!socket.exists());
}
