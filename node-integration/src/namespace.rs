//! A network namespace, held open by a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// A network namespace. It lives at least as long as this value; an unnamed one disappears, with every virtual
/// interface in it, once nothing refers to it: no value, process, socket or mount.
#[derive(Debug)]
pub struct Namespace {
    handle: File,
}

impl Namespace {
    /// A new, unnamed namespace. Its loopback interface is down: see [`link::up`](crate::link::up).
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        Self::create_and(|| ()).map(|(namespace, ())| namespace)
    }

    /// As [`Namespace::create`], and run `f` inside.
    pub(crate) fn create_and<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<(Self, T)> {
        away(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
                crate::Error::from_io("create a network namespace", errno.into())
            })?;
            Ok((Self::current()?, f()))
        })?
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace behind a path such as `/run/netns/name` or `/proc/1/ns/net`.
    ///
    /// # Errors
    /// `InvalidInput` if the path leads to something else, and whatever opening it gives.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let handle = File::open(path)?;
        // "net:[inode]" for /proc/PID/ns/net; the mount point for a bind mount, where only the file system can tell
        // (its kind of namespace shows when it is entered).
        let shown = std::fs::read_link(format!("/proc/thread-self/fd/{}", handle.as_raw_fd()))?;
        let shown = shown.to_string_lossy();
        let genuine = shown.starts_with("net:[")
            || shown.starts_with('/')
                && fstatfs(&handle).is_ok_and(|kind| kind.filesystem_type() == NSFS_MAGIC);
        if !genuine {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a network namespace", path.display()),
            ));
        }
        Ok(Self { handle })
    }

    /// A path that opens this namespace, for this process and its children, as long as this value lives.
    pub fn path(&self) -> PathBuf {
        // Our process number as the mounted /proc counts: inside a new PID namespace that may still be an outer
        // one, where `std::process::id` would name a stranger.
        let process = std::fs::read_link("/proc/self")
            .unwrap_or_else(|_| PathBuf::from(std::process::id().to_string()));
        Path::new("/proc")
            .join(process)
            .join("fd")
            .join(self.handle.as_raw_fd().to_string())
    }

    /// Run `f` on a fresh thread inside the namespace and return its result. Sockets opened there stay there
    /// whichever thread uses them later. A panic of `f` goes on in the caller.
    ///
    /// # Errors
    /// When the thread cannot start or enter; `f` has then not run.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.handle, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                crate::Error::from_io("enter a network namespace", errno.into())
            })?;
            Ok(f())
        })?
    }

    /// As [`Namespace::run`], without a thread, whose start takes longer than opening a socket does.
    pub(crate) fn visit<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        away(|| {
            setns(&self.handle, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                crate::Error::from_io("enter a network namespace", errno.into())
            })?;
            Ok(f())
        })?
    }

    /// Start a process inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())?
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Run `f`, which may change namespaces, and come back; on a thread of its own where there is no way back.
fn away<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let home = Namespace::current()?;
    if setns(&home, CloneFlags::CLONE_NEWNET).is_err() {
        return on_thread(f);
    }
    let _way_back = WayBack(home);
    Ok(f())
}

/// Brings the thread to this namespace when it is dropped, also by a panic.
struct WayBack(Namespace);

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
            // What is done next is meant for this namespace, and would be done to another.
            eprintln!("no way back to a network namespace: {errno}");
            std::process::abort();
        }
    }
}

/// Run `f` on a thread of its own, which may therefore change namespaces without anyone noticing.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, f)?;
        thread
            .join()
            .or_else(|panic| std::panic::resume_unwind(panic))
    })
}
