//! Of which brokers is nothing, or not all, known? Each named once, and what that means for the exit code.

use crate::summary::{EXIT_MISSING, EXIT_NONE, EXIT_OK, EXIT_REFUSED};
use muster_protocol::request::{Missing, Why};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Brokers whose nodes are not, or not all, in an answer or account; in order of name. As JSON a list of [`Missing`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Without(BTreeMap<String, Missing>);

impl Without {
    /// Takes one in. What is heard later of the same broker counts, but for a refusal, which stands. Returns whether it
    /// changed anything.
    pub fn add(&mut self, missing: &Missing) -> bool {
        let known = self.0.get(&missing.broker);
        if known.is_some_and(|known| known == missing || (known.why == Why::Refused && missing.why != Why::Refused)) {
            return false;
        }
        self.0.insert(missing.broker.clone(), missing.clone());
        true
    }

    /// Takes all of another list in.
    pub fn merge(&mut self, other: &Without) {
        other.iter().for_each(|missing| {
            self.add(missing);
        });
    }

    /// They, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Missing> {
        self.0.values()
    }

    /// Whether no broker is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them refused.
    pub fn refused(&self) -> bool {
        self.iter().any(|missing| missing.why == Why::Refused)
    }

    /// Whether one of them could not be reached, or only past a link that does not let the destination pass.
    pub fn unreached(&self) -> bool {
        self.iter().any(|missing| missing.why != Why::Refused)
    }

    /// Their names: `dc1, dc2`.
    pub fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The exit code of a question that would end in `code` if nobody were missing.
    pub fn exit_code(&self, code: u8) -> u8 {
        match code {
            EXIT_OK | EXIT_NONE if self.refused() => EXIT_REFUSED,
            EXIT_OK | EXIT_NONE if self.unreached() => EXIT_MISSING,
            code => code,
        }
    }
}

impl<'a> FromIterator<&'a Missing> for Without {
    fn from_iter<I: IntoIterator<Item = &'a Missing>>(list: I) -> Without {
        let mut without = Without::default();
        list.into_iter().for_each(|missing| {
            without.add(missing);
        });
        without
    }
}

impl Serialize for Without {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(broker: &str, why: Why) -> Missing {
        Missing { broker: broker.into(), why, text: String::new(), nodes: None }
    }

    #[test]
    fn each_broker_is_named_once_and_a_refusal_stands() {
        let list = [
            missing("dc2", Why::Refused),
            missing("dc1", Why::Unreachable),
            missing("dc2", Why::Unreachable),
            missing("dc1", Why::Filtered),
        ];
        let without: Without = list.iter().collect();
        let expected = [missing("dc1", Why::Filtered), missing("dc2", Why::Refused)];
        assert_eq!(without.iter().cloned().collect::<Vec<_>>(), expected);
        assert_eq!(without.names(), "dc1, dc2");
        assert_eq!(serde_json::to_value(&without).ok(), serde_json::to_value(expected).ok());
    }

    #[test]
    fn an_answer_without_somebody_is_no_success_and_no_sign_that_nothing_matches() {
        let (away, filtered) = (missing("a", Why::Unreachable), missing("b", Why::Filtered));
        let refusing = missing("c", Why::Refused);
        for (list, code, expected) in [
            (vec![], EXIT_OK, EXIT_OK),
            (vec![], EXIT_NONE, EXIT_NONE),
            (vec![&away], EXIT_OK, EXIT_MISSING),
            (vec![&filtered], EXIT_NONE, EXIT_MISSING),
            (vec![&away, &refusing], EXIT_OK, EXIT_REFUSED),
            (vec![&refusing], EXIT_NONE, EXIT_REFUSED),
        ] {
            assert_eq!(list.iter().copied().collect::<Without>().exit_code(code), expected, "{list:?} {code}");
        }
    }
}
