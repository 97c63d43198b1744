//! Namespaces with a name, kept by a bind mount under `/run/netns` as `ip netns` does: either tool sees the other's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{Error, Namespace, Result};

/// Where the names are.
pub const DIRECTORY: &str = "/run/netns";

/// Create a namespace called `name`, which lives until [`delete`].
///
/// # Errors
/// [`Error::Exists`] when the name is taken; [`Error::NotPermitted`] without CAP_SYS_ADMIN.
pub fn create(name: &str) -> Result<Namespace> {
    create_and(name, || ()).map(|(namespace, ())| namespace)
}

/// As [`create`], and run `f` inside.
pub(crate) fn create_and<T: Send>(
    name: &str,
    f: impl FnOnce() -> T + Send,
) -> Result<(Namespace, T)> {
    let action = format!("create the network namespace {name}");
    let refused = |error: io::Error| Error::from_io(action.clone(), error);
    let path = path(name)?;
    share_directory().map_err(refused)?;
    let (namespace, outcome) = Namespace::create_and(f).map_err(refused)?;
    File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(refused)?;
    mount(
        Some(&namespace.path()),
        &path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| {
        // The empty file means nothing without the mount; its removal failing would change nothing.
        let _ = std::fs::remove_file(&path);
        refused(errno.into())
    })?;
    Ok((namespace, outcome))
}

/// Open the namespace called `name`.
///
/// # Errors
/// [`Error::NoSuchNamespace`].
pub fn open(name: &str) -> Result<Namespace> {
    Namespace::open(path(name)?).map_err(|error| missing_or(name, "open", error))
}

/// Delete the name. The namespace itself disappears when nothing else uses it.
///
/// # Errors
/// [`Error::NoSuchNamespace`].
pub fn delete(name: &str) -> Result<()> {
    let path = path(name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a left-over file that nothing is mounted on.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(missing_or(name, "delete", errno.into())),
    }
    std::fs::remove_file(&path).map_err(|error| missing_or(name, "delete", error))
}

/// All names, sorted.
///
/// # Errors
/// When the directory cannot be read; that it does not exist means that there are none.
pub fn list() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::from_io(format!("read {DIRECTORY}"), error)),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The path of a name.
///
/// # Errors
/// [`Error::BadName`] for what is no single file name.
pub fn path(name: &str) -> Result<PathBuf> {
    if name.is_empty()
        || name.len() > 255
        || matches!(name, "." | "..")
        || name.contains(['/', '\0'])
    {
        return Err(Error::BadName {
            name: name.to_owned(),
            reason: "a namespace name is a single file name",
        });
    }
    Ok(Path::new(DIRECTORY).join(name))
}

/// Make sure that the directory exists and that mounts in it reach every mount namespace that shares it.
fn share_directory() -> io::Result<()> {
    std::fs::create_dir_all(DIRECTORY)?;
    // Not those in it, which were born shared: there may be thousands.
    let share = || {
        mount(
            None::<&str>,
            DIRECTORY,
            None::<&str>,
            MsFlags::MS_SHARED,
            None::<&str>,
        )
    };
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet: make it one.
        Err(Errno::EINVAL) => {
            mount(
                Some(DIRECTORY),
                DIRECTORY,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn missing_or(name: &str, verb: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NoSuchNamespace {
            name: name.to_owned(),
        },
        _ => Error::from_io(format!("{verb} the network namespace {name}"), error),
    }
}
