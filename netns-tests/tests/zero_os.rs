//! Deployments of Zero-OS: what of them is ours is made, the rest is passed over, and a bad one leaves nothing behind.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use netns_tests::attach::{Networks, own_names};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::Lab;
use node_integration::{link, named};
use serde_json::{Value, json};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn main() -> ExitCode {
    run(vec![
        case("deployment", deployment),
        case("bad_deployments", bad_deployments),
        case("bad_files", bad_files),
    ])
}

/// A host without a node or networks, and a place for files.
struct World {
    networks: Networks,
    files: PathBuf,
}

impl World {
    fn start(scratch: &Scratch) -> anyhow::Result<Self> {
        own_names()?;
        let host = Lab::new().host("a")?;
        Ok(Self {
            networks: Networks::new(scratch, &Arc::clone(&host)),
            files: scratch.path().to_owned(),
        })
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<String> {
        let path = self.files.join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    fn deploy(&self, workloads: &[Value]) -> anyhow::Result<Value> {
        let file = self.write("deployment.json", of(workloads).to_string())?;
        self.networks.json(&format!("net deploy {file}"))
    }

    fn refuses(&self, workloads: &[Value], expected: &str) -> anyhow::Result<()> {
        let file = self.write("deployment.json", of(workloads).to_string())?;
        self.networks.refuses(&["net", "deploy", &file], expected)
    }
}

fn of(workloads: &[Value]) -> Value {
    json!({"version": 0, "twin_id": 26, "contract_id": 1234, "workloads": workloads})
}

fn workload(name: &str, kind: &str, data: &Value) -> Value {
    json!({"version": 0, "name": name, "type": kind, "data": data})
}

fn network(name: &str, kind: &str, key: &str) -> Value {
    let data = json!({
        "subnet": "10.20.2.0/24", "ip_range": "10.20.0.0/16", "wireguard_private_key": "", "wireguard_listen_port": 0,
        "peers": null, "mycelium": {"hex_key": key, "peers": null}
    });
    workload(name, kind, &data)
}

fn machine(name: &str, network: &str, seed: &str) -> Value {
    let network = json!({
        "public_ip": "", "planetary": false, "mycelium": {"Network": network, "hex_seed": seed},
        "interfaces": [{"network": network, "ip": "10.20.2.5"}]
    });
    workload(name, "zmachine", &json!({"flist": "", "network": network}))
}

fn gateway() -> Value {
    let data =
        json!({"tls_passthrough": false, "backends": ["http://10.20.2.5:80"], "name": "web"});
    workload("web", "gateway-name-proxy", &data)
}

/// A deployment is made, again without a change, and taken back without a trace.
fn deployment(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let networks = &world.networks;
    let before = networks.state()?;
    // A machine before its network, and what is not ours around them.
    let workloads = [
        gateway(),
        machine("vm1", "mynet", "6c9711e34e84"),
        network("mynet", "network-light", KEY),
        network("full", "network", OTHER_KEY),
        machine("vm2", "full", "bJcR406E"),
        workload("disk", "zmount", &json!({"size": 1})),
    ];
    let answer = world.deploy(&workloads)?;
    ensure!(answer[0] == json!({"name": "web", "type": "gateway-name-proxy"}));
    ensure!(
        answer[1]["result"]
            == json!({"id": "26-1234-vm1", "ip": "", "planetary_ip": "",
                "mycelium_ip": "430:9364:d8d8:84a9:ff0f:6c97:11e3:4e84", "console_url": ""}),
        "{answer:#}"
    );
    ensure!(answer[1]["tap"]["Name"] == "m-WS9GZgAXWZJdB", "{answer:#}");
    ensure!(answer[2]["network"] == "B3gDSpMoHJXdF", "{answer:#}");
    ensure!(answer[4]["tap"]["HW"].is_string(), "{answer:#}");
    let host = networks.host().namespace();
    for answer in [&answer[1], &answer[4]] {
        let tap = answer["tap"]["Name"].as_str().context("a tap")?;
        ensure!(link::index(host, tap)?.is_some(), "no {tap}");
    }
    for namespace in ["nB3gDSpMoHJXdF".to_owned(), {
        let id = answer[3]["network"].as_str().context("a network")?;
        format!("n-{id}")
    }] {
        named::open(&namespace)?;
    }
    ensure!(networks.run("net plan")? == "nothing to do\n");

    // Again: nothing changes, nor does what the host's operator has decided.
    networks.run("net create B3gDSpMoHJXdF --dns 2001:db8::53")?;
    let made = networks.state()?;
    ensure!(world.deploy(&workloads)? == answer);
    ensure!(networks.state()? == made);
    // A machine of a later deployment in the same network.
    let later = world.deploy(&[machine("vm3", "mynet", "001122334455")])?;
    ensure!(later[0]["network"] == "B3gDSpMoHJXdF", "{later:#}");

    networks.run("detach B3gDSpMoHJXdF 26-1234-vm3")?;
    ensure!(networks.state()? == made);
    let full = answer[3]["network"].as_str().context("a network")?;
    networks.run(&format!("net delete B3gDSpMoHJXdF {full}"))?;
    ensure!(networks.state()? == before);
    Ok(())
}

/// What is wrong anywhere in a deployment keeps all of it from being made.
fn bad_deployments(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let good = || network("mynet", "network-light", KEY);
    for (workloads, expected) in [
        (
            vec![good(), network("second", "network", &KEY[2..])],
            "workload \"second\": the key has 62 characters",
        ),
        (
            vec![good(), network("second", "network", KEY)],
            "have the same key",
        ),
        (
            vec![good(), machine("vm1", "mynet", "ffffffffffff")],
            "workload \"vm1\": the seed ffffffffffff is reserved",
        ),
        (
            vec![
                good(),
                machine("vm1", "mynet", "001122334455"),
                machine("vm2", "mynet", "ABEiM0RV"),
            ],
            "would both have 430:9364:d8d8:84a9:ff0f:11:2233:4455",
        ),
        (
            vec![good(), machine("vm1", "other", "001122334455")],
            "workload \"vm1\": its network \"other\" has no mycelium key",
        ),
        (
            vec![good(), machine(&"v".repeat(64), "mynet", "001122334455")],
            "is no usable name",
        ),
        (
            vec![good(), machine("../../vm1", "mynet", "001122334455")],
            "is no usable name",
        ),
        (
            vec![gateway(), gateway()],
            "workload \"web\": another workload of the deployment has this name",
        ),
    ] {
        world.refuses(&workloads, expected)?;
    }

    // A stranger's interface where a tap shall be: what was made before it goes again.
    let host = world.networks.host().namespace();
    link::bridge(host, "m-WS9GZgAXWZJdB")?;
    let workloads = [good(), machine("vm1", "mynet", "001122334455")];
    world.refuses(&workloads, "m-WS9GZgAXWZJdB")?;
    link::delete(host, "m-WS9GZgAXWZJdB")?;
    world.deploy(&workloads)?;

    // What was there stays: the bridge is gone, and the second machine is not half made.
    link::delete(host, "mB3gDSpMoHJXdF")?;
    let workloads = [machine("vm2", "mynet", "aabbccddeeff")];
    world.refuses(&workloads, "mB3gDSpMoHJXdF")?;
    world.networks.run("net apply")?;
    world.deploy(&workloads)?;
    Ok(())
}

/// Files that are no deployment, description or key.
fn bad_files(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let networks = &world.networks;
    let directory = scratch.path().display().to_string();
    // What Zero-OS keeps beside deployments: of the host's public interface, and of the grid.
    let public = world.write(
        "public.json",
        r#"{"type":"macvlan","ipv4":"192.0.2.9/24","ipv6":"","gw4":"192.0.2.1","gw6":"","domain":""}"#,
    )?;
    let grid = world.write(
        "zos.json",
        r#"{"mycelium":{"peers":["tcp://192.0.2.2:9651"]}}"#,
    )?;
    let short = world.write("short", [7; 31])?;
    let escape = world.write("escape.json", "{\"\\u001b[31m\":1}")?;
    let binary = world.write("binary", [0xff; 64])?;
    let latin = world.write("latin.json", b"{\"mycelium\":\"\xe4\"}")?;
    for (words, expected) in [
        (&["net", "deploy", &public][..], "missing field `twin_id`"),
        (&["net", "deploy", &grid], "missing field `twin_id`"),
        (&["net", "deploy", &binary], "cannot read"),
        (&["net", "deploy", &directory], "cannot read"),
        (&["net", "deploy", "/nowhere"], "cannot read /nowhere"),
        (
            &["net", "create", "blue", "--spec", &public],
            "unknown field `type`",
        ),
        (
            &["net", "create", "blue", "--spec", &grid],
            "missing field `hex_key`",
        ),
        (
            &["net", "create", "blue", "--spec", &escape],
            "unknown field",
        ),
        (&["net", "create", "blue", "--spec", &latin], "cannot read"),
        (
            &["net", "create", "blue", "--spec", "/nowhere"],
            "cannot read /nowhere",
        ),
        (
            &["net", "create", "blue", "--network-key-file", &short],
            "31 characters: 32 bytes are",
        ),
        (
            &["net", "create", "blue", "--ed25519-seed-file", &short],
            "an Ed25519 seed has 32 bytes, not 31",
        ),
        (
            &["net", "create", "blue", "--profile", "light"],
            "needs an id, or the twin",
        ),
    ] {
        networks.refuses(words, expected)?;
    }

    // A description without a key, as of a network that has only WireGuard: it gets one, and keeps it.
    let keyless = world.write(
        "keyless.json",
        r#"{"subnet":"10.20.2.0/24","ip_range":"10.20.0.0/16","wireguard_private_key":"","wireguard_listen_port":0,"peers":[]}"#,
    )?;
    let create = format!("net create blue --spec {keyless}");
    let address = networks.json(&create)?["address"].clone();
    ensure!(networks.json(&create)?["address"] == address);
    // One that cannot be read may still hold its key: it is not written anew.
    let file = networks.directory().join("blue/network.json");
    let good = std::fs::read_to_string(&file)?;
    std::fs::write(&file, good.replace("addressing", "adressing"))?;
    networks.refuses(&["net", "create", "blue"], "unknown field `adressing`")?;
    std::fs::write(&file, good)?;
    ensure!(networks.json("net create blue")?["address"] == address);
    Ok(())
}
