//! Does the broker survive what must not be sent, and does it say what was wrong?

use muster_protocol::frame::{Command, Frame};
use muster_tests::node::{self, OWN, document, facts_frame, hello};
use muster_tests::stomp::{End, REPLIES, connect, message, show, subscription};
use muster_tests::{Broker, LIMIT, Node, Setup, Stomp, request, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A broker that gives logins one second.
fn hasty() -> Broker {
    Setup::new().with("limits.login-time", "1s").start()
}

/// What an ERROR says to one frame of a logged-in operator: the code.
fn code_of(broker: &Broker, frame: Frame) -> String {
    let mut operator = Stomp::operator(broker, "noc");
    operator.send(frame);
    operator.error().code
}

/// What an ERROR says to raw bytes of a logged-in operator: the code.
fn code_of_bytes(broker: &Broker, bytes: &[u8]) -> String {
    let mut operator = Stomp::operator(broker, "noc");
    operator.raw(bytes);
    operator.error().code
}

/// What is refused on the reply queue, and that the connection lives.
fn refused_alive(broker: &Broker, frame: Frame) -> (String, String) {
    let mut operator = Stomp::operator(broker, "noc");
    operator.send(frame);
    let refused = operator.refused();
    operator.find("all");
    (refused.code, refused.text)
}

#[test]
fn an_oversize_frame_is_refused_before_it_is_read() {
    let broker = Setup::new().with("limits.max-frame", "128KiB").with("limits.outbox", "128KiB").start();
    // Announced: the body is not awaited.
    assert_eq!(code_of_bytes(&broker, b"SEND\ndestination:/topic/prod.x\ncontent-length:99999999\n\n"), "too-large");
    // Not announced: it ends where the limit is.
    let mut endless = b"SEND\ndestination:/topic/prod.x\n\n".to_vec();
    endless.resize(300 * 1024, b'x');
    assert_eq!(code_of_bytes(&broker, &endless), "too-large");
    broker.assert_serves();
}

#[test]
fn an_oversize_header_is_refused() {
    let broker = Broker::start();
    let long = "x".repeat(17 * 1024);
    assert_eq!(code_of(&broker, message("/topic/prod.x").header("note", &long)), "too-large");
    // A line that never ends is cut off at the limit too.
    let endless = format!("SEND\nnote:{}", "x".repeat(20 * 1024));
    assert_eq!(code_of_bytes(&broker, endless.as_bytes()), "too-large");
    broker.assert_serves();
}

#[test]
fn too_many_headers_are_refused() {
    let broker = Broker::start();
    let many = (0..65).fold(message("/topic/prod.x"), |frame, n| frame.header(&format!("h{n}"), "1"));
    assert_eq!(code_of(&broker, many), "too-large");
    broker.assert_serves();
}

#[test]
fn before_the_login_four_kib_are_the_end() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    stomp.send(connect("noc").header("padding", &"x".repeat(5000)));
    assert_eq!(stomp.error().code, "too-large");
    let mut stomp = Stomp::dial(&broker);
    stomp.send(connect("noc").with_body("a body"));
    assert_eq!(stomp.error().code, "too-large");
    broker.assert_serves();
}

#[test]
fn a_slow_handshake_ends_at_the_deadline() {
    let broker = hasty();
    let began = Instant::now();
    let mut mute = Stomp::plain(broker.address());
    assert_ne!(mute.end(), End::Silent);
    let mut half = Stomp::plain(broker.address());
    // The beginning of a TLS record, and no more.
    half.raw(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]);
    assert_ne!(half.end(), End::Silent);
    assert!(began.elapsed() < LIMIT);
    broker.assert_serves();
}

#[test]
fn a_login_that_does_not_come_is_told_so() {
    let broker = hasty();
    let mut stomp = Stomp::dial(&broker);
    assert_eq!(stomp.error().code, "auth-timeout");
    broker.assert_serves();
}

