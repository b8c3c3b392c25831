//! What does the edge do with policies? Signatures and disks are pretended, texts are real: what was written survives a death.

use super::policy_text;
use crate::broker::access::{Policy, diff};
use crate::broker::errand::{Adopted, Amend, Amended, Change, Chore, Edition, Outcome};
use crate::broker::event::Event;
use data_encoding::HEXLOWER;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{Edit, Generation, Made, Seal, Stamp};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What a site has on its disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// `policy.toml`.
    file: Option<Arc<str>>,
    /// What was sealed last, here or elsewhere.
    sealed: Option<(Seal, Arc<str>)>,
    /// What was kept for somebody to look at.
    pub(super) aside: Vec<Arc<str>>,
}

impl Disk {
    /// The policy that a broker starts with.
    pub(super) fn boot(&mut self, me: &BrokerName, brokers: usize) -> Edition {
        let file = self.file.get_or_insert_with(|| policy_text(brokers).into()).clone();
        match self.sealed.clone() {
            None if read(&file).authority() == Some(me) => {
                self.write(me, Generation { term: 1, number: 1 }, Vec::new(), Made::default(), file)
            }
            None => Edition { seal: None, policy: read(&file), text: file },
            Some((seal, text)) if text == file => Edition { seal: Some(seal), policy: read(&text), text },
            // It was edited by hand while nobody looked.
            Some((seal, _)) if seal.stamp.authority == *me => {
                let Generation { term, number } = seal.stamp.generation;
                self.write(me, Generation { term, number: number + 1 }, seal.lineage, Made::default(), file)
            }
            Some((seal, text)) => {
                self.aside.push(file);
                self.file = Some(text.clone());
                Edition { seal: Some(seal), policy: read(&text), text }
            }
        }
    }

    /// Somebody edits the file.
    pub(super) fn edit_by_hand(&mut self, group: &str) -> Option<Event> {
        let text: Arc<str> = with_group(self.file.as_deref()?, group).into();
        self.file = Some(text.clone());
        let base = self.sealed.as_ref().map(|(seal, _)| seal.stamp.generation);
        Some(Event::HandEdit { policy: read(&text), text, base })
    }

    /// An errand is done, all of it or nothing.
    pub(super) fn run(&mut self, me: &BrokerName, chore: Chore) -> Outcome {
        match chore {
            Chore::Amend(amend) => Outcome::Amended(self.amend(me, *amend)),
            Chore::Adopt(adopt) => {
                let text = String::from_utf8(adopt.text).expect("a text");
                let stamp = &adopt.seal.stamp;
                if (sum(&text), text.len() as u64) != (stamp.sha256.clone(), stamp.bytes) {
                    return Outcome::Adopted(Err(Refusal::new(Code::Internal, "the pieces do not make the whole")));
                }
                let text: Arc<str> = text.into();
                if self.file.as_ref().is_some_and(|file| *file != adopt.base.text && *file != text) {
                    self.aside.extend(self.file.clone());
                }
                let kept = (adopt.set_aside && adopt.base.text != text).then(|| {
                    self.aside.push(adopt.base.text.clone());
                    "policy.toml.set-aside".to_owned()
                });
                self.file = Some(text.clone());
                self.sealed = Some((adopt.seal.clone(), text.clone()));
                let edition = Edition { seal: Some(adopt.seal), policy: read(&text), text };
                Outcome::Adopted(Ok(Adopted { edition, kept }))
            }
            Chore::PutBack(back) => {
                if self.file.as_ref() != Some(&back.current.text) {
                    self.aside.extend(self.file.replace(back.current.text));
                }
                Outcome::PutBack
            }
            Chore::History(_) | Chore::Audit(_) => Outcome::Fetched(Ok(serde_json::json!({}))),
        }
    }

    fn amend(&mut self, me: &BrokerName, amend: Amend) -> Result<Amended, Refusal> {
        let Amend { base, change, made, generation, lineage } = amend;
        if !matches!(change, Change::Hand(..)) && self.file.as_ref().is_some_and(|file| *file != base.text) {
            self.aside.extend(self.file.clone());
        }
        let text: Arc<str> = match change {
            Change::Hand(text, _) => text,
            Change::Take => {
                let own = format!("authority = \"{me}\"\n");
                let rest = base.text.split_once('\n').map_or("", |(_, rest)| rest);
                (own + rest).into()
            }
            Change::Edit(query) => match query.edit {
                Edit::GroupAdd(group) => with_group(&base.text, &group.name).into(),
                other => return Err(Refusal::new(Code::BadEdit, format!("{other:?} is not simulated"))),
            },
        };
        let changes = diff(&base.policy, &read(&text));
        let Some(generation) = generation else { return Err(Refusal::new(Code::NoAuthority, "nothing is sealed")) };
        let edition = self.write(me, generation, lineage, made, text);
        Ok(Amended { edition: Some(edition), changes })
    }

    fn write(
        &mut self,
        me: &BrokerName,
        generation: Generation,
        lineage: Vec<muster_protocol::policy::Took>,
        made: Made,
        text: Arc<str>,
    ) -> Edition {
        let stamp = Stamp { generation, authority: me.clone(), sha256: sum(&text), bytes: text.len() as u64 };
        let (certificate, signature) = (String::new(), String::new());
        let seal = Seal { cluster: "sim".into(), stamp, made, lineage, certificate, signature };
        self.file = Some(text.clone());
        self.sealed = Some((seal.clone(), text.clone()));
        Edition { seal: Some(seal), policy: read(&text), text }
    }
}

/// Whether a text has a group.
pub(super) fn has_group(text: &str, group: &str) -> bool {
    text.contains(&format!("[groups.{group}]\n"))
}

fn with_group(text: &str, group: &str) -> String {
    format!("{text}[groups.{group}]\n")
}

fn sum(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text))
}

fn read(text: &str) -> Arc<Policy> {
    Arc::new(Policy::parse(text).expect("a policy"))
}
