//! Which paths does a policy's pattern cover?

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::path::{Path, PathError, is_bare, scan_segment, write_segment};

/// A pattern has at most this many segments: the matcher keeps its states in one machine word.
const MAX_PATTERN_PARTS: usize = 63;

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
                return Err(PathError::at(text, at, format!("a pattern has at most {MAX_PATTERN_PARTS} segments")));
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
            for (index, part) in self.0.iter().enumerate().filter(|(index, _)| active & (1 << index) != 0) {
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

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
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
}
