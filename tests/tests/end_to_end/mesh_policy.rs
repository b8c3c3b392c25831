//! Is there one policy over three brokers? Edits hold everywhere, also at who was cut off, and nobody's edit is lost in silence.

use muster_tests::node::id;
use muster_tests::{Account, Cluster, Muster, Stomp, request, until};
use serde_json::{Value, json};
use std::fs;

/// A triangle that noc1 has the authority over.
fn stage() -> (Cluster, Muster) {
    let cluster = Cluster::triangle();
    let noc = Muster::new(&cluster["noc1"], "noc");
    edit(&noc, &["admin", "authority", "take", "--yes"]);
    until_all(&cluster, &["noc1", "dc1", "dc2"], "1.1");
    (cluster, noc)
}

/// Runs an edit that must be made; the generation that it printed.
fn edit(muster: &Muster, arguments: &[&str]) -> String {
    let said = muster.run(arguments);
    assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    let last = said.stdout.lines().last().and_then(|line| line.strip_prefix("generation "));
    last.unwrap_or_else(|| panic!("{arguments:?} says no generation: {said:?}")).to_owned()
}

fn until_all(cluster: &Cluster, names: &[&str], generation: &str) {
    for name in names {
        until(&format!("{name} enforces {generation}"), || {
            (cluster[*name].generation().as_deref() == Some(generation)).then_some(())
        });
    }
}

fn text(cluster: &Cluster, name: &str) -> String {
    fs::read_to_string(cluster[name].folder().join("policy.toml")).expect("the policy")
}

fn has_group(cluster: &Cluster, name: &str, group: &str) -> bool {
    text(cluster, name).contains(&format!("[groups.{group}]"))
}

#[test]
fn an_edit_at_a_follower_is_made_by_the_authority_and_holds_everywhere() {
    let (cluster, _noc) = stage();
    let dc2 = Muster::new(&cluster["dc2"], "noc");
    assert_eq!(edit(&dc2, &["admin", "group", "add", "night-shift", "--reason", "nights"]), "1.2");
    until_all(&cluster, &["noc1", "dc1", "dc2"], "1.2");
    for name in cluster.names() {
        assert!(has_group(&cluster, &name, "night-shift"), "{name}");
        let muster = Muster::new(&cluster[&name], "noc");
        let history = muster.json(0, &["admin", "history", "--json"]);
        let newest = &history["editions"][0];
        assert_eq!((&newest["by"], &newest["via"]), (&json!("noc"), &json!("dc2")), "{name}: {history}");
        assert_eq!((&newest["what"], &newest["reason"]), (&json!("group add night-shift"), &json!("nights")));
    }
    let stale = dc2.run(&["admin", "group", "add", "late", "--generation", "1.1"]);
    assert!(stale.code == 4 && stale.stderr.contains("stale-generation") && stale.stderr.contains("1.2"), "{stale:?}");
    let denied = Muster::new(&cluster["dc2"], "viewer").run(&["admin", "group", "add", "mine"]);
    assert!(denied.code == 4 && denied.stderr.contains("denied"), "{denied:?}");
}

#[test]
fn who_is_removed_disabled_or_narrowed_is_out_at_every_broker() {
    let (cluster, noc) = stage();
    let mut viewers: Vec<Stomp> = cluster.names().iter().map(|name| Stomp::login(&cluster[name], "viewer")).collect();
    let mut peeks: Vec<Stomp> = cluster.names().iter().map(|name| Stomp::login(&cluster[name], "peek")).collect();
    let mut listeners: Vec<Stomp> = cluster.names().iter().map(|name| cluster.operator(name)).collect();
    for listener in &mut listeners {
        listener.subscribe("/topic/mcollective.>", "all");
    }
    edit(&noc, &["admin", "user", "remove", "viewer", "--yes"]);
    for session in &mut viewers {
        assert_eq!(session.error().code, "revoked");
    }
    edit(&noc, &["admin", "user", "disable", "peek"]);
    for session in &mut peeks {
        assert_eq!(session.error().code, "revoked");
    }
    for name in cluster.names() {
        for user in ["viewer", "peek"] {
            let said = Muster::new(&cluster[&name], user).run(&["find", "-C", "web"]);
            assert!(said.code == 4 && said.stderr.contains("auth-failed"), "{user} at {name}: {said:?}");
        }
    }
    edit(&noc, &["admin", "acl", "remove", "/topic/mcollective.>", "--read", "noc", "--yes"]);
    for session in &mut listeners {
        assert_eq!(session.error().code, "revoked", "the subscription is not granted any more");
    }
}

