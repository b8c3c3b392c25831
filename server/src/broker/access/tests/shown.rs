//! Is all of a policy shown, page by page, and never a hash?

use super::*;
use muster_protocol::policy::{PAGE_MOST, Part, ShowAnswer, ShowQuery};

fn query(what: Part, name: Option<&str>, after: Option<&str>, limit: Option<u32>) -> ShowQuery {
    ShowQuery { what, name: name.map(str::to_owned), after: after.map(str::to_owned), limit }
}

fn shown(policy: &Policy, what: Part, name: Option<&str>) -> ShowAnswer {
    policy.show(&query(what, name, None, None)).unwrap()
}

fn json(answer: &ShowAnswer) -> serde_json::Value {
    serde_json::to_value(answer).unwrap()
}

#[test]
fn every_part_is_shown_as_it_holds() {
    let text = TWO
        .replace("[groups.acme]", "[groups.acme]\nmax-targets = 5\nin-flight = 2")
        .replace("[users.idle]", "[users.idle]\nexpires = 2030-01-02\nnetworks = [\"192.0.2.1\"]\nrevoked-before = \"2026-01-02T03:04:05+01:00\"\ncertificate = \"idle.example\"")
        .replace("[groups.noc]", "[brokers.noc1]\nlink = \"h:1\"\nstomp = [\"h\", \"[::1]:7\"]\n[brokers.dc1]\n[groups.noc]");
    let policy = policy(&text);
    assert_eq!(
        json(&shown(&policy, Part::Users, Some("idle"))),
        json!({"users": [{
            "name": "idle", "kind": "operator", "disabled": true, "expires": "2030-01-02T00:00:00Z",
            "revoked-before": "2026-01-02T02:04:05Z", "networks": ["192.0.2.1/32"],
            "certificate": "idle.example",
        }]})
    );
    assert_eq!(
        json(&shown(&policy, Part::Users, Some("node"))),
        json!({"users": [{
            "name": "node", "kind": "agent", "disabled": false, "collective": "prod", "facts": {"customer": "acmeinc"},
        }]}),
        "the collective that counts, said or not"
    );
    let bob = &shown(&policy, Part::Users, Some("bob")).users[0];
    assert_eq!(bob.groups, ["acme", "east", "noc"]);
    assert_eq!(
        json(&shown(&policy, Part::Groups, None)),
        json!({"groups": [
            {"name": "acme", "scope": "customer = acmeinc", "all": false, "limits": {"in-flight": 2, "max-targets": 5}, "members": 1},
            {"name": "admin", "all": false, "shows": HIDDEN_BY_DEFAULT, "members": 1},
            {"name": "east", "scope": "datacenter = a or broker.name = east1", "all": false, "members": 1},
            {"name": "noc", "all": true, "shows": ["hostname"], "members": 2},
        ]})
    );
    let line = text.lines().position(|line| line.contains("service.*")).unwrap() + 1;
    assert_eq!(
        json(&shown(&policy, Part::Acl, Some("/topic/prod.service.*"))),
        json!({"acl": [{"line": line, "destination": "/topic/prod.service.*", "read": ["acme"], "write": ["noc"]}]})
    );
    let order: Vec<String> = shown(&policy, Part::Acl, None).acl.into_iter().map(|entry| entry.destination).collect();
    assert_eq!(order, ["/topic/prod.*.status", "/topic/prod.service.*", "/topic/prod.process.*"]);
    let hidden = shown(&policy, Part::Hidden, None).hidden;
    assert_eq!(hidden.iter().map(|it| it.pattern.as_str()).collect::<Vec<_>>(), HIDDEN_BY_DEFAULT);
    assert_eq!(
        (&hidden[0].shown_to[..], &hidden[1].shown_to[..]),
        (&["admin".into(), "noc".into()][..], &["admin".into()][..])
    );
    assert_eq!(
        json(&shown(&policy, Part::Collectives, None)),
        json!({"collectives": [{"name": "prod", "targeted": true}, {"name": "old", "targeted": false}]})
    );
    assert_eq!(
        json(&shown(&policy, Part::Brokers, None)),
        json!({"brokers": [{"name": "dc1"}, {"name": "noc1", "link": "h:1", "stomp": ["h:61614", "[::1]:7"]}]})
    );
    for part in [Part::Users, Part::Groups, Part::Acl, Part::Hidden, Part::Collectives, Part::Brokers] {
        let text = json(&shown(&policy, part, None)).to_string();
        assert!(!text.contains("argon2") && !text.contains("c2FsdH") && !text.contains("generation"), "{text}");
        assert_eq!(
            json(&shown(&Policy::default(), part, None)),
            match part {
                Part::Hidden => json(&shown(&Policy::default(), Part::Hidden, None)),
                _ => json!({}),
            }
        );
    }
}

