use proptest::prelude::*;

use super::*;
use crate::native::frame::frames;

fn packet(number: u8) -> Vec<u8> {
    vec![1, 1, 0, 0, 42, 3, 0, 3, 200, 1, number]
}

fn write(lane: &mut Outgoing, now: Time) -> Vec<(u32, Vec<u8>)> {
    let mut out = Vec::new();
    lane.write(&mut out, 1200, now);
    frames(&out)
        .map(|frame| match frame {
            Ok(Frame::Babel { seq, packet }) => (seq, packet.to_vec()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_packet_that_three_later_datagrams_overtook_is_repeated_at_once() {
    let mut lane = Outgoing::default();
    for number in 0..5 {
        lane.push(&packet(number));
        assert_eq!(write(&mut lane, Time::ZERO).len(), 1);
    }
    // 1 is missing; 2 and 3 are there: it may still come.
    assert!(lane.on_ack(1, 0b011));
    assert!(!lane.is_ready());
    assert!(lane.on_ack(1, 0b111));
    assert_eq!(write(&mut lane, Time::ZERO), [(1, packet(1))]);
    assert!(!lane.is_ready());
    assert_eq!(lane.repeated(), 1);
    assert!(lane.on_ack(5, 0));
    assert_eq!((lane.len(), lane.bytes()), (0, 0));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let mut lane = Outgoing::default();
    lane.push(&packet(0));
    lane.push(&packet(1));
    assert!(!lane.on_ack(1, 0), "nothing was sent yet");
    assert_eq!(write(&mut lane, Time::ZERO).len(), 2);
    for next in [3, 1 << 31] {
        assert!(!lane.on_ack(next, u64::MAX));
        assert_eq!(lane.len(), 2);
    }
    assert!(lane.on_ack(0, u64::MAX), "only what was sent counts");
    assert_eq!(lane.len(), 2);
    assert!(lane.on_ack(2, u64::MAX));
    assert_eq!(lane.len(), 0);
}

#[test]
fn numbers_wrap() {
    let mut sender = Outgoing {
        base: u32::MAX - 2,
        ..Outgoing::default()
    };
    let mut receiver = Incoming {
        next: u32::MAX - 2,
        ..Incoming::default()
    };
    let mut delivered = Vec::new();
    for number in 0..6 {
        sender.push(&packet(number));
    }
    for (seq, packet) in write(&mut sender, Time::ZERO).into_iter().rev() {
        receiver.on_packet(seq, &packet, |packet| delivered.push(packet));
    }
    assert_eq!(delivered, (0..6).map(packet).collect::<Vec<_>>());
    let Frame::Ack { next, held } = receiver.take_ack() else {
        panic!("an acknowledgement is one");
    };
    assert!(sender.on_ack(next, held));
    assert_eq!(sender.len(), 0);
}

#[test]
fn no_more_than_the_window_is_held() {
    let mut receiver = Incoming::default();
    for seq in (1..2000).rev() {
        receiver.on_packet(seq, &packet(0), |_| panic!("0 is missing"));
    }
    assert_eq!(receiver.held.len(), WINDOW as usize - 1);
    let mut delivered = 0;
    receiver.on_packet(0, &packet(0), |_| delivered += 1);
    assert_eq!(delivered, WINDOW);
}

proptest! {
    #[test]
    fn everything_arrives_in_order_and_once_whatever_happens(
        count in 1..80u8,
        fates in proptest::collection::vec(0..4u8, 1..400),
    ) {
        let (mut sender, mut receiver) = (Outgoing::default(), Incoming::default());
        let mut delivered = Vec::new();
        let mut late = Vec::new();
        for number in 0..count {
            sender.push(&packet(number));
        }
        let mut fates = fates.into_iter();
        for round in 0..2000u64 {
            if sender.len() == 0 {
                break;
            }
            let now = Time::from_millis(round * 2000);
            if sender.deadline(&RttEstimator::default()).is_some_and(|at| at <= now) {
                sender.on_timeout(now);
            }
            for (seq, packet) in write(&mut sender, now) {
                match fates.next().unwrap_or(0) {
                    0 => receiver.on_packet(seq, &packet, |packet| delivered.push(packet)),
                    1 => {}
                    2 => late.push((seq, packet)),
                    _ => for _ in 0..2 {
                        receiver.on_packet(seq, &packet, |packet| delivered.push(packet));
                    },
                }
            }
            if round % 3 == 0 {
                for (seq, packet) in late.drain(..) {
                    receiver.on_packet(seq, &packet, |packet| delivered.push(packet));
                }
            }
            if fates.next().unwrap_or(0) != 1
                && let Frame::Ack { next, held } = receiver.take_ack()
            {
                prop_assert!(sender.on_ack(next, held));
            }
        }
        prop_assert_eq!(delivered, (0..count).map(packet).collect::<Vec<_>>());
        prop_assert_eq!(sender.len(), 0);
    }
}
