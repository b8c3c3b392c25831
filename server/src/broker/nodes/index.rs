//! Which rows have which facts? Kept so that a change costs what has changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_protocol::facts::{Facts, Leaf, Path, Scalar, ScalarRef, walk, walk_below};
use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use super::column::{Column, NO_VALUE};
use super::rows::Row;

/// The columns of classes and modules, which are sets of texts as a list fact is.
pub(super) const CLASSES: u32 = 0;
pub(super) const MODULES: u32 = 1;

/// Joins the segments of a path as a key; fact names hold no control characters.
pub(super) const SEPARATOR: char = '\u{1f}';

/// What the index knows of a node.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// Effective facts.
    pub facts: &'a Facts,
    /// Classes.
    pub classes: &'a BTreeSet<String>,
    /// Modules, by name.
    pub modules: &'a BTreeMap<String, String>,
}

/// A histogram of one fact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many rows have which value, most frequent first; a row whose fact is a list counts for each element.
    pub values: Vec<(Scalar, u64)>,
    /// Rows where the fact is present without a value of its own: an object, an empty list.
    pub without_value: u64,
    /// Rows where the fact is missing.
    pub missing: u64,
}

/// One entry of a row: a column, and the value's number in it or [`NO_VALUE`].
type Entry = (u32, u32);

/// The inverted index: for each path, value -> rows; and for each row what it has, to be able to take it away.
#[derive(Debug)]
pub struct Index {
    pub(super) rows: RoaringBitmap,
    pub(super) columns: Vec<Column>,
    pub(super) paths: HashMap<Arc<str>, u32>,
    /// For each column its key in `paths`.
    keys: Vec<Arc<str>>,
    free: Vec<u32>,
    /// For each row its entries, sorted.
    entries: Vec<Box<[Entry]>>,
}

impl Default for Index {
    fn default() -> Index {
        let columns = vec![Column::default(), Column::default()];
        Index {
            rows: RoaringBitmap::new(),
            columns,
            paths: HashMap::new(),
            keys: vec![Arc::default(); 2],
            free: Vec::new(),
            entries: Vec::new(),
        }
    }
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Index {
        Index::default()
    }

    /// Takes a row in; what was indexed for it before is forgotten.
    pub fn insert(&mut self, row: Row, node: Described<'_>) {
        self.remove(row);
        self.rows.insert(row.0);
        if self.entries.len() <= row.0 as usize {
            self.entries.resize_with(row.0 as usize + 1, Box::default);
        }
        let mut change = Change::default();
        self.add_below(row, &[], node.facts.as_value(), &mut change);
        self.add_texts(row, CLASSES, node.classes.iter(), &mut change);
        self.add_texts(row, MODULES, node.modules.keys(), &mut change);
        self.apply(row, change);
    }

    /// Changes a row from what it was to what it is, looking only at what differs.
    /// `before` must be what the row was inserted or last updated with; a row that is not indexed stays so.
    pub fn update(&mut self, row: Row, before: Described<'_>, after: Described<'_>) {
        if !self.rows.contains(row.0) {
            return;
        }
        let mut change = Change::default();
        let mut names = Vec::new();
        if let (Value::Object(old), Value::Object(new)) = (before.facts.as_value(), after.facts.as_value()) {
            self.compare(row, old, new, &mut names, &mut change);
        }
        if before.classes != after.classes {
            self.find_texts(CLASSES, before.classes.iter(), &mut change);
            self.add_texts(row, CLASSES, after.classes.iter(), &mut change);
        }
        if before.modules != after.modules {
            self.find_texts(MODULES, before.modules.keys(), &mut change);
            self.add_texts(row, MODULES, after.modules.keys(), &mut change);
        }
        self.apply(row, change);
    }

    /// Forgets a row.
    pub fn remove(&mut self, row: Row) {
        if self.rows.remove(row.0) {
            let old = self.entries[row.0 as usize].to_vec();
            self.apply(row, Change { old, new: Vec::new() });
        }
    }

    /// All indexed rows.
    pub fn rows(&self) -> &RoaringBitmap {
        &self.rows
    }

    /// The rows whose node announces a module.
    pub fn with_module(&self, module: &str) -> RoaringBitmap {
        let column = &self.columns[MODULES as usize];
        let found = column.find(&ScalarRef::Text(module).to_owned()).and_then(|id| column.value(id));
        found.map(|(_, rows)| super::rows::union(&[rows], self.row_end())).unwrap_or_default()
    }

