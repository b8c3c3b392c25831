//! The command line `muster`: which commands and options are there, and what exit code does each ending have?

mod admin;
mod audit;
mod batches;
mod completion;
mod drive;
mod explain;
mod facts;
mod find;
mod inventory;
mod login;
mod mesh;
mod outcome;
mod output;
mod password;
mod ping;
mod progress;
mod report;
mod run;
mod surface;
mod target;
mod text;

pub use password::PasswordError;

use crate::client::{Client, ClientError};
use crate::config::{ConfigError, Overrides, PasswordSource, Settings};
use crate::connect::{Access, ConnectError};
use crate::events::Refused;
use crate::summary::{EXIT_MISSING, EXIT_REFUSED, EXIT_UNREACHABLE};
use crate::token::{TokenError, TokenFile};
use clap::{Parser, Subcommand};
use muster_protocol::dial::Address;
use muster_protocol::error::Code;
use muster_protocol::tls::{self, TlsError};
use secrecy::SecretString;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use surface::Surface;

/// The command line or the local settings are wrong; nothing was sent. As in `sysexits.h`, since 2 says "some failed".
pub const EXIT_USAGE: u8 = 64;
/// Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Whoever read our output has gone.
const EXIT_PIPE: u8 = 141;

/// Command machines by what they are.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    about = "Command machines by what they are",
    after_help = "Exit codes: 0 all ok · 1 no node matched, or all declined · 2 some failed, crashed or were denied · \
                  3 some timed out, were lost or expired, or a broker was missing · 4 refused · 5 could not connect · 64 wrong usage · 130 interrupted"
)]
struct Cli {
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(subcommand)]
    command: Command,
}

/// How to reach a broker. There is no option for a password: other users of this machine could read it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
struct ConnectionOptions {
    /// Settings file [default: ~/.config/muster/muster.toml, or $MUSTER_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A broker, HOST or HOST:PORT; repeat for more, tried in order [also: $MUSTER_BROKERS]
    #[arg(long = "broker", global = true, value_name = "HOST:PORT")]
    brokers: Vec<Address>,
    /// Log in as this user [also: $MUSTER_USER]
    #[arg(long, global = true)]
    user: Option<String>,
    /// CA certificates (PEM) that brokers are checked against [also: $MUSTER_CA]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File of mode 0600 with the password [also: $MUSTER_PASSWORD_FILE; or $MUSTER_PASSWORD, the token of `muster login`, or a prompt]
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The collective that requests go to [default: prod]
    #[arg(long, global = true, value_name = "NAME")]
    collective: Option<String>,
    /// How long connecting may take, for all brokers together [default: 5s]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    connect_timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the nodes that match, from the brokers' registries: no node is asked
    Find(find::Find),
    /// Ask nodes for a sign of life
    Ping(ping::Ping),
    /// Run an action of a module on the nodes that match
    Run(run::Run),
    /// Show facts of the nodes that match, a row a node
    Facts(facts::Facts),
    /// Count the values of a fact over the nodes that match
    Report(report::Report),
    /// Show everything about one node
    Inventory(inventory::Inventory),
    /// Show the brokers of the mesh, their links, and who cannot be reached
    Mesh(mesh::Mesh),
    /// Say predicate by predicate why a node matches a filter, or not
    Explain(explain::Explain),
    /// Ask what the policy grants, edit it, and see or end sessions
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Show what is on record at the broker: logins, requests, commands, and how each was decided
    Audit(audit::Audit),
    /// Log in once: keep a token in a file, so that later commands ask for no password
    Login(login::Login),
    /// Remove the token that `login` has kept
    Logout(login::Logout),
    /// Print a completion script for a shell
    Completion(completion::Completion),
}

