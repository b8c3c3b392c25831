//! What do `-F`, `-C` and `-W`, the command line's MCollective spellings, mean as filters?

use super::pattern::compile_alone;
use super::{Expr, Filter, FilterError, Literal, Op, Predicate};
use crate::facts::Path;

/// Spellings of operators, longest first: MCollective's beside our own. `~` compiles the value.
const OPERATORS: [(&str, Sign); 12] = [
    ("=>", Sign::Op(Op::GreaterOrEqual)),
    ("=<", Sign::Op(Op::LessOrEqual)),
    ("<=", Sign::Op(Op::LessOrEqual)),
    (">=", Sign::Op(Op::GreaterOrEqual)),
    ("!=", Sign::Op(Op::NotEqual)),
    ("==", Sign::Op(Op::Equal)),
    ("=~", Sign::Match { negated: false }),
    ("!~", Sign::Match { negated: true }),
    ("=", Sign::Op(Op::Equal)),
    ("<", Sign::Op(Op::Less)),
    (">", Sign::Op(Op::Greater)),
    ("~", Sign::Match { negated: false }),
];

#[derive(Debug, Clone, Copy)]
enum Sign {
    Op(Op),
    Match { negated: bool },
}

/// `-F`: one fact, `datacenter=a`, `cpu.count>=8`, `os=/deb/`. The value is the rest of the text, blanks included,
/// and needs no quotes; between slashes it is a regular expression. Columns count in this argument.
pub fn fact(text: &str) -> Result<Filter, FilterError> {
    let (path, used) = Path::scan(text).map_err(|error| {
        let hint = "for example: -F datacenter=a, -F 'cpu.count>=8', -F os=/deb/";
        FilterError { column: error.column, message: error.message, hint: Some(hint.into()) }
    })?;
    let rest = text[used..].trim_start();
    let Some((token, sign)) = OPERATORS.iter().find(|(token, _)| rest.starts_with(token)) else {
        let message = format!("an operator is expected after `{path}`");
        let hint = format!("for a class write -C {path}, for a fact -F {path}=value");
        return Err(FilterError { column: column(text, rest), message, hint: Some(hint) });
    };
    let value = rest[token.len()..].trim();
    if value.is_empty() {
        let message = "a value is missing at the end".to_owned();
        return Err(FilterError { column: text.chars().count() + 1, message, hint: None });
    }
    refuse_control(text)?;
    let start = column(text, value);
    let predicate = match (*sign, between_slashes(value)) {
        (Sign::Match { negated }, inner) => {
            Predicate::Match { path, negated, pattern: compile(inner.unwrap_or(value), start, inner.is_some())? }
        }
        (Sign::Op(op @ (Op::Equal | Op::NotEqual)), Some(inner)) => {
            Predicate::Match { path, negated: op == Op::NotEqual, pattern: compile(inner, start, true)? }
        }
        (Sign::Op(op), Some(_)) => {
            let message = format!("a regular expression cannot be compared with `{op}`");
            return Err(FilterError { column: start, message, hint: None });
        }
        (Sign::Op(op), None) => Predicate::Compare(path, op, Literal::new(value)),
    };
    Ok(Filter::from_expr(Expr::Predicate(predicate)))
}

/// `-C`: one class, `webserver` or `/web/`.
pub fn class(text: &str) -> Result<Filter, FilterError> {
    let value = text.trim();
    if value.is_empty() {
        return Err(FilterError { column: 1, message: "a class is expected".into(), hint: None });
    }
    refuse_control(text)?;
    let predicate = match between_slashes(value) {
        Some(inner) => Predicate::ClassMatch { negated: false, pattern: compile(inner, column(text, value), true)? },
        None => Predicate::Class { negated: false, name: Literal::new(value) },
    };
    Ok(Filter::from_expr(Expr::Predicate(predicate)))
}

/// `-W`: facts and classes separated by blanks, all of which must hold: `datacenter=a /web/`.
/// A word with an operator outside slashes is a fact, any other a class.
pub fn with(text: &str) -> Result<Filter, FilterError> {
    let mut filters = Vec::new();
    for word in text.split_whitespace() {
        let is_fact = !word.starts_with('/') && word.contains(['=', '<', '>', '~']);
        let filter = if is_fact { fact(word) } else { class(word) };
        filters.push(filter.map_err(|error| FilterError { column: column(text, word) - 1 + error.column, ..error })?);
    }
    if filters.is_empty() {
        return Err(FilterError { column: 1, message: "facts or classes are expected".into(), hint: None });
    }
    conjunction(filters)
}

/// All filters of a command line, `-w` included, as one that any parser accepts; `None` if there are none.
pub fn all(filters: impl IntoIterator<Item = Filter>) -> Result<Option<Filter>, FilterError> {
    let filters: Vec<Filter> = filters.into_iter().collect();
    if filters.is_empty() { Ok(None) } else { conjunction(filters).map(Some) }
}

/// Parsed again from its text, so that every limit of the language holds for the whole.
fn conjunction(filters: Vec<Filter>) -> Result<Filter, FilterError> {
    let expr = Expr::all(filters.iter().map(|filter| filter.expr().clone()));
    Filter::parse(&expr.to_string())
}

fn between_slashes(value: &str) -> Option<&str> {
    value.strip_prefix('/')?.strip_suffix('/')
}

fn compile(text: &str, start: usize, slashes: bool) -> Result<super::Pattern, FilterError> {
    compile_alone(text)
        .map_err(|error| FilterError { column: start + usize::from(slashes) + error.column - 1, ..error })
}

/// The language has none in its values, and the filter must print as text that parses.
fn refuse_control(text: &str) -> Result<(), FilterError> {
    match text.chars().position(char::is_control) {
        Some(at) => {
            let message = "control characters are not allowed".to_owned();
            Err(FilterError { column: at + 1, message, hint: None })
        }
        None => Ok(()),
    }
}

/// The column where `part`, a slice of `text`, begins.
fn column(text: &str, part: &str) -> usize {
    let at = part.as_ptr() as usize - text.as_ptr() as usize;
    text[..at].chars().count() + 1
}
