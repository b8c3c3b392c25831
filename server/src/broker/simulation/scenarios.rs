//! Which stories are worth telling one by one? Scripts whose course is known.

use super::actors::{Agent, Operator};
use super::aim::Aim;
use super::ledger::{Over, Terms};
use super::site::Who;
use super::story::Deed;
use super::wires::Wire;
use super::world::World;
use crate::broker::event::Event;
use std::collections::BTreeSet;

/// Brokers joined by wires of cost 1 and 5 ms, each with one agent and one operator, after they have settled.
fn mesh(brokers: usize, pairs: &[(usize, usize)]) -> World {
    let mut world = World::new(brokers as u64);
    for number in 1..=brokers {
        world.add_site(&format!("b{number}"), 0);
    }
    world.wires = pairs.iter().map(|(a, b)| Wire::new(*a, *b, 1, 5..6)).collect();
    for site in 0..brokers {
        world.start(site);
        populate(&mut world, site);
    }
    keep(&world.settle("at first"), &world);
    world
}

fn populate(world: &mut World, site: usize) {
    let mut dice = world.dice.split();
    let mut agent = Agent::random(world.agents.len(), &mut dice);
    agent.home = Some(site);
    world.agents.push(agent);
    world.plan_join(Who::Agent(world.agents.len() - 1), 100);
    world.operators.push(Operator::random(site, &mut dice));
    world.plan_join(Who::Operator(world.operators.len() - 1), 100);
}

fn ring(brokers: usize) -> Vec<(usize, usize)> {
    (0..brokers).map(|n| (n, (n + 1) % brokers)).collect()
}

#[track_caller]
fn keep<T: Copy>(result: &Result<T, String>, world: &World) -> T {
    match result {
        Ok(value) => *value,
        Err(why) => panic!("at {} ms: {why}\n{}", world.now, world.tell(80)),
    }
}

fn everybody() -> (Aim, Terms) {
    (Aim::All, Terms { reply_within: 5_000, ..Terms::default() })
}

#[test]
fn a_broker_alone_keeps_all_of_it() {
    let mut world = mesh(1, &[]);
    for _ in 0..5 {
        populate(&mut world, 0);
    }
    for _ in 0..6 {
        for step in [World::chaos, |world: &mut World| world.settle("alone"), World::traffic] {
            let result = step(&mut world);
            keep(&result, &world);
        }
    }
    let result = world.ends();
    keep(&result, &world);
}

#[test]
fn a_ring_that_is_cut_in_the_middle_of_a_request_loses_nobody() {
    // The request is cut off before it arrives, on its way, while it is answered, and after.
    for after in (0..60).step_by(4).chain([100, 300, 900]) {
        let mut world = mesh(4, &ring(4));
        let (aim, terms) = everybody();
        let (_, id) = world.request(0, &aim, terms).expect("connected");
        world.is_settled = false;
        let result = world.run(after);
        keep(&result, &world);
        world.cut(0, 0..30);
        let result = world.ends();
        keep(&result, &world);
        let call = &world.ledger.calls[&id];
        assert!(matches!(&call.over, Some((_, Over::Done(done))) if done.without.is_empty()), "{after}: {call:?}");
        assert_eq!(call.plans.len(), 4, "every node got it");
    }
}

#[test]
fn a_broker_that_dies_with_a_request_is_named_or_its_nodes_are_lost() {
    for after in (0..60).step_by(4).chain([300, 900]) {
        let mut world = mesh(4, &ring(4));
        let (aim, terms) = everybody();
        let (_, id) = world.request(0, &aim, terms).expect("connected");
        world.is_settled = false;
        if let Some(call) = world.ledger.calls.get_mut(&id) {
            // It is not exact any more; what holds always holds here.
            call.truth = None;
        }
        let result = world.run(after);
        keep(&result, &world);
        world.deed(Deed::Kill { site: 2, is_told: after % 8 == 0, back_after: None });
        let result = world.ends();
        keep(&result, &world);
    }
}

