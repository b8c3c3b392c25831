//! Does the command line say what the policy grants, what another one would change, and what looks wrong in it?

use muster_tests::policy::{PASSWORD, POLICY, with};
use muster_tests::process::{Said, binary, run};
use muster_tests::{Broker, Muster, Node};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The policy in force of a broker, to be changed by text: its hashes are real.
fn in_force(broker: &Broker) -> String {
    fs::read_to_string(broker.folder().join("policy.toml")).expect("the policy")
}

fn write(muster: &Muster, name: &str, text: &str) -> String {
    let path = muster.folder().join(name);
    fs::write(&path, text).expect("a file");
    path.to_str().expect("a path").to_owned()
}

fn musterd(arguments: &[&str]) -> Said {
    run(Command::new(binary("musterd")).args(arguments))
}

#[test]
fn diff_says_what_a_file_would_grant_and_take_and_changes_nothing() {
    let broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    let text = in_force(&broker);
    let same = write(&muster, "same.toml", &format!("# a comment\n{text}"));
    let said = muster.run(&["admin", "diff", &same]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
    let less = text.replace("groups = [\"noc\", \"peek\"]", "groups = [\"peek\"]");
    let less = less.replace("scope = \"customer=acmeinc\"", "scope = \"customer=beta\"\nsessions = 3");
    assert_ne!(less, text);
    let less = write(&muster, "less.toml", &less);
    let said = muster.run(&["admin", "diff", &less]);
    assert_eq!(said.code, 1, "{said:?}");
    for line in [
        "~ user peek",
        "    groups: - noc",
        "~ group noc-acme",
        "    scope: customer = acmeinc -> customer = beta",
        "    sessions: none -> 3",
        "- taken: peek write /topic/prod.>",
    ] {
        assert!(said.stdout.lines().any(|is| is == line), "{line}: {said:?}");
    }
    assert!(!said.stdout.contains("argon2id") && !said.stdout.contains(PASSWORD), "{said:?}");
    let json = muster.json(1, &["admin", "diff", &less, "--json"]);
    let taken = json!({ "user": "peek", "granted": false, "right": "write", "pattern": "/topic/prod.>" });
    assert!(json["rights"].as_array().is_some_and(|rights| rights.contains(&taken)), "{json}");
    assert_eq!(muster.run(&["admin", "diff", &less]).stdout, said.stdout, "the policy in force has stayed");
    // The same without a broker.
    let policy = broker.folder().join("policy.toml");
    let offline = musterd(&["policy", "diff", policy.to_str().expect("a path"), &less]);
    assert_eq!((offline.code, offline.stdout.as_str()), (1, said.stdout.as_str()), "{offline:?}");
    let offline = musterd(&["policy", "diff", &same, policy.to_str().expect("a path")]);
    assert_eq!((offline.code, offline.stdout.as_str()), (0, ""), "{offline:?}");
}

#[test]
fn lint_names_lines_and_cures() {
    let broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    let said = muster.run(&["admin", "lint"]);
    assert_eq!(said.code, 1, "the test policy has an over-broad entry: {said:?}");
    let line =
        in_force(&broker).lines().position(|line| line == "destination = \"/topic/prod.>\"").expect("the entry") + 1;
    let finding = format!("line {line}: warning: noc, noc-acme may write to every topic of /topic/prod.>");
    assert!(said.stdout.contains(&finding) && said.stdout.contains("write /topic/prod.*.*"), "{said:?}");
    assert!(said.stdout.contains("the user nobody is in no group"), "{said:?}");
    let json = muster.json(1, &["admin", "lint", "--json"]);
    assert!(json["findings"].as_array().is_some_and(|list| list.len() == said.stdout.lines().count()), "{json}");
    let file = write(&muster, "p.toml", &in_force(&broker));
    assert_eq!(muster.run(&["admin", "lint", &file]).stdout, said.stdout, "of a file as of the one in force");
    let offline = musterd(&["policy", "lint", &file]);
    assert_eq!((offline.code, offline.stdout.as_str()), (1, said.stdout.as_str()), "{offline:?}");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/policy.toml");
    let sample = sample.to_str().expect("a path");
    let clean = muster.run(&["admin", "lint", sample]);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, ""), "{clean:?}");
    let clean = musterd(&["policy", "lint", sample]);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, ""), "{clean:?}");
}

#[test]
fn a_file_that_is_no_policy_is_refused_with_its_line_and_without_its_secrets() {
    let broker = Broker::start();
    let muster = Muster::new(&broker, "noc");
    let bad = write(&muster, "bad.toml", "\n[users.x]\nkind = \"operator\"\npassword = \"plain-secret-42\"\n");
    for arguments in [&["admin", "diff", &bad][..], &["admin", "lint", &bad]] {
        let said = muster.run(arguments);
        assert_eq!(said.code, 4, "{arguments:?}: {said:?}");
        assert!(said.stderr.contains("bad-body") && said.stderr.contains("line 4"), "{arguments:?}: {said:?}");
        assert!(!said.stderr.contains("plain-secret-42"), "{said:?}");
    }
    for arguments in [&["policy", "lint", &bad][..], &["policy", "diff", &bad, &bad]] {
        let said = musterd(arguments);
        assert_eq!(said.code, 2, "{arguments:?}: {said:?}");
        assert!(said.stderr.contains("bad.toml: line 4") && !said.stderr.contains("plain-secret-42"), "{said:?}");
    }
    assert!(!broker.log().contains("plain-secret-42"));
    assert_eq!(muster.run(&["admin", "diff", "/no/such/file"]).code, 64);
    assert_eq!(musterd(&["policy", "lint", "/no/such/file"]).code, 2);
    // Only whom an entry lets ask is answered.
    let other = Muster::new(&broker, "acme");
    let good = write(&other, "good.toml", &in_force(&broker));
    for arguments in [&["admin", "lint"][..], &["admin", "diff", &good]] {
        let said = other.run(arguments);
        assert!(said.code == 4 && said.stderr.contains("denied"), "{arguments:?}: {said:?}");
    }
}

#[test]
fn explain_with_a_filter_counts_and_names_limits() {
    let broker = Broker::start();
    broker.reload(&with("[groups.noc-acme]\n", "[groups.noc-acme]\nmax-targets = 5\n"));
    let facts = json!({ "os": { "family": "Debian" }, "hostname": "web1" });
    let _acme = Node::register(&broker, "node-acme", 1, facts.clone());
    let _beta = Node::register(&broker, "node-beta", 2, facts);
    let muster = Muster::new(&broker, "peek");
    let explain =
        |filter: &str| muster.run(&["admin", "explain", "acme", "write", "/topic/prod.node.ping", "-w", filter]);
    let said = explain("has os.family");
    assert_eq!(said.code, 0, "{said:?}");
    for part in [
        "allowed: acme may write",
        "scope  customer = acmeinc",
        "limit  max-targets = 5 (group noc-acme)",
        "nodes  1\n",
    ] {
        assert!(said.stdout.contains(part), "{part}: {said:?}");
    }
    let said = explain("hostname=web1");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("not allowed") && said.stdout.contains("hidden-fact"), "{said:?}");
    let said = muster.run(&["admin", "explain", "acme", "read", "/topic/a", "-w", "a=1"]);
    assert_eq!(said.code, 64, "{said:?}");
    assert!(POLICY.contains("[groups.peek]"), "peek sees hidden facts, and so may ask about them");
}
