//! The JSON of every type, as programs written for mycelium 0.7.10 meet it.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{from_str, to_string};

use super::*;

const KEY: &str = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f";

#[track_caller]
fn is_written_and_read<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
    assert_eq!(to_string(value).unwrap(), json);
    assert_eq!(&from_str::<T>(json).unwrap(), value);
}

fn tcp(address: &str) -> Endpoint {
    Endpoint::socket(Protocol::Tcp, address.parse().unwrap())
}

fn peer() -> PeerStats {
    PeerStats {
        endpoint: tcp("10.0.0.2:9651"),
        peer_type: PeerType::Static,
        connection_state: ConnectionState::Alive,
        tx_bytes: 12,
        rx_bytes: 34,
        discovered: 56,
        last_connected: None,
        details: PeerDetails::default(),
    }
}

fn identity() -> Identity {
    Identity {
        id: 0,
        name: None,
        public_key: KEY.parse().unwrap(),
        address: "430:9364:d8d8:84a9:dd60:de78:c767:d361".parse().unwrap(),
        subnet: "430:9364:d8d8:84a9::/64".to_owned(),
        tun_name: Some("mycelium".to_owned()),
        netns: None,
    }
}

#[test]
fn info() {
    is_written_and_read(
        &Info {
            node_subnet: "430:9364:d8d8:84a9::/64".to_owned(),
            node_ip: "430:9364:d8d8:84a9:dd60:de78:c767:d361".parse().unwrap(),
            node_pubkey: KEY.parse().unwrap(),
            node_start_time: 1_700_000_000,
        },
        &format!(
            r#"{{"nodeSubnet":"430:9364:d8d8:84a9::/64","nodeIp":"430:9364:d8d8:84a9:dd60:de78:c767:d361","nodePubkey":"{KEY}","nodeStartTime":1700000000}}"#
        ),
    );
}