#[test]
fn a_trickle_hits_the_same_deadline() {
    let broker = hasty();
    let mut stomp = Stomp::dial(&broker);
    let began = Instant::now();
    let endless = b"CONNECT\nlogin:noc\n".iter().copied().chain(std::iter::repeat(b'x'));
    for byte in endless {
        if stomp.try_raw(&[byte]).is_err() {
            break;
        }
        match stomp.next_within(Duration::from_millis(50)) {
            Ok(frame) => {
                assert_eq!(frame.headers.get("muster-code"), Some("auth-timeout"), "{}", show(&frame));
                break;
            }
            Err(End::Silent) => {}
            Err(end) => panic!("no ERROR came, the connection is {end:?}"),
        }
        assert!(began.elapsed() < LIMIT, "a byte now and then keeps the connection");
    }
    assert_eq!(stomp.end(), End::Closed);
    broker.assert_serves();
}

#[test]
fn garbage_is_refused() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    stomp.raw(b"\x00\x01\x02\xff\xfe garbage\n\n\0");
    assert_eq!(stomp.error().code, "bad-frame");
    for garbage in
        [&b"FROBNICATE\n\n\0"[..], b"send\n\n\0", b"SEND\nno colon\n\n\0", b"SEND\n\xff\xfe:x\n\n\0", b"\0\0\0"]
    {
        assert_eq!(code_of_bytes(&broker, garbage), "bad-frame", "{garbage:?}");
    }
    broker.assert_serves();
}

#[test]
fn frames_that_only_a_broker_sends_are_refused() {
    let broker = Broker::start();
    for command in [Command::Connected, Command::Message, Command::Receipt, Command::Error, Command::Connect] {
        assert_eq!(code_of(&broker, Frame::new(command).header("login", "noc")), "bad-frame", "{command}");
    }
    let mut stomp = Stomp::dial(&broker);
    stomp.send(message("/topic/prod.x"));
    assert_eq!(stomp.error().code, "bad-frame", "SEND before the login");
    broker.assert_serves();
}

#[test]
fn what_is_not_there_yet_says_so() {
    let broker = Broker::start();
    for command in [Command::Ack, Command::Nack, Command::Begin, Command::Commit, Command::Abort] {
        assert_eq!(code_of(&broker, Frame::new(command).header("id", "1").header("transaction", "1")), "unsupported");
    }
    assert_eq!(code_of(&broker, message("/queue/a")), "unsupported");
    assert_eq!(code_of(&broker, subscription("/queue/a", "1")), "unsupported");
    assert_eq!(code_of(&broker, subscription("/topic/prod.x", "1").header("ack", "client")), "unsupported");
    broker.assert_serves();
}

#[test]
fn http_on_the_tls_port_is_told_in_the_clear() {
    let broker = Broker::start();
    for verb in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /x HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.1\r\n\r\n"] {
        let mut http = Stomp::plain(broker.address());
        http.raw(verb.as_bytes());
        let refused = http.error();
        assert_eq!(refused.code, "bad-frame");
        assert!(refused.text.contains("HTTP"), "{refused:?}");
    }
    broker.assert_serves();
}

#[test]
fn plain_stomp_on_the_tls_port_is_told_in_the_clear() {
    let broker = Broker::start();
    let mut stomp = Stomp::plain(broker.address());
    stomp.send(connect("noc"));
    let refused = stomp.error();
    assert_eq!(refused.code, "bad-frame");
    assert!(refused.text.contains("STOMP without TLS"), "{refused:?}");
    let mut noise = Stomp::plain(broker.address());
    noise.raw(b"\x80\x01\x02 noise");
    assert_eq!(noise.error().code, "bad-frame");
    assert!(!broker.log().contains(muster_tests::policy::PASSWORD));
    broker.assert_serves();
}

