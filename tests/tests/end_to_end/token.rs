//! What stands for a password at the next login, for whom, at which brokers, and until when?

use muster_protocol::frame::Frame;
use muster_tests::agent::write_private;
use muster_tests::made::Family;
use muster_tests::node::{hello, key};
use muster_tests::policy::{PASSWORD, POLICY, with, without_user};
use muster_tests::process::{binary, run};
use muster_tests::stomp::{connect, message, show, with_passcode};
use muster_tests::{Agent, Broker, Muster, Plan, Refused, Setup, Stomp, until, until_within};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longer than an agent waits between two tries.
const WAY_BACK: Duration = Duration::from_secs(60);

/// The answer to CONNECT.
fn try_login(broker: &Broker, frame: Frame) -> Result<(Stomp, Frame), Refused> {
    Stomp::dial(broker).try_login(frame)
}

/// A login by password: the token that it gives.
fn token(broker: &Broker, frame: Frame) -> String {
    let (_, connected) = try_login(broker, frame).expect("the password is right");
    connected.headers.get("muster-token").unwrap_or_else(|| panic!("no token: {}", show(&connected))).to_owned()
}

fn by_token(broker: &Broker, user: &str, token: &str) -> Result<(Stomp, Frame), Refused> {
    try_login(broker, with_passcode(connect(user), token))
}

fn assert_refused(broker: &Broker, user: &str, token: &str, what: &str) {
    let refused = by_token(broker, user, token).err().unwrap_or_else(|| panic!("{what}: it is taken"));
    assert_eq!((refused.code.as_str(), refused.retry_after), ("auth-failed", None), "{what}: {refused:?}");
}

/// Another PHC string of the test password: as if it had been changed, and the agents had been told.
fn another_phc() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    write_private(&folder.path().join("password"), PASSWORD);
    let said = run(Command::new(binary("musterd")).arg("passwd").arg("--file").arg(folder.path().join("password")));
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.trim().to_owned()
}

fn with_another_password(user: &str) -> String {
    let head = format!("[users.{user}]\n");
    let (before, after) = POLICY.split_once(&head).expect("the user");
    format!("{before}{head}{}", after.replacen("{phc}", &another_phc(), 1))
}

#[test]
fn a_token_gets_its_user_in_without_the_password_and_nobody_else() {
    let broker = Setup::new().with("log.level", "trace").start();
    let mine = token(&broker, connect("noc"));
    assert!(mine.starts_with("mt1.") && mine.len() <= 512, "{} bytes", mine.len());
    let (mut stomp, connected) = by_token(&broker, "noc", &mine).expect("it is good");
    assert_eq!(connected.headers.get("user-name"), Some("noc"));
    assert_eq!(connected.headers.get("muster-token"), None, "more than half of its life is left");
    stomp.subscribe("/topic/open.>", "1");
    stomp.send_and_wait(message("/topic/open.x").with_body("as ever"));
    assert_eq!(&stomp.frame().body[..], b"as ever");
    for user in ["viewer", "gone", "nobody-knows-me", ""] {
        assert_refused(&broker, user, &mine, user);
    }
    for at in [4, 20, mine.len() / 2, mine.len() - 1] {
        let other = if mine.as_bytes()[at] == b'A' { "B" } else { "A" };
        assert_refused(&broker, "noc", &format!("{}{other}{}", &mine[..at], &mine[at + 1..]), "forged");
    }
    assert_refused(&broker, "noc", &mine[..mine.len() - 4], "cut");
    assert_refused(&broker, "noc", &format!("mt1.{}", "A".repeat(508)), "made up");
    let log = broker.log();
    assert!(log.contains("token: forged") && !log.contains("mt1."), "{log}");
}

#[test]
fn a_password_that_begins_like_a_token_is_a_password_and_one_that_is_like_a_token_cannot_be_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    let hash = |password: &str| {
        write_private(&file, password);
        run(Command::new(binary("musterd")).arg("passwd").arg("--file").arg(&file))
    };
    let said = hash(&format!("mt1.{}", "a".repeat(100)));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("form of a resumption token") && !said.stderr.contains("aaaa"), "{said:?}");
    let said = hash("mt1.hunter2");
    assert_eq!(said.code, 0, "{said:?}");
    let broker = Setup::new().policy(&POLICY.replacen("{phc}", said.stdout.trim(), 1)).start();
    try_login(&broker, with_passcode(connect("noc"), "mt1.hunter2")).expect("a password");
}

