//! Hot path: see docs/architecture.md#hot-path. Packets and bytes per address, for the operator's `stats packets`.
//!
//! Bound: 1024 addresses per table, in 256 sets of 4 picked by a keyed hash. Eviction: a new address replaces the one with the
//! fewest packets of its set, so heavy talkers stay while a flood of made-up addresses replaces itself.

use std::net::Ipv6Addr;

const SETS: usize = 256;
const WAYS: usize = 4;

/// What one address sent, or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressTraffic {
    /// Which address.
    pub address: Ipv6Addr,
    /// Packets since the address entered the table.
    pub packets: u64,
    /// Their bytes, as data packets on the wire.
    pub bytes: u64,
}

/// Counters of up to [`AddressTable::CAPACITY`] addresses.
#[derive(Debug)]
pub struct AddressTable {
    entries: Box<[AddressTraffic]>,
    /// Where the last packet was counted: packets come in trains, so most need no hash.
    last: usize,
    hash_key: u64,
    evicted: u64,
}

impl AddressTable {
    /// Most addresses counted at once.
    pub const CAPACITY: usize = SETS * WAYS;

    const VACANT: AddressTraffic = AddressTraffic {
        address: Ipv6Addr::UNSPECIFIED,
        packets: 0,
        bytes: 0,
    };

    pub(super) fn new(hash_key: u64) -> Self {
        Self {
            entries: vec![Self::VACANT; Self::CAPACITY].into(),
            last: 0,
            hash_key,
            evicted: 0,
        }
    }

    /// Every counted address, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &AddressTraffic> {
        self.entries.iter().filter(|entry| entry.packets != 0)
    }

    /// Addresses that made room for others.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    #[inline]
    pub(super) fn count(&mut self, address: Ipv6Addr, packets: usize, bytes: usize) {
        let last = &mut self.entries[self.last];
        if last.address == address && last.packets != 0 {
            last.packets += packets as u64;
            last.bytes += bytes as u64;
        } else {
            self.count_other(address, packets, bytes);
        }
    }

    fn count_other(&mut self, address: Ipv6Addr, packets: usize, bytes: usize) {
        let first = self.set_of(address) * WAYS;
        let set = &mut self.entries[first..first + WAYS];
        let way = match set
            .iter()
            .position(|entry| entry.address == address && entry.packets != 0)
        {
            Some(way) => way,
            None => {
                // A vacant entry has zero packets, hence the fewest.
                let mut fewest = 0;
                for way in 1..WAYS {
                    if set[way].packets < set[fewest].packets {
                        fewest = way;
                    }
                }
                self.evicted += u64::from(set[fewest].packets != 0);
                set[fewest] = AddressTraffic {
                    address,
                    ..Self::VACANT
                };
                fewest
            }
        };
        set[way].packets += packets as u64;
        set[way].bytes += bytes as u64;
        self.last = first + way;
    }

    fn set_of(&self, address: Ipv6Addr) -> usize {
        let bits = address.to_bits();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the address"
        )]
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        let fold = |value: u64| {
            let wide = u128::from(value ^ self.hash_key) * u128::from(self.hash_key | 1 << 63 | 1);
            #[expect(clippy::cast_possible_truncation, reason = "folding the two halves")]
            let folded = (wide >> 64) as u64 ^ wide as u64;
            folded
        };
        (fold(fold(high) ^ low) >> 32) as usize % SETS
    }
}
