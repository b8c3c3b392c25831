//! Are the bounds kept, does everybody get a turn, and is nothing left behind?

use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

const CAPS: Caps = Caps {
    pending: 2,
    pending_per_address: 100,
    waiting: 100,
    connections: 1_000,
    connections_per_address: 0,
    login_time: Duration::ZERO,
};

fn origin(number: u8) -> Origin {
    Origin::of(IpAddr::from([10, 0, 0, number]))
}

/// An entrance where all places are taken, by origin 0.
fn taken(caps: Caps) -> Entrance<&'static str> {
    let mut entrance = Entrance::new(caps);
    for _ in 0..caps.pending {
        assert_eq!(arrive(&mut entrance, 0, "has a place"), None);
    }
    entrance
}

fn arrive(entrance: &mut Entrance<&'static str>, from: u8, who: &'static str) -> Option<Ticket> {
    entrance.enter(origin(from)).expect("room");
    entrance.speak(origin(from), who)
}

fn why(entrance: &mut Entrance<&'static str>, from: u8) -> Option<&'static str> {
    entrance.enter(origin(from)).err().map(|turned| turned.reason)
}

#[test]
fn who_says_nothing_takes_no_place() {
    let mut entrance = Entrance::<&str>::new(CAPS);
    for from in 1..=50 {
        entrance.enter(origin(from)).expect("room");
    }
    assert_eq!(entrance.counts(), Counts { open: 50, waiting: 50, pending: 0 });
    assert_eq!(arrive(&mut entrance, 99, "honest"), None, "a place at once");
    for from in 1..=50 {
        entrance.give_up_silent(origin(from));
        entrance.close(origin(from));
    }
    assert_eq!(entrance.counts(), Counts { open: 1, waiting: 0, pending: 1 });
}

#[test]
fn the_newest_goes_first_and_the_oldest_next() {
    let mut entrance = taken(CAPS);
    for (from, who) in [(1, "first"), (2, "second"), (3, "third"), (4, "fourth")] {
        assert!(arrive(&mut entrance, from, who).is_some());
    }
    let order: Vec<&str> = [0, 0, 4, 1].into_iter().filter_map(|from| entrance.leave_place(origin(from))).collect();
    assert_eq!(order, ["fourth", "first", "third", "second"]);
    assert_eq!((entrance.leave_place(origin(3)), entrance.leave_place(origin(2))), (None, None));
    assert_eq!(entrance.counts(), Counts { open: 6, waiting: 0, pending: 0 });
}

#[test]
fn one_origin_with_many_connections_does_not_go_before_others() {
    let mut entrance = taken(CAPS);
    arrive(&mut entrance, 1, "honest");
    for who in ["flood 1", "flood 2", "flood 3"] {
        arrive(&mut entrance, 2, who);
    }
    // Newest of those who are alone, oldest of all, and so on.
    let order: Vec<&str> = [0, 0, 2].into_iter().filter_map(|from| entrance.leave_place(origin(from))).collect();
    assert_eq!(order, ["flood 1", "honest", "flood 3"]);
}

#[test]
fn an_operator_who_was_let_in_before_goes_before_a_storm_that_is_newer() {
    let mut entrance = taken(CAPS);
    entrance.expect_again(origin(9));
    arrive(&mut entrance, 1, "storm");
    arrive(&mut entrance, 9, "operator");
    for from in 10..60 {
        arrive(&mut entrance, from, "storm");
    }
    assert_eq!(entrance.leave_place(origin(0)), Some("operator"));
}

#[test]
fn an_operator_who_was_let_in_before_finds_room_where_all_who_wait_have_taken_it() {
    let mut entrance = taken(Caps { waiting: 1, ..CAPS });
    entrance.expect_again(origin(9));
    arrive(&mut entrance, 1, "storm");
    assert_eq!(why(&mut entrance, 2), Some("too many connections that wait to log in"));
    arrive(&mut entrance, 9, "operator");
    assert_eq!(entrance.leave_place(origin(0)), Some("operator"));
}

#[test]
fn origins_of_operators_are_forgotten_at_a_bound_the_longest_ago_first() {
    let mut known = Known::default();
    let at = |number: usize| Origin::of(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes()));
    (0..KNOWN_MOST).for_each(|number| known.add(at(number)));
    known.add(at(0));
    known.add(at(KNOWN_MOST));
    assert!(known.contains(at(0)) && !known.contains(at(1)) && known.contains(at(KNOWN_MOST)));
    assert_eq!((known.origins.len(), known.by_time.len()), (KNOWN_MOST, KNOWN_MOST));
}

