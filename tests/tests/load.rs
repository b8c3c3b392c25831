//! Does `muster-load` give a true account? Small crowds of each scenario, what it refuses, and how it ends. No time is asserted.

use muster_tests::process::{Process, Said, binary, run};
use muster_tests::{until, until_within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Longer than a small run takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(180);

/// A run and the file that it reports to.
struct Load {
    folder: TempDir,
}

impl Load {
    fn new() -> Load {
        Load { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(binary("muster-load"));
        // Whatever a killed one leaves behind goes with the folder.
        command.env("TMPDIR", self.folder.path());
        command.args(arguments.split(' ')).arg("--json").arg(self.file());
        command
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("report.json")
    }

    fn report(&self) -> Value {
        let text = fs::read_to_string(self.file()).expect("a report");
        serde_json::from_str(&text).expect("a report in JSON")
    }

    /// Runs it to its end, which must be a good one.
    fn complete(&self, arguments: &str) -> Value {
        let said = run(&mut self.command(arguments));
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stdout.ends_with("Complete.\n"), "{said:?}");
        let report = self.report();
        assert_eq!(report["ended_early"], Value::Null);
        for row in report["rows"].as_array().expect("rows") {
            assert_eq!((&row["missing"], &row["seen"]), (&Value::Null, &row["meant"]), "{row}");
        }
        report
    }
}

/// The row of this scenario whose description begins so.
fn row<'a>(report: &'a Value, scenario: &str, what: &str) -> &'a Value {
    let rows = report["rows"].as_array().expect("rows");
    let is_it =
        |row: &&Value| row["scenario"] == scenario && row["what"].as_str().is_some_and(|text| text.starts_with(what));
    rows.iter().find(is_it).unwrap_or_else(|| panic!("no {scenario}: {what} in {report}"))
}

fn bytes(row: &Value, direction: &str) -> u64 {
    row["costs"]["wire"][direction].as_u64().unwrap_or_else(|| panic!("no {direction} in {row}"))
}

#[test]
fn fifty_agents_are_all_accounted_for() {
    let load = Load::new();
    let report = load.complete(
        "storm idle find scatter churn stream --agents 50 --users 3 --window 1 --rounds 2 --messages 2000 --deltas 40 --limit 170",
    );
    for what in ["registered, since the begin", "registered, since its own attempt"] {
        let row = row(&report, "storm", what);
        assert_eq!((row["seen"].as_u64(), row["times"]["count"].as_u64()), (Some(50), Some(50)));
    }
    for (part, agents) in [("100 %", 50), ("10 %", 5), ("1 %", 1), ("0.1 %", 1)] {
        for what in
            [format!("message to {part}"), format!("request to {part}, at agents"), format!("replies of {part}")]
        {
            assert_eq!(row(&report, "scatter", &what)["seen"], agents, "{what}");
        }
    }
    // Two rounds: of each, so many bodies of 512 bytes went to agents, and as many came back from them and went on.
    let replies = row(&report, "scatter", "replies of 100 %");
    assert!(
        bytes(replies, "to_brokers") > 2 * 50 * 512 && bytes(replies, "from_brokers") > 2 * 2 * 50 * 512,
        "{replies}"
    );
    assert!(bytes(row(&report, "churn", "deltas"), "to_brokers") > 0);
    assert!(row(&report, "churn", "deltas")["seen"].as_u64() > Some(0));
    let streamed = row(&report, "stream", "deliveries of 128 bytes, 1:100");
    assert!(bytes(streamed, "from_brokers") > 2 * 200 * 100 * 128, "{streamed}");
    let memory = &row(&report, "idle", "1 s")["memory"];
    assert!(memory["idle"].as_u64() > Some(0) && memory["peak"].as_u64() >= memory["empty"].as_u64(), "{memory}");
}

#[test]
fn three_brokers_share_the_agents_and_nobody_is_missed() {
    let report = Load::new().complete("find scatter --agents 61 --brokers 3 --facts 30 --rounds 1 --limit 170");
    assert_eq!(row(&report, "scatter", "replies of 100 %")["seen"], 61);
    assert_eq!(row(&report, "scatter", "replies of 10 %")["seen"], 7);
    assert_eq!(report["asked"]["brokers"], 3);
}

#[test]
fn everybody_comes_back_also_beside_a_flood_of_wrong_passwords_which_is_turned_away() {
    let load = Load::new();
    // Whether the operator was answered each time depends on what else this machine does.
    let said = run(&mut load.command("restart flood --agents 20 --users 2 --flood 4 --limit 170"));
    let report = load.report();
    for (scenario, what) in [("restart", "back"), ("flood", "registered"), ("flood", "back")] {
        let row = row(&report, scenario, what);
        assert_eq!((row["seen"].as_u64(), &row["missing"]), (Some(20), &Value::Null), "{said:?}");
        if scenario == "restart" {
            continue;
        }
        let wrong = row["costs"]["flood"].as_object().expect("answers to wrong passwords");
        assert!(!wrong.is_empty() && !wrong.contains_key("GOT IN"), "{wrong:?}");
    }
}

