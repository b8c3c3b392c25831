//! When does one value of a fact satisfy a comparison?

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::facts::{Number, ScalarRef, is_bare, write_quoted};

/// How a fact is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Op {
    /// True for `<`, `<=`, `>` and `>=`.
    pub fn is_order(self) -> bool {
        !matches!(self, Op::Equal | Op::NotEqual)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Equal => "=",
            Op::NotEqual => "!=",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
        })
    }
}

/// How a fact's value stands to a filter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Both are numbers, or both are versions: all six operators apply.
    Ordered(Ordering),
    /// Texts, booleans, or a number beside a word: only equal or not.
    Unordered(bool),
}

/// A value in a filter, with the readings that comparisons need made once. Bare and quoted values mean the same.
#[derive(Clone)]
pub struct Literal(Arc<Readings>);

struct Readings {
    text: String,
    number: Option<Number>,
    integer: Option<Number>,
    version: Option<Version>,
}

impl Literal {
    /// A value from its text, without quotes.
    pub fn new(text: impl Into<String>) -> Literal {
        let text = text.into();
        let (number, integer, version) = (Number::parse(&text), Number::parse_integer(&text), Version::parse(&text));
        Literal(Arc::new(Readings { text, number, integer, version }))
    }

    /// The text, without quotes.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The value as a number, for facts that are JSON numbers.
    pub fn number(&self) -> Option<Number> {
        self.0.number
    }

    /// The value as a 64-bit integer, for facts that are texts of digits.
    pub fn integer(&self) -> Option<Number> {
        self.0.integer
    }

    /// The value as a version, for facts that are texts which look like one.
    pub fn version(&self) -> Option<&Version> {
        self.0.version.as_ref()
    }

    /// How a fact's value stands to this one, by the first rule that applies: a JSON number beside a number, or two
    /// texts of digits, as numbers; two texts of which each looks like a version and one has a dot, as versions;
    /// anything else as text.
    pub fn compare(&self, fact: ScalarRef<'_>) -> Comparison {
        match fact {
            ScalarRef::Bool(value) => Comparison::Unordered(self.text() == if value { "true" } else { "false" }),
            ScalarRef::Number(value) => match self.0.number {
                Some(number) => Comparison::Ordered(value.cmp(&number)),
                None => Comparison::Unordered(false),
            },
            ScalarRef::Text(text) => self.compare_text(text),
        }
    }

    fn compare_text(&self, text: &str) -> Comparison {
        if let Some(integer) = self.0.integer
            && let Some(fact) = Number::parse_integer(text)
        {
            return Comparison::Ordered(fact.cmp(&integer));
        }
        if let Some(version) = &self.0.version
            && (self.0.text.contains('.') || text.contains('.'))
            && let Some(fact) = Version::parse(text)
        {
            return Comparison::Ordered(fact.cmp(version));
        }
        Comparison::Unordered(text == self.0.text)
    }
}

impl PartialEq for Literal {
    fn eq(&self, other: &Literal) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Literal {}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Literal({self})")
    }
}

/// Bare where the language allows it, else in double quotes.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let keyword = crate::facts::KEYWORDS.contains(&text);
        if !text.is_empty() && !keyword && text.chars().all(is_bare_value) {
            f.write_str(text)
        } else {
            write_quoted(f, text)
        }
    }
}

/// A character that may stand in an unquoted value.
pub(crate) fn is_bare_value(c: char) -> bool {
    is_bare(c) || c == '.'
}

/// A text that looks like a version: it begins with a digit and holds nothing but letters, digits and `. _ + ~ : -`.
///
/// Versions compare piece by piece, as package managers do it: runs of digits as numbers (leading zeros count for
/// nothing), runs of letters as text and below any number, more pieces above fewer (`7.10` < `7.10.2`), `~` below
/// everything (`1.0~rc1` < `1.0`). Separators decide only when all else is equal, so that two versions are the same
/// if and only if their [`normal_form`] is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pieces: Box<[Piece]>,
    /// The text without leading zeros.
    normal: Box<str>,
}

