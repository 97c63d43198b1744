use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{JoinHandle, spawn};

use super::*;

/// A server that answers one connection with these bytes and returns what it was asked.
fn server(answer: &'static str) -> (Client, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(listener.local_addr().unwrap());
    let asked = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..length]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let expected = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if length == 0 || body.len() >= expected {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (client, asked)
}

#[test]
fn an_endpoint_is_percent_encoded_into_one_path_segment() {
    let (client, asked) = server("HTTP/1.1 204 No Content\r\n\r\n");
    client.remove_peer("tcp://[fe80::1]:9651").unwrap();
    let request = asked.join().unwrap();
    assert!(
        request.starts_with(
            "DELETE /api/v1/admin/peers/tcp%3A%2F%2F%5Bfe80%3A%3A1%5D%3A9651 HTTP/1.1\r\n"
        ),
        "{request}"
    );
}

#[test]
fn a_request_body_is_json_and_says_so() {
    let (client, asked) = server("HTTP/1.1 204 No Content\r\n\r\n");
    client.add_peer("tcp://10.0.0.2:9651").unwrap();
    let request = asked.join().unwrap();
    assert!(
        request.starts_with("POST /api/v1/admin/peers HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("\r\ncontent-type: application/json\r\n"),
        "{request}"
    );
    assert!(
        request.ends_with("\r\n\r\n{\"endpoint\":\"tcp://10.0.0.2:9651\"}"),
        "{request}"
    );
}

#[test]
fn the_nodes_reason_for_refusing_is_the_error() {
    let (client, _) =
        server("HTTP/1.1 409 Conflict\r\ncontent-length: 20\r\n\r\npeer already exists\n");
    let error = client.add_peer("tcp://10.0.0.2:9651").unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 409, .. }),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "peer already exists");
}

#[test]
fn a_refusal_without_words_shows_the_status() {
    let (client, _) = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let error = client.info().unwrap_err().to_string();
    assert!(
        error.ends_with("answered 503 Service Unavailable"),
        "{error}"
    );
}

#[test]
fn a_path_that_the_server_lacks_is_an_older_node() {
    let (client, _) = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let error = client.status().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
}

#[test]
fn an_address_without_route_has_no_key() {
    let (client, asked) = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.public_key("430::1".parse().unwrap()).unwrap(), None);
    assert!(
        asked
            .join()
            .unwrap()
            .starts_with("GET /api/v1/pubkey/430%3A%3A1 ")
    );
}

#[test]
fn a_closed_port_means_that_no_node_runs() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::new(address).info().unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with(&format!(
            "no node answers at {address}: is mycelium running?"
        )),
        "{error}"
    );
}

#[test]
fn an_answer_that_is_no_http_is_reported() {
    let (client, _) = server("SSH-2.0-OpenSSH_9.9\r\n");
    let error = client.info().unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error:?}");
}

#[test]
fn an_answer_of_another_shape_is_reported() {
    let (client, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    let error = client.info().unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error:?}");
}

#[test]
fn a_redirect_is_not_followed() {
    let (client, _) =
        server("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
    let error = client.info().unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 302, .. }),
        "{error:?}"
    );
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    // The system accepts the connection; nobody reads from it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let timeout = Duration::from_millis(20);
    let client = Client::with_timeout(listener.local_addr().unwrap(), timeout);
    let error = client.info().unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("did not answer within 20ms"),
        "{error}"
    );
}

#[test]
fn an_error_text_that_never_ends_is_cut_off() {
    let (client, _) = server(concat!(
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 100000\r\n\r\n",
        "the text stops here, the promise does not"
    ));
    let error = client.add_peer("tcp://10.0.0.2:9651").unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 400, .. }),
        "{error:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_node_behind_a_unix_socket_is_asked_like_any_other() {
    use std::os::unix::net::UnixListener;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let client = Client::new(path.as_path());
    assert!(matches!(client.info(), Err(Error::NotRunning { .. })));
    let listener = UnixListener::bind(&path).unwrap();
    let served = spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).unwrap();
            let request = String::from_utf8_lossy(&buffer[..length]);
            assert!(
                request.starts_with("GET /api/v1/admin/peers HTTP/1.1\r\n"),
                "{request}"
            );
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
                .unwrap();
        }
    });
    // A connection that the server closed is not used again.
    assert!(client.peers().unwrap().is_empty());
    assert!(client.peers().unwrap().is_empty());
    served.join().unwrap();
    assert!(matches!(client.info(), Err(Error::NotRunning { .. })));
}

#[cfg(unix)]
#[test]
fn a_silent_socket_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = Client::with_timeout(path.as_path(), Duration::from_millis(100));
    assert!(matches!(client.info(), Err(Error::Silent { .. })));
}
