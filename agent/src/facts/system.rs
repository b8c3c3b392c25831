//! How is it run? Package manager, init system, time zone.

use super::{Members, line_of, members_of};
use serde_json::json;
use std::path::Path;

/// By the program that shows that it is there; the first that is found is the one.
const PACKAGE_MANAGERS: &[(&str, &str)] = &[
    ("apt", "/usr/bin/apt-get"),
    ("dnf", "/usr/bin/dnf"),
    ("yum", "/usr/bin/yum"),
    ("zypper", "/usr/bin/zypper"),
    ("pacman", "/usr/bin/pacman"),
    ("apk", "/sbin/apk"),
    ("emerge", "/usr/bin/emerge"),
    ("xbps", "/usr/bin/xbps-install"),
];

pub(super) fn collect() -> Result<Members, String> {
    let packages = PACKAGE_MANAGERS.iter().find(|(_, program)| Path::new(program).exists()).map(|(name, _)| *name);
    Ok(members_of(json!({
        "package_manager": packages,
        "init_system": init_system(),
        "timezone": timezone(),
    })))
}

/// `none` where the first process is a program of its own, as in most containers.
fn init_system() -> &'static str {
    if Path::new("/run/systemd/system").exists() {
        return "systemd";
    }
    if Path::new("/run/openrc").exists() {
        return "openrc";
    }
    match line_of("/proc/1/comm").as_deref() {
        Some("runit") => "runit",
        Some("s6-svscan") => "s6",
        Some("init") if Path::new("/etc/inittab").exists() => "sysvinit",
        _ => "none",
    }
}

fn timezone() -> String {
    let linked = std::fs::read_link("/etc/localtime").ok().map(|target| target.to_string_lossy().into_owned());
    let named = linked.as_deref().and_then(|target| target.split_once("zoneinfo/")).map(|(_, name)| name.to_owned());
    named.or_else(|| line_of("/etc/timezone")).unwrap_or_else(|| "UTC".into())
}
