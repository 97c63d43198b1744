//! Nanoseconds per packet of the three ways through the data plane, single-threaded, with 10 000 routes in the table; and of
//! a key agreement, which the first packet of a pair pays.

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::{LINK, OTHER_LINK, Station, packet, secret};

const ROUTES: u64 = 10_000;
const BURST: u32 = 64;
const ROUNDS: u32 = 20;
const ROUND: Duration = Duration::from_millis(50);

fn main() {
    // `cargo test --benches` runs this once, to see that it works.
    let test = std::env::args().any(|argument| argument == "--test");
    println!(
        "{:<10} {:>6} {:>12} {:>12}",
        "way", "bytes", "median ns", "best ns"
    );
    for len in [100, 1400] {
        outbound(len, test);
        inbound(len, test);
        forward(len, test);
    }
    let (ours, theirs) = (secret(1), secret(2).public_key());
    measure("agreement", 32, test, || {
        black_box(ours.agree(black_box(&theirs)));
    });
}

fn outbound(len: usize, test: bool) {
    let (ours, theirs) = (secret(1), secret(2).public_key());
    let mut station = Station::new(&ours, &[theirs], ROUTES);
    let mut packet = packet(ours.public_key().address(), theirs.address(), len);
    measure("outbound", len, test, || {
        station.host_sends(black_box(&mut packet))
    });
    assert_eq!(
        station.plane.stats().sent,
        station.plane.stats().host_packets
    );
}

fn inbound(len: usize, test: bool) {
    let (ours, theirs) = (secret(1), secret(2));
    let mut sender = Station::new(&theirs, &[ours.public_key()], 0);
    sender.host_sends(&mut packet(
        theirs.public_key().address(),
        ours.public_key().address(),
        len,
    ));
    let sealed = sender.sink.last().to_vec();
    let mut station = Station::new(&ours, &[theirs.public_key()], ROUTES);
    // Opening destroys the ciphertext, so each packet starts with a copy, as a socket would make it.
    let mut frame = sealed.clone();
    measure("inbound", len, test, || {
        frame.copy_from_slice(&sealed);
        station.peer_sends(LINK, black_box(&mut frame));
    });
    assert_eq!(
        station.plane.stats().delivered_remote,
        station.plane.stats().peer_packets
    );
}

fn forward(len: usize, test: bool) {
    let (ours, theirs) = (secret(1), secret(2));
    let mut sender = Station::new(&theirs, &[ours.public_key()], 0);
    sender.host_sends(&mut packet(
        theirs.public_key().address(),
        ours.public_key().address(),
        len,
    ));
    let mut frame = sender.sink.last().to_vec();
    let mut relay = Station::new(&secret(3), &[ours.public_key()], ROUTES);
    measure("forward", len, test, || {
        relay.peer_sends(OTHER_LINK, black_box(&mut frame))
    });
    assert_eq!(
        relay.plane.stats().forwarded,
        relay.plane.stats().peer_packets
    );
}

fn measure(way: &str, len: usize, test: bool, mut one: impl FnMut()) {
    let mut rounds = Vec::new();
    for _ in 0..if test { 1 } else { ROUNDS } {
        let start = Instant::now();
        let mut packets = 0u32;
        let elapsed = loop {
            for _ in 0..BURST {
                one();
            }
            packets += BURST;
            let elapsed = start.elapsed();
            if test || elapsed >= ROUND {
                break elapsed;
            }
        };
        rounds.push(elapsed.as_secs_f64() * 1e9 / f64::from(packets));
    }
    rounds.sort_by(f64::total_cmp);
    let median = rounds[rounds.len() / 2];
    println!("{way:<10} {len:>6} {median:>12.1} {:>12.1}", rounds[0]);
}
