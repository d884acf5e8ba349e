//! Numbers as people write them in recipes and flags: `25%`, `100k`, `110MB`.

/// Sizes, decimal and binary.
const SIZES: &[(&str, f64)] = &[
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];
/// Counts.
const COUNTS: &[(&str, f64)] = &[("k", 1e3), ("M", 1e6), ("", 1.0)];
/// Largest number: beyond it not every whole number is a float.
const MOST: f64 = 9e15;

/// Bytes of `110MB`, `1.5GiB`.
///
/// # Errors
/// A sentence with what is expected and what was found.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    whole(text, SIZES, "a size with its unit, such as 110MB or 105MiB")
}

/// The number of `100k`, `1.5M`, `4096`.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn count(text: &str) -> Result<u64, String> {
    whole(text, COUNTS, "a number, such as 4096, 100k or 1.5M")
}

/// The fraction of `25%` or `0.25`.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, factor) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), 0.01),
        None => (text, 1.0),
    };
    let expected = || format!("expected a share such as 25% or 0.25, found '{text}'");
    let number: f64 = number.parse().map_err(|_| expected())?;
    match number.is_finite() {
        true => Ok(number * factor),
        false => Err(expected()),
    }
}

fn whole(text: &str, units: &[(&str, f64)], expected: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("expected {expected}, found '{text}'");
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), *factor)))
        .ok_or_else(wrong)?;
    let value = number.parse::<f64>().map_err(|_| wrong())? * factor;
    // Rounding: 1.1 kB are 1100 bytes, though 1.1 × 1000 are not in floats.
    let near = value.round();
    let is_good = (0.0..=MOST).contains(&value) && (value - near).abs() <= 1e-6 * near.max(1.0);
    match is_good {
        true => Ok(near as u64),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        let sizes = [
            ("110MB", Some(110_000_000)),
            ("105 MiB", Some(110_100_480)),
            ("1.1kB", Some(1100)),
            ("7B", Some(7)),
            ("110", None),
            ("MB", None),
            ("-1MB", None),
            ("1e300MB", None),
            ("0.5B", None),
            ("nanMB", None),
        ];
        for (text, expected) in sizes {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        let counts = [
            ("100k", Some(100_000)),
            ("1.5M", Some(1_500_000)),
            ("4096", Some(4096)),
            ("4.5", None),
            ("k", None),
            ("", None),
        ];
        for (text, expected) in counts {
            assert_eq!(count(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("25%", Some(0.25)),
            ("0.25", Some(0.25)),
            ("3 %", Some(0.03)),
            ("x", None),
            ("inf", None),
        ] {
            assert_eq!(fraction(text).ok(), expected, "{text}");
        }
        assert!(bytes("110").unwrap_err().contains("found '110'"));
    }
}