#[test]
fn an_agents_token_is_good_for_its_node_alone() {
    let broker = Broker::start();
    let nodes = token(&broker, hello("node-acme", 1, 1));
    let refused = |frame: Frame, what: &str| {
        let refused =
            try_login(&broker, with_passcode(frame, &nodes)).err().unwrap_or_else(|| panic!("{what}: it is taken"));
        assert_eq!(refused.code, "auth-failed", "{what}");
    };
    refused(hello("node-acme", 2, 2), "another node");
    refused(hello("node-beta", 1, 2), "another user");
    refused(connect("node-acme"), "no node");
    let mut stolen_id = hello("node-acme", 1, 2);
    stolen_id.headers.set("muster-node-key", &key(2).expose_hex());
    refused(stolen_id, "the node's id with another key");
    let (_, connected) = try_login(&broker, with_passcode(hello("node-acme", 1, 2), &nodes)).expect("the node");
    assert_eq!(connected.headers.get("muster-collective"), Some("prod"));
    refused(hello("node-bare", 1, 3), "another user");
    let operators = token(&broker, connect("noc"));
    assert!(try_login(&broker, with_passcode(hello("noc", 1, 4), &operators)).is_err(), "an operator is no node");
}

#[test]
fn every_broker_of_the_cluster_takes_it_and_no_other() {
    let cluster = Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").start();
    let mine = token(&cluster["noc1"], connect("noc"));
    by_token(&cluster["dc1"], "noc", &mine).expect("of the same cluster");
    let theirs = token(&cluster["dc1"], connect("noc"));
    by_token(&cluster["noc1"], "noc", &theirs).expect("and the other way");
    let foreign = Setup::of(Family::OtherCa, "noc1").start();
    assert_refused(&foreign, "noc", &mine, "a broker of a cluster of the same name");
    assert_refused(&cluster["noc1"], "noc", &token(&foreign, connect("noc")), "a foreign token");
}

#[test]
fn it_dies_with_password_user_and_date_and_so_do_the_sessions_that_it_opened() {
    let broker = Broker::start();
    let mine = token(&broker, connect("viewer"));
    for (what, policy) in [
        ("another password", with_another_password("viewer")),
        ("removed", without_user("viewer")),
        ("disabled", with("[users.viewer]\n", "[users.viewer]\ndisabled = true\n")),
        ("expired", with("[users.viewer]\n", "[users.viewer]\nexpires = 2021-01-01\n")),
        ("another network", with("[users.viewer]\n", "[users.viewer]\nnetworks = [\"192.0.2.0/24\"]\n")),
        ("revoked", with("[users.viewer]\n", "[users.viewer]\nrevoked-before = 2999-01-01\n")),
    ] {
        broker.reload(POLICY);
        let (mut open, _) = by_token(&broker, "viewer", &mine).unwrap_or_else(|r| panic!("before {what}: {r:?}"));
        broker.reload(&policy);
        assert_eq!(open.error().code, "revoked", "{what}");
        assert_refused(&broker, "viewer", &mine, what);
    }
    // Who has the password is not meant by the date.
    let mut by_password = Stomp::login(&broker, "viewer");
    broker.reload(&with("[users.viewer]\n", "[users.viewer]\nrevoked-before = \"2998-01-01\"\n"));
    by_password.assert_quiet();
    broker.reload(&with("[users.viewer]\n", "[users.viewer]\nrevoked-before = 2020-01-01T00:00:00Z\n"));
    by_token(&broker, "viewer", &mine).expect("made after that date");
}

#[test]
fn it_expires_and_is_renewed_before_and_can_be_turned_off() {
    let broker = Setup::new().with("limits.token-life", "6s").start();
    let mut mine = token(&broker, connect("noc"));
    let fresh = until_within("more than half of its life is over, and it is replaced", WAY_BACK, || {
        match by_token(&broker, "noc", &mine) {
            Ok((_, connected)) => connected.headers.get("muster-token").map(str::to_owned),
            Err(_) => {
                // This test slept through the second half: another one.
                mine = token(&broker, connect("noc"));
                None
            }
        }
    });
    until("it has expired", || by_token(&broker, "noc", &mine).err().filter(|refused| refused.code == "auth-failed"));
    assert_ne!(fresh, mine);
    let broker = broker.into_setup().with("limits.token-life", "0s").start();
    assert_refused(&broker, "noc", &fresh, "tokens are off");
    let (_, connected) = try_login(&broker, connect("noc")).expect("the password");
    assert_eq!(connected.headers.get("muster-token"), None);
    let muster = by_hand(&broker);
    let said = run(muster.command(&["login"]).env("MUSTER_PASSWORD", PASSWORD));
    assert_eq!((said.code, said.stderr.contains("gives no tokens")), (4, true), "{said:?}");
}

