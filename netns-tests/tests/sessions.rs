//! Session v2 against a relay that both ends trust with nothing: whatever it does to their packets costs packets, and
//! nothing else (docs/protocol.md §14, docs/threat-model.md).

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::figures::{report, strict};
use netns_tests::harness::{Case, Scratch, case, main as run};
use netns_tests::probe::numbered::{BothWays, NumberedReport, listen_beside};
use netns_tests::rogue::{Mischief, Overheard, Rogue};
use netns_tests::topology::{Relay, Underlay};
use netns_tests::wait;

const PATIENCE: Duration = Duration::from_secs(10);
/// How long a relay misbehaves.
const SPELL: Duration = Duration::from_secs(3);
/// Between datagrams: 500 a second in each direction.
const INTERVAL: Duration = Duration::from_millis(2);
const SIZE: usize = 400;
/// More than a narrow path carries in one packet.
const LARGE: usize = 1300;
const INTERFACE: &str = "overlay";

fn main() -> ExitCode {
    let mut cases = vec![
        case("honest_relay", honest_relay),
        case("stripped_hints", stripped_hints),
        case(
            "stripped_hints_before_contact",
            stripped_hints_before_contact,
        ),
        case(
            "dropped_handshakes_before_contact",
            dropped_handshakes_before_contact,
        ),
        case("dropped_handshakes", dropped_handshakes),
        case("announced_elsewhere", announced_elsewhere),
        case("replay_across_restart", replay_across_restart),
        case("narrow_path", narrow_path),
        case("path_that_narrows", path_that_narrows),
        case("rekeying", rekeying),
        case("require", require),
        case("network_key", network_key),
        case("pins_survive_a_restart", pins_survive_a_restart),
    ];
    for mischief in Mischief::MEDDLING {
        cases.push(meddling(mischief));
        cases.push(meddling_before_contact(mischief));
    }
    run(cases)
}

/// A and B, and a relay that both of them dial.
struct Scene {
    a: Node,
    b: Node,
    rogue: Rogue,
}

impl Scene {
    /// `prepare` the relay before anybody meets it.
    fn start(
        scratch: &Scratch,
        prepare: impl FnOnce(&Rogue) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::start_with(scratch, [&[], &[]], prepare)
    }

    /// As [`Scene::start`], with further arguments for A and B.
    fn start_with(
        scratch: &Scratch,
        [of_a, of_b]: [&[&str]; 2],
        prepare: impl FnOnce(&Rogue) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let hosts = Relay::lay_out()?;
        let rogue = Rogue::start(&hosts.r, "rogue", &["a", "b"])?;
        prepare(&rogue)?;
        let with = |options: NodeOptions, more: &[&str]| {
            let named = options.arguments(["--tun-name", INTERFACE]);
            named.arguments(more.iter().copied())
        };
        let options = with(hosts.options_b(Ours, Underlay::Tcp4), of_b);
        let b = Node::start(scratch, &hosts.b, options)?;
        let options = with(hosts.options_a(Ours, Underlay::Tcp4), of_a);
        let a = Node::start(scratch, &hosts.a, options)?;
        let scene = Self { a, b, rogue };
        for node in [&scene.a, &scene.b] {
            listen_beside(node, INTERFACE)?;
        }
        Ok(scene)
    }

    /// As [`Scene::start`] with an honest relay, until both ends have confirmed v2.
    fn confirmed(scratch: &Scratch) -> anyhow::Result<Self> {
        Self::confirmed_with(scratch, [&[], &[]])
    }

    /// As [`Scene::confirmed`], with further arguments for A and B.
    fn confirmed_with(scratch: &Scratch, more: [&[&str]; 2]) -> anyhow::Result<Self> {
        let scene = Self::start_with(scratch, more, |_| Ok(()))?;
        let streams = scene.stream()?;
        streams.flowing(Instant::now(), PATIENCE)?;
        scene.wait_for_v2(PATIENCE)?;
        streams.stop()?;
        Ok(scene)
    }

    fn stream(&self) -> anyhow::Result<BothWays> {
        self.stream_of(SIZE)
    }

    fn stream_of(&self, size: usize) -> anyhow::Result<BothWays> {
        BothWays::start(&self.a, &self.b, INTERVAL, size)
    }

    fn wait_for_v2(&self, limit: Duration) -> anyhow::Result<()> {
        wait::until("v2 at both ends", limit, || {
            for (node, remote) in [(&self.a, &self.b), (&self.b, &self.a)] {
                let session = node.session(remote.public_key())?;
                if session["protocol"] != "v2" || session["pinned"] != true {
                    bail!("{}: {session}", node.host().name());
                }
            }
            Ok(Some(()))
        })
    }

