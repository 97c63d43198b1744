//! User networks against bad input, crashes and changes behind their back: each is refused with one clear message, or
//! repaired, and nothing is half made.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use netns_tests::attach::{Networks, own_names, porters};
use netns_tests::daemon::mycelium_binary;
use netns_tests::figures::repetitions;
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::wait;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use node_integration::{link, named};

fn main() -> ExitCode {
    run(vec![
        case("bad_input", bad_input),
        case("bad_directories", bad_directories),
        case("killed_at_any_time", killed_at_any_time),
        case("killed_porters", killed_porters),
        case("several_at_once", several_at_once),
        case("behind_its_back", behind_its_back),
    ])
}

/// A host with a network `red` and a workload `w1`; no node.
struct World {
    networks: Networks,
    host: Arc<Host>,
}

impl World {
    fn start(scratch: &Scratch) -> anyhow::Result<Self> {
        own_names()?;
        let host = Lab::new().host("a")?;
        let networks = Networks::new(scratch, &host);
        networks.create("red", "")?;
        networks.attach("netns red w1 --seed 001122334455")?;
        Ok(Self { networks, host })
    }

    fn state(&self) -> anyhow::Result<BTreeMap<String, String>> {
        self.networks.state()
    }

    fn refuses(&self, words: &[&str], expected: &str) -> anyhow::Result<()> {
        self.networks.refuses(words, expected)
    }

    fn command(&self, words: &[&str]) -> Inside<'_> {
        let mut command = Command::new(mycelium_binary());
        command
            .args(words)
            .arg("--net-dir")
            .arg(self.networks.directory())
            .arg("--notes-dir")
            .arg(self.networks.notes());
        Inside {
            command,
            host: &self.host,
        }
    }
}

/// A command of a host.
struct Inside<'a> {
    command: Command,
    host: &'a Host,
}

impl Inside<'_> {
    fn output(mut self) -> std::io::Result<std::process::Output> {
        let host = self.host;
        host.inside(|| self.command.output())
            .map_err(std::io::Error::other)?
    }

    fn spawn(mut self) -> anyhow::Result<Child> {
        let host = self.host;
        self.command.stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(host.inside(|| self.command.spawn())??)
    }
}

/// Everything that is no network, workload, key, seed, name or place.
fn bad_input(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let long = "a".repeat(64);
    let red = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f";
    let key: String = netns_tests::daemon::key_of("red")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for (words, expected) in [
        // Keys.
        (
            &["net", "create", "blue", "--key", &red[..62]][..],
            "62 characters",
        ),
        (
            &["net", "create", "blue", "--key", &"00".repeat(32)],
            "no secret",
        ),
        (
            &["net", "create", "blue", "--key", &"xy".repeat(32)],
            "neither hexadecimal",
        ),
        (
            &["net", "create", "blue", "--key", &key],
            "have the same key",
        ),
        // Names.
        (&["net", "create", &long], "name"),
        (&["net", "create", ".."], "name"),
        (&["net", "create", "a/b"], "name"),
        (&["net", "create", "a\nb"], "name"),
        (&["net", "create", "a\u{1b}[31m"], "name"),
        (&["net", "create", "vernetzt-ä"], "name"),
        (&["net", "create", ""], "no usable name"),
        (&["attach", "netns", "red", &long], "name"),
        (&["attach", "netns", "red", "../w1"], "name"),
        (&["attach", "netns", "red", "w\u{202e}1"], "name"),
        (
            &["net", "create", "blue", "--id", "12345678901234"],
            "no network id",
        ),
        (
            &[
                "attach",
                "netns",
                "red",
                "w2",
                "--interface",
                "sixteen-bytes-xx",
            ],
            "no interface name",
        ),
        (
            &["attach", "netns", "red", "w2", "--interface", "a\tb"],
            "no interface name",
        ),
        (
            &["attach", "netns", "red", "w2", "--netns", "../../etc"],
            "netns",
        ),
        // Seeds, MACs, addresses.
        (
            &["attach", "netns", "red", "w2", "--seed", "000000000000"],
            "reserved",
        ),
        (
            &["attach", "netns", "red", "w2", "--seed", "////////"],
            "reserved",
        ),
        (
            &["attach", "netns", "red", "w2", "--seed", "0011"],
            "4 characters",
        ),
        (
            &["attach", "netns", "red", "w2", "--seed", "001122334455"],
            "would both have",
        ),
        (
            &["attach", "netns", "red", "w2", "--mac", "01:00:00:00:00:01"],
            "no MAC of a host",
        ),
        (
            &["attach", "netns", "red", "w2", "--address", "500::1"],
            "outside the network",
        ),
        // Places.
        (&["attach", "netns", "nowhere", "w2"], "no network"),
        (
            &["attach", "veth", "red", "w2", "--netns", "nowhere"],
            "nowhere",
        ),
        (
            &["attach", "veth", "red", "w2", "--netns", "/etc/passwd"],
            "not a network namespace",
        ),
        (&["detach", "red", "w2"], "w2"),
        (&["net", "delete", "nowhere"], "nowhere"),
    ] {
        world.refuses(words, expected)?;
    }

    // A bridge that is gone: the network is not as it should be, and the workload is not half made.
    let bridge = "m-red";
    link::delete(world.host.namespace(), bridge)?;
    world.refuses(&["attach", "netns", "red", "w2"], bridge)?;
    world.networks.run("net apply")?;
    world.networks.attach("netns red w2")?;
    Ok(())
}