#[test]
fn those_who_wait_and_those_who_log_in_count_together_for_an_origin() {
    let mut entrance = taken(Caps { pending: 1, pending_per_address: 3, ..CAPS });
    arrive(&mut entrance, 0, "in the line");
    entrance.enter(origin(0)).expect("says nothing yet");
    assert_eq!(why(&mut entrance, 0), Some("too many connections from this address that have not logged in"));
    assert_eq!(why(&mut entrance, 1), None);
    entrance.give_up_silent(origin(0));
    entrance.close(origin(0));
    assert_eq!((why(&mut entrance, 0), entrance.turned_away()), (None, 1));
}

#[test]
fn connections_are_bounded_in_all_and_by_origin() {
    let mut entrance = Entrance::<&str>::new(Caps { connections: 3, connections_per_address: 2, ..CAPS });
    for _ in 0..2 {
        assert_eq!(arrive(&mut entrance, 1, ""), None);
        entrance.leave_place(origin(1));
    }
    assert_eq!(why(&mut entrance, 1), Some("too many connections from this address"));
    assert_eq!(why(&mut entrance, 2), None);
    assert_eq!(why(&mut entrance, 3), Some("too many connections"));
}

#[test]
fn who_takes_all_connections_does_not_lock_out_an_operator() {
    let mut entrance = Entrance::<&str>::new(Caps { connections: 2, ..CAPS });
    entrance.expect_again(origin(9));
    for from in 1..=2 {
        assert_eq!(arrive(&mut entrance, from, ""), None);
        entrance.leave_place(origin(from));
    }
    assert_eq!(why(&mut entrance, 3), Some("too many connections"));
    assert_eq!(why(&mut entrance, 9), None);
}

#[test]
fn a_flood_is_told_once_until_there_was_room() {
    let news = |entrance: &mut Entrance<&'static str>, from| entrance.enter(origin(from)).err().map(|t| t.is_news);
    let leave = |entrance: &mut Entrance<&'static str>, from| {
        entrance.give_up_silent(origin(from));
        entrance.close(origin(from));
    };
    let mut entrance = Entrance::<&str>::new(Caps { pending_per_address: 2, ..CAPS });
    assert_eq!([news(&mut entrance, 1), news(&mut entrance, 1)], [None; 2]);
    assert_eq!([news(&mut entrance, 1), news(&mut entrance, 1)], [Some(true), Some(false)]);
    leave(&mut entrance, 1);
    assert_eq!(news(&mut entrance, 1), None, "a place was left");
    assert_eq!(news(&mut entrance, 1), Some(false), "some of the same flood are still here");
    (0..2).for_each(|_| leave(&mut entrance, 1));
    assert_eq!([news(&mut entrance, 1), news(&mut entrance, 1)], [None; 2]);
    assert_eq!(news(&mut entrance, 1), Some(true), "they had all gone");

    let mut entrance = Entrance::<&str>::new(Caps { waiting: 2, ..CAPS });
    assert_eq!([news(&mut entrance, 1), news(&mut entrance, 2)], [None; 2]);
    assert_eq!([news(&mut entrance, 3), news(&mut entrance, 1)], [Some(true), Some(false)], "whoever asks");
    leave(&mut entrance, 1);
    leave(&mut entrance, 2);
    assert_eq!([news(&mut entrance, 1), news(&mut entrance, 2)], [None; 2]);
    assert_eq!(news(&mut entrance, 3), Some(true));
}

#[test]
fn who_waits_in_vain_is_told_of_once_until_nobody_waits() {
    let mut entrance = taken(CAPS);
    let tickets = [1, 2].map(|from| (from, arrive(&mut entrance, from, "").expect("it waits")));
    assert_eq!([entrance.is_too_late().is_news, entrance.is_too_late().is_news], [true, false]);
    for (from, ticket) in tickets {
        assert_eq!(entrance.give_up(origin(from), ticket), None);
        entrance.close(origin(from));
    }
    entrance.leave_place(origin(0));
    assert_eq!((entrance.is_too_late().is_news, entrance.turned_away()), (true, 3));
}

#[test]
fn a_place_that_was_given_to_somebody_who_has_gone_is_given_to_the_next() {
    let mut entrance = taken(CAPS);
    arrive(&mut entrance, 1, "old");
    let gone = arrive(&mut entrance, 2, "gone").expect("it waits");
    assert_eq!(entrance.leave_place(origin(0)), Some("gone"));
    assert_eq!(entrance.give_up(origin(2), gone), Some("old"));
    assert_eq!(entrance.counts().pending, 2);
}

/// What one connection of a random story is at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Silent,
    InLine(Ticket),
    /// It was told so.
    HasPlace,
    LoggedIn,
}

