//! Does the real command line edit the policy of a real broker, and does what it says hold at once?

use muster_tests::agent::write_private;
use muster_tests::policy::{PASSWORD, POLICY};
use muster_tests::process::Said;
use muster_tests::{Broker, Muster, Node, Setup, Stomp, until};
use serde_json::{Value, json};
use std::fs::{self, File};

const NEW: &str = "brand-new-secret-81";

/// A broker that has the authority over its policy, which has a comment, and an admin.
fn stage() -> (Broker, Muster) {
    let mut setup = Setup::new();
    setup.set_policy(&format!("# kept by hand since 2019\n{POLICY}"));
    let broker = setup.start();
    let noc = Muster::new(&broker, "noc");
    done(&noc, &["admin", "authority", "take", "--yes", "--reason", "the first one"]);
    let authority = noc.json(0, &["admin", "authority", "--json"]);
    assert_eq!((&authority["broker"], &authority["authority"]), (&json!("noc1"), &json!("noc1")), "{authority}");
    (broker, noc)
}

/// The generation that the broker enforces.
fn generation(muster: &Muster) -> String {
    let authority = muster.json(0, &["admin", "authority", "--json"]);
    authority["generation"].as_str().unwrap_or_else(|| panic!("no generation: {authority}")).to_owned()
}

/// Runs an edit that must be made; the generation that it printed.
fn done(muster: &Muster, arguments: &[&str]) -> String {
    let said = muster.run(arguments);
    assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    let last = said.stdout.lines().last().and_then(|line| line.strip_prefix("generation "));
    last.unwrap_or_else(|| panic!("{arguments:?} says no generation: {said:?}")).to_owned()
}

/// Runs an edit that must be refused with this code.
fn refused(muster: &Muster, arguments: &[&str], code: &str) -> Said {
    let said = muster.run(arguments);
    assert_eq!(said.code, 4, "{arguments:?}: {said:?}");
    assert!(said.stderr.starts_with(&format!("muster: refused: {code}: ")), "{arguments:?}: {said:?}");
    said
}

/// The same operator's files, for somebody else with another password.
fn muster_of(broker: &Broker, user: &str, password: &str) -> Muster {
    let muster = Muster::new(broker, user);
    write_private(&muster.folder().join("password"), password);
    muster
}

fn policy_file(broker: &Broker) -> String {
    fs::read_to_string(broker.folder().join("policy.toml")).expect("the policy")
}

#[test]
fn a_user_who_is_added_can_log_in_at_once_and_one_who_is_removed_is_out() {
    let (broker, noc) = stage();
    let bob = muster_of(&broker, "bob", NEW);
    assert_eq!(bob.run(&["find", "-C", "web"]).code, 4, "nobody has added bob yet");
    let file = noc.folder().join("new");
    write_private(&file, NEW);
    let file = file.to_str().expect("a path");
    let add = ["admin", "user", "add", "bob", "--kind", "operator", "--group", "viewers", "--new-password-file", file];
    done(&noc, &add);
    assert_eq!(bob.run(&["find", "-C", "web"]).code, 1, "no node matches, and bob may ask");
    refused(&noc, &add, "bad-edit");
    let text = policy_file(&broker);
    assert!(text.contains("# kept by hand since 2019") && text.contains("[users.bob]"), "{text}");
    assert!(!text.contains(NEW) && !broker.log().contains(NEW), "a password in the clear");

    let mut viewer = Stomp::login(&broker, "viewer");
    let mut stays = Stomp::login(&broker, "acme");
    refused(&noc, &["admin", "user", "remove", "nobody-such", "-y"], "bad-edit");
    let said = noc.run(&["admin", "user", "remove", "viewer"]);
    assert!(said.code == 4 && said.stderr.contains("--yes"), "removed without a yes: {said:?}");
    stays.assert_quiet();
    done(&noc, &["admin", "user", "remove", "viewer", "--yes", "--reason", "left"]);
    assert_eq!(viewer.error().code, "revoked");
    stays.assert_quiet();
    assert_eq!(Muster::new(&broker, "viewer").run(&["find", "-C", "web"]).code, 4);
}

