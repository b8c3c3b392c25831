//! Who may change the policy, and how do changes spread? The broker's side of it; what it knows of policies is in `editions`.
//!
//! An edit goes to the authority, over the mesh if that is another broker, waits for its turn, is made by the edge as an errand, and
//! holds here before it is answered.

use super::Broker;
use super::access::{Right, User};
use super::editions::{Job, Letter, Undone, Whose};
use super::errand::{Amended, Chore, Edition, Errand, Outcome};
use super::event::{Now, Purpose, Sent, SessionId};
use super::inquiries::{Asker, Gather};
use super::mesh::Cargo;
use super::note::{Note, Weight};
use super::queries::within_page;
use super::send::letter;
use bytes::Bytes;
use muster_protocol::destination::Destination;
use muster_protocol::error::{Code, Refusal};
use muster_protocol::link::{Answer, Ask, Head, Query, Said, Word};
use muster_protocol::message::BrokerName;
use muster_protocol::policy::{AuthorityAnswer, DiffAnswer, EditAnswer, EditQuery, Made};
use std::collections::BTreeMap;

/// Questions to files that may be under way at once; with one edition in the making the edge has so much to do at most.
const FETCHES: usize = 16;
/// Longest reason, bytes.
const REASON: usize = 1_000;
/// Where edits are asked for.
const EDIT: &str = "/muster/admin.edit";
/// Where the authority is taken.
const TAKE: &str = "/muster/admin.take";

impl Broker {
    /// The policy in force, with its text and seal.
    pub fn edition(&self) -> &Edition {
        self.editions.current()
    }

    /// Who may change the policy, for people and programs.
    pub fn authority_answer(&self) -> AuthorityAnswer {
        let authority = self.editions.authority();
        self.editions.answer(authority.is_some_and(|name| name == self.mesh.me() || self.mesh.reaches(name)))
    }

    /// What about the policy of the cluster an admin should look at.
    pub fn policy_alarms(&self) -> impl Iterator<Item = &str> {
        self.editions.alarms()
    }

    /// What is to be done by the edge since the last call.
    pub fn take_errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// Answers who the authority is, takes it, or has an edit made; what it cost. The right to the destination is checked.
    pub(super) fn ask_authority(
        &mut self,
        asker: Asker,
        user: &User,
        mut sent: Sent,
        now: Now,
    ) -> Result<usize, Refusal> {
        match std::mem::replace(&mut sent.purpose, Purpose::Message) {
            Purpose::Authority => self.reply_with(&asker, &self.authority_answer(), now),
            Purpose::Take(query) => {
                let me = self.mesh.me().clone();
                let made = made(user, &me, format!("authority take by {me}"), &query.reason, now)?;
                self.editions.submit(Job::Take(Whose::Session(asker), made))?;
            }
            Purpose::Edit(query) if self.editions.is_mine() => {
                self.submit_edit(Whose::Session(asker), user, self.mesh.me().clone(), query, now)?;
            }
            Purpose::Edit(_) => self.pass_to_authority(asker, user, sent, now)?,
            _ => return Err(Refusal::new(Code::Unsupported, "this is no question about the authority")),
        }
        Ok(16)
    }

    /// An edit that another broker passes on for its user; it is answered when it is made.
    pub(super) fn edit_for(
        &mut self,
        from: &BrokerName,
        serial: u64,
        user: &User,
        query: Box<EditQuery>,
        now: Now,
    ) -> Result<usize, Refusal> {
        if !self.editions.is_mine() {
            return Err(self.editions.no_authority());
        }
        self.submit_edit(Whose::Broker(from.clone(), serial), user, from.clone(), query, now)?;
        Ok(16)
    }

    /// Has the edge look into files; what it cost.
    pub(super) fn fetch(&mut self, asker: Asker, chore: Chore) -> Result<usize, Refusal> {
        if self.fetches.len() >= FETCHES {
            let text = format!("{FETCHES} questions to the files of this broker are under way");
            return Err(Refusal::new(Code::Busy, text).again_in(500));
        }
        let id = self.editions.next_errand();
        self.fetches.insert(id, asker);
        self.errands.push(Errand { id, chore });
        Ok(16)
    }

