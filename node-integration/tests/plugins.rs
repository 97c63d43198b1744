//! The plugins as container engines run them: a process, its environment, JSON on standard input and output. After the
//! text of the CNI specification 1.1.0 and of netavark's plugin API.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use common::{Host, key, on_a_host, ping, settles, state};
use node_integration::desired::{Network, NetworkSpec};
use node_integration::reconcile::NoNode;
use node_integration::{link, named};
use serde_json::{Value, json};

fn network(host: &Host) -> Network {
    let users = node_integration::host::Host {
        directory: host.directory(),
        notes: host.scratch.path().join("notes"),
    };
    let mut spec = NetworkSpec::with_key(key(7));
    spec.name_servers = vec!["2001:4860:4860::8888".parse().unwrap()];
    users
        .create_network(&"pods".parse().unwrap(), &spec, &mut NoNode)
        .unwrap()
}

fn execute(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who needs no input may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Call the CNI plugin; what it prints, and whether it succeeded.
struct Cni<'a> {
    host: &'a Host,
    container: &'a str,
    interface: &'a str,
    netns: String,
    args: &'a str,
}

impl<'a> Cni<'a> {
    fn new(host: &'a Host, container: &'a str) -> Self {
        Self {
            host,
            container,
            interface: "eth0",
            netns: format!("{}/{container}", named::DIRECTORY),
            args: "",
        }
    }

    fn configuration(&self, version: &str, more: &Value) -> Value {
        let mut configuration = json!({
            "cniVersion": version,
            "name": "podnet",
            "type": "mycelium-cni",
            "network": "pods",
            "allow": ["icmp"],
            "netDir": self.host.scratch.path().join("net.d"),
            "notesDir": self.host.scratch.path().join("notes"),
        });
        for (name, value) in more.as_object().unwrap() {
            configuration[name] = value.clone();
        }
        configuration
    }

    fn call(&self, verb: &str, version: &str, more: &Value) -> Result<Value, Value> {
        self.call_with(verb, &self.configuration(version, more).to_string())
    }

    fn call_with(&self, verb: &str, input: &str) -> Result<Value, Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mycelium-cni"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", self.interface)
            .env("CNI_ARGS", self.args)
            .env("CNI_PATH", "/opt/cni/bin");
        let output = execute(&mut command, input);
        let text = String::from_utf8(output.stdout).unwrap();
        let value = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap(),
        };
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        if output.status.success() {
            Ok(value)
        } else {
            Err(value)
        }
    }
}

#[test]
fn a_container_is_added_checked_and_deleted_in_every_version() {
    on_a_host(|host| {
        let network = network(host);
        let before = state();
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let inside = named::create("pod1").unwrap();
            link::up(&inside, link::LOOPBACK).unwrap();
            let cni = Cni::new(host, "pod1");
            let none = json!({});
            let result = cni.call("ADD", version, &none).unwrap();
            assert_eq!(result["cniVersion"], version);
            let [outer, inner] = result["interfaces"].as_array().unwrap().as_slice() else {
                panic!("{result:#}");
            };
            assert!(outer["name"].as_str().unwrap().starts_with("t-"));
            assert_eq!(outer["sandbox"], Value::Null);
            assert_eq!(inner["name"], "eth0");
            assert_eq!(inner["sandbox"], cni.netns);
            assert_eq!(inner["mtu"] == 1400, version == "1.1.0");
            let ip = &result["ips"][0];
            assert_eq!(ip["interface"], 1);
            assert_eq!(ip["version"] == "6", version.starts_with('0'));
            assert_eq!(result["routes"][0]["dst"], "400::/7");
            assert_eq!(result["dns"]["nameservers"][0], "2001:4860:4860::8888");
            let address = ip["address"].as_str().unwrap();
            let address = address.strip_suffix("/128").unwrap().parse().unwrap();
            let found = link::addresses(&inside, "eth0").unwrap();
            assert!(found.contains(&(address, 128)), "{found:?}");
            assert!(ping(&inside, network.gateway()));

            let again = cni.call("ADD", version, &none).unwrap_err();
            assert_eq!(again["code"], 100, "{again}");
            let with_result = json!({ "prevResult": result });
            if version > "0.3.1" {
                assert_eq!(cni.call("CHECK", version, &with_result), Ok(Value::Null));
                link::remove_address(&inside, "eth0", address, 128).unwrap();
                let drifted = cni.call("CHECK", version, &with_result).unwrap_err();
                assert_eq!(drifted["code"], 101, "{drifted}");
            }
            assert_eq!(cni.call("DEL", version, &with_result), Ok(Value::Null));
            assert!(!link::names(&inside).unwrap().contains(&"eth0".to_owned()));
            assert_eq!(cni.call("DEL", version, &none), Ok(Value::Null), "again");
            assert!(cni.call("CHECK", version, &with_result).is_err());
            drop(inside);
            named::delete("pod1").unwrap();
            assert_eq!(
                cni.call("DEL", version, &none),
                Ok(Value::Null),
                "no namespace"
            );
            settles(&before, "");
        }
    });
}

