use super::*;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn network(json: &str) -> Result<Network, DesiredError> {
    Network::new("net".parse().unwrap(), NetworkSpec::from_json(json)?)
}

fn plain() -> Network {
    network(&format!(r#"{{"mycelium":{{"hex_key":"{KEY}"}}}}"#)).unwrap()
}

fn attachment(json: &str) -> Result<Attachment, DesiredError> {
    Attachment::new(
        &plain(),
        "vm1".parse().unwrap(),
        AttachmentSpec::from_json(json)?,
    )
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

#[test]
fn a_network_follows_from_its_key() {
    let network = plain();
    assert_eq!(
        network.address(),
        v6("430:9364:d8d8:84a9:dd60:de78:c767:d361")
    );
    assert_eq!(network.gateway(), v6("430:9364:d8d8:84a9::1"));
    assert_eq!(network.names.namespace, "my-net");
    assert_eq!(network.names.bridge, "m-net");
}

#[test]
fn a_network_light_of_zero_os_is_accepted_as_it_stands() {
    let json = format!(
        r#"{{"subnet":"10.20.2.0/24","ip_range":"10.20.0.0/16","wireguard_private_key":"","wireguard_listen_port":3011,
            "peers":[{{"subnet":"10.20.3.0/24","wireguard_public_key":"abc=","allowed_ips":["10.20.3.0/24"],"endpoint":""}}],
            "mycelium":{{"hex_key":"{}","peers":null}}}}"#,
        KEY.to_uppercase()
    );
    let mut spec = NetworkSpec::from_json(&json).unwrap();
    assert_eq!(spec.peers[0].allowed_ips, ["10.20.3.0/24"]);
    spec.profile = Profile::Light;
    spec.twin = Some(26);
    let network = Network::new("mynet".parse().unwrap(), spec).unwrap();
    assert_eq!(network.id, "B3gDSpMoHJXdF");
    assert_eq!(network.names.namespace, "nB3gDSpMoHJXdF");
    assert_eq!(network.names.tun, "my0");
}

#[test]
fn a_network_without_wireguard_peers_and_a_key_in_base64() {
    let json = r#"{"subnet":"10.20.2.0/24","ip_range":"10.20.0.0/16","wireguard_private_key":"",
        "wireguard_listen_port":0,"peers":null,
        "mycelium":{"hex_key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","peers":[]}}"#;
    assert_eq!(network(json).unwrap().key, plain().key);
}

