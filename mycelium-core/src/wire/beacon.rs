//! The datagram by which nodes find each other on a LAN (wire spec §3). Unauthenticated: a hint whom to dial, no more.

use crate::router_id::RouterId;

/// Bytes of a beacon.
pub const LEN: usize = 50;

const MAGIC: [u8; 8] = *b"mycelium";

/// "I am `router_id` and accept TCP connections on this port."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// TCP (in a private network: TLS) listen port; the address is the datagram's source.
    pub port: u16,
    /// The sender, to recognise our own.
    pub router_id: RouterId,
}

/// Why a datagram is not a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// Not exactly [`LEN`] bytes.
    #[error("beacon of {0} bytes")]
    Length(usize),
    /// Something else than a beacon.
    #[error("beacon without its magic")]
    Magic,
    /// Nobody can be reached at port 0.
    #[error("beacon with port 0")]
    Port,
}

impl Beacon {
    /// Read a datagram.
    pub fn parse(datagram: &[u8]) -> Result<Self, BeaconError> {
        let bytes: &[u8; LEN] = datagram
            .try_into()
            .map_err(|_| BeaconError::Length(datagram.len()))?;
        if bytes[..8] != MAGIC {
            return Err(BeaconError::Magic);
        }
        let port = u16::from_be_bytes([bytes[8], bytes[9]]);
        if port == 0 {
            return Err(BeaconError::Port);
        }
        let mut router_id = [0; RouterId::LEN];
        router_id.copy_from_slice(&bytes[10..]);
        Ok(Self {
            port,
            router_id: RouterId::from_bytes(router_id),
        })
    }

    /// The datagram to send.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.port.to_be_bytes());
        bytes[10..].copy_from_slice(self.router_id.as_bytes());
        bytes
    }
}
