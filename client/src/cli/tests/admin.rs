//! Does each command below `muster admin` send the edit or question that it should, and say what came of it?

use super::*;
use muster_protocol::frame::Frame;
use muster_protocol::passwd;
use secrecy::SecretString;

const EDIT: &str = "/muster/admin.edit";
const SHOW: &str = "/muster/admin.show";
const CLEAR: &str = "correct horse battery 7";

/// What an edit changed.
fn changes() -> Value {
    let change = json!({"what": "user", "name": "bob", "how": "added", "details": ["kind: operator\u{1b}[2J"]});
    let right = json!({"user": "bob", "granted": true, "right": "write", "pattern": "/topic/prod.>"});
    json!({"changes": [change], "rights": [right]})
}

const CHANGES: &str = "+ user bob\n    kind: operator␛[2J\n+ granted: bob write /topic/prod.>\n";

fn unchanged() -> Value {
    json!({"changes": [], "rights": []})
}

fn edited(generation: &str, changes: &Value) -> Value {
    json!({"generation": generation, "changes": changes, "dry_run": false})
}

fn dry(generation: &str, changes: &Value) -> Value {
    json!({"generation": generation, "changes": changes, "dry_run": true})
}

/// A broker that gives these answers to queries at these destinations, in order; the bodies that it got.
async fn asked(
    arguments: &[&str],
    answers: &[&str],
    secrets: &[(&str, &str)],
    script: Vec<(&'static str, Value)>,
) -> (Result3, Vec<Value>) {
    let (sender, mut bodies) = tokio::sync::mpsc::channel(16);
    let result = muster_with(arguments, answers, secrets, |mut peer, _| async move {
        for (destination, answer) in script {
            let (frame, body) = peer.expect(destination).await;
            let text = format!("{:?} {}", frame.headers, String::from_utf8_lossy(&frame.body));
            assert!(!text.contains(CLEAR), "a password in the clear: {text}");
            sender.send(body).await.expect("the test");
            peer.answer(&frame, answer).await;
        }
        let end = peer.next().await.expect("a frame");
        assert_eq!(end.command, muster_protocol::frame::Command::Disconnect, "more was sent: {end:?}");
    })
    .await;
    let mut got = Vec::new();
    while let Some(body) = bodies.recv().await {
        got.push(body);
    }
    (result, got)
}

/// The one body of an edit that is made.
async fn sent(arguments: &[&str]) -> Value {
    let ((code, out, err), mut bodies) = asked(arguments, &[], &[], vec![(EDIT, edited("3.17", &changes()))]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
    assert_eq!(out, format!("{CHANGES}generation 3.17\n"), "{arguments:?}");
    bodies.remove(0)
}

/// The same with the answer of one query.
async fn one(arguments: &[&str], destination: &'static str, answer: Value) -> (Result3, Value) {
    let (result, mut bodies) = asked(arguments, &[], &[], vec![(destination, answer)]).await;
    (result, bodies.remove(0))
}

fn private_file(text: &str) -> (tempfile::TempDir, String) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn each_command_sends_its_edit_and_nothing_else() {
    let hash = passwd::phc(&[1; 16], &[2; 32]);
    let (_folder, file) = private_file("asserted = []\n");
    let cases: Vec<(Vec<&str>, Value)> = vec![
        (
            vec!["user", "add", "bob", "--kind", "operator", "--hash", &hash],
            json!({"edit": "user-add", "name": "bob", "kind": "operator", "password": hash}),
        ),
        (
            vec![
                "user",
                "add",
                "n1",
                "--kind",
                "agent",
                "--hash",
                &hash,
                "--group",
                "agents",
                "--group",
                "b",
                "--network",
                "192.0.2.0/24",
                "--expires",
                "2027-01-31",
                "--collective",
                "prod",
                "--fact",
                "customer=acme",
                "--fact",
                "rack:={\"row\":3}",
                "--certificate",
                "n1.example.net",
                "--disabled",
            ],
            json!({"edit": "user-add", "name": "n1", "kind": "agent", "password": hash, "disabled": true,
                "expires": "2027-01-31", "networks": ["192.0.2.0/24"], "groups": ["agents", "b"], "collective": "prod",
                "facts": {"customer": "acme", "rack": {"row": 3}}, "certificate": "n1.example.net"}),
        ),
        (
            vec!["user", "set", "bob", "--group", "noc", "--unset", "expires", "--unset", "networks"],
            json!({"edit": "user-set", "name": "bob", "groups": ["noc"], "unset": ["expires", "networks"]}),
        ),
        (
            vec!["user", "set", "bob", "--kind", "service"],
            json!({"edit": "user-set", "name": "bob", "kind": "service"}),
        ),
        (vec!["user", "passwd", "bob", "--hash", &hash], json!({"edit": "user-set", "name": "bob", "password": hash})),
        (vec!["user", "enable", "bob"], json!({"edit": "user-set", "name": "bob", "disabled": false})),
        (vec!["user", "disable", "bob"], json!({"edit": "user-set", "name": "bob", "disabled": true})),
        (
            vec!["user", "revoke-tokens", "bob", "--before", "2027-01-31T18:00:00Z"],
            json!({"edit": "user-set", "name": "bob", "revoked-before": "2027-01-31T18:00:00Z"}),
        ),
        (vec!["user", "remove", "bob", "-y"], json!({"edit": "user-remove", "name": "bob"})),
        (vec!["group", "add", "noc"], json!({"edit": "group-add", "name": "noc"})),
        (
            vec![
                "group",
                "add",
                "noc",
                "--scope",
                " customer = acme ",
                "--all",
                "--shows",
                "hostname",
                "--limit",
                "max-targets=50",
                "--limit",
                "sessions=2",
            ],
            json!({"edit": "group-add", "name": "noc", "scope": "customer = acme", "all": true, "shows": ["hostname"],
                "limits": {"max-targets": 50, "sessions": 2}}),
        ),
        (
            vec!["group", "set", "noc", "--unset", "all", "--limit", "in-flight=4"],
            json!({"edit": "group-set", "name": "noc", "limits": {"in-flight": 4}, "unset": ["all"]}),
        ),
        (vec!["group", "remove", "noc", "-y"], json!({"edit": "group-remove", "name": "noc"})),
        (vec!["group", "add-member", "noc", "bob"], json!({"edit": "group-add-member", "group": "noc", "user": "bob"})),
        (
            vec!["group", "remove-member", "noc", "bob", "-y"],
            json!({"edit": "group-remove-member", "group": "noc", "user": "bob"}),
        ),
        (
            vec!["acl", "add", "/topic/prod.*.status", "--read", "a", "--write", "b", "--write", "c", "--admin", "d"],
            json!({"edit": "acl-add", "destination": "/topic/prod.*.status", "read": ["a"], "write": ["b", "c"], "admin": ["d"]}),
        ),
        (vec!["acl", "remove", "/muster/find", "-y"], json!({"edit": "acl-remove", "destination": "/muster/find"})),
        (
            vec!["acl", "remove", "/muster/find", "--write", "a", "-y"],
            json!({"edit": "acl-remove", "destination": "/muster/find", "write": ["a"]}),
        ),
        (
            vec!["scope", "set", "noc", "customer = acme"],
            json!({"edit": "scope-set", "group": "noc", "filter": "customer = acme"}),
        ),
        (vec!["scope", "remove", "noc", "-y"], json!({"edit": "scope-remove", "name": "noc"})),
        (vec!["hidden", "add", "dmi.**"], json!({"edit": "hidden-add", "pattern": "dmi.**"})),
        (vec!["hidden", "remove", "dmi.**", "-y"], json!({"edit": "hidden-remove", "pattern": "dmi.**"})),
        (
            vec!["limit", "set", "noc", "max-targets", "50"],
            json!({"edit": "limit-set", "group": "noc", "limit": "max-targets", "most": 50}),
        ),
        (
            vec!["limit", "remove", "noc", "sessions", "-y"],
            json!({"edit": "limit-remove", "group": "noc", "limit": "sessions"}),
        ),
        (vec!["collective", "add", "prod"], json!({"edit": "collective-add", "name": "prod"})),
        (
            vec!["collective", "add", "old", "--targeted", "false"],
            json!({"edit": "collective-add", "name": "old", "targeted": false}),
        ),
        (
            vec!["collective", "set", "old", "--targeted", "true"],
            json!({"edit": "collective-set", "name": "old", "targeted": true}),
        ),
        (vec!["collective", "remove", "old", "-y"], json!({"edit": "collective-remove", "name": "old"})),
        (vec!["broker", "set", "dc1"], json!({"edit": "broker-set", "name": "dc1"})),
        (
            vec!["broker", "set", "dc1", "--link", "dc1.example.net:1", "--stomp", "[::1]:2", "--stomp", "dc1"],
            json!({"edit": "broker-set", "name": "dc1", "link": "dc1.example.net:1", "stomp": ["[::1]:2", "dc1"]}),
        ),
        (vec!["broker", "remove", "dc1", "-y"], json!({"edit": "broker-remove", "name": "dc1"})),
        (vec!["apply", &file, "-y"], json!({"edit": "text", "policy": "asserted = []\n"})),
        (vec!["revert", "2.9", "-y"], json!({"edit": "revert", "to": "2.9"})),
    ];
    for (arguments, edit) in cases {
        let arguments: Vec<&str> = std::iter::once("admin").chain(arguments).collect();
        let body = sent(&arguments).await;
        assert_eq!(body, json!({"edit": edit, "force": false, "dry_run": false}), "{arguments:?}");
    }
}

#[tokio::test]
async fn every_edit_has_the_same_options() {
    let shared = ["--reason", "new in the NOC", "--generation", "3.16", "--force"];
    for (command, edit) in [
        (vec!["group", "add", "noc"], json!({"edit": "group-add", "name": "noc"})),
        (vec!["user", "remove", "bob", "--yes"], json!({"edit": "user-remove", "name": "bob"})),
        (vec!["revert", "2.9", "-y"], json!({"edit": "revert", "to": "2.9"})),
    ] {
        let arguments: Vec<&str> = std::iter::once("admin").chain(command).chain(shared).collect();
        let expected =
            json!({"edit": edit, "generation": "3.16", "reason": "new in the NOC", "force": true, "dry_run": false});
        assert_eq!(sent(&arguments).await, expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn tokens_are_revoked_from_the_next_second_on() {
    let before = jiff::Timestamp::now();
    let body = sent(&["admin", "user", "revoke-tokens", "bob"]).await;
    let moment: jiff::Timestamp = body["edit"]["revoked-before"].as_str().unwrap().parse().unwrap();
    let after = jiff::Timestamp::now();
    assert!(before < moment && moment.as_second() <= after.as_second() + 1, "{before} {moment} {after}");
    assert_eq!(moment.subsec_nanosecond(), 0);
}

#[tokio::test]
async fn an_edit_says_what_it_did_or_that_it_did_nothing() {
    let add = ["admin", "group", "add-member", "noc", "bob"];
    let (result, _) = one(&add, EDIT, edited("3.17", &unchanged())).await;
    let nothing = "Nothing changed: it stands in the policy so already (generation 3.17).\n";
    assert_eq!(result, (1, String::new(), nothing.into()));
    let with_generation: Vec<&str> = add.iter().copied().chain(["--generation", "3.16"]).collect();
    let (result, _) = one(&with_generation, EDIT, edited("3.17", &unchanged())).await;
    let text = "The text changed, and what it grants did not.\n";
    assert_eq!(result, (0, "generation 3.17\n".into(), text.into()));
    let (result, _) = one(&add, EDIT, json!({"changes": changes()})).await;
    assert_eq!(result, (0, CHANGES.into(), String::new()), "a policy without a seal");
    let with_json: Vec<&str> = add.iter().copied().chain(["--json"]).collect();
    for (answer, expected) in [(edited("3.17", &changes()), 0), (edited("3.17", &unchanged()), 1)] {
        let ((code, out, _), _) = one(&with_json, EDIT, answer.clone()).await;
        assert_eq!((code, serde_json::from_str::<Value>(&out).expect("JSON")), (expected, answer));
        assert!(!out.contains('\u{1b}'), "{out}");
    }
}

#[tokio::test]
async fn a_dry_run_says_that_it_is_one_and_asks_nothing() {
    for (command, edit) in [
        (&["admin", "user", "enable", "bob"][..], json!({"edit": "user-set", "name": "bob", "disabled": false})),
        (&["admin", "user", "remove", "bob"], json!({"edit": "user-remove", "name": "bob"})),
    ] {
        for option in ["-n", "--dry-run"] {
            let arguments: Vec<&str> = command.iter().copied().chain([option]).collect();
            let (result, body) = one(&arguments, EDIT, dry("3.16", &changes())).await;
            let said = "A dry run: nothing was changed (generation 3.16).\n";
            assert_eq!(result, (0, CHANGES.into(), said.into()));
            assert_eq!(body, json!({"edit": edit, "force": false, "dry_run": true}));
        }
        let arguments: Vec<&str> = command.iter().copied().chain(["-n"]).collect();
        let (result, _) = one(&arguments, EDIT, dry("3.16", &unchanged())).await;
        assert_eq!(result, (1, String::new(), "A dry run: nothing would change (generation 3.16).\n".into()));
    }
}

#[tokio::test]
async fn what_takes_away_is_shown_and_asked_about_and_what_was_shown_is_what_is_done() {
    let (_folder, file) = private_file("asserted = []\n");
    for (command, question) in [
        (&["user", "remove", "bob"][..], "user remove bob"),
        (&["group", "remove", "noc"], "group remove noc"),
        (&["group", "remove-member", "noc", "bob"], "group remove-member noc bob"),
        (&["acl", "remove", "/muster/find", "--write", "a"], "acl remove /muster/find write=a"),
        (&["scope", "remove", "noc"], "scope remove noc"),
        (&["hidden", "remove", "fqdn"], "hidden remove fqdn"),
        (&["limit", "remove", "noc", "sessions"], "limit remove noc sessions"),
        (&["collective", "remove", "old"], "collective remove old"),
        (&["broker", "remove", "dc1"], "broker remove dc1"),
        (&["revert", "2.9"], "revert to 2.9"),
        (&["apply", &file], "apply a whole policy"),
    ] {
        let arguments: Vec<&str> = std::iter::once("admin").chain(command.iter().copied()).collect();
        let script = || vec![(EDIT, dry("3.16", &changes())), (EDIT, edited("3.17", &changes()))];
        let ((code, out, err), bodies) = asked(&arguments, &["y"], &[], script()).await;
        assert_eq!((code, out), (0, format!("{CHANGES}generation 3.17\n")), "{arguments:?}");
        assert_eq!(err, format!("{question}: go on? [y/N] "), "{arguments:?}");
        assert_eq!((&bodies[0]["dry_run"], &bodies[0]["generation"]), (&json!(true), &Value::Null));
        assert_eq!((&bodies[1]["dry_run"], &bodies[1]["generation"]), (&json!(false), &json!("3.16")));
        assert_eq!(bodies[0]["edit"], bodies[1]["edit"]);

        let look = vec![(EDIT, dry("3.16", &changes()))];
        let ((code, out, err), _) = asked(&arguments, &["n"], &[], look).await;
        assert_eq!((code, out.as_str()), (4, CHANGES), "{arguments:?}");
        assert!(err.ends_with("muster: not confirmed; nothing was changed\n"), "{err}");

        let (code, out, err) = muster(&arguments, &[], silent).await;
        assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}");
        assert!(err.starts_with(&format!("muster: {question}: to be confirmed")) && err.contains("--yes"), "{err}");
    }
}

#[tokio::test]
async fn the_question_keeps_to_what_the_operator_said() {
    // The operator's own generation is the one that counts, for both.
    let arguments = ["admin", "revert", "2.9", "--generation", "3.16", "--force", "--reason", "r"];
    let script = vec![(EDIT, dry("3.16", &changes())), (EDIT, edited("3.17", &changes()))];
    let (_, bodies) = asked(&arguments, &["yes"], &[], script).await;
    for body in bodies {
        assert_eq!((&body["generation"], &body["force"], &body["reason"]), (&json!("3.16"), &json!(true), &json!("r")));
    }
    // Nothing to take away is nothing to ask about; the text may still be another one.
    let (_folder, file) = private_file("# a comment\n");
    let script = vec![(EDIT, dry("3.16", &unchanged())), (EDIT, edited("3.17", &unchanged()))];
    let ((code, out, err), _) = asked(&["admin", "apply", &file], &["no question"], &[], script).await;
    let said = "The text changed, and what it grants did not.\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, "generation 3.17\n", said));
    let script = vec![(EDIT, dry("3.16", &unchanged())), (EDIT, edited("3.16", &unchanged()))];
    let ((code, out, err), _) = asked(&["admin", "apply", &file], &["no question"], &[], script).await;
    assert!(code == 1 && out.is_empty() && err.starts_with("Nothing changed"), "{err}");
    // A document is alone on stdout.
    let script = vec![(EDIT, dry("3.16", &changes())), (EDIT, edited("3.17", &changes()))];
    let ((code, out, err), _) = asked(&["admin", "revert", "2.9", "--json"], &["y"], &[], script).await;
    assert_eq!((code, serde_json::from_str::<Value>(&out).expect("JSON")), (0, edited("3.17", &changes())));
    assert_eq!(err, format!("{CHANGES}revert to 2.9: go on? [y/N] "));
}

#[tokio::test]
async fn ctrl_c_at_the_question_changes_nothing() {
    let look = vec![(EDIT, dry("3.16", &changes()))];
    let ((code, out, err), _) = asked(&["admin", "user", "remove", "bob"], &["^C"], &[], look).await;
    assert_eq!((code, out.as_str()), (130, CHANGES));
    assert_eq!(err, "user remove bob: go on? [y/N] muster: interrupted\n");
}

#[tokio::test]
async fn a_new_password_is_hashed_here_wherever_it_comes_from() {
    let (_folder, file) = private_file(&format!("{CLEAR}\n"));
    let twice = [("New password of bob: ", CLEAR), ("The same again: ", CLEAR)];
    let sources = [
        (vec!["--new-password-file", &file], &[][..], &[][..]),
        (vec!["--new-password-stdin"], &[], &[("-", CLEAR)]),
        (vec![], &["somebody is there"], &twice),
    ];
    for (command, edit) in [
        (&["admin", "user", "add", "bob", "--kind", "operator"][..], "user-add"),
        (&["admin", "user", "passwd", "bob"], "user-set"),
    ] {
        for (options, answers, secrets) in &sources {
            let arguments: Vec<&str> = command.iter().chain(options).copied().collect();
            let script = vec![(EDIT, edited("3.17", &changes()))];
            let ((code, out, err), bodies) = asked(&arguments, answers, secrets, script).await;
            assert_eq!(code, 0, "{arguments:?}: {err}");
            assert!(!out.contains(CLEAR) && !err.contains(CLEAR), "{out}{err}");
            assert_eq!((&bodies[0]["edit"]["edit"], &bodies[0]["edit"]["name"]), (&json!(edit), &json!("bob")));
            let hash = bodies[0]["edit"]["password"].as_str().expect("a hash");
            assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
            assert!(passwd::verify(hash, &SecretString::from(CLEAR)), "{hash}");
            assert!(!out.contains(hash) && !err.contains(hash));
        }
    }
}

#[tokio::test]
async fn a_password_that_cannot_be_one_is_refused_before_anything_is_sent() {
    use std::os::unix::fs::PermissionsExt;
    let passwd = ["admin", "user", "passwd", "bob"];
    let typed = |typed: &'static [(&str, &str)]| async move {
        muster_with(&["admin", "user", "passwd", "bob"], &["somebody is there"], typed, silent).await
    };
    let (code, _, err) = typed(&[("New password of bob: ", CLEAR), ("The same again: ", "another")]).await;
    assert_eq!((code, err.as_str()), (64, "muster: the two passwords differ; nothing was sent\n"));
    let (code, _, err) = typed(&[("New password of bob: ", "")]).await;
    assert!(code == 64 && err.contains("empty"), "{err}");
    let (code, _, err) = typed(&[("New password of bob: ", "a\u{7}b")]).await;
    assert!(code == 64 && err.contains("control character") && !err.contains("a\u{7}b"), "{err}");
    let with = |option: &'static str| passwd.iter().copied().chain([option]).collect::<Vec<_>>();
    let (code, _, err) = muster_with(&with("--new-password-stdin"), &[], &[("-", "")], silent).await;
    assert!(code == 64 && err.starts_with("muster: standard input: the password is empty"), "{err}");
    let long = "x".repeat(2000);
    let (code, _, err) = muster_with(&with("--new-password-stdin"), &[], &[("-", &long)], silent).await;
    assert!(code == 64 && err.contains("more than 1024 bytes") && !err.contains("xxx"), "{err}");

    let (code, _, err) = muster(&passwd, &[], silent).await;
    assert!(code == 64 && err.contains("--new-password-file") && err.contains("log in with yourself"), "{err}");
    let (_folder, file) = private_file(&format!("{CLEAR}\n"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let arguments: Vec<&str> = passwd.iter().copied().chain(["--new-password-file", &file]).collect();
    let (code, _, err) = muster(&arguments, &[], silent).await;
    assert!(code == 64 && err.contains("chmod 600") && !err.contains(CLEAR), "{err}");
    for wrong in [CLEAR, "", "$argon2id$v=19$m=64,t=2,p=1$c2FsdHNhbHRzYWx0$Lt8jyGVDOSDdlkBfqgwJZ4xsnDEQ+Xwz/gkb1+EE7Lg"]
    {
        let arguments: Vec<&str> = passwd.iter().copied().chain(["--hash", wrong]).collect();
        let (code, _, err) = muster(&arguments, &[], silent).await;
        assert!(code == 64 && err.starts_with("muster: --hash: ") && err.contains("musterd passwd"), "{err}");
        assert!(wrong.is_empty() || !err.contains(wrong), "quoted: {err}");
    }
}

#[tokio::test]
async fn a_refusal_has_code_text_and_cure() {
    for (code, text, cure) in [
        ("stale-generation", "made for 3.16, the policy is of 3.18", "then edit the new generation."),
        ("last-admin", "nobody else may edit the policy", "or use --force."),
        ("no-authority", "noc1 is the authority and cannot be reached", "`muster admin authority take`."),
        ("bad-edit", "there is no user bob", "Correct what the text names"),
    ] {
        for arguments in [
            &["admin", "user", "enable", "bob", "--generation", "3.16"][..],
            &["admin", "user", "remove", "bob"],
            &["admin", "user", "remove", "bob", "-y", "--json"],
        ] {
            let (exit, out, err) = muster(arguments, &["y"], |mut peer, _| async move {
                let (frame, _) = peer.expect(EDIT).await;
                peer.event(&frame, "refused", &[(header::CODE, code), (header::MESSAGE, text)], Value::Null).await;
            })
            .await;
            assert_eq!((exit, out.as_str()), (4, ""), "{arguments:?}");
            assert!(err.starts_with(&format!("muster: refused: {code}: {text}\n  ")) && err.contains(cure), "{err}");
            assert!(!err.contains("not known"), "{err}");
        }
    }
}

#[tokio::test]
async fn an_edit_without_an_answer_is_said_to_be_in_doubt() {
    let doubt = "It is not known whether the policy was changed; `muster admin history` says what was done last.\n";
    let revoked = || {
        let frame = Frame::new(muster_protocol::frame::Command::Error);
        frame.header(header::CODE, "revoked").header(header::MESSAGE, "your password was changed")
    };
    for (dry_run, is_revoked, expected) in [(false, false, 3), (false, true, 4), (true, false, 3)] {
        let arguments: &[&str] =
            if dry_run { &["admin", "user", "enable", "bob", "-n"] } else { &["admin", "user", "enable", "bob"] };
        let (code, _, err) = muster(arguments, &[], |mut peer, _| async move {
            peer.expect(EDIT).await;
            if is_revoked {
                peer.send(revoked()).await;
            }
        })
        .await;
        assert_eq!((code, err.starts_with(doubt)), (expected, !dry_run), "{err}");
    }
}

#[tokio::test]
async fn lists_are_tables_or_documents_of_one_generation() {
    let users = json!([
        {"name": "alice", "kind": "operator", "groups": ["noc", "admin"]},
        {"name": "b\u{1b}b", "kind": "agent", "disabled": true, "expires": "2027-01-31T00:00:00Z", "networks": ["192.0.2.0/24"]},
    ]);
    let groups = json!([
        {"name": "noc", "all": true, "shows": ["hostname"], "members": 2},
        {"name": "acme", "scope": "customer = acme", "limits": {"max-targets": 5, "sessions": 2}, "members": 0},
    ]);
    let acl = json!([{"line": 12, "destination": "/muster/find", "write": ["noc", "acme"]}]);
    let hidden = json!([{"pattern": "dmi.**", "shown_to": ["noc"]}, {"pattern": "fqdn"}]);
    let collectives = json!([{"name": "prod", "targeted": true}, {"name": "old", "targeted": false}]);
    let brokers = json!([{"name": "dc1", "link": "dc1:61617", "stomp": ["dc1:61614"]}, {"name": "dc2"}]);
    for (command, part, key, members, table, count) in [
        (
            "user",
            "users",
            "users",
            &users,
            "NAME   KIND      STATE     GROUPS      EXPIRES               NETWORKS\n\
             alice  operator  enabled   noc, admin  -                     -\n\
             b␛b    agent     disabled  -           2027-01-31T00:00:00Z  192.0.2.0/24\n",
            "2 users",
        ),
        (
            "group",
            "groups",
            "groups",
            &groups,
            "NAME  MEMBERS  ALL  LIMITS                     SCOPE            SHOWS\n\
             noc   2        yes  -                          -                hostname\n\
             acme  0        no   max-targets=5, sessions=2  customer = acme  -\n",
            "2 groups",
        ),
        (
            "acl",
            "acl",
            "acl",
            &acl,
            "LINE  DESTINATION   READ  WRITE      ADMIN\n12    /muster/find  -     noc, acme  -\n",
            "1 entry",
        ),
        ("scope", "groups", "scopes", &groups, "GROUP  SCOPE\nacme   customer = acme\n", "1 scope"),
        (
            "limit",
            "groups",
            "limits",
            &groups,
            "GROUP  LIMIT        MOST\nacme   max-targets  5\nacme   sessions     2\n",
            "2 limits",
        ),
        ("hidden", "hidden", "hidden", &hidden, "PATTERN  SHOWN TO\ndmi.**   noc\nfqdn     -\n", "2 patterns"),
        (
            "collective",
            "collectives",
            "collectives",
            &collectives,
            "NAME  TARGETED\nprod  yes\nold   no\n",
            "2 collectives",
        ),
        (
            "broker",
            "brokers",
            "brokers",
            &brokers,
            "NAME  LINK       STOMP\ndc1   dc1:61617  dc1:61614\ndc2   -          -\n",
            "2 brokers",
        ),
    ] {
        let answer = |members: &Value| {
            let mut answer = json!({"generation": "3.17"});
            answer[part] = members.clone();
            answer
        };
        let ((code, out, err), body) = one(&["admin", command, "list"], SHOW, answer(members)).await;
        assert_eq!((code, out.as_str()), (0, table), "{command}");
        assert_eq!(err, format!("{count} (generation 3.17).\n"), "{command}");
        assert_eq!(body, json!({"what": part, "limit": 1000}), "{command}");
        let ((code, out, err), _) = one(&["admin", command, "list", "--json"], SHOW, answer(members)).await;
        let document: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, &document["generation"]), (0, &json!("3.17")), "{command}");
        assert_eq!(document[key].as_array().map(Vec::len), count[..1].parse().ok(), "{command}: {out}");
        assert!(!out.contains('\u{1b}') && err.contains("3.17"), "{out}{err}");
        let ((code, out, err), _) = one(&["admin", command, "list"], SHOW, answer(&json!([]))).await;
        let several = count[2..].replace("entry", "entries").trim_end_matches('s').to_owned();
        assert_eq!((code, out.as_str()), (1, ""), "{command}");
        assert!(err.starts_with(&format!("No {several}")) && err.ends_with(" (generation 3.17).\n"), "{err}");
        let ((code, out, _), _) = one(&["admin", command, "list", "--json"], SHOW, answer(&json!([]))).await;
        let document: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, &document[key]), (1, &json!([])), "{command}");
    }
}

#[tokio::test]
async fn users_are_narrowed_by_group_and_kind() {
    let users = json!({"users": [
        {"name": "a", "kind": "operator", "groups": ["noc"]}, {"name": "b", "kind": "agent", "groups": ["noc"]},
        {"name": "c", "kind": "agent"}]});
    for (options, names) in [
        (&["--group", "noc"][..], &["a", "b"][..]),
        (&["--kind", "agent"], &["b", "c"]),
        (&["--kind", "agent", "--group", "noc"], &["b"]),
    ] {
        let arguments: Vec<&str> = ["admin", "user", "list", "--json"].iter().chain(options).copied().collect();
        let ((_, out, _), body) = one(&arguments, SHOW, users.clone()).await;
        assert_eq!(body, json!({"what": "users", "limit": 1000}));
        let document: Value = serde_json::from_str(&out).expect("JSON");
        let found: Vec<&str> =
            document["users"].as_array().unwrap().iter().filter_map(|u| u["name"].as_str()).collect();
        assert_eq!(found, names);
    }
}

#[tokio::test]
async fn one_of_each_is_shown() {
    let user = json!({"name": "n1", "kind": "agent", "networks": ["192.0.2.0/24", "::1"], "groups": ["agents"],
        "revoked-before": "2026-01-01T00:00:00Z", "facts": {"customer": "ac\u{7}me", "rack": {"row": 3}}});
    let group = json!({"name": "acme", "scope": "customer = acme", "limits": {"sessions": 2}, "members": 4});
    for (command, part, name, member, expected) in [
        (
            "user",
            "users",
            "n1",
            &user,
            "user                n1\nkind                agent\nstate               enabled\ngroups              agents\n\
             from                192.0.2.0/24, ::1\nexpires             -\ntokens void before  2026-01-01T00:00:00Z\n\
             certificate         -\ncollective          -\nfacts\n  customer: ac␇me\n  rack:\n    row: 3\n",
        ),
        (
            "group",
            "groups",
            "acme",
            &group,
            "group    acme\nmembers  4\nscope    customer = acme\nall      no\nshows    -\nlimits   sessions=2\n",
        ),
        (
            "acl",
            "acl",
            "/muster/find",
            &json!({"line": 3, "destination": "/muster/find", "write": ["noc"]}),
            "LINE  DESTINATION   READ  WRITE  ADMIN\n3     /muster/find  -     noc    -\n",
        ),
        ("scope", "groups", "acme", &group, "GROUP  SCOPE\nacme   customer = acme\n"),
        ("limit", "groups", "acme", &group, "GROUP  LIMIT     MOST\nacme   sessions  2\n"),
        (
            "collective",
            "collectives",
            "prod",
            &json!({"name": "prod", "targeted": true}),
            "NAME  TARGETED\nprod  yes\n",
        ),
        ("broker", "brokers", "dc1", &json!({"name": "dc1"}), "NAME  LINK  STOMP\ndc1   -     -\n"),
    ] {
        let mut answer = json!({"generation": "3.17"});
        answer[part] = json!([member]);
        let arguments = ["admin", command, "show", name];
        let ((code, out, err), body) = one(&arguments, SHOW, answer.clone()).await;
        assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""), "{command}");
        assert_eq!(body, json!({"what": part, "name": name, "limit": 1000}));
        let ((_, out, _), _) = one(&["admin", command, "show", name, "--json"], SHOW, answer).await;
        assert!(serde_json::from_str::<Value>(&out).is_ok() && !out.contains('\u{7}'), "{out}");
        let ((code, out, err), _) = one(&arguments, SHOW, json!({"generation": "3.17"})).await;
        assert_eq!((code, out.as_str()), (1, ""), "{command}");
        assert!(err.starts_with("No ") && err.ends_with(&format!(" {name} (generation 3.17).\n")), "{err}");
    }
}

