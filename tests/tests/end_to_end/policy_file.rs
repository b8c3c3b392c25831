//! Does policy.toml say what is in force, whoever writes it and whatever happens to the broker, its disk and its other files?

use muster_tests::cluster::Plan;
use muster_tests::policy::{PASSWORD, POLICY, with, without_user};
use muster_tests::stomp::connect;
use muster_tests::{Broker, Cluster, Setup, Stomp, until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const NEWCOMER: &str = "\n[users.newcomer]\nkind = \"operator\"\npassword = \"{phc}\"\ngroups = [\"noc\"]\n";

fn text(broker: &Broker) -> String {
    fs::read_to_string(broker.folder().join("policy.toml")).expect("policy.toml")
}

fn editions(broker: &Broker) -> PathBuf {
    broker.folder().join("state/policy")
}

fn set_aside(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.to_string_lossy().contains("policy.toml.set-aside-")).collect()
}

fn until_generation(broker: &Broker, generation: &str) {
    until(&format!("generation {generation}"), || (broker.generation().as_deref() == Some(generation)).then_some(()));
}

fn until_alarm(broker: &Broker, words: &str) -> String {
    until(&format!("an alarm: {words}"), || broker.alarms().into_iter().find(|alarm| alarm.contains(words)))
}

fn until_calm(broker: &Broker) {
    until("no alarm", || broker.alarms().is_empty().then_some(()));
}

fn assert_gets_in(broker: &Broker, user: &str) {
    drop(Stomp::login(broker, user));
}

fn assert_stays_out(broker: &Broker, user: &str) {
    let mut stomp = Stomp::dial(broker);
    stomp.send(connect(user));
    assert_eq!(stomp.error().code, "auth-failed");
}

/// The newest line of the audit log with these fields.
fn on_record(broker: &Broker, fields: &Value) -> Value {
    let fields = fields.as_object().expect("an object");
    let fits = |line: &Value| fields.iter().all(|(name, value)| line[name] == *value);
    until(&format!("a line with {fields:?}"), || {
        let log = fs::read_to_string(broker.folder().join("state/audit.jsonl")).ok()?;
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).rfind(fits)
    })
}

#[test]
fn an_edit_by_hand_holds_by_itself_and_is_the_next_generation() {
    let broker = Broker::start();
    assert_eq!(broker.generation().as_deref(), Some("1.1"));
    let mut viewer = Stomp::operator(&broker, "viewer");
    let mut stays = Stomp::operator(&broker, "noc");
    let edited = format!("# mine\n{}{NEWCOMER}", without_user("viewer"));
    broker.write_policy(&edited);
    assert_eq!(viewer.error().code, "revoked");
    until_generation(&broker, "1.2");
    assert_gets_in(&broker, "newcomer");
    stays.assert_quiet();
    assert!(text(&broker).starts_with("# mine\n"));
    let loaded = on_record(&broker, &json!({ "event": "policy-loaded", "generation": "1.2" }));
    let (by, what, authority) = (&loaded["by"], &loaded["what"], &loaded["authority"]);
    assert_eq!((by, what, authority), (&json!("(file)"), &json!("edit by hand"), &json!("noc1")), "{loaded}");
    until_calm(&broker);
}

#[test]
fn a_bad_edit_by_hand_is_told_once_and_the_old_policy_stays() {
    let broker = Broker::start();
    let mut stays = Stomp::operator(&broker, "noc");
    broker.write_policy(&with("kind = \"operator\"", "kind = \"policy-secret-51\""));
    let alarm = until_alarm(&broker, "policy.toml is not in force, the last good policy is: line");
    assert!(!alarm.contains("secret-51 ") && !alarm.contains("$argon2id$"), "{alarm}");
    assert_eq!(broker.generation().as_deref(), Some("1.1"));
    assert_gets_in(&broker, "viewer");
    stays.assert_quiet();
    on_record(&broker, &json!({ "event": "policy-refused" }));
    broker.write_policy(&format!("{POLICY}{NEWCOMER}"));
    until_generation(&broker, "1.2");
    until_calm(&broker);
    assert_gets_in(&broker, "newcomer");
    assert_eq!(broker.log().matches("policy refused").count(), 1, "{}", broker.log());
}

