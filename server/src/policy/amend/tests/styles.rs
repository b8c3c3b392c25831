//! Does it work in whatever style a policy is written?

use super::*;

/// One user, alice, in group `a`, as it is written in each style; then with `disabled = true`, and with another user bob.
const STYLES: [(&str, &str, &str); 9] = [
    (
        "[users.alice]\nkind = 'operator'\npassword = 'PHC'\ngroups = ['a']",
        "[users.alice]\nkind = 'operator'\npassword = 'PHC'\ngroups = ['a']\ndisabled = true",
        "[users.alice]\nkind = 'operator'\npassword = 'PHC'\ngroups = ['a']\n\n[users.bob]\nkind = \"agent\"\npassword = \"PHC\"",
    ),
    (
        "  [ users . 'alice' ] # x\n  kind = 'operator'\n\tpassword = 'PHC'\n\tgroups = ['a']",
        "  [ users . 'alice' ] # x\n  kind = 'operator'\n\tpassword = 'PHC'\n\tgroups = ['a']\n\tdisabled = true",
        "  [ users . 'alice' ] # x\n  kind = 'operator'\n\tpassword = 'PHC'\n\tgroups = ['a']\n\n[users.bob]\nkind = \"agent\"\npassword = \"PHC\"",
    ),
    (
        "[users]\nalice.kind = 'operator'\nalice.password = 'PHC'\nalice.groups = ['a']",
        "[users]\nalice.kind = 'operator'\nalice.password = 'PHC'\nalice.groups = ['a']\nalice.disabled = true",
        "[users]\nalice.kind = 'operator'\nalice.password = 'PHC'\nalice.groups = ['a']\nbob = { kind = \"agent\", password = \"PHC\" }",
    ),
    (
        "users.alice.kind = 'operator'\nusers.alice.password = 'PHC'\nusers.'alice'.groups = ['a']",
        "users.alice.kind = 'operator'\nusers.alice.password = 'PHC'\nusers.'alice'.groups = ['a']\nusers.alice.disabled = true",
        "users.alice.kind = 'operator'\nusers.alice.password = 'PHC'\nusers.'alice'.groups = ['a']\nusers.bob = { kind = \"agent\", password = \"PHC\" }",
    ),
    (
        "[users]\nalice = { kind = 'operator', password = 'PHC', groups = ['a'] }",
        "[users]\nalice = { kind = 'operator', password = 'PHC', groups = ['a'], disabled = true }",
        "[users]\nalice = { kind = 'operator', password = 'PHC', groups = ['a'] }\nbob = { kind = \"agent\", password = \"PHC\" }",
    ),
    (
        "users.alice = {kind='operator',password='PHC',groups=['a']}",
        "users.alice = {kind='operator',password='PHC',groups=['a'], disabled = true}",
        "users.alice = {kind='operator',password='PHC',groups=['a']}\nusers.bob = { kind = \"agent\", password = \"PHC\" }",
    ),
    (
        "users = { alice = { kind = 'operator', password = 'PHC', groups = ['a'] } }",
        "users = { alice = { kind = 'operator', password = 'PHC', groups = ['a'], disabled = true } }",
        "users = { alice = { kind = 'operator', password = 'PHC', groups = ['a'] }, bob = { kind = \"agent\", password = \"PHC\" } }",
    ),
    (
        "users = { alice.kind = 'operator', alice.password = 'PHC', 'alice'.groups = ['a'] }",
        "users = { alice.kind = 'operator', alice.password = 'PHC', 'alice'.groups = ['a'], alice.disabled = true }",
        "users = { alice.kind = 'operator', alice.password = 'PHC', 'alice'.groups = ['a'], bob = { kind = \"agent\", password = \"PHC\" } }",
    ),
    (
        "users = {\n  alice = {\n    kind = 'operator', # o\n    password = 'PHC',\n    groups = ['a'] # g\n  }, # alice\n}",
        "users = {\n  alice = {\n    kind = 'operator', # o\n    password = 'PHC',\n    groups = ['a'], # g\n    disabled = true\n  }, # alice\n}",
        "users = {\n  alice = {\n    kind = 'operator', # o\n    password = 'PHC',\n    groups = ['a'] # g\n  }, # alice\n  bob = { kind = \"agent\", password = \"PHC\" },\n}",
    ),
];

