//! Do services run, and shall they? Module `service`: systemd where it runs, init scripts elsewhere, and processes where there are neither.

use super::{
    Answer, Arguments, Context, Failure, Module, Running, action, exit_code, input, manifest, required, shown, text,
};
use crate::run::Program;
use muster_protocol::manifest::{Action, Impact, InputKind, Manifest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Module `service`.
#[derive(Debug)]
pub(super) struct Service {
    manifest: Manifest,
    /// Where the system is looked at; tests have another.
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Systemd,
    Sysv,
    Process,
}

impl Service {
    pub(super) fn new() -> Service {
        Service::below("/")
    }

    fn below(root: impl Into<PathBuf>) -> Service {
        let of = |impact, description| -> Action {
            let mut name = required(input(InputKind::Text, "name of the service"));
            name.max_length = 128;
            action(impact, description, vec![("name", name)])
        };
        let manifest = manifest(
            "service",
            "Services of the node.",
            vec![
                ("status", of(Impact::Read, "Whether it runs, and whether it starts at boot.")),
                ("start", of(Impact::Change, "Starts it.")),
                ("stop", of(Impact::Destructive, "Stops it.")),
                ("restart", of(Impact::Destructive, "Stops and starts it.")),
                ("enable", of(Impact::Change, "Starts it at boot from now on.")),
                ("disable", of(Impact::Change, "No longer starts it at boot.")),
            ],
        );
        Service { manifest, root: root.into() }
    }

    async fn answer(&self, action: &str, arguments: Arguments, mut context: Context) -> Answer {
        let name = text(&arguments, "name");
        if !is_name(name) {
            return Err(Failure::new(
                "bad-argument",
                "argument `name` must be letters, digits and @ . _ : - and not begin with - or .",
            ));
        }
        let manager = self.manager(name);
        if action != "status" {
            let program = self.program(manager, action, name)?;
            let output = program.keeps_background().run(context.limits, &mut context.stop).await?;
            let code = exit_code(&output)?;
            if code != 0 {
                let text = format!("{action} of `{name}` ended with code {code}: {}", last_line(&output.stderr.text()));
                return Err(Failure::new("service-failed", text).with(shown(&output)));
            }
        }
        self.status(manager, name, &mut context).await
    }

    fn manager(&self, name: &str) -> Manager {
        if self.root.join("run/systemd/system").exists() {
            Manager::Systemd
        } else if self.script(name).is_file() {
            Manager::Sysv
        } else {
            Manager::Process
        }
    }

    fn script(&self, name: &str) -> PathBuf {
        self.root.join("etc/init.d").join(name)
    }

    fn program(&self, manager: Manager, action: &str, name: &str) -> Result<Program, Failure> {
        match (manager, action) {
            (Manager::Systemd, _) => {
                Ok(Program::new("/usr/bin/systemctl").arguments(["--no-ask-password", action, "--", name]))
            }
            (Manager::Sysv, "start" | "stop" | "restart") => Ok(Program::new(self.script(name)).arguments([action])),
            (Manager::Sysv, _) => {
                let update = Path::new("/usr/sbin/update-rc.d");
                if update.exists() {
                    Ok(Program::new(update).arguments([name, action]))
                } else {
                    Err(Failure::new("unsupported", "this node has neither systemd nor update-rc.d"))
                }
            }
            (Manager::Process, _) => {
                Err(Failure::new("no-such-service", format!("this node has no systemd, and no init script `{name}`")))
            }
        }
    }

    async fn status(&self, manager: Manager, name: &str, context: &mut Context) -> Answer {
        match manager {
            Manager::Systemd => {
                let program = Program::new("/usr/bin/systemctl").arguments([
                    "show",
                    "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID",
                    "--",
                    name,
                ]);
                let output = program.run(context.limits, &mut context.stop).await?;
                exit_code(&output)?;
                Ok(of_systemd(name, &output.stdout.text()))
            }
            Manager::Sysv => {
                let output = Program::new(self.script(name))
                    .arguments(["status"])
                    .run(context.limits, &mut context.stop)
                    .await?;
                // LSB: 0 runs, 3 does not; scripts without `status` say anything else.
                let state = match exit_code(&output)? {
                    0 => "running",
                    3 => "stopped",
                    _ if !pids(name).is_empty() => "running",
                    _ => "unknown",
                };
                Ok(json!({ "name": name, "state": state, "enabled": self.starts_at_boot(name), "manager": "sysv" }))
            }
            Manager::Process => {
                let pids = pids(name);
                let state = if pids.is_empty() { "stopped" } else { "running" };
                Ok(json!({ "name": name, "state": state, "enabled": null, "manager": "process", "pids": pids }))
            }
        }
    }

    fn starts_at_boot(&self, name: &str) -> bool {
        (2..=5).any(|level| {
            let links = std::fs::read_dir(self.root.join(format!("etc/rc{level}.d"))).into_iter().flatten().flatten();
            links.map(|link| link.file_name().to_string_lossy().into_owned()).any(|link| {
                link.strip_prefix('S').is_some_and(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()) == name)
            })
        })
    }
}

