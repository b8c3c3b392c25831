//! How is a fact named?

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Words that the filter language keeps for itself; a path that is exactly one of them is written in quotes.
pub(crate) const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "has", "class"];

/// Joins segments in memory. Names with control characters are refused, so it never stands inside a segment,
/// and because it sorts below every other permitted character, text order is segment order.
const SEPARATOR: char = '\u{1f}';

/// A parsed dotted path to a fact, `os.family` or `mountpoints."/var".size`. Never empty; lists have no index in it.
///
/// `Display` quotes a segment only where it must, and [`Path::parse`] reads it back to the same path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(Arc<str>);

impl Path {
    /// Reads a whole text as a path.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let (path, used) = Path::scan(text)?;
        match text[used..].chars().next() {
            None => Ok(path),
            Some(c) => Err(PathError::at(text, used, format!("a fact path cannot hold `{c}` outside quotes"))),
        }
    }

    /// A path from its segments; `None` if there are none or one holds a control character.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Option<Path> {
        let mut joined = String::new();
        let mut any = false;
        for segment in segments {
            if segment.chars().any(char::is_control) {
                return None;
            }
            if any {
                joined.push(SEPARATOR);
            }
            joined.push_str(segment);
            any = true;
        }
        any.then(|| Path(joined.into()))
    }

    /// The value at this path of a document, through objects only; a list is found whole.
    pub fn find_in<'a>(&self, document: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        self.segments().try_fold(document, |value, name| value.as_object()?.get(name))
    }

    /// The names from the outermost to the innermost.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(SEPARATOR)
    }

    /// The path one level up; `None` for a top-level fact.
    pub fn parent(&self) -> Option<Path> {
        self.0.rfind(SEPARATOR).map(|end| Path(self.0[..end].into()))
    }

    /// Reads a path at the beginning of a text, and says how many bytes it took.
    pub(crate) fn scan(text: &str) -> Result<(Path, usize), PathError> {
        let mut joined = String::new();
        let mut at = 0;
        loop {
            let (segment, _, used) = scan_segment(text, at, is_bare)?;
            joined.push_str(&segment);
            at += used;
            if !text[at..].starts_with('.') {
                return Ok((Path(joined.into()), at));
            }
            at += 1;
            joined.push(SEPARATOR);
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if KEYWORDS.contains(&&*self.0) {
            return write!(f, "\"{}\"", self.0);
        }
        for (index, segment) in self.segments().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            write_segment(f, segment)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({self})")
    }
}

impl FromStr for Path {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Path, PathError> {
        Path::parse(text)
    }
}

impl TryFrom<String> for Path {
    type Error = PathError;
    fn try_from(text: String) -> Result<Path, PathError> {
        Path::parse(&text)
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        path.to_string()
    }
}

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (column {column})")]
pub struct PathError {
    /// Where, in characters, the first being 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The same place in bytes from the beginning.
    pub(crate) offset: usize,
}

impl PathError {
    pub(super) fn at(text: &str, offset: usize, message: impl Into<String>) -> PathError {
        PathError { column: text[..offset].chars().count() + 1, message: message.into(), offset }
    }
}

/// A character that may stand in an unquoted segment.
pub(crate) fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '@' | '%' | '+' | '-')
}

/// Writes a text in double quotes, as [`scan_quoted`] reads it.
pub(crate) fn write_quoted(f: &mut impl fmt::Write, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// Reads a quoted text at the beginning of `text`: the content, and the bytes used with both quotes.
/// A backslash before a quote or a backslash is an escape; before anything else it stands for itself (`C:\temp`).
pub(crate) fn scan_quoted(text: &str) -> Result<(String, usize), (usize, String)> {
    let mut chars = text.char_indices();
    let quote = chars.next().map_or('"', |(_, c)| c);
    let mut content = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((content, at + c.len_utf8())),
            '\\' => match text[at + 1..].chars().next() {
                Some(next @ ('\\' | '"' | '\'')) => {
                    content.push(next);
                    chars.next();
                }
                _ => content.push('\\'),
            },
            c if c.is_control() => return Err((at, "control characters are not allowed".into())),
            c => content.push(c),
        }
    }
    Err((0, format!("the quote {quote} is not closed")))
}

/// One segment at byte `at`: its text, whether it was quoted, and the bytes it used.
pub(super) fn scan_segment(
    text: &str,
    at: usize,
    bare: impl Fn(char) -> bool,
) -> Result<(String, bool, usize), PathError> {
    let rest = &text[at..];
    if rest.starts_with(['"', '\'']) {
        let (content, used) = scan_quoted(rest).map_err(|(o, message)| PathError::at(text, at + o, message))?;
        return Ok((content, true, used));
    }
    let used = rest.find(|c| !bare(c)).unwrap_or(rest.len());
    if used > 0 {
        return Ok((rest[..used].to_owned(), false, used));
    }
    let message = match rest.chars().next() {
        Some(c) if c != '.' && !c.is_whitespace() => {
            format!("a fact path cannot hold `{}` outside quotes", c.escape_debug())
        }
        _ if at == 0 => "a fact path is expected here".to_owned(),
        _ => "a name is missing beside this dot".to_owned(),
    };
    Err(PathError::at(text, at, message))
}

pub(super) fn write_segment(f: &mut fmt::Formatter<'_>, segment: &str) -> fmt::Result {
    if !segment.is_empty() && segment.chars().all(is_bare) { f.write_str(segment) } else { write_quoted(f, segment) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn paths_print_as_they_are_read() {
        for text in ["os", "os.family", "mountpoints.\"/var\".size", "\"class\"", "class.x", "a.\"\"", "\"a\\\"b\\\\\""]
        {
            assert_eq!(path(text).to_string(), text);
        }
        assert_eq!(path("'os'.\"family\"").to_string(), "os.family");
        assert_eq!(path("a.b.c").segments().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(path("a.b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), None);
        assert!(path("a.z") < path("a-b"), "members sort right behind their object");
    }

    #[test]
    fn mistakes_in_paths_are_placed() {
        for (text, column) in [("", 1), ("a..b", 3), (".a", 1), ("a.", 3), ("a b", 2), ("a.\"x", 3), ("a.é", 3)] {
            assert_eq!(Path::parse(text).unwrap_err().column, column, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_segments_survive_printing(segments in prop::collection::vec("\\PC{0,8}", 1..5)) {
            let path = Path::from_segments(segments.iter().map(String::as_str)).unwrap();
            prop_assert_eq!(Path::parse(&path.to_string()).unwrap(), path.clone());
            prop_assert_eq!(path.segments().collect::<Vec<_>>(), segments);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Path::parse(&text);
            let _ = crate::facts::PathPattern::parse(&text);
        }
    }
}
