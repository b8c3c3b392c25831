//! Which questions of operators wait for answers of other brokers? What each has said, and what is said when all have.

use super::access::Limit;
use super::event::SessionId;
use super::limits::words;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Query, Refused, Said};
use muster_protocol::message::{BrokerName, NodeId, RequestId};
use muster_protocol::policy::EditAnswer;
use muster_protocol::request::{
    ExplainAnswer, FindAnswer, Missing, NodeAnswer, Reached, ReportAnswer, ValueCount, Why,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// When a broker that has not answered is asked again, ms after the question.
const AGAIN: [u64; 3] = [300, 1_000, 2_000];
/// When it is given up, ms.
const GIVE_UP: u64 = 3_000;
/// The same for an edit, which is made and written to disk.
const GIVE_UP_EDIT: u64 = 15_000;
/// How long a broker may be out of reach before it is given up, ms.
const LOST: u64 = 500;
/// Gone nodes in one answer.
const GONE_MOST: usize = 1_000;
/// Stands in a cursor for the node after which a page begins, where it begins with a broker's first.
pub const FROM_THE_FIRST: &str = "-";

/// Where an answer goes.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Who asked.
    pub session: SessionId,
    /// The reply queue, by the broker's name.
    pub queue: Destination,
    /// The caller's id of the question.
    pub request: Option<RequestId>,
}

/// What is made of the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gather {
    /// One page of nodes.
    Find {
        /// Nodes on a page.
        limit: usize,
        /// Later pages say what the first one counted.
        count: Option<u64>,
        /// Brokers that come after the ones that are asked.
        later: Vec<BrokerName>,
    },
    /// A histogram of at most so many values.
    Report {
        /// Values.
        limit: usize,
    },
    /// What is known of a node.
    Node {
        /// Which.
        node: NodeId,
    },
    /// How many nodes a user reaches, beside what this broker's policy says of it.
    Explain(Box<ExplainAnswer>),
    /// What became of an edit of the policy; the authority is asked once.
    Edit,
}

/// A question under way.
#[derive(Debug)]
pub struct Inquiry {
    /// Where the answer goes.
    pub asker: Asker,
    /// What is made of the answers.
    pub gather: Gather,
    /// What is asked of other brokers.
    pub query: Query,
    said: BTreeMap<BrokerName, Option<Said>>,
    without: Vec<Missing>,
    begun: u64,
    tries: usize,
    look_at: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Inquiries {
    open: HashMap<u64, Inquiry>,
    deadlines: BTreeSet<(u64, u64)>,
    last: u64,
}

/// What a question needs now.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// These brokers are to be asked again.
    Again(Vec<BrokerName>),
    /// This broker does not answer.
    Silent(BrokerName, &'static str),
}

/// The answer of all brokers together.
#[derive(Debug, PartialEq)]
pub enum Gathered {
    /// A page.
    Find(FindAnswer),
    /// A histogram.
    Report(ReportAnswer),
    /// A node.
    Node(Box<NodeAnswer>),
    /// What a user may do.
    Explain(Box<ExplainAnswer>),
    /// What the authority said of an edit.
    Edit(Result<EditAnswer, Refusal>),
    /// No broker knows the node; these could not be asked.
    NoSuchNode(NodeId, Vec<Missing>),
}

impl Inquiries {
    /// The number that the next question will get.
    pub fn next_serial(&self) -> u64 {
        self.last + 1
    }

    /// Begins: `asked` are the brokers that are to answer. `now` is monotonic ms.
    pub fn begin(
        &mut self,
        asker: Asker,
        gather: Gather,
        query: Query,
        asked: Vec<BrokerName>,
        without: Vec<Missing>,
        now: u64,
    ) -> u64 {
        self.last += 1;
        let said = asked.into_iter().map(|broker| (broker, None)).collect();
        let look_at = now + gather.again().first().copied().unwrap_or_else(|| gather.give_up());
        let inquiry = Inquiry { asker, gather, query, said, without, begun: now, tries: 0, look_at };
        self.deadlines.insert((inquiry.look_at, self.last));
        self.open.insert(self.last, inquiry);
        self.last
    }

    /// Looks at a question.
    pub fn get(&self, serial: u64) -> Option<&Inquiry> {
        self.open.get(&serial)
    }

    /// A broker has answered.
    pub fn answer(&mut self, serial: u64, broker: &BrokerName, said: Said) {
        if let Some(answer) = self.open.get_mut(&serial).and_then(|inquiry| inquiry.said.get_mut(broker)) {
            answer.get_or_insert(said);
        }
    }

    /// A broker does not answer.
    pub fn miss(&mut self, serial: u64, missing: Missing) {
        if let Some(inquiry) = self.open.get_mut(&serial) {
            inquiry.said.retain(|broker, said| said.is_some() || broker.as_str() != missing.broker);
            inquiry.without.push(missing);
        }
    }

    /// The answer, if all have said theirs, or one is enough.
    pub fn finish(&mut self, serial: u64) -> Option<(Asker, Gathered)> {
        let inquiry = self.open.get(&serial)?;
        if !inquiry.is_answered() {
            return None;
        }
        let inquiry = self.drop(serial)?;
        Some((inquiry.asker.clone(), inquiry.gathered()))
    }

