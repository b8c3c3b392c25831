//! How is a filter written? The canonical text, which parses to the same filter.

use std::fmt;

use super::{Expr, Filter, Pattern, Predicate};

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr().fmt(f)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

/// Parentheses only where the meaning needs them: `or` inside `and`, and either inside `not`.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::And(parts) => join(f, parts, " and ", |part| matches!(part, Expr::Or(_))),
            Expr::Or(parts) => join(f, parts, " or ", |_| false),
            Expr::Not(inner) => {
                f.write_str("not ")?;
                part(f, inner, matches!(**inner, Expr::And(_) | Expr::Or(_)))
            }
            Expr::Predicate(predicate) => predicate.fmt(f),
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tilde = |negated: bool| if negated { "!~" } else { "~" };
        match self {
            Predicate::Has(path) => write!(f, "has {path}"),
            Predicate::Compare(path, op, value) => write!(f, "{path} {op} {value}"),
            Predicate::In(path, values) => {
                write!(f, "{path} in (")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            Predicate::Match { path, negated, pattern } => write!(f, "{path} {} {pattern}", tilde(*negated)),
            Predicate::Class { negated, name } => {
                write!(f, "class {} {name}", if *negated { "!=" } else { "=" })
            }
            Predicate::ClassMatch { negated, pattern } => {
                write!(f, "class {} {pattern}", tilde(*negated))
            }
        }
    }
}

/// Between slashes, with the slashes inside escaped.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.regex().as_str().replace('/', "\\/"))
    }
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Expr], word: &str, parenthesize: impl Fn(&Expr) -> bool) -> fmt::Result {
    for (index, expr) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(word)?;
        }
        part(f, expr, parenthesize(expr))?;
    }
    Ok(())
}

fn part(f: &mut fmt::Formatter<'_>, expr: &Expr, parenthesize: bool) -> fmt::Result {
    if parenthesize { write!(f, "({expr})") } else { write!(f, "{expr}") }
}
