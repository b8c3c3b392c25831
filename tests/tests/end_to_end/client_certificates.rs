//! Who gets in where the policy asks for a client certificate beside the password, and who does not any more?

use muster_protocol::frame::{Command as Verb, Frame};
use muster_protocol::tls::Own;
use muster_tests::agent::write_private;
use muster_tests::client_ca::{settings, showing};
use muster_tests::node::hello;
use muster_tests::policy::PASSWORD;
use muster_tests::stomp::{End, connect, with_passcode};
use muster_tests::{Agent, Broker, ClientCa, Http, Leaf, Muster, Refused, Setup, Stomp, until, until_within};
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Longer than an agent waits between two tries.
const WAY_BACK: Duration = Duration::from_secs(60);

fn dial(broker: &Broker, own: Option<&Own>) -> Stomp {
    Stomp::over(broker.address(), showing(broker, own)).expect("TLS to the broker")
}

/// The answer to CONNECT on a connection that shows this.
fn try_login(broker: &Broker, own: Option<&Own>, frame: Frame) -> Result<(Stomp, Frame), Refused> {
    dial(broker, own).try_login(frame)
}

/// The handshake fails: nothing but the end of the connection comes, and the log says why.
fn assert_no_handshake(broker: &Broker, own: &Own, why: &str) {
    let count = || broker.log().lines().filter(|line| line.contains("TLS failed") && line.contains(why)).count();
    let before = count();
    let mut stomp = dial(broker, Some(own));
    stomp.send(connect("noc"));
    assert_eq!(stomp.next_within(muster_tests::LIMIT).expect_err(why), End::Closed, "{why}");
    until(&format!("the log says {why}"), || (count() > before).then_some(()));
}

#[test]
fn password_and_certificate_get_in_and_whatever_else_is_shown_is_a_wrong_password() {
    let ca = ClientCa::new();
    let users = ["viewer", "acme", "cmdb", "peek"];
    let broker = ca.setup(&users.map(|user| (user, "Client.Example"))).start();
    let cert =
        |file: &str, names: &[&str], common: Option<&str>| ca.issue(file, &Leaf { names, common, ..Leaf::default() });
    let good = cert("good", &["other.example", "client.example"], None);
    let by_subject = cert("subject", &[], Some("Client.Example"));
    for own in [&good, &by_subject] {
        try_login(&broker, Some(own), connect("viewer")).expect("password and certificate");
    }
    let wrong = with_passcode(connect("noc"), "wrong");
    let wrong = try_login(&broker, None, wrong).expect_err("a wrong password");
    assert_eq!((wrong.code.as_str(), wrong.retry_after), ("auth-failed", None));
    // Two for each user: the third mistake would have to wait.
    let (name, subject) = (["other.example"], Some("Client.Example"));
    for (user, what, own) in [
        ("viewer", "none", None),
        ("viewer", "another name", Some(cert("a", &name, None))),
        ("acme", "the subject beside another name", Some(cert("b", &name, subject))),
        ("acme", "a wildcard", Some(cert("c", &["*.example", "*"], None))),
        ("cmdb", "a part of the name", Some(cert("d", &["client.example.net", "example"], None))),
        ("cmdb", "the subject in other letters", Some(cert("e", &[], Some("client.example")))),
        ("peek", "no name", Some(cert("f", &[], None))),
    ] {
        let refused = try_login(&broker, own.as_ref(), connect(user)).expect_err(what);
        assert_eq!(refused, wrong, "{what}");
    }
    let refused = try_login(&broker, Some(&good), with_passcode(connect("peek"), "wrong"));
    assert_eq!(refused.expect_err("a certificate is no password"), wrong);
    // The truth is for the log and the record.
    let log = broker.log();
    for reason in ["no client certificate was shown", "the client certificate is for another name"] {
        assert!(log.lines().any(|line| line.contains("login refused") && line.contains(reason)), "{reason}: {log}");
        until("it is on record", || {
            let text = fs::read_to_string(broker.folder().join("state/audit.jsonl")).ok()?;
            text.lines().any(|line| line.contains("\"login\"") && line.contains(reason)).then_some(())
        });
    }
    // Who needs none may show any, or none.
    for own in [None, Some(&good)] {
        try_login(&broker, own, connect("noc")).expect("noc needs none");
    }
}

