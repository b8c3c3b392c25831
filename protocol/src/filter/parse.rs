//! What does a filter's text say, and where is the mistake if it says nothing?
//!
//! Recursive descent by hand: each error carries a column and a hint, and depth is counted, not trusted.

use super::compare::is_bare_value;
use super::error::FilterError;
use super::pattern::compile;
use super::{Expr, Filter, Literal, MAX_BYTES, MAX_DEPTH, MAX_PREDICATES, MAX_REGEXES, Op, Pattern, Predicate};
use crate::facts::{KEYWORDS, Path, scan_quoted};

pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0, predicates: 0, regexes: 0 };
    if text.len() > MAX_BYTES {
        let end = (0..=MAX_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        return Err(parser.error_at(end, format!("a filter has at most {MAX_BYTES} bytes")));
    }
    parser.skip_space();
    if parser.rest().is_empty() {
        return Err(parser.error("the filter is empty").hint("to address every node, say so with --all"));
    }
    let expr = parser.expr()?;
    parser.end()?;
    let filter = Filter::from_expr(expr);
    if filter.to_string().len() > MAX_BYTES {
        let message = format!("in its canonical form the filter has more than {MAX_BYTES} bytes");
        return Err(parser.error(message));
    }
    Ok(filter)
}

struct Parser<'t> {
    text: &'t str,
    /// Bytes consumed.
    at: usize,
    depth: usize,
    predicates: usize,
    regexes: usize,
}

impl<'t> Parser<'t> {
    fn expr(&mut self) -> Result<Expr, FilterError> {
        let mut terms = vec![self.term()?];
        while self.keyword("or") {
            terms.push(self.term()?);
        }
        Ok(Expr::any(terms))
    }

    fn term(&mut self) -> Result<Expr, FilterError> {
        let mut factors = vec![self.factor()?];
        while self.keyword("and") {
            factors.push(self.factor()?);
        }
        Ok(Expr::all(factors))
    }

    fn factor(&mut self) -> Result<Expr, FilterError> {
        self.skip_space();
        let start = self.at;
        if self.keyword("not") {
            let inner = self.nested(start, Parser::factor)?;
            return Ok(Expr::Not(Box::new(inner)));
        }
        if self.take("(") {
            let inner = self.nested(start, Parser::expr)?;
            self.skip_space();
            if !self.take(")") {
                self.end_of_factor()?;
                return Err(self
                    .error("`)` is missing")
                    .hint(format!("it closes the `(` in column {}", self.column(start))));
            }
            return Ok(inner);
        }
        self.predicate(start).map(Expr::Predicate)
    }