/// Why a command ended without a result of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Refused here, as the broker would or because the operator said no.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A broker did not take the token that is kept.
    #[error(
        "{address} does not take the token of {user} any more: it has expired or was revoked, or the user was changed; log in again with `muster login`"
    )]
    StaleToken { address: Address, user: String },
    /// A broker did not take user and password.
    #[error("{address} refused the login of {user} with {password}")]
    WrongPassword { address: Address, user: String, password: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Ctrl-C at a question.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) | Failure::Config(_) | Failure::Password(_) | Failure::Token(_) | Failure::Tls(_) => {
                EXIT_USAGE
            }
            Failure::Refused(_) | Failure::StaleToken { .. } | Failure::WrongPassword { .. } => EXIT_REFUSED,
            Failure::Client(ClientError::Refused(_)) => EXIT_REFUSED,
            Failure::Client(ClientError::Connect(ConnectError::Refused { .. })) => EXIT_REFUSED,
            Failure::Client(ClientError::Connect(_) | ClientError::Misunderstood(_)) => EXIT_UNREACHABLE,
            Failure::Client(ClientError::Lost(_) | ClientError::NoAnswer(_) | ClientError::Unsettled(_)) => {
                EXIT_MISSING
            }
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_PIPE,
            Failure::Output(_) => EXIT_MISSING,
            Failure::Interrupted => EXIT_INTERRUPTED,
        }
    }

    /// What to tell the operator: what, where, and what to do.
    fn words(&self) -> String {
        match self {
            Failure::Client(ClientError::Refused(refused)) => refusal(refused),
            Failure::Client(ClientError::Connect(ConnectError::Refused { code: Some(code), .. })) => {
                format!("{self}\n  {code}: {}", code.cure())
            }
            // Brokers give one answer, whatever it was.
            Failure::WrongPassword { .. } => format!(
                "{self}\n  {}: one of both is wrong, the user needs a client certificate that was not shown, or is disabled, has expired, or may not log in from here.",
                Code::AuthFailed
            ),
            _ => self.to_string(),
        }
    }
}

/// A broker's refusal: code, text, and what can be done.
fn refusal(refused: &Refused) -> String {
    let mut out = format!("refused: {}: {}", refused.code_text, refused.text);
    // Our brokers begin with it.
    if let Some(count) = refused.count.filter(|count| !refused.text.starts_with(&format!("{count} node"))) {
        out.push_str(&format!(" ({} match)", output::nodes(count)));
    }
    // The body was made here: what the text says is wrong stands in what was given, such as a file.
    if let Some(code) = refused.code.filter(|code| *code != Code::BadBody) {
        out.push_str(&format!("\n  {}", code.cure()));
    }
    if refused.code == Some(Code::Partial) {
        out.push_str(" Here: --allow-partial.");
    }
    if let Some(after) = refused.retry_after {
        out.push_str(&format!("\n  Again in {}.", humantime::format_duration(after)));
    }
    out
}

/// What every command gets: the operator in front, the broker behind. The broker is connected to when it is first needed,
/// so that whatever can be found wrong here is found before.
struct Context {
    options: Overrides,
    settings: Option<Settings>,
    client: Option<Client>,
    surface: Surface,
}

impl Context {
    fn settings(&mut self) -> Result<&Settings, Failure> {
        let settings = match self.settings.take() {
            Some(settings) => settings,
            None => Settings::resolve(self.options.clone(), |name| std::env::var(name).ok())?,
        };
        Ok(self.settings.insert(settings))
    }

    async fn client(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let settings = self.settings()?.clone();
        // Whoever gives a password means it; a token is for whom would be asked.
        if matches!(settings.password, PasswordSource::Prompt) && settings.tokens.is_some() {
            let file = settings.token_file()?;
            if let Some(token) = file.read()? {
                return self.connect_by_token(token, &file).await;
            }
        }
        self.connect_by_password().await
    }