#[test]
fn a_reload_says_what_became_of_the_file() {
    let broker = Broker::start();
    let reloaded = |generation: &str| {
        let said = broker.ctl("reload");
        let answer: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        assert_eq!(answer["generation"], generation, "{said:?}");
        assert!(answer["reloaded"].as_str().is_some_and(|file| file.ends_with("policy.toml")), "{said:?}");
    };
    reloaded("1.1");
    broker.write_policy(&format!("{POLICY}{NEWCOMER}"));
    reloaded("1.2");
    assert_gets_in(&broker, "newcomer");
    broker.write_policy("frobnicate = 1\n");
    let said = broker.ctl("reload");
    assert!(said.code == 1 && said.stderr.contains("policy.toml: line 1"), "{said:?}");
    assert_gets_in(&broker, "newcomer");
}

#[test]
fn an_edit_while_the_broker_is_down_holds_from_the_start() {
    let broker = Broker::start();
    let broker = broker.into_setup().policy(&format!("{POLICY}{NEWCOMER}")).start();
    assert_eq!(broker.generation().as_deref(), Some("1.2"));
    assert_gets_in(&broker, "newcomer");
    // Nothing has changed since.
    let mut broker = broker.into_setup().start();
    assert_eq!(broker.generation().as_deref(), Some("1.2"));
    broker.kill();
    let setup = broker.into_setup().policy("frobnicate = 1\n");
    let said = setup.run();
    assert!(said.code == 1 && said.stderr.contains("policy.toml: line 1"), "{said:?}");
    let said = setup.check();
    assert!(said.code == 1 && said.stderr.contains("policy.toml: line 1"), "{said:?}");
}

#[test]
fn an_edit_over_the_wire_stands_in_the_file_and_survives_a_kill() {
    let mut broker = Broker::start();
    fs::set_permissions(broker.folder().join("policy.toml"), Permissions::from_mode(0o640)).expect("its mode");
    let mut admin = Stomp::operator(&broker, "noc");
    let edit = json!({ "edit": { "edit": "user-remove", "name": "late" }, "reason": "has left" });
    let answer = admin.ask("/muster/admin.edit", None, &edit).expect("an answer");
    assert_eq!(answer["generation"], "1.2", "{answer}");
    broker.kill();
    assert!(!text(&broker).contains("[users.late]") && text(&broker).contains("[users.elsewhere]"));
    let mode = fs::metadata(broker.folder().join("policy.toml")).expect("policy.toml").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    for entry in fs::read_dir(editions(&broker)).expect("the editions") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    broker.start_again();
    assert_eq!(broker.generation().as_deref(), Some("1.2"));
    let mut admin = Stomp::operator(&broker, "noc");
    let history = admin.ask("/muster/admin.history", None, &json!({})).expect("an answer");
    let newest = &history["editions"][0];
    assert_eq!((&newest["by"], &newest["reason"]), (&json!("noc"), &json!("has left")), "{history}");
    let revert = json!({ "edit": { "edit": "revert", "to": "1.1" } });
    let answer = admin.ask("/muster/admin.edit", None, &revert).expect("an answer");
    assert_eq!(answer["generation"], "1.3", "{answer}");
    assert!(text(&broker).contains("[users.late]"));
    assert!(!broker.log().contains(PASSWORD) && !broker.log().contains("$argon2id$"));
}

/// Files of the broker may not grow over so many bytes from now on; `None`: as large as they like.
fn limit_files(broker: &Broker, bytes: Option<u64>) {
    let id = Pid::from_raw(i32::try_from(broker.id()).expect("a process id"));
    let maximum = getrlimit(Resource::Fsize).maximum;
    prlimit(id, Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).expect("a limit");
}