#[test]
fn tls_and_http_on_a_plain_port_are_told() {
    let broker = Setup::new().with("listen.plain", vec!["127.0.0.1:0"]).start();
    until("a warning stands in the log", || broker.log().contains("plain STOMP is on").then_some(()));
    let mut good = Stomp::plain(broker.plain());
    good.send(connect("noc"));
    good.connected();
    let mut tls = Stomp::plain(broker.plain());
    tls.raw(&[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x00]);
    assert_eq!(tls.error().code, "bad-frame");
    let mut http = Stomp::plain(broker.plain());
    http.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(http.error().code, "bad-frame");
    broker.assert_serves();
}

#[test]
fn every_wrong_login_gets_the_same_answer() {
    let broker = Broker::start();
    let own = |frame: Frame, name: &str, value: &str| {
        let mut frame = frame;
        frame.headers.set(name, value);
        frame
    };
    let mut without_login = Frame::new(Command::Connect).header("accept-version", "1.2");
    without_login.headers.set("passcode", muster_tests::policy::PASSWORD);
    let wrong = [
        ("wrong password", own(connect("viewer"), "passcode", "wrong")),
        ("empty password", own(connect("cmdb"), "passcode", "")),
        ("no password", Frame::new(Command::Connect).header("accept-version", "1.2").header("login", "noc")),
        ("empty user", own(connect("noc"), "login", "")),
        ("no user", without_login),
        ("nothing", Frame::new(Command::Connect).header("accept-version", "1.2")),
        ("unknown user", connect("mallory")),
        ("a very long user", connect(&"m".repeat(1000))),
        ("disabled user", connect("gone")),
        ("expired user", connect("late")),
        ("user from elsewhere", connect("elsewhere")),
        ("agent without node headers", connect("node-acme")),
        ("agent without key", connect("node-acme").header("muster-node", &node::id(1)).header("muster-session", "1")),
        ("key of another node", own(hello("node-beta", 1, 1), "muster-node", &node::id(2))),
        ("malformed key", own(hello("node-beta", 1, 1), "muster-node-key", "00ff")),
        ("malformed session number", own(hello("node-bare", 1, 1), "muster-session", "-1")),
    ];
    let mut answers = Vec::new();
    // Those without a name count as one user, who has to wait after three failures: so half of them go to another broker.
    let other = Broker::start();
    for (n, (what, frame)) in wrong.into_iter().enumerate() {
        let mut stomp = Stomp::dial(if n % 2 == 0 { &broker } else { &other });
        stomp.send(frame);
        answers.push((what, stomp.error()));
    }
    for (what, answer) in &answers {
        assert_eq!(answer.code, "auth-failed", "{what}");
        assert_eq!(answer, &answers[0].1, "{what} is told apart");
    }
    broker.assert_serves();
}

#[test]
fn agent_headers_are_refused_from_an_operator() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    stomp.send(hello("noc", 1, 1));
    // docs/protocol.md says `forbidden-header`; the broker makes it one of the login failures that are not told apart.
    let code = stomp.error().code;
    assert!(["forbidden-header", "auth-failed"].contains(&code.as_str()), "{code}");
    assert_eq!(broker.count("nodes"), 0);
    broker.assert_serves();
}

#[test]
fn a_second_agent_cannot_take_the_id_of_another() {
    let broker = Broker::start();
    let mut first = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    let mut thief = Stomp::dial(&broker);
    let mut frame = hello("node-beta", 2, 99);
    frame.headers.set("muster-node", &node::id(1));
    thief.send(frame);
    assert_eq!(thief.error().code, "auth-failed");
    first.stomp.assert_quiet();
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(operator.find("customer=acmeinc"), [first.id]);
    broker.assert_serves();
}

