//! Sessions through hostile relays, in whole networks (docs/threat-model.md). As in `scenarios.rs`, a failure prints its seed
//! and the command to replay it. Then the same without a defence: the oracle must object.
#![expect(
    clippy::print_stdout,
    reason = "figures for whoever runs with --nocapture"
)]

use std::time::Instant;

use mycelium_sim::mutant::Mutant;
use mycelium_sim::relay::HEADERS;
use mycelium_sim::scenario::{Origin, Scenario, Settings};

/// The figures that all seeds together must show.
fn check(name: &str, seeds: u64) -> Vec<(&'static str, f64, f64)> {
    let times: u64 =
        std::env::var("SIM_SEEDS").map_or(1, |times| times.parse().expect("SIM_SEEDS is a number"));
    let seeds = seeds * times;
    let scenario = Scenario::named(name).expect("the scenario exists");
    let start = Instant::now();
    let figures = scenario.check(0..seeds, Settings::default());
    println!(
        "{name}: {seeds} seeds in {:.2} s",
        start.elapsed().as_secs_f64()
    );
    for (figure, mean, worst) in &figures {
        println!("    {figure:32} mean {mean:>12.3}  most {worst:>12.3}");
    }
    figures
}

fn most(figures: &[(&'static str, f64, f64)], name: &str) -> f64 {
    let found = figures.iter().find(|figure| figure.0 == name);
    found.expect("the scenario reports it").2
}

/// As [`check`], and the relay had something to do.
fn meddled(name: &str, seeds: u64) {
    let figures = check(name, seeds);
    assert!(most(&figures, "packets meddled with") > 50.0, "{name}");
}

#[test]
fn whatever_a_relay_does_costs_packets_and_nothing_else() {
    meddled("relay", 300);
}

#[test]
fn replayed_packets_and_handshakes_come_out_once() {
    meddled("relay-replay", 60);
}

#[test]
fn reflected_packets_come_out_nowhere() {
    meddled("relay-reflect", 60);
}

#[test]
fn reordered_packets_are_not_lost() {
    meddled("relay-reorder", 40);
}

#[test]
fn truncated_packets_come_out_nowhere() {
    meddled("relay-truncate", 60);
}

#[test]
fn every_byte_of_every_header_is_flipped_and_nothing_changed_comes_out() {
    let figures = check("relay-flip", 60);
    assert_eq!(most(&figures, "header bytes flipped"), HEADERS as f64);
}

#[test]
fn redirected_packets_come_out_nowhere() {
    meddled("relay-redirect", 60);
}

#[test]
fn swapped_bodies_come_out_nowhere() {
    meddled("relay-swap", 60);
}

#[test]
fn stripped_hints_lead_nobody_back_to_v1() {
    check("relay-strip", 60);
}

#[test]
fn forged_hints_keep_no_v1_node_from_anything() {
    check("relay-hint", 40);
}

#[test]
fn forged_handshakes_spoil_nothing_for_good() {
    meddled("relay-forge", 60);
}

#[test]
fn without_handshakes_there_is_v1_before_the_first_confirmation_only_and_it_is_reported() {
    let figures = check("relay-no-handshake", 80);
    assert!(most(&figures, "bodies on v1 between speakers") > 50.0);
}

#[test]
fn losing_some_kinds_of_packets_leaves_no_black_hole() {
    meddled("relay-drop", 60);
}

#[test]
fn an_announced_elsewhere_route_costs_packets_while_it_lasts() {
    meddled("relay-hijack", 60);
    meddled("relay-blackhole", 60);
}

#[test]
fn without_the_network_key_no_packet_crosses() {
    let figures = check("outsider", 40);
    assert!(most(&figures, "packets that did not cross") > 100.0);
}

#[test]
fn who_records_everything_and_gets_all_identity_keys_reads_nothing() {
    let figures = check("eavesdropper", 20);
    assert!(most(&figures, "attempts to open") > 5.0);
}

/// Nodes without the defence: one of a few seeds shows it, in these words.
fn objects(name: &str, mutant: Mutant, words: &str) {
    let scenario = Scenario::named(name).expect("the scenario exists");
    let settings = Settings {
        mutant: Some(mutant),
        ..Settings::default()
    };
    let mut others = Vec::new();
    for seed in 0..40 {
        match scenario.play(Origin::Seed(seed), settings).violation {
            Some(violation) if violation.what.contains(words) => return,
            Some(violation) => others.push(violation),
            None => {}
        }
    }
    panic!("{name} does not notice {mutant:?}; instead: {others:?}");
}

#[test]
fn the_oracle_notices_a_missing_window() {
    for name in ["relay", "relay-replay"] {
        objects(name, Mutant::NoWindow, "comes out a second time");
    }
}

#[test]
fn the_oracle_notices_missing_authentication() {
    for (name, words) in [
        ("relay-flip", "was changed"),
        ("relay-truncate", "was changed"),
        ("relay-reflect", "and comes out at"),
        ("relay-redirect", "and comes out at"),
        ("relay-swap", "and comes out at"),
    ] {
        objects(name, Mutant::NoAuthentication, words);
    }
}

#[test]
fn the_oracle_notices_forgotten_pins() {
    for name in ["relay-strip", "relay-no-handshake"] {
        objects(name, Mutant::NoPins, "goes back to v1");
    }
}

#[test]
fn the_oracle_notices_v1_that_nobody_reports() {
    objects("relay", Mutant::OnlyV1, "does not say so");
    objects("eavesdropper", Mutant::OnlyV1, "does not say so");
}

#[test]
fn the_oracle_notices_an_open_network() {
    objects("outsider", Mutant::NoNetworkKey, "must not use v1");
}