/// The figures of a comparison by this name.
fn figures<'a>(report: &'a Value, what: &str) -> &'a Value {
    let lines = report["comparison"].as_array().expect("a comparison");
    lines.iter().find(|line| line["what"] == what).unwrap_or_else(|| panic!("no {what} in {report}"))
}

/// What is compared of all.
const COMPARED: [&str; 8] = [
    "connect storm, last",
    "resident set, empty",
    "resident set for a session",
    "message to all, first",
    "message to all, last",
    "replies of all, p50",
    "replies of all, last",
    "stream 1:1",
];

#[test]
fn bare_sessions_at_muster_are_all_accounted_for_and_who_is_not_here_is_skipped_by_name() {
    let load = Load::new();
    let arguments =
        "--peer muster,activemq --agents 50 --users 3 --window 1 --rounds 1 --turns 2 --messages 2000 --limit 170";
    // No java, wherever there is one.
    let said = run(load.command(arguments).env("PATH", "/nonexistent"));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("SKIPPED activemq: there is no ") && said.stdout.ends_with("Complete.\n"), "{said:?}");
    let report = load.report();
    assert!(report["peers"]["muster"].is_string() && report["skipped"]["activemq"].is_string(), "{report}");
    let rows = report["rows"].as_array().expect("rows");
    for turn in [1, 2] {
        let of_turn = |scenario: &str, what: &str| {
            let is_it = |row: &&Value| {
                row["of"] == json!(["muster", turn])
                    && row["scenario"] == scenario
                    && row["what"].as_str().is_some_and(|text| text.starts_with(what))
            };
            rows.iter().find(is_it).unwrap_or_else(|| panic!("no {scenario}: {what} in {report}"))
        };
        assert_eq!(of_turn("storm", "connected, since the begin")["seen"], 50);
        assert_eq!(of_turn("scatter", "message to 100 %")["seen"], 50);
        let replies = of_turn("scatter", "replies of 100 %");
        assert_eq!(replies["seen"], 50);
        // One round: a body of 512 bytes to each, one back from each, and on to the one who asked.
        assert!(bytes(replies, "to_brokers") > 50 * 512 && bytes(replies, "from_brokers") > 2 * 50 * 512, "{replies}");
        // Two clients have the stream, and not all of them.
        let streamed = bytes(of_turn("stream", "deliveries"), "from_brokers");
        assert!((2_000 * 128..2 * 2_000 * 512).contains(&streamed), "{streamed}");
    }
    for what in COMPARED {
        assert!(figures(&report, what)["figures"]["muster"].as_f64() > Some(0.0), "{what}");
        assert_eq!(figures(&report, what)["ratios"], json!({}), "{what}");
    }
    let part = &figures(&report, "replies of 1 % of agents, or of all sessions, last")["figures"];
    assert!(part["muster-agents"].as_f64() > Some(0.0), "{part}");
}