#[test]
fn passwords_and_switches_of_a_user_hold_at_once() {
    let (broker, noc) = stage();
    let file = noc.folder().join("new");
    write_private(&file, &format!("{NEW}\n"));
    let mut viewer = Stomp::login(&broker, "viewer");
    let mut command = noc.command(&["admin", "user", "passwd", "viewer", "--new-password-stdin"]);
    let output = command.stdin(File::open(&file).expect("the password")).output().expect("muster");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("password changed"), "{output:?}");
    assert_eq!(viewer.error().code, "revoked");
    let (old, new) = (muster_of(&broker, "viewer", PASSWORD), muster_of(&broker, "viewer", NEW));
    assert_eq!(old.run(&["find", "-C", "web"]).code, 4);
    assert_eq!(new.run(&["find", "-C", "web"]).code, 1);
    done(&noc, &["admin", "user", "disable", "viewer"]);
    assert_eq!(new.run(&["find", "-C", "web"]).code, 4);
    let user = &noc.json(0, &["admin", "user", "show", "viewer", "--json"])["users"][0];
    assert_eq!((&user["name"], &user["disabled"]), (&json!("viewer"), &json!(true)));
    done(&noc, &["admin", "user", "enable", "viewer"]);
    assert_eq!(new.run(&["find", "-C", "web"]).code, 1);
    done(&noc, &["admin", "user", "set", "viewer", "--network", "192.0.2.0/24"]);
    assert_eq!(new.run(&["find", "-C", "web"]).code, 4, "not from here any more");
    done(&noc, &["admin", "user", "set", "viewer", "--unset", "networks"]);
    assert_eq!(new.run(&["find", "-C", "web"]).code, 1);
}

#[test]
fn revoked_tokens_let_nobody_in() {
    let (broker, noc) = stage();
    let viewer = Muster::new(&broker, "viewer");
    assert_eq!(viewer.run(&["login"]).code, 0);
    let settings = viewer.folder().join("muster.toml");
    let text = fs::read_to_string(&settings).expect("the settings").replace("password-file = \"password\"\n", "");
    write_private(&settings, &text);
    assert_eq!(viewer.run(&["find", "-C", "web"]).code, 1, "by its token");
    done(&noc, &["admin", "user", "revoke-tokens", "viewer", "--before", "2999-01-01"]);
    let said = viewer.run(&["find", "-C", "web"]);
    assert!(said.code == 4 && said.stderr.contains("does not take the token"), "{said:?}");
}

