//! Which brokers want a destination? One set of patterns for each broker, never re-advertised hop by hop.

use muster_protocol::destination::{Destination, Pattern};
use muster_protocol::link::{Interest, MAX_HEAD};
use muster_protocol::message::BrokerName;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What became of a flooded record (interest, summary).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absorbed {
    /// It is newer: pass it on.
    New,
    /// Known already, or older.
    Known,
    /// A delta on something that is not here: ask for the whole.
    Gap,
    /// It has no meaning (a pattern or path that does not parse, too much of it): drop it and say so.
    Bad,
}

/// Most patterns of a broker that are taken.
pub const MAX_PATTERNS: usize = 8_192;
/// Own patterns beyond this number, or beyond [`MAX_OWN_BYTES`], become [`ALL_TOPICS`].
pub const MAX_OWN: usize = 4_096;
/// So that the whole fits into a head.
pub const MAX_OWN_BYTES: usize = MAX_HEAD / 2;
/// What is said instead of too many patterns: too much is forwarded then, and nothing is lost.
pub const ALL_TOPICS: &str = "/topic/>";

/// The interest of all brokers.
#[derive(Debug)]
pub struct Interests {
    me: BrokerName,
    own: Wants,
    /// `set_own` has given out a whole under this instance, so that a delta can build on it.
    is_said: bool,
    others: HashMap<BrokerName, Wants>,
}

impl Interests {
    /// Nobody wants anything.
    pub fn new(me: BrokerName, instance: u64) -> Interests {
        let own = Wants { instance, ..Wants::default() };
        Interests { me, own, is_said: false, others: HashMap::new() }
    }

    /// Our boot counter was raised: our own record begins anew under it, as a whole at sequence 1 with what it held. It is
    /// there at once, as [`Interests::whole`], and the next [`Interests::set_own`] gives a whole, changed or not.
    pub fn set_instance(&mut self, instance: u64) {
        if self.own.instance != instance {
            self.own.instance = instance;
            self.own.sequence = self.own.sequence.min(1);
            self.is_said = false;
        }
    }

    /// What our own sessions subscribe to now, as the texts of patterns. The delta to flood, if it differs from before; the
    /// first of a life is a whole, also of nothing: others forward everything until they have it.
    pub fn set_own(&mut self, patterns: BTreeSet<String>) -> Option<Interest> {
        let bytes: usize = patterns.iter().map(String::len).sum();
        let is_too_much = patterns.len() > MAX_OWN || bytes > MAX_OWN_BYTES;
        let patterns = if is_too_much { BTreeSet::from([ALL_TOPICS.to_owned()]) } else { patterns };
        // A pattern that does not parse would make the whole record worthless to others.
        let wanted: Vec<Pattern> = patterns.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        let add: Vec<Pattern> = wanted.iter().filter(|pattern| !self.own.holds(pattern.as_str())).cloned().collect();
        let kept: HashSet<&str> = wanted.iter().map(Pattern::as_str).collect();
        let remove: BTreeSet<String> =
            self.own.texts().filter(|text| !kept.contains(text)).map(str::to_owned).collect();

        let base = self.own.sequence;
        let changes = !add.is_empty() || !remove.is_empty();
        if changes || base == 0 {
            self.own.sequence += 1;
        } else if self.is_said {
            return None;
        }
        let added: BTreeSet<String> = add.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        self.own.change(&remove, add);
        let said: usize = added.iter().chain(&remove).map(String::len).sum();
        let is_delta = std::mem::replace(&mut self.is_said, true) && said <= MAX_OWN_BYTES;
        if !is_delta {
            return self.whole(&self.me);
        }
        let (origin, instance, sequence) = (self.me.clone(), self.own.instance, self.own.sequence);
        Some(Interest { origin, instance, sequence, base: Some(base), add: added, remove })
    }

    /// Takes a record that came over a link. Ours is our own business, whatever others say of it.
    pub fn take(&mut self, record: &Interest) -> Absorbed {
        if record.origin == self.me || (record.instance, record.sequence) <= self.have(&record.origin) {
            return Absorbed::Known;
        }
        let (Some(add), true) = (parsed(&record.add), record.remove.iter().all(|text| Pattern::parse(text).is_ok()))
        else {
            return Absorbed::Bad;
        };
        let Some(base) = record.base else {
            let mut whole = Wants { instance: record.instance, sequence: record.sequence, ..Wants::default() };
            whole.change(&BTreeSet::new(), add);
            self.others.insert(record.origin.clone(), whole);
            return Absorbed::New;
        };
        let on_base = |known: &&mut Wants| (known.instance, known.sequence) == (record.instance, base);
        let Some(known) = self.others.get_mut(&record.origin).filter(on_base) else {
            return Absorbed::Gap;
        };
        let fresh = record.add.iter().filter(|text| record.remove.contains(*text) || !known.holds(text)).count();
        let gone = record.remove.iter().filter(|text| known.holds(text)).count();
        if known.len() + fresh - gone > MAX_PATTERNS {
            return Absorbed::Bad;
        }
        known.change(&record.remove, add);
        known.sequence = record.sequence;
        Absorbed::New
    }