#[test]
fn a_user_is_found_and_changed_however_it_is_written() {
    for (text, disabled, two) in STYLES {
        let text = &format!("{text}\n");
        let groups = "\n[groups.a]\n[groups.b]\n\n[[collective]]\nname = \"prod\"\n";
        let set = after(text, json!({"edit": "user-set", "name": "alice", "disabled": true}));
        assert_eq!(set, format!("{disabled}\n"));
        let user = policy(&(set.clone() + groups)).user("alice").cloned().unwrap();
        assert!(user.disabled && !user.groups.is_empty());
        assert_eq!(
            after(&set, json!({"edit": "user-set", "name": "alice", "unset": ["disabled"]})).replace(", # g", " # g"),
            *text
        );

        let fewer = after(&set, json!({"edit": "user-set", "name": "alice", "unset": ["disabled", "groups"]}));
        assert_eq!(fewer, after(text, json!({"edit": "user-set", "name": "alice", "unset": ["groups"]})));
        assert!(!fewer.contains("groups") && !fewer.contains(", }") && !fewer.contains(",}"), "{fewer}");

        let add = json!({"edit": "user-add", "name": "bob", "kind": "agent", "password": "PHC"});
        let added = after(text, add.clone());
        assert_eq!(added, format!("{two}\n"));
        assert_eq!(policy(&(added.clone() + groups)).users().count(), 2);
        assert!(refused(&added, add).contains("the user `bob` is there already"));
        assert_eq!(after(&added, json!({"edit": "user-remove", "name": "bob"})), *text);

        let groups_of = |text: &str| policy(&(text.to_owned() + groups)).user("alice").unwrap().groups;
        let with_groups = text.clone() + groups;
        let member = |edit: &str, text: &str| after(text, json!({"edit": edit, "group": "b", "user": "alice"}));
        let joined = member("group-add-member", &with_groups);
        assert_eq!(joined, with_groups.replace("['a']", "['a', \"b\"]"));
        assert_ne!(groups_of(text), policy(&joined).user("alice").unwrap().groups);
        assert_eq!(member("group-remove-member", &joined), with_groups);
        let removed = after(&with_groups, json!({"edit": "group-remove", "name": "a"}));
        assert!(removed.contains("groups = []") || removed.contains("groups=[]"), "{removed}");

        let gone = after(text, json!({"edit": "user-remove", "name": "alice"}));
        assert!(!gone.contains("alice =") && !gone.contains("PHC"), "{gone}");
        assert_eq!(policy(&gone).users().count(), 0);
        assert!(refused(&gone, json!({"edit": "user-remove", "name": "alice"})).contains("there is no user `alice`"));
    }
}

#[test]
fn headers_beside_fields_of_their_kind_are_followed() {
    let text = "[users]\na = { kind = 'service' }\n\n[users.b]\nkind = 'service'\n\n[users.b.facts]\nx = 1\n";
    let add = json!({"edit": "user-add", "name": "c", "kind": "service", "password": "PHC"});
    assert_eq!(after(text, add), format!("{text}\n[users.c]\nkind = \"service\"\npassword = \"PHC\"\n"));
    // Only a table below it has a header.
    let text = "[users.b.facts]\nx = 1\n";
    let set = json!({"edit": "user-set", "name": "b", "kind": "agent"});
    assert_eq!(after(text, set), format!("{text}\n[users.b]\nkind = \"agent\"\n"));
    let text = "[users.b.facts]\nx = 1\n[users.b]\nkind = 'agent'\n[users.c]\n";
    assert_eq!(after(text, json!({"edit": "user-remove", "name": "b"})), "[users.c]\n");
}

