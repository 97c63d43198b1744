//! User networks: workloads in namespaces of their own, attached to nodes with `mycelium net` and `mycelium attach`.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netns_tests::attach::frames::Ends;
use netns_tests::attach::{Networks, Workload, own_names, porters};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::Node;
use netns_tests::figures::{judge, repetitions, report, strict};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::ping::{self, Pinger};
use netns_tests::probe::tcp;
use netns_tests::topology::{Relay, Underlay, reachable};
use netns_tests::wait;
use node_integration::desired::{AttachmentSpec, Kind, Name, NetworkSpec};
use node_integration::kernel::Kernel;
use node_integration::link;
use node_integration::naming::Mac;
use node_integration::reconcile::NoNode;
use node_integration::secret::NetworkKey;

const PATIENCE: Duration = Duration::from_secs(15);
/// What must not get through has had this long.
const QUIET: Duration = Duration::from_millis(500);
/// A flow is going when so many bytes have arrived.
const BULK: u64 = 20 << 20;
/// Attachments of the node that is killed.
const ATTACHMENTS: usize = 100;
/// After the death of a node, until everything is reachable again.
const RECOVERY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    run(vec![
        case("rules", rules),
        case("killed", killed),
        case("hostile", hostile),
        case("masquerade", masquerade),
        case("thousand", thousand),
    ])
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

/// The same for several, at the same time.
fn all_answer(from: &Host, to: &[Ipv6Addr]) -> anyhow::Result<()> {
    let started = Instant::now();
    let pingers: Vec<Pinger> = to
        .iter()
        .map(|to| Pinger::start(from, *to, Duration::from_millis(100)))
        .collect::<Result<_, _>>()?;
    for (pinger, to) in pingers.iter().zip(to) {
        pinger
            .reply_since(started, PATIENCE)
            .with_context(|| format!("{} to {to}", from.name()))?;
    }
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
    // Whose address is ready when the command returns: the first packet arrives.
    for number in 0..10 {
        let fresh = a.attach(&format!("netns red fresh{number} --allow icmp"))?;
        let burst = ping::burst(&closed.host, fresh.address, 1, QUIET)?;
        ensure!(burst.lost == 0, "the first ping of fresh{number} was lost");
    }
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

    // Neither asks for a router nor hears one: it has its own addresses only.
    let found = link::addresses(closed.host.namespace(), "eth0")?;
    let own = closed.answer["addresses"].as_array().map_or(0, Vec::len);
    // And the link-local one.
    ensure!(found.len() == own + 1, "{found:?}, {:#}", closed.answer);

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
    settles(&world.layout.a, &["mycelium", uplink])?;
    Ok(())
}

