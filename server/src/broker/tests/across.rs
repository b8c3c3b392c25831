//! Several brokers as values, their links pumped by hand: what is on the way can be held, lost, or overtaken.

use super::*;
use crate::broker::event::{LinkId, LinkOpened};
use crate::broker::mesh::lanes::{Item as Frames, LinkReader, lanes};
use crate::links::receive;
use bytes::{Bytes, BytesMut};
use muster_protocol::link::{Head, Hello, Load, Neighbour, Word, codec};
use muster_protocol::message::BrokerName;

pub(super) const NAMES: [&str; 3] = ["noc1", "dc1", "dc2"];

/// Brokers, the first of them linked to each of the others.
pub(super) struct Star {
    pub(super) houses: Vec<House>,
    ends: Vec<End>,
    links: u64,
    /// What the links that are made from now on let pass in each direction.
    pub(super) send: Option<Vec<String>>,
    /// What is taken off the way.
    lost: fn(&Head) -> bool,
}

/// One direction of a link.
struct End {
    link: LinkId,
    from: usize,
    to: usize,
    reader: LinkReader,
}

pub(super) fn text() -> String {
    let list: String = NAMES.iter().map(|name| format!("[brokers.{name}]\n")).collect();
    format!("{POLICY}{list}")
}

fn nothing(_: &Head) -> bool {
    false
}

fn is_prepare(head: &Head) -> bool {
    matches!(head, Head::Forward(forward) if matches!(forward.load, Load::Prepare(_)))
}

fn is_cancel(head: &Head) -> bool {
    matches!(head, Head::Forward(forward) if matches!(forward.load, Load::Cancel(_)))
}

fn is_report(head: &Head) -> bool {
    matches!(head, Head::Direct(direct) if matches!(direct.word, Word::Report(_)))
}

pub(super) fn arrives(link: LinkId, at: &str, (head, body): (Head, Bytes)) -> Event {
    let frames = vec![receive(&BrokerName::parse(at).expect("a name"), head, body)];
    Event::LinkFrames { link, frames, ticket: Ticket(None) }
}

impl Star {
    pub(super) fn new() -> Star {
        Star::of(&text())
    }

    pub(super) fn of(text: &str) -> Star {
        Star::with(text, NAMES.len(), None)
    }

    /// So many brokers, and links that let only so much pass.
    pub(super) fn with(text: &str, brokers: usize, send: Option<Vec<String>>) -> Star {
        let houses: Vec<House> = NAMES[..brokers].iter().map(|name| House::of(name, policy(text))).collect();
        let mut star = Star { houses, ends: Vec::new(), links: 0, send, lost: nothing };
        for other in 1..star.houses.len() {
            star.link(other);
        }
        star.pass(3_000);
        star
    }

    pub(super) fn link(&mut self, other: usize) {
        self.links += 1;
        let link = LinkId(self.links);
        for (from, to) in [(0, other), (other, 0)] {
            let (outbox, reader) = lanes(1 << 22);
            let hello = Hello {
                cluster: "c".into(),
                name: BrokerName::parse(NAMES[to]).expect("a name"),
                instance: 1,
                incarnation: 1,
                nonce: self.links,
                oldest: 1,
                newest: 1,
                clock: 0,
                max_body: 1 << 20,
            };
            let (end, peer) =
                (Neighbour { cost: 1, send: self.send.clone() }, "127.0.0.1:2".parse().expect("an address"));
            self.ends.push(End { link, from, to, reader });
            let opened = LinkOpened { link, hello, nonce: self.links, end, peer, outbox };
            self.houses[from].handle(Event::LinkOpened(Box::new(opened)));
        }
        self.pump();
    }

    pub(super) fn cut(&mut self, other: usize) {
        let (gone, left): (Vec<End>, Vec<End>) =
            self.ends.drain(..).partition(|end| end.from == other || end.to == other);
        self.ends = left;
        for end in gone {
            self.houses[end.from].handle(Event::LinkClosed { link: end.link, reason: "cut".into() });
        }
        self.pump();
    }