#[test]
fn what_has_lost_its_last_field_is_still_there() {
    let unset = |text: &str| after(text, json!({"edit": "group-set", "name": "a.b", "unset": ["all", "sessions"]}));
    for (text, made) in [
        ("[groups.'a.b']\nall = true\n", "[groups.'a.b']\n"),
        (" groups.'a.b'.all = true # x\n\n groups.'a.b'.sessions = 1\n", " groups.\"a.b\" = {}\n\n"),
        ("[groups]\n'a.b'.all = true\nc.all = true\n", "[groups]\n\"a.b\" = {}\nc.all = true\n"),
        ("groups = { 'a.b'.all = true, c = {}, 'a.b'.sessions = 1 }\n", "groups = { \"a.b\" = {}, c = {} }\n"),
        ("groups = { 'a.b' = { all = true, sessions = 1 } }\n", "groups = { 'a.b' = {} }\n"),
        ("groups.'a.b'.all = true\ngroups.'a.b'.scope = 'x=y'\n", "groups.'a.b'.scope = 'x=y'\n"),
    ] {
        assert_eq!(unset(text), made, "{text}");
        assert!(refused(made, json!({"edit": "group-add", "name": "a.b"})).contains("is there already"));
    }
    let limit = json!({"edit": "limit-remove", "group": "g", "limit": "sessions"});
    assert_eq!(after("groups.g.sessions = 1", limit), "groups.g = {}\n");
}

#[test]
fn entries_and_collectives_may_be_lists() {
    let text = "acl = [\n  { destination = \"/muster/find\", write = [\"a\"] }, # look\n  { destination = \"/muster/node\", write = [\"a\", \"b\"] },\n]\ncollective = [{ name = \"x\" }]\n";
    let added = after(text, json!({"edit": "acl-add", "destination": "/muster/report", "write": ["a"]}));
    let line = "  { destination = \"/muster/report\", write = [\"a\"] },\n";
    assert_eq!(added, text.replace("]\ncoll", &format!("{line}]\ncoll")));
    let more = json!({"edit": "acl-add", "destination": "/muster/find", "write": ["b"], "read": ["b"]});
    assert_eq!(after(text, more), text.replacen("[\"a\"] }", "[\"a\", \"b\"], read = [\"b\"] }", 1));
    let less = json!({"edit": "group-remove", "name": "a"});
    let grouped = text.to_owned() + "[groups.a]\n";
    let rest =
        text.replace("  { destination = \"/muster/find\", write = [\"a\"] }, # look\n", "").replace("\"a\", ", "");
    assert_eq!(after(&grouped, less), rest);
    let both = after(text, json!({"edit": "collective-add", "name": "y", "targeted": false}));
    assert!(both.ends_with("collective = [{ name = \"x\" }, { name = \"y\", targeted = false }]\n"), "{both}");
    assert_eq!(after(&both, json!({"edit": "collective-remove", "name": "y"})), text);
    let set = after(text, json!({"edit": "collective-set", "name": "x", "targeted": true}));
    assert!(set.ends_with("[{ name = \"x\", targeted = true }]\n"), "{set}");
}

