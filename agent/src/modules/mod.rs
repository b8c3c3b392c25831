//! What can this node do? Its modules, one a file, and what an action gets and gives.

mod exec;
mod node;
mod process;
mod service;

use crate::config::Config;
use crate::facts::Snapshot;
use crate::run::{Ended, Limits, Output, RunError, Stop};
use muster_protocol::manifest::{Action, Impact, Input, InputKind, Manifest};
use muster_protocol::message::{NodeId, NodeKey};
use muster_protocol::request::State;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

/// Arguments that the manifest has checked.
pub type Arguments = Map<String, Value>;

/// What an action answers.
pub type Answer = Result<Value, Failure>;

/// An action under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// A module: its description, and how its actions run.
pub trait Module: Send + Sync {
    /// Its description.
    fn manifest(&self) -> &Manifest;

    /// Whether it is announced; one that is off answers `denied`.
    fn is_on(&self) -> bool {
        true
    }

    /// Runs an action that the manifest has.
    fn run<'a>(&'a self, action: &'a str, arguments: Arguments, context: Context) -> Running<'a>;
}

/// What an action may use.
#[derive(Debug, Clone)]
pub struct Context {
    /// Bounds on programs that it starts.
    pub limits: Limits,
    /// Told when the action shall end.
    pub stop: Stop,
    /// The node's facts.
    pub snapshot: Arc<Snapshot>,
}

/// Why an action did not succeed: a state, a code of its own, a text, and what it has to show.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The terminal state.
    pub state: State,
    /// Stable, lowercase with hyphens.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// Output so far, or null.
    pub data: Value,
}

impl Failure {
    /// `failed`, with a code and a text.
    pub fn new(code: &'static str, text: impl Into<String>) -> Failure {
        Failure::of(State::Failed, code, text)
    }

    /// Another state.
    pub fn of(state: State, code: &'static str, text: impl Into<String>) -> Failure {
        Failure { state, code, text: text.into(), data: Value::Null }
    }

    /// The same with data.
    pub fn with(mut self, data: Value) -> Failure {
        self.data = data;
        self
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        Failure::new("cannot-run", error.to_string())
    }
}

/// All modules by name.
pub struct Modules(BTreeMap<String, Arc<dyn Module>>);

impl Modules {
    /// Those that are built in.
    pub fn new(config: &Config, node: NodeId) -> Modules {
        let mut modules = Modules(BTreeMap::new());
        modules.add(Arc::new(service::Service::new()));
        modules.add(Arc::new(process::Process::new()));
        modules.add(Arc::new(exec::Exec::new(config.modules.exec.clone())));
        let mut actions: BTreeMap<String, Vec<String>> = modules
            .on()
            .map(|module| (module.manifest().name.clone(), module.manifest().actions.keys().cloned().collect()))
            .collect();
        let own = node::Node::new(node, BTreeMap::new());
        actions.insert("node".into(), own.manifest().actions.keys().cloned().collect());
        modules.add(Arc::new(node::Node::new(node, actions)));
        modules
    }

    /// Adds one, in place of one of the same name.
    pub fn add(&mut self, module: Arc<dyn Module>) {
        self.0.insert(module.manifest().name.clone(), module);
    }

    /// The module of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Module>> {
        self.0.get(name)
    }

    /// Names and manifest hashes of those that are on, as the agent announces them.
    pub fn announced(&self) -> BTreeMap<String, String> {
        self.on().map(|module| (module.manifest().name.clone(), module.manifest().hash())).collect()
    }

    fn on(&self) -> impl Iterator<Item = &Arc<dyn Module>> {
        self.0.values().filter(|module| module.is_on())
    }
}

/// What a node of this configuration announces: names and manifest hashes. Needs no node key.
pub fn announced(config: &Config) -> BTreeMap<String, String> {
    Modules::new(config, NodeId::of(&NodeKey::new([0; 32]))).announced()
}

