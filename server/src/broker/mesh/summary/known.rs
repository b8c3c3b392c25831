//! What is known of the nodes of one broker, and what follows from it for a filter?

use super::{path_bytes, words_bytes};
use muster_protocol::facts::{Path, ScalarRef};
use muster_protocol::filter::{Filter, Literal, Lookup, Predicate, Subject, Ternary};
use muster_protocol::link::{PathSummary, Summary, Words};
use muster_protocol::message::BrokerName;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// Most paths of a record from a link; our own have half as many.
const MAX_PATHS: usize = 4096;
/// Most bytes of a record, estimated as our own are, which have a quarter of it.
const MAX_BYTES: usize = 1024 * 1024;

/// A summary, to ask.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) nodes: u64,
    pub(super) restless: bool,
    pub(super) others: bool,
    pub(super) paths: HashMap<Path, PathSummary>,
    pub(super) classes: Words,
    pub(super) modules: Words,
}

/// It has no meaning, or there is too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad;

impl Known {
    fn nothing() -> Known {
        Known {
            nodes: 0,
            restless: false,
            others: false,
            paths: HashMap::new(),
            classes: Words::Many,
            modules: Words::Many,
        }
    }

    /// Reads a whole record.
    pub(super) fn read(record: &Summary) -> Result<Known, Bad> {
        let mut known = Known::nothing();
        known.apply(record)?;
        Ok(known)
    }

    /// Applies a delta; a bad one changes nothing.
    pub(super) fn apply(&mut self, record: &Summary) -> Result<(), Bad> {
        if record.paths.len() > MAX_PATHS {
            return Err(Bad);
        }
        let mut changes = HashMap::with_capacity(record.paths.len());
        for (text, change) in &record.paths {
            let path = Path::parse(text).map_err(|_| Bad)?;
            if change.as_ref().is_some_and(|known| !has_meaning(known)) {
                return Err(Bad);
            }
            changes.insert(path, change.as_ref());
        }
        let classes = record.classes.as_ref().unwrap_or(&self.classes);
        let modules = record.modules.as_ref().unwrap_or(&self.modules);
        let kept = self.paths.iter().filter(|(path, _)| !changes.contains_key(*path));
        let new = changes.iter().filter_map(|(path, change)| Some((path, (*change)?)));
        let (mut count, mut bytes) = (0, words_bytes(classes) + words_bytes(modules));
        for (path, known) in kept.chain(new) {
            count += 1;
            bytes += path_bytes(&path.to_string(), known);
        }
        if count > MAX_PATHS || bytes > MAX_BYTES {
            return Err(Bad);
        }
        (self.classes, self.modules) = (classes.clone(), modules.clone());
        (self.nodes, self.restless, self.others) = (record.nodes, record.restless, record.others);
        for (path, change) in changes {
            match change {
                Some(known) => self.paths.insert(path, known.clone()),
                None => self.paths.remove(&path),
            };
        }
        Ok(())
    }

    /// The whole as a record, without instance, sequence and base.
    pub(super) fn to_record(&self, origin: &BrokerName) -> Summary {
        let paths = self.paths.iter().map(|(path, known)| (path.to_string(), Some(known.clone()))).collect();
        self.record(origin, paths, Some(&self.classes), Some(&self.modules))
    }

    /// What turns `before` into this, as a record without instance, sequence and base; `None` if nothing need.
    pub(super) fn since(&self, before: &Known, origin: &BrokerName) -> Option<Summary> {
        if self == before {
            return None;
        }
        let gone = before.paths.keys().filter(|path| !self.paths.contains_key(*path)).map(|path| (path, None));
        let changed = self.paths.iter().filter(|(path, known)| before.paths.get(*path) != Some(*known));
        let changed = changed.map(|(path, known)| (path, Some(known.clone())));
        let paths = gone.chain(changed).map(|(path, change)| (path.to_string(), change)).collect();
        let classes = Some(&self.classes).filter(|classes| **classes != before.classes);
        let modules = Some(&self.modules).filter(|modules| **modules != before.modules);
        Some(self.record(origin, paths, classes, modules))
    }

    fn record(
        &self,
        origin: &BrokerName,
        paths: BTreeMap<String, Option<PathSummary>>,
        classes: Option<&Words>,
        modules: Option<&Words>,
    ) -> Summary {
        Summary {
            origin: origin.clone(),
            instance: 0,
            sequence: 0,
            base: None,
            nodes: self.nodes,
            restless: self.restless,
            paths,
            others: self.others,
            classes: classes.cloned(),
            modules: modules.cloned(),
        }
    }

    /// `Yes` if all nodes match, `No` if none does.
    pub(super) fn decide(&self, target: Option<&Filter>, module: Option<&str>) -> Ternary {
        if self.nodes == 0 {
            return Ternary::No;
        }
        let module = module.map_or(Ternary::Yes, |module| match &self.modules {
            Words::These(modules) if !modules.contains(module) => Ternary::No,
            // That some announce it does not mean that all do.
            Words::These(_) | Words::Many => Ternary::Unknown,
        });
        match target {
            Some(filter) if module != Ternary::No => module.and(filter.evaluate(self)),
            _ => module,
        }
    }

