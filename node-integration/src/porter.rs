//! A process that waits for the kernel in place of one that wants to end.
//!
//! A process ends when the last of its requests to the kernel is answered, even if it is killed: a command that removes an
//! interface cannot end before the kernel is done with it. So it starts itself once more (`Porter::start`), hands over the
//! socket with the request, and ends. The other one, in [`serve_if_asked`], sends what it is given, one after the other, and
//! ends a little after the one that started it. Nothing depends on it: who is left alone by it does the work itself, and
//! what neither did is in the notes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, send, sendmsg, socketpair,
};

/// With this as its only argument, a program is a porter.
pub const ARGUMENT: &str = "wait-for-kernel";
/// Standard input.
const INPUT: RawFd = 0;
/// Requests are far shorter.
const LONGEST: usize = 1 << 12;
/// First bytes of messages: send what follows through the socket, and close the others; or keep the sockets.
const ASK: u8 = b'a';
const KEEP: u8 = b'k';

/// For so long are sockets of nf_tables kept after a change: longer than grace periods take, and than a series of changes
/// by hand.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Whether this program knows [`ARGUMENT`].
static IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// The connection to one.
#[derive(Debug)]
pub(crate) struct Porter {
    channel: OwnedFd,
}

impl Porter {
    /// Start this program once more.
    ///
    /// # Errors
    /// When it cannot be started, as without `/proc`, or would not know what to do: see [`serve_if_asked`].
    pub(crate) fn start() -> io::Result<Self> {
        if !IS_KNOWN.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (channel, input) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // Nothing that the caller's own caller waits for, locks or wants to unmount is kept from it.
        Command::new("/proc/self/exe")
            .arg0(std::env::args_os().next().unwrap_or_default())
            .arg(ARGUMENT)
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        Ok(Self { channel })
    }

    /// Have a request sent through a socket; `lock` is held until the kernel has answered it.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub(crate) fn ask(&self, socket: &impl AsFd, request: &[u8], lock: &File) -> io::Result<()> {
        let descriptors = [socket.as_fd().as_raw_fd(), lock.as_raw_fd()];
        self.tell(&[IoSlice::new(&[ASK]), IoSlice::new(request)], &descriptors)
    }

    /// Have a socket kept open for [`GRACE`] after the end of this process.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub(crate) fn keep(&self, socket: &impl AsFd) -> io::Result<()> {
        self.tell(&[IoSlice::new(&[KEEP])], &[socket.as_fd().as_raw_fd()])
    }

    fn tell(&self, message: &[IoSlice<'_>], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.channel.as_raw_fd(), message, &rights, flags, None)?;
        Ok(())
    }

    /// Whether the kernel has answered a request, or nobody is there any more.
    pub(crate) fn has_answered(&self) -> bool {
        let answer = recv(self.channel.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
        answer != Err(Errno::EAGAIN)
    }
}

/// Be a porter if these arguments, the program's name first, say so. To be called first in `main` of a program that removes
/// workloads and ends; others wait for the kernel themselves.
pub fn serve_if_asked<A: AsRef<OsStr>>(arguments: &[A]) -> Option<ExitCode> {
    match arguments {
        [_, argument] if argument.as_ref() == ARGUMENT => Some(match serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }),
        _ => {
            IS_KNOWN.store(true, Ordering::Relaxed);
            None
        }
    }
}

fn serve() -> io::Result<()> {
    close_inherited()?;
    let mut has_kept = false;
    loop {
        let mut bytes = [0; LONGEST];
        let mut room = cmsg_space!([RawFd; 2]);
        let (length, descriptors) = {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(INPUT, &mut slices, Some(&mut room), flags)?;
            let descriptors: Vec<RawFd> = message
                .cmsgs()?
                .filter_map(|message| match message {
                    ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            (message.bytes, descriptors)
        };
        match (bytes.get(..length).unwrap_or_default(), &descriptors[..]) {
            ([ASK, request @ ..], [socket, others @ ..]) => {
                // What the kernel answers is for the one who asked to find out.
                let _ = send(*socket, request, MsgFlags::empty());
                for other in others {
                    nix::unistd::close(*other)?;
                }
                let _ = send(INPUT, &[0], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
            }
            ([KEEP], [_socket]) => has_kept = true,
            // The other end is closed.
            _ => break,
        }
    }
    if has_kept {
        thread::sleep(GRACE);
    }
    Ok(())
}

/// Close what was left open by whoever started the one that started this: locks, pipes that somebody reads to their end.
fn close_inherited() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = |name: OsString| name.to_str()?.parse::<RawFd>().ok();
        inherited.extend(number(entry?.file_name()).filter(|number| *number > 2));
    }
    for descriptor in inherited {
        // That of the directory itself is closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}