fn page(generation: &str, names: &[&str], next: Option<&str>) -> Value {
    let users: Vec<Value> = names.iter().map(|name| json!({"name": name, "kind": "operator"})).collect();
    json!({"generation": generation, "users": users, "next": next})
}

#[tokio::test]
async fn lists_have_all_pages_and_none_of_two_generations() {
    let script = vec![
        (SHOW, page("3.17", &["a", "b"], Some("b"))),
        (SHOW, page("3.18", &["d"], None)),
        (SHOW, page("3.18", &["a", "c"], Some("c"))),
        (SHOW, page("3.18", &["d"], Some("d"))),
        (SHOW, page("3.18", &["e"], None)),
    ];
    let ((code, out, err), bodies) = asked(&["admin", "user", "list"], &[], &[], script).await;
    assert_eq!((code, err.as_str()), (0, "4 users (generation 3.18).\n"));
    let names: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["a", "c", "d", "e"]);
    let after: Vec<&Value> = bodies.iter().map(|body| &body["after"]).collect();
    assert_eq!(after, [&Value::Null, &json!("b"), &Value::Null, &json!("c"), &json!("d")]);

    let script = (0..5).flat_map(|n| {
        [(SHOW, page(&format!("3.{n}"), &["a"], Some("a"))), (SHOW, page(&format!("3.{}", n + 1), &["b"], None))]
    });
    let ((code, out, err), _) = asked(&["admin", "user", "list"], &[], &[], script.collect()).await;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("was edited while it was listed, 5 times in a row; try again"), "{err}");

    let script = vec![(SHOW, page("3.1", &["a"], Some("a"))), (SHOW, page("3.1", &[], Some("a")))];
    let ((code, _, err), _) = asked(&["admin", "user", "list"], &[], &[], script).await;
    assert!(code == 5 && err.contains("leads to itself"), "{code}: {err}");
}

