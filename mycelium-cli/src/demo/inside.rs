//! The first process of the namespaces: builds the network, runs the nodes, tells what happens.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mycelium_api::client::Client;
use mycelium_api::{ConnectionState, PeerStats, PeerType, Route};
use mycelium_core::addr::Subnet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use node_integration::userns;

use super::network::{Network, RELAY_TOWARDS_A, RELAY_TOWARDS_B};
use super::node::{Node, Setup};
use super::{Error, ping, transfer};
use crate::quantity::{Bytes, Milliseconds};

/// Directories that every machine has and one of which the demo covers, for itself, with one in memory.
const SCRATCH: [&str; 3] = ["/tmp", "/run", "/mnt"];

/// How long the nodes may take until the first answer; they take some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The API serves copies that are up to about 100 ms old.
const PUBLISHED: Duration = Duration::from_millis(500);

/// Pings after the first.
const PINGS: u16 = 10;

/// Run the demo in namespaces made for it.
pub(super) fn run(seconds: u8, quic: bool) -> Result<ExitCode, Error> {
    if std::process::id() != 1 {
        return Err(Error::NotInside);
    }
    end_with_parent().map_err(Error::system("follow the process that started this one"))?;
    userns::enter()?;
    let scratch = SCRATCH
        .iter()
        .map(Path::new)
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"));
    userns::cover_with_memory(scratch)?;
    let network = Network::create()?;
    let demo = Demo::start(&network, scratch, quic)?;
    demo.introduce(if quic { "quic" } else { "tcp" });
    demo.ping()?;
    demo.show_peers_and_routes()?;
    demo.transfer(Duration::from_secs(seconds.into()))?;
    Ok(ExitCode::SUCCESS)
}

/// Have the kernel kill this process, and with it the whole PID namespace, as soon as its parent is gone.
fn end_with_parent() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before that took effect; then its end of our standard input is closed.
    let input = io::stdin();
    let mut pipe = [PollFd::new(input.as_fd(), PollFlags::empty())];
    if poll(&mut pipe, PollTimeout::ZERO)? > 0 {
        return Err(io::Error::other("it is gone"));
    }
    Ok(())
}

/// The running nodes, from left to right.
struct Demo<'a> {
    network: &'a Network,
    a: Node<'a>,
    relay: Node<'a>,
    b: Node<'a>,
    started: Instant,
}

impl<'a> Demo<'a> {
    fn start(network: &'a Network, scratch: &'a Path, quic: bool) -> Result<Self, Error> {
        let scheme = if quic { "quic" } else { "tcp" };
        let dial = |address: IpAddr| Some(format!("{scheme}://{address}:9651"));
        let setup = |name, peer| Setup {
            name,
            peer,
            quic,
            scratch,
        };
        let relay = setup('R', None).prepare(&network.relay)?;
        let a = setup('A', dial(RELAY_TOWARDS_A)).prepare(&network.a)?;
        let b = setup('B', dial(RELAY_TOWARDS_B)).prepare(&network.b)?;
        let started = Instant::now();
        Ok(Self {
            network,
            relay: relay.start()?,
            a: a.start()?,
            b: b.start()?,
            started,
        })
    }

    fn nodes(&self) -> [&Node<'a>; 3] {
        [&self.a, &self.relay, &self.b]
    }

    fn introduce(&self, transport: &str) {
        say("mycelium demo: three real nodes on this machine, in network namespaces of their own");
        say("");
        say(format_args!(
            "  A {} -- {transport} -- {RELAY_TOWARDS_A} R {RELAY_TOWARDS_B} -- {transport} -- {} B",
            super::network::A,
            super::network::B
        ));
        say("");
        say("A and B can reach each other through R only, which relays what it cannot read.");
        heading("Addresses, each made from the node's public key");
        for node in self.nodes() {
            let role = if node.name == 'R' {
                "  relay, without an interface (--no-tun)"
            } else {
                ""
            };
            say(format_args!("  {}  {}{role}", node.name, node.address));
        }
    }

    fn ping(&self) -> Result<(), Error> {
        heading("Ping B from A");
        let target = self.b.address;
        let mut pinger = ping::Pinger::open(&self.network.a, target)
            .map_err(Error::system("open a socket for pings"))?;
        let first = self.first_answer(&mut pinger)?;
        say(format_args!(
            "  first answer {} after the nodes were started",
            Milliseconds((first - self.started).as_secs_f64() * 1e3)
        ));
        let mut times = Vec::new();
        for _ in 0..PINGS {
            times.extend(
                pinger
                    .round_trip(Duration::from_secs(1))
                    .map_err(Error::system("ping"))?,
            );
        }
        times.sort_unstable();
        let Some(median) = times.get(times.len() / 2) else {
            return Err(self.no_reply(Duration::from_secs(1) * PINGS.into(), None));
        };
        say(format_args!(
            "  then {} of {PINGS} answered, median {}",
            times.len(),
            Milliseconds(median.as_secs_f64() * 1e3)
        ));
        Ok(())
    }

