//! Which nodes does an operator mean? The filter language: its meaning, in three-valued logic.

pub mod examples;
pub mod shorthand;

mod compare;
mod error;
mod explain;
mod parse;
mod pattern;
mod print;

use std::collections::BTreeSet;
use std::ops::Not;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::facts::{Path, PathPattern, ScalarRef};

pub use compare::{Comparison, Literal, Op, Version, normal_form};
pub use error::FilterError;
pub use explain::Explanation;
pub use pattern::Pattern;

/// Longest text of a filter, as typed and in its canonical form, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;
/// Deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 64;
/// Most predicates; each value of an `in` counts as one.
pub const MAX_PREDICATES: usize = 256;
/// Most regular expressions.
pub const MAX_REGEXES: usize = 16;

/// A parsed filter with its regular expressions compiled. Cheap to clone; equal if the canonical texts are.
///
/// `Display` is the canonical text, which parses to an equal filter.
#[derive(Clone)]
pub struct Filter(Arc<Expr>);

/// A filter as a tree. `And` and `Or` hold at least two parts, none of their own kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// All of the parts.
    And(Vec<Expr>),
    /// At least one of the parts.
    Or(Vec<Expr>),
    /// Plain negation: also true where the fact is missing.
    Not(Box<Expr>),
    /// One question.
    Predicate(Predicate),
}

/// One question about one fact, or about the classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// `has os.family`
    Has(Path),
    /// `cpu.count >= 8`
    Compare(Path, Op, Literal),
    /// `datacenter in (a, b)`
    In(Path, Vec<Literal>),
    /// `os.name ~ /deb/`; `negated` is `!~`.
    Match {
        /// The fact.
        path: Path,
        /// True for `!~`.
        negated: bool,
        /// The regular expression.
        pattern: Pattern,
    },
    /// `class = webserver`; `negated` is `!=`.
    Class {
        /// True for `!=`.
        negated: bool,
        /// The class, compared as text.
        name: Literal,
    },
    /// `class ~ web`; `negated` is `!~`.
    ClassMatch {
        /// True for `!~`.
        negated: bool,
        /// The regular expression.
        pattern: Pattern,
    },
}

/// The outcome of a question that cannot always be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ternary {
    /// Certainly true.
    Yes,
    /// Certainly false.
    No,
    /// Not to be known here.
    Unknown,
}

impl Ternary {
    /// Kleene's and: `No` beats `Unknown` beats `Yes`.
    pub fn and(self, other: Ternary) -> Ternary {
        match (self, other) {
            (Ternary::No, _) | (_, Ternary::No) => Ternary::No,
            (Ternary::Yes, Ternary::Yes) => Ternary::Yes,
            _ => Ternary::Unknown,
        }
    }

    /// Kleene's or: `Yes` beats `Unknown` beats `No`.
    pub fn or(self, other: Ternary) -> Ternary {
        !(!self).and(!other)
    }
}

impl Not for Ternary {
    type Output = Ternary;
    fn not(self) -> Ternary {
        match self {
            Ternary::Yes => Ternary::No,
            Ternary::No => Ternary::Yes,
            Ternary::Unknown => Ternary::Unknown,
        }
    }
}

impl From<bool> for Ternary {
    fn from(known: bool) -> Ternary {
        if known { Ternary::Yes } else { Ternary::No }
    }
}

/// What is known at a fact path, or of the classes.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup<'a> {
    /// Certainly nothing.
    Missing,
    /// It cannot be known here.
    Unknown,
    /// It is present, with these values: none for an object or an empty list, several for a list.
    Found(Vec<ScalarRef<'a>>),
}

/// What a filter is asked about.
///
/// One node's document answers by looking up. What stands for many nodes (a summary in the mesh) overrides
/// [`Subject::decide`]: `Yes` means that all of them satisfy the predicate, `No` that none does.
pub trait Subject {
    /// What is known at a path.
    fn fact(&self, path: &Path) -> Lookup<'_>;

    /// The classes, as text values. A node without classes has `Found` of none, not `Missing`.
    fn classes(&self) -> Lookup<'_>;

