//! Does lint find what looks wrong, where, and nothing in what is good?

use super::*;
use muster_protocol::policy::Severity;

/// Without any finding; cases add to it.
const CLEAN: &str = r#"
asserted = ["customer"]
[[collective]]
name = "prod"
[brokers.noc1]
link = "noc1.example.net"
[groups.admin]
all = true
[groups.acme]
scope = "customer = acmeinc or broker.name = noc1"
max-targets = 50
[groups.agents]
[users.root]
kind = "operator"
password = "PHC"
groups = ["admin"]
[users.carol]
kind = "operator"
password = "PHC"
groups = ["acme"]
[users.node]
kind = "agent"
password = "PHC"
groups = ["agents"]
facts = { customer = "acmeinc" }
[[acl]]
destination = "/muster/facts"
write = ["agents"]
[[acl]]
destination = "/topic/prod.*.*"
read = ["agents"]
write = ["admin"]
[[acl]]
destination = "/topic/prod.*.status"
write = ["acme"]
[[acl]]
destination = "/muster/admin.>"
write = ["admin"]
"#;

fn findings(text: &str) -> Vec<(Severity, Option<usize>, String)> {
    lint(&policy(text))
        .findings
        .into_iter()
        .map(|it| (it.severity, it.line, format!("{}; {}", it.what, it.cure)))
        .collect()
}

fn entry(destination: &str, rights: &str) -> String {
    format!("{CLEAN}[[acl]]\ndestination = \"{destination}\"\n{rights}\n")
}

#[test]
fn what_is_good_is_clean() {
    assert_eq!(findings(CLEAN), []);
    assert_eq!(findings(&entry("/topic/prod.registration", "read = [\"acme\"]")), []);
    assert_eq!(findings(&entry("/topic/news.a.b.c.>", "write = [\"acme\"]")), [], "no action topic is among them");
    assert_eq!(findings(&entry("/topic/prod.>", "read = [\"acme\"]")), [], "reading changes nothing");
    let two = CLEAN.replace("[groups.admin]", "[brokers.dc1]\nlink = \"a\"\n[groups.admin]");
    assert_eq!(findings(&("authority = \"dc1\"".to_owned() + &two)), [], "one of two has the authority");
}

