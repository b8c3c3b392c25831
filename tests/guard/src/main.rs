//! `muster-guard`: do the hot paths need more instructions than they did? Instructions are counted by callgrind, never times.
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod baseline;
mod callgrind;
mod paths;
mod stage;

use anyhow::{Context, Result, bail};
use baseline::{Counts, Taken, UPDATE};
use clap::Parser;
use paths::PATHS;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// As musterd has it: what a path allocates is part of what it needs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts the instructions of the hot paths, and fails if one needs over 10 % more than is stored
#[derive(Parser)]
#[command(name = "muster-guard", version)]
struct Options {
    /// Stores what is seen instead of comparing
    #[arg(long)]
    update: bool,
    /// Where counts are stored
    #[arg(long, value_name = "FILE", default_value = "tests/guard/baseline.txt")]
    baseline: PathBuf,
    /// What callgrind runs: one path
    #[arg(long, value_name = "NAME", hide = true)]
    path: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let ended = match &options.path {
        Some(name) => run_one(name),
        None => guard(&options),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a path, and says how often it was done.
fn run_one(name: &str) -> Result<()> {
    let path = PATHS.iter().find(|path| path.name == name).with_context(|| format!("there is no path {name:?}"))?;
    println!("{}", (path.run)());
    Ok(())
}

fn guard(options: &Options) -> Result<()> {
    let file = options.baseline.display();
    let stored = fs::read_to_string(&options.baseline)
        .with_context(|| format!("{file}: cannot be read; to write it, run: {UPDATE}"))
        .and_then(|text| {
            Counts::parse(&text).map_err(|error| anyhow::anyhow!("{file}, {error}; to write it anew, run: {UPDATE}"))
        });
    if !options.update {
        // Before minutes are spent.
        stored.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    }
    let seen = count_all()?;
    let comparison = stored.as_ref().ok().map(|stored| stored.compare(&seen));
    if let Some(comparison) = &comparison {
        print!("{comparison}");
    }
    if options.update {
        fs::write(&options.baseline, seen.to_string()).with_context(|| format!("{file}: cannot be written"))?;
        println!("{} paths are stored in {file}; commit it with the reason", seen.paths.len());
        return Ok(());
    }
    let failures = comparison.map(|comparison| comparison.failures()).unwrap_or_default();
    if !failures.is_empty() {
        let list = failures.join("\n  ");
        bail!(
            "the hot paths are not what is stored in {file}:\n  {list}\nIf that is meant, run: {UPDATE}   and commit {file} with the reason"
        );
    }
    println!("none of {} paths needs over 10 % more than is stored in {file}", seen.paths.len());
    Ok(())
}

/// Each path in a process of its own, so that none changes what another finds in memory.
fn count_all() -> Result<Counts> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let machine = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let taken = Taken { compiler: callgrind::compiler()?, machine, counter: callgrind::version()? };
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let mut counts = Counts { taken, ..Counts::default() };
    for path in PATHS {
        let count = callgrind::count(&program, &["--path", path.name], folder.path())?;
        counts.paths.insert(path.name.to_owned(), count);
    }
    Ok(counts)
}