#[test]
fn stamped_headers_cannot_be_spoofed() {
    let broker = Broker::start();
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    for name in ["muster-caller", "muster-origin", "muster-display", "message-id", "muster-broker", "muster-token"] {
        let spoofed = request("prod.node.ping", "spoof", "a=1").header(name, "admin");
        assert_eq!(refused_alive(&broker, spoofed).0, "forbidden-header", "{name} in a request");
        assert_eq!(code_of(&broker, message("/topic/prod.x").header(name, "admin")), "forbidden-header", "{name}");
    }
    assert_eq!(code_of(&broker, message("/topic/prod.x").header("muster-event", "reply")), "forbidden-header");
    node.stomp.assert_quiet();
    // What does get through carries the broker's own stamp, once.
    let mut operator = Stomp::operator(&broker, "noc");
    operator.send(request("prod.node.ping", "r1", "a=1"));
    let asked = node.request();
    let stamps: Vec<&str> = asked.headers.iter().filter(|(name, _)| *name == "muster-caller").map(|(_, v)| v).collect();
    assert_eq!(stamps, ["noc"]);
    assert_eq!(asked.headers.get("muster-origin"), Some("noc1"));
    broker.assert_serves();
}

#[test]
fn headers_of_connect_in_a_send_and_unknown_muster_headers_are_refused() {
    let broker = Broker::start();
    for name in ["muster-node", "muster-node-key", "muster-session", "muster-max-target", "muster-frobnicate"] {
        assert_eq!(code_of(&broker, message("/topic/prod.x").header(name, "1")), "bad-header", "{name}");
    }
    broker.assert_serves();
}

#[test]
fn line_ends_and_nul_in_headers_do_not_make_new_headers() {
    let broker = Broker::start();
    // A bare CR is an error in a head; NUL ends nothing there.
    assert_eq!(code_of_bytes(&broker, b"SEND\ndestination:/topic/prod.x\rmuster-caller:admin\n\n\0"), "bad-frame");
    assert_eq!(code_of_bytes(&broker, b"SEND\ndestination:/topic/prod.x\nnote:a\0b\n\n\0"), "bad-frame");
    // Escaped, they are part of the value, and reach a subscriber as they were, in the one header.
    let mut reader = Stomp::login(&broker, "noc");
    reader.subscribe("/topic/open.>", "1");
    let mut operator = Stomp::operator(&broker, "noc");
    let note = "a\r\nmuster-caller:admin\n\nb:c\\d";
    operator.send_and_wait(message("/topic/open.x").header("note", note).with_body("body"));
    let got = reader.frame();
    assert_eq!(got.headers.get("note"), Some(note), "{}", show(&got));
    assert_eq!(got.headers.get("muster-caller"), Some("noc"));
    assert_eq!(&got.body[..], b"body");
    // In names they are never accepted.
    for name in ["/topic/open.a\rb", "/topic/open.a\nb", "/topic/open.a\tb"] {
        assert_eq!(code_of(&broker, message(name)), "bad-destination", "{name:?}");
    }
    broker.assert_serves();
}

#[test]
fn bad_escapes_are_refused() {
    let broker = Broker::start();
    for bytes in
        [&b"SEND\ndestination:/topic/prod.x\nnote:a\\tb\n\n\0"[..], b"SEND\nnote:end\\\n\n\0", b"SEND\nn\\0:x\n\n\0"]
    {
        assert_eq!(code_of_bytes(&broker, bytes), "bad-frame", "{bytes:?}");
    }
    broker.assert_serves();
}

#[test]
fn names_of_a_send_hold_no_wildcards_and_no_control_characters() {
    let broker = Broker::start();
    let long = format!("/topic/prod.{}", "x".repeat(260));
    let deep = format!("/topic/prod{}", ".x".repeat(16));
    for name in [
        "/topic/prod.*",
        "/topic/prod.>",
        "/topic/prod.a*b",
        "/topic/prod..x",
        "/topic/.prod",
        "/topic/",
        "/topic/prod.",
        "/topic/prod.a b",
        "/topic/prod.\u{7}",
        "/topic/prod.\u{1b}[31m",
        "/topic/prod.\u{85}",
        "topic/prod.x",
        "prod.x",
        "",
        "/nothing/prod.x",
        long.as_str(),
        deep.as_str(),
    ] {
        assert_eq!(code_of(&broker, message(name)), "bad-destination", "{name:?}");
    }
    for name in ["/topic/prod.>.x", "/topic/prod.a>", "/topic/prod.**", "/topic/"] {
        assert_eq!(code_of(&broker, subscription(name, "1")), "bad-destination", "{name:?}");
    }
    broker.assert_serves();
}