    /// The edge has done an errand.
    pub(super) fn errand_done(&mut self, errand: u64, outcome: Outcome, now: Now) {
        if let Some(asker) = self.fetches.remove(&errand) {
            let fetched = if let Outcome::Fetched(fetched) = outcome { fetched } else { Err(unfitting()) };
            return match fetched {
                Ok(answer) => self.reply_with(&asker, &answer, now),
                Err(refusal) => self.refuse_asker(&asker, refusal, now),
            };
        }
        match (self.editions.done(errand), outcome) {
            (Some(Undone::Edit(whose, dry_run)), Outcome::Amended(made)) => {
                let (edition, answer) = match made {
                    Ok(Amended { edition, changes }) => {
                        let generation = edition.as_ref().unwrap_or(self.edition()).generation();
                        (edition, Ok(EditAnswer { generation, changes, dry_run }))
                    }
                    Err(refusal) => (None, Err(refusal)),
                };
                // The edit may end the session of whoever made it: that one is to hear of it before it is closed.
                let editor = if let Whose::Session(asker) = &whose { Some(asker.session) } else { None };
                self.answer_edit(whose, answer, now);
                if let Some(edition) = edition {
                    self.enforce(edition, editor, now);
                }
            }
            (Some(Undone::Hand), Outcome::Amended(Ok(made))) => {
                if let Some(edition) = made.edition {
                    self.enforce(edition, None, now);
                }
            }
            (Some(Undone::Adopt(from, _)), Outcome::Adopted(Ok(adopted))) => {
                self.editions.kept(&from);
                if let Some(file) = adopted.kept {
                    let old =
                        self.edition().generation().map(|old| format!(" of generation {old}")).unwrap_or_default();
                    let new = adopted.edition.generation().unwrap_or_default();
                    let text = format!(
                        "the policy{old} that was in force here is not part of generation {new}; it is kept as {file}"
                    );
                    self.note(
                        Note::new(Weight::Warning, "policy set aside").with("reason", &text).with("broker", from),
                    );
                    self.editions.alarm(format!("aside {file}"), text);
                }
                self.enforce(adopted.edition, None, now);
            }
            (Some(Undone::Adopt(from, stamp)), Outcome::Adopted(Err(why))) => {
                self.editions.refused(&from, &stamp, &why, now.tick);
                let note = Note::new(Weight::Warning, "policy of another broker refused").with("broker", from);
                self.note(note.with("code", why.code).with("reason", &why.text));
            }
            (Some(Undone::Edit(whose, _)), _) => self.answer_edit(whose, Err(unfitting()), now),
            (Some(Undone::Hand | Undone::Adopt(..) | Undone::PutBack) | None, _) => {}
        }
    }

    /// After each event: links that came and went are told and forgotten, and the next errand begins.
    pub(super) fn keep_policy(&mut self, now: Now) {
        if self.policy_ways != self.mesh.changes() {
            self.policy_ways = self.mesh.changes();
            let links: BTreeMap<BrokerName, _> = self.mesh.links().collect();
            self.editions.set_links(links, now.tick);
        }
        self.editions.tick(now.tick);
        let mut refused = Vec::new();
        let access = self.access.clone();
        let may = |job: &Job| {
            let (by, destination) = match job {
                Job::Edit(_, _, made) => (&made.by, EDIT),
                Job::Take(_, made) => (&made.by, TAKE),
                Job::Hand(..) => return Ok(()),
            };
            let user = access.user(by).filter(|user| user.is_usable(now.unix / 1000));
            let at = Destination::parse(destination).ok();
            let allowed = user.zip(at).is_some_and(|(user, at)| access.allows(user, Right::Write, &at));
            let why = || Refusal::new(Code::Denied, format!("{by} may not write to {destination} any more"));
            if allowed { Ok(()) } else { Err(why()) }
        };
        let next = self.editions.next(may, &mut refused);
        self.errands.extend(next);
        for (whose, refusal) in refused {
            self.answer_edit(whose, Err(refusal), now);
        }
        for Letter { to, head, body } in self.editions.take_letters() {
            if matches!(head, Head::PolicyPart(_)) {
                self.mesh.carry(&to, head, Bytes::from(body), now.tick);
            } else {
                self.mesh.tell(&to, head);
            }
        }
    }

    /// What comes over a link about policies.
    pub(super) fn hear_of_policy(&mut self, from: &BrokerName, head: Head, body: &Bytes, now: Now) {
        match head {
            Head::Policy(state) => self.editions.hear(from, state, now.tick),
            Head::WantPolicy(want) => self.editions.wanted(from, &want),
            Head::PolicyPart(part) => self.editions.piece(from, *part, body, now.tick),
            _ => {}
        }
    }

    fn submit_edit(
        &mut self,
        whose: Whose,
        user: &User,
        via: BrokerName,
        query: Box<EditQuery>,
        now: Now,
    ) -> Result<(), Refusal> {
        let made = made(user, &via, query.edit.summary(), &query.reason, now)?;
        self.editions.submit(Job::Edit(whose, query, made))
    }

