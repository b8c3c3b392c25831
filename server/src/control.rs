//! How is a running broker steered from its own machine? A unix socket (0600), one JSON object a line each way.

use crate::broker::record::Record;
use crate::links::UnknownLink;
use crate::server::Running;
use muster_protocol::message::shown;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest line, bytes.
const LINE: u64 = 4096;
/// How long one exchange may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Counts, uptime, policy.
    Status,
    /// Numbers for Prometheus, as text.
    Metrics,
    /// Read the policy again.
    Reload,
    /// Take the link to this broker up again.
    LinkUp(String),
    /// Take the link to this broker down, until it is taken up or the broker starts again.
    LinkDown(String),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Status => f.write_str("status"),
            Command::Metrics => f.write_str("metrics"),
            Command::Reload => f.write_str("reload"),
            Command::LinkUp(name) => write!(f, "link up {}", shown(name)),
            Command::LinkDown(name) => write!(f, "link down {}", shown(name)),
        }
    }
}

/// The answer: an object for people and programs, or an error.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done.
    Ok(serde_json::Value),
    /// Not done, and why.
    Error(String),
}

/// Makes the socket. A dead one that a killed broker left is replaced; a live one, or another kind of file, is an error.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        let in_the_way = |text: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {text}", path.display()));
        if !metadata.file_type().is_socket() {
            return Err(in_the_way("a file that is no socket is in the way of the control socket"));
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(in_the_way("another broker is running with this control socket"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until `stop` says so.
pub async fn serve(listener: UnixListener, running: Arc<Running>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            // One at a time: whoever may open the socket is root or the broker's own user.
            Ok((stream, _)) => {
                let _ = timeout(LIMIT, exchange(stream, &running)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn exchange(stream: UnixStream, running: &Running) -> io::Result<()> {
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LINE)).read_line(&mut line).await?;
    let command = serde_json::from_str(&line);
    // Who only looks decides nothing.
    let decides = |command: &&Command| !matches!(command, Command::Status | Command::Metrics);
    let named = command.as_ref().ok().filter(decides).map(Command::to_string);
    let answer = match command {
        Ok(Command::Status) => Answer::Ok(running.status().await),
        Ok(Command::Metrics) => Answer::Ok(running.metrics().await.into()),
        Ok(Command::Reload) => match running.reload().await {
            Ok(reloaded) => Answer::Ok(serde_json::json!(reloaded)),
            Err(error) => Answer::Error(error.to_string()),
        },
        Ok(Command::LinkUp(name)) => steered(running.links().up(&name), &name, "up"),
        Ok(Command::LinkDown(name)) => steered(running.links().down(&name), &name, "down"),
        Err(error) => Answer::Error(format!("not a command: {error}")),
    };
    if let Some(command) = named {
        let error = if let Answer::Error(error) = &answer { Some(error.clone()) } else { None };
        running.audit().tell(|| Record::Ctl { command, uid, error });
    }
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

fn steered(done: Result<(), UnknownLink>, name: &str, to: &str) -> Answer {
    match done {
        Ok(()) => Answer::Ok(serde_json::json!({ "link": name, "taken": to })),
        Err(error) => Answer::Error(error.to_string()),
    }
}

/// Asks the broker that has its socket at `path`.
pub async fn ask(path: &Path, command: Command) -> io::Result<Answer> {
    let name = |e: io::Error| {
        io::Error::new(e.kind(), format!("{}: {e}; is musterd running, and are you its user?", path.display()))
    };
    let stream = UnixStream::connect(path).await.map_err(name)?;
    let (read, mut write) = stream.into_split();
    write.write_all(format!("{}\n", serde_json::to_string(&command)?).as_bytes()).await?;
    let mut line = String::new();
    timeout(LIMIT, BufReader::new(read).read_line(&mut line)).await??;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_their_line_form() {
        for (command, line) in [
            (Command::Status, r#""status""#),
            (Command::Metrics, r#""metrics""#),
            (Command::Reload, r#""reload""#),
            (Command::LinkUp("dc1".into()), r#"{"link-up":"dc1"}"#),
            (Command::LinkDown("dc1".into()), r#"{"link-down":"dc1"}"#),
        ] {
            assert_eq!(serde_json::to_string(&command).unwrap(), line);
            assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
        }
    }
}
