//! Programs: they start, are told things, do what the core asks for, and end. The poll contract is checked on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig};
use mycelium_core::fib::FibPublisher;
use mycelium_core::io::{Event, Input, Output, PeerId};
use mycelium_core::node::Node;
use mycelium_core::router_id::RouterId;
use mycelium_core::time::Time;

use crate::hostile::Attacker;
use crate::link::Lane;
use crate::ports::Lanes;
use crate::station::{Brain, Core, Identity, Process, Station};
use crate::world::{Destination, Violation, What, World};

/// A node that wants to be woken this often at one instant will never let time pass.
const MAX_WAKES_AT_ONCE: u32 = 32;

/// Least time between two reports that data arrived from one connection.
const HEARD_SPACING: Duration = Duration::from_millis(250);

impl World {
    pub(crate) fn start(&mut self, node: usize) -> Result<(), Violation> {
        if self.stations[node].process.is_some() {
            return Ok(());
        }
        let mut dialect = self.dialect(node);
        let claimed = dialect;
        if let Some(mutant) = self.config.mutant {
            dialect = mutant.dialect(dialect);
        }
        let station = &mut self.stations[node];
        station.starts += 1;
        let incarnation = station.starts;
        let brain = if station.hostile {
            Brain::Hostile(Attacker::default())
        } else {
            let mut seed = [0x5e; 32];
            seed[..8].copy_from_slice(&self.base.to_le_bytes());
            seed[8..16].copy_from_slice(&(node as u64).to_le_bytes());
            seed[16..20].copy_from_slice(&incarnation.to_le_bytes());
            let secret = station.identities[0].secret.clone();
            let mut config = self.config.node.clone();
            if claimed.speaks_v2() {
                config.zone = RouterId::SPEAKS_V2;
            }
            let node = Node::new(config, secret, seed, self.now);
            let data = self.config.packets.then(|| {
                let publisher = FibPublisher::new(node.fib().clone());
                seed[31] ^= 0xff;
                let has_aes = incarnation.is_multiple_of(2);
                let config = DataPlaneConfig {
                    session: dialect.config(has_aes, self.config.rekey_after),
                    ..DataPlaneConfig::default()
                };
                let mut data = DataPlane::new(config, publisher.reader(), seed);
                data.load_pins(&station.pins);
                (data, publisher)
            });
            Brain::Core(Box::new(Core {
                node,
                data,
                lanes: Lanes::default(),
                heard: BTreeMap::new(),
            }))
        };
        station.process = Some(Process {
            brain,
            peers: BTreeMap::new(),
            incarnation,
            next_peer: 0,
            wake: None,
            wakes: (Time::ZERO, 0),
        });
        self.settle(node)?;
        for index in 1..self.stations[node].identities.len() {
            self.originate(node, index)?;
        }
        for (link, _) in self.stations[node].links.clone() {
            self.want_dial(link);
        }
        Ok(())
    }

    /// End a process. `told`: its kernel closes the connections, so the other ends learn of it.
    pub(crate) fn stop(&mut self, node: usize, told: bool) -> Result<(), Violation> {
        let Some(process) = self.stations[node].process.take() else {
            return Ok(());
        };
        if self.config.keeps_pins
            && let Brain::Core(core) = &process.brain
            && let Some((data, _)) = &core.data
        {
            let pins = data.pins();
            // What the daemon writes down.
            self.stations[node].pins = pins.into_iter().filter(|pin| pin.ours).collect();
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.on_stopped(node, &self.stations[node].pins);
        }
        self.hops[node].fill(None);
        self.failed.retain(|&(at, _), _| at != node);
        for (connection, end) in process.peers.into_values() {
            self.hang_up(connection, end, told);
        }
        Ok(())
    }

    pub(crate) fn new_identity(&mut self, node: usize) -> usize {
        let index = self.stations[node].identities.len();
        let mut secret = [0x1d; 32];
        secret[..8].copy_from_slice(&self.base.to_be_bytes());
        secret[8..16].copy_from_slice(&(node as u64).to_be_bytes());
        secret[16..24].copy_from_slice(&(index as u64).to_be_bytes());
        let secret = SecretKey::from_bytes(secret);
        let key = secret.public_key();
        let subnet = key.subnet();
        self.stations[node].identities.push(Identity {
            secret,
            key,
            subnet,
            active: true,
        });
        let name = if index == 0 {
            format!("<{node}>")
        } else {
            format!("<{node}.{index}>")
        };
        self.trace.name(subnet, name);
        self.by_subnet.insert(subnet, self.destinations.len());
        self.destinations.push(Destination {
            subnet,
            owner: node,
            identity: index,
        });
        for hops in &mut self.hops {
            hops.push(None);
        }
        index
    }

