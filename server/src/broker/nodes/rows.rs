//! Which row of the registry is a node's, and how is a set of rows kept small?

use roaring::{MultiOps, RoaringBitmap};

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

/// Up to here a sorted list is used: uniting many of them is a third faster than uniting bitmaps, and inserting, which
/// moves half of the list, is still well under a microsecond.
const FEW: usize = 8192;
/// Below this many, a list with gaps becomes a list again.
const FEW_AGAIN: u64 = FEW as u64 / 2;
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

    pub(super) fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Rows::Many(bitmap) => bitmap.iter().for_each(visit),
            small => small.list().iter().for_each(|row| visit(*row)),
        }
    }

    /// The rows of a small set; none of a bitmap.
    fn list(&self) -> &[u32] {
        match self {
            Rows::One(row) => std::slice::from_ref(row),
            Rows::Few(list) => list,
            Rows::Many(_) => &[],
        }
    }
}

/// All rows of these sets. `end` is above every row.
///
/// Roaring unites bitmaps well, but thousands of small sets are faster through one flat bit set.
pub(super) fn union(sets: &[&Rows], end: u32) -> RoaringBitmap {
    let small = |rows: &&&Rows| !matches!(rows, Rows::Many(_));
    let total: u64 = sets.iter().filter(small).map(|rows| rows.len()).sum();
    let united = if total <= SORTED {
        let mut list = Vec::with_capacity(total as usize);
        sets.iter().for_each(|rows| list.extend_from_slice(rows.list()));
        list.sort_unstable();
        list.into_iter().collect()
    } else {
        let mut bits = vec![0u8; end as usize / 8 + 1];
        for row in sets.iter().flat_map(|rows| rows.list()) {
            bits[*row as usize / 8] |= 1 << (row % 8);
        }
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    };
    let bitmaps = sets.iter().filter_map(|rows| match rows {
        Rows::Many(bitmap) => Some(bitmap),
        Rows::One(_) | Rows::Few(_) => None,
    });
    let bitmaps: Vec<&RoaringBitmap> = bitmaps.collect();
    if bitmaps.is_empty() { united } else { bitmaps.into_iter().chain([&united]).union() }
}

/// Those rows of a bitmap that satisfy a test, which is asked in order.
pub(super) fn filtered(rows: &RoaringBitmap, mut test: impl FnMut(u32) -> bool) -> RoaringBitmap {
    if rows.len() <= SORTED {
        return rows.iter().filter(|row| test(*row)).collect();
    }
    let mut bits = vec![0u8; rows.max().unwrap_or(0) as usize / 8 + 1];
    let (mut iter, mut buffer) = (rows.iter(), [0; 512]);
    loop {
        let read = iter.next_many(&mut buffer);
        if read.is_empty() {
            return RoaringBitmap::from_lsb0_bytes(0, &bits);
        }
        for row in read {
            // Without a branch: which rows pass is as good as random.
            bits[*row as usize / 8] |= u8::from(test(*row)) << (*row % 8);
        }
    }
}
