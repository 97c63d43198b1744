//! `mycelium demo` as a user meets it: what it says, and that nothing of it is left however it ends.
//!
//! Not under the common harness, which would enter a user namespace first: what an ordinary user may do is the point.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv6Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use mycelium_core::addr::is_overlay;
use netns_tests::{daemon, wait};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Pid, Uid};
use node_integration::userns;

/// The whole demo, default length.
const LIMIT: Duration = Duration::from_secs(10);
/// How soon after its end, or its death, nothing may be left.
const CLEAN_UP: Duration = Duration::from_secs(2);
/// An ordinary user that every system has.
const NOBODY: u32 = 65534;

/// Whose demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Whoever runs the tests.
    Own,
    /// An ordinary user, played by root.
    Nobody,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They measure times.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let mut trials = Vec::new();
    let root = Uid::effective().is_root();
    if root {
        for user in [User::Own, User::Nobody] {
            trials.extend(cases(user));
        }
        trials.push(trial(
            "user/names_the_fix_for_a_closed_tun".into(),
            names_the_fix,
        ));
    } else {
        trials.extend(cases(User::Own));
    }
    if !arguments.list
        && let Some(reason) = unmet()
    {
        eprintln!("cannot run {} tests of the demo: {reason}", trials.len());
        trials = trials
            .into_iter()
            .map(|trial| trial.with_ignored_flag(true))
            .collect();
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn cases(user: User) -> Vec<Trial> {
    let who = if user == User::Own && Uid::effective().is_root() {
        "root"
    } else {
        "user"
    };
    let mut trials = vec![
        trial(format!("{who}/tcp"), move || tells_the_story(user, &[])),
        trial(format!("{who}/quic"), move || {
            tells_the_story(user, &["--quic", "--seconds", "1"])
        }),
        trial(format!("{who}/without_a_reader"), move || {
            without_a_reader(user)
        }),
    ];
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        for moment in ["Addresses", "Data from A to B"] {
            let name = format!(
                "{who}/{signal}/at_{}",
                moment.split(' ').next().unwrap_or_default()
            );
            trials.push(trial(name, move || interrupted(user, signal, moment)));
        }
    }
    trials
}

