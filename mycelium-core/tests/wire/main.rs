//! Wire formats: vectors of the present network, an independent parser as second opinion, and arbitrary bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod beacon;
mod data;
mod frame;
mod icmpv6;
mod ipv6;
mod tcp_mss;

/// Bytes of hexadecimal digits; anything else separates.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}
