//! Which rows have which value at one path?

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use muster_protocol::facts::{Number, Scalar, ScalarRef};
use muster_protocol::filter::{Literal, Op, Predicate, Version, normal_form};
use roaring::RoaringBitmap;

use super::rows::Rows;

/// Stands in a row's entries for a path that is present without a value of its own (an object, a list).
pub(super) const NO_VALUE: u32 = u32::MAX;

/// With more distinct versions than this an ordered map of them costs more memory than order comparisons are worth
/// (addresses, serial numbers); they scan the values then.
const MAX_VERSIONS: usize = 65_536;

/// Stands in [`Column::by_row`] for a row that has several values; its own entries tell which.
const SEVERAL: u32 = u32::MAX - 1;

/// A column gets its values by row when it has at least this many rows and more than this many distinct values;
/// below, uniting the sets is as fast. Tests use it at once.
const BY_ROW_FROM: (u64, usize) = if cfg!(test) { (2, 1) } else { (4096, 32) };

/// The values at one path, numbered within it.
#[derive(Debug, Default)]
pub(super) struct Column {
    /// Rows where the path is present.
    pub(super) present: RoaringBitmap,
    /// Rows that have none, or several values here: where there are none of these, every present row has exactly one
    /// value, and "all but the others" is a union's complement.
    pub(super) uneven: u64,
    /// Rows where the path is present without any value.
    pub(super) bare: u64,
    values: Vec<Option<(Scalar, Rows)>>,
    free: Vec<u32>,
    /// For each row its value's number, [`NO_VALUE`] or [`SEVERAL`], so that a predicate over the rows that are left reads
    /// memory in order. Only while the path is present in a quarter of the rows (an eighth, to leave): a path that
    /// few rows have must not cost what all rows would.
    by_row: Option<Vec<u32>>,
    /// Booleans, numbers in order, texts.
    ids: BTreeMap<Scalar, u32>,
    /// Texts that equal differently spelled ones, by the common spelling: `007`, `22.04`.
    respelled: BTreeSet<(Box<str>, u32)>,
    versions: Versions,
}

#[derive(Debug)]
enum Versions {
    Ordered(BTreeSet<(Version, u32)>),
    TooMany,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions::Ordered(BTreeSet::new())
    }
}

impl Column {
    /// How many distinct values there are.
    pub(super) fn distinct(&self) -> usize {
        self.ids.len()
    }

    /// One past the highest number of a value.
    pub(super) fn id_end(&self) -> usize {
        self.values.len()
    }

    /// The number of a value that some row has.
    pub(super) fn find(&self, value: &Scalar) -> Option<u32> {
        self.ids.get(value).copied()
    }

    /// A value by its number.
    pub(super) fn value(&self, id: u32) -> Option<&(Scalar, Rows)> {
        self.values.get(id as usize)?.as_ref()
    }

    /// All values that some row has, by number.
    pub(super) fn values(&self) -> impl Iterator<Item = &(Scalar, Rows)> {
        self.values.iter().flatten()
    }

