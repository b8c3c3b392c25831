//! Does a policy grant what its entries say, and refuse every mistake with its line?

mod changes;
mod findings;
mod shown;

use super::*;
use muster_protocol::error::Code;
use muster_protocol::filter::Filter;
use proptest::prelude::*;
use serde_json::json;
use std::net::SocketAddr;

const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ+Xwz/gkb1+EE7Lg";

fn policy(text: &str) -> Policy {
    Policy::parse(&text.replace("PHC", PHC)).unwrap()
}

fn refused(text: &str) -> PolicyError {
    Policy::parse(&text.replace("PHC", PHC)).unwrap_err()
}

fn destination(text: &str) -> Destination {
    Destination::parse(text).unwrap()
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

/// Two customers, a scoped and an unscoped group.
const TWO: &str = r#"
asserted = ["customer", "datacenter"]
display = ["customer", "os.family"]
[[collective]]
name = "prod"
[[collective]]
name = "old"
targeted = false
[groups.noc]
all = true
shows = ["hostname"]
[groups.acme]
scope = "customer=acmeinc"
[groups.east]
scope = "datacenter = a or broker.name=east1"
[groups.admin]
shows = ["**"]
[users.alice]
kind = "operator"
password = "PHC"
groups = ["noc"]
[users.bob]
kind = "operator"
password = "PHC"
groups = ["acme", "east", "noc"]
[users.root]
kind = "service"
password = "PHC"
groups = ["admin"]
[users.idle]
kind = "operator"
password = "PHC"
disabled = true
[users.node]
kind = "agent"
password = "PHC"
facts = { customer = "acmeinc" }
[[acl]]
destination = "/topic/prod.*.status"
write = ["noc", "acme"]
[[acl]]
destination = "/topic/prod.service.*"
write = ["noc"]
read = ["acme"]
[[acl]]
destination = "/topic/prod.process.*"
read = ["noc"]
admin = ["admin"]
"#;

#[test]
fn nothing_is_granted_unless_an_entry_grants_it() {
    assert_eq!(Policy::parse("").unwrap(), Policy::default());
    let two = policy(TWO);
    let (alice, bob, idle) = (two.user("alice").unwrap(), two.user("bob").unwrap(), two.user("idle").unwrap());
    let status = destination("/topic/prod.service.status");
    assert!(two.allows(alice, Right::Write, &status) && !two.allows(alice, Right::Read, &status));
    assert!(!two.allows(idle, Right::Write, &status));
    assert!(bob.groups.intersects(&two.granted(Right::Read, &status)));
    assert!(!alice.groups.intersects(&two.granted(Right::Read, &status)));
    assert!(two.granted(Right::Admin, &status).is_empty());
    for private in ["/temp-queue/a", "/remote-temp-queue/noc1.0123456789abcdef0123456789abcdef"] {
        assert!(two.granted(Right::Write, &destination(private)).is_empty());
    }
    assert!(two.user("Alice").is_none() && two.user("").is_none());
}

#[test]
fn brokers_are_listed_with_their_addresses() {
    let policy = policy(
        r#"
[brokers.noc1]
link = "noc1.example.net"
stomp = ["noc1.example.net", "[2001:db8::1]:6000"]
[brokers.dc1]
"#,
    );
    let names: Vec<&str> = policy.brokers().keys().map(BrokerName::as_str).collect();
    assert_eq!(names, ["dc1", "noc1"]);
    let noc1 = &policy.brokers()[&BrokerName::parse("noc1").unwrap()];
    assert_eq!(noc1.link.as_ref().unwrap().to_string(), "noc1.example.net:61617");
    let stomp: Vec<String> = noc1.stomp.iter().map(ToString::to_string).collect();
    assert_eq!(stomp, ["noc1.example.net:61614", "[2001:db8::1]:6000"]);
    assert_eq!(policy.brokers()[&BrokerName::parse("dc1").unwrap()], BrokerEntry::default());
    assert!(Policy::parse("").unwrap().brokers().is_empty());
}

#[test]
fn groups_add_rights_and_narrow_scopes() {
    let two = policy(TWO);
    let bob = two.user("bob").unwrap();
    let scope = bob.scope.as_ref().unwrap();
    let classes = BTreeSet::new();
    for (facts, inside) in [
        (json!({"customer": "acmeinc", "datacenter": "a"}), true),
        (json!({"customer": "acmeinc", "broker": {"name": "east1"}}), true),
        (json!({"customer": "acmeinc", "datacenter": "b"}), false),
        (json!({"customer": "globex", "datacenter": "a"}), false),
    ] {
        assert_eq!(scope.matches(&facts, &classes), inside, "{facts}");
    }
    assert!(bob.may_all && two.user("alice").unwrap().scope.is_none());
    assert!(
        two.covers(bob, &pattern("/topic/prod.process.*")) && two.covers(bob, &pattern("/topic/prod.service.list"))
    );
    assert!(!two.covers(bob, &pattern("/topic/prod.*.list")) && !two.covers(bob, &pattern("/temp-queue/x")));
}

#[test]
fn hidden_facts_are_shown_to_the_groups_that_the_policy_names() {
    let two = policy(TWO);
    let hides = |user: &str, path: &str| two.hidden(two.user(user).unwrap()).hides(&Path::parse(path).unwrap());
    assert!(!hides("alice", "hostname") && hides("alice", "fqdn") && hides("idle", "hostname"));
    assert!(!hides("root", "network.ip") && hides("alice", "network.ip"));
    let own = policy("hidden = [\"rack.*\"]\n[users.u]\nkind = \"operator\"\npassword = \"PHC\"\n");
    let hidden = own.hidden(own.user("u").unwrap());
    assert!(hidden.hides(&Path::parse("rack.unit").unwrap()) && !hidden.hides(&Path::parse("hostname").unwrap()));
    assert_eq!(two.display().iter().map(ToString::to_string).collect::<Vec<_>>(), ["customer", "os.family"]);
}

#[test]
fn no_node_talks_itself_into_a_scope() {
    let two = policy(TWO);
    let node = two.user("node").unwrap();
    let reported =
        json!({"customer": "globex", "datacenter": ["a"], "broker": {"name": "east1"}, "os": {"family": "Debian"}});
    let effective = two.effective(node, &reported, &json!({"name": "noc1"}));
    assert_eq!(effective, json!({"customer": "acmeinc", "broker": {"name": "noc1"}, "os": {"family": "Debian"}}));
    assert!(!Filter::parse("has datacenter").unwrap().matches(&effective, &BTreeSet::new()));
    assert_eq!(two.effective(node, &Value::Null, &Value::Null), json!({"customer": "acmeinc"}));
    assert_eq!((node.collective.as_str(), two.user("alice").unwrap().collective.as_str()), ("prod", ""));
    assert!(two.is_targeted("prod") && !two.is_targeted("old") && two.is_targeted("unheard-of"));
}

#[test]
fn users_are_barred_by_state_time_and_address() {
    let barred = policy(
        "[users.u]\nkind = \"operator\"\npassword = \"PHC\"\nexpires = 2027-01-31\nnetworks = [\"192.0.2.0/24\", \"2001:db8::1\"]\n",
    );
    let user = barred.user("u").unwrap();
    assert_eq!(user.expires, Some(1_801_353_600));
    let from = |address: &str| Peer::from(SocketAddr::new(address.parse().unwrap(), 1));
    let why = |address: &str, now: u64| user.barred(&from(address), now);
    assert_eq!(why("192.0.2.7", 0), None);
    assert_eq!(why("::ffff:192.0.2.7", 0), None);
    assert_eq!(why("2001:db8::1", 1_801_353_599), None);
    assert_eq!(why("192.0.2.7", 1_801_353_600), Some("the user has expired"));
    assert_eq!(why("2001:db8::2", 0), Some("the address is outside the user's networks"));
    let two = policy(TWO);
    assert_eq!(two.user("idle").unwrap().barred(&from("127.0.0.1"), 0), Some("the user is disabled"));
}

#[test]
fn tokens_of_before_a_date_are_revoked() {
    let of = |field: &str| {
        let policy = policy(&format!("[users.u]\nkind = \"operator\"\npassword = \"PHC\"\n{field}\n"));
        policy.user("u").unwrap().revoked_before
    };
    assert_eq!(of(""), None);
    for date in ["2027-01-31", "2027-01-31T00:00:00Z", "\"2027-01-31T01:00:00+01:00\"", "\"2027-01-31\""] {
        assert_eq!(of(&format!("revoked-before = {date}")), Some(1_801_353_600), "{date}");
    }
    let user = policy(&user_with("revoked-before = 2027-01-31")).user("u").unwrap().clone();
    assert!(user.revokes(0) && user.revokes(1_801_353_599) && !user.revokes(1_801_353_600));
    let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    assert_eq!(user.barred(&peer, 0), None, "the password is as good as before");
}

#[test]
fn who_needs_a_certificate_is_barred_without_it_and_nobody_else_is() {
    let bound = policy(&user_with("certificate = \"u.example\"\nexpires = 2027-01-31"));
    let (bound, free) = (bound.user("u").unwrap(), policy(&user_with("")).user("u").unwrap().clone());
    let showing = |names: Option<Names>, ends| {
        let certificate = names.map(|names| Certificate { names, ends }.into());
        Peer { address: ([127, 0, 0, 1], 1).into(), certificate }
    };
    let dns = |name: &str| Some(Names::Dns(vec![name.to_owned()]));
    for (peer, now, why) in [
        (showing(dns("u.example"), 100), 99, None),
        (showing(dns("U.EXAMPLE"), 100), 0, None),
        (showing(Some(Names::Common("u.example".into())), 100), 0, None),
        (showing(None, 0), 0, Some("no client certificate was shown")),
        (showing(dns("v.example"), 100), 0, Some("the client certificate is for another name")),
        (showing(Some(Names::Common("u".into())), 100), 0, Some("the client certificate is for another name")),
        (showing(dns("u.example"), 100), 100, Some("the client certificate has expired")),
        (showing(dns("u.example"), u64::MAX), 1_801_353_600, Some("the user has expired")),
    ] {
        assert_eq!(bound.barred(&peer, now), why, "{peer:?} at {now}");
        assert_eq!(free.barred(&peer, now), None, "{peer:?}: whoever needs none may show any");
        assert_eq!(free.barred_from(&peer), None);
    }
    assert_eq!(bound.barred_from(&showing(dns("u.example"), 100)), Some(100));
    assert_eq!(bound.barred_from(&showing(dns("u.example"), u64::MAX)), Some(1_801_353_600));
}

#[test]
fn explain_names_entries_lines_and_groups() {
    let two = policy(TWO);
    let yes = two.explain("bob", "write", "/topic/prod.service.status").unwrap();
    assert!(yes.allowed);
    assert_eq!(
        yes.entries,
        [
            "line 39: destination = \"/topic/prod.*.status\" write = [\"noc\", \"acme\"]",
            "line 42: destination = \"/topic/prod.service.*\" read = [\"acme\"] write = [\"noc\"]",
        ]
    );
    assert!(yes.text.contains("line 39 by acme, noc: /topic/prod.*.status"), "{}", yes.text);
    assert!(yes.scope.unwrap().contains("customer = acmeinc"));
    let no = two.explain("alice", "write", "/topic/prod.exec.run").unwrap();
    assert!(!no.allowed && no.entries.is_empty() && no.scope.is_none());
    assert_eq!(no.text, "alice may not write /topic/prod.exec.run: no entry grants it to noc.");
    let idle = two.explain("idle", "admin", "/topic/a").unwrap();
    assert!(idle.text.contains("(the user is in no group)") && idle.text.contains("idle is disabled"), "{}", idle.text);
    assert_eq!(two.explain("bob", "read", "/topic/prod.service.*").unwrap().entries.len(), 1);
    assert!(!two.explain("bob", "read", "/topic/prod.>").unwrap().allowed);
    assert!(two.explain("bob", "read", "/temp-queue/x").unwrap().text.starts_with("Reply queues are private"));
    for (user, right, name, code, text) in [
        ("eve", "read", "/topic/a", Code::NoSuchName, "the policy has no user `eve`"),
        ("bob", "own", "/topic/a", Code::BadBody, "read, write and admin"),
        ("bob", "write", "/topic/*", Code::BadDestination, "wildcard"),
        ("bob", "read", "prod", Code::BadDestination, "begins with /topic/"),
    ] {
        let refusal = two.explain(user, right, name).unwrap_err();
        assert!(refusal.code == code && refusal.text.contains(text), "{refusal}");
    }
}

/// A user whose `field` has a value, on lines 1 to 4.
fn user_with(field: &str) -> String {
    format!("[users.u]\nkind = \"operator\"\npassword = \"PHC\"\n{field}\n")
}

#[test]
fn every_mistake_has_a_line_and_a_cure() {
    let agent = |field: &str| {
        format!(
            "asserted = [\"a\"]\n[[collective]]\nname = \"prod\"\n{}",
            user_with(field).replace("operator", "agent")
        )
    };
    let cases: Vec<(String, usize, &str)> = vec![
        ("[user.x]\n".into(), 1, "unknown field `user`"),
        ("\n[users.u]\nkind = \"operator\"\n".into(), 2, "missing field `password`"),
        (user_with("group = []"), 4, "unknown field `group`"),
        (user_with("[users.u]"), 4, "duplicate key"),
        (user_with("kind = \"agent\""), 4, "duplicate key"),
        (user_with("groups = [\"a\"]"), 4, "there is no group `a`"),
        (user_with("networks = [\"192.0.2.0\\u002f24\", \"192.0.2.0/33\"]"), 4, "`192.0.2.0/33` is no network"),
        (user_with("networks = [\"192.0.2.1/24\"]"), 4, "has bits behind its prefix"),
        (user_with("expires = 2027-01-31T10:00:00"), 4, "is no moment in time"),
        (user_with("expires = 10:00:00"), 4, "is no moment in time"),
        (user_with("expires = 1969-01-31"), 4, "the date is before 1970"),
        (user_with("expires = 2027-02-31"), 4, ""),
        (user_with("revoked-before = \"now\""), 4, "`now` is no moment in time"),
        (user_with("revoked-before = 7"), 4, "`7` is no moment in time"),
        (user_with("revoked-before = 1969-01-31"), 4, "the date is before 1970"),
        (user_with("expires = \"tomorrow\""), 4, ""),
        (user_with("certificate = \"*.example.net\""), 4, "`*.example.net` has a wildcard"),
        (user_with("certificate = \"\""), 4, "`` cannot be the name in a certificate"),
        (user_with("certificate = \" alice\""), 4, "` alice` cannot be the name in a certificate"),
        (user_with("certificate = \"a\\nb\""), 4, "`a?b` cannot be the name in a certificate"),
        (user_with(&format!("certificate = \"{}\"", "a".repeat(254))), 4, "cannot be the name in a certificate"),
        (user_with("certificate = [\"a\"]"), 4, "invalid type"),
        (user_with("facts = { a = 1 }"), 4, "`facts` of a user of kind operator"),
        (user_with("collective = \"prod\""), 4, "`collective` of a user of kind operator"),
        (user_with("").replace("operator", "robot"), 2, "`robot` is no kind of user"),
        ("[users.\"a b\"]\nkind = \"operator\"\npassword = \"PHC\"\n".into(), 1, "cannot be the name of a user"),
        ("[groups.\"\"]\n".into(), 1, "cannot be the name of a group"),
        (user_with("").replace("operator", "agent"), 1, "has no collective, and none is declared"),
        (agent("collective = \"dev\""), 7, "there is no collective `dev`"),
        (agent("facts = { b = 1 }"), 7, "the asserted fact `b` is not declared"),
        (agent("facts = { broker = 1 }"), 7, "the asserted fact `broker` is not declared"),
        (agent("facts = { a = nan }"), 7, "a number without a value"),
        (agent("facts = { a = 2027-01-31 }"), 7, "a fact is a date"),
        (agent(&format!("facts = {{ a = \"{}\" }}", "x".repeat(20_000))), 7, "more than 16384 bytes"),
        ("asserted = [\"os.family\"]\n".into(), 1, "`os.family` is below one"),
        ("asserted = [\"broker\"]\n".into(), 1, "cannot be asserted"),
        ("display = [\"os.\"]\n".into(), 1, "`os.` is no fact path"),
        ("\nhidden = [\n\"a\",\n\"b c\"]\n".into(), 4, "`b c` is no pattern of fact paths"),
        ("[[collective]]\nname = \"a.b\"\n".into(), 2, "has a dot"),
        ("[[collective]]\nname = \"a\"\n[[collective]]\nname = \"a\"\n".into(), 4, "stands twice"),
        ("authority = \"NOC1\"\n".into(), 1, "`NOC1` cannot be the name of a broker"),
        ("authority = 7\n".into(), 1, "invalid type"),
        ("\nauthority = \"b\"\n[brokers.a]\n".into(), 2, "the authority `b` is not in the broker list"),
        ("[brokers.a]\nauthority = \"a\"\n".into(), 2, "unknown field `authority`"),
        ("\n[brokers.NOC1]\n".into(), 2, "`NOC1` cannot be the name of a broker"),
        ("[brokers.a]\nport = 1\n".into(), 2, "unknown field `port`"),
        ("[brokers.a]\nlink = \"a:0\"\n".into(), 2, "`a:0` is no address of a broker"),
        ("[brokers.a]\nstomp = [\"a\",\n\"https://a\"]\n".into(), 3, "`https://a` is no address of a broker"),
        ("[brokers.a]\n[brokers.a]\n".into(), 2, "duplicate key"),
        ((0..257).map(|n| format!("[brokers.a{n:03}]\n")).collect(), 257, "more than 256 brokers"),
        ("[groups.g]\nshows = [\"network\"]\n".into(), 2, "not a member of the hidden list"),
        ("[groups.g]\nscope = \"a =\"\n".into(), 2, "column "),
        ("[groups.g]\nscope = \"os.family = Debian\"\n".into(), 2, "the fact `os.family`, which a node reports itself"),
        ("[groups.g]\nscope = \"not class = web\"\n".into(), 2, "uses classes, which a node reports itself"),
        ("[[acl]]\ndestination = \"/topic/a.>.b\"\n".into(), 2, "is no destination pattern"),
        ("[[acl]]\ndestination = \"/temp-queue/a\"\n".into(), 2, "reply queues are private"),
        ("[[acl]]\ndestination = \"/remote-temp-queue/a.b\"\n".into(), 2, "reply queues are private"),
        ("[[acl]]\nread = []\n".into(), 1, "missing field `destination`"),
        ("[groups.g]\n[[acl]]\ndestination = \"/topic/a\"\nread = [\"g\", \"h\"]\n".into(), 4, "there is no group `h`"),
        ("[[acl]]\ndestination = \"/topic/a\"\ndeny = [\"h\"]\n".into(), 3, "unknown field `deny`"),
    ];
    for (text, line, cause) in cases {
        let error = refused(&text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.cause.contains(cause), "{text}: {error}");
        assert!(!error.cure.is_empty() && error.to_string().starts_with(&format!("line {line}")), "{error}");
        assert!(!error.to_string().contains("argon2id$v"), "{error}");
    }
}

#[test]
fn passwords_are_sane_hashes_and_errors_do_not_quote_them() {
    let cases = [
        ("\"\"", "is empty"),
        ("\"hunter2\"", "not a PHC string"),
        ("hunter2", ""),
        ("'hunter2", ""),
        ("['hunter2']", "not a text in quotes"),
        ("{ hunter2 = 1 }", "not a text in quotes"),
        ("7777777", "not a text in quotes"),
        ("\"$hunter2\"", "not argon2id"),
        ("\"$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "not argon2id"),
        ("\"$argon2id$v=16$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "version 19"),
        ("\"$argon2id$v=19$m=2097152,t=2,p=1$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "m=2097152"),
        ("\"$argon2id$v=19$m=64,t=2,p=1$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "m=64"),
        ("\"$argon2id$v=19$m=19456,t=4000000000,p=1$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "t=4000000000"),
        ("\"$argon2id$v=19$m=19456,t=2,p=200$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "p=200"),
        ("\"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0\"", "lacks its salt or output"),
        ("\"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$\"", "not a well-formed PHC string"),
        ("\"$argon2id$v=19$m=0,t=0,p=0$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ\"", "no meaning"),
    ];
    for (password, cause) in cases {
        let text = format!("[users.u]\nkind = \"operator\"\npassword = {password}\n");
        let error = refused(&text);
        assert_eq!(error.line, 3, "{password}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(error.cause.contains(cause), "{password}: {error}");
        assert!(!shown.contains("hunter2") && !shown.contains("7777777") && !shown.contains("c2FsdH"), "{shown}");
    }
    let fine = policy(&user_with(""));
    assert!(!format!("{fine:?}").contains("argon2id"));
    assert_eq!(fine.user("u").unwrap().password.as_str(), PHC);
}

#[test]
fn scopes_may_use_reported_facts_only_where_the_policy_says_so() {
    let text = "trust-reported = true\n[groups.g]\nscope = \"os.family=Debian and class=web\"\n";
    assert!(Policy::parse(text).is_ok());
    assert!(Policy::parse(&text.replace("true", "false")).is_err());
    // Each scope is a filter, but together they are too long for one.
    let long = |group: &str| {
        let values = (0..200).map(|n| format!("v{n}")).collect::<Vec<_>>().join(", ");
        format!("[groups.{group}]\nscope = \"broker.name in ({values})\"\n")
    };
    let both = format!("{}{}{}", long("a"), long("b"), user_with("groups = [\"a\", \"b\"]"));
    let error = refused(&both);
    assert!(error.line == 5 && error.cause.contains("together are no filter"), "{error}");
}

#[test]
fn the_authority_is_in_the_broker_list_if_there_is_one() {
    let noc1 = BrokerName::parse("noc1").unwrap();
    assert_eq!(policy("").authority(), None);
    assert_eq!(policy("authority = \"noc1\"").authority(), Some(&noc1), "a broker alone needs no list");
    assert_eq!(policy("authority = \"noc1\"\n[brokers.dc1]\n[brokers.noc1]\n").authority(), Some(&noc1));
}

#[test]
fn the_samples_are_good() {
    let sample = include_str!("../../../../conf/policy.toml");
    let policy = Policy::parse(sample).unwrap();
    assert_eq!((policy.users().count(), policy.brokers().len()), (5, 2));
    assert_eq!(policy.authority().map(BrokerName::as_str), Some("noc1"));
    assert_eq!(lint(&policy).findings, []);
    let shown = Policy::parse(&sample[..sample.find("[brokers.").unwrap()]).unwrap();
    // The sample shows the default hidden list: without it everything stays as it is.
    let user = user_with("").replace("PHC", PHC);
    let start = sample.find("hidden = [").unwrap();
    let end = start + sample[start..].find(']').unwrap() + 1;
    let head = Policy::parse(&format!("{}\n{user}", &sample[start..end])).unwrap();
    let default = Policy::parse(&user).unwrap();
    assert_eq!(head.hidden(head.user("u").unwrap()), default.hidden(default.user("u").unwrap()));
    assert!(shown.asserted().eq(["customer", "datacenter"]));
}

/// Names over a small alphabet, so that patterns and destinations meet.
fn segments() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b"]), 1..4)
}

fn patterns() -> impl Strategy<Value = String> {
    let names = proptest::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..4);
    (names, any::<bool>(), prop::sample::select(vec!["/topic/", "/muster/"])).prop_map(|(mut names, open, prefix)| {
        if open {
            names.push(">");
        }
        format!("{prefix}{}", names.join("."))
    })
}

/// An entry: its pattern, and for each right which of three groups have it.
fn entries() -> impl Strategy<Value = Vec<(String, [u8; 3])>> {
    proptest::collection::vec((patterns(), [0u8..8, 0..8, 0..8]), 0..6)
}

fn names(mask: u8) -> String {
    let groups: Vec<String> = (0..3).filter(|bit| mask & (1 << bit) != 0).map(|bit| format!("\"g{bit}\"")).collect();
    format!("[{}]", groups.join(", "))
}

fn written(entries: &[(String, [u8; 3])], member_of: u8) -> Policy {
    let mut text =
        format!("[groups.g0]\n[groups.g1]\n[groups.g2]\n{}", user_with(&format!("groups = {}", names(member_of))));
    for (pattern, rights) in entries {
        let [read, write, admin] = rights.map(names);
        text += &format!("[[acl]]\ndestination = \"{pattern}\"\nread = {read}\nwrite = {write}\nadmin = {admin}\n");
    }
    policy(&text)
}

#[test]
fn explain_says_what_a_scope_keeps_back() {
    let system = "[[acl]]\ndestination = \"/muster/>\"\nread = [\"noc\"]\nwrite = [\"noc\"]\n";
    let two = policy(&format!("{TWO}{system}"));
    let audit = two.explain("bob", "write", "/muster/admin.audit").unwrap();
    assert!(!audit.allowed, "{audit:?}");
    assert!(
        audit.entries.len() == 1 && audit.entries[0].contains("\"/muster/>\""),
        "the entry that would grant: {audit:?}"
    );
    let because = "bob may not write /muster/admin.audit: the audit log tells of all nodes, and bob has a scope.";
    assert!(audit.text.starts_with(because) && audit.text.contains("by noc: /muster/>"), "{}", audit.text);
    let mesh = two.explain("bob", "write", "/muster/mesh").unwrap();
    assert!(mesh.allowed && mesh.text.contains("/metrics of the HTTP API is refused"), "{mesh:?}");
    assert!(two.explain("bob", "write", "/muster/admin.history").unwrap().allowed);
    assert!(two.explain("bob", "read", "/muster/admin.audit").unwrap().allowed, "it is asking that is refused");
    // Without a scope nothing is kept back, and without an entry that is what is said.
    for place in ["/muster/admin.audit", "/muster/mesh"] {
        let answer = two.explain("alice", "write", place).unwrap();
        assert!(answer.allowed && !answer.text.contains("scope"), "{answer:?}");
        let answer = policy(TWO).explain("bob", "write", place).unwrap();
        assert!(!answer.allowed && answer.text.contains("no entry grants it"), "{answer:?}");
        assert!(!answer.text.contains("/metrics") && !answer.text.contains("tells of all"), "{answer:?}");
    }
}

/// The rule in other words: pattern matching by recursion, an entry at a time.
fn matches(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (Some((&">", _)), _) | (None, None) => true,
        (Some((part, pattern)), Some((segment, name))) => (*part == "*" || part == segment) && matches(pattern, name),
        _ => false,
    }
}

fn grants(entries: &[(String, [u8; 3])], member_of: u8, right: usize, kind: &str, name: &[&str]) -> bool {
    entries.iter().any(|(pattern, rights)| {
        let rest = pattern.strip_prefix(kind);
        rights[right] & member_of != 0 && rest.is_some_and(|rest| matches(&rest.split('.').collect::<Vec<_>>(), name))
    })
}

proptest! {
    #[test]
    fn allowed_is_what_some_entry_grants(entries in entries(), member_of in 0u8..8, name in segments(), topic: bool) {
        let policy = written(&entries, member_of);
        let user = policy.user("u").unwrap();
        let kind = if topic { "/topic/" } else { "/muster/" };
        let destination = destination(&format!("{kind}{}", name.join(".")));
        for (place, right) in Right::ALL.into_iter().enumerate() {
            let expected = grants(&entries, member_of, place, kind, &name);
            prop_assert_eq!(policy.allows(user, right, &destination), expected);
            prop_assert_eq!(policy.granted(right, &destination).intersects(&user.groups), expected);
            let answer = policy.explain("u", right.as_str(), destination.as_str()).unwrap();
            prop_assert_eq!(answer.allowed, expected);
            prop_assert_eq!(answer.entries.is_empty(), !expected);
        }
    }

    #[test]
    fn a_covered_subscription_reads_nothing_that_is_not_granted(
        entries in entries(), member_of in 0u8..8, wanted in patterns(), name in segments(),
    ) {
        let policy = written(&entries, member_of);
        let user = policy.user("u").unwrap();
        let wanted = pattern(&wanted);
        let covers = policy.covers(user, &wanted);
        prop_assert_eq!(policy.explain("u", "read", wanted.as_str()).unwrap().allowed, covers);
        for kind in ["/topic/", "/muster/"] {
            // A segment that no entry names stands for all the others.
            for other in [None, Some(0), Some(1), Some(2)] {
                let mut name = name.clone();
                if let Some(segment) = other.and_then(|place| name.get_mut(place)) {
                    *segment = "other";
                }
                let concrete = destination(&format!("{kind}{}", name.join(".")));
                if covers && wanted.matches(&concrete) {
                    prop_assert!(policy.allows(user, Right::Read, &concrete), "{} {}", wanted, concrete);
                }
            }
        }
    }

    #[test]
    fn arbitrary_text_is_taken_or_refused(text in any::<String>()) {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn a_damaged_policy_is_taken_or_refused(at in 0usize..2000, with in "[\\PC\n]{0,3}", drop in 0usize..6) {
        let good = TWO.replace("PHC", PHC);
        let (start, end) = (at.min(good.len()), (at + drop).min(good.len()));
        if let Err(error) = Policy::parse(&format!("{}{with}{}", &good[..start], &good[end..])) {
            let text = error.to_string();
            prop_assert!(error.line >= 1 && !text.contains("c2FsdHNhbHRz"), "{}", text);
        }
    }
}
