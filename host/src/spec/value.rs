//! Sizes, durations and bounds as the file writes them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use super::node::HINT;

/// A size in bytes: `"64MiB"`, `"1GB"`, or a plain byte count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    /// Parses a size. The error is a message, with the right spelling after `HINT` where there is one.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if text.starts_with('-') {
            return Err(format!("a size cannot be negative, as {text:?} is"));
        }
        let unit = unit.trim_start();
        if unit.starts_with(['.', ',']) {
            return Err(format!(
                "{text:?} is no size: fractions are not read{HINT}use a smaller unit, such as \"1536MiB\" for \"1.5GiB\""
            ));
        }
        let scale = if unit.is_empty() {
            Some(1)
        } else {
            UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
        };
        let Some(scale) = scale.filter(|_| !number.is_empty()) else {
            let spelled = UNITS
                .iter()
                .find(|(name, _)| {
                    unit.len() == 1 && name.starts_with(&unit.to_uppercase()) || name.eq_ignore_ascii_case(unit)
                })
                .filter(|_| !number.is_empty())
                .map_or_else(
                    || "sizes are \"64MiB\", \"1GB\" or a byte count".to_owned(),
                    |(name, _)| format!("write \"{number}{name}\""),
                );
            return Err(format!("{text:?} is no size{HINT}{spelled}"));
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is larger than any size"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, shift)| self.0 >= 1 << shift);
        match unit {
            Some((name, shift)) if self.0.is_multiple_of(1 << shift) => write!(f, "{} {name}", self.0 >> shift),
            Some((name, shift)) => {
                let whole = (u128::from(self.0) * 10) >> shift;
                write!(f, "{}.{} {name}", whole / 10, whole % 10)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64MiB\" or a byte count")
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                Err(E::custom(format!("a size cannot be negative, as {bytes} is")))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A duration: `"250ms"`, `"30s"`, `"1m30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Parses a duration such as `250ms` or `1m30s`.
///
/// # Errors
///
/// A message for people; a bare number is refused, because it says no unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("{text:?} has no unit{HINT}write \"{text}s\" for seconds"));
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is no duration{HINT}durations are \"250ms\", \"30s\" or \"1m30s\""))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30s\"")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Span, E> {
                Err(E::custom(format!("the duration {number} has no unit{HINT}write \"{number}s\" for seconds")))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                parse_duration(text).map(Span).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

/// A limit's value, or `"none"`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound<T> {
    /// No limit.
    None,
    /// At most this.
    At(T),
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl<T: fmt::Display> fmt::Display for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::At(value) => value.fmt(f),
        }
    }
}

impl<T> Bound<T> {
    /// The value, if there is a limit.
    pub fn value(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::At(value) => Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bound<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoundVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundVisitor<T> {
            type Value = Bound<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its unit, or \"none\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bound<T>, E> {
                if text == "none" {
                    return Ok(Bound::None);
                }
                T::deserialize(de::value::StrDeserializer::new(text)).map(Bound::At)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bound<T>, E> {
                T::deserialize(de::value::U64Deserializer::new(number)).map(Bound::At)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bound<T>, E> {
                T::deserialize(de::value::I64Deserializer::new(number)).map(Bound::At)
            }
        }
        deserializer.deserialize_any(BoundVisitor(std::marker::PhantomData))
    }
}