#[test]
fn a_filter_that_passes_its_limits_is_refused_with_its_column() {
    let broker = Broker::start();
    let deep = format!("{}a=1{}", "(".repeat(65), ")".repeat(65));
    let nots = format!("{}a=1", "not ".repeat(65));
    let regexes = (0..17).map(|n| format!("a ~ x{n}")).collect::<Vec<_>>().join(" or ");
    let predicates = (0..257).map(|n| format!("a={n}")).collect::<Vec<_>>().join(" or ");
    let long = format!("a={}", "x".repeat(8200));
    for (what, filter) in [
        ("65 deep", deep.as_str()),
        ("65 nots", &nots),
        ("17 regexes", &regexes),
        ("257 predicates", &predicates),
        ("more than 8 KiB", &long),
        ("a regex bomb", "a ~ /(a{1000}){1000}/"),
        ("nested bomb", "a ~ /((((a{60}){60}){60}){60})/"),
        ("no regex", "a ~ /(/"),
        ("empty", ""),
        ("unfinished", "a="),
        ("unfinished group", "(a=1"),
        ("identity", "identity=web1 x"),
        ("control character", "a=\u{1}"),
    ] {
        let (code, text) = refused_alive(&broker, request("prod.node.ping", "r1", filter));
        assert_eq!(code, "bad-filter", "{what}: {text}");
        assert!(text.contains("column"), "{what}: the text does not say where: {text}");
        assert!(text.len() < 1000, "{what}: the text is as long as the filter: {text}");
    }
    // What just holds is accepted.
    let deep = format!("{}a=1{}", "(".repeat(60), ")".repeat(60));
    let regexes = (0..16).map(|n| format!("a ~ x{n}")).collect::<Vec<_>>().join(" or ");
    let mut operator = Stomp::operator(&broker, "noc");
    for filter in [deep, regexes] {
        assert_eq!(operator.find(&filter), Vec::<String>::new());
    }
    broker.assert_serves();
}

