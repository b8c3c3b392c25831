//! Why is a text no filter, and where is the mistake?

use std::fmt;

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// Where, in characters, the first being 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
    /// What to write instead, if it can be guessed.
    pub hint: Option<String>,
}

impl FilterError {
    /// The text, a caret under the column, and the message: three lines, four with a hint.
    /// A long text is shown around the column only.
    pub fn render(&self, text: &str) -> String {
        const BEFORE: usize = 60;
        const WIDTH: usize = 76;
        let at = self.column - 1;
        let from = at.saturating_sub(BEFORE);
        // One character, one column: the caret would miss its place behind tabs and line breaks.
        let shown: String = text.chars().skip(from).take(WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut rendered = format!("{shown}\n{:>width$}\n{}", "^", self.message, width = at - from + 1);
        if let Some(hint) = &self.hint {
            rendered.push_str("\nhint: ");
            rendered.push_str(hint);
        }
        rendered
    }
}

impl std::error::Error for FilterError {}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl FilterError {
    /// The same error with an advice.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> FilterError {
        self.hint = Some(hint.into());
        self
    }
}
