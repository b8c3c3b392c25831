//! Has this message been here before? A bounded window of sequence numbers for each origin.

use muster_protocol::message::BrokerName;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Sequence numbers that are remembered of each origin: the last ones. What is older is taken for seen.
pub const WINDOW: u64 = 16_384;

/// What to do with a copy that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first: deliver it and pass it on.
    First,
    /// It came along the tree before, and now as a flood: pass it on as a flood, do not deliver it again.
    Upgrade,
    /// Nothing.
    Drop,
}

/// What has been seen: at most 4 KiB for each origin.
#[derive(Debug, Default)]
pub struct Seen {
    windows: HashMap<BrokerName, Window>,
}

impl Seen {
    /// Notes a copy. `flood`: it is treated as a flood here. Of an origin only its newest instance counts: a copy from an
    /// earlier life is dropped.
    pub fn note(&mut self, origin: &BrokerName, instance: u64, sequence: u64, flood: bool) -> Verdict {
        let window = match self.windows.entry(origin.clone()) {
            Entry::Vacant(free) => free.insert(Window::new(instance, sequence)),
            Entry::Occupied(taken) => taken.into_mut(),
        };
        if window.instance > instance {
            return Verdict::Drop;
        }
        if window.instance < instance {
            *window = Window::new(instance, sequence);
        }
        window.note(sequence, flood)
    }

    /// Forgets the origins that are not wanted any more.
    pub fn retain(&mut self, wanted: impl Fn(&BrokerName) -> bool) {
        self.windows.retain(|origin, _| wanted(origin));
    }
}

/// How a number was seen, in two bits.
const NONE: u64 = 0;
const TREE: u64 = 1;
const FLOOD: u64 = 2;
/// Numbers in a word.
const IN_WORD: u64 = 32;

/// A ring over the numbers `highest - WINDOW + 1 ..= highest`.
#[derive(Debug)]
struct Window {
    instance: u64,
    highest: u64,
    words: Vec<u64>,
}

impl Window {
    fn new(instance: u64, highest: u64) -> Window {
        Window { instance, highest, words: Vec::new() }
    }

    fn note(&mut self, sequence: u64, flood: bool) -> Verdict {
        if self.highest.saturating_sub(sequence) >= WINDOW {
            return Verdict::Drop;
        }
        self.advance(sequence);
        let verdict = match self.get(sequence) {
            NONE => Verdict::First,
            TREE if flood => Verdict::Upgrade,
            _ => return Verdict::Drop,
        };
        self.set(sequence, if flood { FLOOD } else { TREE });
        verdict
    }

    /// Makes room for a higher number: the places of those between had belonged to others, a window before.
    fn advance(&mut self, sequence: u64) {
        if sequence <= self.highest {
            return;
        }
        if sequence - self.highest >= WINDOW {
            self.words.clear();
        } else {
            for passed in self.highest + 1..=sequence {
                self.set(passed, NONE);
            }
        }
        self.highest = sequence;
    }

    fn get(&self, sequence: u64) -> u64 {
        let (word, shift) = place(sequence);
        self.words.get(word).map_or(NONE, |word| word >> shift & 3)
    }

    /// Grows up to the place, never beyond the window.
    fn set(&mut self, sequence: u64, state: u64) {
        let (word, shift) = place(sequence);
        if word >= self.words.len() {
            if state == NONE {
                return;
            }
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word = *word & !(3 << shift) | state << shift;
        }
    }
}