#[test]
fn facts_that_pass_their_limits_leave_the_old_ones() {
    let broker = Setup::new().with("limits.max-frame", "2MiB").start();
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "good": "yes" }));
    let deep = (0..40).fold(json!(1), |inner, _| json!({ "d": inner }));
    let many: Value = (0..5000).map(|n| (format!("f{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (what, body) in [
        ("too large", json!({ "facts": { "big": "x".repeat(300 * 1024) }, "classes": [], "modules": {} }).to_string()),
        ("no object", "[]".into()),
        ("facts no object", json!({ "facts": [1], "classes": [], "modules": {} }).to_string()),
        ("too deep", json!({ "facts": { "deep": deep }, "classes": [], "modules": {} }).to_string()),
        ("deeper than any parser", nested),
        ("too many", json!({ "facts": many, "classes": [], "modules": {} }).to_string()),
        ("no JSON", "{\"facts\":".into()),
        ("no UTF-8", "{\"facts\":{\"a\":\"\u{fffd}".into()),
        ("classes no list", json!({ "facts": {}, "classes": "web", "modules": {} }).to_string()),
        ("empty", String::new()),
    ] {
        let frame =
            message("/muster/facts").header("reply-to", OWN).header("muster-hash", &"0".repeat(64)).with_body(body);
        let refused = node.publish_frame(frame).expect_err(what);
        assert_eq!(refused.code, "bad-facts", "{what}: {refused:?}");
    }
    // A hash that is not the document's.
    let mut frame = facts_frame(&document(json!({ "good": "no" })));
    frame.headers.set("muster-hash", &"0".repeat(64));
    assert_eq!(node.publish_frame(frame).expect_err("wrong hash").code, "bad-facts");
    let mut operator = Stomp::operator(&broker, "noc");
    assert_eq!(operator.find("good=yes"), [node.id.clone()], "the old facts are gone");
    broker.assert_serves();
}

#[test]
fn only_an_agent_publishes_facts() {
    let broker = Broker::start();
    let frame = message("/muster/facts")
        .header("reply-to", REPLIES)
        .header("muster-request", "r1")
        .header("muster-hash", &node::hash(&document(json!({}))))
        .with_body(document(json!({})).to_string());
    assert_eq!(refused_alive(&broker, frame).0, "denied");
    broker.assert_serves();
}

#[test]
fn a_wrong_body_of_a_query_is_refused_and_the_connection_lives() {
    let broker = Broker::start();
    let mut operator = Stomp::operator(&broker, "noc");
    for (destination, body, code) in [
        ("/muster/find", json!([]), "bad-body"),
        ("/muster/find", json!({ "limit": 0 }), "bad-body"),
        ("/muster/find", json!({ "limit": 1001 }), "bad-body"),
        ("/muster/find", json!({ "cursor": "x" }), "bad-body"),
        ("/muster/find", json!({ "facts": ["a..b"] }), "bad-body"),
        ("/muster/find", json!({ "frobnicate": 1 }), "bad-body"),
        ("/muster/report", json!({}), "bad-body"),
        ("/muster/node", json!({ "node": "web1" }), "bad-body"),
        ("/muster/node", json!({ "node": node::id(9) }), "no-such-node"),
        ("/muster/node", json!({ "node": node::id(9), "explain": "a=" }), "bad-filter"),
        ("/muster/cancel", json!({ "request": "none" }), "no-such-request"),
        ("/muster/nothing", json!({}), "bad-destination"),
    ] {
        let refused = operator.ask(destination, Some("all"), &body).expect_err(destination);
        assert_eq!(refused.code, code, "{destination} {body}: {refused:?}");
    }
    assert_eq!(operator.ask("/muster/find", None, &json!({})).expect_err("no target").code, "target-required");
    broker.assert_serves();
}

#[test]
fn connections_without_login_are_capped_for_each_address() {
    let broker = Setup::new().with("limits.pending-per-address", 3).with("limits.login-time", "2s").start();
    let idle: Vec<Stomp> = (0..3).map(|_| Stomp::plain(broker.address())).collect();
    until("three connections wait", || (broker.status()["waiting"] == 3).then_some(()));
    let mut fourth = Stomp::plain(broker.address());
    assert_ne!(fourth.end(), End::Silent, "the fourth is let in");
    // Theirs is the deadline: then there is room again.
    until("the idle ones are gone", || (broker.status()["waiting"] == 0).then_some(()));
    drop(idle);
    broker.assert_serves();
}

#[test]
fn logged_in_sessions_do_not_count_as_pending() {
    let broker = Setup::new().with("limits.pending-per-address", 2).start();
    let sessions: Vec<Stomp> = (0..5).map(|_| Stomp::login(&broker, "noc")).collect();
    assert_eq!(broker.count("sessions"), sessions.len() as u64);
    broker.assert_serves();
}

#[test]
fn connections_are_capped_in_all() {
    let broker = Setup::new().with("limits.connections", 2).start();
    let first = Stomp::login(&broker, "noc");
    let _second = Stomp::login(&broker, "noc");
    let mut third = Stomp::plain(broker.address());
    assert_ne!(third.end(), End::Silent, "the third is let in");
    first.cut();
    until("there is room again", || (broker.status()["connections"] == 1).then_some(()));
    broker.assert_serves();
}

#[test]
fn subscriptions_are_limited() {
    let broker = Setup::new().with("limits.subscriptions", 3).start();
    let mut operator = Stomp::operator(&broker, "noc");
    operator.subscribe("/topic/prod.a", "1");
    operator.subscribe("/topic/prod.b", "2");
    operator.send(subscription("/topic/prod.c", "3"));
    assert_eq!(operator.error().code, "limit");
    broker.assert_serves();
}

#[test]
fn a_subscription_id_is_given_once() {
    let broker = Broker::start();
    let mut operator = Stomp::operator(&broker, "noc");
    operator.subscribe("/topic/prod.a", "1");
    operator.send(subscription("/topic/prod.b", "1"));
    assert_eq!(operator.error().code, "bad-header");
    assert_eq!(code_of(&broker, Frame::new(Command::Unsubscribe).header("id", "7")), "bad-header");
    assert_eq!(code_of(&broker, Frame::new(Command::Subscribe).header("destination", "/topic/prod.a")), "bad-header");
    assert_eq!(code_of(&broker, Frame::new(Command::Subscribe).header("id", "1")), "bad-header");
    assert_eq!(code_of(&broker, Frame::new(Command::Send)), "bad-header");
    broker.assert_serves();
}

#[test]
fn requests_in_flight_are_limited() {
    let broker = Setup::new().with("limits.in-flight", 2).start();
    let mut node = Node::register(&broker, "node-acme", 1, json!({ "a": 1 }));
    let mut operator = Stomp::operator(&broker, "noc");
    for id in ["r1", "r2"] {
        operator.send(request("prod.node.ping", id, "a=1"));
        operator.event("accepted");
    }
    operator.send(request("prod.node.ping", "r3", "a=1"));
    assert_eq!(operator.refused().code, "limit");
    // A place comes back with each that is done.
    let asked = node.request();
    node.reply(&asked, "ok", &json!({}));
    operator.event("reply");
    operator.event("done");
    operator.send(request("prod.node.ping", "r4", "a=1"));
    operator.event("accepted");
    broker.assert_serves();
}

#[test]
fn a_version_that_nobody_speaks_is_refused() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    let mut frame = connect("noc");
    frame.headers.set("accept-version", "0.9,2.0");
    stomp.send(frame);
    assert_eq!(stomp.error().code, "bad-version");
    for beat in ["x", "1", "-1,0", "1,2,3"] {
        let mut stomp = Stomp::dial(&broker);
        stomp.send(connect("noc").header("heart-beat", beat));
        assert_eq!(stomp.error().code, "bad-header", "{beat}");
    }
    broker.assert_serves();
}

