//! Which rows does a filter mean? Set algebra over the index, cheapest predicate first.

use std::borrow::Cow;

use muster_protocol::filter::{Expr, Filter, Predicate};
use roaring::RoaringBitmap;

use super::column::{Column, NO_VALUE};
use super::index::{CLASSES, Index};
use super::rows::{Rows, filtered, union};

// What the two ways of answering a predicate cost, in nanoseconds, measured with benches/index.rs. Only their ratio
// matters, and only near the point where both cost the same.
/// To look at one distinct value and test it.
const PER_VALUE: u64 = 40;
/// To put one row of a matching value into the result.
const PER_HIT: u64 = 1;
/// To find one row's value through its entries, anywhere in memory.
const PER_ROW: u64 = 120;
/// To find one row's value in a column that has them in order.
const PER_ROW_IN_ORDER: u64 = 2;

impl Index {
    /// The indexed rows that satisfy the filter: exactly those for which the evaluator says yes.
    pub fn matching(&self, filter: &Filter) -> RoaringBitmap {
        self.evaluate(filter.expr(), &self.rows).into_owned()
    }

    /// Right for the rows in `among`; about other rows it may say anything. That lets each part of an `and` look only
    /// at what the parts before it have left.
    fn evaluate<'a>(&'a self, expr: &Expr, among: &RoaringBitmap) -> Cow<'a, RoaringBitmap> {
        match expr {
            Expr::Predicate(predicate) => self.predicate(predicate, among),
            Expr::Not(inner) => {
                let inner = self.evaluate(inner, among);
                Cow::Owned(among - &*inner)
            }
            Expr::And(parts) => {
                let mut parts: Vec<&Expr> = parts.iter().collect();
                parts.sort_by_cached_key(|part| self.cost(part));
                let mut left: Option<RoaringBitmap> = None;
                for part in parts {
                    left = Some(match left {
                        None => among & &*self.evaluate(part, among),
                        Some(left) if left.is_empty() => return Cow::Owned(left),
                        Some(left) => {
                            let part = self.evaluate(part, &left);
                            left & &*part
                        }
                    });
                }
                Cow::Owned(left.unwrap_or_default())
            }
            Expr::Or(parts) => {
                let mut any = RoaringBitmap::new();
                for part in parts {
                    any |= &*self.evaluate(part, among);
                }
                Cow::Owned(any)
            }
        }
    }

    /// How many distinct values a filter looks at, at the most.
    pub fn values(&self, filter: &Filter) -> usize {
        self.cost(filter.expr())
    }

    /// How many values have to be looked at.
    fn cost(&self, expr: &Expr) -> usize {
        match expr {
            Expr::And(parts) | Expr::Or(parts) => parts.iter().map(|part| self.cost(part)).sum(),
            Expr::Not(inner) => self.cost(inner),
            Expr::Predicate(predicate) => match self.column_of(predicate) {
                Some((_, column)) => column.cost(predicate),
                None => 0,
            },
        }
    }

    fn column_of(&self, predicate: &Predicate) -> Option<(u32, &Column)> {
        match predicate.path() {
            Some(path) => self.column(path),
            None => Some((CLASSES, &self.columns[CLASSES as usize])),
        }
    }

    fn predicate<'a>(&'a self, predicate: &Predicate, among: &RoaringBitmap) -> Cow<'a, RoaringBitmap> {
        let Some((number, column)) = self.column_of(predicate) else {
            return Cow::Owned(RoaringBitmap::new());
        };
        // A node without classes has no `class != x` to be missing: the set of classes is always there.
        let present = if number == CLASSES { &self.rows } else { &column.present };
        if matches!(predicate, Predicate::Has(_)) {
            return Cow::Borrowed(present);
        }
        let (values, left) = (column.cost(predicate) as u64, among.len());
        if values <= 2 {
            return by_value(predicate, column, present, self.row_end());
        }
        // At most half of the rows: of a predicate that hits more, the others are united.
        let all_values = values * PER_VALUE + column.present.len() / 2 * PER_HIT;
        let rows_in_order = values * PER_VALUE + left * PER_ROW_IN_ORDER;
        let rows_by_entries = values.min(left) * PER_VALUE + left * PER_ROW;
        let in_order = column.rows_in_order().filter(|_| rows_in_order < rows_by_entries.min(all_values));
        if let Some(in_order) = in_order {
            Cow::Owned(by_row_in_order(predicate, column, in_order, &(among & present)))
        } else if rows_by_entries < all_values {
            Cow::Owned(self.by_row(predicate, number, column, &(among & present)))
        } else {
            by_value(predicate, column, present, self.row_end())
        }
    }

    /// Asks row by row, each distinct value once.
    fn by_row(&self, predicate: &Predicate, number: u32, column: &Column, rows: &RoaringBitmap) -> RoaringBitmap {
        // A flat memory of answers is worth its zeroing only where values repeat among these rows.
        let repeats = column.id_end() as u64 <= 8 * rows.len();
        let mut known = vec![Answer::NotAsked; if repeats { column.id_end() } else { 0 }];
        let mut hits = |id: u32| {
            let test = || column.value(id).is_some_and(|(value, _)| predicate.hits(value.as_ref()));
            match known.get_mut(id as usize) {
                Some(Answer::Hit) => true,
                Some(Answer::Miss) => false,
                Some(unknown) => {
                    let hit = test();
                    *unknown = if hit { Answer::Hit } else { Answer::Miss };
                    hit
                }
                None => test(),
            }
        };
        filtered(rows, |row| {
            let ids = self.entries_at(row, number).iter().map(|(_, id)| *id);
            ids.filter(|id| *id != NO_VALUE).any(&mut hits) != predicate.is_negated()
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    NotAsked,
    Hit,
    Miss,
}

/// Asks every value first, then reads the rows' values in order and looks each answer up.
/// All of the rows must be present, with one value each.
fn by_row_in_order(predicate: &Predicate, column: &Column, in_order: &[u32], rows: &RoaringBitmap) -> RoaringBitmap {
    let mut answers = vec![predicate.is_negated(); column.id_end()];
    column.hits(predicate).into_iter().for_each(|id| answers[id as usize] = !predicate.is_negated());
    filtered(rows, |row| answers[in_order[row as usize] as usize])
}

/// Asks every distinct value, and unites the rows of those that hit, or of the others if these are fewer.
fn by_value<'a>(
    predicate: &Predicate,
    column: &'a Column,
    present: &RoaringBitmap,
    end: u32,
) -> Cow<'a, RoaringBitmap> {
    let hits = column.hits(predicate);
    let sets: Vec<&Rows> = hits.iter().filter_map(|id| column.value(*id)).map(|(_, rows)| rows).collect();
    if let ([Rows::Many(one)], false) = (&sets[..], predicate.is_negated()) {
        return Cow::Borrowed(one);
    }
    let rows: u64 = sets.iter().map(|rows| rows.len()).sum();
    let one_value_each = column.uneven == 0;
    let hit = if one_value_each && rows > column.present.len() / 2 && sets.len() > 1 {
        let mut hit = vec![false; column.id_end()];
        hits.iter().for_each(|id| hit[*id as usize] = true);
        let others = (0..).zip(&hit).filter(|(_, hit)| !**hit).filter_map(|(id, _)| column.value(id));
        let others: Vec<&Rows> = others.map(|(_, rows)| rows).collect();
        &column.present - union(&others, end)
    } else {
        union(&sets, end)
    };
    Cow::Owned(if predicate.is_negated() { present - hit } else { hit })
}