const HISTORY: &str = "/muster/admin.history";

fn edition(generation: &str, reason: &str) -> Value {
    json!({"generation": generation, "authority": "noc1", "by": "al\u{1b}ice", "via": "dc1", "at": 60_000,
        "what": "user add bob", "reason": reason, "sha256": "ab12"})
}

#[tokio::test]
async fn the_history_is_listed_whole_or_in_part() {
    let mut without_reason = edition("3.16", "");
    without_reason.as_object_mut().unwrap().remove("reason");
    let editions = json!([edition("3.17", "new"), without_reason]);
    let pages = || {
        vec![
            (HISTORY, json!({"editions": editions, "next": "3.16"})),
            (HISTORY, json!({"editions": [edition("2.15", "")]})),
        ]
    };
    let ((code, out, err), bodies) = asked(&["admin", "history"], &[], &[], pages()).await;
    let table = "GENERATION  TIME                  BY      WHAT          REASON\n\
                 3.17        1970-01-01T00:01:00Z  al␛ice  user add bob  new\n\
                 3.16        1970-01-01T00:01:00Z  al␛ice  user add bob  -\n";
    let last = "2.15        1970-01-01T00:01:00Z  al␛ice  user add bob  -\n";
    assert_eq!((code, out, err.as_str()), (0, format!("{table}{last}"), ""));
    assert_eq!(bodies, [json!({"limit": 1000}), json!({"before": "3.16", "limit": 1000})]);
    let ((_, out, _), bodies) = asked(&["admin", "history", "--limit", "3"], &[], &[], pages()).await;
    assert_eq!(out, format!("{table}{last}"));
    assert_eq!(bodies, [json!({"limit": 3}), json!({"before": "3.16", "limit": 1})]);
    let ((_, out, _), body) = one(&["admin", "history", "--limit", "2"], HISTORY, pages()[0].1.clone()).await;
    assert_eq!((out.as_str(), body), (table, json!({"limit": 2})));
    let ((code, out, _), _) = one(&["admin", "history", "--json"], HISTORY, json!({"editions": editions})).await;
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &document["editions"]), (0, &editions));
    let ((code, out, err), _) = one(&["admin", "history"], HISTORY, json!({"editions": []})).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "fake keeps no generations: its policy has none.\n"));
}