#[test]
fn a_peer_that_breaks_its_heart_beat_is_closed() {
    let broker = Broker::start();
    let mut stomp = Stomp::dial(&broker);
    stomp.send(connect("noc").header("heart-beat", "1000,0"));
    stomp.connected();
    assert_eq!(stomp.error().code, "heart-beat");
    broker.assert_serves();
}

#[test]
fn wrong_values_of_request_headers_are_refused_and_the_connection_lives() {
    let broker = Broker::start();
    for (name, value) in [
        ("muster-max-targets", "many"),
        ("muster-expect-targets", "-1"),
        ("muster-start-within", "1s"),
        ("muster-reply-within", "0"),
        ("muster-reply-within", "86400001"),
        ("muster-dry-run", "yes"),
        ("expires", "soon"),
        ("muster-nodes", "web1"),
    ] {
        let (code, text) = refused_alive(&broker, request("prod.node.ping", "r1", "a=1").header(name, value));
        assert_eq!(code, "bad-header", "{name}: {value}");
        assert!(text.contains(name), "{text}");
    }
    let many = (0..501).map(|n| node::id((n % 250) as u8)).collect::<Vec<_>>().join(",");
    let (code, _) = refused_alive(&broker, request("prod.node.ping", "r1", "a=1").header("muster-nodes", &many));
    assert_eq!(code, "bad-header", "501 node ids");
    for id in ["", "a b", &"x".repeat(65), "../x"] {
        assert_eq!(code_of(&broker, request("prod.node.ping", id, "a=1")), "bad-header", "request id {id:?}");
    }
    broker.assert_serves();
}
