//! How many instructions does a path need? Callgrind runs it in a process of its own and counts inside one function.

use anyhow::{Context, Result, bail};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the function that is counted is called by callgrind, whatever the compiler puts around its name.
const COUNTED: &str = "*counted_by_callgrind*";

/// Work of a path that is counted, once in a process; without callgrind it is only done.
pub(crate) fn counted(mut work: impl FnMut()) {
    counted_by_callgrind(&mut work);
}

#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
    // The count ends when this function returns, so it must not have jumped into the work.
    black_box(());
}

/// Runs `program ARGUMENTS…` under callgrind, which says on stdout how often it did its work: instructions for each time.
pub(crate) fn count(program: &Path, arguments: &[&str], folder: &Path) -> Result<u64> {
    let name = arguments.join(" ");
    let file = folder.join("callgrind.out");
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(&file);
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", &format!("--toggle-collect={COUNTED}")])
        .arg(out)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("valgrind does not start; install it, on Debian: apt-get install valgrind")?;
    if !ran.status.success() {
        bail!("{name}: {} under valgrind\n{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    }
    let said = String::from_utf8_lossy(&ran.stdout);
    let times: u64 = said.trim().parse().with_context(|| format!("{name} said {said:?}, not how often it did it"))?;
    let profile = fs::read_to_string(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let total = total(&profile).with_context(|| format!("{name}: callgrind's output has no line `totals: NUMBER`"))?;
    if total == 0 || times == 0 {
        bail!("{name}: {total} instructions in {times} times; was {COUNTED} not found?");
    }
    Ok(total.div_ceil(times))
}

/// What callgrind calls itself, such as `valgrind-3.19.0`.
pub(crate) fn version() -> Result<String> {
    first_line("valgrind")
}

/// The compiler, such as `rustc 1.95.0 (59807616e 2026-04-14)`.
pub(crate) fn compiler() -> Result<String> {
    first_line("rustc")
}

fn first_line(program: &str) -> Result<String> {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let said = said.with_context(|| format!("{program} --version does not start; is it on the PATH?"))?;
    if !said.status.success() {
        bail!("{program} --version: {}", said.status);
    }
    Ok(String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// Instructions in a profile with one event.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals:")).and_then(|rest| rest.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile_is_found() {
        let profile = "version: 1\nevents: Ir\n\nfn=(1) work\n0 12\n\ntotals: 4711\n";
        assert_eq!(total(profile), Some(4711));
        assert_eq!(total("events: Ir Dr\ntotals: 1 2\n"), None, "more than one event");
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn work_is_done_without_callgrind_too() {
        let mut times = 0;
        counted(|| times += 1);
        assert_eq!(times, 1);
    }
}
