//! Kernel settings of a namespace, below `/proc/sys/net`.

use std::io;
use std::path::PathBuf;

use crate::{Error, Namespace, Result};

/// Set `key`, written with slashes because interface names may hold dots: `ipv6/conf/all/forwarding`.
///
/// # Errors
/// [`Error::NoSuchSetting`] for an unknown key; [`Error::NotPermitted`] or [`Error::Refused`] (read-only file
/// system) where /proc/sys is protected, as in many containers.
pub fn set(namespace: &Namespace, key: &str, value: &str) -> Result<()> {
    let action = format!("set net/{key} to {value}");
    let path = path(key)?;
    in_namespace(namespace, action, || std::fs::write(path, value))
}

/// Read `key`, without the final line feed.
///
/// # Errors
/// [`Error::NoSuchSetting`] for an unknown key.
pub fn get(namespace: &Namespace, key: &str) -> Result<String> {
    let path = path(key)?;
    in_namespace(namespace, format!("read net/{key}"), || {
        std::fs::read_to_string(path)
    })
    .map(|value| value.trim_end().to_owned())
}

/// Turn IPv6 off, also on interfaces yet to come, or on again.
///
/// # Errors
/// As [`set`].
pub fn disable_ipv6(namespace: &Namespace, disable: bool) -> Result<()> {
    let value = if disable { "1" } else { "0" };
    set(namespace, "ipv6/conf/default/disable_ipv6", value)?;
    set(namespace, "ipv6/conf/all/disable_ipv6", value)
}

/// Make the namespace a router for IPv4 and IPv6, or a host again.
///
/// # Errors
/// As [`set`].
pub fn forwarding(namespace: &Namespace, on: bool) -> Result<()> {
    let value = if on { "1" } else { "0" };
    set(namespace, "ipv4/ip_forward", value)?;
    set(namespace, "ipv6/conf/all/forwarding", value)
}

pub(crate) fn path(key: &str) -> Result<PathBuf> {
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::BadName {
            name: key.to_owned(),
            reason: "a key is a path below /proc/sys/net",
        });
    }
    Ok(PathBuf::from("/proc/sys/net").join(key))
}

fn in_namespace<T: Send>(
    namespace: &Namespace,
    action: String,
    access: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T> {
    namespace
        .run(access)
        .and_then(|outcome| outcome)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoSuchSetting { action },
            _ => Error::from_io(action, error),
        })
}
