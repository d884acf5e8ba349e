//! Quantities with their units: `800ms`, `13.9 m/s`, `1.5 m/s2`, `180MiB`, `50Hz`, `60%`.
//!
//! A bare number where a dimension is meant is an error, because `timeout: 5` has been seconds in one file and milliseconds in
//! the next once too often. Inside the program every quantity is SI (or `Duration`, or bytes); the unit stays at the border.

use std::time::Duration;

use super::yaml::{Node, Value};

/// Longest duration a descriptor may name: a week. Keeps every sum of durations far from overflow.
pub const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// A physical dimension and the units it may be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Time, in seconds inside.
    Duration,
    /// Speed, in m/s inside.
    Speed,
    /// Acceleration, in m/s² inside.
    Acceleration,
    /// Length, in metres inside.
    Length,
    /// Memory, in bytes inside.
    Bytes,
    /// Frequency, in Hz inside.
    Rate,
    /// A share of one; the only one that may be bare, because it has no dimension.
    Ratio,
}

impl Dimension {
    /// Units with their factor to the unit used inside; the first is the one shown in messages.
    pub const fn units(self) -> &'static [(&'static str, f64)] {
        match self {
            Dimension::Duration => &[
                ("ms", 1e-3),
                ("s", 1.0),
                ("us", 1e-6),
                ("µs", 1e-6),
                ("min", 60.0),
                ("h", 3600.0),
            ],
            Dimension::Speed => &[("m/s", 1.0), ("km/h", 1.0 / 3.6)],
            Dimension::Acceleration => &[("m/s2", 1.0), ("m/s²", 1.0), ("m/s^2", 1.0)],
            Dimension::Length => &[("m", 1.0), ("cm", 1e-2), ("mm", 1e-3), ("km", 1e3)],
            Dimension::Bytes => &[
                ("MiB", 1_048_576.0),
                ("MB", 1e6),
                ("KiB", 1024.0),
                ("kB", 1e3),
                ("GiB", 1_073_741_824.0),
                ("GB", 1e9),
                ("B", 1.0),
            ],
            Dimension::Rate => &[("Hz", 1.0), ("kHz", 1e3)],
            Dimension::Ratio => &[("%", 1e-2)],
        }
    }

    /// What it is called, with an example: goes behind "expected".
    pub const fn name(self) -> &'static str {
        match self {
            Dimension::Duration => "a duration such as 800ms",
            Dimension::Speed => "a speed such as 13.9 m/s",
            Dimension::Acceleration => "an acceleration such as 1.5 m/s2",
            Dimension::Length => "a length such as 3.5 m",
            Dimension::Bytes => "a size such as 180MiB",
            Dimension::Rate => "a rate such as 50Hz",
            Dimension::Ratio => "a ratio from 0 to 1 such as 0.6",
        }
    }

    /// Regular expression of what is accepted, for the JSON Schema.
    pub fn pattern(self) -> String {
        let escape = |u: &str| u.replace('^', "\\^");
        let units: Vec<String> = self.units().iter().map(|(u, _)| escape(u)).collect();
        format!(
            "^[0-9]+(\\.[0-9]*)?([eE][-+]?[0-9]+)? *({})$",
            units.join("|")
        )
    }

    /// Largest value inside; larger ones are a slip of the keyboard.
    const fn most(self) -> f64 {
        match self {
            Dimension::Duration => MAX_SECONDS,
            Dimension::Speed => 150.0, // m/s: faster than any road vehicle
            Dimension::Acceleration => 100.0, // m/s²: ten times gravity
            Dimension::Length => 1e6,
            Dimension::Bytes => 1e15,
            Dimension::Rate => 1e6,
            Dimension::Ratio => 1.0,
        }
    }
}