    /// With the password, from wherever it is to be had.
    async fn connect_by_password(&mut self) -> Result<Client, Failure> {
        let asks = self.surface.asks;
        let Settings { user, password, .. } = self.settings()?.clone();
        let secret = password::fetch(&password, &user, asks)?;
        self.connect(secret).await.map_err(|failure| match failure {
            Failure::Client(ClientError::Connect(ConnectError::Refused {
                address,
                code: Some(Code::AuthFailed),
                ..
            })) => {
                let password = match password {
                    PasswordSource::File(file) => format!("the password in {}", file.display()),
                    PasswordSource::Given(_) => "the password in MUSTER_PASSWORD".to_owned(),
                    PasswordSource::Prompt => "the password that was typed".to_owned(),
                };
                Failure::WrongPassword { address, user: text::clean(&user), password: text::clean(&password) }
            }
            other => other,
        })
    }

    /// With a password, or a token that stands for it.
    async fn connect(&mut self, secret: SecretString) -> Result<Client, Failure> {
        let settings = self.settings()?;
        let access = Access {
            brokers: settings.brokers.clone(),
            tls: tls::client_config(&settings.ca, settings.tls.as_ref())?,
            password: secret,
            user: settings.user.clone(),
            limit: settings.connect_timeout,
        };
        let surface = &mut self.surface;
        let client = Client::connect(&access, |text| surface.note(&format!("muster: {text}"))).await?;
        Ok(self.client.insert(client).clone())
    }

    /// A token that gets old is replaced by the fresh one that the broker gives then: whoever works every month logs in once.
    async fn connect_by_token(&mut self, token: SecretString, file: &TokenFile) -> Result<Client, Failure> {
        let client = match self.connect(token).await {
            Err(Failure::Client(ClientError::Connect(ConnectError::Refused {
                address,
                code: Some(Code::AuthFailed),
                ..
            }))) => {
                let user = text::clean(&self.settings()?.user);
                return Err(Failure::StaleToken { address, user });
            }
            connected => connected?,
        };
        if let Some(fresh) = client.token()
            && let Err(error) = file.keep(fresh)
        {
            self.surface.note(&format!("muster: the token cannot be renewed: {error}"));
        }
        Ok(client)
    }
}

/// Runs the command of these arguments on this process's terminal. Returns the exit code.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to stdout.
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE } else { 0 };
        }
    };
    let context =
        Context { options: Overrides::default(), settings: None, client: None, surface: Surface::of_process() };
    Box::pin(execute(cli, context)).await
}

async fn execute(cli: Cli, mut context: Context) -> u8 {
    let ConnectionOptions { config, brokers, user, ca, password_file, collective, connect_timeout } = cli.connection;
    context.options = Overrides { config, brokers, user, ca, password_file, collective, connect_timeout };
    let result = match &cli.command {
        Command::Find(find) => find.run(&mut context).await,
        Command::Ping(ping) => ping.run(&mut context).await,
        Command::Run(run) => Box::pin(run.run(&mut context)).await,
        Command::Facts(facts) => facts.run(&mut context).await,
        Command::Report(report) => report.run(&mut context).await,
        Command::Inventory(inventory) => inventory.run(&mut context).await,
        Command::Mesh(mesh) => mesh.run(&mut context).await,
        Command::Explain(explain) => explain.run(&mut context).await,
        Command::Admin(admin) => admin.run(&mut context).await,
        Command::Audit(audit) => audit.run(&mut context).await,
        Command::Login(login) => login.run(&mut context).await,
        Command::Logout(logout) => logout.run(&mut context),
        Command::Completion(completion) => completion.run(&mut context),
    };
    context.surface.progress.clear();
    let result = result.and_then(|code| context.surface.flush().map(|()| code).map_err(Failure::Output));
    let code = match result {
        Ok(code) => code,
        Err(failure) => {
            let _ = context.surface.flush();
            let code = failure.exit_code();
            if code != EXIT_PIPE {
                context.surface.note(&format!("muster: {}", failure.words()));
            }
            code
        }
    };
    if let Some(client) = context.client.take() {
        client.close().await;
    }
    code
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Output")]
struct Format {
    /// Print one JSON document
    #[arg(long, conflicts_with = "ndjson")]
    json: bool,
    /// Print JSON, one line for each thing, as it comes
    #[arg(long)]
    ndjson: bool,
}

#[cfg(test)]
mod tests;