    /// Each end is on v2, or says that it is not.
    fn v1_is_reported(&self) -> anyhow::Result<()> {
        for (node, remote) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let session = node.session(remote.public_key())?;
            if session["protocol"] != "v2" {
                ensure!(session["protocol"] == "v1", "{session}");
                warned_of_v1(node)?;
            }
        }
        Ok(())
    }

    /// What the relay overheard from A to B and from B to A.
    fn overheard(&self) -> anyhow::Result<[Overheard; 2]> {
        let (a, b) = (self.a.subnet(), self.b.subnet());
        Ok([self.rogue.overheard(a, b)?, self.rogue.overheard(b, a)?])
    }

    /// Nothing more than `before` went through under v1 or was readable.
    fn nothing_leaked_since(&self, before: [Overheard; 2]) -> anyhow::Result<()> {
        let now = self.overheard()?;
        for (before, now) in before.iter().zip(&now) {
            ensure!(now.packets > before.packets, "nothing went through");
            ensure!(now.v1 == before.v1, "v1: {before:?}, then {now:?}");
            ensure!(
                now.readable == before.readable,
                "readable: {before:?}, then {now:?}"
            );
        }
        Ok(())
    }

    /// Neither end delivers anything of the other, and A sends no v1.
    fn nothing_goes(&self) -> anyhow::Result<()> {
        let streams = self.stream()?;
        std::thread::sleep(SPELL);
        let outcome = streams.stop()?;
        ensure!(
            outcome.there.sent > 100 && outcome.back.sent > 100,
            "{outcome:?}"
        );
        ensure!(outcome.there.arrived == 0, "A to B: {outcome:?}");
        ensure!(outcome.back.arrived == 0, "B to A: {outcome:?}");
        let [from_a, _] = self.overheard()?;
        ensure!(from_a.v1 == 0 && from_a.readable == 0, "{from_a:?}");
        Ok(())
    }

    fn still_running(&mut self) -> anyhow::Result<()> {
        self.a.check_alive()?;
        self.b.check_alive()
    }
}

/// The share of datagrams that arrives where nothing is lost: a busy machine stalls, and queues drop what is too old.
fn whole() -> f64 {
    if strict() { 0.98 } else { 0.6 }
}

/// The warning that something runs on v1 is there.
fn warned_of_v1(node: &Node) -> anyhow::Result<()> {
    wait::until("a warning of v1", Duration::from_secs(5), || {
        let status = node.get("/admin/status")?;
        let warnings = status["health"]["warnings"]
            .as_array()
            .context("warnings")?;
        let is_it = |warning: &serde_json::Value| {
            warning["code"]
                .as_str()
                .is_some_and(|code| code.contains("v1"))
        };
        Ok(warnings.iter().any(is_it).then_some(()))
    })
    .with_context(|| node.host().name().to_owned())
}

/// Two nodes through a relay that does nothing: v2, and somebody with both keys and everything that went by reads
/// nothing of it.
fn honest_relay(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::confirmed(scratch)?;
    let before = scene.overheard()?;
    ensure!(before.iter().all(|seen| seen.handshakes > 0), "{before:?}");
    let streams = scene.stream()?;
    streams.flowing(Instant::now(), PATIENCE)?;
    std::thread::sleep(SPELL);
    let outcome = streams.stop()?;
    outcome.check_clean()?;
    ensure!(outcome.share() > whole(), "{outcome:?}");
    scene.nothing_leaked_since(before)?;
    scene.still_running()
}

/// After v2 is confirmed, a relay does its worst for a while and stops.
fn meddling(mischief: Mischief) -> Case {
    case(format!("meddling/{mischief:?}"), move |scratch| {
        let mut scene = Scene::confirmed(scratch)?;
        let streams = scene.stream()?;
        streams.flowing(Instant::now(), PATIENCE)?;
        let before = scene.overheard()?;
        scene.rogue.commit(mischief)?;
        std::thread::sleep(SPELL);
        let misdeeds = scene.rogue.misdeeds()?;
        scene.rogue.commit(Mischief::Honest)?;
        let recovered = streams.flowing(Instant::now(), PATIENCE)?;
        let outcome = streams.stop()?;
        report(
            &format!("relay, {mischief:?}"),
            format_args!(
                "{misdeeds} misdeeds, {:.1} % arrived, afterwards {recovered:.1?}",
                100.0 * outcome.share()
            ),
        );
        ensure!(
            misdeeds > 10,
            "the relay hardly touched anything: {misdeeds}"
        );
        outcome.check_clean()?;
        scene.nothing_leaked_since(before)?;
        scene.wait_for_v2(Duration::from_secs(1))?;
        ensure!(
            recovered < Duration::from_secs(1),
            "recovered after {recovered:?}"
        );
        if matches!(
            mischief,
            Mischief::Replay | Mischief::Reflect | Mischief::Reorder | Mischief::ForgeHandshakes
        ) {
            // Every packet went through, among others.
            ensure!(outcome.share() > whole(), "{outcome:?}");
        }
        scene.still_running()
    })
}

