//! Recording what two nodes say to each other: a TCP proxy between them that keeps both directions.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{Host, Port};

/// The most that is kept of one direction.
const KEEP: usize = 4 << 20;

/// The two directions of one proxied connection.
#[derive(Debug, Default)]
pub struct Recording {
    from_dialler: Mutex<Vec<u8>>,
    from_listener: Mutex<Vec<u8>>,
}

impl Recording {
    /// What the node that dialled the proxy has sent so far.
    pub fn from_dialler(&self) -> Vec<u8> {
        guard(&self.from_dialler).clone()
    }

    /// What the node behind the proxy has sent so far.
    pub fn from_listener(&self) -> Vec<u8> {
        guard(&self.from_listener).clone()
    }
}

fn guard(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accept one connection on `host` at `port` and pass it on to `target`, recording both directions.
pub fn proxy(host: &Arc<Host>, port: u16, target: SocketAddr) -> anyhow::Result<Arc<Recording>> {
    let listener = host
        .inside(|| TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?
        .with_context(|| format!("proxy on {}", host.name()))?;
    let recording = Arc::new(Recording::default());
    let kept = Arc::clone(&recording);
    let host = Arc::clone(host);
    std::thread::Builder::new()
        .name("proxy".into())
        .spawn(move || {
            // Ends with the connection; the nodes' logs show what went wrong if there is none.
            let _ = carry(&host, &listener, target, &kept);
        })?;
    Ok(recording)
}

fn carry(
    host: &Host,
    listener: &TcpListener,
    target: SocketAddr,
    recording: &Arc<Recording>,
) -> anyhow::Result<()> {
    let (dialler, _) = listener.accept()?;
    let behind = host.inside(|| TcpStream::connect(target))??;
    dialler.set_nodelay(true)?;
    behind.set_nodelay(true)?;
    let back = {
        let (from, to) = (behind.try_clone()?, dialler.try_clone()?);
        let recording = Arc::clone(recording);
        std::thread::spawn(move || copy(from, to, &recording.from_listener))
    };
    copy(dialler, behind, &recording.from_dialler);
    let _ = back.join();
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let part = buffer.get(..length).unwrap_or_default();
        {
            let mut kept = guard(kept);
            let room = KEEP.saturating_sub(kept.len()).min(length);
            kept.extend_from_slice(part.get(..room).unwrap_or_default());
        }
        if to.write_all(part).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A socket that has joined the group of the LAN discovery beacons.
#[derive(Debug)]
pub struct BeaconListener(UdpSocket);

/// Listen for beacons at `port` of the host's end of a wire.
pub fn beacon_listener(host: &Host, at: &Port, port: u16) -> anyhow::Result<BeaconListener> {
    let group: Ipv6Addr = "ff02::cafe".parse()?;
    let index = at.index()?;
    let socket = host.inside(|| -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.join_multicast_v6(&group, index)?;
        Ok(socket)
    })??;
    Ok(BeaconListener(socket))
}

impl BeaconListener {
    /// The next beacon.
    pub fn receive(&self, limit: Duration) -> anyhow::Result<Vec<u8>> {
        self.0.set_read_timeout(Some(limit))?;
        let mut buffer = vec![0; 2048];
        let length = self.0.recv(&mut buffer).context("no beacon")?;
        buffer.truncate(length);
        Ok(buffer)
    }
}
