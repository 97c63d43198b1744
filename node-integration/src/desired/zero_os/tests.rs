use serde_json::{Value, json};

use super::*;
use crate::desired::DesiredError;
use crate::object::{self, Object};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Data of a `network` workload.
fn network() -> Value {
    json!({
        "subnet": "10.20.2.0/24", "ip_range": "10.20.0.0/16",
        "wireguard_private_key": "4g3nQrM1wBbXEYm1tF1sqqUjSaXQo3yZzSGn0oJPm2E=", "wireguard_listen_port": 3011,
        "peers": [peer()],
        "mycelium": {"hex_key": KEY, "peers": null}
    })
}

/// Data of a `network-light` workload.
fn network_light() -> Value {
    json!({
        "subnet": "10.20.2.0/24",
        "mycelium": {"hex_key": KEY.to_uppercase(), "peers": []},
        "ip_range": "10.20.0.0/16", "wireguard_private_key": "", "wireguard_listen_port": 0, "peers": null
    })
}

/// `WgPeer`.
fn peer() -> Value {
    json!({
        "subnet": "10.20.3.0/24", "wireguard_public_key": "u6NhD1h9WnBhJfbrUk0a0Vb4m0rV3mXGZg0q8w2CyEk=",
        "allowed_ips": ["10.20.3.0/24", "100.64.20.3/32"], "endpoint": "192.0.2.7:3011"
    })
}

/// `zmachine.network`.
fn machine_network() -> Value {
    json!({
        "public_ip": "ip1", "planetary": true,
        "mycelium": {"Network": "mynet", "hex_seed": "6c9711e34e84"},
        "interfaces": [{"network": "mynet", "ip": "10.20.2.5"}]
    })
}

/// `zmachine-light.network`, as SDKs print the seed.
fn machine_light_network() -> Value {
    json!({
        "mycelium": {"network": "mynet", "hex_seed": "bJcR406E"},
        "interfaces": [{"network": "mynet", "ip": "10.20.2.5"}]
    })
}

fn machine(network: &Value) -> Value {
    json!({
        "flist": "https://hub.example.org/debian.flist", "network": network, "size": 0,
        "compute_capacity": {"cpu": 1, "memory": 1_073_741_824}, "mounts": [], "entrypoint": "/sbin/zinit init",
        "env": {"SSH_KEY": "ssh-ed25519 AAAA someone"}, "corex": false
    })
}

/// `gateway-name-proxy` and `gateway-fqdn-proxy`.
fn gateways() -> [Value; 2] {
    [
        workload(
            "web",
            "gateway-name-proxy",
            &json!({"tls_passthrough": false, "backends": ["http://[430:9364:d8d8:84a9:ff0f:6c97:11e3:4e84]:80"], "name": "web"}),
        ),
        workload(
            "shop",
            "gateway-fqdn-proxy",
            &json!({"tls_passthrough": true, "backends": ["10.20.2.5:443"], "network": "mynet", "fqdn": "shop.example.org"}),
        ),
    ]
}

fn workload(name: &str, kind: &str, data: &Value) -> Value {
    json!({"version": 0, "name": name, "type": kind, "data": data, "metadata": "", "description": "",
        "result": {"created": 0, "state": "", "message": "", "data": null}})
}

fn deployment(workloads: &[Value]) -> Value {
    json!({"version": 0, "twin_id": 26, "contract_id": 1234, "metadata": "", "description": "", "expiration": 0,
        "signature_requirement": {"requests": [], "weight_required": 1, "signatures": [], "signature_style": ""},
        "workloads": workloads})
}

fn read(workloads: &[Value]) -> Result<Deployment, DesiredError> {
    Deployment::from_json(&deployment(workloads).to_string())
}

fn wanted(workloads: &[Value]) -> Vec<Wanted> {
    let deployment = read(workloads).unwrap();
    deployment
        .workloads
        .into_iter()
        .map(|workload| workload.wanted)
        .collect()
}