/// The relay misbehaves from the start. What comes through is v2, or v1 and reported, also when the relay has stopped.
fn meddling_before_contact(mischief: Mischief) -> Case {
    case(
        format!("meddling_before_contact/{mischief:?}"),
        move |scratch| {
            let mut scene = Scene::start(scratch, |rogue| rogue.commit(mischief))?;
            let streams = scene.stream()?;
            std::thread::sleep(SPELL);
            let [from_a, from_b] = scene.overheard()?;
            scene.rogue.commit(Mischief::Honest)?;
            streams.flowing(Instant::now(), PATIENCE)?;
            let asked = Instant::now();
            let confirmed = scene.wait_for_v2(Duration::from_secs(5)).is_ok();
            let took = asked.elapsed();
            if confirmed {
                let before = scene.overheard()?;
                std::thread::sleep(Duration::from_millis(500));
                scene.nothing_leaked_since(before)?;
            } else {
                scene.v1_is_reported()?;
            }
            let outcome = streams.stop()?;
            report(
                &format!("relay, {mischief:?} from the start"),
                format_args!(
                    "v1 packets {} and {}, then {}",
                    from_a.v1,
                    from_b.v1,
                    if confirmed {
                        format!("v2 after {took:.1?}")
                    } else {
                        "v1, reported".to_owned()
                    }
                ),
            );
            // Forged units alone spoil nothing: no true one was lost.
            let unspoilt = matches!(
                mischief,
                Mischief::Replay | Mischief::Reflect | Mischief::ForgeHandshakes
            );
            ensure!(confirmed || !unspoilt, "no v2: {from_a:?}, {from_b:?}");
            if from_a.v1 + from_b.v1 == 0 {
                outcome.check_clean()?;
            }
            scene.still_running()
        },
    )
}

/// Hints that disappear from all routes do not bring v1 back.
fn stripped_hints(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::confirmed(scratch)?;
    let streams = scene.stream()?;
    streams.flowing(Instant::now(), PATIENCE)?;
    let before = scene.overheard()?;
    scene.rogue.strip_hints(true)?;
    // Everybody learns all routes anew, without hints.
    scene.rogue.hang_up()?;
    let back = streams.flowing(Instant::now(), PATIENCE)?;
    std::thread::sleep(SPELL);
    let outcome = streams.stop()?;
    report(
        "relay, hints stripped",
        format_args!("traffic after {back:.1?}"),
    );
    outcome.check_clean()?;
    scene.nothing_leaked_since(before)?;
    scene.wait_for_v2(Duration::from_secs(1))?;
    scene.still_running()
}

/// Hints that never arrive delay v2; what runs on v1 meanwhile is reported.
fn stripped_hints_before_contact(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::start(scratch, |rogue| rogue.strip_hints(true))?;
    let streams = scene.stream()?;
    streams.flowing(Instant::now(), PATIENCE)?;
    std::thread::sleep(SPELL);
    let [from_a, from_b] = scene.overheard()?;
    scene.v1_is_reported()?;
    report(
        "relay, hints stripped from the start",
        format_args!("v1 packets {} and {}", from_a.v1, from_b.v1),
    );
    streams.stop()?.check_clean()?;
    scene.still_running()
}

/// A relay that lets no handshake through before the first contact forces v1. It is reported.
fn dropped_handshakes_before_contact(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::start(scratch, |rogue| rogue.commit(Mischief::DropHandshakes))?;
    let streams = scene.stream()?;
    let waited = streams.flowing(Instant::now(), PATIENCE)?;
    let [from_a, from_b] = scene.overheard()?;
    ensure!(from_a.v1 > 0 && from_b.v1 > 0, "{from_a:?}, {from_b:?}");
    for node in [&scene.a, &scene.b] {
        warned_of_v1(node)?;
    }
    report(
        "relay, no handshake comes through",
        format_args!("first packets after {waited:.1?}, on v1"),
    );
    ensure!(waited < Duration::from_secs(5), "users waited {waited:?}");
    streams.stop()?;
    scene.still_running()
}