#[test]
fn a_new_cluster_key_lets_old_tokens_in_while_the_previous_one_is_named() {
    let broker = Broker::start();
    let old = token(&broker, connect("noc"));
    let setup = broker.into_setup().with("cluster-key-previous", "cluster.key.previous");
    let file = |name: &str| setup.folder().join(name);
    fs::rename(file("cluster.key"), file("cluster.key.previous")).expect("the old key");
    write_private(&file("cluster.key"), &format!("{}\n", "5a".repeat(32)));
    let broker = setup.start();
    by_token(&broker, "noc", &old).expect("the previous key");
    let new = token(&broker, connect("noc"));
    let setup = broker.into_setup();
    write_private(&setup.folder().join("cluster.key.previous"), &"00".repeat(32));
    let broker = setup.start();
    assert_refused(&broker, "noc", &old, "its key is gone");
    by_token(&broker, "noc", &new).expect("the new key");
    let setup = broker.into_setup();
    for name in ["cluster.key", "cluster.key.previous"] {
        write_private(&setup.folder().join(name), "no key");
        let said = setup.check();
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(&format!("{name}: not a cluster key")), "{said:?}");
        assert!(!said.stderr.contains("no key\n"), "{said:?}");
        write_private(&setup.folder().join(name), &"11".repeat(32));
    }
    assert_eq!(setup.check().code, 0);
}

#[test]
fn a_flood_of_wrong_passwords_delays_no_token_and_forged_tokens_delay_nobody() {
    let mut broker = Setup::new().with("limits.logins", 1).with("limits.login-queue", 1).start();
    let mine = token(&broker, connect("noc"));
    // Without what it remembers: now the password would have to be hashed.
    broker.kill();
    broker.start_again();
    for _ in 0..20 {
        assert_refused(&broker, "noc", &format!("{}AAAA", &mine[..mine.len() - 4]), "forged");
    }
    let wrong = || try_login(&broker, with_passcode(connect("noc"), "wrong")).expect_err("wrong").code;
    assert_eq!(wrong(), "auth-failed", "forged tokens make nobody wait");
    until("wrong passwords make the user wait", || (wrong() == "busy").then_some(()));
    let password = try_login(&broker, connect("noc")).expect_err("nobody's password is hashed now");
    assert_eq!(password.code, "busy");
    let mut crowd: Vec<Stomp> = (0..16).map(|_| Stomp::dial(&broker)).collect();
    for (n, stomp) in crowd.iter_mut().enumerate() {
        stomp.send(with_passcode(connect(&format!("stranger-{n}")), "wrong"));
    }
    by_token(&broker, "noc", &mine).expect("in the middle of the crowd");
    for mut stomp in crowd {
        assert!(["busy", "auth-failed"].contains(&stomp.error().code.as_str()));
    }
    by_token(&broker, "noc", &mine).expect("and after it");
}

#[test]
fn an_agent_keeps_its_token_and_goes_back_to_its_password_when_that_is_refused() {
    let broker = Broker::start();
    let mut agent = Agent::start(&broker, "node-acme", &json!({}), &[]);
    let kept = agent.folder().join("state/token");
    let first = kept_token(&kept);
    let count = |agent: &Agent, what: &str| agent.status().map_or(0, |s| s["counts"][what].as_u64().unwrap_or(0));
    // Its password is wrong now, and nobody notices.
    write_private(&agent.folder().join("password"), "wrong");
    restart(&mut agent, &broker);
    assert_eq!(count(&agent, "failed-connections"), 0, "{:?}", agent.status());
    // A changed password ends its session and its token; with the new one it comes back by itself, in one more try.
    write_private(&agent.folder().join("password"), PASSWORD);
    broker.reload(&with_another_password("node-acme"));
    until_within("the agent has another token", WAY_BACK, || {
        let text = fs::read_to_string(&kept).ok()?;
        (!text.is_empty() && text.trim_end() != first).then_some(())
    });
    agent.until_registered(&broker);
    assert_eq!((count(&agent, "tokens-refused"), count(&agent, "failed-connections")), (1, 1), "{:?}", agent.status());
    // Garbage, and what others could read, is not used and harms nothing.
    for (text, mode) in [("garbage", 0o600), (first.as_str(), 0o644)] {
        agent.kill();
        write_private(&kept, text);
        fs::set_permissions(&kept, fs::Permissions::from_mode(mode)).expect("its mode");
        restart(&mut agent, &broker);
        assert!(until("another token", || fs::read_to_string(&kept).ok()).starts_with("mt1."));
    }
    for text in [agent.log(), broker.log(), fs::read_to_string(agent.status_file()).expect("the status")] {
        assert!(!text.contains("mt1."), "{text}");
    }
    for name in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{name}", agent.process_id())).expect("of a process");
        assert!(!String::from_utf8_lossy(&bytes).contains("mt1."));
    }
}