    /// Answers one predicate.
    fn decide(&self, predicate: &Predicate) -> Ternary {
        predicate.decide(&match predicate.path() {
            Some(path) => self.fact(path),
            None => self.classes(),
        })
    }
}

/// One node's facts and classes.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    facts: &'a Value,
    classes: &'a BTreeSet<String>,
    unknown: &'a [PathPattern],
}

impl<'a> Document<'a> {
    /// A document of which all is known: a fact that is not there is missing.
    pub fn new(facts: &'a Value, classes: &'a BTreeSet<String>) -> Document<'a> {
        Document { facts, classes, unknown: &[] }
    }

    /// The same document where the paths that these patterns touch cannot be known: an agent has no `broker.name`,
    /// and cannot say that it is missing.
    pub fn with_unknown(self, unknown: &'a [PathPattern]) -> Document<'a> {
        Document { unknown, ..self }
    }
}

impl Subject for Document<'_> {
    fn fact(&self, path: &Path) -> Lookup<'_> {
        if self.unknown.iter().any(|pattern| pattern.touches(path)) {
            return Lookup::Unknown;
        }
        let names: Vec<&str> = path.segments().collect();
        let (mut present, mut values) = (false, Vec::new());
        collect(self.facts, &names, &mut present, &mut values);
        if present { Lookup::Found(values) } else { Lookup::Missing }
    }

    fn classes(&self) -> Lookup<'_> {
        Lookup::Found(self.classes.iter().map(|class| ScalarRef::Text(class)).collect())
    }
}

/// Follows names through objects and, on the way and at the end, through lists; as [`crate::facts::walk`] does.
fn collect<'a>(value: &'a Value, names: &[&str], present: &mut bool, values: &mut Vec<ScalarRef<'a>>) {
    match (names.split_first(), value) {
        (_, Value::Null) => {}
        (_, Value::Array(elements)) => {
            *present |= names.is_empty();
            for element in elements {
                collect(element, names, present, values);
            }
        }
        (Some((name, rest)), Value::Object(members)) => {
            if let Some(member) = members.get(*name) {
                collect(member, rest, present, values);
            }
        }
        (Some(_), _) => {}
        (None, leaf) => {
            *present = true;
            values.extend(ScalarRef::from_json(leaf));
        }
    }
}

impl Predicate {
    /// The fact that is asked about; `None` for the classes.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Predicate::Has(path) | Predicate::Compare(path, ..) | Predicate::In(path, _) => Some(path),
            Predicate::Match { path, .. } => Some(path),
            Predicate::Class { .. } | Predicate::ClassMatch { .. } => None,
        }
    }

    /// True for `!=` and `!~`, which hold where the path is present and [`Predicate::hits`] no value;
    /// the others hold where it hits one.
    pub fn is_negated(&self) -> bool {
        match self {
            Predicate::Compare(_, op, _) => *op == Op::NotEqual,
            Predicate::Match { negated, .. }
            | Predicate::Class { negated, .. }
            | Predicate::ClassMatch { negated, .. } => *negated,
            Predicate::Has(_) | Predicate::In(..) => false,
        }
    }

    /// The regular expression, if there is one.
    pub fn pattern(&self) -> Option<&Pattern> {
        match self {
            Predicate::Match { pattern, .. } | Predicate::ClassMatch { pattern, .. } => Some(pattern),
            _ => None,
        }
    }

    /// Whether one value satisfies the question, `!=` taken as `=` and `!~` as `~`: the one test that evaluator,
    /// index and summaries share. `has` hits every value.
    ///
    /// A regular expression sees numbers and booleans in their text form (`8`, `2.5`, `true`).
    pub fn hits(&self, value: ScalarRef<'_>) -> bool {
        match self {
            Predicate::Has(_) => true,
            Predicate::Compare(_, op, literal) => op_holds(*op, literal.compare(value)),
            Predicate::In(_, literals) => literals.iter().any(|literal| op_holds(Op::Equal, literal.compare(value))),
            Predicate::Match { pattern, .. } | Predicate::ClassMatch { pattern, .. } => match value {
                ScalarRef::Text(text) => pattern.regex().is_match(text),
                other => pattern.regex().is_match(&other.to_string()),
            },
            Predicate::Class { name, .. } => value == ScalarRef::Text(name.text()),
        }
    }

    /// Answers from what was found: missing makes every predicate false, `!=` included.
    pub fn decide(&self, found: &Lookup<'_>) -> Ternary {
        match found {
            Lookup::Unknown => Ternary::Unknown,
            Lookup::Missing => Ternary::No,
            Lookup::Found(_) if matches!(self, Predicate::Has(_)) => Ternary::Yes,
            Lookup::Found(values) => (values.iter().any(|value| self.hits(*value)) != self.is_negated()).into(),
        }
    }
}

