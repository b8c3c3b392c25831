//! `muster run`: how does an action reach the nodes that match, and no more of them than the operator means?

use super::batches::{Amount, cut};
use super::drive::{Stop, drive};
use super::outcome::{Outcome, as_it_comes};
use super::target::TargetOptions;
use super::{Context, Failure, Format, output};
use crate::client::{Client, Request, Target};
use crate::replies::Replies;
use crate::summary::Summary;
use crate::without::Without;
use clap::Args;
use muster_protocol::destination::Destination;
use muster_protocol::error::Code;
use muster_protocol::message::{NodeId, RequestId};
use muster_protocol::request::{FindQuery, MAX_REPLY_WITHIN};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Module and action, such as service.status
    #[arg(value_name = "MODULE.ACTION")]
    action: String,
    /// Arguments: name=text, or name:=JSON for numbers, booleans, lists
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    #[command(flatten)]
    target: TargetOptions,
    #[command(flatten)]
    guards: Guards,
    /// Print each answer as it comes, instead of equal ones together at the end
    #[arg(long, help_heading = "Output")]
    ungrouped: bool,
    #[command(flatten)]
    format: Format,
}

/// The options that bound a request: in time, in nodes, in batches.
#[derive(Debug, Args)]
#[command(next_help_heading = "Request")]
struct Guards {
    /// How long answers are awaited, such as 90s or 10m; at most 24h [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = within)]
    timeout: Option<Duration>,
    /// How late a node may still start [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = within)]
    start_within: Option<Duration>,
    /// Ask the first N, or N%, of the nodes that match
    #[arg(long, value_name = "N|N%")]
    limit: Option<Amount>,
    /// Ask N, or N%, of the nodes at a time; the next when all of these are accounted for
    #[arg(long, value_name = "N|N%")]
    batch: Option<Amount>,
    /// Begin no further batch when more than N nodes were not ok
    #[arg(long, value_name = "N", default_value_t = 0, requires = "batch")]
    max_failures: u64,
    /// Ask nobody unless exactly N nodes match; also says yes to that number
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    /// Ask nobody if more than N nodes match
    #[arg(long, value_name = "N")]
    max_targets: Option<u64>,
    /// Go on when brokers are missing: the guards and the question then hold for the others only
    #[arg(long)]
    allow_partial: bool,
    /// Ask nobody; print the nodes that would be asked
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before a request to many nodes
    #[arg(short = 'y', long)]
    yes: bool,
}

/// A time of a request: above zero, at most 24 hours.
pub(super) fn within(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time {
        Duration::ZERO => Err("must be longer than nothing".into()),
        time if time > MAX_REPLY_WITHIN => Err("at most 24h".into()),
        time => Ok(time),
    }
}

impl Run {
    pub(crate) async fn run(&self, context: &mut Context) -> Result<u8, Failure> {
        let target = self.target.resolve()?;
        let arguments = arguments("argument", &self.arguments)?;
        let settings = context.settings()?;
        let (module, destination) = action_topic(&settings.collective, &self.action)?;
        let quiet = self.guards.yes || self.guards.dry_run || self.guards.expect.is_some();
        let threshold = (!quiet).then_some(settings.confirm_above);
        let client = context.client().await?;
        let mut request = Request::new(destination, target);
        request.arguments = arguments;
        request.reply_within = self.guards.timeout;
        request.start_within = self.guards.start_within;
        request.dry_run = self.guards.dry_run;
        request.allow_partial = self.guards.allow_partial;
        let mut work = Work { run: self, client, context, module, threshold, begun: Instant::now() };
        let outcome = if self.guards.limit.is_some() || self.guards.batch.is_some() {
            Box::pin(work.in_batches(request)).await?
        } else {
            Box::pin(work.at_once(request)).await?
        };
        outcome.print(&mut context.surface, self.format, self.ungrouped)?;
        Ok(outcome.exit_code())
    }
}