    /// Carries what waits, until nothing does.
    pub(super) fn pump(&mut self) {
        loop {
            let mut idle = true;
            for at in 0..self.ends.len() {
                while let Some(item) = self.ends[at].reader.try_next() {
                    idle = false;
                    let (link, to) = (self.ends[at].link, self.ends[at].to);
                    let (head, body) = match item {
                        Frames::Control(head) => (head, Bytes::new()),
                        Frames::Data(freight) => (freight.head, freight.body),
                        Frames::Close(_) => continue,
                    };
                    let is_sent = codec::encode(&head, &mut BytesMut::new()).is_ok();
                    if !is_sent || (self.lost)(&head) {
                        continue;
                    }
                    self.houses[to].handle(arrives(link, NAMES[to], ((*head).clone(), body)));
                }
            }
            if idle {
                return;
            }
        }
    }

    /// What waits in one direction.
    pub(super) fn take_from(&mut self, from: usize, to: usize) -> (LinkId, Vec<(Head, Bytes)>) {
        let end = self.ends.iter_mut().find(|end| (end.from, end.to) == (from, to)).expect("a link");
        let mut heads = Vec::new();
        while let Some(item) = end.reader.try_next() {
            match item {
                Frames::Control(head) => heads.push(((*head).clone(), Bytes::new())),
                Frames::Data(freight) => heads.push(((*freight.head).clone(), freight.body)),
                Frames::Close(_) => {}
            }
        }
        (end.link, heads)
    }