#[test]
fn a_guest_may_use_its_seed_and_what_follows_from_its_mac() {
    let attachment =
        attachment(r#"{"kind":"tap","hex_seed":"b60f2b7ec39c","mac":"d2:e0:f7:d6:32:8d"}"#)
            .unwrap();
    assert_eq!(
        attachment.addresses,
        [
            v6("430:9364:d8d8:84a9:ff0f:b60f:2b7e:c39c"),
            v6("430:9364:d8d8:84a9:d0e0:f7ff:fed6:328d")
        ]
    );
    assert_eq!(attachment.link_local(), v6("fe80::d0e0:f7ff:fed6:328d"));
}

#[test]
fn what_is_written_reads_back() {
    let mut network = plain().spec;
    network.masquerade = Some(Masquerade { pair: 3 });
    network.name_servers = vec![v6("2001:4860:4860::8888").into()];
    let text = serde_json::to_string(&network).unwrap();
    assert_eq!(NetworkSpec::from_json(&text).unwrap(), network);
    let attachment = AttachmentSpec::from_json(
        r#"{"kind":"veth","netns":"/proc/7/ns/net","seed":"001122334455","allow":["tcp/22 from 400::/7","udp/5000-5010","icmp"]}"#,
    )
    .unwrap();
    let text = serde_json::to_string(&attachment).unwrap();
    assert_eq!(AttachmentSpec::from_json(&text).unwrap(), attachment);
}

#[test]
fn bad_networks_are_refused_with_one_clear_message() {
    let message = |json: &str| network(json).unwrap_err().to_string();
    let with = |more: &str| format!(r#"{{"mycelium":{{"hex_key":"{KEY}"}},{more}}}"#);
    for (json, expected) in [
        (
            "{}".to_owned(),
            "the network has no key: set mycelium.hex_key to 64 hexadecimal digits or base64",
        ),
        (
            r#"{"mycelium":{"hex_key":"00"}}"#.into(),
            "the key has 2 characters: 32 bytes are 64 hexadecimal digits or 44 characters of base64",
        ),
        (
            format!(r#"{{"mycelium":{{"hex_key":"{KEY}","peers":["tcp://a:1"]}}}}"#),
            "the network names 1 mycelium peers",
        ),
        (
            with(r#""id":"12345678901234""#),
            "\"12345678901234\" is no network id: 1 to 13",
        ),
        (with(r#""id":"a/b""#), "\"a/b\" is no network id"),
        (
            with(r#""profile":"light""#),
            "the profile Light needs an id, or the twin",
        ),
        (
            with(r#""name_servers":["::1","::2","::3","::4"]"#),
            "4 name servers: 3 are allowed",
        ),
        (with(r#""masqerade":true"#), "unknown field `masqerade`"),
        (
            with(r#""masquerade":{"pair":32768}"#),
            "the masquerade pair is above 32767",
        ),
    ] {
        let text = message(&json);
        assert!(text.starts_with(expected), "{json}: {text}");
    }
}

#[test]
fn no_message_quotes_a_key() {
    for json in [
        format!(r#"{{"mycelium":"{KEY}"}}"#),
        format!(r#"{{"mycelium":{{"hex_key":"{KEY}","{KEY}":1}}}}"#),
        format!(r#"{{"{KEY}":1}}"#),
    ] {
        let text = network(&json).unwrap_err().to_string();
        assert!(!text.contains(KEY), "{text}");
        assert!(text.contains('…'), "{text}");
    }
}

#[test]
fn bad_attachments_are_refused_with_one_clear_message() {
    for (json, expected) in [
        (
            r#"{"kind":"tap","seed":"000000000000"}"#,
            "the seed 000000000000 is reserved",
        ),
        (
            r#"{"kind":"tap","seed":"0011"}"#,
            "the seed has 4 characters",
        ),
        (r#"{"kind":"tun"}"#, "unknown variant `tun`"),
        (r#"{}"#, "missing field `kind`"),
        (
            r#"{"kind":"veth"}"#,
            "an attachment of kind veth needs netns",
        ),
        (
            r#"{"kind":"tap","netns":"x"}"#,
            "netns is for attachments of kind veth and netns",
        ),
        (
            r#"{"kind":"netns","netns":"/a/b"}"#,
            "the netns of an attachment of kind netns is a name",
        ),
        (
            r#"{"kind":"netns","interface":"sixteen-bytes-xx"}"#,
            "\"sixteen-bytes-xx\" is no interface name",
        ),
        (
            r#"{"kind":"tap","interface":"eth0"}"#,
            "interface is for attachments of kind",
        ),
        (
            r#"{"kind":"netns","owner":1000}"#,
            "owner is for attachments of kind tap",
        ),
        (
            r#"{"kind":"tap","addresses":["500::1"]}"#,
            "500::1 is outside the network's subnet",
        ),
        (
            r#"{"kind":"tap","addresses":["430:9364:d8d8:84a9::1"]}"#,
            "430:9364:d8d8:84a9::1 is the address of the network itself",
        ),
        (
            r#"{"kind":"tap","ipv4":1}"#,
            "ipv4 needs a network with masquerade",
        ),
        (
            r#"{"kind":"tap","mac":"01:00:00:00:00:01"}"#,
            "\"01:00:00:00:00:01\" is no MAC of a host",
        ),
        (
            r#"{"kind":"tap","allow":["tcp"]}"#,
            "\"tcp\" is no allow rule",
        ),
    ] {
        let text = attachment(json).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{json}: {text}");
    }
}

#[test]
fn names_are_file_names() {
    for text in ["a", "vm-1", "web_2.example", "9"] {
        assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
    }
    let long = "a".repeat(64);
    for text in ["", ".", "..", "-a", "_a", "a/b", "a b", "ä", long.as_str()] {
        assert!(text.parse::<Name>().is_err(), "{text:?}");
    }
}

#[test]
fn allow_rules_read_as_they_are_written() {
    for text in [
        "all",
        "icmp",
        "tcp/22",
        "udp/5000-5010",
        "tcp/80 from 400::/7",
        "all from 430:9364:d8d8:84a9::/64",
        "icmp from 430::1/128",
    ] {
        assert_eq!(text.parse::<Allow>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "tcp/0",
        "tcp/70000",
        "tcp/+22",
        "tcp/2-1",
        "sctp/1",
        "tcp/22 from",
        "tcp/22 from 400::1/7",
        "tcp/22 from 400::/129",
        "tcp/22 to 400::/7",
        "all from 400::/7 x",
    ] {
        assert!(text.parse::<Allow>().is_err(), "{text:?}");
    }
}

#[test]
fn a_long_name_has_short_interfaces() {
    let name = "a-name-longer-than-an-interface-may-have";
    let network = Network::new(name.parse().unwrap(), plain().spec).unwrap();
    assert!(network.names.bridge.len() <= 15);
    assert_eq!(network.id, naming::device_hash(name.as_bytes()));
}