#[test]
fn public_key_reply() {
    let public_key = KEY.parse().unwrap();
    is_written_and_read(
        &PublicKeyReply { public_key },
        &format!(r#"{{"publicKey":"{KEY}"}}"#),
    );
}

#[test]
fn keys_are_read_in_either_case_and_printed_in_lower_case() {
    let key: PublicKey = from_str(&format!("\"{}\"", KEY.to_uppercase())).unwrap();
    assert_eq!(key.to_string(), KEY);
}

#[test]
fn texts_that_are_no_key_are_refused() {
    let odd = "é".repeat(32);
    for text in [
        "",
        &KEY[1..],
        &format!("{KEY}0"),
        &KEY.replace('8', "g"),
        &odd,
    ] {
        assert_eq!(
            text.parse::<PublicKey>(),
            Err(ParseKeyError::Malformed),
            "{text}"
        );
    }
}

#[test]
fn an_endpoint_carries_its_address_in_both_spellings() {
    is_written_and_read(
        &tcp("10.0.0.2:9651"),
        r#"{"proto":"tcp","addr":{"socket":"10.0.0.2:9651"},"socketAddr":"10.0.0.2:9651"}"#,
    );
    is_written_and_read(
        &Endpoint::socket(Protocol::Quic, "[2001:db8::1]:9651".parse().unwrap()),
        r#"{"proto":"quic","addr":{"socket":"[2001:db8::1]:9651"},"socketAddr":"[2001:db8::1]:9651"}"#,
    );
}

#[test]
fn an_endpoint_is_read_in_either_spelling() {
    let expected = tcp("10.0.0.2:9651");
    for json in [
        r#"{"proto":"tcp","addr":{"socket":"10.0.0.2:9651"}}"#,
        r#"{"proto":"tcp","socketAddr":"10.0.0.2:9651"}"#,
    ] {
        assert_eq!(from_str::<Endpoint>(json).unwrap(), expected, "{json}");
    }
    let error = from_str::<Endpoint>(r#"{"proto":"tcp"}"#).unwrap_err();
    assert!(error.to_string().contains("addr"), "{error}");
}

#[test]
fn a_vsock_endpoint_has_no_socket_address() {
    is_written_and_read(
        &Endpoint {
            proto: Protocol::Vsock,
            addr: EndpointAddress::Vsock { cid: 2, port: 9651 },
            host: None,
        },
        r#"{"proto":"vsock","addr":{"vsock":{"cid":2,"port":9651}}}"#,
    );
}

#[test]
fn an_endpoint_given_by_name_keeps_the_name() {
    let endpoint = Endpoint {
        host: Some("node.example".to_owned()),
        ..tcp("10.0.0.2:9651")
    };
    is_written_and_read(
        &endpoint,
        r#"{"proto":"tcp","addr":{"socket":"10.0.0.2:9651"},"socketAddr":"10.0.0.2:9651","host":"node.example"}"#,
    );
    assert_eq!(endpoint.to_string(), "tcp://node.example:9651");
    assert_eq!(tcp("[::1]:1").to_string(), "tcp://[::1]:1");
}

#[test]
fn a_peer_without_our_fields_is_upstreams() {
    is_written_and_read(
        &peer(),
        r#"{"endpoint":{"proto":"tcp","addr":{"socket":"10.0.0.2:9651"},"socketAddr":"10.0.0.2:9651"},"type":"static","connectionState":"alive","txBytes":12,"rxBytes":34,"discovered":56,"lastConnected":null}"#,
    );
}

#[test]
fn our_fields_of_a_peer_come_after_upstreams() {
    is_written_and_read(
        &PeerStats {
            peer_type: PeerType::LinkLocalDiscovery,
            connection_state: ConnectionState::Dead,
            last_connected: Some(3),
            details: PeerDetails {
                public_key: Some(KEY.parse().unwrap()),
                address: Some("430::1".parse().unwrap()),
                rtt_ms: Some(1.25),
                cost: Some(112),
                routes: Some(4),
                last_heard_ms: Some(250),
                tx_rate: Some(1000),
                rx_rate: Some(2000),
                dropped_packets: Some(0),
                local_address: Some("10.0.0.1:40000".to_owned()),
                last_error: Some("connection refused".to_owned()),
            },
            ..peer()
        },
        &format!(
            r#"{{"endpoint":{{"proto":"tcp","addr":{{"socket":"10.0.0.2:9651"}},"socketAddr":"10.0.0.2:9651"}},"type":"linkLocalDiscovery","connectionState":"dead","txBytes":12,"rxBytes":34,"discovered":56,"lastConnected":3,"publicKey":"{KEY}","address":"430::1","rttMs":1.25,"cost":112,"routes":4,"lastHeardMs":250,"txRate":1000,"rxRate":2000,"droppedPackets":0,"localAddress":"10.0.0.1:40000","lastError":"connection refused"}}"#
        ),
    );
}

#[test]
fn names_of_states_and_kinds() {
    is_written_and_read(
        &(
            PeerType::Inbound,
            ConnectionState::Connecting,
            Protocol::Tls,
        ),
        r#"["inbound","connecting","tls"]"#,
    );
    is_written_and_read(
        &[ListenerService::Tcp, ListenerService::JsonRpc],
        r#"["tcp","jsonRpc"]"#,
    );
}

#[test]
fn add_peer() {
    let endpoint = "tcp://10.0.0.2:9651".to_owned();
    is_written_and_read(
        &AddPeer { endpoint },
        r#"{"endpoint":"tcp://10.0.0.2:9651"}"#,
    );
}

#[test]
fn route() {
    let route = Route {
        subnet: "437:5106:5530:1589::/64".to_owned(),
        next_hop: "TCP 10.0.0.1:40000 <-> 10.0.0.2:9651".to_owned(),
        metric: Metric::Value(112),
        seqno: 7,
        public_key: None,
        expires_in: None,
    };
    is_written_and_read(
        &route,
        r#"{"subnet":"437:5106:5530:1589::/64","nextHop":"TCP 10.0.0.1:40000 <-> 10.0.0.2:9651","metric":112,"seqno":7}"#,
    );
    let retracted = Route {
        metric: None.into(),
        public_key: Some(KEY.parse().unwrap()),
        expires_in: Some(30),
        ..route
    };
    is_written_and_read(
        &retracted,
        &format!(
            r#"{{"subnet":"437:5106:5530:1589::/64","nextHop":"TCP 10.0.0.1:40000 <-> 10.0.0.2:9651","metric":"infinite","seqno":7,"publicKey":"{KEY}","expiresIn":30}}"#
        ),
    );
    assert!(from_str::<Metric>("\"huge\"").is_err());
    assert!(from_str::<Metric>("65536").is_err());
}

#[test]
fn a_queried_subnet_tells_its_seconds_as_text() {
    is_written_and_read(
        &QueriedSubnet::new("437:5106:5530:1589::/64".to_owned(), 12),
        r#"{"subnet":"437:5106:5530:1589::/64","expiration":"12"}"#,
    );
}

#[test]
fn packet_statistics() {
    is_written_and_read(
        &PacketStatistics {
            by_source: vec![PacketStatEntry {
                ip: "430::1".parse().unwrap(),
                packet_count: 2,
                byte_count: 208,
            }],
            by_destination: vec![],
        },
        r#"{"bySource":[{"ip":"430::1","packetCount":2,"byteCount":208}],"byDestination":[]}"#,
    );
}

#[test]
fn status() {
    is_written_and_read(
        &Status {
            version: "0.1.0".to_owned(),
            start_time: 1_700_000_000,
            uptime: 60,
            public_key: KEY.parse().unwrap(),
            address: "430::1".parse().unwrap(),
            subnet: "430::/64".to_owned(),
            health: Health::from_warnings(vec![Warning {
                code: "no-peer-alive".to_owned(),
                text: "no peer is alive".to_owned(),
                hint: None,
            }]),
            peers: PeerCounts {
                total: 1,
                dead: 1,
                ..PeerCounts::default()
            },
            routes: RouteCounts::default(),
            sessions: Some(SessionCounts {
                v2: 3,
                v1: 1,
                ..SessionCounts::default()
            }),
            traffic: Traffic::default(),
            listeners: vec![Listener {
                service: ListenerService::Tcp,
                address: "[::]:9651".to_owned(),
            }],
            tun: Some(TunStatus {
                name: "mycelium".to_owned(),
                mtu: 1400,
            }),
            identities: vec![identity()],
        },
        &format!(
            concat!(
                r#"{{"version":"0.1.0","startTime":1700000000,"uptime":60,"publicKey":"{KEY}","address":"430::1","subnet":"430::/64","#,
                r#""health":{{"state":"degraded","warnings":[{{"code":"no-peer-alive","text":"no peer is alive"}}]}},"#,
                r#""peers":{{"total":1,"alive":0,"connecting":0,"dead":1}},"routes":{{"selected":0,"fallback":0,"queried":0}},"#,
                r#""sessions":{{"v2":3,"v1":1,"waiting":0,"pins":0}},"#,
                r#""traffic":{{"txBytes":0,"rxBytes":0,"fromHostPackets":0,"toHostPackets":0,"forwardedPackets":0,"droppedPackets":0}},"#,
                r#""listeners":[{{"service":"tcp","address":"[::]:9651"}}],"tun":{{"name":"mycelium","mtu":1400}},"#,
                r#""identities":[{{"id":0,"publicKey":"{KEY}","address":"430:9364:d8d8:84a9:dd60:de78:c767:d361","subnet":"430:9364:d8d8:84a9::/64","tunName":"mycelium"}}]}}"#,
            ),
            KEY = KEY
        ),
    );
    assert_eq!(Health::from_warnings(vec![]).state, HealthState::Ok);
}

#[test]
fn the_secret_of_a_new_identity_travels_as_hex_and_does_not_print() {
    let request = AddIdentity {
        secret_key: SecretKey::new([0x0a; 32]),
        name: Some("web".to_owned()),
        tun_name: Some("web0".to_owned()),
        netns: Some("/run/netns/web".to_owned()),
    };
    is_written_and_read(
        &request,
        &format!(
            r#"{{"secretKey":"{}","name":"web","tunName":"web0","netns":"/run/netns/web"}}"#,
            "0a".repeat(32)
        ),
    );
    assert!(!format!("{request:?}").contains("10"));
    assert!(from_str::<AddIdentity>(r#"{"secretKey":"0a"}"#).is_err());
    for (secret, reason) in [
        ("0a".repeat(33), "64 hexadecimal"),
        ("00".repeat(32), "zeros"),
    ] {
        let request = format!(r#"{{"secretKey":"{secret}"}}"#);
        let error = from_str::<AddIdentity>(&request).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_session_reads_back_and_leaves_out_what_is_unknown() {
    let session = Session {
        identity: 0,
        address: "437:5106:5530:1589:7c53:fa73:c63e:1ddb".parse().unwrap(),
        subnet: "437:5106:5530:1589::/64".to_owned(),
        public_key: PublicKey([7; 32]),
        protocol: SessionProtocol::V1,
        suite: None,
        hybrid: false,
        pinned: false,
        initiated: false,
        age: None,
        rekeys: 0,
        path_size: None,
        tx_packets: 1,
        rx_packets: 2,
        drops: SessionDrops {
            replay: 1,
            authentication: 2,
            v1: 3,
            malformed: 4,
        },
    };
    assert_eq!(session.drops.total(), 10);
    let text = to_string(&session).unwrap();
    assert!(text.contains(r#""protocol":"v1","hybrid":false"#), "{text}");
    assert!(text.contains(r#""drops":{"replay":1,"authentication":2,"v1":3,"malformed":4}"#));
    assert!(!text.contains("age") && !text.contains("suite") && !text.contains("pathSize"));
    assert_eq!(from_str::<Session>(&text).unwrap(), session);
}
