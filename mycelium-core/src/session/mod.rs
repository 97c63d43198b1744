//! Session v2 (docs/protocol.md §14): keys that are forgotten, packets that count once.
//!
//! The parts of the construction, none of which keeps state beyond its own: Noise and the KEM, the handshake over them, its
//! fragments and what guards them under load, and the sealed packets that follow.

pub mod config;
pub mod cookie;
pub mod fragment;
mod halves;
pub mod handshake;
mod kem;
pub mod mac;
mod noise;
pub(crate) mod path;
pub mod pins;
mod remote;
pub mod replay;
mod responder;
pub(crate) mod stub;
pub(crate) mod table;
pub mod transport;
pub mod view;

use zeroize::Zeroizing;

/// BLAKE3's key derivation over `parts` one after the other, leaving nothing behind.
fn derive_key(context: &str, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    use zeroize::Zeroize as _;

    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    let mut hash = hasher.finalize();
    let key = Zeroizing::new(*hash.as_bytes());
    hash.zeroize();
    hasher.zeroize();
    key
}