/// Descriptions that others can write, that are links, or far too long.
fn bad_directories(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let directory = world.networks.directory().to_owned();
    let file = directory.join("red/network.json");
    let good = std::fs::read(&file)?;
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    };

    // Keys that everybody can read are no secrets; what others write is theirs.
    for open in [0o604, 0o602, 0o620, 0o666] {
        mode(&file, open)?;
        world.refuses(&["attach", "netns", "red", "w2"], "others")?;
    }
    mode(&file, 0o600)?;
    // Who may write the directory may replace what is in it.
    for path in [
        &directory,
        &directory.join("red"),
        &directory.join("red/attachments"),
    ] {
        mode(path, 0o777)?;
        world.refuses(&["attach", "netns", "red", "w2"], "others")?;
        mode(path, 0o700)?;
    }
    // A description of a hundred megabytes is not read, nor waited for.
    let huge = std::fs::File::create(&file)?;
    huge.set_len(100 << 20)?;
    world.refuses(&["net", "show", "red"], "network.json")?;
    std::fs::remove_file(&file)?;
    // Nor is a device or a pipe, which would never end.
    symlink("/dev/zero", &file)?;
    world.refuses(&["net", "show", "red"], "network.json")?;
    std::fs::remove_file(&file)?;
    mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
    world.refuses(&["net", "show", "red"], "no file")?;
    std::fs::remove_file(&file)?;
    std::fs::write(&file, &good)?;
    mode(&file, 0o600)?;
    ensure!(world.networks.run("net apply")? == "nothing to do\n");
    Ok(())
}

/// A command that dies at any moment leaves what the next one finishes, and what a removal removes.
fn killed_at_any_time(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let before = world.state()?;
    let rounds = repetitions(30, 200);
    for (make, unmake) in [
        (
            &["attach", "netns", "red", "k"][..],
            &["detach", "red", "k"][..],
        ),
        (&["net", "create", "blue"], &["net", "delete", "blue"]),
    ] {
        for round in 0..rounds {
            for words in [make, unmake] {
                let mut child = world.command(words).spawn()?;
                std::thread::sleep(Duration::from_micros(
                    u64::try_from(round)? * 15_000 / 30 % 40_000,
                ));
                // It may have ended by then.
                let _ = child.kill();
                child.wait()?;
                if words == make {
                    let again = world.command(make).output()?;
                    let said = String::from_utf8_lossy(&again.stderr);
                    ensure!(again.status.success(), "round {round}: {words:?}: {said}");
                    let plan = world.networks.run("net plan")?;
                    ensure!(plan == "nothing to do\n", "round {round}: {plan}");
                }
            }
            // Whatever is left of it.
            let _ = world.command(unmake).output()?;
            world.networks.run("net apply")?;
            let after = world.state()?;
            ensure!(before == after, "round {round}: {before:#?}\n{after:#?}");
        }
    }
    Ok(())
}