#[tokio::test]
async fn one_generation_is_shown_with_what_it_changed() {
    let mut with_changes = edition("3.17", "new");
    with_changes["changes"] = changes();
    let ((code, out, _), body) = one(&["admin", "history", "3.17"], HISTORY, json!({"editions": [with_changes]})).await;
    let head = "generation  3.17\nauthority   noc1\ntime        1970-01-01T00:01:00Z\nby          al␛ice at dc1\n\
                what        user add bob\nreason      new\nsha256      ab12\n\n";
    assert_eq!((code, out, body), (0, format!("{head}{CHANGES}"), json!({"generation": "3.17"})));
    let ((code, out, err), _) = one(&["admin", "history", "9.9"], HISTORY, json!({"editions": []})).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "fake keeps no generation 9.9.\n"));
}

const AUTHORITY: &str = "/muster/admin.authority";
const TAKE: &str = "/muster/admin.take";

#[tokio::test]
async fn the_authority_is_shown_with_what_is_wrong_with_it() {
    let good = json!({"broker": "dc1", "generation": "3.17", "authority": "noc1", "reachable": true,
        "neighbours": {"noc1": "3.17", "noc2": null}});
    for arguments in [&["admin", "authority"][..], &["admin", "authority", "show"]] {
        let ((code, out, err), body) = one(arguments, AUTHORITY, good.clone()).await;
        let expected = "broker      dc1\ngeneration  3.17\nauthority   noc1\nneighbour   noc1 enforces 3.17\n\
                        neighbour   noc2 enforces -\n";
        assert_eq!((code, out.as_str(), err.as_str(), body), (0, expected, "", json!({})));
        let with_json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let ((_, out, _), _) = one(&with_json, AUTHORITY, good.clone()).await;
        assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), good);
    }
    let away =
        json!({"broker": "dc1", "generation": "3.17", "authority": "noc1", "reachable": false, "alarms": ["a\u{1b}b"]});
    let ((code, out, err), _) = one(&["admin", "authority"], AUTHORITY, away).await;
    assert!(code == 3 && out.contains("authority   noc1 (cannot be reached)\n"), "{out}");
    assert_eq!(err, "Alarm: a␛b\n");
    let contested = json!({"broker": "dc1", "authority": "dc1", "reachable": true, "rivals": ["noc1"]});
    let ((code, out, _), _) = one(&["admin", "authority"], AUTHORITY, contested).await;
    assert!(code == 3 && out.contains("authority   dc1 (this broker)\ncontested   noc1: nobody can edit"), "{out}");
    let none = json!({"broker": "dc1", "reachable": false});
    let ((code, out, _), _) = one(&["admin", "authority"], AUTHORITY, none).await;
    assert_eq!((code, out.as_str()), (1, "broker      dc1\ngeneration  -\nauthority   none\n"));
}

