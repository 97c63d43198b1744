//! Links between a guest and its host that need no network: over vsock, which virtual machine monitors show to the host
//! as Unix sockets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mycelium_core::crypto::identity::SecretKey;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions, PORT, key_of};
use netns_tests::figures::{bulk_bytes, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::probe::ping::Pinger;
use netns_tests::probe::tcp;
use netns_tests::topology::reachable;
use netns_tests::vm::{self, Vm, VmOptions};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(15);
/// Where the guest of a monitor of ours reaches its host.
const TO_HOST: u16 = 9700;

fn main() -> ExitCode {
    let machine = vm::missing().or_else(|| {
        let backend = vm::vsock_backend();
        backend.err().map(|error| format!("{error:#}"))
    });
    run(vec![
        case("host_dials_through_a_monitor", host_dials),
        case("guest_dials_through_a_monitor", guest_dials),
        case("virtual_machine", virtual_machine).unless(machine),
    ])
}

/// A monitor as Cloud Hypervisor and Firecracker are one, whose guest is a namespace without a network. What would be
/// the guest's vsock is TCP on its loopback interface.
struct Monitor {
    guest: Arc<Host>,
    host: Arc<Host>,
}

impl Monitor {
    fn start(socket: &Path) -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (guest, host) = (lab.host("guest")?, lab.host("host")?);
        let from_host = UnixListener::bind(socket)?;
        let inside = Arc::clone(&guest);
        std::thread::spawn(move || {
            for stream in from_host.incoming().flatten() {
                let inside = Arc::clone(&inside);
                // A connection that fails is closed, which is a monitor's answer.
                std::thread::spawn(move || connect_guest(stream, &inside));
            }
        });
        let from_guest = guest.inside(|| TcpListener::bind(("127.0.0.1", TO_HOST)))??;
        let mut name = socket.as_os_str().to_owned();
        name.push(format!("_{PORT}"));
        std::thread::spawn(move || {
            for stream in from_guest.incoming().flatten() {
                let host = UnixStream::connect(&name);
                std::thread::spawn(move || join(stream, host?));
            }
        });
        Ok(Self { guest, host })
    }
}

/// `CONNECT PORT\n`, and `OK PORT\n` back once the guest has accepted.
fn connect_guest(mut stream: UnixStream, guest: &Host) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::with_capacity(1, stream.try_clone()?).read_line(&mut line)?;
    let port = line
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.strip_suffix('\n'))
        .context("another request")?
        .parse::<u16>()?;
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let inside = guest.inside(|| TcpStream::connect(target))??;
    stream.write_all(b"OK 1073741824\n")?;
    Ok(join(inside, stream)?)
}

/// Carry bytes both ways until one end closes.
fn join(inside: TcpStream, outside: UnixStream) -> std::io::Result<()> {
    let (mut from, mut to) = (inside.try_clone()?, outside.try_clone()?);
    let back = std::thread::spawn(move || {
        let result = std::io::copy(&mut from, &mut to);
        // Errors mean that it is closed already.
        let _ = to.shutdown(Shutdown::Both);
        result
    });
    let (mut from, mut to) = (outside, inside);
    let result = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = back.join();
    result.map(drop)
}

/// A link to `peer` whose endpoint is `endpoint`, and traffic over it both ways.
fn judge(node: &Node, peer: &Node, endpoint: &str, label: &str) -> anyhow::Result<()> {
    let took = reachable(node.host(), peer, PATIENCE)?;
    report(
        &format!("vsock, {label}, reachable after"),
        format_args!("{took:.1?}"),
    );
    let shown = node.peers()?;
    let found = shown.iter().any(|peer| {
        let text = peer["endpoint"].to_string();
        text.contains("vsock") && text.contains(endpoint)
    });
    ensure!(found, "no peer {endpoint} in {shown:?}");
    wait::until("a route over vsock", PATIENCE, || {
        let hop = node.next_hop(peer)?.context("a route")?;
        ensure!(hop.starts_with("vsock -> "), "next hop {hop}");
        Ok(Some(()))
    })?;
    let bytes = bulk_bytes(50_000_000);
    let there = tcp::transfer(node.host(), peer.host(), peer.address(), bytes)?;
    let back = tcp::transfer(peer.host(), node.host(), node.address(), bytes)?;
    report(
        &format!(
            "vsock, {label}, {} MB there and back, Mb/s",
            bytes / 1_000_000
        ),
        format_args!("{:.0} {:.0}", there.megabits(), back.megabits()),
    );
    Ok(())
}