fn manifest(name: &str, description: &str, actions: Vec<(&str, Action)>) -> Manifest {
    let actions = actions.into_iter().map(|(name, action)| (name.to_owned(), action)).collect();
    Manifest { name: name.into(), description: description.into(), actions }
}

fn action(impact: Impact, description: &str, inputs: Vec<(&str, Input)>) -> Action {
    let inputs = inputs.into_iter().map(|(name, input)| (name.to_owned(), input)).collect();
    Action { description: description.into(), impact, inputs }
}

fn input(kind: InputKind, description: &str) -> Input {
    Input { description: description.into(), kind, required: false, max_length: 0, sensitive: false }
}

fn required(input: Input) -> Input {
    Input { required: true, ..input }
}

fn text<'a>(arguments: &'a Arguments, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn shown(output: &Output) -> Value {
    let mut shown = json!({
        "stdout": output.stdout.text(),
        "stderr": output.stderr.text(),
        "truncated": output.stdout.truncated || output.stderr.truncated,
        "ms": u64::try_from(output.took.as_millis()).unwrap_or(u64::MAX),
    });
    if let Ended::Exited(code) = output.ended {
        shown["code"] = code.into();
    }
    shown
}

/// The exit code of a program that ended by itself; the failure that says how it did not.
fn exit_code(output: &Output) -> Result<i32, Failure> {
    match output.ended {
        Ended::Exited(code) => Ok(code),
        Ended::Signalled(signal) => {
            Err(Failure::of(State::Crashed, "signal", format!("the program ended by signal {signal}"))
                .with(shown(output)))
        }
        Ended::TimedOut => Err(Failure::of(
            State::TimedOut,
            "timed-out",
            format!("stopped at its time limit after {} ms", output.took.as_millis()),
        )
        .with(shown(output))),
        Ended::Stopped => Err(Failure::of(State::Cancelled, "cancelled", "stopped on request").with(shown(output))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{AllowedCommand, ExecConfig};
    use muster_protocol::facts::NodeDocument;
    use std::time::Duration;

    pub(crate) fn object(value: Value) -> Arguments {
        value.as_object().cloned().expect("an object")
    }

    pub(crate) fn context() -> Context {
        let snapshot = Snapshot {
            document: NodeDocument::default(),
            collected_at: jiff::Timestamp::now(),
            failed: BTreeMap::new(),
        };
        let limits = Limits { time: Duration::from_secs(20), output: 64 * 1024 };
        Context { limits, stop: crate::run::stopper().1, snapshot: Arc::new(snapshot) }
    }

    #[tokio::test]
    async fn exec_runs_what_is_allowed_without_a_shell_and_nothing_else() {
        let allow = vec![AllowedCommand { program: "/bin/echo".into(), fixed: vec!["-n".into()], exact: false }];
        let on = exec::Exec::new(ExecConfig { enabled: true, allow: allow.clone() });
        let run = |module: &exec::Exec, value: Value| {
            let checked = module.manifest().check("run", &object(value)).expect("good arguments");
            let module = exec::Exec::new(if module.is_on() {
                ExecConfig { enabled: true, allow: allow.clone() }
            } else {
                ExecConfig::default()
            });
            async move { module.run("run", checked, context()).await }
        };
        let told = run(&on, json!({"command": "/bin/echo", "args": ["-n", "$HOME; ls *"]})).await.expect("it ran");
        assert_eq!((&told["stdout"], &told["code"]), (&json!("$HOME; ls *"), &json!(0)));
        for wrong in [
            json!({"command": "/bin/echo"}),
            json!({"command": "/bin/sh", "args": ["-c", "id"]}),
            json!({"command": "echo"}),
        ] {
            let failure = run(&on, wrong).await.expect_err("not allowed");
            assert_eq!((failure.state, failure.code), (State::Denied, "not-allowed"));
        }
        let off = exec::Exec::new(ExecConfig::default());
        let failure = run(&off, json!({"command": "/bin/echo", "args": ["-n"]})).await.expect_err("off");
        assert_eq!((failure.state, failure.code), (State::Denied, "exec-disabled"));
        assert!(!off.is_on());
    }
}
