//! Is what does not fit refused, with a text that says what and what to do?

use super::*;

#[test]
fn what_does_not_fit_is_refused() {
    let user = |name: &str| json!({"edit": "user-add", "name": name, "kind": "service", "password": "PHC"});
    let with = |mut edit: Json, field: &str, value: Json| {
        edit.as_object_mut().unwrap().insert(field.to_owned(), value);
        edit
    };
    let set = |name: &str| json!({"edit": "user-set", "name": name});
    let group = |name: &str| json!({"edit": "group-set", "name": name});
    let long = "x".repeat(129);
    let cases = vec![
        (user("alice"), "the user `alice` is there already; set its fields"),
        (user(""), "`` cannot be the name of a user; use 1 to 128"),
        (user("a b"), "`a b` cannot be the name of a user"),
        (user("*"), "`*` cannot be the name of a user"),
        (user("a\n[users.x]"), "`a?[users.x]` cannot be the name of a user"),
        (user("ä"), "`ä` cannot be the name of a user"),
        (user("\"]"), "cannot be the name of a user"),
        (user(&long), "cannot be the name of a user"),
        (
            json!({"edit": "user-add", "name": "new", "kind": "service"}),
            "`new` lacks its kind or its password; give both",
        ),
        (with(user("new"), "unset", json!(["groups"])), "`groups` cannot be unset in what is new"),
        (with(user("new"), "expires", json!("soon")), "expires: `soon` is no date; write a day"),
        (with(user("new"), "revoked-before", json!("1\n2")), "revoked-before: `1?2` is no date"),
        (
            with(user("new"), "facts", json!({"a": null})),
            "the fact `a` is null, which policy.toml cannot hold; leave it out",
        ),
        (
            with(user("new"), "facts", json!({"a": {"b": [u64::MAX]}})),
            "the fact `b` is too large a number; write it as a text",
        ),
        (set("nobody"), "there is no user `nobody`; correct the name"),
        (set("a\u{7}"), "there is no user `a?`"),
        (with(set("alice"), "unset", json!(["kind"])), "`kind` cannot be unset; what can be is groups, networks,"),
        (with(set("alice"), "unset", json!(["nonsense"])), "`nonsense` cannot be unset"),
        (
            with(with(set("alice"), "unset", json!(["groups"])), "groups", json!(["noc"])),
            "`groups` is both set and unset; do one",
        ),
        (with(with(set("alice"), "unset", json!(["facts"])), "facts", json!({})), "`facts` is both set and unset"),
        (json!({"edit": "user-remove", "name": "users"}), "there is no user `users`"),
        (json!({"edit": "group-add", "name": "noc"}), "the group `noc` is there already"),
        (json!({"edit": "group-add", "name": "a>"}), "`a>` cannot be the name of a group"),
        (
            json!({"edit": "group-add", "name": "n", "limits": {"speed": 1}}),
            "there is no limit `speed`; use one of max-targets, ",
        ),
        (
            json!({"edit": "group-add", "name": "n", "limits": {"sessions": u64::MAX}}),
            "sessions: 18446744073709551615 is too large",
        ),
        (group("n"), "there is no group `n`"),
        (
            with(group("noc"), "unset", json!(["members"])),
            "`members` cannot be unset; what can be is scope, all, shows, max-targets",
        ),
        (
            with(with(group("noc"), "unset", json!(["sessions"])), "limits", json!({"sessions": 1})),
            "`sessions` is both set and unset",
        ),
        (json!({"edit": "group-remove", "name": "n"}), "there is no group `n`"),
        (json!({"edit": "group-add-member", "group": "n", "user": "bob"}), "there is no group `n`"),
        (json!({"edit": "group-add-member", "group": "noc", "user": "n"}), "there is no user `n`"),
        (
            json!({"edit": "group-remove-member", "group": "noc", "user": "bob"}),
            "the user `bob` is not in the group `noc`; nothing to remove",
        ),
        (json!({"edit": "group-remove-member", "group": "n", "user": "bob"}), "there is no group `n`"),
        (json!({"edit": "acl-add", "destination": "/muster/find"}), "the entry grants nothing; name groups"),
        (
            json!({"edit": "acl-remove", "destination": "/muster/fin"}),
            "there is no entry for `/muster/fin`; give a pattern exactly",
        ),
        (
            json!({"edit": "acl-remove", "destination": "/muster/find", "read": ["noc"]}),
            "`noc` has no read in the entry for `/muster/find`",
        ),
        (json!({"edit": "acl-remove", "destination": "/muster/find", "write": ["noc", "x"]}), "`x` has no write in"),
        (json!({"edit": "scope-set", "group": "n", "filter": "a=b"}), "there is no group `n`"),
        (json!({"edit": "scope-remove", "name": "admin"}), "the group `admin` has no scope; nothing to remove"),
        (json!({"edit": "scope-remove", "name": "n"}), "there is no group `n`"),
        (json!({"edit": "hidden-remove", "pattern": "rack"}), "`rack` is not in the hidden list; give a member"),
        (json!({"edit": "limit-set", "group": "noc", "limit": "speed", "most": 1}), "there is no limit `speed`"),
        (json!({"edit": "limit-set", "group": "n", "limit": "sessions", "most": 1}), "there is no group `n`"),
        (json!({"edit": "limit-remove", "group": "noc", "limit": "speed"}), "there is no limit `speed`"),
        (
            json!({"edit": "limit-remove", "group": "noc", "limit": "sessions"}),
            "the group `noc` has no limit sessions; nothing",
        ),
        (json!({"edit": "collective-add", "name": "prod"}), "the collective `prod` is there already"),
        (json!({"edit": "collective-add", "name": "a.b"}), "the collective `a.b` has a dot; use one segment"),
        (json!({"edit": "collective-set", "name": "x"}), "there is no collective `x`"),
        (json!({"edit": "collective-remove", "name": "x"}), "there is no collective `x`"),
        (json!({"edit": "broker-set", "name": "NOC"}), "`NOC` cannot be the name of a broker; use a DNS label"),
        (json!({"edit": "broker-remove", "name": "noc1"}), "there is no broker `noc1`"),
    ];
    for (edit, text) in cases {
        let found = refused(TEAM, edit.clone());
        assert!(found.contains(text) && found.contains("; "), "{edit}: {found}");
        assert!(!found.chars().any(char::is_control) && !found.contains("PHC"), "{edit}: {found}");
    }
}