#[test]
fn tokens_die_everywhere_with_the_edit() {
    let (cluster, noc) = stage();
    let acme = Muster::new(&cluster["dc1"], "acme");
    assert_eq!(acme.run(&["login"]).code, 0);
    assert_eq!(acme.run(&["find", "-C", "web"]).code, 1, "by its token");
    let generation = edit(&noc, &["admin", "user", "revoke-tokens", "acme"]);
    until_all(&cluster, &["noc1", "dc1", "dc2"], &generation);
    fs::remove_file(acme.folder().join("password")).expect("the password");
    let said = acme.run(&["find", "-C", "web"]);
    assert!(![0, 1].contains(&said.code), "an old token was taken: {said:?}");
}

#[test]
fn a_changed_scope_holds_for_the_next_request_at_every_broker() {
    let (cluster, noc) = stage();
    let mut nodes = Vec::new();
    for (name, number) in [("noc1", 1), ("dc1", 3), ("dc2", 5)] {
        nodes.extend(cluster.nodes(name, "node-acme", [number]));
        nodes.extend(cluster.nodes(name, "node-beta", [number + 1]));
    }
    cluster.until_nodes(&[("noc1", 2), ("dc1", 2), ("dc2", 2)]);
    let mut acme = Stomp::operator(&cluster["dc2"], "acme");
    let targets = |acme: &mut Stomp, name: &str| {
        acme.send(request("prod.node.ping", name, "has n").header("muster-dry-run", "true"));
        Account::of(acme, name).targets()
    };
    assert_eq!(targets(&mut acme, "before"), [1, 3, 5].map(id).into());
    let generation = edit(&noc, &["admin", "scope", "set", "noc-acme", "customer = beta"]);
    until_all(&cluster, &["noc1", "dc1", "dc2"], &generation);
    assert_eq!(targets(&mut acme, "after"), [2, 4, 6].map(id).into());
    assert_eq!(acme.find("has n").len(), 3);
}

#[test]
fn who_was_cut_off_enforces_what_it_had_and_catches_up() {
    let (mut cluster, noc) = stage();
    cluster.cut("noc1", "dc2");
    cluster.cut("dc1", "dc2");
    cluster.until_settled();
    let generation = edit(&noc, &["admin", "user", "remove", "viewer", "--yes"]);
    until_all(&cluster, &["noc1", "dc1"], &generation);
    let alone = Muster::new(&cluster["dc2"], "noc");
    assert_eq!(alone.run(&["find", "-C", "web"]).code, 3, "it serves, and names who is missing");
    let refused = alone.run(&["admin", "group", "add", "x"]);
    assert!(refused.code == 4 && refused.stderr.contains("no-authority"), "{refused:?}");
    assert_eq!(alone.run(&["admin", "authority"]).code, 3, "the authority cannot be reached");
    // It lives on by its own copy, also over a restart.
    cluster.term("dc2");
    cluster.start("dc2");
    assert_eq!(cluster["dc2"].generation().as_deref(), Some("1.1"));
    let mut viewer = Stomp::login(&cluster["dc2"], "viewer");
    cluster.heal("dc1", "dc2");
    until_all(&cluster, &["dc2"], &generation);
    assert_eq!(viewer.error().code, "revoked");
}