/// The host says whom it wants, and the guest's node is restarted meanwhile.
fn host_dials(scratch: &Scratch) -> anyhow::Result<()> {
    let socket = scratch.path().join("vm.vsock");
    let monitor = Monitor::start(&socket)?;
    let endpoint = format!("vsock://{}:{PORT}", socket.display());
    let host = Node::start(
        scratch,
        &monitor.host,
        NodeOptions::new(Ours, "host").peer(&endpoint),
    )?;
    // The guest's node comes up later: until then the monitor hangs up.
    wait::until("the host has tried", PATIENCE, || {
        Ok(host
            .log()
            .contains("the guest does not listen there")
            .then_some(()))
    })?;
    let mut guest = Node::start(scratch, &monitor.guest, NodeOptions::new(Ours, "guest"))?;
    judge(&host, &guest, &socket.display().to_string(), "host dials")?;
    guest.kill()?;
    guest.start_again()?;
    let pinger = Pinger::start(&monitor.host, guest.address(), Duration::from_millis(5))?;
    pinger.reply_since(guest.started(), PATIENCE)?;
    Ok(())
}

/// The host only listens, for this guest.
fn guest_dials(scratch: &Scratch) -> anyhow::Result<()> {
    let socket = scratch.path().join("vm.vsock");
    let monitor = Monitor::start(&socket)?;
    let host = Node::start(
        scratch,
        &monitor.host,
        NodeOptions::new(Ours, "host")
            .arguments(["--vsock-socket".to_owned(), socket.display().to_string()]),
    )?;
    let dialled = format!("tcp://127.0.0.1:{TO_HOST}");
    let guest = Node::start(
        scratch,
        &monitor.guest,
        NodeOptions::new(Ours, "guest").peer(dialled),
    )?;
    judge(&host, &guest, "", "guest dials")
}

/// The other half of a virtual machine's vsock device. Ended when dropped.
struct Backend(Child);

impl Drop for Backend {
    fn drop(&mut self) {
        // Errors mean that it is already gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A virtual machine without any network card: its node and the host's have nothing but vsock. First the guest dials,
/// then the host.
fn virtual_machine(scratch: &Scratch) -> anyhow::Result<()> {
    let host = Lab::new().host("host")?;
    let device = scratch.path().join("device");
    let socket = scratch.path().join("vm.vsock");
    let mut backend = Command::new(vm::vsock_backend()?);
    backend
        .arg("--vm")
        .arg(format!(
            "guest-cid=3,socket={},uds-path={}",
            device.display(),
            socket.display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(scratch.path().join("backend.log"))?);
    let _backend = Backend(host.spawn(&mut backend)?);
    wait::until("the device is served", PATIENCE, || {
        Ok(device.exists().then_some(()))
    })?;
    let mut vm = Vm::boot(scratch, &host, &VmOptions::new("vm").node().vsock(&device))?;

    let node = Node::start(
        scratch,
        &host,
        NodeOptions::new(Ours, "host")
            .arguments(["--vsock-socket".to_owned(), socket.display().to_string()]),
    )?;
    let key = key_of("guest");
    let address = SecretKey::from_bytes(key).public_key().address();
    let octal: String = key.iter().map(|byte| format!("\\0{byte:03o}")).collect();
    vm.run(
        &format!("umask 077; printf '%b' '{octal}' >/tmp/key"),
        PATIENCE,
    )?;
    let guest = "mycelium --key-file /tmp/key --disable-peer-discovery";
    vm.run(
        &format!("{guest} --peers vsock://2:{PORT} >/tmp/log 2>&1 & echo $! >/tmp/pid"),
        PATIENCE,
    )?;
    let pinger = Pinger::start(&host, address, Duration::from_millis(20))?;
    let started = std::time::Instant::now();
    let answered = pinger
        .reply_since(started, PATIENCE)
        .with_context(|| vm.run("cat /tmp/log", PATIENCE).unwrap_or_default())?;
    report(
        "vsock, virtual machine dials its host, pings after",
        format_args!("{:.1?}", answered.duration_since(started)),
    );
    drop(pinger);
    let both = vm::exchange(
        &host,
        node.address(),
        &mut vm,
        address,
        bulk_bytes(50_000_000),
    )?;
    report(
        "vsock, virtual machine, 50 MB in and out, Mb/s",
        format_args!("{:.0} {:.0}", both.into.megabits(), both.out.megabits()),
    );

    drop(node);
    vm.run("kill $(cat /tmp/pid)", PATIENCE)?;
    vm.eventually("! kill -0 $(cat /tmp/pid) 2>/dev/null", PATIENCE)?;
    vm.run(
        &format!("{guest} --vsock-listen-port {PORT} >/tmp/log 2>&1 & echo $! >/tmp/pid"),
        PATIENCE,
    )?;
    let endpoint = format!("vsock://{}:{PORT}", socket.display());
    let _node = Node::start(
        scratch,
        &host,
        NodeOptions::new(Ours, "host").peer(endpoint),
    )?;
    let pinger = Pinger::start(&host, address, Duration::from_millis(20))?;
    let started = std::time::Instant::now();
    let answered = pinger
        .reply_since(started, PATIENCE)
        .with_context(|| vm.run("cat /tmp/log", PATIENCE).unwrap_or_default())?;
    report(
        "vsock, host dials a virtual machine, pings after",
        format_args!("{:.1?}", answered.duration_since(started)),
    );
    Ok(())
}