#[test]
fn what_finds_no_place_on_the_disk_is_refused_and_the_old_policy_stays() {
    let broker = Broker::start();
    let before = text(&broker);
    let mut admin = Stomp::operator(&broker, "noc");
    limit_files(&broker, Some(1024));
    let edit = json!({ "edit": { "edit": "user-remove", "name": "late" } });
    let refused = admin.ask("/muster/admin.edit", None, &edit).expect_err("a refusal");
    assert_eq!(refused.code, "internal", "{refused:?}");
    for words in ["the policy stays as it was", "state/policy/1-2-", "make room on its disk"] {
        assert!(refused.text.contains(words), "{refused:?}");
    }
    assert_eq!((text(&broker), broker.generation().as_deref()), (before, Some("1.1")));
    // By hand there is room for it; the edition finds none.
    broker.write_policy(&format!("{POLICY}{NEWCOMER}"));
    until_alarm(&broker, "make room on its disk");
    assert_stays_out(&broker, "newcomer");
    let left: Vec<_> = fs::read_dir(editions(&broker)).expect("the editions").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("1-2-")), "{left:?}");
    limit_files(&broker, None);
    let said = broker.ctl("reload");
    assert_eq!(said.code, 0, "{said:?}");
    assert_gets_in(&broker, "newcomer");
    until_calm(&broker);
    let answer = admin.ask("/muster/admin.edit", None, &edit).expect("an answer");
    assert_eq!(answer["generation"], "1.3", "{answer}");
}

#[test]
fn what_was_tampered_with_is_noticed_at_the_start() {
    let mut broker = Broker::start();
    broker.reload(&format!("{POLICY}{NEWCOMER}"));
    broker.kill();
    let seal = editions(&broker).join("current.json");
    let forged = fs::read_to_string(&seal).expect("the seal").replace("(file)", "nobody");
    fs::write(&seal, forged).expect("the seal");
    broker.start_again();
    let alarm = until_alarm(&broker, "current.json");
    assert!(alarm.contains("forged") && alarm.contains("1.2"), "{alarm}");
    assert_gets_in(&broker, "newcomer");
    broker.kill();
    for entry in fs::read_dir(editions(&broker)).expect("the editions") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "json") {
            fs::write(path, "{}").expect("a file");
        }
    }
    let setup = broker.into_setup();
    for said in [setup.check(), setup.run()] {
        assert_eq!(said.code, 1, "{said:?}");
        for words in ["current.json: it is no seal", "state/policy to start from policy.toml"] {
            assert!(said.stderr.contains(words), "{said:?}");
        }
    }
    // The cure.
    fs::remove_dir_all(setup.folder().join("state/policy")).expect("the editions");
    assert_gets_in(&setup.start(), "newcomer");
}

/// noc1 with the authority, and dc1, which follows it.
fn two() -> Cluster {
    let policy = format!("authority = \"noc1\"\n{POLICY}");
    let cluster = Plan::of(&["noc1", "dc1"]).link("noc1", "dc1").policy("noc1", &policy).policy("dc1", &policy).start();
    until_generation(&cluster["dc1"], "1.1");
    cluster
}

#[test]
fn what_is_written_at_a_follower_is_set_aside() {
    let mut cluster = two();
    let policy = format!("authority = \"noc1\"\n{POLICY}{NEWCOMER}{}", cluster.broker_list());
    let before = text(&cluster["dc1"]);
    cluster["dc1"].write_policy(&policy);
    let said = cluster["dc1"].ctl("reload");
    let follower = &cluster["dc1"];
    let aside = until("it is set aside", || set_aside(follower.folder()).pop());
    until("the policy in force is back", || (text(follower) == before).then_some(()));
    // Whether the reload or the broker's own look has found it.
    assert!(said.code == 0 || said.stderr.contains("this broker follows noc1"), "{said:?}");
    assert!(fs::read_to_string(&aside).expect("a text").contains("[users.newcomer]"));
    assert_eq!(fs::metadata(&aside).expect("a file").permissions().mode() & 0o777, 0o600);
    until_alarm(follower, "set-aside");
    assert_stays_out(follower, "newcomer");
    // While it is down it is no other.
    cluster.kill("dc1");
    cluster["dc1"].write_policy(&policy.replace("newcomer", "latecomer"));
    cluster.start("dc1");
    let follower = &cluster["dc1"];
    assert_eq!((text(follower), set_aside(follower.folder()).len()), (before, 2));
    assert_stays_out(follower, "latecomer");
    for file in set_aside(follower.folder()) {
        fs::remove_file(file).expect("a file");
    }
    until("nothing is to be looked at", || {
        follower.alarms().iter().all(|alarm| !alarm.contains("set-aside")).then_some(())
    });
}