/// The word, and the bit in it.
fn place(sequence: u64) -> (usize, u64) {
    let place = sequence % WINDOW;
    ((place / IN_WORD) as usize, place % IN_WORD * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn name(text: &str) -> BrokerName {
        BrokerName::parse(text).unwrap()
    }

    #[test]
    fn a_copy_counts_once_along_the_tree_and_once_more_as_a_flood() {
        let (mut seen, dc1) = (Seen::default(), name("dc1"));
        assert_eq!(seen.note(&dc1, 1, 7, false), Verdict::First);
        assert_eq!(seen.note(&dc1, 1, 7, false), Verdict::Drop);
        assert_eq!(seen.note(&dc1, 1, 7, true), Verdict::Upgrade);
        assert_eq!(seen.note(&dc1, 1, 7, true), Verdict::Drop);
        assert_eq!(seen.note(&dc1, 1, 7, false), Verdict::Drop);
        assert_eq!(seen.note(&dc1, 1, 8, true), Verdict::First);
        assert_eq!(seen.note(&dc1, 1, 8, false), Verdict::Drop);
        assert_eq!(seen.note(&name("dc2"), 1, 7, false), Verdict::First, "each origin has its own numbers");
    }

    #[test]
    fn a_new_life_begins_anew_and_the_old_one_is_over() {
        let (mut seen, dc1) = (Seen::default(), name("dc1"));
        assert_eq!(seen.note(&dc1, 3, 9, false), Verdict::First);
        assert_eq!(seen.note(&dc1, 4, 9, false), Verdict::First);
        assert_eq!(seen.note(&dc1, 3, 10, false), Verdict::Drop);
        seen.retain(|origin| *origin != dc1);
        assert_eq!(seen.note(&dc1, 3, 10, false), Verdict::First);
    }

    #[test]
    fn the_window_has_an_edge_and_a_leap_takes_no_memory() {
        let (mut seen, dc1) = (Seen::default(), name("dc1"));
        let last = 1_000_000;
        assert_eq!(seen.note(&dc1, 1, last, false), Verdict::First);
        assert_eq!(seen.note(&dc1, 1, last - WINDOW, false), Verdict::Drop, "too long ago to know");
        assert_eq!(seen.note(&dc1, 1, last - WINDOW + 1, false), Verdict::First);
        assert_eq!(seen.note(&dc1, 1, last + 1, false), Verdict::First);
        assert_eq!(seen.note(&dc1, 1, last - WINDOW + 1, true), Verdict::Drop, "the edge has moved on");
        for leap in [last + 1 + WINDOW, u64::MAX - 1, u64::MAX] {
            assert_eq!(seen.note(&dc1, 1, leap, false), Verdict::First);
            assert_eq!(seen.note(&dc1, 1, leap, false), Verdict::Drop);
        }
        assert!(seen.windows[&dc1].words.capacity() as u64 <= WINDOW / IN_WORD);
    }

    /// Steps up and down by little, around the size of the window, and by leaps.
    fn steps() -> impl Strategy<Value = Vec<(i64, bool, u64)>> {
        let window = WINDOW as i64;
        let step = prop_oneof![8 => -4..5i64, 2 => window - 3..window + 3, 2 => -window - 3..3 - window, 1 => -40_000..40_000i64];
        proptest::collection::vec((step, any::<bool>(), prop_oneof![30 => Just(5u64), 1 => 4..7u64]), 1..200)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_everything(steps in steps()) {
            let (mut seen, dc1) = (Seen::default(), name("dc1"));
            let mut all: BTreeMap<u64, bool> = BTreeMap::new();
            let (mut newest, mut at) = (0, 50_000i64);
            for (step, flood, instance) in steps {
                at = (at + step).max(0);
                let sequence = at as u64;
                if instance > newest {
                    newest = instance;
                    all.clear();
                }
                let highest = all.keys().last().copied().unwrap_or(sequence);
                let expected = match all.get(&sequence) {
                    _ if instance < newest || sequence + WINDOW <= highest => Verdict::Drop,
                    None => Verdict::First,
                    Some(false) if flood => Verdict::Upgrade,
                    Some(_) => Verdict::Drop,
                };
                if expected != Verdict::Drop {
                    all.insert(sequence, flood);
                }
                prop_assert_eq!(seen.note(&dc1, instance, sequence, flood), expected, "{} {}", instance, sequence);
            }
        }
    }
}