    /// The questions of a session are asked no more.
    pub fn forget(&mut self, session: SessionId) {
        let its: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, inquiry)| inquiry.asker.session == session)
            .map(|(serial, _)| *serial)
            .collect();
        for serial in its {
            self.drop(serial);
        }
    }

    /// How many questions of a session are open.
    pub fn asked_by(&self, session: SessionId) -> usize {
        self.open.values().filter(|inquiry| inquiry.asker.session == session).count()
    }

    /// How many questions are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A question that wants to be looked at, at `now` (monotonic ms).
    pub fn due(&self, now: u64) -> Option<u64> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, serial)| *serial)
    }

    /// What a question needs now; `lost` says since when there is no way to a broker.
    pub fn look(&mut self, serial: u64, now: u64, lost: impl Fn(&BrokerName) -> Option<u64>) -> Option<Due> {
        let inquiry = self.open.get_mut(&serial)?;
        let due = inquiry.needs(now, &lost);
        self.deadlines.remove(&(inquiry.look_at, serial));
        inquiry.look_at = if due.is_some() { now } else { inquiry.next_look(now, &lost) };
        self.deadlines.insert((inquiry.look_at, serial));
        due
    }

    /// The ways have changed: every question is looked at again.
    pub fn look_at_all(&mut self, now: u64) {
        self.deadlines = self.open.keys().map(|serial| (now, *serial)).collect();
        self.open.values_mut().for_each(|inquiry| inquiry.look_at = now);
    }

    /// The next deadline, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn drop(&mut self, serial: u64) -> Option<Inquiry> {
        let inquiry = self.open.remove(&serial)?;
        self.deadlines.remove(&(inquiry.look_at, serial));
        Some(inquiry)
    }
}

impl Gather {
    /// When a silent broker is asked again. An edit that arrives twice could be made twice.
    fn again(&self) -> &'static [u64] {
        if *self == Gather::Edit { &[] } else { &AGAIN }
    }

    fn give_up(&self) -> u64 {
        if *self == Gather::Edit { GIVE_UP_EDIT } else { GIVE_UP }
    }
}

impl Inquiry {
    fn is_answered(&self) -> bool {
        let is_connected = |said: &Option<Said>| matches!(said, Some(Said::Node(node)) if node.state == "connected");
        self.said.values().all(Option::is_some) || self.said.values().any(is_connected)
    }

    fn silent(&self) -> impl Iterator<Item = &BrokerName> {
        self.said.iter().filter(|(_, said)| said.is_none()).map(|(broker, _)| broker)
    }

    fn needs(&mut self, now: u64, lost: impl Fn(&BrokerName) -> Option<u64>) -> Option<Due> {
        for broker in self.silent() {
            if lost(broker).is_some_and(|since| now >= since.max(self.begun).saturating_add(LOST)) {
                return Some(Due::Silent(broker.clone(), "it can be reached no more"));
            }
            if now >= self.begun + self.gather.give_up() {
                return Some(Due::Silent(broker.clone(), "it did not answer"));
            }
        }
        let at = self.gather.again().get(self.tries)?;
        if now < self.begun + at {
            return None;
        }
        self.tries += 1;
        Some(Due::Again(self.silent().cloned().collect()))
    }

    fn next_look(&self, now: u64, lost: impl Fn(&BrokerName) -> Option<u64>) -> u64 {
        let mut next =
            self.begun + self.gather.again().get(self.tries).copied().unwrap_or_else(|| self.gather.give_up());
        for since in self.silent().filter_map(lost) {
            next = next.min(since.max(self.begun).saturating_add(LOST));
        }
        next.max(now + 1)
    }

    fn gathered(self) -> Gathered {
        let Inquiry { gather, said, mut without, .. } = self;
        if gather == Gather::Edit {
            return Gathered::Edit(edited(said, &without));
        }
        let mut answers = Vec::new();
        for (broker, said) in said {
            match said {
                // A node that is not there is no reason to doubt the answer of the others.
                Some(Said::Refused(refused)) if refused.code == "no-such-node" => {}
                Some(Said::Refused(refused)) => without.push(Missing {
                    broker: broker.to_string(),
                    why: Why::Refused,
                    text: format!("{}: {}", refused.code, refused.text),
                    nodes: None,
                }),
                Some(said) => answers.push((broker, said)),
                None => {}
            }
        }
        without.sort_by(|a, b| a.broker.cmp(&b.broker));
        match gather {
            Gather::Find { limit, count, later } => Gathered::Find(page(answers, limit, count, &later, without)),
            Gather::Report { limit } => Gathered::Report(histogram(answers, limit, without)),
            Gather::Node { node } => one_node(answers, node, without),
            Gather::Explain(answer) => Gathered::Explain(reach(answer, &answers, without)),
            Gather::Edit => Gathered::Edit(edited(BTreeMap::new(), &without)),
        }
    }
}

