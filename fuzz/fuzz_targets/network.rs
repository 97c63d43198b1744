//! A small network in which the bytes decide what happens: faults, look-ups, hostile packets, and when. The simulator's
//! oracle judges after every event.
//!
//! Replay a finding readably:
//! `cargo run -p mycelium-sim --bin scenario -- --trace --bytes fuzz/artifacts/network/crash-… any`
#![no_main]

use libfuzzer_sys::fuzz_target;
use mycelium_sim::scenario::{Origin, Scenario, Settings};

fuzz_target!(|bytes: &[u8]| {
    let any = Scenario::named("any").expect("the scenario exists");
    let played = any.play(Origin::Bytes(bytes), Settings::default());
    if let Some(violation) = played.violation {
        panic!("{violation}");
    }
});
