//! Every scenario with many seeds. A failure prints its seed, what happened before it, and the command to replay it.
//! `SIM_SEEDS=20 cargo test -p mycelium-sim` plays twenty times as many seeds.
#![expect(
    clippy::print_stdout,
    reason = "figures for whoever runs with --nocapture"
)]

use std::time::Instant;

use mycelium_sim::scenario::{Scenario, Settings};

fn check(name: &str, seeds: u64) {
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
    for (figure, mean, worst) in figures {
        println!("    {figure:32} mean {mean:>12.3}  most {worst:>12.3}");
    }
}

#[test]
fn a_random_graph_converges_to_nearly_the_best_paths() {
    check("random", 100);
}

#[test]
fn a_line_of_sixty_reaches_its_end_within_two_seconds() {
    check("line", 1);
}

#[test]
fn churn_makes_no_loop_and_heals() {
    check("churn", 150);
}

#[test]
fn loss_makes_no_loop_and_heals() {
    check("lossy", 100);
}

#[test]
fn a_partition_is_noticed_and_heals() {
    check("partition", 40);
}

#[test]
fn restarting_destinations_make_no_loop_and_are_reached_again() {
    check("origins", 100);
}

#[test]
fn packets_find_their_way_while_routes_resolve_and_after_cuts() {
    check("packets", 20);
}

#[test]
fn a_thousand_nodes_find_each_other() {
    check("thousand", 1);
}

#[test]
fn cold_networks_answer_look_ups() {
    check("cold", 1);
}

#[test]
fn a_silent_death_costs_at_most_two_seconds() {
    check("silent-death", 100);
}

#[test]
fn a_lost_carrier_costs_nothing_but_the_news() {
    check("carrier-loss", 100);
}

#[test]
fn starved_nodes_are_freed_by_a_seqno_request() {
    check("starvation", 100);
}

#[test]
fn routes_in_use_last_for_hours() {
    check("in-use", 6);
}

#[test]
fn routes_not_in_use_go_and_nothing_grows() {
    check("idle", 6);
}

#[test]
fn fifty_identities_live_in_one_node() {
    check("identities", 2);
}

#[test]
fn a_hostile_node_breaks_nothing() {
    check("hostile", 10);
}

#[test]
fn anything_may_happen() {
    check("any", 80);
}