/// Wait until a host has its loopback, `others` and no interface else: the kernel takes its time with the cables of
/// namespaces that have gone.
fn settles(host: &Host, others: &[&str]) -> anyhow::Result<()> {
    wait::until("no interface is left", PATIENCE, || {
        let mut left = link::names(host.namespace())?;
        left.retain(|name| name != link::LOOPBACK && !others.contains(&name.as_str()));
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
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
        host: Lab::new().adopt("blue-w1", node_integration::named::open("blue-w1")?),
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
    tcp::transfer(&from.host, &to.host, to.address, bytes)?;
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
        .attach("netns green g1 --allow icmp --allow tcp/1-65535")?;
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

    // A TCP flow at full rate all the time, and pings to everybody.
    let flow = tcp::Running::start(&workloads[0].host, &green.host, green.address, 4 * PATIENCE)?;
    let pingers: Vec<Pinger> = workloads
        .iter()
        .map(|workload| Pinger::start(&green.host, workload.address, Duration::from_millis(100)))
        .collect::<Result<_, _>>()?;
    flow.advance(BULK, PATIENCE)?;
    let killed = Instant::now();
    world.node_a.kill()?;
    world.node_a.start_again()?;
    let started = world.node_a.started();
    flow.advance(1, PATIENCE)?;
    let resumed = killed.elapsed();
    flow.advance(BULK, PATIENCE)?;
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
    // Ends with an error unless everything has arrived as it was sent, on the one connection.
    let transfer = flow.stop()?;
    report(
        "attach, a TCP flow of a killed node goes on",
        format_args!(
            "{resumed:.0?} after the kill, {} MB in all, wanted {RECOVERY:?}",
            transfer.bytes / 1_000_000
        ),
    );
    ensure!(!strict() || resumed <= RECOVERY, "{resumed:?}");
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
        places.push((name.to_owned(), Lab::new().adopt(name, namespace)));
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

/// A guest that does all that it must not: every counter is what was sent, and its neighbour notices nothing.
fn hostile(scratch: &Scratch) -> anyhow::Result<()> {
    const COUNT: u16 = 300;
    const INTERVAL: Duration = Duration::from_millis(100);
    // Of the neighbour, before the attack and during it.
    let pings = repetitions(10, 100);
    let world = World::start(scratch)?;
    let a = &world.a;
    a.create("red", "")?;
    world.b.create("green", "")?;
    let victim = a.attach("netns red victim --allow icmp")?;
    let evil = a.attach("tap red evil")?;
    let green = world.b.attach("netns green g1")?;
    answers(&green.host, victim.address)?;

    let text = |name: &str| {
        let value = evil.answer[name].as_str();
        value.with_context(|| format!("no {name}: {:#}", evil.answer))
    };
    let port = text("interface")?.to_owned();
    let mac: Mac = text("mac")?.parse()?;
    let tap = world.layout.a.inside(|| {
        tun_rs::DeviceBuilder::new()
            .name(&port)
            .layer(tun_rs::Layer::L2)
            .inherit_enable_state()
            .build_sync()
    })??;
    tap.set_nonblocking(true)?;
    let gateway = Mac::of_bytes(b"gateway:red");
    let own = Ends {
        from: mac,
        to: gateway,
        source: evil.address,
        destination: victim.address,
    };
    let local = Ends {
        source: node_integration::addressing::link_local(mac),
        destination: "ff02::1".parse()?,
        ..own
    };
    // The port carries nothing until its tap is open and the kernel has noticed.
    wait::until("the gateway answers the guest", PATIENCE, || {
        tap.send(
            &Ends {
                destination: "fe80::1".parse()?,
                ..local
            }
            .echo(0, 8),
        )?;
        world
            .layout
            .a
            .inside(|| std::thread::sleep(Duration::from_millis(5)))?;
        let mut frame = [0; 2048];
        while let Ok(length) = tap.recv(&mut frame) {
            // An echo reply.
            if frame[..length].get(54) == Some(&129) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;

    let pinger = Pinger::start(&green.host, victim.address, INTERVAL)?;
    let quiet = Instant::now();
    pinger.steady_since(quiet, pings, 2 * PATIENCE)?;
    let attack = Instant::now();
    let before = stopped(a)?;
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    let mut send = |why: &'static str, frame: &[u8]| -> anyhow::Result<()> {
        tap.send(frame)?;
        *sent.entry(why).or_default() += 1;
        Ok(())
    };
    let mut number = 0_u16;
    while attack.elapsed() < INTERVAL * u32::try_from(pings)? {
        number = number.wrapping_add(1);
        // Somebody else's MAC and address, each alone.
        let stolen = Mac::new([2, 9, 9, 9, 9, 9]);
        send(
            "mac",
            &Ends {
                from: stolen,
                ..own
            }
            .echo(number, 8),
        )?;
        send(
            "source",
            &Ends {
                source: victim.address,
                ..own
            }
            .echo(number, 8),
        )?;
        send(
            "source",
            &Ends {
                source: "2001:db8::1".parse()?,
                ..own
            }
            .echo(number, 8),
        )?;
        send(
            "source",
            &Ends {
                source: "fe80::1".parse()?,
                ..local
            }
            .solicitation(victim.address),
        )
        .or_else(|_| anyhow::bail!("the tap is full"))?;
        // A router, a redirect, a DHCP server.
        let mut advertisement = vec![134, 0, 0, 0, 64, 0, 7, 8];
        advertisement.resize(16, 0);
        send("router", &local.icmpv6(255, &advertisement))?;
        let mut redirect = vec![137, 0, 0, 0];
        redirect.resize(40, 0);
        send("router", &local.icmpv6(255, &redirect))?;
        send("router", &own.datagram(547, 546))?;
        // What is no IPv6, and what is cut short.
        send("other", &own.ethernet(0x0800, &[0x45; 60]))?;
        send("other", &own.ethernet(0x0806, &[0; 46]))?;
        send("other", &own.ethernet(0x8100, &[0; 60]))?;
        send(
            "source",
            &own.ethernet(0x86dd, &[0x60, 0, 0, 0, 0, 0, 59, 64, 4]),
        )?;
    }
    // A scan of the neighbour's ports is stopped where it would be let in.
    for port in 1..=COUNT {
        tap.send(&own.syn(port))?;
    }
    let counted = wait::until("everything is counted", PATIENCE, || {
        let after = stopped(a)?;
        let scanned = a.stopped("red", "victim", "refused")?;
        Ok((scanned >= u64::from(COUNT)).then_some((after, scanned)))
    })?;
    let (after, scanned) = counted;
    // Among those with a false source are some that neighbour discovery's own limit stops first.
    let since = |why: &str| after[why] - before[why];
    for why in ["mac", "router", "other"] {
        ensure!(
            since(why) == sent[why],
            "{why}: {} of {}",
            since(why),
            sent[why]
        );
    }
    let with_false_source = since("source") + since("discovery");
    ensure!(
        with_false_source == sent["source"],
        "source: {with_false_source} of {}",
        sent["source"]
    );
    ensure!(scanned == u64::from(COUNT), "scan: {scanned} of {COUNT}");

    // A flood of neighbour solicitations: what passes is what the limit lets.
    let flood: u64 = 5000;
    let before = stopped(a)?["discovery"];
    let started = Instant::now();
    for number in 0..flood {
        let target = Ipv6Addr::from_bits(evil.address.to_bits() ^ u128::from(number + 1));
        tap.send(&local.solicitation(target))?;
    }
    let passed = flood - (stopped(a)?["discovery"] - before);
    let allowed = 100 + 50 * (started.elapsed().as_secs() + 1);
    ensure!(
        passed <= allowed,
        "{passed} solicitations passed, {allowed} may"
    );

    // Too big for the overlay: the gateway says so.
    let far = Ends {
        destination: green.address,
        ..own
    };
    tap.send(&far.echo(7, 1440))?;
    wait::until(
        "the gateway says that a packet is too big",
        PATIENCE,
        || {
            let mut frame = [0; 2048];
            let length = tap.recv(&mut frame)?;
            Ok((frame[..length].get(54) == Some(&2)).then_some(()))
        },
    )?;

    let report_ = pinger.stop(PATIENCE)?;
    let lost = report_.lost();
    let round_trip = |from: Instant, to: Instant| {
        let times: Vec<Duration> = report_
            .sent
            .iter()
            .zip(&report_.answered)
            .filter(|(sent, _)| **sent >= from && **sent < to)
            .filter_map(|(sent, answered)| Some(answered.as_ref()?.duration_since(*sent)))
            .collect();
        netns_tests::figures::median(&times)
    };
    let (calm, attacked) = (
        round_trip(quiet, attack),
        round_trip(attack, Instant::now()),
    );
    report(
        "attach, a neighbour's pings during an attack",
        format_args!(
            "{lost} of {} lost, median {attacked:.0?} instead of {calm:.0?}, by {} frames that were stopped",
            report_.sent.len(),
            sent.values().sum::<u64>()
        ),
    );
    ensure!(lost == 0, "{lost} pings of the neighbour were lost");
    ensure!(
        !strict() || attacked <= 2 * calm,
        "{attacked:?} instead of {calm:?}"
    );
    Ok(())
}

/// What was stopped at the hostile guest's port, by why.
fn stopped(networks: &Networks) -> anyhow::Result<BTreeMap<String, u64>> {
    ["mac", "source", "router", "discovery", "rate", "other"]
        .into_iter()
        .map(|why| Ok((why.to_owned(), networks.stopped("red", "evil", why)?)))
        .collect()
}

/// A workload reaches the IPv4 side of its host by the host's address, and a name server there.
fn masquerade(scratch: &Scratch) -> anyhow::Result<()> {
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04host\x04test\x00\x00\x01\x00\x01";
    own_names()?;
    let lab = Lab::new();
    let (host, internet) = (lab.host("a")?, lab.host("internet")?);
    let wire = lab.wire(&host, &internet)?;
    let networks = Networks::new(scratch, &host);
    networks.create("red", "--masquerade")?;
    networks.create("blue", "--masquerade")?;
    let server = internet.inside(|| UdpSocket::bind((wire.right.v4(), 53)))??;
    for network in ["red", "blue"] {
        let workload = networks.attach(&format!("netns {network} w1"))?;
        let client = workload.host.inside(|| UdpSocket::bind("0.0.0.0:0"))??;
        client.set_read_timeout(Some(PATIENCE))?;
        server.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut buffer = [0; 512];
        // Again until it arrives, as resolvers do: a new cable may swallow the first.
        let (length, from) = wait::until("the query arrives", PATIENCE, || {
            client.send_to(QUERY, (wire.right.v4(), 53))?;
            Ok(server.recv_from(&mut buffer).ok())
        })?;
        ensure!(&buffer[..length] == QUERY);
        ensure!(from.ip() == wire.left.v4(), "it came from {from}");
        // The same question, marked as an answer: an address record follows.
        let mut answer = QUERY.to_vec();
        answer[2] = 0x81;
        answer[7] = 1;
        answer
            .extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x01\x02\x03\x04");
        server.send_to(&answer, from)?;
        let length = client.recv(&mut buffer)?;
        ensure!(buffer[..length].ends_with(&[1, 2, 3, 4]), "the address");

        let listener = internet.inside(|| TcpListener::bind((wire.right.v4(), 0)))??;
        let target = listener.local_addr()?;
        let stream = workload
            .host
            .inside(|| TcpStream::connect_timeout(&target, PATIENCE))??;
        let (_, peer) = listener.accept()?;
        ensure!(peer.ip() == wire.left.v4(), "it came from {peer}");
        drop(stream);
    }
    networks.run("net delete red blue")?;
    settles(&host, &[wire.left.interface()])?;
    Ok(())
}

/// Many workloads, half of them in a network of their own: time, memory, that every one answers, and that nothing is left.
/// A thousand in strict mode, in which the figures are asserted.
fn thousand(scratch: &Scratch) -> anyhow::Result<()> {
    const SAMPLES: usize = 20;
    /// Workloads that are asked at the same time.
    const AT_ONCE: usize = 50;
    let count = if strict() { 1000 } else { 60 };
    let world = World::start(scratch)?;
    let users = world.a.users();
    let host = &world.layout.a;
    world.b.create("green", "")?;
    let green = world.b.attach("netns green g1")?;
    let left_before = left_over(&world)?;
    let own_before = descriptors("self")?;
    let memory_before = world.node_a.resident_kib()?;

    let started = Instant::now();
    let addresses = host.inside(|| -> anyhow::Result<Vec<Ipv6Addr>> {
        let shared: Name = "shared".parse()?;
        create(&users, &shared)?;
        let mut addresses = Vec::new();
        for number in 0..count {
            let network = if number % 2 == 0 {
                shared.clone()
            } else {
                let own = format!("n{number}").parse()?;
                create(&users, &own)?;
                own
            };
            addresses.push(attach(&users, &network, &format!("w{number}"))?);
        }
        Ok(addresses)
    })??;
    let attached = started.elapsed();
    report(
        &format!("attach, {count} workloads, half in networks of their own"),
        format_args!("{attached:.1?}, wanted 20s for 1000"),
    );
    for addresses in addresses.chunks(AT_ONCE) {
        all_answer(&green.host, addresses)?;
    }
    report(
        &format!("attach, {count} workloads, until every one has answered"),
        format_args!("{:.1?}", started.elapsed()),
    );
    let memory = world.node_a.resident_kib()?.saturating_sub(memory_before);
    let each = memory as f64 / count as f64;
    report(
        "attach, memory of the node per workload",
        format_args!("{each:.1} KiB, wanted 64 KiB"),
    );

    let visible_before = visible(&world)?;
    // One more and one less, again and again: a call of the library until it returns, and the command as its user sees it,
    // from when it is started until it has ended and nobody has its output open any more.
    let (mut attaching, mut detaching) = (Vec::new(), Vec::new());
    host.inside(|| -> anyhow::Result<()> {
        let shared: Name = "shared".parse()?;
        let name: Name = "extra".parse()?;
        for _ in 0..SAMPLES {
            let started = Instant::now();
            attach(&users, &shared, "extra")?;
            attaching.push(started.elapsed());
            let started = Instant::now();
            users.detach(&shared, &name, &mut NoNode)?;
            detaching.push(started.elapsed());
        }
        Ok(())
    })??;
    let (mut commanded_to_attach, mut commanded_to_detach) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let started = Instant::now();
        world.a.run("attach netns shared extra --allow icmp")?;
        commanded_to_attach.push(started.elapsed());
        let started = Instant::now();
        world.a.run("detach shared extra")?;
        commanded_to_detach.push(started.elapsed());
    }
    // Nothing of it is to be seen by then, and what waits for the kernel ends soon.
    let ended = Instant::now();
    let visible_after = visible(&world)?;
    ensure!(
        visible_after == visible_before,
        "{visible_after:#?} instead of {visible_before:#?}"
    );
    wait::until("all porters have ended", PATIENCE, || {
        Ok(porters()?.is_empty().then_some(()))
    })?;
    let ended = ended.elapsed();
    report(
        "attach, one workload less, command, until nothing of it runs",
        format_args!("{ended:.1?}, wanted {RECOVERY:?}"),
    );
    let started = Instant::now();
    host.inside(|| -> anyhow::Result<()> {
        let names = users.directory.network_names()?;
        Ok(users.delete_networks(&names, &mut NoNode)?)
    })??;
    let removed = started.elapsed();
    report(
        &format!("attach, {count} workloads removed"),
        format_args!("{removed:.1?}, wanted 20s for 1000"),
    );
    wait::until("nothing is left", 4 * PATIENCE, || {
        let left = left_over(&world)?;
        ensure!(left == left_before, "{left:#?} instead of {left_before:#?}");
        // Those of earlier tests may be closed meanwhile.
        let own = descriptors("self")?;
        ensure!(own <= own_before, "{own} descriptors of {own_before}");
        Ok(Some(()))
    })?;
    report(
        &format!("attach, {count} workloads, until the kernel has nothing of them either"),
        format_args!("{:.1?}", started.elapsed()),
    );
    for (what, times, milliseconds) in [
        ("attach, one more workload, library", &attaching, 10),
        ("attach, one workload less, library", &detaching, 10),
        (
            "attach, one more workload, command",
            &commanded_to_attach,
            10,
        ),
        (
            "attach, one workload less, command",
            &commanded_to_detach,
            10,
        ),
    ] {
        let usual = Duration::from_millis(milliseconds);
        judge(what, times, usual, Duration::from_secs(2))?;
    }
    let limit = Duration::from_secs(20);
    ensure!(!strict() || attached <= limit, "attached in {attached:?}");
    ensure!(!strict() || removed <= limit, "removed in {removed:?}");
    ensure!(!strict() || ended <= RECOVERY, "porters ran for {ended:?}");
    ensure!(!strict() || each <= 64.0, "{each} KiB each");
    Ok(())
}

fn create(users: &node_integration::host::Host, name: &Name) -> anyhow::Result<()> {
    let key = NetworkKey::from_raw(&netns_tests::daemon::key_of(name.as_str()))?;
    users.create_network(name, &NetworkSpec::with_key(key), &mut NoNode)?;
    Ok(())
}

fn attach(
    users: &node_integration::host::Host,
    network: &Name,
    name: &str,
) -> anyhow::Result<Ipv6Addr> {
    let mut spec = AttachmentSpec::of_kind(Kind::Netns);
    spec.allow = vec!["icmp".parse()?];
    let (_, attachment) = users.attach(network, &name.parse()?, &spec, &mut NoNode)?;
    Ok(attachment.address)
}

/// How many descriptors a process has open.
fn descriptors(process: &str) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// What could be left of networks: what is [`visible`], and rules, which the tool takes seconds to list if there are many.
fn left_over(world: &World) -> anyhow::Result<BTreeMap<&'static str, Vec<String>>> {
    let host = &world.layout.a;
    let rules = host.inside(|| Command::new("nft").args(["list", "ruleset"]).output())?;
    let rules = match rules {
        Ok(output) => String::from_utf8(output.stdout)?,
        // Without the tool, what it would show of ours are counters.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let counters = host.inside(|| Kernel::new().port_counters())??;
            format!("{counters:?}")
        }
        Err(error) => return Err(error).context("nft"),
    };
    let mut found = visible(world)?;
    found.insert("rules", rules.lines().map(str::to_owned).collect());
    Ok(found)
}

/// Interfaces, namespaces, routes, and what the node has open.
fn visible(world: &World) -> anyhow::Result<BTreeMap<&'static str, Vec<String>>> {
    let host = &world.layout.a;
    let mut interfaces = link::names(host.namespace())?;
    interfaces.sort();
    let descriptors = descriptors(&world.node_a.pid().to_string())?;
    let read = |path: &str| -> anyhow::Result<Vec<String>> {
        let text = host.inside(|| std::fs::read_to_string(path))??;
        // Uses and references of routes count on, and link-local ones come when the kernel has seen to them.
        let lines = text.lines().filter(|line| !line.starts_with("fe80"));
        let lines = lines.map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            [&fields[..6], &fields[9..]].concat().join(" ")
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        Ok(lines)
    };
    Ok(BTreeMap::from([
        ("interfaces", interfaces),
        ("namespaces", node_integration::named::list()?),
        ("routes", read("/proc/thread-self/net/ipv6_route")?),
        ("descriptors", vec![descriptors.to_string()]),
    ]))
}
