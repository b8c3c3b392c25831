//! Which disks and local file systems are there, and roughly how full are they?

use super::{Members, line_of, members_of, read};
use serde_json::{Value, json};

/// File systems on storage of this machine. Others may hang (network) or say nothing (proc and its like).
const LOCAL: &[&str] =
    &["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "vfat", "exfat", "overlay"];

/// Beyond these, a container host would publish its churn.
const MOST: usize = 64;

pub(super) fn collect() -> Result<Members, String> {
    let mut mountpoints = Members::new();
    for (device, point, kind) in mounts(&read("/proc/self/mounts")?).into_iter().take(MOST) {
        let Ok(space) = rustix::fs::statvfs(&point) else { continue };
        let size = space.f_blocks.saturating_mul(space.f_frsize);
        if size == 0 {
            continue;
        }
        let used = space.f_blocks.saturating_sub(space.f_bfree);
        // As df counts: of what ordinary users could have; in steps of five percent, so that it seldom changes.
        let percent = used.saturating_mul(20) / used.saturating_add(space.f_bavail).max(1) * 5;
        mountpoints.insert(
            point,
            json!({ "device": device, "filesystem": kind, "size_bytes": size, "used_percent": percent }),
        );
    }
    let mut facts = members_of(json!({ "disks": disks() }));
    facts.insert("mountpoints".into(), Value::Object(mountpoints));
    Ok(facts)
}

fn mounts(text: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ').map(unescaped);
        let (Some(device), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let of_container = point.starts_with("/var/lib/docker/")
            || point.starts_with("/var/lib/containers/")
            || point.starts_with("/run/");
        // The same device again is a bind mount, except for overlays, which have no device.
        let again = kind != "overlay" && found.iter().any(|(known, _, _)| *known == device);
        if LOCAL.contains(&kind.as_str()) && !of_container && !again {
            found.push((device, point, kind));
        }
    }
    found
}

/// Mount tables write blanks and backslashes as three octal digits.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

fn disks() -> Members {
    let mut disks = Members::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten().take(MOST) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["loop", "ram", "zram", "dm-", "sr", "fd", "nbd"].iter().any(|virtual_one| name.starts_with(virtual_one)) {
            continue;
        }
        // In sectors of 512 bytes, whatever the disk's own sectors are.
        let size =
            line_of(entry.path().join("size")).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0).saturating_mul(512);
        let rotates = line_of(entry.path().join("queue/rotational"));
        let kind = match rotates.as_deref() {
            Some("0") => "ssd",
            Some(_) => "hdd",
            None => "unknown",
        };
        disks.insert(
            name,
            json!({ "size_bytes": size, "type": kind, "model": line_of(entry.path().join("device/model")) }),
        );
    }
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_bind_mounts_and_containers_are_left_out() {
        let found = mounts(
            "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\nnas:/x /mnt nfs rw 0 0\n/dev/sda1 /srv/bind ext4 rw 0 0\n\
             overlay /var/lib/docker/overlay2/x overlay rw 0 0\n/dev/sdb1 /srv/two\\040words xfs rw 0 0\n",
        );
        let points: Vec<&str> = found.iter().map(|(_, point, _)| point.as_str()).collect();
        assert_eq!(points, ["/", "/srv/two words"]);
    }
}