#[test]
fn a_certificate_that_is_not_good_ends_the_handshake_whoever_shows_it() {
    let (ca, other, namesake) = (ClientCa::new(), ClientCa::called("others"), ClientCa::new());
    let broker = ca.setup(&[("viewer", "viewer.example")]).with("listen.plain", vec!["127.0.0.1:0"]).start();
    let leaf = || Leaf { names: &["viewer.example"], ..Leaf::default() };
    assert_no_handshake(&broker, &other.named("viewer.example"), "UnknownIssuer");
    assert_no_handshake(&broker, &namesake.named("viewer.example"), "BadSignature");
    assert_no_handshake(&broker, &ca.issue("self", &Leaf { self_signed: true, ..leaf() }), "UnknownIssuer");
    assert_no_handshake(&broker, &ca.issue("expired", &Leaf { expired: true, ..leaf() }), "expired");
    assert_no_handshake(&broker, &ca.issue("server", &Leaf { for_servers: true, ..leaf() }), "client authentication");
    // The brokers' CA is another one: what is good on a link is nothing here.
    let (certificate, key) = (broker.folder().join("broker.pem"), broker.folder().join("broker.key"));
    assert_no_handshake(&broker, &Own { certificate, key }, "UnknownIssuer");
    let mut plain = Stomp::plain(broker.plain());
    plain.send(connect("viewer"));
    assert_eq!(plain.error().code, "auth-failed", "where there is no TLS, nothing can be shown");
    try_login(&broker, Some(&ca.named("viewer.example")), connect("viewer")).expect("the good one");
    broker.assert_serves();
}

#[test]
fn a_token_stands_for_the_password_and_not_for_the_certificate() {
    let ca = ClientCa::new();
    let broker = ca.setup(&[("viewer", "viewer.example"), ("node-acme", "node.example")]).start();
    for (frame, name) in [(connect("viewer"), "viewer.example"), (hello("node-acme", 1, 1), "node.example")] {
        let (own, other) = (ca.named(name), ca.named("other.example"));
        let (first, connected) = try_login(&broker, Some(&own), frame.clone()).expect("password and certificate");
        first.cut();
        let token = connected.headers.get("muster-token").expect("a token").to_owned();
        until("the session is over", || (broker.count("sessions") == 0).then_some(()));
        let mut by_token = with_passcode(frame, &token);
        if by_token.headers.contains("muster-session") {
            by_token.headers.set("muster-session", "2");
        }
        for shown in [None, Some(&other)] {
            let refused = try_login(&broker, shown, by_token.clone()).expect_err("the token alone");
            assert_eq!((refused.code.as_str(), refused.retry_after), ("auth-failed", None));
        }
        let (last, _) = try_login(&broker, Some(&own), by_token).expect("token and certificate");
        last.cut();
        until("the session is over", || (broker.count("sessions") == 0).then_some(()));
    }
}

#[test]
fn a_certificate_that_is_asked_for_while_the_broker_runs_ends_the_sessions_without_it() {
    let ca = ClientCa::new();
    let broker = ca.setup(&[]).start();
    let noc = Muster::new(&broker, "noc");
    let done = |arguments: &[&str]| {
        let said = noc.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    };
    done(&["admin", "authority", "take", "--yes"]);
    let (own, other) = (ca.named("viewer.example"), ca.named("other.example"));
    let open = |own: Option<&Own>| try_login(&broker, own, connect("viewer")).expect("no certificate is asked for").0;
    let (mut bare, mut wrong, mut right) = (open(None), open(Some(&other)), open(Some(&own)));
    let mut stranger = Stomp::login(&broker, "acme");
    let said = noc.run(&["admin", "user", "set", "viewer", "--certificate", "*.example"]);
    assert!(said.code == 4 && said.stderr.contains("has a wildcard"), "{said:?}");
    done(&["admin", "user", "set", "viewer", "--certificate", "viewer.example"]);
    for gone in [&mut bare, &mut wrong] {
        assert_eq!(gone.error().code, "revoked");
    }
    right.assert_quiet();
    stranger.assert_quiet();
    let user = &noc.json(0, &["admin", "user", "show", "viewer", "--json"])["users"][0];
    assert_eq!(user["certificate"], json!("viewer.example"));
    let said = noc.run(&["admin", "explain", "viewer", "write", "/muster/find"]);
    assert!(said.stdout.contains("only with a client certificate for viewer.example"), "{said:?}");
    // A new name, as when a person's certificate is for another machine from now on.
    done(&["admin", "user", "set", "viewer", "--certificate", "other.example"]);
    assert_eq!(right.error().code, "revoked");
    try_login(&broker, Some(&other), connect("viewer")).expect("the new one");
    assert_eq!(try_login(&broker, Some(&own), connect("viewer")).expect_err("the old one").code, "auth-failed");
    done(&["admin", "user", "set", "viewer", "--unset", "certificate"]);
    try_login(&broker, None, connect("viewer")).expect("none is asked for any more");
}

