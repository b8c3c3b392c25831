//! Which regular expressions are accepted, and how large may they be?

use regex::{Regex, RegexBuilder};

use super::error::FilterError;

/// Compiled size of one regular expression, in bytes: `\w{10}` fits, a bomb does not.
const MAX_REGEX_BYTES: usize = 512 * 1024;
/// Nesting inside a regular expression.
const MAX_REGEX_DEPTH: u32 = 32;

/// A compiled regular expression: unanchored, case-sensitive, of bounded size. Equal if the texts are.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// A pattern from a text outside the language (`-F os=/deb/`), which holds the limits of size but not the count.
pub(super) fn compile_alone(text: &str) -> Result<Pattern, FilterError> {
    let columns: Vec<usize> = (1..=text.chars().count() + 1).collect();
    compile(text, &columns)
}

/// Compiles within the limits. Slashes lose their escape first, so that one expression has one text.
pub(super) fn compile(text: &str, columns: &[usize]) -> Result<Pattern, FilterError> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('/') => plain.push('/'),
                next => {
                    plain.push(c);
                    plain.extend(next);
                }
            },
            _ => plain.push(c),
        }
    }
    // regex's own errors are drawings of several lines; its parser, asked first, gives the place.
    if let Err(error) = regex_syntax::ParserBuilder::new().nest_limit(MAX_REGEX_DEPTH).build().parse(&plain) {
        let (message, offset) = match &error {
            regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start.offset),
            regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.offset),
            _ => ("it cannot be read".to_owned(), 0),
        };
        let index = plain[..offset].chars().count().min(columns.len().saturating_sub(1));
        let column = columns.get(index).copied().unwrap_or(1);
        return Err(FilterError { column, message: format!("in the regular expression: {message}"), hint: None });
    }
    let built = RegexBuilder::new(&plain)
        .size_limit(MAX_REGEX_BYTES)
        .dfa_size_limit(MAX_REGEX_BYTES)
        .nest_limit(MAX_REGEX_DEPTH)
        .build();
    built.map(Pattern).map_err(|_| FilterError {
        column: columns.first().copied().unwrap_or(1),
        message: "the regular expression is too large when compiled".into(),
        hint: Some("large repetitions such as \\w{500} are the usual reason".into()),
    })
}