/// The module, and the topic of `MODULE.ACTION` in the collective.
pub(super) fn action_topic(collective: &str, action: &str) -> Result<(String, String), Failure> {
    let wrong = |why: String| {
        Failure::Usage(format!("`{action}` is no action: {why}; expected MODULE.ACTION, such as service.status"))
    };
    let Some((module, rest)) = action.split_once('.') else { return Err(wrong("a dot is missing".into())) };
    if module.is_empty() || rest.is_empty() || rest.contains('.') {
        return Err(wrong("it must have two parts".into()));
    }
    let topic = format!("/topic/{collective}.{module}.{rest}");
    Destination::parse(&topic).map_err(|error| wrong(error.to_string()))?;
    Ok((module.to_owned(), topic))
}

/// `name=text` is a text, `name:=JSON` any value. `what` they are is for errors.
pub(super) fn arguments(what: &str, texts: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut map = Map::new();
    for text in texts {
        let wrong = |why: &str| Failure::Usage(format!("{what} `{text}`: {why}; expected name=text or name:=JSON"));
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("no `=`"))?;
        let (name, value) = match name.strip_suffix(':') {
            Some(name) => (name, serde_json::from_str(value).map_err(|error| wrong(&format!("not JSON ({error})")))?),
            None => (name, Value::from(value)),
        };
        if name.is_empty() {
            return Err(wrong("no name"));
        }
        if map.insert(name.to_owned(), value).is_some() {
            return Err(wrong("given twice"));
        }
    }
    Ok(map)
}

/// What is asked before a request that may be larger than it looks.
struct Question {
    /// Nodes that are known to match.
    count: u64,
    /// The guard of the request if the answer is yes. Below the threshold it is the threshold: so many need no question.
    most: u64,
    /// Brokers that the count is without.
    without: Without,
}

/// One `run` that is being carried out.
struct Work<'a> {
    run: &'a Run,
    client: Client,
    context: &'a mut Context,
    module: String,
    /// Above it the operator is asked; `None`: never.
    threshold: Option<u64>,
    begun: Instant,
}

