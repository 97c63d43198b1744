use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The rule itself, with a perfect memory.
#[derive(Default)]
struct Model {
    highest: u64,
    seen: BTreeSet<u64>,
}

impl Model {
    fn accept(&mut self, counter: u64) -> Result<(), ReplayError> {
        if counter + WINDOW <= self.highest {
            return Err(ReplayError::Old);
        }
        if !self.seen.insert(counter) {
            return Err(ReplayError::Seen);
        }
        self.highest = self.highest.max(counter);
        Ok(())
    }
}

/// Counters as a network makes them: near the highest on either side, sometimes far away, near the edges of words and window.
fn steps() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![
        8 => -70..70i64,
        4 => -9000..200i64,
        2 => prop_oneof![Just(-8193i64), Just(-8192), Just(-8191), Just(8191), Just(8192), Just(8193)],
        1 => -40_000..40_000i64,
        1 => prop_oneof![Just(1i64 << 33), Just(1 << 47)],
    ];
    proptest::collection::vec(step, 1..600)
}

proptest! {
    #[test]
    fn the_ring_forgets_nothing_that_the_rule_remembers(steps in steps(), start in 0u64..20_000) {
        let (mut window, mut model) = (Window::new(), Model::default());
        let mut last = start;
        for step in steps {
            let counter = last.saturating_add_signed(step);
            let checked = window.check(counter);
            prop_assert_eq!(window.check(counter), checked, "checking changes nothing");
            let accepted = window.accept(counter);
            prop_assert_eq!(accepted, checked);
            prop_assert_eq!(accepted, model.accept(counter), "counter {}", counter);
            prop_assert_eq!(window.highest(), model.highest);
            prop_assert!(window.seen.len() <= RING);
            last = model.highest;
        }
    }
}

#[test]
fn every_counter_counts_once_in_any_order() {
    for stride in [1, 3, 7, 4099] {
        let mut window = Window::new();
        let order = (0..WINDOW).map(|n| n * stride % WINDOW);
        for counter in order.clone() {
            assert_eq!(window.accept(counter), Ok(()), "{counter}");
        }
        for counter in order {
            assert_eq!(window.accept(counter), Err(ReplayError::Seen));
        }
    }
}

#[test]
fn the_window_ends_where_it_says() {
    let mut window = Window::new();
    window.accept(20_000).unwrap();
    assert_eq!(window.check(20_000 - WINDOW), Err(ReplayError::Old));
    assert_eq!(window.check(20_000 - WINDOW + 1), Ok(()));
    assert_eq!(window.check(0), Err(ReplayError::Old));
    assert_eq!(window.check(u64::MAX), Ok(()));
    window.accept(u64::MAX).unwrap();
    assert_eq!(window.check(u64::MAX), Err(ReplayError::Seen));
    assert_eq!(window.check(20_000), Err(ReplayError::Old));
}

#[test]
fn little_traffic_costs_little_memory() {
    let mut window = Window::new();
    (0..100).for_each(|counter| window.accept(counter).unwrap());
    assert_eq!(window.seen.len(), FIRST_WORDS);
    (100..1_000).for_each(|counter| window.accept(counter).unwrap());
    assert_eq!(window.seen.len(), 16);
    (1_000..100_000).for_each(|counter| window.accept(counter).unwrap());
    assert_eq!(window.seen.len(), RING);
    assert_eq!(window.seen.capacity(), RING);
}