/// Lists with the members `a` and `b`: without `a`, without `b`, without both, with `c` too.
const LISTS: [[&str; 5]; 12] = [
    ["['a', 'b']", "['b']", "['a']", "[]", "['a', 'b', \"c\"]"],
    ["['a','b',]", "['b',]", "['a',]", "[]", "['a','b', \"c\",]"],
    ["[ 'a' , 'b' ]", "[ 'b' ]", "[ 'a' ]", "[]", "[ 'a' , 'b', \"c\" ]"],
    ["[\n 'a',\n 'b',\n]", "[\n 'b',\n]", "[\n 'a',\n]", "[\n]", "[\n 'a',\n 'b',\n \"c\",\n]"],
    ["[\n 'a',\n 'b'\n]", "[\n 'b'\n]", "[\n 'a',\n]", "[\n]", "[\n 'a',\n 'b',\n \"c\"\n]"],
    ["[\n\t'a', 'b',\n]", "[\n\t'b',\n]", "[\n\t'a',\n]", "[\n]", "[\n\t'a', 'b',\n\t\"c\",\n]"],
    [
        "[ # one\n 'a', # of a\n # of b\n 'b' # b\n # end\n]",
        "[ # one\n # of b\n 'b' # b\n # end\n]",
        "[ # one\n 'a', # of a\n # of b\n # end\n]",
        "[ # one\n # of b\n # end\n]",
        "[ # one\n 'a', # of a\n # of b\n 'b', # b\n \"c\"\n # end\n]",
    ],
    ["['a', # x\n 'b']", "[# x\n 'b']", "['a', # x\n]", "[# x\n]", "['a', # x\n 'b', \"c\"]"],
    ["[\n 'a'\n , 'b'\n]", "[\n 'b'\n]", "[\n 'a'\n ,\n]", "[\n]", "[\n 'a'\n , 'b',\n \"c\"\n]"],
    ["['a',\n 'b',\n]", "[\n 'b',\n]", "['a',\n]", "[\n]", "['a',\n 'b',\n \"c\",\n]"],
    ["[\n 'a', 'b', # both\n]", "[\n 'b', # both\n]", "[\n 'a', # both\n]", "[\n]", "[\n 'a', 'b', # both\n \"c\",\n]"],
    ["[\n 'a' # x\n ,\n 'b' ]", "", "[\n 'a' # x\n ,\n ]", "", "[\n 'a' # x\n ,\n 'b', \"c\" ]"],
];

#[test]
fn lists_keep_their_style() {
    for [list, no_a, no_b, none, with_c] in LISTS {
        let text = |list: &str| format!("[users.u]\nkind = 'service'\ngroups = {list} # here\nnext = 1\n");
        let set = |groups: Json| {
            let made = after(&text(list), json!({"edit": "user-set", "name": "u", "groups": groups}));
            Document::parse(made.as_str()).unwrap_or_else(|error| panic!("{list} {groups}: {error}"));
            made
        };
        let check = |groups: Json, expected: &str| {
            let made = set(groups.clone());
            if !expected.is_empty() {
                assert_eq!(made, text(expected), "{list} {groups}");
            }
            let document = Document::parse(made.as_str()).unwrap();
            let found: Vec<&str> =
                document["users"]["u"]["groups"].as_array().unwrap().iter().filter_map(|it| it.as_str()).collect();
            assert_eq!(json!(found), groups, "{made}");
        };
        check(json!(["b"]), no_a);
        check(json!(["a"]), no_b);
        check(json!([]), none);
        check(json!(["a", "b", "c"]), with_c);
        check(json!(["c", "d"]), "");
    }
    for (empty, one) in [("[]", "[\"a\"]"), ("[ ]", "[\"a\"]"), ("[ # none\n ]", "[ # none\n   \"a\",\n ]")] {
        let text = |list: &str| format!("[users.u]\ngroups = {list}\n");
        assert_eq!(after(&text(empty), json!({"edit": "user-set", "name": "u", "groups": ["a"]})), text(one));
    }
}

#[test]
fn line_ends_and_marks_of_the_file_stay() {
    let crlf = TEAM.replace('\n', "\r\n");
    for edit in [
        json!({"edit": "user-add", "name": "eve", "kind": "service", "password": "PHC", "groups": ["noc"]}),
        json!({"edit": "user-remove", "name": "root"}),
        json!({"edit": "user-set", "name": "alice", "groups": ["x"], "disabled": true}),
        json!({"edit": "group-remove", "name": "noc"}),
        json!({"edit": "acl-add", "destination": "/muster/find", "read": ["noc"]}),
        json!({"edit": "acl-remove", "destination": "/muster/find"}),
        json!({"edit": "hidden-add", "pattern": "rack"}),
    ] {
        assert_eq!(after(&crlf, edit.clone()), after(TEAM, edit.clone()).replace('\n', "\r\n"), "{edit}");
        let marked = format!("\u{feff}{TEAM}");
        assert_eq!(after(&marked, edit.clone()), format!("\u{feff}{}", after(TEAM, edit.clone())), "{edit}");
        // Without a newline at the end nothing is glued to the last line.
        let open = TEAM.trim_end();
        let made = after(open, edit.clone());
        assert_eq!(made.trim_end(), after(TEAM, edit.clone()).trim_end(), "{edit}");
    }
}