proptest! {
    /// Whatever comes, speaks, goes and logs in: the bounds hold, no place stays free while somebody waits, whoever is called
    /// has waited, of two calls in a row one is for the oldest, and when all have gone nothing is left.
    #[test]
    fn bounds_hold_and_nobody_is_forgotten(
        steps in prop::collection::vec((0..6_u8, 0..6_u8, any::<prop::sample::Index>()), 1..300),
        pending in 1..4_usize,
        per_address in 1..6_usize,
        waiting in 1..12_usize,
    ) {
        let caps = Caps { pending, pending_per_address: per_address, waiting, connections: 20, ..CAPS };
        let mut entrance = Entrance::<usize>::new(caps);
        let mut all: BTreeMap<usize, (u8, At)> = BTreeMap::new();
        let mut passed_over = 0;
        let mut steps: Vec<_> = steps.into_iter().enumerate().collect();
        // In the end all go.
        let (end, any) = (steps.len(), steps[0].1.2);
        steps.extend((end..end + 60).map(|number| (number, (5, 0, any))));
        for (number, (step, from, index)) in steps {
            let one_of = |fits: &dyn Fn(At) -> bool| {
                let some: Vec<usize> = all.iter().filter(|(_, (_, at))| fits(*at)).map(|(who, _)| *who).collect();
                (!some.is_empty()).then(|| some[index.index(some.len())])
            };
            let mut called = None;
            let in_line = |all: &BTreeMap<usize, (u8, At)>| -> Vec<(Ticket, usize)> {
                let mut line: Vec<_> = all
                    .iter()
                    .filter_map(|(who, (_, at))| if let At::InLine(ticket) = at { Some((*ticket, *who)) } else { None })
                    .collect();
                line.sort();
                line
            };
            match step {
                0 | 1 => {
                    if entrance.enter(origin(from)).is_ok() {
                        all.insert(number, (from, At::Silent));
                    }
                }
                2 => if let Some(who) = one_of(&|at| at == At::Silent) {
                    let (from, at) = all.get_mut(&who).unwrap();
                    *at = entrance.speak(origin(*from), who).map_or(At::HasPlace, At::InLine);
                }
                3 => if let Some(who) = one_of(&|at| at == At::HasPlace) {
                    let (from, at) = all.get_mut(&who).unwrap();
                    *at = At::LoggedIn;
                    if *from == 0 {
                        entrance.expect_again(origin(*from));
                    }
                    called = Some(entrance.leave_place(origin(*from)));
                }
                _ => if let Some(who) = one_of(&|_| true) {
                    let before = in_line(&all);
                    let (from, at) = all.remove(&who).unwrap();
                    match at {
                        At::Silent => entrance.give_up_silent(origin(from)),
                        At::InLine(ticket) => {
                            prop_assert_eq!(entrance.give_up(origin(from), ticket), None);
                            if before.first().is_some_and(|(_, oldest)| *oldest == who) {
                                passed_over = 0;
                            }
                        }
                        At::HasPlace => called = Some(entrance.leave_place(origin(from))),
                        At::LoggedIn => {}
                    }
                    entrance.close(origin(from));
                }
            }
            if let Some(called) = called {
                let line = in_line(&all);
                prop_assert_eq!(called.is_some(), !line.is_empty());
                if let Some(who) = called {
                    prop_assert!(line.iter().any(|(_, waits)| *waits == who));
                    passed_over = if line[0].1 == who { 0 } else { passed_over + 1 };
                    prop_assert!(passed_over <= 1);
                    all.get_mut(&who).unwrap().1 = At::HasPlace;
                }
            }
            let count = |fits: &dyn Fn(u8, At) -> bool| all.values().filter(|(from, at)| fits(*from, *at)).count();
            let waits = |at| matches!(at, At::Silent | At::InLine(_));
            let counts = Counts {
                open: all.len(),
                waiting: count(&|_, at| waits(at)),
                pending: count(&|_, at| at == At::HasPlace),
            };
            prop_assert_eq!(entrance.counts(), counts);
            prop_assert!(counts.pending <= pending && counts.open <= 20 + KNOWN_ROOM);
            // Those from where an operator was let in may be more.
            prop_assert!(count(&|from, at| from != 0 && waits(at)) <= waiting);
            for from in 0..6 {
                prop_assert!(count(&|of, at| of == from && at != At::LoggedIn) <= per_address);
            }
            prop_assert!(counts.pending == pending || in_line(&all).is_empty(), "a place is free and somebody waits");
        }
        prop_assert!(all.is_empty() && entrance.origins.is_empty() && entrance.line.len() == 0, "all have gone");
    }
}
