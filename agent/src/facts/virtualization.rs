//! Is it a real machine, a virtual one, or a container?

use super::{Members, line_of, members_of};
use serde_json::json;
use std::path::Path;

pub(super) fn collect() -> Result<Members, String> {
    let container = container();
    let hypervisor = hypervisor();
    Ok(members_of(json!({ "virtualization": {
        "type": container.as_deref().or(hypervisor.as_deref()).unwrap_or("physical"),
        "is_virtual": container.is_some() || hypervisor.is_some(),
        "container": container,
        "hypervisor": hypervisor,
    } })))
}

fn container() -> Option<String> {
    if let Some(name) = line_of("/run/systemd/container") {
        return Some(name);
    }
    if Path::new("/run/.containerenv").exists() {
        return Some("podman".into());
    }
    if Path::new("/.dockerenv").exists() {
        return Some("docker".into());
    }
    let environment = std::fs::read("/proc/1/environ").unwrap_or_default();
    let variable = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"container="));
    if let Some(name) = variable.filter(|name| !name.is_empty()) {
        return Some(String::from_utf8_lossy(name).into_owned());
    }
    let groups = std::fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    ["docker", "kubepods", "lxc", "libpod"].iter().find(|name| groups.contains(*name)).map(|name| (*name).to_owned())
}

fn hypervisor() -> Option<String> {
    if let Some(kind) = line_of("/sys/hypervisor/type") {
        return Some(kind);
    }
    let dmi = |name: &str| line_of(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
    let product = format!("{} {} {}", dmi("sys_vendor"), dmi("product_name"), dmi("bios_vendor"));
    let known = [
        ("VMware", "vmware"),
        ("VirtualBox", "virtualbox"),
        ("innotek", "virtualbox"),
        ("Microsoft Corporation Virtual Machine", "hyperv"),
        ("Xen", "xen"),
        ("KVM", "kvm"),
        ("QEMU", "kvm"),
        ("Amazon EC2", "kvm"),
        ("Google Compute Engine", "kvm"),
        ("OpenStack", "kvm"),
        ("Bochs", "kvm"),
        ("Parallels", "parallels"),
    ];
    if let Some((_, kind)) = known.iter().find(|(mark, _)| product.contains(mark)) {
        return Some((*kind).to_owned());
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flagged = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split(' ').any(|flag| flag == "hypervisor"));
    // The processor says that there is a hypervisor, not which.
    flagged.then(|| "unknown".to_owned())
}
