//! Whose turn is it? By turns the newest of those who matter most, and the one who has waited longest.
//!
//! In a storm the line is longer than anybody's patience. The oldest first would serve those who are about to give up, and whoever
//! comes in the middle would wait for all of them; the newest first would forget the oldest. By turns, nobody is forgotten, and
//! half of all places go to those who have just come.

use std::collections::{BTreeMap, BTreeSet};

/// A place in the line; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Those who wait. `R`: who matters more is greater.
#[derive(Debug)]
pub(crate) struct Line<R, T> {
    tickets: u64,
    waiting: BTreeMap<Ticket, (R, T)>,
    by_rank: BTreeSet<(R, Ticket)>,
    /// For whom it is the oldest's turn next, by the least that may be called: who calls some only takes no turn from the others.
    oldest_next: BTreeSet<R>,
}

impl<R: Copy + Ord, T> Line<R, T> {
    /// Nobody waits.
    pub(crate) fn new() -> Line<R, T> {
        Line { tickets: 0, waiting: BTreeMap::new(), by_rank: BTreeSet::new(), oldest_next: BTreeSet::new() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Waits from now on.
    pub(crate) fn join(&mut self, rank: R, who: T) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, (rank, who));
        self.by_rank.insert((rank, ticket));
        ticket
    }

    /// Waits no more; `None` if it had been called before.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let (rank, who) = self.waiting.remove(&ticket)?;
        self.by_rank.remove(&(rank, ticket));
        Some(who)
    }

    /// Whose turn it is, of those who matter so much at least. They are in the line no more.
    pub(crate) fn call(&mut self, least: R) -> Option<T> {
        let newest = self.by_rank.last().filter(|(rank, _)| *rank >= least).map(|(_, ticket)| *ticket)?;
        let oldest = || self.waiting.iter().find(|(_, (rank, _))| *rank >= least).map(|(ticket, _)| *ticket);
        let is_oldest_next = self.oldest_next.contains(&least);
        let called = if is_oldest_next { oldest()? } else { newest };
        if is_oldest_next {
            self.oldest_next.remove(&least);
        } else {
            self.oldest_next.insert(least);
        }
        self.leave(called)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_turns_the_newest_and_the_oldest() {
        let mut line = Line::new();
        for who in 1..=5 {
            line.join((), who);
        }
        let order: Vec<i32> = std::iter::from_fn(|| line.call(())).collect();
        assert_eq!(order, [5, 1, 4, 2, 3]);
        assert_eq!((line.len(), line.by_rank.len()), (0, 0));
    }

    #[test]
    fn who_calls_some_only_takes_no_turn_from_the_others() {
        let mut line = Line::new();
        line.join(0, "agent");
        for _ in 0..4 {
            line.join(1, "operator");
        }
        let called = [line.call(0), line.call(1), line.call(0)];
        assert_eq!(called, [Some("operator"), Some("operator"), Some("agent")]);
    }

    #[test]
    fn who_matters_more_goes_before_newer_ones_and_never_before_the_oldest() {
        let mut line = Line::new();
        for (rank, who) in [(0, "old"), (2, "important"), (1, "other"), (0, "new"), (2, "important and new")] {
            line.join(rank, who);
        }
        let order: Vec<&str> = std::iter::from_fn(|| line.call(0)).collect();
        assert_eq!(order, ["important and new", "old", "important", "other", "new"]);
    }

    #[test]
    fn a_call_for_some_leaves_the_others_waiting() {
        let mut line = Line::new();
        for (rank, who) in [(0, "a"), (1, "b"), (0, "c"), (1, "d"), (1, "e")] {
            line.join(rank, who);
        }
        let order: Vec<&str> = std::iter::from_fn(|| line.call(1)).collect();
        assert_eq!((order, line.len()), (vec!["e", "b", "d"], 2));
    }

    #[test]
    fn who_has_left_is_not_called() {
        let mut line = Line::new();
        let (first, second) = (line.join((), 1), line.join((), 2));
        assert_eq!((line.leave(second), line.leave(second)), (Some(2), None));
        assert_eq!((line.call(()), line.call(())), (Some(1), None));
        assert_eq!(line.leave(first), None);
    }

    proptest! {
        /// Whatever joins and leaves: of two calls in a row one is for the oldest, and the first after a join at the front of a
        /// fresh pair of turns is for whoever has just come, if nobody matters more.
        #[test]
        fn nobody_is_passed_over_for_ever(steps in prop::collection::vec((0..4_u8, 0..3_u8, any::<prop::sample::Index>()), 1..200)) {
            let mut line = Line::new();
            let mut model: Vec<(Ticket, u8)> = Vec::new();
            let mut oldest_passed_over = 0;
            for (step, rank, index) in steps {
                match step {
                    0 | 1 => {
                        let who = model.last().map_or(1, |(ticket, _)| ticket.0 + 1).max(line.tickets + 1);
                        let ticket = line.join(rank, who);
                        prop_assert_eq!(ticket.0, who);
                        model.push((ticket, rank));
                    }
                    2 if !model.is_empty() => {
                        let at = index.index(model.len());
                        if at == 0 {
                            oldest_passed_over = 0;
                        }
                        let (ticket, _) = model.remove(at);
                        prop_assert_eq!(line.leave(ticket), Some(ticket.0));
                    }
                    _ => {
                        let called = line.call(0);
                        prop_assert_eq!(called.is_some(), !model.is_empty());
                        let Some(called) = called else { continue };
                        let at = model.iter().position(|(ticket, _)| ticket.0 == called);
                        let at = at.expect("it waits");
                        let newest = model.iter().enumerate().max_by_key(|(_, (ticket, rank))| (*rank, *ticket));
                        prop_assert!(at == 0 || Some(at) == newest.map(|(at, _)| at));
                        oldest_passed_over = if at == 0 { 0 } else { oldest_passed_over + 1 };
                        prop_assert!(oldest_passed_over <= 1, "passed over {} times", oldest_passed_over);
                        model.remove(at);
                    }
                }
                prop_assert_eq!((line.len(), line.by_rank.len()), (model.len(), model.len()));
            }
        }
    }
}