/// The network and the tap of one network and one machine.
fn tap(network: &Value, kind: &str, machine_network: &Value) -> (Network, Attachment) {
    let wanted = wanted(&[
        workload("vm1", "zmachine", &machine(machine_network)),
        workload("mynet", kind, network),
    ]);
    let [
        Wanted::Tap {
            network: of,
            name,
            spec,
        },
        Wanted::Network {
            name: net_id,
            spec: described,
        },
    ] = wanted.as_slice()
    else {
        panic!("{wanted:?}");
    };
    assert_eq!(of, net_id);
    let network = Network::new(net_id.clone(), (**described).clone()).unwrap();
    let attachment = Attachment::new(&network, name.clone(), (**spec).clone()).unwrap();
    (network, attachment)
}

#[test]
fn a_full_network_makes_what_a_light_one_makes() {
    let (mut full, machine) = tap(&network(), "network", &machine_network());
    let (light, light_machine) = tap(&network_light(), "network-light", &machine_light_network());
    assert_eq!(full.names.namespace, "n-B3gDSpMoHJXdF");
    assert_eq!(light.names.namespace, "nB3gDSpMoHJXdF");
    assert_eq!(machine.names.port, "t-FMM8nnDHtrTXn");
    assert_eq!(light_machine.names.port, "m-WS9GZgAXWZJdB");
    assert_eq!(machine.address, light_machine.address);
    // The plan is the same but for the names of the profile.
    assert_ne!(object::network(&full), object::network(&light));
    full.spec.profile = Profile::Light;
    full = Network::new(full.name, full.spec).unwrap();
    assert_eq!(object::network(&full), object::network(&light));
    let machine = Attachment::new(&full, machine.name, machine.spec).unwrap();
    let plan: Vec<Object> = object::attachment(&full, &machine);
    assert_eq!(plan, object::attachment(&light, &light_machine));
}

#[test]
fn nothing_but_the_key_is_taken_from_a_network() {
    let mut data = network();
    for (field, value) in [
        // Ours, which are not for tenants.
        ("masquerade", json!({"pair": 3})),
        ("id", json!("B3gDSpMoHJXdG")),
        ("profile", json!("native")),
        // Theirs, not judged by us.
        ("subnet", json!("10.20.2.0/33")),
        ("wireguard_listen_port", json!(-1)),
        ("peers", json!({"wireguard_public_key": 7})),
        ("what_comes_next_year", json!([])),
    ] {
        data[field] = value;
    }
    let (network, _) = tap(&data, "network", &machine_network());
    let (plain, _) = tap(&self::network(), "network", &machine_network());
    assert_eq!(network, plain);
    let written = serde_json::to_string(&network.spec).unwrap();
    assert!(!written.contains("wireguard"), "{written}");
}

#[test]
fn a_network_without_a_key_is_passed_over() {
    let mut data = network();
    for key in [Value::Null, Value::Bool(true)] {
        data["mycelium"] = key;
        let outcome = read(&[workload("mynet", "network", &data)]);
        assert_eq!(outcome.is_ok(), data["mycelium"].is_null(), "{outcome:?}");
    }
    data.as_object_mut().unwrap().remove("mycelium");
    assert_eq!(
        wanted(&[workload("mynet", "network", &data)]),
        [Wanted::Nothing]
    );
}

#[test]
fn a_machine_without_mycelium_is_passed_over() {
    let mut data = machine_network();
    data["mycelium"] = Value::Null;
    let machines = [
        workload("vm1", "zmachine", &machine(&data)),
        workload(
            "vm2",
            "zmachine-light",
            &machine(&json!({"interfaces": null})),
        ),
    ];
    assert_eq!(wanted(&machines), [Wanted::Nothing, Wanted::Nothing]);
}

