//! Does one edition follow the other? Turns, compare and set, terms, pieces, refusals.

use super::*;
use crate::broker::access::Policy;
use muster_protocol::destination::Destination;
use muster_protocol::policy::{Edit, GroupFields};
use std::sync::Arc;

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).unwrap()
}

fn seal(term: u64, number: u64, authority: &str, bytes: u64) -> Seal {
    let generation = Generation { term, number };
    let stamp = Stamp { generation, authority: name(authority), sha256: format!("{term}{number}{authority}"), bytes };
    Seal {
        cluster: "prod".into(),
        stamp,
        made: Made::default(),
        lineage: Vec::new(),
        certificate: String::new(),
        signature: String::new(),
    }
}

fn edition(seal: Seal) -> Edition {
    let text = "x".repeat(seal.stamp.bytes as usize);
    Edition { seal: Some(seal), text: text.into(), policy: Arc::new(Policy::default()) }
}

/// Broker a with an edition of its own.
fn authority() -> Editions {
    Editions::new(name("a"), edition(seal(1, 5, "a", 10)))
}

fn said(seal: &Seal) -> PolicyState {
    PolicyState { stamp: Some(seal.stamp.clone()), rivals: BTreeSet::new() }
}

fn whose() -> Whose {
    let queue = Destination::parse("/remote-temp-queue/a.1").unwrap();
    Whose::Session(Asker { session: crate::broker::event::SessionId(1), queue, request: None })
}

fn edit(generation: Option<Generation>) -> Job {
    let edit = Edit::GroupAdd(GroupFields { name: "ops".into(), ..GroupFields::default() });
    let query = EditQuery { edit, generation, reason: String::new(), force: false, dry_run: false };
    Job::Edit(whose(), Box::new(query), Made::default())
}

/// The next errand, and the codes of what was refused before it.
fn next(editions: &mut Editions) -> (Option<Errand>, Vec<Code>) {
    let mut refused = Vec::new();
    let errand = editions.next(|_| Ok(()), &mut refused);
    (errand, refused.into_iter().map(|(_, refusal)| refusal.code).collect())
}

fn link(editions: &mut Editions, names: &[&str]) {
    let links = names.iter().enumerate().map(|(number, text)| (name(text), LinkId(number as u64))).collect();
    editions.set_links(links, 0);
    editions.take_letters();
}

#[test]
fn edits_are_made_one_after_the_other_each_on_the_one_before() {
    let mut editions = authority();
    editions.submit(edit(None)).unwrap();
    editions.submit(edit(Some(Generation { term: 1, number: 6 }))).unwrap();
    editions.submit(edit(Some(Generation { term: 1, number: 5 }))).unwrap();
    let (Some(Errand { id, chore: Chore::Amend(amend) }), _) = next(&mut editions) else { panic!("no errand") };
    assert_eq!(amend.generation, Some(Generation { term: 1, number: 6 }));
    assert!(next(&mut editions).0.is_none(), "one at a time");
    assert!(editions.done(id + 1).is_none(), "not this one");
    assert!(matches!(editions.done(id), Some(Undone::Edit(_, false))));
    editions.enforce(edition(seal(1, 6, "a", 10)), 0);
    let (errand, refused) = next(&mut editions);
    let Some(Errand { id, chore: Chore::Amend(amend) }) = errand else { panic!("no errand") };
    assert_eq!((amend.generation, refused.len()), (Some(Generation { term: 1, number: 7 }), 0));
    editions.done(id);
    editions.enforce(edition(seal(1, 7, "a", 10)), 0);
    let (errand, refused) = next(&mut editions);
    assert!(errand.is_none());
    assert_eq!(refused, [Code::StaleGeneration]);
}

