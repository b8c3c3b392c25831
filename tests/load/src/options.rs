//! What can be asked of `muster-load`?

use crate::peers::Peer;
use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Puts simulated agents on real brokers of this machine, and says what it cost.
///
/// It makes a cluster in a temporary folder, connects the agents to it over TLS on loopback, runs the scenarios one after
/// another, prints a table, and ends everything that it started. docs/performance.md says what each figure means.
/// Exit code 0: everything was there; 1: something is missing, or it ended early; 64: what was asked cannot be done here.
#[derive(Debug, Clone, Parser)]
#[command(name = "muster-load", version, max_term_width = 100)]
pub(crate) struct Options {
    /// What to run; all of them unless told
    #[arg(value_name = "SCENARIO", value_enum)]
    pub(crate) scenarios: Vec<Scenario>,
    /// Simulated agents
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) agents: u32,
    /// Brokers, each linked with each; the agents are spread over them
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(crate) brokers: u32,
    /// Users that the agents share
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) users: u32,
    /// Values in the facts of each agent
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(8..=2_000))]
    pub(crate) facts: u32,
    /// Agents that share a source address: one, as nodes have, or many, as behind a NAT
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) per_address: u32,
    /// Where keys and facts come from: the same seed makes the same agents
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Connections that each generator has under way at once in a connect storm
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) together: u32,
    /// Body of a request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..=900_000))]
    pub(crate) request_bytes: u32,
    /// Body of a reply, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..=900_000))]
    pub(crate) reply_bytes: u32,
    /// How long an agent takes to answer, in ms
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) reply_delay: u64,
    /// Compare with these, one after another, again and again: bare sessions at each, the same storm, idle, scatter and stream
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    pub(crate) peer: Vec<Peer>,
    /// How often each broker has its turn in a comparison
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) turns: u32,
    /// Rounds that count; of each kind one goes before that does not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// How long `idle` watches and `churn` sends, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) window: u64,
    /// Facts deltas a second, of all agents together, in `churn`
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) deltas: u32,
    /// Messages of a round of `stream` with one subscriber; a tenth of them with a hundred
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) messages: u64,
    /// Wrong logins under way at once in `flood`
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=900))]
    pub(crate) flood: u32,
    /// After this many seconds the run ends, with what it has
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    /// Write everything that was seen to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where `musterd` and `muster` are; unless told, beside this program
    #[arg(long, value_name = "DIR")]
    pub(crate) bin: Option<PathBuf>,
    /// Become a generator: orders come on standard input.
    #[arg(long, hide = true)]
    pub(crate) as_generator: bool,
    /// Become the broker that this command starts, which ends when whoever started it does.
    #[arg(long, hide = true, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) as_broker: Vec<OsString>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scenario {
    /// All agents connect: TLS, login by password, facts registered
    Storm,
    /// Nothing happens but heart-beats: memory and CPU of a broker
    Idle,
    /// `muster find` and `muster ping` from process start to exit, and a find on an open connection
    Find,
    /// Messages and requests to 100, 10, 1 and 0.1 % of the agents, and all their replies
    Scatter,
    /// Facts change: deltas at a given rate, each acknowledged
    Churn,
    /// 128-byte messages from one client to one, and to a hundred
    Stream,
    /// A broker is killed and started again: everybody comes back, with tokens
    Restart,
    /// A connect storm, then a restart, beside a flood of wrong passwords; an operator asks each second
    Flood,
}

/// What all brokers can do.
const COMPARABLE: [Scenario; 4] = [Scenario::Storm, Scenario::Idle, Scenario::Scatter, Scenario::Stream];

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Storm => "storm",
            Scenario::Idle => "idle",
            Scenario::Find => "find",
            Scenario::Scatter => "scatter",
            Scenario::Churn => "churn",
            Scenario::Stream => "stream",
            Scenario::Restart => "restart",
            Scenario::Flood => "flood",
        }
    }
}

impl Options {
    /// In the order in which they are run, each once. The storm comes first where it is needed, asked for or not.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let mut all = match (self.scenarios.is_empty(), self.peer.is_empty()) {
            (true, true) => Scenario::value_variants().to_vec(),
            (true, false) => COMPARABLE.to_vec(),
            (false, _) => self.scenarios.clone(),
        };
        if all.iter().any(|scenario| *scenario != Scenario::Stream) {
            all.push(Scenario::Storm);
        }
        all.sort();
        all.dedup();
        all
    }

    /// Those that are to be compared, each once and Muster first; none if nothing is to be compared. An error if it cannot be.
    pub(crate) fn peers(&self) -> Result<Vec<Peer>> {
        if self.peer.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(scenario) = self.scenarios().iter().find(|scenario| !COMPARABLE.contains(scenario)) {
            let names = COMPARABLE.map(Scenario::name).join(", ");
            bail!("{} is Muster's own, and cannot be compared: ask for some of {names}", scenario.name());
        }
        if self.brokers > 1 {
            bail!("--peer compares one broker with another: ask for --brokers 1");
        }
        let mut peers = self.peer.clone();
        peers.push(Peer::Muster);
        peers.sort();
        peers.dedup();
        Ok(peers)
    }

    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.window)
    }

    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn scenarios(arguments: &[&str]) -> Vec<Scenario> {
        let arguments = ["muster-load"].iter().chain(arguments);
        Options::try_parse_from(arguments).expect("options").scenarios()
    }

    #[test]
    fn the_command_line_is_sound_and_help_explains_each_scenario() {
        Options::command().debug_assert();
        let help = Options::command().render_long_help().to_string();
        for scenario in Scenario::value_variants() {
            let line = help.lines().find(|line| line.trim_start().starts_with(&format!("- {}:", scenario.name())));
            assert!(line.is_some_and(|line| line.len() > 30), "{help}");
        }
    }

    #[test]
    fn agents_are_there_before_they_are_used() {
        use Scenario::{Find, Scatter, Storm, Stream};
        assert_eq!(scenarios(&[]), Scenario::value_variants());
        assert_eq!(scenarios(&["scatter", "find", "find"]), [Storm, Find, Scatter]);
        assert_eq!(scenarios(&["stream"]), [Stream]);
        assert_eq!(scenarios(&["--peer", "nats"]), COMPARABLE);
    }

    #[test]
    fn muster_is_the_first_of_those_that_are_compared() {
        let peers = |arguments: &[&str]| {
            let options = Options::try_parse_from(["muster-load"].iter().chain(arguments)).expect("options");
            options.peers().map_err(|error| error.to_string())
        };
        assert_eq!(peers(&[]), Ok(vec![]));
        assert_eq!(
            peers(&["--peer", "activemq,nats", "--peer", "nats"]),
            Ok(vec![Peer::Muster, Peer::Nats, Peer::Activemq])
        );
        assert_eq!(peers(&["--peer", "muster"]), Ok(vec![Peer::Muster]));
        let refused = |arguments: &[&str]| peers(arguments).expect_err("refused");
        assert!(refused(&["scatter", "churn", "--peer", "nats"]).starts_with("churn is Muster's own"));
        assert!(refused(&["--peer", "nats", "--brokers", "2"]).ends_with("ask for --brokers 1"));
    }

    #[test]
    fn the_command_of_a_broker_is_taken_as_it_is() {
        let line = ["muster-load", "--as-broker", "nats-server", "-c", "--flood", "storm"];
        let options = Options::try_parse_from(line).expect("options");
        assert_eq!(options.as_broker, line[2..]);
    }
}
