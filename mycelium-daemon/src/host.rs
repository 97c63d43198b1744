//! The interface towards the host: a TUN with the identity's address, in this or another network namespace.

use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

mod address;
pub(crate) mod guard;
mod tuning;

/// What the host may send in one packet; fixed by the network (decisions: a full packet fits the common links).
pub const MTU: u16 = 1400;
/// The whole overlay is behind the interface.
const PREFIX_LEN: u8 = 7;
/// What every TUN is made with.
const TUN_DEVICE: &str = "/dev/net/tun";
/// `IFNAMSIZ` less the final NUL.
const MAX_NAME: usize = 15;

/// Why there is no interface, each with what to do about it. Wrapped in an [`io::Error`] of a fitting kind.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not a name that Linux takes.
    #[error("{0:?} is not an interface name: 1 to 15 bytes, no space, no '/' and no ':'")]
    BadName(String),
    /// Another program has a TUN of that name, or another kind of interface has the name.
    #[error("interface {0} exists already: stop its owner or choose another name with --tun-name")]
    NameTaken(String),
    /// The process lacks CAP_NET_ADMIN.
    #[error(
        "no permission to create interface {0}: run as root, grant CAP_NET_ADMIN, or use --no-tun"
    )]
    NoPermission(String),
    /// The device may not be opened, whatever capabilities the process has.
    #[error(
        "no permission to create interface {name}: {TUN_DEVICE} has mode {mode:04o} and belongs to user {owner}; \
         run as root, grant CAP_NET_ADMIN and access to the device (chmod 0666 is usual), or use --no-tun"
    )]
    DeviceClosed {
        /// The interface.
        name: String,
        /// Permission bits of the device.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// The kernel has no TUN driver, or this container hides it.
    #[error(
        "no TUN device on this system: load the module (modprobe tun), provide /dev/net/tun, or use --no-tun"
    )]
    NoDevice,
    /// The namespace cannot be entered.
    #[error("cannot enter network namespace {path}: {source}")]
    Namespace {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot set up interface {name}: {source}")]
    Setup {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl HostError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::BadName(_) => io::ErrorKind::InvalidInput,
            Self::NameTaken(_) => io::ErrorKind::ResourceBusy,
            Self::NoPermission(_) | Self::DeviceClosed { .. } => io::ErrorKind::PermissionDenied,
            Self::NoDevice => io::ErrorKind::NotFound,
            Self::Namespace { source, .. } | Self::Setup { source, .. } => source.kind(),
        }
    }
}

impl From<HostError> for io::Error {
    fn from(error: HostError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// An interface that is up and has its address. Gone when dropped, unless it was made persistent before.
pub struct HostInterface {
    device: SyncDevice,
    name: String,
}

impl std::fmt::Debug for HostInterface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostInterface")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl HostInterface {
    /// Create TUN `name` with `address`/7 and bring it up, in the network namespace at path `netns` if given. A
    /// persistent TUN of that name is taken as it is.
    ///
    /// The address is usable at once.
    ///
    /// # Errors
    /// A [`HostError`] inside; the kinds are `InvalidInput`, `ResourceBusy`, `PermissionDenied`, `NotFound` or the
    /// system's.
    pub fn create(name: &str, netns: Option<&Path>, address: Ipv6Addr) -> io::Result<Self> {
        let well_formed = !name.is_empty()
            && name.len() <= MAX_NAME
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
        if !well_formed {
            return Err(HostError::BadName(name.to_owned()).into());
        }
        let device = match netns {
            None => create(name, address),
            Some(path) => create_in(path, name, address),
        }?;
        Ok(Self {
            device,
            name: name.to_owned(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn into_device(self) -> SyncDevice {
        self.device
    }
}

/// On a thread of its own, since entering a namespace cannot be undone without more privileges.
fn create_in(path: &Path, name: &str, address: Ipv6Addr) -> Result<SyncDevice, HostError> {
    let namespace = |source| HostError::Namespace {
        path: path.to_owned(),
        source,
    };
    // Without NONBLOCK the open of a FIFO, say, would wait for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| namespace(error.into()))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned());
        let thread = thread
            .spawn_scoped(scope, || {
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(LinkNameSpaceType::Network),
                )
                .map_err(|errno| namespace(errno.into()))?;
                create(name, address)
            })
            .map_err(namespace)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(namespace(io::Error::other("thread panicked"))))
    })
}

fn create(name: &str, address: Ipv6Addr) -> Result<SyncDevice, HostError> {
    let setup = |source| HostError::Setup {
        name: name.to_owned(),
        source,
    };
    let device = DeviceBuilder::new()
        .name(name)
        .mtu(MTU)
        // A persistent one that is up stays up: with it stay the routes that lead to it.
        .inherit_enable_state()
        .with(|builder| {
            builder.offload(true);
        })
        .build_sync()
        .map_err(|error| classify(name, error))?;
    adjust(name);
    let index = device.if_index().map_err(setup)?;
    if let Err(error) = tuning::tune(index) {
        tracing::debug!(name, %error, "the interface stays as the kernel made it");
    }
    device.enabled(true).map_err(setup)?;
    address::add(index, address, PREFIX_LEN).map_err(setup)?;
    Ok(device)
}

/// Two wishes to the kernel, in vain where /proc is read-only: no link-local address, so that it sends no router
/// solicitations into the overlay (else the data plane drops them), and that the address survives `ip link set down`.
fn adjust(name: &str) {
    for (setting, value) in [("addr_gen_mode", "1"), ("keep_addr_on_down", "1")] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(path, %error, "cannot change the interface setting");
        }
    }
}

fn classify(name: &str, error: io::Error) -> HostError {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        // EINVAL: the name belongs to an interface that is no TUN.
        Some(Errno::BUSY | Errno::INVAL | Errno::EXIST) => HostError::NameTaken(name.to_owned()),
        Some(Errno::PERM | Errno::ACCESS) => no_permission(name),
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => HostError::NoDevice,
        _ => HostError::Setup {
            name: name.to_owned(),
            source: error,
        },
    }
}

/// Two things can be missing: access to the device, and the capability to configure with it.
fn no_permission(name: &str) -> HostError {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN_DEVICE);
    match (opened, std::fs::metadata(TUN_DEVICE)) {
        (Err(_), Ok(device)) => HostError::DeviceClosed {
            name: name.to_owned(),
            mode: device.mode() & 0o7777,
            owner: device.uid(),
        },
        _ => HostError::NoPermission(name.to_owned()),
    }
}

#[cfg(test)]
mod tests;