    /// Ping until the first answer; when it came.
    fn first_answer(&self, pinger: &mut ping::Pinger) -> Result<Instant, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = match pinger.attempt() {
                Ok(Some(answered)) => return Ok(answered),
                Ok(None) => None,
                // No interface yet, or no route.
                Err(error) => {
                    std::thread::sleep(ping::RETRY);
                    Some(error)
                }
            };
            self.check()?;
            if Instant::now() > deadline {
                return Err(self.no_reply(PATIENCE, failure));
            }
        }
    }

    fn no_reply(&self, limit: Duration, reason: Option<io::Error>) -> Error {
        Error::NoReply {
            limit,
            reason,
            log: self.a.log_tail(),
        }
    }

    fn show_peers_and_routes(&self) -> Result<(), Error> {
        let reports = self.reports()?;
        heading("Peers");
        for report in &reports {
            for peer in &report.peers {
                say(format_args!("  {}  {}", report.name, PeerLine(peer)));
            }
        }
        heading("Routes");
        for report in &reports {
            for route in &report.routes {
                let line = RouteLine {
                    route,
                    owner: self.owner(&route.subnet),
                };
                say(format_args!("  {}  {line}", report.name));
            }
        }
        Ok(())
    }

    /// What the nodes' APIs report, once that includes what the pings have brought about.
    fn reports(&self) -> Result<Vec<Report>, Error> {
        let deadline = Instant::now() + PUBLISHED;
        loop {
            let mut reports = Vec::new();
            for node in self.nodes() {
                let peers = node.ask(PATIENCE, Client::peers)?;
                let routes = node.ask(PATIENCE, Client::selected_routes)?;
                reports.push(Report {
                    name: node.name,
                    peers,
                    routes,
                });
            }
            let knows = |from: char, to: char| {
                reports.iter().any(|report| {
                    report.name == from
                        && report
                            .routes
                            .iter()
                            .any(|route| self.owner(&route.subnet) == Some(to))
                })
            };
            if knows('A', 'B') && knows('B', 'A') || Instant::now() > deadline {
                return Ok(reports);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The node that a subnet belongs to.
    fn owner(&self, subnet: &str) -> Option<char> {
        let network: Ipv6Addr = subnet.split('/').next()?.parse().ok()?;
        let subnet = Subnet::containing(network);
        self.nodes()
            .into_iter()
            .find(|node| subnet.contains(node.address))
            .map(|node| node.name)
    }

    fn transfer(&self, duration: Duration) -> Result<(), Error> {
        heading(format_args!(
            "Data from A to B for {} s",
            duration.as_secs()
        ));
        let moved = transfer::run(&self.network.a, &self.network.b, self.b.address, duration)
            .map_err(|reason| {
                // A node that died says more than the socket.
                self.check().err().unwrap_or_else(|| Error::Transfer {
                    reason,
                    log: self.a.log_tail(),
                })
            })?;
        if moved.sent != moved.received {
            return Err(Error::BytesLost {
                sent: moved.sent,
                received: moved.received,
            });
        }
        let gigabits = moved.received as f64 * 8.0 / 1e9 / moved.elapsed.as_secs_f64();
        say(format_args!(
            "  {gigabits:.2} Gbit/s: {} arrived, encrypted all the way from A to B",
            Bytes(moved.received)
        ));
        Ok(())
    }

    /// An error if a node has ended.
    fn check(&self) -> Result<(), Error> {
        self.nodes().into_iter().try_for_each(Node::check)
    }
}

/// What a node's API says.
struct Report {
    name: char,
    peers: Vec<PeerStats>,
    routes: Vec<Route>,
}

struct PeerLine<'a>(&'a PeerStats);

impl fmt::Display for PeerLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.0.connection_state {
            ConnectionState::Alive => "alive",
            ConnectionState::Connecting => "connecting",
            ConnectionState::Dead => "dead",
        };
        let kind = match self.0.peer_type {
            PeerType::Static => "configured",
            PeerType::LinkLocalDiscovery => "discovered",
            PeerType::Inbound => "inbound",
        };
        write!(f, "{}  {kind}, {state}", self.0.endpoint)?;
        match self.0.details.rtt_ms {
            Some(rtt) => write!(f, ", {}", Milliseconds(rtt)),
            None => Ok(()),
        }
    }
}

struct RouteLine<'a> {
    route: &'a Route,
    owner: Option<char>,
}

impl fmt::Display for RouteLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route {
            subnet,
            next_hop,
            metric,
            ..
        } = self.route;
        match self.owner {
            Some(owner) => write!(f, "to {owner}, {subnet}")?,
            None => write!(f, "to {subnet}")?,
        }
        write!(f, " through {next_hop}, metric {metric}")
    }
}

fn heading(text: impl fmt::Display) {
    say(format_args!("\n{text}"));
}

/// Print a line. A reader that has gone away does not matter: the exit code tells the outcome.
fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
