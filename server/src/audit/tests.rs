//! Does the audit log say where it was touched, and does it go on after every misfortune?

mod against;
mod answer;

use super::search::{When, search_log};
use super::trail::Trail;
use super::*;
use crate::broker::record::{Verdict, Who};
use muster_protocol::error::{Code, Refusal};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// 2023-11-14T22:13:20Z, Unix ms.
const THEN: u64 = 1_700_000_000_000;

fn config(folder: &TempDir) -> AuditConfig {
    AuditConfig { file: folder.path().join("audit.jsonl"), ..AuditConfig::default() }
}

/// One whose files hold some five lines each.
fn small(folder: &TempDir) -> AuditConfig {
    AuditConfig { rotate_size: 1500, keep: 3, ..config(folder) }
}

fn login(user: &str) -> Record {
    let address = "192.0.2.1:4711".parse().unwrap();
    let who = Who { user: user.into(), address, session: Some(1), node: None };
    Record::Login { who, verdict: Verdict::ALLOWED }
}

fn verify_log(file: &Path) -> Result<Whole, VerifyError> {
    verify::verify_log(file, None)
}

/// Writes `count` logins, one at a time, and brings them to the disk.
fn fill(trail: &mut Trail, count: u64) {
    for number in 0..count {
        trail.append(&[(THEN + number, login(&format!("user{number}")))], 0, THEN + number).unwrap();
    }
    trail.sync().unwrap();
}

/// A log of these many lines in a folder of its own.
fn log_of(lines: u64) -> (TempDir, AuditConfig) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    fill(&mut Trail::new(config.clone(), "noc1"), lines);
    (folder, config)
}

/// File name, line and text of what is wrong.
fn fault(file: &Path) -> (String, usize, String) {
    match verify_log(file) {
        Err(VerifyError::Broken(Fault { file, line, what })) => {
            (file.file_name().unwrap().to_string_lossy().into_owned(), line, what)
        }
        other => panic!("no fault: {other:?}"),
    }
}

/// Changes the lines of a file.
fn edit(file: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    fs::write(file, lines.into_iter().map(|line| line + "\n").collect::<String>()).unwrap();
}

fn events(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let event = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned();
    text.lines().map(event).collect()
}

