use super::*;

const START: Time = Time::from_millis(1000);

fn queue_data(outbox: &mut Outbox, fill: u8, len: usize, now: Time) -> bool {
    let Some(space) = outbox.reserve_data(len) else {
        return false;
    };
    space.fill(fill);
    outbox.commit_data(DataClass::OTHER, now);
    true
}

/// Write `n` bytes of what the outbox offers, as a stream would.
fn take(outbox: &mut Outbox, n: usize) -> Vec<u8> {
    let mut bytes = outbox.slices().concat();
    bytes.truncate(n);
    outbox.advance(bytes.len());
    bytes
}

#[test]
fn control_goes_ahead_of_data() {
    let mut outbox = Outbox::default();
    queue_data(&mut outbox, b'd', 3, START);
    outbox.push_control(b"ctl", START).unwrap();
    assert_eq!(take(&mut outbox, 100), b"ctlddd");
    assert!(outbox.is_empty());
}

#[test]
fn a_begun_packet_is_finished_before_control() {
    let mut outbox = Outbox::default();
    queue_data(&mut outbox, b'1', 4, START);
    queue_data(&mut outbox, b'2', 4, START);
    assert_eq!(take(&mut outbox, 1), b"1");
    outbox.push_control(b"ctl", START).unwrap();
    assert_eq!(take(&mut outbox, 4), b"111c");
    outbox.push_control(b"CTL", START).unwrap();
    assert_eq!(take(&mut outbox, 100), b"tlCTL2222");
}

#[test]
fn an_uncommitted_reservation_leaves_nothing() {
    let mut outbox = Outbox::default();
    outbox.reserve_data(10).unwrap().fill(b'x');
    queue_data(&mut outbox, b'd', 2, START);
    outbox.commit_data(DataClass::OTHER, START);
    assert_eq!(take(&mut outbox, 100), b"dd");
}

#[test]
fn the_data_lane_is_bounded_in_bytes() {
    let mut outbox = Outbox::default();
    let mut queued = 0;
    while queue_data(&mut outbox, b'd', 1472, START) {
        queued += 1472;
    }
    assert!(queued <= DATA_MAX_BYTES && queued + 1472 > DATA_MAX_BYTES);
    assert_eq!(outbox.data_len(), queued);
    assert!(
        outbox
            .push_control(b"still room for control", START)
            .is_ok()
    );
}

#[test]
fn the_control_lane_overflows_with_an_error() {
    let mut outbox = Outbox::default();
    let packet = vec![0; 64 << 10];
    for _ in 0..CONTROL_MAX_BYTES / packet.len() {
        outbox.push_control(&packet, START).unwrap();
    }
    assert_eq!(outbox.push_control(b"x", START), Err(ControlOverflow));
}

#[test]
fn old_data_is_dropped_and_fresh_data_is_kept() {
    let mut outbox = Outbox::default();
    for _ in 0..10 {
        queue_data(&mut outbox, b'o', 1000, START);
    }
    let later = START + DATA_MAX_AGE + Duration::from_millis(1);
    for _ in 0..10 {
        queue_data(&mut outbox, b'n', 1000, later);
    }
    assert_eq!(outbox.expire(START + DATA_MAX_AGE), 0);
    assert_eq!(outbox.expire(later), 10);
    assert_eq!(take(&mut outbox, 100_000), vec![b'n'; 10_000]);
}

#[test]
fn expiry_spares_the_last_packets() {
    let mut outbox = Outbox::default();
    for _ in 0..10 {
        queue_data(&mut outbox, b'o', 1000, START);
    }
    assert_eq!(outbox.expire(START + DATA_MAX_AGE * 10), 6);
    assert!(outbox.data_len() <= DATA_MIN_BYTES);
}

#[test]
fn expiry_keeps_the_rest_of_a_begun_packet() {
    let mut outbox = Outbox::default();
    queue_data(&mut outbox, b'b', 5000, START);
    queue_data(&mut outbox, b'o', 5000, START);
    let later = START + DATA_MAX_AGE * 2;
    queue_data(&mut outbox, b'n', 5000, later);
    take(&mut outbox, 1);
    assert_eq!(outbox.expire(later), 1);
    let left = take(&mut outbox, 100_000);
    assert_eq!(left, [vec![b'b'; 4999], vec![b'n'; 5000]].concat());
}

#[test]
fn packets_can_leave_one_by_one() {
    let mut outbox = Outbox::default();
    queue_data(&mut outbox, b'1', 4, START);
    queue_data(&mut outbox, b'2', 4, START);
    outbox.push_control(b"ctl", START).unwrap();
    assert_eq!(outbox.stream_slice(), b"ctl");
    outbox.advance(3);
    assert_eq!(outbox.next_data(), Some(&b"1111"[..]));
    outbox.advance_data(4);
    assert_eq!(outbox.next_data(), Some(&b"2222"[..]));
    outbox.advance_data(1);
    assert_eq!(outbox.next_data(), None);
    assert_eq!(outbox.stream_slice(), b"222");
    outbox.push_control(b"CTL", START).unwrap();
    outbox.advance(3);
    assert_eq!(outbox.stream_slice(), b"CTL");
}

#[test]
fn an_idle_outbox_gives_its_memory_back() {
    let mut outbox = Outbox::default();
    while queue_data(&mut outbox, b'd', 1472, START) {}
    take(&mut outbox, usize::MAX);
    outbox.shrink();
    assert_eq!(outbox.capacity(), 0);
    assert!(queue_data(&mut outbox, b'd', 2, START));
    assert_eq!(take(&mut outbox, 100), b"dd");
}

#[test]
fn any_interleaving_of_writes_keeps_packets_whole_and_lanes_in_order() {
    // A small deterministic generator: every run tries the same few thousand interleavings.
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..200 {
        let mut outbox = Outbox::default();
        let mut stream = Vec::new();
        let (mut controls, mut datas) = (0_u8, 0_u8);
        for _ in 0..100 {
            match random(3) {
                0 => {
                    let packet = [b'c', controls, 0, 0];
                    controls += 1;
                    outbox.push_control(&packet, START).unwrap();
                }
                1 => {
                    let space = outbox.reserve_data(4).unwrap();
                    space.copy_from_slice(&[b'd', datas, 0, 0]);
                    outbox.commit_data(DataClass::OTHER, START);
                    datas += 1;
                }
                _ => stream.extend(take(&mut outbox, random(13))),
            }
        }
        stream.extend(take(&mut outbox, usize::MAX));
        let (mut next_control, mut next_data) = (0, 0);
        for packet in stream.chunks_exact(4) {
            let next = if packet[0] == b'c' {
                &mut next_control
            } else {
                &mut next_data
            };
            assert_eq!(packet, [packet[0], *next, 0, 0]);
            *next += 1;
        }
        assert_eq!((next_control, next_data), (controls, datas));
    }
}