    /// The histogram of a fact among these rows (those of them that are indexed).
    pub fn report(&self, path: &Path, among: &RoaringBitmap) -> Report {
        let among = among & &self.rows;
        let Some((number, column)) = self.column(path) else {
            return Report { missing: among.len(), ..Report::default() };
        };
        let present = column.present.intersection_len(&among);
        // The usual report is one of all nodes, and needs no intersections.
        let whole = present == column.present.len();
        let mut with_value = present;
        let mut values: Vec<(Scalar, u64)> = if (column.distinct() as u64) <= among.len() {
            let counted = column
                .values()
                .map(|(value, rows)| (value.clone(), if whole { rows.len() } else { rows.count_among(&among) }));
            counted.filter(|(_, count)| *count > 0).collect()
        } else {
            let mut counts: HashMap<u32, u64> = HashMap::new();
            for (_, id) in among.iter().flat_map(|row| self.entries_at(row, number)) {
                *counts.entry(*id).or_default() += 1;
            }
            let named = counts.into_iter().filter_map(|(id, count)| Some((column.value(id)?.0.clone(), count)));
            named.collect()
        };
        if column.uneven > 0 {
            let has_value = |row: &u32| self.entries_at(*row, number).iter().any(|(_, id)| *id != NO_VALUE);
            with_value = (&column.present & &among).iter().filter(has_value).count() as u64;
        }
        values.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        Report { values, without_value: present - with_value, missing: among.len() - present }
    }

    /// Every fact path that some row has, with the number of its rows, in no order.
    pub fn paths(&self) -> impl Iterator<Item = (Path, u64)> {
        self.paths.iter().filter_map(|(key, number)| {
            let path = Path::from_segments(key.split(SEPARATOR))?;
            Some((path, self.columns[*number as usize].present.len()))
        })
    }

    pub(super) fn column(&self, path: &Path) -> Option<(u32, &Column)> {
        let mut key = String::new();
        join(&mut key, path.segments());
        let number = *self.paths.get(&*key)?;
        Some((number, &self.columns[number as usize]))
    }

    /// A row's entries in one column.
    pub(super) fn entries_at(&self, row: u32, column: u32) -> &[Entry] {
        self.entries.get(row as usize).map_or(&[], |entries| within(entries, column))
    }

