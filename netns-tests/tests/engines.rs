//! Container engines as Debian ships them, with our plugins: what they start is on the overlay, and what they remove is
//! gone from it.

use std::process::{Child, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::attach::{Networks, own_names};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::engine::{self, CONTAINER, LIFE, Machine, PLUGINS};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab, Wire};
use netns_tests::probe::ping::Pinger;
use netns_tests::topology::reachable;
use netns_tests::wait;
use node_integration::{link, named};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let cases = vec![
        case("cnitool", cnitool),
        case("containerd", containerd),
        case("podman", podman),
        case("netavark", netavark),
    ];
    run(cases
        .into_iter()
        .map(|case| case.unless(engine::missing()))
        .collect())
}

/// A host with a user network and container engines, and a node elsewhere.
struct World {
    networks: Networks,
    machine: Machine,
    remote: Arc<Host>,
    _node: Node,
    _remote_node: Node,
    _wire: Wire,
}

impl World {
    /// The network is called `pods`, and there is a namespace `box` for who starts no container.
    fn start(scratch: &Scratch) -> anyhow::Result<Self> {
        own_names()?;
        let lab = Lab::new();
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let wire = lab.wire(&a, &b)?;
        let networks = Networks::new(scratch, &a);
        let options = NodeOptions::new(Ours, "a").arguments(networks.arguments());
        let node = Node::start(scratch, &a, options)?;
        let peer = format!("tcp://{}:9651", wire.left.v4());
        let remote_node = Node::start(scratch, &b, NodeOptions::new(Ours, "b").peer(peer))?;
        reachable(&b, &node, PATIENCE)?;
        networks.create("pods", "")?;
        named::create("box")?;
        let machine = Machine::start(scratch, &a)?;
        Ok(Self {
            networks,
            machine,
            remote: b,
            _node: node,
            _remote_node: remote_node,
            _wire: wire,
        })
    }

    /// The attachments of the network.
    fn attachments(&self) -> anyhow::Result<Vec<Value>> {
        let shown = self.networks.json("net show pods")?;
        Ok(shown["attachments"].as_array().context("a list")?.clone())
    }

    /// There is one workload, which the remote node reaches; its attachment.
    fn has_one(&self) -> anyhow::Result<Value> {
        let attachments = self.attachments()?;
        let [attachment] = attachments.as_slice() else {
            anyhow::bail!("one attachment is wanted: {attachments:#?}");
        };
        let address = attachment["address"].as_str().context("an address")?;
        let pinger = Pinger::start(&self.remote, address.parse()?, Duration::from_millis(10))?;
        pinger
            .reply_since(Instant::now() - PATIENCE, PATIENCE)
            .with_context(|| format!("the remote node to {address}"))?;
        Ok(attachment.clone())
    }

