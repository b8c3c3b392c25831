//! How is the agent called? `muster-agent run`, `check`, `facts`.
#![allow(clippy::print_stdout, reason = "a command line prints")]

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use muster_agent::config::{self, Config, LogFormat};
use muster_agent::facts::Sources;
use muster_agent::run::{Stop, stopper};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// The agent on a managed node: publishes facts to a Muster broker and runs the actions that the policy allows.
#[derive(Parser)]
#[command(name = "muster-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Connect, register, answer, until SIGTERM or SIGINT; `status.json` in the state folder says how it goes.
    Run {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Say whether a configuration file is good, or where it is wrong. Reads the password and CA files too.
    Check {
        /// Configuration file (TOML).
        file: PathBuf,
    },
    /// Collect facts once and print the document that would be published, without connecting.
    Facts {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run { config } => {
            let config = Config::load(&config)?;
            start_log(&config);
            let stop = stop_on_signals()?;
            // Fails only where no service manager listens.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            muster_agent::agent::run(config, stop).await.context("muster-agent cannot start")
        }
        Command::Check { file } => {
            let config = Config::load(&file)?;
            config.password()?;
            muster_protocol::tls::client_config(&config.ca, config.tls.as_ref())?;
            println!("{}: good", file.display());
            Ok(())
        }
        Command::Facts { config } => {
            let config = Config::load(&config)?;
            let snapshot = Sources::new(&config, muster_agent::modules::announced(&config)).collect().await;
            println!("{:#}", snapshot.document.to_value());
            for (source, error) in &snapshot.failed {
                eprintln!("{source}: {error}");
            }
            Ok(())
        }
    }
}

fn start_log(config: &Config) {
    let level = format!("{:?}", config.log.level).to_lowercase();
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new(level));
    match config.log.format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.with_ansi(false).init(),
    }
}

fn stop_on_signals() -> anyhow::Result<Stop> {
    let (stopper, stop) = stopper();
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        stopper.stop();
        // Keeps the sender: a `Stop` whose sender is gone cannot be told any more.
        std::future::pending::<()>().await;
    });
    Ok(stop)
}