    /// Above every indexed row.
    pub(super) fn row_end(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Walks two versions of an object side by side. Outside of lists a path stands for one place only, so a member
    /// that differs can be taken out and put in as a whole.
    fn compare<'a>(
        &mut self,
        row: Row,
        old: &'a Map<String, Value>,
        new: &'a Map<String, Value>,
        names: &mut Vec<&'a str>,
        change: &mut Change,
    ) {
        for (name, before) in old {
            names.push(name);
            match (before, new.get(name)) {
                (before, Some(after)) if before == after => {}
                (Value::Object(before), Some(Value::Object(after))) => self.compare(row, before, after, names, change),
                (before, after) => {
                    self.find_below(names, before, change);
                    if let Some(after) = after {
                        self.add_below(row, names, after, change);
                    }
                }
            }
            names.pop();
        }
        for (name, after) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            names.push(name);
            self.add_below(row, names, after, change);
            names.pop();
        }
    }

    fn find_below(&mut self, above: &[&str], value: &Value, change: &mut Change) {
        let mut key = String::new();
        each_leaf(above, value, |names, leaf| {
            join(&mut key, names.iter().copied());
            let Some(&number) = self.paths.get(&*key) else {
                return;
            };
            let id = match leaf {
                Leaf::Present => Some(NO_VALUE),
                Leaf::Value(value) => self.columns[number as usize].find(&value.to_owned()),
            };
            change.old.extend(id.map(|id| (number, id)));
        });
    }

    fn add_below(&mut self, row: Row, above: &[&str], value: &Value, change: &mut Change) {
        let mut key = String::new();
        each_leaf(above, value, |names, leaf| {
            join(&mut key, names.iter().copied());
            let number = self.number(&key);
            let id = match leaf {
                Leaf::Present => NO_VALUE,
                Leaf::Value(value) => self.columns[number as usize].insert(value, row.0),
            };
            change.new.push((number, id));
        });
    }

    fn find_texts<'a>(&self, column: u32, texts: impl Iterator<Item = &'a String>, change: &mut Change) {
        let ids = texts.filter_map(|text| self.columns[column as usize].find(&ScalarRef::Text(text).to_owned()));
        change.old.extend(ids.map(|id| (column, id)));
    }

    fn add_texts<'a>(&mut self, row: Row, column: u32, texts: impl Iterator<Item = &'a String>, change: &mut Change) {
        for text in texts {
            let id = self.columns[column as usize].insert(ScalarRef::Text(text), row.0);
            change.new.push((column, id));
        }
    }

    /// The column of a path, made if it is new.
    fn number(&mut self, key: &str) -> u32 {
        if let Some(&number) = self.paths.get(key) {
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.columns.push(Column::default());
            self.keys.push(Arc::default());
            self.columns.len() as u32 - 1
        });
        let key: Arc<str> = key.into();
        self.keys[number as usize] = key.clone();
        self.paths.insert(key, number);
        number
    }

    /// Values have been put in already (so that one which comes back is not dropped in between); now the old ones go,
    /// and the row's entries and the columns' presence follow.
    fn apply(&mut self, row: Row, mut change: Change) {
        for side in [&mut change.old, &mut change.new] {
            side.sort_unstable();
            side.dedup();
        }
        let gone: Vec<Entry> = change.old.iter().filter(|e| change.new.binary_search(e).is_err()).copied().collect();
        for (column, id) in &gone {
            self.columns[*column as usize].remove(*id, row.0);
        }
        let before = std::mem::take(&mut self.entries[row.0 as usize]);
        let mut after: Vec<Entry> = before.iter().filter(|e| gone.binary_search(e).is_err()).copied().collect();
        after.extend(change.new.iter().filter(|e| before.binary_search(e).is_err()));
        after.sort_unstable();
        let mut touched: Vec<u32> = gone.iter().chain(&change.new).map(|(column, _)| *column).collect();
        touched.dedup();
        touched.sort_unstable();
        touched.dedup();
        for number in touched {
            self.note_presence(row, number, within(&before, number), within(&after, number));
        }
        self.entries[row.0 as usize] = after.into();
    }

    fn note_presence(&mut self, row: Row, number: u32, before: &[Entry], after: &[Entry]) {
        let uneven =
            |entries: &[Entry]| !entries.is_empty() && entries.iter().filter(|(_, id)| *id != NO_VALUE).count() != 1;
        let bare = |entries: &[Entry]| !entries.is_empty() && entries.iter().all(|(_, id)| *id == NO_VALUE);
        let row_end = self.row_end();
        let column = &mut self.columns[number as usize];
        column.bare = column.bare + u64::from(bare(after)) - u64::from(bare(before));
        column.uneven = column.uneven + u64::from(uneven(after)) - u64::from(uneven(before));
        match (before.is_empty(), after.is_empty()) {
            (true, false) => {
                column.present.insert(row.0);
            }
            (false, true) => {
                column.present.remove(row.0);
            }
            _ => {}
        }
        if number > MODULES {
            column.note_row(row.0, after.iter().map(|(_, id)| *id), row_end);
        }
        if column.present.is_empty() && number > MODULES {
            self.columns[number as usize] = Column::default();
            self.paths.remove(&self.keys[number as usize]);
            self.free.push(number);
        }
    }
}

/// Entries that a row loses and gets; those on both sides stay.
#[derive(Debug, Default)]
struct Change {
    old: Vec<Entry>,
    new: Vec<Entry>,
}

/// The entries of one column among sorted ones.
fn within(entries: &[Entry], column: u32) -> &[Entry] {
    let from = entries.partition_point(|(number, _)| *number < column);
    let count = entries[from..].partition_point(|(number, _)| *number == column);
    &entries[from..from + count]
}

/// Walks a whole document, or what stands below some names in it.
fn each_leaf<'a>(above: &[&'a str], value: &'a Value, mut visit: impl FnMut(&[&'a str], Leaf<'a>)) {
    let mut names = above.to_vec();
    if names.is_empty() { walk(value, &mut visit) } else { walk_below(value, &mut names, &mut visit) }
}

fn join<'a>(key: &mut String, names: impl IntoIterator<Item = &'a str>) {
    key.clear();
    for (index, name) in names.into_iter().enumerate() {
        if index > 0 {
            key.push(SEPARATOR);
        }
        key.push_str(name);
    }
}