#[tokio::test]
async fn the_authority_is_taken_after_a_yes() {
    let before = json!({"broker": "dc1", "generation": "3.17", "authority": "noc1", "reachable": false});
    let change = json!({"what": "setting", "name": "authority", "how": "changed", "details": ["noc1 -> dc1"]});
    let after = edited("4.18", &json!({"changes": [change], "rights": []}));
    let take = ["admin", "authority", "take", "--reason", "noc1 burned down"];
    let script = vec![(AUTHORITY, before.clone()), (TAKE, after.clone())];
    let ((code, out, err), bodies) = asked(&take, &["y"], &[], script).await;
    assert_eq!((code, out.as_str()), (0, "~ setting authority\n    noc1 -> dc1\ngeneration 4.18\n"));
    let question = "dc1 takes the authority from noc1, which cannot be reached, and builds on its own policy of generation \
                    3.17; edits that it does not have are set aside. Go on? [y/N] ";
    assert_eq!(err, format!("{question}fake is the authority.\n"));
    assert_eq!(bodies[1], json!({"reason": "noc1 burned down"}));
    let ((code, _, _), _) = asked(&take, &["n"], &[], vec![(AUTHORITY, before)]).await;
    assert_eq!(code, 4);
    let (code, _, err) = muster(&take, &[], silent).await;
    assert!(code == 4 && err.contains("--yes"), "{err}");
    let ((code, out, err), body) = one(&["admin", "authority", "take", "-y", "--json"], TAKE, after.clone()).await;
    assert_eq!((code, err.as_str(), body), (0, "fake is the authority.\n", json!({})));
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), after);
    let (code, _, err) = muster(&["admin", "authority", "take", "-y"], &[], |mut peer, _| async move {
        peer.expect(TAKE).await;
    })
    .await;
    assert!(code == 3 && err.starts_with("It is not known whether the authority was taken"), "{err}");
}

