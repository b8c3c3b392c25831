//! Which programs may callers run? Module `exec`: off unless configured, and then only what its allow-list names. No shell.

use super::{
    Answer, Arguments, Context, Failure, Module, Running, action, exit_code, input, manifest, required, shown, text,
};
use crate::config::{AllowedCommand, ExecConfig};
use crate::run::Program;
use muster_protocol::manifest::{Impact, InputKind, Manifest};
use muster_protocol::request::State;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Most arguments of a call.
const MOST_ARGUMENTS: usize = 256;

/// Module `exec`.
#[derive(Debug)]
pub(super) struct Exec {
    manifest: Manifest,
    config: ExecConfig,
}

impl Exec {
    pub(super) fn new(config: ExecConfig) -> Exec {
        let command = required(input(InputKind::Text, "program by absolute path, as the node's allow-list has it"));
        let mut args = input(InputKind::List, "arguments, each by itself; there is no shell");
        // What people hand to programs may hold secrets.
        args.sensitive = true;
        let run = action(Impact::Destructive, "Runs an allowed program.", vec![("command", command), ("args", args)]);
        Exec { manifest: manifest("exec", "Programs of the node's allow-list.", vec![("run", run)]), config }
    }

    async fn answer(&self, arguments: Arguments, mut context: Context) -> Answer {
        let denied = |code, text: &str| Err(Failure::of(State::Denied, code, text));
        if !self.config.enabled {
            return denied("exec-disabled", "the module `exec` is off on this node");
        }
        let command = text(&arguments, "command");
        let list = arguments.get("args").and_then(Value::as_array).into_iter().flatten();
        let args: Vec<&str> = list.filter_map(Value::as_str).collect();
        if args.len() > MOST_ARGUMENTS {
            return Err(Failure::new(
                "bad-argument",
                format!("argument `args` has more than {MOST_ARGUMENTS} elements"),
            ));
        }
        let Some(allowed) = self.config.allow.iter().find(|allowed| permits(allowed, command, &args)) else {
            return denied("not-allowed", "the node's allow-list does not have this command with these arguments");
        };
        let metadata = std::fs::metadata(&allowed.program)
            .map_err(|e| Failure::new("cannot-run", format!("{}: {e}", allowed.program.display())))?;
        if metadata.permissions().mode() & 0o002 != 0 {
            return denied("not-allowed", "everybody can write the program's file; run `chmod o-w` on it");
        }
        let output = Program::new(&allowed.program).arguments(args).run(context.limits, &mut context.stop).await?;
        match exit_code(&output)? {
            0 => Ok(shown(&output)),
            code => Err(Failure::new("exit-code", format!("the program ended with code {code}")).with(shown(&output))),
        }
    }
}

impl Module for Exec {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn is_on(&self) -> bool {
        self.config.enabled
    }

    fn run<'a>(&'a self, _: &'a str, arguments: Arguments, context: Context) -> Running<'a> {
        Box::pin(self.answer(arguments, context))
    }
}

/// The path letter by letter, and the fixed arguments first: `/usr/bin/../bin/x` is not `/usr/bin/x` here.
fn permits(allowed: &AllowedCommand, command: &str, args: &[&str]) -> bool {
    let begins =
        args.len() >= allowed.fixed.len() && allowed.fixed.iter().zip(args).all(|(fixed, given)| fixed == given);
    Path::new(command).as_os_str() == allowed.program.as_os_str()
        && begins
        && (!allowed.exact || args.len() == allowed.fixed.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allow_list_is_taken_by_the_letter() {
        let allowed = |fixed: &[&str], exact| AllowedCommand {
            program: "/usr/bin/systemctl".into(),
            fixed: fixed.iter().map(|s| (*s).to_owned()).collect(),
            exact,
        };
        assert!(permits(&allowed(&["status"], false), "/usr/bin/systemctl", &["status", "nginx"]));
        assert!(!permits(&allowed(&["status"], false), "/usr/bin/systemctl", &["stop", "nginx"]));
        assert!(!permits(&allowed(&["status"], false), "/usr/bin/systemctl", &[]));
        assert!(!permits(&allowed(&["status"], true), "/usr/bin/systemctl", &["status", "nginx"]));
        assert!(permits(&allowed(&["status"], true), "/usr/bin/systemctl", &["status"]));
        for other in [
            "systemctl",
            "/usr/bin/../bin/systemctl",
            "/usr/bin//systemctl",
            "/usr/bin/systemctl/",
            "/usr/bin/./systemctl",
        ] {
            assert!(!permits(&allowed(&[], false), other, &[]), "{other}");
        }
    }
}