/// `!=` counts as `=` here, see [`Predicate::is_negated`].
fn op_holds(op: Op, comparison: Comparison) -> bool {
    match comparison {
        Comparison::Unordered(equal) => equal && !op.is_order(),
        Comparison::Ordered(order) => match op {
            Op::Equal | Op::NotEqual => order.is_eq(),
            Op::Less => order.is_lt(),
            Op::LessOrEqual => order.is_le(),
            Op::Greater => order.is_gt(),
            Op::GreaterOrEqual => order.is_ge(),
        },
    }
}

impl Filter {
    /// Reads the filter language; the limits hold.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::parse(text)
    }

    /// Both filters. The limits are not checked again, so the text of a conjunction is for people and logs: what
    /// travels is each part by itself. Use [`shorthand::all`] where the result must be parsed elsewhere.
    pub fn and(&self, other: &Filter) -> Filter {
        Filter::from_expr(Expr::all([(*self.0).clone(), (*other.0).clone()]))
    }

    /// The tree.
    pub fn expr(&self) -> &Expr {
        &self.0
    }

    /// All predicates, from left to right.
    pub fn predicates(&self) -> impl Iterator<Item = &Predicate> {
        let mut all = Vec::new();
        self.0.collect_predicates(&mut all);
        all.into_iter()
    }

    /// The fact paths that the filter asks about, from left to right, with repetitions.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.predicates().filter_map(Predicate::path)
    }

    /// Whether the subject satisfies the filter.
    pub fn evaluate(&self, subject: &impl Subject) -> Ternary {
        self.0.evaluate(subject)
    }

    /// Whether a node with these facts and classes, all of them known, satisfies the filter.
    pub fn matches(&self, facts: &Value, classes: &BTreeSet<String>) -> bool {
        self.evaluate(&Document::new(facts, classes)) == Ternary::Yes
    }

    /// Why the subject satisfies the filter or not, predicate by predicate.
    pub fn explain(&self, subject: &impl Subject) -> Explanation {
        explain::explain(&self.0, subject)
    }

    pub(crate) fn from_expr(expr: Expr) -> Filter {
        Filter(Arc::new(expr))
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.0 == other.0
    }
}

impl Eq for Filter {}

impl Expr {
    /// The conjunction, flattened; one part stays as it is.
    pub(crate) fn all(parts: impl IntoIterator<Item = Expr>) -> Expr {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Expr::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Expr::And(flat) }
    }

    /// The disjunction, flattened; one part stays as it is.
    pub(crate) fn any(parts: impl IntoIterator<Item = Expr>) -> Expr {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Expr::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Expr::Or(flat) }
    }

    fn evaluate(&self, subject: &impl Subject) -> Ternary {
        match self {
            Expr::And(parts) => parts.iter().fold(Ternary::Yes, |so_far, part| match so_far {
                Ternary::No => so_far,
                _ => so_far.and(part.evaluate(subject)),
            }),
            Expr::Or(parts) => parts.iter().fold(Ternary::No, |so_far, part| match so_far {
                Ternary::Yes => so_far,
                _ => so_far.or(part.evaluate(subject)),
            }),
            Expr::Not(inner) => !inner.evaluate(subject),
            Expr::Predicate(predicate) => subject.decide(predicate),
        }
    }

    fn collect_predicates<'a>(&'a self, all: &mut Vec<&'a Predicate>) {
        match self {
            Expr::And(parts) | Expr::Or(parts) => parts.iter().for_each(|part| part.collect_predicates(all)),
            Expr::Not(inner) => inner.collect_predicates(all),
            Expr::Predicate(predicate) => all.push(predicate),
        }
    }
}

#[cfg(test)]
mod tests;
