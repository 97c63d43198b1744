//! User networks: workloads in namespaces of their own, attached to nodes with `mycelium net` and `mycelium attach`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::attach::{Networks, Workload, own_names};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::Node;
use netns_tests::figures::{report, strict};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::Host;
use netns_tests::probe::ping::{self, Pinger};
use netns_tests::topology::{Relay, Underlay, reachable};
use node_integration::link;

const PATIENCE: Duration = Duration::from_secs(15);
/// What must not get through has had this long.
const QUIET: Duration = Duration::from_millis(500);
const PORT: u16 = 7000;
/// Attachments of the node that is killed.
const ATTACHMENTS: usize = 100;
/// After the death of a node, until everything is reachable again.
const RECOVERY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    run(vec![case("rules", rules), case("killed", killed)])
}

/// Two hosts with user networks, A and B, joined by a relay.
struct World {
    a: Networks,
    b: Networks,
    node_a: Node,
    node_b: Node,
    _relay: Node,
    layout: Relay,
}

impl World {
    fn start(scratch: &Scratch) -> anyhow::Result<Self> {
        own_names()?;
        let layout = Relay::lay_out()?;
        let a = Networks::new(scratch, &layout.a);
        let b = Networks::new(scratch, &layout.b);
        let relay = Node::start(scratch, &layout.r, layout.options_r(Ours))?;
        let start = |networks: &Networks, options: netns_tests::daemon::NodeOptions| {
            let options = options.arguments(networks.arguments());
            Node::start(scratch, networks.host(), options)
        };
        let node_b = start(&b, layout.options_b(Ours, Underlay::Tcp4))?;
        let node_a = start(&a, layout.options_a(Ours, Underlay::Tcp4))?;
        reachable(&layout.a, &node_b, PATIENCE)?;
        Ok(Self {
            a,
            b,
            node_a,
            node_b,
            _relay: relay,
            layout,
        })
    }
}

fn answers(from: &Host, to: Ipv6Addr) -> anyhow::Result<()> {
    let pinger = Pinger::start(from, to, Duration::from_millis(10))?;
    pinger
        .reply_since(Instant::now() - PATIENCE, PATIENCE)
        .with_context(|| format!("{} to {to}", from.name()))?;
    Ok(())
}

/// Ping what must not answer; how many requests went out.
fn is_silent(from: &Host, to: Ipv6Addr) -> anyhow::Result<u64> {
    const REQUESTS: u16 = 25;
    let burst = ping::burst(from, to, REQUESTS, QUIET)?;
    ensure!(
        burst.lost == usize::from(REQUESTS),
        "{} of {REQUESTS} pings of {} to {to} were not answered",
        burst.lost,
        from.name()
    );
    Ok(REQUESTS.into())
}

/// Bytes that an interface has sent so far.
fn sent_bytes(host: &Host, interface: &str) -> anyhow::Result<u64> {
    let table = host.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    table
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
        .and_then(|fields| fields.split_whitespace().nth(8)?.parse().ok())
        .with_context(|| format!("no interface {interface}: {table}"))
}

