//! What can happen to a network, and arbitrary sequences of it.

use std::time::Duration;

use crate::world::World;

/// Something happens. Faults that do not apply (starting a running node) do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; its kernel closes the connections.
    Kill(usize),
    /// The machine dies; nobody is told.
    PowerLoss(usize),
    /// The process leaves cleanly: it retracts its routes, then closes its connections.
    Leave(usize),
    /// The process starts: same keys, new seed, hence a new router-id.
    Start(usize),
    /// [`Fault::Kill`] and [`Fault::Start`] at once.
    Restart(usize),
    /// Both ends see the link go, at once.
    CarrierLoss(usize),
    /// The link is back.
    CarrierBack(usize),
    /// Packets vanish, in both directions, with the link up.
    Silence(usize),
    /// They no longer do.
    Heal(usize),
    /// The connection over the link is reset, and may be dialled again.
    Reset(usize),
    /// The link takes this many milliseconds from now on.
    Latency(usize, u64),
    /// The link loses this many packets in a million from now on.
    Loss(usize, u32),
    /// The node originates one more identity.
    AddIdentity(usize),
    /// The node stops originating its newest identity other than its own.
    RemoveIdentity(usize),
}

/// How much of what happens, and how long it takes to be undone.
#[derive(Clone, Debug)]
pub struct Churn {
    /// Mean time between two faults.
    pub every: Duration,
    /// The longest time until a fault is undone.
    pub repair: Duration,
    /// Whether nodes die and start again.
    pub restarts: bool,
    /// Whether links fall silent, in addition to losing carrier and being reset.
    pub silence: bool,
    /// Whether latencies change.
    pub latency: bool,
    /// Nodes that stay as they are.
    pub spare: Vec<usize>,
}

impl Churn {
    /// Schedule faults, each with its repair, from now until `duration` has passed. All are undone by
    /// `duration + repair`.
    pub fn schedule(&self, world: &mut World, duration: Duration) {
        let start = world.now();
        let mut at = start;
        loop {
            at = at
                + world
                    .choices()
                    .duration(Duration::from_millis(1)..self.every * 2);
            if at.since(start) >= duration || world.choices().exhausted() {
                return;
            }
            let repaired = at
                + world
                    .choices()
                    .duration(Duration::from_millis(1)..self.repair);
            let (fault, repair) = self.fault(world);
            world.schedule(at, fault);
            if let Some(repair) = repair {
                world.schedule(repaired, repair);
            }
        }
    }

    /// A fault and what undoes it.
    fn fault(&self, world: &mut World) -> (Fault, Option<Fault>) {
        let links = world.links().len();
        let nodes = world.nodes();
        let choices = world.choices();
        let link = choices.below(links);
        let node = choices.below(nodes);
        let pair = |fault, repair| (fault, Some(repair));
        match choices.below(8) {
            0 | 1 => pair(Fault::CarrierLoss(link), Fault::CarrierBack(link)),
            2 if self.silence => pair(Fault::Silence(link), Fault::Heal(link)),
            3 if self.restarts && !self.spare.contains(&node) => {
                pair(Fault::Kill(node), Fault::Start(node))
            }
            4 if self.restarts && !self.spare.contains(&node) => (Fault::Restart(node), None),
            5 if self.restarts && self.silence && !self.spare.contains(&node) => {
                pair(Fault::PowerLoss(node), Fault::Start(node))
            }
            6 if self.latency => (Fault::Latency(link, choices.within(1..60)), None),
            _ => (Fault::Reset(link), None),
        }
    }
}