/// Once v2 is confirmed, a relay that lets no handshake through stops traffic and gets no v1 for it, not even from a
/// node that meets a restarted one.
fn dropped_handshakes(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::confirmed(scratch)?;
    let before = scene.overheard()?;
    scene.rogue.commit(Mischief::DropHandshakes)?;
    scene.b.kill()?;
    scene.b.start_again()?;
    listen_beside(&scene.b, INTERFACE)?;
    let streams = scene.stream()?;
    std::thread::sleep(SPELL);
    let [from_a, _] = scene.overheard()?;
    ensure!(from_a.packets > before[0].packets, "A sent nothing");
    ensure!(from_a.v1 == before[0].v1, "A fell back to v1: {from_a:?}");
    let so_far = streams.there.report();
    ensure!(so_far.arrived == 0, "without a handshake: {so_far:?}");
    let received = streams.back.report();
    ensure!(
        received.arrived == 0,
        "A took v1 from a pinned node: {received:?}"
    );
    scene.rogue.commit(Mischief::Honest)?;
    let back = streams.flowing(Instant::now(), PATIENCE)?;
    report(
        "relay, handshakes lost and a restart, then let through",
        format_args!("traffic after {back:.1?}"),
    );
    scene.wait_for_v2(PATIENCE)?;
    streams.stop()?.check_clean()?;
    scene.still_running()
}