#[test]
fn an_agent_shows_its_certificate_and_takes_a_new_one_without_a_restart() {
    let (ca, stranger) = (ClientCa::new(), ClientCa::called("others"));
    let broker = ca.setup(&[("node-acme", "node-1.example")]).start();
    let setup = || Agent::setup(&broker, "node-acme", &json!({}), &[]);
    let bare = setup().start();
    let why = |agent: &Agent| agent.status()?["last_error"]["text"].as_str().map(str::to_owned);
    let text = until("it says why", || why(&bare));
    assert!(text.contains("login refused") && text.contains("client certificate"), "{text}");
    drop(bare);
    let foreign = setup().config(&settings(&stranger.named("node-1.example"))).start();
    let text = until("it says why", || why(&foreign));
    assert!(text.contains("does not take the client certificate") && text.contains("UnknownCA"), "{text}");
    drop(foreign);
    let own = ca.named("node-1.example");
    let agent = setup().config(&settings(&own)).start();
    agent.until_registered(&broker);
    // What it is to show from now on is put in its place, and then asked for.
    let next = ca.named("node-2.example");
    fs::copy(&next.certificate, &own.certificate).expect("the certificate");
    fs::copy(&next.key, &own.key).expect("the key");
    broker.reload(&muster_tests::policy::with(
        "[users.node-acme]\n",
        "[users.node-acme]\ncertificate = \"node-2.example\"\n",
    ));
    until_within("the agent is back", WAY_BACK, || {
        let connections = agent.status()?["counts"]["connections"].as_u64()?;
        (connections >= 2 && broker.count("nodes") == 1).then_some(())
    });
    agent.until_registered(&broker);
}

#[test]
fn the_command_line_shows_its_certificate_with_password_and_token() {
    let (ca, stranger, namesake) = (ClientCa::new(), ClientCa::called("others"), ClientCa::new());
    let broker = ca.setup(&[("noc", "noc.example")]).start();
    let muster = Muster::new(&broker, "noc");
    let file = muster.folder().join("muster.toml");
    let without = fs::read_to_string(&file).expect("the settings");
    let set = |own: &Own| write_private(&file, &format!("{without}{}", settings(own)));
    let mesh = |code: i32, text: &str| {
        let said = muster.run(&["mesh"]);
        assert!(said.code == code && said.stderr.contains(text), "{code}, {text}: {said:?}");
    };
    mesh(4, "client certificate");
    let own = ca.named("noc.example");
    set(&own);
    mesh(0, "");
    assert_eq!(muster.run(&["login"]).code, 0);
    fs::set_permissions(&own.key, Permissions::from_mode(0o644)).expect("its mode");
    mesh(64, "chmod 600");
    fs::set_permissions(&own.key, Permissions::from_mode(0o600)).expect("its mode");
    set(&ca.named("other.example"));
    mesh(4, "client certificate");
    set(&stranger.named("noc.example"));
    mesh(5, "does not take the client certificate (UnknownCA)");
    set(&namesake.named("noc.example"));
    mesh(5, "does not take the client certificate (DecryptError)");
    set(&ca.issue("old", &Leaf { names: &["noc.example"], expired: true, ..Leaf::default() }));
    mesh(64, "not valid now");
    write_private(&file, &format!("{without}[tls]\ncertificate = \"noc.pem\"\n"));
    mesh(64, "`certificate` without `key`");
    // By the token, in place of the password.
    set(&own);
    let with_password = fs::read_to_string(&file).expect("the settings");
    write_private(&file, &with_password.replace("password-file = \"password\"\n", ""));
    mesh(0, "");
    write_private(&file, &without.replace("password-file = \"password\"\n", ""));
    mesh(4, "does not take the token");
}

