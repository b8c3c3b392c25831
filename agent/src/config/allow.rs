//! Which programs may callers run through `exec`? The allow-list, and what it refuses to hold.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Section `[modules.exec]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecConfig {
    /// Off unless `true`.
    pub enabled: bool,
    /// What may run.
    pub allow: Vec<AllowedCommand>,
}

/// A program and the arguments that a call must begin with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "AllowedForm")]
pub struct AllowedCommand {
    /// Absolute path, as it will be run.
    pub program: PathBuf,
    /// Leading arguments that are fixed.
    pub fixed: Vec<String>,
    /// Whether the caller may add none of their own.
    pub exact: bool,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a list such as [\"/bin/program\", \"fixed argument\"], or { command = […], exact = true }"
)]
enum AllowedForm {
    Words(Vec<String>),
    Table(AllowedTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowedTable {
    command: Vec<String>,
    #[serde(default)]
    exact: bool,
}

/// Programs that run what their arguments say: free arguments to one of them would make the allow-list void.
const RUNS_ANYTHING: &[&str] = &[
    "ash",
    "awk",
    "bash",
    "busybox",
    "capsh",
    "chroot",
    "csh",
    "dash",
    "doas",
    "ed",
    "emacs",
    "env",
    "ex",
    "expect",
    "find",
    "fish",
    "flock",
    "gawk",
    "gdb",
    "git",
    "ionice",
    "ksh",
    "lua",
    "make",
    "mawk",
    "nice",
    "nohup",
    "nsenter",
    "parallel",
    "perl",
    "php",
    "pkexec",
    "python",
    "rbash",
    "rsync",
    "ruby",
    "runuser",
    "sed",
    "setpriv",
    "setsid",
    "sh",
    "socat",
    "ssh",
    "start-stop-daemon",
    "stdbuf",
    "strace",
    "su",
    "sudo",
    "systemd-run",
    "tar",
    "taskset",
    "tcsh",
    "time",
    "timeout",
    "unshare",
    "vi",
    "vim",
    "watch",
    "xargs",
    "zsh",
];

impl TryFrom<AllowedForm> for AllowedCommand {
    type Error = String;

    fn try_from(form: AllowedForm) -> Result<AllowedCommand, String> {
        let (words, exact) = match form {
            AllowedForm::Words(words) => (words, false),
            AllowedForm::Table(table) => (table.command, table.exact),
        };
        let mut words = words.into_iter();
        let program = words.next().ok_or("an entry of `allow` is empty; name a program by absolute path")?;
        let fixed: Vec<String> = words.collect();
        let plain = Path::new(&program).components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !program.starts_with('/') || program.ends_with('/') || !plain || program.contains('\0') {
            return Err(format!("`{program}` is not the absolute path of a program; write it as in `/usr/bin/uptime`"));
        }
        // python3.11 and perl5.36 are python and perl.
        let name = program.rsplit('/').next().unwrap_or_default();
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        if RUNS_ANYTHING.contains(&stem) && fixed.is_empty() && !exact {
            return Err(format!(
                "`{program}` runs whatever its arguments say; give the arguments that a call must begin with, or allow the one program that is meant"
            ));
        }
        Ok(AllowedCommand { program: PathBuf::from(program), fixed, exact })
    }
}
