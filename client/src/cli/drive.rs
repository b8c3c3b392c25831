//! What happens while requests are under way? Events into accounts, until done, lost, given up, or Ctrl-C.

use super::Failure;
use super::output;
use super::surface::Surface;
use super::text;
use crate::client::{Client, ClientError, Events, Request};
use crate::events::RequestEvent;
use crate::replies::Replies;
use crate::summary::Summary;
use muster_protocol::request::DEFAULT_REPLY_WITHIN;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// How much later than the last answer the broker's `done` may come before we give up.
const GRACE: Duration = Duration::from_secs(15);
/// After a cancel: the broker itself gives the nodes 5 s to confirm.
const CANCEL_LIMIT: Duration = Duration::from_secs(7);
/// Nodes that are named when Ctrl-C is pressed; the rest is counted.
const NAMED: usize = 20;
const CHOICE: &str = "[c]ancel them, [d]etach (they go on, their answers are lost) or [w]ait on? ";

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The broker has accounted for every target.
    Over,
    /// The connection was lost.
    Lost(String),
    /// The broker never closed the account.
    GivenUp,
    /// Ctrl-C, and the nodes were told to stop.
    Cancelled,
    /// Ctrl-C, and the nodes go on.
    Detached,
}

/// Is told of each event, with the index of its request and the time since the start.
pub(crate) type Watch<'a> = &'a mut (dyn FnMut(&mut Surface, usize, &RequestEvent, Duration) -> io::Result<()> + Send);

type Cancel<'a> = Pin<Box<dyn Future<Output = Result<(), ClientError>> + 'a>>;

/// What the operator wants after Ctrl-C.
enum Mood {
    Running,
    Asked(oneshot::Receiver<String>),
    Cancelling,
}

/// Sends the requests and follows them to the end.
///
/// `before`: the accounts of earlier batches, which no error may lose. `planned`: nodes of all batches, for the progress bar.
pub(crate) async fn drive(
    client: &Client,
    surface: &mut Surface,
    requests: &[Request],
    (before, planned): (&[Replies], Option<u64>),
    watch: Watch<'_>,
) -> Result<(Vec<Replies>, Stop), Failure> {
    let planned_nodes = |request: &Request| Replies::planned(request.nodes.iter().copied()).dry_run(request.dry_run);
    let accounts: Vec<Replies> = requests.iter().map(planned_nodes).collect();
    let begun = Instant::now();
    let longest = requests.iter().map(|request| request.reply_within.unwrap_or(DEFAULT_REPLY_WITHIN)).max();
    let events = match client.request(requests).await {
        Ok(events) => events,
        Err(error) if before.is_empty() => return Err(error.into()),
        Err(error) => return Ok((accounts, Stop::Lost(error.to_string()))),
    };
    let under_way = UnderWay {
        client,
        requests,
        accounts,
        events,
        begun,
        deadline: begun + longest.unwrap_or_default() + GRACE,
        mood: Mood::Running,
        cancelling: None,
    };
    Box::pin(under_way.follow(surface, before, planned, watch)).await
}

struct UnderWay<'a> {
    client: &'a Client,
    requests: &'a [Request],
    accounts: Vec<Replies>,
    events: Events,
    begun: Instant,
    deadline: Instant,
    mood: Mood,
    /// Told to the broker while its events go on being read: the answer comes over the same connection.
    cancelling: Option<Cancel<'a>>,
}

impl UnderWay<'_> {
    async fn follow(
        mut self,
        surface: &mut Surface,
        before: &[Replies],
        planned: Option<u64>,
        watch: Watch<'_>,
    ) -> Result<(Vec<Replies>, Stop), Failure> {
        let stop = loop {
            if self.accounts.iter().all(Replies::is_over) {
                break if matches!(self.mood, Mood::Cancelling) { Stop::Cancelled } else { Stop::Over };
            }
            tokio::select! {
                event = self.events.next() => match event {
                    Ok((index, event)) => {
                        watch(surface, index, &event, self.begun.elapsed())?;
                        self.accounts[index].feed(event);
                        surface.progress.update(&[before, &self.accounts], planned);
                    }
                    Err(error) if before.is_empty() && self.accounts.iter().all(|account| account.total().is_none()) => {
                        if !matches!(error, ClientError::Refused(_)) {
                            surface.note("It is not known whether any node has the request.");
                        }
                        return Err(error.into());
                    }
                    Err(error) => break Stop::Lost(error.to_string()),
                },
                () = surface.interrupted() => match self.mood {
                    Mood::Running => self.first_interrupt(surface),
                    Mood::Asked(_) | Mood::Cancelling => {
                        surface.note("Interrupted again: the nodes named above may still be running.");
                        break Stop::Detached;
                    }
                },
                choice = chosen(&mut self.mood) => match choice.as_deref() {
                    Some("d" | "detach") => break Stop::Detached,
                    Some("w" | "wait") => self.mood = Mood::Running,
                    Some("c" | "cancel") | None => self.cancel(),
                    Some(_) => self.mood = Mood::Asked(surface.question(CHOICE)),
                },
                result = waited(&mut self.cancelling) => {
                    self.cancelling = None;
                    if let Err(error) = result {
                        surface.note(&format!("The cancel failed: {error}"));
                    }
                }
                () = sleep_until(self.deadline) => {
                    break if matches!(self.mood, Mood::Cancelling) { Stop::Cancelled } else { Stop::GivenUp };
                }
            }
        };
        Ok((self.accounts, stop))
    }

    fn first_interrupt(&mut self, surface: &mut Surface) {
        surface.note(&self.still_running());
        output::note_without(surface, &Summary::of(&self.accounts).without);
        if surface.asks {
            self.mood = Mood::Asked(surface.question(CHOICE));
        } else {
            surface.note("Cancelling.");
            self.cancel();
        }
    }

    fn cancel(&mut self) {
        self.mood = Mood::Cancelling;
        self.deadline = Instant::now() + CANCEL_LIMIT;
        let open = self.requests.iter().zip(&self.accounts).filter(|(_, account)| !account.is_over());
        let ids: Vec<_> = open.map(|(request, _)| request.id.clone()).collect();
        let client = self.client;
        self.cancelling = Some(Box::pin(async move {
            for id in &ids {
                match client.cancel(id).await {
                    Ok(_) => {}
                    // It ended by itself in the meantime.
                    Err(ClientError::Refused(refused))
                        if refused.code == Some(muster_protocol::error::Code::NoSuchRequest) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }));
    }

    /// How many nodes, and which, have not ended.
    fn still_running(&self) -> String {
        let waiting: Vec<_> = self.accounts.iter().flat_map(Replies::waiting).collect();
        let asked: u64 = self.accounts.iter().map(Replies::asked).sum();
        if self.accounts.iter().all(|account| account.total().is_none()) {
            return "Interrupted: the broker has not named the nodes yet.".into();
        }
        let mut out = format!("Interrupted: {} of {} have not ended.", waiting.len(), output::nodes(asked));
        for (id, node) in waiting.iter().take(NAMED) {
            let state = if node.started { "running" } else { "not known to have started" };
            out.push_str(&format!("\n  {id}  {}  ({state})", text::facts(&node.display)));
        }
        if waiting.len() > NAMED {
            out.push_str(&format!("\n  … and {} more", waiting.len() - NAMED));
        }
        out
    }
}

/// The answer to the question after Ctrl-C, when there is one; closed input is `None`.
async fn chosen(mood: &mut Mood) -> Option<String> {
    match mood {
        Mood::Asked(answer) => answer.await.ok(),
        Mood::Running | Mood::Cancelling => std::future::pending().await,
    }
}

async fn waited<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
