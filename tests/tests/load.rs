//! Does `muster-load` give a true account? Small crowds of each scenario, what it refuses, and how it ends. No time is asserted.

use muster_tests::process::{Process, Said, binary, run};
use muster_tests::{until, until_within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
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

/// A run that idles until somebody ends it.
fn idling(load: &Load) -> Process {
    let process = Process::start("muster-load", &mut load.command("idle --agents 10 --users 1 --window 3600"));
    until_within("it idles", LIMIT, || process.output().contains("muster-load: idle").then_some(()));
    process
}

/// The process that a process has started by this name.
fn child(parent: u32, name: &str) -> u32 {
    let is_it = |status: &str| {
        status.lines().next().is_some_and(|line| line.ends_with(&format!("\t{name}")))
            && status.contains(&format!("\nPPid:\t{parent}\n"))
    };
    let all =
        fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let status = |process: &u32| fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mut found = all.filter(|process: &u32| is_it(&status(process)));
    found.next().unwrap_or_else(|| panic!("{parent} has no child {name}"))
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
    let mut process = idling(&load);
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
    let mut process = idling(&load);
    kill(child(process.id(), "musterd"));
    assert_eq!(process.wait(LIMIT).code(), Some(1));
    let report = load.report();
    assert!(
        report["ended_early"].as_str().is_some_and(|why| why.starts_with("broker noc1 has ended by itself")),
        "{report}"
    );
    assert_eq!(row(&report, "storm", "registered")["seen"], 10);
}

#[test]
fn killed_without_a_word_it_leaves_nobody_behind() {
    let load = Load::new();
    let mut process = idling(&load);
    let children = [child(process.id(), "musterd"), child(process.id(), "muster-load")];
    process.kill();
    until("its children are gone", || children.iter().all(|child| is_gone(*child)).then_some(()));
}