#[test]
fn a_dry_run_changes_nothing_and_what_stands_so_already_makes_no_generation() {
    let (broker, noc) = stage();
    let (before, text) = (generation(&noc), policy_file(&broker));
    let mut viewer = Stomp::login(&broker, "viewer");
    for arguments in [
        &["admin", "user", "remove", "viewer", "--dry-run"][..],
        &["admin", "group", "remove", "viewers", "-n"],
        &["admin", "acl", "add", "/topic/prod.>", "--write", "viewers", "-n"],
    ] {
        let said = noc.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
        assert!(said.stdout.contains("viewer") && said.stderr.contains("dry run"), "{arguments:?}: {said:?}");
    }
    let said = noc.run(&["admin", "group", "add-member", "viewers", "viewer"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    assert!(said.stderr.starts_with("Nothing changed"), "{said:?}");
    viewer.assert_quiet();
    assert_eq!((generation(&noc), policy_file(&broker)), (before, text));
}

#[test]
fn of_two_edits_for_one_generation_the_second_is_told_the_new_one() {
    let (_broker, noc) = stage();
    let before = generation(&noc);
    let after = done(&noc, &["admin", "limit", "set", "viewers", "max-targets", "5", "--generation", &before]);
    assert_ne!(before, after);
    let said = refused(
        &noc,
        &["admin", "limit", "set", "viewers", "max-targets", "9", "--generation", &before],
        "stale-generation",
    );
    assert!(said.stderr.contains(&after), "the new generation is not named: {said:?}");
    let limits = noc.json(0, &["admin", "limit", "show", "viewers", "--json"]);
    assert_eq!(limits["limits"], json!([{"group": "viewers", "limit": "max-targets", "most": 5}]));
    done(&noc, &["admin", "limit", "set", "viewers", "max-targets", "9", "--generation", &after]);
}

#[test]
fn the_history_says_who_did_what_and_why_and_goes_back() {
    let (broker, noc) = stage();
    let (first, text) = (generation(&noc), policy_file(&broker));
    let second = done(&noc, &["admin", "group", "add", "night", "--reason", "the night shift"]);
    let third = done(&noc, &["admin", "group", "add-member", "night", "viewer"]);
    let history = noc.json(0, &["admin", "history", "--json"]);
    let editions = history["editions"].as_array().expect("editions");
    let named: Vec<&str> = editions.iter().filter_map(|edition| edition["generation"].as_str()).collect();
    assert_eq!(named[..3], [third.as_str(), &second, &first], "{history}");
    assert_eq!(
        (&editions[1]["by"], &editions[1]["what"], &editions[1]["reason"]),
        (&json!("noc"), &json!("group add night"), &json!("the night shift"))
    );
    assert_eq!(
        noc.json(0, &["admin", "history", "--limit", "1", "--json"])["editions"].as_array().map(Vec::len),
        Some(1)
    );
    let said = noc.run(&["admin", "history", &second]);
    assert!(said.code == 0 && said.stdout.contains("+ group night"), "{said:?}");

    let last = done(&noc, &["admin", "revert", &first, "--yes", "--reason", "not tonight"]);
    assert!(last != first && policy_file(&broker) == text, "{}", policy_file(&broker));
    assert_eq!(noc.run(&["admin", "group", "list"]).stdout.matches("night").count(), 0);
    let said = noc.run(&["admin", "revert", "999.999", "--yes"]);
    assert_eq!(said.code, 4, "{said:?}");
}

#[test]
fn the_last_admin_is_not_locked_out_by_mistake() {
    let (broker, noc) = stage();
    let before = policy_file(&broker);
    for arguments in [
        &["admin", "group", "remove", "noc", "-y"][..],
        &["admin", "acl", "remove", "/muster/admin.>", "-y"],
        &["admin", "acl", "remove", "/muster/admin.>", "--write", "noc", "--dry-run"],
    ] {
        let said = refused(&noc, arguments, "last-admin");
        assert!(said.stderr.contains("--force"), "{said:?}");
    }
    assert_eq!(policy_file(&broker), before);
    done(&noc, &["admin", "acl", "remove", "/muster/admin.>", "-y", "--force"]);
    refused(&noc, &["admin", "user", "list"], "denied");
}

#[test]
fn a_whole_policy_is_applied_or_refused_whole() {
    let (broker, noc) = stage();
    let draft = noc.folder().join("draft.toml");
    let draft_path = draft.to_str().expect("a path");
    let before = policy_file(&broker);
    fs::write(&draft, before.replace("[groups.viewers]\n", "[groups.viewers]\nmax-targets = 3\n")).expect("a draft");
    let said = noc.run(&["admin", "apply", draft_path]);
    assert!(said.code == 4 && said.stderr.contains("--yes"), "applied without a yes: {said:?}");
    done(&noc, &["admin", "apply", draft_path, "--yes"]);
    assert!(policy_file(&broker).contains("max-targets = 3"));
    let good = policy_file(&broker);
    fs::write(&draft, good.replace("[groups.viewers]\n", "[groups.viewers]\nmax-target = 3\n")).expect("a draft");
    let said = refused(&noc, &["admin", "apply", draft_path, "--yes"], "bad-edit");
    assert!(said.stderr.contains("line ") && said.stderr.contains("max-target"), "{said:?}");
    assert_eq!(policy_file(&broker), good);
}

#[test]
fn everything_that_is_set_can_be_listed_and_shown() {
    let (_broker, noc) = stage();
    done(&noc, &["admin", "group", "add", "night", "--scope", "customer=acmeinc", "--shows", "hostname"]);
    done(&noc, &["admin", "group", "add-member", "night", "viewer"]);
    done(&noc, &["admin", "acl", "add", "/topic/prod.service.*", "--write", "night", "--read", "night"]);
    done(&noc, &["admin", "hidden", "add", "secret.**"]);
    done(&noc, &["admin", "limit", "set", "night", "sessions", "7"]);
    done(&noc, &["admin", "collective", "add", "lab", "--targeted", "false"]);
    done(&noc, &["admin", "broker", "set", "noc1", "--link", "192.0.2.1:61617", "--stomp", "192.0.2.1:61614"]);
    let list = |arguments: &[&str]| noc.json(0, &[&["admin"], arguments, &["--json"]].concat());
    let has = |document: &Value, key: &str, wanted: &Value| {
        let fits = |member: &Value| wanted.as_object().unwrap().iter().all(|(name, value)| member[name] == *value);
        assert!(document[key].as_array().is_some_and(|members| members.iter().any(fits)), "no {wanted} in {document}");
    };
    has(
        &list(&["user", "list", "--group", "night"]),
        "users",
        &json!({"name": "viewer", "groups": ["night", "viewers"]}),
    );
    has(
        &list(&["user", "show", "node-acme"]),
        "users",
        &json!({"kind": "agent", "facts": {"customer": "acmeinc", "datacenter": "a"}}),
    );
    let night = json!({"name": "night", "shows": ["hostname"], "members": 1, "limits": {"sessions": 7}});
    has(&list(&["group", "list"]), "groups", &night);
    has(&list(&["group", "show", "night"]), "groups", &night);
    let entry = json!({"destination": "/topic/prod.service.*", "read": ["night"], "write": ["night"]});
    has(&list(&["acl", "list"]), "acl", &entry);
    has(&list(&["acl", "show", "/topic/prod.service.*"]), "acl", &entry);
    has(&list(&["scope", "list"]), "scopes", &json!({"group": "night"}));
    assert_eq!(list(&["scope", "show", "night"])["scopes"].as_array().map(Vec::len), Some(1));
    has(&list(&["hidden", "list"]), "hidden", &json!({"pattern": "hostname", "shown_to": ["night", "peek"]}));
    has(&list(&["hidden", "list"]), "hidden", &json!({"pattern": "secret.**"}));
    has(&list(&["limit", "list"]), "limits", &json!({"group": "night", "limit": "sessions", "most": 7}));
    has(&list(&["collective", "list"]), "collectives", &json!({"name": "lab", "targeted": false}));
    has(&list(&["collective", "show", "mcollective"]), "collectives", &json!({"targeted": false}));
    let broker = json!({"name": "noc1", "link": "192.0.2.1:61617", "stomp": ["192.0.2.1:61614"]});
    has(&list(&["broker", "list"]), "brokers", &broker);
    has(&list(&["broker", "show", "noc1"]), "brokers", &broker);
    let said = noc.run(&["admin", "user", "list"]);
    assert!(said.code == 0 && !said.stdout.contains("$argon2") && said.stdout.contains("elsewhere"), "{said:?}");

    for arguments in [
        &["admin", "scope", "remove", "night"][..],
        &["admin", "limit", "remove", "night", "sessions"],
        &["admin", "group", "remove-member", "night", "viewer"],
        &["admin", "acl", "remove", "/topic/prod.service.*", "--read", "night"],
        &["admin", "hidden", "remove", "secret.**"],
        &["admin", "collective", "remove", "lab"],
        &["admin", "group", "remove", "night"],
    ] {
        done(&noc, &[arguments, &["--yes"]].concat());
    }
    assert_eq!(noc.run(&["admin", "acl", "list"]).stdout.matches("night").count(), 0, "its entry is gone with it");
}

#[test]
fn a_scope_that_is_set_holds_for_the_next_question() {
    let (broker, noc) = stage();
    let acme = Node::register(&broker, "node-acme", 1, json!({}));
    let beta = Node::register(&broker, "node-beta", 2, json!({}));
    let viewer = Muster::new(&broker, "viewer");
    let sees = || {
        let found = viewer.json(0, &["find", "-w", "has customer", "--json"]);
        let ids = found["nodes"].as_array().expect("nodes").iter().filter_map(|node| node["id"].as_str());
        ids.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(sees(), [acme.id.clone(), beta.id.clone()].into());
    done(&noc, &["admin", "scope", "set", "viewers", "customer = beta"]);
    assert_eq!(sees(), [beta.id.clone()].into());
    done(&noc, &["admin", "scope", "remove", "viewers", "-y"]);
    assert_eq!(sees(), [acme.id.clone(), beta.id.clone()].into());
}

#[test]
fn sessions_are_listed_and_closed() {
    let (broker, noc) = stage();
    let mut viewer = Stomp::login(&broker, "viewer");
    let open = noc.json(0, &["admin", "sessions", "--of", "viewer", "--json"]);
    let number = open["sessions"][0]["session"].as_u64().unwrap_or_else(|| panic!("no session: {open}"));
    let name = format!("noc1/{number}");
    let said = noc.run(&["admin", "close", &name, "--reason", "laptop stolen"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, format!("closed {name} of viewer\n").as_str()), "{said:?}");
    let error = viewer.error();
    assert!(error.text.contains("laptop stolen"), "{error:?}");
    until("the session is over", || {
        let said = noc.run(&["admin", "sessions", "--closed", "--of", "viewer"]);
        said.stdout.contains(&name).then_some(())
    });
    assert_eq!(noc.run(&["admin", "close", &name, "--reason", "again"]).code, 4);
    assert_eq!(noc.run(&["admin", "sessions", "--of", "viewer"]).code, 1);
}

#[test]
fn whoever_may_not_look_after_the_policy_does_not() {
    let (broker, _noc) = stage();
    let before = policy_file(&broker);
    let viewer = Muster::new(&broker, "viewer");
    for arguments in [
        &["admin", "user", "list"][..],
        &["admin", "group", "add-member", "noc", "viewer"],
        &["admin", "history"],
        &["admin", "authority"],
        &["admin", "authority", "take", "-y"],
        &["admin", "sessions"],
        &["admin", "close", "noc1/1", "--reason", "x"],
    ] {
        refused(&viewer, arguments, "denied");
    }
    assert_eq!(policy_file(&broker), before);
}
