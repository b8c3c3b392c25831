//! Is there one policy in the end, and was no edit lost in silence? What was asked of the policy, and what must be true of it.

use super::actors::{header_of, json_of, send};
use super::clerk::has_group;
use super::site::At;
use super::world::{Happening, Seen, World};
use crate::broker::errand::Errand;
use crate::broker::outbox::Message;
use muster_protocol::message::header;
use muster_protocol::policy::{EditAnswer, Generation};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// After so long an edit has an answer, ms.
const ANSWERED: u64 = 20_000;
/// After so long every broker that can be reached enforces an edit, ms.
pub(super) const ENFORCED: u64 = 2_000;

/// An edit that adds a group, which has the name of the edit.
#[derive(Debug)]
struct Asked {
    at: At,
    sent: u64,
    /// Nothing stands in its way.
    is_sure: bool,
    answer: Option<Result<Generation, String>>,
    is_abandoned: bool,
}

/// The books of edits.
#[derive(Debug, Default)]
pub(super) struct Charter {
    last: u64,
    asked: BTreeMap<String, Asked>,
    /// Groups that were written into a file by hand, with the site.
    by_hand: BTreeSet<String>,
    takes: u64,
}

impl Charter {
    fn next(&mut self, prefix: char) -> String {
        self.last += 1;
        format!("{prefix}{}", self.last)
    }

    /// An operator reads what became of an edit; whether the message is about one.
    pub(super) fn got(&mut self, at: At, message: &Message) -> Result<bool, String> {
        let id = header_of(message, header::REQUEST);
        let Some(asked) = self.asked.get_mut(id) else { return Ok(false) };
        if asked.at != at || asked.answer.is_some() {
            return Err(format!("edit {id} was answered twice, or to somebody else"));
        }
        asked.answer = Some(if header_of(message, header::EVENT) == "answer" {
            let answer: EditAnswer = serde_json::from_value(json_of(message)).map_err(|e| format!("edit {id}: {e}"))?;
            Ok(answer.generation.ok_or(format!("edit {id} was made in no generation"))?)
        } else {
            Err(header_of(message, header::CODE).to_owned())
        });
        match &asked.answer {
            Some(Err(code)) if asked.is_sure => Err(format!("edit {id} was refused: {code}")),
            _ => Ok(true),
        }
    }

    pub(super) fn caller_left(&mut self, at: At) {
        self.asked.values_mut().filter(|asked| asked.at == at).for_each(|asked| asked.is_abandoned = true);
    }

    pub(super) fn is_punctual(&self, now: u64) -> Result<(), String> {
        let late = |(_, asked): &(&String, &Asked)| {
            asked.answer.is_none() && !asked.is_abandoned && now > asked.sent + ANSWERED
        };
        match self.asked.iter().find(late) {
            Some((id, asked)) => Err(format!("edit {id} of {:?} has no answer", asked.at)),
            None => Ok(()),
        }
    }

    /// Whether every edit that nothing stood in the way of has been made.
    pub(super) fn is_served(&self) -> Result<(), String> {
        let open = |(_, asked): &(&String, &Asked)| asked.is_sure && asked.answer.is_none() && !asked.is_abandoned;
        match self.asked.iter().find(open) {
            Some((id, _)) => Err(format!("edit {id} has no answer")),
            None => Ok(()),
        }
    }

    /// Whether anything was asked of the policy.
    pub(super) fn is_used(&self) -> bool {
        !self.asked.is_empty() || !self.by_hand.is_empty() || self.takes > 0
    }
}

impl World {
    pub(super) fn plan_errands(&mut self, site: usize, errands: Vec<Errand>) {
        let life = self.sites[site].life;
        for errand in errands {
            let after = self.dice.within(1..10);
            self.plan(after, Happening::Errand { site, life, errand: Box::new(errand) });
        }
    }

    /// The edge does an errand; the broker hears of it a little later, if both live then.
    pub(super) fn errand(&mut self, number: usize, life: u64, errand: Errand) {
        let after = self.dice.within(0..3);
        let site = &mut self.sites[number];
        if site.life != life || !site.is_alive() {
            return;
        }
        let (id, me) = (errand.id, site.name.clone());
        let outcome = site.disk.run(&me, errand.chore);
        self.plan(after, Happening::Done { site: number, life, errand: id, outcome: Box::new(outcome) });
    }