#[test]
fn what_is_no_policy_is_left_alone() {
    let add = json!({"edit": "user-add", "name": "a", "kind": "service", "password": "PHC"});
    assert!(refused("x = 1\ny = hunter2\n", add.clone()).starts_with("line 2 of the policy is no TOML: "));
    assert!(!refused("x = 1\ny = hunter2\n", add.clone()).contains("hunter2"));
    for odd in ["users = 5", "[[users]]\na = 1", "users = [1]"] {
        assert!(refused(odd, add.clone()).contains("`users` is written as something else"), "{odd}");
    }
    let entry = json!({"edit": "acl-add", "destination": "/muster/find", "write": ["a"]});
    for odd in ["acl = 5", "[acl]\na = 1", "acl.x = 1", "acl = {}"] {
        assert!(refused(odd, entry.clone()).contains("`acl` is written as something else"), "{odd}");
    }
    let member = json!({"edit": "user-set", "name": "a", "groups": ["g"], "disabled": true});
    assert!(refused("[users.a]\ngroups = 'x'\n", member.clone()).contains("`users.a.groups` is no list"));
    assert!(refused("[users.a]\ngroups.x = 'x'\n", member.clone()).contains("`users.a.groups` is a table"));
    assert!(refused("[users.a.disabled]\n", member).contains("`users.a.disabled` is a table"));
    assert!(refused("[hidden]\n", json!({"edit": "hidden-add", "pattern": "a"})).contains("`hidden` is a table"));
    assert!(refused("hidden = 1\n", json!({"edit": "hidden-add", "pattern": "a"})).contains("`hidden` is no list"));
    let nobody = BrokerName::parse("a").unwrap();
    assert!(with_authority("[authority]\n", &nobody).unwrap_err().text.contains("`authority` is a table"));
    let whole = Edit::Text(muster_protocol::policy::WholeText { policy: "= [".into() });
    assert_eq!(amend("", &whole).unwrap(), "= [", "whether it is a policy is found out afterwards");
    let revert = edit(json!({"edit": "revert", "to": "1.2"}));
    assert_eq!(amend("", &revert).unwrap_err().code, Code::Internal);
}

/// Two admins, one of them by a group of its own; a broker list with an authority.
const ADMINS: &str = "\
authority = \"noc1\"