    fn of_path(&self, predicate: &Predicate, path: &Path) -> Ternary {
        let Some(known) = self.paths.get(path) else {
            // Where a path is missing everywhere, every predicate on it is false.
            return if self.others { Ternary::Unknown } else { Ternary::No };
        };
        if matches!(predicate, Predicate::Has(_)) {
            return if known.lacking { Ternary::Unknown } else { Ternary::Yes };
        }
        let hits = match &known.values {
            Some(values) => hits_of(predicate, values.iter().filter_map(ScalarRef::from_json)),
            None => hits_within(predicate, known),
        };
        conclude(predicate, hits, known.lacking, known.bare)
    }
}

/// `Yes` means that all nodes satisfy the predicate, `No` that none does.
impl Subject for Known {
    fn fact(&self, _path: &Path) -> Lookup<'_> {
        Lookup::Unknown
    }

    fn classes(&self) -> Lookup<'_> {
        Lookup::Unknown
    }

    fn decide(&self, predicate: &Predicate) -> Ternary {
        match (predicate.path(), &self.classes) {
            (Some(path), _) => self.of_path(predicate, path),
            // Any node may be without a class; then its set of classes is empty, but not missing.
            (None, Words::These(classes)) => {
                let hits = hits_of(predicate, classes.iter().map(|class| ScalarRef::Text(class)));
                conclude(predicate, hits, false, true)
            }
            (None, Words::Many) => Ternary::Unknown,
        }
    }
}

/// Which of the values that occur a predicate hits, `!=` taken as `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hits {
    /// None of them; also where there are none.
    None,
    All,
    Perhaps,
}

/// What the hits mean for the nodes: some may lack the path, some may have it without a value.
fn conclude(predicate: &Predicate, hits: Hits, lacking: bool, bare: bool) -> Ternary {
    match (predicate.is_negated(), hits) {
        (false, Hits::None) => Ternary::No,
        (false, Hits::All) if !lacking && !bare => Ternary::Yes,
        // Present, and no value is hit.
        (true, Hits::None) if !lacking => Ternary::Yes,
        // Each has a value that is hit, or lacks the path.
        (true, Hits::All) if !bare => Ternary::No,
        _ => Ternary::Unknown,
    }
}

fn hits_of<'a>(predicate: &Predicate, values: impl Iterator<Item = ScalarRef<'a>>) -> Hits {
    let (mut hit, mut missed) = (false, false);
    for value in values {
        if predicate.hits(value) {
            hit = true
        } else {
            missed = true
        }
        if hit && missed {
            return Hits::Perhaps;
        }
    }
    if hit { Hits::All } else { Hits::None }
}

/// The same where only the least and the greatest number are known.
fn hits_within(predicate: &Predicate, known: &PathSummary) -> Hits {
    let span = known.minimum.as_ref().zip(known.maximum.as_ref());
    let span = span.and_then(|(least, greatest)| Some((number(least)?, number(greatest)?)));
    let Some((least, greatest)) = span.filter(|_| !known.texts) else { return Hits::Perhaps };
    match predicate {
        // Both hold for what lies between them as well, or for nothing there.
        Predicate::Compare(_, op, _) if op.is_order() => hits_of(predicate, [least, greatest].into_iter()),
        Predicate::Compare(_, _, literal) => hits_equal([literal].into_iter(), least, greatest),
        Predicate::In(_, literals) => hits_equal(literals.iter(), least, greatest),
        _ => Hits::Perhaps,
    }
}

fn hits_equal<'a>(literals: impl Iterator<Item = &'a Literal>, least: ScalarRef<'_>, greatest: ScalarRef<'_>) -> Hits {
    let mut hits = Hits::None;
    // A number equals no literal that is none.
    for number in literals.filter_map(|literal| literal.number()).map(ScalarRef::Number) {
        if number == least && number == greatest {
            return Hits::All;
        }
        if least <= number && number <= greatest {
            hits = Hits::Perhaps;
        }
    }
    hits
}

fn number(value: &Value) -> Option<ScalarRef<'_>> {
    ScalarRef::from_json(value).filter(|value| matches!(value, ScalarRef::Number(_)))
}

/// Values are scalars, the least number is a number and not above the greatest.
fn has_meaning(known: &PathSummary) -> bool {
    let values = known.values.iter().flatten().all(|value| ScalarRef::from_json(value).is_some());
    let span = match (&known.minimum, &known.maximum) {
        (None, None) => true,
        (Some(least), Some(greatest)) => {
            number(least).zip(number(greatest)).is_some_and(|(least, greatest)| least <= greatest)
        }
        _ => false,
    };
    values && span
}