/// A test on a thread of its own, which may therefore leave the mount namespace of the others.
fn trial(name: String, body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(name, || {
        std::thread::spawn(body)
            .join()
            .map_err(|_| Failed::from("panicked"))?
            .map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// Why the demo cannot work on this machine: what it says itself. `None` if it gets as far as starting nodes.
fn unmet() -> Option<String> {
    let output = Command::new(daemon::mycelium_binary())
        .args(["demo", "--seconds=1"])
        .stdin(Stdio::null())
        .output();
    let said = match output {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => return Some(error.to_string()),
    };
    [
        "/dev/net/tun",
        "user namespaces are not available",
        "not permitted",
    ]
    .iter()
    .any(|reason| said.contains(reason))
    .then(|| said.trim().to_owned())
}

/// Everything is said, in time, and nothing is left.
fn tells_the_story(user: User, options: &[&str]) -> anyhow::Result<()> {
    let stage = Stage::set(user, 0o666)?;
    let before = stage.surroundings()?;
    let started = Instant::now();
    let mut demo = Demo::start(&stage, options)?;
    demo.read_until("Data from A to B")?;
    let processes = stage.processes()?;
    ensure!(
        processes.len() >= 4,
        "three nodes and what started them: {:?}",
        processes
    );
    let status = demo.finish()?;
    let took = started.elapsed();
    stage.is_clean(&before, &processes)?;

    let said = &demo.said;
    ensure!(status.success(), "{status}:\n{said}");
    ensure!(took < LIMIT, "took {took:?}");
    let after = |heading: &str| -> anyhow::Result<Vec<&str>> {
        let lines = said
            .lines()
            .skip_while(|line| !line.starts_with(heading))
            .skip(1);
        let lines: Vec<&str> = lines.take_while(|line| line.starts_with("  ")).collect();
        ensure!(!lines.is_empty(), "nothing about {heading}:\n{said}");
        Ok(lines)
    };
    for (line, name) in after("Addresses")?.iter().zip(["A", "R", "B"]) {
        let mut words = line.split_whitespace();
        ensure!(words.next() == Some(name), "{line}");
        let address: Ipv6Addr = words.next().context("an address")?.parse()?;
        ensure!(is_overlay(address), "{line}");
    }
    ensure!(
        after("Ping B from A")?
            .iter()
            .any(|line| line.contains("10 of 10 answered")),
        "{said}"
    );
    let scheme = if options.contains(&"--quic") {
        "quic://"
    } else {
        "tcp://"
    };
    let peers = after("Peers")?;
    // Beside each of the four there is a native link, once the nodes have moved to it.
    let is_native = |line: &&&str| line.contains("udp://");
    let named = |line: &&&str| line.contains(scheme);
    ensure!(
        peers.iter().filter(named).count() == 4
            && peers
                .iter()
                .filter(|line| named(line) || is_native(line))
                .count()
                == peers.len()
            && peers.iter().all(|line| line.contains("alive")),
        "{said}"
    );
    let routes = after("Routes")?;
    for expected in ["  A  to B,", "  B  to A,"] {
        ensure!(
            routes.iter().any(|line| line.starts_with(expected)),
            "no route{expected}:\n{said}"
        );
    }
    let rate: f64 = after("Data from A to B")?
        .first()
        .and_then(|line| line.trim_start().split_once(" Gbit/s: "))
        .with_context(|| format!("a rate in\n{said}"))?
        .0
        .parse()?;
    ensure!(rate > 0.0, "{said}");
    ensure!(said.contains("gone again"), "{said}");
    ensure!(
        (user == User::Nobody) == said.contains("as an ordinary user")
            || !Uid::effective().is_root(),
        "{said}"
    );
    eprintln!(
        "{took:?}, {rate} Gbit/s, {}",
        after("Ping B from A")?.join(",")
    );
    Ok(())
}

/// A signal in the middle ends everything, and the exit code tells.
fn interrupted(user: User, signal: Signal, moment: &str) -> anyhow::Result<()> {
    let stage = Stage::set(user, 0o666)?;
    let before = stage.surroundings()?;
    let mut demo = Demo::start(&stage, &[])?;
    demo.read_until(moment)?;
    let processes = stage.processes()?;
    let sent = Instant::now();
    kill(Pid::from_raw(i32::try_from(demo.child.id())?), signal)?;
    let status = demo.finish()?;
    ensure!(
        sent.elapsed() < CLEAN_UP,
        "ended {:?} after {signal}",
        sent.elapsed()
    );
    if signal == Signal::SIGKILL {
        ensure!(status.signal() == Some(signal as i32), "{status}");
        // The kernel ends the others; nobody is left to wait for that.
        wait::until("the end of everything", CLEAN_UP, || {
            stage.is_clean(&before, &processes).map(Some)
        })
    } else {
        ensure!(status.code() == Some(128 + signal as i32), "{status}");
        ensure!(demo.said.contains("Interrupted"), "{}", demo.said);
        stage.is_clean(&before, &processes)
    }
}

/// A closed standard output is no failure.
fn without_a_reader(user: User) -> anyhow::Result<()> {
    let stage = Stage::set(user, 0o666)?;
    let before = stage.surroundings()?;
    let mut demo = Demo::start(&stage, &["--seconds", "1"])?;
    demo.read_until("mycelium demo")?;
    let processes = stage.processes()?;
    demo.stdout = None;
    let status = demo.finish()?;
    ensure!(status.success(), "{status}: {}", demo.said);
    stage.is_clean(&before, &processes)
}

/// An ordinary user who may not open /dev/net/tun learns what to do.
fn names_the_fix() -> anyhow::Result<()> {
    let stage = Stage::set(User::Nobody, 0o600)?;
    let before = stage.surroundings()?;
    let mut demo = Demo::start(&stage, &[])?;
    let status = demo.finish()?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(
        demo.said.contains("sudo chmod 0666 /dev/net/tun"),
        "{}",
        demo.said
    );
    stage.is_clean(&before, &stage.processes()?)
}

/// The file system that a demo runs in. Root makes one of the test's own: empty directories for temporary files,
/// so that a left-over shows, and a TUN device with the wanted mode.
struct Stage {
    user: User,
    program: PathBuf,
    home: PathBuf,
    /// Directories in which nothing may appear.
    watched: Vec<PathBuf>,
    // For a stage of ordinary users, who cannot mount: removed at the end.
    _directory: Option<tempfile::TempDir>,
}

/// What must be the same afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Surroundings {
    interfaces: Vec<String>,
    mounts: String,
    files: BTreeSet<PathBuf>,
}

/// A process: its number and, because numbers are used again, when it started, in clock ticks since boot.
type Process = (i32, u64);

impl Stage {
    fn set(user: User, tun_mode: u32) -> anyhow::Result<Self> {
        let binary = daemon::mycelium_binary();
        if !Uid::effective().is_root() {
            let directory = tempfile::tempdir()?;
            let home = directory.path().join("home");
            std::fs::create_dir(&home)?;
            // A copy, so that its processes are told from those of other tests.
            let program = directory.path().join("mycelium");
            std::fs::copy(binary, &program)?;
            return Ok(Self {
                user,
                program,
                watched: vec![home.clone()],
                home,
                _directory: Some(directory),
            });
        }
        unshare(CloneFlags::CLONE_NEWNS)?;
        userns::make_mounts_private()?;
        // Read before the directory it may lie in is covered.
        let image = std::fs::read(binary)?;
        for directory in ["/tmp", "/mnt"] {
            mount(
                Some("test"),
                directory,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=1777"),
            )
            .with_context(|| format!("cover {directory}"))?;
        }
        let base = Path::new("/mnt");
        let (program, home, tun) = (base.join("mycelium"), base.join("home"), base.join("tun"));
        std::fs::write(&program, image)?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        std::fs::create_dir(&home)?;
        if user == User::Nobody {
            chown(&home, Some(NOBODY), Some(NOBODY))?;
        }
        mknod(&tun, SFlag::S_IFCHR, Mode::empty(), makedev(10, 200))?;
        std::fs::set_permissions(&tun, PermissionsExt::from_mode(tun_mode))?;
        mount(
            Some(&tun),
            "/dev/net/tun",
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(Self {
            user,
            program,
            watched: vec!["/tmp".into(), base.into()],
            home,
            _directory: None,
        })
    }

    fn surroundings(&self) -> anyhow::Result<Surroundings> {
        let mut files = BTreeSet::new();
        let mut directories = self.watched.clone();
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path.clone());
                }
                files.insert(path);
            }
        }
        Ok(Surroundings {
            interfaces: std::fs::read_to_string("/proc/thread-self/net/dev")?
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
                .collect(),
            mounts: std::fs::read_to_string("/proc/thread-self/mountinfo")?,
            files,
        })
    }

    /// All processes of the demo: those of this stage's program, and whatever else is in their namespaces.
    ///
    /// To be taken while it runs. Afterwards the numbers of namespaces mean nothing: the kernel uses them again.
    fn processes(&self) -> anyhow::Result<BTreeSet<Process>> {
        let ours = namespaces("thread-self");
        let mut own = BTreeSet::new();
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(process) = name.parse().ok().and_then(running) else {
                continue;
            };
            let program = std::fs::read_link(Path::new("/proc").join(&name).join("exe"));
            let of_the_demo = program.is_ok_and(|program| program == self.program);
            let theirs = namespaces(&name);
            if of_the_demo {
                own.extend(theirs.difference(&ours).cloned());
            }
            all.push((process, of_the_demo, theirs));
        }
        all.retain(|(_, of_the_demo, theirs)| *of_the_demo || !theirs.is_disjoint(&own));
        Ok(all.into_iter().map(|(process, ..)| process).collect())
    }

    /// None of these processes is left, nor another of this stage's program, and the surroundings are as before.
    /// With its processes and without mounts nothing holds a namespace.
    fn is_clean(&self, before: &Surroundings, processes: &BTreeSet<Process>) -> anyhow::Result<()> {
        let mut left = self.processes()?;
        left.extend(
            processes
                .iter()
                .filter(|(number, started)| running(*number) == Some((*number, *started))),
        );
        ensure!(left.is_empty(), "processes are left: {left:?}");
        let now = self.surroundings()?;
        ensure!(now == *before, "left behind: {now:?}, before {before:?}");
        Ok(())
    }
}