#[test]
fn deletion_succeeds_after_the_namespace_went_first() {
    on_a_host(|host| {
        network(host);
        let before = state();
        named::create("pod1").unwrap();
        let mut cni = Cni::new(host, "pod1");
        cni.call("ADD", "1.1.0", &json!({})).unwrap();
        named::delete("pod1").unwrap();
        cni.netns = String::new();
        assert_eq!(cni.call("DEL", "1.1.0", &json!({})), Ok(Value::Null));
        settles(&before, "");
    });
}

#[test]
fn addresses_may_be_asked_for() {
    on_a_host(|host| {
        let network = network(host);
        let subnet = network.subnet().network_address();
        let with_host =
            |host: u64| std::net::Ipv6Addr::from_bits(subnet.to_bits() | u128::from(host));
        let seeded = with_host(0xff0f_0011_2233_4455);
        let free = with_host(0x42);
        let cases = [
            (
                "SEED=001122334455;IgnoreUnknown=1".to_owned(),
                json!({}),
                seeded,
            ),
            (format!("IP={seeded}"), json!({}), seeded),
            (
                String::new(),
                json!({ "runtimeConfig": { "ips": [format!("{seeded}/64")] } }),
                seeded,
            ),
            (
                String::new(),
                json!({ "runtimeConfig": { "ips": [format!("{free}/64")] } }),
                free,
            ),
        ];
        for (args, more, expected) in cases {
            let inside = named::create("pod1").unwrap();
            let mut cni = Cni::new(host, "pod1");
            cni.args = &args;
            let result = cni.call("ADD", "1.0.0", &more).unwrap();
            let expected = format!("{expected}/128");
            let has = result["ips"]
                .as_array()
                .unwrap()
                .iter()
                .any(|ip| ip["address"] == expected.as_str());
            assert!(has, "{expected}: {result:#}");
            cni.call("DEL", "1.0.0", &json!({})).unwrap();
            drop(inside);
            named::delete("pod1").unwrap();
        }
        named::create("pod1").unwrap();
        let mut cni = Cni::new(host, "pod1");
        cni.args = "IP=500::1";
        let refused = cni.call("ADD", "1.0.0", &json!({})).unwrap_err();
        assert_eq!(refused["code"], 7, "{refused}");
        assert!(refused["msg"].as_str().unwrap().contains("outside"));

        // A pod keeps its address when its container is made anew.
        cni.args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
        let by_pod = json!({ "seedFrom": "pod" });
        let first = cni.call("ADD", "1.0.0", &by_pod).unwrap();
        cni.call("DEL", "1.0.0", &by_pod).unwrap();
        named::create("pod2").unwrap();
        let mut cni = Cni::new(host, "pod2");
        cni.args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
        let second = cni.call("ADD", "1.0.0", &by_pod).unwrap();
        assert_eq!(first["ips"], second["ips"]);
    });
}

#[test]
fn what_is_not_valid_any_more_is_collected() {
    on_a_host(|host| {
        network(host);
        for name in ["pod1", "pod2"] {
            named::create(name).unwrap();
            Cni::new(host, name)
                .call("ADD", "1.1.0", &json!({}))
                .unwrap();
        }
        // Of another configuration on the same network, and nobody's: both stay.
        named::create("pod3").unwrap();
        let other = Cni::new(host, "pod3");
        other
            .call("ADD", "1.1.0", &json!({ "name": "othernet" }))
            .unwrap();
        let valid = json!({
            "cni.dev/valid-attachments": [{ "containerID": "pod1", "ifname": "eth0" }],
        });
        let collector = Cni::new(host, "unused");
        assert_eq!(collector.call("GC", "1.1.0", &valid), Ok(Value::Null));
        for (name, stays) in [("pod1", true), ("pod2", false), ("pod3", true)] {
            let names = link::names(&named::open(name).unwrap()).unwrap();
            assert_eq!(names.contains(&"eth0".to_owned()), stays, "{name}");
        }
        let missing = collector.call("GC", "1.1.0", &json!({})).unwrap_err();
        assert_eq!(missing["code"], 7);
    });
}