#[test]
fn what_was_written_is_good_and_private() {
    let (_folder, config) = log_of(7);
    let whole = verify_log(&config.file).unwrap();
    assert_eq!((whole.files, whole.lines), (1, 7));
    assert_eq!(
        whole.to_string(),
        "good: 7 lines in 1 files, number 1 to 7, 2023-11-14T22:13:20Z to 2023-11-14T22:13:20.006Z"
    );
    for file in [config.file.clone(), config.file.with_extension("head")] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn every_kind_of_tampering_is_found_at_its_line() {
    type Change = fn(&mut Vec<String>);
    let cases: [(&str, Change, usize, &str); 9] = [
        ("edit", |lines| lines[3] = lines[3].replace("user3", "mallory"), 4, "edited"),
        ("cut in the middle", |lines| drop(lines.remove(3)), 4, "lines 4 to 4 before it are missing"),
        ("cut at the end", |lines| lines.truncate(6), 7, "the end was cut off: lines 7 to 9 are missing"),
        ("cut at the begin", |lines| drop(lines.drain(..2)), 1, "lines 1 to 2 before it are missing"),
        ("reorder", |lines| lines.swap(3, 4), 4, "not in order"),
        ("insert", |lines| lines.insert(4, lines[1].clone()), 5, "line number 2 where 5 was to come"),
        ("repeat", |lines| lines.insert(4, lines[3].clone()), 5, "inserted"),
        ("nothing left", |lines| lines.clear(), 1, "the end was cut off: lines 1 to 9 are missing"),
        ("a line of nonsense", |lines| lines.insert(8, "{}".into()), 9, "no line of an audit log"),
    ];
    for (what, change, line, text) in cases {
        let (_folder, config) = log_of(9);
        edit(&config.file, change);
        let found = fault(&config.file);
        assert_eq!((found.0.as_str(), found.1), ("audit.jsonl", line), "{what}: {found:?}");
        assert!(found.2.contains(text), "{what}: {found:?}");
    }
}

#[test]
fn a_log_that_was_written_anew_whole_does_not_fit_its_head() {
    let (_folder, config) = log_of(5);
    let (_other, forged) = log_of(4);
    fill(&mut Trail::new(forged.clone(), "noc1"), 1);
    fs::copy(&forged.file, &config.file).unwrap();
    assert!(fault(&config.file).2.contains("written anew"));
    fs::remove_file(config.file.with_extension("head")).unwrap();
    assert!(fault(&config.file).2.contains("audit.head is missing"));
    fs::write(config.file.with_extension("head"), "{}").unwrap();
    assert!(verify_log(&config.file).unwrap_err().to_string().contains("audit.head: it does not say where"));
    let (_folder, config) = log_of(2);
    fs::remove_file(&config.file).unwrap();
    assert!(fault(&config.file).2.contains("the log is gone: it had 2 lines"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Any byte of any line of any file, newlines included.
    #[test]
    fn any_changed_byte_is_caught_where_it_is(place in any::<prop::sample::Index>(), other in 1u8..) {
        let folder = tempfile::tempdir().unwrap();
        let config = small(&folder);
        fill(&mut Trail::new(config.clone(), "noc1"), 14);
        let files = verify::files_of(&config.file).unwrap();
        prop_assert!(files.len() >= 3, "{files:?}");
        let sizes: Vec<usize> = files.iter().map(|file| fs::metadata(file).unwrap().len() as usize).collect();
        let (mut place, mut nth) = (place.index(sizes.iter().sum()), 0);
        while place >= sizes[nth] {
            place -= sizes[nth];
            nth += 1;
        }
        let mut bytes = fs::read(&files[nth]).unwrap();
        let line = bytes[..place].iter().filter(|byte| **byte == b'\n').count() + 1;
        bytes[place] ^= other;
        fs::write(&files[nth], bytes).unwrap();
        let name = files[nth].file_name().unwrap().to_string_lossy().into_owned();
        let found = fault(&config.file);
        prop_assert_eq!((found.0, found.1), (name, line), "{}", found.2);
    }
}

#[test]
fn rotation_goes_on_in_the_chain_and_says_what_it_removed() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(&folder);
    let mut trail = Trail::new(config.clone(), "noc1");
    fill(&mut trail, 60);
    let older = trail::rotated(&config.file).unwrap();
    assert_eq!(older.len(), 3, "keep = 3: {older:?}");
    let whole = verify_log(&config.file).unwrap();
    assert_eq!(whole.files, 4);
    let (first, _) = whole.first.unwrap();
    assert!(first > 1 && first == older[0].0, "named by its first line: {older:?}");
    assert_eq!(older[0].1.file_name().unwrap().to_str().unwrap(), format!("audit-{first:012}.jsonl"));
    // Who removes more than the rotation did is found out.
    fs::remove_file(&older[0].1).unwrap();
    let found = fault(&config.file);
    assert!(found.2.contains("no rotation removed them"), "{found:?}");
    // A file that is missing in between, and one that was cut at its end.
    let (folder, mut trail) = (tempfile::tempdir().unwrap(), None);
    let config = small(&folder);
    fill(trail.insert(Trail::new(config.clone(), "noc1")), 14);
    let older = trail::rotated(&config.file).unwrap();
    edit(&older[0].1, |lines| drop(lines.pop()));
    let found = fault(&config.file);
    assert_eq!((found.0.as_str(), found.1), (older[1].1.file_name().unwrap().to_str().unwrap(), 1), "{found:?}");
    fs::remove_file(&older[0].1).unwrap();
    assert!(fault(&config.file).2.contains("lines 1 to"), "the first file is missing");
}

#[test]
fn rotation_by_age_counts_from_the_first_line_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = AuditConfig { rotate_age: Duration::from_secs(60), ..config(&folder) };
    let write = |trail: &mut Trail, at: u64| {
        trail.append(&[(at, login("a"))], 0, at).unwrap();
        trail.sync().unwrap();
        trail::rotated(&config.file).unwrap().len()
    };
    assert_eq!(write(&mut Trail::new(config.clone(), "noc1"), THEN), 0);
    let mut again = Trail::new(config.clone(), "noc1");
    assert_eq!(write(&mut again, THEN + 59_999), 0);
    assert_eq!(write(&mut again, THEN + 60_000), 1);
    assert_eq!(verify_log(&config.file).unwrap().lines, 3);
}

#[test]
fn a_restart_continues_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(&folder);
    for _ in 0..7 {
        fill(&mut Trail::new(config.clone(), "noc1"), 2);
    }
    let whole = verify_log(&config.file).unwrap();
    assert_eq!(whole.last.unwrap().0, 14);
    assert_eq!(whole.lines, 14, "nothing was said of damage");
    // Also when the last life ended right after a rotation, before anything was in the new file.
    let text = fs::read_to_string(&config.file).unwrap();
    let first = chain::read(text.lines().next().unwrap().as_bytes()).unwrap().n;
    fs::rename(&config.file, config.file.with_file_name(format!("audit-{first:012}.jsonl"))).unwrap();
    fill(&mut Trail::new(config.clone(), "noc1"), 1);
    assert_eq!(verify_log(&config.file).unwrap().lines, 15);
}