#[test]
fn a_bounded_number_waits_and_a_newer_hand_edit_replaces_an_older_one() {
    let mut editions = authority();
    for _ in 0..WAITING {
        editions.submit(edit(None)).unwrap();
    }
    assert_eq!(editions.submit(edit(None)).unwrap_err().code, Code::Busy);
    let hand = |text: &str| {
        let change = Change::Hand(text.into(), Arc::new(Policy::default()));
        Job::hand(change, Some(Generation { term: 1, number: 5 }), &name("a"), 0)
    };
    editions.submit(hand("one")).unwrap();
    editions.submit(hand("two")).unwrap();
    assert_eq!(editions.jobs.len(), WAITING + 1);
}

#[test]
fn an_edit_by_hand_of_a_text_that_holds_no_more_is_put_back() {
    let mut editions = authority();
    let change = Change::Hand("".into(), Arc::new(Policy::default()));
    editions.submit(Job::hand(change, Some(Generation { term: 1, number: 4 }), &name("a"), 0)).unwrap();
    let (errand, _) = next(&mut editions);
    let Some(Errand { chore: Chore::PutBack(back), .. }) = errand else { panic!("{errand:?}") };
    assert_eq!(back.why.code, Code::StaleGeneration);
}

#[test]
fn who_may_not_edit_any_more_when_the_turn_comes_is_refused() {
    let mut editions = authority();
    editions.submit(edit(None)).unwrap();
    let mut refused = Vec::new();
    let denied = |_: &Job| Err(Refusal::new(Code::Denied, "removed"));
    assert!(editions.next(denied, &mut refused).is_none());
    assert_eq!(refused[0].1.code, Code::Denied);
}

#[test]
fn two_in_one_term_stop_editing_until_it_is_taken_again() {
    let mut editions = authority();
    link(&mut editions, &["c"]);
    editions.hear(&name("c"), said(&seal(1, 9, "b", 10)), 0);
    assert!(editions.fetch.is_none(), "the smaller name holds");
    let told = editions.take_letters();
    assert!(matches!(&told[..], [Letter { head: Head::Policy(state), .. }] if state.rivals.contains(&name("b"))));
    editions.submit(edit(None)).unwrap();
    assert_eq!(next(&mut editions).1, [Code::Contested]);
    assert_eq!(editions.answer(true).rivals, ["b"]);
    assert!(editions.alarms().next().unwrap().contains("both took the authority in term 1"));
    editions.submit(Job::Take(whose(), Made::default())).unwrap();
    let (Some(Errand { id, chore: Chore::Amend(amend) }), _) = next(&mut editions) else { panic!("no errand") };
    assert_eq!(amend.generation, Some(Generation { term: 2, number: 6 }));
    assert_eq!(amend.lineage.last().unwrap().generation, Generation { term: 1, number: 5 });
    editions.done(id);
    editions.enforce(edition(seal(2, 6, "a", 10)), 0);
    editions.submit(edit(None)).unwrap();
    assert!(next(&mut editions).0.is_some(), "one authority again");
}

#[test]
fn a_rival_that_only_others_have_met_stops_editing_too() {
    let mut editions = authority();
    link(&mut editions, &["c"]);
    let state = PolicyState { rivals: BTreeSet::from([name("b")]), ..said(&seal(1, 5, "a", 10)) };
    editions.hear(&name("c"), state, 0);
    editions.submit(edit(None)).unwrap();
    assert_eq!(next(&mut editions).1, [Code::Contested]);
}

#[test]
fn a_taken_term_is_above_every_one_that_was_heard_of() {
    let mut editions = authority();
    link(&mut editions, &["c"]);
    editions.hear(&name("c"), said(&seal(7, 1, "b", 10)), 0);
    editions.submit(Job::Take(whose(), Made::default())).unwrap();
    let (Some(Errand { chore: Chore::Amend(amend), .. }), _) = next(&mut editions) else { panic!("no errand") };
    assert_eq!(amend.generation, Some(Generation { term: 8, number: 6 }));
}

