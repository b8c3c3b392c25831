//! What does the policy say about itself? Explain, diff, lint and show: questions of admins, which change nothing.

use super::access::{Limit, User, diff, lint};
use super::event::{Now, Purpose};
use super::inquiries::Asker;
use super::limits::words;
use super::{BUDGET, Broker};
use muster_protocol::destination::{Destination, Kind};
use muster_protocol::error::{Code, Refusal};
use muster_protocol::filter::Filter;
use muster_protocol::policy::ShowAnswer;
use muster_protocol::request::{ExplainAnswer, ExplainQuery, Reached};

impl Broker {
    /// Answers a question about the policy; what it cost. The right to ask is checked.
    pub(super) fn ask_policy(
        &mut self,
        asker: &Asker,
        user: &User,
        purpose: Purpose,
        now: Now,
    ) -> Result<usize, Refusal> {
        match purpose {
            Purpose::Explain { query, filter } => {
                let (answer, cost) = self.explain(user, &query, filter.as_ref())?;
                self.reply_with(asker, &answer, now);
                Ok(cost)
            }
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

    /// What a user may do, and with a filter how many nodes of this broker it reaches: of those that the asker may see.
    fn explain(
        &self,
        asker: &User,
        query: &ExplainQuery,
        filter: Option<&Filter>,
    ) -> Result<(ExplainAnswer, usize), Refusal> {
        let mut answer = self.access.explain(&query.user, &query.right, &query.destination)?;
        let (Some(filter), Some(user)) = (filter, self.access.user(&query.user)) else { return Ok((answer, 1)) };
        let destination = Destination::parse(&query.destination);
        let Some(destination) = destination.ok().filter(|at| query.right == "write" && at.kind() == Kind::Topic) else {
            let text = "filter: only what is sent to a topic has a target; ask about `write` on /topic/…";
            return Err(Refusal::new(Code::BadBody, text));
        };
        self.refuse_hidden(asker, filter)?;
        if let Some(path) = self.access.hidden(user).first_in(filter) {
            answer.allowed = false;
            answer.hidden = Some(path.to_string());
            let text = format!("\nThe filter is refused (hidden-fact): {path} is hidden from {}.", user.name);
            answer.text.push_str(&text);
            return Ok((answer, 1));
        }
        let mut rows = self.reached(user, Some(filter), &destination, true);
        if let Some(own) = &asker.scope {
            rows &= self.nodes.matching(None, Some(own));
        }
        let (broker, nodes) = (self.mesh.me().to_string(), rows.len());
        let limit = answer.limits.iter().find(|bound| bound.limit == Limit::MaxTargets.as_str());
        if let Some(bound) = limit.filter(|bound| nodes > bound.most) {
            answer.allowed = false;
            answer.text.push_str(&format!("\nThe filter is refused (too-many-targets): {}.", words(bound)));
        }
        answer.reached = Some(Reached { broker, nodes });
        Ok((answer, 64 + self.nodes.cost(Some(filter), user.scope.as_ref())))
    }
}