const SESSIONS: &str = "/muster/admin.sessions";

fn session(number: u64) -> Value {
    json!({"session": number, "user": "bo\u{1b}b", "kind": "operator", "address": "192.0.2.7:50210", "since": 60_000,
        "subscriptions": 2, "backlog": 77})
}

#[tokio::test]
async fn sessions_are_listed_with_their_broker() {
    let mut agent = session(8);
    agent["node"] = json!("n-1");
    agent["display"] = json!({"datacenter": "a"});
    let pages = || {
        vec![
            (SESSIONS, json!({"broker": "fake", "sessions": [session(7)], "next": 7})),
            (SESSIONS, json!({"broker": "fake", "sessions": [agent]})),
        ]
    };
    let arguments = ["admin", "sessions", "--of", "bob", "--kind", "operator"];
    let ((code, out, err), bodies) = asked(&arguments, &[], &[], pages()).await;
    let expected = "\
SESSION  USER  KIND      ADDRESS          SINCE                 SUBSCRIPTIONS  BACKLOG  NODE  FACTS
fake/7   bo␛b  operator  192.0.2.7:50210  1970-01-01T00:01:00Z  2              77 B     -     -
fake/8   bo␛b  operator  192.0.2.7:50210  1970-01-01T00:01:00Z  2              77 B     n-1   datacenter=a
";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, "2 sessions.\n"));
    let query = json!({"user": "bob", "kind": "operator", "closed": false, "limit": 1000});
    assert_eq!(bodies[0], query);
    assert_eq!((&bodies[1]["after"], &bodies[1]["user"]), (&json!(7), &json!("bob")));
    let ((_, out, _), _) = asked(&["admin", "sessions", "--json"], &[], &[], pages()).await;
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&document["broker"], &document["sessions"][1]["session"]), (&json!("fake"), &json!(8)));
    let ((code, out, err), _) = one(&["admin", "sessions"], SESSIONS, json!({"broker": "fake"})).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "No sessions.\n"));
    let closed = json!({"session": 3, "user": "bob", "address": "192.0.2.7:1", "since": 0, "until": 60_000, "reason": "slow-consumer"});
    let answer = json!({"broker": "fake", "closed": [closed], "next": 3});
    let ((code, out, err), body) = one(&["admin", "sessions", "--closed", "--limit", "1"], SESSIONS, answer).await;
    let expected = "\
SESSION  USER  ADDRESS      SINCE                 UNTIL                 NODE  REASON
fake/3   bob   192.0.2.7:1  1970-01-01T00:00:00Z  1970-01-01T00:01:00Z  -     slow-consumer
";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, "1 closed session.\n"));
    assert_eq!(body, json!({"closed": true, "limit": 1}));
    let ((_, out, _), _) = one(&["admin", "sessions", "--closed", "--json"], SESSIONS, json!({"broker": "fake"})).await;
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), json!({"broker": "fake", "closed": []}));
}