    pub(crate) fn add_identity(&mut self, node: usize) -> Result<(), Violation> {
        let index = self.new_identity(node);
        self.originate(node, index)
    }

    fn originate(&mut self, node: usize, index: usize) -> Result<(), Violation> {
        let identity = &self.stations[node].identities[index];
        if !identity.active {
            return Ok(());
        }
        let secret = identity.secret.clone();
        let id = Station::identity_id(index);
        self.tell(node, Input::AddIdentity { id, secret })
    }

    pub(crate) fn remove_identity(&mut self, node: usize) -> Result<(), Violation> {
        let identities = &mut self.stations[node].identities;
        let Some(index) = (1..identities.len())
            .rev()
            .find(|&index| identities[index].active)
        else {
            return Ok(());
        };
        identities[index].active = false;
        let id = Station::identity_id(index);
        self.tell(node, Input::RemoveIdentity { id })
    }

    pub(crate) fn wake(&mut self, node: usize, incarnation: u32) -> Result<(), Violation> {
        let now = self.now;
        let Some(process) = &mut self.stations[node].process else {
            return Ok(());
        };
        if process.incarnation != incarnation || process.wake != Some(now) {
            return Ok(());
        }
        process.wake = None;
        process.wakes = if process.wakes.0 == now {
            (now, process.wakes.1 + 1)
        } else {
            (now, 1)
        };
        if process.wakes.1 > MAX_WAKES_AT_ONCE {
            return Err(self.violation(format!(
                "node {node} wants to be woken at one instant for ever"
            )));
        }
        let Brain::Core(core) = &mut process.brain else {
            return Ok(());
        };
        if core.node.poll_timeout().is_some_and(|at| at <= now) {
            core.node.handle_timeout(now);
        }
        if core
            .data
            .as_ref()
            .and_then(|(data, _)| data.poll_timeout())
            .is_some_and(|at| at <= now)
        {
            self.data_batch(node)?;
        }
        self.settle(node)
    }

    /// Take everything out of a core and carry it out; check the poll contract on the way.
    pub(crate) fn settle(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now;
        let Some(process) = &mut self.stations[node].process else {
            return Ok(());
        };
        let Brain::Core(core) = &mut process.brain else {
            return Ok(());
        };
        let promised = core.node.poll_timeout();
        let mut outputs = std::mem::take(&mut self.outputs);
        while let Some(output) = core.node.poll_output() {
            outputs.push(output);
        }
        if !outputs.is_empty() && promised != Some(now) {
            return Err(self.violation(format!(
                "node {node} had {} outputs queued but promised {promised:?}",
                outputs.len()
            )));
        }
        let published = core.node.fib_if_changed();
        let changed = published.is_some();
        if let Some(fib) = published {
            if let Some((_, publisher)) = &core.data {
                publisher.publish(fib);
            }
            if core.node.fib_if_changed().is_some() {
                return Err(self.violation(format!("node {node} hands out one table twice")));
            }
        }
        if changed {
            self.tally.published += 1;
            if self.config.watch_loops {
                self.follow_changes(node)?;
            }
        }
        for output in outputs.drain(..) {
            self.carry_out(node, output)?;
        }
        self.outputs = outputs;
        // Only now: what the data plane asks for must not overtake what is to be sent.
        if self.config.packets {
            if changed {
                self.data_batch(node)
            } else {
                self.carry_data(node)
            }
        } else {
            self.plan_wake(node);
            Ok(())
        }
    }