#[test]
fn messages_reach_everybody_once_while_brokers_still_see_different_topologies() {
    let mut pairs = ring(8);
    pairs.extend([(0, 4), (1, 6), (2, 5)]);
    let mut world = mesh(8, &pairs);
    for (number, wire) in world.wires.iter_mut().enumerate() {
        // Unequal ways, so that some brokers hear of a change long before others.
        let least = 3 + 7 * (number as u64 % 5);
        wire.delay = least..least + 4;
    }
    for wire in 0..pairs.len() {
        for deed in [Deed::Cut { wire, notice: 1 }, Deed::Heal { wire }] {
            world.is_settled = false;
            world.is_calm = false;
            match deed {
                // Healed by hand below, not by chance.
                Deed::Cut { .. } => world.cut(wire, 0..1),
                _ => world.deed(deed),
            }
            // Both ends have noticed; nobody else knows yet.
            let result = world.run(1);
            keep(&result, &world);
            for _ in 0..40 {
                let operator = world.dice.below(8);
                world.message(operator, true);
                let result = world.run(4);
                keep(&result, &world);
            }
            let result = world.settle("after the change").and_then(|()| world.ledger.is_served());
            keep(&result, &world);
        }
    }
}

#[test]
fn twenty_brokers_agree_within_200_ms_of_a_cut() {
    let mut pairs = ring(20);
    pairs.extend([(0, 10), (3, 14), (5, 17), (2, 8), (7, 12)]);
    let mut world = mesh(20, &pairs);
    for wire in [0, 7, 20, 22] {
        world.is_settled = false;
        world.cut(wire, 0..1);
        // Both ends notice at once; the others have yet to hear of it.
        let noticed = world.run(1);
        keep(&noticed, &world);
        assert!(world.is_agreed().is_err(), "everybody knew of the cut of wire {wire} at once");
        let result = world.run_until(2_000, "all agree after a cut", World::is_agreed);
        let took = keep(&result, &world);
        assert!(took < 200, "{took} ms after wire {wire} was cut");
        world.deed(Deed::Heal { wire });
        let result = world.settle("after the cut");
        keep(&result, &world);
    }
}

#[test]
fn the_younger_of_two_with_one_name_leaves_and_the_mesh_stays() {
    let mut world = mesh(5, &[(0, 1), (1, 2), (2, 3), (3, 4)]);
    let lookalike = world.add_site("b1", 0);
    world.wires.push(Wire::new(4, lookalike, 1, 5..6));
    world.is_settled = false;
    world.start(lookalike);
    world.deed(Deed::Heal { wire: 4 });
    let result = world.run(10_000);
    keep(&result, &world);
    let alarms = &world.sites[lookalike].alarms;
    assert!(!alarms.is_empty(), "the younger says nothing\n{}", world.tell(80));
    let honest: BTreeSet<usize> = (0..5).collect();
    let result = world.agrees(&honest, true);
    keep(&result, &world);
    let (aim, terms) = everybody();
    let (_, id) = world.request(4, &aim, terms).expect("connected");
    let result = world.ends();
    keep(&result, &world);
    assert_eq!(world.ledger.calls[&id].plans.len(), 5, "all five of the mesh got it");
}

#[test]
fn nothing_is_routed_through_a_broker_that_drains() {
    let mut world = mesh(4, &ring(4));
    world.agents[1].home = Some(0);
    world.operators[1].home = 0;
    world.is_settled = false;
    world.handle(1, Event::Drain);
    let result = world.run(1_000);
    keep(&result, &world);
    let path = world.path(0, 2);
    assert_eq!(path, ["b4", "b3"], "the way around it");
}

#[test]
fn a_life_that_is_over_does_not_come_back_by_an_old_record() {
    let mut world = mesh(4, &[(0, 1), (1, 2), (2, 3), (3, 0)]);
    for _ in 0..3 {
        // Its record is raised, and then half of the mesh keeps it.
        world.deed(Deed::Cut { wire: 0, notice: 10 });
        world.deed(Deed::Heal { wire: 0 });
        let result = world.settle("after a flap");
        keep(&result, &world);
    }
    for wire in [1, 3] {
        world.cut(wire, 0..10);
    }
    let result = world.settle("in two halves");
    keep(&result, &world);
    world.kill(1, true);
    world.sites[1].skew -= 3_600_000;
    world.start(1);
    let result = world.settle("after the restart");
    keep(&result, &world);
    for wire in [1, 3] {
        world.deed(Deed::Heal { wire });
    }
    let result = world.settle("whole again");
    keep(&result, &world);
    let result = world.traffic();
    keep(&result, &world);
}

#[test]
fn a_broker_whose_disk_was_lost_goes_above_its_former_lives() {
    let mut world = mesh(3, &ring(3));
    for _ in 0..3 {
        world.kill(1, true);
        let result = world.run(100);
        keep(&result, &world);
        world.start(1);
        let result = world.settle("after a restart");
        keep(&result, &world);
    }
    world.kill(1, true);
    world.sites[1].boots = 0;
    world.start(1);
    let result = world.settle("with a counter that began anew");
    keep(&result, &world);
    let result = world.traffic();
    keep(&result, &world);
}