    /// (instance, sequence) of what is known of a broker, ours included; zeros if nothing is.
    pub fn have(&self, origin: &BrokerName) -> (u64, u64) {
        self.of(origin).map_or((0, 0), |wants| (wants.instance, wants.sequence))
    }

    /// The whole record of a broker, ours included.
    pub fn whole(&self, origin: &BrokerName) -> Option<Interest> {
        let wants = self.of(origin).filter(|wants| wants.sequence > 0)?;
        let (instance, sequence) = (wants.instance, wants.sequence);
        let add = wants.texts().map(str::to_owned).collect();
        Some(Interest { origin: origin.clone(), instance, sequence, base: None, add, remove: BTreeSet::new() })
    }

    /// Whether a broker of this instance wants a destination; true while nothing is known of that life of it.
    pub fn wants(&self, broker: &BrokerName, instance: u64, destination: &Destination) -> bool {
        let known = self.of(broker).filter(|wants| wants.instance == instance && wants.sequence > 0);
        known.is_none_or(|wants| wants.matches(destination))
    }

    /// Forgets brokers that are not wanted any more.
    pub fn retain(&mut self, wanted: impl Fn(&BrokerName) -> bool) {
        self.others.retain(|name, _| wanted(name));
    }

    fn of(&self, broker: &BrokerName) -> Option<&Wants> {
        if *broker == self.me { Some(&self.own) } else { self.others.get(broker) }
    }
}

/// What one broker wants.
#[derive(Debug, Default)]
struct Wants {
    instance: u64,
    /// 0 while nothing is known.
    sequence: u64,
    /// Patterns of one destination, found by hash.
    exact: HashSet<String>,
    /// Patterns with wildcards: a few, since agents of a collective share theirs.
    wild: BTreeMap<String, Pattern>,
}

impl Wants {
    fn matches(&self, destination: &Destination) -> bool {
        self.exact.contains(destination.as_str()) || self.wild.values().any(|pattern| pattern.matches(destination))
    }

    fn holds(&self, text: &str) -> bool {
        self.exact.contains(text) || self.wild.contains_key(text)
    }

    fn len(&self) -> usize {
        self.exact.len() + self.wild.len()
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().chain(self.wild.keys()).map(String::as_str)
    }

    fn change(&mut self, remove: &BTreeSet<String>, add: Vec<Pattern>) {
        for text in remove {
            let _ = self.exact.remove(text) || self.wild.remove(text).is_some();
        }
        for pattern in add {
            if pattern.is_concrete() {
                self.exact.insert(pattern.as_str().to_owned());
            } else {
                self.wild.insert(pattern.as_str().to_owned(), pattern);
            }
        }
    }
}

