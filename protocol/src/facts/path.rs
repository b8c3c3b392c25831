//! How is a fact named, and which names does a policy's pattern cover?

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Words that the filter language keeps for itself; a path that is exactly one of them is written in quotes.
pub(crate) const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "has", "class"];

/// Joins segments in memory. Names with control characters are refused, so it never stands inside a segment,
/// and because it sorts below every other permitted character, text order is segment order.
const SEPARATOR: char = '\u{1f}';

/// A pattern has at most this many segments: the matcher keeps its states in one machine word.
const MAX_PATTERN_PARTS: usize = 63;

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
            Some(c) => Err(PathError::at(
                text,
                used,
                format!("a fact path cannot hold `{c}` outside quotes"),
            )),
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

    /// The names from the outermost to the innermost.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(SEPARATOR)
    }

    /// The path one level up; `None` for a top-level fact.
    pub fn parent(&self) -> Option<Path> {
        self.0
            .rfind(SEPARATOR)
            .map(|end| Path(self.0[..end].into()))
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
    fn at(text: &str, offset: usize, message: impl Into<String>) -> PathError {
        PathError {
            column: text[..offset].chars().count() + 1,
            message: message.into(),
            offset,
        }
    }
}

/// Names a set of paths in a policy: `hostname`, `network.**`, `ipaddress*`, `*.secret`.
///
/// `*` inside a segment stands for any characters of that segment, `**` as a segment for any number of segments,
/// none included. What lies *below* a covered path is covered too, so `network` and `network.**` mean the same: a
/// hidden fact that turns out to be an object does not leak its members. Quoted segments are literal.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(Arc<[Part]>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Part {
    Deep,
    Glob(Box<str>),
    Literal(Box<str>),
}

impl PathPattern {
    /// Reads a whole text as a pattern.
    pub fn parse(text: &str) -> Result<PathPattern, PathError> {
        let mut parts = Vec::new();
        let mut at = 0;
        loop {
            let (segment, quoted, used) = scan_segment(text, at, |c| is_bare(c) || c == '*')?;
            parts.push(match &*segment {
                "**" if !quoted => Part::Deep,
                glob if !quoted && glob.contains('*') => Part::Glob(glob.into()),
                literal => Part::Literal(literal.into()),
            });
            if parts.len() > MAX_PATTERN_PARTS {
                return Err(PathError::at(
                    text,
                    at,
                    format!("a pattern has at most {MAX_PATTERN_PARTS} segments"),
                ));
            }
            at += used;
            match text[at..].chars().next() {
                None => return Ok(PathPattern(parts.into())),
                Some('.') => at += 1,
                Some(c) => {
                    let message = format!("a path pattern cannot hold `{c}` outside quotes");
                    return Err(PathError::at(text, at, message));
                }
            }
        }
    }

    /// True if the path is covered: named by the pattern, or below something that is.
    /// This is the question for *showing* one value: what matches is left out, its siblings stay.
    pub fn matches(&self, path: &Path) -> bool {
        self.run(path).0
    }

    /// True if the path is covered **or above** something that the pattern could cover.
    /// This is the question for *asking* about a path: with `os.secret` hidden, `has os` or a report of `os` would
    /// say something about it, so a filter on `os` is refused, while `os.family` stays free.
    pub fn touches(&self, path: &Path) -> bool {
        self.run(path).1
    }

    /// (matches, touches), by running all states of the pattern at once: bit n set = n parts are consumed.
    fn run(&self, path: &Path) -> (bool, bool) {
        let accept = 1u64 << self.0.len();
        let mut active = self.skip_deep(1);
        for segment in path.segments() {
            if active & accept != 0 {
                return (true, true);
            }
            let mut next = 0;
            for (index, part) in self
                .0
                .iter()
                .enumerate()
                .filter(|(index, _)| active & (1 << index) != 0)
            {
                match part {
                    Part::Deep => next |= 1 << index,
                    Part::Glob(glob) if glob_matches(glob, segment) => next |= 1 << (index + 1),
                    Part::Literal(literal) if **literal == *segment => next |= 1 << (index + 1),
                    _ => {}
                }
            }
            active = self.skip_deep(next);
        }
        (active & accept != 0, active != 0)
    }

