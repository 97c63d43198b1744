//! Whatever happens to handshakes, in the end both sides can talk.

use mycelium_core::time::Duration;
use proptest::prelude::*;

use crate::world::{World, prefer};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Loss, duplication, reordering, both sides starting at any time, restarts at any step: never a black hole.
    #[test]
    fn in_the_end_both_sides_can_talk(
        fates in proptest::collection::vec(0u8..10, 0..40),
        steps in proptest::collection::vec((0u8..4, 0u16..900), 1..14),
    ) {
        let mut world = World::new(vec![prefer(), prefer()]);
        let mut fates = fates.into_iter();
        let mut held: Option<Vec<u8>> = None;
        for (what, pause) in steps {
            match what {
                0 => world.send(0, 1, b"a"),
                1 => world.send(1, 0, b"b"),
                2 => world.restart(0, Duration::from_secs(1_699_913_600)),
                _ => world.restart(1, Duration::from_secs(1_700_000_000)),
            }
            world.run_bent(Duration::from_millis(u64::from(pause)), |frame| match fates.next() {
                Some(0..=2) => vec![],
                Some(3) => vec![frame.clone(), frame],
                Some(4) => {
                    let before = held.replace(frame);
                    before.into_iter().collect()
                }
                _ => held.take().into_iter().chain([frame]).collect(),
            });
        }
        // From here on the wire is whole. Hosts keep trying, as hosts do.
        for _ in 0..60 {
            world.send(0, 1, b"a");
            world.send(1, 0, b"b");
            world.run(250);
        }
        world.nodes[0].received();
        world.nodes[1].received();
        for _ in 0..5 {
            world.send(0, 1, b"last a");
            world.send(1, 0, b"last b");
            world.run(100);
        }
        prop_assert_eq!(world.nodes[1].received().len(), 5);
        prop_assert_eq!(world.nodes[0].received().len(), 5);
    }
}