/// Two networks of one host with the same seeds, and one of another: who reaches whom is what the rules say.
fn rules(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let (a, b) = (&world.a, &world.b);
    a.create("red", "")?;
    let blue_address = a.create("blue", "")?;
    let green_address = b.create("green", "")?;
    let green_prefix = format!("{}/64", prefix(green_address));

    let seed = "--seed 001122334455";
    let red = a.attach(&format!("netns red w1 {seed} --allow icmp"))?;
    let closed = a.attach("netns red w2")?;
    let green = b.attach("netns green g1 --allow icmp")?;
    let blue = attach_limited(a, seed, &green_prefix)?;
    ensure!(
        red.address.octets()[8..] == blue.address.octets()[8..] && red.address != blue.address,
        "the same seed in different networks: {} {}",
        red.address,
        blue.address
    );

    // Across the relay, both ways.
    answers(&red.host, green.address)?;
    answers(&green.host, red.address)?;
    // Within one network, and from one to the other of the same host.
    answers(&closed.host, red.address)?;
    answers(&blue.host, red.address)?;
    // Who is let in by nobody still reaches others and gets their answers.
    answers(&closed.host, green.address)?;
    for from in [&red, &green, &blue] {
        let before = a.stopped("red", "w2", "refused")?;
        let sent = is_silent(&from.host, closed.address)?;
        let counted = a.stopped("red", "w2", "refused")? - before;
        ensure!(counted == sent, "{counted} of {sent} are counted");
    }
    // Who is let in from one network only.
    answers(&green.host, blue.address)?;
    is_silent(&red.host, blue.address)?;
    // The network itself, and what nobody has.
    answers(&green.host, blue_address)?;
    is_silent(&green.host, next(blue.address))?;

    // What networks of one host send each other does not leave it.
    let uplink = world.layout.left.left.interface();
    let before = sent_bytes(&world.layout.a, uplink)?;
    let transferred = 4 << 20;
    transfer(a, &blue, "red", transferred)?;
    let left = sent_bytes(&world.layout.a, uplink)? - before;
    ensure!(
        left < transferred / 10,
        "{left} bytes left the host while {transferred} went from one network to the other"
    );

    // The same again changes nothing, and what is taken away is gone.
    let index = interface_index(a, &red)?;
    a.run(&format!("attach netns red w1 {seed} --allow icmp"))?;
    ensure!(interface_index(a, &red)? == index, "it was made anew");
    ensure!(
        a.run("net apply")? == "nothing to do\n",
        "{}",
        a.run("net plan")?
    );
    a.run("detach red w1")?;
    is_silent(&green.host, red.address)?;
    answers(&closed.host, green.address)?;
    a.run("net delete red")?;
    answers(&green.host, blue.address)?;
    let identities = world.node_a.get("/admin/identities")?;
    ensure!(
        identities.as_array().map(Vec::len) == Some(2),
        "{identities:#}"
    );
    a.run("net delete blue")?;
    let left = link::names(world.layout.a.namespace())?;
    ensure!(
        left == ["lo", "mycelium", uplink] || left == ["lo", uplink, "mycelium"],
        "{left:?}"
    );
    Ok(())
}

/// The first rule has a space in it, which [`Networks::run`] would split at.
fn attach_limited(a: &Networks, seed: &str, from: &str) -> anyhow::Result<Workload> {
    a.attach(&format!("netns blue w1 {seed}"))?;
    let file = a.directory().join("blue/attachments/w1.json");
    let mut spec: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    spec["allow"] = serde_json::json!([format!("icmp from {from}"), "tcp/1-65535"]);
    std::fs::write(&file, spec.to_string())?;
    a.run("net apply")?;
    let shown = a.json("net show blue")?;
    ensure!(
        shown["attachments"][0]["allow"][1] == "tcp/1-65535",
        "{shown:#}"
    );
    Ok(Workload {
        host: netns_tests::lab::Lab::new()
            .adopt("blue-w1", node_integration::named::open("blue-w1")?),
        address: shown["attachments"][0]["address"]
            .as_str()
            .context("an address")?
            .parse()?,
        answer: shown["attachments"][0].clone(),
    })
}

fn prefix(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))
}

fn next(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() + 1)
}

fn interface_index(networks: &Networks, workload: &Workload) -> anyhow::Result<u32> {
    let name = workload.answer["interface"].as_str().context("a name")?;
    link::index(networks.host().namespace(), name)?.with_context(|| format!("no {name}"))
}

/// Send so many bytes to a workload that lets TCP in, from a workload of another network.
fn transfer(a: &Networks, to: &Workload, network: &str, bytes: u64) -> anyhow::Result<()> {
    let from = a.attach(&format!("netns {network} sender"))?;
    netns_tests::probe::tcp::transfer(&from.host, &to.host, to.address, bytes)?;
    a.run(&format!("detach {network} sender"))?;
    Ok(())
}