    /// See to it that the node is woken in time. Later deadlines are found when it wakes.
    pub(crate) fn plan_wake(&mut self, node: usize) {
        let Some(process) = &mut self.stations[node].process else {
            return;
        };
        let Brain::Core(core) = &process.brain else {
            return;
        };
        let control = core.node.poll_timeout();
        let data = core.data.as_ref().and_then(|(data, _)| data.poll_timeout());
        let next = control
            .into_iter()
            .chain(data)
            .min()
            .map(|next| next.max(self.now));
        let Some(next) = next.filter(|&next| process.wake.is_none_or(|wake| next < wake)) else {
            return;
        };
        process.wake = Some(next);
        let incarnation = process.incarnation;
        self.push(
            next,
            What::Wake {
                station: node,
                incarnation,
            },
        );
    }

    fn carry_out(&mut self, node: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Send { peer, mut packet } => {
                if let Some(relay) = &self.stations[node].relay {
                    relay.bend_control(&mut packet);
                }
                let kind = match packet.get(8) {
                    Some(4) => 0,
                    Some(5) => 1,
                    Some(8) => 2,
                    Some(9) => 3,
                    Some(10) => 4,
                    _ => 5,
                };
                self.tally.tlvs[kind] += 1;
                let Some(&(connection, end)) = self.peer(node, peer) else {
                    return Err(
                        self.violation(format!("node {node} sends to {peer:?}, which is gone"))
                    );
                };
                self.transmit(node, connection, end, Lane::Control, packet)
            }
            Output::Close { peer, reason } => self.close(node, peer, reason),
            Output::QueryFailed { subnet } => {
                self.tally.queries_failed += 1;
                self.failed.insert((node, subnet), self.now);
                if let Some(core) = self.stations[node].core_mut()
                    && let Some((data, _)) = &mut core.data
                {
                    data.query_failed(subnet, &mut core.lanes);
                }
                if self.trace.wanted() {
                    let of = self.trace.of(subnet);
                    self.trace
                        .line(self.now, format_args!("{node}: no route to {of}"));
                }
                Ok(())
            }
            Output::Event(event) => {
                if self.trace.wanted() {
                    self.trace_event(node, &event);
                }
                Ok(())
            }
        }
    }

    fn trace_event(&mut self, node: usize, event: &Event) {
        let text = match event {
            Event::RouteSelected {
                subnet,
                peer,
                metric,
            } => {
                let via = self
                    .far_end(node, *peer)
                    .map_or("?".to_owned(), |far| far.to_string());
                format!("{} via {via} costs {metric}", self.trace.of(*subnet))
            }
            Event::RouteLost { subnet } => format!("{} lost", self.trace.of(*subnet)),
            other => format!("{other:?}"),
        };
        self.trace.line(self.now, format_args!("{node}: {text}"));
    }

    pub(crate) fn attack_once(&mut self, node: usize) -> Result<(), Violation> {
        if self.stations[node].relay.is_some() {
            return self.announce_falsely(node);
        }
        let subnets: Vec<Subnet> = self.destinations.iter().map(|d| d.subnet).collect();
        let Some(process) = &mut self.stations[node].process else {
            return Ok(());
        };
        let Brain::Hostile(attacker) = &mut process.brain else {
            return Ok(());
        };
        let Some((peer, packet)) = attacker.attack(&subnets, &mut self.choices) else {
            return Ok(());
        };
        match self.peer(node, peer) {
            Some(&(connection, end)) => self.transmit(node, connection, end, Lane::Control, packet),
            None => Ok(()),
        }
    }

    fn announce_falsely(&mut self, node: usize) -> Result<(), Violation> {
        let station = &self.stations[node];
        let (Some(relay), Some(process)) = (&station.relay, &station.process) else {
            return Ok(());
        };
        let ends: Vec<(usize, usize)> = process.peers.values().copied().collect();
        for packet in relay.announcements(&mut self.choices) {
            for &(connection, end) in &ends {
                self.transmit(node, connection, end, Lane::Control, packet.clone())?;
            }
        }
        Ok(())
    }

    /// Data is a sign of life; report it a few times a second, as the daemon does.
    pub(crate) fn note_heard(&mut self, node: usize, peer: PeerId) -> Result<(), Violation> {
        let now = self.now;
        let Some(core) = self.stations[node].core_mut() else {
            return Ok(());
        };
        let last = core.heard.get(&peer).copied();
        if last.is_some_and(|last| now.since(last) < HEARD_SPACING) {
            return Ok(());
        }
        core.heard.insert(peer, now);
        self.tell(node, Input::Heard { peer })
    }
}