/// The order of the variants is the order of the pieces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Piece {
    Tilde,
    End,
    Letters(Box<str>),
    /// Length first, so that digits without leading zeros compare as numbers of any size.
    Digits(usize, Box<str>),
}

impl Version {
    /// Longer texts that begin with a digit are prose, not versions.
    const MAX_BYTES: usize = 128;

    /// Reads a version; `None` if the text does not look like one.
    pub fn parse(text: &str) -> Option<Version> {
        let permitted = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'~' | b':' | b'-');
        let begins_with_digit = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
        if !begins_with_digit || text.len() > Version::MAX_BYTES || !text.bytes().all(permitted) {
            return None;
        }
        let (mut pieces, mut normal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(first) = rest.chars().next() {
            let run = |of: fn(&char) -> bool| rest.chars().take_while(of).count().max(1);
            let length = match first {
                '0'..='9' => run(char::is_ascii_digit),
                'a'..='z' | 'A'..='Z' => run(char::is_ascii_alphabetic),
                _ => 1,
            };
            let piece = &rest[..length];
            match first {
                '0'..='9' => {
                    let digits = piece.trim_start_matches('0');
                    normal.push_str(if digits.is_empty() { "0" } else { digits });
                    pieces.push(Piece::Digits(digits.len(), digits.into()));
                }
                '~' => {
                    normal.push('~');
                    pieces.push(Piece::Tilde);
                }
                c if c.is_ascii_alphabetic() => {
                    normal.push_str(piece);
                    pieces.push(Piece::Letters(piece.into()));
                }
                c => normal.push(c),
            }
            rest = &rest[length..];
        }
        pieces.push(Piece::End);
        Some(Version { pieces: pieces.into(), normal: normal.into() })
    }
}

/// One spelling for all texts that compare as equal: integers without sign and zeros in front, versions without
/// zeros in front of their numbers. `None` for a text that is neither, which is equal to itself only.
pub fn normal_form(text: &str) -> Option<String> {
    if let Some(integer) = Number::parse_integer(text) {
        return Some(integer.to_string());
    }
    Version::parse(text).map(|version| version.normal.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_ascend() {
        let ascending = [
            "1.0~rc1",
            "1.0",
            "1.0a",
            "1.0.0",
            "1.0.2",
            "1.2",
            "1.10",
            "2",
            "5.10.0",
            "5.10.0-23-amd64",
            "5.10.0-100-amd64",
            "22.04",
            "100000000000000000000000000.1",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("22.04"), version("22.4"));
        assert_ne!(version("5.10.0-1"), version("5.10.0.1"));
        for text in ["", "v1.0", "-1", "1.0 beta", "1.0/2", "é", "1é"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn equal_texts_have_one_normal_form() {
        for (a, b) in [("007", "7"), ("+7", "7"), ("-0", "0"), ("22.04", "22.4"), ("1.00", "1.0")] {
            assert_eq!(normal_form(a), normal_form(b), "{a} {b}");
            let equal = Literal::new(b).compare(ScalarRef::Text(a));
            assert_eq!(equal, Comparison::Ordered(Ordering::Equal), "{a} {b}");
        }
        assert_eq!(normal_form("web"), None);
    }

    #[test]
    fn long_digits_stay_text() {
        let serial = Literal::new("12345678901234567890123");
        assert_eq!(serial.compare(ScalarRef::Text("12345678901234567890124")), Comparison::Unordered(false));
        assert_eq!(serial.compare(ScalarRef::Text("12345678901234567890123")), Comparison::Unordered(true));
    }

    proptest! {
        #[test]
        fn versions_have_a_total_order(a in "[0-9][0-9a-b.~-]{0,5}", b in "[0-9][0-9a-b.~-]{0,5}", c in "[0-9][0-9a-b.~-]{0,5}") {
            let (a, b, c) = (version(&a), version(&b), version(&c));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a == b, a.normal == b.normal);
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }
    }
}
