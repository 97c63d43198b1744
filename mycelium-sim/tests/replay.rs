//! A seed is a run: the same one plays the same events, to the byte.

use mycelium_sim::scenario::{Origin, Scenario, Settings};
use mycelium_sim::trace::TraceMode;

fn played(name: &str, origin: Origin<'_>) -> (u64, Vec<String>) {
    let settings = Settings {
        nodes: None,
        trace: TraceMode::Keep(20_000),
        mutant: None,
    };
    let played = Scenario::named(name)
        .expect("the scenario exists")
        .play(origin, settings);
    let world = played.world.expect("the scenario builds a world");
    (
        world.tally.events,
        world.trace.lines().map(str::to_owned).collect(),
    )
}

#[test]
fn equal_seeds_play_equal_runs() {
    for name in ["churn", "lossy", "packets", "relay", "any"] {
        for seed in [1, 2] {
            let (one, two) = (
                played(name, Origin::Seed(seed)),
                played(name, Origin::Seed(seed)),
            );
            assert!(
                one.0 > 1000,
                "{name} seed {seed} played {} events only",
                one.0
            );
            assert!(one == two, "{name} differs with seed {seed}");
        }
        assert!(played(name, Origin::Seed(1)) != played(name, Origin::Seed(2)));
    }
}

#[test]
fn equal_bytes_play_equal_runs() {
    let bytes: Vec<u8> = (0..400_u32).map(|n| (n * 71 % 251) as u8).collect();
    assert!(played("any", Origin::Bytes(&bytes)) == played("any", Origin::Bytes(&bytes)));
    played("any", Origin::Bytes(&[]));
}