#[test]
fn comments_go_with_what_they_stand_at() {
    let remove = |text: &str, name: &str| after(text, json!({"edit": "group-remove", "name": name}));
    for (text, made) in [
        // What the file begins with is about the file.
        ("# all\n[groups.a]\n\n[groups.b]\n", "# all\n\n[groups.b]\n"),
        ("# all\n\n# a\n[groups.a]\n\n[groups.b]\n", "# all\n\n[groups.b]\n"),
        // A heading has a blank line behind it.
        (
            "[groups.z]\n\n# head\n\n# a\n# aa\n[groups.a] # x\nall = true # y\n# z\n\n[groups.b]\n",
            "[groups.z]\n\n# head\n\n[groups.b]\n",
        ),
        // The larger of the blank spaces stays.
        ("[groups.z]\n\n[groups.a]\n\n\n# users\n[users]\n", "[groups.z]\n\n\n# users\n[users]\n"),
        ("[groups.z]\n\n\n[groups.a]\n\n[groups.b]\n", "[groups.z]\n\n\n[groups.b]\n"),
        ("[groups.z]\n\n\n[groups.a]\n", "[groups.z]\n"),
        ("[groups.z]\n[groups.a]\n[groups.b]\n", "[groups.z]\n[groups.b]\n"),
        ("\n\n[groups.a]\n\n[groups.b]\n", "[groups.b]\n"),
        // What looks like one is none.
        ("[groups.z]\nscope = '''\n#a'''\n[groups.a]\n", "[groups.z]\nscope = '''\n#a'''\n"),
    ] {
        // Where the blank lines above are all there is, they may stay.
        assert_eq!(remove(text, "a").trim_start(), made.trim_start(), "{text}");
    }
    let unset = |text: &str| after(text, json!({"edit": "group-set", "name": "a", "unset": ["all"]}));
    assert_eq!(
        unset("[groups.a]\n# why\nall = true # now\n# more\nsessions = 1\n"),
        "[groups.a]\n# why\n# more\nsessions = 1\n"
    );
}

#[test]
fn names_are_quoted_where_they_need_it() {
    let add = |name: &str| json!({"edit": "user-add", "name": name, "kind": "service", "password": "PHC"});
    for (name, header) in [("a-b_C9", "[users.a-b_C9]"), ("a.b", "[users.\"a.b\"]"), ("x@y.z", "[users.\"x@y.z\"]")] {
        let made = after("", add(name));
        assert!(made.starts_with(header), "{made}");
        let policy = policy(&made);
        assert!(policy.user(name).is_some());
        assert_eq!(after(&made, json!({"edit": "user-remove", "name": name})), "");
    }
    let dotted = after("users.'a.b'.kind = 'service'\n", json!({"edit": "user-set", "name": "a.b", "disabled": true}));
    assert_eq!(dotted, "users.'a.b'.kind = 'service'\nusers.\"a.b\".disabled = true\n");
    // A user may be called as a field is.
    let odd = "[users.users]\nkind = 'service'\n[users.groups]\nkind = 'service'\ngroups = ['users']\n[groups.users]\n";
    let made = after(odd, json!({"edit": "group-remove", "name": "users"}));
    assert_eq!(made, "[users.users]\nkind = 'service'\n[users.groups]\nkind = 'service'\ngroups = []\n");
    assert!(after(odd, json!({"edit": "user-remove", "name": "users"})).starts_with("[users.groups]"));
}
