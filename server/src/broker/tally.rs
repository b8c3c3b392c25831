//! How often did what happen since the start? Refusals by code, and nodes by the state in which they ended.

use super::Broker;
use muster_protocol::error::Code;
use muster_protocol::request::State;

/// Counts of a bounded number of things.
#[derive(Debug, Clone)]
pub struct Tally {
    refused: [u64; Code::ALL.len()],
    ended: [u64; State::ALL.len()],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { refused: [0; Code::ALL.len()], ended: [0; State::ALL.len()] }
    }
}

impl Tally {
    /// Refusals by code, every code in table order.
    pub fn refused(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.iter().copied().zip(self.refused)
    }

    /// Nodes of requests of this broker's sessions, by the state in which they ended.
    pub fn ended(&self) -> impl Iterator<Item = (State, u64)> {
        State::ALL.iter().copied().zip(self.ended)
    }

    pub(super) fn end(&mut self, state: State, nodes: usize) {
        self.ended[state as usize] += nodes as u64;
    }
}

impl Broker {
    /// What was counted by code and state.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// One refusal more.
    pub(super) fn count_refusal(&mut self, code: Code) {
        self.counters.refused += 1;
        self.tally.refused[code as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_at_its_place_in_the_table() {
        assert!(Code::ALL.iter().enumerate().all(|(place, code)| *code as usize == place));
        assert!(State::ALL.iter().enumerate().all(|(place, state)| *state as usize == place));
        let mut tally = Tally::default();
        tally.end(State::Cancelled, 3);
        assert_eq!(tally.ended().find(|(_, count)| *count > 0), Some((State::Cancelled, 3)));
    }
}
