//! Why does a node match a filter, or not? Predicate by predicate, with what was found.

use std::fmt;

use serde::Serialize;

use super::{Comparison, Expr, Lookup, Predicate, Subject, Ternary};
use crate::facts::ScalarRef;

/// More values of a list are counted, not shown.
const SHOWN_VALUES: usize = 8;
/// A longer text is cut.
const SHOWN_CHARS: usize = 120;

/// A filter's outcome as a tree; `Display` indents it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The outcome of this part.
    pub outcome: Ternary,
    /// The part as text; `all of`, `any of` and `not` where it has parts of its own.
    pub text: String,
    /// What was found, and what follows from it; empty where there are parts.
    pub because: String,
    /// The parts of an `and`, `or` or `not`.
    pub parts: Vec<Explanation>,
}

pub(super) fn explain(expr: &Expr, subject: &impl Subject) -> Explanation {
    let compound = |text: &str, parts: &[Expr], fold: fn(Ternary, Ternary) -> Ternary, start| {
        let parts: Vec<Explanation> = parts.iter().map(|part| explain(part, subject)).collect();
        let outcome = parts.iter().map(|part| part.outcome).fold(start, fold);
        Explanation { outcome, text: text.to_owned(), because: String::new(), parts }
    };
    match expr {
        Expr::And(parts) => compound("all of", parts, Ternary::and, Ternary::Yes),
        Expr::Or(parts) => compound("any of", parts, Ternary::or, Ternary::No),
        Expr::Not(inner) => {
            let inner = explain(inner, subject);
            Explanation { outcome: !inner.outcome, text: "not".into(), because: String::new(), parts: vec![inner] }
        }
        Expr::Predicate(predicate) => Explanation {
            outcome: subject.decide(predicate),
            text: predicate.to_string(),
            because: because(predicate, subject),
            parts: Vec::new(),
        },
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl Explanation {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let outcome = match self.outcome {
            Ternary::Yes => "yes",
            Ternary::No => "no",
            Ternary::Unknown => "unknown",
        };
        write!(f, "{:indent$}{outcome:<8}{}", "", self.text, indent = 2 * depth)?;
        if !self.because.is_empty() {
            write!(f, "  ({})", self.because)?;
        }
        for part in &self.parts {
            writeln!(f)?;
            part.write(f, depth + 1)?;
        }
        Ok(())
    }
}

fn because(predicate: &Predicate, subject: &impl Subject) -> String {
    let Some(path) = predicate.path() else {
        return match subject.classes() {
            Lookup::Found(classes) if classes.is_empty() => "the node has no classes".to_owned(),
            Lookup::Found(classes) => format!("the classes are {}", list(&classes)),
            Lookup::Missing | Lookup::Unknown => "the classes are not known here".to_owned(),
        };
    };
    let name = path.to_string();
    match subject.fact(path) {
        Lookup::Unknown => format!("{name} is not known here"),
        Lookup::Missing if matches!(&*name, "identity" | "sender" | "node") => {
            format!("{name} is missing; there is no identity predicate, and this is an ordinary fact path")
        }
        Lookup::Missing => format!("{name} is missing"),
        Lookup::Found(values) if values.is_empty() => {
            format!("{name} is present, without a value of its own")
        }
        Lookup::Found(values) => {
            let also = if compares_text_by_order(predicate, &values) {
                "; an order comparison of text is always false"
            } else {
                ""
            };
            format!("{name} is {}{also}", list(&values))
        }
    }
}

fn compares_text_by_order(predicate: &Predicate, values: &[ScalarRef<'_>]) -> bool {
    let Predicate::Compare(_, op, literal) = predicate else {
        return false;
    };
    op.is_order() && values.iter().any(|value| matches!(literal.compare(*value), Comparison::Unordered(_)))
}

fn list(values: &[ScalarRef<'_>]) -> String {
    let shown: Vec<String> = values.iter().take(SHOWN_VALUES).map(show).collect();
    let more = match values.len().saturating_sub(SHOWN_VALUES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

/// Texts in quotes and with control characters escaped, so that what a node sent cannot move a cursor.
fn show(value: &ScalarRef<'_>) -> String {
    match value {
        ScalarRef::Text(text) if text.chars().count() > SHOWN_CHARS => {
            format!("{:?}…", text.chars().take(SHOWN_CHARS).collect::<String>())
        }
        ScalarRef::Text(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}
