//! How did a command end? The sum over its requests, and the exit code.

use crate::replies::Replies;
use crate::without::Without;
use muster_protocol::request::State;
use std::collections::BTreeMap;

/// Everything ok.
pub const EXIT_OK: u8 = 0;
/// No node matched, or all declined; and no broker was missing.
pub const EXIT_NONE: u8 = 1;
/// Some failed, crashed or were denied.
pub const EXIT_FAILED: u8 = 2;
/// Some timed out, were lost, expired or cancelled, or a broker could not be reached.
pub const EXIT_MISSING: u8 = 3;
/// Refused: by a broker, or here because it would be.
pub const EXIT_REFUSED: u8 = 4;
/// No broker could be used.
pub const EXIT_UNREACHABLE: u8 = 5;

/// The sum of several requests that carry out one command, such as its batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Targets of all requests.
    pub asked: u64,
    /// How many ended in which state.
    pub states: BTreeMap<State, u64>,
    /// Targets that have no state: the connection was lost, or the wait was given up.
    pub unanswered: u64,
    /// Nodes that left before they were asked.
    pub vanished: u64,
    /// A request was refused.
    pub refused: bool,
    /// Brokers whose nodes are not, or not all, among the targets.
    pub without: Without,
    /// The accounts of broker and client differ, or the broker never closed its own.
    pub doubtful: bool,
}

impl Summary {
    /// Over all `requests`.
    pub fn of<'a>(requests: impl IntoIterator<Item = &'a Replies>) -> Summary {
        let mut sum = Summary::default();
        for replies in requests {
            sum.asked += replies.asked();
            for (state, count) in replies.states() {
                *sum.states.entry(*state).or_default() += count;
            }
            sum.without.merge(replies.without());
            sum.refused |= replies.refusal().is_some();
            if replies.refusal().is_none() {
                sum.vanished += replies.vanished().count() as u64;
                sum.doubtful |= !replies.is_over() || !replies.disagreements().is_empty();
            }
            if !replies.is_dry_run() {
                sum.unanswered += replies.asked() - replies.ended();
            }
        }
        sum
    }

    /// Nodes that ended in one of these states.
    pub fn count(&self, states: &[State]) -> u64 {
        states.iter().filter_map(|state| self.states.get(state)).sum()
    }

    /// Nodes that were asked, or were to be, and did not end `ok` or `declined`.
    pub fn not_ok(&self) -> u64 {
        self.asked.saturating_sub(self.count(&[State::Ok, State::Declined])) + self.vanished
    }

    /// The exit code, by the first that holds: 4 refused (by one broker is enough), 2 failed, 3 missing, 1 none, 0 ok.
    pub fn exit_code(&self) -> u8 {
        let missing = self.count(&[State::TimedOut, State::Lost, State::Expired, State::Cancelled]);
        if self.refused || self.without.refused() {
            EXIT_REFUSED
        } else if self.count(&[State::Failed, State::Crashed, State::Denied]) > 0 {
            EXIT_FAILED
        } else if missing + self.unanswered + self.vanished > 0 || self.doubtful || self.without.unreached() {
            EXIT_MISSING
        } else if self.count(&[State::Declined]) == self.asked {
            EXIT_NONE // no target at all, too
        } else {
            EXIT_OK
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Refused, RequestEvent};
    use crate::replies::tests::{accepted, code, done, ended, missing, reply};
    use muster_protocol::request::{Done, Why};

    fn refusal() -> RequestEvent {
        RequestEvent::Refused(Refused {
            code: None,
            code_text: "new".into(),
            text: String::new(),
            count: None,
            retry_after: None,
        })
    }

    #[test]
    fn the_exit_code_is_the_first_that_holds() {
        use State::{Crashed, Declined, Denied, Expired, Failed, Lost, Ok, TimedOut};
        for (ends, expected) in [
            (&[Ok, Ok] as &[State], EXIT_OK),
            (&[Ok, Declined], EXIT_OK),
            (&[Declined, Declined], EXIT_NONE),
            (&[], EXIT_NONE),
            (&[Ok, Lost], EXIT_MISSING),
            (&[Ok, Expired], EXIT_MISSING),
            (&[TimedOut, Declined], EXIT_MISSING),
            (&[Lost, Failed], EXIT_FAILED),
            (&[Ok, Crashed], EXIT_FAILED),
            (&[Ok, Denied], EXIT_FAILED),
        ] {
            let ids: Vec<u8> = (0..ends.len() as u8).collect();
            let mut states = BTreeMap::new();
            ends.iter().for_each(|state| *states.entry(*state).or_default() += 1);
            let mut events = vec![accepted(ids.len() as u64, &ids)];
            events.extend(ids.iter().zip(ends).map(|(&n, &state)| match state {
                Lost | Expired => ended(state, &[n]),
                _ => reply(n, state),
            }));
            events.push(RequestEvent::Done(Done { states, without: Vec::new() }));
            assert_eq!(code(&events), expected, "{ends:?}");
        }
        assert_eq!(code(&[refusal()]), EXIT_REFUSED);
    }

    #[test]
    fn a_missing_broker_is_as_bad_as_a_lost_node_and_one_that_refuses_is_a_refusal() {
        use Why::{Filtered, Refused, Unreachable};
        let all = |end: Option<State>, why: &[Why]| {
            let without: Vec<_> = why.iter().enumerate().map(|(n, why)| missing(&format!("dc{n}"), *why)).collect();
            let (nodes, states) = end.map_or((vec![], vec![]), |end| (vec![1], vec![(end, 1)]));
            let replies = nodes.iter().zip(end).map(|(&n, end)| reply(n, end));
            let first = accepted(nodes.len() as u64, &nodes);
            code(&std::iter::once(first).chain(replies).chain([done(&states, &without)]).collect::<Vec<_>>())
        };
        assert_eq!(all(Some(State::Ok), &[]), EXIT_OK);
        assert_eq!(all(Some(State::Ok), &[Unreachable]), EXIT_MISSING);
        assert_eq!(all(Some(State::Ok), &[Filtered]), EXIT_MISSING);
        assert_eq!(all(None, &[Unreachable]), EXIT_MISSING, "it may have nodes that match");
        assert_eq!(all(Some(State::Declined), &[Filtered]), EXIT_MISSING);
        assert_eq!(all(Some(State::Failed), &[Unreachable]), EXIT_FAILED);
        assert_eq!(all(Some(State::Failed), &[Unreachable, Refused]), EXIT_REFUSED);
        assert_eq!(all(Some(State::Ok), &[Refused]), EXIT_REFUSED);
    }
}
