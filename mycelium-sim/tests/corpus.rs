//! What the fuzzer found worth keeping, played again.

use std::fs;

use mycelium_sim::scenario::{Origin, Scenario, Settings};

#[test]
fn the_corpus_of_networks_passes() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/network");
    let any = Scenario::named("any").unwrap();
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let violation = any
            .play(Origin::Bytes(&bytes), Settings::default())
            .violation;
        assert_eq!(violation, None, "{}", path.display());
        files += 1;
    }
    assert!(files > 0, "no corpus in {directory}");
}
