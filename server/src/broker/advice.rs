//! What does the policy say about itself? Explain, diff, lint and show: questions of admins, which change nothing.

use super::access::{User, diff, lint};
use super::event::{Now, Purpose, Sent, Target};
use super::inquiries::Asker;
use super::{BUDGET, Broker};
use muster_protocol::destination::{Destination, Kind};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::filter::Filter;
use muster_protocol::policy::ShowAnswer;
use muster_protocol::request::{ExplainQuery, Reached};

/// Why it is not said how many nodes a filter reaches.
enum Uncounted {
    /// The user of the policy may not name this fact.
    Refused(String),
    /// The user's scope asks about this fact, which the asker may not see: the number would tell which nodes have it.
    Untold(String),
}

impl Broker {
    /// Answers a question about the policy; what it cost. The right to ask is checked.
    pub(super) fn ask_policy(&mut self, asker: &Asker, purpose: Purpose, now: Now) -> Result<usize, Refusal> {
        match purpose {
            Purpose::Diff(policy) => {
                let answer = diff(&self.access, &policy);
                self.reply_with(asker, &answer, now);
                Ok(BUDGET)
            }
            Purpose::Lint(found) => {
                let answer = found.unwrap_or_else(|| lint(&self.access));
                self.reply_with(asker, &answer, now);
                Ok(BUDGET)
            }
            Purpose::Show(query) => {
                let generation = self.editions.current().generation();
                let answer = ShowAnswer { generation, ..self.access.show(&query)? };
                let cost = 1 + answer.len();
                self.reply_with(asker, &answer, now);
                Ok(cost)
            }
            _ => Err(Refusal::new(Code::Unsupported, "this is no question about the policy")),
        }
    }

    /// May a user do that, and by what? With a filter all brokers are asked how many nodes it reaches. The right to ask is checked.
    pub(super) fn explain(&mut self, asker: Asker, user: &User, mut sent: Sent, now: Now) -> Result<usize, Refusal> {
        let Purpose::Explain { query, filter } = &sent.purpose else { return Ok(1) };
        let mut answer = self.access.explain(&query.user, &query.right, &query.destination)?;
        if let Some(filter) = filter {
            topic(query)?;
            match self.uncounted(user, query, filter)? {
                None => {
                    (sent.target, sent.nodes) = (Target::Filter(filter.clone()), None);
                    return self.inquire(asker, user, sent, now);
                }
                Some(Uncounted::Refused(path)) => {
                    answer.allowed = false;
                    let text = format!("\nThe filter is refused (hidden-fact): {path} is hidden from {}.", query.user);
                    answer.text.push_str(&text);
                    answer.hidden = Some(path);
                }
                Some(Uncounted::Untold(path)) => {
                    let text = format!(
                        "\nThe nodes are not counted: the scope of {} asks about {path}, which is hidden from you.",
                        query.user
                    );
                    answer.text.push_str(&text);
                }
            }
        }
        self.reply_with(&asker, &answer, now);
        Ok(1)
    }

    /// How many nodes of this broker a user of the policy reaches, of those that the asker may see; and what it cost.
    pub(super) fn reach(
        &self,
        asker: &User,
        query: &ExplainQuery,
        filter: &Filter,
    ) -> Result<(Reached, usize), Refusal> {
        let topic = topic(query)?;
        let user = self.access.known(&query.user)?;
        if let Some(Uncounted::Refused(path) | Uncounted::Untold(path)) = self.uncounted(asker, query, filter)? {
            return Err(Refusal::new(Code::HiddenFact, format!("{path}: the policy hides this fact")));
        }
        let mut rows = self.reached(user, Some(filter), &topic, true);
        if let Some(own) = &asker.scope {
            rows &= self.nodes.matching(None, Some(own));
        }
        let cost = 64 + self.nodes.cost(Some(filter), user.scope.as_ref());
        Ok((Reached { nodes: rows.len() }, cost))
    }

    fn uncounted(&self, asker: &User, query: &ExplainQuery, filter: &Filter) -> Result<Option<Uncounted>, Refusal> {
        let user = self.access.known(&query.user)?;
        self.refuse_hidden(asker, filter)?;
        if let Some(path) = self.access.hidden(user).first_in(filter) {
            return Ok(Some(Uncounted::Refused(path.to_string())));
        }
        let of_other = user.scope.as_ref().filter(|_| user.name != asker.name);
        let untold = of_other.and_then(|scope| self.access.hidden(asker).first_in(scope));
        Ok(untold.map(|path| Uncounted::Untold(path.to_string())))
    }
}

/// The topic that a question with a filter is about: nothing else has a target.
fn topic(query: &ExplainQuery) -> Result<Destination, Refusal> {
    let destination = Destination::parse(&query.destination).ok();
    destination.filter(|at| query.right == "write" && at.kind() == Kind::Topic).ok_or_else(|| {
        let text = "filter: only what is sent to a topic has a target; ask about `write` on /topic/…";
        Refusal::new(Code::BadBody, text)
    })
}
