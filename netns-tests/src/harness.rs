//! The `main` of every test program here: entering namespaces needs a process that is still single-threaded, and a
//! test that cannot run must say so, which the standard harness offers neither.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Uid;
use node_integration::{Namespace, userns};

/// Where one test keeps its key files and logs. Removed when the test passes; kept and named when it fails.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// The directory; exists as long as the test runs.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

/// One test.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    body: Body,
    unmet: Option<String>,
}

#[derive(Clone)]
struct Body(Arc<Check>);

type Check = dyn Fn(&Scratch) -> anyhow::Result<()> + Send + Sync;

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body(..)")
    }
}

/// A test called `name`.
pub fn case(
    name: impl Into<String>,
    body: impl Fn(&Scratch) -> anyhow::Result<()> + Send + Sync + 'static,
) -> Case {
    Case {
        name: name.into(),
        body: Body(Arc::new(body)),
        unmet: None,
    }
}

impl Case {
    /// Do not run the test if there is a reason, and say it.
    #[must_use]
    pub fn unless(mut self, reason: Option<String>) -> Self {
        self.unmet = self.unmet.or(reason);
        self
    }
}

/// Run the tests one after another (they measure times) and turn the outcome into an exit code.
pub fn main(cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(cases, None)).exit_code();
    }
    let _one_at_a_time = lock();
    // Before any namespace is entered: building the node may need the ordinary file system and network.
    let unmet = crate::daemon::prepare()
        .and_then(|()| sandbox())
        .err()
        .map(|error| format!("{error:#}"));
    libtest_mimic::run(&arguments, trials(cases, unmet.as_deref())).exit_code()
}

fn trials(cases: Vec<Case>, unmet: Option<&str>) -> Vec<Trial> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for case in &cases {
        if let Some(reason) = unmet.or(case.unmet.as_deref()) {
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
    for (reason, count) in reasons {
        eprintln!("cannot run {count} of {} tests: {reason}", cases.len());
    }
    cases
        .into_iter()
        .map(|case| {
            let ignored = unmet.is_some() || case.unmet.is_some();
            let name = case.name.clone();
            Trial::test(case.name, move || run(&name, &case.body)).with_ignored_flag(ignored)
        })
        .collect()
}

fn run(name: &str, body: &Body) -> Result<(), Failed> {
    let directory = tempfile::Builder::new()
        .prefix("mycelium-test-")
        .tempdir()
        .map_err(|error| Failed::from(format!("no directory for logs: {error}")))?;
    let scratch = Scratch {
        directory: directory.path().to_owned(),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| (body.0)(&scratch)));
    let problem = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "panicked".to_owned()),
    };
    let kept = directory.keep();
    eprintln!("{name}: {problem}\nlogs kept in {}", kept.display());
    crate::daemon::print_log_tails(&kept);
    Err(Failed::from(problem))
}

/// Get to where network namespaces and TUN interfaces can be made, or say why that is impossible here.
fn sandbox() -> anyhow::Result<()> {
    userns::enter()?;
    Namespace::create().context("cannot create a network namespace")?;
    File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun (is the tun module loaded, and is the device accessible to this user?)")?;
    Ok(())
}

/// At most one of these programs at a time per user: they measure times and outages.
fn lock() -> Option<File> {
    let path = std::env::temp_dir().join(format!("mycelium-netns-tests-{}.lock", Uid::effective()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .ok()?;
    file.lock().ok()?;
    Some(file)
}