    /// All values that some row has: booleans, numbers in order, texts.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Scalar> {
        self.ids.keys()
    }

    /// The least and the greatest number.
    pub(super) fn number_span(&self) -> Option<(&Scalar, &Scalar)> {
        let mut numbers =
            self.ids.range((Bound::Excluded(Scalar::Bool(true)), Bound::Excluded(text("")))).map(|(n, _)| n);
        let least = numbers.next()?;
        Some((least, numbers.next_back().unwrap_or(least)))
    }

    /// Whether some value is a boolean or a text.
    pub(super) fn has_other_than_numbers(&self) -> bool {
        let ends = [self.ids.first_key_value(), self.ids.last_key_value()];
        ends.into_iter().flatten().any(|(value, _)| !matches!(value, Scalar::Number(_)))
    }

    /// For each row its value's number; only where every present row has exactly one.
    pub(super) fn rows_in_order(&self) -> Option<&[u32]> {
        self.by_row.as_deref().filter(|_| self.uneven == 0)
    }

    /// Keeps the values by row, after a row's values have changed to these (sorted, [`NO_VALUE`] last).
    pub(super) fn note_row(&mut self, row: u32, ids: impl Iterator<Item = u32>, row_end: u32) {
        let (present, row_end) = (self.present.len(), u64::from(row_end));
        match &mut self.by_row {
            None if present >= BY_ROW_FROM.0 && self.ids.len() > BY_ROW_FROM.1 && 4 * present >= row_end => {
                self.by_row = Some(self.collect_by_row(row_end as usize));
            }
            Some(_) if 8 * present < row_end => self.by_row = None,
            Some(by_row) => {
                let mut ids = ids.filter(|id| *id != NO_VALUE);
                let value = match (ids.next(), ids.next()) {
                    (Some(id), None) => id,
                    (None, _) => NO_VALUE,
                    (Some(_), Some(_)) => SEVERAL,
                };
                if by_row.len() <= row as usize {
                    by_row.resize(row as usize + 1, NO_VALUE);
                }
                by_row[row as usize] = value;
            }
            None => {}
        }
    }

    fn collect_by_row(&self, row_end: usize) -> Vec<u32> {
        let mut by_row = vec![NO_VALUE; row_end];
        for (id, entry) in (0..).zip(&self.values) {
            let Some((_, rows)) = entry else { continue };
            rows.for_each(|row| {
                let slot = &mut by_row[row as usize];
                *slot = if *slot == NO_VALUE { id } else { SEVERAL };
            });
        }
        by_row
    }

    /// Notes that a row has a value, and gives the value's number.
    pub(super) fn insert(&mut self, value: ScalarRef<'_>, row: u32) -> u32 {
        let value = value.to_owned();
        if let Some(&id) = self.ids.get(&value) {
            if let Some(Some((_, rows))) = self.values.get_mut(id as usize) {
                rows.insert(row);
            }
            return id;
        }
        let entry = Some((value.clone(), Rows::One(row)));
        let id = match self.free.pop() {
            Some(id) => {
                self.values[id as usize] = entry;
                id
            }
            None => {
                self.values.push(entry);
                self.values.len() as u32 - 1
            }
        };
        self.note_text(&value, id);
        self.ids.insert(value, id);
        id
    }

    /// Notes that a row no longer has a value; the value goes with its last row.
    pub(super) fn remove(&mut self, id: u32, row: u32) {
        let Some(slot) = self.values.get_mut(id as usize) else {
            return;
        };
        if !slot.as_mut().is_some_and(|(_, rows)| rows.remove(row)) {
            return;
        }
        if let Some((value, _)) = slot.take() {
            self.ids.remove(&value);
            self.free.push(id);
            self.forget_text(&value, id);
        }
    }

    fn note_text(&mut self, value: &Scalar, id: u32) {
        let Scalar::Text(text) = value else { return };
        if let Some(normal) = normal_form(text)
            && normal != **text
        {
            self.respelled.insert((normal.into(), id));
        }
        if let Versions::Ordered(versions) = &mut self.versions
            && let Some(version) = Version::parse(text)
        {
            versions.insert((version, id));
            if versions.len() > MAX_VERSIONS {
                self.versions = Versions::TooMany;
            }
        }
    }

    fn forget_text(&mut self, value: &Scalar, id: u32) {
        let Scalar::Text(text) = value else { return };
        if let Some(normal) = normal_form(text) {
            self.respelled.remove(&(normal.into(), id));
        }
        if let Versions::Ordered(versions) = &mut self.versions
            && let Some(version) = Version::parse(text)
        {
            versions.remove(&(version, id));
        }
    }

    /// How many values must be looked at to answer a predicate; a lookup counts as one.
    pub(super) fn cost(&self, predicate: &Predicate) -> usize {
        match predicate {
            Predicate::Has(_) => 0,
            Predicate::Compare(_, op, _) if !op.is_order() => 1,
            Predicate::In(_, literals) => literals.len(),
            Predicate::Class { .. } => 1,
            _ => self.distinct(),
        }
    }

    /// The numbers of the values that the predicate hits, each once, `!=` taken as `=`. The maps only narrow down what
    /// is looked at; what decides is always the predicate's own test, so that index and evaluator cannot differ.
    pub(super) fn hits(&self, predicate: &Predicate) -> Vec<u32> {
        let candidates = match predicate {
            Predicate::Compare(_, op, literal) if op.is_order() => self.ordered(*op, literal),
            Predicate::Compare(_, _, literal) => Some(self.equal(literal)),
            Predicate::In(_, literals) => {
                let mut ids: Vec<u32> = literals.iter().flat_map(|literal| self.equal(literal)).collect();
                ids.sort_unstable();
                ids.dedup();
                Some(ids)
            }
            Predicate::Class { name, .. } => Some(self.ids.get(&text(name.text())).copied().into_iter().collect()),
            Predicate::Has(_) | Predicate::Match { .. } | Predicate::ClassMatch { .. } => None,
        };
        let hit = |id: &u32| self.value(*id).is_some_and(|(value, _)| predicate.hits(value.as_ref()));
        match candidates {
            Some(ids) => ids.into_iter().filter(hit).collect(),
            None => (0..self.values.len() as u32).filter(hit).collect(),
        }
    }

    /// Values that may equal the literal: the same text, its other spellings, the number, the boolean.
    fn equal(&self, literal: &Literal) -> Vec<u32> {
        let mut ids: Vec<u32> = self.ids.get(&text(literal.text())).copied().into_iter().collect();
        if let Some(normal) = normal_form(literal.text()) {
            ids.extend(self.ids.get(&text(&normal)));
            let normal: Box<str> = normal.into();
            let spellings = self.respelled.range((normal.clone(), 0)..=(normal, u32::MAX));
            ids.extend(spellings.map(|(_, id)| id));
        }
        ids.extend(literal.number().and_then(|number| self.ids.get(&Scalar::Number(number))));
        ids.extend([true, false].iter().filter_map(|value| self.ids.get(&Scalar::Bool(*value))));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Values that may stand in this order to the literal; `None` if all have to be looked at.
    fn ordered(&self, op: Op, literal: &Literal) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        if let Some(number) = literal.number() {
            ids.extend(self.numbers(op, number));
        }
        let Versions::Ordered(versions) = &self.versions else {
            return None;
        };
        match literal.version() {
            Some(version) => {
                let (low, high) = bounds(op, (version.clone(), 0), (version.clone(), u32::MAX));
                ids.extend(versions.range((low, high)).map(|(_, id)| id));
                // `+5` and `-5` are integers, but look like no version.
                ids.extend(self.signed());
            }
            None if literal.integer().is_some() => return None,
            None => {}
        }
        Some(ids)
    }

    fn numbers(&self, op: Op, number: Number) -> impl Iterator<Item = u32> {
        let at = Scalar::Number(number);
        let (low, high) = bounds(op, at.clone(), at);
        // Numbers stand between the booleans and the texts.
        let low = if low == Bound::Unbounded { Bound::Excluded(Scalar::Bool(true)) } else { low };
        let high = if high == Bound::Unbounded { Bound::Excluded(text("")) } else { high };
        self.ids.range((low, high)).map(|(_, id)| *id)
    }

    fn signed(&self) -> impl Iterator<Item = u32> {
        // `+`, `,` and `-` are neighbours.
        let signed = self.ids.range(text("+")..text("."));
        signed.map(|(_, id)| *id)
    }
}

fn text(text: &str) -> Scalar {
    Scalar::Text(Arc::from(text))
}

/// The range of an order comparison around a literal that takes up everything from `first` to `last`.
fn bounds<T>(op: Op, first: T, last: T) -> (Bound<T>, Bound<T>) {
    match op {
        Op::Less => (Bound::Unbounded, Bound::Excluded(first)),
        Op::LessOrEqual => (Bound::Unbounded, Bound::Included(last)),
        Op::Greater => (Bound::Excluded(last), Bound::Unbounded),
        Op::GreaterOrEqual => (Bound::Included(first), Bound::Unbounded),
        Op::Equal | Op::NotEqual => (Bound::Included(first), Bound::Included(last)),
    }
}
