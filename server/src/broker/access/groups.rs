//! Which groups? A set of the groups of one policy, cheap enough to ask for every receiver of a message.

/// Most groups in a policy: the set of them is one fixed array of bits.
pub const MAX_GROUPS: usize = 1024;

const WORDS: usize = MAX_GROUPS / 64;

/// A set of groups, each by its place in the policy that it comes from.
///
/// Sets of two policies say nothing about each other: after a reload take users and grants anew from the new policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupSet([u64; WORDS]);

impl GroupSet {
    /// No group at all.
    pub const EMPTY: GroupSet = GroupSet([0; WORDS]);

    /// Whether the sets have a group in common.
    pub fn intersects(&self, other: &GroupSet) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// Whether there is no group in it.
    pub fn is_empty(&self) -> bool {
        *self == GroupSet::EMPTY
    }

    /// Adds the group at this place; places from [`MAX_GROUPS`] on are not there.
    pub(super) fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// Adds all of the other set.
    pub(super) fn extend(&mut self, other: &GroupSet) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    /// The groups of both.
    pub(super) fn intersection(&self, other: &GroupSet) -> GroupSet {
        let mut both = *self;
        both.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
        both
    }

    /// The places, ascending.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + '_ {
        // Word by word: most are empty, and a policy has many users.
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(place, word)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| place * 64 + bit)
        })
    }
}

impl Default for GroupSet {
    fn default() -> GroupSet {
        GroupSet::EMPTY
    }
}

impl std::fmt::Debug for GroupSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.places()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_meet_where_they_share_a_group() {
        let (mut a, mut b) = (GroupSet::EMPTY, GroupSet::EMPTY);
        assert!(a.is_empty() && !a.intersects(&a));
        a.insert(3);
        a.insert(MAX_GROUPS - 1);
        b.insert(4);
        assert!(!a.intersects(&b));
        b.insert(MAX_GROUPS - 1);
        assert!(a.intersects(&b));
        assert_eq!(a.intersection(&b).places().collect::<Vec<_>>(), [MAX_GROUPS - 1]);
        b.insert(MAX_GROUPS);
        b.extend(&a);
        assert_eq!(b.places().collect::<Vec<_>>(), [3, 4, MAX_GROUPS - 1]);
    }
}