/// A relay that says it is the victim gets the victim's packets, as before, and cannot do anything with them.
fn announced_elsewhere(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::confirmed(scratch)?;
    let streams = scene.stream()?;
    streams.flowing(Instant::now(), PATIENCE)?;
    let before = scene.overheard()?;
    for number in 0..20 {
        scene.rogue.announce(scene.b.public_key(), number)?;
        scene.rogue.announce(scene.a.public_key(), number)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    streams.flowing(Instant::now(), PATIENCE)?;
    let outcome = streams.stop()?;
    report(
        "relay, announces both ends as its own",
        format_args!("{:.1} % arrived", 100.0 * outcome.share()),
    );
    outcome.check_clean()?;
    scene.nothing_leaked_since(before)?;
    scene.wait_for_v2(Duration::from_secs(1))?;
    scene.still_running()
}

/// What was recorded of one life of a node is nothing to the next.
fn replay_across_restart(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::confirmed(scratch)?;
    let streams = scene.stream()?;
    streams.flowing(Instant::now(), PATIENCE)?;
    std::thread::sleep(Duration::from_secs(1));
    scene.b.kill()?;
    scene.rogue.commit(Mischief::Replay)?;
    scene.b.start_again()?;
    let back = streams.flowing(Instant::now(), PATIENCE)?;
    std::thread::sleep(SPELL);
    let outcome = streams.stop()?;
    report(
        "relay, replays what a node's last life received",
        format_args!("traffic after {back:.1?}"),
    );
    outcome.check_clean()?;
    scene.wait_for_v2(Duration::from_secs(1))?;
    scene.still_running()
}

/// A relay that carries no large packets and says nothing: large datagrams arrive, in smaller parts.
fn narrow_path(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::start(scratch, |rogue| rogue.commit(Mischief::Narrow))?;
    let streams = scene.stream_of(LARGE)?;
    streams.flowing(Instant::now(), PATIENCE)?;
    // The first ones paid for finding out.
    std::thread::sleep(SPELL);
    streams.stop()?;
    let lost_before = scene.rogue.misdeeds()?;
    let streams = scene.stream_of(LARGE)?;
    std::thread::sleep(SPELL);
    let outcome = streams.stop()?;
    let lost = scene.rogue.misdeeds()? - lost_before;
    report(
        "relay, carries 1162 bytes",
        format_args!(
            "{:.1} % of datagrams of {LARGE} arrived, {lost} packets were too large",
            100.0 * outcome.share()
        ),
    );
    outcome.check_clean()?;
    ensure!(outcome.share() > whole(), "{outcome:?}");
    ensure!(lost <= 4, "{lost} packets were too large");
    scene.still_running()
}

/// A relay that carried large packets and no longer does: found out within half a minute.
fn path_that_narrows(scratch: &Scratch) -> anyhow::Result<()> {
    let mut scene = Scene::confirmed(scratch)?;
    let streams = scene.stream_of(LARGE)?;
    streams.flowing(Instant::now(), PATIENCE)?;
    std::thread::sleep(SPELL);
    scene.rogue.commit(Mischief::Narrow)?;
    let narrowed = Instant::now();
    let recovered = streams.flowing(narrowed, Duration::from_secs(30))?;
    report(
        "relay, stops carrying large packets",
        format_args!("datagrams of {LARGE} again after {recovered:.1?}"),
    );
    streams.stop()?.check_clean()?;
    scene.still_running()
}

/// New keys every second: nothing is lost, doubled or readable.
fn rekeying(scratch: &Scratch) -> anyhow::Result<()> {
    let often: &[&str] = &["--session-rekey-interval", "1"];
    let mut scene = Scene::confirmed_with(scratch, [often, often])?;
    let before = scene.overheard()?;
    // A machine that stalls makes queues drop what is too old; it does not do so three times in a row.
    let mut lossless = false;
    for _ in 0..3 {
        let streams = scene.stream()?;
        std::thread::sleep(2 * SPELL);
        let outcome = streams.stop()?;
        outcome.check_clean()?;
        report("relay, new keys every second", format_args!("{outcome:?}"));
        let all = |outcome: NumberedReport| outcome.arrived == outcome.sent;
        lossless = all(outcome.there) && all(outcome.back);
        if lossless {
            break;
        }
    }
    ensure!(lossless, "something was lost three times");
    let session = scene.a.session(scene.b.public_key())?;
    ensure!(
        session["rekeys"].as_u64().is_some_and(|rekeys| rekeys >= 4),
        "{session}"
    );
    scene.nothing_leaked_since(before)?;
    scene.still_running()
}

/// Nothing goes either way between a node that requires v2 and one that speaks v1.
fn require(scratch: &Scratch) -> anyhow::Result<()> {
    let [a, b]: [&[&str]; 2] = [
        &["--session-policy", "require"],
        &["--session-policy", "off"],
    ];
    let mut scene = Scene::start_with(scratch, [a, b], |_| Ok(()))?;
    scene.nothing_goes()?;
    scene.still_running()
}

/// Who does not have the network key gets nowhere, also with v2; who has it does.
fn network_key(scratch: &Scratch) -> anyhow::Result<()> {
    let file = |name: &str| -> anyhow::Result<String> {
        let path = scratch.path().join(name);
        std::fs::write(&path, netns_tests::daemon::key_of(name))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    };
    let (ours, other) = (file("network")?, file("another network")?);
    let member: &[&str] = &["--session-key-file", &ours];
    for outsider in [&[][..], &["--session-key-file", &other]] {
        let mut scene = Scene::start_with(scratch, [member, outsider], |_| Ok(()))?;
        scene.nothing_goes()?;
        scene.still_running()?;
    }
    let mut scene = Scene::confirmed_with(scratch, [member, member])?;
    let [from_a, from_b] = scene.overheard()?;
    ensure!(from_a.v1 + from_b.v1 == 0, "{from_a:?}, {from_b:?}");
    scene.still_running()
}

/// With a state directory, not even the first packet after a restart can be forced to v1.
fn pins_survive_a_restart(scratch: &Scratch) -> anyhow::Result<()> {
    let directory = scratch.path().join("state");
    std::fs::create_dir(&directory)?;
    let directory = directory.to_str().context("a path in UTF-8")?;
    let keeps: &[&str] = &["--state-dir", directory];
    let mut scene = Scene::confirmed_with(scratch, [keeps, &[]])?;
    // As an operator stops it: what it knows is on disk by then, if not before.
    scene.a.terminate(PATIENCE)?;
    scene.rogue.strip_hints(true)?;
    scene.rogue.commit(Mischief::DropHandshakes)?;
    scene.a.start_again()?;
    listen_beside(&scene.a, INTERFACE)?;
    let [before, _] = scene.overheard()?;
    let streams = scene.stream()?;
    std::thread::sleep(SPELL);
    let [after, _] = scene.overheard()?;
    ensure!(
        after.handshakes > before.handshakes,
        "A did not try: {after:?}"
    );
    ensure!(after.v1 == before.v1, "A fell back to v1: {after:?}");
    scene.rogue.commit(Mischief::Honest)?;
    streams.flowing(Instant::now(), Duration::from_secs(20))?;
    let outcome = streams.stop()?;
    outcome.check_clean()?;
    scene.still_running()
}