#[test]
fn a_torn_last_line_is_set_aside_and_the_chain_goes_on() {
    for cut in [1, 40, 150] {
        let (folder, config) = log_of(5);
        let head = fs::read(config.file.with_extension("head")).unwrap();
        fill(&mut Trail::new(config.clone(), "noc1"), 1);
        // As kill -9 leaves it: half a line, and an end that was noted before it.
        let mut bytes = fs::read(&config.file).unwrap();
        bytes.truncate(bytes.len() - cut);
        fs::write(&config.file, &bytes).unwrap();
        fs::write(config.file.with_extension("head"), head).unwrap();
        let found = fault(&config.file);
        assert_eq!((found.1, found.2.contains("not whole")), (6, true), "{found:?}");
        let start = bytes.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        fill(&mut Trail::new(config.clone(), "noc1"), 2);
        let aside = folder.path().join("audit.torn-1");
        assert_eq!(fs::read(&aside).unwrap(), bytes[start..], "the evidence is kept");
        assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(events(&config.file)[4..], ["login", "torn", "login", "login"]);
        let whole = verify_log(&config.file).unwrap();
        assert_eq!((whole.lines, whole.torn), (8, 1));
        assert!(whole.to_string().contains("1 torn lines were set aside"), "{whole}");
    }
}

#[test]
fn what_was_cut_between_two_lives_stays_a_gap_in_the_chain() {
    let (_folder, config) = log_of(6);
    edit(&config.file, |lines| lines.truncate(4));
    fill(&mut Trail::new(config.clone(), "noc1"), 2);
    let found = fault(&config.file);
    assert_eq!((found.1, found.2.as_str()), (5, "lines 5 to 6 before it are missing or not in order"));
    let text = fs::read_to_string(&config.file).unwrap();
    assert!(text.contains(r#""event":"damaged","reason":"lines 5 to 6 are missing""#), "{text}");
    // And without its head, nobody can say: that is said.
    let (_folder, config) = log_of(6);
    edit(&config.file, |lines| lines.truncate(4));
    fs::remove_file(config.file.with_extension("head")).unwrap();
    fill(&mut Trail::new(config.clone(), "noc1"), 2);
    let found = fault(&config.file);
    assert!(found.1 == 5 && found.2.contains("audit.head is not there"), "{found:?}");
    // A last line that was edited stays where it is, and is found.
    let (_folder, config) = log_of(6);
    edit(&config.file, |lines| lines[5] = lines[5].replace("user5", "mallory"));
    fill(&mut Trail::new(config.clone(), "noc1"), 2);
    assert_eq!(fault(&config.file).1, 6);
    assert!(fs::read_to_string(&config.file).unwrap().contains("mallory"));
}

#[test]
fn a_file_that_is_taken_away_from_a_running_broker_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let mut trail = Trail::new(config.clone(), "noc1");
    fill(&mut trail, 3);
    fs::remove_file(&config.file).unwrap();
    // What is written until it is noticed goes where the file has gone.
    fill(&mut trail, 1);
    fill(&mut trail, 2);
    let text = fs::read_to_string(&config.file).unwrap();
    assert!(text.contains("lines 1 to 4 are missing"), "{text}");
    let found = fault(&config.file);
    assert!(found.1 == 1 && found.2.ends_with("not as it had left them: lines 1 to 4 are missing"), "{found:?}");
}

#[test]
fn two_brokers_do_not_write_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let mut first = Trail::new(config.clone(), "noc1");
    fill(&mut first, 2);
    let mut second = Trail::new(config.clone(), "noc1");
    let error = second.append(&[(THEN, login("a"))], 0, THEN).unwrap_err();
    assert!(error.to_string().contains("another broker writes this audit log"), "{error}");
    fill(&mut first, 1);
    assert_eq!(verify_log(&config.file).unwrap().lines, 3);
    drop(first);
    fill(&mut second, 1);
    assert_eq!(verify_log(&config.file).unwrap().lines, 4);
}

