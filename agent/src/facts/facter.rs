//! What does facter say, when it is there? Its facts without those that never stand still.

use super::{Members, members_of};
use crate::run::{Ended, Limits, Program, stopper};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// Facter with many custom facts takes its time.
const LIMITS: Limits = Limits { time: Duration::from_secs(60), output: 4 * 1024 * 1024 };

/// Names, at any depth, of what changes all the time.
const VOLATILE: &[&str] = &[
    "available",
    "available_bytes",
    "used",
    "used_bytes",
    "capacity",
    "load_averages",
    "system_uptime",
    "uptime",
    "uptime_days",
    "uptime_hours",
    "uptime_seconds",
    "memoryfree",
    "memoryfree_mb",
    "swapfree",
    "swapfree_mb",
    "sshfp_generated_at",
];

pub(super) async fn collect(search_path: &OsStr, failed: &mut BTreeMap<String, String>) -> Members {
    let Some(program) = find(search_path) else { return Members::new() };
    let program = Program::new(program).arguments(["--json"]).search_path(search_path);
    let output = match program.run(LIMITS, &mut stopper().1).await {
        Ok(output) => output,
        Err(error) => {
            failed.insert("facter".into(), error.to_string());
            return Members::new();
        }
    };
    let parsed = serde_json::from_slice::<Value>(&output.stdout.bytes);
    let (facts, complaint) = match (output.ended, parsed) {
        (Ended::TimedOut | Ended::Stopped, _) => (None, Some(format!("took longer than {} s", LIMITS.time.as_secs()))),
        (Ended::Signalled(signal), _) => (None, Some(format!("ended by signal {signal}"))),
        (_, _) if output.stdout.truncated => (None, Some(format!("printed more than {} bytes", LIMITS.output))),
        (Ended::Exited(0), Ok(facts @ Value::Object(_))) => (Some(facts), None),
        // One fact that it could not find out makes facter end with 1; the others are good.
        (Ended::Exited(code), Ok(facts @ Value::Object(_))) => {
            (Some(facts), Some(format!("ended with code {code}; what it printed is taken")))
        }
        (Ended::Exited(0), Ok(_)) => (None, Some("printed JSON that is no object".to_owned())),
        (Ended::Exited(0), Err(error)) => (None, Some(format!("printed no JSON: {error}"))),
        (Ended::Exited(code), _) => (None, Some(format!("ended with code {code} and printed no facts"))),
    };
    if let Some(text) = complaint {
        failed.insert("facter".into(), text);
    }
    facts.map_or_else(Members::new, |mut facts| {
        drop_volatile(&mut facts);
        members_of(facts)
    })
}

fn find(search_path: &OsStr) -> Option<PathBuf> {
    // Relative entries would make the result depend on where the agent was started.
    let folders = std::env::split_paths(search_path).filter(|folder| folder.is_absolute());
    folders
        .map(|folder| folder.join("facter"))
        .find(|file| std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

fn drop_volatile(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !VOLATILE.contains(&name.as_str()));
            members.values_mut().for_each(drop_volatile);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_volatile),
        _ => {}
    }
}