    pub(super) fn send_edit(&mut self, operator: usize) {
        let Some(at) = self.operators[operator].current else { return };
        let is_sure = self.is_settled && self.can_edit(at.site);
        let id = self.charter.next('e');
        self.seen(Seen::Text(format!("{} has {id} made, sure: {is_sure}", self.sites[at.site].name)));
        let (sent, frame) = (self.now, send("/muster/admin.edit").header(header::REQUEST, &id));
        self.charter.asked.insert(id.clone(), Asked { at, sent, is_sure, answer: None, is_abandoned: false });
        let body = json!({ "edit": { "edit": "group-add", "name": id } }).to_string();
        self.say(at, vec![frame.header(header::REPLY_TO, "/temp-queue/me").with_body(body)]);
    }

    pub(super) fn send_take(&mut self, operator: usize) {
        let Some(at) = self.operators[operator].current else { return };
        self.charter.takes += 1;
        let frame = send("/muster/admin.take").header(header::REQUEST, &self.ledger.aside());
        self.say(at, vec![frame.header(header::REPLY_TO, "/temp-queue/me").with_body("{}")]);
    }

    /// Somebody edits the file of a site, whoever may.
    pub(super) fn edit_by_hand(&mut self, site: usize) {
        let group = self.charter.next('h');
        let Some(edited) = self.sites[site].disk.edit_by_hand(&group) else { return };
        self.charter.by_hand.insert(group);
        self.handle(site, edited);
    }

    /// Whether an edit that is asked for at a site must be made: the authority is there, and it is the only one.
    fn can_edit(&self, site: usize) -> bool {
        let Some(broker) = self.sites[site].broker.as_ref() else { return false };
        let Some(seal) = &broker.edition().seal else { return false };
        let authority = self.component(site).into_iter().find(|site| self.sites[*site].name == seal.stamp.authority);
        let at_work = authority.and_then(|site| self.sites[site].broker.as_ref());
        at_work.is_some_and(|broker| broker.authority_answer().rivals.is_empty())
    }

    /// Whether all brokers of a component enforce one policy.
    pub(super) fn has_one_policy(&self, component: &BTreeSet<usize>) -> Result<(), String> {
        let mut first: Option<(&str, Arc<str>, Option<Generation>)> = None;
        for site in component {
            let Some(broker) = &self.sites[*site].broker else { continue };
            let (name, edition) = (self.sites[*site].name.as_str(), broker.edition());
            match &first {
                None => first = Some((name, edition.text.clone(), edition.generation())),
                Some((other, text, generation)) => {
                    if *text != edition.text || *generation != edition.generation() {
                        let own = edition.generation();
                        return Err(format!("{name} enforces {own:?}, and {other} {generation:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn has_one_policy_each(&self) -> Result<(), String> {
        (0..self.sites.len()).try_for_each(|site| self.has_one_policy(&self.component(site)))
    }

    /// Everything is whole again: there is one policy, and what is not in it was kept for somebody to look at.
    pub(super) fn reunite(&mut self) -> Result<(), String> {
        if !self.charter.is_used() {
            return Ok(());
        }
        for wire in 0..self.wires.len() {
            if !self.wires[wire].up {
                self.deed(super::story::Deed::Heal { wire });
            }
        }
        for site in 0..self.sites.len() {
            self.start(site);
        }
        self.settle("reunited")?;
        let everywhere = (0..self.sites.len()).collect();
        self.has_one_policy(&everywhere)?;
        let text = self.sites[0].broker.as_ref().map(|broker| broker.edition().text.clone()).unwrap_or_default();
        let is_kept = |group: &str| {
            has_group(&text, group)
                || self.sites.iter().any(|site| site.disk.aside.iter().any(|kept| has_group(kept, group)))
        };
        let made = self.charter.asked.iter().filter(|(_, asked)| matches!(asked.answer, Some(Ok(_))));
        let owed = made.map(|(group, _)| group).chain(&self.charter.by_hand);
        match owed.into_iter().find(|group| !is_kept(group)) {
            Some(group) => Err(format!("{group} is neither in the policy nor kept anywhere")),
            None => Ok(()),
        }
    }
}
