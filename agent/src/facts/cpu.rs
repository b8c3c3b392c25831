//! Which processors are there, and how many?

use super::{Members, members_of, read};
use serde_json::json;
use std::collections::BTreeSet;

pub(super) fn collect() -> Result<Members, String> {
    Ok(describe(&read("/proc/cpuinfo")?))
}

fn describe(cpuinfo: &str) -> Members {
    let field = |block: &str, name: &str| {
        let mut pairs = block.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let blocks: Vec<&str> = cpuinfo.split("\n\n").filter(|block| field(block, "processor").is_some()).collect();
    let sockets: BTreeSet<String> = blocks.iter().filter_map(|block| field(block, "physical id")).collect();
    let cores: BTreeSet<(Option<String>, String)> =
        blocks.iter().filter_map(|block| Some((field(block, "physical id"), field(block, "core id")?))).collect();
    let model = blocks.first().and_then(|block| field(block, "model name").or_else(|| field(block, "cpu model")));
    members_of(json!({ "cpu": {
        "count": blocks.len().max(1),
        "cores": if cores.is_empty() { blocks.len().max(1) } else { cores.len() },
        "sockets": sockets.len().max(1),
        "model": model,
    } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_cores_and_sockets_are_told_apart() {
        let text: String = (0..4)
            .map(|n| format!("processor\t: {n}\nmodel name\t: Xeon\nphysical id\t: 0\ncore id\t\t: {}\n\n", n / 2))
            .collect();
        assert_eq!(describe(&text)["cpu"], json!({"count": 4, "cores": 2, "sockets": 1, "model": "Xeon"}));
    }
}
