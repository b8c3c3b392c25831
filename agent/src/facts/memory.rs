//! How much memory is there, and roughly how much is free?

use super::{Members, members_of, read};
use serde_json::json;

pub(super) fn collect() -> Result<Members, String> {
    describe(&read("/proc/meminfo")?)
}

fn describe(meminfo: &str) -> Result<Members, String> {
    let bytes = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    };
    let total = bytes("MemTotal").ok_or("/proc/meminfo: has no MemTotal")?;
    // In steps of ten percent: an exact figure would be another fact every time.
    let available = bytes("MemAvailable").map(|free| free.saturating_mul(10) / total.max(1) * 10);
    Ok(members_of(json!({
        "memory": { "total_bytes": total, "total_mib": total >> 20, "available_percent": available },
        "swap": { "total_bytes": bytes("SwapTotal").unwrap_or(0) },
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_coarse() {
        let facts = describe("MemTotal:  1000 kB\nMemAvailable:  779 kB\nSwapTotal: 0 kB\n").expect("facts");
        assert_eq!(facts["memory"], json!({"total_bytes": 1_024_000, "total_mib": 0, "available_percent": 70}));
        assert!(describe("").is_err());
    }
}