/// Reads a quantity of a dimension, in the unit used inside.
///
/// # Errors
/// A text that goes behind the place of the value: what was expected, what was found, and the right form if it can be guessed.
pub fn quantity(node: &Node, dimension: Dimension) -> Result<f64, Refused> {
    let expected = |hint: Option<String>| Refused {
        message: format!("expected {}, found {}", dimension.name(), node.describe()),
        hint,
    };
    let value = match &node.value {
        Value::Int(_) | Value::Float(_) => {
            let number = node.number().unwrap_or(f64::NAN);
            if dimension == Dimension::Ratio || (number == 0.0 && dimension == Dimension::Duration)
            {
                number // zero is zero in every unit of time
            } else {
                let forms: Vec<String> = dimension
                    .units()
                    .iter()
                    .take(2)
                    .map(|(u, _)| spell(&format!("{number}"), u))
                    .collect();
                return Err(expected(Some(format!("write {}", forms.join(" or ")))));
            }
        }
        Value::Text(text) => parse(text, dimension).ok_or_else(|| expected(None))?,
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
            return Err(expected(None));
        }
    };
    let most = dimension.most();
    if !(0.0..=most).contains(&value) {
        let unit = dimension
            .units()
            .iter()
            .find(|(_, f)| *f == 1.0)
            .map_or("", |(u, _)| *u);
        let message = format!(
            "{} is out of range, expected 0 to {most} {unit}",
            node.describe()
        );
        return Err(Refused {
            message: message.trim_end().to_owned(),
            hint: None,
        });
    }
    Ok(value)
}

/// Reads a duration.
///
/// # Errors
/// As [`quantity`].
pub fn duration(node: &Node) -> Result<Duration, Refused> {
    quantity(node, Dimension::Duration).map(seconds)
}

/// Reads a span of time, `6s..9s`; the end may be left open as `40s..`.
///
/// # Errors
/// As [`quantity`]; also when the end does not come after the start.
pub fn span(node: &Node) -> Result<(Duration, Option<Duration>), Refused> {
    let refused = |hint: &str| Refused {
        message: format!(
            "expected a span of time such as 6s..9s, found {}",
            node.describe()
        ),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    };
    let text = node.text().ok_or_else(|| refused("write 6s..9s"))?;
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| refused("put .. between start and end"))?;
    let read =
        |t: &str| parse(t.trim(), Dimension::Duration).filter(|s| (0.0..=MAX_SECONDS).contains(s));
    let from = read(from).ok_or_else(|| refused(""))?;
    if to.trim().is_empty() {
        return Ok((seconds(from), None));
    }
    let to = read(to).ok_or_else(|| refused(""))?;
    if to <= from {
        return Err(refused("the end must come after the start"));
    }
    Ok((seconds(from), Some(seconds(to))))
}

/// A quantity that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was expected and what was found.
    pub message: String,
    /// What to write.
    pub hint: Option<String>,
}

/// Reads text as a quantity of any dimension and returns its SI value: for conditions on message fields, whose unit the
/// message's definition fixes.
pub fn any_quantity(text: &str) -> Option<f64> {
    use Dimension::{Acceleration, Duration, Length, Rate, Speed};
    [Duration, Speed, Acceleration, Length, Rate]
        .into_iter()
        .find_map(|d| parse(text, d))
}

fn parse(text: &str, dimension: Dimension) -> Option<f64> {
    let text = text.trim();
    let split = text
        .find(|c: char| c.is_alphabetic() && c != 'e' && c != 'E' || "% ".contains(c))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim_start();
    let factor = dimension
        .units()
        .iter()
        .find(|(u, _)| *u == unit)
        .map(|(_, f)| *f)?;
    Some(number * factor).filter(|v| v.is_finite())
}

/// Number and unit as people write them: short units closed up, compound ones apart.
fn spell(number: &str, unit: &str) -> String {
    if unit.contains('/') {
        format!("{number} {unit}")
    } else {
        format!("{number}{unit}")
    }
}

/// Rounds to the nanosecond; a sum of powers of ten such as `1.2s` stays what it says.
fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)
}