fn kept_token(file: &Path) -> String {
    let text = until("the agent keeps a token", || fs::read_to_string(file).ok());
    assert_eq!(fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert!(text.starts_with("mt1."));
    text.trim_end().to_owned()
}

fn restart(agent: &mut Agent, broker: &Broker) {
    agent.kill();
    until("the node is gone", || (broker.count("nodes") == 0).then_some(()));
    agent.start_again();
    until_within("the node is back", WAY_BACK, || (broker.count("nodes") == 1).then_some(()));
    agent.until_registered(broker);
}

/// An operator who types the password: none stands in the settings.
fn by_hand(broker: &Broker) -> Muster {
    let muster = Muster::new(broker, "noc");
    let file = muster.folder().join("muster.toml");
    let text = fs::read_to_string(&file).expect("the settings");
    write_private(&file, &text.replace("password-file = \"password\"\n", ""));
    muster
}

#[test]
fn muster_login_keeps_a_token_that_every_command_uses() {
    let broker = Broker::start();
    let muster = by_hand(&broker);
    let said = muster.run(&["find", "--all", "--count"]);
    assert_eq!((said.code, said.stderr.contains("muster login")), (64, true), "{said:?}");
    let said = run(muster.command(&["login"]).env("MUSTER_PASSWORD", "wrong"));
    assert_eq!((said.code, said.stderr.contains("auth-failed")), (4, true), "{said:?}");
    let said = run(muster.command(&["login"]).env("MUSTER_PASSWORD", PASSWORD));
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
    assert!(said.stderr.contains("noc is logged in at noc1") && !said.stderr.contains("mt1."), "{said:?}");
    let folder = muster.folder().join(".local/state/muster/tokens");
    let files: Vec<_> = fs::read_dir(&folder).expect("the folder").map(|file| file.expect("a file").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&files[0]), mode(&folder)), (0o600, 0o700));

    assert_eq!(muster.run(&["find", "--all", "--count"]).code, 1, "it asks the broker");
    assert_eq!(muster.run(&["mesh"]).code, 0);
    let said = run(muster.command(&["mesh"]).env("MUSTER_PASSWORD", "wrong"));
    assert_eq!(
        (said.code, said.stderr.contains("auth-failed")),
        (4, true),
        "a password that is given is meant: {said:?}"
    );
    assert_eq!(muster.run(&["--user", "viewer", "find", "--all"]).code, 64, "it is another user's");
    fs::set_permissions(&files[0], fs::Permissions::from_mode(0o644)).expect("its mode");
    let said = muster.run(&["mesh"]);
    assert_eq!((said.code, said.stderr.contains("chmod 600")), (64, true), "{said:?}");
    fs::set_permissions(&files[0], fs::Permissions::from_mode(0o600)).expect("its mode");

    broker.reload(&with("[users.noc]\n", "[users.noc]\nrevoked-before = 2999-01-01\n"));
    let said = muster.run(&["mesh"]);
    assert_eq!((said.code, said.stderr.contains("log in again with `muster login`")), (4, true), "{said:?}");
    broker.reload(POLICY);
    let said = muster.run(&["logout"]);
    assert_eq!((said.code, said.stderr.contains("is removed")), (0, true), "{said:?}");
    assert!(!files[0].exists());
    assert_eq!(muster.run(&["mesh"]).code, 64, "nothing to log in with");
    let said = muster.run(&["logout"]);
    assert_eq!((said.code, said.stderr.contains("No token of noc")), (0, true), "{said:?}");
    assert!(!broker.log().contains("mt1."));
}

#[test]
fn a_token_that_commands_use_is_replaced_before_it_expires() {
    let broker = Setup::new().with("limits.token-life", "6s").start();
    let muster = by_hand(&broker);
    let log_in = || assert_eq!(run(muster.command(&["login"]).env("MUSTER_PASSWORD", PASSWORD)).code, 0);
    let kept = || {
        let folder = muster.folder().join(".local/state/muster/tokens");
        let mut files = fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path());
        fs::read_to_string(files.next().expect("a token")).expect("its text")
    };
    log_in();
    let mut first = kept();
    until_within("a command has put a fresh token in its place", WAY_BACK, || match muster.run(&["mesh"]).code {
        0 => (kept() != first).then_some(()),
        // This test slept through the second half: another one.
        4 => {
            log_in();
            first = kept();
            None
        }
        code => panic!("exit code {code}"),
    });
    assert_eq!(muster.run(&["mesh"]).code, 0, "it is good");
}