#[test]
fn a_follower_keeps_the_last_good_policy_without_its_authority() {
    let mut cluster = two();
    cluster["noc1"].reload(&format!("authority = \"noc1\"\n{POLICY}{NEWCOMER}{}", cluster.broker_list()));
    until_generation(&cluster["dc1"], "1.2");
    cluster.kill("noc1");
    cluster.kill("dc1");
    // Its copy of the text is lost, and somebody has tried their luck.
    cluster["dc1"].write_policy(POLICY);
    cluster.start("dc1");
    let follower = &cluster["dc1"];
    assert_eq!(follower.generation().as_deref(), Some("1.2"));
    assert_gets_in(follower, "newcomer");
    assert!(text(follower).contains("[users.newcomer]"));
}

#[test]
fn whoever_is_removed_is_out_also_where_the_disk_takes_nothing_more() {
    let mut cluster = two();
    let follower = &cluster["dc1"];
    let before = text(follower);
    let mut viewer = Stomp::operator(follower, "viewer");
    limit_files(follower, Some(1024));
    let policy =
        |more: &str| format!("authority = \"noc1\"\n{}{more}{}", without_user("viewer"), cluster.broker_list());
    cluster["noc1"].reload(&policy(""));
    assert_eq!(viewer.error().code, "revoked");
    assert_stays_out(follower, "viewer");
    let alarm = until_alarm(follower, "policy 1.2 is in force and not on the disk");
    assert!(alarm.contains("make room on its disk"), "{alarm}");
    assert_eq!(text(follower), before);
    let metrics = follower.ctl("metrics").stdout;
    assert!(metrics.contains("muster_alarms{source=\"policy\"} 1\n"), "{metrics}");
    // The next one too; and when there is room it is written without anybody's help.
    cluster["noc1"].reload(&policy(NEWCOMER));
    until_generation(follower, "1.3");
    assert_gets_in(follower, "newcomer");
    limit_files(follower, None);
    until_calm(follower);
    until("it stands in the file", || text(follower).contains("[users.newcomer]").then_some(()));
    cluster.kill("noc1");
    cluster.kill("dc1");
    cluster.start("dc1");
    assert_eq!(cluster["dc1"].generation().as_deref(), Some("1.3"));
    assert_stays_out(&cluster["dc1"], "viewer");
}

#[test]
fn an_edit_by_hand_moves_no_authority() {
    let cluster = two();
    let moved = text(&cluster["noc1"]).replacen("authority = \"noc1\"", "authority = \"dc1\"", 1);
    cluster["noc1"].write_policy(&moved);
    until_alarm(&cluster["noc1"], "run `muster admin authority take` at dc1");
    let generations = ["noc1", "dc1"].map(|name| cluster[name].generation());
    assert_eq!(generations, [Some("1.1".to_owned()), Some("1.1".to_owned())]);
}

#[test]
fn a_second_broker_does_not_touch_the_editions_of_the_first() {
    let broker = Broker::start();
    let config = broker.folder().join("musterd.toml");
    let mut second = std::process::Command::new(muster_tests::process::binary("musterd"));
    let said = muster_tests::process::run(second.arg("run").arg("--config").arg(config));
    assert!(said.code == 1 && said.stderr.contains("another broker uses this state directory"), "{said:?}");
    broker.reload(&format!("{POLICY}{NEWCOMER}"));
    assert_eq!(broker.generation().as_deref(), Some("1.2"));
}

#[test]
fn a_broker_alone_needs_no_certificate_of_a_cluster() {
    let broker = Setup::new().with("tls.ca", "nowhere.pem").start();
    assert_eq!(broker.generation(), None);
    assert!(broker.log().contains("has no generations and no history"), "{}", broker.log());
    broker.write_policy(&format!("{POLICY}{NEWCOMER}"));
    until("it is in force", || broker.log().contains("policy reloaded").then_some(()));
    assert_gets_in(&broker, "newcomer");
}