#[test]
fn it_says_what_it_is_and_whether_it_is_ready() {
    on_a_host(|host| {
        let cni = Cni::new(host, "pod1");
        let version = cni
            .call_with("VERSION", r#"{"cniVersion":"1.0.0"}"#)
            .unwrap();
        assert_eq!(version["cniVersion"], "1.0.0");
        assert!(
            version["supportedVersions"]
                .as_array()
                .unwrap()
                .contains(&"1.1.0".into())
        );
        let unready = cni.call("STATUS", "1.1.0", &json!({})).unwrap_err();
        assert_eq!(unready["code"], 50, "{unready}");
        network(host);
        assert_eq!(cni.call("STATUS", "1.1.0", &json!({})), Ok(Value::Null));
        link::delete(&node_integration::Namespace::current().unwrap(), "m-pods").unwrap();
        let unready = cni.call("STATUS", "1.1.0", &json!({})).unwrap_err();
        assert_eq!(unready["code"], 50, "{unready}");
    });
}

#[test]
fn bad_calls_are_refused_in_the_words_of_the_specification() {
    on_a_host(|host| {
        network(host);
        let before = state();
        let code = |cni: &Cni<'_>, verb: &str, version: &str, more: &Value| {
            let failure = cni.call(verb, version, more).unwrap_err();
            assert!(!failure["msg"].as_str().unwrap().is_empty());
            failure["code"].as_u64().unwrap()
        };
        let none = json!({});
        let cni = Cni::new(host, "pod1");
        assert_eq!(code(&cni, "ADD", "2.0.0", &none), 1);
        assert_eq!(code(&cni, "ADD", "1.0.0", &none), 4, "no such namespace");
        assert_eq!(code(&cni, "EAT", "1.0.0", &none), 4);
        assert_eq!(cni.call_with("ADD", "{").unwrap_err()["code"], 6);
        assert_eq!(
            code(&cni, "ADD", "1.0.0", &json!({ "network": "nowhere" })),
            7
        );
        let mut cni = Cni::new(host, "pod1");
        cni.container = "../etc";
        assert_eq!(code(&cni, "ADD", "1.0.0", &none), 4);
        cni.container = "pod1";
        cni.interface = "a/b";
        assert_eq!(code(&cni, "ADD", "1.0.0", &none), 4);
        settles(&before, "");
    });
}

/// Call the netavark plugin.
fn netavark(arguments: &[&str], input: &Value) -> Result<Value, Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mycelium-netavark"));
    let output = execute(command.args(arguments), &input.to_string());
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() {
        Ok(value)
    } else {
        Err(value)
    }
}

#[test]
fn podman_networks_are_created_set_up_and_torn_down() {
    on_a_host(|host| {
        let network = network(host);
        let before = state();
        let info = netavark(&["info"], &Value::Null).unwrap();
        assert_eq!(info["api_version"], "1.0.0");

        let mut described = json!({
            "name": "podnet", "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
            "driver": "mycelium-netavark", "dns_enabled": false, "internal": false, "ipv6_enabled": true,
            "options": {
                "network": "pods", "allow": "icmp, tcp/80",
                "net_dir": host.scratch.path().join("net.d"),
                "notes_dir": host.scratch.path().join("notes"),
            },
        });
        let created = netavark(&["create"], &described).unwrap();
        assert_eq!(created["name"], "podnet");
        let path = format!("{}/box", named::DIRECTORY);
        let inside = named::create("box").unwrap();
        link::up(&inside, link::LOOPBACK).unwrap();
        let setup = json!({
            "container_id": "0c1d", "container_name": "web", "port_mappings": [],
            "network": created,
            "network_options": { "interface_name": "eth0", "static_mac": "02:00:00:00:00:07" },
        });
        let status = netavark(&["setup", &path], &setup).unwrap();
        let interface = &status["interfaces"]["eth0"];
        assert_eq!(interface["mac_address"], "02:00:00:00:00:07");
        assert_eq!(status["dns_server_ips"][0], "2001:4860:4860::8888");
        assert!(
            interface["subnets"][0]["ipnet"]
                .as_str()
                .unwrap()
                .ends_with("/128")
        );
        assert!(ping(&inside, network.gateway()));
        netavark(&["teardown", &path], &setup).unwrap();
        netavark(&["teardown", &path], &setup).unwrap();

        // The next container of that name has its address; one that asks for a seed has that.
        let address = interface["subnets"][0]["ipnet"].clone();
        let mut next = setup;
        next["container_id"] = "1d2e".into();
        let again = netavark(&["setup", &path], &next).unwrap();
        assert_eq!(again["interfaces"]["eth0"]["subnets"][0]["ipnet"], address);
        netavark(&["teardown", &path], &next).unwrap();
        next["network_options"]["options"] =
            json!({ "seed": "001122334455", "allow": "udp/53; tcp/443 from 400::/7" });
        let seeded = netavark(&["setup", &path], &next).unwrap();
        let seeded = seeded["interfaces"]["eth0"]["subnets"][0]["ipnet"].clone();
        assert!(seeded.as_str().unwrap().ends_with(":ff0f:11:2233:4455/128"));
        let name = "podman.1d2e.eth0".parse().unwrap();
        let made = host.directory().attachment(&network, &name).unwrap();
        assert_eq!(made.spec.allow.len(), 4);
        netavark(&["teardown", &path], &next).unwrap();
        next["network_options"]["options"] = json!({ "sed": "001122334455" });
        let refused = netavark(&["setup", &path], &next).unwrap_err();
        assert!(refused["error"].as_str().unwrap().contains("\"sed\""));
        drop(inside);
        named::delete("box").unwrap();
        settles(&before, "");

        for (name, value) in [("network", "nowhere"), ("speed", "high"), ("allow", "tcp")] {
            let mut bad = described.clone();
            bad["options"][name] = value.into();
            let refused = netavark(&["create"], &bad).unwrap_err();
            assert!(!refused["error"].as_str().unwrap().is_empty());
        }
        described["subnets"] = json!([{ "subnet": "10.88.0.0/16" }]);
        assert!(netavark(&["create"], &described).is_err());
    });
}