impl Work<'_> {
    /// One request to all that match. The broker itself counts for the question before a large one: the request goes out
    /// with the threshold as its guard, and again, with the count that was confirmed as its guard, if that was too low.
    async fn at_once(&mut self, mut request: Request) -> Result<Outcome, Failure> {
        let guards = &self.run.guards;
        request.expect_targets = guards.expect;
        request.max_targets = guards.max_targets.into_iter().chain(self.threshold).min();
        let (mut accounts, mut stop) = self.drive(std::slice::from_ref(&request), &[], None).await?;
        // Twice at the most: that brokers are missing may come to light only when the size has been confirmed.
        for _ in 0..2 {
            let Some(question) = self.to_confirm(&request, &accounts).await? else { break };
            self.confirm(&question).await?;
            request.id = RequestId::random();
            request.max_targets = Some(question.most);
            request.allow_partial |= !question.without.is_empty();
            (accounts, stop) = self.drive(std::slice::from_ref(&request), &[], None).await?;
        }
        Ok(self.outcome(vec![request], accounts, stop))
    }

    /// What to ask, if the broker refused because of our threshold and not because of the operator's own limit: more nodes
    /// match, or how many do cannot be told while brokers are missing.
    async fn to_confirm(&self, request: &Request, accounts: &[Replies]) -> Result<Option<Question>, Failure> {
        let own_limit = self.run.guards.max_targets;
        let (Some(refused), Some(threshold)) = (accounts.iter().find_map(Replies::refusal), self.threshold) else {
            return Ok(None);
        };
        let partial = match refused.code {
            // Where our own guard would have let it pass, it is a limit of the policy: no answer of the operator lifts it.
            Some(Code::TooManyTargets) if refused.count.is_none_or(|count| request.max_targets < Some(count)) => false,
            Some(Code::Partial) if own_limit.is_none() => true,
            _ => return Ok(None),
        };
        let mut without = Summary::of(accounts).without;
        let count = match refused.count {
            Some(count) if !partial || !without.is_empty() => count,
            _ => {
                let found = self.client.find(&request.target, &self.query(Some(1))).await?;
                without.merge(&found.without.iter().collect());
                found.count
            }
        };
        let most = own_limit.unwrap_or(u64::MAX);
        let question = Question { count, most: count.max(threshold).min(most), without };
        Ok((count > 0 && count <= most).then_some(question))
    }

    /// The nodes are chosen first; each batch is a request narrowed to some of them, and begins when the one before has ended.
    async fn in_batches(&mut self, template: Request) -> Result<Outcome, Failure> {
        let guards = &self.run.guards;
        let most =
            guards.limit.and_then(|limit| if let Amount::Nodes(nodes) = limit { Some(nodes.get()) } else { None });
        let found = self.client.find_all(&template.target, self.query(None), most).await?;
        let without: Without = found.without.iter().collect();
        let wanted = guards.limit.map_or(found.count, |limit| limit.of(found.count));
        let chosen: Vec<_> = found.nodes.into_iter().take(usize::try_from(wanted).unwrap_or(usize::MAX)).collect();
        let nodes: Vec<NodeId> = chosen.iter().map(|node| node.id).collect();
        let total = nodes.len() as u64;
        self.check_guards(total, &without)?;
        self.confirm(&Question { count: total, most: total, without: without.clone() }).await?;
        let size = guards.batch.map_or(u64::MAX, |batch| batch.of(total));
        let mut groups = cut(&nodes, size).into_iter();
        let count = groups.len();
        let (mut requests, mut accounts, mut stop) = (Vec::new(), Vec::new(), Stop::Over);
        for (index, group) in groups.by_ref().enumerate() {
            let group: Vec<Request> = group.into_iter().map(|nodes| narrowed(&template, nodes)).collect();
            let (ended, how) = self.drive(&group, &accounts, Some(total)).await?;
            accounts.extend(ended);
            requests.extend(group);
            stop = how;
            if let Some(why) = self.halt(&accounts, &stop) {
                if index + 1 < count {
                    self.context.surface.note(&format!("Stopped after batch {} of {count}: {why}.", index + 1));
                }
                break;
            }
        }
        let mut outcome = self.outcome(requests, accounts, stop);
        if outcome.accounts.is_empty() {
            // Nothing was sent, so nothing can be in doubt: no node matches.
            outcome.requests.push(template);
        }
        outcome.without = without;
        outcome.not_asked = groups.flatten().flatten().collect();
        outcome.chosen = chosen.into_iter().map(|node| (node.id, node.display)).collect();
        Ok(outcome)
    }

    /// The broker checks the guards of one request; of several that make one command they are checked here.
    fn check_guards(&self, total: u64, without: &Without) -> Result<(), Failure> {
        let guards = &self.run.guards;
        let refused =
            |code: Code, text: String| Err(Failure::Refused(format!("refused: {code}: {text}\n  {}", code.cure())));
        match (guards.expect, guards.max_targets) {
            (_, Some(most)) if total > most => {
                refused(Code::TooManyTargets, format!("{} to be asked, more than {most}", output::nodes(total)))
            }
            (Some(_), _) | (_, Some(_)) if !without.is_empty() && !guards.allow_partial => {
                let lines: String =
                    without.iter().map(|missing| format!("\n  {}", output::without_line(missing))).collect();
                let cure = format!("{} Here: --allow-partial.", Code::Partial.cure());
                let known = format!("{} known, but brokers are missing", output::nodes(total));
                Err(Failure::Refused(format!("refused: {}: {known}\n  {cure}{lines}", Code::Partial)))
            }
            (Some(expected), _) if expected != total => {
                refused(Code::UnexpectedTargets, format!("{} to be asked, not {expected}", output::nodes(total)))
            }
            _ => Ok(()),
        }
    }

    /// Why no further batch may begin, if so.
    fn halt(&self, accounts: &[Replies], stop: &Stop) -> Option<String> {
        let summary = Summary::of(accounts);
        let not_ok = summary.not_ok();
        match stop {
            Stop::Over if summary.refused => Some("a request was refused".into()),
            Stop::Over if not_ok > self.run.guards.max_failures => {
                Some(format!("{} not ok (--max-failures {})", output::nodes(not_ok), self.run.guards.max_failures))
            }
            Stop::Over => None,
            Stop::Lost(_) => Some("the connection was lost".into()),
            Stop::GivenUp => Some("the broker did not close the account".into()),
            Stop::Cancelled | Stop::Detached => Some("interrupted".into()),
        }
    }

    /// Asks, if there is anything to ask: more nodes than the threshold, or a number that is not the whole one.
    async fn confirm(&mut self, question: &Question) -> Result<(), Failure> {
        let Question { count, without, .. } = question;
        let Some(threshold) = self.threshold else { return Ok(()) };
        let (large, partial) = (*count > threshold, !without.is_empty());
        let unasked = partial && !self.run.guards.allow_partial;
        if !large && (!unasked || *count == 0) {
            return Ok(());
        }
        let mut what = format!("{} would go to {}", self.run.action, output::nodes(*count));
        if large {
            what.push_str(&format!(", more than {threshold}"));
        }
        if partial {
            what.push_str(&format!("; a partial count, without {}", without.names()));
        }
        let surface = &mut self.context.surface;
        surface.progress.clear();
        output::note_without(surface, without);
        if !surface.asks {
            let allow = if unasked { "--allow-partial" } else { "" };
            let expect = if large { format!("--expect {count}") } else { String::new() };
            let options =
                [allow, &expect].into_iter().filter(|option| !option.is_empty()).collect::<Vec<_>>().join(" ");
            let mut cure = format!("say --yes, or {options}, if that is what you mean");
            if large {
                cure.push_str("; `confirm-above` in the configuration moves the threshold");
            }
            return Err(Failure::Refused(format!("{what}, and there is no terminal to ask on: {cure}")));
        }
        match surface.ask(&format!("{what}. Go on? [y/N] ")).await.as_deref().map(str::to_lowercase).as_deref() {
            Some("y" | "yes") => Ok(()),
            Some(_) => Err(Failure::Refused("not confirmed; nothing was sent".into())),
            None => Err(Failure::Interrupted),
        }
    }

    async fn drive(
        &mut self,
        requests: &[Request],
        before: &[Replies],
        planned: Option<u64>,
    ) -> Result<(Vec<Replies>, Stop), Failure> {
        let (format, ungrouped) = (self.run.format, self.run.ungrouped);
        let mut watch = |surface: &mut super::surface::Surface, index: usize, event: &_, _| {
            as_it_comes(surface, &requests[index], event, format, ungrouped)
        };
        Box::pin(drive(&self.client, &mut self.context.surface, requests, (before, planned), &mut watch)).await
    }

    fn query(&self, limit: Option<u32>) -> FindQuery {
        FindQuery { module: Some(self.module.clone()), limit, ..FindQuery::default() }
    }

    fn outcome(&mut self, requests: Vec<Request>, accounts: Vec<Replies>, stop: Stop) -> Outcome {
        self.context.surface.progress.clear();
        Outcome::of(requests, accounts, stop, self.begun.elapsed())
    }
}