    fn pass_to_authority(&mut self, asker: Asker, user: &User, sent: Sent, now: Now) -> Result<(), Refusal> {
        let Some(authority) = self.editions.authority().filter(|name| *name != self.mesh.me()).cloned() else {
            return Err(self.editions.no_authority());
        };
        let me = self.mesh.me().clone();
        let unreachable = || {
            let text = format!("{authority}, the authority over the policy, cannot be reached from {me}");
            Refusal::new(Code::NoAuthority, text)
        };
        if !self.mesh.reaches(&authority) {
            return Err(unreachable());
        }
        self.may_inquire(asker.session)?;
        let body = sent.body.clone();
        let serial = self.inquiries.next_serial();
        let query = Query { serial, letter: letter(&user.name, &Sent { reply_to: None, ..sent }), ask: Ask::Edit };
        let cargo = Cargo { body, expires: None, droppable: false };
        if !self.mesh.direct(&authority, Word::Query(query.clone()), cargo, now.tick) {
            return Err(unreachable());
        }
        self.inquiries.begin(asker, Gather::Edit, query, vec![authority], Vec::new(), now.tick);
        Ok(())
    }

    /// `editor` gets what waits for it before its session is closed, if it is.
    fn enforce(&mut self, edition: Edition, editor: Option<SessionId>, now: Now) {
        let policy = edition.policy.clone();
        self.editions.enforce(edition, now.tick);
        self.apply(policy, editor, now);
    }

    fn answer_edit(&mut self, whose: Whose, answer: Result<EditAnswer, Refusal>, now: Now) {
        match (whose, answer) {
            (Whose::Session(asker), Ok(answer)) => self.reply_with(&asker, &answer, now),
            (Whose::Session(asker), Err(refusal)) => self.refuse_asker(&asker, refusal, now),
            (Whose::Broker(name, serial), Ok(answer)) => {
                let answer = for_a_link(answer);
                let answer = Answer { serial, said: Said::Edit(answer) };
                self.say(&name, Word::Answer(answer), Bytes::new(), now);
            }
            (Whose::Broker(name, serial), Err(refusal)) => self.refuse_query(&name, serial, &refusal, now),
        }
    }

    /// Questions of a session wait for answers of other brokers: a bounded number.
    pub(super) fn may_inquire(&self, session: SessionId) -> Result<(), Refusal> {
        // An answer that waits for a silent broker keeps what the others have said.
        let open = self.inquiries.asked_by(session);
        if open < self.settings.in_flight {
            return Ok(());
        }
        let text = format!("{open} questions of this connection wait for an answer; wait for one to come");
        Err(Refusal::new(Code::Limit, text))
    }
}

/// As much of what is otherwise as fits into the head of a frame; how much more there is, is said.
fn for_a_link(mut answer: EditAnswer) -> EditAnswer {
    let (mut bytes, before) = (0, answer.changes.changes.len() + answer.changes.rights.len());
    let DiffAnswer { changes, rights, more } = &mut answer.changes;
    let fits = changes.iter().take_while(|change| within_page(&mut bytes, change)).count();
    changes.truncate(fits);
    let fits = rights.iter().take_while(|right| within_page(&mut bytes, right)).count();
    rights.truncate(fits);
    *more += (before - changes.len() - rights.len()) as u64;
    answer
}

fn made(user: &User, via: &BrokerName, what: String, reason: &str, now: Now) -> Result<Made, Refusal> {
    if reason.len() > REASON {
        return Err(Refusal::new(Code::BadBody, format!("reason: at most {REASON} bytes")));
    }
    let (by, via, reason) = (user.name.clone(), via.to_string(), reason.to_owned());
    Ok(Made { by, via, at: now.unix, what, reason })
}

fn unfitting() -> Refusal {
    Refusal::new(Code::Internal, "the edge did something else than it was to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use muster_protocol::link::{Direct, codec};
    use muster_protocol::policy::{Change, How, MOST, RightChange};

    #[test]
    fn an_answer_fits_into_the_head_of_a_frame_however_much_an_edit_changes() {
        let change = |number| Change {
            what: "user".into(),
            name: format!("{number}{}", "x".repeat(120)),
            how: How::Changed,
            details: vec!["x".repeat(400); 4],
        };
        let right = |number| RightChange {
            user: format!("{number}{}", "x".repeat(120)),
            granted: true,
            right: "write".into(),
            pattern: "x".repeat(255),
        };
        let (changes, rights) = ((0..MOST).map(change).collect(), (0..MOST).map(right).collect());
        let changes = DiffAnswer { changes, rights, more: 7 };
        let answer = for_a_link(EditAnswer { generation: None, changes, dry_run: false });
        let DiffAnswer { changes, rights, more } = &answer.changes;
        assert!(changes.len() > 50 && changes.len() + rights.len() + *more as usize == 2 * MOST + 7, "{more}");
        let name = |text| BrokerName::parse(text).unwrap();
        let word = Word::Answer(Answer { serial: 1, said: Said::Edit(answer) });
        let head = Head::Direct(Direct { from: name("a"), instance: 1, to: name("b"), hops: 0, word });
        codec::encode(&head, &mut BytesMut::new()).unwrap();
    }
}