#[test]
fn a_follower_does_not_edit() {
    let mut editions = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    editions.submit(edit(None)).unwrap();
    assert_eq!(next(&mut editions).1, [Code::NoAuthority]);
    let mut unsealed = Editions::new(name("b"), Arc::new(Policy::default()).into());
    unsealed.submit(edit(None)).unwrap();
    assert_eq!(next(&mut unsealed).1, [Code::NoAuthority]);
}

#[test]
fn a_long_text_comes_in_windows_of_pieces() {
    let length = WINDOW + 100_000;
    let newer = seal(1, 6, "a", length);
    let mut there = Editions::new(name("a"), edition(newer.clone()));
    let mut here = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut there, &["b"]);
    link(&mut here, &["a"]);
    here.hear(&name("a"), said(&newer), 0);
    let (mut wants, mut pieces) = (0, 0);
    loop {
        let letters = here.take_letters();
        let [Letter { head: Head::WantPolicy(want), .. }] = &letters[..] else { break };
        wants += 1;
        there.wanted(&name("b"), want);
        for Letter { head, body, .. } in there.take_letters() {
            let Head::PolicyPart(part) = head else { panic!("{head:?}") };
            assert!(body.len() <= PART);
            pieces += 1;
            here.piece(&name("a"), *part, &body, 0);
        }
    }
    assert_eq!((wants, pieces), (2, length.div_ceil(PART as u64)));
    let (Some(Errand { id, chore: Chore::Adopt(adopt) }), _) = next(&mut here) else { panic!("no errand") };
    assert_eq!((adopt.text.len() as u64, adopt.set_aside), (length, false));
    assert!(matches!(here.done(id), Some(Undone::Adopt(..))));
}

#[test]
fn what_was_not_asked_for_is_no_piece_and_what_is_lost_is_asked_for_again() {
    let newer = seal(1, 6, "a", 20);
    let mut here = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut here, &["a", "c"]);
    here.hear(&name("a"), said(&newer), 100);
    here.take_letters();
    let part = |seal: &Seal, from| PolicyPart { seal: seal.clone(), from };
    here.piece(&name("c"), part(&newer, 0), &[b'x'; 20], 100);
    here.piece(&name("a"), part(&seal(9, 9, "a", 20), 0), &[b'x'; 20], 100);
    here.piece(&name("a"), part(&newer, 5), &[b'x'; 15], 100);
    here.piece(&name("a"), part(&newer, 0), &[b'x'; 21], 100);
    assert!(next(&mut here).0.is_none());
    here.piece(&name("a"), part(&newer, 0), &[b'x'; 12], 100);
    assert_eq!(here.next_deadline(), Some(100 + PATIENCE));
    here.tick(100 + PATIENCE);
    let want = WantPolicy { sha256: newer.stamp.sha256.clone(), from: 12, bytes: WINDOW };
    assert_eq!(here.take_letters(), [Letter { to: name("a"), head: Head::WantPolicy(want), body: Vec::new() }]);
    here.piece(&name("a"), part(&newer, 12), &[b'x'; 8], 4_000);
    assert!(matches!(next(&mut here).0, Some(Errand { chore: Chore::Adopt(_), .. })));
}

#[test]
fn what_was_refused_is_fetched_from_somebody_else_and_not_again_from_there() {
    let newer = seal(2, 6, "c", 5);
    let mut here = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut here, &["a", "c"]);
    here.hear(&name("c"), said(&newer), 0);
    here.piece(&name("c"), PolicyPart { seal: newer.clone(), from: 0 }, b"bogus", 0);
    let (Some(Errand { id, chore: Chore::Adopt(adopt) }), _) = next(&mut here) else { panic!("no errand") };
    assert!(adopt.set_aside, "term 2 says nothing of 1.5");
    let Some(Undone::Adopt(from, stamp)) = here.done(id) else { panic!("not done") };
    here.take_letters();
    here.refused(&from, &stamp, &Refusal::new(Code::Internal, "forged"), 0);
    assert!(here.alarms().next().unwrap().contains("offered by c, was refused: forged"));
    assert!(here.take_letters().is_empty() && next(&mut here).0.is_none());
    here.hear(&name("a"), said(&newer), 0);
    assert!(matches!(&here.take_letters()[..], [Letter { to, head: Head::WantPolicy(_), .. }] if *to == name("a")));
}

