//! Which kernel runs, and since when?

use super::{Members, members_of, read};
use serde_json::json;

pub(super) fn collect() -> Result<Members, String> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let version = release.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default().to_owned();
    let major = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let boot: i64 = read("/proc/stat")?
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse().ok())
        .ok_or("/proc/stat: has no btime")?;
    let now = jiff::Timestamp::now().as_second();
    Ok(members_of(json!({
        "kernel": { "name": name.sysname().to_string_lossy(), "release": release, "version": version, "major": major },
        // The kernel computes btime from two clocks, so it wavers by a second: to the minute it stands still.
        "boot_time": boot - boot.rem_euclid(60),
        "uptime": { "days": (now - boot).max(0) / 86_400 },
    })))
}