#[test]
fn a_log_that_is_killed_at_once_has_its_end_noted() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    Trail::new(config.clone(), "noc1").append(&[(THEN, login("a"))], 0, THEN).unwrap();
    assert_eq!(verify_log(&config.file).unwrap().lines, 1);
    fill(&mut Trail::new(config.clone(), "noc1"), 1);
    assert_eq!(events(&config.file), ["login", "login"], "nothing was damaged");
}

#[test]
fn a_full_disk_costs_records_and_leaves_a_gap_that_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    std::os::unix::fs::symlink("/dev/full", &config.file).unwrap();
    let mut trail = Trail::new(config.clone(), "noc1");
    let error = trail.append(&[(THEN, login("a"))], 0, THEN).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    fs::remove_file(&config.file).unwrap();
    trail.append(&[(THEN, login("b"))], 1, THEN).unwrap();
    trail.sync().unwrap();
    assert_eq!(events(&config.file), ["lost", "login"]);
    let whole = verify_log(&config.file).unwrap();
    assert_eq!((whole.lines, whole.lost), (2, 1));
    assert!(whole.to_string().ends_with("1 records were lost, as the log says itself"));
}

#[tokio::test]
async fn records_are_written_in_order_by_the_time_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let audit = Audit::start(&config, "noc1").unwrap();
    for number in 0..2000 {
        audit.tell(|| login(&format!("user{number}")));
    }
    audit.stop().await;
    let text = fs::read_to_string(&config.file).unwrap();
    let users: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["user"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(users, (0..2000).map(|number| format!("user{number}")).collect::<Vec<_>>());
    assert_eq!(verify_log(&config.file).unwrap().lines, 2000, "the head was noted at the end");
    let status = audit.status();
    assert_eq!((&status["written"], &status["lost"], &status["error"]), (&json!(2000), &json!(0), &Value::Null));
}

#[test]
fn refusals_do_not_push_out_what_was_done_and_what_is_lost_is_counted() {
    let (queue, told) = sync_channel(QUEUE);
    let counts = Arc::new(Counts::default());
    let audit =
        Audit(Some(Arc::new(Desk { queue, counts: counts.clone(), file: PathBuf::new(), heads: Duration::ZERO })));
    let address = "192.0.2.1:4711".parse().unwrap();
    let refused = || {
        let who = Who { user: "guess".into(), address, session: None, node: None };
        Record::Login { who, verdict: Verdict::denied(&Refusal::new(Code::AuthFailed, "wrong password")) }
    };
    for _ in 0..QUEUE {
        audit.tell(refused);
    }
    assert_eq!(counts.lost.load(Ordering::Relaxed) as usize, RESERVE);
    for _ in 0..=RESERVE {
        audit.tell(|| login("alice"));
    }
    assert_eq!(counts.lost.load(Ordering::Relaxed) as usize, RESERVE + 1, "the queue is full, and nobody waited");
    assert_eq!(told.try_iter().count(), QUEUE);
}

#[test]
fn nothing_is_made_when_nobody_wants_it() {
    let audit = Audit::off();
    audit.tell(|| panic!("made"));
    assert_eq!(audit.status(), json!({ "enabled": false }));
}