    pub(super) fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(100);
            left -= step;
            self.houses.iter_mut().for_each(|house| house.pass(step));
            self.pump();
        }
    }

    /// Agents of acme at a broker, and its sessions.
    pub(super) fn agents(&mut self, at: usize, numbers: std::ops::Range<u8>) -> Vec<u64> {
        let agents = numbers.map(|number| self.houses[at].agent("node-acme", number, json!({}))).collect();
        self.pass(3_000);
        agents
    }

    pub(super) fn ask(&mut self, caller: u64, more: &[(&str, &str)]) {
        self.houses[0].request(caller, "/topic/prod.node.ping", "all", more);
        self.pump();
    }

    fn cancel(&mut self, caller: u64) {
        let frame = send("/muster/cancel").header("muster-request", "q").header("reply-to", "/temp-queue/me");
        self.houses[0].frame(caller, frame.with_body(r#"{"request":"r1"}"#));
        self.pump();
    }

    fn requests_got(&mut self, at: usize, agent: u64) -> usize {
        self.houses[at].take(agent).iter().filter(|got| !got.header("muster-start-within").is_empty()).count()
    }

    fn done(&mut self, caller: u64) -> Value {
        let got = self.houses[0].take(caller);
        let done = got.iter().find(|got| got.event() == "done");
        done.unwrap_or_else(|| panic!("not done: {got:?}")).json()
    }
}

/// dc2 is given up, the guard holds without it, dc2 comes back: it was not counted, and its nodes get nothing.
#[test]
fn who_was_not_counted_gets_nothing_when_it_comes_back() {
    let mut star = Star::new();
    let counted = star.agents(1, 1..2)[0];
    let late = star.agents(2, 10..20);
    let noc = star.houses[0].open("noc");
    star.lost = |head| matches!(head, Head::Direct(direct) if direct.from.as_str() == "dc2");
    star.ask(noc, &[("muster-max-targets", "2"), ("muster-allow-partial", "true")]);
    star.cut(2);
    star.pass(1_100);
    star.lost = nothing;
    assert_eq!(star.requests_got(1, counted), 1, "the guard was decided");
    star.link(2);
    star.pass(4_000);
    let got: usize = late.iter().map(|agent| star.requests_got(2, *agent)).sum();
    assert_eq!(got, 0, "ten more than the guard allows");
}

#[test]
fn what_was_cancelled_before_it_arrived_is_not_delivered_by_a_second_asking() {
    let mut star = Star::new();
    let agent = star.agents(1, 1..2)[0];
    let noc = star.houses[0].open("noc");
    star.lost = is_prepare;
    star.ask(noc, &[]);
    star.lost = nothing;
    star.cancel(noc);
    star.pass(4_000);
    assert_eq!(star.requests_got(1, agent), 0);
    assert_eq!(star.done(noc), json!({"states": {"cancelled": 1}}));
}

#[test]
fn a_cancel_that_is_lost_is_said_again() {
    let mut star = Star::new();
    let agent = star.agents(1, 1..2)[0];
    let noc = star.houses[0].open("noc");
    star.ask(noc, &[]);
    star.lost = is_cancel;
    star.cancel(noc);
    star.lost = nothing;
    star.houses[1].take(agent);
    star.pass(400);
    let told = star.houses[1].take(agent);
    assert_eq!(told.iter().map(Got::event).collect::<Vec<_>>(), ["cancel"]);
    star.pass(6_000);
    assert_eq!(star.done(noc)["states"], json!({"cancelled": 1}));
    assert!(star.houses[1].take(agent).is_empty(), "once is enough");
}

/// The policy of dc1 changes after it has delivered; it is asked again, since what it said was lost.
#[test]
fn who_asks_again_hears_what_was_done_whatever_the_policy_says_by_then() {
    let mut star = Star::new();
    let agent = star.agents(1, 1..2)[0];
    let noc = star.houses[0].open("noc");
    star.lost = is_report;
    star.ask(noc, &[]);
    assert_eq!(star.requests_got(1, agent), 1);
    let text = text().replace(r#"write = ["noc", "noc-acme"]"#, r#"write = ["noc-acme"]"#);
    star.houses[1].enforce(policy(&text));
    star.lost = nothing;
    star.pass(1_000);
    star.houses[1].close(agent);
    star.pump();
    assert_eq!(star.done(noc), json!({"states": {"lost": 1}}), "delivered, and so not refused");
}

/// What dc1 has heard of its nodes is on its way, or will come, when the scope of who asked becomes narrower.
#[test]
fn a_narrower_scope_holds_for_what_is_not_told_yet() {
    let mut star = Star::new();
    let agents = star.agents(1, 1..3);
    let noc = star.houses[0].open("noc");
    star.lost = is_report;
    star.ask(noc, &[]);
    let asked: Vec<Got> = agents.iter().map(|agent| star.houses[1].take(*agent).remove(0)).collect();
    star.houses[1].answer(agents[0], &asked[0], "ok", r#"{"secret":1}"#);
    star.pump();
    let text = text().replace("[groups.noc]", "[groups.noc]\nscope = \"customer = globex\"");
    star.houses[1].enforce(policy(&text));
    star.houses[1].answer(agents[1], &asked[1], "ok", r#"{"secret":2}"#);
    star.lost = nothing;
    star.pass(1_000);
    let told = star.houses[0].take(noc);
    assert!(told.iter().all(|got| got.event() != "reply"), "{told:?}");
    assert!(told.iter().any(|got| got.event() == "done" && got.json() == json!({"states": {"lost": 2}})), "{told:?}");
    assert!(told.iter().all(|got| !got.body.contains("acmeinc") && !got.body.contains("secret")), "{told:?}");
}

/// A fan-out goes on in slices; a node of a later slice leaves before it is named.
#[test]
fn a_node_that_leaves_before_it_is_named_is_lost_at_once() {
    let mut house = House::new();
    let agents: Vec<u64> = (0..700).map(|number| house.many(number)).collect();
    let noc = house.open("noc");
    let frame = send("/topic/prod.node.ping").header("muster-request", "r1").header("reply-to", "/temp-queue/me");
    let frame = frame.header("muster-target", "all").with_body("{}");
    let input = house.outboxes.get_mut(&noc).expect("a session").1.input(frame, 0);
    house.handle_once(Event::Inputs { session: SessionId(noc), inputs: vec![input], ticket: Ticket(None) });
    house.close(agents[699]);
    let got = house.take(noc);
    let named: usize = got.iter().filter(|got| got.event() == "accepted").map(nodes_in).sum();
    assert_eq!(named, 700);
    assert_eq!(got.iter().filter(|got| got.event() == "lost").count(), 1);
}

fn nodes_in(got: &Got) -> usize {
    got.json()["nodes"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_cancel_in_the_middle_of_a_fan_out_stops_it() {
    let mut star = Star::new();
    let agents: Vec<u64> = (0..700).map(|number| star.houses[1].many(number)).collect();
    star.pass(3_000);
    for agent in &agents {
        star.houses[1].take(*agent);
    }
    let noc = star.houses[0].open("noc");
    star.houses[0].request(noc, "/topic/prod.node.ping", "all", &[]);
    let (link, heads) = star.take_from(0, 1);
    for head in heads {
        star.houses[1].handle_once(arrives(link, "dc1", head));
    }
    let cancel = send("/muster/cancel").header("muster-request", "q").header("reply-to", "/temp-queue/me");
    star.houses[0].frame(noc, cancel.with_body(r#"{"request":"r1"}"#));
    star.pump();
    let got: usize = agents.iter().map(|agent| star.requests_got(1, *agent)).sum();
    assert!((1..700).contains(&got), "{got}");
    star.pass(6_000);
    assert_eq!(star.done(noc), json!({"states": {"cancelled": 700}}));
}

/// What agents report is theirs: however long, it must not keep what concerns others from a link.
#[test]
fn long_display_facts_of_some_agents_fit_into_a_frame() {
    let mut star = Star::new();
    let long = |number: u8| format!("{number}{}", "ä".repeat(60_000));
    for number in 1..13 {
        star.houses[1].agent(
            "node-acme",
            number,
            json!({"os": {"family": long(number)}, "deep": {"text": long(number)}}),
        );
    }
    star.pass(3_000);
    let noc = star.houses[0].open("noc");
    star.ask(noc, &[]);
    let got = star.houses[0].take(noc);
    let named = got.iter().find(|got| got.event() == "accepted" && nodes_in(got) > 0).expect("its nodes");
    assert_eq!(nodes_in(named), 12);
    for (what, body) in [
        ("find", json!({"facts": ["deep", "deep.text"]})),
        ("report", json!({"fact": "os.family"})),
        ("node", json!({"node": node_id(1), "explain": "deep.text=x and os.family=y and os.family~z"})),
    ] {
        let mut frame = send(&format!("/muster/{what}")).header("muster-request", "q");
        frame = frame.header("reply-to", "/temp-queue/me");
        if what != "node" {
            frame = frame.header("muster-target", "all");
        }
        star.houses[0].frame(noc, frame.with_body(body.to_string()));
        star.pass(3_500);
        let got = star.houses[0].take(noc);
        let answer = got.iter().find(|got| got.event() == "answer").unwrap_or_else(|| panic!("{what}: {got:?}"));
        assert!(answer.json().get("without").is_none(), "{what}");
    }
}

/// How many nodes there are in all is hidden from whoever has a scope.
#[test]
fn a_scope_hides_how_many_nodes_a_missing_broker_had() {
    let mut star = Star::new();
    star.agents(1, 1..4);
    let callers = ["noc", "acme"].map(|user| star.houses[0].open(user));
    star.cut(1);
    for (caller, nodes) in callers.into_iter().zip([json!(3), Value::Null]) {
        star.houses[0].request(caller, "/topic/prod.node.ping", "os.family=x", &[]);
        star.pass(100);
        let missing = &star.done(caller)["without"][0];
        assert_eq!((&missing["broker"], &missing["nodes"]), (&json!("dc1"), &nodes));
        let find = send("/muster/find").header("muster-request", "q").header("reply-to", "/temp-queue/me");
        star.houses[0].frame(caller, find.header("muster-target", "os.family=x").with_body("{}"));
        star.pump();
        let found = star.houses[0].take(caller).remove(0).json();
        assert_eq!(found["without"][0]["nodes"], nodes);
        let mesh = star.houses[0].query(caller, "mesh", "", json!({})).json();
        let dc1 = mesh["brokers"].as_array().and_then(|all| all.iter().find(|broker| broker["name"] == "dc1"));
        assert_eq!(dc1.map(|dc1| &dc1["nodes"]).unwrap_or(&Value::Null), &nodes);
    }
}

#[test]
fn questions_that_wait_for_a_silent_broker_are_bounded() {
    let mut star = Star::new();
    star.agents(1, 1..2);
    let noc = star.houses[0].open("noc");
    star.lost = |head| matches!(head, Head::Direct(_));
    for _ in 0..3 {
        let frame = send("/muster/find").header("muster-request", "q").header("reply-to", "/temp-queue/me");
        star.houses[0].frame(noc, frame.header("muster-target", "all").with_body("{}"));
    }
    let got = star.houses[0].take(noc);
    assert_eq!(got.iter().map(|got| got.header("muster-code")).collect::<Vec<_>>(), ["limit"]);
    star.pass(4_000);
    assert_eq!(star.houses[0].events(noc), ["answer", "answer"]);
}

/// Nobody matches here, and nobody else can be asked: still every broker that is missing is named by an event of its own.
#[test]
fn who_cannot_be_asked_is_named_before_the_end() {
    let mut star = Star::new();
    star.cut(1);
    let noc = star.houses[0].open("noc");
    star.ask(noc, &[]);
    let events = star.houses[0].events(noc);
    let end = events.len() - 1;
    assert_eq!(events.iter().position(|event| event == "done"), Some(end), "{events:?}");
    assert!(events[..end].contains(&"missing".to_owned()), "{events:?}");
}

/// The guard waits for dc2; meanwhile dc1 gets another policy.
fn held(star: &mut Star) -> (u64, u64) {
    let agent = star.agents(1, 1..2)[0];
    star.agents(2, 5..6);
    let noc = star.houses[0].open("noc");
    star.lost = |head| is_report(head) && matches!(head, Head::Direct(direct) if direct.from.as_str() == "dc2");
    star.ask(noc, &[("muster-max-targets", "2"), ("muster-start-within", "9000"), ("muster-reply-within", "9000")]);
    assert_eq!(star.requests_got(1, agent), 0);
    star.pass(900);
    star.lost = nothing;
    (noc, agent)
}

#[test]
fn what_the_policy_takes_away_before_the_commit_is_not_delivered() {
    let mut star = Star::new();
    let (noc, agent) = held(&mut star);
    let text = text().replace(r#"write = ["noc", "noc-acme"]"#, r#"write = ["noc-acme"]"#);
    star.houses[1].enforce(policy(&text));
    star.pass(2_000);
    assert_eq!(star.requests_got(1, agent), 0);
    let lost = star.houses[0].take(noc);
    let lost = lost.iter().find(|got| got.event() == "lost").unwrap_or_else(|| panic!("{lost:?}"));
    assert!(lost.json()["reason"].as_str().is_some_and(|reason| reason.contains("policy")));
}

#[test]
fn the_wait_for_a_guard_is_part_of_the_times() {
    let mut star = Star::new();
    let (_, agent) = held(&mut star);
    star.pass(2_000);
    let got = star.houses[1].take(agent).remove(0);
    let left: u64 = got.header("muster-start-within").parse().expect("a number");
    assert!(left <= 8_100, "{left}");
}

#[test]
fn a_node_that_has_moved_is_not_gone() {
    let mut star = Star::new();
    star.agents(1, 1..3);
    let again = star.houses[2].connect("node-acme", 1, 2);
    star.houses[2].register(again, json!({}));
    star.pass(3_000);
    let noc = star.houses[0].open("noc");
    let frame = send("/muster/find").header("muster-request", "q").header("reply-to", "/temp-queue/me");
    star.houses[0].frame(noc, frame.header("muster-target", "all").with_body("{}"));
    star.pass(100);
    let found = star.houses[0].take(noc).remove(0).json();
    assert_eq!((&found["count"], found.get("gone")), (&json!(2), None), "{found}");
}

#[test]
fn the_limit_of_a_group_counts_the_whole_mesh() {
    let mut star = Star::of(&text().replace("[groups.noc]\n", "[groups.noc]\nmax-targets = 2\n"));
    let (near, far) = (star.agents(0, 1..2), star.agents(1, 2..4));
    let caller = star.houses[0].open("noc");
    // A partial count lifts no limit, and neither does a guard that holds.
    for more in [&[][..], &[("muster-allow-partial", "true")], &[("muster-expect-targets", "3")]] {
        star.ask(caller, more);
        let refused = star.houses[0].take(caller).remove(0);
        assert_eq!(
            (refused.header("muster-code"), refused.header("muster-count")),
            ("too-many-targets", "3"),
            "{more:?}"
        );
        assert!(refused.header("message").contains("max-targets of the group noc is 2"), "{refused:?}");
        assert_eq!((star.requests_got(0, near[0]), star.requests_got(1, far[0])), (0, 0), "nobody is asked");
    }
    star.houses[1].close(far[1]);
    star.pass(3_000);
    star.ask(caller, &[]);
    let accepted = star.houses[0].take(caller);
    assert_eq!(accepted.last().expect("an event").header("muster-count"), "2", "{accepted:?}");
    assert_eq!((star.requests_got(0, near[0]), star.requests_got(1, far[0])), (1, 1));
}

/// What explain counts is what a request would reach: over the mesh, within the scopes of both; who cannot be asked is named.
#[test]
fn explain_counts_the_nodes_of_all_brokers() {
    let limited = text().replace("[groups.noc-acme]\n", "[groups.noc-acme]\nmax-targets = 3\n");
    let mut star = Star::of(&limited);
    star.agents(0, 1..2);
    star.agents(1, 2..4);
    star.houses[2].agent("node-globex", 9, json!({}));
    star.pass(3_000);
    let (noc, acme) = (star.houses[0].open("noc"), star.houses[0].open("acme"));
    let explain = |star: &mut Star, asker: u64, of: &str| {
        let frame = send("/muster/admin.explain").header("muster-request", "q").header("reply-to", "/temp-queue/me");
        let query =
            json!({ "user": of, "right": "write", "destination": "/topic/prod.node.ping", "filter": "class = web" });
        star.houses[0].frame(asker, frame.with_body(query.to_string()));
        star.pass(4_000);
        star.houses[0].take(asker).remove(0).json()
    };
    let counted = |answer: &Value| (answer["allowed"] == true, answer["reached"]["nodes"].as_u64());
    let of_acme = explain(&mut star, noc, "acme");
    assert_eq!((counted(&of_acme), of_acme.get("without")), ((true, Some(3)), None), "{of_acme}");
    assert_eq!(counted(&explain(&mut star, noc, "noc")), (true, Some(4)));
    assert_eq!(counted(&explain(&mut star, acme, "noc")), (true, Some(3)), "of those that the asker may see");
    // It cannot be asked, or will not answer: it is named, and a request would be refused as partial.
    star.cut(2);
    let narrower = limited.replace("destination = \"/muster/>\"", "destination = \"/muster/find\"");
    star.houses[1].enforce(policy(&narrower));
    let partly = explain(&mut star, noc, "acme");
    assert_eq!(counted(&partly), (true, Some(1)), "{partly}");
    let named = |missing: &Value| (missing["broker"].clone(), missing["why"].clone());
    let without: Vec<_> = partly["without"].as_array().map(|list| list.iter().map(named).collect()).unwrap_or_default();
    let expected = [(json!("dc1"), json!("refused")), (json!("dc2"), json!("unreachable"))];
    assert_eq!(without, expected, "{partly}");
    assert!(partly["text"].as_str().is_some_and(|text| text.contains("(partial)")), "{partly}");
    star.houses[1].enforce(policy(&limited));
    star.agents(1, 4..5);
    let many = explain(&mut star, noc, "acme");
    assert_eq!(counted(&many), (false, Some(4)), "too many, whatever dc2 has: {many}");
    assert!(
        many["text"].as_str().is_some_and(|text| text.contains("max-targets of the group noc-acme is 3")),
        "{many}"
    );
}

#[test]
fn a_name_in_use_is_told_once_however_often_its_second_owner_comes() {
    let mut star = Star::new();
    let mut comes = |nonce: u64| {
        let (outbox, mut reader) = lanes(1 << 20);
        let hello = Hello {
            cluster: "c".into(),
            name: BrokerName::parse("dc1").expect("a name"),
            instance: 9,
            incarnation: 77,
            nonce,
            oldest: 1,
            newest: 1,
            clock: 0,
            max_body: 1 << 20,
        };
        let peer = ([127, 0, 0, 1], 40_000 + u16::try_from(nonce).expect("small")).into();
        let end = Neighbour { cost: 1, send: None };
        let opened = LinkOpened { link: LinkId(900 + nonce), hello, nonce, end, peer, outbox };
        let now = star.houses[0].time();
        star.houses[0].broker.handle(Event::LinkOpened(Box::new(opened)), now, &mut || 7);
        let first = reader.try_next();
        let Some(Frames::Close(Some(refusal))) = first else { panic!("it hears of the mesh: {first:?}") };
        assert_eq!(refusal.code, Code::NameInUse);
        let notes = star.houses[0].broker.take_notes();
        notes.iter().filter(|note| note.text == "link refused").count()
    };
    assert_eq!([comes(1), comes(2), comes(3)], [1, 0, 0], "each time from another port");
    let alarms = |star: &Star| star.houses[0].broker.mesh().alarms().count();
    assert_eq!(alarms(&star), 1);
    star.pass(9 * 60 * 1000);
    assert_eq!(alarms(&star), 1, "it stands for ten minutes after it was last seen");
    star.pass(2 * 60 * 1000);
    assert_eq!(alarms(&star), 0, "and then it is over");
}