/// The node is killed under load: what it carried is reachable again at once, through the same interfaces.
fn killed(scratch: &Scratch) -> anyhow::Result<()> {
    let mut world = World::start(scratch)?;
    world.a.create("red", "")?;
    world.a.create("blue", "")?;
    world.b.create("green", "")?;
    let green = world
        .b
        .attach(&format!("netns green g1 --allow icmp --allow tcp/{PORT}"))?;
    let mut workloads = Vec::new();
    for number in 0..ATTACHMENTS {
        let network = ["red", "blue"][number % 2];
        let words = format!("netns {network} w{number} --allow icmp");
        workloads.push(world.a.attach(&words)?);
    }
    let before = state(&world.a)?;
    for workload in &workloads {
        answers(&green.host, workload.address)?;
    }

    // A flow that is open all the time, and pings to everybody.
    let flow = Flow::open(&workloads[0], &green)?;
    let pingers: Vec<Pinger> = workloads
        .iter()
        .map(|workload| Pinger::start(&green.host, workload.address, Duration::from_millis(100)))
        .collect::<Result<_, _>>()?;
    flow.exchange()?;
    world.node_a.kill()?;
    world.node_a.start_again()?;
    let started = world.node_a.started();
    let mut slowest = Duration::ZERO;
    for pinger in &pingers {
        let arrival = pinger.reply_since(started, PATIENCE)?;
        slowest = slowest.max(arrival.duration_since(started));
    }
    report(
        &format!("attach, {ATTACHMENTS} workloads of a killed node reachable again"),
        format_args!("{slowest:.0?}, wanted {RECOVERY:?}"),
    );
    ensure!(!strict() || slowest <= RECOVERY, "{slowest:?}");
    flow.exchange()?;
    let after = state(&world.a)?;
    ensure!(before == after, "{before:#?}\n{after:#?}");
    ensure!(world.a.run("net apply")? == "nothing to do\n");
    world.node_b.check_alive()?;
    Ok(())
}

/// Interfaces and addresses of a host and of its networks' namespaces.
fn state(networks: &Networks) -> anyhow::Result<BTreeMap<String, String>> {
    let mut state = BTreeMap::new();
    let mut places = vec![("host".to_owned(), Arc::clone(networks.host()))];
    for name in ["my-red", "my-blue"] {
        let namespace = node_integration::named::open(name)?;
        places.push((
            name.to_owned(),
            netns_tests::lab::Lab::new().adopt(name, namespace),
        ));
    }
    for (place, host) in places {
        for name in link::names(host.namespace())? {
            // The node's own interface comes and goes with it.
            if name == "mycelium" {
                continue;
            }
            let index = link::index(host.namespace(), &name)?;
            let addresses = link::addresses(host.namespace(), &name)?;
            state.insert(
                format!("{place} {name}"),
                format!("{index:?} {addresses:?}"),
            );
        }
    }
    Ok(state)
}

/// A TCP connection whose far end sends back what it gets.
struct Flow {
    near: TcpStream,
}

impl Flow {
    fn open(from: &Workload, to: &Workload) -> anyhow::Result<Self> {
        let address = SocketAddr::from((to.address, PORT));
        let listener = to.host.inside(|| TcpListener::bind(address))??;
        std::thread::spawn(move || -> std::io::Result<()> {
            let (mut far, _) = listener.accept()?;
            let mut bytes = [0; 1024];
            loop {
                let length = far.read(&mut bytes)?;
                if length == 0 {
                    return Ok(());
                }
                far.write_all(&bytes[..length])?;
            }
        });
        let near = from
            .host
            .inside(|| TcpStream::connect_timeout(&address, PATIENCE))??;
        near.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { near })
    }

    fn exchange(&self) -> anyhow::Result<()> {
        let mut near = &self.near;
        near.write_all(b"still here")?;
        let mut answer = [0; 10];
        near.read_exact(&mut answer)?;
        ensure!(&answer == b"still here");
        Ok(())
    }
}
