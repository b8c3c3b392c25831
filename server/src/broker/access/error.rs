//! Where is a text wrong, why, and what is to be done? The errors of a policy, with line and cure.

use std::fmt;

/// A mistake in a policy. One is enough: a policy is taken whole or refused whole.
///
/// `Display` is one line for people. It never quotes the text of the policy at large, which holds password hashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Line in the text, the first being 1.
    pub line: usize,
    /// Column in that line, in characters, the first being 1; where it says more than the line alone.
    pub column: Option<usize>,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}; {}", self.cause, self.cure)
    }
}

/// Line and column of a byte in a text, both from 1, columns in characters. Past the end: the end.
pub(crate) fn place(text: &str, offset: usize) -> (usize, usize) {
    let end = (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What to do about a mistake that the TOML reader found.
pub(crate) fn toml_cure(message: &str) -> &'static str {
    if message.starts_with("unknown field") {
        "correct the spelling or remove the field"
    } else if message.starts_with("missing field") {
        "add it"
    } else if message.starts_with("duplicate") {
        "keep one of the two"
    } else if message.starts_with("unknown variant") {
        "use one of those expected"
    } else {
        "correct the TOML there"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_from_one_in_characters() {
        let text = "ä = 1\nbé = 2\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, 1), (1, 1), "inside a character");
        assert_eq!(place(text, 2), (1, 2));
        assert_eq!(place(text, 7), (2, 1));
        assert_eq!(place(text, 10), (2, 3));
        assert_eq!(place(text, 999), (3, 1));
    }
}