#[test]
fn the_api_asks_for_the_certificate_at_the_login_and_at_each_call() {
    let (ca, stranger) = (ClientCa::new(), ClientCa::called("others"));
    let broker = ca.setup(&[("noc", "noc.example")]).with_api().start();
    let (own, other) = (ca.named("noc.example"), ca.named("other.example"));
    let address = broker.admin();
    let dial = |own: Option<&Own>| Http::over(address, &showing(&broker, own), &[]).expect("TLS to the API");
    let login = |own: Option<&Own>| dial(own).post("/api/v1/login", &json!({ "user": "noc", "password": PASSWORD }));
    let refused = login(None);
    assert_eq!(refused.refused(401), "auth-failed");
    let wrong = dial(Some(&own)).post("/api/v1/login", &json!({ "user": "noc", "password": "wrong" }));
    assert_eq!((wrong.status, wrong.text()), (401, refused.text()), "one answer, whatever is wrong");
    let token = login(Some(&own)).ok()["token"].as_str().expect("a token").to_owned();
    let call = |own: Option<&Own>| dial(own).showing(&token).get("/api/v1/mesh");
    let mut open = dial(Some(&own)).showing(&token);
    open.get("/api/v1/mesh").ok();
    // The session of the token is there now, and nobody else shares it.
    for shown in [None, Some(&other)] {
        assert_eq!(call(shown).refused(401), "auth-failed");
    }
    call(Some(&own)).ok();
    assert_eq!(broker.status()["admin"]["sessions"], 1);
    // Who needs no certificate shows none.
    Http::login(&broker, "viewer").post("/api/v1/nodes/find", &json!({ "target": "all" })).ok();
    Http::dial(&broker).get("/healthz").ok();
    // Another CA's certificate does not get as far as HTTP.
    let mut foreign = dial(Some(&stranger.named("noc.example")));
    assert!(foreign.try_answer_to("/healthz").is_none());
    // The name is another one from now on: what is open has shown the old one.
    broker.reload(&muster_tests::policy::with("[users.noc]\n", "[users.noc]\ncertificate = \"other.example\"\n"));
    let code = open.get("/api/v1/mesh").refused(401);
    assert!(
        matches!(code.as_str(), "revoked" | "auth-failed"),
        "by the session that has just ended, or at the door: {code}"
    );
    assert_eq!(call(Some(&own)).refused(401), "auth-failed");
    call(Some(&other)).ok();
}

#[test]
fn the_ca_of_clients_is_changed_by_way_of_both_and_the_old_one_is_worth_nothing_then() {
    let (old, new) = (ClientCa::called("old"), ClientCa::called("new"));
    let (of_old, of_new) = (old.named("viewer.example"), new.named("viewer.example"));
    let mut broker = old.setup(&[("viewer", "viewer.example")]).start();
    // The same client throughout, with whatever it keeps of a connection to make the next one shorter.
    let client = showing(&broker, Some(&of_old));
    let log_in = |broker: &Broker| {
        let mut stomp = Stomp::over(broker.address(), client.clone()).expect("TLS to the broker");
        stomp.send(connect("viewer"));
        stomp.next_within(muster_tests::LIMIT).map(|frame| frame.command)
    };
    assert_eq!(log_in(&broker), Ok(Verb::Connected));
    let read = |ca: &ClientCa| fs::read_to_string(ca.file()).expect("the CA");
    let (before, after) = (read(&old), read(&new));
    let restart = |broker: &mut Broker, cas: &str| {
        fs::write(old.file(), cas).expect("the CAs");
        broker.kill();
        broker.start_again();
    };
    restart(&mut broker, &format!("{before}{after}"));
    assert_eq!(log_in(&broker), Ok(Verb::Connected), "both are good for a while");
    try_login(&broker, Some(&of_new), connect("viewer")).expect("both are good for a while");
    restart(&mut broker, &after);
    assert_eq!(log_in(&broker), Err(End::Closed), "the old CA is gone");
    try_login(&broker, Some(&of_new), connect("viewer")).expect("the new one");
}

#[test]
fn a_broker_that_asks_for_none_says_who_cannot_log_in_there() {
    let ca = ClientCa::new();
    let with_ca = ca.setup(&[("viewer", "viewer.example"), ("acme", "acme.example")]);
    let policy = with_ca.policy_text().to_owned();
    assert!(!with_ca.check().stdout.contains("cannot log in"));
    let setup = Setup::new().policy(&policy);
    let said = setup.check();
    let note = "acme and 1 more cannot log in at this broker, which asks for no client certificates";
    assert!(said.code == 0 && said.stdout.contains(note) && said.stdout.contains("client-ca"), "{said:?}");
    let broker = setup.start();
    assert!(broker.log().contains(note), "{}", broker.log());
    assert!(broker.alarms().iter().any(|alarm| alarm.contains(note)), "{:?}", broker.alarms());
    let refused = try_login(&broker, Some(&ca.named("viewer.example")), connect("viewer")).expect_err("not asked for");
    assert_eq!(refused.code, "auth-failed");
    broker.reload(muster_tests::policy::POLICY);
    assert!(broker.alarms().iter().all(|alarm| !alarm.contains("certificate")), "{:?}", broker.alarms());
    for (text, why) in [(None, "client-ca.pem"), (Some("no PEM"), "holds no certificate")] {
        let setup = Setup::new().with("tls.client-ca", "client-ca.pem");
        if let Some(text) = text {
            fs::write(setup.folder().join("client-ca.pem"), text).expect("written");
        }
        for said in [setup.check(), setup.run()] {
            assert!(said.code == 1 && said.stderr.contains("client-ca.pem") && said.stderr.contains(why), "{said:?}");
        }
    }
}
