//! Quantities as a person reads them: bytes, spans of time.

use std::fmt;

/// Bytes in binary units with two decimals: `1.23 MiB`.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.2} {}", UNITS[unit])
    }
}

/// Seconds as `1d 2h 3m 4s`, without leading zero units.
pub(crate) struct Seconds(pub(crate) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hours) = (self.0 / 86_400, self.0 / 3_600 % 24);
        let (minutes, seconds) = (self.0 / 60 % 60, self.0 % 60);
        if days > 0 {
            write!(f, "{days}d ")?;
        }
        if days > 0 || hours > 0 {
            write!(f, "{hours}h ")?;
        }
        if days > 0 || hours > 0 || minutes > 0 {
            write!(f, "{minutes}m ")?;
        }
        write!(f, "{seconds}s")
    }
}

/// A round trip, given in milliseconds: `0.25 ms`, `12.3 ms`, `140 ms`.
pub(crate) struct Milliseconds(pub(crate) f64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            value if value < 10.0 => 2,
            value if value < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{:.decimals$} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units_and_two_decimals() {
        for (bytes, text) in [
            (0, "0.00 B"),
            (1023, "1023.00 B"),
            (1024, "1.00 KiB"),
            (1_289_748, "1.23 MiB"),
            (u64::MAX, "16.00 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn seconds_drop_leading_zero_units_only() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_601, "1h 0m 1s"),
            (97_200, "1d 3h 0m 0s"),
            (100 * 86_400 + 5, "100d 0h 0m 5s"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }

    #[test]
    fn round_trips_have_three_digits() {
        for (milliseconds, text) in [(0.254, "0.25 ms"), (12.34, "12.3 ms"), (140.4, "140 ms")] {
            assert_eq!(Milliseconds(milliseconds).to_string(), text);
        }
    }
}