    fn nested(&mut self, start: usize, parse: fn(&mut Self) -> Result<Expr, FilterError>) -> Result<Expr, FilterError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error_at(start, format!("a filter is nested at most {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let inner = parse(self);
        self.depth -= 1;
        inner
    }

    fn predicate(&mut self, start: usize) -> Result<Predicate, FilterError> {
        self.count_predicate(start)?;
        if self.keyword("has") {
            self.skip_space();
            return Ok(Predicate::Has(self.path()?));
        }
        if self.keyword("class") {
            return self.class_predicate();
        }
        let path = self.path()?;
        self.skip_space();
        if self.keyword("in") {
            return self.in_predicate(path);
        }
        let op_at = self.at;
        let op = self.operator(&path)?;
        let (value_at, value) = self.value()?;
        Ok(match (op, value) {
            (Operator::Match { negated }, value) => {
                Predicate::Match { path, negated, pattern: self.compile_value(value_at, value)? }
            }
            (Operator::Compare(op @ (Op::Equal | Op::NotEqual)), value @ ValueText::Regex(..)) => {
                let pattern = self.compile_value(value_at, value)?;
                Predicate::Match { path, negated: op == Op::NotEqual, pattern }
            }
            (Operator::Compare(op), ValueText::Regex(..)) => {
                return Err(self
                    .error_at(op_at, format!("a regular expression cannot be compared with `{op}`"))
                    .hint("use `~` or `!~`"));
            }
            (Operator::Compare(op), ValueText::Plain(text, _)) => Predicate::Compare(path, op, Literal::new(text)),
        })
    }

    fn class_predicate(&mut self) -> Result<Predicate, FilterError> {
        self.skip_space();
        let op_at = self.at;
        if self.keyword("in") {
            return Err(self.error_at(op_at, "`in` does not apply to classes").hint("write: class = a or class = b"));
        }
        let op = self.operator_after("`class`")?;
        if let Operator::Compare(op) = op
            && op.is_order()
        {
            let hint = "classes know `=`, `!=`, `~` and `!~`; a fact of that name is written \"class\", in quotes";
            return Err(self.error_at(op_at, format!("`{op}` does not apply to classes")).hint(hint));
        }
        let (value_at, value) = self.value()?;
        Ok(match (op, value) {
            (Operator::Compare(op), ValueText::Plain(text, _)) => {
                Predicate::Class { negated: op == Op::NotEqual, name: Literal::new(text) }
            }
            (op, value) => Predicate::ClassMatch {
                negated: matches!(op, Operator::Match { negated: true } | Operator::Compare(Op::NotEqual)),
                pattern: self.compile_value(value_at, value)?,
            },
        })
    }

    fn in_predicate(&mut self, path: Path) -> Result<Predicate, FilterError> {
        self.skip_space();
        if !self.take("(") {
            return Err(self.error("`(` is expected after `in`").hint(format!("write: {path} in (a, b)")));
        }
        let mut values = Vec::new();
        loop {
            self.skip_space();
            if !values.is_empty() {
                self.count_predicate(self.at)?;
            }
            match self.value()? {
                (_, ValueText::Plain(text, _)) => values.push(Literal::new(text)),
                (at, ValueText::Regex(..)) => {
                    let hint = format!("write: {path} ~ /a/ or {path} ~ /b/");
                    return Err(self.error_at(at, "`in` takes no regular expressions").hint(hint));
                }
            }
            self.skip_space();
            if self.take(")") {
                return Ok(Predicate::In(path, values));
            }
            if !self.take(",") {
                return Err(self.error("`,` or `)` is expected here"));
            }
        }
    }

    fn path(&mut self) -> Result<Path, FilterError> {
        let start = self.at;
        let word = self.peek_word();
        if KEYWORDS.contains(&word) {
            let hint = format!("a fact of that name is written \"{word}\", in quotes");
            return Err(self.error(format!("`{word}` cannot stand here")).hint(hint));
        }
        let (path, used) = match Path::scan(self.rest()) {
            Ok(scanned) => scanned,
            Err(error) => {
                let found = self.error_at(start + error.offset, error.message);
                return Err(self.with_path_hint(found, start + error.offset));
            }
        };
        self.at += used;
        Ok(path)
    }

    fn with_path_hint(&self, error: FilterError, at: usize) -> FilterError {
        let rest = &self.text[at..];
        match rest.chars().next() {
            Some('!') => error.hint("negation is written `not`"),
            Some('&' | '|') => error.hint("the words are `and` and `or`"),
            Some('*') => error.hint("facts have no wildcards; values can be matched with `~ /regex/`"),
            Some(')') => error.hint("a predicate is missing before it"),
            Some('/') => error.hint("a name with other characters is quoted: mountpoints.\"/var\".size"),
            Some(_) if at > 0 => error,
            _ => error.hint("for example: datacenter = a and class ~ webserver"),
        }
    }

    fn operator(&mut self, path: &Path) -> Result<Operator, FilterError> {
        let name = path.to_string();
        self.operator_after(&format!("`{name}`")).map_err(|error| match &*name {
            _ if error.hint.is_some() => error,
            "AND" | "OR" | "NOT" | "IN" | "HAS" | "CLASS" => {
                error.hint(format!("keywords are lower-case: `{}`", name.to_lowercase()))
            }
            "identity" | "hostname" | "host" | "node" => {
                error.hint("there is no identity predicate; nodes are addressed by what they are")
            }
            _ => {
                error.hint(format!("to ask whether the fact is there, write: has {name}; for a class: class = {name}"))
            }
        })
    }

    fn operator_after(&mut self, what: &str) -> Result<Operator, FilterError> {
        self.skip_space();
        let rest = self.rest();
        // What other languages write, MCollective among them.
        for (wrong, right) in [
            ("==", "="),
            ("=~", "~"),
            ("=>", ">="),
            ("=<", "<="),
            ("<>", "!="),
            ("!==", "!="),
            ("~~", "~"),
            ("=!", "!="),
        ] {
            if rest.starts_with(wrong) {
                return Err(self.error(format!("`{wrong}` is no operator")).hint(format!("write `{right}`")));
            }
        }
        let table = [
            ("!=", Operator::Compare(Op::NotEqual)),
            ("!~", Operator::Match { negated: true }),
            ("<=", Operator::Compare(Op::LessOrEqual)),
            (">=", Operator::Compare(Op::GreaterOrEqual)),
            ("=", Operator::Compare(Op::Equal)),
            ("<", Operator::Compare(Op::Less)),
            (">", Operator::Compare(Op::Greater)),
            ("~", Operator::Match { negated: false }),
        ];
        for (text, operator) in table {
            if self.take(text) {
                return Ok(operator);
            }
        }
        let next = self.peek_word();
        let error = self.error(format!("an operator is expected after {what}"));
        Err(match next {
            "is" | "eq" | "like" | "matches" | "contains" | "not" => {
                error.hint("the operators are = != < <= > >= ~ !~ and `in (…)`")
            }
            "IN" => error.hint("keywords are lower-case: `in`"),
            _ => error,
        })
    }

    /// A value and where it begins, in bytes.
    fn value(&mut self) -> Result<(usize, ValueText), FilterError> {
        self.skip_space();
        let start = self.at;
        let rest = self.rest();
        let value = if rest.starts_with('/') {
            self.regex_text()?
        } else if rest.starts_with(['"', '\'']) {
            let (content, used) = scan_quoted(rest).map_err(|(at, message)| self.error_at(start + at, message))?;
            self.at += used;
            ValueText::Plain(content, start + 1)
        } else {
            let word = self.peek_word().to_owned();
            if word.is_empty() {
                return Err(self.missing_value());
            }
            self.at += word.len();
            ValueText::Plain(word, start)
        };
        Ok((start, value))
    }

    fn missing_value(&self) -> FilterError {
        match self.rest().chars().next() {
            None => self.error("a value is missing at the end"),
            Some(c @ ('*' | '?' | '$' | '^' | '[' | '(')) => self
                .error(format!("a value cannot begin with `{c}`"))
                .hint("put a text in quotes, a regular expression between slashes"),
            Some(c) => self.error(format!("a value is expected, not `{}`", c.escape_debug())).hint("put it in quotes"),
        }
    }

    /// `/…/`, in which `\/` is a slash. Every other pair with a backslash belongs to the regular expression.
    fn regex_text(&mut self) -> Result<ValueText, FilterError> {
        let start = self.at;
        let (mut text, mut columns) = (String::new(), Vec::new());
        let first = self.column(start) + 1;
        let mut escaped = false;
        for (column, (at, c)) in (first..).zip(self.text[start + 1..].char_indices()) {
            if c.is_control() {
                return Err(self.error_at(start + 1 + at, "control characters are not allowed"));
            }
            if c == '/' && !escaped {
                columns.push(column);
                self.at = start + 1 + at + 1;
                return Ok(ValueText::Regex(text, columns));
            }
            if c == '/' {
                text.pop();
                columns.pop();
            }
            text.push(c);
            columns.push(column);
            escaped = c == '\\' && !escaped;
        }
        Err(self
            .error_at(start, "the regular expression is not closed")
            .hint("it ends with a slash; a slash inside is written \\/"))
    }

    fn compile_value(&mut self, at: usize, value: ValueText) -> Result<Pattern, FilterError> {
        self.regexes += 1;
        if self.regexes > MAX_REGEXES {
            return Err(self.error_at(at, format!("a filter has at most {MAX_REGEXES} regular expressions")));
        }
        let (text, columns) = match value {
            ValueText::Regex(text, columns) => (text, columns),
            ValueText::Plain(text, content_at) => {
                let first = self.column(content_at);
                let columns = (first..=first + text.chars().count()).collect();
                (text, columns)
            }
        };
        compile(&text, &columns)
    }

    fn count_predicate(&mut self, at: usize) -> Result<(), FilterError> {
        self.predicates += 1;
        if self.predicates > MAX_PREDICATES {
            let message = format!("a filter has at most {MAX_PREDICATES} predicates, each value of an `in` counted");
            return Err(self.error_at(at, message));
        }
        Ok(())
    }

    /// Everything has been read, or an error that guesses why not.
    fn end(&mut self) -> Result<(), FilterError> {
        self.end_of_factor()?;
        match self.rest().chars().next() {
            None => Ok(()),
            Some(')') => Err(self.error("this `)` closes nothing")),
            Some(_) => Err(self.error("`and` or `or` is expected here")),
        }
    }

    /// Names what people write for `and` and `or`.
    fn end_of_factor(&mut self) -> Result<(), FilterError> {
        self.skip_space();
        let rest = self.rest();
        let hint = match self.peek_word() {
            "AND" | "OR" | "IN" | "NOT" => "keywords are lower-case: and, or, not, in, has, class",
            _ if rest.starts_with('&') => "write `and`",
            _ if rest.starts_with('|') => "write `or`",
            _ if rest.starts_with(['/', '\\', '*', '$', '?', '#', '^', '~']) => {
                "a value with other characters than letters, digits and _.:@%+- is put in quotes"
            }
            _ if rest.is_empty() || rest.starts_with(')') => return Ok(()),
            _ => "predicates are joined by `and` and `or`; a value with blanks is put in quotes",
        };
        Err(self.error("`and` or `or` is expected here").hint(hint))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn peek_word(&self) -> &'t str {
        let rest = self.rest();
        &rest[..rest.find(|c| !is_bare_value(c)).unwrap_or(rest.len())]
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.skip_space();
        let found = self.peek_word() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn column(&self, at: usize) -> usize {
        self.text[..at].chars().count() + 1
    }

    fn error(&self, message: impl Into<String>) -> FilterError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: impl Into<String>) -> FilterError {
        FilterError { column: self.column(at), message: message.into(), hint: None }
    }
}

#[derive(Debug, Clone, Copy)]
enum Operator {
    Compare(Op),
    Match { negated: bool },
}

/// A value before it is known whether it is compared or compiled.
enum ValueText {
    /// The text, and the byte where it begins in the filter.
    Plain(String, usize),
    /// The text, and the column of each of its characters and of the end.
    Regex(String, Vec<usize>),
}
