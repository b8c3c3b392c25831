//! `muster-load`: thousands of simulated agents on real brokers of this machine, and what it cost.
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod agent;
mod bare;
mod broker;
mod cluster;
mod compare;
mod crew;
mod crowd;
mod dialect;
mod ending;
mod flood;
mod generator;
mod listener;
mod machine;
mod operator;
mod options;
mod orders;
mod peers;
mod plan;
mod population;
mod report;
mod requester;
mod run;
mod scenarios;
mod times;
mod turns;
mod wire;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cluster::Cluster;
use crew::Crew;
use ending::{Ended, Ending, Teller};
use machine::Machine;
use options::Options;
use peers::Peer;
use plan::Share;
use population::Population;
use report::Report;
use run::Run;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Something is missing, or it ended early.
const EXIT_INCOMPLETE: u8 = 1;
/// The command line asks for what cannot be done.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Help and version are no mistakes.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            return code.into();
        }
    };
    let ended = if options.as_generator {
        with_runtime(tokio::runtime::Builder::new_current_thread(), generator::run()).map(|()| 0)
    } else if !options.as_broker.is_empty() {
        broker::become_broker(&options.as_broker).map(|never| match never {})
    } else {
        lead(options)
    };
    match ended {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("muster-load: {error:#}");
            EXIT_INCOMPLETE.into()
        }
    }
}

fn with_runtime<T>(mut builder: tokio::runtime::Builder, work: impl Future<Output = Result<T>>) -> Result<T> {
    builder.enable_all().build()?.block_on(work)
}

/// Checks before anything is started, runs, and reports.
fn lead(options: Options) -> Result<u8> {
    machine::raise_descriptor_limit().context("the limit of open files")?;
    let machine = Machine::here()?;
    let population = Population {
        agents: options.agents,
        brokers: options.brokers,
        users: options.users,
        facts: options.facts,
        per_address: options.per_address,
        seed: options.seed,
    };
    let checked = with_runtime(tokio::runtime::Builder::new_current_thread(), check(&options, &population, &machine));
    let Checked { shares, bin, peers, skipped } = match checked {
        Ok(checked) => checked,
        Err(error) => {
            eprintln!("muster-load: {error:#}");
            return Ok(EXIT_USAGE);
        }
    };
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        is_debug_build: cfg!(debug_assertions),
        machine,
        load_before: machine::load(),
        asked: asked(&options),
        peers: peers.iter().map(|(peer, version)| (peer.name(), version.clone())).collect(),
        skipped,
        rows: Vec::new(),
        comparison: Vec::new(),
        ended_early: None,
    };
    let json = options.json.clone();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2);
    with_runtime(builder, async {
        let (teller, ending) = ending::ending();
        let limit = options.limit();
        tokio::spawn(tell_of_the_end(teller.clone(), limit)?);
        let peers: Vec<Peer> = peers.into_keys().collect();
        let (rows, ended) = conduct(options, population, shares, bin, &peers, (teller, ending)).await;
        report.comparison = compare::compare(&rows);
        report.rows = rows;
        report.ended_early = ended.err().map(|error| format!("{error:#}"));
        Ok(())
    })?;
    print!("{}", report.text());
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(if report.is_complete() { 0 } else { EXIT_INCOMPLETE })
}

/// What can be done of what was asked.
struct Checked {
    /// The agents of each generator.
    shares: Vec<Share>,
    /// Where the programs are.
    bin: PathBuf,
    /// Who is compared, with versions; nobody unless asked for.
    peers: BTreeMap<Peer, String>,
    /// Why the others are not.
    skipped: BTreeMap<&'static str, String>,
}

async fn check(options: &Options, population: &Population, machine: &Machine) -> Result<Checked> {
    let (mut peers, mut skipped) = (BTreeMap::new(), BTreeMap::new());
    for peer in options.peers()? {
        match peer.version().await {
            Ok(version) => drop(peers.insert(peer, version)),
            Err(why) => drop(skipped.insert(peer.name(), format!("{why:#}"))),
        }
    }
    if !skipped.is_empty() && peers.len() == 1 && !options.peer.contains(&Peer::Muster) {
        let why: Vec<String> = skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        bail!("no peer can run here: {}", why.join("; "));
    }
    let each = peers.keys().map(|peer| peer.session()).max().unwrap_or(plan::AGENT);
    let shares = plan::plan(population, each, machine)?;
    Ok(Checked { shares, bin: cluster::programs(options)?, peers, skipped })
}

/// From the first broker to the end of the last; the rows that there are, however it ended.
async fn conduct(
    options: Options,
    population: Population,
    shares: Vec<Share>,
    bin: PathBuf,
    peers: &[Peer],
    (teller, ending): (Teller, Ending),
) -> (Vec<report::Row>, Result<()>) {
    let cluster = match ending.unless(Cluster::make(bin, &population, teller)).await {
        Ok(Ok(cluster)) => cluster,
        Ok(Err(error)) => return (Vec::new(), Err(error)),
        Err(ended) => return (Vec::new(), Err(ended.into())),
    };
    let scenarios = options.scenarios();
    let crew = Crew::default();
    let rows = Vec::new();
    let mut run = Run { options, population, cluster, bare: None, crew, shares, ending, empty: 0, peak: 0, rows };
    let ended = match peers.is_empty() {
        true => run.play(&scenarios).await,
        false => turns::take(&mut run, peers, &scenarios).await,
    };
    // What is known to be the reason is said, and not what came of it.
    let ended = run.ending.check().map_err(anyhow::Error::from).and(ended);
    run.rest().await;
    (run.rows, ended)
}

/// The limit, Ctrl-C and SIGTERM end the run; whatever is started first listens for them.
fn tell_of_the_end(teller: Teller, limit: std::time::Duration) -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        let why = tokio::select! {
            _ = interrupt.recv() => "interrupted".to_owned(),
            _ = terminate.recv() => "told to terminate".to_owned(),
            () = tokio::time::sleep(limit) => format!("the limit of {} s is over", limit.as_secs()),
        };
        teller.tell(Ended(why));
    })
}

fn asked(options: &Options) -> Map<String, serde_json::Value> {
    let names: Vec<&str> = options.scenarios().iter().map(|scenario| scenario.name()).collect();
    let asked = json!({
        "scenarios": names.join(" "),
        "agents": options.agents,
        "brokers": options.brokers,
        "users": options.users,
        "facts": options.facts,
        "per-address": options.per_address,
        "seed": options.seed,
        "together": options.together,
        "request-bytes": options.request_bytes,
        "reply-bytes": options.reply_bytes,
        "reply-delay": options.reply_delay,
        "rounds": options.rounds,
    });
    let mut asked = if let serde_json::Value::Object(asked) = asked { asked } else { Map::new() };
    if !options.peer.is_empty() {
        asked.insert("turns".into(), options.turns.into());
    }
    asked
}
