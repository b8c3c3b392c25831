//! Which row of the registry is a node's, and how is a set of rows kept small?

use roaring::RoaringBitmap;

/// A place in the registry; taken again after its node has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u32);

/// The rows that have one value. Most values of a unique fact have one row, and a bitmap for each would be waste.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// At most a few, sorted.
    Few(Vec<u32>),
    One(u32),
    Many(RoaringBitmap),
}

/// Above this many rows a sorted list costs more to change than a bitmap: inserting moves half of it.
const FEW: usize = 1024;
/// Below this many, a list with gaps becomes a list again.
const FEW_AGAIN: u64 = FEW as u64 / 2;
/// From this size on a bitmap is united as a whole, word by word, and not row by row.
const WHOLE: u64 = 32 * 1024;
/// Up to this many rows in all, sorting them is cheaper than a bit set over the whole registry.
const SORTED: u64 = 4096;

impl Rows {
    pub(super) fn len(&self) -> u64 {
        match self {
            Rows::One(_) => 1,
            Rows::Few(list) => list.len() as u64,
            Rows::Many(bitmap) => bitmap.len(),
        }
    }

    pub(super) fn insert(&mut self, row: u32) {
        match self {
            Rows::One(one) if *one == row => {}
            Rows::One(one) => *self = Rows::Few(vec![(*one).min(row), (*one).max(row)]),
            Rows::Few(list) => {
                if let Err(at) = list.binary_search(&row) {
                    list.insert(at, row);
                }
                if list.len() > FEW {
                    *self = Rows::Many(list.iter().copied().collect());
                }
            }
            Rows::Many(bitmap) => {
                bitmap.insert(row);
            }
        }
    }

    /// True if no row is left.
    pub(super) fn remove(&mut self, row: u32) -> bool {
        match self {
            Rows::One(one) => return *one == row,
            Rows::Few(list) => {
                if let Ok(at) = list.binary_search(&row) {
                    list.remove(at);
                }
                if let [one] = list[..] {
                    *self = Rows::One(one);
                }
            }
            Rows::Many(bitmap) => {
                bitmap.remove(row);
                if bitmap.len() < FEW_AGAIN {
                    *self = Rows::Few(bitmap.iter().collect());
                }
            }
        }
        self.len() == 0
    }

    /// How many of the rows are among these.
    pub(super) fn count_among(&self, among: &RoaringBitmap) -> u64 {
        match self {
            Rows::One(row) => among.contains(*row).into(),
            Rows::Few(list) => list.iter().filter(|row| among.contains(**row)).count() as u64,
            Rows::Many(bitmap) => bitmap.intersection_len(among),
        }
    }

    fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Rows::One(row) => visit(*row),
            Rows::Few(list) => list.iter().for_each(|row| visit(*row)),
            Rows::Many(bitmap) => {
                let (mut rows, mut buffer) = (bitmap.iter(), [0; 256]);
                loop {
                    let read = rows.next_many(&mut buffer);
                    if read.is_empty() {
                        return;
                    }
                    read.iter().for_each(|row| visit(*row));
                }
            }
        }
    }
}

/// All rows of these sets. `end` is above every row.
///
/// Roaring's own union pays for each set's containers; thousands of small sets are faster through one flat bit set.
pub(super) fn union(sets: &[&Rows], end: u32) -> RoaringBitmap {
    let small = |rows: &&&Rows| !matches!(rows, Rows::Many(bitmap) if bitmap.len() >= WHOLE);
    let total: u64 = sets.iter().filter(small).map(|rows| rows.len()).sum();
    let united = if total <= SORTED {
        let mut list = Vec::with_capacity(total as usize);
        sets.iter()
            .filter(small)
            .for_each(|rows| rows.for_each(|row| list.push(row)));
        list.sort_unstable();
        list.into_iter().collect()
    } else {
        let mut bits = vec![0u8; end as usize / 8 + 1];
        sets.iter().filter(small).for_each(|rows| {
            rows.for_each(|row| bits[row as usize / 8] |= 1 << (row % 8));
        });
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    };
    let whole = sets.iter().filter_map(|rows| match rows {
        Rows::Many(bitmap) if bitmap.len() >= WHOLE => Some(bitmap),
        _ => None,
    });
    whole.fold(united, |united, bitmap| united | bitmap)
}
