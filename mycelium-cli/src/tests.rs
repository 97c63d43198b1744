//! Every command against a server with fixed bodies: what is asked, and what is printed.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use clap::{CommandFactory, Parser};

use super::*;

const A_KEY: &str = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f";
const A_ADDRESS: &str = "430:9364:d8d8:84a9:dd60:de78:c767:d361";
const B_KEY: &str = "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254";
const B_ADDRESS: &str = "437:5106:5530:1589:7c53:fa73:c63e:1ddb";

/// An overlay.
#[derive(Parser)]
#[command(name = "mycelium", version = "1.2.3")]
struct Root {
    #[command(subcommand)]
    command: Command,
}

/// One exchange that the server is ready for: request line, status, body.
type Exchange = (&'static str, &'static str, &'static str);

/// A node that knows some answers, and remembers what it was asked.
struct Node {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Node {
    fn new(exchanges: &'static [Exchange]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::default();
        let remembered = Arc::clone(&asked);
        // Ends with the test process, or with the first connection that breaks.
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), exchanges, &remembered);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn run(&self, arguments: &str) -> Result<String, String> {
        run_with(arguments, None, self.address).map(|(out, _)| out)
    }
}

fn answer(mut stream: TcpStream, exchanges: &[Exchange], asked: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let (head, body) = loop {
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the client went away");
        request.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8(request.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let expected = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= expected {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    let line = head
        .lines()
        .next()
        .unwrap()
        .strip_suffix(" HTTP/1.1")
        .unwrap();
    let line = line.replace("/api/v1/", "/");
    let (status, answer) = exchanges
        .iter()
        .find(|exchange| exchange.0 == line)
        .map_or(("404 Not Found", ""), |exchange| (exchange.1, exchange.2));
    asked
        .lock()
        .unwrap()
        .push(format!("{line} {body}").trim_end().to_owned());
    let length = answer.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{answer}"
    )
    .unwrap();
}

fn parse(arguments: &str) -> Command {
    let arguments = std::iter::once("mycelium").chain(arguments.split_whitespace());
    Root::try_parse_from(arguments).unwrap().command
}

/// Callers may print the whole chain of causes (anyhow's `{:#}`): no cause may show twice.
fn one_line(error: &Error) -> String {
    assert!(std::error::Error::source(error).is_none(), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn run_with(
    arguments: &str,
    key_file: Option<&Path>,
    api_addr: SocketAddr,
) -> Result<(String, String), String> {
    let context = Context {
        key_file: key_file.map(Path::to_owned),
        api: Api::At(api_addr.into()),
        root: Root::command,
    };
    let (mut out, mut remarks) = (Vec::new(), Vec::new());
    execute(parse(arguments), &context, &mut out, &mut remarks)
        .map_err(|error| one_line(&error))?;
    Ok((
        String::from_utf8(out).unwrap(),
        String::from_utf8(remarks).unwrap(),
    ))
}

/// For commands that ask no node.
fn offline(arguments: &str, key_file: &Path) -> Result<(String, String), String> {
    run_with(arguments, Some(key_file), "127.0.0.1:1".parse().unwrap())
}

fn key_a() -> [u8; 32] {
    std::array::from_fn(|i| u8::try_from(i).unwrap())
}

const PEERS: &str = concat!(
    r#"[{"endpoint":{"proto":"quic","addr":{"socket":"[2001:db8::2]:9651"}},"type":"static","connectionState":"dead","txBytes":0,"rxBytes":0,"discovered":61,"lastConnected":null},"#,
    r#"{"endpoint":{"proto":"tcp","socketAddr":"10.0.0.2:9651"},"type":"inbound","connectionState":"alive","txBytes":1289748,"rxBytes":100,"discovered":97200,"lastConnected":0}]"#
);

#[test]
fn peers_of_an_upstream_node_have_upstreams_columns() {
    let node = Node::new(&[("GET /admin/peers", "200 OK", PEERS)]);
    assert_eq!(
        node.run("peers list").unwrap(),
        "\
+----------+--------------------+---------+------------+----------+----------+-------------+-----------------+
| Protocol | Socket             | Type    | Connection | Rx total | Tx total | Discovered  | Last connection |
+----------+--------------------+---------+------------+----------+----------+-------------+-----------------+
| Tcp      | 10.0.0.2:9651      | Inbound | Alive      | 100.00 B | 1.23 MiB | 1d 3h 0m 0s | 0s              |
+----------+--------------------+---------+------------+----------+----------+-------------+-----------------+
| Quic     | [2001:db8::2]:9651 | Static  | Dead       | 0.00 B   | 0.00 B   | 1m 1s       | Never connected |
+----------+--------------------+---------+------------+----------+----------+-------------+-----------------+
"
    );
}

#[test]
fn our_columns_of_peers_come_after_upstreams() {
    let node = Node::new(&[(
        "GET /admin/peers",
        "200 OK",
        r#"[{"endpoint":{"proto":"tcp","socketAddr":"10.0.0.2:9651"},"type":"linkLocalDiscovery","connectionState":"connecting","txBytes":0,"rxBytes":0,"discovered":0,"lastConnected":5,"lastError":"connection refused"},{"endpoint":{"proto":"tcp","socketAddr":"10.0.0.3:9651","host":"r.example"},"type":"static","connectionState":"alive","txBytes":0,"rxBytes":0,"discovered":0,"lastConnected":5,"rttMs":0.25,"cost":112,"routes":3,"address":"437:5106:5530:1589:7c53:fa73:c63e:1ddb"}]"#,
    )]);
    let table = node.run("peers").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(
        rows[0][8..],
        ["Name", "RTT", "Cost", "Routes", "Address", "Last error"]
    );
    assert_eq!(rows[1][1], "10.0.0.3:9651");
    assert_eq!(
        rows[1][8..],
        ["r.example", "0.25 ms", "112", "3", B_ADDRESS, ""]
    );
    assert_eq!(rows[2][2..4], ["LinkLocalDiscovery", "Connecting"]);
    assert_eq!(rows[2][8..], ["", "", "", "", "", "connection refused"]);
}

#[test]
fn peers_as_json_are_pretty_and_in_the_nodes_order() {
    let node = Node::new(&[("GET /admin/peers", "200 OK", PEERS)]);
    let out = node.run("peers list --json").unwrap();
    assert!(
        out.starts_with(
            "[\n  {\n    \"endpoint\": {\n      \"proto\": \"quic\",\n      \"addr\": {\n        \"socket\": \"[2001:db8::2]:9651\"\n      },\n      \"socketAddr\": \"[2001:db8::2]:9651\"\n    },\n    \"type\": \"static\",\n    \"connectionState\": \"dead\","
        ),
        "{out}"
    );
    assert!(out.ends_with("  }\n]\n"), "{out}");
    assert_eq!(node.run("peers --json").unwrap(), out);
}

#[test]
fn adding_peers_is_silent_and_stops_at_the_first_that_fails() {
    let node = Node::new(&[("POST /admin/peers", "204 No Content", "")]);
    assert_eq!(
        node.run("peers add tcp://10.0.0.2:9651 quic://[::1]:1")
            .unwrap(),
        ""
    );
    assert_eq!(
        node.asked(),
        [
            r#"POST /admin/peers {"endpoint":"tcp://10.0.0.2:9651"}"#,
            r#"POST /admin/peers {"endpoint":"quic://[::1]:1"}"#
        ]
    );

    let node = Node::new(&[("POST /admin/peers", "409 Conflict", "peer already exists")]);
    assert_eq!(
        node.run("peers add tcp://10.0.0.2:9651 tcp://10.0.0.3:9651")
            .unwrap_err(),
        "cannot add peer tcp://10.0.0.2:9651: peer already exists"
    );
    assert_eq!(node.asked().len(), 1);
}

#[test]
fn removing_peers_encodes_their_endpoints() {
    let node = Node::new(&[(
        "DELETE /admin/peers/tcp%3A%2F%2F10.0.0.2%3A9651",
        "204 No Content",
        "",
    )]);
    assert_eq!(node.run("peers remove tcp://10.0.0.2:9651").unwrap(), "");
    let error = node.run("peers remove tcp://10.0.0.3:9651").unwrap_err();
    assert!(
        error.starts_with("cannot remove peer tcp://10.0.0.3:9651: "),
        "{error}"
    );
}

#[test]
fn no_endpoints_are_no_error() {
    let node = Node::new(&[]);
    assert_eq!(node.run("peers add").unwrap(), "");
    assert_eq!(node.run("peers remove").unwrap(), "");
    assert!(node.asked().is_empty());
}

const ROUTES: &str = r#"[{"subnet":"5f0::/64","nextHop":"TCP 10.0.0.1:4 <-> 10.0.0.2:9651","metric":"infinite","seqno":65535},{"subnet":"437:5106:5530:1589::/64","nextHop":"QUIC -> 10.0.0.3:9651","metric":112,"seqno":7}]"#;

const ROUTES_TABLE: &str = "\
+-------------------------+----------------------------------+----------+--------+
| Subnet                  | Next Hop                         | Metric   | Seq No |
+-------------------------+----------------------------------+----------+--------+
| 437:5106:5530:1589::/64 | QUIC -> 10.0.0.3:9651            | 112      | 7      |
+-------------------------+----------------------------------+----------+--------+
| 5f0::/64                | TCP 10.0.0.1:4 <-> 10.0.0.2:9651 | infinite | 65535  |
+-------------------------+----------------------------------+----------+--------+
";

#[test]
fn routes_are_sorted_by_subnet() {
    let node = Node::new(&[
        ("GET /admin/routes/selected", "200 OK", ROUTES),
        ("GET /admin/routes/fallback", "200 OK", ROUTES),
    ]);
    assert_eq!(node.run("routes selected").unwrap(), ROUTES_TABLE);
    assert_eq!(node.run("routes").unwrap(), ROUTES_TABLE);
    assert_eq!(node.run("routes fallback").unwrap(), ROUTES_TABLE);
}

#[test]
fn routes_that_expire_say_when() {
    let node = Node::new(&[(
        "GET /admin/routes/selected",
        "200 OK",
        r#"[{"subnet":"5f0::/64","nextHop":"x","metric":1,"seqno":0,"expiresIn":61}]"#,
    )]);
    let table = node.run("routes").unwrap();
    assert!(table.contains("| Seq No | Expires in |"), "{table}");
    assert!(table.contains("| 0      | 1m 1s      |"), "{table}");
}

#[test]
fn queried_subnets() {
    let node = Node::new(&[(
        "GET /admin/routes/queried",
        "200 OK",
        r#"[{"subnet":"5f0::/64","expiration":"12"}]"#,
    )]);
    assert_eq!(
        node.run("routes queried").unwrap(),
        "\
+----------+------------------+
| Subnet   | Query expiration |
+----------+------------------+
| 5f0::/64 | 12               |
+----------+------------------+
"
    );
}

#[test]
fn json_of_routes_and_statistics_is_the_nodes_own() {
    // Spacing and unknown keys show that nothing was parsed and printed anew.
    let node = Node::new(&[
        ("GET /admin/routes/selected", "200 OK", r#"[{"s":  1}]"#),
        ("GET /admin/routes/fallback", "200 OK", r#"[{"f":  1}]"#),
        ("GET /admin/routes/queried", "200 OK", r#"[{"q":  1}]"#),
        ("GET /admin/stats/packets", "200 OK", r#"{"p":  1}"#),
    ]);
    assert_eq!(
        node.run("routes selected --json").unwrap(),
        "[{\"s\":  1}]\n"
    );
    assert_eq!(node.run("routes --json").unwrap(), "[{\"s\":  1}]\n");
    assert_eq!(
        node.run("routes fallback --json").unwrap(),
        "[{\"f\":  1}]\n"
    );
    assert_eq!(
        node.run("routes queried --json").unwrap(),
        "[{\"q\":  1}]\n"
    );
    assert_eq!(node.run("stats packets --json").unwrap(), "{\"p\":  1}\n");
    assert_eq!(node.run("stats --json").unwrap(), "{\"p\":  1}\n");
}

#[test]
fn an_error_is_not_printed_as_an_answer() {
    let node = Node::new(&[(
        "GET /admin/routes/selected",
        "500 Internal Server Error",
        "the router is gone",
    )]);
    assert_eq!(
        node.run("routes selected --json").unwrap_err(),
        "the router is gone"
    );
}

#[test]
fn statistics_start_with_the_most_bytes() {
    let node = Node::new(&[(
        "GET /admin/stats/packets",
        "200 OK",
        r#"{"bySource":[{"ip":"430::1","packetCount":1,"byteCount":10},{"ip":"430::2","packetCount":2,"byteCount":2048}],"byDestination":[]}"#,
    )]);
    let expected = "\
Statistics by Source IP:
+-----------+---------+-------+
| Source IP | Packets | Bytes |
+-----------+---------+-------+
| 430::2    | 2       | 2048  |
+-----------+---------+-------+
| 430::1    | 1       | 10    |
+-----------+---------+-------+

Statistics by Destination IP:
+----------------+---------+-------+
| Destination IP | Packets | Bytes |
+----------------+---------+-------+
";
    assert_eq!(node.run("stats packets").unwrap(), expected);
    assert_eq!(node.run("stats").unwrap(), expected);
}

#[test]
fn inspect_prints_two_lines_or_two_fields_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    fs::write(&path, key_a()).unwrap();
    assert_eq!(
        offline("inspect", &path).unwrap(),
        (
            format!("Public key: {A_KEY}\nAddress: {A_ADDRESS}\n"),
            String::new()
        )
    );
    assert_eq!(
        offline("inspect --json", &path).unwrap(),
        (
            format!("{{\n  \"publicKey\": \"{A_KEY}\",\n  \"address\": \"{A_ADDRESS}\"\n}}\n"),
            String::new()
        )
    );
}

#[test]
fn inspect_of_a_given_key_needs_no_file() {
    let missing = Path::new("/nonexistent/key.bin");
    let expected = format!("Public key: {B_KEY}\nAddress: {B_ADDRESS}\n");
    assert_eq!(
        offline(&format!("inspect {B_KEY}"), missing).unwrap().0,
        expected
    );
    let upper = B_KEY.to_uppercase();
    assert_eq!(
        offline(&format!("inspect {upper}"), missing).unwrap().0,
        expected
    );
    let json = offline(&format!("inspect --json {B_KEY}"), missing)
        .unwrap()
        .0;
    assert!(json.contains(B_ADDRESS), "{json}");
}

#[test]
fn inspect_creates_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    let error = offline("inspect", &path).unwrap_err();
    assert!(
        error.starts_with(&format!("there is no key at {}", path.display())),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn inspect_of_what_is_no_key_says_what_a_key_is() {
    let error = offline("inspect 12ab", Path::new("")).unwrap_err();
    assert_eq!(
        error,
        "`12ab` is no public key: that is 64 hexadecimal digits"
    );
    let zero = format!("inspect {}", "0".repeat(64));
    let error = offline(&zero, Path::new("")).unwrap_err();
    assert_eq!(error, "a public key of zeros only belongs to nobody");
}

#[test]
fn generate_keys_writes_once_and_replaces_only_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    let (out, remarks) = offline("generate-keys", &path).unwrap();
    let first = fs::read(&path).unwrap();
    let address = key_file::read(&path).unwrap().public_key().address();
    assert_eq!((out.as_str(), first.len()), ("", 32));
    assert!(remarks.contains(&address.to_string()), "{remarks}");

    let (out, remarks) = offline("generate-keys", &path).unwrap();
    assert_eq!(out, "");
    assert!(remarks.starts_with("Warning: kept the key"), "{remarks}");
    assert_eq!(fs::read(&path).unwrap(), first);

    offline("generate-keys --force", &path).unwrap();
    assert_ne!(fs::read(&path).unwrap(), first);
}

#[test]
fn generate_keys_reports_a_directory_that_does_not_exist() {
    let error = offline("generate-keys", Path::new("/nonexistent/key.bin")).unwrap_err();
    assert!(
        error.starts_with("cannot write the key file /nonexistent/key.bin: "),
        "{error}"
    );
}

const IDENTITIES: &str = r#"[{"id":0,"publicKey":"8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f","address":"430:9364:d8d8:84a9:dd60:de78:c767:d361","subnet":"430:9364:d8d8:84a9::/64","tunName":"mycelium"},{"id":3,"name":"web","publicKey":"358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254","address":"437:5106:5530:1589:7c53:fa73:c63e:1ddb","subnet":"437:5106:5530:1589::/64","tunName":"web0","netns":"/run/netns/web"}]"#;

#[test]
fn identities_as_table_and_as_json() {
    let node = Node::new(&[("GET /admin/identities", "200 OK", IDENTITIES)]);
    let table = "\
+----+------+----------------------------------------+-------------------------+-----------+----------------+
| Id | Name | Address                                | Subnet                  | Interface | Namespace      |
+----+------+----------------------------------------+-------------------------+-----------+----------------+
| 0  |      | 430:9364:d8d8:84a9:dd60:de78:c767:d361 | 430:9364:d8d8:84a9::/64 | mycelium  |                |
+----+------+----------------------------------------+-------------------------+-----------+----------------+
| 3  | web  | 437:5106:5530:1589:7c53:fa73:c63e:1ddb | 437:5106:5530:1589::/64 | web0      | /run/netns/web |
+----+------+----------------------------------------+-------------------------+-----------+----------------+
";
    assert_eq!(node.run("identities list").unwrap(), table);
    assert_eq!(node.run("identities").unwrap(), table);
    let json = node.run("identities --json").unwrap();
    assert!(
        json.starts_with("[\n  {\n    \"id\": 0,\n    \"publicKey\": \""),
        "{json}"
    );
}

#[test]
fn adding_an_identity_sends_its_secret_and_shows_what_became_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    fs::write(&path, key_a()).unwrap();
    let node = Node::new(&[(
        "POST /admin/identities",
        "201 Created",
        r#"{"id":4,"name":"web","publicKey":"8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f","address":"430:9364:d8d8:84a9:dd60:de78:c767:d361","subnet":"430:9364:d8d8:84a9::/64"}"#,
    )]);
    let file = path.display();
    let out = node.run(&format!(
        "identities add --name web --tun-name web0 --netns web {file}"
    ));
    assert!(out.unwrap().contains(A_ADDRESS));
    let secret: String = key_a().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        node.asked(),
        [format!(
            r#"POST /admin/identities {{"secretKey":"{secret}","name":"web","tunName":"web0","netns":"/run/netns/web"}}"#
        )]
    );
    let json = node.run(&format!("identities add --json {file}")).unwrap();
    assert!(json.starts_with("{\n  \"id\": 4,\n"), "{json}");
    assert!(node.asked()[1].ends_with(&format!("{{\"secretKey\":\"{secret}\"}}")));
}

#[test]
fn a_network_namespace_may_be_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    fs::write(&path, key_a()).unwrap();
    let node = Node::new(&[(
        "POST /admin/identities",
        "409 Conflict",
        "no such namespace",
    )]);
    let arguments = format!(
        "identities add --tun-name a --netns /proc/7/ns/net {}",
        path.display()
    );
    assert_eq!(node.run(&arguments).unwrap_err(), "no such namespace");
    assert!(node.asked()[0].contains(r#""netns":"/proc/7/ns/net""#));
}

#[test]
fn an_identity_is_removed_by_whatever_names_it() {
    for name in ["3", "web", B_ADDRESS, B_KEY] {
        let node = Node::new(&[
            ("GET /admin/identities", "200 OK", IDENTITIES),
            ("DELETE /admin/identities/3", "204 No Content", ""),
        ]);
        assert_eq!(
            node.run(&format!("identities remove {name}")).unwrap(),
            "",
            "{name}"
        );
        assert_eq!(node.asked()[1], "DELETE /admin/identities/3", "{name}");
    }
    let node = Node::new(&[("GET /admin/identities", "200 OK", IDENTITIES)]);
    let error = node.run("identities remove 30").unwrap_err();
    assert!(error.starts_with("no identity `30`"), "{error}");
}

const SESSIONS: &str = r#"[{"identity":0,"address":"437:5106:5530:1589:7c53:fa73:c63e:1ddb","subnet":"437:5106:5530:1589::/64","publicKey":"358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254","protocol":"v2","suite":"AES-256-GCM","hybrid":true,"pinned":true,"initiated":true,"age":75,"rekeys":2,"pathSize":1162,"txPackets":5,"rxPackets":4,"drops":{"replay":1,"authentication":2,"v1":0,"malformed":0}},{"identity":3,"address":"430:9364:d8d8:84a9:dd60:de78:c767:d361","subnet":"430:9364:d8d8:84a9::/64","publicKey":"8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f","protocol":"v1","hybrid":false,"pinned":false,"initiated":false,"rekeys":0,"txPackets":0,"rxPackets":0,"drops":{"replay":0,"authentication":0,"v1":0,"malformed":0}}]"#;

#[test]
fn sessions_show_what_runs_on_v1_first_and_can_be_forgotten() {
    let node = Node::new(&[
        ("GET /admin/sessions", "200 OK", SESSIONS),
        ("GET /admin/identities", "200 OK", IDENTITIES),
        (
            "DELETE /admin/sessions/437%3A5106%3A5530%3A1589%3A%3A1",
            "204 No Content",
            "",
        ),
    ]);
    let table = node.run("sessions").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!(
        rows[1][1..3],
        ["430:9364:d8d8:84a9:dd60:de78:c767:d361", "v1"]
    );
    assert_eq!(rows[1][11], "web");
    assert_eq!(
        rows[2][2..11],
        [
            "v2, hybrid",
            "AES-256-GCM",
            "yes",
            "1m 15s",
            "2",
            "5",
            "4",
            "3",
            "1162"
        ]
    );
    assert_eq!(
        node.run("sessions --json").unwrap(),
        format!("{SESSIONS}\n")
    );
    node.run("sessions forget 437:5106:5530:1589::1").unwrap();
}

const STATUS: &str = r#"{"version":"0.1.0","startTime":1700000000,"uptime":10921,"publicKey":"8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f","address":"430:9364:d8d8:84a9:dd60:de78:c767:d361","subnet":"430:9364:d8d8:84a9::/64","health":{"state":"degraded","warnings":[{"code":"tcp-port-busy","text":"TCP port 9651 is taken by another program","hint":"stop it, or choose another port with --tcp-listen-port"}]},"peers":{"total":10,"alive":1,"connecting":1,"dead":8,"bestRttMs":1.25},"routes":{"selected":12,"fallback":3,"queried":1},"traffic":{"txBytes":2048,"rxBytes":1048576,"fromHostPackets":1,"toHostPackets":2,"forwardedPackets":3,"droppedPackets":4,"rxRate":1024},"listeners":[{"service":"quic","address":"[::]:9651"},{"service":"api","address":"127.0.0.1:8989"}],"tun":{"name":"mycelium","mtu":1400},"identities":[{"id":0,"publicKey":"8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f","address":"430:9364:d8d8:84a9:dd60:de78:c767:d361","subnet":"430:9364:d8d8:84a9::/64","tunName":"mycelium"},{"id":3,"name":"web","publicKey":"358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254","address":"437:5106:5530:1589:7c53:fa73:c63e:1ddb","subnet":"437:5106:5530:1589::/64","tunName":"web0","netns":"/run/netns/web"}]}"#;

const STATUS_PEERS: &str = r#"[{"endpoint":{"proto":"tcp","socketAddr":"10.0.0.9:9651"},"type":"static","connectionState":"dead","txBytes":0,"rxBytes":0,"discovered":0,"lastConnected":null,"lastError":"connection refused"},{"endpoint":{"proto":"tcp","socketAddr":"10.0.0.2:9651"},"type":"static","connectionState":"alive","txBytes":0,"rxBytes":0,"discovered":0,"lastConnected":0,"rttMs":1.25,"address":"437:5106:5530:1589:7c53:fa73:c63e:1ddb"}]"#;

#[test]
fn status_is_one_screen() {
    let node = Node::new(&[
        ("GET /admin/status", "200 OK", STATUS),
        ("GET /admin/peers", "200 OK", STATUS_PEERS),
    ]);
    assert_eq!(
        node.run("status").unwrap(),
        "\
mycelium 0.1.0, up 3h 2m 1s: needs attention
  ! TCP port 9651 is taken by another program
    stop it, or choose another port with --tcp-listen-port

Address     430:9364:d8d8:84a9:dd60:de78:c767:d361
Subnet      430:9364:d8d8:84a9::/64
Public key  8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f
Interface   mycelium, MTU 1400
Listening   QUIC [::]:9651, API 127.0.0.1:8989
Peers       1 of 10 alive, best RTT 1.25 ms
            1.25 ms     tcp://10.0.0.2:9651  437:5106:5530:1589:7c53:fa73:c63e:1ddb
            dead        tcp://10.0.0.9:9651  connection refused
Routes      12 in use, 3 ready, 1 being asked for
Traffic     1.00 MiB received (1.00 KiB/s), 2.00 KiB sent
Packets     1 from this host, 2 to it, 3 passed on, 4 dropped
Identities  1 besides the node's own
            web  437:5106:5530:1589:7c53:fa73:c63e:1ddb  web0 in /run/netns/web
"
    );
}

#[test]
fn status_says_when_another_node_answers() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::new(&[
        ("GET /admin/status", "200 OK", STATUS),
        ("GET /admin/peers", "200 OK", STATUS_PEERS),
    ]);
    let remark = |key: Option<[u8; 32]>| {
        let path = directory.path().join("key.bin");
        if let Some(key) = key {
            fs::write(&path, key).unwrap();
        }
        run_with("status", Some(&path), node.address).unwrap().1
    };
    assert_eq!(remark(None), "");
    // The node's own key, and that of a further identity.
    assert_eq!(remark(Some(key_a())), "");
    let other = remark(Some([7; 32]));
    assert!(other.starts_with("note: the node at 127.0.0.1:"), "{other}");
    assert!(other.contains("is not the one of the key file"), "{other}");
    assert_eq!(other.lines().count(), 1);
}

#[test]
fn status_as_json_is_complete_and_pretty() {
    let node = Node::new(&[("GET /admin/status", "200 OK", STATUS)]);
    let json = node.run("status --json").unwrap();
    assert!(json.starts_with("{\n  \"version\": \"0.1.0\",\n"), "{json}");
    assert!(json.contains("\n    \"state\": \"degraded\",\n"), "{json}");
    assert_eq!(node.asked(), ["GET /admin/status"]);
}

#[test]
fn status_of_a_node_that_has_none_says_so() {
    let error = Node::new(&[]).run("status").unwrap_err();
    assert!(error.contains("does not know this command"), "{error}");
}

#[test]
fn a_node_that_does_not_run_is_one_clear_line() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for arguments in [
        "status",
        "peers",
        "routes",
        "stats",
        "identities",
        "routes --json",
    ] {
        let error = run_with(arguments, None, free).unwrap_err();
        assert!(
            error.starts_with(&format!("no node answers at {free}: is mycelium running?")),
            "{arguments}: {error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn what_a_node_says_cannot_steer_the_terminal() {
    let node = Node::new(&[(
        "GET /admin/routes/selected",
        "200 OK",
        r#"[{"subnet":"5f0::/64","nextHop":"\u001b[2J","metric":1,"seqno":0}]"#,
    )]);
    assert!(!node.run("routes").unwrap().contains('\u{1b}'));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    let node = Node::new(&[
        ("GET /admin/peers", "200 OK", PEERS),
        ("GET /admin/routes/selected", "200 OK", ROUTES),
        ("GET /admin/status", "200 OK", STATUS),
    ]);
    let context = Context {
        key_file: None,
        api: Api::At(node.address.into()),
        root: Root::command,
    };
    let key = format!("inspect {A_KEY}");
    for arguments in [
        "peers",
        "routes",
        "routes --json",
        "status",
        "completions zsh",
        "man",
        &key,
    ] {
        let result = execute(parse(arguments), &context, &mut Gone, &mut Vec::new());
        assert!(
            matches!(result, Err(Error::Output(_))),
            "{arguments}: {result:?}"
        );
        reader_may_leave(result).unwrap();
    }
}

#[test]
fn completions_and_manual_pages_are_made_from_the_commands() {
    let nowhere = Path::new("");
    let (script, _) = offline("completions bash", nowhere).unwrap();
    assert!(script.contains("generate-keys"), "{script}");
    let (page, _) = offline("man", nowhere).unwrap();
    assert!(page.contains("generate\\-keys"), "{page}");

    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    offline(&format!("man {}", pages.display()), nowhere).unwrap();
    for name in ["mycelium.1", "mycelium-inspect.1", "mycelium-peers-add.1"] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(page.contains(".SH NAME\n"), "{name}: {page}");
    }
    let page = fs::read_to_string(pages.join("mycelium-peers-remove.1")).unwrap();
    assert!(
        page.ends_with(".SH EXAMPLES\n.nf\nmycelium peers remove tcp://192.0.2.7:9651\n.fi\n"),
        "{page}"
    );
}

#[test]
fn the_command_line_is_consistent_and_every_command_has_an_example() {
    fn check(command: &clap::Command) {
        for command in command
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
        {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let name = command.get_name();
            let has_example = ["Example:", "Examples:"]
                .iter()
                .any(|heading| help.starts_with(&format!("{heading}\n  mycelium ")));
            assert!(has_example, "{name}: {help}");
            assert!(command.get_about().is_some(), "{name}");
            check(command);
        }
    }
    Root::command().debug_assert();
    check(&Root::command());
}
