//! Does everybody get in when more come at once than may log in, and is an operator answered in the middle of it?

use muster_tests::stomp::{End, connect};
use muster_tests::{Broker, Muster, Node, Setup, Stomp, until};
use serde_json::json;
use std::collections::BTreeSet;
use std::thread;

/// A broker where so many may log in at the same time, all from this address.
fn narrow(places: i64) -> Setup {
    Setup::new().with("limits.pending", places).with("limits.pending-per-address", 200).with("limits.login-time", "5m")
}

/// Connections that hold these places for as long as they like: they begin a handshake, and never go on with it.
fn hold(broker: &Broker, places: usize) -> Vec<Stomp> {
    let holders: Vec<Stomp> = (0..places)
        .map(|_| {
            let mut holder = Stomp::plain(broker.address());
            holder.raw(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]);
            holder
        })
        .collect();
    until("all places are taken", || (broker.status()["logging_in"] == places).then_some(()));
    holders
}

fn until_waiting(broker: &Broker, least: u64) {
    until("they wait", || (broker.status()["waiting"].as_u64() >= Some(least)).then_some(()));
}

fn until_nobody_waits(broker: &Broker) {
    let is_over = |status: serde_json::Value| status["waiting"] == 0 && status["logging_in"] == 0;
    until("all places are free", || is_over(broker.status()).then_some(()));
}

#[test]
fn who_says_nothing_takes_no_place_from_anybody() {
    let broker = narrow(1).start();
    let silent: Vec<Stomp> = (0..50).map(|_| Stomp::plain(broker.address())).collect();
    until_waiting(&broker, 50);
    assert_eq!(broker.status()["logging_in"], 0);
    broker.assert_serves();
    silent.into_iter().for_each(Stomp::cut);
    until_nobody_waits(&broker);
}

#[test]
fn who_finds_all_places_taken_waits_for_one() {
    let broker = narrow(2).start();
    let mut holders = hold(&broker, 2);
    thread::scope(|scope| {
        let honest = scope.spawn(|| Stomp::login(&broker, "noc"));
        until_waiting(&broker, 1);
        assert!(!honest.is_finished());
        holders.remove(0).cut();
        honest.join().expect("let in");
    });
    assert_eq!(broker.status()["logging_in"], 1, "the other one still holds its place");
}

#[test]
fn in_a_storm_everybody_gets_in_and_an_operator_is_answered() {
    let broker = narrow(2).start();
    let _known = Node::register(&broker, "node-acme", 250, json!({ "os": { "family": "Debian" } }));
    let operator = Muster::new(&broker, "noc");
    let holders = hold(&broker, 2);
    let find = ["find", "-w", "os.family=Debian", "--json", "--connect-timeout", "60s"];
    thread::scope(|scope| {
        let broker = &broker;
        let agents: Vec<_> =
            (0..60).map(|number| scope.spawn(move || Node::connect(broker, "node-acme", number))).collect();
        until_waiting(broker, 60);
        let answer = scope.spawn(|| operator.json(0, &find));
        until_waiting(broker, 61);
        holders.into_iter().for_each(Stomp::cut);
        // Whatever but CONNECTED came to one of them would end it.
        let sessions: Vec<Node> = agents.into_iter().map(|agent| agent.join().expect("let in")).collect();
        assert_eq!(answer.join().expect("answered")["count"], 1);
        let ids: BTreeSet<&str> = sessions.iter().map(|node| node.id.as_str()).collect();
        assert_eq!((ids.len(), broker.count("registering")), (60, 60));
        until_nobody_waits(broker);
    });
    let log = broker.log();
    assert!(!log.contains("auth-failed") && !log.contains("connection refused"), "{log}");
}

#[test]
fn who_waits_beside_wrong_passwords_is_not_taken_for_one_of_them() {
    let broker = narrow(1).with("limits.logins", 1).start();
    let holders = hold(&broker, 1);
    thread::scope(|scope| {
        let guessers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let mut guess = connect("noc");
                    guess.headers.set("passcode", "wrong");
                    let mut guesser = Stomp::dial(&broker);
                    guesser.send(guess);
                    guesser.error().code
                })
            })
            .collect();
        let honest: Vec<_> = (0..20).map(|_| scope.spawn(|| Stomp::login(&broker, "acme"))).collect();
        until_waiting(&broker, 40);
        holders.into_iter().for_each(Stomp::cut);
        honest.into_iter().for_each(|honest| drop(honest.join().expect("let in")));
        for guesser in guessers {
            let code = guesser.join().expect("an answer");
            assert!(code == "auth-failed" || code == "busy", "{code}");
        }
    });
    until_nobody_waits(&broker);
}

#[test]
fn where_too_many_wait_the_newest_is_turned_away_and_it_is_said_once() {
    let broker = narrow(1).with("limits.waiting", 3).start();
    let waiting: Vec<Stomp> = (0..3).map(|_| Stomp::plain(broker.address())).collect();
    until_waiting(&broker, 3);
    for _ in 0..5 {
        assert_ne!(Stomp::plain(broker.address()).end(), End::Silent, "there was room");
    }
    // The log comes through a pipe of its own.
    let told = || broker.log().matches("too many connections that wait to log in").count();
    until("each is on the log", || (told() >= 5).then_some(()));
    assert_eq!(told(), 1 + 4, "once as a warning");
    assert_eq!(broker.log().matches("and so are others until there is room").count(), 1);
    waiting.into_iter().for_each(Stomp::cut);
    until_nobody_waits(&broker);
    broker.assert_serves();
}
