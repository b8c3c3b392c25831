//! How does a test act as an operator on a terminal? The real `muster` with its settings in a file and no password in sight.

use crate::agent::write_private;
use crate::process::{Said, binary, run};
use crate::{Broker, policy};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// An operator's settings.
#[derive(Debug)]
pub struct Muster {
    folder: TempDir,
}

impl Muster {
    /// Of a user of the test policy.
    pub fn new(broker: &Broker, user: &str) -> Muster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        write_private(&root.join("password"), policy::PASSWORD);
        fs::copy(broker.ca(), root.join("ca.pem")).expect("the CA");
        let address = broker.address();
        let text =
            format!("brokers = [\"{address}\"]\nuser = \"{user}\"\nca = \"ca.pem\"\npassword-file = \"password\"\n");
        write_private(&root.join("muster.toml"), &text);
        Muster { folder }
    }

    /// Its folder: muster.toml, password, ca.pem.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `muster` with these arguments, to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("muster"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
            command.env_remove(name);
        }
        command.env_remove("XDG_STATE_HOME");
        command.env("HOME", self.folder()).env("MUSTER_CONFIG", self.folder().join("muster.toml")).args(arguments);
        command
    }

    /// Runs `muster` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Said {
        run(&mut self.command(arguments))
    }

    /// Runs it, asserts the exit code, and reads the JSON document that it prints.
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let said = self.run(arguments);
        assert_eq!(said.code, code, "{arguments:?}: {said:?}");
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{arguments:?}: no JSON ({e}): {said:?}"))
    }
}