#[test]
fn gateways_and_others_change_nothing() {
    let ours = [
        workload("mynet", "network-light", &network_light()),
        workload("vm1", "zmachine-light", &machine(&machine_light_network())),
    ];
    let alone = wanted(&ours);
    let mut others = gateways().to_vec();
    others.push(workload("ip1", "ip", &json!({"v4": true, "v6": false})));
    others.push(workload("disk", "zmount", &json!({"size": 1})));
    others.push(workload("db", "zdb", &Value::Null));
    // Broken, but not ours.
    others.push(workload(
        "broken",
        "gateway-name-proxy",
        &json!({"backends": 7}),
    ));
    for at in 0..=ours.len() {
        let mut all = others.clone();
        all.splice(at..at, ours.clone());
        let mut found = wanted(&all);
        found.retain(|wanted| *wanted != Wanted::Nothing);
        assert_eq!(found, alone);
        assert_eq!(read(&all).unwrap().workloads.len(), all.len());
    }
}

#[test]
fn results_of_a_node_are_not_in_the_way_and_what_is_deleted_is_not_made() {
    let with_result = |state: &str, data: Value| {
        let mut network = workload("mynet", "network", &network());
        network["result"] =
            json!({"created": 1_700_000_000, "state": state, "message": "", "data": data});
        wanted(&[network])
    };
    let fresh = wanted(&[workload("mynet", "network", &network())]);
    for data in [
        json!({"id": "26-1234-vm1", "ip": "10.20.2.5", "planetary_ip": "", "mycelium_ip": "430::1", "console_url": ""}),
        json!({"id": "26-1234-vm1", "ip": "10.20.2.5", "ygg_ip": "300::1", "mycelium_ip": "", "console_url": ""}),
        json!({"fqdn": "web.gent01.example.org"}),
    ] {
        assert_eq!(with_result("ok", data.clone()), fresh);
        assert_eq!(with_result("error", data.clone()), fresh);
        assert_eq!(with_result("deleted", data), [Wanted::Nothing]);
    }
}

#[test]
fn a_machine_is_answered_for_as_by_zero_os() {
    let (network, attachment) = tap(&network_light(), "network-light", &machine_light_network());
    assert_eq!(
        serde_json::to_string(&MachineResult::of(&attachment)).unwrap(),
        r#"{"id":"26-1234-vm1","ip":"","planetary_ip":"","mycelium_ip":"430:9364:d8d8:84a9:ff0f:6c97:11e3:4e84","console_url":""}"#
    );
    assert_eq!(
        serde_json::to_string(&MachineTap::of(&network, &attachment)).unwrap(),
        r#"{"Name":"m-WS9GZgAXWZJdB","Mac":"f6:1e:35:34:c1:f9","IP":"430:9364:d8d8:84a9:ff0f:6c97:11e3:4e84/64","Routes":[{"Net":"400::/7","Gateway":"430:9364:d8d8:84a9::1"}]}"#
    );
    let (network, attachment) = tap(&self::network(), "network", &machine_network());
    assert_eq!(
        serde_json::to_string(&MachineTap::of(&network, &attachment)).unwrap(),
        r#"{"Name":"t-FMM8nnDHtrTXn","HW":"d2:e0:f7:d6:32:8d","IP":"430:9364:d8d8:84a9:ff0f:6c97:11e3:4e84/64","Gateway":"430:9364:d8d8:84a9::1/64"}"#
    );
}

#[test]
fn a_network_and_its_wireguard_peers_describe_a_network_by_themselves() {
    for data in [network(), network_light()] {
        let spec = NetworkSpec::from_json(&data.to_string()).unwrap();
        let named = Network::new("mynet".parse().unwrap(), spec.clone()).unwrap();
        assert_eq!(named.gateway().to_string(), "430:9364:d8d8:84a9::1");
        let written = serde_json::to_string(&spec).unwrap();
        assert_eq!(NetworkSpec::from_json(&written).unwrap(), spec);
    }
    let spec = NetworkSpec::from_json(&network().to_string()).unwrap();
    assert_eq!(serde_json::to_value(&spec.peers).unwrap(), json!([peer()]));
}