impl Module for Service {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn run<'a>(&'a self, action: &'a str, arguments: Arguments, context: Context) -> Running<'a> {
        Box::pin(self.answer(action, arguments, context))
    }
}

/// No option (`-`), no path (`/`, a leading dot), no pattern.
fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'@' | b'.' | b'_' | b':' | b'-');
    !name.is_empty() && !name.starts_with(['-', '.']) && name.bytes().all(fine)
}

fn of_systemd(name: &str, text: &str) -> Value {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let state = match (field("LoadState"), field("ActiveState")) {
        ("not-found", "inactive") => "not-found",
        (_, "active" | "reloading") => "running",
        (_, "activating") => "starting",
        (_, "deactivating") => "stopping",
        (_, "inactive") => "stopped",
        (_, "failed") => "failed",
        _ => "unknown",
    };
    let enabled = match field("UnitFileState") {
        "enabled" | "enabled-runtime" => Value::Bool(true),
        "disabled" | "masked" => Value::Bool(false),
        _ => Value::Null,
    };
    let pid = field("MainPID").parse::<u32>().ok().filter(|pid| *pid > 0);
    json!({ "name": name, "state": state, "enabled": enabled, "manager": "systemd", "substate": field("SubState"), "pid": pid })
}

/// Processes whose program or own name is this; zombies do not count.
fn pids(name: &str) -> Vec<u32> {
    super::process::all()
        .into_iter()
        .filter(|process| process.state != 'Z' && (process.name == name || process.program.as_deref() == Some(name)))
        .map(|process| process.pid)
        .collect()
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::{context, object};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_cannot_be_options_paths_or_patterns() {
        for fine in ["nginx", "getty@tty1.service", "php8.2-fpm", "a_b:c"] {
            assert!(is_name(fine), "{fine}");
        }
        for wrong in ["", "-H", "--root=/", "../x", "a/b", "a b", "a*", "a\n", "ä", ".x"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn what_systemd_says_is_read() {
        let told = of_systemd(
            "ssh",
            "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=7\n",
        );
        assert_eq!((&told["state"], &told["enabled"], &told["pid"]), (&json!("running"), &json!(true), &json!(7)));
        assert_eq!(of_systemd("x", "LoadState=not-found\nActiveState=inactive\n")["state"], "not-found");
    }

    #[tokio::test]
    async fn without_systemd_init_scripts_serve_and_processes_tell_the_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("etc/init.d")).expect("made");
        std::fs::create_dir_all(dir.path().join("etc/rc3.d")).expect("made");
        std::fs::write(dir.path().join("etc/rc3.d/S01mine"), "").expect("written");
        let script = dir.path().join("etc/init.d/mine");
        let flag = dir.path().join("flag");
        let text = format!(
            "#!/bin/sh\ncase $1 in start) touch {0};; stop) rm {0};; status) [ -e {0} ] || exit 3;; *) echo no >&2; exit 2;; esac\n",
            flag.display()
        );
        std::fs::write(&script, text).expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let service = Service::below(dir.path());
        let run = async |action: &'static str, name: &str| {
            service.answer(action, object(json!({ "name": name })), context()).await
        };
        assert_eq!(
            run("status", "mine").await,
            Ok(json!({"name": "mine", "state": "stopped", "enabled": true, "manager": "sysv"}))
        );
        assert_eq!(run("start", "mine").await.expect("started")["state"], "running");
        assert_eq!(run("stop", "mine").await.expect("stopped")["state"], "stopped");
        assert_eq!(run("restart", "mine").await.expect_err("not in the script").code, "service-failed");
        assert_eq!(run("start", "other").await.expect_err("not there").code, "no-such-service");
        assert_eq!(run("status", "other-not-there").await.expect("told")["state"], "stopped");
        assert_eq!(run("stop", "--root=x").await.expect_err("an option").code, "bad-argument");
        let own = std::fs::read_to_string("/proc/self/comm").expect("a name");
        let told = run("status", own.trim()).await.expect("told");
        assert_eq!((&told["state"], &told["manager"]), (&json!("running"), &json!("process")));
    }
}
