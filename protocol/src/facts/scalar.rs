//! What is the value of a fact, once lists and objects are walked through?

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// A leaf value. Equality, order and hash are total, so that it can key maps: booleans, then numbers, then texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A JSON number.
    Number(Number),
    /// A JSON string.
    Text(Arc<str>),
}

/// A leaf value that borrows its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScalarRef<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A JSON number.
    Number(Number),
    /// A JSON string.
    Text(&'a str),
}

impl Scalar {
    /// The same value, borrowed.
    pub fn as_ref(&self) -> ScalarRef<'_> {
        match self {
            Scalar::Bool(value) => ScalarRef::Bool(*value),
            Scalar::Number(value) => ScalarRef::Number(*value),
            Scalar::Text(value) => ScalarRef::Text(value),
        }
    }
}

impl<'a> ScalarRef<'a> {
    /// The leaf value of a JSON value; `None` for null, lists and objects.
    pub fn from_json(value: &'a Value) -> Option<ScalarRef<'a>> {
        match value {
            Value::Bool(value) => Some(ScalarRef::Bool(*value)),
            Value::Number(value) => Some(ScalarRef::Number(Number::from_json(value))),
            Value::String(value) => Some(ScalarRef::Text(value)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The same value, owned.
    pub fn to_owned(self) -> Scalar {
        match self {
            ScalarRef::Bool(value) => Scalar::Bool(value),
            ScalarRef::Number(value) => Scalar::Number(value),
            ScalarRef::Text(value) => Scalar::Text(value.into()),
        }
    }
}

/// The value as text, without quotes: what a regular expression sees.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// The value as text, without quotes: what a regular expression sees.
impl fmt::Display for ScalarRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScalarRef::Bool(value) => value.fmt(f),
            ScalarRef::Number(value) => value.fmt(f),
            ScalarRef::Text(value) => f.write_str(value),
        }
    }
}

/// The value as JSON has it.
impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scalar::Bool(value) => serializer.serialize_bool(*value),
            Scalar::Number(value) => value.serialize(serializer),
            Scalar::Text(value) => serializer.serialize_str(value),
        }
    }
}

/// A JSON number with an exact total order over integers and fractions: 8 and 8.0 are the same number,
/// and 2^63 + 1 is not 2^63.
#[derive(Clone, Copy)]
pub struct Number(Repr);

/// Whole numbers are always `Int` or `Big`, so that equal numbers have one form.
#[derive(Clone, Copy)]
enum Repr {
    Int(i64),
    /// Above `i64::MAX`.
    Big(u64),
    /// Finite, and either with a fraction or beyond both integer types.
    Float(f64),
}

impl Number {
    /// The number of a JSON value.
    pub fn from_json(number: &serde_json::Number) -> Number {
        if let Some(value) = number.as_i64() {
            Number(Repr::Int(value))
        } else if let Some(value) = number.as_u64() {
            Number(Repr::Big(value))
        } else {
            // A serde_json number is always one of the three; 0 is never reached.
            Number::from_float(number.as_f64().unwrap_or(0.0)).unwrap_or(Number(Repr::Int(0)))
        }
    }

    /// A number from a float; `None` for infinities and NaN, which JSON does not have.
    pub fn from_float(value: f64) -> Option<Number> {
        /// 2^63, the first float above `i64`.
        const INT_END: f64 = 9_223_372_036_854_775_808.0;
        if !value.is_finite() {
            return None;
        }
        Some(Number(if value.fract() != 0.0 || !(-INT_END..2.0 * INT_END).contains(&value) {
            Repr::Float(value)
        } else if value < INT_END {
            Repr::Int(value as i64)
        } else {
            Repr::Big(value as u64)
        }))
    }

    /// Reads `12`, `-3`, `2.5`, `1e6`; `None` if it is anything else (or too large for a float).
    pub fn parse(text: &str) -> Option<Number> {
        Number::parse_integer(text).or_else(|| {
            // Rust's parser also takes `inf` and `nan`, which are words here.
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
            plain.then(|| text.parse().ok()).flatten().and_then(Number::from_float)
        })
    }

    /// Reads digits with an optional sign, if they fit 64 bits: longer ones (serial numbers) stay text, exactly.
    pub fn parse_integer(text: &str) -> Option<Number> {
        if let Ok(value) = text.parse::<i64>() {
            return Some(Number(Repr::Int(value)));
        }
        text.parse::<u64>().ok().map(|value| Number(Repr::Big(value)))
    }

    fn whole(self) -> Option<i128> {
        match self.0 {
            Repr::Int(value) => Some(value.into()),
            Repr::Big(value) => Some(value.into()),
            Repr::Float(_) => None,
        }
    }

    /// The nearest float.
    pub fn as_f64(self) -> f64 {
        match self.0 {
            Repr::Int(value) => value as f64,
            Repr::Big(value) => value as f64,
            Repr::Float(value) => value,
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        match (self.whole(), other.whole()) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(a), None) => whole_to_float(a, other.as_f64()),
            (None, Some(b)) => whole_to_float(b, self.as_f64()).reverse(),
            (None, None) => self.as_f64().total_cmp(&other.as_f64()),
        }
    }
}

/// Exact: a float here is never a whole number that the integers could hold, so equality cannot occur, and a
/// saturating cast of its floor decides.
fn whole_to_float(whole: i128, float: f64) -> Ordering {
    if whole <= float.floor() as i128 { Ordering::Less } else { Ordering::Greater }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Repr::Int(value) => value.hash(state),
            Repr::Big(value) => value.hash(state),
            Repr::Float(value) => value.to_bits().hash(state),
        }
    }
}

/// Whole numbers without a fraction (`8`, also for 8.0), others in the shortest form that reads back.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Repr::Int(value) => value.fmt(f),
            Repr::Big(value) => value.fmt(f),
            Repr::Float(value) => write!(f, "{value:?}"),
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Repr::Int(value) => serializer.serialize_i64(value),
            Repr::Big(value) => serializer.serialize_u64(value),
            Repr::Float(value) => serializer.serialize_f64(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn numbers_have_one_exact_order() {
        let ascending = [
            "-1e300",
            "-9223372036854775808",
            "-2.5",
            "-2",
            "0",
            "0.5",
            "1",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "1e300",
        ];
        for pair in ascending.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
        }
        assert_eq!(number("8.0"), number("8"));
        assert_eq!(number("-0.0"), number("0"));
        assert_eq!(number("9223372036854775808.0"), number("9223372036854775808"));
    }

    #[test]
    fn words_are_no_numbers() {
        for text in ["", "inf", "nan", "NaN", "infinity", "-inf", "1e999", "0x10", "1_000", "8 ", "+", "."] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
        assert_eq!(Number::parse_integer("123456789012345678901234"), None);
    }

    #[test]
    fn text_forms() {
        assert_eq!(number("8.0").to_string(), "8");
        assert_eq!(number("2.50").to_string(), "2.5");
        assert_eq!(number("1e300").to_string(), "1e300");
    }
}