    /// `**` may stand for no segment at all.
    fn skip_deep(&self, mut active: u64) -> u64 {
        for (index, part) in self.0.iter().enumerate() {
            if *part == Part::Deep && active & (1 << index) != 0 {
                active |= 1 << (index + 1);
            }
        }
        active
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            match part {
                Part::Deep => f.write_str("**")?,
                Part::Glob(glob) => f.write_str(glob)?,
                Part::Literal(literal) => write_segment(f, literal)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPattern({self})")
    }
}

impl FromStr for PathPattern {
    type Err = PathError;
    fn from_str(text: &str) -> Result<PathPattern, PathError> {
        PathPattern::parse(text)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PathError;
    fn try_from(text: String) -> Result<PathPattern, PathError> {
        PathPattern::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.to_string()
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
fn scan_segment(
    text: &str,
    at: usize,
    bare: impl Fn(char) -> bool,
) -> Result<(String, bool, usize), PathError> {
    let rest = &text[at..];
    if rest.starts_with(['"', '\'']) {
        let (content, used) =
            scan_quoted(rest).map_err(|(o, message)| PathError::at(text, at + o, message))?;
        return Ok((content, true, used));
    }
    let used = rest.find(|c| !bare(c)).unwrap_or(rest.len());
    if used > 0 {
        return Ok((rest[..used].to_owned(), false, used));
    }
    let message = match rest.chars().next() {
        Some(c) if c != '.' && !c.is_whitespace() => {
            format!(
                "a fact path cannot hold `{}` outside quotes",
                c.escape_debug()
            )
        }
        _ if at == 0 => "a fact path is expected here".to_owned(),
        _ => "a name is missing beside this dot".to_owned(),
    };
    Err(PathError::at(text, at, message))
}

fn write_segment(f: &mut fmt::Formatter<'_>, segment: &str) -> fmt::Result {
    if !segment.is_empty() && segment.chars().all(is_bare) {
        f.write_str(segment)
    } else {
        write_quoted(f, segment)
    }
}

/// `*` stands for any characters; remembers only the last star, so it is linear in practice and never recursive.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if g < glob.len() && glob[g] == b'*' {
            star = Some((g, t));
            g += 1;
        } else if g < glob.len() && glob[g] == text[t] {
            g += 1;
            t += 1;
        } else if let Some((star_g, star_t)) = star {
            g = star_g + 1;
            t = star_t + 1;
            star = Some((star_g, t));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
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
        for text in [
            "os",
            "os.family",
            "mountpoints.\"/var\".size",
            "\"class\"",
            "class.x",
            "a.\"\"",
            "\"a\\\"b\\\\\"",
        ] {
            assert_eq!(path(text).to_string(), text);
        }
        assert_eq!(path("'os'.\"family\"").to_string(), "os.family");
        assert_eq!(
            path("a.b.c").segments().collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        assert_eq!(path("a.b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), None);
        assert!(
            path("a.z") < path("a-b"),
            "members sort right behind their object"
        );
    }

    #[test]
    fn mistakes_in_paths_are_placed() {
        for (text, column) in [
            ("", 1),
            ("a..b", 3),
            (".a", 1),
            ("a.", 3),
            ("a b", 2),
            ("a.\"x", 3),
            ("a.é", 3),
        ] {
            assert_eq!(Path::parse(text).unwrap_err().column, column, "{text}");
        }
    }

    #[test]
    fn patterns_cover_what_is_below_and_touch_what_is_above() {
        // pattern, path, matches, touches
        for (pattern, text, matches, touches) in [
            ("hostname", "hostname", true, true),
            ("hostname", "hostname.short", true, true),
            ("hostname", "hostnames", false, false),
            ("network.**", "network", true, true),
            ("network.**", "network.eth0.mac", true, true),
            ("network.**", "networking", false, false),
            ("ipaddress*", "ipaddress_eth0", true, true),
            ("ipaddress*", "ipaddress", true, true),
            ("ipaddress*", "my.ipaddress", false, false),
            ("os.secret", "os", false, true),
            ("os.secret", "os.family", false, false),
            ("*.secret", "os", false, true),
            ("*.secret", "os.secret.x", true, true),
            ("**.password", "a.b.password", true, true),
            ("**.password", "password", true, true),
            ("**.password", "a.b", false, true),
            ("a.**.z", "a.z", true, true),
            ("a.**.z", "a.b.c.z", true, true),
            ("\"a*\"", "abc", false, false),
        ] {
            let pattern = PathPattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(&path(text)), matches, "{pattern} on {text}");
            assert_eq!(pattern.touches(&path(text)), touches, "{pattern} on {text}");
            assert_eq!(PathPattern::parse(&pattern.to_string()).unwrap(), pattern);
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
            let _ = PathPattern::parse(&text);
        }
    }
}
