//! Looking up routes.

use std::hint::black_box;

use mycelium_core::fib::{Fib, Lookup};

use super::case::Case;
use super::station::{fill, stranger};

const CALLS: u32 = 1000;
/// Between the routes that are looked up in turn: far apart, in no order.
const STRIDE: u64 = 7919;

pub(super) fn cases(short: bool) -> Vec<Case> {
    let mut cases = vec![
        lookup("fib/lookup/10", 10),
        lookup("fib/lookup/10k", 10_000),
        Case::new("fib/lookup/10k/unknown", CALLS, || {
            let fib = table(10_000);
            let mut n = 10_000;
            move || {
                n += 1;
                let found = fib.lookup(black_box(stranger(n).subnet()));
                assert!(matches!(found, Lookup::Unknown));
            }
        }),
    ];
    if !short {
        cases.push(lookup("fib/lookup/1M", 1_000_000));
    }
    cases
}

fn table(routes: u64) -> Fib {
    let mut fib = Fib::new(0x9e37_79b9_7f4a_7c15);
    fill(&mut fib, routes);
    fib
}

fn lookup(name: &'static str, routes: u64) -> Case {
    Case::new(name, CALLS, move || {
        let fib = table(routes);
        // Deriving the /64 of a key is not looking up.
        let subnets: Vec<_> = (0..u64::from(CALLS))
            .map(|n| stranger(n * STRIDE % routes).subnet())
            .collect();
        let mut next = 0;
        move || {
            let found = fib.lookup(black_box(subnets[next]));
            assert!(matches!(found, Lookup::Remote(_)));
            next += 1;
        }
    })
}