/// The process that waits for the kernel in place of a removal dies at any moment, alone or with the removal: the command
/// does the work itself, or the next one finishes it, and what comes next is not undone by what was still to be done.
fn killed_porters(scratch: &Scratch) -> anyhow::Result<()> {
    /// After a removal, until nothing of it runs any more.
    const LONGEST: Duration = Duration::from_secs(2);
    let world = World::start(scratch)?;
    let before = world.state()?;
    let make: &[&str] = &["attach", "netns", "red", "k"];
    let unmake: &[&str] = &["detach", "red", "k"];
    let kill = |process: i32| {
        // It may have ended by then.
        let _ = nix::sys::signal::kill(Pid::from_raw(process), Signal::SIGKILL);
    };
    let mut met = 0;
    for round in 0..repetitions(30, 200) {
        world.networks.run(&make.join(" "))?;
        let mut command = world.command(unmake).spawn()?;
        let pause = Duration::from_micros(u64::try_from(round)? / 3 * 700 % 20_000);
        std::thread::sleep(pause);
        let porters = porters()?;
        met += usize::from(!porters.is_empty());
        let with_command = round % 3;
        // Before it, after it, or not at all.
        if with_command == 0 {
            command.kill()?;
        }
        porters.into_iter().for_each(kill);
        if with_command == 1 {
            command.kill()?;
        }
        let output = command.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            with_command != 2 || output.status.success(),
            "round {round}: {said}"
        );
        if with_command != 2 {
            world.networks.run(&make.join(" "))?;
            std::thread::sleep(pause);
            let plan = world.networks.run("net plan")?;
            ensure!(plan == "nothing to do\n", "round {round}: {plan}");
            world.networks.run(&unmake.join(" "))?;
        }
        let after = world.state()?;
        ensure!(before == after, "round {round}: {before:#?}\n{after:#?}");
    }
    ensure!(met > 0, "no porter was met");
    wait::until("all porters have ended", LONGEST, || {
        Ok(porters()?.is_empty().then_some(()))
    })?;
    Ok(())
}

/// Commands at the same time take turns, and agree.
fn several_at_once(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let before = world.state()?;
    let all = |each: &[&[&str]]| -> anyhow::Result<usize> {
        let children: Vec<Child> = each
            .iter()
            .map(|words| world.command(words).spawn())
            .collect::<Result<_, _>>()?;
        let mut succeeded = 0;
        for child in children {
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!said.contains("panicked"), "{said}");
            succeeded += usize::from(output.status.success());
        }
        Ok(succeeded)
    };
    // The same thing: it is there then.
    let same: &[&str] = &["attach", "netns", "red", "same"];
    ensure!(all(&[same; 8])? == 8);
    ensure!(world.networks.run("net plan")? == "nothing to do\n");
    // One address for several: one of them has it.
    let names: Vec<String> = (0..8).map(|number| format!("rival{number}")).collect();
    let rivals: Vec<[&str; 6]> = names
        .iter()
        .map(|name| ["attach", "netns", "red", name, "--seed", "aabbccddeeff"])
        .collect();
    let rivals: Vec<&[&str]> = rivals.iter().map(|words| &words[..]).collect();
    ensure!(all(&rivals)? == 1);
    // Coming and going.
    let going: &[&str] = &["detach", "red", "same"];
    all(&[same, going, same, going, same, going, same, going])?;
    ensure!(world.networks.run("net plan")? == "nothing to do\n");
    for name in names.iter().map(String::as_str).chain(["same"]) {
        let _ = world.command(&["detach", "red", name]).output()?;
    }
    let after = world.state()?;
    ensure!(before == after, "{before:#?}\n{after:#?}");
    Ok(())
}

/// What somebody else removed, renamed or replaced is repaired, or goes when it should.
fn behind_its_back(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let networks = &world.networks;
    let host = world.host.namespace();
    let before = world.state()?;
    let port = networks.json("net show red")?["attachments"][0]["interface"]
        .as_str()
        .context("a port")?
        .to_owned();
    let repaired = |what: &str| -> anyhow::Result<()> {
        networks.run("net apply").with_context(|| what.to_owned())?;
        ensure!(networks.run("net plan")? == "nothing to do\n", "{what}");
        let after = world.state()?;
        ensure!(before == after, "{what}: {before:#?}\n{after:#?}");
        Ok(())
    };
    // The port, the bridge, the workload's namespace, that of the network.
    link::delete(host, &port)?;
    repaired("the port was deleted")?;
    link::delete(host, "m-red")?;
    repaired("the bridge was deleted")?;
    named::delete("red-w1")?;
    repaired("the workload's namespace was deleted")?;
    named::delete("my-red")?;
    repaired("the network's namespace was deleted")?;
    // Renamed inside the workload.
    let inside = named::open("red-w1")?;
    link::down(&inside, "eth0")?;
    link::rename(&inside, "eth0", "mine")?;
    repaired("the workload renamed its interface")?;
    // What is somebody else's by now is left alone, also when the entry goes.
    link::delete(host, &port)?;
    link::bridge(host, &port)?;
    let refused = networks.try_run("net apply")?;
    ensure!(
        !refused.status.success(),
        "a stranger's interface was taken"
    );
    ensure!(link::index(host, &port)?.is_some());
    link::delete(host, &port)?;
    repaired("the stranger has gone")?;
    Ok(())
}
