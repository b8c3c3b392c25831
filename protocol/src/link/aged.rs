//! What is left of a frame's times after it has waited in a queue?

use super::{Head, Letter, Load, Prepare, Word};
use std::borrow::Cow;

impl Head {
    /// The head with `ms` taken off the times that run from its arrival; borrowed where it has none. A time that is over is 0.
    pub fn aged(&self, ms: u64) -> Cow<'_, Head> {
        if ms == 0 || !self.has_times() {
            return Cow::Borrowed(self);
        }
        let mut aged = self.clone();
        match &mut aged {
            Head::Forward(forward) => match &mut forward.load {
                Load::Message(letter) => age_letter(letter, ms),
                Load::Prepare(prepare) => age_prepare(prepare, ms),
                _ => {}
            },
            Head::Direct(direct) => match &mut direct.word {
                Word::Query(query) => age_letter(&mut query.letter, ms),
                Word::Reply(reply) => age_letter(&mut reply.letter, ms),
                _ => {}
            },
            _ => {}
        }
        Cow::Owned(aged)
    }

    fn has_times(&self) -> bool {
        let letter = match self {
            Head::Forward(forward) => match &forward.load {
                Load::Message(letter) => letter,
                Load::Prepare(_) => return true,
                _ => return false,
            },
            Head::Direct(direct) => match &direct.word {
                Word::Query(query) => &query.letter,
                Word::Reply(reply) => &reply.letter,
                _ => return false,
            },
            _ => return false,
        };
        letter.expires_within.is_some()
    }
}

fn age_prepare(prepare: &mut Prepare, ms: u64) {
    prepare.start_within = prepare.start_within.saturating_sub(ms);
    prepare.reply_within = prepare.reply_within.saturating_sub(ms);
    age_letter(&mut prepare.letter, ms);
}

fn age_letter(letter: &mut Letter, ms: u64) {
    letter.expires_within = letter.expires_within.map(|within| within.saturating_sub(ms));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Forward, Serial};
    use crate::message::BrokerName;

    fn forward(load: Load) -> Head {
        let origin = BrokerName::parse("a").unwrap();
        Head::Forward(Forward {
            to: [origin.clone()].into(),
            origin,
            instance: 1,
            sequence: 2,
            epoch: 3,
            flood: false,
            hops: 0,
            load,
        })
    }

    fn letter(expires_within: Option<u64>) -> Letter {
        Letter {
            caller: "u".to_owned(),
            destination: "/topic/a".to_owned(),
            headers: Vec::new(),
            target: None,
            nodes: None,
            reply_to: None,
            request: None,
            expires_within,
        }
    }

    #[test]
    fn waiting_takes_time_off_and_never_below_nothing() {
        let prepare = Prepare {
            serial: 1,
            letter: letter(Some(50)),
            start_within: 100,
            reply_within: 1000,
            dry_run: false,
            hold: false,
        };
        let head = forward(Load::Prepare(prepare));
        let aged = head.aged(300);
        let Head::Forward(Forward { load: Load::Prepare(left), .. }) = &*aged else { panic!("{aged:?}") };
        assert_eq!((left.start_within, left.reply_within, left.letter.expires_within), (0, 700, Some(0)));
        let message = forward(Load::Message(letter(Some(500))));
        let expected = forward(Load::Message(letter(Some(499))));
        assert_eq!(*message.aged(1), expected);
    }

    #[test]
    fn what_has_no_times_is_not_copied() {
        let head = forward(Load::Message(letter(None)));
        assert!(matches!(head.aged(10), Cow::Borrowed(_)));
        assert!(matches!(forward(Load::Commit(Serial { serial: 1 })).aged(10), Cow::Borrowed(_)));
        assert!(matches!(forward(Load::Message(letter(Some(5)))).aged(0), Cow::Borrowed(_)));
    }
}