/// The same request to these nodes only, and to no more of them than there are. They have been counted: a broker that goes
/// missing now takes its nodes along, and leaves no number in doubt.
fn narrowed(template: &Request, nodes: Vec<NodeId>) -> Request {
    let target: Target = template.target.clone();
    let max_targets = Some(nodes.len() as u64);
    Request { id: RequestId::random(), max_targets, allow_partial: true, nodes, target, ..template.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_are_texts_or_json() {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let map = arguments("argument", &own(&["name=a=b", "count:=3", "on:=true", "empty="])).unwrap();
        assert_eq!(Value::Object(map), json!({"name": "a=b", "count": 3, "on": true, "empty": ""}));
        for wrong in [&["name"] as &[&str], &["=x"], &["a:=x"], &["a=1", "a=2"], &[":=1"]] {
            assert!(matches!(arguments("argument", &own(wrong)), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn actions_have_two_parts() {
        assert_eq!(action_topic("prod", "service.status").unwrap().1, "/topic/prod.service.status");
        for wrong in ["service", "a.b.c", ".b", "a.", "a b.c", "*.x", "a.>"] {
            assert!(matches!(action_topic("prod", wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn times_are_above_zero_and_at_most_a_day() {
        assert_eq!(within("90s"), Ok(Duration::from_secs(90)));
        assert!(within("0s").is_err() && within("25h").is_err() && within("soon").is_err());
    }
}