    /// There is none, and no interface of one either.
    fn has_none(&self) -> anyhow::Result<()> {
        let attachments = self.attachments()?;
        ensure!(attachments.is_empty(), "{attachments:#?}");
        wait::until("no cable is left", PATIENCE, || {
            let names = link::names(self.networks.host().namespace())?;
            let left: Vec<_> = names.iter().filter(|name| name.starts_with("t-")).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
    }

    fn directories(&self) -> (String, String) {
        let (directory, notes) = (self.networks.directory(), self.networks.notes());
        (directory.display().to_string(), notes.display().to_string())
    }

    /// The list of CNI plugins that is ours alone.
    fn configure_cni(&self) -> anyhow::Result<()> {
        let (net_dir, notes_dir) = self.directories();
        let list = json!({
            "cniVersion": "1.0.0",
            "name": "mycelium",
            "plugins": [{
                "type": "mycelium-cni", "network": "pods", "allow": ["icmp"],
                "netDir": net_dir, "notesDir": notes_dir,
            }],
        });
        let file = "/etc/cni/net.d/10-mycelium.conflist";
        self.machine.write(file, &list.to_string())
    }
}

/// libcni calls the plugin: it adds, checks, notices what was taken away, deletes, and deletes again.
fn cnitool(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    world.configure_cni()?;
    let tool = |verb| ["cnitool", verb, "mycelium", "/run/netns/box"];
    let result: Value = serde_json::from_str(&world.machine.run(&tool("add"))?)?;
    let attachment = world.has_one()?;
    let address = attachment["address"].as_str().context("an address")?;
    ensure!(
        result["ips"][0]["address"] == format!("{address}/128"),
        "{result:#}"
    );
    world.machine.run(&tool("check"))?;
    let again = world.machine.try_run(&tool("add"))?;
    ensure!(!again.status.success(), "it was added twice");
    world.has_one()?;
    let inside = named::open("box")?;
    link::remove_address(&inside, "eth0", address.parse()?, 128)?;
    let drifted = world.machine.try_run(&tool("check"))?;
    ensure!(!drifted.status.success(), "an address is missing");
    world.machine.run(&tool("del"))?;
    world.has_none()?;
    world.machine.run(&tool("del"))?;
    Ok(())
}

/// A daemon of a machine.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ctr run --cni` starts a container from a root file system.
fn containerd(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    world.configure_cni()?;
    let machine = &world.machine;
    let log = std::fs::File::create(scratch.path().join("containerd.log"))?;
    let mut command = machine.command(&["containerd"]);
    command.stdout(log.try_clone()?).stderr(log);
    let _daemon = Daemon(machine.host().spawn(&mut command)?);
    wait::until("containerd answers", PATIENCE, || {
        machine.run(&["ctr", "version"]).map(Some)
    })?;
    // Shares of a processor need a controller that this hierarchy of control groups need not have.
    let start = ["ctr", "run", "--detach", "--cni", "--cpu-shares", "0"];
    let container = ["--rootfs", CONTAINER, "web", "/bin/sleep", LIFE];
    machine.run(&[start.as_slice(), &container].concat())?;
    world.has_one()?;
    let seen = machine.run(&[
        "ctr",
        "task",
        "exec",
        "--exec-id",
        "look",
        "web",
        "/bin/ip",
        "-6",
        "route",
    ])?;
    ensure!(seen.contains("400::/7 via fe80::1 dev eth0"), "{seen}");
    machine.run(&["ctr", "task", "kill", "--signal", "KILL", "web"])?;
    wait::until("the task has ended", PATIENCE, || {
        let tasks = machine.run(&["ctr", "task", "list"])?;
        Ok(tasks.contains("STOPPED").then_some(()))
    })?;
    // The exit code of what was killed is no failure of removing it.
    machine.try_run(&["ctr", "task", "delete", "web"])?;
    machine.run(&["ctr", "container", "delete", "web"])?;
    world.has_none()
}

/// `podman network create` and `podman run`, as docs/operations.md has them.
fn podman(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let machine = &world.machine;
    // Control groups are what a machine of a test need not have.
    machine.write(
        "/etc/containers/containers.conf",
        &format!(
            "[network]\nnetavark_plugin_dirs = [\"{PLUGINS}\"]\n\
             [containers]\ncgroups = \"disabled\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n"
        ),
    )?;
    // Images are not needed, and layers of them not possible above those of the machine.
    machine.write(
        "/etc/containers/storage.conf",
        "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/storage\"\ngraphroot = \"/var/lib/containers\"\n",
    )?;
    let (net_dir, notes_dir) = world.directories();
    let (net_dir, notes_dir) = (
        format!("net_dir={net_dir}"),
        format!("notes_dir={notes_dir}"),
    );
    let create = ["podman", "network", "create", "-d", "mycelium-netavark"];
    let options = ["-o", "network=pods", "-o", "allow=icmp"];
    let places = ["-o", &net_dir, "-o", &notes_dir, "web"];
    machine.run(&[create.as_slice(), &options, &places].concat())?;
    let start = |network: &str| {
        let run = [
            "podman",
            "run",
            "--detach",
            "--rm",
            "--name",
            "www",
            "--network",
        ];
        let container = [network, "--rootfs", CONTAINER, "/bin/sleep", LIFE];
        machine.run(&[run.as_slice(), &container].concat())
    };
    start("web")?;
    let first = world.has_one()?;
    let inspected = machine.run(&["podman", "inspect", "www"])?;
    let address = first["address"].as_str().context("an address")?;
    ensure!(inspected.contains(address), "{inspected}");
    machine.run(&["podman", "stop", "--time", "0", "www"])?;
    world.has_none()?;
    // Its successor has its address.
    start("web")?;
    ensure!(world.has_one()?["address"] == first["address"]);
    machine.run(&["podman", "stop", "--time", "0", "www"])?;
    start("web:seed=001122334455")?;
    let seeded = world.has_one()?;
    let address = seeded["address"].as_str().context("an address")?;
    ensure!(address.ends_with(":ff0f:11:2233:4455"), "{address}");
    machine.run(&["podman", "stop", "--time", "0", "www"])?;
    world.has_none()
}

/// Netavark itself calls the plugin.
fn netavark(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let machine = &world.machine;
    let (net_dir, notes_dir) = world.directories();
    let network = json!({
        "name": "web",
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "mycelium-netavark", "network_interface": "",
        "internal": false, "ipv6_enabled": true, "dns_enabled": false,
        "ipam_options": { "driver": "none" },
        "options": { "network": "pods", "allow": "icmp", "net_dir": net_dir, "notes_dir": notes_dir },
    });
    let options = json!({
        "container_id": "0c1d2e3f4a5b6c7d", "container_name": "www", "port_mappings": [],
        "networks": { "web": { "interface_name": "eth0" } },
        "network_info": { "web": network },
    });
    machine.write("/tmp/options.json", &options.to_string())?;
    let call = |verb| {
        let command = ["/usr/lib/podman/netavark", "--config", "/run/netavark"];
        let files = ["--plugin-directory", PLUGINS, "--file", "/tmp/options.json"];
        machine.run(&[command.as_slice(), &files, &[verb, "/run/netns/box"]].concat())
    };
    let status: Value = serde_json::from_str(&call("setup")?)?;
    let attachment = world.has_one()?;
    let address = attachment["address"].as_str().context("an address")?;
    ensure!(
        status["web"]["interfaces"]["eth0"]["subnets"][0]["ipnet"] == format!("{address}/128"),
        "{status:#}"
    );
    ensure!(attachment["name"] == "podman.0c1d2e3f4a5b.eth0");
    call("teardown")?;
    world.has_none()?;
    call("teardown")?;
    Ok(())
}
