//! A user namespace: root's rights over namespaces of one's own, for an ordinary user.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use crate::{Error, Result};

/// Move the calling process, which must have a single thread, into a new mount and network namespace; if it may not
/// do so, first into a new user namespace in which it is root. Mounts made afterwards stay private.
///
/// # Errors
/// [`Error::AlreadyThreaded`], or [`Error::NoUserNamespaces`] with what the machine's owner can change.
pub fn enter() -> Result<()> {
    become_root()?;
    enter_fresh(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    make_mounts_private()
}

/// Let the next child process be the first of a new PID namespace: with it, however it ends, end all its
/// descendants, and waiting for it waits for them. Afterwards this process can start no more threads.
///
/// # Errors
/// As [`enter`]; call [`become_root`] first.
pub fn separate_children() -> Result<()> {
    enter_fresh(CloneFlags::CLONE_NEWPID)
}

/// Make sure that the calling process, which must have a single thread, may create namespaces: as it is, or as root
/// of a new user namespace that maps only the current user and group. Returns whether that was needed.
///
/// # Errors
/// As [`enter`].
pub fn become_root() -> Result<bool> {
    if may_create_namespaces() {
        return Ok(false);
    }
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(unavailable)?;
    // Denying setgroups is the kernel's condition for an unprivileged group map.
    for (file, content) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        std::fs::write(file, content).map_err(restricted)?;
    }
    Ok(true)
}

/// Keep mounts of this mount namespace from reaching others, and theirs from reaching this one.
///
/// # Errors
/// When the kernel refuses.
pub fn make_mounts_private() -> Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|errno| Error::from_io("make mounts private", errno.into()))
}

/// Cover a directory with an empty one in memory, open to its owner only. After [`enter`] only this process and its
/// children see it, and it is gone with them.
///
/// # Errors
/// When the kernel refuses, as containers with a policy against mounts do.
pub fn cover_with_memory(directory: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("private"),
        directory,
        Some("tmpfs"),
        flags,
        Some("mode=0700"),
    )
    .map_err(|errno| {
        Error::from_io(
            format!("mount a file system in memory on {}", directory.display()),
            errno.into(),
        )
    })
}

/// Move the calling thread into new namespaces.
fn enter_fresh(kinds: CloneFlags) -> Result<()> {
    unshare(kinds).map_err(|errno| match errno {
        // After `become_root` only a security module says no.
        Errno::EPERM | Errno::EACCES => restricted(errno.into()),
        Errno::ENOSPC => unavailable(errno),
        _ => Error::from_io("create namespaces", errno.into()),
    })
}

/// CAP_SYS_ADMIN, the right to create namespaces, as the kernel reports it.
fn may_create_namespaces() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let Ok(status) = std::fs::read_to_string("/proc/thread-self/status") else {
        return Uid::effective().is_root();
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & 1 << CAP_SYS_ADMIN != 0)
}

/// Why a user namespace was refused.
fn unavailable(errno: Errno) -> Error {
    let source = io::Error::from(errno);
    let setting = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .ok()
    };
    let (reason, remedy) = match errno {
        // Also what the kernel says to a process with several threads.
        Errno::EINVAL => return Error::AlreadyThreaded,
        Errno::ENOSPC => (
            "the limit user.max_user_namespaces is reached or 0",
            "`sudo sysctl user.max_user_namespaces=1000`",
        ),
        Errno::EPERM | Errno::EACCES
            if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") =>
        {
            (
                "kernel.unprivileged_userns_clone is 0",
                "`sudo sysctl kernel.unprivileged_userns_clone=1`",
            )
        }
        Errno::EPERM | Errno::EACCES => (
            "a security policy (seccomp, SELinux, AppArmor or a container's) forbids them",
            "in a container add --privileged",
        ),
        _ => (
            "this kernel is built without them",
            "use a kernel with CONFIG_USER_NS",
        ),
    };
    Error::NoUserNamespaces {
        reason,
        remedy,
        source,
    }
}

/// A user namespace was granted, but no rights in it: what AppArmor does to unconfined programs on Ubuntu.
fn restricted(source: io::Error) -> Error {
    Error::NoUserNamespaces {
        reason: "the kernel grants one but no rights inside it (kernel.apparmor_restrict_unprivileged_userns or another policy)",
        remedy: "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container add --privileged",
        source,
    }
}