#[test]
fn pages_together_are_the_whole_and_none_is_too_large() {
    let user = |n: usize| format!("[users.u{n:04}]\nkind = \"operator\"\npassword = \"PHC\"\n");
    let many = policy(&(0..2_345).map(user).collect::<String>());
    for (limit, pages) in
        [(None, 3), (Some(0), 2_345), (Some(1), 2_345), (Some(700), 4), (Some(2_345), 3), (Some(u32::MAX), 3)]
    {
        let (mut names, mut after, mut count) = (Vec::new(), None, 0);
        loop {
            let page = many.show(&query(Part::Users, None, after.as_deref(), limit)).unwrap();
            assert!(page.users.len() <= limit.unwrap_or(PAGE_MOST).clamp(1, PAGE_MOST) as usize);
            names.extend(page.users.into_iter().map(|user| user.name));
            count += 1;
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert_eq!(count, pages, "{limit:?}");
        assert_eq!(names, (0..2_345).map(|n| format!("u{n:04}")).collect::<Vec<_>>());
    }
    // A name that has gone in between is no matter.
    let page = many.show(&query(Part::Users, None, Some("u0003x"), Some(1))).unwrap();
    assert_eq!(page.users[0].name, "u0004");
    assert!(many.show(&query(Part::Users, None, Some("z"), None)).unwrap().is_empty());

    let fact = "x".repeat(15_000);
    let heavy =
        |n: usize| format!("[users.n{n:02}]\nkind = \"agent\"\npassword = \"PHC\"\nfacts = {{ a = \"{fact}\" }}\n");
    let head = "asserted = [\"a\"]\n[[collective]]\nname = \"p\"\n";
    let heavy = policy(&(head.to_owned() + &(0..40).map(heavy).collect::<String>()));
    let first = shown(&heavy, Part::Users, None);
    assert!(first.users.len() > 10 && json(&first).to_string().len() < 300_000);
    assert_eq!(first.next.as_deref(), Some(first.users.last().unwrap().name.as_str()));
}

#[test]
fn lists_that_repeat_themselves_are_paged_by_place() {
    let entry = "[[acl]]\ndestination = \"/muster/find\"\n";
    let policy = policy(&(entry.repeat(5) + "[[acl]]\ndestination = \"/muster/node\"\n"));
    let lines = |name: Option<&str>, limit: u32| {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = policy.show(&query(Part::Acl, name, after.as_deref(), Some(limit))).unwrap();
            pages.push(page.acl.iter().map(|entry| entry.line).collect::<Vec<_>>());
            match page.next {
                Some(next) => after = Some(next),
                None => return pages,
            }
        }
    };
    assert_eq!(lines(None, 4), [vec![2, 4, 6, 8], vec![10, 12]]);
    assert_eq!(lines(Some("/muster/find"), 2), [vec![2, 4], vec![6, 8], vec![10]]);
    assert_eq!(lines(Some("/muster/find"), 5), [vec![2, 4, 6, 8, 10]]);
    for after in ["", "x", "-1", "1.5"] {
        let refusal = policy.show(&query(Part::Acl, None, Some(after), None)).unwrap_err();
        assert!(refusal.code == Code::BadBody && refusal.text.contains("give `next` of the page before"), "{refusal}");
    }
    assert!(policy.show(&query(Part::Acl, None, Some("999"), None)).unwrap().is_empty());
}

#[test]
fn what_is_not_there_is_named() {
    let two = policy(TWO);
    for (part, text) in [
        (Part::Users, "user `x?`"),
        (Part::Groups, "group `x?`"),
        (Part::Acl, "entry for exactly `x?`"),
        (Part::Hidden, "pattern in the hidden list `x?`"),
        (Part::Collectives, "collective `x?`"),
        (Part::Brokers, "broker `x?`"),
    ] {
        let refusal = two.show(&query(part, Some("x\n"), None, None)).unwrap_err();
        assert_eq!((refusal.code, refusal.text), (Code::NoSuchName, format!("the policy has no {text}")));
    }
    // A name is the name, not where names begin; what was meant is said, whatever the case.
    for (part, name, near) in [
        (Part::Users, "ali", None),
        (Part::Users, "alcie", Some("alice")),
        (Part::Users, "Alice", Some("alice")),
        (Part::Hidden, "hostnam", Some("hostname")),
    ] {
        let refusal = two.show(&query(part, Some(name), None, None)).unwrap_err();
        let meant = near.map(|near| format!("; is `{near}` meant?")).unwrap_or_default();
        assert!(refusal.text.ends_with(&format!("`{name}`{meant}")), "{refusal}");
    }
    assert_eq!(shown(&two, Part::Users, Some("alice")).users.len(), 1);
}