/// All of them, if they parse and are not too many.
fn parsed(texts: &BTreeSet<String>) -> Option<Vec<Pattern>> {
    let is_fine = texts.len() <= MAX_PATTERNS;
    is_fine.then(|| texts.iter().map(|text| Pattern::parse(text).ok()).collect())?
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::name;
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn to(text: &str) -> Destination {
        Destination::parse(text).unwrap()
    }

    /// Two brokers, dc1 in its fourth life and noc1 in its second.
    fn pair() -> (Interests, Interests) {
        (Interests::new(name("dc1"), 4), Interests::new(name("noc1"), 2))
    }

    #[test]
    fn the_first_record_is_whole_and_the_later_ones_are_deltas() {
        let (mut dc1, mut noc1) = pair();
        let me = name("dc1");
        assert_eq!((dc1.have(&me), dc1.whole(&me)), ((4, 0), None));
        let first = dc1.set_own(set(&["/topic/a", "/topic/b.*"])).unwrap();
        assert_eq!((first.sequence, first.base, &first.add), (1, None, &set(&["/topic/a", "/topic/b.*"])));
        assert_eq!(dc1.set_own(set(&["/topic/a", "/topic/b.*"])), None, "nothing has changed");
        let second = dc1.set_own(set(&["/topic/b.*", "/topic/c"])).unwrap();
        assert_eq!((second.sequence, second.base), (2, Some(1)));
        assert_eq!((&second.add, &second.remove), (&set(&["/topic/c"]), &set(&["/topic/a"])));
        assert_eq!(noc1.take(&first), Absorbed::New);
        assert_eq!(noc1.take(&first), Absorbed::Known);
        assert_eq!(noc1.take(&second), Absorbed::New);
        assert_eq!(noc1.take(&first), Absorbed::Known);
        assert_eq!((noc1.have(&me), noc1.whole(&me)), ((4, 2), dc1.whole(&me)));
        for (destination, wanted) in
            [("/topic/a", false), ("/topic/b.x", true), ("/topic/c", true), ("/queue/c", false)]
        {
            assert_eq!(noc1.wants(&me, 4, &to(destination)), wanted, "{destination}");
            assert_eq!(dc1.wants(&me, 4, &to(destination)), wanted, "{destination}, asked at home");
        }
    }

    #[test]
    fn a_broker_wants_everything_until_its_present_life_has_spoken() {
        let (mut dc1, mut noc1) = pair();
        let (me, anything) = (name("dc1"), to("/topic/x"));
        assert!(noc1.wants(&me, 4, &anything));
        let nothing = dc1.set_own(BTreeSet::new()).expect("that it wants nothing is worth knowing");
        assert_eq!(noc1.take(&nothing), Absorbed::New);
        assert!(!noc1.wants(&me, 4, &anything));
        assert!(noc1.wants(&me, 5, &anything), "it has restarted");
        noc1.retain(|name| *name != me);
        assert!(noc1.wants(&me, 4, &anything));
    }

    #[test]
    fn a_gap_asks_for_the_whole() {
        let (mut dc1, mut noc1) = pair();
        let me = name("dc1");
        let mut say = |patterns: &[&str]| dc1.set_own(set(patterns)).unwrap();
        let (first, second, third) = (say(&["/topic/a"]), say(&["/topic/b"]), say(&["/topic/b", "/topic/c"]));
        assert_eq!(noc1.take(&second), Absorbed::Gap, "nothing is there");
        assert_eq!(noc1.take(&first), Absorbed::New);
        assert_eq!(noc1.take(&third), Absorbed::Gap);
        assert_eq!(noc1.take(&Interest { instance: 5, ..second }), Absorbed::Gap, "of another life");
        assert_eq!(noc1.have(&me), (4, 1));
        assert_eq!(noc1.take(&dc1.whole(&me).unwrap()), Absorbed::New);
        assert_eq!(noc1.whole(&me), dc1.whole(&me));
        let older = Interest { instance: 3, sequence: 99, ..first };
        assert_eq!(noc1.take(&older), Absorbed::Known);
    }

    #[test]
    fn a_raised_boot_counter_relabels_our_record() {
        let (mut dc1, mut noc1) = pair();
        let me = name("dc1");
        dc1.set_instance(5);
        assert_eq!((dc1.have(&me), dc1.whole(&me)), ((5, 0), None), "there is nothing to say yet");
        for patterns in [&["/topic/a"][..], &["/topic/b"], &["/topic/c"]] {
            noc1.take(&dc1.set_own(set(patterns)).unwrap());
        }
        dc1.set_instance(9);
        let whole = dc1.whole(&me).unwrap();
        assert_eq!((whole.instance, whole.sequence, &whole.add), (9, 1, &set(&["/topic/c"])));
        assert_eq!(dc1.set_own(set(&["/topic/c"])), Some(whole.clone()), "nobody may have heard it");
        assert_eq!(dc1.set_own(set(&["/topic/c"])), None);
        assert_eq!(noc1.take(&whole), Absorbed::New);
        dc1.set_instance(10);
        let changed = dc1.set_own(set(&["/topic/d"])).unwrap();
        assert_eq!((changed.instance, changed.sequence, changed.base), (10, 2, None));
        assert_eq!(noc1.take(&changed), Absorbed::New);
        assert_eq!(noc1.whole(&me), dc1.whole(&me));
    }

    #[test]
    fn what_has_no_meaning_is_refused_and_changes_nothing() {
        let (mut dc1, mut noc1) = pair();
        let me = name("dc1");
        let first = dc1.set_own(set(&["/topic/a"])).unwrap();
        assert_eq!(noc1.take(&first), Absorbed::New);
        let whole = |add: BTreeSet<String>| Interest { sequence: 2, add, ..first.clone() };
        let many = |count: usize| (0..count).map(|at| format!("/topic/many.{at}")).collect::<BTreeSet<_>>();
        assert_eq!(noc1.take(&whole(set(&["/topic/b", "/topic/c..d"]))), Absorbed::Bad);
        assert_eq!(noc1.take(&whole(many(MAX_PATTERNS + 1))), Absorbed::Bad);
        let delta = |remove, add| Interest { base: Some(1), remove, ..whole(add) };
        assert_eq!(noc1.take(&delta(set(&["junk"]), BTreeSet::new())), Absorbed::Bad);
        assert_eq!(noc1.take(&delta(BTreeSet::new(), many(MAX_PATTERNS))), Absorbed::Bad, "with the one that is there");
        assert_eq!(noc1.whole(&me), Some(first.clone()));
        assert_eq!(noc1.take(&delta(set(&["/topic/a"]), many(MAX_PATTERNS))), Absorbed::New);
        let echo = Interest { origin: name("noc1"), instance: 99, ..first };
        assert_eq!(noc1.take(&echo), Absorbed::Known, "our own is ours");
        assert_eq!(noc1.whole(&name("noc1")), None);
    }

    #[test]
    fn too_many_of_our_own_become_one_and_a_record_fits_into_a_head() {
        let (mut dc1, _) = pair();
        let many =
            |count: usize, width: usize| (0..count).map(|at| format!("/topic/{at:0width$}")).collect::<BTreeSet<_>>();
        assert_eq!(dc1.set_own(many(MAX_OWN, 1)).unwrap().add.len(), MAX_OWN);
        let all = dc1.set_own(many(MAX_OWN + 1, 1)).unwrap();
        assert_eq!((all.add.len(), all.remove.len()), (1, MAX_OWN));
        assert!(dc1.wants(&name("dc1"), 4, &to("/topic/any.thing")));
        assert_eq!(dc1.set_own(many(3_000, 250)), None, "too long, and so the same as before");
        let long = dc1.set_own(many(2_000, 250)).unwrap();
        assert_eq!((long.base, long.add.len()), (Some(2), 2_000));
        let others = (0..2_000).map(|at| format!("/topic/x{at:0249}")).collect();
        let whole = dc1.set_own(others).unwrap();
        assert_eq!((whole.base, whole.sequence, whole.add.len()), (None, 4, 2_000), "a delta would be twice as long");
    }

    #[test]
    fn a_pattern_of_our_own_that_does_not_parse_harms_no_other() {
        let (mut dc1, mut noc1) = pair();
        let record = dc1.set_own(set(&["/topic/a", "nonsense"])).unwrap();
        assert_eq!((noc1.take(&record), record.add), (Absorbed::New, set(&["/topic/a"])));
    }

    proptest! {
        /// Whatever is lost on the way: who asks for the whole after a gap ends with what the origin has.
        #[test]
        fn deltas_with_losses_and_wholes_end_equal(
            steps in prop::collection::vec(
                (prop::collection::btree_set("/topic/[ab](\\.[ab*]){0,1}", 0..6), prop::bool::weighted(0.7), any::<bool>()),
                1..30,
            ),
            raised in prop::option::of(0..30usize),
        ) {
            let (mut dc1, mut noc1) = pair();
            let (me, mut instance) = (name("dc1"), 4);
            for (at, (patterns, arrives, again)) in steps.iter().enumerate() {
                if raised == Some(at) {
                    instance = 7;
                    dc1.set_instance(instance);
                }
                let Some(record) = dc1.set_own(patterns.clone()) else {
                    continue;
                };
                for _ in 0..if *arrives { 1 + u8::from(*again) } else { 0 } {
                    if noc1.take(&record) == Absorbed::Gap {
                        prop_assert_eq!(noc1.take(&dc1.whole(&me).unwrap()), Absorbed::New);
                    }
                    prop_assert_eq!(noc1.whole(&me), dc1.whole(&me));
                    for text in ["/topic/a", "/topic/b", "/topic/a.a", "/topic/b.a", "/topic/b.b"] {
                        let expected = patterns.iter().any(|it| Pattern::parse(it).unwrap().matches(&to(text)));
                        prop_assert_eq!(noc1.wants(&me, instance, &to(text)), expected, "{}", text);
                    }
                }
            }
            prop_assert_eq!(&dc1.whole(&me).unwrap().add, &steps.last().unwrap().0);
        }
    }
}