[brokers.noc1]
stomp = [\"noc1\"]

[brokers.dc1]
stomp = [\"dc1\"]

[[collective]]
name = \"prod\"

[groups.admin]

[groups.night]

[groups.agents]

[users.root]
kind = \"operator\"
password = \"PHC\"
groups = [\"admin\"]

[users.robot]
kind = \"service\"
password = \"PHC\"
groups = [\"night\"]
expires = 2030-01-01

[users.node]
kind = \"agent\"
password = \"PHC\"
groups = [\"agents\"]

[[acl]]
destination = \"/muster/admin.>\"
write = [\"admin\", \"agents\"]

[[acl]]
destination = \"/muster/*.edit\"
write = [\"night\"]

[[acl]]
destination = \"/muster/admin.edit\"
write = [\"night\"]
";

/// Before and after the service user expires, Unix seconds.
const EARLY: u64 = 1_800_000_000;
const LATE: u64 = 1_900_000_000;

fn tried(text: &str, json: Json, force: bool, now: u64) -> Result<Amendment, Refusal> {
    let text = text.replace("PHC", PHC);
    let query = EditQuery { edit: edit(json), generation: None, reason: String::new(), force, dry_run: false };
    amended(&Policy::parse(&text).unwrap(), &text, &query, now)
}

#[test]
fn the_last_admin_stays_unless_forced() {
    let lock_out = [
        json!({"edit": "user-remove", "name": "root"}),
        json!({"edit": "user-set", "name": "root", "disabled": true}),
        json!({"edit": "user-set", "name": "root", "expires": "2001-01-01"}),
        json!({"edit": "user-set", "name": "root", "groups": ["agents"], "kind": "agent"}),
        json!({"edit": "group-remove-member", "group": "admin", "user": "root"}),
        json!({"edit": "group-remove", "name": "admin"}),
        json!({"edit": "acl-remove", "destination": "/muster/admin.>", "write": ["admin"]}),
        json!({"edit": "acl-remove", "destination": "/muster/admin.>"}),
    ];
    for edit in lock_out {
        assert!(tried(ADMINS, edit.clone(), false, EARLY).is_ok(), "the service is there: {edit}");
        let refusal = tried(ADMINS, edit.clone(), false, LATE).unwrap_err();
        assert_eq!(refusal.code, Code::LastAdmin, "{edit}");
        assert!(refusal.text.contains("/muster/admin.edit") && refusal.text.contains("--force"), "{refusal}");
        let made = tried(ADMINS, edit.clone(), true, LATE).unwrap();
        assert!(!made.changes.is_empty(), "{edit}");
        // Where nobody could before, there is nothing to lose.
        assert!(tried(&made.text, json!({"edit": "group-add", "name": "g"}), false, LATE).is_ok(), "{edit}");
    }
    let nobody = json!({"edit": "text", "policy": "authority = \"noc1\"\n[brokers.noc1]\n"});
    assert_eq!(tried(ADMINS, nobody, false, EARLY).unwrap_err().code, Code::LastAdmin);
    for fine in [
        json!({"edit": "user-set", "name": "root", "expires": "2031-01-01"}),
        json!({"edit": "user-remove", "name": "robot"}),
        json!({"edit": "user-set", "name": "root", "groups": ["admin", "night"]}),
    ] {
        assert!(tried(ADMINS, fine.clone(), false, LATE).is_ok(), "{fine}");
    }
}

#[test]
fn an_entry_that_can_never_match_is_refused_unless_forced() {
    for (destination, why) in [
        ("/queue/jobs", "queues are not there yet; remove the entry"),
        ("/muster/fnd", "no broker answers there; correct the name; there are facts, find"),
        ("/muster/admin.edit.more", "no broker answers there"),
    ] {
        let edit = json!({"edit": "acl-add", "destination": destination, "write": ["night"]});
        let refusal = tried(ADMINS, edit.clone(), false, EARLY).unwrap_err();
        assert_eq!(refusal.code, Code::BadEdit);
        assert!(refusal.text.contains(why) && refusal.text.contains("--force"), "{refusal}");
        let made = tried(ADMINS, edit, true, EARLY).unwrap();
        assert!(made.text.ends_with(&format!("\n[[acl]]\ndestination = \"{destination}\"\nwrite = [\"night\"]\n")));
    }
    for destination in ["/muster/admin.*", "/muster/>", "/topic/prod.>"] {
        let edit = json!({"edit": "acl-add", "destination": destination, "write": ["night"]});
        assert!(tried(ADMINS, edit, false, EARLY).is_ok(), "{destination}");
    }
}

#[test]
fn no_edit_moves_the_authority() {
    let whole = |text: String| json!({"edit": "text", "policy": text.replace("PHC", PHC)});
    let moving = [
        (ADMINS, json!({"edit": "broker-remove", "name": "noc1"})),
        (ADMINS, whole(ADMINS.replace("authority = \"noc1\"", "authority = \"dc1\""))),
        (ADMINS, whole(ADMINS.replace("authority = \"noc1\"", ""))),
        (ADMINS, whole(ADMINS.replace("[brokers.noc1]", "[brokers.other]"))),
        (
            ADMINS,
            whole(ADMINS[..ADMINS.find("[brokers").unwrap()].to_owned() + &ADMINS[ADMINS.find("[[coll").unwrap()..]),
        ),
        (&ADMINS["authority = \"noc1\"".len()..], whole(ADMINS.to_owned())),
    ];
    for (before, edit) in moving {
        for force in [false, true] {
            let refusal = tried(before, edit.clone(), force, EARLY).unwrap_err();
            assert_eq!(refusal.code, Code::BadEdit);
            assert!(refusal.text.contains("muster admin authority take"), "{refusal}");
        }
    }
    for fine in [
        json!({"edit": "broker-remove", "name": "dc1"}),
        json!({"edit": "broker-set", "name": "noc1", "stomp": ["elsewhere"]}),
        whole(ADMINS.replace("authority = \"noc1\"", "# moved\nauthority = 'noc1'")),
    ] {
        assert!(tried(ADMINS, fine.clone(), false, EARLY).is_ok(), "{fine}");
    }
}

#[test]
fn what_would_be_no_policy_is_refused_with_its_line() {
    for (edit, text) in [
        (
            json!({"edit": "user-set", "name": "root", "groups": ["admin", "nobody"]}),
            "line 21, column 20: there is no group `nobody`; ",
        ),
        (
            json!({"edit": "user-set", "name": "root", "kind": "robot"}),
            "line 19, column 8: `robot` is no kind of user; use agent",
        ),
        (
            json!({"edit": "user-set", "name": "root", "password": "hunter2"}),
            "line 20, column 12: the password is not a PHC string",
        ),
        (json!({"edit": "user-set", "name": "root", "networks": ["everywhere"]}), "`everywhere` is no network; write"),
        (
            json!({"edit": "user-set", "name": "root", "certificate": "*.example.net"}),
            "`*.example.net` has a wildcard; write",
        ),
        (json!({"edit": "acl-add", "destination": "/topic/a.>.b", "write": ["admin"]}), "is no destination pattern"),
        (json!({"edit": "scope-set", "group": "night", "filter": "os ="}), "the scope is no filter"),
        (
            json!({"edit": "limit-set", "group": "night", "limit": "sessions", "most": 0}),
            "`sessions` is not a number from 1",
        ),
        (json!({"edit": "hidden-add", "pattern": "a b"}), "`a b` is no pattern of fact paths"),
        (json!({"edit": "collective-remove", "name": "prod"}), "has no collective, and none is declared"),
        (json!({"edit": "text", "policy": "\nuser = 1\n"}), "line 2, column 1: unknown field `user`"),
    ] {
        let refusal = tried(ADMINS, edit.clone(), true, EARLY).unwrap_err();
        assert_eq!(refusal.code, Code::BadEdit);
        let begin = "the policy would be wrong after this edit: line ";
        assert!(refusal.text.starts_with(begin) && refusal.text.contains(text), "{edit}: {refusal}");
        assert!(!refusal.text.contains("hunter2"), "{refusal}");
    }
}

#[test]
fn an_edit_that_changes_nothing_says_so() {
    for edit in [
        json!({"edit": "user-set", "name": "root", "kind": "operator", "groups": ["admin"]}),
        json!({"edit": "user-set", "name": "robot", "expires": "2030-01-01T00:00:00Z"}),
        json!({"edit": "user-set", "name": "robot", "networks": []}),
        json!({"edit": "group-add-member", "group": "admin", "user": "root"}),
        json!({"edit": "acl-add", "destination": "/muster/admin.>", "write": ["admin"]}),
        json!({"edit": "hidden-add", "pattern": "hostname"}),
        json!({"edit": "collective-set", "name": "prod", "targeted": true}),
        json!({"edit": "broker-set", "name": "dc1", "stomp": ["dc1"]}),
        json!({"edit": "text", "policy": format!("# new\n{}", ADMINS.replace("PHC", PHC))}),
    ] {
        let made = tried(ADMINS, edit.clone(), false, EARLY).unwrap();
        assert!(made.changes.is_empty(), "{edit}: {}", made.changes);
    }
    let revoked =
        tried(ADMINS, json!({"edit": "user-set", "name": "root", "revoked-before": "2026-11-21"}), false, EARLY);
    let changes = revoked.unwrap().changes.to_string();
    assert_eq!(changes, "~ user root\n    revoked-before: none -> 2026-11-21T00:00:00Z\n");
    let bound = tried(ADMINS, json!({"edit": "user-set", "name": "root", "certificate": "root.example"}), false, EARLY);
    let changes = bound.unwrap().changes.to_string();
    assert_eq!(changes, "~ user root\n    certificate: none -> root.example\n");
}