#[test]
fn a_link_that_goes_takes_its_offer_with_it() {
    let newer = seal(1, 6, "a", 20);
    let mut here = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut here, &["a", "c"]);
    here.hear(&name("a"), said(&newer), 0);
    here.hear(&name("c"), said(&newer), 0);
    let first = here.take_letters();
    assert_eq!(first.len(), 1, "asked once");
    let other = if first[0].to == name("a") { "c" } else { "a" };
    here.set_links(BTreeMap::from([(name(other), LinkId(if other == "a" { 0 } else { 1 }))]), 0);
    assert!(matches!(&here.take_letters()[..], [Letter { to, head: Head::WantPolicy(_), .. }] if *to == name(other)));
    // A new connection of the same name knows nothing yet.
    here.set_links(BTreeMap::from([(name(other), LinkId(7))]), 0);
    assert!(matches!(&here.take_letters()[..], [Letter { head: Head::Policy(_), .. }]));
    assert!(here.fetch.is_none());
}

/// Offers of a neighbour that it does not keep.
fn until_given_up(editions: &mut Editions, from: u64) -> u64 {
    let mut now = from;
    while editions.fetch.is_some() {
        now = editions.next_deadline().expect("something to wait for");
        assert!(now <= from + PATIENCE * u64::from(ASKS + 1), "given up in time");
        editions.tick(now);
    }
    now
}

#[test]
fn a_neighbour_that_does_not_send_what_it_offers_keeps_nobody_from_what_others_have() {
    let (claimed, newer) = (seal(9, 9, "c", 1_000), seal(1, 6, "a", 20));
    let mut here = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut here, &["a", "c"]);
    here.hear(&name("c"), said(&claimed), 0);
    here.hear(&name("a"), said(&newer), 0);
    assert!(here.take_letters().iter().all(|letter| letter.to == name("c")), "the higher term first");
    let now = until_given_up(&mut here, 0);
    assert!(here.alarms().any(|alarm| alarm == "c offers policy 9.9 of c, and does not send it"));
    here.tick(now + WAIT);
    let last = here.take_letters().pop();
    assert!(matches!(&last, Some(Letter { to, head: Head::WantPolicy(_), .. }) if *to == name("a")), "{last:?}");
    here.piece(&name("a"), PolicyPart { seal: newer.clone(), from: 0 }, &[b'x'; 20], now);
    let (Some(Errand { id, chore: Chore::Adopt(_) }), _) = next(&mut here) else { panic!("no errand") };
    here.done(id);
    here.enforce(edition(newer), now + WAIT);
    // It is asked again, for it may only have been slow; and it says something else each time.
    assert!(here.take_letters().iter().any(|letter| matches!(letter.head, Head::WantPolicy(_))));
    let now = until_given_up(&mut here, now + WAIT);
    assert_eq!(here.next_deadline(), Some(now + 2 * WAIT));
    here.take_letters();
    for number in 0..100 {
        here.hear(&name("c"), said(&seal(10 + number, 9, "c", 1_000)), now);
    }
    assert!(here.take_letters().is_empty(), "not before its time");
    assert_eq!(here.alarms().count(), 1, "one alarm about one thing");
}

#[test]
fn drops_do_not_keep_a_fetch_alive_for_ever() {
    let newer = seal(1, 6, "a", 1_000);
    let mut here = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut here, &["a"]);
    here.hear(&name("a"), said(&newer), 0);
    let mut now = 0;
    for from in 0..100 {
        here.piece(&name("a"), PolicyPart { seal: newer.clone(), from }, b"x", now);
        here.piece(&name("a"), PolicyPart { seal: newer.clone(), from: from + 1 }, b"", now);
        now += PATIENCE - 1;
        here.tick(now);
        if here.fetch.is_none() {
            break;
        }
    }
    assert!(here.fetch.is_none() && now <= FETCH + 1_000 + PATIENCE, "{now}");
}