#[test]
fn the_authority_is_taken_and_what_the_old_one_made_alone_is_set_aside() {
    let (mut cluster, noc) = stage();
    cluster.cut("noc1", "dc1");
    cluster.cut("noc1", "dc2");
    cluster.until_settled();
    assert_eq!(edit(&noc, &["admin", "group", "add", "made-alone"]), "1.2");
    let dc1 = Muster::new(&cluster["dc1"], "noc");
    assert_eq!(edit(&dc1, &["admin", "authority", "take", "--yes", "--reason", "noc1 is dark"]), "2.2");
    assert_eq!(edit(&dc1, &["admin", "group", "add", "made-there"]), "2.3");
    until_all(&cluster, &["dc1", "dc2"], "2.3");
    cluster.heal("noc1", "dc1");
    until_all(&cluster, &["noc1"], "2.3");
    assert_eq!(text(&cluster, "noc1"), text(&cluster, "dc1"));
    assert!(has_group(&cluster, "noc1", "made-there") && !has_group(&cluster, "noc1", "made-alone"));
    let aside = fs::read_dir(cluster["noc1"].folder()).expect("the folder").filter_map(Result::ok);
    let aside = aside.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("policy.toml.set-aside-"));
    let kept = fs::read_to_string(aside.expect("the edition is kept")).expect("it can be read");
    assert!(kept.contains("[groups.made-alone]"), "{kept}");
    let authority: Value = noc.json(0, &["admin", "authority", "--json"]);
    assert!(authority["alarms"].to_string().contains("1.2"), "{authority}");
    // Edits at the old one go to the new one now.
    assert_eq!(edit(&noc, &["admin", "group", "add", "together"]), "2.4");
    until_all(&cluster, &["noc1", "dc1", "dc2"], "2.4");
}

#[test]
fn two_who_took_one_term_stop_until_it_is_taken_again() {
    let (mut cluster, _noc) = stage();
    cluster.cut("noc1", "dc1");
    cluster.cut("noc1", "dc2");
    cluster.cut("dc1", "dc2");
    cluster.until_settled();
    let [dc1, dc2] = ["dc1", "dc2"].map(|name| Muster::new(&cluster[name], "noc"));
    edit(&dc1, &["admin", "authority", "take", "--yes"]);
    edit(&dc2, &["admin", "authority", "take", "--yes"]);
    edit(&dc2, &["admin", "group", "add", "of-dc2"]);
    cluster.heal("dc1", "dc2");
    until_all(&cluster, &["dc1", "dc2"], "2.2");
    until("dc1 knows of its rival", || {
        let refused = dc1.run(&["admin", "group", "add", "x"]);
        (refused.code == 4 && refused.stderr.contains("contested")).then_some(())
    });
    assert_eq!(text(&cluster, "dc1"), text(&cluster, "dc2"), "one policy all the same");
    edit(&dc2, &["admin", "authority", "take", "--yes"]);
    cluster.heal("noc1", "dc1");
    let generation = edit(&dc2, &["admin", "group", "add", "x"]);
    until_all(&cluster, &["noc1", "dc1", "dc2"], &generation);
}

#[test]
fn a_hand_edit_counts_at_the_authority_and_is_set_aside_elsewhere() {
    let (cluster, _noc) = stage();
    let write = |name: &str, group: &str| {
        let path = cluster[name].folder().join("policy.toml");
        fs::write(&path, format!("{}\n[groups.{group}]\n", text(&cluster, name))).expect("the policy is written");
    };
    write("noc1", "by-hand");
    until_all(&cluster, &["noc1", "dc1", "dc2"], "1.2");
    assert!(has_group(&cluster, "dc2", "by-hand"));
    write("dc2", "not-here");
    until("dc2 has put the policy back", || (!has_group(&cluster, "dc2", "not-here")).then_some(()));
    assert!(cluster["dc2"].alarms().iter().any(|alarm| alarm.contains("set-aside")), "{:?}", cluster["dc2"].alarms());
    assert_eq!(cluster["dc2"].generation().as_deref(), Some("1.2"));
}
