//! `musterd`: the broker, and what an engineer needs to set one up.
#![allow(clippy::print_stdout, reason = "a command line prints")]

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use muster_server::audit::{self, SearchOptions, VerifyOptions};
use muster_server::broker::access;
use muster_server::config::{Config, LogFormat};
use muster_server::control::{self, Answer, Command as Control};
use muster_server::init::InitOptions;
use muster_server::{init, passwd, policy, server};
use std::path::PathBuf;
use std::process::ExitCode;

/// Messages are made on one thread and freed on another, which the C library's allocator is slow at; and it keeps what a storm of
/// logins took (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Muster broker.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a new cluster of one broker, or of several with --broker: CA, certificates, keys, configurations, policy with
    /// first users
    Init(InitOptions),
    /// Says whether a configuration and everything it names is good, or what is wrong where; and which policy a start would enforce.
    /// Writes nothing; the broker may be running
    Check {
        /// The configuration
        #[arg(value_name = "FILE", default_value = "/etc/muster/musterd.toml")]
        file: PathBuf,
    },
    /// Makes the hash of a password, to put into the policy
    Passwd {
        /// Read the password from this file instead of asking for it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Looks at policies without a broker. Exit code 0: nothing to say; 1: findings, or differences; 2: a file is no policy
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Runs the broker
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/muster/musterd.toml")]
        config: PathBuf,
    },
    /// Steers the broker that runs on this machine
    Ctl {
        /// The broker's configuration: it says where the control socket is
        #[arg(long, value_name = "FILE", default_value = "/etc/muster/musterd.toml")]
        config: PathBuf,
        #[command(subcommand)]
        command: CtlCommand,
    },
    /// Looks into the audit log of this machine's broker
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Says whether the audit log is as the broker wrote it, or in which line of which file it was edited or cut (exit code 1)
    Verify(VerifyOptions),
    /// Prints the newest lines that fit, oldest first
    Search(SearchOptions),
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Says what looks wrong in a policy
    Lint {
        /// The policy
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Says what a new policy would grant and take
    Diff {
        /// The policy as it is
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The policy as it would be
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
}

#[derive(Subcommand)]
enum CtlCommand {
    /// Prints counts, uptime and the certificate's end
    Status,
    /// Prints numbers for Prometheus in its text format; docs/metrics.md says what they mean
    Metrics,
    /// Reads the policy again; a bad one is refused and the last good one stays
    Reload,
    /// Takes the link to another broker down, or up again
    Link {
        #[command(subcommand)]
        command: LinkCommand,
    },
}

#[derive(Subcommand)]
enum LinkCommand {
    /// Takes the link up again: dialled at once from here, within 10 s where the other broker dials
    Up {
        /// The other broker
        name: String,
    },
    /// Ends the link; it stays down until it is taken up, or this broker starts again
    Down {
        /// The other broker
        name: String,
    },
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // As with diff and other checkers: 1 is an answer, trouble is 2.
    let trouble = if matches!(command, Command::Policy { .. }) { ExitCode::from(2) } else { ExitCode::FAILURE };
    run(command).unwrap_or_else(|error| {
        eprintln!("musterd: {error:#}");
        trouble
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Init(options) => {
            println!("{}", init::init(&options)?);
        }
        Command::Check { file } => {
            let config = Config::load(&file)?;
            let outlook = server::check(&config)?;
            println!("{}: good", file.display());
            outlook.iter().for_each(|line| println!("  {line}"));
        }
        Command::Passwd { file } => {
            println!("{}", passwd::ask(file.as_deref())?);
        }
        Command::Run { config } => {
            let config = Config::load(&config)?;
            start_log(&config)?;
            runtime()?.block_on(server::run(&config))?;
        }
        Command::Audit { command: AuditCommand::Verify(options) } => {
            println!("{}", audit::verify(&options)?);
        }
        Command::Audit { command: AuditCommand::Search(options) } => {
            print!("{}", audit::search(&options)?);
        }
        Command::Ctl { config, command } => {
            let config = Config::load(&config)?;
            let command = match command {
                CtlCommand::Status => Control::Status,
                CtlCommand::Metrics => Control::Metrics,
                CtlCommand::Reload => Control::Reload,
                CtlCommand::Link { command: LinkCommand::Up { name } } => Control::LinkUp(name),
                CtlCommand::Link { command: LinkCommand::Down { name } } => Control::LinkDown(name),
            };
            match runtime()?.block_on(control::ask(&config.control, command))? {
                // Text is for other programs: as it is.
                Answer::Ok(serde_json::Value::String(text)) => print!("{text}"),
                Answer::Ok(value) => println!("{}", serde_json::to_string_pretty(&value)?),
                Answer::Error(error) => bail!(error),
            }
        }
        Command::Policy { command } => return policy(&command),
    }
    Ok(ExitCode::SUCCESS)
}

fn policy(command: &PolicyCommand) -> Result<ExitCode> {
    let (text, nothing) = match command {
        PolicyCommand::Lint { file } => {
            let found = access::lint(&policy::draft(file)?);
            (found.to_string(), found.findings.is_empty())
        }
        PolicyCommand::Diff { old, new } => {
            let diff = access::diff(&policy::draft(old)?, &policy::draft(new)?);
            (diff.to_string(), diff.is_empty())
        }
    };
    print!("{text}");
    Ok(if nothing { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// The log goes to stderr, where systemd and containers pick it up.
fn start_log(config: &Config) -> Result<()> {
    // rustls warns of every client that dials an address instead of a name; a filter that names it still wins.
    let filter =
        tracing_subscriber::EnvFilter::try_new(format!("rustls=error,{}", config.log.level)).context("log.level")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.log.format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    Ok(())
}