#[test]
fn what_a_neighbour_says_uses_up_no_terms() {
    let far = seal(u64::MAX, u64::MAX, "c", 10);
    for mut here in [authority(), Editions::new(name("b"), Arc::new(Policy::default()).into())] {
        link(&mut here, &["c"]);
        here.hear(&name("c"), said(&far), 0);
        here.submit(Job::Take(whose(), Made::default())).unwrap();
        let (Some(Errand { chore: Chore::Amend(amend), .. }), _) = next(&mut here) else { panic!("no errand") };
        assert!(amend.generation.unwrap().term <= LEAP + 2, "{:?}", amend.generation);
    }
    let mut here = authority();
    link(&mut here, &["c"]);
    here.hear(&name("c"), said(&far), 0);
    assert!(here.fetch.is_none() && here.alarms().next().unwrap().contains("no cluster comes to"));
    here.submit(edit(None)).unwrap();
    assert!(next(&mut here).0.is_some(), "edits go on");
}

#[test]
fn whoever_is_not_in_the_list_is_no_rival() {
    let mut own = edition(seal(1, 5, "a", 10));
    own.policy = Arc::new(Policy::parse("authority = \"a\"\n[brokers.a]\n[brokers.b]\n[brokers.c]\n").unwrap());
    let mut here = Editions::new(name("a"), own);
    link(&mut here, &["c"]);
    let rivals = (0..1_000).map(|number| name(&format!("x{number}"))).collect();
    here.hear(&name("c"), PolicyState { rivals, ..said(&seal(1, 5, "a", 10)) }, 0);
    assert!(here.rivals.is_empty() && here.take_letters().is_empty());
    here.hear(&name("c"), said(&seal(1, 4, "b", 10)), 0);
    assert_eq!(here.answer(true).rivals, ["b"]);
}

#[test]
fn many_wants_at_once_get_one_window() {
    let mut there = Editions::new(name("a"), edition(seal(1, 6, "a", 2 * WINDOW)));
    link(&mut there, &["b", "c"]);
    let want = WantPolicy { sha256: there.current.seal.clone().unwrap().stamp.sha256, from: 0, bytes: WINDOW };
    for _ in 0..100 {
        there.wanted(&name("b"), &want);
    }
    there.wanted(&name("c"), &want);
    let letters = there.take_letters();
    let of = |to: &str| letters.iter().filter(|letter| letter.to == name(to)).map(|l| l.body.len() as u64).sum::<u64>();
    assert_eq!((of("b"), of("c")), (WINDOW, WINDOW));
}

#[test]
fn an_authority_that_was_set_back_keeps_what_it_made_since() {
    let mut here = authority();
    link(&mut here, &["c"]);
    let newer = seal(1, 9, "a", 5);
    here.hear(&name("c"), said(&newer), 0);
    here.piece(&name("c"), PolicyPart { seal: newer, from: 0 }, b"xxxxx", 0);
    let (Some(Errand { chore: Chore::Adopt(adopt), .. }), _) = next(&mut here) else { panic!("no errand") };
    assert!(adopt.set_aside);
    // And followers of it that have another edition of the same number.
    let mut follower = Editions::new(name("b"), edition(seal(1, 5, "a", 10)));
    link(&mut follower, &["a"]);
    let mut fork = seal(1, 5, "a", 5);
    fork.stamp.sha256 = "zz".into();
    follower.hear(&name("a"), said(&fork), 0);
    follower.piece(&name("a"), PolicyPart { seal: fork, from: 0 }, b"xxxxx", 0);
    let (Some(Errand { chore: Chore::Adopt(adopt), .. }), _) = next(&mut follower) else { panic!("no errand") };
    assert!(adopt.set_aside);
}
