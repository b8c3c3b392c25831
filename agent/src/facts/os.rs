//! Which operating system is it? From /etc/os-release, with the family names that facter uses.

use super::{Members, line_of, members_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) fn collect() -> Result<Members, String> {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .map_err(|e| format!("/etc/os-release: {e}"))?;
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    Ok(describe(&text, line_of("/etc/debian_version"), &machine))
}

fn describe(os_release: &str, debian_version: Option<String>, machine: &str) -> Members {
    let fields = parse(os_release);
    let field = |name: &str| fields.get(name).cloned();
    let id = field("ID").unwrap_or_else(|| "linux".into());
    let family = family(&id, fields.get("ID_LIKE").map_or("", String::as_str));
    let full = debian_version
        .filter(|v| id == "debian" && v.starts_with(|c: char| c.is_ascii_digit()))
        .or_else(|| field("VERSION_ID"));
    let mut release = Members::new();
    if let Some(full) = full {
        let mut parts = full.splitn(3, '.').map(str::to_owned);
        release.insert("major".into(), parts.next().into());
        release.insert("minor".into(), parts.next().into());
        release.insert("full".into(), full.into());
    }
    let architecture = match (family.as_str(), machine) {
        ("Debian", "x86_64") => "amd64",
        ("Debian", "aarch64") => "arm64",
        _ => machine,
    };
    members_of(json!({ "os": {
        "id": id,
        "name": name(&id, field("NAME")),
        "family": family,
        "release": release,
        "codename": field("VERSION_CODENAME"),
        "description": field("PRETTY_NAME"),
        "hardware": machine,
        "architecture": architecture,
    } }))
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).replace("\\\"", "\""))).collect()
}

fn family(id: &str, like: &str) -> String {
    for word in std::iter::once(id).chain(like.split_whitespace()) {
        let family = match word {
            "debian" | "ubuntu" => "Debian",
            "rhel" | "fedora" | "centos" | "rocky" | "almalinux" | "ol" | "amzn" => "RedHat",
            "suse" | "sles" | "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" => "Suse",
            "arch" => "Archlinux",
            "alpine" => "Alpine",
            "gentoo" => "Gentoo",
            _ => continue,
        };
        return family.to_owned();
    }
    "Linux".to_owned()
}

/// One word, as facter says it: `Debian`, `Ubuntu`, `RedHat`.
fn name(id: &str, full: Option<String>) -> Value {
    let known = match id {
        "debian" => "Debian",
        "ubuntu" => "Ubuntu",
        "rhel" => "RedHat",
        "centos" => "CentOS",
        "fedora" => "Fedora",
        "rocky" => "Rocky",
        "almalinux" => "AlmaLinux",
        "ol" => "OracleLinux",
        "amzn" => "Amazon",
        "sles" => "SLES",
        "alpine" => "Alpine",
        "arch" => "Archlinux",
        _ => return full.into(),
    };
    known.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_releases_are_as_facter_says() {
        let debian = describe(
            "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n",
            Some("12.5".into()),
            "x86_64",
        );
        let os = &debian["os"];
        assert_eq!(
            (&os["family"], &os["name"], &os["codename"]),
            (&json!("Debian"), &json!("Debian"), &json!("bookworm"))
        );
        assert_eq!(os["release"], json!({"full": "12.5", "major": "12", "minor": "5"}));
        assert_eq!((&os["architecture"], &os["hardware"]), (&json!("amd64"), &json!("x86_64")));
        let rocky = describe("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\n", None, "x86_64");
        assert_eq!((&rocky["os"]["family"], &rocky["os"]["architecture"]), (&json!("RedHat"), &json!("x86_64")));
        assert_eq!(describe("ID=mine\nID_LIKE=debian\nNAME=Mine", Some("12.5".into()), "x86_64")["os"]["name"], "Mine");
        assert_eq!(describe("", None, "x86_64")["os"]["family"], "Linux");
    }
}
