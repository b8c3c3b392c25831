//! What must not harm a mesh, whatever comes to the port for links? A clear word to both sides, and the mesh goes on.

use muster_protocol::link::{
    Beat, Digest, Direct, Forward, Head, Letter, LinkState, Load, MAX_COST, Refused, Serial, Word,
};
use muster_protocol::message::BrokerName;
use muster_tests::cluster::{broker_of, reached};
use muster_tests::link::{Link, Papers, hello};
use muster_tests::made::Family;
use muster_tests::{Account, Cluster, Crew, LIMIT, Plan, Setup, request, until};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

/// noc1 and dc1, linked; dc2 is in the list, and whoever has its papers can take its part.
fn two() -> Cluster {
    Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").absent("dc2").start()
}

/// The files of a broker that is not started.
struct Files(tempfile::TempDir);

impl Files {
    fn of(family: Family, name: &str) -> Files {
        let folder = tempfile::tempdir().expect("a temporary folder");
        family.copy(name, folder.path());
        Files(folder)
    }

    fn papers(&self) -> Papers {
        Papers::in_folder(self.0.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn papers(name: &str) -> Papers {
    Files::of(Family::Ours, name).papers()
}

fn name(text: &str) -> BrokerName {
    BrokerName::parse(text).expect("a broker's name")
}

/// Every broker reaches all that are there, and a request from anywhere every node.
fn assert_intact(cluster: &Cluster) {
    cluster.until_settled();
    let mut crew = Crew::default();
    for (number, at) in (1..).zip(cluster.names()) {
        crew.join(cluster.nodes(&at, "node-acme", [number]));
    }
    let names = cluster.names();
    let counts: Vec<(&str, u64)> = names.iter().map(|at| (at.as_str(), 1)).collect();
    cluster.until_nodes(&counts);
    for at in cluster.names() {
        let mut operator = cluster.operator(&at);
        assert_eq!(operator.find("has n").len(), crew.ids().len(), "{at} knows all nodes");
        operator.send(request("prod.node.ping", "intact", "has n"));
        let account = Account::of(&mut operator, "intact");
        account.assert_exact();
        assert_eq!(account.in_state("ok"), crew.ids(), "{account:#?}");
    }
    for (at, log) in cluster.logs() {
        assert!(!log.contains(" panicked at "), "{at} panicked");
    }
}

/// Waits until the log of a broker has a line with all of these words, whatever their case.
fn until_logged(cluster: &Cluster, at: &str, words: &[&str]) {
    until(&format!("the log of {at} says {words:?}"), || {
        let log = cluster[at].log().to_lowercase();
        log.lines().any(|line| words.iter().all(|word| line.contains(&word.to_lowercase()))).then_some(())
    });
}

/// Dials noc1 and says HELLO: the refusal that comes.
fn refused(cluster: &Cluster, papers: &Papers, ours: muster_protocol::link::Hello) -> Option<Refused> {
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", papers).expect("TLS begins");
    link.send(&Head::Hello(ours), &[]);
    link.refusal()
}

/// It is refused with this code, a text, and a line in the broker's log.
fn assert_refused(cluster: &Cluster, papers: &Papers, ours: muster_protocol::link::Hello, code: &str, words: &[&str]) {
    let refused = refused(cluster, papers, ours).unwrap_or_else(|| panic!("the link was closed without {code}"));
    assert_eq!(refused.code, code, "{refused:?}");
    for word in words {
        assert!(refused.text.contains(word), "no {word} in {refused:?}");
    }
    until_logged(cluster, "noc1", &[code]);
}

#[test]
fn who_is_of_another_cluster_is_told_so() {
    let cluster = two();
    let mut other = hello("dc2");
    other.cluster = "elsewhere".into();
    assert_refused(&cluster, &papers("dc2"), other.clone(), "wrong-cluster", &["elsewhere", "demo"]);
    // A certificate for that other cluster, signed by our CA.
    let papers = Papers::signed(Family::Ours, &["dc2.elsewhere.muster"], true);
    let refused = refused(&cluster, &papers, other).expect("a refusal");
    assert!(["wrong-cluster", "wrong-identity"].contains(&refused.code.as_str()), "{refused:?}");
    assert_intact(&cluster);
}

#[test]
fn a_broker_of_another_ca_is_refused_by_both_sides() {
    for family in [Family::OtherCa, Family::OtherCluster] {
        let cluster = Plan::of(&["noc1", "dc1", "dc2"]).link("noc1", "dc1").link("dc2", "noc1").from(family, "dc2");
        let mut cluster = cluster.start_unsettled();
        // Who dials does not trust the certificate; who listens is told so by TLS.
        until_logged(&cluster, "dc2", &["noc1", "certificate"]);
        until_logged(&cluster, "noc1", &["certificate"]);
        cluster.kill("dc2");
        assert_intact_without(&cluster, "dc2");
    }
}

/// As [`assert_intact`], for the brokers but one that has ended.
fn assert_intact_without(cluster: &Cluster, gone: &str) {
    cluster.until_settled();
    for at in cluster.names().iter().filter(|name| *name != gone) {
        let mesh = cluster.mesh(at).expect("an answer");
        assert_eq!(reached(&mesh), BTreeSet::from(["dc1".to_owned(), "noc1".to_owned()]), "{mesh}");
    }
}

#[test]
fn who_shows_no_certificate_or_a_foreign_one_gets_no_word() {
    let cluster = two();
    for papers in [Papers::none(), Files::of(Family::OtherCa, "dc2").papers()] {
        let said = refused(&cluster, &papers, hello("dc2"));
        assert_eq!(said, None, "nothing is said to a stranger");
        until_logged(&cluster, "noc1", &["certificate"]);
    }
    assert_intact(&cluster);
}

#[test]
fn a_certificate_that_is_no_brokers_is_not_enough() {
    let cluster = two();
    // Of our CA, for the right name, and good for clients only; or a broker's for none of our names.
    for (papers, words) in [
        (Papers::signed(Family::Ours, &["dc2.demo.muster"], false), "dc2"),
        (Papers::signed(Family::Ours, &["dc2.example.net"], true), "dc2"),
        (Papers::signed(Family::Ours, &["web.example.net"], false), "dc2"),
    ] {
        let refused = refused(&cluster, &papers, hello("dc2")).expect("a refusal");
        assert_eq!(refused.code, "wrong-identity", "{refused:?}");
        assert!(refused.text.contains(words), "{refused:?}");
        until_logged(&cluster, "noc1", &["wrong-identity"]);
    }
    assert_intact(&cluster);
}

#[test]
fn nobody_is_the_broker_whose_certificate_they_do_not_have() {
    let cluster = two();
    assert_refused(&cluster, &papers("dc3"), hello("dc2"), "wrong-identity", &["dc2", "dc3"]);
    assert_intact(&cluster);
}

#[test]
fn who_is_not_in_the_list_stays_outside() {
    let cluster = two();
    assert_refused(&cluster, &papers("stray"), hello("stray"), "unknown-broker", &["stray"]);
    assert_intact(&cluster);
}

#[test]
fn a_name_is_used_once() {
    let cluster = two();
    for instance in [1, 1000] {
        let mut second = hello("dc1");
        second.instance = instance;
        assert_refused(&cluster, &papers("dc1"), second, "name-in-use", &["dc1", "127.0.0.1"]);
        assert!(cluster.link_status("noc1", "dc1").is_some(), "the first one's link lives");
    }
    // Not even the broker's own.
    let own = refused(&cluster, &papers("noc1"), hello("noc1")).expect("a refusal");
    assert_eq!(own.code, "name-in-use", "{own:?}");
    assert_intact(&cluster);
}

#[test]
fn a_second_broker_of_one_name_says_why_it_stays_alone() {
    let cluster = two();
    // The files of dc1 on another machine: the same name and certificate, its own state and ports.
    let mut second = Setup::of(Family::Ours, "dc1");
    let mut link = toml::Table::new();
    link.insert("to".into(), "noc1".into());
    second.set("link", vec![link]);
    second.set_policy(&format!("{}{}", second.policy_text(), cluster.broker_list()));
    let second = second.start();
    until("the second one says why", || second.log().contains("name-in-use").then_some(()));
    until_logged(&cluster, "noc1", &["name-in-use", "dc1"]);
    let mesh = cluster.mesh("noc1").expect("an answer");
    assert!(mesh["alarms"].to_string().contains("dc1"), "somebody should look at it: {mesh}");
    drop(second);
    assert_intact(&cluster);
}

#[test]
fn of_two_far_brokers_with_one_name_the_younger_leaves() {
    let cluster = Plan::of(&["noc1", "dc1", "dc2"]).link("noc1", "dc1").link("dc1", "dc2").start();
    let mut second = Setup::of(Family::Ours, "noc1");
    let mut link = toml::Table::new();
    link.insert("to".into(), "dc2".into());
    second.set("link", vec![link]);
    second.set_policy(&format!("{}{}", second.policy_text(), cluster.broker_list()));
    let second = second.start();
    until("the younger one says why it leaves", || second.log().contains("name-in-use").then_some(()));
    assert_intact(&cluster);
    let mesh = cluster.mesh("dc1").expect("an answer");
    assert_eq!(reached(&mesh).len(), 3, "{mesh}");
    // The elder is the one that all reach.
    let node = cluster.nodes("noc1", "node-acme", [9]);
    let mut far = cluster.operator("dc2");
    until("the node of the elder is found", || far.find("n=9").contains(&node[0].id).then_some(()));
}

#[test]
fn versions_must_meet() {
    let cluster = two();
    for (oldest, newest) in [(90, 99), (0, 0), (9, 3)] {
        let mut ours = hello("dc2");
        (ours.oldest, ours.newest) = (oldest, newest);
        assert_refused(&cluster, &papers("dc2"), ours, "bad-version", &[]);
    }
    // A range that ends far in the future meets ours.
    let mut ours = hello("dc2");
    ours.newest = 99;
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(ours);
    answers(&mut link);
    link.cut();
    assert_intact(&cluster);
}

/// The link is alive: a ping is answered.
fn answers(link: &mut Link) {
    link.send(&Head::Ping(Beat { tick: 77 }), &[]);
    link.wait_for("the answer to a ping", |head| *head == Head::Alive(Beat { tick: 77 }));
}

#[test]
fn what_is_no_tls_is_closed_and_named() {
    let cluster = two();
    let garbage: Vec<u8> = (0..4096_u32).map(|n| (n * 7919 % 251) as u8).collect();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: noc1\r\n\r\n"[..], b"CONNECT\naccept-version:1.2\n\n\0", &garbage, b"\0"] {
        let mut tcp = TcpStream::connect(cluster.link_address("noc1")).expect("TCP");
        tcp.set_read_timeout(Some(LIMIT)).expect("a timeout");
        // The broker may have closed it before we are done.
        let _ = tcp.write_all(bytes).and_then(|()| tcp.shutdown(std::net::Shutdown::Write));
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = tcp.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("CONNECTED"));
    }
    until_logged(&cluster, "noc1", &["127.0.0.1", "http"]);
    assert_intact(&cluster);
}

#[test]
fn who_says_nothing_is_closed_in_time() {
    let cluster =
        Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").absent("dc2").setting("noc1", "limits.login-time", "1s").start();
    let mut silent = TcpStream::connect(cluster.link_address("noc1")).expect("TCP");
    silent.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.refusal();
    let mut rest = Vec::new();
    let closed = silent.read_to_end(&mut rest);
    assert!(closed.is_ok() || closed.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    assert_intact(&cluster);
}

#[test]
fn frames_that_make_no_sense_end_the_link_and_nothing_else() {
    let cluster = two();
    let deep = {
        let mut head = vec![0x81, 0xa4];
        head.extend(b"type");
        head.extend([0x91; 5000]);
        head
    };
    let unit = |head: &[u8], body: u32| {
        let mut bytes = u32::try_from(head.len()).expect("short").to_be_bytes().to_vec();
        bytes.extend(body.to_be_bytes());
        bytes.extend(head);
        bytes
    };
    let cases: [(&str, Vec<u8>); 8] = [
        ("a head of 4 GiB", [0xff; 8].to_vec()),
        ("a head of 2 MiB", [(2_u32 << 20).to_be_bytes(), [0; 4]].concat()),
        ("a body of 4 GiB", [5_u32.to_be_bytes(), [0xff; 4]].concat()),
        ("a piece of nothing", [0_u32.to_be_bytes(), 9_u32.to_be_bytes()].concat()),
        ("no map", unit(b"hello", 0)),
        ("a nested head", unit(&deep, 0)),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: noc1\r\n\r\n".to_vec()),
        ("half a map", unit(&[0x85, 0xa4, b't', b'y'], 0)),
    ];
    for greeted in [false, true] {
        for (what, bytes) in &cases {
            let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
            if greeted {
                link.greet(hello("dc2"));
            }
            link.raw(bytes);
            let refused =
                link.refusal().unwrap_or_else(|| panic!("{what}: closed without a word (greeted: {greeted})"));
            assert!(["bad-frame", "too-large"].contains(&refused.code.as_str()), "{what}: {refused:?}");
            assert!(!refused.text.is_empty());
        }
    }
    // Half a frame, and then the end.
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    link.raw(&[0, 0, 1, 0, 0, 0]);
    link.cut();
    // Something else than HELLO first, and HELLO twice.
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.send(&Head::Digest(Digest::default()), &[]);
    assert_eq!(link.refusal().expect("a refusal").code, "bad-frame");
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    link.send(&Head::Hello(hello("dc2")), &[]);
    assert_eq!(link.refusal().expect("a refusal").code, "bad-frame");
    assert_intact(&cluster);
}

#[test]
fn what_a_later_version_may_say_is_ignored() {
    let cluster = two();
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    // {"type": "frobnicate", "n": 7}, with a body of 3 bytes.
    let mut head = vec![0x82, 0xa4];
    head.extend(b"type");
    head.push(0xaa);
    head.extend(b"frobnicate");
    head.extend([0xa1, b'n', 7]);
    let mut bytes = u32::try_from(head.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(&head);
    bytes.extend(b"xyz");
    link.raw(&bytes);
    link.send(
        &Head::Direct(Direct { from: name("dc2"), instance: 1, to: name("noc1"), hops: 1, word: Word::Unknown }),
        &[],
    );
    answers(&mut link);
    link.cut();
    assert_intact(&cluster);
}

/// A link state as `origin` would say it.
fn link_state(origin: &str, instance: u64, neighbours: &[&str]) -> Head {
    let end = || muster_protocol::link::Neighbour { cost: 1, send: None };
    Head::LinkState(LinkState {
        origin: name(origin),
        instance,
        sequence: 5,
        incarnation: 4711,
        born: 0,
        draining: false,
        neighbours: neighbours.iter().map(|to| (name(to), end())).collect::<BTreeMap<_, _>>(),
    })
}

#[test]
fn the_state_of_brokers_that_are_not_in_the_list_is_not_believed() {
    let cluster = two();
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    link.send(&link_state("dc2", 1, &["noc1", "stray"]), &[]);
    link.send(&link_state("stray", 1, &["dc2", "noc1"]), &[]);
    answers(&mut link);
    until_logged(&cluster, "noc1", &["stray"]);
    for at in ["noc1", "dc1"] {
        let mesh = cluster.mesh(at).expect("an answer");
        assert!(broker_of(&mesh, "stray").is_null(), "{mesh}");
        assert!(!reached(&mesh).contains("stray"), "{mesh}");
    }
    link.cut();
    assert_intact(&cluster);
}

#[test]
fn frames_that_no_good_broker_sends_change_nothing() {
    let cluster = two();
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    link.send(&link_state("dc2", 1, &["noc1"]), &[]);
    let forward = |origin: &str, sequence, hops, to: &[&str], load| {
        let to = to.iter().map(|to| name(to)).collect();
        Head::Forward(Forward { origin: name(origin), instance: 1, sequence, epoch: 0, flood: false, hops, to, load })
    };
    let frames = [
        forward("stray", 1, 1, &["noc1"], Load::Unknown),
        forward("noc1", 1, 1, &["noc1", "dc1"], Load::Abort(Serial { serial: 1 })),
        forward("dc2", 1, 255, &["noc1", "dc1"], Load::Unknown),
        forward("dc2", 2, 1, &["stray", "noc1"], Load::Commit(Serial { serial: 99 })),
        forward("dc2", 3, 1, &[], Load::Cancel(Serial { serial: 99 })),
        Head::Direct(Direct { from: name("stray"), instance: 1, to: name("noc1"), hops: 1, word: Word::Unknown }),
        Head::Direct(Direct { from: name("dc2"), instance: 1, to: name("stray"), hops: 1, word: Word::Unknown }),
        Head::Direct(Direct { from: name("dc2"), instance: 1, to: name("noc1"), hops: 255, word: Word::Unknown }),
        link_state("noc1", 1_000_000, &[]),
    ];
    for frame in &frames {
        link.send(frame, b"body");
        answers(&mut link);
    }
    link.cut();
    // The broker whose name was taken in vain has gone above what was said of it.
    assert_intact(&cluster);
    let mesh = cluster.mesh("dc1").expect("an answer");
    assert_eq!(broker_of(&mesh, "noc1")["reach"], json!("reachable"), "{mesh}");
}

#[test]
fn what_is_replayed_is_delivered_once() {
    let cluster = two();
    let mut listener = cluster.operator("noc1");
    listener.subscribe("/topic/open.>", "1");
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    link.send(&link_state("dc2", 1, &["noc1"]), &[]);
    let letter = |destination: &str| Letter {
        caller: "viewer".into(),
        destination: destination.into(),
        headers: Vec::new(),
        target: None,
        nodes: None,
        reply_to: None,
        request: None,
        expires_within: None,
    };
    let message = |sequence, flood, destination: &str| {
        let (origin, to) = (name("dc2"), [name("noc1")].into());
        let load = Load::Message(letter(destination));
        Head::Forward(Forward { origin, instance: 1, sequence, epoch: 0, flood, hops: 1, to, load })
    };
    // The same number again, as it was, as a flood, and with another content; then what nobody has seen.
    for (frame, body) in [
        (message(7, false, "/topic/open.x"), "once"),
        (message(7, false, "/topic/open.x"), "once"),
        (message(7, true, "/topic/open.x"), "once"),
        (message(7, true, "/topic/open.y"), "another"),
        (message(8, false, "/topic/open.x"), "the last"),
    ] {
        link.send(&frame, body.as_bytes());
    }
    let heard: Vec<String> = (0..2).map(|_| String::from_utf8_lossy(&listener.frame().body).into_owned()).collect();
    assert_eq!(heard, ["once", "the last"]);
    listener.assert_quiet();
}

#[test]
fn absurd_costs_are_taken_as_the_nearest_sensible_ones() {
    let cluster = two();
    let mut link = Link::dial(cluster.link_address("noc1"), "noc1", &papers("dc2")).expect("TLS");
    link.greet(hello("dc2"));
    for (sequence, said, counts) in [(5, u32::MAX, u64::from(MAX_COST)), (6, 0, 1)] {
        let Head::LinkState(mut state) = link_state("dc2", 1, &["noc1"]) else { unreachable!() };
        state.sequence = sequence;
        state.neighbours.values_mut().for_each(|end| end.cost = said);
        link.send(&Head::LinkState(state), &[]);
        until(&format!("the way to dc2 costs {counts}"), || {
            let mesh = cluster.mesh("dc1")?;
            // One more from dc1 to noc1.
            (broker_of(&mesh, "dc2")["cost"] == json!(counts + 1)).then_some(())
        });
    }
    link.cut();
    assert_intact(&cluster);
}

#[test]
fn a_link_to_oneself_is_refused_by_the_configuration() {
    let files = Files::of(Family::Ours, "dc1");
    let path = files.file("musterd.toml");
    let text = std::fs::read_to_string(&path).expect("musterd.toml");
    std::fs::write(&path, format!("{text}\n[[link]]\nto = \"dc1\"\n")).expect("musterd.toml");
    let said = muster_tests::broker::check(files.0.path());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("dc1") && said.stderr.contains("line"), "{said:?}");
}