#[test]
fn files_that_were_copied_are_verified_among_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let config = small(&folder);
    fill(&mut Trail::new(config.clone(), "noc1"), 14);
    let mut files = verify::files_of(&config.file).unwrap();
    files.reverse();
    let verify = |files: &[PathBuf]| {
        let files = files.to_vec();
        verify(&VerifyOptions { config: PathBuf::new(), files, against: Vec::new(), since: None })
    };
    assert_eq!(verify(&files).unwrap().lines, 14, "in whatever order they are given");
    let last: Vec<PathBuf> = files[..2].to_vec();
    assert!(verify(&last).is_ok(), "a part that hangs together");
    files.remove(1);
    assert!(verify(&files).unwrap_err().to_string().contains("are missing"));
    let none = folder.path().join("none.jsonl");
    assert!(verify(&[none]).unwrap_err().to_string().contains("none.jsonl: cannot read the audit log"));
}

#[test]
fn search_finds_by_time_user_decision_destination_node_and_request() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let mut trail = Trail::new(config.clone(), "noc1");
    let lines = [
        json!({ "event": "login", "decision": "allowed", "user": "alice", "node": "n-a" }),
        json!({ "event": "request", "decision": "denied", "user": "alice", "destination": "/topic/prod.service.restart", "request": "r1" }),
        json!({ "event": "request", "decision": "allowed", "user": "bob", "destination": "/topic/dev.node.ping", "request": "r2", "nodes": ["n-a"], "target": "a = \u{202e}b" }),
        json!({ "event": "cancel", "decision": "allowed", "user": "bob", "destination": "/muster/cancel", "about": "r2" }),
        json!({ "event": "request-done", "user": "bob", "destination": "/topic/dev.node.ping", "request": "r2" }),
    ];
    for (number, line) in (0u64..).zip(&lines) {
        trail.append(&[(THEN + number * 60_000, line)], 0, THEN).unwrap();
    }
    let all = SearchOptions {
        config: PathBuf::new(),
        since: None,
        until: None,
        user: None,
        decision: None,
        destination: None,
        node: None,
        request: None,
        event: None,
        limit: 100,
        json: true,
    };
    let now = jiff::Timestamp::from_millisecond(THEN as i64 + 240_000).unwrap();
    let found = |options: &SearchOptions| -> Vec<u64> {
        let text = search_log(&config.file, options, now).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(found(&all), [1, 2, 3, 4, 5]);
    assert_eq!(found(&SearchOptions { limit: 2, ..all.clone() }), [4, 5], "the newest");
    assert_eq!(found(&SearchOptions { user: some("alice"), ..all.clone() }), [1, 2]);
    assert_eq!(found(&SearchOptions { decision: some("denied"), ..all.clone() }), [2]);
    let prod = muster_protocol::destination::Pattern::parse("/topic/prod.>").unwrap();
    assert_eq!(found(&SearchOptions { destination: Some(prod), ..all.clone() }), [2]);
    assert_eq!(found(&SearchOptions { node: some("n-a"), ..all.clone() }), [1, 3]);
    assert_eq!(found(&SearchOptions { request: some("r2"), ..all.clone() }), [3, 4, 5]);
    assert_eq!(found(&SearchOptions { event: some("login"), ..all.clone() }), [1]);
    let minutes = |count: u64| Some(When::Ago(Duration::from_secs(count * 60)));
    assert_eq!(found(&SearchOptions { since: minutes(2), ..all.clone() }), [3, 4, 5]);
    assert_eq!(found(&SearchOptions { since: Some(When::At(now)), user: some("bob"), ..all.clone() }), [5]);
    assert_eq!(found(&SearchOptions { until: minutes(2), ..all.clone() }), [1, 2], "before then");
    assert_eq!(found(&SearchOptions { since: minutes(3), until: minutes(2), ..all.clone() }), [2]);
    let text = search_log(&config.file, &SearchOptions { json: false, limit: 3, ..all }, now).unwrap();
    assert_eq!(
        text.lines().next().unwrap(),
        "2023-11-14T22:15:20Z request allowed destination=/topic/dev.node.ping nodes=[\"n-a\"] request=r2 target=\"a = \u{fffd}b\" user=bob"
    );
}
