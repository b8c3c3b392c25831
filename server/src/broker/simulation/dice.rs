//! Where does chance come from? One seeded generator (splitmix64), so that a run can be played again from its seed.

use std::ops::Range;

/// A stream of choices.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Dice(u64);

impl Dice {
    pub(in crate::broker) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A generator of its own, so that what one draws does not shift what another gets.
    pub(in crate::broker) fn split(&mut self) -> Dice {
        Dice(self.bits())
    }

    pub(in crate::broker) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(in crate::broker) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.bits() % (range.end - range.start)
    }

    pub(in crate::broker) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub(in crate::broker) fn chance(&mut self, percent: u64) -> bool {
        self.bits() % 100 < percent
    }

    pub(in crate::broker) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