/// Writes a duration the way a descriptor does: `800ms`, `1.2s`, `2min`.
pub fn show(duration: Duration) -> String {
    let s = duration.as_secs_f64();
    if s >= 60.0 && duration.subsec_nanos() == 0 && duration.as_secs().is_multiple_of(60) {
        format!("{}min", duration.as_secs() / 60)
    } else if s >= 1.0 || s == 0.0 {
        format!("{s}s")
    } else if duration.as_millis() > 0 {
        format!("{}ms", s * 1e3)
    } else {
        format!("{}us", s * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::findings::At;
    use crate::descriptor::yaml::plain;
    use Dimension::*;

    fn node(text: &str) -> Node {
        Node::new(At::default(), plain(text))
    }

    /// Text, dimension, value in the unit used inside.
    const READ: &[(&str, Dimension, f64)] = &[
        ("800ms", Duration, 0.8),
        ("1.2s", Duration, 1.2),
        ("2min", Duration, 120.0),
        ("1e3ms", Duration, 1.0),
        ("0", Duration, 0.0),
        ("13.9 m/s", Speed, 13.9),
        ("36 km/h", Speed, 10.0),
        ("1.5 m/s2", Acceleration, 1.5),
        ("180MiB", Bytes, 188_743_680.0),
        ("48MB", Bytes, 48e6),
        ("50Hz", Rate, 50.0),
        ("60%", Ratio, 0.6),
        ("0.6", Ratio, 0.6),
    ];

    #[test]
    fn quantities_are_read_in_their_units() {
        for (text, dimension, expected) in READ {
            let value = quantity(&node(text), *dimension).unwrap();
            assert!(
                (value - expected).abs() < 1e-9 * expected.max(1.0),
                "{text}: {value}"
            );
        }
    }

    /// Text, dimension, message, hint.
    const REFUSED: &[(&str, Dimension, &str, &str)] = &[
        (
            "800",
            Duration,
            "expected a duration such as 800ms, found the number 800",
            "write 800ms or 800s",
        ),
        (
            "13.9",
            Speed,
            "expected a speed such as 13.9 m/s, found the number 13.9",
            "write 13.9 m/s or 13.9 km/h",
        ),
        (
            "800 m",
            Duration,
            "expected a duration such as 800ms, found \"800 m\"",
            "",
        ),
        (
            "13.9 mph",
            Speed,
            "expected a speed such as 13.9 m/s, found \"13.9 mph\"",
            "",
        ),
        (
            "-5ms",
            Duration,
            "expected a duration such as 800ms, found \"-5ms\"",
            "",
        ),
        (
            "1e9s",
            Duration,
            "\"1e9s\" is out of range, expected 0 to 604800 s",
            "",
        ),
        (
            "60",
            Ratio,
            "the number 60 is out of range, expected 0 to 1",
            "",
        ),
        (
            "1e999s",
            Duration,
            "expected a duration such as 800ms, found \"1e999s\"",
            "",
        ),
        ("true", Rate, "expected a rate such as 50Hz, found true", ""),
    ];

    #[test]
    fn other_things_are_refused_with_the_right_form() {
        for (text, dimension, message, hint) in REFUSED {
            let refused = quantity(&node(text), *dimension).unwrap_err();
            assert_eq!(
                (
                    refused.message.as_str(),
                    refused.hint.unwrap_or_default().as_str()
                ),
                (*message, *hint),
                "{text}"
            );
        }
    }

    #[test]
    fn spans_have_two_ends_in_order() {
        let s = std::time::Duration::from_secs;
        assert_eq!(span(&node("6s..9s")).unwrap(), (s(6), Some(s(9))));
        assert_eq!(span(&node("40s..")).unwrap(), (s(40), None));
        for bad in ["9s..6s", "6s", "6..9", "..", "6s..9s..12s", "5"] {
            assert!(span(&node(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shown_duration_reads_back() {
        for ms in [0, 1, 250, 800, 1200, 60_000, 90_500, 7_200_000] {
            let d = std::time::Duration::from_millis(ms);
            assert_eq!(duration(&node(&show(d))).unwrap(), d, "{}", show(d));
        }
    }
}