#[test]
fn what_describes_a_host_is_neither_a_deployment_nor_a_network() {
    for (document, as_deployment, as_network) in [
        (
            // `PublicConfig`.
            json!({"type": "macvlan", "ipv4": "192.0.2.9/24", "ipv6": "2001:db8::9/64", "gw4": "192.0.2.1",
                "gw6": "2001:db8::1", "domain": "gent01.example.org"}),
            "missing field `twin_id`",
            "unknown field `domain`",
        ),
        (
            // `zos-config`.
            json!({"mycelium": {"peers": ["tcp://192.0.2.2:9651"]}, "yggdrasil": {"peers": ["tls://192.0.2.3:17514"]},
                "users": {"authorized": []}}),
            "missing field `twin_id`",
            "missing field `hex_key`",
        ),
    ] {
        let text = document.to_string();
        let error = Deployment::from_json(&text).unwrap_err().to_string();
        assert!(error.starts_with(as_deployment), "{error}");
        let error = NetworkSpec::from_json(&text).unwrap_err().to_string();
        assert!(error.starts_with(as_network), "{error}");
    }
}

#[test]
fn bad_deployments_are_refused_with_one_clear_message() {
    let network_with = |key: Value| workload("mynet", "network-light", &json!({"mycelium": key}));
    let machine_with = |mycelium: Value| {
        workload(
            "vm1",
            "zmachine-light",
            &machine(&json!({"mycelium": mycelium})),
        )
    };
    for (workloads, expected) in [
        (
            vec![network_with(json!({"hex_key": "00"}))],
            "workload \"mynet\": the key has 2 characters",
        ),
        (
            vec![network_with(json!({"hex_key": "00".repeat(32)}))],
            "workload \"mynet\": a key of zeros only is no secret",
        ),
        (
            vec![network_with(json!({}))],
            "workload \"mynet\": missing field `hex_key`",
        ),
        (
            vec![machine_with(
                json!({"Network": "mynet", "hex_seed": "000000000000"}),
            )],
            "workload \"vm1\": the seed 000000000000 is reserved",
        ),
        (
            vec![machine_with(
                json!({"Network": "mynet", "hex_seed": "////////"}),
            )],
            "workload \"vm1\": the seed ffffffffffff is reserved",
        ),
        (
            vec![machine_with(json!({"Network": "mynet"}))],
            "workload \"vm1\": missing field `hex_seed`",
        ),
        (
            vec![workload(
                &"v".repeat(64),
                "zmachine-light",
                &machine(&machine_light_network()),
            )],
            &format!(
                "workload \"{0}\": \"26-1234-{0}\" is no usable name",
                "v".repeat(64)
            ),
        ),
        (
            vec![gateways()[0].clone(), gateways()[0].clone()],
            "workload \"web\": another workload of the deployment has this name",
        ),
        (
            vec![workload("v\u{1b}[31m", "zmachine", &json!({}))],
            "workload \"v\\u{1b}[31m\": missing field `network`",
        ),
        (vec![json!({"name": "a"})], "missing field `type`"),
    ] {
        let error = read(&workloads).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    for (text, expected) in [
        ("", "EOF while parsing"),
        ("[]", "invalid length 0"),
        (r#"{"twin_id":-1}"#, "invalid value: integer `-1`"),
        (
            r#"{"twin_id":1,"contract_id":1,"workloads":{"\u001b[31m":1}}"#,
            "invalid type: map",
        ),
    ] {
        let error = Deployment::from_json(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn no_message_of_a_deployment_quotes_a_key_or_drives_a_terminal() {
    for data in [
        json!({"mycelium": KEY}),
        json!({"mycelium": {"hex_key": KEY, KEY: 1}}),
        json!({"mycelium": {"hex_key": KEY, "\u{1b}[2J\u{202e}": 1}}),
    ] {
        let error = read(&[workload("mynet", "network", &data)]).unwrap_err();
        let error = error.to_string();
        assert!(!error.contains(KEY), "{error}");
        assert!(!error.contains(['\u{1b}', '\u{202e}', '\n']), "{error:?}");
    }
}