#[test]
fn each_finding_has_its_line_and_a_cure() {
    use Severity::{Danger, Note, Warning};
    let last = CLEAN.lines().count() + 2;
    let with = |from: &str, to: &str| {
        assert!(CLEAN.contains(from), "{from}");
        CLEAN.replacen(from, to, 1)
    };
    let line = |text: &str, what: &str| text.lines().position(|line| line.contains(what)).map(|at| at + 1);
    let weak = PHC.replace("m=19456,t=2", "m=19456,t=1");
    let cases = [
        (entry("/topic/prod.x.y", ""), Note, Some(last), "is granted to nobody"),
        (entry("/queue/jobs", "write = [\"acme\"]"), Warning, Some(last), "queues are not there yet"),
        (
            entry("/muster/fnid", "write = [\"acme\"]"),
            Warning,
            Some(last),
            "no broker answers there; correct the name; there are facts, find",
        ),
        (
            entry("/muster/find", "read = [\"acme\"]\nwrite = [\"acme\"]"),
            Note,
            Some(last),
            "read on /muster/find has no effect",
        ),
        (entry("/topic/prod.x.y", "admin = [\"acme\"]"), Note, Some(last), "admin on /topic/prod.x.y has no effect"),
        (entry("/topic/>", "write = [\"acme\"]"), Danger, Some(last), "acme may write to every topic of /topic/>"),
        (entry("/topic/*.>", "write = [\"acme\"]"), Danger, Some(last), "every topic of /topic/*.>"),
        (
            entry("/topic/test.>", "write = [\"acme\"]"),
            Warning,
            Some(last),
            "write /topic/test.*.* if actions are meant",
        ),
        (
            entry("/topic/test.service.>", "write = [\"acme\"]"),
            Warning,
            Some(last),
            "write /topic/test.service.* if actions",
        ),
        (entry("/topic/prod.service.stop", "write = [\"admin\"]"), Note, Some(last), "is contained in line"),
        (
            entry("/topic/prod.*.*", "write = [\"admin\"]"),
            Note,
            Some(last),
            "write on /topic/prod.*.* for admin is contained in line",
        ),
        (
            entry("/topic/prod.service.stop", "write = [\"agents\"]"),
            Danger,
            Some(last),
            "the agent user node may write to",
        ),
        (
            with("groups = [\"acme\"]", "groups = []"),
            Note,
            line(CLEAN, "[groups.acme]"),
            "no user is in the group acme",
        ),
        (
            with("groups = [\"acme\"]", "groups = []"),
            Note,
            line(CLEAN, "[users.carol]"),
            "the user carol is in no group",
        ),
        (
            with("write = [\"acme\"]", "write = [\"admin\"]"),
            Warning,
            line(CLEAN, "[groups.acme]"),
            "no entry names the group acme, so its max-targets limits nobody",
        ),
        (
            with("read = [\"agents\"]", "").replacen("write = [\"agents\"]", "write = [\"admin\"]", 1),
            Note,
            line(CLEAN, "[groups.agents]"),
            "no entry names the group agents, so it grants nothing",
        ),
        (
            with("facts = { customer = \"acmeinc\" }", ""),
            Warning,
            line(CLEAN, "[groups.acme]"),
            "asks for customer, which no agent user asserts",
        ),
        (
            with(
                "[users.carol]\nkind = \"operator\"\npassword = \"PHC\"",
                &format!("[users.carol]\nkind = \"operator\"\npassword = \"{weak}\""),
            ),
            Warning,
            line(CLEAN, "[users.carol]"),
            "only 19456 KiB in 1 passes",
        ),
        (
            with("link = \"noc1.example.net\"", ""),
            Note,
            line(CLEAN, "[brokers.noc1]"),
            "the broker noc1 has no address",
        ),
        (with("[groups.admin]", "[brokers.dc1]\nlink = \"a\"\n[groups.admin]"), Warning, None, "edits are refused"),
        (with("[users.root]", "[users.root]\ndisabled = true"), Danger, None, "nobody is an admin"),
        (with("\"/muster/admin.>\"", "\"/muster/admin.explain\""), Danger, None, "nobody is an admin"),
    ];
    for (text, severity, line, what) in cases {
        let found = findings(&text);
        let fits = |it: &&(Severity, Option<usize>, String)| it.0 == severity && it.1 == line && it.2.contains(what);
        assert!(found.iter().any(|it| fits(&it)), "{what}: {severity:?} at {line:?} was meant: {found:#?}");
        assert!(!format!("{found:?}").contains("argon2id"));
    }
}

#[test]
fn scopes_on_reported_facts_and_classes_are_dangers() {
    let text = CLEAN.replacen("asserted", "trust-reported = true\nasserted", 1);
    let scoped = |scope: &str| findings(&text.replace("customer = acmeinc or broker.name = noc1", scope));
    assert_eq!(findings(&text), [], "trust alone is used by no scope");
    for (scope, fact) in [("os.family = Debian and os.release = 13", "os"), ("class = web", "classes")] {
        let found = scoped(scope);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].0 == Severity::Danger && found[0].2.contains(&format!("asks for {fact}, which a node reports"))
        );
    }
}

#[test]
fn of_two_equal_entries_only_the_later_is_one_too_many() {
    let twice = entry("/topic/prod.*.*", "write = [\"admin\"]");
    assert_eq!(findings(&twice).len(), 1, "{:?}", findings(&twice));
    // Many agents make one finding.
    let users: String = (0..20)
        .map(|n| format!("[users.n{n}]\nkind = \"agent\"\npassword = \"PHC\"\ngroups = [\"agents\"]\n"))
        .collect();
    let found = findings(&format!("{}{users}", entry("/topic/prod.a.b", "write = [\"agents\"]")));
    assert!(found.len() == 1 && found[0].2.contains("the agent user node and 20 more"), "{found:?}");
}

#[test]
fn an_empty_policy_has_no_admin() {
    let found = findings("");
    assert!(found.len() == 1 && found[0].1.is_none() && found[0].2.contains("nobody is an admin"), "{found:?}");
}
