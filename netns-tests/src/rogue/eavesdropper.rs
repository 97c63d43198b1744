//! What somebody reads who has seen every packet and holds the secret keys of both ends.

use std::collections::HashMap;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::aead::AeadKey;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader, split_v1_body};

use crate::probe::numbered::MARKER;

/// Counts of what went through from one subnet to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overheard {
    /// Data packets.
    pub packets: u64,
    /// ... whose body is a handshake unit.
    pub handshakes: u64,
    /// ... that open under protocol v1 with the keys of both ends.
    pub v1: u64,
    /// ... in which the test's own text could be read, in clear or after opening.
    pub readable: u64,
    /// The largest packet, in wire bytes.
    pub largest: usize,
}

/// Opens what it can.
pub(super) struct Eavesdropper {
    /// By the two subnets, in both orders.
    keys: HashMap<(Subnet, Subnet), AeadKey>,
    overheard: HashMap<(Subnet, Subnet), Overheard>,
}

impl Eavesdropper {
    pub(super) fn new(victims: &[SecretKey]) -> Self {
        let mut keys = HashMap::new();
        for one in victims {
            for other in victims {
                let (near, far) = (one.public_key(), other.public_key());
                if near != far
                    && let Some(shared) = one.agree(&far)
                {
                    keys.insert((near.subnet(), far.subnet()), AeadKey::v1(&shared));
                }
            }
        }
        Self {
            keys,
            overheard: HashMap::new(),
        }
    }

    pub(super) fn overheard(&self, from: Subnet, to: Subnet) -> Overheard {
        self.overheard.get(&(from, to)).copied().unwrap_or_default()
    }

    pub(super) fn listen(&mut self, header: &DataHeader, packet: &[u8]) {
        let ends = (
            Subnet::containing(header.source),
            Subnet::containing(header.destination),
        );
        let Some(key) = self.keys.get(&ends) else {
            return;
        };
        let body = packet.get(BODY_OFFSET..).unwrap_or_default();
        let seen = self.overheard.entry(ends).or_default();
        seen.packets += 1;
        seen.largest = seen.largest.max(packet.len());
        if body.starts_with(&[0; 4]) {
            seen.handshakes += 1;
            return;
        }
        let mut copy = body.to_vec();
        let opened = split_v1_body(&mut copy).and_then(|(sealed, nonce)| {
            key.open(nonce, &[], sealed).ok().map(|text| text.to_vec())
        });
        if opened.is_some() {
            seen.v1 += 1;
        }
        let text = opened.unwrap_or_else(|| body.to_vec());
        if text.windows(MARKER.len()).any(|window| window == MARKER) {
            seen.readable += 1;
        }
    }
}
