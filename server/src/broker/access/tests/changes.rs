//! Does a diff say what is granted and taken, and which limit holds for whom?

use super::*;
use muster_protocol::policy::{Change, DiffAnswer, How, MOST};

fn change<'a>(answer: &'a DiffAnswer, what: &str, name: &str) -> &'a Change {
    let found = answer.changes.iter().find(|change| change.what == what && change.name == name);
    found.unwrap_or_else(|| panic!("no {what} {name}: {answer}"))
}

#[test]
fn order_comments_and_blank_lines_change_nothing() {
    let blocks: Vec<&str> = TWO.split_inclusive("\n[").collect();
    assert!(diff(&policy(TWO), &policy(&TWO.replace("\n[", "\n\n# more\n["))).is_empty() && blocks.len() > 9);
    let (head, rest) = TWO.split_once("[users.alice]").unwrap();
    let (users, entries) = rest.split_once("[[acl]]").unwrap();
    let turned = format!("{head}[[acl]]{entries}[users.alice]{users}");
    assert!(diff(&policy(TWO), &policy(&turned)).is_empty(), "{}", diff(&policy(TWO), &policy(&turned)));
}

#[test]
fn every_setting_that_differs_is_named_and_no_hash_is_shown() {
    let other = PHC.replace("c2FsdHNhbHRzYWx0c2FsdA", "b3RoZXJzYWx0b3RoZXJzYQ");
    let mut text = TWO.to_owned();
    for (from, to) in [
        (
            "asserted = [\"customer\", \"datacenter\"]",
            "asserted = [\"customer\", \"datacenter\", \"rack\"]\nhidden = [\"hostname\"]\ntrust-reported = true",
        ),
        ("display = [\"customer\", \"os.family\"]", "display = [\"customer\"]\nauthority = \"noc1\""),
        ("name = \"old\"\ntargeted = false", "name = \"old\""),
        ("scope = \"customer=acmeinc\"", "scope = \"customer=globex\"\nmax-targets = 5"),
        ("[groups.admin]", "[groups.new]\nscope = \"customer=a\"\nsessions = 2\n[groups.admin]"),
        (
            "[users.root]\nkind = \"service\"\npassword = \"PHC\"",
            "[users.root]\nkind = \"operator\"\npassword = \"OTHER\"\nexpires = 2030-01-02\nnetworks = [\"192.0.2.1\"]\ncertificate = \"Root\"\nrevoked-before = 2026-01-02",
        ),
        ("disabled = true", "disabled = false"),
        ("facts = { customer = \"acmeinc\" }", "facts = { customer = \"globex\", rack = 7 }"),
        ("[[acl]]", "[brokers.noc1]\nlink = \"h:1\"\n[[acl]]"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let answer = diff(&policy(TWO), &policy(&text.replace("OTHER", &other)));
    let details = |what: &str, name: &str| change(&answer, what, name).details.join("; ");
    assert_eq!(change(&answer, "asserted", "rack").how, How::Added);
    assert_eq!(change(&answer, "hidden", "dmi.**").how, How::Removed);
    assert!(!answer.changes.iter().any(|change| change.what == "hidden" && change.name == "hostname"));
    assert_eq!(change(&answer, "display", "os.family").how, How::Removed);
    assert_eq!(details("setting", "trust-reported"), "value: false -> true");
    assert_eq!(details("setting", "authority"), "value: none -> noc1");
    assert_eq!(details("collective", "old"), "targeted: false -> true");
    assert_eq!(details("broker", "noc1"), "link: none -> h:1");
    assert_eq!(details("group", "acme"), "scope: customer = acmeinc -> customer = globex; max-targets: none -> 5");
    assert_eq!(details("group", "new"), "scope: none -> customer = a; sessions: none -> 2");
    let root = "password changed; kind: service -> operator; expires: never -> 2030-01-02T00:00:00Z; revoked-before: none -> 2026-01-02T00:00:00Z; certificate: none -> Root; networks: + 192.0.2.1/32";
    assert_eq!(details("user", "root"), root);
    assert_eq!(details("user", "idle"), "disabled: true -> false");
    assert_eq!(details("user", "node"), "fact customer: \"acmeinc\" -> \"globex\"; fact rack: none -> 7");
    assert!(answer.rights.is_empty() && !answer.to_string().contains("argon2id"), "{answer}");
    let json = serde_json::to_string(&answer).unwrap();
    assert!(!json.contains("argon2id") && !json.contains("b3RoZXJz") && !json.contains("c2FsdH"), "{json}");
}

#[test]
fn rights_are_granted_and_taken_by_user_and_pattern() {
    let text = TWO
        .replace("groups = [\"acme\", \"east\", \"noc\"]", "groups = [\"acme\", \"east\"]")
        .replace("write = [\"noc\", \"acme\"]", "write = [\"noc\"]")
        .replace(
            "[users.root]",
            "[users.eve]\nkind = \"operator\"\npassword = \"PHC\"\ngroups = [\"admin\"]\nexpires = 2030-01-02\nnetworks = [\"::1\"]\ncertificate = \"eve\"\n\
             [users.root]",
        );
    let answer = diff(&policy(TWO), &policy(&text));
    let rights: Vec<String> = answer
        .to_string()
        .lines()
        .filter(|line| line.contains(": ") && !line.starts_with(' '))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        rights,
        [
            "- taken: bob read /topic/prod.process.*",
            "- taken: bob write /topic/prod.*.status",
            "- taken: bob write /topic/prod.service.*",
            "+ granted: eve admin /topic/prod.process.*",
        ]
    );
    assert_eq!(change(&answer, "user", "bob").details, ["groups: - noc"]);
    assert_eq!(
        change(&answer, "user", "eve").details,
        ["kind: operator", "groups: admin", "expires: 2030-01-02T00:00:00Z", "networks: ::1/128", "certificate: eve"]
    );
    assert_eq!(change(&answer, "entry", "/topic/prod.*.status").details, ["write: - acme"]);
}

#[test]
fn a_long_answer_is_cut_and_says_so() {
    let users: String =
        (0..MOST + 5).map(|n| format!("[users.u{n}]\nkind = \"operator\"\npassword = \"PHC\"\n")).collect();
    let answer = diff(&Policy::default(), &policy(&users));
    assert_eq!((answer.changes.len(), answer.more), (MOST, 5));
}

#[test]
fn a_right_brings_the_limits_of_the_groups_that_grant_it() {
    let text = |noc: &str, acme: &str, extra: &str| {
        format!(
            "[groups.noc]\n{noc}\n[groups.acme]\n{acme}\n[groups.look]\n[groups.idle]\n{extra}\n\
             [users.u]\nkind = \"operator\"\npassword = \"PHC\"\ngroups = [\"noc\", \"acme\", \"look\", \"idle\"]\n\
             [[acl]]\ndestination = \"/topic/prod.*.*\"\nwrite = [\"noc\", \"acme\"]\n\
             [[acl]]\ndestination = \"/topic/only.*.*\"\nwrite = [\"acme\"]\n\
             [[acl]]\ndestination = \"/muster/find\"\nwrite = [\"look\"]\n"
        )
    };
    let at = |text: &str, place: &str| {
        let policy = policy(text);
        let bound = policy.limit_at(policy.user("u").unwrap(), Limit::MaxTargets, &destination(place));
        bound.map(|bound| (bound.most, bound.group))
    };
    let both = text("max-targets = 5", "max-targets = 50", "max-targets = 900");
    assert_eq!(at(&both, "/topic/prod.a.b"), Some((50, "acme".into())), "the most generous of those that grant it");
    let lifted = text("", "max-targets = 50", "");
    assert_eq!(at(&lifted, "/topic/prod.a.b"), None, "a group that grants it without a limit lifts it");
    assert_eq!(at(&lifted, "/topic/only.a.b"), Some((50, "acme".into())), "what only acme grants, acme limits");
    assert_eq!(at(&lifted, "/topic/none.a.b"), None);
    let sessions = |text: &str| {
        let policy = policy(text);
        policy.session_limit(policy.user("u").unwrap()).map(|bound| bound.most)
    };
    assert_eq!(sessions(&text("sessions = 3", "sessions = 4", "sessions = 9")), None, "look grants something too");
    let all = text("sessions = 3", "sessions = 4", "").replace("[groups.look]", "[groups.look]\nsessions = 2");
    assert_eq!(sessions(&all), Some(4), "idle grants nothing and lifts nothing");
    let nothing = "[groups.g]\nsessions = 1\n[users.u]\nkind = \"operator\"\npassword = \"PHC\"\ngroups = [\"g\"]\n";
    assert_eq!(sessions(nothing), Some(1));
    let explained = policy(&both).explain("u", "write", "/topic/prod.a.b").unwrap();
    let limits: Vec<String> = explained.limits.iter().map(|bound| format!("{} {}", bound.limit, bound.most)).collect();
    assert_eq!(limits, ["max-targets 50"]);
}

#[test]
fn limits_are_whole_numbers_from_one() {
    for value in ["0", "-1", "1000001", "1.5", "\"5\""] {
        let error = refused(&format!("[groups.g]\nall = true\nin-flight = {value}\n"));
        assert_eq!(error.line, 3, "{value}: {error}");
    }
    let error = refused("[groups.g]\nsessions = 0\n");
    assert!(
        error.cause.contains("`sessions` is not a number from 1") && error.cure.contains("grant nothing"),
        "{error}"
    );
    assert!(Policy::parse("[groups.g]\nmax-targets = 1\nrequests-per-minute = 1000000\n").is_ok());
}

/// Every name of up to three segments over the alphabet of the generators, and a segment that no pattern names.
fn everywhere() -> Vec<Destination> {
    let mut all = Vec::new();
    for prefix in ["/topic/", "/muster/"] {
        let mut names = vec![String::new()];
        for _ in 0..5 {
            let longer = |name: &String| {
                let dot = if name.is_empty() { "" } else { "." };
                ["a", "b", "z"].map(|segment| format!("{name}{dot}{segment}"))
            };
            names = names.iter().flat_map(longer).collect();
            all.extend(names.iter().map(|name| destination(&format!("{prefix}{name}"))));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_diff_with_itself_is_empty(entries in entries(), member_of in 0u8..8) {
        let policy = written(&entries, member_of);
        prop_assert!(diff(&policy, &policy).is_empty());
    }

    /// What is lost or won anywhere is said, and what is said is lost or won somewhere.
    #[test]
    fn a_diff_says_exactly_what_is_granted_and_taken(
        old in (entries(), 0u8..8), new in (entries(), 0u8..8),
    ) {
        let (old, new) = (written(&old.0, old.1), written(&new.0, new.1));
        let answer = diff(&old, &new);
        let (was, is) = (old.user("u").unwrap(), new.user("u").unwrap());
        let mut said = vec![false; answer.rights.len()];
        for place in everywhere() {
            for right in Right::ALL {
                let (before, after) = (old.allows(was, right, &place), new.allows(is, right, &place));
                let mut told = false;
                for (at, moved) in answer.rights.iter().enumerate() {
                    if moved.right == right.as_str() && pattern(&moved.pattern).matches(&place) {
                        prop_assert!(if moved.granted { after } else { before }, "{moved:?} at {place}");
                        if before != after && moved.granted == after {
                            told = true;
                            said[at] = true;
                        }
                    }
                }
                prop_assert!(told || before == after, "{right} at {place}: {before} -> {after}: {answer}");
            }
        }
        prop_assert!(said.iter().all(|said| *said), "{answer} {said:?}");
    }
}
