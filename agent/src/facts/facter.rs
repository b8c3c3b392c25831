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
    "available", "available_bytes", "used", "used_bytes", "capacity", "load_averages", "system_uptime", "uptime", "uptime_days",
    "uptime_hours", "uptime_seconds", "memoryfree", "memoryfree_mb", "swapfree", "swapfree_mb", "sshfp_generated_at",
];

pub(super) async fn collect(search_path: &OsStr, failed: &mut BTreeMap<String, String>) -> Members {
    let Some(program) = find(search_path) else { return Members::new() };
    let program = Program::new(program).arguments(["--json"]).search_path(search_path);
    let result = match program.run(LIMITS, &mut stopper().1).await {
        Err(error) => Err(error.to_string()),
        Ok(output) => match output.ended {
            Ended::Exited(0) if output.stdout.truncated => Err(format!("printed more than {} bytes", LIMITS.output)),
            // Its `kernel` is a text and ours an object; a fact can only be one of them, and ours is laid over.
            Ended::Exited(0) => serde_json::from_slice::<Value>(&output.stdout.bytes).map_err(|e| format!("printed no JSON: {e}")),
            Ended::Exited(code) => Err(format!("ended with code {code}")),
            Ended::Signalled(signal) => Err(format!("ended by signal {signal}")),
            Ended::TimedOut | Ended::Stopped => Err(format!("took longer than {} s", LIMITS.time.as_secs())),
        },
    };
    match result {
        Ok(mut facts @ Value::Object(_)) => {
            drop_volatile(&mut facts);
            members_of(facts)
        }
        Ok(_) => {
            failed.insert("facter".into(), "printed JSON that is no object".into());
            Members::new()
        }
        Err(text) => {
            failed.insert("facter".into(), text);
            Members::new()
        }
    }
}

fn find(search_path: &OsStr) -> Option<PathBuf> {
    // Relative entries would make the result depend on where the agent was started.
    let folders = std::env::split_paths(search_path).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join("facter")).find(|file| {
        std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
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