fn has_nats_server() -> bool {
    run(Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin nats-server --version"])).code == 0
}

#[test]
fn a_peer_that_dies_ends_a_comparison_with_what_there_is() {
    if !has_nats_server() {
        eprintln!("skipped: nats-server is not installed");
        return;
    }
    let load = Load::new();
    let arguments = "idle --peer nats --agents 10 --users 1 --window 1 --limit 170";
    let mut process = Process::start("muster-load", &mut load.command(arguments));
    until_within("nats-server has its turn", LIMIT, || process.output().contains("muster-load: nats").then_some(()));
    let peer = until("it is started", || find_child(process.id(), "nats-server"));
    kill(peer);
    assert_eq!(process.wait(LIMIT).code(), Some(1));
    let report = load.report();
    assert!(
        report["ended_early"].as_str().is_some_and(|why| why.starts_with("broker nats has ended by itself")),
        "{report}"
    );
    assert!(figures(&report, "resident set for a session")["figures"]["muster"].is_number(), "{report}");
}

#[test]
fn nats_server_is_compared_where_it_is_installed() {
    let load = Load::new();
    let arguments = "--peer nats --agents 50 --users 3 --window 1 --rounds 1 --turns 2 --messages 2000 --limit 170";
    if !has_nats_server() {
        eprintln!("skipped: nats-server is not installed");
        let said = run(&mut load.command(arguments));
        assert!(
            said.code == 64 && said.stderr.contains("no peer can run here: nats: there is no nats-server"),
            "{said:?}"
        );
        return;
    }
    let report = load.complete(arguments);
    for what in COMPARED {
        let line = figures(&report, what);
        let [ours, theirs] = ["muster", "nats"].map(|whom| line["figures"][whom].as_f64().expect("a figure"));
        let ratio = line["ratios"]["muster : nats"].as_f64().expect("a ratio");
        assert!(theirs > 0.0 && (ratio - ours / theirs).abs() < 1e-9, "{line}");
    }
    let part = figures(&report, "message to 1 % of agents, or to all sessions, last");
    assert!(part["ratios"]["muster-agents : nats"].is_number(), "{part}");
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_starts() {
    let load = Load::new();
    let refused = |arguments: &str, why: &str| {
        let said = run(load.command(arguments).env("PATH", "/nonexistent"));
        assert_eq!((said.code, said.stdout.as_str()), (64, ""), "{said:?}");
        assert!(said.stderr.contains(why) && !load.file().exists(), "{said:?}");
    };
    refused("--peer rabbitmq", "[possible values: muster, nats, activemq]");
    refused("churn --peer muster", "churn is Muster's own");
    refused("--peer muster --brokers 2 --agents 4", "ask for --brokers 1");
    refused("--peer muster --agents 4000000000", "4000000000 agents");
    refused("--peer activemq", "no peer can run here: activemq: there is no ");
}

/// The report of a run whose broker has died under it.
fn without_its_broker(load: &Load, arguments: &str) -> Value {
    let mut process = idling(load, arguments);
    kill(child(process.id(), "musterd"));
    assert_eq!(process.wait(LIMIT).code(), Some(1));
    let report = load.report();
    assert!(
        report["ended_early"].as_str().is_some_and(|why| why.starts_with("broker noc1 has ended by itself")),
        "{report}"
    );
    report
}

#[test]
fn a_comparison_in_which_a_broker_dies_reports_what_there_is() {
    let load = Load::new();
    let report = without_its_broker(&load, "idle --peer muster --agents 10 --users 1 --window 3600");
    assert_eq!(row(&report, "storm", "connected")["seen"], 10);
    assert!(figures(&report, "connect storm, last")["figures"]["muster"].is_number(), "{report}");
}

#[test]
fn more_than_the_machine_has_is_refused_before_anything_starts() {
    let load = Load::new();
    let refused = |arguments: &str| -> Said {
        let said = run(&mut load.command(arguments));
        assert_eq!((said.code, said.stdout.as_str()), (64, ""), "{said:?}");
        assert!(!load.file().exists());
        said
    };
    let said = refused("--agents 4000000000");
    assert!(said.stderr.contains("4000000000 agents") && said.stderr.contains("ask for --"), "{said:?}");
    let said = refused("--agents 100000 --per-address 100000");
    assert!(said.stderr.contains("ask for --per-address"), "{said:?}");
    let said = refused("--bin /nonexistent");
    assert!(said.stderr.contains("there is no musterd"), "{said:?}");
    refused("thunder");
}

const IDLE: &str = "idle --agents 10 --users 1 --window 3600";

/// A run that idles until somebody ends it.
fn idling(load: &Load, arguments: &str) -> Process {
    let process = Process::start("muster-load", &mut load.command(arguments));
    until_within("it idles", LIMIT, || process.output().contains("muster-load: idle").then_some(()));
    process
}

/// The process that a process has started by this name.
fn child(parent: u32, name: &str) -> u32 {
    find_child(parent, name).unwrap_or_else(|| panic!("{parent} has no child {name}"))
}

fn find_child(parent: u32, name: &str) -> Option<u32> {
    let is_it = |status: &str| {
        status.lines().next().is_some_and(|line| line.ends_with(&format!("\t{name}")))
            && status.contains(&format!("\nPPid:\t{parent}\n"))
    };
    let all =
        fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let status = |process: &u32| fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mut found = all.filter(|process: &u32| is_it(&status(process)));
    found.next()
}

/// Gone, or dead and not fetched by its parent yet.
fn is_gone(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.is_empty() || status.contains("\nState:\tZ")
}

fn kill(process: u32) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(process, Signal::KILL).expect("it can be killed");
}

#[test]
fn interrupted_it_reports_what_it_has_and_leaves_nobody_behind() {
    let load = Load::new();
    let mut process = idling(&load, IDLE);
    let broker = child(process.id(), "musterd");
    process.signal(Signal::INT);
    assert_eq!(process.wait(LIMIT).code(), Some(1));
    assert!(process.output().contains("ENDED EARLY: interrupted"), "{}", process.output());
    let report = load.report();
    assert_eq!(report["ended_early"], "interrupted");
    assert_eq!(row(&report, "storm", "registered")["seen"], 10);
    assert_eq!(row(&report, "idle", "3600 s")["missing"], "the window was not over");
    assert!(is_gone(broker));
}

#[test]
fn a_broker_that_dies_ends_the_run_with_what_there_is() {
    let load = Load::new();
    let report = without_its_broker(&load, IDLE);
    assert_eq!(row(&report, "storm", "registered")["seen"], 10);
}

#[test]
fn killed_without_a_word_it_leaves_nobody_behind() {
    let load = Load::new();
    let mut process = idling(&load, IDLE);
    let children = [child(process.id(), "musterd"), child(process.id(), "muster-load")];
    process.kill();
    until("its children are gone", || children.iter().all(|child| is_gone(*child)).then_some(()));
}