#[tokio::test]
async fn a_session_is_closed_at_its_own_broker_only() {
    let close = ["admin", "close", "fake/17", "--reason", "laptop stolen"];
    let ((code, out, _), body) = one(&close, "/muster/admin.close", json!({"user": "bo\u{1b}b"})).await;
    assert_eq!((code, out.as_str()), (0, "closed fake/17 of bo␛b\n"));
    assert_eq!(body, json!({"session": 17, "reason": "laptop stolen"}));
    let (code, _, err) = muster(&["admin", "close", "dc1/17", "--reason", "x"], &[], silent).await;
    assert_eq!(code, 4);
    assert!(err.contains("dc1/17 is one of dc1, and we are connected to fake") && err.contains("--broker"), "{err}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_wrong_usage_and_nothing_is_sent() {
    for (arguments, what) in [
        (&["user", "set", "bob"][..], "nothing to set"),
        (&["user", "set", "bob", "--group", "a", "--unset", "groups"], "--unset groups: it is set too"),
        (&["user", "set", "bob", "--fact", "customer"], "--fact `customer`: no `=`"),
        (&["user", "set", "bob", "--fact", "a:={"], "--fact `a:={`: not JSON"),
        (&["group", "set", "noc"], "nothing to set"),
        (&["group", "set", "noc", "--limit", "sessions=1", "--unset", "sessions"], "--unset sessions: it is set too"),
        (&["group", "add", "noc", "--limit", "sessions=1", "--limit", "sessions=2"], "--limit sessions: given twice"),
        (&["acl", "add", "/muster/find"], "for whom? Give --read"),
        (&["apply", "/nonexistent/policy.toml", "-y"], "/nonexistent/policy.toml: cannot read the policy"),
    ] {
        let arguments: Vec<&str> = std::iter::once("admin").chain(arguments.iter().copied()).collect();
        let (code, out, err) = muster(&arguments, &[], silent).await;
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}: {err}");
        assert!(err.contains(what), "{arguments:?}: {err}");
    }
    for (arguments, what) in [
        (&["user", "add", "bob"][..], "--kind"),
        (&["user", "add", "bob", "--kind", "robot"], "agent, operator, service"),
        (&["user", "add", "bob", "--kind", "agent", "--hash", "x", "--new-password-stdin"], "cannot be used with"),
        (&["user", "add", "bob", "--kind", "agent", "--expires", "tomorrow"], "2027-01-31"),
        (&["user", "set", "bob", "--unset", "password"], "revoked-before"),
        (&["user", "passwd", "bob", "--password", "x"], "--password"),
        (&["user", "remove"], "<NAME>"),
        (&["user", "enable", "bob", "--generation", "17"], "TERM.NUMBER"),
        (&["user", "enable", "bob", "-y"], "-y"),
        (&["group", "add", "noc", "--scope", "a = = b"], "--scope"),
        (&["group", "add", "noc", "--limit", "many=1"], "max-targets"),
        (&["group", "add-member", "noc"], "<USER>"),
        (&["acl", "add", "topic/x", "--read", "a"], "topic/x"),
        (&["scope", "set", "noc", "(((a=1"], "<FILTER>"),
        (&["hidden", "add", "a..b"], "<PATTERN>"),
        (&["limit", "set", "noc", "max-targets", "0"], "1.."),
        (&["limit", "set", "noc", "targets", "5"], "max-targets"),
        (&["collective", "set", "prod"], "--targeted"),
        (&["collective", "add", "prod", "--targeted", "maybe"], "true, false"),
        (&["broker", "set", "DC 1"], "DNS label"),
        (&["broker", "set", "dc1", "--link", "dc1:x"], "--link"),
        (&["revert", "first"], "3.17"),
        (&["history", "3.17", "--limit", "2"], "cannot be used with"),
        (&["authority", "give"], "give"),
        (&["sessions", "--kind", "robot"], "agent, operator, service"),
        (&["close", "17", "--reason", "x"], "noc1/17"),
        (&["close", "noc1/17"], "--reason"),
        (&["close", "noc1/17", "--reason", ""], "--reason"),
    ] {
        let parsed = Cli::try_parse_from(["muster", "admin"].iter().chain(arguments));
        let error = parsed.map(|_| ()).expect_err(&format!("{arguments:?}")).to_string();
        assert!(error.contains(what), "{arguments:?}: {error}");
    }
}

#[test]
fn what_a_user_is_given_does_not_say_who_logs_in() {
    let parse =
        |arguments: &[&str]| Cli::try_parse_from(std::iter::once(&"muster").chain(arguments)).expect("arguments");
    let add = ["admin", "user", "add", "bob", "--kind", "agent", "--new-password-file", "new", "--collective", "dev"];
    assert_eq!(parse(&add).connection.password_file, None);
    let with_own: Vec<&str> = ["--password-file", "own"].iter().chain(&add).copied().collect();
    assert_eq!(parse(&with_own).connection.password_file, Some(PathBuf::from("own")));
    let member = ["admin", "group", "add-member", "noc", "bob"];
    assert_eq!(parse(&member).connection.user, None);
    let sessions = ["admin", "sessions", "--of", "bob", "--user", "alice"];
    assert_eq!(parse(&sessions).connection.user.as_deref(), Some("alice"));
}