/// One page of the brokers' nodes, a broker after the other; the answer of one that does not fit begins the next page.
fn page(
    answers: Vec<(BrokerName, Said)>,
    limit: usize,
    count: Option<u64>,
    later: &[BrokerName],
    without: Vec<Missing>,
) -> FindAnswer {
    let answers: Vec<(BrokerName, FindAnswer)> = answers
        .into_iter()
        .filter_map(|(broker, said)| if let Said::Find(answer) = said { Some((broker, answer)) } else { None })
        .collect();
    let total = count.unwrap_or_else(|| answers.iter().map(|(_, answer)| answer.count).sum());
    let cursor = |broker: &BrokerName, after: &str| Some(format!("{broker}/{after}/{total}"));
    let mut all = FindAnswer { count: total, without, ..FindAnswer::default() };
    for (broker, mut answer) in answers {
        // The first page has said it.
        if count.is_none() {
            all.registering += answer.registering;
            all.gone.append(&mut answer.gone);
        }
        if all.next.is_some() || answer.nodes.is_empty() && answer.next.is_none() {
            continue;
        }
        if !all.nodes.is_empty() && all.nodes.len() + answer.nodes.len() > limit {
            all.next = cursor(&broker, FROM_THE_FIRST);
            continue;
        }
        all.nodes.append(&mut answer.nodes);
        all.next = answer.next.as_ref().and_then(|after| cursor(&broker, after));
    }
    if all.next.is_none() {
        all.next = later.first().and_then(|broker| cursor(broker, FROM_THE_FIRST));
    }
    all.gone.sort_by_key(|gone| std::cmp::Reverse(gone.at));
    all.gone.truncate(GONE_MOST);
    all
}

fn histogram(answers: Vec<(BrokerName, Said)>, limit: usize, without: Vec<Missing>) -> ReportAnswer {
    let mut all = ReportAnswer { without, ..ReportAnswer::default() };
    // By the text of the JSON, which tells 1 from "1".
    let mut values: BTreeMap<String, ValueCount> = BTreeMap::new();
    for (_, said) in answers {
        let Said::Report(answer) = said else { continue };
        all.count += answer.count;
        all.missing += answer.missing;
        all.more += answer.more;
        for value in answer.values {
            match values.entry(value.value.to_string()) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().count += value.count,
            }
        }
    }
    all.values = values.into_values().collect();
    all.values.sort_by_key(|value| std::cmp::Reverse(value.count));
    all.more += all.values.len().saturating_sub(limit) as u64;
    all.values.truncate(limit);
    all
}

/// All nodes that are reached, against the limit that counts them over the whole mesh.
fn reach(mut answer: Box<ExplainAnswer>, answers: &[(BrokerName, Said)], without: Vec<Missing>) -> Box<ExplainAnswer> {
    let counts = answers.iter().map(|(_, said)| if let Said::Reach(reached) = said { reached.nodes } else { 0 });
    let nodes = counts.fold(0, u64::saturating_add);
    let limit = answer.limits.iter().find(|bound| bound.limit == Limit::MaxTargets.as_str());
    let text = limit.and_then(|bound| {
        if nodes > bound.most {
            answer.allowed = false;
            return Some(format!("\nThe filter is refused (too-many-targets): {}.", words(bound)));
        }
        let names: Vec<&str> = without.iter().map(|missing| missing.broker.as_str()).collect();
        (!names.is_empty()).then(|| {
            let (bound, names) = (words(bound), names.join(", "));
            format!("\nA request is refused (partial) unless it allows a partial count: {bound}, and {names} cannot be asked.")
        })
    });
    answer.text.extend(text);
    (answer.reached, answer.without) = (Some(Reached { nodes }), without);
    answer
}

/// What the authority said; if nothing, nobody knows whether it made the edit.
fn edited(said: BTreeMap<BrokerName, Option<Said>>, without: &[Missing]) -> Result<EditAnswer, Refusal> {
    match said.into_values().flatten().next() {
        Some(Said::Edit(answer)) => Ok(answer),
        Some(Said::Refused(Refused { code, text })) => {
            Err(Refusal::new(Code::parse(&code).unwrap_or(Code::Internal), text))
        }
        _ => {
            let who =
                without.first().map(|missing| format!("{}: {}", missing.broker, missing.text)).unwrap_or_default();
            let text = format!("{who}; whether the edit was made is not known, `muster admin history` will say");
            Err(Refusal::new(Code::NoAuthority, text))
        }
    }
}

/// The connected one, else the one that registers, else the one that was seen last.
fn one_node(answers: Vec<(BrokerName, Said)>, node: NodeId, without: Vec<Missing>) -> Gathered {
    let known = answers.into_iter().filter_map(|(_, said)| if let Said::Node(node) = said { Some(node) } else { None });
    let rank = |node: &NodeAnswer| match node.state.as_str() {
        "connected" => (2, node.since),
        "registering" => (1, node.since),
        _ => (0, node.gone.as_ref().map_or(0, |gone| gone.at)),
    };
    match known.max_by_key(|node| rank(node)) {
        Some(node) => Gathered::Node(node),
        None => Gathered::NoSuchNode(node, without),
    }
}

#[cfg(test)]
mod tests;