/// The process of this number, unless it has ended, whether or not its parent has noticed.
fn running(number: i32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // After the name, which may hold anything, in parentheses: state, and 18 fields later the start (proc(5)).
    let mut fields = status.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some((number, started))
}

/// The namespaces of a process, of those kinds that the demo makes; none if it has ended.
fn namespaces(process: &str) -> BTreeSet<PathBuf> {
    let directory = Path::new("/proc").join(process).join("ns");
    let kinds = ["net", "mnt", "pid", "user"];
    kinds
        .iter()
        .filter_map(|kind| std::fs::read_link(directory.join(kind)).ok())
        .collect()
}

/// A running demo.
struct Demo {
    child: Child,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    said: String,
}

impl Demo {
    fn start(stage: &Stage, options: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(&stage.program);
        command
            .arg("demo")
            .args(options)
            .env("HOME", &stage.home)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if stage.user == User::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self {
            child,
            stdout,
            said: String::new(),
        })
    }

    /// Read until a line that starts so.
    fn read_until(&mut self, start: &str) -> anyhow::Result<()> {
        let stdout = self.stdout.as_mut().context("standard output is closed")?;
        loop {
            let from = self.said.len();
            if stdout.read_line(&mut self.said)? == 0 {
                let status = self.finish()?;
                bail!("{status} before it said {start:?}:\n{}", self.said);
            }
            if self
                .said
                .get(from..)
                .is_some_and(|line| line.starts_with(start))
            {
                return Ok(());
            }
        }
    }

    /// Read all that is left, errors last, and wait for the end.
    fn finish(&mut self) -> anyhow::Result<ExitStatus> {
        use std::io::Read as _;
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut self.said)?;
        }
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut self.said)?;
        }
        Ok(self.child.wait()?)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
