//! Does an edit change what it names, and nothing else?

mod guards;
mod random;
mod styles;

use super::*;
use serde_json::{Value as Json, json};

const PHC: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ+Xwz/gkb1+EE7Lg";

fn edit(edit: Json) -> Edit {
    serde_json::from_value(edit).unwrap()
}

/// The text after an edit; `PHC` stands for a hash.
fn after(text: &str, json: Json) -> String {
    amend(text, &edit(json)).unwrap()
}

fn refused(text: &str, json: Json) -> String {
    let refusal = amend(text, &edit(json)).unwrap_err();
    assert_eq!(refusal.code, Code::BadEdit, "{refusal}");
    refusal.text
}

fn policy(text: &str) -> Policy {
    Policy::parse(&text.replace("PHC", PHC)).unwrap()
}

const TEAM: &str = "\
# The policy of the team.

asserted = [\"customer\"]

[[collective]]
name = \"prod\" # the only one

# ---- groups ----

[groups.admin]
shows = [\"**\"]

# They look.
[groups.noc]
all = true # for now
scope = \"customer = a\"

# ---- users ----

# Root has left the building.
[users.root]
kind = \"operator\"
# in the safe
password = \"PHC\" # strong
groups = [\"admin\"]
# Not to be removed.

[users.alice]
kind = \"operator\"
password = \"PHC\"
groups = [
  # first
  \"noc\", # looks
  \"admin\", # edits
]
# Bob is on leave.
[users.bob]
kind = \"operator\"
password = \"PHC\"

# ---- entries ----

[[acl]]
destination = \"/muster/admin.>\"
write = [\"admin\"]

# Looking.
[[acl]]
destination = \"/muster/find\" # by filter
write = [\"noc\", \"admin\"] # both

[[acl]]
destination = \"/topic/prod.*.status\"
write = [\"noc\"]
# The end.
";

/// The lines that are only before (`-`) and only after (`+`).
fn changed(before: &str, after: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) =
        (before.split_inclusive('\n').collect(), after.split_inclusive('\n').collect());
    // The longest common subsequence, from behind.
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("-{}", a[i].trim_end_matches('\n')));
            i += 1;
        } else {
            lines.push(format!("+{}", b[j].trim_end_matches('\n')));
            j += 1;
        }
    }
    lines
}

#[test]
fn an_edit_changes_the_lines_that_it_is_about() {
    let cases: Vec<(Json, &[&str])> = vec![
        (
            json!({"edit": "user-add", "name": "eve", "kind": "service", "password": "PHC", "groups": ["noc", "noc"], "networks": [], "expires": "2030-01-02", "disabled": true}),
            &[
                "+",
                "+[users.eve]",
                "+kind = \"service\"",
                "+password = \"PHC\"",
                "+groups = [\"noc\"]",
                "+networks = []",
                "+expires = 2030-01-02",
                "+disabled = true",
            ],
        ),
        (
            json!({"edit": "user-set", "name": "root", "password": "OTHER", "expires": "2030-01-02 03:04:05+01:00"}),
            &["-password = \"PHC\" # strong", "+password = \"OTHER\" # strong", "+expires = 2030-01-02T03:04:05+01:00"],
        ),
        (json!({"edit": "user-set", "name": "root", "kind": "operator", "groups": ["admin"]}), &[]),
        (json!({"edit": "user-set", "name": "bob"}), &[]),
        (
            json!({"edit": "user-set", "name": "root", "unset": ["groups", "expires"], "networks": ["192.0.2.1"]}),
            &["-groups = [\"admin\"]", "+networks = [\"192.0.2.1\"]"],
        ),
        (
            json!({"edit": "user-set", "name": "alice", "groups": ["night.shift", "noc"]}),
            &["-  \"admin\", # edits", "+  \"night.shift\","],
        ),
        (
            json!({"edit": "user-remove", "name": "root"}),
            &[
                "-# Root has left the building.",
                "-[users.root]",
                "-kind = \"operator\"",
                "-# in the safe",
                "-password = \"PHC\" # strong",
                "-groups = [\"admin\"]",
                "-# Not to be removed.",
                "-",
            ],
        ),
        (
            json!({"edit": "user-remove", "name": "alice"}),
            &[
                "-[users.alice]",
                "-kind = \"operator\"",
                "-password = \"PHC\"",
                "-groups = [",
                "-  # first",
                "-  \"noc\", # looks",
                "-  \"admin\", # edits",
                "-]",
            ],
        ),
        (
            json!({"edit": "user-remove", "name": "bob"}),
            &["-# Bob is on leave.", "-[users.bob]", "-kind = \"operator\"", "-password = \"PHC\""],
        ),
        (
            json!({"edit": "group-add", "name": "x@y", "scope": "customer = \"a b\"", "all": false, "shows": ["fqdn"], "limits": {"sessions": 2, "in-flight": 1}}),
            &[
                "+",
                "+[groups.\"x@y\"]",
                "+scope = 'customer = \"a b\"'",
                "+all = false",
                "+in-flight = 1",
                "+sessions = 2",
                "+shows = [\"fqdn\"]",
            ],
        ),
        (
            json!({"edit": "group-set", "name": "noc", "all": false, "shows": ["fqdn"], "unset": ["scope", "sessions"], "limits": {"max-targets": 9}}),
            &[
                "-all = true # for now",
                "-scope = \"customer = a\"",
                "+all = false # for now",
                "+max-targets = 9",
                "+shows = [\"fqdn\"]",
            ],
        ),
        (
            json!({"edit": "group-remove", "name": "noc"}),
            &[
                "-# They look.",
                "-[groups.noc]",
                "-all = true # for now",
                "-scope = \"customer = a\"",
                "-",
                "-  \"noc\", # looks",
                "-write = [\"noc\", \"admin\"] # both",
                "+write = [\"admin\"] # both",
                "-",
                "-[[acl]]",
                "-destination = \"/topic/prod.*.status\"",
                "-write = [\"noc\"]",
                "-# The end.",
            ],
        ),
        (json!({"edit": "group-add-member", "group": "noc", "user": "bob"}), &["+groups = [\"noc\"]"]),
        (json!({"edit": "group-add-member", "group": "noc", "user": "alice"}), &[]),
        (
            json!({"edit": "group-add-member", "group": "noc", "user": "root"}),
            &["-groups = [\"admin\"]", "+groups = [\"admin\", \"noc\"]"],
        ),
        (json!({"edit": "group-remove-member", "group": "noc", "user": "alice"}), &["-  \"noc\", # looks"]),
        (
            json!({"edit": "group-remove-member", "group": "admin", "user": "root"}),
            &["-groups = [\"admin\"]", "+groups = []"],
        ),
        (
            json!({"edit": "acl-add", "destination": "/muster/node", "write": ["noc"], "read": ["admin", "noc"]}),
            &["+", "+[[acl]]", "+destination = \"/muster/node\"", "+read = [\"admin\", \"noc\"]", "+write = [\"noc\"]"],
        ),
        (
            json!({"edit": "acl-add", "destination": "/muster/find", "write": ["noc", "x"], "read": ["noc"]}),
            &[
                "-write = [\"noc\", \"admin\"] # both",
                "+write = [\"noc\", \"admin\", \"x\"] # both",
                "+read = [\"noc\"]",
            ],
        ),
        (json!({"edit": "acl-add", "destination": "/muster/find", "write": ["admin"]}), &[]),
        (
            json!({"edit": "acl-remove", "destination": "/muster/find", "write": ["noc"]}),
            &["-write = [\"noc\", \"admin\"] # both", "+write = [\"admin\"] # both"],
        ),
        (
            json!({"edit": "acl-remove", "destination": "/muster/find", "write": ["admin", "noc"]}),
            &[
                "-# Looking.",
                "-[[acl]]",
                "-destination = \"/muster/find\" # by filter",
                "-write = [\"noc\", \"admin\"] # both",
                "-",
            ],
        ),
        (
            json!({"edit": "acl-remove", "destination": "/muster/admin.>"}),
            &["-[[acl]]", "-destination = \"/muster/admin.>\"", "-write = [\"admin\"]", "-"],
        ),
        (
            json!({"edit": "scope-set", "group": "noc", "filter": "customer = b"}),
            &["-scope = \"customer = a\"", "+scope = \"customer = b\""],
        ),
        (json!({"edit": "scope-set", "group": "admin", "filter": "customer = b"}), &["+scope = \"customer = b\""]),
        (json!({"edit": "scope-remove", "name": "noc"}), &["-scope = \"customer = a\""]),
        (json!({"edit": "limit-set", "group": "noc", "limit": "sessions", "most": 3}), &["+sessions = 3"]),
        (
            json!({"edit": "collective-add", "name": "test", "targeted": false}),
            &["+", "+[[collective]]", "+name = \"test\"", "+targeted = false"],
        ),
        (json!({"edit": "collective-set", "name": "prod", "targeted": false}), &["+targeted = false"]),
        (json!({"edit": "collective-set", "name": "prod"}), &[]),
        (
            json!({"edit": "collective-remove", "name": "prod"}),
            &["-[[collective]]", "-name = \"prod\" # the only one", "-"],
        ),
        (
            json!({"edit": "broker-set", "name": "noc1", "link": "a", "stomp": ["b", "c"]}),
            &["+", "+[brokers.noc1]", "+link = \"a\"", "+stomp = [\"b\", \"c\"]"],
        ),
        (
            json!({"edit": "hidden-add", "pattern": "rack"}),
            &[
                "+",
                "+hidden = [\"hostname\", \"fqdn\", \"domain\", \"network.**\", \"networking.**\", \"ipaddress*\", \"macaddress*\", \"interfaces\", \"clientcert\", \"trusted.**\", \"dmi.**\", \"ssh.**\", \"rack\"]",
            ],
        ),
        (json!({"edit": "hidden-add", "pattern": "fqdn"}), &[]),
        (
            json!({"edit": "hidden-remove", "pattern": "fqdn"}),
            &[
                "+",
                "+hidden = [\"hostname\", \"domain\", \"network.**\", \"networking.**\", \"ipaddress*\", \"macaddress*\", \"interfaces\", \"clientcert\", \"trusted.**\", \"dmi.**\", \"ssh.**\"]",
            ],
        ),
    ];
    for (edit, lines) in cases {
        let mut expected: Vec<&str> = lines.to_vec();
        let made = after(TEAM, edit.clone());
        let mut found = changed(TEAM, &made);
        // Which of several equal blank lines is the new one is not said.
        let blank = |lines: &[&str]| lines.iter().filter(|line| line.len() == 1).count();
        let found_refs: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(blank(&found_refs), blank(&expected), "{edit}\n{made}");
        found.retain(|line| line.len() > 1);
        expected.retain(|line| line.len() > 1);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{edit}\n{made}");
    }
}

#[test]
fn new_tables_stand_behind_the_last_of_their_kind() {
    let order = |made: &str, before: &str, new: &str, behind: &str| {
        let at = |what: &str| made.find(what).unwrap_or_else(|| panic!("{what}: {made}"));
        assert!(at(before) < at(new) && at(new) < at(behind), "{made}");
        assert!(made.contains(&format!("\n\n{new}\n")), "a blank line before: {made}");
    };
    let user = json!({"edit": "user-add", "name": "eve", "kind": "service", "password": "PHC"});
    order(&after(TEAM, user.clone()), "[users.bob]", "[users.eve]", "# ---- entries ----");
    let group = json!({"edit": "group-add", "name": "z"});
    order(&after(TEAM, group.clone()), "[groups.noc]", "[groups.z]", "# ---- users ----");
    let collective = json!({"edit": "collective-add", "name": "z"});
    order(&after(TEAM, collective), "name = \"prod\"", "[[collective]]\nname = \"z\"", "# ---- groups ----");
    // A comment of the next table stays with it, and with no blank lines around there is one on each side.
    let tight =
        "[users.a]\nkind = \"service\"\npassword = \"PHC\"\n# Who may what.\n[[acl]]\ndestination = \"/muster/find\"\n";
    let made = after(tight, user.clone());
    assert_eq!(made, tight.replace("# Who", "\n[users.eve]\nkind = \"service\"\npassword = \"PHC\"\n\n# Who"));
    assert_eq!(after(&made, json!({"edit": "user-remove", "name": "eve"})), tight.replace("# Who", "\n# Who"));
    // What is the first of its kind stands at the end.
    assert_eq!(after("", group.clone()), "[groups.z]\n");
    assert_eq!(after("trust-reported = true", group.clone()), "trust-reported = true\n\n[groups.z]\n");
    assert_eq!(after("[groups]\n# none yet\n", group), "[groups]\n# none yet\n\n[groups.z]\n");
}

#[test]
fn what_is_added_and_removed_again_leaves_the_text_as_it_was() {
    for (add, remove) in [
        (
            json!({"edit": "user-add", "name": "eve", "kind": "service", "password": "PHC", "facts": {"customer": "a"}}),
            json!({"edit": "user-remove", "name": "eve"}),
        ),
        (json!({"edit": "group-add", "name": "a.b"}), json!({"edit": "group-remove", "name": "a.b"})),
        (
            json!({"edit": "group-add-member", "group": "noc", "user": "root"}),
            json!({"edit": "group-remove-member", "group": "noc", "user": "root"}),
        ),
        (
            json!({"edit": "acl-add", "destination": "/muster/find", "write": ["x"]}),
            json!({"edit": "acl-remove", "destination": "/muster/find", "write": ["x"]}),
        ),
        (
            json!({"edit": "limit-set", "group": "noc", "limit": "sessions", "most": 3}),
            json!({"edit": "limit-remove", "group": "noc", "limit": "sessions"}),
        ),
        (
            json!({"edit": "scope-set", "group": "admin", "filter": "customer = b"}),
            json!({"edit": "scope-remove", "name": "admin"}),
        ),
        (json!({"edit": "collective-add", "name": "z"}), json!({"edit": "collective-remove", "name": "z"})),
        (
            json!({"edit": "acl-add", "destination": "/muster/node", "write": ["x"]}),
            json!({"edit": "acl-remove", "destination": "/muster/node"}),
        ),
        (json!({"edit": "broker-set", "name": "b", "stomp": ["x"]}), json!({"edit": "broker-remove", "name": "b"})),
    ] {
        let made = after(TEAM, add.clone());
        assert_ne!(made, TEAM, "{add}");
        assert_eq!(after(&made, remove), TEAM, "{add}");
    }
}

#[test]
fn facts_that_stay_the_same_stay_as_they_are_written() {
    let user = |facts: &str| format!("[users.n]\nkind = \"agent\"\n{facts}\n# end\n");
    let set = |text: &str, facts: Json| after(text, json!({"edit": "user-set", "name": "n", "facts": facts}));
    let inline = user("facts = { a = 0x10, 'b' = [1, 2], c = { d = 1.0 } } # asserted");
    assert_eq!(set(&inline, json!({"a": 16, "b": [1, 2], "c": {"d": 1.0}})), inline);
    assert_eq!(
        set(&inline, json!({"a": 16, "b": [1], "e.f": json!({"x": [true, "y"]})})),
        user("facts = { a = 0x10, 'b' = [1], \"e.f\" = { x = [true, \"y\"] } } # asserted")
    );
    assert_eq!(set(&user("facts = { a = 1, b = 2, c = 3 }"), json!({"a": 1})), user("facts = { a = 1 }"));
    let dotted = user("facts.a = 16 # sixteen\nfacts.c.d = 1\nfacts.c.e = 2");
    assert_eq!(set(&dotted, json!({"a": 17, "c": {"d": 1, "e": 2}})), dotted.replace("16 #", "17 #"));
    assert_eq!(set(&dotted, json!({"a": 16, "c": {"d": 1}})), user("facts.a = 16 # sixteen\nfacts.c = { d = 1 }"));
    let table = user("[users.n.facts]\na = 16\n\n[users.n.facts.c]\nd = 1\n\n[users.o]");
    assert_eq!(set(&table, json!({"c": {"d": 1}, "z": "new"})), table.replace("a = 16\n", "z = \"new\"\n"));
    assert_eq!(set(&table, json!({"a": 16})), table.replace("\n[users.n.facts.c]\nd = 1\n", ""));
    assert_eq!(set(&table, json!({})), user("\n[users.o]"));
    assert_eq!(set(&user("groups = []"), json!({"a": "x"})), user("groups = []\nfacts = { a = \"x\" }"));
}

#[test]
fn what_is_no_longer_hidden_is_shown_to_nobody_in_particular() {
    let text = "hidden = [\"a\", \"b.**\"]\n[groups.g]\nshows = [\"a\", \"b.**\"]\n[groups.h]\nshows = [\"**\"]\n";
    let made = after(text, json!({"edit": "hidden-remove", "pattern": "b.**"}));
    assert_eq!(made, text.replace(", \"b.**\"", ""));
    assert!(Policy::parse(&made).is_ok());
    assert_eq!(after(text, json!({"edit": "hidden-add", "pattern": "c"})), text.replacen("]", ", \"c\"]", 1));
}

#[test]
fn several_entries_for_one_pattern_are_one() {
    let entry = |rights: &str| format!("[[acl]]\ndestination = \"/muster/find\"\n{rights}\n\n");
    let text = entry("write = [\"a\"]") + &entry("write = [\"b\"]\nread = [\"a\"]");
    let add = |right: &str, group: &str| {
        after(&text, json!({"edit": "acl-add", "destination": "/muster/find", right: [group]}))
    };
    assert_eq!(add("write", "b"), text, "it is granted there already");
    assert_eq!(add("write", "c"), text.replacen("\"a\"]", "\"a\", \"c\"]", 1));
    let remove = |groups: Json| {
        let mut edit = json!({"edit": "acl-remove", "destination": "/muster/find"});
        edit.as_object_mut().unwrap().extend(groups.as_object().unwrap().clone());
        after(&text, edit)
    };
    assert_eq!(remove(json!({"write": ["a"]})), entry("write = [\"b\"]\nread = [\"a\"]"));
    assert_eq!(remove(json!({"write": ["b"]})), text.replace("\"b\"", ""));
    assert_eq!(remove(json!({})), "");
}

#[test]
fn an_address_list_keeps_the_order_that_is_wanted() {
    let text = "[brokers.a]\nstomp = [\"x\", \"y\"] # best first\n";
    let set = |stomp: Json| after(text, json!({"edit": "broker-set", "name": "a", "stomp": stomp}));
    assert_eq!(set(json!(["x", "y"])), text);
    assert_eq!(set(json!(["x", "z"])), text.replace("\"y\"", "\"z\""));
    assert_eq!(set(json!(["y", "x"])), text.replace("\"x\", \"y\"", "\"y\", \"x\""));
    assert_eq!(set(json!(["z", "x"])), text.replace("\"x\", \"y\"", "\"z\", \"x\""));
    assert_eq!(set(json!([])), text.replace("\"x\", \"y\"", ""));
}

#[test]
fn the_authority_is_a_line_above_all_tables() {
    let noc1 = BrokerName::parse("noc1").unwrap();
    let with = |text: &str| with_authority(text, &noc1).unwrap();
    let line = "authority = \"noc1\"\n";
    assert_eq!(
        with("authority = 'dc1' # for now\n[brokers.noc1]\n"),
        "authority = \"noc1\" # for now\n[brokers.noc1]\n"
    );
    assert_eq!(with(&with(TEAM)), with(TEAM));
    assert_eq!(with(TEAM), TEAM.replace("[\"customer\"]\n", &format!("[\"customer\"]\n\n{line}")));
    assert_eq!(with(""), line);
    assert_eq!(with("# about\n"), format!("# about\n\n{line}"));
    assert_eq!(with("# about\n[users]\n"), format!("# about\n\n{line}\n[users]\n"));
    assert_eq!(with("# about\n\n# users\n[users]\n"), format!("# about\n\n{line}\n# users\n[users]\n"));
    assert_eq!(with("[users]\n"), format!("{line}\n[users]\n"));
    assert_eq!(with("display = []"), format!("display = []\n\n{line}"));
    assert_eq!(Policy::parse(&with(TEAM).replace("PHC", PHC)).unwrap().authority(), Some(&noc1));
}
